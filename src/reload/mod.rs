//! The single writer: everything that changes the running configuration passes through here.
//!
//! An update is compiled whole and published in one swap, or refused whole while the last good
//! configuration keeps serving.

mod diff;
mod watchers;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use futures_util::future::join_all;
use serde::Serialize;
use tokio::sync::{Mutex, mpsc, oneshot};

use crate::config::load::Loaded;
use crate::config::{Config, Diagnostics, Sources};
use crate::provider::{File, Provider};
use crate::snapshot::{Compiled, Input, Snapshot, compile};
use crate::telemetry::Metrics;
use crate::upstream::{Upstream, discovery};

pub use diff::Change;
use watchers::Watchers;

/// Updates that may wait; one more is refused.
const QUEUE: usize = 16;
/// Reloads that are remembered.
const HISTORY: usize = 20;

/// What became of an update.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Whether it is in force.
    pub applied: bool,
    /// Number of the configuration in force.
    pub generation: u64,
    /// What changed.
    pub changes: Vec<Change>,
    /// All findings as text.
    pub text: String,
    /// All findings as data.
    pub diagnostics: serde_json::Value,
}

/// One reload of the past.
#[derive(Clone, Debug, Serialize)]
pub struct Past {
    /// When it was.
    pub time: String,
    /// Whether it was applied.
    pub applied: bool,
    /// Number of the configuration in force afterwards.
    pub generation: u64,
    /// The findings in short.
    pub findings: String,
    /// How many things changed.
    pub changes: usize,
}

/// What is shown of the configuration in force.
pub struct Shown {
    /// It, with all defaults.
    pub config: Config,
    /// The last reloads, newest first.
    pub history: VecDeque<Past>,
}

/// A configuration that could not be started with.
#[derive(Debug)]
pub struct Refused {
    /// What is wrong with it.
    pub found: Diagnostics,
    /// The files.
    pub sources: Sources,
}

/// The running configuration and what it is read from.
pub struct Reloader {
    file: File,
    snapshot: Arc<ArcSwap<Snapshot>>,
    metrics: Arc<Metrics>,
    shown: Arc<Mutex<Shown>>,
    watchers: Watchers,
}

/// The way to the writer.
#[derive(Clone)]
pub struct Handle {
    updates: mpsc::Sender<oneshot::Sender<Report>>,
    shown: Arc<Mutex<Shown>>,
}

impl Handle {
    /// Reads the configuration anew; `None` when too many updates wait already.
    pub async fn reload(&self) -> Option<Report> {
        let (answer, report) = oneshot::channel();
        self.updates.try_send(answer).ok()?;
        report.await.ok()
    }

    /// What is shown of the configuration in force.
    #[must_use]
    pub fn shown(&self) -> &Mutex<Shown> {
        &self.shown
    }
}

impl Reloader {
    /// Compiles the first configuration. Nothing runs yet; see [`Reloader::start`].
    ///
    /// # Errors
    /// The configuration is refused.
    pub fn new(file: File, metrics: &Arc<Metrics>) -> Result<(Self, Diagnostics, Sources), Refused> {
        let loaded = file.load();
        let compiled = compile(&Input { loaded: &loaded, base: file.path(), previous: None, metrics });
        let (Some(snapshot), Some(config)) = (compiled.snapshot, compiled.effective) else {
            return Err(Refused { found: compiled.found, sources: loaded.sources });
        };
        metrics.generation.set(1);
        metrics.reload_successful.set(1);
        let reloader = Self {
            file,
            snapshot: Arc::new(ArcSwap::from_pointee(snapshot)),
            metrics: Arc::clone(metrics),
            shown: Arc::new(Mutex::new(Shown { config, history: VecDeque::new() })),
            watchers: Watchers::default(),
        };
        Ok((reloader, compiled.found, loaded.sources))
    }

    /// The configuration in force, always the newest.
    #[must_use]
    pub fn snapshot(&self) -> Arc<ArcSwap<Snapshot>> {
        Arc::clone(&self.snapshot)
    }

    /// Resolves names and starts checks; returns the way to the writer, and the writer, which
    /// runs until every [`Handle`] is gone.
    pub async fn start(mut self) -> (Handle, impl Future<Output = ()>) {
        let snapshot = self.snapshot.load_full();
        let unresolved = snapshot.upstreams.iter().filter(|upstream| discovery::is_needed(upstream));
        join_all(unresolved.map(|upstream| discovery::resolve(upstream))).await;
        self.watchers.follow(&snapshot);
        let (updates, mut queue) = mpsc::channel::<oneshot::Sender<Report>>(QUEUE);
        let handle = Handle { updates, shown: Arc::clone(&self.shown) };
        let writer = async move {
            while let Some(answer) = queue.recv().await {
                let report = self.update().await;
                // Who asked may have gone away.
                let _ = answer.send(report);
            }
        };
        (handle, writer)
    }

    async fn update(&mut self) -> Report {
        let previous = self.snapshot.load_full();
        let (loaded, compiled) = match self.compile(&previous).await {
            Ok(done) => done,
            Err(problem) => return self.broken(&problem),
        };
        let changes = match (compiled.snapshot, compiled.effective) {
            (Some(next), Some(config)) => Some(self.publish(&previous, next, config).await),
            _ => None,
        };
        let applied = changes.is_some();
        self.metrics.reloaded(applied);
        let generation = self.snapshot.load().generation;
        let report = Report {
            applied,
            generation,
            changes: changes.unwrap_or_default(),
            text: if compiled.found.is_empty() { String::new() } else { compiled.found.render(&loaded.sources, false) },
            diagnostics: compiled.found.to_json(&loaded.sources),
        };
        self.remember(&report, &compiled.found).await;
        report
    }

    /// Large files take long; probes and checks go on meanwhile.
    async fn compile(&self, previous: &Arc<Snapshot>) -> Result<(Loaded, Compiled), tokio::task::JoinError> {
        let (file, previous, metrics) = (self.file.clone(), Arc::clone(previous), Arc::clone(&self.metrics));
        let work = move || {
            let loaded = file.load();
            let compiled =
                compile(&Input { loaded: &loaded, base: file.path(), previous: Some(&previous), metrics: &metrics });
            (loaded, compiled)
        };
        tokio::task::spawn_blocking(work).await
    }

    /// The compiler itself failed, which no configuration should make it do.
    fn broken(&self, problem: &tokio::task::JoinError) -> Report {
        tracing::error!(%problem, "the configuration could not be compiled; the last good one keeps serving");
        self.metrics.reloaded(false);
        Report {
            applied: false,
            generation: self.snapshot.load().generation,
            changes: Vec::new(),
            text: format!("internal error: {problem}"),
            diagnostics: serde_json::Value::Array(Vec::new()),
        }
    }

    async fn publish(&mut self, previous: &Snapshot, next: Snapshot, config: Config) -> Vec<Change> {
        let kept = |upstream: &Arc<Upstream>| {
            previous.upstream(upstream.name()).is_some_and(|known| Arc::ptr_eq(known, upstream))
        };
        let unresolved = next.upstreams.iter().filter(|upstream| discovery::is_needed(upstream) && !kept(upstream));
        join_all(unresolved.map(|upstream| discovery::resolve(upstream))).await;
        let mut shown = self.shown.lock().await;
        let changes = diff::changes((previous, &shown.config), (&next, &config));
        self.metrics.generation.set(i64::try_from(next.generation).unwrap_or(i64::MAX));
        self.watchers.follow(&next);
        self.snapshot.store(Arc::new(next));
        shown.config = config;
        changes
    }

    async fn remember(&self, report: &Report, found: &Diagnostics) {
        let findings = found.summary();
        if report.applied {
            tracing::info!(
                generation = report.generation,
                changes = report.changes.len(),
                findings,
                "configuration reloaded"
            );
        } else {
            tracing::error!(
                generation = report.generation,
                findings,
                report = report.text,
                "configuration refused; the last good one keeps serving"
            );
        }
        let mut shown = self.shown.lock().await;
        shown.history.truncate(HISTORY - 1);
        shown.history.push_front(Past {
            time: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            applied: report.applied,
            generation: report.generation,
            findings,
            changes: report.changes.len(),
        });
    }
}
