//! What is wrong with a configuration, told the way a compiler tells it.

use std::fmt::Write as _;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use serde::Serialize;

use super::codes::Code;
use super::source::{Sources, Span};

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The configuration loads, but probably not as meant.
    Warning,
    /// The configuration is refused.
    Error,
}

/// One finding.
#[derive(Clone, Debug)]
pub struct Diagnostic {
    /// Its stable code.
    pub code: Code,
    /// The finding in one sentence, without a full stop.
    pub message: String,
    /// Where it is, when it has a place.
    pub span: Option<Span>,
    /// What to write below the marked text.
    pub label: String,
    /// A second place that belongs to it, with its own label.
    pub related: Option<(Span, String)>,
    /// What to do about it.
    pub help: Option<String>,
}

impl Diagnostic {
    /// A finding without a place.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), span: None, label: String::new(), related: None, help: None }
    }

    /// A finding at a place, with the words that stand below it.
    pub fn at(code: Code, message: impl Into<String>, span: Span, label: impl Into<String>) -> Self {
        Self { span: Some(span), label: label.into(), ..Self::new(code, message) }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Adds advice when there is some.
    #[must_use]
    pub fn maybe_help(mut self, help: Option<String>) -> Self {
        self.help = help.or(self.help);
        self
    }

    /// Adds a second place.
    #[must_use]
    pub fn related(mut self, span: Span, label: impl Into<String>) -> Self {
        self.related = Some((span, label.into()));
        self
    }

    /// Whether it refuses the configuration.
    #[must_use]
    pub fn severity(&self) -> Severity {
        self.code.severity()
    }
}

/// The findings of one run, in the order of their places.
#[derive(Clone, Debug, Default)]
pub struct Diagnostics {
    list: Vec<Diagnostic>,
}

impl Diagnostics {
    /// Adds a finding.
    pub fn push(&mut self, diagnostic: Diagnostic) {
        self.list.push(diagnostic);
    }

    /// Adds the findings of another run.
    pub fn extend(&mut self, other: Self) {
        self.list.extend(other.list);
    }

    /// The findings.
    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        self.list.iter()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Whether any of them refuses the configuration.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.list.iter().any(|diagnostic| diagnostic.severity() == Severity::Error)
    }

    /// How many findings of this severity there are.
    #[must_use]
    pub fn count(&self, severity: Severity) -> usize {
        self.list.iter().filter(|diagnostic| diagnostic.severity() == severity).count()
    }

    /// Puts the findings into the order of their places.
    pub fn sort(&mut self) {
        self.list.sort_by_key(|diagnostic| diagnostic.span);
    }

    /// The findings as text with excerpts, and a last line that counts them.
    #[must_use]
    pub fn render(&self, sources: &Sources, color: bool) -> String {
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        let mut out = String::new();
        for diagnostic in &self.list {
            out.push_str(&renderer.render(&[group(diagnostic, sources)]));
            out.push_str("\n\n");
        }
        let _ = writeln!(out, "{}", self.summary());
        out
    }

    /// "2 errors, 1 warning".
    #[must_use]
    pub fn summary(&self) -> String {
        let plural = |count: usize, noun: &str| format!("{count} {noun}{}", if count == 1 { "" } else { "s" });
        let (errors, warnings) = (self.count(Severity::Error), self.count(Severity::Warning));
        format!("{}, {}", plural(errors, "error"), plural(warnings, "warning"))
    }

    /// The findings as data, for `--format json` and the admin API.
    #[must_use]
    pub fn to_json(&self, sources: &Sources) -> serde_json::Value {
        self.list.iter().map(|diagnostic| to_json(diagnostic, sources)).collect()
    }
}

fn group<'a>(diagnostic: &'a Diagnostic, sources: &'a Sources) -> Group<'a> {
    let level = match diagnostic.severity() {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let title = level.primary_title(diagnostic.message.as_str()).id(diagnostic.code.as_str());
    let mut group = Group::with_title(title);
    let marks = marks(diagnostic);
    for (index, file) in sources.files().iter().enumerate() {
        let here = marks.iter().filter(|(span, ..)| span.file as usize == index);
        let annotations: Vec<_> = here
            .map(|(span, label, kind)| {
                let end = (span.end as usize).min(file.text.len());
                kind.span((span.start as usize).min(end)..end).label(*label)
            })
            .collect();
        if !annotations.is_empty() {
            let snippet = Snippet::source(file.text.as_str()).path(file.path.to_string_lossy());
            group = group.element(snippet.annotations(annotations));
        }
    }
    match &diagnostic.help {
        Some(help) => group.element(Level::HELP.message(help.as_str())),
        None => group,
    }
}

/// The places to mark, with their labels.
fn marks(diagnostic: &Diagnostic) -> Vec<(Span, &str, AnnotationKind)> {
    let primary = diagnostic.span.map(|span| (span, diagnostic.label.as_str(), AnnotationKind::Primary));
    let related = diagnostic.related.as_ref();
    primary.into_iter().chain(related.map(|(span, label)| (*span, label.as_str(), AnnotationKind::Context))).collect()
}

fn to_json(diagnostic: &Diagnostic, sources: &Sources) -> serde_json::Value {
    let place = diagnostic.span.and_then(|span| {
        let (start, end) = (sources.start(span)?, sources.end(span)?);
        Some(serde_json::json!({
            "file": sources.file(span)?.path,
            "line": start.line, "column": start.column,
            "end_line": end.line, "end_column": end.column,
        }))
    });
    serde_json::json!({
        "severity": diagnostic.severity(),
        "code": diagnostic.code.as_str(),
        "message": diagnostic.message,
        "label": diagnostic.label,
        "help": diagnostic.help,
        "place": place,
    })
}

/// "did you mean `users`?" for the nearest of the names, when one is near enough.
pub fn did_you_mean<'a>(wrong: &str, names: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let limit = (wrong.chars().count() / 3).max(1);
    names
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(&wrong.to_lowercase(), &name.to_lowercase()), name))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| format!("did you mean `{name}`?"))
}
