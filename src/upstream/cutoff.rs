//! A limit to how long an answer may take to begin.
//!
//! Pingora's read timeout bounds each silence, within the answer too; a short one would cut slow
//! streams. Here a try's connection is shut down if its answer has not begun in time, which ends
//! Pingora's wait at once. The connection is opened by [`Cuttable`], which leaves a second handle
//! to it in the connection's digest, where Pingora's own code keeps such data; the handle lives
//! as long as the connection, so that a shutdown can never hit another one.

use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use pingora::connectors::l4::Connect;
use pingora::http::ResponseHeader;
use pingora::protocols::l4::socket::SocketAddr;
use pingora::protocols::l4::stream::Stream;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::{Digest, GetProxyDigest};
use pingora::{Error, ErrorType, OrErr, Result};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;

/// Opens connections that can be cut off.
#[derive(Debug)]
pub struct Cuttable {
    /// The longest that a connection may take to open.
    pub patience: Duration,
}

#[async_trait]
impl Connect for Cuttable {
    async fn connect(&self, address: &SocketAddr) -> Result<Stream> {
        let (stream, digest) = open(address, self.patience).await?;
        let mut stream = Stream::from(stream);
        stream.set_proxy_digest(digest);
        Ok(stream)
    }
}

/// Opens a connection, within `patience`, and a digest that holds a second handle to it.
pub(super) async fn open(address: &SocketAddr, patience: Duration) -> Result<(TcpStream, ProxyDigest)> {
    let Some(address) = address.as_inet() else {
        return Error::e_explain(ErrorType::ConnectError, "only an IP address can be connected to");
    };
    let stream = match tokio::time::timeout(patience, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(cause)) => return Error::e_because(kind(&cause), "connecting", cause),
        Err(_) => return Error::e_explain(ErrorType::ConnectTimedout, "connecting"),
    };
    let stream = stream.into_std().or_err(ErrorType::SocketError, "taking a connection")?;
    let handle = stream.try_clone().or_err(ErrorType::SocketError, "doubling a connection's handle")?;
    let stream = TcpStream::from_std(stream).or_err(ErrorType::SocketError, "giving a connection back")?;
    let nothing = Box::new(ResponseHeader::build(200, None)?);
    Ok((stream, ProxyDigest::new(nothing, Some(Box::new(handle)))))
}

/// The kind of error behind a failed connect: what the gateway itself ran short of is not the
/// endpoint's fault.
pub(super) fn kind(cause: &std::io::Error) -> ErrorType {
    use std::io::ErrorKind::{AddrNotAvailable, OutOfMemory};
    let short = cause.raw_os_error().is_some_and(|code| [EMFILE, ENFILE].contains(&code));
    if short || matches!(cause.kind(), AddrNotAvailable | OutOfMemory) {
        ErrorType::SocketError
    } else {
        ErrorType::ConnectRefused
    }
}

/// Too many open files: of the process, and of the system (errno.h of Linux).
const EMFILE: i32 = 24;
const ENFILE: i32 = 23;

/// A limit that runs; ends when dropped.
#[derive(Debug)]
pub struct Cutoff {
    task: AbortHandle,
    fired: Arc<AtomicBool>,
}

impl Cutoff {
    /// Cuts the connection off at `deadline`. `None` if it was not opened by [`Cuttable`].
    #[must_use]
    pub fn at(deadline: Instant, connection: Option<&Digest>) -> Option<Self> {
        let held = Arc::clone(connection?.proxy_digest.as_ref()?);
        handle(&held)?;
        let fired = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&fired);
        let task = tokio::spawn(async move {
            tokio::time::sleep_until(deadline.into()).await;
            flag.store(true, Ordering::Release);
            // A connection that is closed already needs no shutdown.
            let _ = handle(&held).map(|handle| handle.shutdown(Shutdown::Both));
        });
        Some(Self { task: task.abort_handle(), fired })
    }

    /// Whether it has cut the connection off.
    #[must_use]
    pub fn has_fired(&self) -> bool {
        self.fired.load(Ordering::Acquire)
    }
}

fn handle(digest: &ProxyDigest) -> Option<&std::net::TcpStream> {
    digest.user_data.as_ref()?.downcast_ref()
}

impl Drop for Cutoff {
    fn drop(&mut self) {
        self.task.abort();
    }
}
