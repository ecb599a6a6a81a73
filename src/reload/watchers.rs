//! The tasks that watch upstreams and shifts: health checks, ejections, look-ups of names.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::task::AbortHandle;

use crate::snapshot::{Action, Snapshot};
use crate::telemetry::RouteMetrics;
use crate::upstream::shift::{Phase, Shift};
use crate::upstream::{Upstream, discovery, health, sweep};

/// One set of tasks for each upstream in force. An upstream that a reload kept keeps its tasks;
/// those of one that was replaced end at once, even while requests still hold it.
#[derive(Default)]
pub struct Watchers {
    running: HashMap<String, (Weak<Upstream>, Vec<AbortHandle>)>,
    shifts: Vec<(Weak<Shift>, AbortHandle)>,
}

/// Time between two looks at a shift, at most; shorter where its steps are short.
const LOOK: Duration = Duration::from_secs(1);

impl Watchers {
    /// Watches exactly the upstreams and shifts of a snapshot.
    pub fn follow(&mut self, snapshot: &Snapshot) {
        self.follow_shifts(snapshot);
        let mut last = std::mem::take(&mut self.running);
        for upstream in &snapshot.upstreams {
            let entry = match last.remove(upstream.name()) {
                Some((known, tasks)) if known.as_ptr() == Arc::as_ptr(upstream) => (known, tasks),
                replaced => {
                    stop(replaced);
                    upstream.take_over();
                    (Arc::downgrade(upstream), watch(upstream))
                }
            };
            self.running.insert(upstream.name().to_owned(), entry);
        }
        stop(last.into_values());
    }

    fn follow_shifts(&mut self, snapshot: &Snapshot) {
        let last = std::mem::take(&mut self.shifts);
        for route in snapshot.table.iter() {
            let Action::Forward(forward) = &route.value.action else { continue };
            forward.target.shifts(&mut |shift| {
                let known = last.iter().find(|(known, _)| known.as_ptr() == Arc::as_ptr(shift));
                let entry = known.cloned().unwrap_or_else(|| {
                    let (shift, route) = (Arc::downgrade(shift), &route.value);
                    let watch = watch_shift(Weak::clone(&shift), route.name.to_string(), Arc::clone(&route.metrics));
                    (shift, tokio::spawn(watch).abort_handle())
                });
                self.shifts.push(entry);
            });
        }
        let gone = |known: &Weak<Shift>| self.shifts.iter().all(|(shift, _)| !shift.ptr_eq(known));
        last.iter().filter(|(known, _)| gone(known)).for_each(|(_, task)| task.abort());
    }
}

/// Moves a shift on until it ends.
async fn watch_shift(shift: Weak<Shift>, route: String, metrics: Arc<RouteMetrics>) {
    loop {
        let pause = {
            let Some(shift) = shift.upgrade() else { return };
            let share = |shift: &Shift| format!("{:.1}%", shift.share() * 100.0);
            match shift.tick(Instant::now()) {
                Some(phase @ (Phase::RolledBack | Phase::Held(_))) => {
                    tracing::warn!(route, ?phase, share = share(&shift), "shift stopped by its guard");
                }
                Some(phase) => tracing::info!(route, ?phase, share = share(&shift), "shift goes on"),
                None => {}
            }
            metrics.shifted(shift.share());
            if !matches!(shift.phase(), Phase::Step(_)) {
                return;
            }
            (shift.policy().hold / 20).clamp(Duration::from_millis(10), LOOK)
        };
        tokio::time::sleep(pause).await;
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
    if upstream.ejects() {
        tasks.push(tokio::spawn(sweep::run(Arc::downgrade(upstream))).abort_handle());
    }
    if discovery::is_needed(upstream) {
        tasks.push(tokio::spawn(discovery::run(Arc::downgrade(upstream))).abort_handle());
    }
    tasks
}
