//! Route lookups at 10, 1 000 and 100 000 routes, beside matchit on the same patterns; and how
//! long a table takes to compile.
//!
//! Each lookup takes the next of 1 024 requests spread over the whole table, again and again, so
//! that a large table pays for what its busy part takes of the caches.
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use std::cell::Cell;
use std::hint::black_box;

use divan::Bencher;
use http::{HeaderMap, Method};
use pointsman::route::conflict::conflicts;
use pointsman::route::{Definition, HostPattern, PathPattern, Request, RouteTable, Tests};

const SIZES: [usize; 3] = [10, 1_000, 100_000];
const REQUESTS: usize = 1_024;
/// Lookups of one sample: every request four times.
const LAPS: u32 = 4 * 1_024;

fn main() {
    divan::main();
}

/// A kind of pattern, as ours and as matchit's, and requests for it.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Static,
    Parameters,
    Wildcard,
    Miss,
}

const KINDS: [Kind; 4] = [Kind::Static, Kind::Parameters, Kind::Wildcard, Kind::Miss];

impl Kind {
    fn pattern(self, number: usize) -> (String, String) {
        let (tenant, service) = (number % 317, number);
        match self {
            Self::Static | Self::Miss => {
                let path = format!("/api/v1/tenant{tenant}/service{service}/status");
                (path.clone(), path)
            }
            Self::Parameters => (
                format!("/api/v1/tenant{tenant}/service{service}/:id/items/:item"),
                format!("/api/v1/tenant{tenant}/service{service}/{{id}}/items/{{item}}"),
            ),
            Self::Wildcard => (
                format!("/api/v1/tenant{tenant}/service{service}/*"),
                format!("/api/v1/tenant{tenant}/service{service}/{{*rest}}"),
            ),
        }
    }

    fn request(self, number: usize) -> String {
        let (tenant, service) = (number % 317, number);
        let end = match self {
            Self::Static => "status",
            Self::Parameters => "12345/items/67",
            Self::Wildcard => "some/deep/file.html",
            Self::Miss => "missing",
        };
        format!("/api/v1/tenant{tenant}/service{service}/{end}")
    }

    fn requests(self, size: usize) -> Vec<String> {
        // A step that is prime to the sizes visits the whole table out of order.
        (0..REQUESTS).map(|step| self.request(step * 7_919 % size)).collect()
    }

    fn table(self, size: usize) -> RouteTable<usize> {
        RouteTable::new((0..size).map(|number| definition(&self.pattern(number).0, number)).collect())
    }
}

fn definition(path: &str, value: usize) -> Definition<usize> {
    let path = PathPattern::parse(path).unwrap();
    Definition { hosts: vec![HostPattern::Any], path, tests: Tests::default(), priority: 0, value }
}

fn next(requests: &[String], at: &Cell<usize>) -> usize {
    at.set((at.get() + 1) % requests.len());
    at.get()
}

fn ours(bencher: Bencher<'_, '_>, kind: Kind, size: usize) {
    let table = kind.table(size);
    let (requests, at, headers) = (kind.requests(size), Cell::new(0), HeaderMap::new());
    bencher.bench_local(|| {
        let path = &requests[next(&requests, &at)];
        let request = Request {
            method: &Method::GET,
            host: "api.example.com",
            path,
            query: None,
            headers: &headers,
            client: None,
        };
        black_box(table.find(black_box(&request)))
    });
}

fn theirs(bencher: Bencher<'_, '_>, kind: Kind, size: usize) {
    let mut router = matchit::Router::new();
    for number in 0..size {
        router.insert(kind.pattern(number).1, number).unwrap();
    }
    let (requests, at) = (kind.requests(size), Cell::new(0));
    bencher.bench_local(|| {
        let path = &requests[next(&requests, &at)];
        black_box(look_up(&router, black_box(path)))
    });
}

// Inlined into the benchmark's loop, matchit takes up to twice as long.
#[inline(never)]
fn look_up(router: &matchit::Router<usize>, path: &str) -> Option<usize> {
    router.at(path).ok().map(|found| *found.value)
}

macro_rules! lookups {
    ($($name:ident = $kind:expr;)*) => {
        $(mod $name {
            use super::*;

            #[divan::bench(args = SIZES, sample_size = LAPS)]
            fn matchit(bencher: Bencher<'_, '_>, size: usize) {
                theirs(bencher, $kind, size);
            }

            #[divan::bench(args = SIZES, sample_size = LAPS)]
            fn pointsman(bencher: Bencher<'_, '_>, size: usize) {
                ours(bencher, $kind, size);
            }
        })*
    };
}

lookups! {
    lookup_static = Kind::Static;
    lookup_parameters = Kind::Parameters;
    lookup_wildcard = Kind::Wildcard;
    lookup_miss = Kind::Miss;
}

/// Parsing the patterns of a mixed table, compiling it and checking it for conflicts.
#[divan::bench(args = [1_000, 100_000], sample_count = 5, sample_size = 1)]
fn compile(bencher: Bencher<'_, '_>, size: usize) {
    let patterns: Vec<String> = (0..size).map(|number| KINDS[number % 3].pattern(number).0).collect();
    bencher.bench_local(|| {
        let definitions = patterns.iter().enumerate().map(|(number, path)| definition(path, number)).collect();
        let table = RouteTable::new(definitions);
        assert!(conflicts(&table).is_empty());
        table
    });
}
