//! Rewriting: a new path made from what a pattern matched.

use super::pattern::{PathPattern, Segment};

/// A path with places for what the pattern matched.
#[derive(Clone, Debug)]
pub struct Template {
    parts: Vec<Part>,
    /// Set when the pattern is an expression, whose groups are found by matching again.
    regex: Option<Box<regex::Regex>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(Box<str>),
    /// The segment at this position of the matched path.
    Segment(usize),
    /// Everything from this segment on, with its slash.
    Rest(usize),
    /// A named group of the expression.
    Group(Box<str>),
}

impl Template {
    /// Compiles `text`, in which `:name` stands for a parameter (or a named group) of `pattern`
    /// and a last segment `*` for what its trailing wildcard matched.
    ///
    /// # Errors
    /// Says in a few words which place has no match in the pattern.
    pub fn new(pattern: &PathPattern, text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let (body, rest) = match text.strip_suffix("/*") {
            Some(body) => (body, true),
            None => (text, false),
        };
        for (index, part) in body.split('/').enumerate() {
            if index > 0 {
                push_text(&mut parts, "/");
            }
            match part.strip_prefix(':') {
                // A colon after the first slash of `https://host:80` belongs to no parameter.
                Some(name) => parts.push(parameter(pattern, name)?),
                None if part == "*" => return Err("`*` stands only at the end".to_owned()),
                None => push_text(&mut parts, part),
            }
        }
        if rest {
            match pattern {
                PathPattern::Segments { segments, rest: true } => parts.push(Part::Rest(segments.len())),
                _ => return Err("the path has no trailing `*` whose match could be used".to_owned()),
            }
        }
        let regex = match pattern {
            PathPattern::Regex(regex) if parts.iter().any(|part| matches!(part, Part::Group(_))) => Some(regex.clone()),
            _ => None,
        };
        Ok(Self { parts, regex })
    }

    /// Adds the new path for a path that the pattern matched.
    pub fn expand(&self, path: &str, out: &mut String) {
        let captures = self.regex.as_ref().and_then(|regex| regex.captures(path));
        for part in &self.parts {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Segment(index) => out.push_str(path.split('/').nth(index + 1).unwrap_or_default()),
                Part::Rest(index) => out.push_str(rest(path, *index)),
                Part::Group(name) => {
                    let group = captures.as_ref().and_then(|captures| captures.name(name));
                    out.push_str(group.map_or("", |group| group.as_str()));
                }
            }
        }
    }
}

fn push_text(parts: &mut Vec<Part>, text: &str) {
    match parts.last_mut() {
        Some(Part::Text(last)) => *last = format!("{last}{text}").into(),
        _ if text.is_empty() => {}
        _ => parts.push(Part::Text(text.into())),
    }
}

fn parameter(pattern: &PathPattern, name: &str) -> Result<Part, String> {
    let found = match pattern {
        PathPattern::Segments { segments, .. } => {
            let is_it = |segment: &Segment| matches!(segment, Segment::Parameter(known) if **known == *name);
            segments.iter().position(is_it).map(Part::Segment)
        }
        PathPattern::Regex(regex) => {
            regex.capture_names().flatten().any(|known| known == name).then(|| Part::Group(name.into()))
        }
    };
    found.ok_or_else(|| format!("the path has no parameter `:{name}`"))
}

/// What follows the first `index` segments: empty, or beginning with a slash.
fn rest(path: &str, index: usize) -> &str {
    let slashes = path.bytes().enumerate().filter(|(_, byte)| *byte == b'/');
    slashes.map(|(at, _)| at).nth(index).map_or("", |at| &path[at..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_fill_in_what_matched() {
        let cases = [
            ("/api/*", "/*", "/api/users/7", "/users/7"),
            ("/api/*", "/*", "/api", ""),
            ("/api/*", "/v2/*", "/api/", "/v2/"),
            ("/u/:id/p/:post", "/posts/:post/of/:id", "/u/7/p/9", "/posts/9/of/7"),
            ("/u/:id/*", "/x/:id/*", "/u/7/a/b", "/x/7/a/b"),
            (r"~^/re/(?<id>\d+)$", "/n/:id", "/re/42", "/n/42"),
            ("/a", "/b", "/a", "/b"),
            ("/a", "https://h:80/b", "/a", "https://h:80/b"),
            ("/*", "/*", "/", "/"),
        ];
        for (pattern, template, path, expected) in cases {
            let pattern = PathPattern::parse(pattern).unwrap();
            let mut out = String::new();
            Template::new(&pattern, template).unwrap().expand(path, &mut out);
            assert_eq!(out, expected, "{pattern} -> {template}");
        }
    }

    #[test]
    fn templates_name_what_the_pattern_lacks() {
        for (pattern, template) in [("/a/:id", "/:di"), ("/a", "/*"), ("/a/*", "/*/b"), ("~^/a$", "/*")] {
            assert!(Template::new(&PathPattern::parse(pattern).unwrap(), template).is_err(), "{pattern} -> {template}");
        }
    }
}
