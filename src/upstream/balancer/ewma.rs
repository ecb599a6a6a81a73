//! The member that is expected to answer soonest.
//!
//! Two seats are drawn by weight and the cheaper one is taken, as Finagle and linkerd do: the
//! power of two choices over the peak EWMA of latencies (see [`PeakEwma`](super::PeakEwma)), times
//! the requests that would then be waiting there, by weight. Of two seats in all, both are always
//! compared, but for slow start: a member is compared as often as its ramp says.
//!
//! A member of which no latency is known is the cheapest while it is idle and the dearest while it
//! serves its first requests: it is tried, not flooded.

use super::draw::Draw;
use super::{Members, Place, Seat};

/// Members to compare.
#[derive(Debug)]
pub struct Ewma {
    draw: Draw,
}

impl Ewma {
    /// Lays out the draw over the seats.
    #[must_use]
    pub fn new(seats: &[Seat<'_>]) -> Self {
        Self { draw: Draw::new(seats) }
    }

    /// The cheaper of two eligible members.
    pub fn pick(&self, members: &impl Members, random: &mut impl FnMut() -> u64) -> Option<u32> {
        match self.draw.two(members, random)? {
            (first, Some(second)) if cost(second, members) < cost(first, members) => Some(second.member),
            (first, _) => Some(first.member),
        }
    }
}

/// Nanoseconds until one more request would be answered, by weight.
fn cost(place: Place, members: &impl Members) -> f64 {
    let in_flight = f64::from(members.in_flight(place.member));
    let latency = members.latency(place.member);
    if latency > 0.0 {
        latency * (in_flight + 1.0) / f64::from(place.weight)
    } else if in_flight > 0.0 {
        f64::INFINITY
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use std::cmp::Reverse;
    use std::collections::BinaryHeap;

    use super::*;
    use crate::upstream::balancer::PeakEwma;
    use crate::upstream::balancer::testing::{Field, assert_share, counts, seats};

    const SECOND: u64 = 1_000_000_000;

    /// Endpoints behind a gateway whose clock is a number.
    struct World {
        balancer: Ewma,
        estimators: Vec<PeakEwma>,
        members: Field,
        random: fastrand::Rng,
        now: u64,
        /// When each pending answer comes, its member, and when it was asked for.
        pending: BinaryHeap<Reverse<(u64, usize, u64)>>,
    }

    impl World {
        fn new(weights: &[u32]) -> Self {
            Self {
                balancer: Ewma::new(&seats(weights)),
                estimators: weights.iter().map(|_| PeakEwma::default()).collect(),
                members: Field::idle(weights.len()),
                random: fastrand::Rng::with_seed(9),
                now: 0,
                pending: BinaryHeap::new(),
            }
        }

        /// Requests at random, about 1 000 a second, until `seconds` passed; `latency` is the mean
        /// of each member, of which answers take between half and one and a half. Returns the
        /// share of each.
        fn run(&mut self, seconds: u64, latency: &[u64]) -> Vec<f64> {
            let end = self.now + seconds * SECOND;
            let mut picks = vec![0_usize; latency.len()];
            while self.now < end {
                self.now += self.random.u64(..SECOND / 500);
                self.answer();
                for (member, estimator) in self.estimators.iter().enumerate() {
                    self.members[member].latency = estimator.value(self.now);
                }
                let random = &mut self.random;
                let member = self.balancer.pick(&self.members, &mut || random.u64(..)).unwrap() as usize;
                picks[member] += 1;
                self.members[member].in_flight += 1;
                let took = latency[member] / 2 + self.random.u64(..latency[member]);
                self.pending.push(Reverse((self.now + took, member, self.now)));
            }
            let total: usize = picks.iter().sum();
            picks.into_iter().map(|count| count as f64 / total as f64).collect()
        }

        /// Takes the answers that have come by now.
        fn answer(&mut self) {
            while let Some(Reverse((at, member, asked))) = self.pending.peek().copied()
                && at <= self.now
            {
                self.pending.pop();
                self.members[member].in_flight -= 1;
                self.estimators[member].observe(at, (at - asked) as f64);
            }
        }
    }

    const FAST: u64 = SECOND / 100;
    const SLOW: u64 = SECOND / 10;

    #[test]
    fn a_slow_endpoint_is_avoided_and_after_recovery_gets_its_share_again() {
        let mut world = World::new(&[1, 1, 1]);
        let shares = world.run(60, &[FAST, SLOW, FAST]);
        assert!(shares[1] < 0.1 && shares[1] > 0.0, "{shares:?}");
        world.run(30, &[FAST; 3]);
        let shares = world.run(30, &[FAST; 3]);
        assert!((shares[1] - 1.0 / 3.0).abs() < 0.05, "{shares:?}");
    }

    #[test]
    fn of_two_endpoints_the_slow_one_is_retried_but_seldom() {
        let mut world = World::new(&[1, 1]);
        let shares = world.run(120, &[FAST, SLOW]);
        assert!(shares[1] < 0.1 && shares[1] > 0.0, "{shares:?}");
        world.run(30, &[FAST; 2]);
        let shares = world.run(30, &[FAST; 2]);
        assert!((shares[1] - 0.5).abs() < 0.05, "{shares:?}");
    }

    #[test]
    fn equal_endpoints_get_equal_shares() {
        for share in World::new(&[1; 10]).run(60, &[FAST; 10]) {
            assert!((share - 0.1).abs() < 0.02, "{share}");
        }
    }

    #[test]
    fn the_cheaper_of_two_is_picked() {
        // (weight, in flight, latency) of two members, and which is picked
        let cases = [
            ([(1, 0, 5.0), (1, 0, 4.0)], 1),
            ([(1, 0, 5.0), (1, 1, 4.0)], 0),
            ([(1, 0, 5.0), (2, 0, 9.0)], 1),
            ([(1, 0, 0.0), (1, 0, 1.0)], 0),
            ([(1, 1, 0.0), (1, 900, 9e9)], 1),
        ];
        for (pair, expected) in cases {
            let mut members = Field::idle(2);
            for (member, (_, in_flight, latency)) in pair.into_iter().enumerate() {
                (members[member].in_flight, members[member].latency) = (in_flight, latency);
            }
            let mut random = fastrand::Rng::with_seed(10);
            let balancer = Ewma::new(&seats(&pair.map(|(weight, ..)| weight)));
            assert!((0..50).all(|_| balancer.pick(&members, &mut || random.u64(..)) == Some(expected)), "{pair:?}");
        }
    }

    #[test]
    fn a_member_in_slow_start_gets_its_part_of_its_share() {
        for size in [2, 3, 20] {
            let mut random = fastrand::Rng::with_seed(11);
            let balancer = Ewma::new(&seats(&vec![1; size]));
            let mut members = Field::idle(size);
            members[1].ramp = 0.1;
            let trials = 60_000;
            let count = counts(size, trials, || {
                for member in 0..size {
                    members[member].latency = 1.0 + random.f64();
                }
                balancer.pick(&members, &mut || random.u64(..))
            })[1];
            assert_share(count, trials, 0.1 / (size as f64 - 0.9));
        }
    }
}
