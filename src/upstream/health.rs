//! Active health checks.
//!
//! [`Streak`] is the state machine: so many failures in a row take an endpoint out, so many
//! successes bring it back. [`run`] feeds it, each check under a total timeout. The first result of
//! an endpoint decides alone.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use http::{HeaderName, HeaderValue};

use super::Upstream;
use super::endpoint::{Endpoint, Health};
use super::probe::Prober;

/// How many results in a row change the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// Successes that bring an endpoint back.
    pub rise: u32,
    /// Failures that take an endpoint out.
    pub fall: u32,
}

/// Results in a row that contradict the present state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Streak(u32);

impl Streak {
    /// Takes a result; returns the new state if it changes.
    pub fn observe(&mut self, passed: bool, healthy: bool, thresholds: Thresholds) -> Option<bool> {
        if passed == healthy {
            self.0 = 0;
            return None;
        }
        self.0 += 1;
        let needed = if passed { thresholds.rise } else { thresholds.fall };
        if self.0 < needed {
            return None;
        }
        self.0 = 0;
        Some(passed)
    }
}

/// What is checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// A connection opens, with TLS where the upstream uses it.
    Tcp,
    /// GET of a path is answered as expected.
    Http(HttpProbe),
    /// `grpc.health.v1.Health/Check` answers SERVING for this service.
    Grpc(String),
}

/// A GET and what its answer must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpProbe {
    /// Path and query.
    pub path: String,
    /// The `Host`; the endpoint's address unless given.
    pub host: Option<String>,
    /// More headers.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Healthy statuses; 200 to 399 when empty.
    pub statuses: Vec<u16>,
    /// What the body's begin must contain.
    pub body: Option<String>,
}

impl HttpProbe {
    /// Whether an answer with this status is healthy.
    #[must_use]
    pub fn accepts(&self, status: u16) -> bool {
        if self.statuses.is_empty() { (200..400).contains(&status) } else { self.statuses.contains(&status) }
    }
}

/// How an upstream's endpoints are checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What is checked.
    pub probe: Probe,
    /// Time between two checks of one endpoint; each pause is up to a tenth shorter, so that many
    /// gateways do not check at one instant.
    pub every: Duration,
    /// The same while the endpoint is unhealthy.
    pub every_down: Duration,
    /// The longest that one check may take in all.
    pub timeout: Duration,
    /// How many results in a row change the state.
    pub thresholds: Thresholds,
}

/// Checks an upstream's endpoints until the upstream is dropped.
pub async fn run(upstream: Weak<Upstream>) {
    let mut checks = Checks::new();
    loop {
        let next = {
            let Some(upstream) = upstream.upgrade() else { return };
            let Some(plan) = upstream.health() else { return };
            round(&upstream, plan, &mut checks).await;
            // A new endpoint is looked for at least this often.
            let latest = Instant::now() + plan.every;
            checks.values().map(|check| check.due).min().map_or(latest, |next| next.min(latest))
        };
        tokio::time::sleep_until(next.into()).await;
    }
}

/// A check for each endpoint. Making one loads the system's authorities, so it is made once.
type Checks = HashMap<SocketAddr, Check>;

struct Check {
    probe: Option<Prober>,
    due: Instant,
}

/// Checks every endpoint that is due, all at the same time.
async fn round(upstream: &Arc<Upstream>, plan: &Plan, checks: &mut Checks) {
    let members = upstream.endpoints();
    checks.retain(|address, _| members.iter().any(|(endpoint, _)| endpoint.address() == *address));
    let now = Instant::now();
    for (endpoint, _) in &members {
        checks
            .entry(endpoint.address())
            .or_insert_with(|| Check { probe: Prober::new(upstream, plan, endpoint).ok(), due: now });
    }
    let due = members.iter().filter_map(|(endpoint, _)| Some((endpoint, checks.get(&endpoint.address())?)));
    let due = due.filter(|(_, check)| check.due <= now).map(|(endpoint, one)| check(upstream, plan, endpoint, one));
    let results = join_all(due).await;
    for (endpoint, _) in &members {
        if let Some(check) = checks.get_mut(&endpoint.address()).filter(|check| check.due <= now) {
            let every = if endpoint.health() == Health::Healthy { plan.every } else { plan.every_down };
            check.due = now + every.mul_f64(1.0 - fastrand::f64() / 10.0);
        }
    }
    if results.into_iter().any(|changed| changed) {
        upstream.rebalance();
    } else {
        upstream.refresh();
    }
}

async fn check(upstream: &Upstream, plan: &Plan, endpoint: &Endpoint, check: &Check) -> bool {
    let result = match &check.probe {
        Some(probe) => match tokio::time::timeout(plan.timeout, probe.check(endpoint)).await {
            Ok(result) => result,
            Err(_) => Err("no answer in time".to_owned()),
        },
        None => Err("the check cannot be made".to_owned()),
    };
    let first = endpoint.health() == Health::New;
    let changed = endpoint.checked(result.is_ok(), plan.thresholds, Instant::now());
    match (changed, result) {
        (Some(Health::Healthy), _) if !first => {
            tracing::info!(upstream = upstream.name(), endpoint = endpoint.name(), "endpoint is healthy again");
        }
        (Some(Health::Unhealthy), Err(cause)) => {
            tracing::warn!(upstream = upstream.name(), endpoint = endpoint.name(), cause, "endpoint is unhealthy");
        }
        _ => {}
    }
    changed.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_in_a_row_change_the_state() {
        let thresholds = Thresholds { rise: 2, fall: 3 };
        let mut streak = Streak::default();
        let mut healthy = true;
        let results = "xxoxxxoxoo".chars().map(|result| result == 'o');
        let states: String = results
            .map(|passed| {
                healthy = streak.observe(passed, healthy, thresholds).unwrap_or(healthy);
                if healthy { 'H' } else { 'U' }
            })
            .collect();
        assert_eq!(states, "HHHHHUUUUH");
    }
}
