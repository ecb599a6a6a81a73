//! Consistent hashing by a lookup table: Maglev.
//!
//! After "Maglev: A Fast and Reliable Software Network Load Balancer" (D. Eisenbud et al., NSDI
//! 2016), section 3.4: every member has a permutation of the table's slots from two hashes of its
//! name, and in turn they take the next slot of theirs that is free. A key belongs to one slot.
//! The load is spread better than on a ring, and a pick is one look-up; when a member leaves, few
//! keys move but its own.
//!
//! Weights are as in Envoy: in round `r`, counted from 1, a member takes part when `r` times its
//! weight reaches the next multiple of the greatest weight.
//!
//! The hash is [`hash`](super::hash::hash), under two seeds for offset and skip.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::affinity::Affinity;
use super::hash::{GOLDEN, hash, mix};
use super::{Members, Seat, below, weighted};

/// Primes, so that every skip visits every slot.
const SIZES: [usize; 2] = [65_537, 655_373];
/// Slots that each seat should have, if a size allows.
const SLOTS: usize = 100;
/// Slots that are tried for a key before all seats are, in their order.
const PROBES: u64 = 32;
/// Seeds of the hashes.
const OFFSET: u64 = 1;
const SKIP: u64 = 2;
const KEY: u64 = 3;

/// Members in a table.
#[derive(Debug)]
pub struct Maglev {
    /// The seat of each slot; empty if there is none.
    table: Box<[u32]>,
    affinity: Affinity,
}

/// The slots in the order in which a seat wants them.
struct Permutation {
    next: usize,
    skip: usize,
}

impl Maglev {
    /// Fills the table; `bound` limits what a member holds, see [`Kind`](super::Kind).
    #[must_use]
    pub fn new(seats: &[Seat<'_>], bound: Option<f64>) -> Self {
        Self { table: table(seats), affinity: Affinity::new(seats, bound) }
    }

    /// The member that the key belongs to, or the first that can take it of those that further
    /// hashes of the key give.
    pub fn pick(&self, members: &impl Members, key: &[u8], random: &mut impl FnMut() -> u64) -> Option<u32> {
        let hash = if key.is_empty() { random() } else { hash(KEY, key) };
        let slot = |hash| self.table.get(below(hash, self.table.len())).copied();
        let further = (1..PROBES).filter_map(|probe| slot(mix(hash.wrapping_add(probe.wrapping_mul(GOLDEN)))));
        let rest = self.affinity.all_from(below(mix(hash), self.affinity.len()));
        self.affinity.first(members, slot(hash).into_iter().chain(further).chain(rest))
    }
}

impl Permutation {
    fn new(name: &str, size: usize) -> Self {
        let name = name.as_bytes();
        Self { next: below(hash(OFFSET, name), size), skip: 1 + below(hash(SKIP, name), size - 1) }
    }

    /// The slot that the seat wants next.
    fn advance(&mut self, size: usize) -> usize {
        let slot = self.next;
        self.next += self.skip;
        if self.next >= size {
            self.next -= size;
        }
        slot
    }
}

/// The paper's listing, with weights: whose round is the earliest takes the next slot.
fn table(seats: &[Seat<'_>]) -> Box<[u32]> {
    const FREE: u32 = u32::MAX;
    let weights: Vec<u64> = weighted(seats).map(|seat| u64::from(seat.weight)).collect();
    let Some(greatest) = weights.iter().copied().max() else {
        return Box::default();
    };
    let size = SIZES.into_iter().find(|size| *size >= weights.len() * SLOTS).unwrap_or(SIZES[SIZES.len() - 1]);
    let mut permutations: Vec<_> = weighted(seats).map(|seat| Permutation::new(seat.name, size)).collect();
    // The round in which a seat takes its `turn`th slot; within a round they go in order.
    let round = |seat: usize, turn: u64| Reverse(((turn * greatest).div_ceil(weights[seat]), seat, turn));
    let mut rounds: BinaryHeap<_> = (0..weights.len()).map(|seat| round(seat, 1)).collect();
    let mut table = vec![FREE; size];
    for _ in 0..size {
        let Some(Reverse((_, seat, turn))) = rounds.pop() else {
            break;
        };
        let mut slot = permutations[seat].advance(size);
        while table[slot] != FREE {
            slot = permutations[seat].advance(size);
        }
        table[slot] = seat as u32;
        rounds.push(round(seat, turn + 1));
    }
    table.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::balancer::testing::{Field, counts, named, seats_of};

    fn maglev(names: &[String], weights: &[u32]) -> Maglev {
        Maglev::new(&seats_of(names, weights), None)
    }

    fn pick(maglev: &Maglev, members: &Field, key: u32) -> Option<u32> {
        maglev.pick(members, format!("key{key}").as_bytes(), &mut || 0)
    }

    /// The slots of each seat.
    fn slots(maglev: &Maglev, seats: usize) -> Vec<usize> {
        let mut slots = vec![0; seats];
        for seat in &maglev.table {
            slots[*seat as usize] += 1;
        }
        slots
    }

    #[test]
    fn the_table_is_that_of_the_paper_listing() {
        let names = named(7);
        let mut permutations: Vec<_> = names.iter().map(|name| Permutation::new(name, SIZES[0])).collect();
        let mut expected = vec![None; SIZES[0]];
        let mut filled = 0;
        'fill: loop {
            for (seat, permutation) in permutations.iter_mut().enumerate() {
                let mut slot = permutation.advance(SIZES[0]);
                while expected[slot].is_some() {
                    slot = permutation.advance(SIZES[0]);
                }
                expected[slot] = Some(seat as u32);
                filled += 1;
                if filled == SIZES[0] {
                    break 'fill;
                }
            }
        }
        assert!(maglev(&names, &[1; 7]).table.iter().copied().map(Some).eq(expected));
    }

    #[test]
    fn slots_are_shared_by_weight() {
        for (size, weights) in [(65_537, vec![1; 10]), (65_537, vec![1, 2, 3]), (655_373, vec![5; 1_000])] {
            let maglev = maglev(&named(weights.len()), &weights);
            assert_eq!(maglev.table.len(), size);
            let total: u32 = weights.iter().sum();
            for (slots, weight) in slots(&maglev, weights.len()).into_iter().zip(&weights) {
                let expected = size as f64 * f64::from(*weight) / f64::from(total);
                assert!((slots as f64 / expected - 1.0).abs() < 0.05, "{slots} of {expected}");
            }
        }
    }

    #[test]
    fn keys_are_shared_evenly() {
        let maglev = maglev(&named(10), &[1; 10]);
        let mut keys = 0..;
        for count in counts(10, 200_000, || pick(&maglev, &Field::idle(10), keys.next()?)) {
            assert!((19_000..21_000).contains(&count), "{count}");
        }
    }

    #[test]
    fn few_keys_move_when_a_member_leaves() {
        for size in [5, 20, 100] {
            let names = named(size);
            let (before, after) = (maglev(&names, &vec![1; size]), maglev(&names[1..], &vec![1; size - 1]));
            let members = Field::idle(size);
            let keys = 50_000;
            let needless = (0..keys)
                .filter_map(|key| Some((pick(&before, &members, key)?, pick(&after, &members, key)? + 1)))
                .filter(|(before, after)| *before != 0 && before != after)
                .count();
            assert!(needless * 50 < keys as usize, "{needless} of {keys} keys moved among {size}");
        }
    }

    #[test]
    fn keys_of_an_ineligible_member_spread_over_all_others_and_return() {
        let maglev = maglev(&named(5), &[1; 5]);
        let others = Field::only(&[0, 1, 3, 4], 5);
        let mut gone = [0; 5];
        for key in 0..50_000 {
            let home = pick(&maglev, &Field::idle(5), key).unwrap();
            let now = pick(&maglev, &others, key).unwrap();
            if home == 2 {
                gone[now as usize] += 1;
            } else {
                assert_eq!(now, home);
            }
        }
        assert!([0, 1, 3, 4].iter().all(|member| gone[*member] > 2_000), "{gone:?}");
    }

    #[test]
    fn an_overloaded_member_gives_its_keys_away() {
        let maglev = Maglev::new(&seats_of(&named(4), &[1; 4]), Some(1.5));
        let mut members = Field::idle(4);
        let home = pick(&maglev, &members, 1).unwrap();
        members[home as usize].in_flight = 4;
        assert!(pick(&maglev, &members, 1).is_some_and(|member| member != home));
    }

    #[test]
    fn sizes_are_prime() {
        for size in SIZES {
            assert!((2..size).take_while(|divisor| divisor * divisor <= size).all(|divisor| size % divisor != 0));
        }
    }

    #[test]
    fn a_table_never_changes() {
        let table = maglev(&named(5), &[1, 2, 3, 4, 5]).table;
        let sum = table.iter().fold(0, |sum, seat| mix(sum ^ u64::from(*seat)));
        // By an independent implementation in Python, of Envoy's loop over rounds.
        assert_eq!(sum, 0xE632_C491_265A_7547);
    }
}
