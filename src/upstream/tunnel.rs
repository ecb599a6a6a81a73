//! Connections for upgrades (WebSocket), which Pingora 0.9.1 would at times tear down.
//!
//! If the upstream's 101 is read before the end of the request's own empty body was handled,
//! Pingora takes that end for the end of the tunnel (cloudflare/pingora#946). Both wait at the
//! same moment when the upstream is fast or the machine busy. These connections let a read wait
//! for two turns of the scheduler after a write, so that the body's end always comes first.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use pingora::Result;
use pingora::connectors::l4::Connect;
use pingora::protocols::GetProxyDigest;
use pingora::protocols::l4::socket::SocketAddr;
use pingora::protocols::l4::stream::Stream;
use pingora::protocols::l4::virt::{VirtualSockOpt, VirtualSocket, VirtualSocketStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::cutoff;

/// Turns that a read waits after a write.
const TURNS: u8 = 2;

/// Connects upgrades.
#[derive(Debug)]
pub struct Tunnels {
    /// The longest that a connection may take to open.
    pub patience: Duration,
}

#[async_trait]
impl Connect for Tunnels {
    async fn connect(&self, address: &SocketAddr) -> Result<Stream> {
        let (stream, digest) = cutoff::open(address, self.patience).await?;
        let mut stream = Stream::from(VirtualSocketStream::new(Box::new(Tunnel { stream, turns: 0 })));
        stream.set_proxy_digest(digest);
        Ok(stream)
    }
}

/// A connection whose reads give way to what was to be done after a write.
#[derive(Debug)]
struct Tunnel {
    stream: TcpStream,
    turns: u8,
}

impl VirtualSocket for Tunnel {
    fn set_socket_option(&self, option: VirtualSockOpt) -> io::Result<()> {
        match option {
            VirtualSockOpt::NoDelay => self.stream.set_nodelay(true),
            _ => Ok(()),
        }
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.turns > 0 {
            self.turns -= 1;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.turns = TURNS;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
