//! The way to an endpoint, in Pingora's terms.

use std::net::SocketAddr;
use std::time::Duration;

use pingora::protocols::TcpKeepalive;
use pingora::upstreams::peer::{HttpPeer, PeerOptions};

use super::{Settings, Upstream};

/// The options of every connection of an upstream.
#[must_use]
pub fn options(settings: &Settings) -> PeerOptions {
    let timeouts = &settings.timeouts;
    let mut options = PeerOptions::new();
    options.connection_timeout = Some(timeouts.connect);
    options.total_connection_timeout = Some(timeouts.connect);
    options.read_timeout = Some(timeouts.response);
    options.write_timeout = Some(timeouts.response);
    options.idle_timeout = Some(timeouts.idle);
    options.tcp_keepalive = Some(TcpKeepalive {
        idle: Duration::from_secs(60),
        interval: Duration::from_secs(5),
        count: 5,
        user_timeout: Duration::ZERO,
    });
    options.ca = settings.tls.as_ref().and_then(|tls| tls.authorities.as_ref()).map(|known| known.certificates.clone());
    options
}

/// A peer at an address. Cloned for each try, so that nothing is looked up or built per request.
#[must_use]
pub fn template(upstream: &Upstream, address: SocketAddr) -> HttpPeer {
    let sni = upstream.sni();
    let mut peer = HttpPeer::new(address, sni.is_some(), sni.unwrap_or_default().to_owned());
    peer.options = upstream.peer_options().clone();
    // Pingora's pool does not tell connections apart by the authorities that verified them.
    peer.group_key =
        upstream.settings().tls.as_ref().and_then(|tls| tls.authorities.as_ref()).map_or(0, |known| known.fingerprint);
    peer
}
