//! Reloads under load, and reloads that are refused.

use std::time::{Duration, Instant};

use crate::harness::load::Load;
use crate::harness::{Gateway, Nginx, Upstream, eventually, free_port};

/// A route to nginx that never changes, beside one that each reload adds or removes.
fn configuration(port: u16, dead: u16, number: usize) -> String {
    let extra = if number.is_multiple_of(2) { "" } else { "  - { path: /extra, to: { respond: { body: extra } } }\n" };
    let upstream = if number.is_multiple_of(2) { String::new() } else { "  more: http://127.0.0.1:1\n".to_owned() };
    let used = if number.is_multiple_of(2) { "" } else { "  - { path: /more, to: more }\n" };
    format!(
        "upstreams:\n  main: {{ endpoints: [\"127.0.0.1:{port}\", \"127.0.0.1:{dead}\"], health: {{ tcp: true, every: 1h, fall: 1 }} }}\n{upstream}\
         routes:\n  - {{ name: main, path: /, to: main }}\n{extra}{used}"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn two_hundred_reloads_under_load_fail_nothing() {
    let nginx = Nginx::start().await;
    let dead = free_port();
    let gateway = Gateway::start(&configuration(nginx.port, dead, 0)).await;
    let dead = format!("127.0.0.1:{dead}");
    eventually("the dead endpoint is out", async || {
        gateway.health("main").await.contains(&(dead.clone(), false)).then_some(())
    })
    .await;
    let load = Load::start(gateway.port, 64, "/", Duration::from_millis(12));
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = nginx.closed().await;
    for number in 1..=200 {
        gateway.write(&configuration(nginx.port, 1, number).replace("127.0.0.1:1\"", &format!("{dead}\"")));
        gateway.signal("HUP");
        let generation = (number + 1) as u64;
        eventually("the reload is applied", async || {
            (gateway.api("/v1/status").await["generation"] == generation).then_some(())
        })
        .await;
        assert!(
            gateway.health("main").await.contains(&(dead.clone(), false)),
            "reload {number} forgot an endpoint's health"
        );
    }
    eventually("the load has sent enough", async || (load.good() > 10_000).then_some(())).await;
    let after = nginx.closed().await;
    let mut tally = load.stop().await;
    let p99 = tally.p99();
    println!("{} requests, p99 {p99:?}, nginx saw {} connections end meanwhile", tally.good, after - before - 1);
    assert!(tally.bad.is_empty(), "{:?}", tally.bad);
    assert_eq!(tally.reconnects, 0, "client connections were closed");
    // The one connection is that of the first look at the count.
    assert_eq!(after - before, 1, "upstream connections were closed");
    assert_eq!(gateway.metric(r#"pointsman_config_reloads_total{result="applied"}"#).await as u64, 200);
}

#[tokio::test]
async fn a_refused_file_changes_nothing_and_says_why() {
    let upstream = Upstream::named("a").await;
    let good =
        format!("upstreams:\n  users: http://127.0.0.1:{}\nroutes:\n  - {{ path: /*, to: users }}\n", upstream.port);
    let gateway = Gateway::start(&good).await;
    let whole = std::fs::read_to_string(gateway.path("pointsman.yaml")).unwrap();
    let cases = [
        (whole[..whole.len() - 12].to_owned(), "E0001"),
        (format!("{whole}upstreams: {{}}\n"), "E0003"),
        (whole.replace("to: users", "to: usres"), "E0102"),
        (whole.replace("workers: 2", "workers: 3"), "E0301"),
        (String::new(), "E0108"),
    ];
    for (number, (text, code)) in cases.iter().enumerate() {
        gateway.write_raw(text);
        let output = gateway.reload();
        let shown = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(3), "{code}: {shown}");
        assert!(shown.contains(&format!("error[{code}]")), "{code}: {shown}");
        if !matches!(*code, "E0301" | "E0108") {
            assert!(shown.contains(&format!("{}:", gateway.path("pointsman.yaml").display())), "{code}: {shown}");
        }
        assert_eq!(gateway.get("/").await.json()["server"], "a", "{code}");
        assert_eq!(gateway.metric("pointsman_config_last_reload_successful").await as u64, 0);
        assert_eq!(gateway.metric(r#"pointsman_config_reloads_total{result="refused"}"#).await as usize, number + 1);
        assert_eq!(gateway.metric("pointsman_config_generation").await as u64, 1);
    }
    std::fs::remove_file(gateway.path("pointsman.yaml")).unwrap();
    assert_eq!(gateway.reload().status.code(), Some(3));
    gateway.write_raw(&whole);
    assert!(gateway.reload().status.success());
    assert_eq!(gateway.metric("pointsman_config_last_reload_successful").await as u64, 1);
}

#[tokio::test]
async fn a_reload_prints_what_changed() {
    let gateway = Gateway::start("routes:\n  - { name: a, path: /a, to: { respond: { body: one } } }\n  - { name: b, path: /b, to: { respond: {} } }\n").await;
    gateway.write("routes:\n  - { name: a, path: /a, to: { respond: { body: two } } }\n  - { name: c, path: /c, to: { respond: {} } }\n");
    let output = gateway.reload();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "~ route a\n+ route c\n- route b\n");
    assert_eq!(gateway.get("/a").await.text(), "two");
    assert_eq!(gateway.get("/b").await.status, 404);
    assert_eq!(String::from_utf8(gateway.reload().stdout).unwrap(), "no change\n");
}

#[tokio::test]
async fn a_request_in_flight_finishes_under_its_own_configuration() {
    let slow = crate::harness::upstream::Scripted::start(crate::harness::upstream::Script::Silence).await;
    let body = |timeout: &str, header: &str| {
        format!(
            "upstreams: {{ slow: {{ endpoints: [\"127.0.0.1:{}\"], timeout: {{ response: {timeout} }} }} }}\n\
             routes: [{{ name: {header}, path: /*, to: slow }}]\n",
            slow.port
        )
    };
    let gateway = Gateway::start(&body("900ms", "old")).await;
    let begin = Instant::now();
    let request = tokio::spawn(crate::harness::raw::get_owned(gateway.port, "/".to_owned()));
    tokio::time::sleep(Duration::from_millis(200)).await;
    gateway.change(&body("10s", "new"));
    let answer = request.await.unwrap().unwrap();
    assert_eq!(answer.status, 504);
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    assert_eq!(gateway.log(1).await[0]["route"], "old");
    eventually("the old route's series end", async || {
        (!gateway.metrics().await.contains("route=\"old\"")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_access_log_is_reopened_on_usr1() {
    let gateway = Gateway::start("routes: [{ path: /*, to: { respond: {} } }]\n").await;
    gateway.get("/1").await;
    gateway.log(1).await;
    std::fs::rename(gateway.path("access.log"), gateway.path("access.log.1")).unwrap();
    gateway.signal("USR1");
    eventually("the log is a new file", async || gateway.path("access.log").exists().then_some(())).await;
    gateway.get("/2").await;
    assert_eq!(gateway.log(1).await[0]["target"], "/2");
}

#[tokio::test]
async fn sigterm_lets_running_requests_finish_and_sigquit_does_nothing() {
    let slow = Upstream::named("a").await;
    let mut gateway =
        Gateway::start(&format!("routes: [{{ path: /*, to: \"http://127.0.0.1:{}\" }}]\n", slow.port)).await;
    gateway.signal("QUIT");
    assert_eq!(gateway.get("/").await.status, 200);
    gateway.signal("TERM");
    assert_eq!(gateway.ended().await, Some(0));
}
