//! The error table: every failure has its status and reason, the same everywhere it is told.

use std::time::{Duration, Instant};

use crate::harness::upstream::{Script, Scripted};
use crate::harness::{Gateway, Upstream, free_port};

/// Asks a gateway in front of `upstream` and checks status, reason, log and metric.
async fn expect(upstream: &str, route: &str, status: u16, reason: &str) -> Duration {
    let gateway =
        Gateway::start(&format!("upstreams: {{ u: {upstream} }}\nroutes: [{{ name: r, path: /*, to: u{route} }}]\n"))
            .await;
    let begin = Instant::now();
    let answer = gateway.get("/x").await;
    let elapsed = begin.elapsed();
    assert_eq!((answer.status, answer.reason().as_str()), (status, reason), "{}", answer.text());
    assert_eq!(answer.json()["request_id"].as_str(), answer.header("x-request-id"));
    assert!(answer.header("proxy-status").unwrap().ends_with(&format!("details=\"{reason}\"")));
    assert_eq!(gateway.log(1).await[0]["reason"], reason);
    let series = format!("pointsman_requests_rejected_total{{reason=\"{reason}\",route=\"r\"}}");
    assert_eq!(gateway.metric(&series).await as u64, 1, "{}", gateway.metrics().await);
    elapsed
}

fn endpoint(port: u16, more: &str) -> String {
    format!("{{ endpoints: [\"127.0.0.1:{port}\"]{more} }}")
}

#[tokio::test]
async fn a_refused_connection() {
    expect(&endpoint(free_port(), ""), "", 502, "connect_failed").await;
}

#[tokio::test]
async fn a_name_that_does_not_resolve() {
    expect("{ endpoints: [\"no-such-host.invalid:80\"] }", "", 502, "dns_failed").await;
}

#[tokio::test]
async fn a_silent_upstream() {
    let silent = Scripted::start(Script::Silence).await;
    let elapsed = expect(&endpoint(silent.port, ", timeout: { response: 300ms }"), "", 504, "upstream_timeout").await;
    assert!((Duration::from_millis(280)..Duration::from_millis(900)).contains(&elapsed), "{elapsed:?}");
    assert_eq!(silent.hits.load(std::sync::atomic::Ordering::SeqCst), 1, "a timeout is not tried again");
}

#[tokio::test]
async fn a_request_that_takes_too_long_in_all() {
    let silent = Scripted::start(Script::Silence).await;
    let elapsed = expect(&endpoint(silent.port, ""), ", timeout: { total: 300ms }", 504, "deadline").await;
    assert!((Duration::from_millis(280)..Duration::from_millis(900)).contains(&elapsed), "{elapsed:?}");
}

#[tokio::test]
async fn an_upstream_that_closes() {
    let closing = Scripted::start(Script::Close).await;
    expect(&endpoint(closing.port, ""), "", 502, "upstream_reset").await;
}

#[tokio::test]
async fn an_answer_that_is_no_http() {
    let odd = Scripted::start(Script::Send(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")).await;
    expect(&endpoint(odd.port, ""), "", 502, "upstream_protocol").await;
}

#[tokio::test]
async fn tls_to_a_server_without_it() {
    let plain = Upstream::named("plain").await;
    expect(&endpoint(plain.port, ", tls: { sni: localhost }"), "", 502, "upstream_tls").await;
}

#[tokio::test]
async fn no_route() {
    let gateway = Gateway::start("routes: [{ path: /a, to: { respond: {} } }]\n").await;
    let answer = gateway.get("/b").await;
    assert_eq!((answer.status, answer.reason().as_str()), (404, "no_route"));
    gateway.log(1).await;
    assert_eq!(
        gateway.metric(r#"pointsman_http_requests_total{code="404",method="GET",route="_none"}"#).await as u64,
        1
    );
    let text = gateway.get_with("/b", &["Accept: text/html"]).await;
    assert_eq!(text.header("content-type"), Some("text/plain; charset=utf-8"));
    assert!(text.text().contains("reason: no_route"));
}

#[tokio::test]
async fn a_body_that_breaks_off_is_never_passed_on_as_whole() {
    let short = Scripted::start(Script::Send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this")).await;
    let gateway = Gateway::start(&format!("routes: [{{ path: /*, to: \"http://127.0.0.1:{}\" }}]\n", short.port)).await;
    let broken = crate::harness::raw::get(gateway.port, "/", &[]).await;
    assert!(broken.is_err(), "{broken:?}");
    assert_eq!(gateway.log(1).await[0]["reason"], "upstream_reset");
    let chunked =
        Scripted::start(Script::Send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")).await;
    let gateway =
        Gateway::start(&format!("routes: [{{ path: /*, to: \"http://127.0.0.1:{}\" }}]\n", chunked.port)).await;
    assert!(crate::harness::raw::get(gateway.port, "/", &[]).await.is_err());
}

#[tokio::test]
async fn a_failed_connection_goes_to_another_endpoint_whatever_the_method() {
    let sound = Upstream::named("sound").await;
    let gateway = Gateway::start(&format!(
        "upstreams: {{ u: {{ endpoints: [\"127.0.0.1:{}\", \"127.0.0.1:{}\"] }} }}\nroutes: [{{ path: /*, to: u }}]\n",
        free_port(),
        sound.port
    ))
    .await;
    for _ in 0..6 {
        let answer = gateway.send(b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello").await;
        assert_eq!((answer.status, answer.json()["body"].as_str()), (200, Some("hello")));
    }
    assert_eq!(sound.hits(), 6, "each request arrives once");
    assert!(gateway.metric(r#"pointsman_upstream_retries_total{upstream="u"}"#).await >= 3.0);
}

/// The server reads a second request on a connection and closes it without an answer, as one
/// does that gives up idle connections in just that moment.
#[tokio::test]
async fn a_stale_pooled_connection_costs_a_get_nothing_and_a_post_is_never_sent_twice() {
    let fickle = Scripted::start(Script::OncePerConnection).await;
    let gateway =
        Gateway::start(&format!("routes: [{{ path: /*, to: \"http://127.0.0.1:{}\" }}]\n", fickle.port)).await;
    for _ in 0..5 {
        assert_eq!(gateway.get("/").await.status, 200);
    }
    let before = fickle.hits.load(std::sync::atomic::Ordering::SeqCst);
    let post = gateway.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello").await;
    assert_eq!((post.status, post.reason().as_str()), (502, "upstream_reset"));
    assert_eq!(fickle.hits.load(std::sync::atomic::Ordering::SeqCst), before + 1, "the POST was sent once");
}

#[tokio::test]
async fn full_errors_name_the_target() {
    let port = free_port();
    let gateway =
        Gateway::start(&format!("error_detail: full\nroutes: [{{ path: /*, to: \"http://127.0.0.1:{port}\" }}]\n"))
            .await;
    assert_eq!(gateway.get("/").await.json()["target"], format!("127.0.0.1:{port}"));
}
