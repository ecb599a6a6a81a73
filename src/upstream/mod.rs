//! Which endpoint: upstreams as they run.
//!
//! An [`Upstream`] is immutable but for its set of members, which is swapped whole when health or
//! addresses change. [`Endpoint`]s live longer: a reload that keeps an address keeps its state.

pub mod balancer;
pub mod discovery;
mod endpoint;
pub mod health;
pub mod peer;
pub mod tunnel;

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use pingora::upstreams::peer::{HttpPeer, PeerOptions};

use crate::telemetry::{Metrics, UpstreamMetrics};
use crate::tls::Authorities;
use balancer::RoundRobin;

pub use endpoint::{Endpoint, InFlight};

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

/// Host and port of an endpoint as configured, with its weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// An address or a name.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Its share of the requests.
    pub weight: u32,
}

impl Location {
    /// The address, unless the host is a name.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        let host = self.host.trim_start_matches('[').trim_end_matches(']');
        host.parse::<IpAddr>().ok().map(|host| SocketAddr::new(host, self.port))
    }
}

/// What an upstream is made from.
#[derive(Clone)]
pub struct Settings {
    /// Its name, unique.
    pub name: String,
    /// Where its endpoints are.
    pub locations: Vec<Location>,
    /// TLS, if it uses it.
    pub tls: Option<Tls>,
    /// Active checks, if it has them.
    pub health: Option<health::Plan>,
    /// Limits of time.
    pub timeouts: Timeouts,
    /// A path put before every forwarded path; empty or without a slash at its end.
    pub base_path: String,
    /// The `Host` that requests carry; the client's unless given.
    pub host: Option<http::HeaderValue>,
    /// Equal for equal settings; a reload that finds it unchanged keeps the upstream.
    pub fingerprint: String,
}

/// A named set of endpoints that serve the same thing.
pub struct Upstream {
    settings: Settings,
    peer_options: PeerOptions,
    members: ArcSwap<Members>,
    /// Held while the members are replaced by ones made from them.
    change: Mutex<()>,
    registry: Arc<Metrics>,
    metrics: UpstreamMetrics,
}

#[derive(Default)]
struct Members {
    list: Vec<Member>,
    turn: RoundRobin,
}

#[derive(Clone)]
struct Member {
    endpoint: Arc<Endpoint>,
    location: usize,
    weight: u32,
    peer: Arc<HttpPeer>,
}

/// Why no endpoint could be picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PickError {
    /// None is eligible.
    NoEndpoint,
    /// The names of its endpoints could not be resolved yet.
    Unresolved,
}

/// An endpoint that was picked, and the way to it.
pub struct Picked {
    /// Counts the try until it is dropped.
    pub in_flight: InFlight,
    /// The peer to clone.
    pub peer: Arc<HttpPeer>,
}

impl Upstream {
    /// Makes an upstream; addresses that `previous` had keep their endpoint's state.
    #[must_use]
    pub fn new(settings: Settings, previous: Option<&Self>, metrics: &Arc<Metrics>) -> Arc<Self> {
        let upstream = Self {
            peer_options: peer::options(&settings),
            members: ArcSwap::default(),
            change: Mutex::default(),
            registry: Arc::clone(metrics),
            metrics: UpstreamMetrics::new(metrics, &settings.name),
            settings,
        };
        let known = previous.map(|previous| previous.members.load_full());
        let unchecked = upstream.settings.health.is_none();
        let found = upstream.settings.locations.iter().map(|location| {
            let named = |index: usize| {
                let other = previous?.settings.locations.get(index)?;
                (other.host == location.host && other.port == location.port).then_some(())
            };
            // A name keeps the addresses that it resolved to before.
            let kept = known.iter().flat_map(|members| &members.list).filter(|member| named(member.location).is_some());
            let kept: Vec<_> = kept.map(|member| member.endpoint.address()).collect();
            location.address().map(|address| vec![address]).or((!kept.is_empty()).then_some(kept))
        });
        let found: Vec<_> = found.collect();
        upstream.install(&found, known.as_deref().map(|members| &members.list[..]).unwrap_or_default());
        if unchecked {
            upstream.members.load().list.iter().for_each(|member| member.endpoint.forget_checks());
            upstream.rebalance();
        }
        Arc::new(upstream)
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.settings.name
    }

    /// What it is made from.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Its counters.
    #[must_use]
    pub fn metrics(&self) -> &UpstreamMetrics {
        &self.metrics
    }

    /// How its endpoints are checked, if they are.
    #[must_use]
    pub fn health(&self) -> Option<&health::Plan> {
        self.settings.health.as_ref()
    }

    /// The server name for TLS, if it uses it.
    #[must_use]
    pub fn sni(&self) -> Option<&str> {
        self.settings.tls.as_ref().map(|tls| tls.sni.as_str())
    }

    /// The options of every connection.
    #[must_use]
    pub fn peer_options(&self) -> &PeerOptions {
        &self.peer_options
    }

    /// Its endpoints and their weights.
    #[must_use]
    pub fn endpoints(&self) -> Vec<(Arc<Endpoint>, u32)> {
        let members = self.members.load();
        members.list.iter().map(|member| (Arc::clone(&member.endpoint), member.weight)).collect()
    }

    /// Picks an eligible endpoint, not the one at `avoid`.
    ///
    /// # Errors
    /// See [`PickError`].
    pub fn pick(&self, avoid: Option<SocketAddr>) -> Result<Picked, PickError> {
        let members = self.members.load();
        let eligible = |index: u32| {
            let endpoint = &members.list[index as usize].endpoint;
            endpoint.is_eligible() && Some(endpoint.address()) != avoid
        };
        match members.turn.pick(eligible) {
            Some(index) => {
                let member = &members.list[index as usize];
                Ok(Picked { in_flight: member.endpoint.begin(), peer: Arc::clone(&member.peer) })
            }
            None if members.list.is_empty() => Err(PickError::Unresolved),
            None => Err(PickError::NoEndpoint),
        }
    }

    /// Lays the turn out anew after endpoints became eligible or ceased to be.
    pub fn rebalance(&self) {
        let _change = self.change.lock().unwrap_or_else(PoisonError::into_inner);
        let members = self.members.load();
        self.swap(members.list.clone(), &members.turn);
    }

    /// Takes the addresses of each location; `None` keeps the last ones.
    pub fn locate(&self, found: Vec<Option<Vec<SocketAddr>>>) {
        let _change = self.change.lock().unwrap_or_else(PoisonError::into_inner);
        let members = self.members.load();
        let last = |location: usize| -> Vec<SocketAddr> {
            let own = members.list.iter().filter(|member| member.location == location);
            own.map(|member| member.endpoint.address()).collect()
        };
        let found: Vec<_> =
            found.into_iter().enumerate().map(|(location, new)| Some(new.unwrap_or_else(|| last(location)))).collect();
        let unchanged = found.iter().enumerate().all(|(location, new)| new.as_ref() == Some(&last(location)));
        if !unchanged {
            self.install(&found, &members.list);
        }
    }

    fn install(&self, found: &[Option<Vec<SocketAddr>>], known: &[Member]) {
        let mut list: Vec<Member> = Vec::new();
        for (location, addresses) in found.iter().enumerate() {
            for address in addresses.iter().flatten() {
                // Two names may lead to one address; it is one endpoint, with the first's weight.
                if list.iter().any(|member| member.endpoint.address() == *address) {
                    continue;
                }
                let kept = known.iter().find(|member| member.endpoint.address() == *address);
                let endpoint = kept.map_or_else(
                    || Arc::new(Endpoint::new(*address, &self.settings.name, &self.registry)),
                    |member| Arc::clone(&member.endpoint),
                );
                let weight = self.settings.locations[location].weight;
                list.push(Member { endpoint, location, weight, peer: Arc::new(peer::template(self, *address)) });
            }
        }
        self.swap(list, &self.members.load().turn);
    }

    fn swap(&self, list: Vec<Member>, turn: &RoundRobin) {
        let eligible: Vec<(u32, u32)> = (0..)
            .zip(&list)
            .filter(|(_, member)| member.endpoint.is_eligible())
            .map(|(index, member)| (index, member.weight))
            .collect();
        let turn = RoundRobin::new(&eligible).resume(turn);
        self.members.store(Arc::new(Members { list, turn }));
    }
}
