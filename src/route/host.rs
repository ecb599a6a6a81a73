//! Hosts: the part of a route before its path.

use std::fmt;

/// The longest host that DNS knows, in bytes (RFC 1035, section 2.3.4).
const MAX_HOST: usize = 255;

/// Which hosts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// Exactly this name, in lower case.
    Exact(Box<str>),
    /// `*.example.com`: one or more labels before this suffix, which begins with a dot.
    Wildcard(Box<str>),
    /// Every host.
    Any,
}

impl HostPattern {
    /// Reads a host as written in a configuration.
    ///
    /// # Errors
    /// Says in a few words what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(Self::Any);
        }
        let (wildcard, name) = match text.strip_prefix("*.") {
            Some(name) => (true, name),
            None => (false, text),
        };
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        if name.starts_with('[') && name.ends_with(']') && !wildcard {
            let address = &name[1..name.len() - 1];
            return match address.parse::<std::net::Ipv6Addr>() {
                Ok(_) => Ok(Self::Exact(name.into())),
                Err(_) => Err(format!("`{text}` is not an IPv6 address in brackets")),
            };
        }
        check_name(&name, text)?;
        Ok(if wildcard { Self::Wildcard(format!(".{name}").into()) } else { Self::Exact(name.into()) })
    }

    /// Whether it matches a host in its one form.
    #[must_use]
    pub fn matches(&self, host: &str) -> bool {
        match self {
            Self::Exact(name) => **name == *host,
            Self::Wildcard(suffix) => host.len() > suffix.len() && host.ends_with(&**suffix),
            Self::Any => true,
        }
    }

    /// Whether it matches every host that `other` matches.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, _) => true,
            (_, Self::Any) => false,
            (_, Self::Exact(name)) => self.matches(name),
            (Self::Exact(_), Self::Wildcard(_)) => false,
            (Self::Wildcard(one), Self::Wildcard(two)) => two.ends_with(&**one),
        }
    }

    /// A host that it matches.
    #[must_use]
    pub fn witness(&self) -> String {
        match self {
            Self::Exact(name) => name.to_string(),
            Self::Wildcard(suffix) => format!("any{suffix}"),
            Self::Any => "any.example".to_owned(),
        }
    }

    /// Its rank; less is more specific: exact, then longer wildcards, then any.
    #[must_use]
    pub fn rank(&self) -> (u8, std::cmp::Reverse<usize>) {
        match self {
            Self::Exact(_) => (0, std::cmp::Reverse(0)),
            Self::Wildcard(suffix) => (1, std::cmp::Reverse(suffix.len())),
            Self::Any => (2, std::cmp::Reverse(0)),
        }
    }
}

fn check_name(name: &str, written: &str) -> Result<(), String> {
    if name.contains("://") {
        return Err("a host has no scheme".to_owned());
    }
    if name.contains('/') {
        return Err("a host has no path".to_owned());
    }
    if name.contains(':') {
        return Err("a host has no port: routes match every port".to_owned());
    }
    if name.contains('*') {
        return Err("`*` stands only at the front, as in `*.example.com`".to_owned());
    }
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    if name.len() > MAX_HOST || !name.split('.').all(label) {
        return Err(format!("`{written}` is not a host name; international names are written in their `xn--` form"));
    }
    Ok(())
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Wildcard(suffix) => write!(f, "*{suffix}"),
            Self::Any => f.write_str("*"),
        }
    }
}

/// A request's host in its one form: lower case, without port and final dot. Lives on the stack.
#[derive(Clone, Copy, Debug)]
pub struct Host {
    bytes: [u8; MAX_HOST + 1],
    length: usize,
}

impl Host {
    /// Brings a `Host` header or authority into its one form; longer than any name of the DNS, it
    /// becomes the empty host, which only routes for every host match.
    #[must_use]
    pub fn new(authority: &str) -> Self {
        let name = without_port(authority);
        let name = name.strip_suffix('.').unwrap_or(name).as_bytes();
        let mut bytes = [0; MAX_HOST + 1];
        let length = if name.len() <= MAX_HOST { name.len() } else { 0 };
        for (to, from) in bytes.iter_mut().zip(&name[..length]) {
            *to = from.to_ascii_lowercase();
        }
        Self { bytes, length }
    }

    /// The host as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.length]).unwrap_or_default()
    }
}

/// The host of an authority such as `a.example:8080` or `[::1]:8080`.
#[must_use]
pub fn without_port(authority: &str) -> &str {
    match authority.rfind([':', ']']) {
        Some(at) if authority.as_bytes()[at] == b':' => &authority[..at],
        _ => authority,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_take_their_one_form() {
        let cases = [
            ("Example.COM", "example.com"),
            ("example.com.", "example.com"),
            ("example.com:8080", "example.com"),
            ("example.com.:80", "example.com"),
            ("[::1]:8080", "[::1]"),
            ("[::1]", "[::1]"),
            ("", ""),
        ];
        for (authority, expected) in cases {
            assert_eq!(Host::new(authority).as_str(), expected);
        }
        assert_eq!(Host::new(&"a".repeat(300)).as_str(), "");
    }

    #[test]
    fn wildcards_take_one_or_more_labels() {
        let wildcard = HostPattern::parse("*.Example.com").unwrap();
        for (host, expected) in [
            ("a.example.com", true),
            ("a.b.example.com", true),
            ("example.com", false),
            (".example.com", false),
            ("xexample.com", false),
        ] {
            assert_eq!(wildcard.matches(host), expected, "{host}");
        }
    }

    #[test]
    fn bad_hosts_are_refused() {
        for text in
            ["", "a..b", "http://a", "a/b", "a:80", "*a.com", "a.*.com", "a b", "bücher.de", "[::1", "[1.2.3.4]"]
        {
            assert!(HostPattern::parse(text).is_err(), "{text}");
        }
    }
}
