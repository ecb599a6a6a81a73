//! What a reload changed, by name.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::snapshot::Snapshot;

/// One thing that changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// `added`, `removed` or `changed`.
    pub how: String,
    /// `route`, `upstream`, `listener` or `setting`.
    pub what: String,
    /// Its name.
    pub name: String,
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sign = match self.how.as_str() {
            "added" => '+',
            "removed" => '-',
            _ => '~',
        };
        write!(f, "{sign} {} {}", self.what, self.name)
    }
}

/// What differs between two configurations, each as it runs and as it was written.
pub fn changes(old: (&Snapshot, &Config), new: (&Snapshot, &Config)) -> Vec<Change> {
    let (old, new) = (outline(old.0, old.1), outline(new.0, new.1));
    let mut list = Vec::new();
    let change = |how: &str, (what, name): &(&'static str, String)| Change {
        how: how.to_owned(),
        what: (*what).to_owned(),
        name: name.clone(),
    };
    for (key, text) in &new {
        match old.get(key) {
            None => list.push(change("added", key)),
            Some(before) if before != text => list.push(change("changed", key)),
            Some(_) => {}
        }
    }
    list.extend(old.keys().filter(|key| !new.contains_key(*key)).map(|key| change("removed", key)));
    list
}

/// Every named thing with its settings as text. A configuration that compiled has one route in
/// its table for each that was written, in the same order.
fn outline(snapshot: &Snapshot, config: &Config) -> BTreeMap<(&'static str, String), String> {
    let mut outline = BTreeMap::new();
    let text = |value: serde_json::Result<String>| value.unwrap_or_default();
    for (compiled, written) in snapshot.table.iter().zip(&config.routes) {
        outline.insert(("route", compiled.value.name.to_string()), text(serde_json::to_string(written)));
    }
    for (name, upstream) in config.upstreams.iter() {
        outline.insert(("upstream", name.value.clone()), text(serde_json::to_string(upstream)));
    }
    for listener in &config.listeners {
        outline.insert(("listener", listener.address.value.clone()), text(serde_json::to_string(listener)));
    }
    outline.insert(("setting", "defaults".to_owned()), text(serde_json::to_string(&config.defaults)));
    outline.insert(("setting", "error_detail".to_owned()), text(serde_json::to_string(&config.error_detail)));
    outline.insert(("setting", "drain_timeout".to_owned()), text(serde_json::to_string(&config.drain_timeout)));
    outline
}
