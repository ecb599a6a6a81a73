//! What an upstream sees of a request, and a client of an answer.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;

use crate::harness::{Gateway, Upstream, raw};

async fn echoing(route: &str) -> (Gateway, Upstream) {
    with_listener("", route).await
}

async fn with_listener(listener: &str, route: &str) -> (Gateway, Upstream) {
    let upstream = Upstream::named("echo").await;
    let body = format!(
        "upstreams: {{ echo: {{ endpoints: [\"127.0.0.1:{}\"] }} }}\nroutes: [{{ {route}, to: echo }}]\n",
        upstream.port
    );
    (Gateway::with_listener(listener, &body).await, upstream)
}

#[tokio::test]
async fn forwarding_headers_of_untrusted_peers_are_replaced() {
    let (gateway, _upstream) = echoing("path: /*").await;
    let forged = [
        "Host: shop.example:81",
        "X-Forwarded-For: 6.6.6.6",
        "X-Forwarded-Host: evil.example",
        "X-Forwarded-Proto: https",
        "X-Real-IP: 6.6.6.6",
        "Forwarded: for=6.6.6.6",
        "X-Request-Id: mine",
    ];
    let answer = gateway.get_with("/", &forged).await;
    let seen = &answer.json()["headers"];
    assert_eq!(seen["x-forwarded-for"], "127.0.0.1");
    assert_eq!(seen["x-forwarded-host"], "shop.example:81");
    assert_eq!(seen["x-forwarded-proto"], "http");
    assert_eq!(seen["host"], "shop.example:81");
    assert!(seen["x-real-ip"].is_null() && seen["forwarded"].is_null());
    assert_eq!(seen["x-request-id"].as_str(), answer.header("x-request-id"));
    assert_eq!(answer.header("x-request-id").unwrap().len(), 36);
}

#[tokio::test]
async fn forwarding_headers_of_trusted_proxies_are_added_to() {
    let (gateway, _upstream) = with_listener("trusted_proxies: [127.0.0.0/8]", "path: /*").await;
    let told = [
        "X-Forwarded-For: 203.0.113.9",
        "X-Forwarded-Host: shop.example",
        "X-Forwarded-Proto: https",
        "X-Request-Id: mine",
    ];
    let answer = gateway.get_with("/", &told).await;
    let seen = &answer.json()["headers"];
    assert_eq!(seen["x-forwarded-for"], "203.0.113.9, 127.0.0.1");
    assert_eq!(seen["x-forwarded-host"], "shop.example");
    assert_eq!(seen["x-forwarded-proto"], "https");
    assert_eq!(answer.header("x-request-id"), Some("mine"));
    assert_eq!(gateway.log(1).await[0]["client"], "203.0.113.9");
}

#[tokio::test]
async fn hop_by_hop_headers_stay_on_their_hop() {
    let (gateway, _upstream) = echoing("path: /*").await;
    let answer = gateway
        .send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close, x-secret\r\nX-Secret: 1\r\nKeep-Alive: 5\r\nTE: gzip\r\nProxy-Authorization: x\r\nX-Kept: 1\r\n\r\n")
        .await;
    let seen = &answer.json()["headers"];
    for name in ["x-secret", "keep-alive", "te", "proxy-authorization"] {
        assert!(seen[name].is_null(), "{name}: {seen}");
    }
    assert_eq!(seen["x-kept"], "1");
    assert_eq!(answer.header("keep-alive"), None);
    assert_eq!(answer.header("x-upstream"), Some("echo"));
}

#[tokio::test]
async fn the_query_is_forwarded_byte_for_byte() {
    let (gateway, _upstream) = echoing("path: /*").await;
    for target in ["/a?b=%2f%zz&c=//../x", "/a?", "/a?b?c", "/x//y/../z?%41=+", "/x//y/../z?a=|{}^`é"] {
        let seen = gateway.get(target).await.json()["target"].as_str().unwrap().to_owned();
        let expected = match target {
            "/x//y/../z?%41=+" => "/x/z?%41=+",
            "/x//y/../z?a=|{}^`é" => "/x/z?a=|{}^`é",
            other => other,
        };
        assert_eq!(seen, expected, "{target}");
    }
}

#[tokio::test]
async fn a_prefix_is_stripped_and_a_path_rewritten() {
    let upstream = Upstream::named("echo").await;
    let gateway = Gateway::start(&format!(
        r#"
upstreams:
  echo: {{ endpoints: ["127.0.0.1:{port}"] }}
  based: http://127.0.0.1:{port}/base/
routes:
  - {{ path: /v1/users/*, strip_prefix: true, to: echo }}
  - {{ path: /u/:id/p/:post, rewrite: /posts/:post/of/:id, to: echo }}
  - {{ path: "~^/re/(?<id>\\d+)$", rewrite: /n/:id, to: echo }}
  - {{ path: /based/*, strip_prefix: true, to: based }}
  - {{ path: /url/*, to: "http://127.0.0.1:{port}/v2" }}
"#,
        port = upstream.port
    ))
    .await;
    let cases = [
        ("/v1/users/7?x", "/7?x"),
        ("/v1/users", "/"),
        ("/v1/users/", "/"),
        ("/u/7/p/9", "/posts/9/of/7"),
        ("/re/42?q=1", "/n/42?q=1"),
        ("/based/x", "/base/x"),
        ("/based", "/base"),
        ("/url/x", "/v2/url/x"),
    ];
    for (path, expected) in cases {
        assert_eq!(gateway.get(path).await.json()["target"], expected, "{path}");
    }
}

#[tokio::test]
async fn headers_are_edited_as_configured() {
    let edits = "headers: { request: { set: { x-env: prod }, add: { x-tag: b }, remove: [cookie] }, \
                 response: { set: { x-frame-options: DENY }, remove: [x-upstream] } }";
    let (gateway, _upstream) = echoing(&format!("path: /*, {edits}")).await;
    let answer = gateway.get_with("/", &["X-Env: test", "X-Tag: a", "Cookie: a=1"]).await;
    let seen = &answer.json()["headers"];
    assert_eq!((seen["x-env"].as_str(), seen["x-tag"].as_str()), (Some("prod"), Some("a | b")));
    assert!(seen["cookie"].is_null());
    assert_eq!((answer.header("x-frame-options"), answer.header("x-upstream")), (Some("DENY"), None));
}

#[tokio::test]
async fn requests_without_a_proper_host_are_refused() {
    let (gateway, upstream) = echoing("path: /*").await;
    for request in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n",
    ] {
        assert_eq!(gateway.send(request.as_bytes()).await.status, 400, "{request:?}");
    }
    assert_eq!(upstream.hits(), 0);
    assert_eq!(
        gateway.send(b"GET http://a.example/x HTTP/1.1\r\nHost: a.example\r\n\r\n").await.json()["target"],
        "/x"
    );
}

#[tokio::test]
async fn keep_alive_serves_many_requests_and_pipelined_ones() {
    let (gateway, _upstream) = echoing("path: /*").await;
    let mut stream = TcpStream::connect(("127.0.0.1", gateway.port)).await.unwrap();
    for number in 0..3 {
        stream.write_all(format!("GET /{number} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).await.unwrap();
        assert_eq!(raw::read(&mut stream, false).await.unwrap().json()["target"], format!("/{number}"));
    }
    let head = b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n";
    stream.write_all(head).await.unwrap();
    let answer = raw::read(&mut stream, true).await.unwrap();
    assert!(answer.header("content-length").is_some());
    // Without a keep-alive of its own, HTTP/1.0 ends with the answer.
    let mut old = TcpStream::connect(("127.0.0.1", gateway.port)).await.unwrap();
    old.write_all(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n").await.unwrap();
    let mut all = Vec::new();
    let closed = tokio::time::timeout(Duration::from_secs(5), old.read_to_end(&mut all)).await;
    closed.expect("the connection of an HTTP/1.0 client stays open").unwrap();
    assert!(all.starts_with(b"HTTP/1.1 200"));
}

#[tokio::test]
async fn answers_of_the_gateways_own_need_no_upstream() {
    let gateway = Gateway::start(
        r#"
routes:
  - { path: /healthz, to: { respond: { status: 200, body: ok } } }
  - { path: /gone, to: { respond: { status: 410, headers: { x-why: moved } } } }
  - { path: /empty, to: { respond: { status: 204 } } }
  - { path: /old/*, to: { redirect: { to: "https://new.example/*", status: 301 } } }
  - { path: /post, to: { redirect: { to: /elsewhere } } }
"#,
    )
    .await;
    let health = gateway.get("/healthz").await;
    assert_eq!(
        (health.status, health.text().as_str(), health.header("content-type")),
        (200, "ok", Some("text/plain; charset=utf-8"))
    );
    let gone = gateway.get("/gone").await;
    assert_eq!((gone.status, gone.header("x-why"), gone.body.len()), (410, Some("moved"), 0));
    assert_eq!(gateway.get("/empty").await.status, 204);
    let old = gateway.get("/old/a/b?c=%2F").await;
    assert_eq!((old.status, old.header("location")), (301, Some("https://new.example/a/b?c=%2F")));
    let slashes = gateway.get("/old//evil.example").await;
    assert_eq!(slashes.header("location"), Some("https://new.example/evil.example"));
    assert_eq!(gateway.get("/post").await.status, 308);
    let head = gateway.send(b"HEAD /healthz HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!((head.header("content-length"), head.body.len()), (Some("2"), 0));
}

#[tokio::test]
async fn plain_requests_are_redirected_to_https() {
    let (gateway, upstream) = with_listener("redirect_to_https: true", "path: /*").await;
    let answer = gateway.get_with("/a?b", &["Host: shop.example:8080"]).await;
    assert_eq!((answer.status, answer.header("location")), (308, Some("https://shop.example/a?b")));
    assert_eq!(upstream.hits(), 0);
}

/// A WebSocket server that sends back what it gets.
async fn websocket_echo() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
                while let Some(Ok(message)) = socket.next().await {
                    if message.is_text() || message.is_binary() {
                        socket.send(message).await.unwrap();
                    }
                }
            });
        }
    });
    port
}

#[tokio::test]
async fn websockets_pass_both_ways() {
    let port = websocket_echo().await;
    let gateway = Gateway::start(&format!("routes: [{{ path: /ws, to: \"http://127.0.0.1:{port}\" }}]\n")).await;
    let url = format!("ws://127.0.0.1:{}/ws", gateway.port);
    let (mut socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
    for size in [1, 1000, 200_000] {
        let message = Message::binary(vec![7; size]);
        socket.send(message.clone()).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), message);
    }
    socket.close(None).await.unwrap();
}

/// <https://github.com/cloudflare/pingora/issues/946>: a 101 that came quickly ended its tunnel.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_websocket_is_torn_down_on_a_busy_machine() {
    let port = websocket_echo().await;
    let gateway = Gateway::start(&format!("routes: [{{ path: /ws, to: \"http://127.0.0.1:{port}\" }}]\n")).await;
    let url = format!("ws://127.0.0.1:{}/ws", gateway.port);
    let clients = (0..32).map(|_| {
        let url = url.clone();
        tokio::spawn(async move {
            for _ in 0..40 {
                let (mut socket, _) = tokio_tungstenite::connect_async(&url).await.unwrap();
                socket.send(Message::text("hello")).await.unwrap();
                assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("hello"));
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
}

#[tokio::test]
async fn each_request_leaves_one_line_and_its_counts() {
    let (gateway, _upstream) = echoing("name: everything, path: /*").await;
    gateway.get_with("/a?b=1", &["User-Agent: \"quoted\" \\ agent"]).await;
    gateway.send(b"POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello").await;
    let log = gateway.log(2).await;
    assert_eq!(log[0]["target"], "/a?b=1");
    assert_eq!(log[0]["user_agent"], "\"quoted\" \\ agent");
    assert_eq!((log[0]["status"].as_u64(), log[0]["route"].as_str()), (Some(200), Some("everything")));
    assert_eq!((log[1]["bytes_received"].as_u64(), log[1]["attempts"].as_u64()), (Some(5), Some(1)));
    assert_eq!(
        gateway.metric(r#"pointsman_http_requests_total{code="200",method="GET",route="everything"}"#).await as u64,
        1
    );
    assert_eq!(gateway.metric(r#"pointsman_http_request_duration_seconds_count{route="everything"}"#).await as u64, 2);
}
