//! The paths of one host and priority: hash tables for what is literal, a tree for the rest.
//!
//! Exact patterns outrank all others, so a path that is one needs a single probe. Every other
//! pattern is entered by the literal segments that it begins with: one probe for each slash of the
//! path where such a beginning ends, longest first. What follows a beginning is a tree whose nodes
//! carry a label: all segments, parameters included, up to where patterns part or one of them
//! ends. So most lookups are one probe and one node. Where several literal segments follow a
//! node, each is a key in a hash table again. A walk hands every route whose pattern matches to a
//! visitor, most specific first, and allocates nothing.

mod build;
mod index;
mod walk;

use regex::Regex;

use build::Pending;
use index::Index;

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
/// What beginnings follow; no node has this index.
const START: u32 = u32::MAX - 1;
/// In a label, a slash and a segment that is not empty. No byte of UTF-8.
const ANY: u8 = 0xff;

#[derive(Debug, Default)]
pub(super) struct PathTree {
    exact: Vec<Exact>,
    /// The exact paths.
    paths: Index,
    nodes: Vec<Node>,
    /// The greatest depth of a node.
    deepest: u32,
    /// The nodes whose key is a beginning.
    entries: Index,
    /// The nodes whose key is a segment.
    children: Index,
    /// Bit `n` is set when a beginning of `n` bytes exists.
    beginnings: u64,
    regexes: Vec<(Regex, Vec<RouteId>)>,
    /// Routes beyond the first of one pattern.
    more: Vec<Vec<RouteId>>,
    /// Patterns that are still to become part of the tree.
    pending: Vec<Pending>,
}

/// A pattern that is one path.
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
    /// Key and label, each segment with its slash before it. The key is a beginning, one of
    /// several literal segments that follow the node `from`, or empty. The label is what then
    /// leads here.
    text: Box<[u8]>,
    /// The key's length.
    key: u32,
    /// The node that the key follows, [`START`], or [`NONE`] without a key.
    from: u32,
    /// The index of this node.
    at: u32,
    /// Patterns that end here.
    ends: Routes,
    /// Patterns whose trailing wildcard begins here.
    wildcards: Routes,
    /// The ways on without a key, best first; [`NONE`] where there is none.
    literal: u32,
    parameter: u32,
    any: u32,
    /// Segments from the path's start to here.
    depth: u32,
    /// Whether ways with a key lead on, by literal segments.
    keys: bool,
    /// Whether no way leads on.
    leaf: bool,
}

impl Node {
    fn key(&self) -> &[u8] {
        self.text.get(..self.key as usize).unwrap_or_default()
    }

    fn has_key(&self, key: &[u8]) -> bool {
        self.key as usize == key.len() && self.text.starts_with(key)
    }
}
