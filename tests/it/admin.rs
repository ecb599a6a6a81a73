//! The admin listener.

use crate::harness::{Gateway, Upstream, eventually, raw};

async fn gateway() -> (Gateway, Upstream) {
    let upstream = Upstream::named("a").await;
    let body = format!(
        "upstreams: {{ users: {{ endpoints: [\"127.0.0.1:{}\"] }} }}\nroutes:\n  - {{ name: users, host: api.example.com, path: /users/*, to: users }}\n  - {{ name: rest, path: /*, to: users }}\n",
        upstream.port
    );
    (Gateway::start(&body).await, upstream)
}

#[tokio::test]
async fn everything_is_shown() {
    let (gateway, upstream) = gateway().await;
    gateway.get("/x").await;
    assert_eq!(raw::get(gateway.admin, "/livez", &[]).await.unwrap().text(), "ok\n");
    assert_eq!(raw::get(gateway.admin, "/readyz", &[]).await.unwrap().status, 200);
    let routes = gateway.api("/v1/routes").await;
    let names: Vec<_> = routes.as_array().unwrap().iter().map(|route| route["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["users", "rest"]);
    let upstreams = gateway.api("/v1/upstreams").await;
    assert_eq!(upstreams[0]["endpoints"][0]["address"], format!("127.0.0.1:{}", upstream.port));
    eventually("the try is counted", async || {
        (gateway.api("/v1/upstreams").await[0]["endpoints"][0]["success"] == 1).then_some(())
    })
    .await;
    let config = gateway.api("/v1/config").await;
    assert_eq!(config["generation"], 1);
    assert_eq!(config["config"]["upstreams"]["users"]["timeout"]["connect"], "2s");
    gateway.reload();
    assert_eq!(gateway.api("/v1/config").await["history"][0]["applied"], true);
    let status = gateway.api("/v1/status").await;
    assert_eq!((status["routes"].as_u64(), status["generation"].as_u64()), (Some(2), Some(2)));
    let explained = gateway.api("/v1/explain?url=http://api.example.com/users/7").await;
    assert_eq!(explained["route"], "users");
    let metrics = gateway.metrics().await;
    for name in [
        "pointsman_build_info",
        "pointsman_http_requests_in_flight",
        "pointsman_connections_open",
        "process_resident_memory_bytes",
    ] {
        assert!(metrics.contains(name), "{name}");
    }
}

#[tokio::test]
async fn hosts_and_pages_from_elsewhere_are_refused() {
    let (gateway, _upstream) = gateway().await;
    for host in ["evil.test", "10.0.0.1", "127.0.0.1.evil.test"] {
        let answer = raw::get(gateway.admin, "/v1/config", &[&format!("Host: {host}")]).await.unwrap();
        assert_eq!(answer.status, 403, "{host}");
    }
    let post = |header: &str| {
        format!("POST /v1/reload HTTP/1.1\r\nHost: localhost\r\n{header}Content-Length: 0\r\nConnection: close\r\n\r\n")
    };
    for header in ["Origin: http://localhost\r\n", "Origin: null\r\n", "Sec-Fetch-Site: cross-site\r\n"] {
        let answer = raw::exchange(gateway.admin, post(header).as_bytes()).await.unwrap();
        assert_eq!(answer.status, 403, "{header}");
    }
    assert_eq!(gateway.metric("pointsman_config_generation").await as u64, 1);
    assert_eq!(raw::exchange(gateway.admin, post("").as_bytes()).await.unwrap().status, 200);
}

#[tokio::test]
async fn bad_questions_get_clear_answers() {
    let (gateway, _upstream) = gateway().await;
    for (path, problem) in [
        ("/v1/explain?url=/users", "no host"),
        ("/v1/explain?url=http://a/%2500", "400 bad_request"),
        ("/v1/explain?uri=http://a/", "unknown parameter `uri`"),
        ("/v1/explain?url=http://a/&method=a%20b", "not a method"),
        ("/v1/explain?url=http://a/&header=x", "not a header"),
    ] {
        let answer = raw::get(gateway.admin, path, &[]).await.unwrap();
        assert_eq!(answer.status, 400, "{path}");
        assert!(answer.text().contains(problem), "{path}: {}", answer.text());
    }
}

#[tokio::test]
async fn labels_never_come_from_requests() {
    let (gateway, _upstream) = gateway().await;
    let series = async || gateway.metrics().await.lines().filter(|line| line.starts_with("pointsman_http")).count();
    gateway.get("/0").await;
    gateway.log(1).await;
    let before = series().await;
    for number in 0..50 {
        gateway.get_with(&format!("/{number}/random"), &[&format!("Host: h{number}.example")]).await;
    }
    gateway.log(51).await;
    assert_eq!(series().await, before);
}
