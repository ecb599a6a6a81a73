//! What an upstream does about failing endpoints: ejects them, and readmits them in time.

use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::endpoint::Endpoint;
use super::outlier::{cap, standing_out};
use super::{Upstream, breaker};

/// Time between two looks at the endpoints.
const PERIOD: Duration = Duration::from_millis(250);
/// Looks between two comparisons of the endpoints with each other.
const COMPARE_EVERY: u32 = 4;

/// Looks after an upstream's ejections until the upstream is dropped.
pub async fn run(upstream: Weak<Upstream>) {
    let mut out = Vec::new();
    for round in 0_u32.. {
        tokio::time::sleep(PERIOD).await;
        let Some(upstream) = upstream.upgrade() else { return };
        let now = Instant::now();
        if round % COMPARE_EVERY == 0 {
            upstream.compare(now);
        }
        let before = std::mem::replace(&mut out, upstream.ejected(now));
        upstream.readmit(before.iter().filter(|endpoint| !out.contains(endpoint)), now);
        upstream.refresh();
    }
}

impl Upstream {
    /// Whether endpoints are ejected at all.
    #[must_use]
    pub fn ejects(&self) -> bool {
        self.settings.resilience.eject.is_some()
    }

    fn ejected(&self, now: Instant) -> Vec<SocketAddr> {
        let members = self.members.load();
        let out = members.list.iter().filter(|member| member.endpoint.outlier.is_ejected(now));
        out.map(|member| member.endpoint.address()).collect()
    }

    /// Takes a try's result; ejects the endpoint when it failed too often in a row.
    pub(super) fn judge(&self, endpoint: &Arc<Endpoint>, ok: bool, now: Instant) {
        let Some(policy) = &self.settings.resilience.eject else { return };
        if endpoint.outlier.record(ok, policy) {
            self.eject(endpoint, now, "failures in a row");
        }
    }

    /// Compares the endpoints' failures in the last seconds with each other.
    fn compare(&self, now: Instant) {
        let Some(policy) = &self.settings.resilience.eject else { return };
        let members = self.members.load();
        let admitted: Vec<_> = members.list.iter().filter(|member| !member.endpoint.outlier.is_ejected(now)).collect();
        admitted.iter().for_each(|member| member.endpoint.outlier.settle(now, policy));
        let tallies: Vec<_> = admitted.iter().map(|member| member.endpoint.outlier.counts()).collect();
        for index in standing_out(&tallies, policy) {
            self.eject(&admitted[index].endpoint, now, "more failures than its peers");
        }
    }

    fn eject(&self, endpoint: &Endpoint, now: Instant, cause: &str) {
        let Some(policy) = &self.settings.resilience.eject else { return };
        {
            // Two tries that fail at once must not eject one endpoint too many.
            let _change = self.change.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let members = self.members.load();
            let others = members.list.iter().filter(|member| !std::ptr::eq(&*member.endpoint, endpoint));
            let last = !others.map(|member| &member.endpoint).any(|other| other.is_usable(now));
            let full = self.ejected(now).len() >= cap(members.list.len(), policy);
            if last || full || endpoint.outlier.is_ejected(now) {
                return;
            }
            let until = endpoint.outlier.eject(now, policy);
            let seconds = until.saturating_duration_since(now).as_secs_f64();
            tracing::warn!(upstream = self.name(), endpoint = endpoint.name(), cause, seconds, "endpoint is ejected");
        }
        self.metrics().ejections.inc();
        self.rebalance();
    }

    fn readmit<'a>(&self, returned: impl Iterator<Item = &'a SocketAddr>, now: Instant) {
        for endpoint in returned.filter_map(|address| self.endpoint(*address)) {
            tracing::info!(upstream = self.name(), endpoint = endpoint.name(), "endpoint is readmitted");
            endpoint.start_slowly(now);
        }
    }

    /// Shows a breaker's new state.
    pub(super) fn breaker_turned(&self, state: breaker::State, endpoint: Option<&Endpoint>) {
        let of = endpoint.map(Endpoint::name);
        match state {
            breaker::State::Open => tracing::warn!(upstream = self.name(), endpoint = of, "breaker opened"),
            breaker::State::HalfOpen => tracing::info!(upstream = self.name(), endpoint = of, "breaker probes"),
            breaker::State::Closed => tracing::info!(upstream = self.name(), endpoint = of, "breaker closed"),
        }
        if endpoint.is_none() {
            self.metrics().breaker.set(state as i64);
        }
    }
}
