//! The tests of a route beyond host and path.

use std::fmt;
use std::net::IpAddr;

use http::{HeaderMap, HeaderName, Method};
use ipnet::IpNet;
use regex::Regex;

/// What a route is chosen by.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The method.
    pub method: &'a Method,
    /// The host in its one form; see [`super::host::Host`].
    pub host: &'a str,
    /// The path in its one form; see [`super::normalize`].
    pub path: &'a str,
    /// The query as it was sent, without the question mark.
    pub query: Option<&'a str>,
    /// The headers.
    pub headers: &'a HeaderMap,
    /// The client's address, if it has one.
    pub client: Option<IpAddr>,
}

/// A test on one value.
#[derive(Clone, Debug)]
pub enum Check {
    /// The value is exactly this.
    Exact(Box<str>),
    /// The value matches somewhere. A query parameter is tested as it was sent.
    Regex(Box<Regex>),
    /// It is there.
    Present,
    /// It is absent.
    Absent,
}

impl Check {
    fn value(&self, value: &[u8]) -> bool {
        match self {
            Self::Exact(text) => text.as_bytes() == value,
            Self::Regex(regex) => std::str::from_utf8(value).is_ok_and(|text| regex.is_match(text)),
            Self::Present => true,
            Self::Absent => false,
        }
    }

    fn any<'a>(&self, mut values: impl Iterator<Item = &'a [u8]>) -> bool {
        match self {
            Self::Absent => values.next().is_none(),
            check => values.any(|value| check.value(value)),
        }
    }

    /// Whether whatever passes `other` passes this too.
    fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(one), Self::Exact(two)) => one == two,
            (Self::Regex(one), Self::Regex(two)) => one.as_str() == two.as_str(),
            (Self::Regex(regex), Self::Exact(text)) => regex.is_match(text),
            (Self::Absent, Self::Absent) => true,
            (Self::Present, other) => !matches!(other, Self::Absent),
            _ => false,
        }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(text) => write!(f, "is `{text}`"),
            Self::Regex(regex) => write!(f, "matches `{regex}`"),
            Self::Present => f.write_str("is present"),
            Self::Absent => f.write_str("is absent"),
        }
    }
}

/// All tests of a route; the empty set passes everything.
#[derive(Clone, Debug, Default)]
pub struct Tests {
    /// Methods, any of which passes; empty passes all.
    pub methods: Vec<Method>,
    /// Tests on headers, all of which must pass.
    pub headers: Vec<(HeaderName, Check)>,
    /// Tests on query parameters, all of which must pass; names and exact values in decoded form.
    pub query: Vec<(Box<str>, Check)>,
    /// Tests on cookies, all of which must pass.
    pub cookies: Vec<(Box<str>, Check)>,
    /// Networks, any of which passes; empty passes all.
    pub clients: Vec<IpNet>,
}

/// The first test that a request failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The method is none of these.
    Method(String),
    /// A header, with the test in words.
    Header(String, String),
    /// A query parameter, with the test in words.
    Query(String, String),
    /// A cookie, with the test in words.
    Cookie(String, String),
    /// The client lies in none of the networks.
    Client(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Method(methods) => write!(f, "the method is not {methods}"),
            Self::Header(name, test) => write!(f, "not so: header `{name}` {test}"),
            Self::Query(name, test) => write!(f, "not so: query parameter `{name}` {test}"),
            Self::Cookie(name, test) => write!(f, "not so: cookie `{name}` {test}"),
            Self::Client(networks) => write!(f, "the client is not in {networks}"),
        }
    }
}

impl Tests {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let Self { methods, headers, query, cookies, clients } = self;
        methods.is_empty() && headers.is_empty() && query.is_empty() && cookies.is_empty() && clients.is_empty()
    }

    /// Whether a request passes all of them.
    #[must_use]
    pub fn pass(&self, request: &Request<'_>) -> bool {
        (self.methods.is_empty() || self.methods.contains(request.method))
            && self.headers.iter().all(|(name, check)| header_passes(name, check, request))
            && self.query.iter().all(|(name, check)| query_passes(name, check, request))
            && self.cookies.iter().all(|(name, check)| cookie_passes(name, check, request))
            && self.client_passes(request)
    }

    /// The first test that fails, in words.
    #[must_use]
    pub fn failure(&self, request: &Request<'_>) -> Option<Failure> {
        if !self.methods.is_empty() && !self.methods.contains(request.method) {
            return Some(Failure::Method(joined(self.methods.iter())));
        }
        if let Some((name, check)) = self.headers.iter().find(|(name, check)| !header_passes(name, check, request)) {
            return Some(Failure::Header(name.to_string(), check.to_string()));
        }
        if let Some((name, check)) = self.query.iter().find(|(name, check)| !query_passes(name, check, request)) {
            return Some(Failure::Query(name.to_string(), check.to_string()));
        }
        if let Some((name, check)) = self.cookies.iter().find(|(name, check)| !cookie_passes(name, check, request)) {
            return Some(Failure::Cookie(name.to_string(), check.to_string()));
        }
        (!self.client_passes(request)).then(|| Failure::Client(joined(self.clients.iter())))
    }

    /// Its rank among routes of one host and path; less goes first: a method, then more tests.
    #[must_use]
    pub fn rank(&self) -> (bool, std::cmp::Reverse<usize>, bool) {
        let count = self.headers.len() + self.query.len() + self.cookies.len();
        (self.methods.is_empty(), std::cmp::Reverse(count), self.clients.is_empty())
    }

    /// Whether every request that passes `other` passes these too.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        let methods = self.methods.is_empty()
            || !other.methods.is_empty() && other.methods.iter().all(|method| self.methods.contains(method));
        let inside = |network: &IpNet| self.clients.iter().any(|wider| wider.contains(network));
        let clients = self.clients.is_empty() || !other.clients.is_empty() && other.clients.iter().all(inside);
        methods
            && clients
            && implied(&self.headers, &other.headers)
            && implied(&self.query, &other.query)
            && implied(&self.cookies, &other.cookies)
    }

    fn client_passes(&self, request: &Request<'_>) -> bool {
        self.clients.is_empty()
            || request.client.is_some_and(|address| self.clients.iter().any(|network| network.contains(&address)))
    }
}

fn joined<T: fmt::Display>(items: impl Iterator<Item = T>) -> String {
    items.map(|item| item.to_string()).collect::<Vec<_>>().join(" or ")
}

fn implied<N: PartialEq>(tests: &[(N, Check)], by: &[(N, Check)]) -> bool {
    tests.iter().all(|(name, check)| by.iter().any(|(other, stricter)| name == other && check.covers(stricter)))
}

fn header_passes(name: &HeaderName, check: &Check, request: &Request<'_>) -> bool {
    check.any(request.headers.get_all(name).iter().map(http::HeaderValue::as_bytes))
}

fn cookie_passes(name: &str, check: &Check, request: &Request<'_>) -> bool {
    check.any(cookies(request.headers, name))
}

fn query_passes(name: &str, check: &Check, request: &Request<'_>) -> bool {
    let mut values = parameters(request.query.unwrap_or_default(), name);
    match check {
        Check::Exact(text) => values.any(|value| decoded(value).eq(text.bytes())),
        check => check.any(values),
    }
}

/// The values of a cookie, in the order of the request.
pub fn cookies<'a>(headers: &'a HeaderMap, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    let lines = headers.get_all(http::header::COOKIE).iter();
    let pairs = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
    pairs.filter_map(move |pair| {
        let pair = pair.trim_ascii();
        let at = pair.iter().position(|byte| *byte == b'=')?;
        let value = pair[at + 1..].trim_ascii();
        let quoted = value.len() >= 2 && value.starts_with(b"\"") && value.ends_with(b"\"");
        (pair[..at].trim_ascii() == name.as_bytes()).then(|| if quoted { &value[1..value.len() - 1] } else { value })
    })
}

/// The values of a query's parameter as they stand there, in their order.
pub fn parameters<'a>(query: &'a str, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    let pairs = query.as_bytes().split(|byte| *byte == b'&').filter(|pair| !pair.is_empty());
    pairs.filter_map(move |pair| {
        let (key, value) = match pair.iter().position(|byte| *byte == b'=') {
            Some(at) => (&pair[..at], &pair[at + 1..]),
            None => (pair, &[][..]),
        };
        decoded(key).eq(name.bytes()).then_some(value)
    })
}

/// The bytes of a query's part with `+` and escapes decoded; a broken escape stands for itself.
fn decoded(raw: &[u8]) -> impl Iterator<Item = u8> + '_ {
    let mut at = 0;
    std::iter::from_fn(move || {
        let byte = *raw.get(at)?;
        at += 1;
        Some(match byte {
            b'+' => b' ',
            b'%' => {
                let digit = |offset| raw.get(at + offset).and_then(|digit| (*digit as char).to_digit(16));
                match (digit(0), digit(1)) {
                    (Some(high), Some(low)) => {
                        at += 2;
                        u8::try_from(high * 16 + low).unwrap_or(b'%')
                    }
                    _ => b'%',
                }
            }
            byte => byte,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request<'a>(query: Option<&'a str>, headers: &'a HeaderMap) -> Request<'a> {
        Request { method: &Method::GET, host: "", path: "/", query, headers, client: "10.1.2.3".parse().ok() }
    }

    #[test]
    fn query_parameters_are_compared_decoded() {
        let headers = HeaderMap::new();
        let cases = [
            ("v=a b", "v=a+b", true),
            ("v=a b", "v=a%20b", true),
            ("v=a", "w=1&v=a", true),
            ("v=a", "v=b&v=a", true),
            ("v=", "v", true),
            ("v=a", "vv=a", false),
            ("v=%", "v=%", true),
            ("é=1", "%C3%A9=1", true),
        ];
        for (test, query, expected) in cases {
            let (name, value) = test.split_once('=').unwrap();
            let check = Check::Exact(value.into());
            assert_eq!(query_passes(name, &check, &request(Some(query), &headers)), expected, "{test} in {query}");
        }
        assert!(query_passes("x", &Check::Absent, &request(None, &headers)));
    }

    #[test]
    fn cookies_are_found_in_any_line() {
        let mut headers = HeaderMap::new();
        headers.append("cookie", "a=1; b=\"2\"".parse().unwrap());
        headers.append("cookie", "c=3".parse().unwrap());
        let request = request(None, &headers);
        for (name, value, expected) in
            [("a", "1", true), ("b", "2", true), ("c", "3", true), ("c", "1", false), ("d", "", false)]
        {
            assert_eq!(cookie_passes(name, &Check::Exact(value.into()), &request), expected, "{name}");
        }
    }

    #[test]
    fn clients_pass_by_network() {
        let headers = HeaderMap::new();
        let tests = Tests { clients: vec!["10.0.0.0/8".parse().unwrap()], ..Tests::default() };
        assert!(tests.pass(&request(None, &headers)));
        let outside = Request { client: "192.0.2.1".parse().ok(), ..request(None, &headers) };
        assert_eq!(tests.failure(&outside).unwrap().to_string(), "the client is not in 10.0.0.0/8");
        assert!(!tests.pass(&Request { client: None, ..outside }));
    }
}
