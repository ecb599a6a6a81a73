//! The paths of one host and priority: a hash for exact paths, a radix tree over segments for
//! the rest.
//!
//! Exact patterns outrank all others, so a path that is one needs a single probe. The other
//! patterns are entered by the literal segments that they begin with: one probe for each length
//! that such a beginning has, longest first. What follows it is a tree with one node for each
//! distinct segment. A node with one literal child has a link to it, which takes all segments up
//! to the next node that matters in one comparison; the children of nodes with several lie in one
//! hash table, keyed by parent and text. A walk hands every route whose pattern matches to a
//! visitor, most specific first, and allocates nothing.

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
/// A beginning longer than this is entered by its first segments.
const LONGEST_BEGINNING: usize = 15;
/// Wildcard prefixes of one path that are remembered without a second walk.
const REMEMBERED: usize = 8;

#[derive(Debug, Default)]
pub(super) struct PathTree {
    exact: HashTable<Exact>,
    entries: HashTable<Entry>,
    /// Bit `n` is set when a beginning of `n` segments exists.
    lengths: u32,
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

/// The literal segments that patterns begin with, and the node that they lead to.
#[derive(Debug)]
struct Entry {
    beginning: Box<str>,
    node: u32,
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
        let hash = hash_path(path.as_bytes());
        let entry = self.exact.entry(hash, |known| *known.path == *path, |known| hash_path(known.path.as_bytes()));
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
        let literals = segments.iter().take(LONGEST_BEGINNING).map_while(|segment| match segment {
            Segment::Literal(text) => Some(&**text),
            Segment::Parameter(_) | Segment::Any => None,
        });
        let beginning: Vec<&str> = literals.collect();
        let mut at = self.entry(&beginning);
        for segment in &segments[beginning.len()..] {
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

    /// The node that a beginning leads to.
    fn entry(&mut self, segments: &[&str]) -> u32 {
        self.lengths |= 1 << segments.len();
        let beginning: String = segments.iter().map(|segment| format!("/{segment}")).collect();
        let hash = hash_path(beginning.as_bytes());
        if let Some(entry) = self.entries.find(hash, |known| *known.beginning == *beginning) {
            return entry.node;
        }
        let node = self.push(Node::new(NONE, ""));
        let entry = Entry { beginning: beginning.into(), node };
        self.entries.insert_unique(hash, entry, |known| hash_path(known.beginning.as_bytes()));
        node
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
            && let Some(exact) = self.exact.find(hash_path(path.as_bytes()), |known| *known.path == *path)
            && self.visit(exact.routes, visit)
        {
            return true;
        }
        if self.entries.is_empty() && self.regexes.is_empty() {
            return false;
        }
        let path = path.as_bytes();
        let mut met = Met { nodes: [(0, 0); REMEMBERED], count: 0 };
        let ends = Ends::new(path, self.lengths);
        if self.enter(path, &ends).any(|step| self.descend(path, step, &mut met, visit)) {
            return true;
        }
        if !self.regexes.is_empty() && self.visit_regexes(path, visit) {
            return true;
        }
        met.count > 0 && self.visit_wildcards(path, &ends, &mut met, visit)
    }

    /// The nodes that beginnings of the path lead to, longest beginning first.
    #[inline(always)]
    fn enter<'a>(&'a self, path: &'a [u8], ends: &'a Ends) -> impl Iterator<Item = Step> + 'a {
        let mut lengths = self.lengths & ((2 << ends.count) - 1);
        let longest_first = std::iter::from_fn(move || {
            let length = lengths.checked_ilog2()?;
            lengths &= !(1 << length);
            Some(length)
        });
        longest_first.filter_map(move |length| {
            let end = ends.positions[length as usize] as usize;
            let beginning = &path[..end];
            let entry = self.entries.find(hash_path(beginning), |known| known.beginning.as_bytes() == beginning)?;
            Some(Step { at: entry.node, depth: length, next: end + 1 })
        })
    }

    fn visit_regexes(&self, path: &[u8], visit: &mut impl FnMut(RouteId) -> bool) -> bool {
        let path = std::str::from_utf8(path).unwrap_or_default();
        let matching = self.regexes.iter().filter(|(regex, _)| regex.is_match(path));
        matching.flat_map(|(_, routes)| routes).any(|route| visit(*route))
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
    fn visit_wildcards(
        &self,
        path: &[u8],
        ends: &Ends,
        met: &mut Met,
        visit: &mut impl FnMut(RouteId) -> bool,
    ) -> bool {
        if met.count > REMEMBERED {
            let depth = path.iter().filter(|byte| **byte == b'/').count();
            let depth = u32::try_from(depth).unwrap_or(NONE);
            return (0..=depth).rev().any(|depth| {
                let mut starts = self.enter(path, ends).filter(|step| step.depth <= depth);
                starts.any(|start| self.wildcards_at(path, start, depth, visit))
            });
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

/// Where the first segments of a path end; entry 0 is the empty beginning.
struct Ends {
    positions: [u32; LONGEST_BEGINNING + 1],
    count: usize,
}

impl Ends {
    /// Finds as many ends as the longest of `lengths` needs.
    #[inline(always)]
    fn new(path: &[u8], lengths: u32) -> Self {
        let mut ends = Self { positions: [0; LONGEST_BEGINNING + 1], count: 0 };
        let needed = lengths.checked_ilog2().map_or(0, |length| length as usize);
        // Eight bytes at a time; the first slash begins the path and ends nothing.
        for (index, chunk) in path.get(1..).unwrap_or_default().chunks(8).enumerate() {
            let mut slashes = slashes(chunk);
            while slashes != 0 && ends.count < needed {
                ends.count += 1;
                ends.positions[ends.count] = 1 + index as u32 * 8 + slashes.trailing_zeros() / 8;
                slashes &= slashes - 1;
            }
            if ends.count == needed {
                return ends;
            }
        }
        ends.count += 1;
        ends.positions[ends.count] = path.len() as u32;
        ends
    }
}

/// The top bit of every byte that is a slash, in at most eight bytes. Exact for each byte, unlike
/// the shorter test for any zero byte (Warren, Hacker's Delight, section 6-1).
#[inline(always)]
fn slashes(chunk: &[u8]) -> u64 {
    const LOW: u64 = 0x7f7f_7f7f_7f7f_7f7f;
    let word = match chunk.try_into() {
        Ok(bytes) => u64::from_le_bytes(bytes),
        Err(_) => chunk.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)),
    };
    let zero_where_slash = word ^ u64::from_ne_bytes([b'/'; 8]);
    !(((zero_where_slash & LOW) + LOW) | zero_where_slash | LOW)
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
fn hash_path(path: &[u8]) -> u64 {
    let mut hasher = FxHasher::default();
    hasher.write(path);
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
