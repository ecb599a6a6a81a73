//! The walk over a tree: every route whose pattern matches a path, most specific first.

use super::index::Key;
use super::{ANY, Exact, Node, PathTree, RouteId, Routes, START};

/// Trailing wildcards that one path passes and that are remembered without a second walk.
const REMEMBERED: usize = 8;

/// A path under way. Positions in it are where a segment ends: at a slash or the path's end.
#[derive(Clone, Copy)]
struct Walk<'a> {
    tree: &'a PathTree,
    path: &'a [u8],
}

/// Nodes with trailing wildcards, in the order in which the walk met them.
#[derive(Default)]
struct Met<'a> {
    nodes: [Option<&'a Node>; REMEMBERED],
    count: usize,
}

impl PathTree {
    /// Hands the routes whose pattern matches to `visit`, most specific first, until it returns
    /// true. Returns whether it did.
    #[inline(always)]
    pub(in crate::route) fn walk(&self, path: &str, visit: &mut impl FnMut(RouteId) -> bool) -> bool {
        if !self.exact.is_empty()
            && let Some(exact) = self.exact(path.as_bytes())
            && self.visit(exact.routes, visit)
        {
            return true;
        }
        !(self.nodes.is_empty() && self.regexes.is_empty()) && self.walk_patterns(path, visit)
    }

    fn walk_patterns(&self, path: &str, visit: &mut impl FnMut(RouteId) -> bool) -> bool {
        let (walk, mut met) = (Walk { tree: self, path: path.as_bytes() }, Met::default());
        let mut beginnings = self.beginnings;
        while let Some((node, at)) = walk.enter(&mut beginnings) {
            if walk.take(node, at, &mut met, visit) {
                return true;
            }
        }
        !self.regexes.is_empty() && self.visit_regexes(path, visit)
            || met.count > 0 && walk.visit_wildcards(&mut met, visit)
    }

    fn visit_regexes(&self, path: &str, visit: &mut impl FnMut(RouteId) -> bool) -> bool {
        let matching = self.regexes.iter().filter(|(regex, _)| regex.is_match(path));
        matching.flat_map(|(_, routes)| routes).any(|route| visit(*route))
    }

    #[inline(always)]
    fn visit(&self, routes: Routes, visit: &mut impl FnMut(RouteId) -> bool) -> bool {
        !routes.is_empty() && (visit(routes.first) || self.visit_more(routes, visit))
    }

    #[cold]
    #[inline(never)]
    fn visit_more(&self, routes: Routes, visit: &mut impl FnMut(RouteId) -> bool) -> bool {
        // There is no list of this number when there are no more.
        self.more.get(routes.more as usize).into_iter().flatten().any(|route| visit(*route))
    }

    // The searches are not inlined: the registers that they take would be the walk's.
    #[inline(never)]
    fn exact(&self, path: &[u8]) -> Option<&Exact> {
        let key = Key { from: START, text: path };
        self.paths.find(&self.exact, key, |exact| exact.path.as_bytes() == path)
    }

    /// The node that a beginning leads to.
    #[inline(never)]
    fn entry(&self, beginning: &[u8]) -> Option<&Node> {
        let key = Key { from: START, text: beginning };
        self.entries.find(&self.nodes, key, |node| node.has_key(beginning))
    }

    /// The node that a segment leads to from another node.
    #[inline(never)]
    fn child(&self, from: u32, segment: &[u8]) -> Option<&Node> {
        let key = Key { from, text: segment };
        self.children.find(&self.nodes, key, |node| node.from == from && node.has_key(segment))
    }
}

impl<'a> Walk<'a> {
    /// The node that the longest beginning among some lengths leads to, and where it ends; takes
    /// the lengths that were tried from the set.
    #[inline(always)]
    fn enter(self, lengths: &mut u64) -> Option<(&'a Node, usize)> {
        while let Some(length) = lengths.checked_ilog2() {
            *lengths &= !(1 << length);
            let length = length as usize;
            if self.path.get(length).is_some_and(|byte| *byte != b'/') {
                continue;
            }
            if let Some(text) = self.path.get(..length)
                && let Some(node) = self.tree.entry(text)
            {
                return Some((node, length));
            }
        }
        None
    }

    /// Takes a way to a node: visits the patterns that end with the path, here or further on, and
    /// remembers trailing wildcards.
    #[inline(always)]
    fn take(self, node: &'a Node, at: usize, met: &mut Met<'a>, visit: &mut impl FnMut(RouteId) -> bool) -> bool {
        let Some(at) = self.follow(node, at) else { return false };
        if !node.wildcards.is_empty() {
            met.add(node);
        }
        if at >= self.path.len() {
            return self.tree.visit(node.ends, visit);
        }
        !node.leaf && self.go_on(node, at, met, visit)
    }

    /// Takes all ways on from a node.
    fn go_on(self, node: &'a Node, at: usize, met: &mut Met<'a>, visit: &mut impl FnMut(RouteId) -> bool) -> bool {
        let keyed = self.keyed_child(node, at);
        keyed.is_some_and(|(child, end)| self.take(child, end, met, visit))
            || self.ways(node).any(|way| self.take(way, at, met, visit))
    }

    /// The node to which the next segment leads as a key, and where it ends.
    #[inline(always)]
    fn keyed_child(self, node: &Node, at: usize) -> Option<(&'a Node, usize)> {
        if !node.keys {
            return None;
        }
        let path = self.path.get(at..)?;
        let end = 1 + segment_length(path.get(1..)?);
        Some((self.tree.child(node.at, path.get(..end)?)?, at + end))
    }

    /// The ways on without a key, best first.
    #[inline(always)]
    fn ways(self, node: &Node) -> impl Iterator<Item = &'a Node> {
        let ways = [node.literal, node.parameter, node.any];
        ways.into_iter().filter_map(move |way| self.tree.nodes.get(way as usize))
    }

    /// Where the path is after a node's label, if it goes on like that.
    #[inline(always)]
    fn follow(self, node: &Node, mut at: usize) -> Option<usize> {
        let mut label = node.text.get(node.key as usize..)?;
        loop {
            let path = self.path.get(at..)?;
            match (label, path) {
                ([], [] | [b'/', ..]) => return Some(at),
                ([ANY, after @ ..], [b'/', segment @ ..]) => {
                    let length = segment_length(segment);
                    if length == 0 {
                        return None;
                    }
                    (label, at) = (after, at + 1 + length);
                }
                _ => {
                    let equal = label.iter().zip(path).take_while(|(one, two)| one == two).count();
                    if equal == 0 {
                        return None;
                    }
                    (label, at) = (label.get(equal..)?, at + equal);
                }
            }
        }
    }

    /// Trailing wildcards, deepest first; among equals in the order in which they were met.
    #[inline(always)]
    fn visit_wildcards(self, met: &mut Met<'a>, visit: &mut impl FnMut(RouteId) -> bool) -> bool {
        let Some(nodes) = met.nodes.get_mut(..met.count) else { return self.visit_many_wildcards(visit) };
        let depth = |node: Option<&Node>| node.map(|node| node.depth);
        // A stable insertion sort by depth: few elements, in place.
        for end in 1..nodes.len() {
            let mut at = end;
            while at > 0 && depth(nodes[at - 1]) < depth(nodes[at]) {
                nodes.swap(at - 1, at);
                at -= 1;
            }
        }
        nodes.iter().flatten().any(|node| self.tree.visit(node.wildcards, visit))
    }

    /// More trailing wildcards than are remembered: one walk for each depth.
    #[cold]
    #[inline(never)]
    fn visit_many_wildcards(self, visit: &mut impl FnMut(RouteId) -> bool) -> bool {
        (0..=self.tree.deepest).rev().any(|depth| {
            let mut beginnings = self.tree.beginnings;
            let mut starts = std::iter::from_fn(|| self.enter(&mut beginnings));
            starts.any(|(node, at)| self.wildcards_at(node, at, depth, visit))
        })
    }

    /// Visits the trailing wildcards at exactly this depth.
    fn wildcards_at(self, node: &Node, at: usize, depth: u32, visit: &mut impl FnMut(RouteId) -> bool) -> bool {
        let Some(at) = self.follow(node, at) else { return false };
        if node.depth >= depth || at >= self.path.len() {
            return node.depth == depth && self.tree.visit(node.wildcards, visit);
        }
        let keyed = self.keyed_child(node, at);
        keyed.is_some_and(|(child, end)| self.wildcards_at(child, end, depth, visit))
            || self.ways(node).any(|way| self.wildcards_at(way, at, depth, visit))
    }
}

impl<'a> Met<'a> {
    #[inline(always)]
    fn add(&mut self, node: &'a Node) {
        if let Some(free) = self.nodes.get_mut(self.count) {
            *free = Some(node);
        }
        self.count += 1;
    }
}

/// How long the segment is that text begins with.
#[inline(always)]
fn segment_length(text: &[u8]) -> usize {
    text.iter().position(|byte| *byte == b'/').unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::pattern::PathPattern;

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
    fn beginnings_and_segments_of_any_length_are_followed() {
        let long = "long".repeat(30);
        let patterns =
            [format!("/{long}/:x"), format!("/a/{long}/b/*"), format!("/:x/{long}/b/*"), format!("/{long}/x")];
        let patterns: Vec<&str> = patterns.iter().map(String::as_str).collect();
        assert_eq!(order(&patterns, &format!("/{long}/x")), [3, 0]);
        assert_eq!(order(&patterns, &format!("/a/{long}/b/c")), [1, 2]);
        assert!(order(&patterns, &format!("/a/{long}/bb")).is_empty());
        assert!(order(&patterns, &format!("/{long}")).is_empty());
    }

    #[test]
    fn empty_segments_are_literal() {
        let patterns = ["/:x/", "/:x/:y", "/:x", "/:x/b/", "/a/*"];
        assert_eq!(order(&patterns, "/a/"), [0, 4]);
        assert_eq!(order(&patterns, "/a/b"), [1, 4]);
        assert_eq!(order(&patterns, "/a/b/"), [3, 4]);
        assert!(order(&patterns, "/").is_empty());
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
