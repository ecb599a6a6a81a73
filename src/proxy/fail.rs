//! Every failure has one reason, and every reason one status. The reason stands in the answer, in
//! `Proxy-Status` (RFC 9209), in the access log and in the metrics.

use std::time::Instant;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, StatusCode};
use pingora::http::ResponseHeader;
use pingora::{Error, ErrorSource, ErrorType, Result};
use pingora_proxy::{FailToProxy, Session};

use super::ctx::Ctx;
use super::headers::{REQUEST_ID, has_begun};

macro_rules! reasons {
    ($($name:ident = $text:literal, $status:literal, $proxy_status:literal, $message:literal;)*) => {
        /// Why the gateway itself answered, or broke off.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Reason {
            $(#[doc = $message] $name,)*
        }

        impl Reason {
            /// Every reason.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// As it is written everywhere.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// The answer's status; 0 when nobody is left to answer to.
            #[must_use]
            pub fn status(self) -> u16 {
                match self { $(Self::$name => $status,)* }
            }

            /// The error type that RFC 9209, section 2.3, registers for it.
            #[must_use]
            pub fn proxy_status(self) -> &'static str {
                match self { $(Self::$name => $proxy_status,)* }
            }

            /// The answer's sentence.
            #[must_use]
            pub fn message(self) -> &'static str {
                match self { $(Self::$name => $message,)* }
            }
        }
    };
}

reasons! {
    ClientClosed = "client_closed", 0, "connection_terminated", "The client closed the connection";
    BadRequest = "bad_request", 400, "http_request_error", "The request is malformed";
    NoRoute = "no_route", 404, "destination_not_found", "No route matches the request";
    ClientTimeout = "client_timeout", 408, "connection_read_timeout", "The request did not arrive in time";
    ConnectFailed = "connect_failed", 502, "connection_refused", "The upstream cannot be reached";
    DnsFailed = "dns_failed", 502, "dns_error", "The upstream's name cannot be resolved";
    UpstreamReset = "upstream_reset", 502, "connection_terminated", "The upstream closed the connection";
    UpstreamProtocol = "upstream_protocol", 502, "http_protocol_error", "The upstream's answer is malformed";
    UpstreamTls = "upstream_tls", 502, "tls_protocol_error", "The upstream's TLS cannot be verified";
    AllFailed = "all_failed", 502, "destination_unavailable", "All backends failed";
    CircuitOpen = "circuit_open", 503, "destination_unavailable", "The upstream is given a rest after too many failures";
    Overloaded = "overloaded", 503, "connection_limit_reached", "The upstream has as much to do as it may";
    NoEndpoint = "no_endpoint", 503, "destination_unavailable", "The upstream has no healthy endpoint";
    ConnectTimeout = "connect_timeout", 504, "connection_timeout", "The upstream did not accept the connection in time";
    UpstreamTimeout = "upstream_timeout", 504, "http_response_timeout", "The upstream did not answer in time";
    Deadline = "deadline", 504, "http_response_timeout", "The request took longer than its route allows";
    Internal = "internal", 500, "proxy_internal_error", "The gateway failed";
}

impl Ctx {
    /// An error with this reason, to return from a phase.
    pub fn fail(&mut self, reason: Reason) -> Box<Error> {
        self.reason = Some(reason);
        Error::explain(ErrorType::HTTPStatus(reason.status()), reason.as_str())
    }
}

/// The reason behind one of Pingora's errors, for a request that may have run out of time.
#[must_use]
pub fn reason_for(error: &Error, deadline: Option<Instant>) -> Reason {
    let reason = reason_of(error);
    let timeout = matches!(reason, Reason::UpstreamTimeout | Reason::ConnectTimeout);
    let late = deadline.is_some_and(|deadline| Instant::now() >= deadline);
    if timeout && late { Reason::Deadline } else { reason }
}

/// The reason behind one of Pingora's errors.
fn reason_of(error: &Error) -> Reason {
    match error.esource() {
        ErrorSource::Upstream => upstream_reason(error.etype()),
        ErrorSource::Downstream => match error.etype() {
            ErrorType::ReadTimedout => Reason::ClientTimeout,
            ErrorType::ReadError | ErrorType::WriteError | ErrorType::WriteTimedout | ErrorType::ConnectionClosed => {
                Reason::ClientClosed
            }
            _ => Reason::BadRequest,
        },
        ErrorSource::Internal | ErrorSource::Unset => match error.etype() {
            ErrorType::HTTPStatus(code) if (400..500).contains(code) => Reason::BadRequest,
            _ => Reason::Internal,
        },
    }
}

fn upstream_reason(kind: &ErrorType) -> Reason {
    match kind {
        ErrorType::ConnectTimedout | ErrorType::TLSHandshakeTimedout => Reason::ConnectTimeout,
        ErrorType::TLSHandshakeFailure
        | ErrorType::InvalidCert
        | ErrorType::HandshakeError
        | ErrorType::TLSWantX509Lookup => Reason::UpstreamTls,
        ErrorType::ConnectRefused
        | ErrorType::ConnectNoRoute
        | ErrorType::ConnectError
        | ErrorType::BindError
        | ErrorType::SocketError
        | ErrorType::ConnectProxyFailure => Reason::ConnectFailed,
        ErrorType::ReadTimedout | ErrorType::WriteTimedout => Reason::UpstreamTimeout,
        ErrorType::ReadError | ErrorType::WriteError | ErrorType::ConnectionClosed => Reason::UpstreamReset,
        _ => Reason::UpstreamProtocol,
    }
}

/// Answers a request that failed, if there still is someone to answer to.
pub async fn answer(session: &mut Session, error: &Error, ctx: &mut Ctx) -> FailToProxy {
    let deadline = ctx.deadline;
    let reason = *ctx.reason.get_or_insert_with(|| reason_for(error, deadline));
    let routed = ctx.routed.as_ref().map(|routed| &routed.route.metrics);
    routed.unwrap_or(&ctx.snapshot.unrouted).rejected(reason.as_str());
    let begun = has_begun(session);
    let status = reason.status();
    if begun || status == 0 {
        return FailToProxy { error_code: 0, can_reuse_downstream: false };
    }
    // Pingora reads what is left of the body before it reuses the connection.
    let reusable = matches!(reason, Reason::NoRoute);
    if !reusable {
        session.set_keepalive(None);
    }
    let sent = write(session, reason, ctx).await;
    FailToProxy { error_code: status, can_reuse_downstream: reusable && sent.is_ok() }
}

async fn write(session: &mut Session, reason: Reason, ctx: &Ctx) -> Result<()> {
    let (kind, body) = body(reason, &session.req_header().headers, ctx);
    let status = StatusCode::from_u16(reason.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut header = ResponseHeader::build(status, Some(8))?;
    header.insert_header(CONTENT_TYPE, kind)?;
    header.insert_header(CONTENT_LENGTH, body.len())?;
    header.insert_header(
        "proxy-status",
        format!("pointsman; error={}; details=\"{}\"", reason.proxy_status(), reason.as_str()),
    )?;
    header.insert_header("cache-control", "no-store")?;
    if let Some(after) = ctx.retry_after {
        header.insert_header(RETRY_AFTER, after.as_secs().max(1))?;
    }
    if let Some(id) = &ctx.client.request_id {
        header.insert_header(REQUEST_ID, id.clone())?;
    }
    let without_body = session.req_header().method == http::Method::HEAD;
    session.write_response_header(Box::new(header), without_body).await?;
    if !without_body {
        session.write_response_body(Some(body), true).await?;
    }
    Ok(())
}

/// JSON, unless the client asks for text.
fn body(reason: Reason, headers: &HeaderMap, ctx: &Ctx) -> (&'static str, Bytes) {
    let id = ctx.client.request_id.as_ref().and_then(|id| id.to_str().ok()).unwrap_or_default();
    let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let text = accept.contains("text/") && !accept.contains("json");
    let target =
        ctx.attempt.as_ref().filter(|_| ctx.snapshot.full_errors).map(|attempt| attempt.begun.endpoint().name());
    if text {
        let target = target.map(|target| format!("target: {target}\n")).unwrap_or_default();
        let body = format!("{}\nreason: {}\nrequest id: {id}\n{target}", reason.message(), reason.as_str());
        return ("text/plain; charset=utf-8", body.into());
    }
    let mut body = serde_json::json!({ "error": reason.message(), "reason": reason.as_str(), "request_id": id });
    if let Some(target) = target {
        body["target"] = target.into();
    }
    ("application/json", body.to_string().into())
}
