//! One try at an endpoint: the places and permits that it holds, and what its end tells.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use http::HeaderValue;
use pingora::upstreams::peer::HttpPeer;

use crate::telemetry::Outcome;

use super::breaker::{self, Pass};
use super::endpoint::Endpoint;
use super::gate::{Admission, Refusal};
use super::members::{Ask, Member};
use super::{PickError, Upstream};

/// A try that is under way; gives back what it holds when dropped.
pub struct Try {
    upstream: Arc<Upstream>,
    endpoint: Arc<Endpoint>,
    peer: Arc<HttpPeer>,
    started: Instant,
    /// Requests at the upstream when it began, for the limit that adapts.
    crowd: u32,
    passes: Passes,
    /// The cookie that makes the client stick, unless it has it.
    cookie: Option<HeaderValue>,
    told: bool,
    _counted: Option<Counted>,
    _admission: Option<Admission>,
    _again: Option<Again>,
}

/// Leave of the breakers.
#[derive(Clone, Copy, Debug, Default)]
struct Passes {
    upstream: Option<Pass>,
    endpoint: Option<Pass>,
}

/// A place among the repeated tries; gives it back when dropped.
struct Again(Arc<Upstream>);

impl Drop for Again {
    fn drop(&mut self) {
        self.0.shared.retries.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A try that counts towards the upstream's load; counted out when dropped.
struct Counted(Arc<Upstream>);

impl Counted {
    fn new(upstream: &Arc<Upstream>) -> Self {
        upstream.shared.load.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(upstream))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.shared.load.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Picks of which the endpoint's own breaker may refuse, one after another.
const PICKS: usize = 3;

impl Upstream {
    /// Begins a try: waits for a place where there is a queue, asks the breakers, picks an
    /// endpoint. `again` says that the request was here before.
    ///
    /// # Errors
    /// See [`PickError`].
    pub async fn begin(self: &Arc<Self>, ask: Ask<'_>, again: bool) -> Result<Try, PickError> {
        let again = if again { self.again()? } else { None };
        let pass = match &self.policies.breaker {
            Some(policy) => Some(
                self.shared.breaker.permit(ask.now, policy).map_err(|refused| PickError::Open(refused.retry_after))?,
            ),
            None => None,
        };
        let admission = match self.place(ask.now).await {
            Ok(admission) => admission,
            Err(refusal) => {
                self.abandon(pass);
                return Err(refusal);
            }
        };
        // Waiting took time.
        let ask = if admission.is_some() { Ask { now: Instant::now(), ..ask } } else { ask };
        match self.pick(ask) {
            Ok(mut begun) => {
                begun.passes.upstream = pass;
                begun.crowd = self.shared.gate.in_use();
                (begun._admission, begun._again) = (admission, again);
                Ok(begun)
            }
            Err(error) => {
                self.abandon(pass);
                Err(error)
            }
        }
    }

    fn again(self: &Arc<Self>) -> Result<Option<Again>, PickError> {
        let Some(limit) = self.policies.retries else { return Ok(None) };
        let before = self.shared.retries.fetch_add(1, Ordering::Relaxed);
        let again = Again(Arc::clone(self));
        if before < limit { Ok(Some(again)) } else { Err(PickError::Overloaded) }
    }

    async fn place(&self, now: Instant) -> Result<Option<Admission>, PickError> {
        let limit = self.limit();
        if limit == u32::MAX {
            return Ok(None);
        }
        match self.shared.gate.enter(limit, &self.policies.gate, now).await {
            Ok(admission) => Ok(Some(admission)),
            Err(Refusal::Full | Refusal::TimedOut) => {
                self.metrics().overloaded.inc();
                Err(PickError::Overloaded)
            }
        }
    }

    fn abandon(&self, pass: Option<Pass>) {
        if let Some(pass) = pass {
            self.shared.breaker.abandon(pass);
        }
    }

    fn pick(self: &Arc<Self>, mut ask: Ask<'_>) -> Result<Try, PickError> {
        let members = self.members.load();
        if self.policies.rules.is_bounded() {
            ask.load = self.shared.load.load(Ordering::Relaxed);
        }
        for _ in 0..PICKS {
            let Some(member) = members.pick(&ask, &self.policies.rules) else { break };
            let pass = match &self.policies.rules.breaker {
                None => None,
                Some(policy) => match member.endpoint.breaker.permit(ask.now, policy) {
                    Ok(pass) => Some(pass),
                    Err(_) => {
                        ask.avoid = Some(member.endpoint.address());
                        continue;
                    }
                },
            };
            return Ok(self.start(member, pass, &ask));
        }
        if members.list.is_empty() {
            return Err(PickError::Unresolved);
        }
        let full = |member: &Member| {
            member.endpoint.is_usable(ask.now) && member.endpoint.in_flight() >= self.policies.rules.connections
        };
        let broken = |member: &Member| {
            self.policies.rules.breaker.is_some()
                && member.endpoint.is_usable(ask.now)
                && member.endpoint.breaker.state(ask.now) != breaker::State::Closed
        };
        if members.list.iter().any(full) {
            self.metrics().overloaded.inc();
            return Err(PickError::Overloaded);
        }
        if members.list.iter().any(broken) { Err(PickError::Open(Duration::ZERO)) } else { Err(PickError::NoEndpoint) }
    }

    fn start(self: &Arc<Self>, member: &Member, pass: Option<Pass>, ask: &Ask<'_>) -> Try {
        member.endpoint.enter();
        let counted = self.policies.rules.is_bounded().then(|| Counted::new(self));
        let known = ask.token == Some(member.token);
        Try {
            upstream: Arc::clone(self),
            endpoint: Arc::clone(&member.endpoint),
            peer: Arc::clone(&member.peer),
            started: ask.now,
            crowd: 0,
            passes: Passes { upstream: None, endpoint: pass },
            cookie: member.cookie.clone().filter(|_| !known),
            told: false,
            _counted: counted,
            _admission: None,
            _again: None,
        }
    }
}

impl Try {
    /// The upstream.
    #[must_use]
    pub fn upstream(&self) -> &Arc<Upstream> {
        &self.upstream
    }

    /// The endpoint.
    #[must_use]
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// The way to it; cloned for each try.
    #[must_use]
    pub fn peer(&self) -> &HttpPeer {
        &self.peer
    }

    /// When it began.
    #[must_use]
    pub fn started(&self) -> Instant {
        self.started
    }

    /// The cookie that makes the client stick to the endpoint, unless it has it.
    #[must_use]
    pub fn cookie(&self) -> Option<&HeaderValue> {
        self.cookie.as_ref()
    }

    /// Tells how it ended; only the first time counts. Ejects the endpoint and opens breakers as
    /// the policies say.
    pub fn ended(&mut self, outcome: Outcome) {
        if std::mem::replace(&mut self.told, true) {
            return;
        }
        let now = Instant::now();
        let took = now.saturating_duration_since(self.started);
        let ok = outcome == Outcome::Success;
        let (upstream, endpoint) = (&self.upstream, &self.endpoint);
        endpoint.metrics().tried(outcome);
        let clock = endpoint.clock(now);
        if ok {
            #[expect(clippy::cast_precision_loss, reason = "an estimate")]
            endpoint.latency.observe(clock, took.as_nanos() as f64);
        } else {
            endpoint.latency.fail(clock);
        }
        if let Some(gradient) = &upstream.shared.gradient {
            let dropped = matches!(outcome, Outcome::Timeout | Outcome::ConnectFailed);
            gradient.sample(now, took, self.crowd, dropped);
        }
        upstream.judge(endpoint, ok, now);
        if let (Some(pass), Some(policy)) = (self.passes.upstream, &upstream.policies.breaker)
            && let Some(state) = upstream.shared.breaker.record(now, pass, ok, policy)
        {
            upstream.breaker_turned(state, None);
        }
        if let (Some(pass), Some(policy)) = (self.passes.endpoint, &upstream.policies.rules.breaker)
            && let Some(state) = endpoint.breaker.record(now, pass, ok, policy)
        {
            upstream.breaker_turned(state, Some(endpoint));
        }
    }

    /// The try is to be forgotten: what broke was a connection kept from before, not the endpoint.
    pub fn stale(&mut self) {
        if !std::mem::replace(&mut self.told, true) {
            self.give_passes_back();
        }
    }

    fn give_passes_back(&self) {
        self.upstream.abandon(self.passes.upstream);
        if let Some(pass) = self.passes.endpoint {
            self.endpoint.breaker.abandon(pass);
        }
    }
}

impl Drop for Try {
    fn drop(&mut self) {
        self.endpoint.leave();
        if !self.told {
            self.give_passes_back();
        }
    }
}
