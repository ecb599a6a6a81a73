//! Tries at endpoints: picking, preparing what is sent, and what becomes of failures.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::HeaderValue;
use http::header::HOST;
use pingora::http::RequestHeader;
use pingora::protocols::Digest;
use pingora::upstreams::peer::{HttpPeer, PeerOptions};
use pingora::{Error, ErrorSource, ErrorType, Result, RetryType};
use pingora_proxy::Session;

use crate::route::predicate::cookies;
use crate::snapshot::{Action, Leg};
use crate::telemetry::Outcome;
use crate::upstream::cutoff::{Cutoff, Cuttable};
use crate::upstream::failure::Failure;
use crate::upstream::tunnel::Tunnels;
use crate::upstream::{Ask, PickError, Timeouts, Try};

use super::course::{Course, Failed, Next};
use super::ctx::{Attempt, Ctx, Routed};
use super::fail::{Reason, reason_for};
use super::headers::{FORWARDED_FOR, FORWARDED_HOST, FORWARDED_PROTO, NO_FALLBACK, OTHER_FORWARDED, REQUEST_ID};
use super::mirror;
use super::request::{asked, clamped, forwarded};

/// Begins the next try: at the same target, or at the next where this one has no endpoint.
pub async fn pick(session: &Session, ctx: &mut Ctx) -> Result<Box<HttpPeer>> {
    ctx.attempt = None;
    pause(ctx).await;
    ctx.check_deadline()?;
    loop {
        let now = Instant::now();
        match begin(session, ctx, now).await {
            Some(Ok(begun)) => return Ok(start(session, ctx, begun)),
            Some(Err(error)) => nowhere(session, ctx, error)?,
            None => return Err(ctx.fail(Reason::Internal)),
        }
    }
}

/// Waits before a repeated try, but not beyond the deadline.
async fn pause(ctx: &Ctx) {
    let pause = ctx.routed.as_ref().and_then(|routed| routed.course.as_ref()).map(|course| course.pause);
    if let Some(pause) = pause.filter(|pause| !pause.is_zero()) {
        let left = ctx.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        tokio::time::sleep(left.map_or(pause, |left| pause.min(left))).await;
    }
}

async fn begin(session: &Session, ctx: &Ctx, now: Instant) -> Option<Result<Try, PickError>> {
    let course = ctx.routed.as_ref()?.course.as_ref()?;
    let upstream = &course.step()?.leaf.upstream;
    let settings = upstream.settings();
    let request = asked(session.req_header(), ctx);
    let key = settings.key.as_ref().map(|key| key.of(&request));
    let token = settings.resilience.sticky.as_ref().and_then(|name| {
        let value = cookies(&session.req_header().headers, name).next()?;
        u64::from_str_radix(std::str::from_utf8(value).ok()?, 16).ok()
    });
    let key = key.as_ref().map_or(&[][..], |key| key.as_slice());
    let ask = Ask { key, avoid: course.avoid, token, ..Ask::new(now) };
    Some(upstream.begin(ask, course.is_again()).await)
}

/// No try can begin at this target: goes on to the next, or fails.
fn nowhere(session: &Session, ctx: &mut Ctx, error: PickError) -> Result<()> {
    let reason = match error {
        PickError::NoEndpoint => Reason::NoEndpoint,
        PickError::Unresolved => Reason::DnsFailed,
        PickError::Open(_) => Reason::CircuitOpen,
        PickError::Overloaded => Reason::Overloaded,
    };
    let again = course(ctx).is_some_and(|course| course.is_again());
    // With nowhere else to go, the failure of the try before is the answer.
    let reason = ctx.reason.filter(|_| again).unwrap_or(reason);
    let failure = course(ctx).and_then(|course| course.failure).filter(|_| again).unwrap_or(Failure::Connect);
    match decide(session, ctx, failure, None) {
        Next::Again | Next::Stop => {
            ctx.retry_after = match error {
                PickError::Open(after) => Some(after),
                PickError::Overloaded => Some(Duration::from_secs(1)),
                _ => None,
            };
            Err(ctx.fail(reason))
        }
        Next::Exhausted => Err(ctx.fail(Reason::AllFailed)),
        Next::Onward => Ok(()),
    }
}

fn course(ctx: &mut Ctx) -> Option<&mut Course> {
    ctx.routed.as_mut()?.course.as_mut()
}

/// Makes a try that has its endpoint the present one.
fn start(session: &Session, ctx: &mut Ctx, begun: Try) -> Box<HttpPeer> {
    let mut peer = Box::new(begun.peer().clone());
    let upstream = Arc::clone(begun.upstream());
    if let Some(course) = course(ctx) {
        if course.is_again() {
            upstream.metrics().retries.inc();
        }
        course.begin();
        course.avoid = Some(begun.endpoint().address());
    }
    if session.is_upgrade_req() {
        for_upgrade(&mut peer, &upstream.settings().timeouts);
    } else if let Some(per_try) = per_try(ctx) {
        peer.group_key ^= CUTTABLE;
        peer.options.custom_l4 = Some(Arc::<Cuttable>::clone(&upstream.cuttable));
        clamp_connect(&mut peer.options, Some(begun.started() + per_try));
    }
    if ctx.deadline.is_some() {
        clamp_connect(&mut peer.options, ctx.deadline);
        peer.options.read_timeout = clamped(peer.options.read_timeout, ctx.deadline);
    }
    ctx.reason = None;
    ctx.attempt = Some(Attempt { begun, header_after: None, cutoff: None });
    peer
}

/// Keeps connections that can be cut off apart in Pingora's pool.
const CUTTABLE: u64 = 0x9e37_79b9_7f4a_7c15;

fn clamp_connect(options: &mut PeerOptions, deadline: Option<Instant>) {
    options.connection_timeout = clamped(options.connection_timeout, deadline);
    options.total_connection_timeout = clamped(options.total_connection_timeout, deadline);
}

/// How long the present try may take until its answer begins.
fn per_try(ctx: &Ctx) -> Option<Duration> {
    let routed = ctx.routed.as_ref()?;
    let Action::Forward(forward) = &routed.route.action else { return None };
    let step = routed.course.as_ref()?.step()?;
    [forward.retry.per_try, step.per_try].into_iter().flatten().min()
}

/// A connection is there: the time to the answer's begin runs.
pub fn connected(ctx: &mut Ctx, connection: Option<&Digest>) {
    let Some(per_try) = per_try(ctx) else { return };
    if let Some(attempt) = &mut ctx.attempt {
        attempt.cutoff = Cutoff::at(attempt.begun.started() + per_try, connection);
    }
}

/// An upgrade has a connection of its own kind, which is never shared.
fn for_upgrade(peer: &mut HttpPeer, timeouts: &Timeouts) {
    peer.group_key = fastrand::u64(..);
    let options = &mut peer.options;
    (options.read_timeout, options.write_timeout) = (Some(timeouts.tunnel), Some(timeouts.tunnel));
    options.idle_timeout = Some(Duration::from_secs(1));
    options.custom_l4 = Some(Arc::new(Tunnels { patience: timeouts.connect }));
}

/// Decides what comes after a failed try, and goes on to the next target if that is it.
pub fn decide(session: &Session, ctx: &mut Ctx, failure: Failure, retry_after: Option<Duration>) -> Next {
    let begun = session.response_written().is_some_and(|answer| !answer.status.is_informational());
    let repeatable = !begun && !session.as_ref().retry_buffer_truncated();
    let Some(routed) = &mut ctx.routed else { return Next::Stop };
    let (Action::Forward(forward), Some(course)) = (&routed.route.action, &mut routed.course) else {
        return Next::Stop;
    };
    let header = session.req_header();
    let first_only =
        course.step().is_some_and(|step| step.onward.is_some()) && header.headers.contains_key(NO_FALLBACK);
    let failed = Failed { failure, method: &header.method, repeatable, first_only, retry_after };
    let now = Instant::now();
    let has_other = course.step().is_some_and(|step| step.leaf.upstream.has_other(course.avoid, now));
    let next = course.after(&failed, &forward.retry, has_other, now);
    if next == Next::Onward {
        if let (Some(from), Some(to)) = (course.step(), course.following()) {
            let names = (from.leaf.upstream.name(), to.leaf.upstream.name());
            routed.route.metrics.fell_back(names.0, names.1, failure.label());
        }
        course.go_on();
    }
    next
}

/// After a failed connection nothing was sent, so any request may go somewhere else.
pub fn connect_failed(session: &Session, ctx: &mut Ctx, mut error: Box<Error>) -> Box<Error> {
    ended(ctx, Outcome::ConnectFailed);
    ctx.reason = Some(reason_for(&error_from_upstream(&error), ctx.deadline));
    let next = decide(session, ctx, Failure::Connect, None);
    settle(ctx, &mut error, next);
    error
}

/// Connect errors reach the callback before Pingora marks where they come from.
fn error_from_upstream(error: &Error) -> Box<Error> {
    Error::new_up(error.etype().clone())
}

fn settle(ctx: &mut Ctx, error: &mut Error, next: Next) {
    error.set_retry(matches!(next, Next::Again | Next::Onward));
    if next == Next::Exhausted {
        ctx.reason = Some(Reason::AllFailed);
    }
}

/// After a broken try, a request is sent again only if its method allows it, nothing of an answer
/// was passed on and the body can be sent again whole (RFC 9110, section 9.2.2).
pub fn broke(session: &mut Session, ctx: &mut Ctx, mut error: Box<Error>, reused: bool) -> Box<Error> {
    if let Some(next) = ctx.decided.take() {
        settle(ctx, &mut error, next);
        return error;
    }
    if *error.esource() != ErrorSource::Upstream {
        error.set_retry(false);
        return error;
    }
    let cut = ctx.attempt.as_ref().and_then(|attempt| attempt.cutoff.as_ref()).is_some_and(Cutoff::has_fired);
    if reused && !cut && is_stale(session, &error) && course(ctx).is_some_and(Course::broke_stale) {
        if let Some(attempt) = &mut ctx.attempt {
            attempt.begun.stale();
        }
        error.set_retry(true);
        return error;
    }
    let failure = failure_of(&error, cut);
    ended(ctx, if failure == Failure::Timeout { Outcome::Timeout } else { Outcome::Reset });
    if cut {
        ctx.reason = Some(Reason::UpstreamTimeout);
    }
    let reason = ctx.reason.unwrap_or_else(|| reason_for(&error, ctx.deadline));
    ctx.reason = Some(reason);
    let next = if reason == Reason::Deadline { Next::Stop } else { decide(session, ctx, failure, None) };
    settle(ctx, &mut error, next);
    error
}

/// Whether the endpoint closed an idle connection just as it was used. What was sent over it was
/// not answered; only what may be sent twice is sent again.
fn is_stale(session: &Session, error: &Error) -> bool {
    let begun = session.response_written().is_some_and(|answer| !answer.status.is_informational());
    let early = *error.etype() == ErrorType::WriteError || matches!(error.retry, RetryType::ReusedOnly);
    early && !begun && session.req_header().method.is_idempotent() && !session.as_ref().retry_buffer_truncated()
}

fn failure_of(error: &Error, cut: bool) -> Failure {
    match error.etype() {
        _ if cut => Failure::Timeout,
        ErrorType::ReadTimedout | ErrorType::WriteTimedout => Failure::Timeout,
        // Pingora marks what HTTP/2 says was not processed: REFUSED_STREAM, and GOAWAY below it.
        ErrorType::H2Error | ErrorType::H2Downgrade if error.retry() => Failure::RefusedStream,
        _ => Failure::Reset,
    }
}

fn ended(ctx: &mut Ctx, outcome: Outcome) {
    if let Some(attempt) = &mut ctx.attempt {
        attempt.begun.ended(outcome);
    }
}

/// Prepares the request as the endpoint sees it.
pub fn prepare(session: &mut Session, request: &mut RequestHeader, ctx: &mut Ctx) -> Result<()> {
    let Some(routed) = &ctx.routed else { return Ok(()) };
    let Some(course) = &routed.course else { return Ok(()) };
    let Some(step) = course.step() else { return Ok(()) };
    forwarding_headers(request, original_host(session).as_ref(), ctx)?;
    routed.route.request_edits.apply(request);
    if step.onward.is_some() {
        request.insert_header(NO_FALLBACK, HeaderValue::from_static("1"))?;
    }
    let copy = if course.total == 1 { mirror::draft(session, request, ctx)? } else { None };
    address(session, request, routed, &step.leaf)?;
    if let Some(draft) = copy {
        mirror::begin(session, ctx, draft);
    }
    Ok(())
}

/// Gives a request the path and the host that an upstream sees.
pub fn address(session: &Session, request: &mut RequestHeader, routed: &Routed, leg: &Leg) -> Result<()> {
    if let Some(target) = forwarded(session.req_header(), routed.path.as_deref(), &leg.rewrite) {
        // Read as leniently as what the client sent, so that its query passes as it is.
        request.set_raw_path(target.as_bytes())?;
    }
    if let Some(host) = leg.upstream.settings().host.clone() {
        request.insert_header(HOST, host)?;
    }
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
