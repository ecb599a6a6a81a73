//! The process: listeners, threads, signals and the end.
//!
//! Two runtimes: one with a thread for each worker serves requests; one with a single thread
//! does everything else (admin, reloads, checks), so that neither waits for the other.

mod edge;
mod listen;
mod signals;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pingora::server::configuration::ServerConf;
use pingora_proxy::HttpProxy;
use tokio::sync::watch;

use crate::admin::{self, Admin};
use crate::config::effective::{DRAIN, span_or};
use crate::config::{Diagnostics, Sources};
use crate::provider::File;
use crate::proxy::{Gateway, MOST_TRIES};
use crate::reload::{Handle, Refused, Reloader};
use crate::snapshot::Snapshot;
use crate::telemetry::{AccessLog, Metrics};

use edge::Edge;

/// Idle connections to upstreams that are kept, for each worker.
const POOL_PER_WORKER: usize = 512;

/// Why the gateway did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration is refused.
    #[error("the configuration is refused")]
    Refused(Box<Refused>),
    /// A listener cannot be opened.
    #[error("cannot listen on {address}: {cause}")]
    Listen {
        /// Where.
        address: String,
        /// Why.
        cause: std::io::Error,
    },
    /// The access log cannot be opened.
    #[error("cannot open the access log: {0}")]
    AccessLog(std::io::Error),
    /// Threads or signal handlers cannot be set up.
    #[error("cannot start: {0}")]
    System(#[from] std::io::Error),
    /// Metrics cannot be set up.
    #[error("cannot set up metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// Serves a configuration file until a signal ends the process. `warn` is told the findings that
/// do not refuse the configuration.
///
/// # Errors
/// See [`StartError`].
pub fn run(config: PathBuf, warn: impl FnOnce(&Diagnostics, &Sources)) -> Result<(), StartError> {
    let metrics = Metrics::new()?;
    let (reloader, found, sources) =
        Reloader::new(File::new(config), &metrics).map_err(|refused| StartError::Refused(Box::new(refused)))?;
    warn(&found, &sources);
    drop((found, sources));
    let control = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    control.block_on(serve(reloader, metrics))
}

async fn serve(reloader: Reloader, metrics: Arc<Metrics>) -> Result<(), StartError> {
    let snapshot = reloader.snapshot();
    let first = snapshot.load_full();
    let access_log =
        AccessLog::open(&first.fixed.access_log, metrics.log_dropped.clone()).map_err(StartError::AccessLog)?;
    let access_log = Arc::new(access_log);
    let draining = Arc::new(AtomicBool::new(false));
    let signals = signals::Signals::new()?;
    let admin_socket = listen::admin(&first.fixed.admin)?;
    let sockets = listen::all(&first)?;
    let (handle, writer) = reloader.start().await;
    tokio::spawn(writer);
    let gateway =
        Gateway::new(Arc::clone(&snapshot), Arc::clone(&metrics), Arc::clone(&access_log), Arc::clone(&draining));
    let data = data_plane(&first, gateway, sockets, &metrics)?;
    let admin = Admin { snapshot, metrics, reload: handle.clone(), draining: Arc::clone(&draining) };
    tokio::spawn(admin_socket.serve(admin::router(admin)));
    tracing::info!(listeners = ?first.fixed.listeners, routes = first.table.len(), upstreams = first.upstreams.len(), "serving");
    drop(first);
    let grace = wait(signals, &handle, &access_log).await;
    draining.store(true, Ordering::Relaxed);
    data.drain(grace).await;
    access_log.flush(Duration::from_secs(1));
    Ok(())
}

/// Handles signals until one asks for the end; returns how long running requests may take.
async fn wait(mut signals: signals::Signals, handle: &Handle, access_log: &AccessLog) -> Duration {
    loop {
        match signals.next().await {
            signals::Signal::Reload => {
                if handle.reload().await.is_none() {
                    tracing::warn!("too many reloads wait already; this one is skipped");
                }
            }
            signals::Signal::Reopen => access_log.reopen(),
            signals::Signal::End => break,
        }
    }
    let grace = span_or(handle.shown().lock().await.config.drain_timeout, DRAIN);
    tracing::info!(?grace, "ending: no new connections, running requests finish");
    // A second signal means now.
    tokio::spawn(async move {
        loop {
            if matches!(signals.next().await, signals::Signal::End) {
                tracing::warn!("second signal: ending at once");
                std::process::exit(1);
            }
        }
    });
    grace
}

/// The threads that serve requests.
struct DataPlane {
    runtime: tokio::runtime::Runtime,
    shutdown: watch::Sender<bool>,
    open: Arc<edge::Open>,
}

fn data_plane(
    first: &Arc<Snapshot>,
    gateway: Gateway,
    sockets: Vec<listen::Socket>,
    metrics: &Metrics,
) -> Result<DataPlane, StartError> {
    let workers = first.fixed.workers;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .thread_name("worker")
        .enable_all()
        .build()?;
    let conf = ServerConf {
        threads: workers,
        upstream_keepalive_pool_size: POOL_PER_WORKER,
        max_retries: MOST_TRIES as usize,
        ..ServerConf::default()
    };
    let mut proxy = HttpProxy::new(gateway, Arc::new(conf));
    proxy.handle_init_modules();
    let proxy = Arc::new(proxy);
    let (shutdown, watch) = watch::channel(false);
    let open = Arc::new(edge::Open::default());
    for socket in sockets {
        let connections = metrics.connections(&socket.address);
        let edge = Edge::new(Arc::clone(&proxy), connections, Arc::clone(&open));
        runtime.spawn(edge::accept(socket, edge, watch.clone()));
    }
    Ok(DataPlane { runtime, shutdown, open })
}

impl DataPlane {
    /// Stops accepting, and waits until the last connection is closed or the grace is over.
    async fn drain(self, grace: Duration) {
        // Without a receiver there is nothing to stop.
        let _ = self.shutdown.send(true);
        if tokio::time::timeout(grace, self.open.none()).await.is_err() {
            tracing::warn!(connections = self.open.count(), "the grace is over: open connections are cut");
        }
        self.runtime.shutdown_background();
    }
}
