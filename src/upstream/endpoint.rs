//! One server, as it runs.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::telemetry::{EndpointMetrics, Metrics, Outcome};

use super::health::{Streak, Thresholds};

/// What is known of one address of one upstream. Outlives reloads that keep the address.
#[derive(Debug)]
pub struct Endpoint {
    address: SocketAddr,
    name: Box<str>,
    healthy: AtomicBool,
    in_flight: AtomicUsize,
    streak: Mutex<Streak>,
    metrics: EndpointMetrics,
}

impl Endpoint {
    /// An endpoint that is taken to be healthy until a check says otherwise.
    #[must_use]
    pub fn new(address: SocketAddr, upstream: &str, metrics: &Arc<Metrics>) -> Self {
        let name: Box<str> = address.to_string().into();
        Self {
            metrics: EndpointMetrics::new(metrics, upstream, &name),
            address,
            name,
            healthy: AtomicBool::new(true),
            in_flight: AtomicUsize::new(0),
            streak: Mutex::default(),
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

    /// Whether it may be picked.
    #[must_use]
    pub fn is_eligible(&self) -> bool {
        self.healthy.load(Ordering::Relaxed)
    }

    /// Requests that it is serving.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Its counters.
    #[must_use]
    pub fn metrics(&self) -> &EndpointMetrics {
        &self.metrics
    }

    /// Takes the result of a check; returns the new state if it changed.
    pub fn checked(&self, passed: bool, thresholds: Thresholds) -> Option<bool> {
        let mut streak = self.streak.lock().unwrap_or_else(PoisonError::into_inner);
        let healthy = streak.observe(passed, self.is_eligible(), thresholds)?;
        self.set_healthy(healthy);
        Some(healthy)
    }

    /// Takes it as healthy again, after its checks were taken away.
    pub fn forget_checks(&self) {
        *self.streak.lock().unwrap_or_else(PoisonError::into_inner) = Streak::default();
        self.set_healthy(true);
    }

    fn set_healthy(&self, healthy: bool) {
        self.healthy.store(healthy, Ordering::Relaxed);
        self.metrics.healthy(healthy);
    }

    /// Begins a try; the endpoint counts it until the guard is dropped.
    #[must_use]
    pub fn begin(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(Arc::clone(self))
    }
}

/// A try that is under way at an endpoint.
#[derive(Debug)]
pub struct InFlight(Arc<Endpoint>);

impl InFlight {
    /// The endpoint.
    #[must_use]
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.0
    }

    /// Tells how the try ended.
    pub fn ended(&self, outcome: Outcome) {
        self.0.metrics.tried(outcome);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
