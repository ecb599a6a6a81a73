//! Which endpoint: upstreams as they run.
//!
//! An [`Upstream`] is immutable but for its layout of members, which is swapped whole when health
//! or addresses change. What outlives a reload lies in [`Endpoint`]s, adopted by address, and in
//! `Shared`, adopted by name: health, ejections, breakers, places taken, latencies.

pub mod backoff;
pub mod balancer;
pub mod breaker;
pub mod budget;
mod clock;
pub mod cutoff;
pub mod discovery;
mod endpoint;
pub mod endpoint_list;
pub mod failure;
pub mod gate;
pub mod gradient;
pub mod hash;
pub mod health;
pub mod hedge;
mod location;
mod members;
pub mod mirror;
pub mod outlier;
pub mod peer;
mod probe;
pub mod resolver;
mod settings;
pub mod shift;
pub mod sweep;
pub mod target;
mod tries;
pub mod tunnel;
mod window;

use std::net::SocketAddr;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use pingora::upstreams::peer::PeerOptions;

use crate::telemetry::{Metrics, UpstreamMetrics};
use breaker::Breaker;
use gate::Gate;
use gradient::Gradient;
use members::{Member, Members, Rules};

pub use endpoint::{Endpoint, Health, State};
pub use location::Location;
pub use members::Ask;
pub use settings::{Resilience, Settings, Source, Timeouts, Tls};
pub use tries::Try;

/// A named set of endpoints that serve the same thing.
pub struct Upstream {
    settings: Settings,
    policies: Policies,
    peer_options: PeerOptions,
    members: ArcSwap<Members>,
    /// Held while the members change.
    change: Mutex<Vec<Location>>,
    shared: Shared,
    registry: Arc<Metrics>,
    metrics: UpstreamMetrics,
    /// Connects tries whose answer must begin in time.
    pub(crate) cuttable: Arc<cutoff::Cuttable>,
}

/// The settings in the form in which tries use them.
struct Policies {
    rules: Rules,
    breaker: Option<breaker::Policy>,
    gate: gate::Policy,
    retries: Option<u32>,
}

/// What outlives a reload that keeps the upstream's name.
struct Shared {
    gate: Arc<Gate>,
    breaker: Arc<Breaker>,
    gradient: Option<Arc<Gradient>>,
    retries: Arc<AtomicU32>,
    /// Tries under way; counted for balancers with bounded load only.
    load: Arc<AtomicU32>,
}

/// How an upstream stands at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Its breaker.
    pub breaker: breaker::State,
    /// Requests that its endpoints serve.
    pub in_use: u32,
    /// Requests that wait for a place.
    pub waiting: u32,
    /// Whether unhealthy endpoints are used for want of others.
    pub panic: bool,
}

/// Why no try can begin. Nothing was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PickError {
    /// No endpoint may be picked.
    NoEndpoint,
    /// The names of its endpoints could not be resolved yet.
    Unresolved,
    /// A breaker is open, for about so long.
    Open(Duration),
    /// Too much is under way.
    Overloaded,
    /// The request's own time was over before there was a place.
    TooLate,
}

/// Addresses found for each location; `None` keeps the last ones.
pub type Found = Vec<Option<Vec<SocketAddr>>>;

impl Upstream {
    /// Makes an upstream; what `previous` knows of the same addresses is kept.
    #[must_use]
    pub fn new(settings: Settings, previous: Option<&Self>, metrics: &Arc<Metrics>) -> Arc<Self> {
        let policies = Policies::new(&settings.resilience);
        let listed = match &settings.source {
            Source::Listed(locations) => locations.clone(),
            // The last answer serves until there is a new one.
            Source::Srv(_) | Source::File(_) => previous
                .filter(|previous| previous.settings.source == settings.source)
                .map(|previous| previous.change.lock().unwrap_or_else(PoisonError::into_inner).clone())
                .unwrap_or_default(),
        };
        let upstream = Self {
            peer_options: peer::options(&settings),
            members: ArcSwap::default(),
            change: Mutex::new(listed.clone()),
            shared: Shared::adopt(&settings, previous),
            registry: Arc::clone(metrics),
            metrics: UpstreamMetrics::new(metrics, &settings.name),
            cuttable: Arc::new(cutoff::Cuttable { patience: settings.timeouts.connect }),
            policies,
            settings,
        };
        let known = previous.map(|previous| previous.members.load_full());
        let known = known.as_deref().map(|members| &members.list[..]).unwrap_or_default();
        let before = previous.map(Self::locations).unwrap_or_default();
        let found = listed.iter().map(|location| {
            // A name keeps the addresses that it resolved to before.
            let kept = addresses_at(location, known, &before);
            location.address().map(|address| vec![address]).or((!kept.is_empty()).then_some(kept))
        });
        let found: Found = found.collect();
        upstream.install(&listed, &found, known);
        Arc::new(upstream)
    }

    /// Comes into force: forgets what nobody looks after any more, and lays out what changed
    /// since it was made.
    pub fn take_over(&self) {
        for (endpoint, _) in self.endpoints() {
            if self.settings.health.is_none() {
                endpoint.forget_checks();
            }
            if self.settings.resilience.eject.is_none() {
                endpoint.outlier.readmit();
            }
        }
        self.rebalance();
    }

    /// Lays the members out anew if that is due.
    pub fn refresh(&self) {
        if self.members.load().is_outdated(Instant::now()) {
            self.rebalance();
        }
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

    /// The endpoint at an address.
    #[must_use]
    pub fn endpoint(&self, address: SocketAddr) -> Option<Arc<Endpoint>> {
        let members = self.members.load();
        let member = members.list.iter().find(|member| member.endpoint.address() == address)?;
        Some(Arc::clone(&member.endpoint))
    }

    /// Requests that it takes at once now; `u32::MAX` for no limit.
    #[must_use]
    pub fn limit(&self) -> u32 {
        let adaptive = self.shared.gradient.as_ref().map_or(u32::MAX, |gradient| gradient.limit());
        let fixed = self.policies.gate.limit.unwrap_or(u32::MAX);
        // Full endpoints make requests wait rather than fail.
        let connections = self.policies.rules.connections;
        let seats = || u32::try_from(self.members.load().seats()).unwrap_or(u32::MAX).max(1);
        let full = if connections == u32::MAX { u32::MAX } else { connections.saturating_mul(seats()) };
        adaptive.min(fixed).min(full)
    }

    /// How it stands.
    #[must_use]
    pub fn condition(&self, now: Instant) -> Condition {
        let members = self.members.load();
        let condition = Condition {
            breaker: self.shared.breaker.state(now),
            in_use: members.list.iter().map(|member| member.endpoint.in_flight()).sum(),
            waiting: self.shared.gate.waiting(),
            panic: members.panics(),
        };
        self.metrics.breaker.set(condition.breaker as i64);
        self.metrics.active.set(condition.in_use.into());
        self.metrics.queued.set(condition.waiting.into());
        condition
    }

    /// Lets an endpoint serve, drain or rest. `false` if it has no such endpoint.
    pub fn set_state(&self, address: SocketAddr, state: State) -> bool {
        let Some(endpoint) = self.endpoint(address) else { return false };
        if endpoint.set_state(state, Instant::now()) {
            tracing::info!(upstream = self.name(), endpoint = endpoint.name(), ?state, "endpoint state set");
            self.rebalance();
        }
        true
    }

    /// Lays the members out anew after endpoints became usable or ceased to be.
    pub fn rebalance(&self) {
        let _change = self.change.lock().unwrap_or_else(PoisonError::into_inner);
        let members = self.members.load();
        self.swap(members.list.clone());
    }

    /// The locations that its endpoints were found at.
    #[must_use]
    pub fn locations(&self) -> Vec<Location> {
        self.change.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The addresses that a location was last found at.
    #[must_use]
    pub fn addresses_at(&self, location: &Location) -> Vec<SocketAddr> {
        addresses_at(location, &self.members.load().list, &self.locations())
    }

    /// Takes new locations and their addresses; where none were found, the last ones stay.
    pub fn locate(&self, locations: &[Location], found: Found) {
        let mut current = self.change.lock().unwrap_or_else(PoisonError::into_inner);
        let members = self.members.load();
        let last = |location: &Location| addresses_at(location, &members.list, &current);
        let found: Found = found
            .into_iter()
            .zip(locations)
            .map(|(new, location)| Some(new.unwrap_or_else(|| last(location))))
            .collect();
        let unchanged = *current == locations
            && found.iter().zip(locations).all(|(new, location)| new.as_ref() == Some(&last(location)));
        if !unchanged {
            *current = locations.to_vec();
            self.install(locations, &found, &members.list);
        }
    }

    fn install(&self, locations: &[Location], found: &[Option<Vec<SocketAddr>>], known: &[Member]) {
        let now = Instant::now();
        let mut list: Vec<Member> = Vec::new();
        for (index, (location, addresses)) in locations.iter().zip(found).enumerate() {
            for address in addresses.iter().flatten() {
                // Two names may lead to one address; it is one endpoint, with the first's weight.
                if list.iter().any(|member| member.endpoint.address() == *address) {
                    continue;
                }
                let kept = known.iter().find(|member| member.endpoint.address() == *address);
                let endpoint = kept.map_or_else(
                    || {
                        let checked = self.settings.health.is_some();
                        let new = Endpoint::new(*address, &self.settings.name, &self.registry, checked);
                        if !known.is_empty() {
                            new.start_slowly(now);
                        }
                        Arc::new(new)
                    },
                    |member| Arc::clone(&member.endpoint),
                );
                list.push(self.member(endpoint, index, location));
            }
        }
        self.swap(list);
    }

    fn member(&self, endpoint: Arc<Endpoint>, index: usize, location: &Location) -> Member {
        let token = hash::hash(format!("{} {}", self.settings.name, endpoint.name()).as_bytes());
        let cookie = self.settings.resilience.sticky.as_ref().and_then(|name| {
            http::HeaderValue::from_str(&format!("{name}={token:016x}; Path=/; HttpOnly; SameSite=Lax")).ok()
        });
        let peer = Arc::new(peer::template(self, endpoint.address()));
        Member { endpoint, location: index, weight: location.weight, tier: location.tier, peer, token, cookie }
    }

    fn swap(&self, list: Vec<Member>) {
        let last = self.members.load();
        self.members.store(Arc::new(Members::new(list, &self.policies.rules, &last, Instant::now())));
    }
}

/// The addresses of a location among members that were found at `locations`.
fn addresses_at(location: &Location, list: &[Member], locations: &[Location]) -> Vec<SocketAddr> {
    let there = |member: &&Member| locations.get(member.location).is_some_and(|other| other.is_at(location));
    list.iter().filter(there).map(|member| member.endpoint.address()).collect()
}

impl Policies {
    fn new(resilience: &Resilience) -> Self {
        let (whole, each) = match &resilience.breaker {
            Some((policy, true)) => (None, Some(policy.clone())),
            Some((policy, false)) => (Some(policy.clone()), None),
            None => (None, None),
        };
        let rules = Rules {
            kind: resilience.kind,
            panic_threshold: resilience.panic_threshold,
            slow_start: resilience.slow_start,
            connections: resilience.connections.unwrap_or(u32::MAX),
            breaker: each,
        };
        Self { rules, breaker: whole, gate: resilience.gate.clone(), retries: resilience.retries }
    }
}

impl Shared {
    fn adopt(settings: &Settings, previous: Option<&Upstream>) -> Self {
        let (now, adaptive) = (Instant::now(), settings.resilience.adaptive);
        let Some(previous) = previous else {
            return Self {
                gate: Gate::new(),
                breaker: Arc::new(Breaker::new(now)),
                gradient: adaptive.map(|policy| Arc::new(Gradient::new(policy, now))),
                retries: Arc::default(),
                load: Arc::default(),
            };
        };
        let kept = previous.settings.resilience.adaptive == adaptive;
        let gradient = previous.shared.gradient.clone().filter(|_| kept);
        Self {
            gate: Arc::clone(&previous.shared.gate),
            breaker: Arc::clone(&previous.shared.breaker),
            gradient: gradient.or_else(|| adaptive.map(|policy| Arc::new(Gradient::new(policy, now)))),
            retries: Arc::clone(&previous.shared.retries),
            load: Arc::clone(&previous.shared.load),
        }
    }
}
