//! What is known of one request.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::HeaderValue;
use pingora::Result;
use prometheus::IntGauge;

use crate::snapshot::{Route, Snapshot};
use crate::upstream::Try;
use crate::upstream::cutoff::Cutoff;
use crate::upstream::hedge::Hedge;
use crate::upstream::mirror::{Draft, Seen};

use super::course::{Course, Next};
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
    /// What the answer's status decided, until Pingora asks.
    pub decided: Option<Next>,
    /// Whether it was decided if the request is copied for a mirror.
    pub mirrored: bool,
    /// The copy.
    pub copy: Copying,
    /// Why the gateway itself answers, or broke off.
    pub reason: Option<Reason>,
    /// When a client that is refused may come again.
    pub retry_after: Option<Duration>,
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
    /// The path in its one form, unless it was sent so.
    pub path: Option<String>,
    /// Where a redirect leads.
    pub place: Option<String>,
    /// Where a forwarded request stands among its targets.
    pub course: Option<Course>,
}

/// One try at an endpoint.
pub struct Attempt {
    /// The try; gives back what it holds when dropped.
    pub begun: Try,
    /// How long the answer's header took.
    pub header_after: Option<Duration>,
    /// The second try that may overtake this one.
    pub hedge: Option<Arc<Hedge>>,
    /// Ends the try if its answer does not begin in time.
    pub cutoff: Option<Cutoff>,
}

impl Attempt {
    /// Where it went.
    pub fn address(&self) -> SocketAddr {
        self.begun.endpoint().address()
    }
}

/// The copy of a request for a mirror.
#[derive(Default)]
pub enum Copying {
    /// None, or none any more.
    #[default]
    No,
    /// Its body is being collected.
    Draft(Box<Draft>),
    /// It is sent; the answers are to be compared.
    Compare(tokio::sync::oneshot::Sender<Seen>, crc32fast::Hasher),
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
            decided: None,
            mirrored: false,
            copy: Copying::No,
            reason: None,
            retry_after: None,
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
