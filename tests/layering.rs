//! The architecture as a test: which module may use which.
#![expect(clippy::panic, reason = "a test fails by panicking")]
use std::fs;
use std::path::{Path, PathBuf};

/// Lowest layer first. A module may use only modules in rows above its own.
const LAYERS: &[&[&str]] = &[
    &["config"],
    &["convert", "telemetry"],
    &["provider", "route", "tls"],
    &["upstream"],
    &["filter"],
    &["function"],
    &["snapshot"],
    &["proxy", "reload"],
    &["admin"],
    &["server"],
    &["cli"],
];

#[test]
fn modules_use_only_lower_layers() {
    let upward: Vec<String> = sources(Path::new("src"))
        .iter()
        .filter(|file| file.components().count() > 2) // skips main.rs and lib.rs
        .flat_map(|file| upward_uses(file))
        .collect();
    assert!(upward.is_empty(), "{}", upward.join("\n"));
}

fn upward_uses(file: &Path) -> Vec<String> {
    let own = file.components().nth(1).map(|c| c.as_os_str().to_string_lossy()).unwrap_or_default();
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .flat_map(|line| line.split("crate::").skip(1))
        .map(|rest| rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default())
        .filter(|used| *used != own && layer(used) >= layer(&own))
        .map(|used| format!("{}: uses crate::{used}", file.display()))
        .collect()
}

fn layer(module: &str) -> usize {
    LAYERS.iter().position(|row| row.contains(&module)).unwrap_or_else(|| panic!("{module} has no layer"))
}

fn sources(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    entries
        .flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] })
        .filter(|path| path.extension().is_some_and(|ext| ext == "rs"))
        .collect()
}
