//! The API's answers.

use std::net::SocketAddr;
use std::time::Instant;

use axum::Json;
use axum::extract::{Path, RawQuery, State as Server};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::snapshot::explain::Question;
use crate::snapshot::{Action, Snapshot};
use crate::telemetry::Outcome;
use crate::upstream::{State, Upstream};

use super::Admin;

/// How the gateway is.
pub(super) async fn status(Server(admin): Server<Admin>) -> Json<Value> {
    let snapshot = admin.snapshot.load_full();
    let now = Instant::now();
    let unhealthy = snapshot
        .upstreams
        .iter()
        .flat_map(|upstream| upstream.endpoints())
        .filter(|(endpoint, _)| !endpoint.is_usable(now))
        .count();
    Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "pid": std::process::id(),
        "generation": snapshot.generation,
        "draining": admin.draining.load(std::sync::atomic::Ordering::Relaxed),
        "requests_in_flight": admin.metrics.in_flight.get(),
        "last_reload_successful": admin.metrics.reload_successful.get() == 1,
        "routes": snapshot.table.len(),
        "upstreams": snapshot.upstreams.len(),
        "unhealthy_endpoints": unhealthy,
        "listeners": snapshot.listeners.iter().map(|listener| listener.address.to_string()).collect::<Vec<_>>(),
    }))
}

/// The configuration in force, with all defaults, and the last reloads.
pub(super) async fn config(Server(admin): Server<Admin>) -> Json<Value> {
    let shown = admin.reload.shown().lock().await;
    let generation = admin.snapshot.load().generation;
    Json(json!({ "generation": generation, "config": shown.config, "history": shown.history }))
}

/// The routes in true match order.
pub(super) async fn routes(Server(admin): Server<Admin>) -> Json<Value> {
    Json(route_list(&admin.snapshot.load_full()))
}

/// The routes in true match order, one entry for each host of a route.
#[must_use]
pub fn route_list(snapshot: &Snapshot) -> Value {
    let ranked = snapshot.table.ranked();
    let entries = ranked.into_iter().filter_map(|(index, host)| {
        let route = snapshot.table.get(index)?;
        let to = match &route.value.action {
            Action::Forward(forward) => forward.label.to_string(),
            Action::Respond { status, .. } => format!("respond {}", status.as_u16()),
            Action::Redirect { status, .. } => format!("redirect {}", status.as_u16()),
        };
        let tests = &route.tests;
        let count =
            tests.headers.len() + tests.query.len() + tests.cookies.len() + usize::from(!tests.clients.is_empty());
        let mut shifts = Vec::new();
        if let Action::Forward(forward) = &route.value.action {
            forward
                .target
                .shifts(&mut |shift| shifts.push(json!({ "share": shift.share(), "phase": shift.describe() })));
        }
        Some(json!({
            "name": route.value.name,
            "priority": route.priority,
            "host": host.to_string(),
            "path": route.path.to_string(),
            "methods": tests.methods.iter().map(http::Method::as_str).collect::<Vec<_>>(),
            "tests": count,
            "to": to,
            "shifts": shifts,
        }))
    });
    entries.collect()
}

/// The upstreams and how their endpoints are.
pub(super) async fn upstreams(Server(admin): Server<Admin>) -> Json<Value> {
    let snapshot = admin.snapshot.load_full();
    let now = Instant::now();
    Json(snapshot.upstreams.iter().map(|upstream| describe(upstream, now)).collect())
}

fn describe(upstream: &Upstream, now: Instant) -> Value {
    let endpoints = upstream.endpoints();
    let endpoints = endpoints.iter().map(|(endpoint, weight)| {
        let metrics = endpoint.metrics();
        json!({
            "address": endpoint.name(),
            "weight": weight,
            "state": endpoint.state(),
            "condition": endpoint.condition(now),
            "healthy": endpoint.is_usable(now),
            "in_flight": endpoint.in_flight(),
            "latency_ms": endpoint.latency.value(endpoint.clock(now)) / 1e6,
            "breaker": endpoint.breaker.state(now).as_str(),
            "success": metrics.count(Outcome::Success),
            "server_error": metrics.count(Outcome::ServerError),
            "connect_failed": metrics.count(Outcome::ConnectFailed),
            "timeout": metrics.count(Outcome::Timeout),
            "reset": metrics.count(Outcome::Reset),
        })
    });
    let condition = upstream.condition(now);
    let limit = Some(upstream.limit()).filter(|limit| *limit != u32::MAX);
    json!({
        "name": upstream.name(),
        "tls": upstream.sni().is_some(),
        "checked": upstream.health().is_some(),
        "breaker": condition.breaker.as_str(),
        "limit": limit,
        "in_use": condition.in_use,
        "waiting": condition.waiting,
        "panic": condition.panic,
        "endpoints": endpoints.collect::<Vec<_>>(),
    })
}

/// What to do with an endpoint.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Change {
    state: State,
}

/// Sets an endpoint's state: `PUT /v1/upstreams/{upstream}/endpoints/{address}`.
pub(super) async fn set_endpoint(
    Server(admin): Server<Admin>,
    Path((name, address)): Path<(String, String)>,
    Json(change): Json<Change>,
) -> Response {
    let snapshot = admin.snapshot.load_full();
    let Some(upstream) = snapshot.upstream(&name) else {
        return not_found(&format!("no upstream is called `{name}`"));
    };
    let Ok(address) = address.parse::<SocketAddr>() else {
        return bad_request(&format!("`{address}` is not the address of an endpoint"));
    };
    if !upstream.set_state(address, change.state) {
        return not_found(&format!("the upstream `{name}` has no endpoint `{address}`"));
    }
    Json(describe(upstream, Instant::now())).into_response()
}

fn not_found(problem: &str) -> Response {
    (StatusCode::NOT_FOUND, Json(json!({ "error": problem }))).into_response()
}

/// What would become of a request; `GET /v1/explain?method=GET&url=…&header=name:value&client=…`.
pub(super) async fn explain_query(Server(admin): Server<Admin>, RawQuery(query): RawQuery) -> Response {
    let query = query.unwrap_or_default();
    let mut question = Question { method: "GET".to_owned(), url: String::new(), headers: Vec::new(), client: None };
    for (key, value) in form_urlencoded::parse(query.as_bytes()) {
        match &*key {
            "method" => question.method = value.into_owned(),
            "url" => question.url = value.into_owned(),
            "header" => question.headers.push(value.into_owned()),
            "client" => question.client = value.parse().ok(),
            other => return bad_request(&format!("unknown parameter `{other}`")),
        }
    }
    answer(&admin, &question)
}

/// What would become of a request, asked in JSON.
pub(super) async fn explain(Server(admin): Server<Admin>, Json(question): Json<Question>) -> Response {
    answer(&admin, &question)
}

fn answer(admin: &Admin, question: &Question) -> Response {
    match admin.snapshot.load_full().explain(question) {
        Ok(explanation) => Json(explanation).into_response(),
        Err(problem) => bad_request(&problem),
    }
}

fn bad_request(problem: &str) -> Response {
    (StatusCode::BAD_REQUEST, Json(json!({ "error": problem }))).into_response()
}

/// Reads the configuration anew and waits for the result; 422 when it is refused.
pub(super) async fn reload(Server(admin): Server<Admin>) -> Response {
    match admin.reload.reload().await {
        Some(report) if report.applied => Json(report).into_response(),
        Some(report) => (StatusCode::UNPROCESSABLE_ENTITY, Json(report)).into_response(),
        None => {
            (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "error": "too many reloads wait already" }))).into_response()
        }
    }
}
