//! One try at an endpoint: the places and permits that it holds, and what its end tells.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use http::HeaderValue;
use pingora::upstreams::peer::HttpPeer;

use crate::telemetry::Outcome;

use super::breaker::{self, Breaker, Pass};
use super::endpoint::Endpoint;
use super::gate::{self, Admission};
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
    leave: Option<Leave>,
    endpoint_leave: Option<Leave>,
    /// The cookie that makes the client stick, unless it has it.
    cookie: Option<HeaderValue>,
    /// How its answer began.
    answered: Option<Outcome>,
    told: bool,
    _counted: Option<Counted>,
    _admission: Option<Admission>,
    _again: Option<Again>,
}

/// Leave of a breaker; given back when dropped, unless the try told how it ended.
struct Leave {
    of: Of,
    pass: Option<Pass>,
}

/// Whose breaker.
enum Of {
    Upstream(Arc<Upstream>),
    Endpoint(Arc<Endpoint>),
}

impl Leave {
    fn breaker(&self) -> &Breaker {
        match &self.of {
            Of::Upstream(upstream) => &upstream.shared.breaker,
            Of::Endpoint(endpoint) => &endpoint.breaker,
        }
    }

    /// Tells the breaker how the try ended; returns its new state if that changed.
    fn tell(&mut self, now: Instant, ok: bool, policy: &breaker::Policy) -> Option<breaker::State> {
        let pass = self.pass.take()?;
        self.breaker().record(now, pass, ok, policy)
    }
}

impl Drop for Leave {
    fn drop(&mut self) {
        if let Some(pass) = self.pass.take() {
            self.breaker().abandon(pass);
        }
    }
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

impl Upstream {
    /// Begins a try: waits for a place where there is a queue, asks the breakers, picks an
    /// endpoint. `again` says that the request was here before.
    ///
    /// # Errors
    /// See [`PickError`].
    pub async fn begin(self: &Arc<Self>, ask: Ask<'_>, again: bool) -> Result<Try, PickError> {
        let again = if again { self.again()? } else { None };
        // Asked before the queue too, so that nobody waits for what is closed.
        if self.policies.breaker.is_some() && self.shared.breaker.state(ask.now) == breaker::State::Open {
            self.leave(ask.now)?;
        }
        let admission = self.place(&ask).await?;
        // Waiting took time.
        let ask = if admission.is_some() { Ask { now: Instant::now(), ..ask } } else { ask };
        if ask.deadline.is_some_and(|deadline| ask.now >= deadline) {
            return Err(PickError::TooLate);
        }
        let leave = self.leave(ask.now)?;
        let mut begun = self.pick(ask)?;
        begun.leave = leave;
        begun.crowd = if self.shared.gradient.is_some() { self.shared.gate.in_use() } else { 0 };
        (begun._admission, begun._again) = (admission, again);
        Ok(begun)
    }

    fn again(self: &Arc<Self>) -> Result<Option<Again>, PickError> {
        let Some(limit) = self.policies.retries else { return Ok(None) };
        let before = self.shared.retries.fetch_add(1, Ordering::Relaxed);
        let again = Again(Arc::clone(self));
        if before < limit { Ok(Some(again)) } else { Err(PickError::Overloaded) }
    }

    fn leave(self: &Arc<Self>, now: Instant) -> Result<Option<Leave>, PickError> {
        let Some(policy) = &self.policies.breaker else { return Ok(None) };
        match self.shared.breaker.permit(now, policy) {
            Ok(pass) => Ok(Some(Leave { of: Of::Upstream(Arc::clone(self)), pass: Some(pass) })),
            Err(refused) => Err(PickError::Open(refused.retry_after)),
        }
    }

    async fn place(&self, ask: &Ask<'_>) -> Result<Option<Admission>, PickError> {
        let limit = self.limit();
        if limit == u32::MAX {
            return Ok(None);
        }
        let policy = &self.policies.gate;
        let left = ask.deadline.map_or(policy.patience, |deadline| deadline.saturating_duration_since(ask.now));
        let policy = gate::Policy { patience: policy.patience.min(left), ..policy.clone() };
        match self.shared.gate.enter(limit, &policy, ask.now).await {
            Ok(admission) => Ok(Some(admission)),
            Err(_) => {
                self.metrics().overloaded.inc();
                Err(PickError::Overloaded)
            }
        }
    }

    /// Whether a request that was at `avoid` could be tried here again, as far as is known now.
    #[must_use]
    pub fn may_repeat(&self, avoid: Option<std::net::SocketAddr>, now: Instant) -> bool {
        let room = self.policies.retries.is_none_or(|limit| self.shared.retries.load(Ordering::Relaxed) < limit);
        let closed = self.policies.breaker.is_none() || self.shared.breaker.state(now) != breaker::State::Open;
        room && closed && self.members.load().has_other(avoid, &self.policies.rules, now)
    }

    fn pick(self: &Arc<Self>, mut ask: Ask<'_>) -> Result<Try, PickError> {
        let members = self.members.load();
        if self.policies.rules.is_bounded() {
            ask.load = self.shared.load.load(Ordering::Relaxed);
        }
        if let Some(member) = members.pick(&ask, &self.policies.rules) {
            match self.endpoint_leave(member, ask.now) {
                Ok(leave) => return Ok(self.start(member, leave, &ask)),
                // All probes of its breaker are under way: any other that may be picked.
                Err(()) => {
                    let start = usize::try_from(fastrand::u32(..)).unwrap_or(0);
                    for member in members.usable_from(start, &ask, &self.policies.rules) {
                        if let Ok(leave) = self.endpoint_leave(member, ask.now) {
                            return Ok(self.start(member, leave, &ask));
                        }
                    }
                }
            }
        }
        Err(self.why_none(&members.list, &ask))
    }

    fn endpoint_leave(&self, member: &Member, now: Instant) -> Result<Option<Leave>, ()> {
        let Some(policy) = &self.policies.rules.breaker else { return Ok(None) };
        let pass = member.endpoint.breaker.permit(now, policy).map_err(drop)?;
        Ok(Some(Leave { of: Of::Endpoint(Arc::clone(&member.endpoint)), pass: Some(pass) }))
    }

    fn why_none(&self, list: &[Member], ask: &Ask<'_>) -> PickError {
        let rules = &self.policies.rules;
        let usable = || list.iter().map(|member| &member.endpoint).filter(|endpoint| endpoint.is_usable(ask.now));
        if list.is_empty() {
            PickError::Unresolved
        } else if usable().any(|endpoint| endpoint.in_flight() >= rules.connections) {
            self.metrics().overloaded.inc();
            PickError::Overloaded
        } else if rules.breaker.is_some()
            && usable().any(|endpoint| endpoint.breaker.state(ask.now) != breaker::State::Closed)
        {
            PickError::Open(Duration::ZERO)
        } else {
            PickError::NoEndpoint
        }
    }

    fn start(self: &Arc<Self>, member: &Member, leave: Option<Leave>, ask: &Ask<'_>) -> Try {
        member.endpoint.enter();
        let known = ask.token == Some(member.token);
        Try {
            upstream: Arc::clone(self),
            endpoint: Arc::clone(&member.endpoint),
            peer: Arc::clone(&member.peer),
            started: ask.now,
            crowd: 0,
            leave: None,
            endpoint_leave: leave,
            cookie: member.cookie.clone().filter(|_| !known),
            answered: None,
            told: false,
            _counted: self.policies.rules.is_bounded().then(|| Counted::new(self)),
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

    /// An answer has begun. A failure is told at once; a success once the try ends, for the rest
    /// of the answer may still fail.
    pub fn answered(&mut self, outcome: Outcome, now: Instant) {
        if self.answered.replace(outcome).is_some() {
            return;
        }
        self.timed(outcome, now);
        if outcome != Outcome::Success {
            self.ended(outcome);
        }
    }

    /// Tells how it ended; only the first time counts. Ejects the endpoint and opens breakers as
    /// the policies say.
    pub fn ended(&mut self, outcome: Outcome) {
        if std::mem::replace(&mut self.told, true) {
            return;
        }
        let now = Instant::now();
        if self.answered.is_none() {
            self.timed(outcome, now);
        }
        let ok = outcome == Outcome::Success;
        self.endpoint.metrics().tried(outcome);
        let upstream = Arc::clone(&self.upstream);
        upstream.judge(&self.endpoint, ok, now);
        if let (Some(leave), Some(policy)) = (&mut self.leave, &upstream.policies.breaker)
            && let Some(state) = leave.tell(now, ok, policy)
        {
            upstream.breaker_turned(state, None);
        }
        if let (Some(leave), Some(policy)) = (&mut self.endpoint_leave, &upstream.policies.rules.breaker)
            && let Some(state) = leave.tell(now, ok, policy)
        {
            upstream.breaker_turned(state, Some(&self.endpoint));
        }
    }

    /// Takes the time to the answer's begin, or to the failure.
    fn timed(&self, outcome: Outcome, now: Instant) {
        let took = now.saturating_duration_since(self.started);
        let clock = self.endpoint.clock(now);
        if outcome == Outcome::Success {
            #[expect(clippy::cast_precision_loss, reason = "an estimate")]
            self.endpoint.latency.observe(clock, took.as_nanos() as f64);
        } else {
            self.endpoint.latency.fail(clock);
        }
        if let Some(gradient) = &self.upstream.shared.gradient {
            let dropped = matches!(outcome, Outcome::Timeout | Outcome::ConnectFailed);
            gradient.sample(now, took, self.crowd, dropped);
        }
    }

    /// Another try answered first: this one took at least until now.
    pub fn overtaken(&mut self) {
        self.timed(Outcome::Success, Instant::now());
        self.told = true;
    }

    /// The try tells nothing: what broke was a connection kept from before, or the gateway's own.
    pub fn forget(&mut self) {
        self.told = true;
    }
}

impl Drop for Try {
    fn drop(&mut self) {
        self.endpoint.leave();
        if let Some(outcome) = self.answered {
            self.ended(outcome);
        }
    }
}
