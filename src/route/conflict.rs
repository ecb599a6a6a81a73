//! Routes that cannot be told apart, and routes that are never reached.
//!
//! A route is compared with those that a request made for it meets first, so the check is close
//! to linear. It finds every route that one single other route covers; routes that only several
//! others cover together, and regular expressions that differ in text but not in meaning, are not
//! found.

use super::host::HostPattern;
use super::pattern::{PathPattern, Segment};
use super::table::{Definition, RouteTable};

/// More candidates than this before a route are not compared with it.
const MAX_COMPARED: usize = 256;

/// What is wrong with a route, by index in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Conflict {
    /// `second` matches exactly what `first` matches, at the same rank.
    Same {
        /// The earlier in the file.
        first: usize,
        /// The later in the file.
        second: usize,
    },
    /// `route` is never reached, because `by` ranks before it and covers it.
    Unreachable {
        /// The route that is never reached.
        route: usize,
        /// The one that takes its requests.
        by: usize,
        /// A request for `route` that `by` takes, as `http://host/path`.
        witness: Option<String>,
    },
}

/// Finds conflicts, in the order of the file.
#[must_use]
pub fn conflicts<T>(table: &RouteTable<T>) -> Vec<Conflict> {
    let catch_alls: Vec<usize> = (0..table.len()).filter(|index| table.get(*index).is_some_and(is_catch_all)).collect();
    let routes = table.iter().enumerate();
    routes.filter_map(|(index, route)| conflict(table, &catch_alls, index, route)).collect()
}

fn is_catch_all<T>(route: &Definition<T>) -> bool {
    match &route.path {
        PathPattern::Segments { segments, rest } => *rest && segments.is_empty(),
        PathPattern::Regex(_) => true,
    }
}

fn conflict<T>(table: &RouteTable<T>, catch_alls: &[usize], index: usize, route: &Definition<T>) -> Option<Conflict> {
    let mut unreachable = None;
    for host in &route.hosts {
        let by = earlier(table, catch_alls, index, route, host)
            .into_iter()
            .find(|by| table.get(*by).is_some_and(|other| covers(other, route, host)));
        let (by, other) = by.and_then(|by| Some((by, table.get(by)?)))?;
        if same(other, route, host) {
            return Some(Conflict::Same { first: by.min(index), second: by.max(index) });
        }
        let witness = route.path.witness().map(|path| format!("http://{}{path}", host.witness()));
        unreachable.get_or_insert(Conflict::Unreachable { route: index, by, witness });
    }
    unreachable
}

/// The routes that a request for this one meets before it.
fn earlier<T>(
    table: &RouteTable<T>,
    catch_alls: &[usize],
    index: usize,
    route: &Definition<T>,
    host: &HostPattern,
) -> Vec<usize> {
    let Some(path) = route.path.witness() else {
        let before = |other: &usize| {
            let Some(rival) = table.get(*other) else { return false };
            let rank = |route: &Definition<T>, index: usize| {
                (std::cmp::Reverse(route.priority), host.rank(), route.path.specificity(), route.tests.rank(), index)
            };
            *other != index && rank(rival, *other) < rank(route, index)
        };
        return catch_alls.iter().copied().filter(before).collect();
    };
    let mut list = Vec::new();
    table.walk(&host.witness(), &path, &mut |id| {
        let met = id.index();
        if met != index {
            list.push(met);
        }
        met == index || list.len() >= MAX_COMPARED
    });
    list
}

/// Whether `one` takes every request that `two` could take at this host.
fn covers<T>(one: &Definition<T>, two: &Definition<T>, host: &HostPattern) -> bool {
    one.hosts.iter().any(|wider| wider.covers(host)) && one.path.covers(&two.path) && one.tests.covers(&two.tests)
}

fn same<T>(one: &Definition<T>, two: &Definition<T>, host: &HostPattern) -> bool {
    one.priority == two.priority
        && one.hosts.contains(host)
        && same_shape(&one.path, &two.path)
        && two.path.covers(&one.path)
        && two.tests.covers(&one.tests)
        && one.tests.rank() == two.tests.rank()
}

/// Whether two paths have the same kinds of segments, whatever their parameters are called.
fn same_shape(one: &PathPattern, two: &PathPattern) -> bool {
    match (one, two) {
        (PathPattern::Segments { segments: one, .. }, PathPattern::Segments { segments: two, .. }) => {
            let alike = |(one, two): (&Segment, &Segment)| std::mem::discriminant(one) == std::mem::discriminant(two);
            one.len() == two.len() && one.iter().zip(two).all(alike)
        }
        (PathPattern::Regex(_), PathPattern::Regex(_)) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::predicate::{Check, Tests};

    fn route(host: &str, path: &str, priority: i32, methods: &[&str]) -> Definition<()> {
        let methods = methods.iter().map(|method| method.parse().unwrap()).collect();
        Definition {
            hosts: vec![HostPattern::parse(host).unwrap()],
            path: PathPattern::parse(path).unwrap(),
            tests: Tests { methods, ..Tests::default() },
            priority,
            value: (),
        }
    }

    fn found(routes: Vec<Definition<()>>) -> Vec<Conflict> {
        conflicts(&RouteTable::new(routes))
    }

    #[test]
    fn equal_routes_are_the_same_whatever_their_parameters_are_called() {
        let same = vec![Conflict::Same { first: 0, second: 1 }];
        assert_eq!(found(vec![route("*", "/a/:x", 0, &["GET"]), route("*", "/a/:y", 0, &["GET"])]), same);
        assert_eq!(found(vec![route("a.b", "~^/x$", 0, &[]), route("a.b", "~^/x$", 0, &[])]), same);
        assert_eq!(found(vec![route("*", "/a", 0, &["GET"]), route("*", "/a", 0, &["PUT"])]), vec![]);
        assert_eq!(found(vec![route("a.b", "/a", 0, &[]), route("*", "/a", 0, &[])]), vec![]);
    }

    #[test]
    fn a_covered_route_comes_with_a_witness() {
        let witness = |text: &str| Some(text.to_owned());
        let cases = [
            (vec![route("*", "/*", 1, &[]), route("a.b", "/x/:y", 0, &[])], witness("http://a.b/x/anything")),
            (vec![route("*", "/a/:x", 0, &[]), route("*", "/a/*", 0, &[])], None),
            (
                vec![route("*", "/:x/b", 0, &[]), route("*", "/*/b", 0, &["GET"])],
                witness("http://any.example/anything/b"),
            ),
            (
                vec![route("*", "/*/b", 1, &[]), route("*", "/:x/b", 0, &["GET"])],
                witness("http://any.example/anything/b"),
            ),
        ];
        for (routes, expected) in cases {
            let conflicts = found(routes);
            match expected {
                None => assert_eq!(conflicts, vec![]),
                witness => assert_eq!(conflicts, vec![Conflict::Unreachable { route: 1, by: 0, witness }]),
            }
        }
    }

    #[test]
    fn a_stricter_test_first_covers_nothing() {
        let mut strict = route("*", "/a", 0, &[]);
        strict.tests.headers.push(("x-beta".parse().unwrap(), Check::Present));
        assert_eq!(found(vec![strict, route("*", "/a", 0, &[])]), vec![]);
    }
}
