//! The one record of a request: counters and its access log line.

use http::header::{HOST, REFERER, USER_AGENT};
use http::{HeaderName, Version};
use pingora::Error;
use pingora::http::RequestHeader;
use pingora_proxy::Session;

use crate::telemetry::metrics::NO_ROUTE;
use crate::telemetry::{AccessLog, Record};

use super::ctx::Ctx;
use super::fail::{Reason, reason_for};
use super::mirror;

/// Counts the request and writes its line.
pub fn record(session: &Session, error: Option<&Error>, ctx: &mut Ctx, log: &AccessLog) {
    if let Some(error) = error {
        let deadline = ctx.deadline;
        ctx.reason.get_or_insert_with(|| reason_for(error, deadline));
    } else {
        ctx.reason = None;
    }
    let duration = ctx.started.elapsed();
    let header = session.req_header();
    let status = session.response_written().map_or(0, |answer| answer.status.as_u16());
    mirror::finish(ctx, status);
    shifted(ctx, status);
    let routed = ctx.routed.as_ref().map(|routed| &routed.route);
    routed.map_or(&ctx.snapshot.unrouted, |route| &route.metrics).answered(&header.method, status, duration);
    if !log.is_on() {
        return;
    }
    let text = |name: HeaderName| header.headers.get(name).and_then(|value| value.to_str().ok());
    let host = header.uri.authority().map(http::uri::Authority::as_str).or_else(|| text(HOST));
    let target = String::from_utf8_lossy(header.raw_path());
    log.write(&Record {
        time: ctx.time,
        request_id: ctx.client.request_id.as_ref().and_then(|id| id.to_str().ok()).unwrap_or_default(),
        client: ctx.client.address,
        method: header.method.as_str(),
        host: host.unwrap_or_default(),
        target: &target,
        protocol: protocol(header),
        status,
        duration_ms: milliseconds(duration),
        bytes_received: session.as_downstream().body_bytes_read(),
        bytes_sent: session.as_downstream().body_bytes_sent(),
        route: routed.map_or(NO_ROUTE, |route| &*route.name),
        upstream: ctx.attempt.as_ref().map(|attempt| attempt.begun.upstream().name()),
        endpoint: ctx.attempt.as_ref().map(|attempt| attempt.begun.endpoint().name()),
        attempts: ctx.routed.as_ref().and_then(|routed| routed.course.as_ref()).map_or(0, |course| course.total),
        upstream_ms: ctx.attempt.as_ref().and_then(|attempt| attempt.header_after).map(milliseconds),
        reason: ctx.reason.map(super::fail::Reason::as_str),
        user_agent: text(USER_AGENT),
        referer: text(REFERER),
    });
}

/// Tells a shift how the request fared on its side.
fn shifted(ctx: &Ctx, status: u16) {
    let course = ctx.routed.as_ref().and_then(|routed| routed.course.as_ref());
    let Some((shift, side)) = course.and_then(|course| course.step()).and_then(|step| step.shifted.as_ref()) else {
        return;
    };
    // What the client did says nothing of the target.
    if matches!(ctx.reason, Some(Reason::ClientClosed | Reason::ClientTimeout | Reason::BadRequest)) {
        return;
    }
    let took = ctx.attempt.as_ref().and_then(|attempt| attempt.header_after);
    shift.record(*side, (1..500).contains(&status) && ctx.reason.is_none(), took.unwrap_or_default());
}

/// Milliseconds with microseconds after the point.
#[expect(clippy::cast_precision_loss, reason = "exact up to 285 years")]
fn milliseconds(duration: std::time::Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}

fn protocol(header: &RequestHeader) -> &'static str {
    match header.version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    }
}
