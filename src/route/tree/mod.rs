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

mod walk;

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
