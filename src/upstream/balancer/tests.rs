//! What holds for every kind of balancer.

use proptest::prelude::*;

use super::testing::{Field, State, named, seats_of};
use super::*;

const KINDS: [Kind; 8] = [
    Kind::RoundRobin,
    Kind::Random,
    Kind::LeastRequest,
    Kind::Ewma,
    Kind::RingHash { bound: None },
    Kind::RingHash { bound: Some(1.25) },
    Kind::Maglev { bound: None },
    Kind::Maglev { bound: Some(1.0) },
];

/// A member's weight and state.
fn member() -> impl Strategy<Value = (u32, State)> {
    let weight = prop_oneof![0_u32..4, 0_u32..1_000];
    let in_flight = prop_oneof![Just(0_u32), 0_u32..5, any::<u32>()];
    let ramp = prop_oneof![Just(1.0_f32), 0.001_f32..1.0];
    let latency = prop_oneof![Just(0.0_f64), 1.0_f64..1e10];
    (weight, any::<bool>(), in_flight, ramp, latency)
        .prop_map(|(weight, eligible, in_flight, ramp, latency)| (weight, State { eligible, in_flight, ramp, latency }))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_pick_is_eligible_and_there_is_one_if_any_is(
        members in prop::collection::vec(member(), 0..24),
        seed in any::<u64>(),
    ) {
        let mut random = fastrand::Rng::with_seed(seed);
        let (weights, states): (Vec<u32>, Vec<State>) = members.into_iter().unzip();
        let names = named(weights.len());
        let seats = seats_of(&names, &weights);
        let members = Field(states);
        let may = |member: u32| weights[member as usize] > 0 && members.eligible(member);
        let any = (0..weights.len() as u32).any(may);
        for kind in KINDS {
            let balancer = Balancer::new(kind, &seats);
            for key in 0..40_u32 {
                let pick = balancer.pick(&members, &key.to_le_bytes()[..key as usize % 5], &mut || random.u64(..));
                prop_assert_eq!(pick.is_some(), any, "{:?}", kind);
                prop_assert!(pick.is_none_or(may), "{:?} picked {:?}", kind, pick);
            }
        }
    }
}

#[test]
fn a_pick_names_the_member_not_the_seat() {
    let seats =
        [Seat { member: 5, weight: 0, name: "10.0.0.1:80" }, Seat { member: 3, weight: 1, name: "10.0.0.2:80" }];
    for kind in KINDS {
        assert_eq!(Balancer::new(kind, &seats).pick(&Field::idle(6), b"key", &mut || 0), Some(3), "{kind:?}");
    }
}

#[test]
fn nobody_to_pick_is_none() {
    for balancer in KINDS.map(|kind| Balancer::new(kind, &[])).into_iter().chain([Balancer::default()]) {
        assert_eq!(balancer.pick(&Field::idle(0), b"key", &mut || 0), None);
    }
}

#[test]
fn only_a_round_robin_resumes_a_round_robin() {
    let (names, members) = (named(3), Field::idle(3));
    let seats = seats_of(&names, &[1; 3]);
    let pick = |balancer: &Balancer| balancer.pick(&members, b"key", &mut || 0);
    let old = Balancer::new(Kind::RoundRobin, &seats);
    assert_eq!(pick(&old), Some(0));
    assert_eq!(pick(&Balancer::new(Kind::RoundRobin, &seats).resume(&old)), Some(1));
    assert_eq!(pick(&Balancer::new(Kind::RoundRobin, &seats).resume(&Balancer::new(Kind::Random, &seats))), Some(0));
    let random = Balancer::new(Kind::Random, &seats).resume(&old);
    assert!(matches!(random, Balancer::Random(_)));
}
