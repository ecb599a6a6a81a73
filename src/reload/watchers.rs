//! The tasks that watch upstreams: health checks and look-ups of names.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use tokio::task::AbortHandle;

use crate::upstream::{Upstream, discovery, health};

/// One set of tasks for each upstream in force. An upstream that a reload kept keeps its tasks;
/// those of one that was replaced end at once, even while requests still hold it.
#[derive(Default)]
pub struct Watchers {
    running: HashMap<String, (Weak<Upstream>, Vec<AbortHandle>)>,
}

impl Watchers {
    /// Watches exactly these upstreams.
    pub fn follow(&mut self, upstreams: &[Arc<Upstream>]) {
        let mut last = std::mem::take(&mut self.running);
        for upstream in upstreams {
            let entry = match last.remove(upstream.name()) {
                Some((known, tasks)) if known.as_ptr() == Arc::as_ptr(upstream) => (known, tasks),
                replaced => {
                    stop(replaced);
                    (Arc::downgrade(upstream), watch(upstream))
                }
            };
            self.running.insert(upstream.name().to_owned(), entry);
        }
        stop(last.into_values());
    }
}

fn stop(entries: impl IntoIterator<Item = (Weak<Upstream>, Vec<AbortHandle>)>) {
    entries.into_iter().flat_map(|(_, tasks)| tasks).for_each(|task| task.abort());
}

fn watch(upstream: &Arc<Upstream>) -> Vec<AbortHandle> {
    let mut tasks = Vec::new();
    if upstream.health().is_some() {
        tasks.push(tokio::spawn(health::run(Arc::downgrade(upstream))).abort_handle());
    }
    if discovery::is_needed(upstream) {
        tasks.push(tokio::spawn(discovery::run(Arc::downgrade(upstream))).abort_handle());
    }
    tasks
}
