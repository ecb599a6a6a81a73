//! From the names of endpoints to addresses, away from the request path.

use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::join_all;

use super::{Location, Source, Upstream, endpoint_list};

/// The longest that one look-up may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// Time between two look-ups of one name.
const REFRESH: Duration = Duration::from_secs(15);

/// Looks the names of an upstream up once. A name that cannot be resolved keeps its last
/// addresses.
pub async fn resolve(upstream: &Upstream) {
    let locations = match &upstream.settings().source {
        Source::Listed(locations) => locations.clone(),
        Source::Srv(_) => return,
        Source::File(path) => match endpoint_list::read(path) {
            Ok(locations) => locations,
            Err(_) => return,
        },
    };
    let found = join_all(locations.iter().map(|location| addresses(upstream.name(), location))).await;
    upstream.locate(&locations, found);
}

/// Looks the names up again and again until the upstream is dropped.
pub async fn run(upstream: Weak<Upstream>) {
    loop {
        tokio::time::sleep(REFRESH).await;
        let Some(upstream) = upstream.upgrade() else { return };
        resolve(&upstream).await;
    }
}

/// The addresses of one location; `None` when they cannot be found out now.
async fn addresses(upstream: &str, location: &Location) -> Option<Vec<SocketAddr>> {
    if let Some(address) = location.address() {
        return Some(vec![address]);
    }
    let lookup = tokio::net::lookup_host((location.host.as_str(), location.port));
    let cause = match tokio::time::timeout(PATIENCE, lookup).await {
        Ok(Ok(found)) => {
            let mut list: Vec<_> = found.collect();
            list.sort_unstable();
            list.dedup();
            if !list.is_empty() {
                return Some(list);
            }
            "the name has no address".to_owned()
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => "no answer in time".to_owned(),
    };
    tracing::warn!(upstream, host = location.host, cause, "cannot resolve an endpoint; its last addresses stay in use");
    None
}

/// Whether an upstream has names to look up.
#[must_use]
pub fn is_needed(upstream: &Arc<Upstream>) -> bool {
    match &upstream.settings().source {
        Source::Listed(locations) => locations.iter().any(|location| location.address().is_none()),
        Source::Srv(_) | Source::File(_) => true,
    }
}
