//! A gradual move of requests from one target to another, guarded.
//!
//! The share of the new target grows by steps, each held for a while. All along, its failures and
//! times are compared with those of the old target in the same step: both serve at the same time,
//! so that what ails both (a slow database, a spike of load) stops nothing. Pure state machine:
//! the caller passes the time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How a shift proceeds.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// From what to what, in words: another pair is another shift.
    pub between: String,
    /// The shares of the new target, ascending fractions; the last is 1.
    pub steps: Vec<f64>,
    /// How long each step lasts at least.
    pub hold: Duration,
    /// By how much the new target's share of failures may exceed the old one's.
    pub failure_excess: f64,
    /// Requests at the new target below which a step says nothing.
    pub of_at_least: u64,
    /// How the new target's mean time may compare with the old one's.
    pub latency: Option<f64>,
    /// Whether a breach takes everything back; otherwise the share stays.
    pub rollback: bool,
}

/// Which target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The one that is left.
    Old,
    /// The one that is gone to.
    New,
}

/// Where a shift stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// At a step, from 0.
    Step(usize),
    /// Stopped at a step by the guard.
    Held(usize),
    /// Taken back by the guard.
    RolledBack,
    /// At 100 %.
    Done,
}

/// A shift under way.
#[derive(Debug)]
pub struct Shift {
    policy: Policy,
    /// Hashes below this go to the new target.
    bound: AtomicU64,
    old: Tally,
    new: Tally,
    state: Mutex<(Phase, Instant)>,
}

/// What one side did within a step.
#[derive(Debug, Default)]
struct Tally {
    requests: AtomicU64,
    failures: AtomicU64,
    /// Sum of the times to an answer (microseconds).
    micros: AtomicU64,
}

impl Tally {
    fn record(&self, ok: bool, took: Duration) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.failures.fetch_add(u64::from(!ok), Ordering::Relaxed);
        self.micros.fetch_add(u64::try_from(took.as_micros()).unwrap_or(0), Ordering::Relaxed);
    }

    fn clear(&self) {
        [&self.requests, &self.failures, &self.micros].into_iter().for_each(|count| count.store(0, Ordering::Relaxed));
    }

    fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    #[expect(clippy::cast_precision_loss, reason = "a ratio needs no more than 52 bits")]
    fn mean(&self, sum: &AtomicU64) -> f64 {
        sum.load(Ordering::Relaxed) as f64 / self.requests().max(1) as f64
    }
}

impl Shift {
    /// A shift that begins now with its first step.
    #[must_use]
    pub fn new(policy: Policy, now: Instant) -> Self {
        let shift = Self {
            bound: AtomicU64::new(0),
            old: Tally::default(),
            new: Tally::default(),
            state: Mutex::new((Phase::Step(0), now)),
            policy,
        };
        shift.enter(Phase::Step(0));
        shift
    }

    /// How it proceeds.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Where it stands.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    /// Where it stands, in words.
    #[must_use]
    pub fn describe(&self) -> String {
        let (share, steps) = (self.share() * 100.0, self.policy.steps.len());
        match self.phase() {
            Phase::Step(step) => format!("shift at {share:.1}%, step {} of {steps}", step + 1),
            Phase::Held(step) => format!("shift held by its guard at {share:.1}%, step {} of {steps}", step + 1),
            Phase::RolledBack => "shift rolled back by its guard".to_owned(),
            Phase::Done => "shift done".to_owned(),
        }
    }

    /// The new target's present share, as a fraction.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "shown to people")]
    pub fn share(&self) -> f64 {
        self.bound.load(Ordering::Relaxed) as f64 / u64::MAX as f64
    }

    /// The side of a key with this hash; a growing share moves keys one way only.
    #[must_use]
    pub fn side(&self, hash: u64) -> Side {
        let bound = self.bound.load(Ordering::Relaxed);
        if hash < bound || bound == u64::MAX { Side::New } else { Side::Old }
    }

    /// Counts an outcome.
    pub fn record(&self, side: Side, ok: bool, took: Duration) {
        match side {
            Side::Old => self.old.record(ok, took),
            Side::New => self.new.record(ok, took),
        }
    }

    /// Looks whether it is time to go on, or to stop; returns the new phase if it changed. To be
    /// called several times within `hold`.
    pub fn tick(&self, now: Instant) -> Option<Phase> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (Phase::Step(step), since) = *state else { return None };
        let enough = self.new.requests() >= self.policy.of_at_least;
        let next = if enough && self.is_breached() {
            if self.policy.rollback { Phase::RolledBack } else { Phase::Held(step) }
        } else if enough && now.saturating_duration_since(since) >= self.policy.hold {
            if self.policy.steps.get(step + 1).is_none_or(|share| *share >= 1.0) {
                Phase::Done
            } else {
                Phase::Step(step + 1)
            }
        } else {
            return None;
        };
        *state = (next, now);
        self.enter(next);
        Some(next)
    }

    fn is_breached(&self) -> bool {
        let (old, new) = (&self.old, &self.new);
        let excess = new.mean(&new.failures) - old.mean(&old.failures);
        let slower = self.policy.latency.is_some_and(|bound| {
            old.requests() >= self.policy.of_at_least && new.mean(&new.micros) > bound * old.mean(&old.micros)
        });
        excess > self.policy.failure_excess || slower
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a fraction of the whole range; the cast saturates"
    )]
    fn enter(&self, phase: Phase) {
        let share = match phase {
            Phase::Step(step) => self.policy.steps.get(step).copied().unwrap_or(1.0),
            Phase::Held(_) => return,
            Phase::RolledBack => 0.0,
            Phase::Done => 1.0,
        };
        self.bound.store((share * u64::MAX as f64) as u64, Ordering::Relaxed);
        self.old.clear();
        self.new.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shift(rollback: bool) -> (Shift, Instant) {
        let policy = Policy {
            between: "old new".to_owned(),
            steps: vec![0.1, 0.5, 1.0],
            hold: Duration::from_secs(10),
            failure_excess: 0.01,
            of_at_least: 100,
            latency: Some(1.5),
            rollback,
        };
        let now = Instant::now();
        (Shift::new(policy, now), now)
    }

    /// 1 000 requests, of which the new side fails every `nth` and takes so long.
    fn serve(shift: &Shift, random: &mut fastrand::Rng, nth: usize, millis: u64) {
        for request in 1..=1000 {
            match shift.side(random.u64(..)) {
                Side::Old => shift.record(Side::Old, true, Duration::from_millis(10)),
                Side::New => shift.record(Side::New, request % nth != 0, Duration::from_millis(millis)),
            }
        }
    }

    #[test]
    fn a_sound_target_gets_everything_step_by_step() {
        let (shift, mut now) = shift(true);
        let mut random = fastrand::Rng::with_seed(7);
        let mut phases = Vec::new();
        while shift.phase() != Phase::Done {
            for _ in 0..4 {
                serve(&shift, &mut random, usize::MAX, 11);
                now += Duration::from_millis(2_600);
                phases.extend(shift.tick(now));
            }
        }
        assert_eq!(phases, [Phase::Step(1), Phase::Done]);
        assert!((0..1000).all(|_| shift.side(random.u64(..)) == Side::New));
    }

    #[test]
    fn failures_take_it_back_within_the_step() {
        let (shift, now) = shift(true);
        serve(&shift, &mut fastrand::Rng::with_seed(1), 33, 10);
        serve(&shift, &mut fastrand::Rng::with_seed(2), 33, 10);
        assert_eq!(shift.tick(now + Duration::from_secs(1)), Some(Phase::RolledBack));
        assert_eq!(shift.side(0), Side::Old);
        assert_eq!(shift.tick(now + Duration::from_secs(100)), None);
    }

    #[test]
    fn slowness_holds_it_where_it_is() {
        let (shift, now) = shift(false);
        let mut random = fastrand::Rng::with_seed(3);
        serve(&shift, &mut random, usize::MAX, 30);
        serve(&shift, &mut random, usize::MAX, 30);
        assert_eq!(shift.tick(now + Duration::from_secs(1)), Some(Phase::Held(0)));
        assert!((shift.share() - 0.1).abs() < 1e-9);
    }

    #[test]
    fn a_step_without_requests_says_nothing() {
        let (shift, now) = shift(true);
        assert_eq!(shift.tick(now + Duration::from_secs(1000)), None);
    }

    #[test]
    fn what_ails_both_stops_nothing() {
        let (shift, now) = shift(true);
        for _ in 0..1000 {
            shift.record(Side::Old, false, Duration::from_millis(10));
            shift.record(Side::New, false, Duration::from_millis(10));
        }
        assert_eq!(shift.tick(now + Duration::from_secs(1)), None);
    }
}
