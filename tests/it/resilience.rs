//! What happens when endpoints misbehave.

use std::time::{Duration, Instant};

use crate::harness::load::Load;
use crate::harness::pool::{condition, configuration, idle, unharmed, until, wait_for};
use crate::harness::upstream::{Script, Scripted};
use crate::harness::{Gateway, Nginx, Upstream, eventually, free_port, raw};

#[tokio::test]
async fn killing_one_of_three_fails_no_get() {
    let servers = [Nginx::start().await, Nginx::start().await, Nginx::start().await];
    let ports = servers.each_ref().map(|server| server.port);
    let settings =
        ", eject: { consecutive_failures: 3, base: 1s }, health: { http: /healthz, every: 250ms, fall: 1, rise: 1 }";
    let gateway = Gateway::start(&configuration(&ports, settings, "")).await;
    let load = Load::start(gateway.port, 32, "/", Duration::from_millis(5));
    let mut servers = servers.map(Some);
    for round in 0..6 {
        wait_for(&load, 500).await;
        let index = round % 3;
        let port = ports[index];
        servers[index].take().unwrap().kill();
        let begin = Instant::now();
        eventually("it is out", async || (condition(&gateway, port).await != "healthy").then_some(())).await;
        assert!(begin.elapsed() < Duration::from_secs(1), "out after {:?}", begin.elapsed());
        wait_for(&load, 300).await;
        servers[index] = Some(Nginx::at(port).await);
        let begin = Instant::now();
        until(&gateway, port, "healthy").await;
        assert!(begin.elapsed() < Duration::from_secs(2), "back after {:?}", begin.elapsed());
    }
    unharmed(load.stop().await);
}

#[tokio::test]
async fn a_killed_server_never_gets_a_post_twice() {
    let (a, b) = (Scripted::start(Script::Reset).await, Upstream::named("b").await);
    let gateway = Gateway::start(&configuration(&[a.port, b.port], "", "")).await;
    let mut statuses = Vec::new();
    for _ in 0..20 {
        let post = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi";
        statuses.push(gateway.send(post).await.status);
    }
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), b.hits());
    assert_eq!(statuses.iter().filter(|status| **status == 502).count(), a.hits());
    assert_eq!(a.hits() + b.hits(), 20);
}

#[tokio::test]
async fn a_silent_endpoint_costs_its_time_and_is_ejected() {
    let silent = Scripted::start(Script::Silence).await;
    let (b, c) = (Upstream::named("b").await, Upstream::named("c").await);
    let gateway = Gateway::start(&configuration(
        &[silent.port, b.port, c.port],
        ", eject: { consecutive_failures: 3, base: 1s }",
        ", retry: { on: [connect, reset, timeout], per_try: 200ms }",
    ))
    .await;
    let load = Load::start(gateway.port, 16, "/", Duration::from_millis(5));
    until(&gateway, silent.port, "ejected").await;
    let before = silent.hits();
    assert!(before <= 3 + 16, "at most what was under way: {before}");
    wait_for(&load, 100).await;
    // It comes back, is tried, and goes out again.
    eventually("it is tried again", async || (silent.hits() > before).then_some(())).await;
    until(&gateway, silent.port, "ejected").await;
    let mut tally = load.stop().await;
    assert!(tally.bad.is_empty(), "{:?}", tally.bad);
    assert!(tally.times.iter().all(|time| *time < Duration::from_millis(600)), "{:?}", tally.times.iter().max());
    assert!(tally.p99() < Duration::from_millis(300), "{:?}", tally.p99());
}

#[tokio::test]
async fn an_endpoint_that_fails_half_the_time_is_ejected_and_recovers() {
    let servers = [Upstream::named("a").await, Upstream::named("b").await, Upstream::named("c").await];
    let ports = servers.each_ref().map(|server| server.port);
    let settings = ", eject: { consecutive_failures: 1000, failure_ratio: 20%, base: 2s }";
    let gateway = Gateway::start(&configuration(&ports, settings, "")).await;
    servers[0].fail(50, 500);
    let load = Load::start(gateway.port, 8, "/", Duration::from_millis(2));
    until(&gateway, ports[0], "ejected").await;
    assert_eq!(condition(&gateway, ports[1]).await, "healthy");
    servers[0].answer(200);
    until(&gateway, ports[0], "healthy").await;
    let before = servers[0].hits();
    wait_for(&load, 300).await;
    assert!(servers[0].hits() > before + 50, "it gets its share again");
    let tally = load.stop().await;
    assert_eq!(tally.bad.keys().collect::<Vec<_>>(), ["status 500"]);
    assert_eq!(gateway.metric("pointsman_upstream_ejections_total{upstream=\"u\"}").await, 1.0);
}

#[tokio::test]
async fn a_gray_failure_stands_out_from_its_peers() {
    let servers = [Upstream::named("a").await, Upstream::named("b").await, Upstream::named("c").await];
    let ports = servers.each_ref().map(|server| server.port);
    let settings = ", eject: { consecutive_failures: 1000, failure_ratio: 3%, base: 30s }";
    let gateway = Gateway::start(&configuration(&ports, settings, "")).await;
    servers[1].fail(5, 500);
    let load = Load::start(gateway.port, 16, "/", Duration::from_millis(2));
    until(&gateway, ports[1], "ejected").await;
    drop(load.stop().await);
    // Failing all alike, nobody stands out, and never may all be out.
    servers.iter().for_each(|server| server.answer(500));
    let load = Load::start(gateway.port, 16, "/", Duration::from_millis(2));
    tokio::time::sleep(Duration::from_secs(3)).await;
    drop(load.stop().await);
    let out = futures_util::future::join_all(ports.map(|port| condition(&gateway, port))).await;
    assert_eq!(out, ["healthy", "ejected", "healthy"]);
}

#[tokio::test]
async fn at_most_the_given_share_is_ejected_never_the_last() {
    let ports = [free_port(), free_port(), free_port(), free_port()];
    let settings = ", eject: { consecutive_failures: 1, base: 60s, at_most: 50% }";
    let gateway = Gateway::start(&configuration(&ports, settings, "")).await;
    for _ in 0..20 {
        assert_eq!(gateway.get("/").await.status, 502);
    }
    let out = futures_util::future::join_all(ports.map(|port| condition(&gateway, port))).await;
    assert_eq!(out.iter().filter(|condition| *condition == "ejected").count(), 2, "{out:?}");
    let alone = Gateway::start(&configuration(&ports[..1], settings, "")).await;
    for _ in 0..3 {
        assert_eq!(alone.get("/").await.reason(), "connect_failed");
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_never_spliced() {
    let (broken, good) = (Scripted::start(Script::ResetMidAnswer).await, Upstream::named("good").await);
    let retry = ", retry: { attempts: 3, on: [connect, reset, timeout, 5xx], methods: any, budget: 100% }";
    let gateway = Gateway::start(&configuration(&[broken.port, good.port], "", retry)).await;
    let (mut cut, mut whole) = (0, 0);
    for _ in 0..20 {
        match raw::get(gateway.port, "/", &[]).await {
            Ok(answer) => {
                assert_eq!(answer.json()["server"], "good");
                whole += 1;
            }
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof, "{error}");
                cut += 1;
            }
        }
    }
    assert_eq!((cut, whole), (10, 10));
    assert_eq!(good.hits(), 10);
}

#[tokio::test]
async fn a_breaker_opens_probes_and_closes() {
    let server = Upstream::named("a").await;
    let settings = ", breaker: { consecutive_failures: 5, open: 500ms }";
    let gateway = Gateway::start(&configuration(&[server.port], settings, "")).await;
    server.answer(500);
    for _ in 0..5 {
        assert_eq!(gateway.get("/").await.status, 500);
    }
    let begin = Instant::now();
    let answer = gateway.get("/").await;
    assert_eq!((answer.status, answer.reason().as_str()), (503, "circuit_open"));
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert_eq!(gateway.metric("pointsman_upstream_breaker_state{upstream=\"u\"}").await, 1.0);
    assert_eq!(server.hits(), 5);
    // A failed probe doubles the time.
    eventually("a probe", async || (gateway.get("/").await.status == 500).then_some(())).await;
    assert!(begin.elapsed() >= Duration::from_millis(490), "{:?}", begin.elapsed());
    server.answer(200);
    let begin = Instant::now();
    eventually("it closes", async || (gateway.get("/").await.status == 200).then_some(())).await;
    assert!(begin.elapsed() >= Duration::from_millis(900), "{:?}", begin.elapsed());
    assert_eq!(gateway.metric("pointsman_upstream_breaker_state{upstream=\"u\"}").await, 0.0);
    assert_eq!(gateway.get("/").await.status, 200);
}

#[tokio::test]
async fn an_endpoint_with_an_open_breaker_is_passed_over() {
    let (a, b) = (Upstream::named("a").await, Upstream::named("b").await);
    let settings = ", breaker: { per: endpoint, consecutive_failures: 2, open: 60s }";
    let gateway = Gateway::start(&configuration(&[a.port, b.port], settings, "")).await;
    a.answer(500);
    for _ in 0..20 {
        gateway.get("/").await;
    }
    assert_eq!((a.hits(), b.hits()), (2, 18));
    // A reload keeps what is known.
    gateway.change(&configuration(&[a.port, b.port], settings, ", priority: 1"));
    assert_eq!(gateway.get("/").await.status, 200);
    gateway.change(&configuration(&[a.port, b.port], &format!("{settings}, slow_start: 1s"), ""));
    for _ in 0..4 {
        assert_eq!(gateway.get("/").await.status, 200);
    }
    assert_eq!(a.hits(), 2);
}

#[tokio::test]
async fn the_last_usable_endpoint_is_never_ejected() {
    let (a, b) = (Upstream::named("a").await, Upstream::named("b").await);
    let settings = ", eject: { consecutive_failures: 2, base: 60s }";
    let gateway = Gateway::start(&configuration(&[a.port, b.port], settings, "")).await;
    gateway.command(&["upstreams", "maintenance", "u", &format!("127.0.0.1:{}", b.port)]);
    a.answer(500);
    for _ in 0..10 {
        assert_eq!(gateway.get("/").await.status, 500);
    }
    assert_eq!((a.hits(), b.hits()), (10, 0));
}

#[tokio::test]
async fn what_a_reload_takes_away_is_forgotten_and_a_refused_one_changes_nothing() {
    let (a, b) = (Upstream::named("a").await, Upstream::named("b").await);
    let ports = [a.port, b.port];
    let ejecting = ", eject: { consecutive_failures: 2, base: 600s }";
    let gateway = Gateway::start(&configuration(&ports, ejecting, "")).await;
    a.answer(500);
    for _ in 0..6 {
        gateway.get("/").await;
    }
    assert_eq!(condition(&gateway, a.port).await, "ejected");
    gateway.write(&configuration(&ports, "", ", strip_prefix: 7"));
    assert_eq!(gateway.reload().status.code(), Some(3));
    assert_eq!(condition(&gateway, a.port).await, "ejected");
    gateway.change(&configuration(&ports, "", ""));
    a.answer(200);
    let before = a.hits();
    for _ in 0..10 {
        gateway.get("/").await;
    }
    assert_eq!(a.hits(), before + 5);
}

#[tokio::test]
async fn a_queue_never_outlasts_the_request() {
    let server = Upstream::named("a").await;
    server.delay(Duration::from_millis(1_500));
    let settings = ", limits: { requests: 1, queue: 10, queue_timeout: 10s }";
    let gateway = Gateway::start(&configuration(&[server.port], settings, ", timeout: { total: 400ms }")).await;
    let first = tokio::spawn(raw::get_owned(gateway.port, "/".to_owned()));
    eventually("the first is there", async || (server.hits() == 1).then_some(())).await;
    let begin = Instant::now();
    let second = gateway.get("/").await;
    assert!(matches!(second.reason().as_str(), "deadline" | "overloaded"), "{}", second.text());
    assert!(begin.elapsed() < Duration::from_millis(700), "{:?}", begin.elapsed());
    assert_eq!(first.await.unwrap().unwrap().status, 504);
}

#[tokio::test]
async fn an_upgrade_to_a_silent_server_ends_in_time() {
    let silent = Scripted::start(Script::Silence).await;
    let gateway = Gateway::start(&configuration(&[silent.port], ", timeout: { response: 400ms }", "")).await;
    let begin = Instant::now();
    let answer = gateway
        .send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
        .await;
    assert_eq!(answer.reason(), "upstream_timeout");
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn an_endpoint_that_breaks_its_answers_off_is_ejected() {
    let (broken, good) = (Scripted::start(Script::ResetMidAnswer).await, Upstream::named("good").await);
    let settings = ", eject: { consecutive_failures: 3, base: 60s }";
    let gateway = Gateway::start(&configuration(&[broken.port, good.port], settings, "")).await;
    for _ in 0..20 {
        let _ = raw::get(gateway.port, "/", &[]).await;
    }
    assert_eq!(condition(&gateway, broken.port).await, "ejected");
    assert_eq!(broken.hits(), 3);
}

/// Offered load of twice and five times the capacity: what is accepted keeps its time, the rest is
/// refused at once.
#[tokio::test]
async fn overload_is_refused_at_once_and_costs_no_goodput() {
    let server = Upstream::named("a").await;
    server.delay(Duration::from_millis(50));
    server.limit(10);
    // Ten at once for 50 ms each: some 200 a second. At twice that, the oldest of five that wait is
    // replaced after some 25 ms.
    let limits = ", limits: { requests: 10, queue: 5, queue_timeout: 500ms }";
    let gateway = Gateway::start(&configuration(&[server.port], limits, "")).await;
    let alone = Load::start(gateway.port, 10, "/", Duration::ZERO);
    tokio::time::sleep(Duration::from_secs(3)).await;
    let capacity = alone.stop().await.good as f64 / 3.0;
    for factor in [2.0, 5.0] {
        let (good, refused, offered) = offer(gateway.port, factor * capacity, Duration::from_secs(5)).await;
        let goodput = good.len() as f64 / 5.0;
        let (p99, refusal) = (good[good.len() * 99 / 100], refused[refused.len() / 2]);
        println!(
            "capacity {capacity:.0}/s, offered {offered:.0}/s, goodput {goodput:.0}/s, p99 {p99:?}, refused after {refusal:?}"
        );
        assert!(offered > 0.9 * factor * capacity, "offered {offered} of {factor} times {capacity}");
        assert!(goodput >= 0.9 * capacity, "goodput {goodput} of a capacity of {capacity}");
        assert!(p99 < Duration::from_millis(250), "{p99:?}");
        assert!(refusal < Duration::from_millis(50), "{refusal:?}");
    }
    assert!(server.most() <= 10, "{} at once", server.most());
    idle(&gateway).await;
}

/// So many requests a second, each by a client that does not wait for others: the times of those
/// served and of those refused, sorted, and how many a second there really were.
async fn offer(port: u16, rate: f64, span: Duration) -> (Vec<Duration>, Vec<Duration>, f64) {
    let begin = Instant::now();
    let mut requests = Vec::new();
    let mut tick = tokio::time::interval(Duration::from_secs_f64(1.0 / rate));
    while begin.elapsed() < span {
        tick.tick().await;
        requests.push(tokio::spawn(async move {
            let begin = Instant::now();
            let answer = raw::get(port, "/", &[]).await.unwrap();
            let reason = if answer.status == 200 { String::new() } else { answer.reason() };
            (answer.status, reason, begin.elapsed())
        }));
    }
    let offered = requests.len() as f64 / span.as_secs_f64();
    let (mut good, mut refused) = (Vec::new(), Vec::new());
    for request in requests {
        let (status, reason, took) = request.await.unwrap();
        if status == 200 {
            good.push(took);
        } else {
            assert_eq!((status, reason.as_str()), (503, "overloaded"));
            refused.push(took);
        }
    }
    good.sort_unstable();
    refused.sort_unstable();
    (good, refused, offered)
}

#[tokio::test]
async fn a_limit_finds_itself() {
    let server = Upstream::named("a").await;
    server.delay(Duration::from_millis(20));
    server.limit(8);
    let settings = ", limits: { adaptive: { min: 3, max: 200 } }";
    let gateway = Gateway::start(&configuration(&[server.port], settings, "")).await;
    let load = Load::start(gateway.port, 60, "/", Duration::from_millis(5));
    tokio::time::sleep(Duration::from_secs(6)).await;
    let limit = gateway.api("/v1/upstreams").await[0]["limit"].as_u64().unwrap();
    let mut tally = load.stop().await;
    assert!((3..=40).contains(&limit), "{limit}");
    assert_eq!(tally.bad.keys().collect::<Vec<_>>(), ["status 503"]);
    // Sixty at once would wait for 150 ms.
    assert!(tally.p99() < Duration::from_millis(120), "{:?}", tally.p99());
    // Eight at once for 20 ms each are 400 a second.
    assert!(tally.good as f64 > 0.8 * 6.0 * 350.0, "{}", tally.good);
}

#[tokio::test]
async fn places_come_back_from_a_server_that_hangs() {
    let silent = Scripted::start(Script::Silence).await;
    let settings = ", limits: { requests: 4 }, timeout: { response: 300ms }";
    let gateway = Gateway::start(&configuration(&[silent.port], settings, "")).await;
    for _ in 0..3 {
        let all = (0..8).map(|_| raw::get(gateway.port, "/", &[]));
        let answers = futures_util::future::join_all(all).await;
        let mut statuses: Vec<_> = answers.into_iter().map(|answer| answer.unwrap().status).collect();
        statuses.sort_unstable();
        assert_eq!(statuses, [503, 503, 503, 503, 504, 504, 504, 504]);
        idle(&gateway).await;
    }
}

#[tokio::test]
async fn checks_look_at_statuses_headers_and_bodies() {
    let server = Upstream::named("a").await;
    for (check, expected) in [
        ("http: /x, body: '\"x-probe\":\"yes\"', headers: { x-probe: \"yes\" }", "healthy"),
        ("http: /x, body: '\"x-probe\":\"no\"', headers: { x-probe: \"yes\" }", "unhealthy"),
        ("http: /x, status: [200]", "healthy"),
        ("http: /x, status: [204]", "unhealthy"),
        ("grpc: \"\"", "unhealthy"),
    ] {
        let settings = format!(", health: {{ {check}, every: 200ms }}");
        let gateway = Gateway::start(&configuration(&[server.port], &settings, "")).await;
        until(&gateway, server.port, expected).await;
    }
}
