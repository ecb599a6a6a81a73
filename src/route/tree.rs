//! The paths of one host and priority: a hash for exact paths, a radix tree over segments for
//! the rest.
//!
//! Exact patterns outrank all others, so a path that is one needs a single probe. Other patterns
//! share a tree with one node for each distinct prefix of segments. A node with one literal child
//! has a link to it, which takes all segments up to the next node that matters in one comparison;
//! the children of nodes with several lie in one hash table, keyed by parent and text. A walk
//! hands every route whose pattern matches to a visitor, most specific first, and allocates
//! nothing.

use std::hash::Hasher;

use compact_str::CompactString;
use hashbrown::HashTable;
use regex::Regex;
use rustc_hash::FxHasher;

use super::pattern::{PathPattern, Segment};

/// A route of the table, and whether it has no tests beyond host and path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RouteId(u32);

impl RouteId {
    const NONE: Self = Self(u32::MAX);
    const UNCONDITIONAL: u32 = 1 << 31;

    pub(super) fn new(index: usize, unconditional: bool) -> Self {
        let index = u32::try_from(index).unwrap_or(Self::UNCONDITIONAL - 2);
        Self(if unconditional { index | Self::UNCONDITIONAL } else { index })
    }

    pub(super) fn index(self) -> usize {
        (self.0 & !Self::UNCONDITIONAL) as usize
    }

    pub(super) fn is_unconditional(self) -> bool {
        self.0 & Self::UNCONDITIONAL != 0
    }
}

const NONE: u32 = u32::MAX;
const ROOT: u32 = 0;
/// Wildcard prefixes of one path that are remembered without a second walk.
const REMEMBERED: usize = 8;

#[derive(Debug, Default)]
pub(super) struct PathTree {
    exact: HashTable<Exact>,
    nodes: Vec<Node>,
    links: Vec<Link>,
    children: HashTable<u32>,
    regexes: Vec<(Regex, Vec<RouteId>)>,
    /// Routes beyond the first of one pattern.
    more: Vec<Vec<RouteId>>,
}

#[derive(Debug)]
struct Exact {
    path: Box<str>,
    routes: Routes,
}

/// The routes of one pattern; nearly always one.
#[derive(Clone, Copy, Debug)]
struct Routes {
    first: RouteId,
    more: u32,
}

impl Routes {
    const EMPTY: Self = Self { first: RouteId::NONE, more: NONE };

    fn is_empty(self) -> bool {
        self.first == RouteId::NONE
    }

    fn push(&mut self, route: RouteId, lists: &mut Vec<Vec<RouteId>>) {
        if self.is_empty() {
            self.first = route;
            return;
        }
        if self.more == NONE {
            self.more = u32::try_from(lists.len()).unwrap_or(NONE);
            lists.push(Vec::new());
        }
        lists[self.more as usize].push(route);
    }
}

/// One cache line.
#[derive(Debug)]
#[repr(align(64))]
struct Node {
    parent: u32,
    parameter: u32,
    any: u32,
    /// The only literal child, `NONE` for none or several.
    link: u32,
    /// Patterns that end here.
    ends: Routes,
    /// Patterns whose trailing wildcard begins here.
    wildcards: Routes,
    segment: CompactString,
    /// Whether the literal children lie in the hash table.
    branches: bool,
}

impl Node {
    fn new(parent: u32, segment: &str) -> Self {
        let (ends, wildcards) = (Routes::EMPTY, Routes::EMPTY);
        Self {
            parent,
            parameter: NONE,
            any: NONE,
            link: NONE,
            ends,
            wildcards,
            segment: segment.into(),
            branches: false,
        }
    }

    /// Whether nothing but a literal child can follow, and nothing ends here.
    fn is_passage(&self) -> bool {
        self.parameter == NONE && self.any == NONE && self.ends.is_empty() && self.wildcards.is_empty()
    }
}

/// One or more segments that lead from a node to the next that matters.
#[derive(Debug)]
struct Link {
    text: CompactString,
    target: u32,
    segments: u32,
}

/// Where a walk stands: a node, its depth in segments, and where the path's next segment begins;
/// beyond the path's end when there is none.
#[derive(Clone, Copy)]
struct Step {
    at: u32,
    depth: u32,
    next: usize,
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
        let exact = entry.or_insert_with(|| Exact { path: path.into(), routes: Routes::EMPTY }).into_mut();
        exact.routes.push(route, &mut self.more);
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
        let routes = if rest { &mut node.wildcards } else { &mut node.ends };
        routes.push(route, &mut self.more);
    }

    fn push(&mut self, node: Node) -> u32 {
        self.nodes.push(node);
        u32::try_from(self.nodes.len() - 1).unwrap_or(NONE)
    }

    fn literal_child(&mut self, parent: u32, text: &str) -> u32 {
        if let Some(child) = self.child(parent, text.as_bytes()) {
            return child;
        }
        let child = self.push(Node::new(parent, text));
        let nodes = &self.nodes;
        self.children.insert_unique(hash_edge(parent, text.as_bytes()), child, |child| {
            let node = &nodes[*child as usize];
            hash_edge(node.parent, node.segment.as_bytes())
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

    #[inline(always)]
    fn child(&self, parent: u32, text: &[u8]) -> Option<u32> {
        let same = |child: &u32| {
            let node = &self.nodes[*child as usize];
            node.parent == parent && node.segment.as_bytes() == text
        };
        self.children.find(hash_edge(parent, text), same).copied()
    }

    /// Links nodes to their only literal child. Called once, after the last route.
    pub(super) fn finish(&mut self) {
        let mut only = vec![NONE; self.nodes.len()];
        for child in &self.children {
            let parent = self.nodes[*child as usize].parent as usize;
            let first = only[parent] == NONE && !self.nodes[parent].branches;
            only[parent] = if first { *child } else { NONE };
            self.nodes[parent].branches |= !first;
        }
        for at in 0..self.nodes.len() {
            if only[at] != NONE {
                self.nodes[at].link = u32::try_from(self.links.len()).unwrap_or(NONE);
                let link = self.link(&only, only[at]);
                self.links.push(link);
            }
        }
    }

    /// The way from a node's only child on to the next node that matters.
    fn link(&self, only: &[u32], mut target: u32) -> Link {
        let mut text = self.nodes[target as usize].segment.clone();
        let mut segments = 1;
        while self.nodes[target as usize].is_passage() && only[target as usize] != NONE {
            target = only[target as usize];
            text.push('/');
            text.push_str(&self.nodes[target as usize].segment);
            segments += 1;
        }
        Link { text, target, segments }
    }

    /// Hands the routes whose pattern matches to `visit`, most specific first, until it returns
    /// true. Returns whether it did.
    pub(super) fn walk(&self, path: &str, visit: &mut impl FnMut(RouteId) -> bool) -> bool {
        if !self.exact.is_empty()
            && let Some(exact) = self.exact.find(hash_path(path), |known| *known.path == *path)
            && self.visit(exact.routes, visit)
        {
            return true;
        }
        if self.nodes.is_empty() && self.regexes.is_empty() {
            return false;
        }
        let mut met = Met { nodes: [(0, 0); REMEMBERED], count: 0 };
        let start = Step { at: ROOT, depth: 0, next: 1 };
        if !self.nodes.is_empty() && self.descend(path.as_bytes(), start, &mut met, visit) {
            return true;
        }
        for (regex, routes) in &self.regexes {
            if regex.is_match(path) && routes.iter().any(|route| visit(*route)) {
                return true;
            }
        }
        met.count > 0 && self.visit_wildcards(path.as_bytes(), &mut met, visit)
    }

    fn visit(&self, routes: Routes, visit: &mut impl FnMut(RouteId) -> bool) -> bool {
        let more = || self.more.get(routes.more as usize).into_iter().flatten().copied();
        !routes.is_empty() && (visit(routes.first) || routes.more != NONE && more().any(visit))
    }

    /// Visits the patterns that end with the path, and remembers trailing wildcards passed.
    fn descend(&self, path: &[u8], mut step: Step, met: &mut Met, visit: &mut impl FnMut(RouteId) -> bool) -> bool {
        loop {
            let node = &self.nodes[step.at as usize];
            if !node.wildcards.is_empty() {
                met.add(step);
            }
            if step.next > path.len() {
                return self.visit(node.ends, visit);
            }
            let literal = self.literal(path, node, step);
            if node.parameter == NONE && node.any == NONE {
                match literal {
                    Some(only) => step = only,
                    None => return false,
                }
                continue;
            }
            if literal.is_some_and(|step| self.descend(path, step, met, visit)) {
                return true;
            }
            let end = segment_end(path, step.next);
            if end == step.next {
                return false;
            }
            let to = |at: u32| Step { at, depth: step.depth + 1, next: end + 1 };
            // The last way on needs no return.
            step = match (node.parameter, node.any) {
                (NONE, any) => to(any),
                (parameter, NONE) => to(parameter),
                (parameter, any) => {
                    if self.descend(path, to(parameter), met, visit) {
                        return true;
                    }
                    to(any)
                }
            };
        }
    }

    /// The way on by a literal segment, or by several.
    // Inlined: returned through memory, a step costs more than finding it.
    #[inline(always)]
    fn literal(&self, path: &[u8], node: &Node, step: Step) -> Option<Step> {
        if node.link != NONE {
            let link = &self.links[node.link as usize];
            let text = link.text.as_bytes();
            let end = step.next + text.len();
            let follows = path.get(step.next..end)? == text && path.get(end).is_none_or(|byte| *byte == b'/');
            return follows.then_some(Step { at: link.target, depth: step.depth + link.segments, next: end + 1 });
        }
        if !node.branches {
            return None;
        }
        let end = segment_end(path, step.next);
        let at = self.child(step.at, &path[step.next..end])?;
        Some(Step { at, depth: step.depth + 1, next: end + 1 })
    }

    /// Trailing wildcards, deepest first; among equals in the order in which they were met.
    fn visit_wildcards(&self, path: &[u8], met: &mut Met, visit: &mut impl FnMut(RouteId) -> bool) -> bool {
        if met.count > REMEMBERED {
            let start = Step { at: ROOT, depth: 0, next: 1 };
            let depth = path.iter().filter(|byte| **byte == b'/').count();
            let depth = u32::try_from(depth).unwrap_or(NONE);
            return (0..=depth).rev().any(|depth| self.wildcards_at(path, start, depth, visit));
        }
        let nodes = &mut met.nodes[..met.count];
        // A stable insertion sort by depth: few elements, in place.
        for end in 1..nodes.len() {
            let mut at = end;
            while at > 0 && nodes[at - 1].0 < nodes[at].0 {
                nodes.swap(at - 1, at);
                at -= 1;
            }
        }
        nodes.iter().any(|(_, node)| self.visit(self.nodes[*node as usize].wildcards, visit))
    }

    /// Visits the trailing wildcards at exactly this depth.
    fn wildcards_at(&self, path: &[u8], step: Step, depth: u32, visit: &mut impl FnMut(RouteId) -> bool) -> bool {
        let node = &self.nodes[step.at as usize];
        if step.depth >= depth {
            // A link may lead past the depth; nothing between its ends has a wildcard.
            return step.depth == depth && self.visit(node.wildcards, visit);
        }
        if step.next > path.len() {
            return false;
        }
        if self.literal(path, node, step).is_some_and(|step| self.wildcards_at(path, step, depth, visit)) {
            return true;
        }
        let end = segment_end(path, step.next);
        let others = if end == step.next { [NONE, NONE] } else { [node.parameter, node.any] };
        others
            .into_iter()
            .filter(|at| *at != NONE)
            .any(|at| self.wildcards_at(path, Step { at, depth: step.depth + 1, next: end + 1 }, depth, visit))
    }
}

impl Met {
    fn add(&mut self, step: Step) {
        if let Some(free) = self.nodes.get_mut(self.count) {
            *free = (step.depth, step.at);
        }
        self.count += 1;
    }
}

/// Where the segment that begins at `from` ends.
fn segment_end(path: &[u8], from: usize) -> usize {
    memchr::memchr(b'/', &path[from..]).map_or(path.len(), |length| from + length)
}

// The keys are the operator's own, so a client cannot choose colliding ones to insert; a fast
// hash is enough.
fn hash_path(path: &str) -> u64 {
    let mut hasher = FxHasher::default();
    hasher.write(path.as_bytes());
    hasher.finish()
}

fn hash_edge(parent: u32, text: &[u8]) -> u64 {
    let mut hasher = FxHasher::default();
    hasher.write_u32(parent);
    hasher.write(text);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(patterns: &[&str], path: &str) -> Vec<usize> {
        let mut tree = PathTree::default();
        for (id, pattern) in patterns.iter().enumerate() {
            tree.insert(&PathPattern::parse(pattern).unwrap(), RouteId::new(id, false));
        }
        tree.finish();
        let mut seen = Vec::new();
        tree.walk(path, &mut |id| {
            seen.push(id.index());
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
        let mut expected: Vec<usize> = (0..32).collect();
        expected.sort_by_key(|id| PathPattern::parse(patterns[*id]).unwrap().specificity());
        assert_eq!(seen, expected);
    }
}
