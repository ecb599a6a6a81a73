//! How many extra tries an upstream gets: one budget for retries, fallbacks and hedges.
//!
//! A share of the requests, and a floor for upstreams with few of them. Without it, an upstream
//! that is down gets every request as often as there are retries, at its weakest. The design is
//! that of Finagle's `RetryBudget`: a token bucket that requests fill and extra tries empty.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use super::clock::Clock;

/// An extra try, in thousandths.
const TRY: u64 = 1_000;

/// What the bucket holds at least when full, in tries.
const LEAST_CAPACITY: f64 = 200.0;

/// Seconds of the floor that the bucket holds at least when full.
const FLOOR_SECONDS: f64 = 10.0;

/// The tokens that are left for extra tries.
#[derive(Debug)]
pub struct Budget {
    clock: Clock,
    /// What a request pays in, in thousandths of a try.
    deposit: u64,
    /// Nanoseconds in which the floor pays in a thousandth; zero for never.
    interval: u64,
    capacity: u64,
    tokens: AtomicU64,
    /// Up to when the floor has been paid in.
    paid_until: AtomicU64,
}

impl Budget {
    /// A budget of `share` extra tries for each request, to a thousandth, and `floor_per_second`.
    #[must_use]
    pub fn new(share: f64, floor_per_second: f64, now: Instant) -> Self {
        let floor = floor_per_second.max(0.0);
        Self {
            clock: Clock::new(now),
            deposit: thousandths(share),
            interval: if floor > 0.0 { (1e6 / floor).ceil() as u64 } else { 0 },
            capacity: thousandths(LEAST_CAPACITY.max(floor * FLOOR_SECONDS)),
            tokens: AtomicU64::new(thousandths(floor)),
            paid_until: AtomicU64::new(0),
        }
    }

    /// Pays in for a request.
    pub fn deposit(&self) {
        self.pay_in(self.deposit);
    }

    /// Takes leave for an extra try, if there is any.
    pub fn withdraw(&self, now: Instant) -> bool {
        self.pay_floor(now);
        self.tokens.try_update(Relaxed, Relaxed, |tokens| tokens.checked_sub(TRY)).is_ok()
    }

    /// Pays in the floor for the time since it was last paid.
    fn pay_floor(&self, now: Instant) {
        let now = self.clock.nanos(now);
        let until = self.paid_until.load(Relaxed);
        let Some(earned) = now.saturating_sub(until).checked_div(self.interval) else { return };
        // Whoever moves the time on pays; the rest of the division stays for the next.
        let paid = until + earned * self.interval;
        if earned > 0 && self.paid_until.compare_exchange(until, paid, Relaxed, Relaxed).is_ok() {
            self.pay_in(earned);
        }
    }

    fn pay_in(&self, amount: u64) {
        // A full bucket, the usual case, is only read.
        let filled = |tokens: u64| (tokens < self.capacity).then(|| (tokens + amount).min(self.capacity));
        let _ = self.tokens.try_update(Relaxed, Relaxed, filled);
    }
}

/// Rounds down, but for the error of the multiplication; what is negative is zero.
fn thousandths(tries: f64) -> u64 {
    (tries * TRY as f64 + 1e-6) as u64
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    /// Withdrawals that succeed in a row.
    fn drain(budget: &Budget, now: Instant) -> u32 {
        (0..).take_while(|_| budget.withdraw(now)).count() as u32
    }

    #[test]
    fn it_starts_with_a_second_of_the_floor_and_gains_it_each_second() {
        let start = Instant::now();
        let budget = Budget::new(0.2, 3.0, start);
        assert_eq!(drain(&budget, start), 3);
        assert_eq!(drain(&budget, start + Duration::from_millis(330)), 0);
        assert_eq!(drain(&budget, start + Duration::from_millis(340)), 1);
        assert_eq!(drain(&budget, start + Duration::from_millis(2_010)), 5);
    }

    #[test]
    fn requests_pay_in_their_share() {
        let start = Instant::now();
        for (share, requests, tries) in [(0.2, 100, 20), (1.0, 7, 7), (0.57, 100, 57), (0.0, 100, 0), (-1.0, 100, 0)] {
            let budget = Budget::new(share, 0.0, start);
            (0..requests).for_each(|_| budget.deposit());
            assert_eq!(drain(&budget, start), tries, "{requests} requests at {share}");
        }
    }

    #[test]
    fn the_bucket_has_an_end() {
        let start = Instant::now();
        for (floor, capacity) in [(0.0, 200), (3.0, 200), (100.0, 1_000)] {
            let budget = Budget::new(0.5, floor, start);
            (0..10_000).for_each(|_| budget.deposit());
            assert_eq!(drain(&budget, start), capacity);
        }
        let idle = Budget::new(0.0, 100.0, start);
        assert_eq!(drain(&idle, start + Duration::from_secs(3_600)), 1_000);
    }

    #[test]
    fn threads_together_stay_within_it() {
        let start = Instant::now();
        let budget = Budget::new(0.2, 1_000.0, start);
        let extra: u32 = thread::scope(|scope| {
            let workers: Vec<_> = (0..4).map(|_| scope.spawn(|| storm(&budget, start))).collect();
            workers.into_iter().map(|worker| worker.join().unwrap()).sum()
        });
        // 4 × 10 000 requests in 10 s: 8 000 tries of the share, 11 000 of the floor.
        assert!((18_500..=19_000).contains(&extra), "{extra}");
    }

    /// Ten seconds of a thousand requests each, that all want three retries.
    fn storm(budget: &Budget, start: Instant) -> u32 {
        (0..10_000).fold(0, |extra, n| {
            let now = start + Duration::from_millis(n);
            budget.deposit();
            extra + (0..3).map(|_| u32::from(budget.withdraw(now))).sum::<u32>()
        })
    }

    #[test]
    fn the_floor_is_paid_once_to_threads_that_come_at_once() {
        let start = Instant::now();
        for _ in 0..500 {
            let budget = Budget::new(0.0, 100.0, start);
            let ready = AtomicU64::new(0);
            let drain_together = || {
                ready.fetch_add(1, Relaxed);
                while ready.load(Relaxed) < 2 {
                    thread::yield_now();
                }
                drain(&budget, start + Duration::from_secs(1))
            };
            let drained = thread::scope(|scope| {
                let threads = [scope.spawn(drain_together), scope.spawn(drain_together)];
                threads.map(|thread| thread.join().unwrap())
            });
            assert_eq!(drained[0] + drained[1], 200);
        }
    }

    proptest! {
        #[test]
        fn no_storm_gets_more_than_share_and_floor(
            share in 0.0..1.0_f64,
            floor in 0.0..50.0_f64,
            steps in prop::collection::vec((0_u64..2_000, 0_u32..20, 0_u32..40), 1..60),
        ) {
            let start = Instant::now();
            let budget = Budget::new(share, floor, start);
            let (mut millis, mut requests, mut attempts) = (0, 0, 0);
            for (pause, arrivals, wanted) in steps {
                millis += pause;
                requests += arrivals;
                (0..arrivals).for_each(|_| budget.deposit());
                let now = start + Duration::from_millis(millis);
                attempts += arrivals + (0..wanted).filter(|_| budget.withdraw(now)).count() as u32;
            }
            let seconds = millis as f64 / 1e3;
            let most = f64::from(requests) * (1.0 + share) + floor * (seconds + 1.0);
            prop_assert!(f64::from(attempts) <= most + 1e-6, "{attempts} of {most}");
        }
    }
}
