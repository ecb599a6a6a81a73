//! Metrics for Prometheus.
//!
//! Label values come from the configuration or from closed sets, never from requests. Handles are
//! resolved when a route or endpoint is compiled, or at first use, and kept; a request only adds
//! to atomics. The series of a route or endpoint end with the object that holds its handles.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use http::Method;
use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

/// Seconds; from a quick answer on the same host to a slow report.
const BUCKETS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
/// Label value of requests that no route matched.
pub const NO_ROUTE: &str = "_none";
/// Pairs of method and code that a route counts without a lookup.
const QUICK: usize = 12;

/// All metrics of the process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    duration: HistogramVec,
    rejected: IntCounterVec,
    upstream_requests: IntCounterVec,
    upstream_duration: HistogramVec,
    upstream_retries: IntCounterVec,
    endpoint_healthy: IntGaugeVec,
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
            upstream_requests: make.counters(
                "upstream_requests_total",
                "Tries at an endpoint.",
                &["upstream", "endpoint", "outcome"],
            )?,
            upstream_duration: make.histograms(
                "upstream_response_duration_seconds",
                "From the begin of a try to its answer's header.",
                &["upstream"],
            )?,
            upstream_retries: make.counters("upstream_retries_total", "Tries after the first.", &["upstream"])?,
            endpoint_healthy: make.gauges(
                "upstream_endpoint_healthy",
                "1 while an endpoint may be picked.",
                &["upstream", "endpoint"],
            )?,
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

    /// Notes one more holder of the handles that `key` names.
    fn hold(&self, key: String) -> String {
        let mut holders = self.holders.lock().unwrap_or_else(PoisonError::into_inner);
        *holders.entry(key.clone()).or_insert(0) += 1;
        key
    }

    /// Notes one holder less; returns whether it was the last, so that the series end.
    fn release(&self, key: &str) -> bool {
        let mut holders = self.holders.lock().unwrap_or_else(PoisonError::into_inner);
        let left = holders.get_mut(key).map(|count| {
            *count -= 1;
            *count
        });
        left == Some(0) && holders.remove(key).is_some()
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

/// The handles of one route.
#[derive(Debug)]
pub struct RouteMetrics {
    name: Box<str>,
    key: String,
    metrics: Arc<Metrics>,
    duration: OnceLock<Histogram>,
    quick: OnceLock<Box<[OnceLock<Counted>; QUICK]>>,
    /// What found no quick slot, and the reasons of rejections: label values to remove at the end.
    rare: Mutex<Vec<Rare>>,
}

#[derive(Debug)]
struct Counted {
    method: &'static str,
    code: u16,
    counter: IntCounter,
}

#[derive(Debug, PartialEq, Eq)]
enum Rare {
    Request(&'static str, u16),
    Rejection(&'static str),
}

impl RouteMetrics {
    /// Handles for a route of this name.
    #[must_use]
    pub fn new(metrics: &Arc<Metrics>, name: &str) -> Self {
        let metrics = Arc::clone(metrics);
        let key = metrics.hold(format!("route {name}"));
        Self {
            name: name.into(),
            key,
            metrics,
            duration: OnceLock::new(),
            quick: OnceLock::new(),
            rare: Mutex::default(),
        }
    }

    /// Counts an answered request.
    pub fn answered(&self, method: &Method, code: u16, duration: Duration) {
        let method = method_label(method);
        let histogram = self.duration.get_or_init(|| self.metrics.duration.with_label_values(&[&*self.name]));
        histogram.observe(duration.as_secs_f64());
        let quick = self.quick.get_or_init(Box::default);
        for slot in quick.iter() {
            let counted = slot.get_or_init(|| Counted { method, code, counter: self.counter(method, code) });
            if counted.code == code && counted.method == method {
                return counted.counter.inc();
            }
        }
        self.remember(Rare::Request(method, code));
        self.counter(method, code).inc();
    }

    /// Counts a request that the gateway itself answered with an error.
    pub fn rejected(&self, reason: &'static str) {
        self.remember(Rare::Rejection(reason));
        self.metrics.rejected.with_label_values(&[&*self.name, reason]).inc();
    }

    fn counter(&self, method: &str, code: u16) -> IntCounter {
        self.metrics.requests.with_label_values(&[&*self.name, method, &code.to_string()])
    }

    fn remember(&self, rare: Rare) {
        let mut list = self.rare.lock().unwrap_or_else(PoisonError::into_inner);
        if !list.contains(&rare) {
            list.push(rare);
        }
    }
}

impl Drop for RouteMetrics {
    fn drop(&mut self) {
        if !self.metrics.release(&self.key) {
            return;
        }
        let name = &*self.name;
        // A series that never began cannot end; both are fine.
        let _ = self.metrics.duration.remove_label_values(&[name]);
        let quick = self.quick.get().into_iter().flat_map(|slots| slots.iter().filter_map(OnceLock::get));
        for counted in quick {
            let _ = self.metrics.requests.remove_label_values(&[name, counted.method, &counted.code.to_string()]);
        }
        for rare in self.rare.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let _ = match rare {
                Rare::Request(method, code) => {
                    self.metrics.requests.remove_label_values(&[name, method, &code.to_string()])
                }
                Rare::Rejection(reason) => self.metrics.rejected.remove_label_values(&[name, reason]),
            };
        }
    }
}

fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::PATCH => "PATCH",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

/// How a try at an endpoint ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// An answer below 500.
    Success,
    /// An answer of 500 or more.
    ServerError,
    /// No connection.
    ConnectFailed,
    /// No answer in time.
    Timeout,
    /// The connection broke.
    Reset,
}

const OUTCOMES: [(Outcome, &str); 5] = [
    (Outcome::Success, "success"),
    (Outcome::ServerError, "server_error"),
    (Outcome::ConnectFailed, "connect_failed"),
    (Outcome::Timeout, "timeout"),
    (Outcome::Reset, "reset"),
];

/// The handles of one upstream.
#[derive(Debug)]
pub struct UpstreamMetrics {
    name: Box<str>,
    key: String,
    metrics: Arc<Metrics>,
    /// From the begin of a try to its answer's header.
    pub duration: Histogram,
    /// Tries after the first.
    pub retries: IntCounter,
}

impl UpstreamMetrics {
    /// Handles for an upstream.
    #[must_use]
    pub fn new(metrics: &Arc<Metrics>, name: &str) -> Self {
        Self {
            name: name.into(),
            key: metrics.hold(format!("upstream {name}")),
            duration: metrics.upstream_duration.with_label_values(&[name]),
            retries: metrics.upstream_retries.with_label_values(&[name]),
            metrics: Arc::clone(metrics),
        }
    }
}

impl Drop for UpstreamMetrics {
    fn drop(&mut self) {
        if self.metrics.release(&self.key) {
            // A series that never began cannot end; both are fine.
            let _ = self.metrics.upstream_duration.remove_label_values(&[&*self.name]);
            let _ = self.metrics.upstream_retries.remove_label_values(&[&*self.name]);
        }
    }
}

/// The handles of one endpoint of one upstream.
#[derive(Debug)]
pub struct EndpointMetrics {
    key: String,
    upstream: Box<str>,
    endpoint: Box<str>,
    metrics: Arc<Metrics>,
    outcomes: [IntCounter; OUTCOMES.len()],
    healthy: IntGauge,
}

impl EndpointMetrics {
    /// Handles for an endpoint.
    #[must_use]
    pub fn new(metrics: &Arc<Metrics>, upstream: &str, endpoint: &str) -> Self {
        let outcomes =
            OUTCOMES.map(|(_, outcome)| metrics.upstream_requests.with_label_values(&[upstream, endpoint, outcome]));
        let healthy = metrics.endpoint_healthy.with_label_values(&[upstream, endpoint]);
        healthy.set(1);
        let key = metrics.hold(format!("endpoint {upstream} {endpoint}"));
        Self {
            key,
            upstream: upstream.into(),
            endpoint: endpoint.into(),
            metrics: Arc::clone(metrics),
            outcomes,
            healthy,
        }
    }

    /// Counts a try.
    pub fn tried(&self, outcome: Outcome) {
        self.outcomes[outcome as usize].inc();
    }

    /// Shows whether the endpoint may be picked.
    pub fn healthy(&self, healthy: bool) {
        self.healthy.set(i64::from(healthy));
    }

    /// How many tries had this outcome.
    #[must_use]
    pub fn count(&self, outcome: Outcome) -> u64 {
        self.outcomes[outcome as usize].get()
    }
}

impl Drop for EndpointMetrics {
    fn drop(&mut self) {
        if !self.metrics.release(&self.key) {
            return;
        }
        for (_, outcome) in OUTCOMES {
            let _ = self.metrics.upstream_requests.remove_label_values(&[&self.upstream, &self.endpoint, outcome]);
        }
        let _ = self.metrics.endpoint_healthy.remove_label_values(&[&self.upstream, &self.endpoint]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(metrics: &Metrics) -> String {
        String::from_utf8(metrics.render().unwrap()).unwrap()
    }

    #[test]
    fn series_of_a_removed_route_disappear() {
        let metrics = Metrics::new().unwrap();
        let route = RouteMetrics::new(&metrics, "users");
        for code in 200..230 {
            route.answered(&Method::GET, code, Duration::from_millis(3));
        }
        route.rejected("no_endpoint");
        let before = text(&metrics);
        assert!(
            before.contains(r#"pointsman_http_requests_total{code="229",method="GET",route="users"} 1"#),
            "{before}"
        );
        assert!(before.contains(r#"pointsman_requests_rejected_total{reason="no_endpoint",route="users"} 1"#));
        drop(route);
        assert!(!text(&metrics).contains("users"));
    }

    #[test]
    fn unknown_methods_share_one_label() {
        let metrics = Metrics::new().unwrap();
        let route = RouteMetrics::new(&metrics, "r");
        for name in ["BREW", "TRACE", "X"] {
            route.answered(&name.parse().unwrap(), 200, Duration::ZERO);
        }
        assert!(text(&metrics).contains(r#"pointsman_http_requests_total{code="200",method="other",route="r"} 3"#));
    }
}
