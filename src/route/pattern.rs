//! Path patterns: what an operator writes after `path:`.

use std::cmp::Reverse;
use std::fmt;

use regex::Regex;

use super::normalize::normalize;

/// A compiled expression larger than this is refused (bytes).
const REGEX_LIMIT: usize = 1 << 20;

/// One segment of a pattern.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Segment {
    /// Exactly this text.
    Literal(Box<str>),
    /// `:name`: any one segment that is not empty.
    Parameter(Box<str>),
    /// `*` in the middle: any one segment that is not empty.
    Any,
}

/// Which paths.
#[derive(Clone, Debug)]
pub enum PathPattern {
    /// Segments, and whether a last `*` takes all the rest.
    Segments {
        /// The segments before a last `*`.
        segments: Vec<Segment>,
        /// Whether zero or more segments may follow.
        rest: bool,
    },
    /// A regular expression that the whole path matches.
    Regex(Box<Regex>),
}

/// Why a pattern is refused; `at` is the byte where the mistake begins.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct PatternError {
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub help: String,
    /// First byte of the mistake in the pattern.
    pub at: usize,
    /// Length of the mistake in bytes.
    pub length: usize,
    /// Whether the mistake lies in a regular expression.
    pub regex: bool,
}

/// How specific a path pattern is; less is more specific.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Specificity {
    class: u8,
    segments: Reverse<usize>,
    kinds: Vec<u8>,
}

impl PathPattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// Says what is wrong and where; see CONFIG's "Paths".
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        if let Some(source) = text.strip_prefix('~') {
            return parse_regex(source);
        }
        if !text.starts_with('/') {
            return Err(refuse(0, text.len(), "a path pattern begins with `/`", format!("write `/{text}`")));
        }
        let mut segments = Vec::new();
        let mut at = 1;
        let mut rest = false;
        let mut parts = text[1..].split('/').peekable();
        while let Some(part) = parts.next() {
            let last = parts.peek().is_none();
            if part == "*" && last {
                rest = true;
            } else {
                let segment = parse_segment(part, last).map_err(|error| PatternError { at: at + error.at, ..error })?;
                if let Segment::Parameter(name) = &segment
                    && segments.contains(&Segment::Parameter(name.clone()))
                {
                    return Err(refuse(
                        at,
                        part.len(),
                        &format!("`:{name}` stands twice"),
                        "give each parameter its own name".to_owned(),
                    ));
                }
                segments.push(segment);
            }
            at += part.len() + 1;
        }
        Ok(Self::Segments { segments, rest })
    }

    /// Whether this pattern is one path and nothing else; if so, the path.
    #[must_use]
    pub fn exact(&self) -> Option<String> {
        let Self::Segments { segments, rest: false } = self else { return None };
        let literal = |segment: &Segment| match segment {
            Segment::Literal(text) => Some(format!("/{text}")),
            Segment::Parameter(_) | Segment::Any => None,
        };
        segments.iter().map(literal).collect()
    }

    /// Its rank among the patterns of one host: exact, parameters, regex, trailing wildcard; then
    /// more segments; then literal, parameter, `*` from left to right.
    #[must_use]
    pub fn specificity(&self) -> Specificity {
        match self {
            Self::Regex(regex) => Specificity {
                class: 2,
                segments: Reverse(regex.as_str().bytes().filter(|byte| *byte == b'/').count()),
                kinds: Vec::new(),
            },
            Self::Segments { segments, rest } => {
                let kinds: Vec<u8> = segments.iter().map(kind).collect();
                let literal = kinds.iter().all(|kind| *kind == 0);
                let class = if *rest { 3 } else { u8::from(!literal) };
                Specificity { class, segments: Reverse(segments.len()), kinds }
            }
        }
    }

    /// Whether this pattern matches every path that `other` matches. Expressions are compared by
    /// their source only.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Regex(one), Self::Regex(two)) => one.as_str() == two.as_str(),
            (Self::Segments { segments, rest: true }, Self::Regex(_)) => segments.is_empty(),
            (Self::Segments { .. }, Self::Regex(_)) => false,
            (Self::Regex(regex), Self::Segments { .. }) => other.exact().is_some_and(|path| regex.is_match(&path)),
            (Self::Segments { segments: one, rest }, Self::Segments { segments: two, rest: other_rest }) => {
                let long_enough = if *rest { two.len() >= one.len() } else { two.len() == one.len() && !other_rest };
                long_enough && one.iter().zip(two).all(|(one, two)| segment_covers(one, two))
            }
        }
    }

    /// Whether it matches a path in its one form. The table does not use this; it answers
    /// questions about a single route.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        let Self::Segments { segments, rest } = self else {
            return matches!(self, Self::Regex(regex) if regex.is_match(path));
        };
        let mut parts = path.split('/').skip(1);
        let fits = |segment: &Segment| match (segment, parts.next()) {
            (Segment::Literal(text), Some(part)) => **text == *part,
            (Segment::Parameter(_) | Segment::Any, Some(part)) => !part.is_empty(),
            (_, None) => false,
        };
        segments.iter().all(fits) && (*rest || path.split('/').count() - 1 == segments.len())
    }

    /// A path that it matches, for patterns of segments.
    #[must_use]
    pub fn witness(&self) -> Option<String> {
        let Self::Segments { segments, rest } = self else { return None };
        let mut path = String::new();
        for segment in segments {
            path.push('/');
            path.push_str(match segment {
                Segment::Literal(text) => text,
                Segment::Parameter(_) | Segment::Any => "anything",
            });
        }
        if *rest {
            path.push_str("/anything");
        }
        Some(path)
    }
}

fn kind(segment: &Segment) -> u8 {
    match segment {
        Segment::Literal(_) => 0,
        Segment::Parameter(_) => 1,
        Segment::Any => 2,
    }
}

fn segment_covers(one: &Segment, two: &Segment) -> bool {
    match (one, two) {
        (Segment::Literal(one), Segment::Literal(two)) => one == two,
        (Segment::Literal(_), _) => false,
        (_, Segment::Literal(text)) => !text.is_empty(),
        _ => true,
    }
}

fn refuse(at: usize, length: usize, message: &str, help: String) -> PatternError {
    PatternError { message: message.to_owned(), help, at, length, regex: false }
}

fn parse_segment(part: &str, last: bool) -> Result<Segment, PatternError> {
    if part == "*" {
        return Ok(Segment::Any);
    }
    if let Some(name) = part.strip_prefix(':') {
        return parse_parameter(name);
    }
    if let Some(at) = part.find('*') {
        let before = part.split('*').next().unwrap_or_default();
        let help =
            format!("write `/{before}/*`, which also matches `/{before}` itself, or a regular expression after `~`");
        return Err(refuse(at, 1, "`*` stands for a whole segment", help));
    }
    if part.is_empty() && !last {
        return Err(refuse(
            0,
            1,
            "an empty segment in a path pattern",
            "requests have repeated slashes merged; write one".to_owned(),
        ));
    }
    if let Some(at) = part.find(['?', '#']) {
        return Err(refuse(
            at,
            part.len() - at,
            "a path pattern has no query or fragment",
            "use `query:` for tests on the query".to_owned(),
        ));
    }
    let path = format!("/{part}");
    match normalize(&path, false) {
        Ok(normal) if normal.len() > 1 || part.is_empty() => Ok(Segment::Literal(normal[1..].into())),
        Ok(_) => Err(refuse(
            0,
            part.len(),
            "a dot segment in a path pattern",
            "requests have `.` and `..` resolved before matching".to_owned(),
        )),
        Err(problem) => {
            Err(refuse(0, part.len(), &problem.to_string(), "no request could match this pattern".to_owned()))
        }
    }
}

fn parse_parameter(name: &str) -> Result<Segment, PatternError> {
    let valid = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty() || !name.chars().all(valid) {
        let help = "a parameter's name has letters, digits and `_` and takes the whole segment".to_owned();
        return Err(refuse(0, name.len() + 1, "an invalid parameter name", help));
    }
    Ok(Segment::Parameter(name.into()))
}

fn parse_regex(source: &str) -> Result<PathPattern, PatternError> {
    let wrong = |message: String, help: &str| PatternError {
        message,
        help: help.to_owned(),
        at: 1,
        length: source.len(),
        regex: true,
    };
    if !source.trim_start_matches('^').starts_with(['/', '(', '[', '\\', '.']) {
        return Err(wrong("an expression that no path matches".to_owned(), "every path begins with `/`: write `~^/…`"));
    }
    // The groups keep an alternation inside the anchors.
    let anchored = format!(r"\A(?:{source})\z");
    let regex = regex(&anchored);
    regex.map(|regex| PathPattern::Regex(Box::new(regex))).map_err(|problem| wrong(problem, REGEX_HELP))
}

/// What to say to whoever wrote an invalid expression.
pub const REGEX_HELP: &str = "expressions are those of the Rust `regex` crate: linear time, no look-around";

/// Compiles an expression of the configuration, within the limit of size.
///
/// # Errors
/// Says in a few words what is wrong.
pub fn regex(source: &str) -> Result<Regex, String> {
    regex::RegexBuilder::new(source).size_limit(REGEX_LIMIT).build().map_err(|error| {
        let message = error.to_string();
        message.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
    })
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Regex(regex) => {
                let source = regex.as_str();
                let inner = source.strip_prefix(r"\A(?:").and_then(|rest| rest.strip_suffix(r")\z"));
                write!(f, "~{}", inner.unwrap_or(source))
            }
            Self::Segments { segments, rest } => {
                for segment in segments {
                    match segment {
                        Segment::Literal(text) => write!(f, "/{text}")?,
                        Segment::Parameter(name) => write!(f, "/:{name}")?,
                        Segment::Any => f.write_str("/*")?,
                    }
                }
                if *rest { f.write_str("/*") } else { Ok(()) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_print_as_written() {
        for text in ["/", "/a", "/a/", "/a/:id", "/a/*/b", "/a/*", "/*", r"~^/re/(?<id>\d+)$", "/*/*"] {
            assert_eq!(PathPattern::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(PathPattern::parse("/caf%c3%a9/%7E").unwrap().to_string(), "/caf%C3%A9/~");
    }

    #[test]
    fn bad_patterns_name_the_mistake() {
        let cases = [
            ("", 0, 0),
            ("api", 0, 3),
            ("/api*", 4, 1),
            ("/a/b*c/d", 4, 1),
            ("/a//b", 3, 1),
            ("/a/../b", 3, 2),
            ("/a/:", 3, 1),
            ("/a/:i-d", 3, 4),
            ("/:id/:id", 5, 3),
            ("/a?b", 2, 2),
            ("/a\\b", 1, 3),
            ("/%zz", 1, 3),
            ("~^/(", 1, 3),
            ("~abc", 1, 3),
        ];
        for (text, at, length) in cases {
            let error = PathPattern::parse(text).unwrap_err();
            assert_eq!((error.at, error.length), (at, length), "{text}: {error}");
        }
    }

    #[test]
    fn covering_is_by_language() {
        let cases = [
            ("/*", "/a", true),
            ("/*", "~^/x$", true),
            ("/a/*", "/a", true),
            ("/a/*", "/a/:x/c", true),
            ("/a/*", "/*", false),
            ("/:x", "/a", true),
            ("/:x", "/*", false),
            ("/:x", "/", false),
            ("/*/b", "/:x/b", true),
            ("/:x/b", "/*/b", true),
            ("/a", "/a/", false),
            (r"~^/\d+$", "/12", true),
            (r"~^/\d+$", "/x", false),
        ];
        for (one, two, expected) in cases {
            let [a, b] = [one, two].map(|text| PathPattern::parse(text).unwrap());
            assert_eq!(a.covers(&b), expected, "{one} covers {two}");
        }
    }
}
