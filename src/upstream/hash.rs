//! What tells requests apart for balancers, splits and shifts, and its hash.

use std::io::Write as _;
use std::net::IpAddr;

use http::HeaderName;

use crate::route::predicate::{Request, cookies, parameters};

/// What of a request is its key. A request that lacks it has its client's address as key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// The client's address.
    ClientIp,
    /// The path.
    Path,
    /// A header's first value.
    Header(HeaderName),
    /// A cookie's first value.
    Cookie(Box<str>),
    /// A query parameter's first value, as it stands in the query.
    Query(Box<str>),
}

/// Room for an IPv6 address as text.
const ADDRESS: usize = 46;

/// A key's bytes: part of the request, or the client's address as text.
#[derive(Clone, Copy, Debug)]
pub enum Bytes<'a> {
    /// Part of the request.
    Borrowed(&'a [u8]),
    /// An address: text and its length.
    Address([u8; ADDRESS], usize),
}

impl Bytes<'_> {
    /// The bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Self::Borrowed(bytes) => bytes,
            Self::Address(text, length) => &text[..*length],
        }
    }
}

impl Key {
    /// The key of a request.
    #[must_use]
    pub fn of<'a>(&'a self, request: &Request<'a>) -> Bytes<'a> {
        let found = match self {
            Self::ClientIp => None,
            Self::Path => Some(request.path.as_bytes()),
            Self::Header(name) => request.headers.get(name).map(http::HeaderValue::as_bytes),
            Self::Cookie(name) => cookies(request.headers, name).next(),
            Self::Query(name) => parameters(request.query.unwrap_or_default(), name).next(),
        };
        found.map_or_else(|| address(request.client), Bytes::Borrowed)
    }
}

fn address(client: Option<IpAddr>) -> Bytes<'static> {
    let mut text = [0; ADDRESS];
    let mut rest = &mut text[..];
    if let Some(client) = client {
        // The room is enough for every address.
        let _ = write!(rest, "{client}");
    }
    let length = ADDRESS - rest.len();
    Bytes::Address(text, length)
}

/// A hash that is the same in every process and version: FNV-1a, then the finalizer of
/// MurmurHash3, so that every bit of the result depends on every byte.
#[must_use]
pub fn hash(bytes: &[u8]) -> u64 {
    let fnv = bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3));
    let mixed = (fnv ^ fnv >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let mixed = (mixed ^ mixed >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    mixed ^ mixed >> 33
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue, Method};

    use super::*;

    #[test]
    fn keys_are_found_or_the_client_stands_for_them() {
        let mut headers = HeaderMap::new();
        headers.insert("x-user", HeaderValue::from_static("ann"));
        headers.insert("cookie", HeaderValue::from_static("a=1; sid=\"s 7\""));
        let request = Request {
            method: &Method::GET,
            host: "h",
            path: "/p",
            query: Some("q=x%20y&q=2"),
            headers: &headers,
            client: "2001:db8::1".parse().ok(),
        };
        let cases = [
            (Key::ClientIp, "2001:db8::1"),
            (Key::Path, "/p"),
            (Key::Header(HeaderName::from_static("x-user")), "ann"),
            (Key::Header(HeaderName::from_static("x-none")), "2001:db8::1"),
            (Key::Cookie("sid".into()), "s 7"),
            (Key::Query("q".into()), "x%20y"),
            (Key::Query("none".into()), "2001:db8::1"),
        ];
        for (key, expected) in cases {
            assert_eq!(key.of(&request).as_slice(), expected.as_bytes(), "{key:?}");
        }
    }

    #[test]
    fn hashes_spread_over_the_whole_range() {
        let mut eighths = [0; 8];
        for key in 0..8_000_u32 {
            eighths[(hash(format!("10.0.{}.{}", key / 256, key % 256).as_bytes()) >> 61) as usize] += 1;
        }
        assert!(eighths.iter().all(|count| (850..1150).contains(count)), "{eighths:?}");
    }
}
