//! The member with the fewest requests for its weight.
//!
//! Up to [`SCAN`] seats are all compared. Of more, two are drawn by weight and the better one is
//! taken: the power of two choices (M. Mitzenmacher, "The Power of Two Choices in Randomized Load
//! Balancing", 2001), which Envoy's least request uses too. It comes close to the best of all
//! without looking at all, and gateways that cannot see each other's load do not all run to the
//! same member.
//!
//! A member costs what it would carry with one more request, `(in flight + 1) / (weight × ramp)`.
//! The idle cost nothing, as in HAProxy's `leastconn`: they tie and are drawn by weight. Otherwise
//! the heaviest would take every request as long as load is light.

use super::draw::Draw;
use super::{Members, Place, Seat, unit};

/// Seats that are compared one by one.
const SCAN: usize = 8;

/// Members to compare.
#[derive(Debug)]
pub struct LeastRequest {
    draw: Draw,
}

impl LeastRequest {
    /// Lays out the draw over the seats.
    #[must_use]
    pub fn new(seats: &[Seat<'_>]) -> Self {
        Self { draw: Draw::new(seats) }
    }

    /// The least loaded eligible member, of all or of two.
    pub fn pick(&self, members: &impl Members, random: &mut impl FnMut() -> u64) -> Option<u32> {
        if self.draw.places().len() <= SCAN {
            return self.least(members, random);
        }
        // On a tie the first wins: it is a weighted draw, so that ties follow the weights.
        match self.draw.two(members, random)? {
            (first, Some(second)) if cost(second, members) < cost(first, members) => Some(second.member),
            (first, _) => Some(first.member),
        }
    }

    /// The least loaded of all; ties are drawn by weight.
    fn least(&self, members: &impl Members, random: &mut impl FnMut() -> u64) -> Option<u32> {
        let mut choice = None;
        let mut least = f64::INFINITY;
        let mut tied = 0.0;
        for place in self.draw.places() {
            if !members.eligible(place.member) {
                continue;
            }
            let (cost, share) = (cost(*place, members), place.share(members));
            if choice.is_none() || cost < least {
                (choice, least, tied) = (Some(place.member), cost, share);
            } else if cost == least {
                tied += share;
                if unit(random()) * tied < share {
                    choice = Some(place.member);
                }
            }
        }
        choice
    }
}

/// What the member would carry with one more request; nothing if it is idle.
fn cost(place: Place, members: &impl Members) -> f64 {
    match members.in_flight(place.member) {
        0 => 0.0,
        in_flight => (f64::from(in_flight) + 1.0) / place.share(members),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::balancer::testing::{Field, assert_share, counts, seats};

    fn picked(weights: &[u32], members: &Field, trials: usize) -> Vec<usize> {
        let mut random = fastrand::Rng::with_seed(7);
        let balancer = LeastRequest::new(&seats(weights));
        counts(weights.len(), trials, || balancer.pick(members, &mut || random.u64(..)))
    }

    /// Shares of `weights` while `busy` requests are always in flight, one at random ending
    /// whenever another begins.
    fn shares_under_load(weights: &[u32], busy: usize) -> Vec<f64> {
        let mut random = fastrand::Rng::with_seed(8);
        let balancer = LeastRequest::new(&seats(weights));
        let mut members = Field::idle(weights.len());
        let mut serving: Vec<u32> = Vec::new();
        let trials = 200_000;
        let counts = counts(weights.len(), trials, || {
            if serving.len() == busy {
                let done = serving.swap_remove(random.usize(..busy));
                members[done as usize].in_flight -= 1;
            }
            let member = balancer.pick(&members, &mut || random.u64(..))?;
            members[member as usize].in_flight += 1;
            serving.push(member);
            Some(member)
        });
        counts.into_iter().map(|count| count as f64 / trials as f64).collect()
    }

    #[test]
    fn of_few_the_least_loaded_for_its_weight_is_picked() {
        // (weight, in flight) of each member, and the only one that may be picked
        let cases: [(&[(u32, u32)], usize); 5] = [
            (&[(1, 5), (1, 4), (1, 6)], 1),
            (&[(1, 2), (2, 4), (1, 3)], 1),
            (&[(3, 4), (1, 1)], 0),
            (&[(9, 1), (1, 0)], 1),
            (&[(0, 0), (1, 100)], 1),
        ];
        for (seats, expected) in cases {
            let weights: Vec<u32> = seats.iter().map(|(weight, _)| *weight).collect();
            let mut members = Field::idle(seats.len());
            for (member, (_, in_flight)) in seats.iter().enumerate() {
                members[member].in_flight = *in_flight;
            }
            assert_eq!(picked(&weights, &members, 100)[expected], 100, "{seats:?}");
        }
    }

    #[test]
    fn the_idle_are_picked_by_weight_whether_few_or_many() {
        for weights in [vec![1, 2, 3], (0..40).map(|member| 1 + member % 3).collect()] {
            let total = f64::from(weights.iter().sum::<u32>());
            let trials = 100_000;
            let counts = picked(&weights, &Field::idle(weights.len()), trials);
            for (count, weight) in counts.into_iter().zip(&weights) {
                assert_share(count, trials, f64::from(*weight) / total);
            }
        }
    }

    #[test]
    fn of_many_a_busy_one_is_picked_only_if_both_draws_are_busy() {
        let mut members = Field::idle(20);
        for member in 0..10 {
            members[member].in_flight = 1;
        }
        let trials = 50_000;
        let busy = picked(&[1; 20], &members, trials)[..10].iter().sum();
        assert_share(busy, trials, 10.0 / 20.0 * 9.0 / 19.0);
    }

    #[test]
    fn requests_in_flight_follow_the_weights_under_load() {
        for weights in [vec![1, 2, 3], (0..24).map(|member| 1 + member % 3).collect()] {
            let total = f64::from(weights.iter().sum::<u32>());
            for (share, weight) in shares_under_load(&weights, weights.len() * 40).iter().zip(&weights) {
                let expected = f64::from(*weight) / total;
                assert!((share / expected - 1.0).abs() < 0.08, "{share} of {expected}");
            }
        }
    }

    #[test]
    fn a_member_in_slow_start_gets_its_part_of_its_share() {
        for size in [3, 20] {
            let mut members = Field::idle(size);
            members[1].ramp = 0.1;
            let trials = 60_000;
            let count = picked(&vec![1; size], &members, trials)[1];
            assert_share(count, trials, 0.1 / (size as f64 - 0.9));
        }
    }
}
