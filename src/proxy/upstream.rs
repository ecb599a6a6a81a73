//! Tries at endpoints: picking, preparing what is sent, and what becomes of failures.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::HeaderValue;
use http::header::HOST;
use pingora::http::RequestHeader;
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorSource, ErrorType, Result};
use pingora_proxy::Session;

use crate::snapshot::Action;
use crate::telemetry::Outcome;
use crate::upstream::tunnel::Tunnels;
use crate::upstream::{PickError, Timeouts};

use super::MAX_ATTEMPTS;
use super::ctx::{Attempt, Ctx};
use super::fail::{Reason, reason_for};
use super::headers::{FORWARDED_FOR, FORWARDED_HOST, FORWARDED_PROTO, OTHER_FORWARDED, REQUEST_ID};
use super::request::clamped;

/// Picks the endpoint of the next try; after a failed one, another.
pub fn pick(session: &Session, ctx: &mut Ctx) -> Result<Box<HttpPeer>> {
    ctx.check_deadline()?;
    let Some(Action::Forward { upstream, .. }) = ctx.routed.as_ref().map(|routed| &routed.route.action) else {
        return Err(ctx.fail(Reason::Internal));
    };
    let upstream = Arc::clone(upstream);
    let avoid = ctx.attempt.as_ref().map(Attempt::address);
    let picked = match upstream.pick(avoid) {
        Ok(picked) => picked,
        // With nowhere else to go, the failure of the first try is the answer.
        Err(error) => {
            let reason = ctx.reason.unwrap_or(match error {
                PickError::NoEndpoint => Reason::NoEndpoint,
                PickError::Unresolved => Reason::DnsFailed,
            });
            return Err(ctx.fail(reason));
        }
    };
    if ctx.attempts > 0 {
        upstream.metrics().retries.inc();
    }
    let mut peer = Box::new(HttpPeer::clone(&picked.peer));
    if session.is_upgrade_req() {
        for_upgrade(&mut peer, &upstream.settings().timeouts);
    }
    let options = &mut peer.options;
    if ctx.deadline.is_some() {
        options.connection_timeout = clamped(options.connection_timeout, ctx.deadline);
        options.total_connection_timeout = clamped(options.total_connection_timeout, ctx.deadline);
        options.read_timeout = clamped(options.read_timeout, ctx.deadline);
    }
    ctx.attempts += 1;
    ctx.reason = None;
    ctx.attempt = Some(Attempt { upstream, in_flight: picked.in_flight, started: Instant::now(), header_after: None });
    Ok(peer)
}

/// An upgrade has a connection of its own kind, which is never shared.
fn for_upgrade(peer: &mut HttpPeer, timeouts: &Timeouts) {
    peer.group_key = fastrand::u64(..);
    let options = &mut peer.options;
    (options.read_timeout, options.write_timeout) = (Some(timeouts.tunnel), Some(timeouts.tunnel));
    options.idle_timeout = Some(Duration::from_secs(1));
    options.custom_l4 = Some(Arc::new(Tunnels { patience: timeouts.connect }));
}

/// After a failed connection nothing was sent, so any request may go to another endpoint.
pub fn connect_failed(ctx: &mut Ctx, mut error: Box<Error>) -> Box<Error> {
    ended(ctx, Outcome::ConnectFailed);
    ctx.reason = Some(reason_for(&error_from_upstream(&error), ctx.deadline));
    error.set_retry(ctx.attempts < MAX_ATTEMPTS);
    error
}

/// Connect errors reach the callback before Pingora marks where they come from.
fn error_from_upstream(error: &Error) -> Box<Error> {
    Error::new_up(error.etype().clone())
}

/// After a broken try, only an idempotent request may be sent again, and only if nothing of an
/// answer was passed on and the body can be sent again whole (RFC 9110, section 9.2.2).
pub fn broke(session: &mut Session, ctx: &mut Ctx, mut error: Box<Error>, reused: bool) -> Box<Error> {
    if *error.esource() == ErrorSource::Upstream {
        let timeout = matches!(error.etype(), ErrorType::ReadTimedout | ErrorType::WriteTimedout);
        ended(ctx, if timeout { Outcome::Timeout } else { Outcome::Reset });
    }
    let begun = session.response_written().is_some_and(|answer| !answer.status.is_informational());
    let repeatable =
        session.req_header().method.is_idempotent() && !session.as_ref().retry_buffer_truncated() && !begun;
    // The endpoint closed an idle connection just as it was used; a write then fails at once.
    let stale = reused && *error.esource() == ErrorSource::Upstream && *error.etype() == ErrorType::WriteError;
    if !repeatable || ctx.attempts >= MAX_ATTEMPTS {
        error.set_retry(false);
    } else if stale {
        error.set_retry(true);
    } else {
        error.retry.decide_reuse(reused);
    }
    if error.retry() && reused {
        // Not the endpoint's fault: it may be picked again.
        ctx.attempt = None;
    }
    error
}

fn ended(ctx: &Ctx, outcome: Outcome) {
    if let Some(attempt) = &ctx.attempt {
        attempt.in_flight.ended(outcome);
    }
}

/// Prepares the request as the endpoint sees it.
pub fn prepare(session: &Session, request: &mut RequestHeader, ctx: &Ctx) -> Result<()> {
    let Some(routed) = &ctx.routed else { return Ok(()) };
    let host = original_host(session);
    if let Some(target) = &routed.target {
        // Read as leniently as what the client sent, so that its query passes as it is.
        request.set_raw_path(target.as_bytes())?;
    }
    forwarding_headers(request, host.as_ref(), ctx)?;
    if let Some(host) = ctx.attempt.as_ref().and_then(|attempt| attempt.upstream.settings().host.clone()) {
        request.insert_header(HOST, host)?;
    }
    routed.route.request_edits.apply(request);
    Ok(())
}

fn original_host(session: &Session) -> Option<HeaderValue> {
    let header = session.req_header();
    let authority = header.uri.authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
    authority.or_else(|| header.headers.get(HOST).cloned())
}

/// Tells the endpoint whom the request came from. What a trusted proxy told is kept and added to;
/// what anyone else told is replaced.
fn forwarding_headers(request: &mut RequestHeader, host: Option<&HeaderValue>, ctx: &Ctx) -> Result<()> {
    let trusted = ctx.client.trusted;
    if let Some(peer) = ctx.client.peer {
        let mut chain = String::new();
        if trusted {
            for line in request.headers.get_all(FORWARDED_FOR).iter().filter_map(|line| line.to_str().ok()) {
                chain.push_str(line);
                chain.push_str(", ");
            }
        }
        // Writing to a string cannot fail.
        let _ = write!(chain, "{peer}");
        request.insert_header(FORWARDED_FOR, chain)?;
    }
    if !(trusted && request.headers.contains_key(FORWARDED_HOST)) {
        match host {
            Some(host) => request.insert_header(FORWARDED_HOST, host.clone())?,
            None => drop(request.remove_header(&FORWARDED_HOST)),
        }
    }
    if !(trusted && request.headers.contains_key(FORWARDED_PROTO)) {
        request.insert_header(FORWARDED_PROTO, HeaderValue::from_static("http"))?;
    }
    if !trusted {
        for name in OTHER_FORWARDED {
            request.remove_header(name);
        }
    }
    if let Some(id) = &ctx.client.request_id {
        request.insert_header(REQUEST_ID, id.clone())?;
    }
    Ok(())
}
