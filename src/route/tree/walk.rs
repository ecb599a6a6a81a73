//! The walk over a tree: every route whose pattern matches a path, most specific first.

use super::{LONGEST_BEGINNING, NONE, Node, PathTree, RouteId, Routes, hash_path};

/// Wildcard prefixes of one path that are remembered without a second walk.
const REMEMBERED: usize = 8;

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
    /// Hands the routes whose pattern matches to `visit`, most specific first, until it returns
    /// true. Returns whether it did.
    pub(in crate::route) fn walk(&self, path: &str, visit: &mut impl FnMut(RouteId) -> bool) -> bool {
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
