//! From a configuration to a [`Snapshot`], with every finding on the way.

use std::path::Path;
use std::sync::Arc;

use crate::config::effective::effective;
use crate::config::load::Loaded;
use crate::config::{Code, Config, Diagnostic, Diagnostics, ErrorDetail, Sources, Span};
use crate::telemetry::metrics::NO_ROUTE;
use crate::telemetry::{Metrics, RouteMetrics};

use super::{Fixed, Snapshot, listeners, routes, upstreams};

/// What a snapshot is compiled from.
pub struct Input<'a> {
    /// The configuration and where it stands.
    pub loaded: &'a Loaded,
    /// The first file, for paths relative to it.
    pub base: &'a Path,
    /// The snapshot to adopt from.
    pub previous: Option<&'a Snapshot>,
    /// Where handles are resolved.
    pub metrics: &'a Arc<Metrics>,
}

/// What compiling gave.
pub struct Compiled {
    /// The snapshot, unless something refuses the configuration.
    pub snapshot: Option<Snapshot>,
    /// The configuration with all defaults, if it could be read.
    pub effective: Option<Config>,
    /// All findings, those of loading included, in the order of their places.
    pub found: Diagnostics,
}

/// Compiles a loaded configuration.
#[must_use]
pub fn compile(input: &Input<'_>) -> Compiled {
    let mut found = input.loaded.found.clone();
    let Some(config) = input.loaded.config.as_ref().map(effective) else {
        found.sort();
        return Compiled { snapshot: None, effective: None, found };
    };
    let mut scope = Scope::new(input, &config, &mut found);
    let listeners = listeners::compile(&mut scope);
    let fixed = listeners::fixed(&mut scope, &listeners);
    let table = routes::compile(&mut scope);
    let upstreams = scope.upstreams.finish(&config, scope.found);
    let fixed = fixed.filter(|fixed| unchanged(input, fixed, &mut found));
    found.sort();
    let snapshot = match (found.has_errors(), fixed) {
        (false, Some(fixed)) => Some(Snapshot {
            generation: input.previous.map_or(1, |previous| previous.generation + 1),
            table,
            upstreams,
            listeners,
            full_errors: config.error_detail == ErrorDetail::Full,
            unrouted: input.previous.map_or_else(
                || Arc::new(RouteMetrics::new(input.metrics, NO_ROUTE)),
                |previous| Arc::clone(&previous.unrouted),
            ),
            fixed,
        }),
        _ => None,
    };
    Compiled { snapshot, effective: Some(config), found }
}

/// Refuses a change that a reload cannot make.
fn unchanged(input: &Input<'_>, fixed: &Fixed, found: &mut Diagnostics) -> bool {
    let Some(previous) = input.previous.map(|previous| &previous.fixed) else { return true };
    let changes = [
        (previous.listeners != fixed.listeners, "listening addresses"),
        (previous.workers != fixed.workers, "worker threads"),
        (previous.admin != fixed.admin, "the admin address"),
        (previous.access_log != fixed.access_log, "the access log"),
    ];
    let changed: Vec<_> = changes.iter().filter(|(changed, _)| *changed).map(|(_, what)| *what).collect();
    if changed.is_empty() {
        return true;
    }
    let message = format!("a reload cannot change {}", changed.join(" and "));
    found.push(
        Diagnostic::new(Code::NeedsUpgrade, message).help("needs upgrade: restart the service to apply the whole file"),
    );
    false
}

/// What the parts of the compiler share.
pub(super) struct Scope<'a> {
    pub config: &'a Config,
    pub input: &'a Input<'a>,
    pub found: &'a mut Diagnostics,
    pub upstreams: upstreams::Book<'a>,
}

impl<'a> Scope<'a> {
    fn new(input: &'a Input<'a>, config: &'a Config, found: &'a mut Diagnostics) -> Self {
        let upstreams = upstreams::Book::new(input, config, found);
        Self { config, input, found, upstreams }
    }

    /// Reports a finding at a place, with what to do about it.
    pub(super) fn report(&mut self, code: Code, message: impl Into<String>, span: Span, help: impl Into<String>) {
        self.found.push(Diagnostic::at(code, message, span, "here").help(help));
    }
}

/// The part of a scalar's place that begins `offset` bytes into its text, quotes passed over.
pub(super) fn within(sources: &Sources, span: Span, offset: usize, length: usize) -> Span {
    let text = sources.file(span).and_then(|file| file.text.get(span.start as usize..span.end as usize));
    let quoted = text.is_some_and(|text| text.starts_with(['"', '\'']));
    if length == 0 { span } else { span.part(offset + usize::from(quoted), length) }
}
