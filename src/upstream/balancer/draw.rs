//! Drawing seats at random by weight, in constant time.
//!
//! Walker's alias method as M. D. Vose lays it out ("A linear algorithm for generating random
//! numbers with a given distribution", 1991), in whole numbers. Seats that are ineligible or in
//! slow start are drawn as any other and then rejected, which leaves the others their proportions;
//! after too many rejections one exact pass over all decides, which leaves them too.

use super::{Members, Place, Seat, takes_turn, unit};

/// Rejected draws before all seats are looked at.
const DRAWS: usize = 16;

/// Seats to draw from.
#[derive(Debug)]
pub(super) struct Draw {
    places: Box<[Place]>,
    slots: Box<[Slot]>,
}

/// An equal part of the draws, split between the seat of the same index and another.
#[derive(Clone, Copy, Debug)]
struct Slot {
    /// The part that is its own, of 2³².
    own: u32,
    /// The seat that has the rest; itself if there is none.
    alias: u32,
}

impl Draw {
    pub(super) fn new(seats: &[Seat<'_>]) -> Self {
        let places = Place::all(seats);
        Self { slots: slots(&places), places }
    }

    /// The seats that can be drawn.
    pub(super) fn places(&self) -> &[Place] {
        &self.places
    }

    /// Draws an eligible seat, by weight and ramp.
    pub(super) fn one(&self, members: &impl Members, random: &mut impl FnMut() -> u64) -> Option<Place> {
        self.find(random, |place, random| members.eligible(place.member) && takes_turn(place.member, members, random))
            .or_else(|| self.scan(random, |place| members.eligible(place.member).then(|| place.share(members))))
    }

    /// Draws two distinct eligible seats by weight; the second is `None` if there is only one, or
    /// if slow start keeps it out this time.
    ///
    /// Each is compared as often as the other by its ramp, so that a seat that fares no better or
    /// worse than others gets the share that its ramp says.
    pub(super) fn two(
        &self,
        members: &impl Members,
        random: &mut impl FnMut() -> u64,
    ) -> Option<(Place, Option<Place>)> {
        let first = self.one(members, random)?;
        if self.places.len() == 1 {
            return Some((first, None));
        }
        let fits = |place: Place| place.member != first.member && members.eligible(place.member);
        let second = self
            .find(random, |place, _| fits(place))
            .or_else(|| self.scan(random, |place| fits(place).then(|| f64::from(place.weight))))
            .filter(|second| takes_turn(second.member, members, random));
        Some((first, second))
    }

    /// Draws until `accept` does, some times.
    fn find<R: FnMut() -> u64>(&self, random: &mut R, accept: impl Fn(Place, &mut R) -> bool) -> Option<Place> {
        for _ in 0..DRAWS {
            let number = u128::from(random()) * self.slots.len() as u128;
            let (index, fraction) = ((number >> 64) as usize, (number >> 32) as u32);
            let slot = self.slots.get(index)?;
            let place = self.places[if fraction < slot.own { index } else { slot.alias as usize }];
            if accept(place, random) {
                return Some(place);
            }
        }
        None
    }

    /// Draws among those that have a share, in one pass: each replaces the choice so far with the
    /// probability of its share in all shares so far.
    fn scan(&self, random: &mut impl FnMut() -> u64, share: impl Fn(Place) -> Option<f64>) -> Option<Place> {
        let mut choice = None;
        let mut total = 0.0;
        for place in &self.places {
            if let Some(share) = share(*place) {
                total += share;
                if choice.is_none() || unit(random()) * total < share {
                    choice = Some(*place);
                }
            }
        }
        choice
    }
}

/// Splits the draws: each seat that has less than a slot is filled up by one that has more.
fn slots(places: &[Place]) -> Box<[Slot]> {
    let total: u128 = places.iter().map(|place| u128::from(place.weight)).sum();
    // A slot holds `total`; together the seats have as much as all slots hold.
    let mut rest: Vec<u128> = places.iter().map(|place| u128::from(place.weight) * places.len() as u128).collect();
    let (mut short, mut long): (Vec<usize>, Vec<usize>) = (0..rest.len()).partition(|index| rest[*index] < total);
    let mut slots: Vec<Slot> = (0..places.len()).map(|index| Slot { own: u32::MAX, alias: index as u32 }).collect();
    while let (Some(index), Some(donor)) = (short.pop(), long.last().copied()) {
        let own = u32::try_from((rest[index] << 32) / total).unwrap_or(u32::MAX);
        slots[index] = Slot { own, alias: donor as u32 };
        rest[donor] -= total - rest[index];
        if rest[donor] < total {
            long.pop();
            short.push(donor);
        }
    }
    slots.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::balancer::testing::{Field, assert_share, seats};

    #[test]
    fn slots_add_up_to_the_weights() {
        let mut random = fastrand::Rng::with_seed(3);
        for size in 1..200 {
            let weights: Vec<u32> = (0..size).map(|_| random.u32(1..1_000)).collect();
            let draw = Draw::new(&seats(&weights));
            let mut parts = vec![0.0; size];
            for (index, slot) in draw.slots.iter().enumerate() {
                let own = f64::from(slot.own) / 2_f64.powi(32);
                parts[index] += own;
                parts[slot.alias as usize] += 1.0 - own;
            }
            let total = f64::from(weights.iter().sum::<u32>());
            for (part, weight) in parts.iter().zip(&weights) {
                let expected = f64::from(*weight) * size as f64 / total;
                assert!((part - expected).abs() < 1e-6, "{part} is not {expected}");
            }
        }
    }

    #[test]
    fn a_pass_over_all_draws_by_weight() {
        let mut random = fastrand::Rng::with_seed(4);
        let draw = Draw::new(&seats(&[1, 2, 3]));
        let trials = 60_000;
        let mut counts = [0; 3];
        for _ in 0..trials {
            let place = draw.scan(&mut || random.u64(..), |place| Some(f64::from(place.weight))).unwrap();
            counts[place.member as usize] += 1;
        }
        for (count, probability) in counts.into_iter().zip([1.0 / 6.0, 2.0 / 6.0, 3.0 / 6.0]) {
            assert_share(count, trials, probability);
        }
    }

    #[test]
    fn two_draws_are_distinct_and_of_the_eligible() {
        let mut random = fastrand::Rng::with_seed(5);
        let draw = Draw::new(&seats(&[1_000, 1, 5, 1]));
        let members = Field::only(&[0, 1], 4);
        for _ in 0..1_000 {
            let (first, second) = draw.two(&members, &mut || random.u64(..)).unwrap();
            let mut pair = [first.member, second.unwrap().member];
            pair.sort_unstable();
            assert_eq!(pair, [0, 1]);
        }
        let (_, second) = draw.two(&Field::only(&[2], 4), &mut || random.u64(..)).unwrap();
        assert!(second.is_none());
        assert!(draw.two(&Field::only(&[], 4), &mut || random.u64(..)).is_none());
    }
}
