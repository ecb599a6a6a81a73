//! From a request's header to its route, and answers that need no upstream.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, LOCATION};
use http::{HeaderName, HeaderValue, Method, StatusCode, Version};
use pingora::Result;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora_proxy::Session;

use crate::filter::{Editable, Rewrite};
use crate::route::host::{Host, without_port};
use crate::route::normalize::normalize;
use crate::route::predicate::Request;
use crate::snapshot::Action;
use crate::upstream::hash::hash;

use super::client::identify;
use super::course::Course;
use super::ctx::{Ctx, Routed};
use super::fail::Reason;
use super::headers::REQUEST_ID;

/// The longest silence of a client that sends a body or reads an answer.
const CLIENT_SILENCE: Duration = Duration::from_secs(60);
/// How long the rest of a refused body is read before the connection is given up.
const DRAIN: Duration = Duration::from_secs(5);

/// Sets the limits that Pingora leaves open. On every request: after the first, a connection's
/// idle time would be unlimited.
pub fn prepare(session: &mut Session, ctx: &mut Ctx, draining: bool) {
    let local = session.server_addr().and_then(|address| address.as_inet()).copied();
    ctx.listener = local.and_then(|local: SocketAddr| ctx.snapshot.listener(local));
    let listener = ctx.listener.and_then(|index| ctx.snapshot.listeners.get(index));
    let keep_alive = listener.map(|listener| listener.keep_alive).filter(|_| !draining);
    let peer = session.client_addr().and_then(|address| address.as_inet()).map(SocketAddr::ip);
    ctx.client = identify(peer, listener, &session.req_header().headers);
    let downstream = session.as_downstream_mut();
    // Where the client, or HTTP/1.0, ends the connection with the answer, it stays so.
    if downstream.get_keepalive().is_some() {
        downstream.set_keepalive(keep_alive);
    }
    downstream.set_pipelining_enabled(true);
    downstream.set_read_timeout(Some(CLIENT_SILENCE));
    downstream.set_write_timeout(Some(CLIENT_SILENCE));
    downstream.set_total_drain_timeout(Some(DRAIN));
}

/// Finds the route.
///
/// # Errors
/// With the reason `bad_request` or `no_route`.
pub fn route(session: &mut Session, ctx: &mut Ctx) -> Result<()> {
    let snapshot = Arc::clone(&ctx.snapshot);
    let listener = ctx.listener.and_then(|index| snapshot.listeners.get(index));
    let header = session.req_header();
    let Some(authority) = authority(header) else {
        return Err(ctx.fail(Reason::BadRequest));
    };
    let Some((raw_path, query)) = path_and_query(header) else {
        return Err(ctx.fail(Reason::BadRequest));
    };
    if listener.is_some_and(|listener| listener.redirect_to_https) {
        return Ok(());
    }
    let Ok(path) = normalize(raw_path, listener.is_some_and(|listener| listener.strict_paths)) else {
        return Err(ctx.fail(Reason::BadRequest));
    };
    let host = Host::new(authority);
    let request = Request {
        method: &header.method,
        host: host.as_str(),
        path: &path,
        query,
        headers: &header.headers,
        client: ctx.client.address,
    };
    let Some(route) = snapshot.table.find(&request) else {
        return Err(ctx.fail(Reason::NoRoute));
    };
    ctx.deadline = route.total.map(|total| ctx.started + total);
    let (mut place, mut course) = (None, None);
    match &route.action {
        Action::Forward(forward) => {
            forward.retry.budget.deposit();
            let plan = forward.target.plan(|key| hash(key.of(&request).as_slice()));
            course = Some(Course::new(plan));
        }
        Action::Redirect { to, .. } => {
            let mut text = String::new();
            to.expand(&path, &mut text);
            place = Some(with_query(text, query));
        }
        Action::Respond { .. } => {}
    }
    let path = match path {
        Cow::Borrowed(_) => None,
        Cow::Owned(path) => Some(path),
    };
    ctx.routed = Some(Routed { route: Arc::clone(route), path, place, course });
    Ok(())
}

/// The path and query to forward, if other than what was sent.
pub fn forwarded(header: &RequestHeader, path: Option<&str>, rewrite: &Rewrite) -> Option<String> {
    let absolute = !header.raw_path().starts_with(b"/");
    if path.is_none() && rewrite.is_identity() && !absolute {
        return None;
    }
    let (sent, query) = path_and_query(header)?;
    Some(with_query(rewrite.apply(path.unwrap_or(sent)), query))
}

/// The request as tests and keys see it, once it has its route.
pub fn asked<'a>(header: &'a RequestHeader, ctx: &'a Ctx) -> Request<'a> {
    let (sent, query) = path_and_query(header).unwrap_or(("/", None));
    let path = ctx.routed.as_ref().and_then(|routed| routed.path.as_deref()).unwrap_or(sent);
    Request { method: &header.method, host: "", path, query, headers: &header.headers, client: ctx.client.address }
}

fn with_query(mut path: String, query: Option<&str>) -> String {
    if let Some(query) = query {
        path.push('?');
        path.push_str(query);
    }
    path
}

/// The host that a request asks for. HTTP/1.1 requires one (RFC 9112, section 3.2).
fn authority(header: &RequestHeader) -> Option<&str> {
    let named = match header.uri.authority() {
        Some(authority) => Some(authority.as_str()),
        None => header.headers.get(HOST).and_then(|host| host.to_str().ok()),
    };
    match named {
        Some(host) if !host.contains(['@', '/', ' ', ',']) => Some(host),
        None if header.version == Version::HTTP_10 => Some(""),
        _ => None,
    }
}

/// Path and query as they were sent, without the rest of an absolute form.
fn path_and_query(header: &RequestHeader) -> Option<(&str, Option<&str>)> {
    let target = match header.uri.authority() {
        Some(_) => header.uri.path_and_query()?.as_str(),
        None => origin_form(std::str::from_utf8(header.raw_path()).ok()?),
    };
    let target = if target.is_empty() { "/" } else { target };
    Some(match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    })
}

/// `http://host/path` as `/path` (RFC 9112, section 3.2.2); Pingora has compared its host with
/// the `Host` header.
fn origin_form(target: &str) -> &str {
    let scheme = |scheme: &str| target.get(..scheme.len()).filter(|start| start.eq_ignore_ascii_case(scheme));
    let Some(start) = scheme("http://").or_else(|| scheme("https://")) else { return target };
    let rest = &target[start.len()..];
    rest.find(['/', '?']).map_or("", |at| &rest[at..])
}

/// Answers a request that needs no upstream; returns whether it did.
///
/// # Errors
/// The client cannot be written to.
pub async fn answer(session: &mut Session, ctx: &mut Ctx) -> Result<bool> {
    let Some(routed) = &ctx.routed else {
        return redirect_to_https(session, ctx).await.map(|()| true);
    };
    let route = Arc::clone(&routed.route);
    let (status, headers, body) = match &route.action {
        Action::Forward(_) => return Ok(false),
        Action::Respond { status, headers, body } => (*status, headers.clone(), body.clone()),
        Action::Redirect { status, .. } => {
            let place = routed.place.as_deref().and_then(|place| HeaderValue::from_str(place).ok());
            let Some(place) = place else { return Err(ctx.fail(Reason::BadRequest)) };
            (*status, vec![(LOCATION, place)], Bytes::new())
        }
    };
    let mut header = ResponseHeader::build(status, Some(headers.len() + 4))?;
    headers.iter().for_each(|(name, value)| header.set(name, value));
    route.response_edits.apply(&mut header);
    write(session, ctx, header, body).await.map(|()| true)
}

async fn redirect_to_https(session: &mut Session, ctx: &mut Ctx) -> Result<()> {
    let request = session.req_header();
    let host = authority(request).map(without_port).unwrap_or_default();
    let target = path_and_query(request).map(|(path, query)| with_query(path.to_owned(), query));
    let place = target.and_then(|target| HeaderValue::from_str(&format!("https://{host}{target}")).ok());
    let Some(place) = place.filter(|_| !host.is_empty()) else { return Err(ctx.fail(Reason::BadRequest)) };
    let mut header = ResponseHeader::build(StatusCode::PERMANENT_REDIRECT, Some(4))?;
    header.insert_header(LOCATION, place)?;
    write(session, ctx, header, Bytes::new()).await
}

async fn write(session: &mut Session, ctx: &Ctx, mut header: ResponseHeader, body: Bytes) -> Result<()> {
    let status = header.status;
    let bodiless = status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED;
    if bodiless {
        remove(&mut header, &[CONTENT_TYPE]);
    } else {
        header.insert_header(CONTENT_LENGTH, body.len())?;
    }
    if let Some(id) = &ctx.client.request_id {
        header.insert_header(REQUEST_ID, id.clone())?;
    }
    let silent = bodiless || body.is_empty() || session.req_header().method == Method::HEAD;
    session.write_response_header(Box::new(header), silent).await?;
    if !silent {
        session.write_response_body(Some(body), true).await?;
    }
    Ok(())
}

fn remove(header: &mut ResponseHeader, names: &[HeaderName]) {
    for name in names {
        header.remove_header(name);
    }
}

/// What is left of a limit of time until a deadline.
#[must_use]
pub fn clamped(limit: Option<Duration>, deadline: Option<Instant>) -> Option<Duration> {
    match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
        Some(left) => Some(limit.map_or(left, |limit| limit.min(left)).max(Duration::from_millis(1))),
        None => limit,
    }
}
