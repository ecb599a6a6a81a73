//! Real parts for tests: the gateway's own binary, real servers behind it, clients before it.

pub mod dns;
pub mod gateway;
pub mod load;
pub mod nginx;
pub mod pool;
pub mod raw;
pub mod upstream;

pub use gateway::Gateway;
pub use nginx::Nginx;
pub use upstream::Upstream;

use std::time::{Duration, Instant};

/// A port that nobody listened on a moment ago.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// How many times as long loads last; `POINTSMAN_TEST_SCALE`, 1 unless set.
pub fn scale() -> usize {
    std::env::var("POINTSMAN_TEST_SCALE").ok().and_then(|scale| scale.parse().ok()).unwrap_or(1)
}

/// Waits until `condition` gives something, at most ten seconds.
pub async fn eventually<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(begin.elapsed() < Duration::from_secs(10), "in ten seconds not: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
