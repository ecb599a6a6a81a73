//! Metrics for Prometheus.
//!
//! Label values come from the configuration or from closed sets, never from requests. Handles are
//! resolved when a route or endpoint is compiled, or at first use, and kept; a request only adds
//! to atomics. The series of a route or endpoint end with the object that holds its handles.

mod route;
mod upstream;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::{
    Encoder, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

pub use route::RouteMetrics;
pub use upstream::{Copied, EndpointMetrics, Outcome, UpstreamMetrics};

/// Seconds; from a quick answer on the same host to a slow report.
const BUCKETS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
/// Label value of requests that no route matched.
pub const NO_ROUTE: &str = "_none";

/// All metrics of the process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    duration: HistogramVec,
    rejected: IntCounterVec,
    fallbacks: IntCounterVec,
    splits: IntCounterVec,
    shifts: GaugeVec,
    upstreams: upstream::Families,
    connections: IntGaugeVec,
    reloads: IntCounterVec,
    /// How many objects hold the handles of a route, upstream or endpoint.
    holders: Mutex<HashMap<String, usize>>,
    /// Requests being served.
    pub in_flight: IntGauge,
    /// Whether the last reload was applied.
    pub reload_successful: IntGauge,
    /// Number of the configuration in force, from 1.
    pub generation: IntGauge,
    /// Access log lines that found no room.
    pub log_dropped: IntCounter,
}

impl Metrics {
    /// Makes and registers all metrics.
    ///
    /// # Errors
    /// Two metrics of one name, which only a mistake in this file can cause.
    pub fn new() -> prometheus::Result<Arc<Self>> {
        let registry = Registry::new_custom(Some("pointsman".to_owned()), None)?;
        let make = Maker { registry: &registry };
        let build = make.gauges("build_info", "Always 1; the version is the label.", &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let metrics = Self {
            requests: make.counters("http_requests_total", "Requests answered.", &["route", "method", "code"])?,
            duration: make.histograms(
                "http_request_duration_seconds",
                "From a request's header to the last byte of its answer.",
                &["route"],
            )?,
            rejected: make.counters(
                "requests_rejected_total",
                "Requests that the gateway itself answered with an error.",
                &["route", "reason"],
            )?,
            fallbacks: make.counters(
                "upstream_fallbacks_total",
                "Requests that went on from one target of a fallback to the next.",
                &["route", "from", "to", "reason"],
            )?,
            splits: make.counters(
                "split_selections_total",
                "Requests by the member of a split that they went to.",
                &["route", "target"],
            )?,
            shifts: make.fractions(
                "shift_share",
                "The share of the new target of a shift, from 0 to 1.",
                &["route"],
            )?,
            upstreams: upstream::Families::new(&make)?,
            connections: make.gauges("connections_open", "Client connections.", &["listener"])?,
            reloads: make.counters("config_reloads_total", "Reloads by result.", &["result"])?,
            in_flight: make.gauge("http_requests_in_flight", "Requests being served.")?,
            reload_successful: make.gauge("config_last_reload_successful", "1 if the last reload was applied.")?,
            generation: make.gauge("config_generation", "Number of the configuration in force.")?,
            log_dropped: make.counter("access_log_dropped_total", "Access log lines that found no room.")?,
            holders: Mutex::default(),
            registry,
        };
        for result in ["applied", "refused"] {
            metrics.reloads.with_label_values(&[result]);
        }
        Ok(Arc::new(metrics))
    }

    /// All metrics in the text format of Prometheus, those of the process included.
    ///
    /// # Errors
    /// A metric that cannot be written.
    pub fn render(&self) -> prometheus::Result<Vec<u8>> {
        let mut out = Vec::with_capacity(64 << 10);
        let encoder = TextEncoder::new();
        encoder.encode(&self.registry.gather(), &mut out)?;
        encoder.encode(&prometheus::core::Collector::collect(&process()), &mut out)?;
        Ok(out)
    }

    /// Counts a reload.
    pub fn reloaded(&self, applied: bool) {
        self.reloads.with_label_values(&[if applied { "applied" } else { "refused" }]).inc();
        self.reload_successful.set(i64::from(applied));
    }

    /// The gauge of a listener's connections.
    #[must_use]
    pub fn connections(&self, listener: &str) -> IntGauge {
        self.connections.with_label_values(&[listener])
    }

    /// Notes one more holder of the handles that `key` names. Comes before the handles are taken:
    /// a last holder that leaves at the same time has then removed its series, or keeps them.
    fn hold(&self, key: String) -> String {
        let mut holders = self.holders.lock().unwrap_or_else(PoisonError::into_inner);
        *holders.entry(key.clone()).or_insert(0) += 1;
        key
    }

    /// Notes one holder less; the last one has its series removed.
    fn release(&self, key: &str, remove: impl FnOnce()) {
        let mut holders = self.holders.lock().unwrap_or_else(PoisonError::into_inner);
        let left = holders.get_mut(key).map(|count| {
            *count -= 1;
            *count
        });
        if left == Some(0) {
            holders.remove(key);
            remove();
        }
    }
}

fn process() -> prometheus::process_collector::ProcessCollector {
    prometheus::process_collector::ProcessCollector::for_self()
}

struct Maker<'a> {
    registry: &'a Registry,
}

impl Maker<'_> {
    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntCounterVec> {
        let made = IntCounterVec::new(Opts::new(name, help), labels)?;
        self.registry.register(Box::new(made.clone())).map(|()| made)
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
        let made = IntGaugeVec::new(Opts::new(name, help), labels)?;
        self.registry.register(Box::new(made.clone())).map(|()| made)
    }

    fn fractions(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<GaugeVec> {
        let made = GaugeVec::new(Opts::new(name, help), labels)?;
        self.registry.register(Box::new(made.clone())).map(|()| made)
    }

    fn histograms(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<HistogramVec> {
        let made = HistogramVec::new(HistogramOpts::new(name, help).buckets(BUCKETS.to_vec()), labels)?;
        self.registry.register(Box::new(made.clone())).map(|()| made)
    }

    fn gauge(&self, name: &str, help: &str) -> prometheus::Result<IntGauge> {
        let made = IntGauge::new(name, help)?;
        self.registry.register(Box::new(made.clone())).map(|()| made)
    }

    fn counter(&self, name: &str, help: &str) -> prometheus::Result<IntCounter> {
        let made = IntCounter::new(name, help)?;
        self.registry.register(Box::new(made.clone())).map(|()| made)
    }
}
