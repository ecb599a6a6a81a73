//! From patterns to a tree.

use std::ops::Range;

use regex::Regex;

use super::index::{Index, Key};
use super::{ANY, Exact, NONE, Node, PathTree, RouteId, Routes, START};
use crate::route::pattern::{PathPattern, Segment};

/// The longest beginning in bytes: the walk finds the slashes of as much of a path.
const LONGEST_BEGINNING: usize = 63;

/// A pattern of segments that waits for the others.
#[derive(Debug)]
pub(super) struct Pending {
    /// Whether it is one path and nothing else.
    exact: bool,
    /// The literal segments that it begins with, each with its slash before it.
    beginning: Box<str>,
    /// The other segments, each with a slash after it so that equal ones lie side by side when
    /// sorted. `:` is a parameter and `*` is any segment; no literal begins with either.
    remainder: Box<str>,
    /// Whether a trailing wildcard follows.
    rest: bool,
    route: RouteId,
}

impl Pending {
    fn new(segments: &[Segment], rest: bool, route: RouteId) -> Self {
        let exact = !rest && segments.iter().all(|segment| matches!(segment, Segment::Literal(_)));
        let (mut beginning, mut remainder) = (String::new(), String::new());
        for segment in segments {
            let text = match segment {
                Segment::Literal(text) => text,
                Segment::Parameter(_) => ":",
                Segment::Any => "*",
            };
            let fits = exact || beginning.len() + text.len() < LONGEST_BEGINNING;
            if fits && remainder.is_empty() && matches!(segment, Segment::Literal(_)) {
                beginning.extend(["/", text]);
            } else {
                remainder.extend([text, "/"]);
            }
        }
        Self { exact, beginning: beginning.into(), remainder: remainder.into(), rest, route }
    }

    fn order(&self) -> (bool, &str, &str) {
        (self.exact, &self.beginning, &self.remainder)
    }

    /// The segment that begins at a byte of the remainder, with the slash after it.
    fn step(&self, at: usize) -> &str {
        self.remainder[at..].split_inclusive('/').next().unwrap_or_default()
    }
}

impl PathTree {
    /// Adds a route. Routes must come in order of their rank among equal patterns.
    pub(in crate::route) fn insert(&mut self, pattern: &PathPattern, route: RouteId) {
        match pattern {
            PathPattern::Regex(regex) => self.insert_regex(regex, route),
            PathPattern::Segments { segments, rest } => self.pending.push(Pending::new(segments, *rest, route)),
        }
    }

    fn insert_regex(&mut self, regex: &Regex, route: RouteId) {
        match self.regexes.iter_mut().find(|(known, _)| known.as_str() == regex.as_str()) {
            Some((_, routes)) => routes.push(route),
            None => self.regexes.push((regex.clone(), vec![route])),
        }
    }

    /// Makes the tree. Called once, after the last route.
    pub(in crate::route) fn finish(&mut self) {
        let mut pending = std::mem::take(&mut self.pending);
        // Stable, so that equal patterns stay in the order of their rank.
        pending.sort_by(|one, two| one.order().cmp(&two.order()));
        let (patterns, exact) = pending.split_at(pending.partition_point(|pattern| !pattern.exact));
        for group in exact.chunk_by(|one, two| one.beginning == two.beginning) {
            let mut routes = Routes::EMPTY;
            group.iter().for_each(|pattern| routes.push(pattern.route, &mut self.more));
            self.exact.push(Exact { path: group[0].beginning.clone(), routes });
        }
        for group in patterns.chunk_by(|one, two| one.beginning == two.beginning) {
            let beginning = &group[0].beginning;
            self.beginnings |= 1 << beginning.len();
            self.grow(group, 0, Some((START, beginning)));
        }
        let paths = self.exact.iter().map(|exact| Key { from: START, text: exact.path.as_bytes() });
        self.paths = Index::new(&paths.zip(0..).collect::<Vec<_>>());
        let keyed = self.nodes.iter().filter(|node| node.from != NONE);
        let keys = keyed.map(|node| (Key { from: node.from, text: node.key() }, node.at));
        let (entries, children): (Vec<_>, Vec<_>) = keys.partition(|(key, _)| key.from == START);
        (self.entries, self.children) = (Index::new(&entries), Index::new(&children));
    }

    /// Makes the node, and all nodes below, of patterns that agree up to the byte `from` of their
    /// remainders. Its key, if it has one, is what precedes that byte.
    fn grow(&mut self, patterns: &[Pending], from: usize, key: Option<(u32, &str)>) -> u32 {
        let (Some(first), Some(last)) = (patterns.first(), patterns.last()) else { return NONE };
        let mut to = from;
        while first.remainder.len() > to && first.step(to) == last.step(to) {
            to += first.step(to).len();
        }
        let at = self.push(first, from..to, key);
        let (here, beyond) = patterns.split_at(patterns.partition_point(|pattern| pattern.remainder.len() == to));
        here.iter().for_each(|pattern| self.end(at, pattern));
        self.nodes[at as usize].leaf = beyond.is_empty();
        let groups = || beyond.chunk_by(|one, two| one.step(to) == two.step(to));
        let literals = groups().filter(|group| !matches!(group[0].step(to), ":/" | "*/")).count();
        for group in groups() {
            match group[0].step(to) {
                ":/" => self.nodes[at as usize].parameter = self.grow(group, to, None),
                "*/" => self.nodes[at as usize].any = self.grow(group, to, None),
                _ if literals == 1 => self.nodes[at as usize].literal = self.grow(group, to, None),
                step => {
                    self.nodes[at as usize].keys = true;
                    let text = format!("/{}", &step[..step.len() - 1]);
                    self.grow(group, to + step.len(), Some((at, &text)));
                }
            }
        }
        at
    }

    /// Adds the node at the end of a stretch of a pattern's remainder.
    fn push(&mut self, pattern: &Pending, stretch: Range<usize>, key: Option<(u32, &str)>) -> u32 {
        let slashes = |text: &str| text.bytes().filter(|byte| *byte == b'/').count();
        let depth = slashes(&pattern.beginning) + slashes(&pattern.remainder[..stretch.end]);
        let depth = u32::try_from(depth).unwrap_or(NONE);
        self.deepest = self.deepest.max(depth);
        let (from, key) = key.unwrap_or((NONE, ""));
        let mut text = key.as_bytes().to_vec();
        for step in pattern.remainder[stretch].split_terminator('/') {
            match step {
                ":" | "*" => text.push(ANY),
                literal => text.extend([b"/", literal.as_bytes()].concat()),
            }
        }
        let at = u32::try_from(self.nodes.len()).unwrap_or(NONE);
        self.nodes.push(Node {
            text: text.into(),
            key: u32::try_from(key.len()).unwrap_or(NONE),
            from,
            at,
            ends: Routes::EMPTY,
            wildcards: Routes::EMPTY,
            literal: NONE,
            parameter: NONE,
            any: NONE,
            depth,
            keys: false,
            leaf: true,
        });
        at
    }

    fn end(&mut self, at: u32, pattern: &Pending) {
        let node = &mut self.nodes[at as usize];
        let routes = if pattern.rest { &mut node.wildcards } else { &mut node.ends };
        routes.push(pattern.route, &mut self.more);
    }
}
