//! What stands between the network and the proxy: Pingora's accept loop with an application of
//! our own around Pingora's proxy.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use pingora::apps::ServerApp;
use pingora::listeners::{L4BufferSettings, ListenerConfig};
use pingora::protocols::Stream;
use pingora::server::{Fds, ShutdownWatch};
use pingora::services::Service as _;
use pingora::services::listening::Service;
use pingora_proxy::HttpProxy;
use prometheus::IntGauge;
use tokio::sync::Notify;

use crate::proxy::Gateway;

use super::listen::Socket;

/// Bytes of an answer that are gathered before they are sent, so that header and a small body
/// leave in one write.
const WRITE_BUFFER: usize = 16 << 10;
/// Bytes that one read takes at most.
const READ_BUFFER: usize = 16 << 10;

/// Accepts and serves connections until `shutdown` says so.
pub async fn accept(socket: Socket, edge: Edge, shutdown: ShutdownWatch) {
    let mut fds = Fds::new();
    fds.add(socket.address.clone(), socket.descriptor);
    let buffers = L4BufferSettings::new(READ_BUFFER, WRITE_BUFFER);
    let mut service = Service::new(socket.address.clone(), edge);
    service.add_listener(ListenerConfig::tcp(socket.address).l4_buffer(buffers));
    service.start_service(Some(Arc::new(fds.into())), shutdown, 1).await;
}

/// One listener's application: counts connections, and hands them to the proxy.
pub struct Edge {
    proxy: Arc<HttpProxy<Gateway>>,
    connections: IntGauge,
    open: Arc<Open>,
}

impl Edge {
    /// An application in front of a proxy that several listeners share.
    #[must_use]
    pub fn new(proxy: Arc<HttpProxy<Gateway>>, connections: IntGauge, open: Arc<Open>) -> Self {
        Self { proxy, connections, open }
    }
}

#[async_trait]
impl ServerApp for Edge {
    async fn process_new(self: &Arc<Self>, stream: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        let _counted = Counted::new(self);
        self.proxy.process_new(stream, shutdown).await
    }

    async fn cleanup(&self) {
        ServerApp::cleanup(&*self.proxy).await;
    }
}

/// The connections that are open, over all listeners.
#[derive(Debug, Default)]
pub struct Open {
    count: AtomicUsize,
    changed: Notify,
}

impl Open {
    /// How many.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    /// Waits until there are none.
    pub async fn none(&self) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Registered before the count is read, so that no change is missed.
            changed.as_mut().enable();
            if self.count() == 0 {
                return;
            }
            changed.await;
        }
    }
}

/// Counts a connection until it is dropped.
struct Counted {
    connections: IntGauge,
    open: Arc<Open>,
}

impl Counted {
    fn new(edge: &Edge) -> Self {
        edge.connections.inc();
        edge.open.count.fetch_add(1, Ordering::SeqCst);
        Self { connections: edge.connections.clone(), open: Arc::clone(&edge.open) }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.connections.dec();
        if self.open.count.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.open.changed.notify_waiters();
        }
    }
}
