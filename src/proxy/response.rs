//! Answers of endpoints: what they tell of the endpoint, and what the client gets.

use pingora::Result;
use pingora::http::ResponseHeader;
use pingora_proxy::Session;

use crate::telemetry::Outcome;

use super::ctx::Ctx;
use super::headers::REQUEST_ID;

/// Headers of one connection, which an answer must not carry on to the next (RFC 9110, section
/// 7.6.1). `connection`, `transfer-encoding` and `upgrade` are Pingora's own business.
const HOP_BY_HOP: [&str; 3] = ["keep-alive", "proxy-connection", "proxy-authenticate"];

/// Counts the answer for its endpoint.
pub fn judge(answer: &ResponseHeader, ctx: &mut Ctx) {
    if answer.status.is_informational() && answer.status != http::StatusCode::SWITCHING_PROTOCOLS {
        return;
    }
    if let Some(attempt) = &mut ctx.attempt
        && attempt.header_after.is_none()
    {
        let elapsed = attempt.started.elapsed();
        attempt.header_after = Some(elapsed);
        attempt.upstream.metrics().duration.observe(elapsed.as_secs_f64());
        let outcome = if answer.status.is_server_error() { Outcome::ServerError } else { Outcome::Success };
        attempt.in_flight.ended(outcome);
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
    if let Some(routed) = &ctx.routed {
        routed.route.response_edits.apply(answer);
    }
    Ok(())
}
