//! All routes, compiled for lookup.

use std::borrow::Borrow;
use std::hash::{Hash, Hasher};

use hashbrown::HashTable;
use rustc_hash::FxHasher;

use super::host::HostPattern;
use super::pattern::{PathPattern, Specificity};
use super::predicate::{Request, Tests};
use super::tree::{PathTree, RouteId};

/// A route before it is compiled.
#[derive(Clone, Debug)]
pub struct Definition<T> {
    /// The hosts, any of which matches; never empty.
    pub hosts: Vec<HostPattern>,
    /// The paths.
    pub path: PathPattern,
    /// The other tests.
    pub tests: Tests,
    /// Outranks specificity; higher goes first.
    pub priority: i32,
    /// What the route leads to.
    pub value: T,
}

/// Routes compiled for lookup without allocation.
#[derive(Debug)]
pub struct RouteTable<T> {
    routes: Vec<Definition<T>>,
    /// The routes' values once more, close together.
    values: Vec<T>,
    tiers: Vec<Tier>,
}

/// The routes of one priority.
#[derive(Debug)]
struct Tier {
    priority: i32,
    exact: HashTable<(Box<str>, PathTree)>,
    wildcards: HashTable<(Box<str>, PathTree)>,
    any: PathTree,
}

/// The rank of one host of a route; less goes first. The whole order of the table.
type Rank = (
    std::cmp::Reverse<i32>,
    (u8, std::cmp::Reverse<usize>),
    Specificity,
    (bool, std::cmp::Reverse<usize>, bool),
    usize,
);

impl<T: Clone> Default for RouteTable<T> {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

impl<T: Clone> RouteTable<T> {
    /// Compiles routes given in the order of the file.
    #[must_use]
    pub fn new(routes: Vec<Definition<T>>) -> Self {
        let values = routes.iter().map(|route| route.value.clone()).collect();
        let mut table = Self { routes, values, tiers: Vec::new() };
        // Within one pattern the order of insertion is the order of the walk.
        let mut order: Vec<usize> = (0..table.routes.len()).collect();
        order.sort_by_cached_key(|index| {
            let route = &table.routes[*index];
            let regex = matches!(route.path, PathPattern::Regex(_)).then(|| route.path.specificity());
            (std::cmp::Reverse(route.priority), regex, route.tests.rank(), *index)
        });
        for index in order {
            let route = &table.routes[index];
            if table.tiers.last().is_none_or(|tier| tier.priority != route.priority) {
                table.tiers.push(Tier::new(route.priority));
            }
            let id = RouteId::new(index, route.tests.is_empty());
            if let Some(tier) = table.tiers.last_mut() {
                route.hosts.iter().for_each(|host| tier.paths_of(host).insert(&route.path, id));
            }
        }
        table.tiers.iter_mut().for_each(Tier::finish);
        table
    }
}

impl<T> RouteTable<T> {
    /// The best route for a request.
    #[must_use]
    pub fn find(&self, request: &Request<'_>) -> Option<&T> {
        let mut found = usize::MAX;
        self.walk(request.host, request.path, &mut |id| {
            let passes = id.is_unconditional() || self.routes[id.index()].tests.pass(request);
            if passes {
                found = id.index();
            }
            passes
        });
        self.values.get(found)
    }

    /// The route at an index of the file's order.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&Definition<T>> {
        self.routes.get(index)
    }

    /// All routes in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = &Definition<T>> {
        self.routes.iter()
    }

    /// How many routes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.routes.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    /// Every host of every route in true match order, as indices of the file's order.
    #[must_use]
    pub fn ranked(&self) -> Vec<(usize, &HostPattern)> {
        let entries =
            self.routes.iter().enumerate().flat_map(|(index, route)| route.hosts.iter().map(move |host| (index, host)));
        let mut list: Vec<_> = entries.collect();
        list.sort_by_cached_key(|(index, host)| self.rank(*index, host));
        list
    }

    fn rank(&self, index: usize, host: &HostPattern) -> Rank {
        let route = &self.routes[index];
        (std::cmp::Reverse(route.priority), host.rank(), route.path.specificity(), route.tests.rank(), index)
    }

    /// Hands every route whose host and path match to `visit`, in order, until it returns true.
    pub(super) fn walk(&self, host: &str, path: &str, visit: &mut impl FnMut(RouteId) -> bool) {
        let _ = self.tiers.iter().any(|tier| tier.walk(host, path, visit));
    }
}

impl Tier {
    fn new(priority: i32) -> Self {
        Self { priority, exact: HashTable::new(), wildcards: HashTable::new(), any: PathTree::default() }
    }

    fn finish(&mut self) {
        let hosts = self.exact.iter_mut().chain(self.wildcards.iter_mut());
        hosts.for_each(|(_, paths)| paths.finish());
        self.any.finish();
    }

    fn paths_of(&mut self, host: &HostPattern) -> &mut PathTree {
        match host {
            HostPattern::Any => &mut self.any,
            HostPattern::Exact(name) => entry(&mut self.exact, name),
            HostPattern::Wildcard(suffix) => entry(&mut self.wildcards, suffix),
        }
    }

    #[inline(always)]
    fn walk(&self, host: &str, path: &str, visit: &mut impl FnMut(RouteId) -> bool) -> bool {
        let named = !self.exact.is_empty() || !self.wildcards.is_empty();
        named && self.walk_named(host, path, visit) || self.any.walk(path, visit)
    }

    /// The routes that name hosts: the exact name, then suffixes from the longest to the shortest.
    // Apart, so that tables without them do not pay for it.
    #[inline(never)]
    fn walk_named(&self, host: &str, path: &str, visit: &mut impl FnMut(RouteId) -> bool) -> bool {
        let dots = host.bytes().enumerate().skip(1).filter(|(_, byte)| *byte == b'.');
        let suffixes = dots.filter_map(|(at, _)| lookup(&self.wildcards, &host[at..]));
        lookup(&self.exact, host).into_iter().chain(suffixes).any(|paths| paths.walk(path, visit))
    }
}

fn hash(text: &str) -> u64 {
    let mut hasher = FxHasher::default();
    text.hash(&mut hasher);
    hasher.finish()
}

fn entry<'a>(table: &'a mut HashTable<(Box<str>, PathTree)>, key: &str) -> &'a mut PathTree {
    let found = table.entry(hash(key), |(known, _)| **known == *key, |(known, _)| hash(known));
    &mut found.or_insert_with(|| (key.into(), PathTree::default())).into_mut().1
}

fn lookup<'a>(table: &'a HashTable<(Box<str>, PathTree)>, key: &str) -> Option<&'a PathTree> {
    if table.is_empty() {
        return None;
    }
    table.find(hash(key), |(known, _)| <Box<str> as Borrow<str>>::borrow(known) == key).map(|(_, paths)| paths)
}
