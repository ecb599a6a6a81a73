//! A lookup allocates nothing: counted by the allocator.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(unsafe_code, reason = "an allocator is unsafe to implement")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use http::{HeaderMap, Method};
use pointsman::route::host::Host;
use pointsman::route::normalize::normalize;
use pointsman::route::{Check, Definition, HostPattern, PathPattern, Request, RouteTable, Tests};

struct Counting;

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations<T>(work: impl FnOnce() -> T) -> (usize, T) {
    let before = COUNT.with(Cell::get);
    let value = work();
    (COUNT.with(Cell::get) - before, value)
}

fn route(host: &str, path: &str, tests: Tests, value: usize) -> Definition<usize> {
    Definition {
        hosts: vec![HostPattern::parse(host).unwrap()],
        path: PathPattern::parse(path).unwrap(),
        tests,
        priority: 0,
        value,
    }
}

fn table() -> RouteTable<usize> {
    let mut routes = Vec::new();
    for number in 0..1000 {
        for path in ["/static/page", "/users/:id/posts/:post", "/files/*/*", "/deep/a/b/c/d/*"] {
            routes.push(route("*", &format!("/s{number}{path}"), Tests::default(), routes.len()));
        }
        routes.push(route(&format!("h{number}.example.com"), "/*", Tests::default(), routes.len()));
    }
    let tests = Tests {
        methods: vec![Method::PUT],
        headers: vec![("x-beta".parse().unwrap(), Check::Exact("1".into()))],
        query: vec![("v".into(), Check::Exact("a b".into()))],
        cookies: vec![("sid".into(), Check::Present)],
        clients: vec!["10.0.0.0/8".parse().unwrap()],
    };
    routes.push(route("*.wild.example", "/tested/:x", tests, routes.len()));
    routes.push(route("*", "/*", Tests::default(), routes.len()));
    RouteTable::new(routes)
}

#[test]
fn a_lookup_allocates_nothing() {
    let table = table();
    let mut headers = HeaderMap::new();
    headers.insert("x-beta", "1".parse().unwrap());
    headers.insert("cookie", "a=1; sid=2".parse().unwrap());
    let (control, _) = allocations(|| Box::new(1));
    assert!(control > 0, "the allocator does not count");
    let cases = [
        ("/s7/static/page", "any"),
        ("/s999/users/1/posts/2", "any"),
        ("/s5/files/x/y/z/a/b/c", "any"),
        ("/s5/deep/a/b/c/d", "any"),
        ("/", "H7.Example.com:8080"),
        ("/tested/1", "a.b.wild.example"),
        ("/nowhere/at/all/in/this/table/of/routes", "any"),
    ];
    for (path, authority) in cases {
        let (count, found) = allocations(|| {
            let host = Host::new(authority);
            let path = normalize(path, false).unwrap();
            let request = Request {
                method: &Method::PUT,
                host: host.as_str(),
                path: &path,
                query: Some("w=1&v=a+b"),
                headers: &headers,
                client: "10.1.2.3".parse().ok(),
            };
            table.find(&request).copied()
        });
        assert!(found.is_some(), "{path}");
        assert_eq!(count, 0, "{path} at {authority}");
    }
}
