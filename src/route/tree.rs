//! The paths of one host and priority: a hash for exact paths, a radix tree over segments for
//! the rest.
//!
//! Exact patterns outrank all others, so a path that is one needs a single probe. Other patterns
//! share a tree with one node for each distinct prefix of segments; the literal children of all
//! nodes lie in one hash table, keyed by parent and text. A walk hands every route whose pattern
//! matches to a visitor, most specific first, and allocates nothing.

use std::hash::Hasher;

use hashbrown::HashTable;
use regex::Regex;
use rustc_hash::FxHasher;

use super::pattern::{PathPattern, Segment};

/// Index of a route in its table.
pub(super) type RouteId = u32;

const NONE: u32 = u32::MAX;
const ROOT: u32 = 0;
/// Wildcard prefixes of one path that are remembered without a second walk.
const REMEMBERED: usize = 16;

#[derive(Debug, Default)]
pub(super) struct PathTree {
    exact: HashTable<Exact>,
    nodes: Vec<Node>,
    children: HashTable<u32>,
    regexes: Vec<(Regex, Vec<RouteId>)>,
}

#[derive(Debug)]
struct Exact {
    path: Box<str>,
    routes: Vec<RouteId>,
}

#[derive(Debug)]
struct Node {
    parent: u32,
    segment: Box<str>,
    parameter: u32,
    any: u32,
    /// Patterns that end here.
    ends: Vec<RouteId>,
    /// Patterns whose trailing wildcard begins here.
    wildcards: Vec<RouteId>,
}

impl Node {
    fn new(parent: u32, segment: &str) -> Self {
        Self { parent, segment: segment.into(), parameter: NONE, any: NONE, ends: Vec::new(), wildcards: Vec::new() }
    }
}

/// Nodes with trailing wildcards as `(depth, node)`, in the order in which the walk met them.
struct Met {
    nodes: [(u32, u32); REMEMBERED],
    count: usize,
}

impl PathTree {
    /// Adds a route. Routes must come in order of their rank among equal patterns.
    pub(super) fn insert(&mut self, pattern: &PathPattern, route: RouteId) {
        match pattern {
            PathPattern::Regex(regex) => self.insert_regex(regex, route),
            PathPattern::Segments { segments, rest } => match pattern.exact() {
                Some(path) => self.insert_exact(&path, route),
                None => self.insert_segments(segments, *rest, route),
            },
        }
    }

    fn insert_exact(&mut self, path: &str, route: RouteId) {
        let hash = hash_path(path);
        let entry = self.exact.entry(hash, |known| *known.path == *path, |known| hash_path(&known.path));
        entry.or_insert_with(|| Exact { path: path.into(), routes: Vec::new() }).into_mut().routes.push(route);
    }

    fn insert_regex(&mut self, regex: &Regex, route: RouteId) {
        match self.regexes.iter_mut().find(|(known, _)| known.as_str() == regex.as_str()) {
            Some((_, routes)) => routes.push(route),
            None => self.regexes.push((regex.clone(), vec![route])),
        }
    }

    fn insert_segments(&mut self, segments: &[Segment], rest: bool, route: RouteId) {
        if self.nodes.is_empty() {
            self.nodes.push(Node::new(NONE, ""));
        }
        let mut at = ROOT;
        for segment in segments {
            at = match segment {
                Segment::Literal(text) => self.literal_child(at, text),
                Segment::Parameter(_) => self.other_child(at, |node| &mut node.parameter),
                Segment::Any => self.other_child(at, |node| &mut node.any),
            };
        }
        let node = &mut self.nodes[at as usize];
        if rest { node.wildcards.push(route) } else { node.ends.push(route) }
    }

    fn push(&mut self, node: Node) -> u32 {
        self.nodes.push(node);
        u32::try_from(self.nodes.len() - 1).unwrap_or(NONE)
    }

    fn literal_child(&mut self, parent: u32, text: &str) -> u32 {
        if let Some(child) = self.child(parent, text) {
            return child;
        }
        let child = self.push(Node::new(parent, text));
        let nodes = &self.nodes;
        self.children.insert_unique(hash_edge(parent, text), child, |child| {
            let node = &nodes[*child as usize];
            hash_edge(node.parent, &node.segment)
        });
        child
    }

    fn other_child(&mut self, parent: u32, slot: impl Fn(&mut Node) -> &mut u32) -> u32 {
        let known = *slot(&mut self.nodes[parent as usize]);
        if known != NONE {
            return known;
        }
        let child = self.push(Node::new(parent, ""));
        *slot(&mut self.nodes[parent as usize]) = child;
        child
    }

    fn child(&self, parent: u32, text: &str) -> Option<u32> {
        let same = |child: &u32| {
            let node = &self.nodes[*child as usize];
            node.parent == parent && *node.segment == *text
        };
        self.children.find(hash_edge(parent, text), same).copied()
    }

    /// Hands the routes whose pattern matches to `visit`, most specific first, until it returns
    /// true. Returns whether it did.
    pub(super) fn walk(&self, path: &str, visit: &mut impl FnMut(RouteId) -> bool) -> bool {
        if let Some(exact) = self.exact.find(hash_path(path), |known| *known.path == *path)
            && exact.routes.iter().any(|route| visit(*route))
        {
            return true;
        }
        let mut met = Met { nodes: [(0, 0); REMEMBERED], count: 0 };
        let segments = path.get(1..);
        if !self.nodes.is_empty() && self.descend((ROOT, 0), segments, &mut met, visit) {
            return true;
        }
        for (regex, routes) in &self.regexes {
            if regex.is_match(path) && routes.iter().any(|route| visit(*route)) {
                return true;
            }
        }
        self.visit_wildcards(&met, segments, visit)
    }

    /// Visits the patterns that end with the path, and remembers trailing wildcards passed.
    fn descend(
        &self,
        (at, depth): (u32, u32),
        rest: Option<&str>,
        met: &mut Met,
        visit: &mut impl FnMut(RouteId) -> bool,
    ) -> bool {
        let node = &self.nodes[at as usize];
        if !node.wildcards.is_empty() {
            if let Some(free) = met.nodes.get_mut(met.count) {
                *free = (depth, at);
            }
            met.count += 1;
        }
        let Some(rest) = rest else {
            return node.ends.iter().any(|route| visit(*route));
        };
        let (segment, rest) = split(rest);
        if let Some(child) = self.child(at, segment)
            && self.descend((child, depth + 1), rest, met, visit)
        {
            return true;
        }
        let others = if segment.is_empty() { [NONE, NONE] } else { [node.parameter, node.any] };
        others.into_iter().any(|child| child != NONE && self.descend((child, depth + 1), rest, met, visit))
    }

    /// Trailing wildcards, deepest first; among equals in the order in which they were met.
    fn visit_wildcards(&self, met: &Met, segments: Option<&str>, visit: &mut impl FnMut(RouteId) -> bool) -> bool {
        if met.count > REMEMBERED {
            let depth = segments.map_or(0, |rest| rest.split('/').count());
            return (0..=depth).rev().any(|depth| self.wildcards_at((ROOT, depth), segments, visit));
        }
        let mut nodes = met.nodes;
        let nodes = &mut nodes[..met.count];
        // A stable insertion sort by depth: few elements, in place.
        for end in 1..nodes.len() {
            let mut at = end;
            while at > 0 && nodes[at - 1].0 < nodes[at].0 {
                nodes.swap(at - 1, at);
                at -= 1;
            }
        }
        nodes.iter().any(|(_, node)| self.nodes[*node as usize].wildcards.iter().any(|route| visit(*route)))
    }

    /// Visits the trailing wildcards exactly `depth` segments below a node.
    fn wildcards_at(
        &self,
        (at, depth): (u32, usize),
        rest: Option<&str>,
        visit: &mut impl FnMut(RouteId) -> bool,
    ) -> bool {
        let node = &self.nodes[at as usize];
        if depth == 0 {
            return node.wildcards.iter().any(|route| visit(*route));
        }
        let Some((segment, rest)) = rest.map(split) else { return false };
        let literal = self.child(at, segment).unwrap_or(NONE);
        let others = if segment.is_empty() { [literal, NONE, NONE] } else { [literal, node.parameter, node.any] };
        others.into_iter().any(|child| child != NONE && self.wildcards_at((child, depth - 1), rest, visit))
    }
}

fn split(rest: &str) -> (&str, Option<&str>) {
    match rest.as_bytes().iter().position(|byte| *byte == b'/') {
        Some(at) => (&rest[..at], Some(&rest[at + 1..])),
        None => (rest, None),
    }
}

// The keys are the operator's own, so a client cannot choose colliding ones to insert; a fast
// hash is enough.
fn hash_path(path: &str) -> u64 {
    let mut hasher = FxHasher::default();
    hasher.write(path.as_bytes());
    hasher.finish()
}

fn hash_edge(parent: u32, text: &str) -> u64 {
    let mut hasher = FxHasher::default();
    hasher.write_u32(parent);
    hasher.write(text.as_bytes());
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(patterns: &[&str], path: &str) -> Vec<RouteId> {
        let mut tree = PathTree::default();
        for (id, pattern) in patterns.iter().enumerate() {
            tree.insert(&PathPattern::parse(pattern).unwrap(), u32::try_from(id).unwrap());
        }
        let mut seen = Vec::new();
        tree.walk(path, &mut |id| {
            seen.push(id);
            false
        });
        seen
    }

    #[test]
    fn deeper_wildcards_go_first_then_literals() {
        assert_eq!(order(&["/*", "/a/*", "/:x/b/*", "/a/b/*", "/*/b/*"], "/a/b/c"), [3, 2, 4, 1, 0]);
        assert_eq!(order(&["/:x/:y/*", "/*/b/*", "/a/*/*", "/:x/b/*"], "/a/b/c"), [2, 3, 0, 1]);
    }

    #[test]
    fn more_wildcards_than_are_remembered_keep_their_order() {
        let all: Vec<String> = (0..32u32)
            .map(|bits| {
                (0..5)
                    .map(|at| if bits >> at & 1 == 0 { format!("/s{at}") } else { format!("/:p{at}") })
                    .collect::<String>()
                    + "/*"
            })
            .collect();
        let patterns: Vec<&str> = all.iter().map(String::as_str).collect();
        let seen = order(&patterns, "/s0/s1/s2/s3/s4/x");
        let mut expected: Vec<u32> = (0..32).collect();
        expected.sort_by_key(|id| PathPattern::parse(patterns[*id as usize]).unwrap().specificity());
        assert_eq!(seen, expected);
    }
}
