//! Where an endpoint is, as configured or found.

use std::net::{IpAddr, SocketAddr};

use crate::route::{HostPattern, host};

/// Host and port of an endpoint, with its weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// An address or a name.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Its share of the requests.
    pub weight: u32,
    /// Lower tiers serve first.
    pub tier: u8,
}

impl Location {
    /// Reads `host:port`.
    ///
    /// # Errors
    /// Says what is wrong.
    pub fn parse(text: &str, weight: u32, tier: u8) -> Result<Self, String> {
        let host = host::without_port(text);
        let port = text.strip_prefix(host).and_then(|rest| rest.strip_prefix(':'));
        let port = port.ok_or_else(|| format!("the endpoint `{text}` has no port"))?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(|| format!("`{port}` is not a port"))?;
        let location = Self { host: host.to_ascii_lowercase(), port, weight, tier };
        let is_name = HostPattern::parse(host).is_ok_and(|pattern| matches!(pattern, HostPattern::Exact(_)));
        let numeric = host.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        if location.address().is_none() && (!is_name || numeric) {
            return Err(format!("`{host}` is neither an address nor a host name"));
        }
        Ok(location)
    }

    /// Whether both are one place, whatever their weights.
    #[must_use]
    pub fn is_at(&self, other: &Self) -> bool {
        self.host == other.host && self.port == other.port
    }

    /// The address, unless the host is a name.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        let host = self.host.trim_start_matches('[').trim_end_matches(']');
        host.parse::<IpAddr>().ok().map(|host| SocketAddr::new(host, self.port))
    }
}
