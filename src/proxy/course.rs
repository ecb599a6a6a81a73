//! The course of a request: which target it is at, what failed, and what comes next.

use std::net::SocketAddr;
use std::time::Duration;

use http::Method;

use crate::snapshot::{Leg, Retry};
use crate::upstream::failure::Failure;
use crate::upstream::target::{Plan, Step};

/// Connections kept from before that may break under one request before that counts as a failure.
const STALE: u32 = 1;
/// The most tries of one request, over all its targets and whatever the configuration says.
pub const MOST_TRIES: u32 = 64;

/// What comes after a failed try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The same target again, at another endpoint.
    Again,
    /// The next target.
    Onward,
    /// Nothing; the failure stands.
    Stop,
    /// Nothing, and every target of a fallback was tried.
    Exhausted,
}

/// Where a request stands among its targets.
pub struct Course {
    plan: Plan<Leg>,
    at: usize,
    /// Tries at this target.
    tries: u32,
    /// Tries in all.
    pub total: u32,
    stale: u32,
    /// How the last try failed.
    pub failure: Option<Failure>,
    /// The endpoint just tried.
    pub avoid: Option<SocketAddr>,
    /// To be waited for before the next try.
    pub pause: Duration,
}

/// What a failed try was, for the decision about the next.
#[derive(Clone, Copy, Debug)]
pub struct Failed<'a> {
    /// How it failed.
    pub failure: Failure,
    /// The request's method.
    pub method: &'a Method,
    /// Whether all that was sent can be sent again, and nothing of an answer was passed on.
    pub repeatable: bool,
    /// Whether the client wants the first target only.
    pub first_only: bool,
    /// How long the server asked to wait.
    pub retry_after: Option<Duration>,
}

impl Course {
    /// A request at its first target.
    #[must_use]
    pub fn new(plan: Plan<Leg>) -> Self {
        let pause = Duration::ZERO;
        Self { plan, at: 0, tries: 0, total: 0, stale: 0, failure: None, avoid: None, pause }
    }

    /// The present target.
    #[must_use]
    pub fn step(&self) -> Option<&Step<Leg>> {
        self.plan.get(self.at)
    }

    /// The target after it.
    #[must_use]
    pub fn following(&self) -> Option<&Step<Leg>> {
        self.plan.get(self.at + 1)
    }

    /// Whether this target was tried before.
    #[must_use]
    pub fn is_again(&self) -> bool {
        self.tries > 0
    }

    /// Counts a try that begins.
    pub fn begin(&mut self) {
        self.tries += 1;
        self.total += 1;
    }

    /// A connection kept from before broke as it was used: nothing of the endpoint's doing.
    /// Returns whether the try may simply be made once more.
    pub fn broke_stale(&mut self) -> bool {
        self.stale += 1;
        let again = self.stale <= STALE;
        if again {
            self.tries = self.tries.saturating_sub(1);
            self.avoid = None;
        }
        again
    }

    /// Decides what comes after a failed try. `has_other` says whether the present target has
    /// another endpoint to try.
    pub fn after(&mut self, failed: &Failed<'_>, retry: &Retry, has_other: bool, now: std::time::Instant) -> Next {
        self.failure = Some(failed.failure);
        self.pause = Duration::ZERO;
        if !failed.repeatable || self.total >= MOST_TRIES {
            return Next::Stop;
        }
        if self.may_repeat(failed, retry, has_other) && affordable(failed, retry, now) {
            self.pause = self.pause_before(failed, retry);
            return Next::Again;
        }
        match self.may_go_on(failed) {
            Some(false) => Next::Exhausted,
            Some(true) if !retry.spans_fallback || affordable(failed, retry, now) => Next::Onward,
            _ => Next::Stop,
        }
    }

    fn may_repeat(&self, failed: &Failed<'_>, retry: &Retry, has_other: bool) -> bool {
        let harmless = !failed.failure.reached_server() || retry.methods.include(failed.method);
        let soon = failed.retry_after.is_none_or(|wait| wait <= retry.backoff.longest);
        has_other && harmless && soon && self.tries < retry.attempts && retry.on.include(failed.failure)
    }

    /// Whether the failure leads on, and if so whether there is where to.
    fn may_go_on(&self, failed: &Failed<'_>) -> Option<bool> {
        let onward = self.step()?.onward.as_ref()?;
        let harmless = !failed.failure.reached_server() || onward.methods.include(failed.method);
        let leads = harmless && !failed.first_only && onward.on.include(failed.failure);
        leads.then(|| self.following().is_some())
    }

    fn pause_before(&self, failed: &Failed<'_>, retry: &Retry) -> Duration {
        // What is not overload needs no pause before a first repetition at another endpoint.
        let overload = matches!(failed.failure, Failure::Status(_));
        let backoff = match self.tries {
            0 | 1 if !overload => Duration::ZERO,
            tries => retry.backoff.delay(tries, fastrand::u64(..)),
        };
        backoff.max(failed.retry_after.unwrap_or_default())
    }

    /// Goes on to the next target.
    pub fn go_on(&mut self) {
        self.at += 1;
        self.tries = 0;
        self.avoid = None;
        self.pause = Duration::ZERO;
    }
}

/// Whether the budget allows another try. What never reached a server costs nothing.
fn affordable(failed: &Failed<'_>, retry: &Retry, now: std::time::Instant) -> bool {
    !failed.failure.reached_server() || retry.budget.withdraw(now)
}
