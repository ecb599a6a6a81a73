//! The limit in front of a simulated endpoint that queues what it cannot serve at once.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use fastrand::Rng;

use super::*;

/// A server that serves so many at once, each in about `service`; the rest queue inside it.
struct Simulation {
    gradient: Gradient,
    start: Instant,
    /// Microseconds since the start.
    now: u64,
    random: Rng,
    /// When each of the server's places becomes free.
    places: BinaryHeap<Reverse<u64>>,
    /// When those in flight end, when they began, and whether they were dropped.
    in_flight: BinaryHeap<Reverse<(u64, u64, bool)>>,
}

/// What one phase of the simulation showed.
#[derive(Debug, Default)]
struct Seen {
    limits: Vec<u32>,
    latencies: Vec<u64>,
    accepted: u64,
}

/// The load and the server.
#[derive(Clone, Copy)]
struct Scene {
    seconds: u64,
    per_second: u64,
    capacity: usize,
    /// Microseconds.
    service: u64,
    /// Whether the service times spread widely, from a tenth to four times as long.
    uneven: bool,
    /// With so many in flight, the server drops what comes.
    drops_above: usize,
}

/// Three times what the server can do.
const OVERLOAD: Scene =
    Scene { seconds: 60, per_second: 6_000, capacity: 20, service: 10_000, uneven: false, drops_above: usize::MAX };

impl Simulation {
    fn new(policy: Policy) -> Self {
        let start = Instant::now();
        let (places, in_flight) = (BinaryHeap::new(), BinaryHeap::new());
        Self { gradient: Gradient::new(policy, start), start, now: 0, random: Rng::with_seed(1), places, in_flight }
    }

    /// Plays a scene; what it shows is of its second half, when the limit has settled.
    fn play(&mut self, scene: Scene) -> Seen {
        let mut seen = Seen::default();
        let (begin, end) = (self.now, self.now + scene.seconds * 1_000_000);
        while self.now < end {
            // Arrivals as of many independent clients.
            self.now += (-self.random.f64().max(1e-9).ln() * 1e6 / scene.per_second as f64) as u64;
            let settled = self.now > begin.midpoint(end);
            self.complete(settled.then_some(&mut seen));
            if self.in_flight.len() < self.gradient.limit() as usize {
                self.accept(scene);
                seen.accepted += u64::from(settled);
            }
            if settled {
                seen.limits.push(self.gradient.limit());
            }
        }
        seen
    }

    fn accept(&mut self, scene: Scene) {
        if self.in_flight.len() >= scene.drops_above {
            self.in_flight.push(Reverse((self.now + scene.service, self.now, true)));
            return;
        }
        // The place that is free first; a capacity that became smaller takes the first ones away.
        let mut from = self.now;
        while self.places.len() >= scene.capacity
            && let Some(Reverse(free)) = self.places.pop()
        {
            from = free.max(self.now);
        }
        let roll = self.random.f64();
        let factor = if scene.uneven { (-(1.0 - roll).ln()).clamp(0.1, 4.0) } else { 0.7 + 0.6 * roll };
        let end = from + (scene.service as f64 * factor) as u64;
        self.places.push(Reverse(end));
        self.in_flight.push(Reverse((end, self.now, false)));
    }

    fn complete(&mut self, mut seen: Option<&mut Seen>) {
        while let Some(&Reverse((end, began, dropped))) = self.in_flight.peek()
            && end <= self.now
        {
            let in_flight = self.in_flight.len() as u32;
            self.in_flight.pop();
            let now = self.start + Duration::from_micros(end);
            self.gradient.sample(now, Duration::from_micros(end - began), in_flight, dropped);
            if let Some(seen) = &mut seen {
                seen.latencies.push(end - began);
            }
        }
    }
}

impl Seen {
    /// The limit below which it was for a share of the time.
    fn limit(&mut self, share: f64) -> u32 {
        self.limits.sort_unstable();
        self.limits[(share * (self.limits.len() - 1) as f64) as usize]
    }

    /// In milliseconds.
    fn latency(&mut self, share: f64) -> f64 {
        self.latencies.sort_unstable();
        self.latencies[(share * (self.latencies.len() - 1) as f64) as usize] as f64 / 1e3
    }
}

fn with_initial(initial: u32) -> Policy {
    Policy { initial, ..Policy::default() }
}

#[test]
fn overload_settles_near_the_capacity_from_wherever_it_begins() {
    for initial in [3, 20, 200, 1_000] {
        let mut seen = Simulation::new(with_initial(initial)).play(OVERLOAD);
        let limits = [seen.limit(0.02), seen.limit(0.5), seen.limit(0.98)];
        let latencies = [seen.latency(0.5), seen.latency(0.99)];
        println!("from {initial}: limits {limits:?}, latencies {latencies:?} ms, {} accepted", seen.accepted);
        assert!(limits.iter().all(|limit| (15..=60).contains(limit)), "from {initial}: {limits:?}");
        assert!(latencies[1] < 40.0, "from {initial}: {latencies:?} ms");
        assert!(seen.accepted > 30 * 2_000 * 95 / 100, "from {initial}: {} accepted", seen.accepted);
    }
}

#[test]
fn ten_minutes_of_overload_do_not_wear_the_limit_up() {
    let mut seen = Simulation::new(Policy::default()).play(Scene { seconds: 600, ..OVERLOAD });
    println!("limits {} to {}", seen.limit(0.02), seen.limit(0.98));
    assert!(seen.limit(0.02) >= 15 && seen.limit(0.98) <= 60, "{} to {}", seen.limit(0.02), seen.limit(0.98));
}

#[test]
fn a_load_that_falls_leaves_the_limit_where_it_was() {
    let mut simulation = Simulation::new(Policy::default());
    let before = simulation.play(OVERLOAD).limit(0.5);
    let mut quiet = simulation.play(Scene { per_second: 200, ..OVERLOAD });
    assert!(quiet.limit(0.0) >= before / 2 && quiet.limit(1.0) <= before * 2);
    assert_eq!(quiet.accepted, quiet.limits.len() as u64, "nobody is refused");
}

#[test]
fn a_load_that_the_server_can_bear_is_hardly_refused_however_uneven() {
    for (per_second, service) in [(200, 10_000), (1_000, 10_000), (1_600, 10_000), (16, 1_000_000), (100, 160_000)] {
        let scene = Scene { seconds: 300, per_second, service, uneven: true, ..OVERLOAD };
        let mut seen = Simulation::new(Policy::default()).play(scene);
        let refused = 1.0 - seen.accepted as f64 / seen.limits.len() as f64;
        let limits = [seen.limit(0.0), seen.limit(0.5), seen.limit(1.0)];
        println!("{per_second}/s of {service} µs: limits {limits:?}, refused {refused:.4}");
        assert!(refused < 0.04, "{per_second}/s: {refused}");
    }
}

#[test]
fn the_limit_follows_the_capacity_up_and_down() {
    let mut simulation = Simulation::new(Policy::default());
    for (capacity, least, most) in [(20, 15, 60), (60, 60, 120), (10, 7, 30), (40, 40, 80)] {
        let per_second = 300 * capacity as u64;
        let mut seen = simulation.play(Scene { capacity, per_second, ..OVERLOAD });
        println!("capacity {capacity}: {} to {}", seen.limit(0.05), seen.limit(0.95));
        assert!(seen.limit(0.05) >= least && seen.limit(0.95) <= most, "{capacity}: {}", seen.limit(0.5));
    }
}

#[test]
fn a_server_that_became_slower_is_not_taken_for_a_queue() {
    let mut simulation = Simulation::new(Policy::default());
    simulation.play(OVERLOAD);
    let mut slower = simulation.play(Scene { service: 40_000, ..OVERLOAD });
    println!("limits {} to {}", slower.limit(0.02), slower.limit(0.98));
    assert!(slower.limit(0.02) >= 15 && slower.limit(0.98) <= 60, "{} to {}", slower.limit(0.02), slower.limit(0.98));
}

#[test]
fn drops_hold_the_limit_where_latency_shows_nothing() {
    let mut seen = Simulation::new(with_initial(200)).play(Scene {
        capacity: 500,
        per_second: 60_000,
        drops_above: 20,
        ..OVERLOAD
    });
    println!("limits {} to {}", seen.limit(0.02), seen.limit(0.98));
    assert!(seen.limit(0.02) >= 15 && seen.limit(0.98) <= 60, "{} to {}", seen.limit(0.02), seen.limit(0.98));
}

#[test]
fn the_bounds_hold_whatever_is_sampled() {
    let mut random = Rng::with_seed(3);
    let policy = Policy { min: 5, max: 50, initial: 1_000 };
    let start = Instant::now();
    let gradient = Gradient::new(policy, start);
    assert_eq!(gradient.limit(), 50);
    for n in 0..100_000_u64 {
        let rtt = Duration::from_nanos(random.u64(..) >> random.u32(20..64));
        gradient.sample(start + Duration::from_millis(n * 10), rtt, random.u32(0..100), random.u32(0..5) == 0);
        assert!((5..=50).contains(&gradient.limit()), "{}", gradient.limit());
    }
}
