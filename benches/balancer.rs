//! Picks of every kind of balancer at 3, 100 and 10 000 endpoints, and how long each takes to lay
//! out.
//!
//! Every endpoint is eligible and has requests in flight and a latency estimate of its own, so that
//! a pick pays for the memory it touches.
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use divan::Bencher;

use pointsman::upstream::balancer::{Balancer, Kind, Members, PeakEwma, Seat};

const SIZES: [usize; 3] = [3, 100, 10_000];
/// Different keys, each of the length of an IPv4 address.
const KEYS: usize = 4_096;
/// Simulated now, in nanoseconds.
const NOW: u64 = 60_000_000_000;

const KINDS: [Kind; 8] = [
    Kind::RoundRobin,
    Kind::Random,
    Kind::LeastRequest,
    Kind::Ewma,
    Kind::RingHash { bound: None },
    Kind::RingHash { bound: Some(1.25) },
    Kind::Maglev { bound: None },
    Kind::Maglev { bound: Some(1.25) },
];

fn main() {
    divan::main();
}

struct Endpoint {
    eligible: AtomicBool,
    in_flight: AtomicU32,
    latency: PeakEwma,
}

/// Endpoints, and the sum of their requests in flight.
struct Endpoints(Vec<Endpoint>, AtomicU32);

impl Endpoints {
    fn new(count: usize, random: &mut fastrand::Rng) -> Self {
        let endpoint = |_| {
            let latency = PeakEwma::default();
            latency.observe(NOW - random.u64(..NOW), 1e6 + 1e6 * random.f64());
            Endpoint { eligible: AtomicBool::new(true), in_flight: AtomicU32::new(random.u32(..4)), latency }
        };
        let endpoints: Vec<_> = (0..count).map(endpoint).collect();
        let load = endpoints.iter().map(|endpoint| endpoint.in_flight.load(Ordering::Relaxed)).sum();
        Self(endpoints, AtomicU32::new(load))
    }
}

impl Members for Endpoints {
    fn eligible(&self, member: u32) -> bool {
        self.0[member as usize].eligible.load(Ordering::Relaxed)
    }

    fn in_flight(&self, member: u32) -> u32 {
        self.0[member as usize].in_flight.load(Ordering::Relaxed)
    }

    fn ramp(&self, _: u32) -> f32 {
        1.0
    }

    fn load(&self) -> Option<u32> {
        Some(self.1.load(Ordering::Relaxed))
    }

    fn latency(&self, member: u32) -> f64 {
        self.0[member as usize].latency.value(NOW)
    }
}

/// Names, and weights of 1 to 3.
fn names(count: usize) -> Vec<(String, u32)> {
    (0..count).map(|at| (format!("10.1.{}.{}:8080", at / 256, at % 256), 1 + at as u32 % 3)).collect()
}

fn seats(names: &[(String, u32)]) -> Vec<Seat<'_>> {
    (0..).zip(names).map(|(member, (name, weight))| Seat { member, weight: *weight, name }).collect()
}

fn cases() -> impl Iterator<Item = Case> {
    KINDS.into_iter().flat_map(|kind| SIZES.map(|size| Case { kind, size }))
}

/// One pick, with one after another of many keys.
#[divan::bench(args = cases(), sample_size = KEYS as u32)]
fn pick(bencher: Bencher, case: &Case) {
    let Case { kind, size } = *case;
    let mut random = fastrand::Rng::with_seed(1);
    let names = names(size);
    let balancer = Balancer::new(kind, &seats(&names));
    let members = Endpoints::new(size, &mut random);
    let keys: Vec<String> =
        (0..KEYS).map(|_| format!("10.{}.{}.{}", random.u8(..), random.u8(..), random.u8(..))).collect();
    let mut at = 0;
    bencher.bench_local(|| {
        at = (at + 1) % KEYS;
        black_box(balancer.pick(&members, black_box(keys[at].as_bytes()), &mut || random.u64(..)))
    });
}

#[divan::bench(args = cases(), sample_count = 10)]
fn lay_out(bencher: Bencher, case: &Case) {
    let Case { kind, size } = *case;
    let names = names(size);
    bencher.bench_local(|| Balancer::new(kind, black_box(&seats(&names))));
}

struct Case {
    kind: Kind,
    size: usize,
}

impl std::fmt::Display for Case {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{:?} {}", self.kind, self.size)
    }
}
