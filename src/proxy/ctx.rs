//! What is known of one request.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::HeaderValue;
use pingora::Result;
use prometheus::IntGauge;

use crate::snapshot::{Route, Snapshot};
use crate::upstream::{InFlight, Upstream};

use super::fail::Reason;

/// What is known of one request.
pub struct Ctx {
    /// The configuration that the request lives under, from its header to its log line.
    pub snapshot: Arc<Snapshot>,
    /// When the request's header was read.
    pub started: Instant,
    /// The same as wall-clock time.
    pub time: SystemTime,
    /// The listener that it came in by, as an index of the snapshot's.
    pub listener: Option<usize>,
    /// Whom it came from, and what it is called.
    pub client: Client,
    /// Set once a route matched.
    pub routed: Option<Routed>,
    /// The try in progress, or the last one; replaced on each retry.
    pub attempt: Option<Attempt>,
    /// How many tries there were.
    pub attempts: u32,
    /// Why the gateway itself answers, or broke off.
    pub reason: Option<Reason>,
    /// When the whole request must be over.
    pub deadline: Option<Instant>,
    _in_flight: Gauged,
}

/// Whom a request came from.
#[derive(Default)]
pub struct Client {
    /// The peer of the connection.
    pub peer: Option<IpAddr>,
    /// The client's address: the peer's, or what a trusted proxy tells.
    pub address: Option<IpAddr>,
    /// Whether the peer is a trusted proxy.
    pub trusted: bool,
    /// The request's id; set with the route.
    pub request_id: Option<HeaderValue>,
}

/// A request that has its route.
pub struct Routed {
    /// The route.
    pub route: Arc<Route>,
    /// Path and query to forward, if other than what was sent.
    pub target: Option<String>,
}

/// One try at an endpoint.
pub struct Attempt {
    /// The upstream.
    pub upstream: Arc<Upstream>,
    /// The endpoint; counts the try until it is dropped.
    pub in_flight: InFlight,
    /// When the try began.
    pub started: Instant,
    /// How long the answer's header took.
    pub header_after: Option<Duration>,
}

impl Attempt {
    /// Where it went.
    pub fn address(&self) -> SocketAddr {
        self.in_flight.endpoint().address()
    }
}

impl Ctx {
    /// A request that has just been read.
    #[must_use]
    pub fn new(snapshot: Arc<Snapshot>, in_flight: &IntGauge) -> Self {
        in_flight.inc();
        Self {
            snapshot,
            started: Instant::now(),
            time: SystemTime::now(),
            listener: None,
            client: Client::default(),
            routed: None,
            attempt: None,
            attempts: 0,
            reason: None,
            deadline: None,
            _in_flight: Gauged(in_flight.clone()),
        }
    }

    /// Fails once the whole request has taken too long.
    ///
    /// # Errors
    /// With the reason `deadline`.
    pub fn check_deadline(&mut self) -> Result<()> {
        match self.deadline {
            Some(deadline) if Instant::now() >= deadline => Err(self.fail(Reason::Deadline)),
            _ => Ok(()),
        }
    }
}

/// A gauge that goes down again when it is dropped.
struct Gauged(IntGauge);

impl Drop for Gauged {
    fn drop(&mut self) {
        self.0.dec();
    }
}
