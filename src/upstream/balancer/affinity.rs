//! What consistent hashing does when a key's member cannot take it.
//!
//! The hashing balancers give an order of seats for a key; the first that is eligible and has
//! room takes it. The order depends on the key alone, so that a key returns to its member as soon
//! as that can take it.
//!
//! Room is limited as in "Consistent Hashing with Bounded Loads" (V. Mirrokni, M. Thorup,
//! M. Zadimoghaddam, 2017): a member holds at most `bound` times its fair share of all requests in
//! flight, the new one counted in. Only a pick that meets a busy member under such a bound asks
//! for the load of all.

use super::{Members, Place, Seat};

/// Seats in their order, and how much they may hold.
#[derive(Debug)]
pub(super) struct Affinity {
    places: Box<[Place]>,
    total_weight: f64,
    bound: Option<f64>,
}

impl Affinity {
    pub(super) fn new(seats: &[Seat<'_>], bound: Option<f64>) -> Self {
        let places = Place::all(seats);
        let total_weight = places.iter().map(|place| f64::from(place.weight)).sum();
        // Below 1.0 not all requests would find room.
        Self { places, total_weight, bound: bound.map(|bound| bound.max(1.0)) }
    }

    /// How many seats there are.
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// The first of `seats` (indices) that is eligible and has room, else the first eligible one.
    pub(super) fn first(&self, members: &impl Members, seats: impl Iterator<Item = u32>) -> Option<u32> {
        let mut load = None;
        let mut first = None;
        for place in seats.filter_map(|seat| self.places.get(seat as usize)) {
            if !members.eligible(place.member) {
                continue;
            }
            if self.has_room(*place, members, &mut load) {
                return Some(place.member);
            }
            first = first.or(Some(place.member));
        }
        first
    }

    /// All seats, beginning with `start`.
    pub(super) fn all_from(&self, start: usize) -> impl Iterator<Item = u32> {
        let length = self.places.len();
        (start..length).chain(0..start.min(length)).map(|seat| seat as u32)
    }

    /// Whether the member may hold one more; `load` keeps the sum once it is known.
    fn has_room(&self, place: Place, members: &impl Members, load: &mut Option<f64>) -> bool {
        let Some(bound) = self.bound else {
            return true;
        };
        let in_flight = members.in_flight(place.member);
        if in_flight == 0 {
            return true;
        }
        let sum = || self.places.iter().map(|place| f64::from(members.in_flight(place.member))).sum::<f64>();
        let load = *load.get_or_insert_with(|| members.load().map_or_else(sum, f64::from));
        let fair = (load + 1.0) * f64::from(place.weight) / self.total_weight;
        f64::from(in_flight) + 1.0 <= (bound * fair).ceil()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::balancer::testing::{Field, seats};

    #[test]
    fn a_member_holds_no_more_than_its_bound() {
        // weight and requests in flight of two members, bound; the member that gets a key of member 0
        let cases = [
            ([(1, 100), (1, 0)], None, 0),
            ([(1, 1), (1, 0)], Some(1.0), 1),
            ([(1, 0), (1, 9)], Some(1.0), 0),
            // 5 + 1 > ceil(1.25 * 8 / 2): full
            ([(1, 5), (1, 2)], Some(1.25), 1),
            // 5 + 1 <= ceil(1.5 * 8 / 2)
            ([(1, 5), (1, 2)], Some(1.5), 0),
            // 5 + 1 <= ceil(1.0 * 8 * 3 / 4): thrice the weight, thrice the room
            ([(3, 5), (1, 2)], Some(1.0), 0),
            // 2 + 1 <= ceil(1.25 * 4 / 2)
            ([(1, 2), (1, 1)], Some(1.25), 0),
            // A bound below 1.0 is as good as 1.0.
            ([(1, 1), (1, 2)], Some(0.1), 0),
        ];
        for (pair, bound, expected) in cases {
            let affinity = Affinity::new(&seats(&pair.map(|(weight, _)| weight)), bound);
            let mut members = Field::idle(2);
            for (member, (_, in_flight)) in pair.into_iter().enumerate() {
                members[member].in_flight = in_flight;
            }
            let picked = affinity.first(&members, affinity.all_from(0));
            assert_eq!(picked, Some(expected), "{pair:?} {bound:?}");
        }
    }

    #[test]
    fn if_all_eligible_are_full_the_first_takes_it() {
        let affinity = Affinity::new(&seats(&[1, 1, 1, 1]), Some(1.0));
        let mut members = Field::only(&[1, 2], 4);
        (members[1].in_flight, members[2].in_flight) = (9, 7);
        assert_eq!(affinity.first(&members, affinity.all_from(0)), Some(1));
        assert_eq!(affinity.first(&members, affinity.all_from(2)), Some(2));
    }
}
