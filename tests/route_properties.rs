//! The route table against the written rules: ten thousand random tables, each compared with an
//! oracle that tries every route and sorts by the rules; and against matchit where it can express
//! the table.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::cmp::Reverse;

use http::{HeaderMap, Method};
use pointsman::route::{Check, Definition, HostPattern, PathPattern, Request, RouteTable, Tests, Verdict};
use proptest::prelude::*;

/// A route as the oracle knows it: plain text.
#[derive(Clone, Debug)]
struct Written {
    hosts: Vec<&'static str>,
    path: String,
    method: Option<&'static str>,
    headers: Vec<&'static str>,
    query: bool,
    priority: i32,
}

#[derive(Clone, Debug)]
struct Asked {
    host: &'static str,
    path: String,
    method: &'static str,
    headers: Vec<&'static str>,
    query: bool,
}

const REGEXES: [&str; 3] = ["~^/a/[ab]+$", "~^/.*/c$", "~^/[a-c]$"];

fn path() -> impl Strategy<Value = String> {
    let kinds = prop::sample::select(vec!["a", "b", "c", ":", "*"]);
    let segments = (prop::collection::vec(kinds, 0..4), any::<bool>(), prop::bool::weighted(0.1)).prop_map(
        |(kinds, rest, slash)| {
            let named = kinds
                .iter()
                .enumerate()
                .map(|(at, kind)| if *kind == ":" { format!("/:p{at}") } else { format!("/{kind}") });
            let text: String = named.collect();
            match (rest, slash) {
                (true, _) => text + "/*",
                // A last `*` would mean the rest.
                (false, _) if text.ends_with("/*") => text + "/c",
                (false, true) => text + "/",
                (false, false) if text.is_empty() => "/".to_owned(),
                (false, false) => text,
            }
        },
    );
    prop_oneof![8 => segments, 1 => prop::sample::select(REGEXES.to_vec()).prop_map(str::to_owned)]
}

fn written() -> impl Strategy<Value = Written> {
    let hosts = prop::sample::subsequence(vec!["*", "x.test", "*.test", "*.x.test", "a.x.test"], 1..3);
    let method = prop::option::weighted(0.3, prop::sample::select(vec!["GET", "PUT"]));
    let headers = prop::sample::subsequence(vec!["h1", "h2"], 0..2);
    let priority = prop_oneof![6 => Just(0), 1 => -1..2];
    (hosts, path(), method, headers, prop::bool::weighted(0.2), priority).prop_map(
        |(hosts, path, method, headers, query, priority)| Written { hosts, path, method, headers, query, priority },
    )
}

fn asked() -> impl Strategy<Value = Asked> {
    let host = prop::sample::select(vec!["x.test", "a.x.test", "b.x.test", "y.test", "test", "other", "q.a.x.test"]);
    let segments = prop::collection::vec(prop::sample::select(vec!["a", "b", "c", "d"]), 0..5);
    let path = (segments, any::<bool>()).prop_map(|(segments, slash)| {
        let text: String = segments.iter().map(|segment| format!("/{segment}")).collect();
        if slash || text.is_empty() { text + "/" } else { text }
    });
    let method = prop::sample::select(vec!["GET", "PUT", "POST"]);
    (host, path, method, prop::sample::subsequence(vec!["h1", "h2"], 0..3), any::<bool>())
        .prop_map(|(host, path, method, headers, query)| Asked { host, path, method, headers, query })
}

// === the oracle: the rules as they are written, with nothing of the implementation ===

fn host_matches(host: &str, asked: &str) -> bool {
    match host.strip_prefix('*') {
        Some("") => true,
        Some(suffix) => asked.ends_with(suffix) && asked.len() > suffix.len(),
        None => host == asked,
    }
}

fn path_matches(path: &str, asked: &str) -> bool {
    if let Some(regex) = path.strip_prefix('~') {
        return regex::Regex::new(regex).unwrap().is_match(asked);
    }
    let (fixed, rest) = path.strip_suffix("/*").map_or((path, false), |fixed| (fixed, true));
    let fixed: Vec<&str> = fixed.split('/').skip(1).collect();
    let parts: Vec<&str> = asked.split('/').skip(1).collect();
    let enough = if rest { parts.len() >= fixed.len() } else { parts.len() == fixed.len() };
    let fits = |(segment, part): (&&str, &&str)| match *segment {
        "*" => !part.is_empty(),
        segment if segment.starts_with(':') => !part.is_empty(),
        segment => segment == *part,
    };
    enough && fixed.iter().zip(&parts).all(fits)
}

fn tests_pass(route: &Written, asked: &Asked) -> bool {
    route.method.is_none_or(|method| method == asked.method)
        && route.headers.iter().all(|header| asked.headers.contains(header))
        && (!route.query || asked.query)
}

/// Priority; host; path class; segments; kinds; method; tests; file order.
fn rank(route: &Written, host: &str, index: usize) -> impl Ord + use<> {
    let host = match host {
        "*" => (2, Reverse(0)),
        wildcard if wildcard.starts_with('*') => (1, Reverse(wildcard.len())),
        _ => (0, Reverse(0)),
    };
    let fixed = route.path.strip_suffix("/*").unwrap_or(&route.path);
    let kinds: Vec<u8> = fixed
        .split('/')
        .skip(1)
        .map(|segment| if segment == "*" { 2 } else { u8::from(segment.starts_with(':')) })
        .collect();
    let (class, segments, kinds) = if route.path.starts_with('~') {
        (2, route.path.matches('/').count(), Vec::new())
    } else if route.path.ends_with("/*") {
        (3, kinds.len(), kinds)
    } else {
        (u8::from(kinds.iter().any(|kind| *kind > 0)), kinds.len(), kinds)
    };
    let tests = route.headers.len() + usize::from(route.query);
    (Reverse(route.priority), host, (class, Reverse(segments), kinds), route.method.is_none(), Reverse(tests), index)
}

/// Every host of every route whose host and path match, in order.
fn oracle(routes: &[Written], asked: &Asked) -> Vec<usize> {
    let mut list = Vec::new();
    for (index, route) in routes.iter().enumerate().filter(|(_, route)| path_matches(&route.path, &asked.path)) {
        let hosts = route.hosts.iter().filter(|host| host_matches(host, asked.host));
        list.extend(hosts.map(|host| (rank(route, host, index), index)));
    }
    list.sort_by(|one, two| one.0.cmp(&two.0));
    list.into_iter().map(|(_, index)| index).collect()
}

fn table(routes: &[Written]) -> RouteTable<usize> {
    let definitions = routes.iter().enumerate().map(|(value, route)| Definition {
        hosts: route.hosts.iter().map(|host| HostPattern::parse(host).unwrap()).collect(),
        path: PathPattern::parse(&route.path).unwrap(),
        tests: Tests {
            methods: route.method.iter().map(|method| method.parse().unwrap()).collect(),
            headers: route.headers.iter().map(|header| (header.parse().unwrap(), Check::Present)).collect(),
            query: if route.query { vec![("q".into(), Check::Exact("1".into()))] } else { Vec::new() },
            ..Tests::default()
        },
        priority: route.priority,
        value,
    });
    RouteTable::new(definitions.collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_table_follows_the_written_rules(
        routes in prop::collection::vec(written(), 1..14),
        requests in prop::collection::vec(asked(), 4),
    ) {
        let table = table(&routes);
        for asked in &requests {
            let mut headers = HeaderMap::new();
            asked.headers.iter().for_each(|name| drop(headers.insert(*name, "x".parse().unwrap())));
            let method: Method = asked.method.parse().unwrap();
            let query = asked.query.then_some("q=1");
            let request = Request { method: &method, host: asked.host, path: &asked.path, query, headers: &headers, client: None };
            let candidates = oracle(&routes, asked);
            let winner = candidates.iter().copied().find(|index| tests_pass(&routes[*index], asked));
            prop_assert_eq!(table.find(&request).copied(), winner);
            let explained = table.explain(&request);
            let considered: Vec<usize> = explained.iter().map(|one| one.index).collect();
            prop_assert_eq!(considered, candidates);
            let chosen = explained.iter().find(|one| one.verdict == Verdict::Chosen).map(|one| one.index);
            prop_assert_eq!(chosen, winner);
        }
    }

    #[test]
    fn matchit_agrees_where_it_can_express_the_table(
        patterns in prop::collection::vec(prop::collection::vec(prop::sample::select(vec!["a", "b", "c", ":"]), 1..5), 1..12),
        requests in prop::collection::vec(prop::collection::vec(prop::sample::select(vec!["a", "b", "c", "d"]), 1..5), 4),
        catch_all in any::<bool>(),
    ) {
        let mut matchit = matchit::Router::new();
        let mut routes = Vec::new();
        let join = |segments: &[&str], parameter: &dyn Fn(usize) -> String| -> String {
            segments.iter().enumerate().map(|(at, kind)| if *kind == ":" { parameter(at) } else { format!("/{kind}") }).collect()
        };
        for segments in &patterns {
            // Two equal patterns are a conflict to matchit and a mistake to a configuration.
            if matchit.insert(join(segments, &|at| format!("/{{p{at}}}")), routes.len()).is_ok() {
                let path = join(segments, &|at| format!("/:p{at}"));
                routes.push(Written { hosts: vec!["*"], path, method: None, headers: Vec::new(), query: false, priority: 0 });
            }
        }
        // Beside a parameter in the first segment a catch-all is a conflict to matchit.
        if catch_all && matchit.insert("/{*rest}", routes.len()).is_ok() {
            routes.push(Written { hosts: vec!["*"], path: "/*".to_owned(), method: None, headers: Vec::new(), query: false, priority: 0 });
        }
        let table = table(&routes);
        for segments in &requests {
            let path: String = segments.iter().map(|segment| format!("/{segment}")).collect();
            let request = Request { method: &Method::GET, host: "x", path: &path, query: None, headers: &HeaderMap::new(), client: None };
            prop_assert_eq!(table.find(&request).copied(), matchit.at(&path).ok().map(|found| *found.value));
        }
    }
}
