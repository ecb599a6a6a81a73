//! At random, by weight.
//!
//! Each pick is independent: among the eligible, every member has the probability of its weight
//! times its ramp in the sum of these. See [`Draw`](super::draw::Draw) for why rejecting the
//! ineligible keeps that exact.

use super::draw::Draw;
use super::{Members, Seat};

/// Members to draw from.
#[derive(Debug)]
pub struct Random {
    draw: Draw,
}

impl Random {
    /// Lays out the draw over the seats.
    #[must_use]
    pub fn new(seats: &[Seat<'_>]) -> Self {
        Self { draw: Draw::new(seats) }
    }

    /// An eligible member, drawn by weight.
    pub fn pick(&self, members: &impl Members, random: &mut impl FnMut() -> u64) -> Option<u32> {
        self.draw.one(members, random).map(|place| place.member)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::balancer::testing::{Field, assert_share, counts, seats};

    /// Picks of `weights` among `members`, each near its expected share.
    fn check(weights: &[u32], members: &Field, expected: &[f64]) {
        let mut random = fastrand::Rng::with_seed(6);
        let balancer = Random::new(&seats(weights));
        let trials = 60_000;
        let counts = counts(weights.len(), trials, || balancer.pick(members, &mut || random.u64(..)));
        for (count, probability) in counts.into_iter().zip(expected) {
            assert_share(count, trials, *probability);
        }
    }

    #[test]
    fn picks_follow_the_weights() {
        check(&[1, 2, 3, 0], &Field::idle(4), &[1.0 / 6.0, 2.0 / 6.0, 3.0 / 6.0, 0.0]);
    }

    #[test]
    fn picks_follow_the_weights_of_the_eligible() {
        check(&[4, 2, 3, 7], &Field::only(&[1, 2], 4), &[0.0, 0.4, 0.6, 0.0]);
    }

    #[test]
    fn picks_follow_the_weights_even_if_nearly_all_are_ineligible() {
        let mut weights = vec![100; 50];
        (weights[7], weights[40]) = (1, 3);
        let mut expected = vec![0.0; 50];
        (expected[7], expected[40]) = (0.25, 0.75);
        check(&weights, &Field::only(&[7, 40], 50), &expected);
    }

    #[test]
    fn a_member_in_slow_start_gets_its_part_of_its_share() {
        let mut members = Field::idle(3);
        members[1].ramp = 0.1;
        check(&[1, 1, 1], &members, &[1.0 / 2.1, 0.1 / 2.1, 1.0 / 2.1]);
    }
}
