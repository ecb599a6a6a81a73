//! Active health checks.
//!
//! [`Streak`] is the state machine: so many failures in a row take an endpoint out, so many
//! successes bring it back. [`run`] feeds it, with pingora's checks, each under a total timeout.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::join_all;
use http::HeaderValue;
use pingora::http::RequestHeader;
use pingora::protocols::l4::socket::SocketAddr as PingoraAddress;
use pingora_load_balancing::Backend;
use pingora_load_balancing::health_check::{HealthCheck, HttpHealthCheck, TcpHealthCheck};

use super::endpoint::Endpoint;
use super::{Upstream, peer};

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
    /// GET of this path answers with 200 to 399.
    Http {
        /// Path and query.
        path: String,
        /// The `Host`; the endpoint's address unless given.
        host: Option<String>,
    },
}

/// How an upstream's endpoints are checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What is checked.
    pub probe: Probe,
    /// Time between two checks of one endpoint; each pause is up to a tenth shorter, so that many
    /// gateways do not check at one instant.
    pub every: Duration,
    /// The longest that one check may take in all.
    pub timeout: Duration,
    /// How many results in a row change the state.
    pub thresholds: Thresholds,
}

/// Checks an upstream's endpoints until the upstream is dropped.
pub async fn run(upstream: Weak<Upstream>) {
    let mut checks = Checks::new();
    loop {
        let pause = {
            let Some(upstream) = upstream.upgrade() else { return };
            let Some(plan) = upstream.health() else { return };
            round(&upstream, plan, &mut checks).await;
            plan.every.mul_f64(1.0 - fastrand::f64() / 10.0)
        };
        tokio::time::sleep(pause).await;
    }
}

/// A check for each endpoint. Making one loads the system's authorities, so it is made once.
type Checks = HashMap<SocketAddr, Box<dyn HealthCheck + Send + Sync>>;

/// Checks every endpoint once, all at the same time.
async fn round(upstream: &Arc<Upstream>, plan: &Plan, checks: &mut Checks) {
    let members = upstream.endpoints();
    checks.retain(|address, _| members.iter().any(|(endpoint, _)| endpoint.address() == *address));
    for (endpoint, _) in &members {
        if !checks.contains_key(&endpoint.address())
            && let Ok(check) = make(upstream, plan, endpoint)
        {
            checks.insert(endpoint.address(), check);
        }
    }
    let results = members.iter().map(|(endpoint, _)| check(upstream, plan, endpoint, checks));
    let changed = join_all(results).await.into_iter().any(|changed| changed);
    if changed {
        upstream.rebalance();
    }
}

async fn check(upstream: &Upstream, plan: &Plan, endpoint: &Endpoint, checks: &Checks) -> bool {
    let backend = Backend { addr: PingoraAddress::Inet(endpoint.address()), weight: 1, ext: http::Extensions::new() };
    let result = match checks.get(&endpoint.address()) {
        Some(check) => match tokio::time::timeout(plan.timeout, check.check(&backend)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("no answer in time".to_owned()),
        },
        None => Err("the check cannot be made".to_owned()),
    };
    let changed = endpoint.checked(result.is_ok(), plan.thresholds);
    match (changed, result) {
        (Some(true), _) => {
            tracing::info!(upstream = upstream.name(), endpoint = endpoint.name(), "endpoint is healthy again");
        }
        (Some(false), Err(cause)) => {
            tracing::warn!(upstream = upstream.name(), endpoint = endpoint.name(), cause, "endpoint is unhealthy");
        }
        _ => {}
    }
    changed.is_some()
}

fn make(upstream: &Upstream, plan: &Plan, endpoint: &Endpoint) -> pingora::Result<Box<dyn HealthCheck + Send + Sync>> {
    match &plan.probe {
        Probe::Tcp => {
            let mut check = TcpHealthCheck::new();
            check.peer_template.options = upstream.peer_options().clone();
            check.peer_template.sni = upstream.sni().unwrap_or_default().to_owned();
            check.peer_template.options.connection_timeout = Some(plan.timeout);
            Ok(check)
        }
        Probe::Http { path, host } => {
            let host = host.as_deref().unwrap_or(endpoint.name());
            let mut check = HttpHealthCheck::new(host, upstream.sni().is_some());
            check.peer_template = peer::template(upstream, endpoint.address());
            check.peer_template.options.read_timeout = Some(plan.timeout);
            let mut request = RequestHeader::build("GET", path.as_bytes(), Some(3))?;
            request
                .insert_header("Host", HeaderValue::from_str(host).unwrap_or(HeaderValue::from_static("localhost")))?;
            request.insert_header("User-Agent", concat!("pointsman/", env!("CARGO_PKG_VERSION")))?;
            request.insert_header("Connection", "close")?;
            check.req = request;
            check.validator = Some(Box::new(|answer| match answer.status.as_u16() {
                200..=399 => Ok(()),
                status => pingora::Error::e_explain(pingora::ErrorType::HTTPStatus(status), "health check"),
            }));
            Ok(Box::new(check))
        }
    }
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
