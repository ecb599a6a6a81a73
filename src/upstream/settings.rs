//! What an upstream is made from.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use http::HeaderValue;

use crate::tls::Authorities;

use super::balancer::Kind;
use super::{Location, breaker, gate, gradient, hash, health, outlier};

/// Limits of time towards an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Until a connection is open.
    pub connect: Duration,
    /// The longest silence while an answer is awaited or received.
    pub response: Duration,
    /// How long an unused connection is kept.
    pub idle: Duration,
    /// The longest silence of an upgraded connection.
    pub tunnel: Duration,
}

/// TLS towards the endpoints; always verified.
#[derive(Clone)]
pub struct Tls {
    /// The name that is sent and verified; never empty.
    pub sni: String,
    /// Authorities to trust instead of the system's.
    pub authorities: Option<Authorities>,
}

/// Where an upstream's endpoints come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// They are written down; names among them are looked up.
    Listed(Vec<Location>),
    /// The SRV records of a name.
    Srv(String),
    /// A file, read anew when it changes.
    File(PathBuf),
}

/// What keeps an upstream sound.
#[derive(Clone, Debug, PartialEq)]
pub struct Resilience {
    /// How an endpoint is picked.
    pub kind: Kind,
    /// Below this share of usable endpoints the others are used too; 0 for never.
    pub panic_threshold: f64,
    /// How long an endpoint's share grows.
    pub slow_start: Duration,
    /// The cookie that keeps a client with its endpoint.
    pub sticky: Option<String>,
    /// When failing endpoints are taken out.
    pub eject: Option<outlier::Policy>,
    /// When nothing is sent any more, and whether each endpoint has a breaker of its own.
    pub breaker: Option<(breaker::Policy, bool)>,
    /// How much is taken at once.
    pub gate: gate::Policy,
    /// Requests at one endpoint at once.
    pub connections: Option<u32>,
    /// Repeated tries at once.
    pub retries: Option<u32>,
    /// Bounds of a limit that adapts.
    pub adaptive: Option<gradient::Policy>,
}

/// What an upstream is made from.
#[derive(Clone)]
pub struct Settings {
    /// Its name, unique.
    pub name: String,
    /// What answers from it are said to come from: its URL, or its name.
    pub label: HeaderValue,
    /// Where its endpoints are.
    pub source: Source,
    /// What requests hash for a balancer that needs it.
    pub key: Option<hash::Key>,
    /// The DNS server to ask; the system's unless given.
    pub resolver: Option<SocketAddr>,
    /// TLS, if it uses it.
    pub tls: Option<Tls>,
    /// Active checks, if it has them.
    pub health: Option<health::Plan>,
    /// What keeps it sound.
    pub resilience: Resilience,
    /// Limits of time.
    pub timeouts: Timeouts,
    /// A path put before every forwarded path; empty or without a slash at its end.
    pub base_path: String,
    /// The `Host` that requests carry; the client's unless given.
    pub host: Option<HeaderValue>,
    /// Equal for equal settings; a reload that finds it unchanged keeps the upstream.
    pub fingerprint: String,
}
