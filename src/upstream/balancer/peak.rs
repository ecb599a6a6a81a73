//! A latency estimate that fears the worst: peak EWMA, after Finagle and linkerd.
//!
//! An exponentially weighted moving average that jumps to a higher latency at once and forgets it
//! with the time constant [`DECAY`]. What is read decays too, so that an endpoint that nobody
//! picks looks better with time and is tried again.

use std::sync::atomic::{AtomicU64, Ordering};

/// Nanoseconds in which the difference to a lower latency falls to 1/e.
const DECAY: f64 = 10e9;
/// What a failure counts as, in nanoseconds: 5 s, as in linkerd.
const FAILURE: f64 = 5e9;
/// The least known latency, in nanoseconds; 0 is unknown.
const LEAST: f32 = 1.0;
/// Time is kept in steps of 2²⁰ ns, about a millisecond: as 32 bits they come round in 52 days.
const STEP_BITS: u32 = 20;

/// A peak EWMA of latencies in nanoseconds, shared between threads.
///
/// Value and time are one word, so that they always belong together: above the bits of an `f32`,
/// below the step of time of its last change. Zero is an estimate that was never fed.
#[derive(Debug, Default)]
pub struct PeakEwma(AtomicU64);

/// The word taken apart.
#[derive(Clone, Copy)]
struct Estimate {
    value: f32,
    step: u32,
}

impl PeakEwma {
    /// Takes in a latency seen at `now_ns`, of a clock of one's choice that does not go back.
    pub fn observe(&self, now_ns: u64, rtt_ns: f64) {
        let step = step(now_ns);
        // An infinite estimate would never decay; of NaN nothing may stay.
        let rtt = (rtt_ns.max(f64::from(LEAST)) as f32).min(f32::MAX);
        let mut word = self.0.load(Ordering::Relaxed);
        loop {
            let next = Estimate::from(word).after(step, rtt).into();
            match self.0.compare_exchange_weak(word, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return,
                Err(changed) => word = changed,
            }
        }
    }

    /// Takes in a failure at `now_ns`.
    pub fn fail(&self, now_ns: u64) {
        self.observe(now_ns, FAILURE);
    }

    /// The latency to expect at `now_ns`, in nanoseconds; 0.0 if nothing was observed yet.
    pub fn value(&self, now_ns: u64) -> f64 {
        let estimate = Estimate::from(self.0.load(Ordering::Relaxed));
        if estimate.value == 0.0 {
            return 0.0;
        }
        f64::from((estimate.value * remaining(estimate.step, step(now_ns))).max(LEAST))
    }
}

impl Estimate {
    /// The estimate with one more latency.
    fn after(self, step: u32, rtt: f32) -> Self {
        if rtt >= self.value {
            return Self { value: rtt, step };
        }
        let remaining = remaining(self.step, step);
        if remaining == 1.0 {
            // No step has passed, or another thread saw a later one: nothing decays twice.
            return self;
        }
        Self { value: self.value * remaining + rtt * (1.0 - remaining), step }
    }
}

impl From<u64> for Estimate {
    fn from(word: u64) -> Self {
        Self { value: f32::from_bits((word >> 32) as u32), step: word as u32 }
    }
}

impl From<Estimate> for u64 {
    fn from(estimate: Estimate) -> Self {
        Self::from(estimate.value.to_bits()) << 32 | Self::from(estimate.step)
    }
}

fn step(now_ns: u64) -> u32 {
    (now_ns >> STEP_BITS) as u32
}

/// The part of a difference that is left between two steps of time; all, if they are not in order.
fn remaining(from: u32, to: u32) -> f32 {
    const STEPS: f32 = (DECAY / (1_u64 << STEP_BITS) as f64) as f32;
    // More than half way round is a step back.
    let passed = (to.wrapping_sub(from) as i32).max(0);
    if passed == 0 { 1.0 } else { (-(passed as f32) / STEPS).exp() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn near(left: f64, right: f64) -> bool {
        (left / right - 1.0).abs() < 0.01
    }

    #[test]
    fn nothing_is_known_until_something_was_observed() {
        let peak = PeakEwma::default();
        assert_eq!(peak.value(7 * SECOND), 0.0);
        peak.observe(7 * SECOND, 0.0);
        assert_eq!(peak.value(7 * SECOND), 1.0);
    }

    #[test]
    fn peaks_count_at_once() {
        let peak = PeakEwma::default();
        for (now, rtt) in [(1, 1e6), (1, 3e6), (2, 9e6)] {
            peak.observe(now * SECOND, rtt);
            assert!(near(peak.value(now * SECOND), rtt));
        }
    }

    #[test]
    fn lower_latencies_count_with_time() {
        let peak = PeakEwma::default();
        peak.observe(0, 100e6);
        peak.observe(10 * SECOND, 10e6);
        assert!(near(peak.value(10 * SECOND), 10e6 + 90e6 / std::f64::consts::E));
        // As often as they come within the time that passes.
        let often = PeakEwma::default();
        often.observe(0, 100e6);
        for now in 0..100_000 {
            often.observe(now * SECOND / 10_000, 10e6);
        }
        assert!(near(often.value(10 * SECOND), 10e6 + 90e6 / std::f64::consts::E));
    }

    #[test]
    fn what_is_read_decays_but_never_to_unknown() {
        let peak = PeakEwma::default();
        peak.observe(SECOND, 100e6);
        assert!(near(peak.value(11 * SECOND), 100e6 / std::f64::consts::E));
        assert!(near(peak.value(21 * SECOND), 100e6 / std::f64::consts::E.powi(2)));
        assert_eq!(peak.value(20 * 86_400 * SECOND), 1.0);
    }

    #[test]
    fn a_failure_counts_as_five_seconds() {
        let peak = PeakEwma::default();
        peak.observe(SECOND, 1e6);
        peak.fail(SECOND);
        assert!(near(peak.value(SECOND), 5e9));
    }

    #[test]
    fn what_is_no_latency_does_not_stay() {
        let peak = PeakEwma::default();
        peak.observe(SECOND, f64::NAN);
        assert_eq!(peak.value(SECOND), 1.0);
        peak.observe(SECOND, f64::INFINITY);
        assert!(peak.value(2 * SECOND).is_finite());
        assert!(peak.value(1_000 * SECOND) < 1e9);
    }

    #[test]
    fn a_clock_read_too_early_changes_nothing() {
        let peak = PeakEwma::default();
        peak.observe(5 * SECOND, 8e6);
        peak.observe(4 * SECOND, 2e6);
        assert!(near(peak.value(4 * SECOND), 8e6));
        assert!(near(peak.value(5 * SECOND), 8e6));
    }

    #[test]
    fn threads_lose_no_peak() {
        let peak = PeakEwma::default();
        std::thread::scope(|scope| {
            for thread in 0..4_u32 {
                let peak = &peak;
                scope.spawn(move || {
                    for count in 1..=10_000_u32 {
                        peak.observe(SECOND, f64::from(count * 10 + thread));
                    }
                });
            }
        });
        assert_eq!(peak.value(SECOND), 100_003.0);
    }
}
