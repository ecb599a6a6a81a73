//! Which endpoint gets which requests.

use std::time::{Duration, Instant};

use crate::harness::load::Load;
use crate::harness::pool::{condition, configuration, unharmed, until, wait_for};
use crate::harness::{Gateway, Upstream, eventually, free_port, raw};

#[tokio::test]
async fn a_panic_of_one_tier_leaves_a_sound_one_in_charge() {
    let (down, spare) = (free_port(), Upstream::named("spare").await);
    let gateway = Gateway::start(&format!(
        "upstreams: {{ u: {{ endpoints: [\"127.0.0.1:{down}\", {{ address: \"127.0.0.1:{}\", tier: 1 }}], panic_threshold: 50%, health: {{ tcp: true, every: 200ms, fall: 1 }} }} }}\nroutes: [{{ path: /*, retry: {{ attempts: 1 }}, to: u }}]\n",
        spare.port
    ))
    .await;
    until(&gateway, down, "unhealthy").await;
    until(&gateway, spare.port, "healthy").await;
    for _ in 0..20 {
        assert_eq!(gateway.get("/").await.status, 200);
    }
}

#[tokio::test]
async fn a_slow_endpoint_gets_little() {
    for balance in ["ewma", "least_request"] {
        let servers = [Upstream::named("a").await, Upstream::named("b").await, Upstream::named("c").await];
        let ports = servers.each_ref().map(|server| server.port);
        servers.iter().for_each(|server| server.delay(Duration::from_millis(5)));
        servers[0].delay(Duration::from_millis(500));
        let gateway = Gateway::start(&configuration(&ports, &format!(", balance: {balance}"), "")).await;
        let load = Load::start(gateway.port, 12, "/", Duration::ZERO);
        wait_for(&load, 200).await;
        let before = servers.each_ref().map(Upstream::hits);
        tokio::time::sleep(Duration::from_secs(3)).await;
        let after = servers.each_ref().map(Upstream::hits);
        let share = (after[0] - before[0]) as f64 / (0..3).map(|at| after[at] - before[at]).sum::<usize>() as f64;
        assert!(share < 0.2 / 3.0, "{balance}: {share}");
        unharmed(load.stop().await);
    }
}

#[tokio::test]
async fn drain_keeps_sticky_clients_and_takes_no_new_ones() {
    let (a, b) = (Upstream::named("a").await, Upstream::named("b").await);
    let settings = ", sticky: { cookie: sid }, slow_start: 1s";
    let gateway = Gateway::start(&configuration(&[a.port, b.port], settings, "")).await;
    let answer = gateway.get("/").await;
    let home = answer.json()["server"].clone();
    let cookie = answer.header("set-cookie").unwrap().to_owned();
    assert!(cookie.starts_with("sid=") && cookie.ends_with("; Path=/; HttpOnly; SameSite=Lax"), "{cookie}");
    let cookie = format!("Cookie: x=1; {}", cookie.split(';').next().unwrap());
    let port = if home == "a" { a.port } else { b.port };
    let stays = async || {
        for _ in 0..6 {
            let answer = gateway.get_with("/", &[&cookie]).await;
            assert_eq!((&answer.json()["server"], answer.header("set-cookie")), (&home, None));
        }
    };
    stays().await;
    let endpoint = format!("127.0.0.1:{port}");
    assert!(gateway.command(&["upstreams", "drain", "u", &endpoint, "--wait"]).status.success());
    until(&gateway, port, "draining").await;
    stays().await;
    for _ in 0..10 {
        assert_ne!(gateway.get("/").await.json()["server"], home);
    }
    // It survives a reload, also one that changes the upstream.
    gateway.change(&configuration(&[a.port, b.port], ", sticky: { cookie: sid }, slow_start: 2s", ""));
    stays().await;
    assert_eq!(condition(&gateway, port).await, "draining");
    assert!(gateway.command(&["upstreams", "maintenance", "u", &endpoint]).status.success());
    let moved = gateway.get_with("/", &[&cookie]).await;
    assert!(moved.json()["server"] != home && moved.header("set-cookie").is_some());
    assert!(gateway.command(&["upstreams", "ready", "u", &endpoint]).status.success());
    stays().await;
    let unknown = gateway.command(&["upstreams", "drain", "u", "127.0.0.1:1"]);
    assert_eq!(unknown.status.code(), Some(4), "{}", String::from_utf8_lossy(&unknown.stderr));
    let listed = gateway.command(&["upstreams"]);
    assert!(String::from_utf8_lossy(&listed.stdout).contains(&endpoint));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drain_waits_for_what_runs() {
    let server = Upstream::named("a").await;
    server.delay(Duration::from_millis(800));
    let gateway = Gateway::start(&configuration(&[server.port, free_port()], "", "")).await;
    let running = tokio::spawn(raw::get_owned(gateway.port, "/".to_owned()));
    eventually("the request is there", async || (server.most() == 1).then_some(())).await;
    let begin = Instant::now();
    let endpoint = format!("127.0.0.1:{}", server.port);
    let output = tokio::task::block_in_place(|| gateway.command(&["upstreams", "drain", "u", &endpoint, "--wait"]));
    assert!(output.status.success());
    assert!(begin.elapsed() > Duration::from_millis(400), "{:?}", begin.elapsed());
    assert_eq!(running.await.unwrap().unwrap().status, 200);
}

#[tokio::test]
async fn tiers_spill_over_in_proportion() {
    let servers = [Upstream::named("a").await, Upstream::named("b").await, Upstream::named("far").await];
    let [a, b, far] = servers.each_ref().map(|server| server.port);
    let gateway = Gateway::start(&format!(
        "upstreams: {{ u: {{ endpoints: [\"127.0.0.1:{a}\", \"127.0.0.1:{b}\", {{ address: \"127.0.0.1:{far}\", tier: 1 }}], health: {{ http: /, every: 200ms, fall: 1 }} }} }}\nroutes: [{{ path: /*, to: u }}]\n"
    ))
    .await;
    until(&gateway, a, "healthy").await;
    until(&gateway, far, "healthy").await;
    let share = async || {
        let (mut at_far, mut good) = (0, 0);
        for _ in 0..400 {
            let answer = gateway.get("/").await;
            good += usize::from(answer.status == 200);
            at_far += usize::from(answer.status == 200 && answer.json()["server"] == "far");
        }
        assert_eq!(good, 400);
        at_far
    };
    assert_eq!(share().await, 0);
    // Half the tier times 1.4 is 70 %; of 400 draws four standard deviations are 37.
    servers[0].answer(500);
    until(&gateway, a, "unhealthy").await;
    let at_far = share().await;
    assert!(at_far.abs_diff(120) < 37, "{at_far}");
    servers[1].answer(500);
    until(&gateway, b, "unhealthy").await;
    assert_eq!(share().await, 400);
}

#[tokio::test]
async fn below_the_threshold_everything_is_used() {
    let servers = [Upstream::named("a").await, Upstream::named("b").await];
    let ports = servers.each_ref().map(|server| server.port);
    let settings = ", panic_threshold: 60%, health: { http: /healthz, every: 200ms, fall: 1, status: [204] }";
    let gateway = Gateway::start(&configuration(&ports, settings, "")).await;
    until(&gateway, ports[0], "unhealthy").await;
    until(&gateway, ports[1], "unhealthy").await;
    for _ in 0..10 {
        assert_eq!(gateway.get("/").await.status, 200);
    }
    assert_eq!(gateway.api("/v1/upstreams").await[0]["panic"], true);
}

#[tokio::test]
async fn equal_keys_go_to_equal_endpoints() {
    let servers = [Upstream::named("a").await, Upstream::named("b").await, Upstream::named("c").await];
    let ports = servers.each_ref().map(|server| server.port);
    for balance in ["ring_hash", "maglev"] {
        let settings = format!(", balance: {{ {balance}: {{ on: {{ query: user }} }} }}");
        let gateway = Gateway::start(&configuration(&ports, &settings, "")).await;
        let home = async |user: usize| gateway.get(&format!("/?user={user}")).await.json()["server"].to_string();
        let mut homes = Vec::new();
        for user in 0..60 {
            homes.push(home(user).await);
        }
        assert!(["a", "b", "c"].iter().all(|name| homes.contains(&format!("\"{name}\""))), "{homes:?}");
        let endpoint = format!("127.0.0.1:{}", ports[0]);
        gateway.command(&["upstreams", "maintenance", "u", &endpoint]);
        for (user, home_before) in homes.iter().enumerate() {
            let now = home(user).await;
            assert!(now != "\"a\"" && (home_before == "\"a\"" || *home_before == now), "{balance} {user}");
        }
        gateway.command(&["upstreams", "ready", "u", &endpoint]);
        for (user, home_before) in homes.iter().enumerate() {
            assert_eq!(home(user).await, *home_before, "{balance} {user}");
        }
    }
}
