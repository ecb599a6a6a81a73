//! Copies of requests for mirrors.

use bytes::Bytes;
use pingora::Result;
use pingora::http::RequestHeader;
use pingora_proxy::Session;

use crate::snapshot::Action;
use crate::upstream::mirror::{Draft, Seen};

use super::ctx::{Copying, Ctx};
use super::upstream::address;

/// Begins a copy of a request that is about to be sent, if its route has a mirror for it.
pub fn draft(session: &Session, request: &RequestHeader, ctx: &Ctx) -> Result<Option<Draft>> {
    let Some(routed) = &ctx.routed else { return Ok(None) };
    let Action::Forward(forward) = &routed.route.action else { return Ok(None) };
    let Some((leg, mirror)) = &forward.mirror else { return Ok(None) };
    if session.is_upgrade_req() || !mirror.takes(&session.req_header().method, fastrand::f64()) {
        return Ok(None);
    }
    let mut copy = Box::new(request.clone());
    address(session, &mut copy, routed, leg)?;
    Ok(mirror.draft(copy))
}

/// Sends a copy without a body at once; else its body is collected.
pub fn begin(session: &mut Session, ctx: &mut Ctx, draft: Draft) {
    ctx.copy = if session.as_downstream_mut().is_body_empty() { sent(draft) } else { Copying::Draft(Box::new(draft)) };
}

/// Takes a part of the request's body.
pub fn collect(ctx: &mut Ctx, part: Option<&Bytes>, end: bool) {
    ctx.copy = match std::mem::take(&mut ctx.copy) {
        Copying::Draft(draft) => match draft.with(part.map_or(&[], |part| part)) {
            Some(draft) if end => sent(draft),
            Some(draft) => Copying::Draft(Box::new(draft)),
            None => Copying::No,
        },
        other => other,
    };
}

fn sent(draft: Draft) -> Copying {
    draft.send().map_or(Copying::No, |tell| Copying::Compare(tell, crc32fast::Hasher::new()))
}

/// Takes a part of the answer's body.
pub fn answered(ctx: &mut Ctx, part: Option<&Bytes>) {
    if let (Copying::Compare(_, hasher), Some(part)) = (&mut ctx.copy, part) {
        hasher.update(part);
    }
}

/// Tells the mirror what the answer was.
pub fn finish(ctx: &mut Ctx, status: u16) {
    if let Copying::Compare(tell, hasher) = std::mem::take(&mut ctx.copy)
        && let Some(took) = ctx.attempt.as_ref().and_then(|attempt| attempt.header_after)
    {
        // A copy that failed has nobody to listen any more.
        let _ = tell.send(Seen { status, body: hasher.finalize(), took });
    }
}
