//! Copies of requests for another upstream, whose answers nobody gets.
//!
//! A copy is sent once its request's body is there, by a task of its own, so that the request
//! itself never waits for it. Bodies, copies under way and their time are bounded; what exceeds
//! the bounds is not copied, and counted. On request both answers are compared.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::Method;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use pingora::connectors::http::Connector;
use pingora::http::RequestHeader;
use tokio::sync::oneshot;

use crate::telemetry::{Copied, Outcome};

use super::failure::Methods;
use super::{Ask, Try, Upstream};

/// A mirrored answer this much slower than the primary's counts as slower, if by `SLOWER_BY` too.
const SLOWER_THAN: u32 = 2;
const SLOWER_BY: Duration = Duration::from_millis(10);
/// How long the primary's answer is waited for, once the mirrored one is there.
const PATIENCE: Duration = Duration::from_secs(60);

/// Which requests are copied.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Their share, from 0 to 1.
    pub share: f64,
    /// The longest body (bytes).
    pub max_body: usize,
    /// Their methods.
    pub methods: Methods,
    /// Copies under way at once.
    pub at_once: u32,
    /// Whether the answers are compared.
    pub compare: bool,
}

/// Where copies go.
pub struct Mirror {
    upstream: Arc<Upstream>,
    rule: Rule,
    connector: Connector,
    under_way: AtomicU32,
}

/// A copy while its body is collected.
pub struct Draft {
    place: Place,
    request: Box<RequestHeader>,
    body: BytesMut,
}

/// What is compared of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its status.
    pub status: u16,
    /// The CRC-32 of its body.
    pub body: u32,
    /// From the begin of the try to the answer's header.
    pub took: Duration,
}

struct Place(Arc<Mirror>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Mirror {
    /// A mirror to an upstream.
    #[must_use]
    pub fn new(upstream: Arc<Upstream>, rule: Rule) -> Arc<Self> {
        Arc::new(Self { upstream, rule, connector: Connector::new(None), under_way: AtomicU32::new(0) })
    }

    /// Where copies go.
    #[must_use]
    pub fn upstream(&self) -> &Arc<Upstream> {
        &self.upstream
    }

    /// Whether the answers are compared.
    #[must_use]
    pub fn compares(&self) -> bool {
        self.rule.compare
    }

    /// Whether a request is to be copied; `random` is uniform from 0 to 1.
    #[must_use]
    pub fn takes(&self, method: &Method, random: f64) -> bool {
        random < self.rule.share && self.rule.methods.include(method)
    }

    /// Begins a copy, if there is room for one more.
    pub fn draft(self: &Arc<Self>, request: Box<RequestHeader>) -> Option<Draft> {
        let room = self.under_way.fetch_add(1, Ordering::Relaxed) < self.rule.at_once;
        let place = Place(Arc::clone(self));
        if room {
            return Some(Draft { place, request, body: BytesMut::new() });
        }
        self.upstream.metrics().copied(Copied::Skipped);
        None
    }
}

impl Draft {
    /// Takes a part of the body; `None` when it gets too long to be copied.
    #[must_use]
    pub fn with(mut self, part: &[u8]) -> Option<Self> {
        let mirror = &self.place.0;
        if self.body.len() + part.len() > mirror.rule.max_body {
            mirror.upstream.metrics().copied(Copied::Skipped);
            return None;
        }
        self.body.extend_from_slice(part);
        Some(self)
    }

    /// Forgets the body: the request is sent again from its begin.
    pub fn restart(&mut self) {
        self.body.clear();
    }

    /// Sends the copy in a task of its own. What the primary's answer was may be told through the
    /// sender that is returned, if it is to be compared.
    #[must_use]
    pub fn send(self) -> Option<oneshot::Sender<Seen>> {
        let Self { place, mut request, body } = self;
        // The whole body is there, however it came.
        request.remove_header(&TRANSFER_ENCODING);
        if !body.is_empty() {
            request.insert_header(CONTENT_LENGTH, body.len()).ok()?;
        }
        let compare = place.0.rule.compare;
        let (tell, told) = oneshot::channel();
        tokio::spawn(async move {
            let mirror = &place.0;
            let Ok(seen) = mirror.ask(*request, body.freeze()).await else {
                return mirror.upstream.metrics().copied(Copied::Failed);
            };
            mirror.upstream.metrics().copied(Copied::Sent);
            if compare && let Ok(Ok(primary)) = tokio::time::timeout(PATIENCE, told).await {
                mirror.compare(primary, seen);
            }
        });
        compare.then_some(tell)
    }
}

impl Mirror {
    async fn ask(&self, request: RequestHeader, body: Bytes) -> Result<Seen, ()> {
        let now = Instant::now();
        let mut begun: Try = self.upstream.begin(Ask::new(now), false).await.map_err(drop)?;
        let peer = begun.peer().clone();
        let timeouts = &self.upstream.settings().timeouts;
        let limit = timeouts.connect + timeouts.response;
        let asked = tokio::time::timeout(limit, self.exchange(&peer, request, body, now)).await;
        begun.ended(match &asked {
            Ok(Ok(seen)) if seen.status < 500 => Outcome::Success,
            Ok(Ok(_)) => Outcome::ServerError,
            Ok(Err(_)) => Outcome::Reset,
            Err(_) => Outcome::Timeout,
        });
        asked.map_err(drop)?.map_err(drop)
    }

    async fn exchange(
        &self,
        peer: &pingora::upstreams::peer::HttpPeer,
        request: RequestHeader,
        body: Bytes,
        now: Instant,
    ) -> pingora::Result<Seen> {
        let (mut session, _) = self.connector.get_http_session(peer).await?;
        session.set_read_timeout(peer.options.read_timeout);
        session.write_request_header(Box::new(request)).await?;
        if !body.is_empty() {
            session.write_request_body(body, true).await?;
        }
        session.finish_request_body().await?;
        session.read_response_header().await?;
        let took = now.elapsed();
        let status = session.response_header().map_or(0, |header| header.status.as_u16());
        let mut hasher = crc32fast::Hasher::new();
        while let Some(part) = session.read_response_body().await? {
            hasher.update(&part);
        }
        self.connector.release_http_session(session, peer, peer.options.idle_timeout).await;
        Ok(Seen { status, body: hasher.finalize(), took })
    }

    fn compare(&self, primary: Seen, mirrored: Seen) {
        let slower = mirrored.took > primary.took * SLOWER_THAN && mirrored.took > primary.took + SLOWER_BY;
        let metrics = self.upstream.metrics();
        if mirrored.status != primary.status {
            metrics.copied(Copied::OtherStatus);
        } else if mirrored.body != primary.body {
            metrics.copied(Copied::OtherBody);
        } else if slower {
            metrics.copied(Copied::Slower);
        } else {
            metrics.copied(Copied::Same);
        }
    }
}
