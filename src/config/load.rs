//! From files to one [`Config`]: reading, including, merging and decoding.

use std::path::{Path, PathBuf};

use super::Config;
use super::codes::Code;
use super::decode::decode;
use super::diagnostic::{Diagnostic, Diagnostics};
use super::source::{Sources, Span};
use super::tree::{self, Ids, Key, Kind, Lookup, Node, Scalar};

/// Larger files are refused.
const MAX_FILE: u64 = 64 << 20;

/// Keys whose entries several files may add to.
const MERGED: &[&str] = &["upstreams"];
/// Keys whose lists several files may add to.
const APPENDED: &[&str] = &["listeners", "routes", "imports"];

/// What loading a configuration gave: with errors in `found`, `config` must not be used.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The configuration, as far as it could be read.
    pub config: Option<Config>,
    /// The merged document, for showing where values come from.
    pub root: Option<Node>,
    /// The files.
    pub sources: Sources,
    /// What is wrong.
    pub found: Diagnostics,
    /// Numbers the nodes of files read later, such as imports.
    pub ids: Ids,
}

/// Reads the configuration that begins at `path`.
#[must_use]
pub fn load(path: &Path, lookup: Lookup<'_>) -> Loaded {
    let mut loaded = Loaded::default();
    let Some(mut root) = loaded.read(path, None, lookup) else {
        return loaded;
    };
    if !matches!(root.kind, Kind::Map(_)) {
        let message = "a configuration is a mapping such as `listeners: …`";
        loaded.found.push(Diagnostic::at(Code::WrongType, message, root.span, "expected a mapping"));
        return loaded;
    }
    for (pattern, span) in includes(&root) {
        for file in loaded.matching(path, &pattern, span) {
            if let Some(part) = loaded.read(&file, Some(span), lookup) {
                merge(&mut root, part, &mut loaded.found);
            }
        }
    }
    loaded.config = decode(&root, &mut loaded.found);
    if let Some(config) = &mut loaded.config {
        place_short_forms(config);
    }
    loaded.root = Some(root);
    loaded
}

impl Loaded {
    /// Reads and parses one more file; `span` is where it is named.
    pub fn read(&mut self, path: &Path, span: Option<Span>, lookup: Lookup<'_>) -> Option<Node> {
        match read(path) {
            Ok(text) => {
                let file = self.sources.add(path.to_owned(), text.clone());
                tree::parse(&text, file, &mut self.ids, lookup, &mut self.found)
            }
            Err(problem) => {
                let message = format!("cannot read {}: {problem}", path.display());
                self.found.push(match span {
                    Some(span) => Diagnostic::at(Code::Unreadable, message, span, "named here"),
                    None => Diagnostic::new(Code::Unreadable, message),
                });
                None
            }
        }
    }

    /// The files that an `include` names, sorted; a pattern may match none, a plain path may not.
    fn matching(&mut self, base: &Path, pattern: &str, span: Span) -> Vec<PathBuf> {
        let full = resolve(base, pattern);
        if !pattern.contains(['*', '?', '[']) {
            return vec![full];
        }
        match glob::glob(&full.to_string_lossy()) {
            Ok(paths) => paths.filter_map(Result::ok).collect(),
            Err(problem) => {
                let message = format!("`{pattern}` is not a pattern: {problem}");
                self.found.push(Diagnostic::at(Code::Include, message, span, "here"));
                Vec::new()
            }
        }
    }
}

/// A path named in the configuration, relative to the file that names it.
#[must_use]
pub fn resolve(base: &Path, named: &str) -> PathBuf {
    base.parent().unwrap_or(Path::new("")).join(named)
}

fn read(path: &Path) -> Result<String, String> {
    let explain = |error: std::io::Error| error.to_string();
    let metadata = std::fs::metadata(path).map_err(explain)?;
    if metadata.is_dir() {
        return Err("it is a directory".to_owned());
    }
    if metadata.len() > MAX_FILE {
        return Err("it is larger than 64 MiB".to_owned());
    }
    let bytes = std::fs::read(path).map_err(explain)?;
    String::from_utf8(bytes).map_err(|error| format!("it is not UTF-8 (byte {})", error.utf8_error().valid_up_to()))
}

fn includes(root: &Node) -> Vec<(String, Span)> {
    let items = root.entry("include").map(|(_, list)| list.items()).unwrap_or_default();
    let text = |node: &Node| match &node.kind {
        Kind::Scalar(Scalar { text, .. }) => Some((text.clone(), node.span)),
        Kind::List(_) | Kind::Map(_) => None,
    };
    items.iter().filter_map(text).collect()
}

/// Adds what another file says; what both say is a mistake.
fn merge(root: &mut Node, part: Node, found: &mut Diagnostics) {
    let Kind::Map(entries) = &mut root.kind else { return };
    let Kind::Map(added) = part.kind else {
        let message = "an included file is a mapping such as `routes: …`";
        found.push(Diagnostic::at(Code::WrongType, message, part.span, "expected a mapping"));
        return;
    };
    for (key, value) in added {
        if key.text == "include" {
            let message = "an included file cannot include more files";
            found.push(Diagnostic::at(Code::Include, message, key.span, "move this to the first file"));
            continue;
        }
        match entries.iter_mut().find(|(known, _)| known.text == key.text) {
            None => entries.push((key, value)),
            Some((first, into)) => merge_entry(first, into, &key, value, found),
        }
    }
}

fn merge_entry(first: &Key, into: &mut Node, key: &Key, value: Node, found: &mut Diagnostics) {
    match (&mut into.kind, value.kind) {
        (Kind::List(list), Kind::List(more)) if APPENDED.contains(&key.text.as_str()) => list.extend(more),
        (Kind::Map(entries), Kind::Map(more)) if MERGED.contains(&key.text.as_str()) => {
            for (key, value) in more {
                match entries.iter().find(|(known, _)| known.text == key.text) {
                    Some((first, _)) => found.push(tree::duplicate(&key, first.span)),
                    None => entries.push((key, value)),
                }
            }
        }
        _ => found.push(
            tree::duplicate(key, first.span).help("an included file adds to the first one and never overrides it"),
        ),
    }
}

/// The parts of a short form stand where the whole stands.
fn place_short_forms(config: &mut Config) {
    for (_, upstream) in &mut config.upstreams.0 {
        let whole = upstream.span;
        let place = |span: &mut Span| {
            if *span == Span::default() {
                *span = whole;
            }
        };
        upstream.value.endpoints.iter_mut().for_each(|endpoint| place(&mut endpoint.span));
        if let Some(host) = &mut upstream.value.host {
            place(&mut host.span);
        }
        if let Some(tls) = &mut upstream.value.tls {
            place(&mut tls.span);
            if let Some(sni) = &mut tls.value.sni {
                place(&mut sni.span);
            }
        }
    }
}
