//! From names and files to addresses, away from the request path.
//!
//! What was found last stays in use for as long as nothing new is found: a DNS server that fails,
//! or that suddenly knows of nothing, takes no endpoint away.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime};

use futures_util::future::join_all;

use super::resolver::{Answer, Failure, Resolver};
use super::{Location, Source, Upstream, endpoint_list};

/// Time until a look-up that failed is made again.
const AFTER_FAILURE: Duration = Duration::from_secs(5);
/// Time between two looks at a file's time.
const FILE_LOOK: Duration = Duration::from_millis(500);
/// Larger weights of SRV records do not occur; a weight of 0 is the smallest share (RFC 2782).
const LEAST_WEIGHT: u32 = 1;

/// Finds the addresses of an upstream once; returns how long they hold.
pub async fn resolve(upstream: &Upstream) -> Duration {
    let locations = match &upstream.settings().source {
        Source::Listed(locations) => locations.clone(),
        Source::File(path) => match endpoint_list::read(path) {
            Ok(locations) => locations,
            Err(cause) => {
                tracing::warn!(upstream = upstream.name(), cause, "endpoint file refused; its last endpoints stay");
                return AFTER_FAILURE;
            }
        },
        Source::Srv(_) => Vec::new(),
    };
    let server = upstream.settings().resolver;
    // Made anew each time, so that changes of the system's configuration are seen.
    let resolver = match Resolver::new(server) {
        Ok(resolver) => resolver,
        Err(cause) => {
            failed(upstream, "resolver", &cause.to_string());
            return AFTER_FAILURE;
        }
    };
    match &upstream.settings().source {
        Source::Srv(name) => match resolver.services(name).await {
            Ok(answer) => {
                let (locations, holds) = (from_services(&answer), answer.ttl);
                look_up(upstream, &resolver, &locations).await.min(holds)
            }
            Err(cause) => {
                failed(upstream, name, &cause.to_string());
                AFTER_FAILURE
            }
        },
        _ => look_up(upstream, &resolver, &locations).await,
    }
}

/// Keeps an upstream's addresses up to date until the upstream is dropped.
pub async fn run(upstream: Weak<Upstream>) {
    let Some(source) = upstream.upgrade().map(|upstream| upstream.settings().source.clone()) else { return };
    let mut seen = None;
    let mut due = Instant::now();
    loop {
        if let Source::File(path) = &source {
            let changed = modified(path);
            if changed == seen && Instant::now() < due {
                tokio::time::sleep(FILE_LOOK).await;
                continue;
            }
            seen = changed;
        } else {
            tokio::time::sleep_until(due.into()).await;
        }
        let Some(upstream) = upstream.upgrade() else { return };
        due = Instant::now() + resolve(&upstream).await;
    }
}

fn modified(path: &Path) -> Option<(SystemTime, u64)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

async fn look_up(upstream: &Upstream, resolver: &Resolver, locations: &[Location]) -> Duration {
    let answers = join_all(locations.iter().map(|location| addresses(upstream, resolver, location))).await;
    let holds = answers.iter().map(|(_, holds)| *holds).min().unwrap_or(AFTER_FAILURE);
    upstream.locate(locations, answers.into_iter().map(|(found, _)| found).collect());
    holds
}

/// The addresses of one location and how long they hold; none when they cannot be found out now.
async fn addresses(
    upstream: &Upstream,
    resolver: &Resolver,
    location: &Location,
) -> (Option<Vec<SocketAddr>>, Duration) {
    if let Some(address) = location.address() {
        return (Some(vec![address]), Duration::MAX / 4);
    }
    let answer: Result<Answer<_>, Failure> = resolver.addresses(&location.host).await;
    match answer {
        Ok(answer) => {
            let mut list: Vec<_> =
                answer.records.iter().map(|address| SocketAddr::new(*address, location.port)).collect();
            if !answer.whole {
                // Of the family that could not be asked for, the last addresses stay.
                let known = upstream.addresses_at(location);
                let ipv4 = list.iter().any(SocketAddr::is_ipv4);
                list.extend(known.iter().filter(|old| old.is_ipv4() != ipv4));
            }
            (Some(list), answer.ttl)
        }
        Err(cause) => {
            failed(upstream, &location.host, &cause.to_string());
            (None, AFTER_FAILURE)
        }
    }
}

fn failed(upstream: &Upstream, name: &str, cause: &str) {
    let upstream = upstream.name();
    tracing::warn!(upstream, name, cause, "cannot resolve endpoints; the last addresses stay in use");
}

/// Services as locations; each distinct priority is a tier.
fn from_services(answer: &Answer<super::resolver::Service>) -> Vec<Location> {
    let mut priorities: Vec<u16> = answer.records.iter().map(|service| service.priority).collect();
    priorities.sort_unstable();
    priorities.dedup();
    let tier = |priority: u16| priorities.iter().position(|known| *known == priority).unwrap_or(0);
    let location = |service: &super::resolver::Service| Location {
        host: service.host.to_ascii_lowercase(),
        port: service.port,
        weight: u32::from(service.weight).max(LEAST_WEIGHT),
        tier: u8::try_from(tier(service.priority)).unwrap_or(u8::MAX),
    };
    answer.records.iter().map(location).collect()
}

/// Whether an upstream's addresses have to be found.
#[must_use]
pub fn is_needed(upstream: &Arc<Upstream>) -> bool {
    match &upstream.settings().source {
        Source::Listed(locations) => locations.iter().any(|location| location.address().is_none()),
        Source::Srv(_) | Source::File(_) => true,
    }
}
