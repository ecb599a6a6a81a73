//! Tries at endpoints: picking, preparing what is sent, and what becomes of failures.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::HeaderValue;
use http::header::{CONNECTION, HOST};
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
use crate::upstream::hedge::{Hedge, Hedged};
use crate::upstream::tunnel::Tunnels;
use crate::upstream::{Ask, PickError, Timeouts, Try};

use super::course::{self, Course, Next};
use super::ctx::{Attempt, Copying, Ctx, Routed};
use super::fail::{Reason, reason_for};
use super::headers::{
    FORWARDED_FOR, FORWARDED_HOST, FORWARDED_PROTO, NO_FALLBACK, OTHER_FORWARDED, REQUEST_ID, has_begun,
};
use super::mirror;
use super::request::{asked, clamped, forwarded};

/// Begins the next try: at the same target, or at the next where this one has no endpoint.
pub async fn pick(session: &mut Session, ctx: &mut Ctx) -> Result<Box<HttpPeer>> {
    ctx.attempt = None;
    pause(ctx).await;
    loop {
        ctx.check_deadline()?;
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
    let key = settings.key.as_ref().map(|key| key.of(&asked(session.req_header(), ctx)));
    let token = settings.resilience.sticky.as_ref().and_then(|name| {
        let value = cookies(&session.req_header().headers, name).next()?;
        u64::from_str_radix(std::str::from_utf8(value).ok()?, 16).ok()
    });
    let key = key.as_ref().map_or(&[][..], |key| key.as_slice());
    let ask = Ask { key, avoid: course.avoid, token, deadline: ctx.deadline, ..Ask::new(now) };
    Some(upstream.begin(ask, course.is_again()).await)
}

/// No try can begin at this target: goes on to the next, or fails.
fn nowhere(session: &Session, ctx: &mut Ctx, error: PickError) -> Result<()> {
    let reason = match error {
        PickError::NoEndpoint => Reason::NoEndpoint,
        PickError::Unresolved => Reason::DnsFailed,
        PickError::Open(_) => Reason::CircuitOpen,
        PickError::Overloaded => Reason::Overloaded,
        PickError::TooLate => return Err(ctx.fail(Reason::Deadline)),
    };
    let again = course_of(ctx).is_some_and(|course| course.is_again());
    // With nowhere else to go, the failure of the try before is the answer.
    let reason = ctx.reason.filter(|_| again).unwrap_or(reason);
    let failure = course_of(ctx).and_then(|course| course.failure).filter(|_| again).unwrap_or(Failure::Connect);
    match decide(session, ctx, Failed { failure, elsewhere: true, retry_after: None }) {
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

fn course_of(ctx: &mut Ctx) -> Option<&mut Course> {
    ctx.routed.as_mut()?.course.as_mut()
}

/// Makes a try that has its endpoint the present one.
fn start(session: &mut Session, ctx: &mut Ctx, begun: Try) -> Box<HttpPeer> {
    let mut peer = Box::new(begun.peer().clone());
    let mut hedge_of_try = None;
    let upstream = Arc::clone(begun.upstream());
    if let Some(course) = course_of(ctx) {
        if course.is_again() {
            upstream.metrics().retries.inc();
        }
        course.begin();
        course.avoid = Some(begun.endpoint().address());
    }
    if session.is_upgrade_req() {
        for_upgrade(&mut peer, &upstream.settings().timeouts);
    } else if let Some(hedged) = hedge(session, ctx, &begun) {
        peer.group_key = fastrand::u64(..);
        peer.options.idle_timeout = Some(UNSHARED);
        peer.options.custom_l4 = Some(Arc::new(Hedged(Arc::clone(&hedged))));
        clamp_connect(&mut peer.options, per_try(ctx).map(|limit| begun.started() + limit));
        hedge_of_try = Some(hedged);
    } else if let Some(per_try) = per_try(ctx) {
        peer.group_key ^= CUTTABLE;
        peer.options.custom_l4 = Some(Arc::<Cuttable>::clone(&upstream.cuttable));
        clamp_connect(&mut peer.options, Some(begun.started() + per_try));
    }
    if ctx.deadline.is_some() {
        clamp_connect(&mut peer.options, ctx.deadline);
        peer.options.read_timeout = clamped(peer.options.read_timeout, ctx.deadline);
    }
    if let Copying::Draft(draft) = &mut ctx.copy {
        draft.restart();
    }
    ctx.reason = None;
    ctx.attempt = Some(Attempt { begun, header_after: None, hedge: hedge_of_try, cutoff: None });
    peer
}

/// How long a connection that nobody can use again lies in Pingora's pool.
const UNSHARED: Duration = Duration::from_secs(1);

/// Hedges a first try without a body, if the route asks for it and its method may be sent twice.
fn hedge(session: &mut Session, ctx: &Ctx, begun: &Try) -> Option<Arc<Hedge>> {
    let routed = ctx.routed.as_ref()?;
    let Action::Forward(forward) = &routed.route.action else { return None };
    let after = forward.retry.hedge?;
    let first = routed.course.as_ref()?.total == 1;
    let twice = forward.retry.methods.include(&session.req_header().method);
    let times = (after, per_try(ctx));
    (first && twice && session.as_downstream_mut().is_body_empty())
        .then(|| Hedge::new(Arc::clone(begun.upstream()), times, Arc::clone(&forward.retry.budget), begun.started()))
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

/// A connection is there: the time to the answer's begin runs. For an upgrade it always does, as
/// Pingora's own limit is that of the tunnel.
pub fn connected(session: &Session, ctx: &mut Ctx, connection: Option<&Digest>) {
    let per_try = per_try(ctx);
    let Some(attempt) = &mut ctx.attempt else { return };
    let response = attempt.begun.upstream().settings().timeouts.response;
    if let Some(limit) = per_try.or_else(|| session.is_upgrade_req().then_some(response)) {
        attempt.cutoff = Cutoff::at(attempt.begun.started() + limit, connection);
    }
}

/// An upgrade has a connection of its own kind, which is never shared.
fn for_upgrade(peer: &mut HttpPeer, timeouts: &Timeouts) {
    peer.group_key = fastrand::u64(..);
    let options = &mut peer.options;
    (options.read_timeout, options.write_timeout) = (Some(timeouts.tunnel), Some(timeouts.tunnel));
    options.idle_timeout = Some(UNSHARED);
    options.custom_l4 = Some(Arc::new(Tunnels { patience: timeouts.connect }));
}

/// How a try failed, as far as the endpoint is concerned.
#[derive(Clone, Copy, Debug)]
pub struct Failed {
    /// How it failed.
    pub failure: Failure,
    /// Whether the same target is out of the question.
    pub elsewhere: bool,
    /// How long the server asked to wait.
    pub retry_after: Option<Duration>,
}

impl From<Failure> for Failed {
    fn from(failure: Failure) -> Self {
        Self { failure, elsewhere: false, retry_after: None }
    }
}

/// Decides what comes after a failed try, and goes on to the next target if that is it.
pub fn decide(session: &Session, ctx: &mut Ctx, failed: Failed) -> Next {
    let Failed { failure, elsewhere, retry_after } = failed;
    let begun = has_begun(session);
    let repeatable = !begun && !session.as_ref().retry_buffer_truncated();
    let Some(routed) = &mut ctx.routed else { return Next::Stop };
    let (Action::Forward(forward), Some(course)) = (&routed.route.action, &mut routed.course) else {
        return Next::Stop;
    };
    let header = session.req_header();
    let first_only =
        course.step().is_some_and(|step| step.onward.is_some()) && header.headers.contains_key(NO_FALLBACK);
    let failed = course::Failed { failure, method: &header.method, repeatable, first_only, retry_after };
    let now = Instant::now();
    let has_other = course.step().is_some_and(|step| step.leaf.upstream.may_repeat(course.avoid, now));
    let next = course.after(&failed, &forward.retry, has_other && !elsewhere, now);
    if next == Next::Onward {
        if let (Some(from), Some(to)) = (course.step(), course.following()) {
            let names = (from.leaf.upstream.name(), to.leaf.upstream.name());
            routed.route.metrics.fell_back(names.0, names.1, failure.label());
        }
        if let Some((shift, side)) = course.step().and_then(|step| step.shifted.as_ref()) {
            let took = ctx.attempt.as_ref().map_or(Duration::ZERO, |attempt| attempt.begun.started().elapsed());
            shift.record(*side, false, took);
        }
        course.go_on();
    }
    next
}

/// After a failed connection nothing was sent, so any request may go somewhere else.
pub fn connect_failed(session: &Session, ctx: &mut Ctx, mut error: Box<Error>) -> Box<Error> {
    match error.etype() {
        // The gateway ran short of something itself.
        ErrorType::InternalError | ErrorType::SocketError | ErrorType::BindError => forget(ctx),
        _ => ended(ctx, Outcome::ConnectFailed),
    }
    ctx.reason = Some(reason_for(&error_from_upstream(&error), ctx.deadline));
    let next = decide(session, ctx, Failure::Connect.into());
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
    settle_hedge(ctx);
    let cut = ctx.attempt.as_ref().and_then(|attempt| attempt.cutoff.as_ref()).is_some_and(Cutoff::has_fired);
    let stale = reused && !cut && is_stale(session, ctx, &error);
    if stale && may_send_again(session, ctx) && course_of(ctx).is_some_and(Course::broke_stale) {
        forget(ctx);
        error.set_retry(true);
        return error;
    }
    let failure = failure_of(&error, cut);
    match failure {
        _ if stale => forget(ctx),
        Failure::Timeout => ended(ctx, Outcome::Timeout),
        _ => ended(ctx, Outcome::Reset),
    }
    if cut {
        ctx.reason = Some(Reason::UpstreamTimeout);
    }
    let reason = ctx.reason.unwrap_or_else(|| reason_for(&error, ctx.deadline));
    ctx.reason = Some(reason);
    let next = if reason == Reason::Deadline { Next::Stop } else { decide(session, ctx, failure.into()) };
    settle(ctx, &mut error, next);
    error
}

/// Makes the second try of a hedge the present one, if its endpoint was heard first.
pub fn settle_hedge(ctx: &mut Ctx) {
    let Some(attempt) = &mut ctx.attempt else { return };
    let Some(second) = attempt.hedge.take().and_then(|hedge| hedge.winner()) else { return };
    attempt.begun.overtaken();
    attempt.begun = second;
    let address = attempt.address();
    if let Some(course) = course_of(ctx) {
        course.avoid = Some(address);
    }
}

/// A connection that breaks this soon was most likely closed while it was idle.
const SOON: Duration = Duration::from_secs(1);

/// Whether the endpoint closed an idle connection just as it was used.
fn is_stale(session: &Session, ctx: &Ctx, error: &Error) -> bool {
    let begun = has_begun(session);
    let early = *error.etype() == ErrorType::WriteError || matches!(error.retry, RetryType::ReusedOnly);
    let soon = ctx.attempt.as_ref().is_some_and(|attempt| attempt.begun.started().elapsed() < SOON);
    early && soon && !begun
}

/// Whether what was sent over a stale connection may be sent once more: it was not answered, but
/// it may have been read.
fn may_send_again(session: &Session, ctx: &Ctx) -> bool {
    let Some(Action::Forward(forward)) = ctx.routed.as_ref().map(|routed| &routed.route.action) else { return false };
    let retry = &forward.retry;
    let whole = !session.as_ref().retry_buffer_truncated();
    whole && retry.attempts > 1 && retry.methods.include(&session.req_header().method)
}

fn failure_of(error: &Error, cut: bool) -> Failure {
    match error.etype() {
        _ if cut => Failure::Timeout,
        ErrorType::ReadTimedout | ErrorType::WriteTimedout => Failure::Timeout,
        // Pingora marks what HTTP/2 says was not processed: REFUSED_STREAM, and GOAWAY below it.
        ErrorType::H2Error | ErrorType::H2Downgrade if matches!(error.retry, RetryType::Decided(true)) => {
            Failure::RefusedStream
        }
        _ => Failure::Reset,
    }
}

fn forget(ctx: &mut Ctx) {
    if let Some(attempt) = &mut ctx.attempt {
        attempt.begun.forget();
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
    let copy = if ctx.mirrored { None } else { mirror::draft(session, request, ctx)? };
    if step.onward.is_some() {
        request.insert_header(NO_FALLBACK, HeaderValue::from_static("1"))?;
    }
    if ctx.attempt.as_ref().is_some_and(|attempt| attempt.hedge.is_some()) {
        // Its connection cannot be used again.
        request.insert_header(CONNECTION, HeaderValue::from_static("close"))?;
    }
    address(session, request, routed, &step.leaf)?;
    ctx.mirrored = true;
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
