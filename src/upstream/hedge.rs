//! Hedged tries: when the first endpoint has not begun to answer after a while, a second one gets
//! the same request, and whichever answers first is heard ("The Tail at Scale", J. Dean and L. A.
//! Barroso, Communications of the ACM 56(2), 2013).
//!
//! Pingora sees one connection. It goes to the first endpoint and keeps what was sent; once the
//! time is over a second connection is opened, gets the same bytes, and is read beside the first.
//! The first byte decides; the other connection is closed. Only for requests without a body, over
//! plain connections, whose bytes are the same for both endpoints.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use pingora::connectors::l4::Connect;
use pingora::protocols::GetProxyDigest;
use pingora::protocols::l4::socket::SocketAddr as PingoraAddress;
use pingora::protocols::l4::stream::Stream;
use pingora::protocols::l4::virt::{VirtualSockOpt, VirtualSocket, VirtualSocketStream};
use pingora::{Error, ErrorType, Result};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use crate::telemetry::Outcome;

use super::budget::Budget;
use super::{Ask, Try, Upstream, cutoff};

/// How one request is hedged.
pub struct Hedge {
    upstream: Arc<Upstream>,
    after: Duration,
    /// How long the answer may take to begin.
    per_try: Option<Duration>,
    began: Instant,
    budget: Arc<Budget>,
    /// The second try, once its endpoint answered first.
    won: Mutex<Option<Try>>,
}

impl std::fmt::Debug for Hedge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hedge").field("upstream", &self.upstream.name()).field("after", &self.after).finish()
    }
}

impl Hedge {
    /// A second try at an endpoint of `upstream` after this time, if the budget allows it.
    #[must_use]
    pub fn new(
        upstream: Arc<Upstream>,
        (after, per_try): (Duration, Option<Duration>),
        budget: Arc<Budget>,
        began: Instant,
    ) -> Arc<Self> {
        Arc::new(Self { upstream, after, per_try, began, budget, won: Mutex::default() })
    }

    /// Whether the answer should have begun by now.
    fn is_late(&self) -> bool {
        self.per_try.is_some_and(|limit| self.began.elapsed() >= limit)
    }

    /// The second try, if its endpoint answered first.
    #[must_use]
    pub fn winner(&self) -> Option<Try> {
        self.won.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Waits, and begins the second try; `None` when there is no place, endpoint or budget for it.
    async fn second(self: Arc<Self>, first: std::net::SocketAddr) -> Option<(Try, TcpStream)> {
        tokio::time::sleep(self.after).await;
        let now = Instant::now();
        if !self.upstream.may_repeat(Some(first), now) || !self.budget.withdraw(now) {
            return None;
        }
        let ask = Ask { avoid: Some(first), ..Ask::new(now) };
        let mut begun = self.upstream.begin(ask, true).await.ok()?;
        self.upstream.metrics().retries.inc();
        let address = begun.endpoint().address();
        let patience = self.upstream.settings().timeouts.connect;
        match tokio::time::timeout(patience, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => Some((begun, stream)),
            // The gateway ran short of something itself.
            Ok(Err(cause)) if cutoff::kind(&cause) == ErrorType::SocketError => {
                begun.forget();
                None
            }
            _ => {
                begun.ended(Outcome::ConnectFailed);
                None
            }
        }
    }
}

/// Connects hedged requests.
#[derive(Debug)]
pub struct Hedged(pub Arc<Hedge>);

#[async_trait]
impl Connect for Hedged {
    async fn connect(&self, address: &PingoraAddress) -> Result<Stream> {
        let patience = self.0.upstream.settings().timeouts.connect;
        let (first, digest) = cutoff::open(address, patience).await?;
        let Some(address) = address.as_inet().copied() else {
            return Error::e_explain(ErrorType::ConnectError, "a hedged request needs an IP address");
        };
        let (tell, second) = oneshot::channel();
        let hedge = Arc::clone(&self.0);
        let opening = tokio::spawn(async move {
            if let Some(second) = Arc::clone(&hedge).second(address).await {
                // A race that is over has nobody to listen.
                let _ = tell.send(second);
            }
        });
        let race = Race {
            hedge: Arc::clone(&self.0),
            heard: Some(first),
            second: None,
            opening: Some(second),
            task: opening.abort_handle(),
            sent: Vec::new(),
            written: 0,
            decided: false,
        };
        let mut stream = Stream::from(VirtualSocketStream::new(Box::new(race)));
        stream.set_proxy_digest(digest);
        Ok(stream)
    }
}

/// One or two connections, until one answers.
struct Race {
    hedge: Arc<Hedge>,
    /// The first connection, or the one that has answered.
    heard: Option<TcpStream>,
    second: Option<(Try, TcpStream)>,
    opening: Option<oneshot::Receiver<(Try, TcpStream)>>,
    task: AbortHandle,
    /// What was sent, and how much of it the second connection got.
    sent: Vec<u8>,
    written: usize,
    decided: bool,
}

impl std::fmt::Debug for Race {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Race").field("hedge", &self.hedge).field("decided", &self.decided).finish_non_exhaustive()
    }
}

impl Drop for Race {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What reading a connection gave.
enum Read {
    Bytes,
    /// The end, or an error.
    Over(io::Result<()>),
    Nothing,
}

fn read(stream: &mut TcpStream, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Read {
    let before = buffer.filled().len();
    match Pin::new(stream).poll_read(cx, buffer) {
        Poll::Ready(Ok(())) if buffer.filled().len() > before => Read::Bytes,
        Poll::Ready(over) => Read::Over(over),
        Poll::Pending => Read::Nothing,
    }
}

impl Race {
    /// Takes the second connection in once it is open, and sends it what the first got.
    fn join(&mut self, cx: &mut Context<'_>) {
        if let Some(opening) = &mut self.opening
            && let Poll::Ready(opened) = Pin::new(opening).poll(cx)
        {
            (self.opening, self.second) = (None, opened.ok());
        }
        while let Some((_, stream)) = &mut self.second
            && self.written < self.sent.len()
        {
            match Pin::new(stream).poll_write(cx, &self.sent[self.written..]) {
                Poll::Ready(Ok(count @ 1..)) => self.written += count,
                Poll::Ready(_) => self.lose_second(),
                Poll::Pending => return,
            }
        }
    }

    fn lose_second(&mut self) {
        if let Some((mut begun, _)) = self.second.take() {
            begun.ended(Outcome::Reset);
        }
    }

    /// The first connection is the one to hear, or what is left.
    fn hear_first(&mut self) {
        self.task.abort();
        (self.decided, self.second, self.opening) = (true, None, None);
    }

    /// Closes the first connection, whose second handle lives on for a while.
    fn lose_first(&mut self) {
        if let Some(first) = self.heard.take().and_then(|first| first.into_std().ok()) {
            // It may be closed already.
            let _ = first.shutdown(std::net::Shutdown::Both);
        }
    }

    fn hear_second(&mut self) {
        if let Some((begun, stream)) = self.second.take() {
            self.lose_first();
            *self.hedge.won.lock().unwrap_or_else(PoisonError::into_inner) = Some(begun);
            (self.decided, self.heard) = (true, Some(stream));
        }
    }
}

impl VirtualSocket for Race {
    fn set_socket_option(&self, option: VirtualSockOpt) -> io::Result<()> {
        match (option, &self.heard) {
            (VirtualSockOpt::NoDelay, Some(stream)) => stream.set_nodelay(true),
            _ => Ok(()),
        }
    }
}

impl AsyncRead for Race {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let race = &mut *self;
        if !race.decided {
            race.join(cx);
        }
        if let Some(stream) = &mut race.heard {
            match read(stream, cx, buffer) {
                Read::Bytes => {
                    race.hear_first();
                    return Poll::Ready(Ok(()));
                }
                // With a second under way, the first may fail.
                Read::Over(_) if race.second.is_some() && !race.hedge.is_late() => race.lose_first(),
                Read::Over(over) => return Poll::Ready(over),
                Read::Nothing => {}
            }
        }
        if let Some((_, stream)) = race.second.as_mut().filter(|_| race.written == race.sent.len()) {
            match read(stream, cx, buffer) {
                Read::Bytes => {
                    race.hear_second();
                    return Poll::Ready(Ok(()));
                }
                Read::Over(over) => {
                    race.lose_second();
                    if race.heard.is_none() {
                        return Poll::Ready(over);
                    }
                }
                Read::Nothing => {}
            }
        }
        if race.heard.is_none() && race.second.is_none() {
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        Poll::Pending
    }
}

impl AsyncWrite for Race {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let race = &mut *self;
        let Some(stream) = &mut race.heard else { return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())) };
        let written = Pin::new(stream).poll_write(cx, bytes);
        if let (Poll::Ready(Ok(count)), false) = (&written, race.decided) {
            race.sent.extend_from_slice(&bytes[..*count]);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.heard.as_mut().map_or(Poll::Ready(Ok(())), |stream| Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.heard.as_mut().map_or(Poll::Ready(Ok(())), |stream| Pin::new(stream).poll_shutdown(cx))
    }
}
