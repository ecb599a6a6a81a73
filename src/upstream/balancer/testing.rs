//! Members whose state a test sets, and what tests of balancers share.

use std::ops::{Index, IndexMut};

use super::{Members, Seat};

/// The state of one member.
#[derive(Clone, Debug)]
pub(super) struct State {
    pub eligible: bool,
    pub in_flight: u32,
    pub ramp: f32,
    pub latency: f64,
}

/// Members as a test sets them.
#[derive(Clone, Debug)]
pub(super) struct Field(pub Vec<State>);

impl Field {
    /// Eligible members that do nothing.
    pub fn idle(count: usize) -> Self {
        Self(vec![State { eligible: true, in_flight: 0, ramp: 1.0, latency: 0.0 }; count])
    }

    /// Members of which only these are eligible.
    pub fn only(eligible: &[u32], count: usize) -> Self {
        let mut field = Self::idle(count);
        for (member, state) in (0..).zip(&mut field.0) {
            state.eligible = eligible.contains(&member);
        }
        field
    }
}

impl Index<usize> for Field {
    type Output = State;

    fn index(&self, member: usize) -> &State {
        &self.0[member]
    }
}

impl IndexMut<usize> for Field {
    fn index_mut(&mut self, member: usize) -> &mut State {
        &mut self.0[member]
    }
}

impl Members for Field {
    fn eligible(&self, member: u32) -> bool {
        self[member as usize].eligible
    }

    fn in_flight(&self, member: u32) -> u32 {
        self[member as usize].in_flight
    }

    fn ramp(&self, member: u32) -> f32 {
        self[member as usize].ramp
    }

    fn latency(&self, member: u32) -> f64 {
        self[member as usize].latency
    }
}

/// Seats of these weights, without names.
pub(super) fn seats(weights: &[u32]) -> Vec<Seat<'static>> {
    (0..).zip(weights).map(|(member, weight)| Seat { member, weight: *weight, name: "" }).collect()
}

/// Names for so many members.
pub(super) fn named(count: usize) -> Vec<String> {
    (0..count).map(|member| format!("10.0.{}.{}:8080", member / 256, member % 256)).collect()
}

/// Seats of these names and weights.
pub(super) fn seats_of<'a>(names: &'a [String], weights: &[u32]) -> Vec<Seat<'a>> {
    let pairs = names.iter().zip(weights);
    (0..).zip(pairs).map(|(member, (name, weight))| Seat { member, weight: *weight, name }).collect()
}

/// How often each member comes in so many picks.
pub(super) fn counts(members: usize, picks: usize, mut pick: impl FnMut() -> Option<u32>) -> Vec<usize> {
    let mut counts = vec![0; members];
    for _ in 0..picks {
        counts[pick().expect("a member is eligible") as usize] += 1;
    }
    counts
}

/// Checks that a count is within four standard deviations of a binomial distribution.
pub(super) fn assert_share(count: usize, trials: usize, probability: f64) {
    let expected = trials as f64 * probability;
    let deviation = (expected * (1.0 - probability)).sqrt();
    let off = (count as f64 - expected).abs();
    assert!(off <= 4.0 * deviation, "{count} of {trials} instead of {expected:.0} ± {deviation:.0}");
}
