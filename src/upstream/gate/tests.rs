//! The gate: by hand, by a model that polls at random, and under real threads.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::AtomicUsize;
use std::task::{Context, Poll, Waker};

use fastrand::Rng;

use super::*;

const POLICY: Policy = Policy { limit: None, queue: 3, patience: Duration::from_secs(1) };

type Entering = Pin<Box<dyn Future<Output = Result<Admission, Refusal>>>>;

/// One who is on the way in, polled by hand.
fn arriving(gate: &Arc<Gate>, limit: u32, queue: u32, now: Instant) -> Entering {
    let gate = Arc::clone(gate);
    Box::pin(async move { gate.enter(limit, &Policy { queue, ..POLICY }, now).await })
}

fn poll(entering: &mut Entering) -> Option<Result<Admission, Refusal>> {
    match entering.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => Some(result),
        Poll::Pending => None,
    }
}

/// One who waits.
fn waiting(gate: &Arc<Gate>, now: Instant) -> Entering {
    let mut entering = arriving(gate, 1, 3, now);
    assert!(poll(&mut entering).is_none());
    entering
}

async fn inside(gate: &Arc<Gate>, limit: u32) -> Admission {
    gate.enter(limit, &POLICY, Instant::now()).await.unwrap()
}

/// Which of those waiting was let in; the admission is dropped, for the next one.
fn served(line: &mut [Entering], left: &mut Vec<usize>) -> Option<usize> {
    let index = left.iter().position(|&index| matches!(poll(&mut line[index]), Some(Ok(_))))?;
    Some(left.remove(index))
}

#[tokio::test]
async fn up_to_the_limit_all_enter_at_once() {
    let gate = Gate::new();
    let places = [inside(&gate, 2).await, inside(&gate, 2).await];
    assert_eq!((gate.in_use(), gate.waiting()), (2, 0));
    let refused = gate.enter(2, &Policy { queue: 0, ..POLICY }, Instant::now()).await;
    assert_eq!(refused.err(), Some(Refusal::Full));
    drop(places);
    assert_eq!(gate.in_use(), 0);
    let unlimited = [inside(&gate, u32::MAX).await, inside(&gate, u32::MAX).await];
    assert_eq!(gate.in_use(), unlimited.len() as u32);
}

#[tokio::test(start_paused = true)]
async fn patience_ends() {
    let gate = Gate::new();
    let _place = inside(&gate, 1).await;
    let start = tokio::time::Instant::now();
    assert_eq!(gate.enter(1, &POLICY, start.into_std()).await.err(), Some(Refusal::TimedOut));
    assert_eq!(start.elapsed().as_secs(), 1);
    assert_eq!((gate.in_use(), gate.waiting()), (1, 0));
}

#[tokio::test]
async fn a_short_line_is_served_in_order_and_a_standing_one_newest_first() {
    for (pause, expected) in [(0, [0, 1, 2]), (49, [0, 1, 2]), (50, [2, 1, 0])] {
        let gate = Gate::new();
        let place = inside(&gate, 1).await;
        let now = Instant::now();
        let mut line: Vec<_> = (0..3).map(|n| waiting(&gate, now + Duration::from_millis(pause * n))).collect();
        assert_eq!(gate.waiting(), 3);
        drop(place);
        let mut left = vec![0, 1, 2];
        let order: Vec<_> = (0..3).filter_map(|_| served(&mut line, &mut left)).collect();
        assert_eq!(order, expected, "arrivals every {pause} ms");
    }
}

#[tokio::test]
async fn a_full_line_refuses_the_newcomer_but_the_oldest_once_it_stands() {
    let gate = Gate::new();
    let _place = inside(&gate, 1).await;
    let now = Instant::now();
    let mut line: Vec<_> = (0..3).map(|_| waiting(&gate, now)).collect();
    let newcomer = poll(&mut arriving(&gate, 1, 3, now));
    assert!(matches!(newcomer, Some(Err(Refusal::Full))));
    let _newest = waiting(&gate, now + STANDING);
    assert!(matches!(poll(&mut line[0]), Some(Err(Refusal::Full))));
    assert!(poll(&mut line[1]).is_none());
    assert_eq!((gate.in_use(), gate.waiting()), (1, 3));
}

#[tokio::test]
async fn who_gives_up_leaves_no_gap_even_with_the_admission_under_way() {
    let gate = Gate::new();
    let place = inside(&gate, 1).await;
    let now = Instant::now();
    let (first, second, mut third) = (waiting(&gate, now), waiting(&gate, now), waiting(&gate, now));
    drop(second);
    assert_eq!(gate.waiting(), 2);
    drop(place);
    assert_eq!((gate.in_use(), gate.waiting()), (1, 1), "the place is on its way to the first");
    drop(first);
    let third = poll(&mut third).unwrap().unwrap();
    assert_eq!((gate.in_use(), gate.waiting()), (1, 0));
    drop(third);
    assert_eq!(gate.in_use(), 0);
}

#[tokio::test]
async fn a_limit_that_grows_lets_those_in_who_wait_and_one_that_shrinks_waits_for_leavers() {
    let gate = Gate::new();
    let mut places = vec![inside(&gate, 1).await];
    let now = Instant::now();
    let mut line = [waiting(&gate, now), waiting(&gate, now)];
    assert!(poll(&mut arriving(&gate, 3, 0, now)).is_some_and(|refused| refused.is_err()));
    places.extend(line.iter_mut().map(|waiter| poll(waiter).unwrap().unwrap()));
    assert_eq!(gate.in_use(), 3);
    let mut late = waiting(&gate, now);
    places.truncate(1);
    assert_eq!((gate.in_use(), gate.waiting()), (1, 1), "two have left and none came");
    places.clear();
    assert!(poll(&mut late).is_some());
}

/// Everything in random order; after each step nobody may wait beside a free place.
#[tokio::test]
async fn nobody_waits_beside_a_free_place() {
    for seed in 0..300 {
        let mut random = Rng::with_seed(seed);
        let gate = Gate::new();
        let now = Instant::now();
        let (mut line, mut places): (Vec<Entering>, Vec<Admission>) = (Vec::new(), Vec::new());
        let mut limit = 1;
        for step in 0..300 {
            match random.u32(0..10) {
                0..4 => {
                    limit = if random.u32(0..8) == 0 { random.u32(1..6) } else { limit };
                    line.push(arriving(&gate, limit, random.u32(0..6), now + Duration::from_millis(step * 7)));
                    let mut newcomer = line.len() - 1..line.len();
                    settle(&mut line, &mut places, &mut newcomer);
                }
                4..7 if !places.is_empty() => drop(places.swap_remove(random.usize(..places.len()))),
                7 if !line.is_empty() => drop(line.swap_remove(random.usize(..line.len()))),
                _ => {
                    let mut all = 0..line.len();
                    settle(&mut line, &mut places, &mut all);
                }
            }
            assert!(gate.waiting() == 0 || gate.in_use() >= limit, "seed {seed}, step {step}: {gate:?}");
            assert!(gate.in_use() as usize >= places.len());
        }
        drop((line, places));
        assert_eq!((gate.in_use(), gate.waiting()), (0, 0), "seed {seed}");
    }
}

/// Polls some of the line and keeps what they got.
fn settle(line: &mut Vec<Entering>, places: &mut Vec<Admission>, some: &mut std::ops::Range<usize>) {
    for index in some.rev() {
        if let Some(result) = poll(&mut line[index]) {
            drop(line.swap_remove(index));
            places.extend(result);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_tasks_with_cancellations_never_exceed_the_limit_nor_lose_a_place() {
    const LIMIT: usize = 5;
    let gate = Gate::new();
    let busy = Arc::new(AtomicUsize::new(0));
    let tasks: Vec<_> =
        (0..64).map(|seed| tokio::spawn(visit(Arc::clone(&gate), Arc::clone(&busy), LIMIT, seed))).collect();
    let mut entered = 0;
    for task in tasks {
        entered += tokio::time::timeout(Duration::from_secs(60), task).await.unwrap().unwrap();
    }
    assert!(entered > 1_000, "{entered}");
    assert_eq!((gate.in_use(), gate.waiting()), (0, 0));
}

/// Comes and goes, at times before it was let in; returns how often it was.
async fn visit(gate: Arc<Gate>, busy: Arc<AtomicUsize>, limit: usize, seed: u64) -> u32 {
    let mut random = Rng::with_seed(seed);
    let mut entered = 0;
    for _ in 0..300 {
        let policy = Policy { limit: None, queue: 40, patience: Duration::from_millis(random.u64(1..20)) };
        let haste = Duration::from_micros(random.u64(0..5_000));
        let entering = gate.enter(limit as u32, &policy, Instant::now());
        let entering = async {
            if random.bool() { entering.await.ok() } else { tokio::time::timeout(haste, entering).await.ok()?.ok() }
        };
        let Some(_place) = entering.await else { continue };
        entered += 1;
        assert!(busy.fetch_add(1, AcqRel) < limit);
        for _ in 0..random.u32(0..4) {
            tokio::task::yield_now().await;
        }
        busy.fetch_sub(1, AcqRel);
    }
    entered
}
