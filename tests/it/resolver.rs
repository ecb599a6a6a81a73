//! Look-ups of names over real sockets.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::harness::dns::{DnsServer, Mode, addresses, alias, service};
use hickory_resolver::proto::rr::{RData, RecordType};
use pointsman::upstream::resolver::{Answer, Failure, MAX_RECORDS, MAX_TTL, MIN_TTL, Resolver, Service};

const SOON: Duration = Duration::from_millis(500);
const IN_TIME: Duration = Duration::from_millis(2200);

async fn server() -> (DnsServer, Resolver) {
    let server = DnsServer::start().await;
    let resolver = Resolver::new(Some(server.addr)).unwrap();
    (server, resolver)
}

fn found<const N: usize>(seconds: u64, records: [&str; N]) -> Result<Answer<IpAddr>, Failure> {
    let records = records.iter().map(|record| record.parse().unwrap()).collect();
    Ok(Answer { records, whole: true, ttl: Duration::from_secs(seconds) })
}

fn srv(priority: u16, weight: u16, port: u16, host: &str) -> Service {
    Service { priority, weight, port, host: host.to_owned() }
}

#[tokio::test]
async fn an_address_comes_with_its_time_to_live() {
    let (server, resolver) = server().await;
    server.set("one.test", 30, addresses(["10.0.0.1"]));
    assert_eq!(resolver.addresses("one.test").await, found(30, ["10.0.0.1"]));
    assert_eq!(resolver.addresses("ONE.test.").await, found(30, ["10.0.0.1"]));
}

#[tokio::test]
async fn both_families_are_found_sorted_and_once() {
    let (server, resolver) = server().await;
    server.set("both.test", 30, addresses(["fd00::2", "10.0.0.9", "fd00::1", "10.0.0.1", "10.0.0.9"]));
    let expected = found(30, ["10.0.0.1", "10.0.0.9", "fd00::1", "fd00::2"]);
    assert_eq!(resolver.addresses("both.test").await, expected);
    assert_eq!(server.queries(), 2);
}

#[tokio::test]
async fn nothing_is_cached() {
    let (server, resolver) = server().await;
    server.set("moving.test", 300, addresses(["10.0.0.1"]));
    assert_eq!(resolver.addresses("moving.test").await, found(300, ["10.0.0.1"]));
    server.set("moving.test", 20, addresses(["10.0.0.2"]));
    assert_eq!(resolver.addresses("moving.test").await, found(20, ["10.0.0.2"]));
    server.remove("moving.test");
    assert_eq!(resolver.addresses("moving.test").await, Err(Failure::NoSuchName));
    server.set("moving.test", 20, addresses(["10.0.0.3"]));
    assert_eq!(resolver.addresses("moving.test").await, found(20, ["10.0.0.3"]));
    assert_eq!(server.queries_for("moving.test"), 8);
}

#[tokio::test]
async fn the_time_to_live_is_kept_in_bounds() {
    let (server, resolver) = server().await;
    server.set("zero.test", 0, addresses(["10.0.0.1"]));
    server.set("long.test", 86_400, addresses(["10.0.0.1"]));
    assert_eq!(resolver.addresses("zero.test").await.unwrap().ttl, MIN_TTL);
    assert_eq!(resolver.addresses("long.test").await.unwrap().ttl, MAX_TTL);
}

#[tokio::test]
async fn an_alias_bounds_the_time_to_live() {
    let (server, resolver) = server().await;
    server.set("alias.test", 7, [alias("middle.test")]);
    server.set("middle.test", 60, [alias("target.test")]);
    server.set("target.test", 60, addresses(["10.0.0.1"]));
    assert_eq!(resolver.addresses("alias.test").await, found(7, ["10.0.0.1"]));
}

#[tokio::test]
async fn an_alias_to_nothing_is_no_such_name() {
    let (server, resolver) = server().await;
    server.set("dangling.test", 7, [alias("gone.test")]);
    assert_eq!(resolver.addresses("dangling.test").await, Err(Failure::NoSuchName));
}

#[tokio::test]
async fn services_are_sorted_and_lose_the_trailing_dot() {
    let (server, resolver) = server().await;
    let records = [service(20, 5, 81, "b.test"), service(10, 9, 80, "B.Test"), service(10, 1, 80, "a.test")];
    server.set("_http._tcp.shop.test", 15, records);
    let answer = resolver.services("_http._tcp.shop.test").await.unwrap();
    assert_eq!(answer.records, [srv(10, 1, 80, "a.test"), srv(10, 9, 80, "b.test"), srv(20, 5, 81, "b.test")]);
    assert_eq!(answer.ttl, Duration::from_secs(15));
}

#[tokio::test]
async fn services_are_found_through_an_alias() {
    let (server, resolver) = server().await;
    server.set("_http._tcp.alias.test", 15, [alias("_http._tcp.middle.test")]);
    server.set("_http._tcp.middle.test", 60, [alias("_http._tcp.shop.test")]);
    server.set("_http._tcp.shop.test", 60, [service(1, 1, 80, "a.test")]);
    let answer = resolver.services("_http._tcp.alias.test").await.unwrap();
    assert_eq!(answer, Answer { records: vec![srv(1, 1, 80, "a.test")], whole: true, ttl: Duration::from_secs(15) });
}

#[tokio::test]
async fn an_alias_of_a_service_to_nothing_is_no_such_name() {
    let (server, resolver) = server().await;
    server.set("_http._tcp.alias.test", 15, [alias("_http._tcp.gone.test")]);
    assert_eq!(resolver.services("_http._tcp.alias.test").await, Err(Failure::NoSuchName));
}

#[tokio::test]
async fn a_service_at_the_root_is_decidedly_not_available() {
    let (server, resolver) = server().await;
    server.set("_http._tcp.closed.test", 15, [service(0, 0, 0, ".")]);
    assert_eq!(resolver.services("_http._tcp.closed.test").await, Err(Failure::NoRecords));
}

#[tokio::test]
async fn failures_are_told_apart() {
    let (server, resolver) = server().await;
    server.set("here.test", 30, addresses(["10.0.0.1"]));
    server.set("bare.test", 30, []);
    assert_eq!(resolver.addresses("bare.test").await, Err(Failure::NoRecords));
    assert_eq!(resolver.services("here.test").await, Err(Failure::NoRecords));
    assert_eq!(resolver.addresses("missing.test").await, Err(Failure::NoSuchName));
    assert_eq!(resolver.services("missing.test").await, Err(Failure::NoSuchName));
    server.fail(Mode::NxDomain);
    assert_eq!(resolver.addresses("here.test").await, Err(Failure::NoSuchName));
    server.fail(Mode::Empty);
    assert_eq!(resolver.addresses("here.test").await, Err(Failure::NoRecords));
    server.fail(Mode::Ok);
    assert_eq!(resolver.addresses("here.test").await, found(30, ["10.0.0.1"]));
}

#[tokio::test]
async fn a_failing_server_is_a_failure_at_once() {
    let (server, resolver) = server().await;
    server.set("here.test", 30, addresses(["10.0.0.1"]));
    for mode in [Mode::ServFail, Mode::Garbage] {
        server.fail(mode);
        let start = Instant::now();
        let failure = resolver.addresses("here.test").await.unwrap_err();
        assert!(matches!(failure, Failure::Failed(_)), "{mode:?}: {failure}");
        assert!(start.elapsed() < SOON, "{mode:?}");
    }
    server.fail(Mode::Ok);
    assert_eq!(resolver.addresses("here.test").await, found(30, ["10.0.0.1"]));
}

#[tokio::test]
async fn a_silent_server_is_a_failure_in_time() {
    let (server, resolver) = server().await;
    server.fail(Mode::Silent);
    let start = Instant::now();
    let (addresses, services) = tokio::join!(resolver.addresses("here.test"), resolver.services("here.test"));
    assert!(matches!(addresses, Err(Failure::Failed(_))));
    assert!(matches!(services, Err(Failure::Failed(_))));
    assert!(start.elapsed() < IN_TIME);
}

#[tokio::test]
async fn a_stopped_server_is_a_failure_in_time() {
    let (server, resolver) = server().await;
    server.set("here.test", 30, addresses(["10.0.0.1"]));
    resolver.addresses("here.test").await.unwrap();
    drop(server);
    let start = Instant::now();
    let failure = resolver.addresses("here.test").await.unwrap_err();
    assert!(matches!(failure, Failure::Failed(_)));
    assert!(start.elapsed() < IN_TIME);
}

#[tokio::test]
async fn one_family_is_enough() {
    let (server, resolver) = server().await;
    server.set("both.test", 30, addresses(["10.0.0.1", "fd00::1"]));
    for mode in [Mode::ServFail, Mode::NxDomain, Mode::Empty, Mode::Garbage, Mode::Silent] {
        server.fail_type(RecordType::A, Mode::Ok);
        server.fail_type(RecordType::AAAA, mode);
        let start = Instant::now();
        let whole = matches!(mode, Mode::NxDomain | Mode::Empty);
        let partly = |answer: Result<Answer<IpAddr>, Failure>| answer.map(|answer| Answer { whole, ..answer });
        assert_eq!(resolver.addresses("both.test").await, partly(found(30, ["10.0.0.1"])), "{mode:?}");
        server.fail_type(RecordType::AAAA, Mode::Ok);
        server.fail_type(RecordType::A, mode);
        assert_eq!(resolver.addresses("both.test").await, partly(found(30, ["fd00::1"])), "{mode:?}");
        assert!(start.elapsed() < 2 * IN_TIME, "{mode:?}");
    }
}

#[tokio::test]
async fn a_failure_outweighs_a_missing_record() {
    let (server, resolver) = server().await;
    server.set("v4.test", 30, addresses(["10.0.0.1"]));
    server.fail_type(RecordType::A, Mode::ServFail);
    assert!(matches!(resolver.addresses("v4.test").await, Err(Failure::Failed(_))));
}

#[tokio::test]
async fn a_long_answer_comes_over_tcp_every_time() {
    let (server, resolver) = server().await;
    server.set("many.test", 30, (0..200).map(|n| RData::from(IpAddr::from([10, 0, 0, n]))));
    for _ in 0..5 {
        let answer = resolver.addresses("many.test").await.unwrap();
        assert_eq!(answer.records.len(), 200);
        assert!(answer.records.is_sorted());
    }
    server.set("few.test", 30, addresses(["10.0.0.1"]));
    assert_eq!(resolver.addresses("few.test").await, found(30, ["10.0.0.1"]));
}

#[tokio::test]
async fn no_answer_is_longer_than_the_limit() {
    let (server, resolver) = server().await;
    server.set("huge.test", 30, (0..300u16).map(|n| RData::from(IpAddr::from([10, 0, (n >> 8) as u8, n as u8]))));
    let answer = resolver.addresses("huge.test").await.unwrap();
    assert_eq!(answer.records.len(), MAX_RECORDS);
    assert_eq!(answer.records.last(), Some(&IpAddr::from([10, 0, 0, 255])));
}

#[tokio::test]
async fn many_lookups_at_once_are_all_answered() {
    let (server, resolver) = server().await;
    let names: Vec<_> = (0..200).map(|n| format!("n{n}.test")).collect();
    for name in &names {
        server.set(name, 30, addresses(["10.0.0.1"]));
    }
    let answers = futures_util::future::join_all(names.iter().map(|name| resolver.addresses(name))).await;
    let failed: Vec<_> = answers.iter().filter(|answer| **answer != found(30, ["10.0.0.1"])).collect();
    assert!(failed.is_empty(), "{} failed: {:?}", failed.len(), failed[0]);
}

#[test]
fn a_resolver_outlives_the_runtime_that_used_it() {
    let first = tokio::runtime::Runtime::new().unwrap();
    let server = first.block_on(DnsServer::start());
    let resolver = Resolver::new(Some(server.addr)).unwrap();
    server.set("here.test", 30, addresses(["10.0.0.1"]));
    let second = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    assert_eq!(second.block_on(resolver.addresses("here.test")), found(30, ["10.0.0.1"]));
    drop(second);
    assert_eq!(first.block_on(resolver.addresses("here.test")), found(30, ["10.0.0.1"]));
}

#[tokio::test]
async fn names_need_not_be_host_names_but_must_be_names() {
    let (server, resolver) = server().await;
    server.set("under_score.test", 30, addresses(["10.0.0.1"]));
    assert_eq!(resolver.addresses("under_score.test").await, found(30, ["10.0.0.1"]));
    let long = "a".repeat(64);
    for name in ["", ".", "a..test", "two words.test", "bücher.test", long.as_str()] {
        let failure = resolver.addresses(name).await;
        assert!(matches!(failure, Err(Failure::Failed(_))), "{name:?}: {failure:?}");
    }
    assert_eq!(server.queries(), 2);
}

#[tokio::test]
async fn an_address_is_its_own_answer() {
    let (server, resolver) = server().await;
    assert_eq!(resolver.addresses("10.0.0.7").await, found(300, ["10.0.0.7"]));
    assert_eq!(resolver.addresses("fd00::7").await, found(300, ["fd00::7"]));
    assert_eq!(server.queries(), 0);
}

#[tokio::test]
async fn localhost_needs_no_server() {
    let (server, asking) = server().await;
    assert_eq!(asking.addresses("localhost").await, found(300, ["127.0.0.1", "::1"]));
    assert_eq!(server.queries(), 0);

    let system = Resolver::new(None).unwrap();
    let answer = system.addresses("localhost").await.unwrap();
    assert!(answer.records.iter().all(IpAddr::is_loopback), "{answer:?}");
}
