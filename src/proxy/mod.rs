//! Pingora's phases. Each hands over to a file that does one thing:
//!
//! `request` finds the route and answers what needs no upstream; `upstream` picks an endpoint and
//! prepares what is sent to it; `response` judges and prepares the answer; [`fail`] turns every
//! failure into an answer; `finish` makes the one record of the request.

mod client;
mod course;
mod ctx;
pub mod fail;
mod finish;
mod headers;
mod mirror;
mod request;
mod response;
mod upstream;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::modules::http::HttpModules;
use pingora::protocols::Digest;
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, Result};
use pingora_proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};

use crate::snapshot::Snapshot;
use crate::telemetry::{AccessLog, Metrics};

pub use course::MOST_TRIES;
pub use ctx::Ctx;

/// The proxy: what is the same for all requests.
pub struct Gateway {
    snapshot: Arc<ArcSwap<Snapshot>>,
    metrics: Arc<Metrics>,
    access_log: Arc<AccessLog>,
    draining: Arc<AtomicBool>,
}

impl Gateway {
    /// A proxy that serves whatever `snapshot` holds; `draining` makes it close connections after
    /// their next answer.
    #[must_use]
    pub fn new(
        snapshot: Arc<ArcSwap<Snapshot>>,
        metrics: Arc<Metrics>,
        access_log: Arc<AccessLog>,
        draining: Arc<AtomicBool>,
    ) -> Self {
        Self { snapshot, metrics, access_log, draining }
    }

    fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl ProxyHttp for Gateway {
    type CTX = Ctx;

    fn new_ctx(&self) -> Ctx {
        Ctx::new(self.snapshot.load_full(), &self.metrics.in_flight)
    }

    /// None: Pingora's default compresses what must not be, and costs every request.
    fn init_downstream_modules(&self, _: &mut HttpModules) {}

    async fn early_request_filter(&self, session: &mut Session, ctx: &mut Ctx) -> Result<()> {
        request::prepare(session, ctx, self.is_draining());
        Ok(())
    }

    async fn request_filter(&self, session: &mut Session, ctx: &mut Ctx) -> Result<bool> {
        request::route(session, ctx)?;
        request::answer(session, ctx).await
    }

    async fn upstream_peer(&self, session: &mut Session, ctx: &mut Ctx) -> Result<Box<HttpPeer>> {
        upstream::pick(session, ctx).await
    }

    fn fail_to_connect(&self, session: &mut Session, _: &HttpPeer, ctx: &mut Ctx, error: Box<Error>) -> Box<Error> {
        upstream::connect_failed(session, ctx, error)
    }

    async fn connected_to_upstream(
        &self,
        session: &mut Session,
        _: bool,
        _: &HttpPeer,
        _: std::os::unix::io::RawFd,
        connection: Option<&Digest>,
        ctx: &mut Ctx,
    ) -> Result<()> {
        upstream::connected(session, ctx, connection);
        Ok(())
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        ctx: &mut Ctx,
    ) -> Result<()> {
        upstream::prepare(session, request, ctx)
    }

    async fn request_body_filter(
        &self,
        _: &mut Session,
        part: &mut Option<Bytes>,
        end: bool,
        ctx: &mut Ctx,
    ) -> Result<()> {
        mirror::collect(ctx, part.as_ref(), end);
        ctx.check_deadline()
    }

    fn error_while_proxy(
        &self,
        _: &HttpPeer,
        session: &mut Session,
        error: Box<Error>,
        ctx: &mut Ctx,
        reused: bool,
    ) -> Box<Error> {
        upstream::broke(session, ctx, error, reused)
    }

    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        answer: &mut ResponseHeader,
        ctx: &mut Ctx,
    ) -> Result<()> {
        response::judge(session, answer, ctx)
    }

    async fn response_filter(&self, session: &mut Session, answer: &mut ResponseHeader, ctx: &mut Ctx) -> Result<()> {
        response::prepare(session, answer, ctx, self.is_draining())
    }

    fn response_body_filter(
        &self,
        _: &mut Session,
        part: &mut Option<Bytes>,
        _: bool,
        ctx: &mut Ctx,
    ) -> Result<Option<Duration>> {
        mirror::answered(ctx, part.as_ref());
        ctx.check_deadline().map(|()| None)
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, ctx: &mut Ctx) -> FailToProxy {
        fail::answer(session, error, ctx).await
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, ctx: &mut Ctx) {
        finish::record(session, error, ctx, &self.access_log);
        // What the try held is free, though the rest of the request may still be read.
        ctx.attempt = None;
    }

    /// The access log and the metrics tell every failure once, with its reason.
    fn suppress_error_log(&self, _: &Session, _: &Ctx, _: &Error) -> bool {
        true
    }

    fn suppress_proxy_warn_log(&self, _: &Session, _: &Ctx, _: &Error, _: ProxyWarnLogContext) -> bool {
        true
    }
}
