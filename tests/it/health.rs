//! Active health checks.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::harness::{Gateway, Upstream, eventually};

fn configuration(ports: &[u16], check: &str) -> String {
    let endpoints: Vec<String> = ports.iter().map(|port| format!("\"127.0.0.1:{port}\"")).collect();
    format!(
        "upstreams: {{ u: {{ endpoints: [{}], health: {{ {check}, every: 300ms, rise: 2, fall: 3 }} }} }}\nroutes: [{{ path: /*, to: u }}]\n",
        endpoints.join(", ")
    )
}

async fn until(gateway: &Gateway, port: u16, healthy: bool) {
    eventually("the endpoint has this health", async || {
        let list = gateway.health("u").await;
        list.contains(&(format!("127.0.0.1:{port}"), healthy)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_killed_upstream_leaves_and_returns_in_time() {
    for check in ["http: /healthz", "tcp: true"] {
        let (a, b) = (Upstream::named("a").await, Upstream::named("b").await);
        let gateway = Gateway::start(&configuration(&[a.port, b.port], check)).await;
        let port = a.port;
        drop(a);
        let begin = Instant::now();
        until(&gateway, port, false).await;
        assert!(begin.elapsed() < Duration::from_millis(300 * 3 + 200), "{check}: out after {:?}", begin.elapsed());
        let before = b.hits();
        for _ in 0..10 {
            assert_eq!(gateway.get("/").await.json()["server"], "b");
        }
        assert!(b.hits() >= before + 10);
        let address: SocketAddr = format!("127.0.0.1:{port}").parse().unwrap();
        let a = Upstream::on(address, "a again").await;
        let begin = Instant::now();
        until(&gateway, port, true).await;
        assert!(begin.elapsed() < Duration::from_millis(300 * 2 + 200), "{check}: back after {:?}", begin.elapsed());
        let hits = a.hits();
        for _ in 0..10 {
            gateway.get("/").await;
        }
        assert!(a.hits() >= hits + 5, "{check}");
    }
}

#[tokio::test]
async fn with_all_down_the_answer_is_503_at_once() {
    let upstream = Upstream::named("a").await;
    let gateway = Gateway::start(&configuration(&[upstream.port], "http: /healthz")).await;
    let port = upstream.port;
    assert_eq!(gateway.get("/").await.status, 200);
    upstream.answer(500);
    until(&gateway, port, false).await;
    let begin = Instant::now();
    let answer = gateway.get("/").await;
    assert_eq!((answer.status, answer.reason().as_str()), (503, "no_endpoint"));
    assert!(begin.elapsed() < Duration::from_millis(100), "{:?}", begin.elapsed());
    let series = format!("pointsman_upstream_endpoint_healthy{{endpoint=\"127.0.0.1:{port}\",upstream=\"u\"}}");
    assert!(gateway.metrics().await.contains(&format!("{series} 0")));
    upstream.answer(200);
    until(&gateway, port, true).await;
    assert_eq!(gateway.get("/").await.status, 200);
}

#[tokio::test]
async fn weights_hold_exactly_over_a_cycle() {
    let (a, b) = (Upstream::named("a").await, Upstream::named("b").await);
    let gateway = Gateway::start(&format!(
        "upstreams: {{ u: {{ endpoints: [\"127.0.0.1:{}\", {{ address: \"127.0.0.1:{}\", weight: 3 }}] }} }}\nroutes: [{{ path: /*, to: u }}]\n",
        a.port, b.port
    ))
    .await;
    for _ in 0..40 {
        assert_eq!(gateway.get("/").await.status, 200);
    }
    assert_eq!((a.hits(), b.hits()), (10, 30));
}

/// A real gRPC server with the standard health service.
#[tokio::test]
async fn a_grpc_server_is_asked_for_its_health() {
    let (reporter, service) = tonic_health::server::health_reporter();
    reporter.set_service_status("users", tonic_health::ServingStatus::Serving).await;
    let port = crate::harness::free_port();
    let address: SocketAddr = format!("127.0.0.1:{port}").parse().unwrap();
    let server = tokio::spawn(tonic::transport::Server::builder().add_service(service).serve(address));
    for (service, healthy) in [("users", true), ("orders", false), ("", true)] {
        let gateway = Gateway::start(&configuration(&[port], &format!("grpc: \"{service}\""))).await;
        until(&gateway, port, healthy).await;
    }
    let gateway = Gateway::start(&configuration(&[port], "grpc: users")).await;
    until(&gateway, port, true).await;
    reporter.set_service_status("users", tonic_health::ServingStatus::NotServing).await;
    until(&gateway, port, false).await;
    reporter.set_service_status("users", tonic_health::ServingStatus::Serving).await;
    until(&gateway, port, true).await;
    server.abort();
    until(&gateway, port, false).await;
}
