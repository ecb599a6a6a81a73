//! The running truth: a configuration compiled into what requests meet. Immutable.
//!
//! A snapshot compiles whole or not at all. What outlives it (endpoints' health, counters,
//! connections) is adopted from the one before, by name and address.

mod compile;
pub mod explain;
mod listeners;
mod resilience;
mod routes;
mod targets;
mod upstreams;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};
use ipnet::IpNet;

use crate::filter::{HeaderEdits, Rewrite};
use crate::route::{RouteTable, Template};
use crate::telemetry::{Destination, RouteMetrics};
use crate::upstream::Upstream;
use crate::upstream::backoff::Backoff;
use crate::upstream::budget::Budget;
use crate::upstream::failure::{Conditions, Methods};
use crate::upstream::hash::Key;
use crate::upstream::mirror::Mirror;
use crate::upstream::target::Target;

pub use compile::{Compiled, Input, compile};

/// A compiled configuration.
pub struct Snapshot {
    /// Number of the configuration, from 1; each reload that is applied adds one.
    pub generation: u64,
    /// The routes.
    pub table: RouteTable<Arc<Route>>,
    /// The upstreams, those of URLs in routes included; sorted by name.
    pub upstreams: Vec<Arc<Upstream>>,
    /// What holds at each listener.
    pub listeners: Vec<Listener>,
    /// Whether an error's answer names the target.
    pub full_errors: bool,
    /// The handles of requests that no route matched.
    pub unrouted: Arc<RouteMetrics>,
    /// What can only be set when the process starts.
    pub fixed: Fixed,
}

/// What can only be set when the process starts; a reload that changes it is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fixed {
    /// Listening addresses, in order.
    pub listeners: Vec<SocketAddr>,
    /// Threads that serve requests.
    pub workers: usize,
    /// The admin listener.
    pub admin: AdminAddress,
    /// Where the access log goes.
    pub access_log: Destination,
}

/// Where the admin listener is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminAddress {
    /// A loopback address.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

/// What holds at one listener.
#[derive(Clone, Debug)]
pub struct Listener {
    /// Where it listens.
    pub address: SocketAddr,
    /// Whether every request is redirected to https.
    pub redirect_to_https: bool,
    /// Proxies whose forwarding headers are believed.
    pub trusted: Vec<IpNet>,
    /// Whether ambiguous paths are refused.
    pub strict_paths: bool,
    /// How long a connection may stay idle, in whole seconds.
    pub keep_alive: u64,
}

impl Listener {
    /// Whether a peer's forwarding headers are believed.
    #[must_use]
    pub fn trusts(&self, peer: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(&peer))
    }
}

/// A route as it runs.
pub struct Route {
    /// The name in logs and metrics, unique.
    pub name: Box<str>,
    /// Its counters.
    pub metrics: Arc<RouteMetrics>,
    /// What becomes of its requests.
    pub action: Action,
    /// Edits of the request's headers.
    pub request_edits: HeaderEdits,
    /// Edits of the answer's headers.
    pub response_edits: HeaderEdits,
    /// From the request's header to the last byte of the answer.
    pub total: Option<Duration>,
}

/// What becomes of a request.
pub enum Action {
    /// It is forwarded.
    Forward(Arc<Forward>),
    /// It gets a fixed answer.
    Respond {
        /// With this status.
        status: StatusCode,
        /// With these headers.
        headers: Vec<(HeaderName, HeaderValue)>,
        /// With this body.
        body: Bytes,
    },
    /// It is redirected.
    Redirect {
        /// With this status.
        status: StatusCode,
        /// To this path or URL; the query is added.
        to: Template,
    },
}

/// How requests are forwarded.
pub struct Forward {
    /// Where to, in a few words.
    pub label: Box<str>,
    /// Equal for equal settings; a reload that finds it and all upstreams unchanged keeps the whole.
    pub fingerprint: String,
    /// Where to.
    pub target: Target<Leg, Key>,
    /// When a failed try is repeated.
    pub retry: Retry,
    /// Where copies go.
    pub mirror: Option<(Leg, Arc<Mirror>)>,
}

/// An upstream and the path that it sees.
pub struct Leg {
    /// To one of these endpoints,
    pub upstream: Arc<Upstream>,
    /// with this path.
    pub rewrite: Rewrite,
}

/// When a failed try is repeated, at the same upstream.
pub struct Retry {
    /// Tries in all, the first included.
    pub attempts: u32,
    /// Failures that are worth another try.
    pub on: Conditions,
    /// Methods that may be sent twice.
    pub methods: Methods,
    /// How long a try may take until its answer begins.
    pub per_try: Option<Duration>,
    /// When a second endpoint is asked too.
    pub hedge: Option<Duration>,
    /// Pauses between tries.
    pub backoff: Backoff,
    /// The share of the requests that may be repeated, as the budget has it.
    pub share: f64,
    /// Whether going on to another target needs the budget too.
    pub spans_fallback: bool,
    /// Repeated tries that reach servers.
    pub budget: Arc<Budget>,
}

impl Snapshot {
    /// Index of the listener that a connection came in by.
    #[must_use]
    pub fn listener(&self, local: SocketAddr) -> Option<usize> {
        let matches = |listener: &Listener| {
            listener.address.port() == local.port()
                && (listener.address.ip().is_unspecified() || listener.address.ip() == local.ip().to_canonical())
        };
        let exact = self.listeners.iter().position(|listener| listener.address == local);
        let first = (!self.listeners.is_empty()).then_some(0);
        exact.or_else(|| self.listeners.iter().position(matches)).or(first)
    }

    /// The upstream of this name.
    #[must_use]
    pub fn upstream(&self, name: &str) -> Option<&Arc<Upstream>> {
        let index = self.upstreams.binary_search_by(|upstream| upstream.name().cmp(name)).ok()?;
        self.upstreams.get(index)
    }
}
