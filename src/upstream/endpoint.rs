//! One server, as it runs.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::telemetry::{EndpointMetrics, Metrics};

use super::balancer::PeakEwma;
use super::breaker::Breaker;
use super::clock::Clock;
use super::health::{Streak, Thresholds};
use super::outlier::Outlier;

/// The least share of its weight that an endpoint gets at the beginning of its slow start, as in
/// Envoy.
const SLOWEST: f32 = 0.1;

/// What operators let an endpoint do; set while it runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum State {
    /// It serves.
    #[default]
    Ready,
    /// It finishes what it has and keeps the clients that stick to it.
    Drain,
    /// It gets nothing.
    Maintenance,
}

/// What active checks know of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Health {
    /// Not checked yet; the first result decides.
    New,
    /// Healthy, or never checked.
    Healthy,
    /// Unhealthy.
    Unhealthy,
}

/// What is known of one address of one upstream. Outlives reloads that keep the address.
#[derive(Debug)]
pub struct Endpoint {
    address: SocketAddr,
    name: Box<str>,
    clock: Clock,
    health: AtomicU8,
    state: AtomicU8,
    in_flight: AtomicU32,
    /// When its slow start began, as nanoseconds of its clock; 0 when it has its full weight.
    ramp: AtomicU64,
    streak: Mutex<Streak>,
    /// How fast it answers.
    pub latency: PeakEwma,
    /// Whether it stands out by failing.
    pub outlier: Outlier,
    /// Its own breaker, used where the upstream's policy says so.
    pub breaker: Breaker,
    metrics: EndpointMetrics,
}

impl Endpoint {
    /// An endpoint; `checked` if active checks decide about it.
    #[must_use]
    pub fn new(address: SocketAddr, upstream: &str, metrics: &Arc<Metrics>, checked: bool) -> Self {
        let name: Box<str> = address.to_string().into();
        let born = Instant::now();
        let health = if checked { Health::New } else { Health::Healthy };
        Self {
            metrics: EndpointMetrics::new(metrics, upstream, &name),
            address,
            name,
            clock: Clock::new(born),
            health: AtomicU8::new(health as u8),
            state: AtomicU8::default(),
            in_flight: AtomicU32::new(0),
            ramp: AtomicU64::new(0),
            streak: Mutex::default(),
            latency: PeakEwma::default(),
            outlier: Outlier::default(),
            breaker: Breaker::new(born),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its address as text.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What active checks know of it.
    #[must_use]
    pub fn health(&self) -> Health {
        match self.health.load(Ordering::Relaxed) {
            0 => Health::New,
            1 => Health::Healthy,
            _ => Health::Unhealthy,
        }
    }

    /// What operators let it do.
    #[must_use]
    pub fn state(&self) -> State {
        match self.state.load(Ordering::Relaxed) {
            0 => State::Ready,
            1 => State::Drain,
            _ => State::Maintenance,
        }
    }

    /// Sets what it may do; returns whether that is a change.
    pub fn set_state(&self, state: State, now: Instant) -> bool {
        let changed = self.state.swap(state as u8, Ordering::Relaxed) != state as u8;
        if changed && state == State::Ready {
            self.start_slowly(now);
        }
        changed
    }

    /// Whether requests that have not been there before may go there.
    #[must_use]
    pub fn is_usable(&self, now: Instant) -> bool {
        self.state() == State::Ready && self.is_well(now)
    }

    /// Whether requests of clients that stick to it may go there.
    #[must_use]
    pub fn keeps_clients(&self, now: Instant) -> bool {
        self.state() != State::Maintenance && self.is_well(now)
    }

    fn is_well(&self, now: Instant) -> bool {
        self.health() != Health::Unhealthy && !self.outlier.is_ejected(now)
    }

    /// How it is, in a word.
    #[must_use]
    pub fn condition(&self, now: Instant) -> &'static str {
        match (self.state(), self.health()) {
            (State::Drain, _) => "draining",
            (State::Maintenance, _) => "maintenance",
            (State::Ready, Health::Unhealthy) => "unhealthy",
            (State::Ready, _) if self.outlier.is_ejected(now) => "ejected",
            (State::Ready, Health::New) => "untested",
            (State::Ready, Health::Healthy) => "healthy",
        }
    }

    /// Requests that it is serving.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Counts one request more; the caller counts it out again.
    pub(super) fn enter(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts one request less.
    pub(super) fn leave(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// Its counters.
    #[must_use]
    pub fn metrics(&self) -> &EndpointMetrics {
        &self.metrics
    }

    /// A moment on the endpoint's own clock (nanoseconds), for its latency estimate.
    #[must_use]
    pub fn clock(&self, now: Instant) -> u64 {
        self.clock.nanos(now)
    }

    /// Begins a slow start.
    pub fn start_slowly(&self, now: Instant) {
        self.ramp.store(self.clock(now).max(1), Ordering::Relaxed);
    }

    /// Its present share of its weight, above 0 and at most 1.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a share")]
    pub fn ramp(&self, now: Instant, slow_start: Duration) -> f32 {
        let begin = self.ramp.load(Ordering::Relaxed);
        if begin == 0 || slow_start.is_zero() {
            return 1.0;
        }
        let share = self.clock(now).saturating_sub(begin) as f32 / slow_start.as_nanos() as f32;
        if share >= 1.0 {
            self.ramp.store(0, Ordering::Relaxed);
            return 1.0;
        }
        share.max(SLOWEST)
    }

    /// Takes the result of a check; returns the new state if it changed.
    pub fn checked(&self, passed: bool, thresholds: Thresholds, now: Instant) -> Option<Health> {
        let mut streak = self.streak.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.health();
        // A check that passes also ends an ejection: the endpoint answers again.
        if passed && known == Health::Healthy && self.outlier.is_ejected(now) {
            self.outlier.readmit();
            self.start_slowly(now);
            return Some(Health::Healthy);
        }
        let health = if known == Health::New {
            if passed { Health::Healthy } else { Health::Unhealthy }
        } else if streak.observe(passed, known == Health::Healthy, thresholds)? {
            self.start_slowly(now);
            Health::Healthy
        } else {
            Health::Unhealthy
        };
        self.set_health(health);
        Some(health)
    }

    /// Takes it as healthy again, after its checks were taken away.
    pub fn forget_checks(&self) {
        *self.streak.lock().unwrap_or_else(PoisonError::into_inner) = Streak::default();
        self.set_health(Health::Healthy);
    }

    fn set_health(&self, health: Health) {
        self.health.store(health as u8, Ordering::Relaxed);
        self.metrics.healthy(health == Health::Healthy);
    }
}
