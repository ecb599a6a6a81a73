//! The breaker, driven by hand.

use std::sync::atomic::AtomicUsize;
use std::thread;

use super::*;

const POLICY: Policy = Policy {
    failure_ratio: Some(0.5),
    of_at_least: 10,
    within: Duration::from_secs(10),
    consecutive_failures: Some(5),
    open: Duration::from_secs(5),
    longest: Duration::from_secs(15),
    probes: 2,
};

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A breaker that opened at the given instant.
fn opened(now: Instant) -> Breaker {
    let breaker = Breaker::new(now);
    let said = results(&breaker, now, "xxxxx");
    assert_eq!(said.last(), Some(&Some(State::Open)));
    breaker
}

/// Records `o` for successes and `x` for failures, each with its own pass.
fn results(breaker: &Breaker, now: Instant, results: &str) -> Vec<Option<State>> {
    let record = |ok| breaker.record(now, breaker.permit(now, &POLICY).unwrap(), ok, &POLICY);
    results.chars().map(|result| record(result == 'o')).collect()
}

#[test]
fn failures_open_it_in_a_row_or_by_their_share() {
    let cases = [
        ("xxxx", State::Closed),
        ("xxxxx", State::Open),
        ("xxxxoxxxx", State::Closed),
        ("oxoxoxoxox", State::Open),
        ("oxoxoxoxo", State::Closed),
        ("oooxoxoxox", State::Closed),
        ("oooooooooo", State::Closed),
    ];
    for (said, state) in cases {
        let now = Instant::now();
        let breaker = Breaker::new(now);
        results(&breaker, now, said);
        assert_eq!(breaker.state(now), state, "after {said}");
    }
}

#[test]
fn failures_out_of_the_window_are_forgotten() {
    let now = Instant::now();
    let breaker = Breaker::new(now);
    results(&breaker, now, "xoxoxoxo");
    results(&breaker, now + seconds(11), "xo");
    assert_eq!(breaker.state(now + seconds(11)), State::Closed);
}

#[test]
fn without_rules_it_never_opens() {
    let now = Instant::now();
    let breaker = Breaker::new(now);
    let policy = Policy { failure_ratio: None, consecutive_failures: None, ..POLICY };
    for _ in 0..1_000 {
        assert_eq!(breaker.record(now, breaker.permit(now, &policy).unwrap(), false, &policy), None);
    }
}

#[test]
fn open_it_refuses_and_says_for_how_long() {
    let now = Instant::now();
    let breaker = opened(now);
    assert_eq!(breaker.permit(now + seconds(2), &POLICY), Err(Refused { retry_after: seconds(3) }));
    assert_eq!(breaker.state(now + seconds(4)), State::Open);
    assert_eq!(breaker.state(now + seconds(5)), State::HalfOpen);
}

#[test]
fn as_many_successful_probes_as_asked_for_close_it() {
    let now = Instant::now();
    let breaker = opened(now);
    let later = now + seconds(5);
    assert_eq!(results(&breaker, later, "oo"), [None, Some(State::Closed)]);
    assert!(!breaker.permit(later, &POLICY).unwrap().is_probe());
    assert_eq!(results(&breaker, later, "xoxox"), [None; 5], "it begins anew");
}

#[test]
fn each_failed_probe_doubles_the_open_time_until_it_closes() {
    let mut now = Instant::now();
    let breaker = opened(now);
    for open in [5, 10, 15, 15] {
        assert_eq!(breaker.permit(now, &POLICY), Err(Refused { retry_after: seconds(open) }));
        now += seconds(open);
        assert_eq!(results(&breaker, now, "ox").last(), Some(&Some(State::Open)));
    }
    now += seconds(15);
    results(&breaker, now, "oo");
    results(&breaker, now, "xxxxx");
    assert_eq!(breaker.permit(now, &POLICY), Err(Refused { retry_after: seconds(5) }));
}

#[test]
fn tries_begun_before_it_opened_neither_close_nor_reopen_it() {
    let now = Instant::now();
    let breaker = Breaker::new(now);
    let early: Vec<_> = (0..20).map(|_| breaker.permit(now, &POLICY).unwrap()).collect();
    results(&breaker, now, "xxxxx");
    for (pass, ok) in early[..10].iter().zip([true, false].into_iter().cycle()) {
        assert_eq!(breaker.record(now + seconds(6), *pass, ok, &POLICY), None);
    }
    assert_eq!(breaker.state(now + seconds(6)), State::HalfOpen);
    results(&breaker, now + seconds(6), "oo");
    for pass in &early[10..] {
        assert_eq!(breaker.record(now + seconds(6), *pass, false, &POLICY), None, "nor when it is closed again");
    }
    assert_eq!(results(&breaker, now + seconds(6), "xxxx"), [None; 4], "nor by adding to later ones");
}

#[test]
fn a_probe_of_an_earlier_half_open_time_changes_nothing() {
    let now = Instant::now();
    let breaker = opened(now);
    let later = now + seconds(5);
    let slow = breaker.permit(later, &POLICY).unwrap();
    results(&breaker, later, "x");
    assert_eq!(breaker.record(later + seconds(11), slow, false, &POLICY), None);
    assert_eq!(breaker.state(later + seconds(11)), State::HalfOpen);
}

#[test]
fn a_probe_slot_comes_back_when_abandoned_or_lost() {
    let now = Instant::now();
    let breaker = opened(now);
    let later = now + seconds(5);
    let first = breaker.permit(later, &POLICY).unwrap();
    let lost = breaker.permit(later + seconds(1), &POLICY).unwrap();
    assert!(first.is_probe() && lost.is_probe());
    assert_eq!(breaker.permit(later + seconds(1), &POLICY), Err(Refused { retry_after: WHILE_PROBING }));
    breaker.abandon(first);
    breaker.abandon(first);
    assert!(breaker.permit(later + seconds(5), &POLICY).is_ok());
    assert!(breaker.permit(later + seconds(5), &POLICY).is_err());
    assert!(breaker.permit(later + seconds(6), &POLICY).is_ok());
    assert_eq!(breaker.record(later + seconds(7), lost, false, &POLICY), Some(State::Open), "it tells all the same");
}

#[test]
fn threads_never_have_more_probes_under_way_than_allowed() {
    let start = Instant::now();
    for round in 0..50 {
        let breaker = opened(start);
        let (under_way, closings) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let work = || {
            for _ in 0..200 {
                let Ok(pass) = breaker.permit(start + seconds(5), &POLICY) else { continue };
                if !pass.is_probe() {
                    return;
                }
                assert!(under_way.fetch_add(1, Relaxed) < 2);
                thread::yield_now();
                under_way.fetch_sub(1, Relaxed);
                if fastrand::bool() {
                    breaker.abandon(pass);
                } else if breaker.record(start + seconds(5), pass, true, &POLICY) == Some(State::Closed) {
                    closings.fetch_add(1, Relaxed);
                }
            }
        };
        thread::scope(|scope| {
            (0..4).for_each(|_| drop(scope.spawn(work)));
        });
        assert_eq!(closings.into_inner(), 1, "round {round}");
    }
}

#[test]
fn of_many_threads_that_fail_at_once_one_opens_it() {
    let now = Instant::now();
    for _ in 0..500 {
        let breaker = Breaker::new(now);
        results(&breaker, now, "xxxx");
        assert_eq!(openings(&breaker, now), 1);
        assert_eq!(openings(&breaker, now + seconds(5)), 1, "of two probes");
        assert_eq!(breaker.permit(now + seconds(5), &POLICY), Err(Refused { retry_after: seconds(10) }));
    }
}

/// Lets two tries fail at the same time; counts how often that opened the breaker.
fn openings(breaker: &Breaker, now: Instant) -> usize {
    // A barrier that sleeps would wake them one after the other.
    let ready = AtomicUsize::new(0);
    let fail = &|pass| {
        ready.fetch_add(1, Relaxed);
        while ready.load(Relaxed) < 2 {
            thread::yield_now();
        }
        breaker.record(now, pass, false, &POLICY).is_some()
    };
    thread::scope(|scope| {
        let tries = [(); 2].map(|()| breaker.permit(now, &POLICY).unwrap());
        let threads = tries.map(|pass| scope.spawn(move || fail(pass)));
        threads.into_iter().map(|thread| usize::from(thread.join().unwrap())).sum()
    })
}
