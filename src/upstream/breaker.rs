//! A circuit breaker: an upstream that keeps failing is left alone for a while, then tried with a few.
//!
//! After Michael Nygard, "Release It!", and Martin Fowler, "CircuitBreaker" (2014). Closed, it counts
//! results in a sliding window; open, it refuses; half-open, it lets a few probes through, whose
//! results alone decide. While closed it takes no lock: a pass carries the epoch it was given in, and
//! counts only in that epoch, so late results of earlier tries change nothing.
//!
//! ```text
//!            too many failures                  open time over
//!   Closed ---------------------> Open ----------------------------> HalfOpen
//!     ^                            ^            a probe fails           | |
//!     |                            +---- open twice as long, at most ---+ |
//!     +------------- as many probes as asked for succeed -----------------+
//! ```

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::clock::{self, Clock};
use super::window::Window;

/// What a refused request is told while probes decide: they will have done so soon.
const WHILE_PROBING: Duration = Duration::from_secs(1);

/// When the breaker opens, and for how long.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// From 0 to 1: the share of failures that opens it.
    pub failure_ratio: Option<f64>,
    /// Fewer results in the window are not judged by their ratio.
    pub of_at_least: u32,
    /// The window of the ratio.
    pub within: Duration,
    /// Failures in a row that open it.
    pub consecutive_failures: Option<u32>,
    /// How long it is open at first; twice as long after each failed probe.
    pub open: Duration,
    /// The longest that it is open, unless `open` is longer.
    pub longest: Duration,
    /// Successful probes that close it again; as many probes at once at most. Zero is one.
    pub probes: u32,
}

/// What the breaker does with requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// All pass.
    Closed,
    /// None passes.
    Open,
    /// Probes pass.
    HalfOpen,
}

impl State {
    /// As it is written everywhere.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// Leave for one try; to be handed back with its result, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pass {
    epoch: u64,
    probe: u64,
}

impl Pass {
    /// Whether the try is one of the few that decide if the breaker closes again.
    #[must_use]
    pub fn is_probe(self) -> bool {
        is_tripped(self.epoch)
    }
}

/// The breaker lets nothing pass at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// When it may be worth asking again.
    pub retry_after: Duration,
}

/// A breaker; its policy may change between calls.
#[derive(Debug)]
pub struct Breaker {
    clock: Clock,
    /// Even while closed, odd while open or half-open. Changes under the lock only.
    epoch: AtomicU64,
    /// When an odd epoch turns from open to half-open, in nanoseconds by the clock.
    until: AtomicU64,
    in_a_row: AtomicU32,
    window: Window,
    trip: Mutex<Trip>,
}

/// What there is to know while it is not closed.
#[derive(Debug, Default)]
struct Trip {
    /// Openings after the first.
    reopened: u32,
    successes: u32,
    last_probe: u64,
    /// Probes under way, and since when.
    probes: Vec<(u64, Instant)>,
}

impl Breaker {
    /// A closed breaker.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            clock: Clock::new(now),
            epoch: AtomicU64::new(0),
            until: AtomicU64::new(0),
            in_a_row: AtomicU32::new(0),
            window: Window::new(),
            trip: Mutex::default(),
        }
    }

    /// Asks for leave to try.
    ///
    /// # Errors
    /// When it is open, or half-open with all probes under way.
    pub fn permit(&self, now: Instant, policy: &Policy) -> Result<Pass, Refused> {
        let epoch = self.epoch.load(Acquire);
        if !is_tripped(epoch) {
            return Ok(Pass { epoch, probe: 0 });
        }
        self.await_probing(now)?;
        let mut trip = self.lock();
        let epoch = self.epoch.load(Relaxed);
        if !is_tripped(epoch) {
            return Ok(Pass { epoch, probe: 0 });
        }
        self.await_probing(now)?;
        // A probe of which nothing was heard for so long is lost.
        trip.probes.retain(|(_, since)| now.saturating_duration_since(*since) < policy.open);
        if trip.probes.len() >= policy.probes.max(1) as usize {
            return Err(Refused { retry_after: WHILE_PROBING.min(policy.open) });
        }
        trip.last_probe += 1;
        let probe = trip.last_probe;
        trip.probes.push((probe, now));
        Ok(Pass { epoch, probe })
    }

    /// Takes a result; returns the new state if it changes.
    ///
    /// From open to half-open leads time alone, which [`Breaker::state`] tells.
    pub fn record(&self, now: Instant, pass: Pass, ok: bool, policy: &Policy) -> Option<State> {
        if self.epoch.load(Acquire) != pass.epoch {
            return None;
        }
        if pass.is_probe() {
            return self.probed(now, pass, ok, policy);
        }
        let at = self.clock.nanos(now);
        self.window.add(at, policy.within, ok);
        if ok {
            if self.in_a_row.load(Relaxed) != 0 {
                self.in_a_row.store(0, Relaxed);
            }
            return None;
        }
        let in_a_row = self.in_a_row.fetch_add(1, Relaxed).saturating_add(1);
        let too_many = policy.consecutive_failures.is_some_and(|most| in_a_row >= most);
        if !too_many && !self.exceeds_ratio(at, policy) {
            return None;
        }
        let mut trip = self.lock();
        self.is_current(pass).then(|| {
            *trip = Trip::default();
            self.open(now, &trip, policy, pass.epoch + 1)
        })
    }

    /// Hands back a pass without a result: the try told nothing, as when the client went away.
    pub fn abandon(&self, pass: Pass) {
        if pass.is_probe() {
            let mut trip = self.lock();
            if self.is_current(pass) {
                trip.probes.retain(|(probe, _)| *probe != pass.probe);
            }
        }
    }

    /// What it does with requests at `now`.
    #[must_use]
    pub fn state(&self, now: Instant) -> State {
        match is_tripped(self.epoch.load(Acquire)) {
            false => State::Closed,
            true if self.await_probing(now).is_err() => State::Open,
            true => State::HalfOpen,
        }
    }

    fn probed(&self, now: Instant, pass: Pass, ok: bool, policy: &Policy) -> Option<State> {
        let mut trip = self.lock();
        if !self.is_current(pass) {
            return None;
        }
        // A late probe, whose place was given away, has a result all the same.
        trip.probes.retain(|(probe, _)| *probe != pass.probe);
        if !ok {
            *trip = Trip { reopened: trip.reopened.saturating_add(1), ..Trip::default() };
            return Some(self.open(now, &trip, policy, pass.epoch + 2));
        }
        trip.successes += 1;
        if trip.successes < policy.probes.max(1) {
            return None;
        }
        self.window.clear();
        self.in_a_row.store(0, Relaxed);
        self.epoch.store(pass.epoch + 1, Release);
        Some(State::Closed)
    }

    /// Opens under the lock, as the given epoch.
    fn open(&self, now: Instant, trip: &Trip, policy: &Policy, epoch: u64) -> State {
        let doubled = policy.open.saturating_mul(2_u32.saturating_pow(trip.reopened));
        let open = doubled.min(policy.longest.max(policy.open));
        self.until.store(self.clock.nanos(now).saturating_add(clock::nanos(open)), Relaxed);
        self.epoch.store(epoch, Release);
        State::Open
    }

    fn exceeds_ratio(&self, at: u64, policy: &Policy) -> bool {
        policy.failure_ratio.is_some_and(|ratio| {
            let tally = self.window.tally(at, policy.within);
            tally.requests() >= u64::from(policy.of_at_least) && tally.failure_ratio() >= ratio
        })
    }

    /// Refuses until the open time is over.
    fn await_probing(&self, now: Instant) -> Result<(), Refused> {
        match self.until.load(Relaxed).saturating_sub(self.clock.nanos(now)) {
            0 => Ok(()),
            left => Err(Refused { retry_after: Duration::from_nanos(left) }),
        }
    }

    fn is_current(&self, pass: Pass) -> bool {
        self.epoch.load(Relaxed) == pass.epoch
    }

    fn lock(&self) -> MutexGuard<'_, Trip> {
        self.trip.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_tripped(epoch: u64) -> bool {
    epoch % 2 == 1
}

#[cfg(test)]
mod tests;
