//! Smooth weighted round robin, laid out ahead.
//!
//! One cycle of nginx's smooth weighted round robin is computed when the members change; a pick
//! then only advances a counter. Within a cycle each member comes exactly as often as its weight
//! says, evenly spread.
//!
//! A member in slow start keeps its turn with the probability of its ramp. Turns that are passed
//! over are used up, so that they fall to all others in proportion rather than to the next alone.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Members, Place, Seat, takes_turn};

/// A cycle is at most this long; larger weights are scaled down together.
const MAX_CYCLE: u64 = 1 << 16;

/// An endless turn over members, by index.
#[derive(Debug, Default)]
pub struct RoundRobin {
    cycle: Box<[u32]>,
    next: AtomicUsize,
}

/// Members of one weight. In nginx's algorithm they take turns in their order, so that only the
/// one in front competes with those of other weights.
struct Class {
    weight: i64,
    /// nginx's `current_weight` of the one in front.
    current: i64,
    /// Places in the order of configuration, with their members.
    members: Vec<(usize, u32)>,
    front: usize,
}

impl RoundRobin {
    /// Lays out a cycle over the seats; weights of zero get no turn.
    #[must_use]
    pub fn new(seats: &[Seat<'_>]) -> Self {
        let places = reduced(Place::all(seats).into_vec());
        let total: i64 = places.iter().map(|place| i64::from(place.weight)).sum();
        let mut classes = classes(&places);
        let cycle = (0..total).filter_map(|_| turn(&mut classes, total)).collect();
        Self { cycle, next: AtomicUsize::new(0) }
    }

    /// Continues where another turn stood, so that a change of members does not begin anew with
    /// the first.
    #[must_use]
    pub fn resume(self, other: &Self) -> Self {
        self.next.store(other.next.load(Ordering::Relaxed), Ordering::Relaxed);
        self
    }

    /// The next eligible member that takes its turn; the first eligible one if a whole cycle
    /// passes without.
    pub fn pick(&self, members: &impl Members, random: &mut impl FnMut() -> u64) -> Option<u32> {
        let length = self.cycle.len();
        if length == 0 {
            return None;
        }
        let start = self.next.fetch_add(1, Ordering::Relaxed) % length;
        let mut first = None;
        for (step, member) in self.cycle[start..].iter().chain(&self.cycle[..start]).enumerate() {
            if !members.eligible(*member) {
                continue;
            }
            if takes_turn(*member, members, random) {
                if step > 0 {
                    self.next.fetch_add(step, Ordering::Relaxed);
                }
                return Some(*member);
            }
            first = first.or(Some(*member));
        }
        first
    }
}

/// The same proportions with the smallest weights, and a cycle that stays in bounds.
fn reduced(mut places: Vec<Place>) -> Vec<Place> {
    let divisor = places.iter().fold(0, |divisor, place| gcd(divisor, place.weight)).max(1);
    let total = places.iter().map(|place| u64::from(place.weight / divisor)).sum::<u64>();
    for place in &mut places {
        place.weight /= divisor;
        if total > MAX_CYCLE {
            let scaled = u64::from(place.weight) * MAX_CYCLE / total;
            place.weight = u32::try_from(scaled).unwrap_or(u32::MAX).max(1);
        }
    }
    places
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn classes(places: &[Place]) -> Vec<Class> {
    let mut order: Vec<usize> = (0..places.len()).collect();
    order.sort_by_key(|index| places[*index].weight);
    order
        .chunk_by(|a, b| places[*a].weight == places[*b].weight)
        .map(|indices| Class {
            weight: i64::from(places[indices[0]].weight),
            current: 0,
            members: indices.iter().map(|index| (*index, places[*index].member)).collect(),
            front: 0,
        })
        .collect()
}

/// One step of the algorithm: all gain their weight, the foremost is picked and pays the total.
/// On a tie the one configured first wins.
fn turn(classes: &mut [Class], total: i64) -> Option<u32> {
    for class in &mut *classes {
        class.current += class.weight;
    }
    let rank = |class: &Class| (class.current, std::cmp::Reverse(class.members[class.front].0));
    let best = classes.iter_mut().max_by_key(|class| rank(class))?;
    let (_, member) = best.members[best.front];
    best.front += 1;
    if best.front == best.members.len() {
        best.front = 0;
        best.current -= total;
    }
    Some(member)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::balancer::testing::{Field, assert_share, seats};

    fn picks(weights: &[u32], count: usize) -> Vec<u32> {
        let turn = RoundRobin::new(&seats(weights));
        (0..count).filter_map(|_| turn.pick(&Field::idle(weights.len()), &mut || 0)).collect()
    }

    /// nginx's algorithm as it stands in its commit 52327e0627f4, member by member.
    fn plain(weights: &[u32]) -> Vec<u32> {
        let total: i64 = weights.iter().map(|weight| i64::from(*weight)).sum();
        let mut current = vec![0_i64; weights.len()];
        let step = |_| {
            let mut best = 0;
            for (index, weight) in weights.iter().enumerate() {
                current[index] += i64::from(*weight);
                best = if current[index] > current[best] { index } else { best };
            }
            current[best] -= total;
            best as u32
        };
        (0..total).map(step).collect()
    }

    #[test]
    fn turns_are_smooth() {
        // The example of nginx's commit that introduced the algorithm (52327e0627f4).
        assert_eq!(picks(&[5, 1, 1], 7), [0, 0, 1, 0, 2, 0, 0]);
        assert_eq!(picks(&[1, 1], 4), [0, 1, 0, 1]);
        assert_eq!(picks(&[300], 2), [0, 0]);
    }

    #[test]
    fn turns_are_those_of_nginx() {
        let mut random = fastrand::Rng::with_seed(1);
        for size in 1..60 {
            let mut weights: Vec<u32> = (0..size).map(|_| random.u32(1..8)).collect();
            weights.push(1);
            let expected = plain(&weights);
            assert_eq!(picks(&weights, expected.len()), expected, "{weights:?}");
        }
    }

    #[test]
    fn a_cycle_is_exact() {
        let weights = [30, 20, 50, 1];
        let all = picks(&weights, 101 * 3);
        for (member, weight) in weights.into_iter().enumerate() {
            assert_eq!(all.iter().filter(|pick| **pick == member as u32).count(), weight as usize * 3);
        }
    }

    #[test]
    fn the_ineligible_are_passed_over() {
        let turn = RoundRobin::new(&seats(&[5, 1]));
        let mut random = || 0;
        assert!((0..20).all(|_| turn.pick(&Field::only(&[1], 2), &mut random) == Some(1)));
        assert_eq!(turn.pick(&Field::only(&[], 2), &mut random), None);
        assert_eq!(RoundRobin::default().pick(&Field::idle(1), &mut random), None);
        assert_eq!(RoundRobin::new(&seats(&[0])).pick(&Field::idle(1), &mut random), None);
    }

    #[test]
    fn turns_of_the_ineligible_fall_to_all_others_alike() {
        let turn = RoundRobin::new(&seats(&[1, 1, 1, 1]));
        let members = Field::only(&[1, 2, 3], 4);
        let all: Vec<_> = (0..300).filter_map(|_| turn.pick(&members, &mut || 0)).collect();
        for member in 1..4 {
            assert_eq!(all.iter().filter(|pick| **pick == member).count(), 100);
        }
    }

    #[test]
    fn a_member_in_slow_start_keeps_as_many_turns_as_its_ramp_says() {
        let mut random = fastrand::Rng::with_seed(2);
        let mut members = Field::idle(3);
        members[0].ramp = 0.1;
        let turn = RoundRobin::new(&seats(&[1, 1, 1]));
        let trials = 30_000;
        let count = (0..trials).filter(|_| turn.pick(&members, &mut || random.u64(..)) == Some(0)).count();
        assert_share(count, trials, 0.1 / 2.1);
    }

    #[test]
    fn when_nobody_takes_a_turn_the_first_eligible_is_picked() {
        let mut members = Field::only(&[1, 2], 3);
        (members[1].ramp, members[2].ramp) = (0.1, 0.1);
        let turn = RoundRobin::new(&seats(&[1, 1, 1]));
        assert_eq!(turn.pick(&members, &mut || u64::MAX), Some(1));
    }

    #[test]
    fn a_turn_resumes_where_another_stood() {
        let old = RoundRobin::new(&seats(&[1, 1, 1]));
        let members = Field::idle(3);
        assert_eq!((old.pick(&members, &mut || 0), old.pick(&members, &mut || 0)), (Some(0), Some(1)));
        assert_eq!(RoundRobin::new(&seats(&[1, 1, 1])).resume(&old).pick(&members, &mut || 0), Some(2));
    }

    #[test]
    fn long_cycles_stay_in_bounds() {
        let turn = RoundRobin::new(&seats(&[65_536, 65_535, 1]));
        assert!(turn.cycle.len() as u64 <= MAX_CYCLE + 3, "{}", turn.cycle.len());
        assert!(turn.cycle.contains(&2));
    }
}
