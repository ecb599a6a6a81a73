//! A YAML document as a tree whose every node knows its place.
//!
//! Serde's own readers stop at the first mistake and forget where values stood. This tree keeps
//! both, so one run can show all mistakes. Environment variables are put in here, on finished
//! scalars: a variable's value can never change the structure of the document.

use granit_parser::{Event, Parser, ScalarStyle, Span as ParserSpan};

use super::codes::Code;
use super::diagnostic::{Diagnostic, Diagnostics};
use super::source::Span;

/// Deeper nesting than this is refused.
const MAX_DEPTH: usize = 64;

/// Looks an environment variable up.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// A node of the document.
#[derive(Clone, Debug)]
pub struct Node {
    /// Distinguishes it from every other node of the same load.
    pub id: u32,
    /// Where it is written.
    pub span: Span,
    /// What it is.
    pub kind: Kind,
}

/// What a node is.
#[derive(Clone, Debug)]
pub enum Kind {
    /// A single value.
    Scalar(Scalar),
    /// A list.
    List(Vec<Node>),
    /// A mapping, in the order of the file.
    Map(Vec<(Key, Node)>),
}

/// A single value, not yet of any type.
#[derive(Clone, Debug)]
pub struct Scalar {
    /// The text after escapes and variables.
    pub text: String,
    /// Whether it was written without quotes, so that `8080` is a number and `true` a truth value.
    pub plain: bool,
    /// The environment variable that its value came from, if one did.
    pub variable: Option<String>,
}

/// The key of a mapping's entry.
#[derive(Clone, Debug)]
pub struct Key {
    /// Distinguishes it from every other node of the same load.
    pub id: u32,
    /// Where it is written.
    pub span: Span,
    /// Its text.
    pub text: String,
}

impl Node {
    /// The value of this key, if this is a mapping that has it.
    #[must_use]
    pub fn entry(&self, key: &str) -> Option<&(Key, Self)> {
        self.entries().iter().find(|(name, _)| name.text == key)
    }

    /// The entries, empty unless this is a mapping.
    #[must_use]
    pub fn entries(&self) -> &[(Key, Self)] {
        match &self.kind {
            Kind::Map(entries) => entries,
            Kind::List(_) | Kind::Scalar(_) => &[],
        }
    }

    /// The items, empty unless this is a list.
    #[must_use]
    pub fn items(&self) -> &[Self] {
        match &self.kind {
            Kind::List(items) => items,
            Kind::Map(_) | Kind::Scalar(_) => &[],
        }
    }
}

/// Numbers nodes across all files of one load.
#[derive(Debug, Default)]
pub struct Ids(u32);

impl Ids {
    fn next(&mut self) -> u32 {
        self.0 += 1;
        self.0
    }
}

/// Reads one file; what is wrong goes to `found`. An empty document is an empty mapping.
pub fn parse(text: &str, file: u32, ids: &mut Ids, lookup: Lookup<'_>, found: &mut Diagnostics) -> Option<Node> {
    let mut reader = Reader { parser: Parser::new_from_str(text), text, file, ids, lookup, found };
    reader.document().ok()
}

/// The finding was pushed already; unwinds to [`parse`].
struct Stop;

struct Reader<'a, 'b, P: granit_parser::BorrowedInput<'a>> {
    parser: Parser<'a, P>,
    text: &'a str,
    file: u32,
    ids: &'b mut Ids,
    lookup: Lookup<'b>,
    found: &'b mut Diagnostics,
}

impl<'a, P: granit_parser::BorrowedInput<'a>> Reader<'a, '_, P> {
    fn document(&mut self) -> Result<Node, Stop> {
        let mut root = None;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamEnd => break,
                Event::DocumentStart(..) if root.is_some() => {
                    return Err(self.refuse(span, "a second document in one file"));
                }
                Event::StreamStart | Event::DocumentStart(..) | Event::DocumentEnd => {}
                event => root = Some(self.node(event, span, 0)?),
            }
        }
        let empty =
            Node { id: self.ids.next(), span: Span { file: self.file, start: 0, end: 0 }, kind: Kind::Map(Vec::new()) };
        Ok(root.filter(|node| !is_null(node)).unwrap_or(empty))
    }

    fn next(&mut self) -> Result<(Event<'a>, Span), Stop> {
        match self.parser.next_event() {
            Some(Ok((event, span))) => Ok((event, self.span(span))),
            Some(Err(error)) => {
                let offset = error.marker().byte_offset().unwrap_or(self.text.len());
                let span = self.visible(offset);
                let message = error.kind().to_string();
                self.found.push(Diagnostic::at(Code::Syntax, "the file is not valid YAML", span, message));
                Err(Stop)
            }
            None => Ok((Event::StreamEnd, Span { file: self.file, ..Span::default() })),
        }
    }

    fn node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<Node, Stop> {
        if depth > MAX_DEPTH {
            return Err(self.refuse(span, "nesting deeper than 64 levels"));
        }
        let id = self.ids.next();
        let (kind, end) = match event {
            Event::Alias(_) | Event::UnresolvedAlias(_) => return Err(self.refuse(span, "an alias")),
            Event::Scalar(_, _, anchor, _) | Event::SequenceStart(_, anchor, _) | Event::MappingStart(_, anchor, _)
                if anchor != 0 =>
            {
                return Err(self.refuse(span, "an anchor"));
            }
            Event::Scalar(_, _, _, Some(_))
            | Event::SequenceStart(_, _, Some(_))
            | Event::MappingStart(_, _, Some(_)) => {
                return Err(self.refuse(span, "a tag"));
            }
            Event::Scalar(text, style, ..) => (Kind::Scalar(self.scalar(&text, style, span)), span.end),
            Event::SequenceStart(..) => self.list(depth)?,
            Event::MappingStart(..) => self.map(depth)?,
            _ => return Err(self.refuse(span, "this construct")),
        };
        Ok(Node { id, span: self.trimmed(Span { end, ..span }), kind })
    }

    fn list(&mut self, depth: usize) -> Result<(Kind, u32), Stop> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, span) => return Ok((Kind::List(items), span.end)),
                (event, span) => items.push(self.node(event, span, depth + 1)?),
            }
        }
    }

    fn map(&mut self, depth: usize) -> Result<(Kind, u32), Stop> {
        let mut entries: Vec<(Key, Node)> = Vec::new();
        loop {
            let key = match self.next()? {
                (Event::MappingEnd, span) => return Ok((Kind::Map(entries), span.end)),
                (Event::Scalar(text, _, 0, None), span) if text != "<<" => {
                    Key { id: self.ids.next(), span, text: text.into_owned() }
                }
                (_, span) => return Err(self.refuse(span, "a key that is not plain text")),
            };
            let (event, span) = self.next()?;
            let value = self.node(event, span, depth + 1)?;
            match entries.iter().find(|(known, _)| known.text == key.text) {
                Some((first, _)) => self.found.push(duplicate(&key, first.span)),
                None => entries.push((key, value)),
            }
        }
    }

    fn scalar(&mut self, text: &str, style: ScalarStyle, span: Span) -> Scalar {
        let (text, variable) = match expand(text, self.lookup) {
            Ok(expanded) => expanded,
            Err(problem) => {
                let message = match &problem {
                    Unset::Missing(name) => format!("environment variable `{name}` is not set"),
                    Unset::Malformed => "`${` without a name and a closing brace".to_owned(),
                };
                let help = "give a default with `${NAME:-default}`, or write `$$` for a literal dollar sign";
                self.found.push(Diagnostic::at(Code::MissingVariable, message, span, "needed here").help(help));
                (text.to_owned(), None)
            }
        };
        Scalar { text, plain: matches!(style, ScalarStyle::Plain), variable }
    }

    fn refuse(&mut self, span: Span, what: &str) -> Stop {
        let message = format!("{what} is not accepted in a configuration");
        self.found.push(Diagnostic::at(Code::YamlFeature, message, span, "not accepted"));
        Stop
    }

    fn span(&self, span: ParserSpan) -> Span {
        let range = span.byte_range().unwrap_or(0..0);
        let offset = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        Span { file: self.file, start: offset(range.start), end: offset(range.end.max(range.start)) }
    }

    /// A block ends where the next one begins; the blank between belongs to neither.
    fn trimmed(&self, span: Span) -> Span {
        let text = self.text.get(span.start as usize..span.end as usize).unwrap_or_default();
        let length = u32::try_from(text.trim_end().len()).unwrap_or(u32::MAX);
        Span { end: span.start.saturating_add(length), ..span }
    }

    /// The parser gives up at the line after an unfinished one; shows the last text before it.
    fn visible(&self, offset: usize) -> Span {
        let offset = offset.min(self.text.len());
        let before = self.text.get(..offset).unwrap_or_default();
        let start = if offset == self.text.len() { before.trim_end().len().saturating_sub(1) } else { offset };
        let start = u32::try_from(start).unwrap_or(u32::MAX);
        Span {
            file: self.file,
            start,
            end: start.saturating_add(1).min(u32::try_from(self.text.len()).unwrap_or(u32::MAX)),
        }
    }
}

/// Says that a key stands twice.
pub fn duplicate(key: &Key, first: Span) -> Diagnostic {
    let message = format!("`{}` is given twice", key.text);
    Diagnostic::at(Code::DuplicateKey, message, key.span, "given again here").related(first, "first given here")
}

fn is_null(node: &Node) -> bool {
    matches!(&node.kind, Kind::Scalar(scalar) if scalar.plain && matches!(scalar.text.as_str(), "" | "~" | "null"))
}

enum Unset {
    Missing(String),
    Malformed,
}

/// Replaces `${NAME}`, `${NAME:-default}` and `$$`; a dollar sign before anything else stays.
fn expand(text: &str, lookup: Lookup<'_>) -> Result<(String, Option<String>), Unset> {
    let (mut out, mut variable, mut rest) = (String::with_capacity(text.len()), None, text);
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        rest = if let Some(after) = after.strip_prefix('$') {
            out.push('$');
            after
        } else if let Some(after) = after.strip_prefix('{') {
            let (inside, after) = after.split_once('}').ok_or(Unset::Malformed)?;
            let (name, default) = inside.split_once(":-").map_or((inside, None), |(name, value)| (name, Some(value)));
            let valid = |c: char| c.is_ascii_alphanumeric() || c == '_';
            if name.is_empty() || !name.chars().all(valid) {
                return Err(Unset::Malformed);
            }
            let value = lookup(name).filter(|value| default.is_none() || !value.is_empty());
            let value = value.or_else(|| default.map(str::to_owned));
            out.push_str(&value.ok_or_else(|| Unset::Missing(name.to_owned()))?);
            variable = Some(name.to_owned());
            after
        } else {
            out.push('$');
            after
        };
    }
    out.push_str(rest);
    Ok((out, variable))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(text: &str) -> Option<String> {
        expand(text, &|name| (name == "A").then(|| "x".to_owned())).ok().map(|(text, _)| text)
    }

    #[test]
    fn variables_expand_and_lone_dollars_stay() {
        let cases = [
            ("plain", Some("plain")),
            ("${A}", Some("x")),
            ("a${A}b${A}", Some("axbx")),
            ("${B:-y}", Some("y")),
            ("${B:-}", Some("")),
            ("$$", Some("$")),
            ("$${A}", Some("${A}")),
            ("~^/a/(\\d+)$", Some("~^/a/(\\d+)$")),
            ("$A", Some("$A")),
            ("${B}", None),
            ("${A", None),
            ("${}", None),
        ];
        for (text, expected) in cases {
            assert_eq!(expanded(text).as_deref(), expected, "{text}");
        }
    }
}
