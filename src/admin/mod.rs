//! The admin listener: metrics, probes, and the read side of the API.
//!
//! It has no authentication, so it listens on a loopback address or a Unix socket only, refuses
//! hosts that are not local (a browser lured by DNS rebinding names another), and refuses writes
//! that a web page sent (they carry `Origin`).

pub mod api;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};

use crate::reload::Handle;
use crate::route::host::without_port;
use crate::snapshot::Snapshot;
use crate::telemetry::Metrics;

/// What the admin listener shows and steers.
#[derive(Clone)]
pub struct Admin {
    /// The configuration in force.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// The way to the writer of configurations.
    pub reload: Handle,
    /// Set while the process finishes its last requests.
    pub draining: Arc<AtomicBool>,
}

/// The routes of the admin listener.
pub fn router(admin: Admin) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/v1/status", get(api::status))
        .route("/v1/config", get(api::config))
        .route("/v1/routes", get(api::routes))
        .route("/v1/upstreams", get(api::upstreams))
        .route("/v1/upstreams/{upstream}/endpoints/{address}", put(api::set_endpoint))
        .route("/v1/explain", get(api::explain_query).post(api::explain))
        .route("/v1/reload", post(api::reload))
        .layer(middleware::from_fn(guard))
        .with_state(admin)
}

async fn guard(request: Request, next: Next) -> Response {
    let headers = request.headers();
    if !headers.get(header::HOST).is_some_and(|host| host.to_str().is_ok_and(is_local)) {
        return refuse("this listener answers to local hosts only");
    }
    let reads = [Method::GET, Method::HEAD].contains(request.method());
    if !reads && is_from_a_page(headers) {
        return refuse("writes from web pages are refused");
    }
    next.run(request).await
}

fn refuse(message: &str) -> Response {
    (StatusCode::FORBIDDEN, axum::Json(serde_json::json!({ "error": message }))).into_response()
}

fn is_local(host: &str) -> bool {
    let name = without_port(host);
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    name.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

fn is_from_a_page(headers: &HeaderMap) -> bool {
    headers.contains_key(header::ORIGIN) || headers.get("sec-fetch-site").is_some_and(|site| site != "none")
}

async fn metrics(State(admin): State<Admin>) -> Response {
    // Some gauges are set when they are read, so that requests need not.
    let now = std::time::Instant::now();
    admin.snapshot.load().upstreams.iter().for_each(|upstream| {
        let _ = upstream.condition(now);
    });
    match admin.metrics.render() {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn ready(State(admin): State<Admin>) -> Response {
    if admin.draining.load(Ordering::Relaxed) {
        (StatusCode::SERVICE_UNAVAILABLE, "draining\n").into_response()
    } else {
        "ok\n".into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::is_local;

    #[test]
    fn only_local_hosts_are_local() {
        for host in ["localhost", "LOCALHOST:9901", "127.0.0.1", "127.9.9.9:1", "[::1]:9901"] {
            assert!(is_local(host), "{host}");
        }
        for host in ["evil.test", "10.0.0.1", "localhost.evil.test", "127.0.0.1.evil.test", "", "0.0.0.0"] {
            assert!(!is_local(host), "{host}");
        }
    }
}
