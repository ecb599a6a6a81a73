//! An endpoint's record, and the comparison with its peers.

use super::*;

const POLICY: Policy = Policy {
    consecutive_failures: Some(3),
    failure_ratio: Some(0.3),
    of_at_least: 20,
    base: Duration::from_secs(30),
    longest: Duration::from_secs(80),
    at_most: 0.5,
};

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// What is compared, with which threshold, the requests and failures of each, and who stands out.
type Comparison = (&'static str, f64, &'static [(u64, u64)], &'static [usize]);

/// Tallies of so many requests and failures.
fn tallies(of: &[(u64, u64)]) -> Vec<Tally> {
    of.iter().map(|&(requests, failures)| Tally { successes: requests - failures, failures }).collect()
}

#[test]
fn every_third_failure_in_a_row_ejects() {
    let outlier = Outlier::default();
    let said: String =
        "xxoxxxxxxox".chars().map(|result| if outlier.record(result == 'o', &POLICY) { 'E' } else { '.' }).collect();
    assert_eq!(said, ".....E..E..");
    assert!(!outlier.record(false, &Policy { consecutive_failures: None, ..POLICY }));
}

#[test]
fn a_sweep_sees_the_last_ten() {
    let outlier = Outlier::default();
    outlier.record(false, &POLICY);
    for sweep in 0..12 {
        outlier.record(true, &POLICY);
        let expected = Tally { successes: (sweep + 1).min(10), failures: u64::from(sweep < 10) };
        assert_eq!(outlier.counts(), expected, "sweep {sweep}");
    }
}

#[test]
fn ejections_in_a_row_grow_to_the_longest() {
    let outlier = Outlier::default();
    let mut now = Instant::now();
    for rest in [30, 60, 80, 80] {
        let until = outlier.eject(now, &POLICY);
        assert_eq!(until - now, seconds(rest));
        assert_eq!(outlier.eject(now + seconds(1), &POLICY), until, "a second verdict changes nothing");
        assert!(outlier.is_ejected(until - seconds(1)) && !outlier.is_ejected(until));
        now = until;
    }
}

#[test]
fn quiet_shortens_the_next_ejection() {
    for (quiet, rest) in [(0, 80), (29, 80), (30, 80), (60, 60), (89, 60), (90, 30), (10_000, 30)] {
        let outlier = Outlier::default();
        let mut now = Instant::now();
        for _ in 0..3 {
            now = outlier.eject(now, &POLICY);
        }
        (0..=quiet).for_each(|second| outlier.settle(now + seconds(second), &POLICY));
        now += seconds(quiet);
        assert_eq!(outlier.eject(now, &POLICY) - now, seconds(rest), "after {quiet} s");
    }
}

#[test]
fn a_passing_check_readmits_but_does_not_pardon() {
    let outlier = Outlier::default();
    let now = Instant::now();
    outlier.eject(now, &POLICY);
    outlier.readmit();
    assert!(!outlier.is_ejected(now));
    outlier.settle(now + seconds(1), &POLICY);
    assert_eq!(outlier.eject(now + seconds(2), &POLICY), now + seconds(62));
}

#[test]
fn late_results_of_tries_before_the_ejection_do_not_eject_again() {
    let outlier = Outlier::default();
    outlier.eject(Instant::now(), &POLICY);
    for _ in 0..50 {
        outlier.record(false, &POLICY);
    }
    assert_eq!(outlier.counts(), Tally::default());
    assert_eq!([outlier.record(false, &POLICY), outlier.record(false, &POLICY)], [false, false]);
    assert_eq!(outlier.counts().failures, 2);
}

#[test]
fn the_cap_leaves_one_and_takes_one() {
    let cases = [(0, 0.5, 0), (1, 1.0, 0), (2, 0.1, 1), (3, 0.5, 1), (4, 0.5, 2), (4, 1.0, 3), (100, 0.29, 29)];
    for (count, at_most, expected) in cases {
        assert_eq!(cap(count, &Policy { at_most, ..POLICY }), expected, "{at_most} of {count}");
    }
}

#[test]
fn what_fails_more_than_its_peers_stands_out() {
    let cases: [Comparison; 11] = [
        ("one of three", 0.3, &[(100, 0), (100, 50), (100, 0)], &[1]),
        ("one of three, few requests", 0.3, &[(20, 0), (20, 10), (20, 0)], &[1]),
        ("one of two", 0.3, &[(100, 1), (100, 60)], &[1]),
        ("a little of many", 0.03, &[(1_000, 0), (1_000, 0), (1_000, 50)], &[2]),
        ("all alike", 0.3, &[(100, 90), (100, 90), (100, 90)], &[]),
        ("all alike but for chance", 0.03, &[(50, 5), (50, 8), (50, 4)], &[]),
        ("one failure in twenty is chance", 0.03, &[(20, 1), (20, 0), (20, 0)], &[]),
        ("too few", 0.3, &[(19, 19), (100, 0), (100, 0)], &[]),
        ("peers unknown", 0.3, &[(100, 100), (0, 0), (3, 0)], &[]),
        ("worst first", 0.3, &[(100, 70), (100, 0), (100, 0), (100, 90), (100, 0)], &[3, 0]),
        ("alone", 0.3, &[(100, 100)], &[]),
    ];
    for (case, ratio, of, expected) in cases {
        let policy = Policy { failure_ratio: Some(ratio), ..POLICY };
        assert_eq!(standing_out(&tallies(of), &policy), expected, "{case}");
    }
    let off = Policy { failure_ratio: None, ..POLICY };
    assert!(standing_out(&tallies(&[(100, 0), (100, 100)]), &off).is_empty());
}
