//! The handles of upstreams and their endpoints.

use std::sync::Arc;

use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use super::{Maker, Metrics};

/// The metrics of all upstreams.
#[derive(Debug)]
pub(super) struct Families {
    requests: IntCounterVec,
    duration: HistogramVec,
    retries: IntCounterVec,
    ejections: IntCounterVec,
    overloaded: IntCounterVec,
    mirrored: IntCounterVec,
    breaker: IntGaugeVec,
    connections: IntGaugeVec,
    queued: IntGaugeVec,
    healthy: IntGaugeVec,
}

impl Families {
    /// Makes and registers them.
    pub fn new(make: &Maker<'_>) -> prometheus::Result<Self> {
        Ok(Self {
            requests: make.counters(
                "upstream_requests_total",
                "Tries at an endpoint.",
                &["upstream", "endpoint", "outcome"],
            )?,
            duration: make.histograms(
                "upstream_response_duration_seconds",
                "From the begin of a try to its answer's header.",
                &["upstream"],
            )?,
            retries: make.counters(
                "upstream_retries_total",
                "Tries after the first at one upstream.",
                &["upstream"],
            )?,
            ejections: make.counters("upstream_ejections_total", "Endpoints ejected.", &["upstream"])?,
            overloaded: make.counters(
                "upstream_overloaded_total",
                "Tries that found no place, and none in the queue.",
                &["upstream"],
            )?,
            mirrored: make.counters(
                "upstream_mirrored_total",
                "Copies of requests, and how their answers compare.",
                &["upstream", "outcome"],
            )?,
            breaker: make.gauges(
                "upstream_breaker_state",
                "The upstream's breaker: 0 closed, 1 open, 2 half-open.",
                &["upstream"],
            )?,
            connections: make.gauges(
                "upstream_connections",
                "Connections to an upstream that serve a request.",
                &["upstream", "state"],
            )?,
            queued: make.gauges("upstream_queued", "Requests that wait for a place.", &["upstream"])?,
            healthy: make.gauges(
                "upstream_endpoint_healthy",
                "0 while the checks of an endpoint fail.",
                &["upstream", "endpoint"],
            )?,
        })
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

/// What became of a copy of a request, and how its answer compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copied {
    /// It was answered.
    Sent,
    /// It was not.
    Failed,
    /// It was not sent: too large, or too many under way.
    Skipped,
    /// Both answers agree.
    Same,
    /// The statuses differ.
    OtherStatus,
    /// The bodies differ.
    OtherBody,
    /// The copy's answer took more than twice as long.
    Slower,
}

impl Copied {
    const ALL: [(Self, &'static str); 7] = [
        (Self::Sent, "sent"),
        (Self::Failed, "failed"),
        (Self::Skipped, "skipped"),
        (Self::Same, "same"),
        (Self::OtherStatus, "other_status"),
        (Self::OtherBody, "other_body"),
        (Self::Slower, "slower"),
    ];

    fn label(self) -> &'static str {
        Self::ALL[self as usize].1
    }
}

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
    /// Endpoints ejected.
    pub ejections: IntCounter,
    /// Tries that found no place.
    pub overloaded: IntCounter,
    /// The breaker: 0 closed, 1 open, 2 half-open.
    pub breaker: IntGauge,
    /// Connections that serve a request; set when metrics are read.
    pub active: IntGauge,
    /// Requests that wait; set when metrics are read.
    pub queued: IntGauge,
}

impl UpstreamMetrics {
    /// Handles for an upstream.
    #[must_use]
    pub fn new(metrics: &Arc<Metrics>, name: &str) -> Self {
        Self {
            name: name.into(),
            key: metrics.hold(format!("upstream {name}")),
            duration: metrics.upstreams.duration.with_label_values(&[name]),
            retries: metrics.upstreams.retries.with_label_values(&[name]),
            ejections: metrics.upstreams.ejections.with_label_values(&[name]),
            overloaded: metrics.upstreams.overloaded.with_label_values(&[name]),
            breaker: metrics.upstreams.breaker.with_label_values(&[name]),
            active: metrics.upstreams.connections.with_label_values(&[name, "active"]),
            queued: metrics.upstreams.queued.with_label_values(&[name]),
            metrics: Arc::clone(metrics),
        }
    }

    /// Counts a copy of a request.
    pub fn copied(&self, outcome: Copied) {
        self.metrics.upstreams.mirrored.with_label_values(&[&*self.name, outcome.label()]).inc();
    }
}

impl Drop for UpstreamMetrics {
    fn drop(&mut self) {
        self.metrics.release(&self.key, || self.remove());
    }
}

impl UpstreamMetrics {
    fn remove(&self) {
        let (name, metrics) = (&*self.name, &self.metrics);
        // A series that never began cannot end; both are fine.
        let _ = metrics.upstreams.duration.remove_label_values(&[name]);
        for counters in [&metrics.upstreams.retries, &metrics.upstreams.ejections, &metrics.upstreams.overloaded] {
            let _ = counters.remove_label_values(&[name]);
        }
        for gauges in [&metrics.upstreams.breaker, &metrics.upstreams.queued] {
            let _ = gauges.remove_label_values(&[name]);
        }
        let _ = metrics.upstreams.connections.remove_label_values(&[name, "active"]);
        for (_, outcome) in Copied::ALL {
            let _ = metrics.upstreams.mirrored.remove_label_values(&[name, outcome]);
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
        let key = metrics.hold(format!("endpoint {upstream} {endpoint}"));
        let outcomes =
            OUTCOMES.map(|(_, outcome)| metrics.upstreams.requests.with_label_values(&[upstream, endpoint, outcome]));
        let healthy = metrics.upstreams.healthy.with_label_values(&[upstream, endpoint]);
        healthy.set(1);
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
        self.metrics.release(&self.key, || self.remove());
    }
}

impl EndpointMetrics {
    fn remove(&self) {
        for (_, outcome) in OUTCOMES {
            let _ = self.metrics.upstreams.requests.remove_label_values(&[&self.upstream, &self.endpoint, outcome]);
        }
        let _ = self.metrics.upstreams.healthy.remove_label_values(&[&self.upstream, &self.endpoint]);
    }
}
