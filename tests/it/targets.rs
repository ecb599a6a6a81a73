//! Splits, fallbacks, shifts and mirrors.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::harness::load::Load;
use crate::harness::upstream::{Script, Scripted};
use crate::harness::{Gateway, Upstream, eventually, free_port};

fn url(port: u16) -> String {
    format!("\"http://127.0.0.1:{port}\"")
}

async fn server_of(gateway: &Gateway, headers: &[&str]) -> String {
    gateway.get_with("/", headers).await.json()["server"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_split_is_exact_over_a_cycle() {
    let (a, b) = (Upstream::named("a").await, Upstream::named("b").await);
    let gateway = Gateway::start(&format!(
        "upstreams: {{ a: {}, b: {} }}\nroutes: [{{ name: s, path: /*, to: {{ split: {{ a: 95, b: 5 }} }} }}]\n",
        url(a.port),
        url(b.port)
    ))
    .await;
    for _ in 0..200 {
        assert_eq!(gateway.get("/").await.status, 200);
    }
    assert_eq!((a.hits(), b.hits()), (190, 10));
    for (target, count) in [("a", 190.0), ("b", 10.0)] {
        let series = format!("pointsman_split_selections_total{{route=\"s\",target=\"{target}\"}}");
        assert_eq!(gateway.metric(&series).await, count);
    }
}

#[tokio::test]
async fn a_sticky_split_keeps_equal_keys_together_in_proportion() {
    let (a, b) = (Upstream::named("a").await, Upstream::named("b").await);
    let gateway = Gateway::start(&format!(
        "upstreams: {{ a: {}, b: {} }}\nroutes: [{{ path: /*, to: {{ split: [{{ to: a, weight: 3 }}, {{ to: b, weight: 1 }}], sticky: {{ header: x-user }} }} }}]\n",
        url(a.port),
        url(b.port)
    ))
    .await;
    let mut homes = BTreeMap::new();
    for _ in 0..2 {
        for user in 0..400 {
            let server = server_of(&gateway, &[&format!("x-user: {user}")]).await;
            assert_eq!(*homes.entry(user).or_insert(server.clone()), server, "{user}");
        }
    }
    // 400 draws of 3/4: four standard deviations are 35.
    let at_a = homes.values().filter(|server| *server == "a").count();
    assert!(at_a.abs_diff(300) < 35, "{at_a}");
}

fn fallback(targets: &[String], more: &str) -> String {
    format!("routes: [{{ name: f, path: /*, to: {{ fallback: [{}]{more} }} }}]\n", targets.join(", "))
}

/// Seed 5's testing matrix: 404, 500 and 503 lead on; 401, 403 and other 4xx do not.
#[tokio::test]
async fn fallback_goes_on_for_what_it_names_only() {
    let (first, second) = (Upstream::named("first").await, Upstream::named("second").await);
    let gateway = Gateway::start(&fallback(
        &[url(first.port), url(second.port)],
        ", on: [connect, timeout, 404, 5xx], per_try: 2500ms",
    ))
    .await;
    for (status, server) in [
        (200, "first"),
        (400, "first"),
        (401, "first"),
        (403, "first"),
        (404, "second"),
        (429, "first"),
        (500, "second"),
        (502, "second"),
        (503, "second"),
        (599, "second"),
    ] {
        first.answer(status);
        let answer = gateway.get("/task/api/x?y=1").await;
        let expected = if server == "first" { status } else { 200 };
        assert_eq!(answer.status, expected, "{status}");
        let json = answer.json();
        assert_eq!((json["server"].as_str(), json["target"].as_str()), (Some(server), Some("/task/api/x?y=1")));
        let source = if server == "first" { first.port } else { second.port };
        assert_eq!(answer.header("x-backend-source"), Some(&*format!("http://127.0.0.1:{source}")), "{status}");
        assert_eq!(json["headers"]["x-no-fallback"], "1");
    }
    let names = format!(
        "from=\"http://127.0.0.1:{}\",reason=\"5xx\",route=\"f\",to=\"http://127.0.0.1:{}\"",
        first.port, second.port
    );
    assert_eq!(gateway.metric(&format!("pointsman_upstream_fallbacks_total{{{names}}}")).await, 4.0);
}

#[tokio::test]
async fn when_every_target_fails_the_answer_says_so() {
    let (first, second) = (Upstream::named("first").await, Upstream::named("second").await);
    first.answer(500);
    second.answer(404);
    let gateway = Gateway::start(&fallback(
        &[url(first.port), url(second.port), url(free_port())],
        ", on: [connect, timeout, 404, 5xx]",
    ))
    .await;
    let answer = gateway.get("/").await;
    assert_eq!((answer.status, answer.reason().as_str()), (502, "all_failed"));
    assert_eq!(answer.json()["error"], "All backends failed");
    assert_eq!((first.hits(), second.hits()), (1, 1));
}

#[tokio::test]
async fn a_request_may_ask_for_the_first_target_only() {
    let (first, second) = (Upstream::named("first").await, Upstream::named("second").await);
    first.answer(503);
    let gateway = Gateway::start(&fallback(&[url(first.port), url(second.port)], "")).await;
    assert_eq!(gateway.get_with("/", &["X-No-Fallback: 1"]).await.status, 503);
    assert_eq!((first.hits(), second.hits()), (1, 0));
}

#[tokio::test]
async fn what_a_target_saw_goes_on_for_idempotent_methods_only_unless_told() {
    let (first, second) = (Upstream::named("first").await, Upstream::named("second").await);
    first.answer(503);
    let targets = [url(first.port), url(second.port)];
    let post = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbody";
    let gateway = Gateway::start(&fallback(&targets, "")).await;
    assert_eq!(gateway.send(post).await.status, 503);
    assert_eq!((first.hits(), second.hits()), (1, 0));
    gateway.change(&fallback(&targets, ", methods: any"));
    let answer = gateway.send(post).await;
    assert_eq!((answer.status, answer.json()["body"].as_str()), (200, Some("body")));
    // Nothing was sent to what cannot be reached.
    gateway.change(&fallback(&[url(free_port()), url(second.port)], ""));
    assert_eq!(gateway.send(post).await.json()["server"], "second");
}

/// CONFIG: a silent first provider costs 2.5 s, not more.
#[tokio::test]
async fn a_silent_first_target_costs_its_time_and_no_more() {
    let silent = Scripted::start(Script::Silence).await;
    let second = Upstream::named("second").await;
    let gateway = Gateway::start(&fallback(&[url(silent.port), url(second.port)], ", per_try: 2500ms")).await;
    let begin = Instant::now();
    assert_eq!(server_of(&gateway, &[]).await, "second");
    let took = begin.elapsed();
    assert!(took >= Duration::from_millis(2_490) && took < Duration::from_millis(2_700), "{took:?}");
    assert_eq!(silent.hits(), 1);
}

#[tokio::test]
async fn combinators_nest() {
    let servers = [Upstream::named("a").await, Upstream::named("b").await, Upstream::named("c").await];
    let [a, b, c] = [url(servers[0].port), url(servers[1].port), url(servers[2].port)];
    let gateway = Gateway::start(&format!(
        "routes:\n  - {{ path: /split, to: {{ split: [{{ to: {{ fallback: [{dead}, {a}] }}, weight: 1 }}, {{ to: {b}, weight: 1 }}] }} }}\n  - {{ path: /fallback, to: {{ fallback: [{{ split: {{ {dead}: 1 }} }}, {{ fallback: [{dead2}, {c}] }}] }} }}\n",
        dead = url(free_port()),
        dead2 = url(free_port()),
    ))
    .await;
    let mut seen = Vec::new();
    for _ in 0..4 {
        seen.push(gateway.get("/split").await.json()["server"].as_str().unwrap().to_owned());
    }
    seen.sort();
    assert_eq!(seen, ["a", "a", "b", "b"]);
    assert_eq!(gateway.get("/fallback").await.json()["server"], "c");
}

#[tokio::test]
async fn a_fallback_leaves_what_is_closed_or_full() {
    let (first, second) = (Upstream::named("first").await, Upstream::named("second").await);
    let configuration = |first_settings: &str| {
        format!(
            "upstreams: {{ first: {{ endpoints: [\"127.0.0.1:{}\"], {first_settings} }}, second: {} }}\nroutes: [{{ path: /*, to: {{ fallback: [first, second] }} }}]\n",
            first.port,
            url(second.port)
        )
    };
    first.answer(500);
    let gateway = Gateway::start(&configuration("breaker: { consecutive_failures: 2, open: 60s }")).await;
    for _ in 0..6 {
        assert_eq!(server_of(&gateway, &[]).await, "second");
    }
    assert_eq!(first.hits(), 2, "then the breaker is open");
    first.answer(200);
    first.delay(Duration::from_secs(2));
    let full = Gateway::start(&configuration("limits: { requests: 1 }")).await;
    let running = tokio::spawn(crate::harness::raw::get_owned(full.port, "/".to_owned()));
    eventually("the first target is full", async || (first.hits() == 3).then_some(())).await;
    assert_eq!(server_of(&full, &[]).await, "second");
    assert_eq!(running.await.unwrap().unwrap().json()["server"], "first");
}

#[tokio::test]
async fn a_changed_order_serves_the_next_request() {
    let (first, second) = (Upstream::named("first").await, Upstream::named("second").await);
    let gateway = Gateway::start(&fallback(&[url(first.port), url(second.port)], "")).await;
    assert_eq!(server_of(&gateway, &[]).await, "first");
    gateway.change(&fallback(&[url(second.port), url(first.port)], ""));
    assert_eq!(server_of(&gateway, &[]).await, "second");
}

#[tokio::test]
async fn a_split_goes_on_where_it_was_through_reloads() {
    let (a, b) = (Upstream::named("a").await, Upstream::named("b").await);
    let configuration = |comment: usize| {
        format!(
            "upstreams: {{ a: {}, b: {} }}\nroutes:\n  - {{ path: /*, to: {{ split: {{ a: 9, b: 1 }} }} }}\n  - {{ path: /x{comment}, to: a }}\n",
            url(a.port),
            url(b.port)
        )
    };
    let gateway = Gateway::start(&configuration(0)).await;
    for round in 1..=10 {
        gateway.get("/").await;
        gateway.change(&configuration(round));
    }
    assert_eq!((a.hits(), b.hits()), (9, 1));
}

#[tokio::test]
async fn a_shift_behind_a_fallback_is_guarded_too() {
    let (old, new, spare) =
        (Upstream::named("old").await, Upstream::named("new").await, Upstream::named("spare").await);
    new.answer(500);
    let gateway = Gateway::start(&format!(
        "upstreams: {{ old: {}, new: {} }}\nroutes: [{{ path: /*, to: {{ fallback: [{{ shift: {{ from: old, to: new, steps: [50%], hold: 60s, sticky: {{ header: x-user }}, guard: {{ of_at_least: 20 }} }} }}, {}] }} }}]\n",
        url(old.port),
        url(new.port),
        url(spare.port)
    ))
    .await;
    let mut user = 0;
    eventually("it is rolled back", async || {
        let before = new.hits();
        for _ in 0..20 {
            user += 1;
            assert_eq!(gateway.get_with("/", &[&format!("x-user: {user}")]).await.status, 200);
        }
        (user > 60 && new.hits() == before).then_some(())
    })
    .await;
    assert!(spare.hits() > 0);
}

fn shifting(old: &Upstream, new: &Upstream, guard: &str) -> String {
    format!(
        "upstreams: {{ old: {}, new: {} }}\nroutes: [{{ name: s, path: /*, to: {{ shift: {{ from: old, to: new, steps: [20%, 50%], hold: 2s, sticky: {{ header: x-user }}, guard: {{ of_at_least: 200{guard} }} }} }} }}]\n",
        url(old.port),
        url(new.port)
    )
}

/// Requests of many users, until told to stop.
async fn users(port: u16, stop: tokio::sync::watch::Receiver<bool>) {
    let mut user = 0_u64;
    while !*stop.borrow() {
        let batch = (0..16).map(|_| {
            user += 1;
            let header = format!("x-user: {user}");
            async move { crate::harness::raw::get(port, "/", &[&header]).await.unwrap().status }
        });
        futures_util::future::join_all(batch).await;
    }
}

#[tokio::test]
async fn a_shift_to_a_sound_target_ends_at_all() {
    let (old, new) = (Upstream::named("old").await, Upstream::named("new").await);
    let gateway = Gateway::start(&shifting(&old, &new, "")).await;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let load = tokio::spawn(users(gateway.port, stopped));
    eventually("everything goes to the new target", async || {
        let before = (old.hits(), new.hits());
        tokio::time::sleep(Duration::from_millis(300)).await;
        (old.hits() == before.0 && new.hits() > before.1 + 20).then_some(())
    })
    .await;
    assert_eq!(gateway.metric("pointsman_shift_share{route=\"s\"}").await, 1.0);
    let told = gateway.command(&["explain", "http://localhost/"]);
    assert!(String::from_utf8_lossy(&told.stdout).contains("shift done"), "{told:?}");
    stop.send(true).unwrap();
    load.await.unwrap();
    assert!(old.hits() > 200, "the steps before sent the old target its share: {}", old.hits());
}

#[tokio::test]
async fn a_shift_to_a_failing_target_is_rolled_back_before_the_next_step() {
    let (old, new) = (Upstream::named("old").await, Upstream::named("new").await);
    new.fail(3, 500);
    let gateway = Gateway::start(&shifting(&old, &new, "")).await;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let load = tokio::spawn(users(gateway.port, stopped));
    let rolled_back = async || {
        let before = (old.hits(), new.hits());
        tokio::time::sleep(Duration::from_millis(300)).await;
        (new.hits() == before.1 && old.hits() > before.0 + 20).then_some(())
    };
    eventually("everything goes to the old target again", rolled_back).await;
    // A reload goes on with the shift as it stands.
    gateway.change(&format!("{}# changed\n", shifting(&old, &new, "")));
    eventually("it stays so", rolled_back).await;
    stop.send(true).unwrap();
    load.await.unwrap();
    let log = std::fs::read_to_string(gateway.path("stderr.log")).unwrap();
    assert!(log.contains("RolledBack") && !log.contains("shift goes on"), "{log}");
}

#[tokio::test]
async fn a_mirror_gets_copies_and_differences_are_counted() {
    let (primary, shadow) = (Upstream::named("same").await, Upstream::named("same").await);
    let gateway = Gateway::start(&format!(
        "upstreams: {{ p: {}, m: {} }}\nroutes: [{{ path: /*, mirror: {{ to: m, methods: any, max_body: 1KiB, compare: true }}, to: p }}]\n",
        url(primary.port),
        url(shadow.port)
    ))
    .await;
    let series = |outcome: &str| format!("pointsman_upstream_mirrored_total{{outcome=\"{outcome}\",upstream=\"m\"}}");
    let count = async |outcome: &str, expected: f64| {
        eventually(outcome, async || (gateway.metric(&series(outcome)).await >= expected).then_some(())).await;
    };
    assert_eq!(gateway.get("/a?b=1").await.json()["target"], "/a?b=1");
    let post = |body: &str| {
        format!("POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
    };
    assert_eq!(gateway.send(post("hello").as_bytes()).await.json()["body"], "hello");
    count("sent", 2.0).await;
    // The two answers tell of different hosts in their bodies.
    count("other_body", 2.0).await;
    // A chunked body arrives whole too.
    let chunked =
        b"POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    assert_eq!(gateway.send(chunked).await.json()["length"], 3);
    count("sent", 3.0).await;
    assert_eq!(&shadow.last_body()[..], b"abc");
    shadow.answer(500);
    gateway.get("/").await;
    count("other_status", 1.0).await;
    gateway.send(post(&"x".repeat(2_000)).as_bytes()).await;
    count("skipped", 1.0).await;
    assert_eq!((primary.hits(), shadow.hits()), (5, 4));
}

#[tokio::test]
async fn a_silent_mirror_slows_nobody() {
    let primary = Upstream::named("p").await;
    let silent = Scripted::start(Script::Silence).await;
    let gateway = Gateway::start(&format!(
        "upstreams: {{ p: {}, m: {} }}\nroutes: [{{ path: /*, mirror: {{ to: m, at_once: 8 }}, to: p }}]\n",
        url(primary.port),
        url(silent.port)
    ))
    .await;
    let load = Load::start(gateway.port, 8, "/", Duration::ZERO);
    eventually("a thousand requests", async || (load.good() > 1_000).then_some(())).await;
    let mut tally = load.stop().await;
    assert!(tally.bad.is_empty(), "{:?}", tally.bad);
    assert!(tally.p99() < Duration::from_millis(100), "{:?}", tally.p99());
    assert!(silent.hits() <= 8, "{}", silent.hits());
}
