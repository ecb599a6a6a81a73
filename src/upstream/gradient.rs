//! A concurrency limit that finds itself, from how latency answers to it.
//!
//! The gradient is the latency without a queue, with some tolerance, over the latency now: below 1
//! a queue has formed, and the limit shrinks by it; at 1 the limit grows by its square root. After
//! Envoy's adaptive concurrency filter
//! (<https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/adaptive_concurrency_filter>)
//! and the `Gradient2` limit of Netflix's concurrency-limits (<https://github.com/Netflix/concurrency-limits>).
//! From Envoy come the median of short windows and the dip of the limit, from time to time, to
//! measure the latency without a queue; from Netflix, that a limit which is not reached is left
//! alone. The dip is to a half, not to the minimum: a limit in balance is less than twice the
//! capacity, so that half of it is free of a queue already, at little loss.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Mutex, TryLockError};
use std::time::{Duration, Instant};

/// By how much latency may exceed that without a queue before the limit shrinks.
const TOLERANCE: f64 = 1.25;

/// The least that one window leaves of the limit.
const STEEPEST: f64 = 0.5;

/// The least that a window must hold before it is judged.
const LEAST_SAMPLES: u32 = 20;
const LEAST_WINDOW: Duration = Duration::from_millis(100);

/// What a dip waits for, as its median counts for long; but not for more than so many windows.
const DIP_SAMPLES: u32 = 50;
const DIP_WINDOWS: u32 = 10;

/// Of a busier window, the last so many samples make the median.
const MOST_SAMPLES: usize = 256;

/// How far a window moves the latency without a queue, where it is learnt in passing.
const LEARNING: f64 = 0.1;

/// Between two dips; less if the last one found much shorter a latency.
const BETWEEN_DIPS: Duration = Duration::from_secs(30);
const SOON: Duration = Duration::from_secs(1);

/// Bounds of the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The smallest limit; zero is one.
    pub min: u32,
    /// The greatest limit.
    pub max: u32,
    /// The limit to begin with.
    pub initial: u32,
}

impl Default for Policy {
    fn default() -> Self {
        Self { min: 3, max: 1_000, initial: 20 }
    }
}

/// A limit that follows the samples given to it.
#[derive(Debug)]
pub struct Gradient {
    limit: AtomicU32,
    controller: Mutex<Controller>,
}

impl Gradient {
    /// A limit to begin with.
    #[must_use]
    pub fn new(policy: Policy, now: Instant) -> Self {
        let controller = Controller::new(policy, now);
        Self { limit: AtomicU32::new(controller.published()), controller: Mutex::new(controller) }
    }

    /// How many may be in flight.
    #[must_use]
    pub fn limit(&self) -> u32 {
        self.limit.load(Relaxed)
    }

    /// Takes how one request ended: its latency, how many were in flight when it did, and whether
    /// it was dropped for overload, in which case the latency tells nothing.
    ///
    /// Never waits: a sample that comes while another is taken is left out.
    pub fn sample(&self, now: Instant, rtt: Duration, in_flight: u32, dropped: bool) {
        let mut controller = match self.controller.try_lock() {
            Ok(controller) => controller,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        controller.sample(now, (!dropped).then_some(rtt), in_flight);
        self.limit.store(controller.published(), Relaxed);
    }
}

/// What the controller is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Following the gradient.
    Following,
    /// The limit has dipped, and more than that are still in flight.
    Draining,
    /// The limit has dipped, and what is seen is the latency without a queue.
    Measuring,
}

#[derive(Debug)]
struct Controller {
    policy: Policy,
    /// The limit, but for a dip.
    limit: f64,
    /// The greatest limit since the last dip.
    peak: f64,
    phase: Phase,
    next_dip: Instant,
    window: Window,
    /// The median of the last window, and that without a queue, in seconds.
    latency: f64,
    unloaded: Option<f64>,
}

impl Controller {
    fn new(policy: Policy, now: Instant) -> Self {
        let min = policy.min.max(1);
        let policy = Policy { min, max: policy.max.max(min), ..policy };
        let limit = f64::from(policy.initial.clamp(policy.min, policy.max));
        let (phase, next_dip) = (Phase::Following, now + BETWEEN_DIPS);
        Self { policy, limit, peak: limit, phase, next_dip, window: Window::new(now), latency: 0.0, unloaded: None }
    }

    /// The limit as it is to be kept to.
    fn published(&self) -> u32 {
        let dip = if self.phase == Phase::Following { 1.0 } else { 0.5 };
        ((self.limit * dip) as u32).max(self.policy.min)
    }

    fn sample(&mut self, now: Instant, rtt: Option<Duration>, in_flight: u32) {
        if self.phase == Phase::Draining {
            if in_flight <= self.published() {
                // Those that are in flight now have waited behind the others; they come first.
                self.phase = Phase::Measuring;
                self.window.restart(now + Duration::from_secs_f64(self.latency));
            }
            return;
        }
        self.window.add(now, rtt, in_flight);
        // A window shorter than the latency would not see what the last one brought about.
        let length = LEAST_WINDOW.max(Duration::from_secs_f64(self.latency));
        let complete = match self.phase {
            Phase::Measuring if !self.window.is_over(now, length.saturating_mul(DIP_WINDOWS)) => {
                self.window.count >= DIP_SAMPLES
            }
            _ => true,
        };
        if complete && self.window.is_over(now, length) {
            self.judge(now);
            self.window.restart(now);
        }
    }

    fn judge(&mut self, now: Instant) {
        let median = self.window.median();
        self.latency = median.unwrap_or(self.latency);
        if self.phase == Phase::Measuring {
            self.measured(now, median);
        } else if f64::from(self.window.busiest) < self.limit / 2.0 {
            // The limit is not reached, so there is no queue of its making and no reason to move it.
            self.learn(median);
            self.next_dip = now + BETWEEN_DIPS;
        } else {
            let gradient = self.follow(median);
            // Half the limit has not helped: perhaps not a queue but the endpoint became slower.
            let in_vain = self.limit <= self.peak / 2.0;
            if gradient < 1.0 && (now >= self.next_dip || in_vain) {
                self.phase = Phase::Draining;
            }
        }
    }

    /// Ends a dip with the latency found in it.
    fn measured(&mut self, now: Instant, median: Option<f64>) {
        let before = self.unloaded;
        self.unloaded = median.or(before);
        // Then the limit was far too high, and its half perhaps so too.
        let much_shorter = self.unloaded.zip(before).is_some_and(|(after, before)| after < 0.9 * before);
        self.next_dip = now + if much_shorter { SOON } else { BETWEEN_DIPS };
        self.peak = self.limit;
        self.phase = Phase::Following;
    }

    /// Moves the latency without a queue towards the median.
    fn learn(&mut self, median: Option<f64>) {
        if let Some(median) = median {
            let unloaded = self.unloaded.get_or_insert(median);
            *unloaded += (median - *unloaded) * LEARNING;
        }
    }

    /// Moves the limit; returns the gradient.
    fn follow(&mut self, median: Option<f64>) -> f64 {
        // Shorter by more than the tolerance is not chance: what is known is out of date.
        if self.unloaded.zip(median).is_none_or(|(unloaded, median)| median * TOLERANCE < unloaded) {
            self.learn(median);
        }
        let by_latency = self.unloaded.zip(median).map_or(1.0, |(unloaded, median)| TOLERANCE * unloaded / median);
        let gradient = by_latency.min(1.0) * (1.0 - self.window.dropped_share());
        let limit = self.limit * gradient.max(STEEPEST) + self.limit.sqrt();
        self.limit = limit.clamp(f64::from(self.policy.min), f64::from(self.policy.max));
        self.peak = self.peak.max(self.limit);
        gradient
    }
}

/// The samples of a short while.
#[derive(Debug)]
struct Window {
    since: Instant,
    count: u32,
    dropped: u32,
    busiest: u32,
    /// Latencies in seconds; never grows beyond what it was made with.
    latencies: Vec<f64>,
}

impl Window {
    fn new(since: Instant) -> Self {
        Self { since, count: 0, dropped: 0, busiest: 0, latencies: Vec::with_capacity(MOST_SAMPLES) }
    }

    fn restart(&mut self, since: Instant) {
        self.latencies.clear();
        (self.since, self.count, self.dropped, self.busiest) = (since, 0, 0, 0);
    }

    fn add(&mut self, now: Instant, rtt: Option<Duration>, in_flight: u32) {
        if now < self.since {
            return;
        }
        self.count = self.count.saturating_add(1);
        self.busiest = self.busiest.max(in_flight);
        match rtt.map(|rtt| rtt.as_secs_f64().max(1e-9)) {
            None => self.dropped += 1,
            Some(latency) if self.latencies.len() < MOST_SAMPLES => self.latencies.push(latency),
            Some(latency) => self.latencies[self.count as usize % MOST_SAMPLES] = latency,
        }
    }

    fn is_over(&self, now: Instant, length: Duration) -> bool {
        self.count >= LEAST_SAMPLES && now.saturating_duration_since(self.since) >= length
    }

    fn dropped_share(&self) -> f64 {
        f64::from(self.dropped) / f64::from(self.count.max(1))
    }

    /// `None` if all were dropped.
    fn median(&mut self) -> Option<f64> {
        let middle = self.latencies.len() / 2;
        if self.latencies.is_empty() {
            return None;
        }
        Some(*self.latencies.select_nth_unstable_by(middle, f64::total_cmp).1)
    }
}

#[cfg(test)]
mod tests;
