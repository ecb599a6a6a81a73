//! Passive ejection: an endpoint whose answers keep failing rests for a while.
//!
//! Two rules: so many failures in a row, which [`Outlier::record`] sees, and a failure ratio that
//! stands out from the peers', which a sweep about once a second sees: [`Outlier::counts`], then
//! [`standing_out`]. Resting grows with each ejection in a row. All after Envoy's outlier detection
//! (<https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/upstream/outlier>), but the
//! comparison is one for small pools: with all peers taken together, not with the spread among them.

use std::cmp::Ordering as Order;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::clock::{self, Clock};
pub use super::window::Tally;

/// The sweeps that [`Outlier::counts`] looks back on.
const SWEEPS: usize = 10;

/// How many standard errors a ratio must lie above the peers' not to be chance.
const SIGNIFICANT: f64 = 3.0;

/// When an endpoint is ejected, and for how long.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// Failures in a row that eject.
    pub consecutive_failures: Option<u32>,
    /// From 0 to 1: by how much the failure ratio must exceed that of all peers together.
    pub failure_ratio: Option<f64>,
    /// Fewer requests in the window are not judged by their ratio.
    pub of_at_least: u32,
    /// The first ejection; each one in a row is longer by as much.
    pub base: Duration,
    /// The longest ejection.
    pub longest: Duration,
    /// From 0 to 1: the share of the endpoints that may be out at once.
    pub at_most: f64,
}

/// What is known of one endpoint. Outlives reloads.
#[derive(Debug, Default)]
pub struct Outlier {
    in_a_row: AtomicU32,
    /// Results since the last sweep: failures in the upper half, successes in the lower.
    fresh: AtomicU64,
    /// Set at the first ejection.
    clock: OnceLock<Clock>,
    /// The end of the last ejection in nanoseconds by the clock; zero before the first.
    until: AtomicU64,
    history: Mutex<History>,
}

#[derive(Debug, Default)]
struct History {
    sweeps: [Tally; SWEEPS],
    next: usize,
    /// Tries that were under way at the ejection have ended since: they do not count again.
    after_ejection: bool,
    /// Ejections in a row, less what has settled.
    ejections: u32,
    quiet_since: Option<Instant>,
}

impl Outlier {
    /// Counts a result; returns true when the rule for failures in a row says: eject.
    ///
    /// One of so many failures says so; if it is not followed, the next one after as many again.
    pub fn record(&self, ok: bool, policy: &Policy) -> bool {
        self.fresh.fetch_add(if ok { 1 } else { 1 << 32 }, Relaxed);
        if ok {
            if self.in_a_row.load(Relaxed) != 0 {
                self.in_a_row.store(0, Relaxed);
            }
            return false;
        }
        let Some(most) = policy.consecutive_failures else { return false };
        let ends = |before: u32| before.saturating_add(1) >= most;
        ends(self.in_a_row.update(Relaxed, Relaxed, |before| if ends(before) { 0 } else { before + 1 }))
    }

    /// Sweeps: the results of this and the nine sweeps before. For admitted endpoints only.
    ///
    /// The first sweep after an ejection leaves out what came before it, as those are the late
    /// results of tries from before the ejection.
    pub fn counts(&self) -> Tally {
        let fresh = self.fresh.swap(0, Relaxed);
        let mut history = self.history();
        let next = history.next;
        history.next = (next + 1) % SWEEPS;
        history.sweeps[next] = if history.after_ejection {
            history.after_ejection = false;
            self.in_a_row.store(0, Relaxed);
            Tally::default()
        } else {
            Tally { successes: fresh & u64::from(u32::MAX), failures: fresh >> 32 }
        };
        history.sweeps.iter().copied().sum()
    }

    /// Ejects at `now`; returns until when. An endpoint that is out already stays so until then.
    pub fn eject(&self, now: Instant, policy: &Policy) -> Instant {
        let mut history = self.history();
        let clock = self.clock.get_or_init(|| Clock::new(now));
        if self.is_ejected(now) {
            return clock.instant(self.until.load(Relaxed));
        }
        // Past the longest it no longer grows, or it would take as long to settle.
        if policy.base.saturating_mul(history.ejections) < policy.longest {
            history.ejections = history.ejections.saturating_add(1);
        }
        let rest = policy.base.saturating_mul(history.ejections).min(policy.longest);
        let until = clock.nanos(now).saturating_add(clock::nanos(rest));
        self.until.store(until, Relaxed);
        self.forget(&mut history);
        history.after_ejection = true;
        history.quiet_since = Some(clock.instant(until));
        clock.instant(until)
    }

    /// Whether it is out at `now`.
    #[must_use]
    pub fn is_ejected(&self, now: Instant) -> bool {
        let until = self.until.load(Relaxed);
        until != 0 && self.clock.get().is_some_and(|clock| clock.nanos(now) < until)
    }

    /// Readmits before time, as after an active check that passed; the next ejection is no shorter.
    pub fn readmit(&self) {
        let mut history = self.history();
        self.until.store(0, Relaxed);
        self.forget(&mut history);
    }

    /// To be called about once a second: each `base` without ejection takes one off the next one.
    pub fn settle(&self, now: Instant, policy: &Policy) {
        let mut history = self.history();
        if history.ejections == 0 || self.is_ejected(now) {
            return;
        }
        // After an early readmission the quiet begins before the ejection would have ended.
        let since = history.quiet_since.map_or(now, |since| since.min(now));
        let spans = now.duration_since(since).as_nanos().checked_div(policy.base.as_nanos()).unwrap_or(u128::MAX);
        let settled = u32::try_from(spans).unwrap_or(u32::MAX).min(history.ejections);
        history.ejections -= settled;
        history.quiet_since = Some(since + policy.base.saturating_mul(settled));
    }

    fn forget(&self, history: &mut History) {
        self.fresh.store(0, Relaxed);
        self.in_a_row.store(0, Relaxed);
        history.sweeps = [Tally::default(); SWEEPS];
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many of `count` endpoints may be out at once: one of two, but never all.
#[must_use]
pub fn cap(count: usize, policy: &Policy) -> usize {
    // The error of the multiplication must not cost an endpoint: 0.29 × 100 is less than 29.
    let share = (policy.at_most * count as f64 + 1e-9) as usize;
    share.max(1).min(count.saturating_sub(1))
}

/// Which of the admitted endpoints fail more than their peers do, by index, worst first.
///
/// One that a worse peer hides stands out at the next sweep, when that peer is gone.
#[must_use]
pub fn standing_out(tallies: &[Tally], policy: &Policy) -> Vec<usize> {
    let Some(threshold) = policy.failure_ratio else { return Vec::new() };
    let all: Tally = tallies.iter().copied().sum();
    let excesses = tallies.iter().enumerate().filter_map(|(index, own)| {
        let peers = Tally { successes: all.successes - own.successes, failures: all.failures - own.failures };
        // Unknown peers are no measure, nor a place to send its traffic to.
        let known = own.requests().min(peers.requests()) >= u64::from(policy.of_at_least).max(1);
        let excess = own.failure_ratio() - peers.failure_ratio();
        let stands_out = known && excess >= threshold && excess > SIGNIFICANT * standard_error(own, &peers);
        stands_out.then_some((index, excess))
    });
    let mut worst: Vec<_> = excesses.collect();
    worst.sort_by(|one, other| other.1.partial_cmp(&one.1).unwrap_or(Order::Equal));
    worst.into_iter().map(|(index, _)| index).collect()
}

/// By how much two ratios differ by chance, if both come from one true ratio.
fn standard_error(one: &Tally, other: &Tally) -> f64 {
    let ratio = [*one, *other].into_iter().sum::<Tally>().failure_ratio();
    let spread = 1.0 / one.requests() as f64 + 1.0 / other.requests() as f64;
    (ratio * (1.0 - ratio) * spread).sqrt()
}

#[cfg(test)]
mod tests;
