//! Answers of endpoints: what they tell of the endpoint, and what the client gets.

use std::time::{Instant, SystemTime};

use http::StatusCode;
use http::header::{RETRY_AFTER, SET_COOKIE};
use pingora::http::ResponseHeader;
use pingora::{Error, ErrorType, Result};
use pingora_proxy::Session;

use crate::telemetry::Outcome;
use crate::upstream::backoff::retry_after;
use crate::upstream::failure::Failure;

use super::course::Next;
use super::ctx::Ctx;
use super::headers::{BACKEND_SOURCE, REQUEST_ID};
use super::upstream::{Failed, decide, settle_hedge};

/// Headers of one connection, which an answer must not carry on to the next (RFC 9110, section
/// 7.6.1). `connection`, `transfer-encoding` and `upgrade` are Pingora's own business.
const HOP_BY_HOP: [&str; 3] = ["keep-alive", "proxy-connection", "proxy-authenticate"];

/// Counts the answer for its endpoint, and decides whether another try is better.
///
/// # Errors
/// With the answer's status, if another try is to be made or every target has failed.
pub fn judge(session: &Session, answer: &ResponseHeader, ctx: &mut Ctx) -> Result<()> {
    if answer.status.is_informational() && answer.status != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(());
    }
    if ctx.attempt.as_ref().is_some_and(|attempt| attempt.hedge.is_some()) {
        settle_hedge(ctx);
    }
    let Some(attempt) = &mut ctx.attempt else { return Ok(()) };
    if attempt.header_after.is_some() {
        return Ok(());
    }
    attempt.cutoff = None;
    let now = Instant::now();
    let elapsed = now.saturating_duration_since(attempt.begun.started());
    attempt.header_after = Some(elapsed);
    attempt.begun.upstream().metrics().duration.observe(elapsed.as_secs_f64());
    let failed = answer.status.is_server_error();
    attempt.begun.answered(if failed { Outcome::ServerError } else { Outcome::Success }, now);
    if answer.status.as_u16() < 400 {
        return Ok(());
    }
    let after = answer.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    let after = after.and_then(|value| retry_after(value, SystemTime::now()));
    let status = answer.status.as_u16();
    match decide(session, ctx, Failed { failure: Failure::Status(status), elsewhere: false, retry_after: after }) {
        Next::Stop => Ok(()),
        next => {
            ctx.decided = Some(next);
            Err(Error::new_up(ErrorType::HTTPStatus(status)))
        }
    }
}

/// Prepares the answer as the client sees it.
///
/// # Errors
/// A header that cannot be written.
pub fn prepare(session: &mut Session, answer: &mut ResponseHeader, ctx: &Ctx, draining: bool) -> Result<()> {
    if answer.status.is_informational() {
        return Ok(());
    }
    if draining {
        session.set_keepalive(None);
    }
    for name in HOP_BY_HOP {
        answer.remove_header(name);
    }
    if let Some(id) = &ctx.client.request_id {
        answer.insert_header(REQUEST_ID, id.clone())?;
    }
    if let Some(cookie) = ctx.attempt.as_ref().and_then(|attempt| attempt.begun.cookie()) {
        answer.append_header(SET_COOKIE, cookie.clone())?;
    }
    let Some(routed) = &ctx.routed else { return Ok(()) };
    if let Some(step) = routed.course.as_ref().and_then(|course| course.step()).filter(|step| step.onward.is_some()) {
        answer.insert_header(BACKEND_SOURCE, step.leaf.upstream.settings().label.clone())?;
    }
    routed.route.response_edits.apply(answer);
    Ok(())
}
