//! Smooth weighted round robin, laid out ahead.
//!
//! One cycle of nginx's smooth weighted round robin is computed when the members change; a pick
//! then only advances a counter. Within a cycle each member comes exactly as often as its weight
//! says, evenly spread.

use std::sync::atomic::{AtomicUsize, Ordering};

/// A cycle is at most this long; larger weights are scaled down together.
const MAX_CYCLE: u64 = 1 << 16;

/// An endless turn over members, by index.
#[derive(Debug, Default)]
pub struct RoundRobin {
    cycle: Box<[u32]>,
    next: AtomicUsize,
}

impl RoundRobin {
    /// Lays out a cycle over `(member, weight)`; weights of zero get no turn.
    #[must_use]
    pub fn new(members: &[(u32, u32)]) -> Self {
        let members = reduced(members);
        let total: u64 = members.iter().map(|(_, weight)| u64::from(*weight)).sum();
        let total = i64::try_from(total).unwrap_or(0);
        let mut current = vec![0_i64; members.len()];
        let mut cycle = Vec::new();
        for _ in 0..total {
            let mut best = 0;
            for (index, (_, weight)) in members.iter().enumerate() {
                current[index] += i64::from(*weight);
                if current[index] > current[best] {
                    best = index;
                }
            }
            current[best] -= total;
            cycle.push(members[best].0);
        }
        Self { cycle: cycle.into(), next: AtomicUsize::new(0) }
    }

    /// Continues where another turn stood, so that a change of members does not begin anew with
    /// the first.
    #[must_use]
    pub fn resume(self, other: &Self) -> Self {
        self.next.store(other.next.load(Ordering::Relaxed), Ordering::Relaxed);
        self
    }

    /// The next member that `eligible` accepts, or `None` when it accepts none.
    pub fn pick(&self, mut eligible: impl FnMut(u32) -> bool) -> Option<u32> {
        let length = self.cycle.len();
        if length == 0 {
            return None;
        }
        let start = self.next.fetch_add(1, Ordering::Relaxed);
        (0..length).map(|step| self.cycle[start.wrapping_add(step) % length]).find(|member| eligible(*member))
    }
}

/// The same proportions with the smallest weights, and a cycle that stays in bounds.
fn reduced(members: &[(u32, u32)]) -> Vec<(u32, u32)> {
    let members = members.iter().copied().filter(|(_, weight)| *weight > 0);
    let divisor = members.clone().fold(0, |divisor, (_, weight)| gcd(divisor, weight)).max(1);
    let mut members: Vec<_> = members.map(|(member, weight)| (member, weight / divisor)).collect();
    let total: u64 = members.iter().map(|(_, weight)| u64::from(*weight)).sum();
    if total > MAX_CYCLE {
        for (_, weight) in &mut members {
            let scaled = u64::from(*weight) * MAX_CYCLE / total;
            *weight = u32::try_from(scaled).unwrap_or(u32::MAX).max(1);
        }
    }
    members
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picks(members: &[(u32, u32)], count: usize) -> Vec<u32> {
        let turn = RoundRobin::new(members);
        (0..count).filter_map(|_| turn.pick(|_| true)).collect()
    }

    #[test]
    fn turns_are_smooth() {
        // The example of nginx's commit that introduced the algorithm (52327e0627f4).
        assert_eq!(picks(&[(0, 5), (1, 1), (2, 1)], 7), [0, 0, 1, 0, 2, 0, 0]);
        assert_eq!(picks(&[(0, 1), (1, 1)], 4), [0, 1, 0, 1]);
        assert_eq!(picks(&[(7, 300)], 2), [7, 7]);
    }

    #[test]
    fn a_cycle_is_exact() {
        let members = [(0, 30), (1, 20), (2, 50), (3, 1)];
        let all = picks(&members, 101 * 3);
        for (member, weight) in members {
            assert_eq!(all.iter().filter(|pick| **pick == member).count(), weight as usize * 3);
        }
    }

    #[test]
    fn the_ineligible_are_passed_over() {
        let turn = RoundRobin::new(&[(0, 5), (1, 1)]);
        assert!((0..20).all(|_| turn.pick(|member| member == 1) == Some(1)));
        assert_eq!(turn.pick(|_| false), None);
        assert_eq!(RoundRobin::default().pick(|_| true), None);
        assert_eq!(RoundRobin::new(&[(0, 0)]).pick(|_| true), None);
    }

    #[test]
    fn long_cycles_stay_in_bounds() {
        let turn = RoundRobin::new(&[(0, 65_536), (1, 65_535), (2, 1)]);
        assert!(turn.cycle.len() as u64 <= MAX_CYCLE + 3, "{}", turn.cycle.len());
        assert!(turn.cycle.contains(&2));
    }
}
