//! Whom a request came from.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderValue};

use crate::snapshot::Listener;

use super::ctx::Client;
use super::headers::{FORWARDED_FOR, REQUEST_ID};

/// Hops of a chain beyond this are not read.
const MAX_HOPS: usize = 32;
/// Longer ids of trusted peers are replaced (bytes).
const MAX_ID: usize = 128;

/// Finds out whom a request came from, and what it is called.
pub fn identify(peer: Option<IpAddr>, listener: Option<&Listener>, headers: &HeaderMap) -> Client {
    let peer = peer.map(|peer| peer.to_canonical());
    let trusted = peer.zip(listener).is_some_and(|(peer, listener)| listener.trusts(peer));
    let told = listener.filter(|_| trusted).and_then(|listener| nearest_untrusted(listener, headers));
    let known_id =
        headers.get(REQUEST_ID).filter(|id| trusted && !id.is_empty() && id.len() <= MAX_ID && id.to_str().is_ok());
    Client { peer, address: told.or(peer), trusted, request_id: Some(known_id.cloned().unwrap_or_else(new_id)) }
}

/// The last address of the chain that is no trusted proxy. A chain that cannot be read tells
/// nothing.
fn nearest_untrusted(listener: &Listener, headers: &HeaderMap) -> Option<IpAddr> {
    let lines = headers.get_all(FORWARDED_FOR).iter().rev();
    let hops = lines.flat_map(|line| line.to_str().unwrap_or("?").rsplit(','));
    let mut last = None;
    for hop in hops.take(MAX_HOPS) {
        let address = address(hop.trim())?;
        last = Some(address);
        if !listener.trusts(address) {
            break;
        }
    }
    last
}

/// An address as it stands in a chain: alone, in brackets, or with a port.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let with_port = || text.parse::<SocketAddr>().map(|address| address.ip());
    bare.parse().or_else(|_| with_port()).ok().map(|address: IpAddr| address.to_canonical())
}

fn new_id() -> HeaderValue {
    let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
    let id = uuid::Uuid::now_v7().hyphenated().encode_lower(&mut text);
    HeaderValue::from_str(id).unwrap_or(HeaderValue::from_static("unknown"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener() -> Listener {
        Listener {
            address: "127.0.0.1:80".parse().unwrap(),
            redirect_to_https: false,
            trusted: vec!["10.0.0.0/8".parse().unwrap()],
            strict_paths: false,
            keep_alive: 60,
        }
    }

    fn client(peer: &str, chain: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for line in chain {
            headers.append(FORWARDED_FOR, line.parse().unwrap());
        }
        identify(peer.parse().ok(), Some(&listener()), &headers).address.unwrap().to_string()
    }

    #[test]
    fn the_nearest_untrusted_hop_is_the_client() {
        let cases: &[(&str, &[&str], &str)] = &[
            ("192.0.2.1", &[], "192.0.2.1"),
            ("192.0.2.1", &["203.0.113.9"], "192.0.2.1"),
            ("10.0.0.1", &["203.0.113.9"], "203.0.113.9"),
            ("10.0.0.1", &["6.6.6.6, 203.0.113.9"], "203.0.113.9"),
            ("10.0.0.1", &["6.6.6.6, 203.0.113.9, 10.0.0.2"], "203.0.113.9"),
            ("10.0.0.1", &["203.0.113.9", "10.0.0.2"], "203.0.113.9"),
            ("10.0.0.1", &["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            ("10.0.0.1", &["[2001:db8::1]:443"], "2001:db8::1"),
            ("10.0.0.1", &["203.0.113.9:8080"], "203.0.113.9"),
            ("::ffff:10.0.0.1", &["203.0.113.9"], "203.0.113.9"),
            ("10.0.0.1", &["1.2.3.4, , x"], "10.0.0.1"),
            ("10.0.0.1", &["unknown"], "10.0.0.1"),
            ("10.0.0.1", &["fe80::1%eth0"], "10.0.0.1"),
        ];
        for (peer, chain, expected) in cases {
            assert_eq!(client(peer, chain), *expected, "{peer} {chain:?}");
        }
    }

    #[test]
    fn ids_are_taken_from_trusted_peers_only() {
        let mut headers = HeaderMap::new();
        headers.insert(REQUEST_ID, HeaderValue::from_static("mine"));
        let id = |peer: &str| identify(peer.parse().ok(), Some(&listener()), &headers).request_id.unwrap();
        assert_eq!(id("10.0.0.1"), "mine");
        assert_eq!(id("192.0.2.1").len(), 36);
    }
}
