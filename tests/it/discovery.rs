//! Endpoints that are found: by DNS, and in files.

use std::time::Duration;

use crate::harness::dns::{DnsServer, Mode, addresses, service};
use crate::harness::load::Load;
use crate::harness::pool::{unharmed, wait_for};
use crate::harness::{Gateway, Upstream, eventually, free_port};

/// DNS gone, or answering nonsense: serving goes on with the last good answer.
#[tokio::test]
async fn the_last_good_answer_of_dns_stays_in_use() {
    let dns = DnsServer::start().await;
    let port = free_port();
    let a = Upstream::on(format!("127.0.0.1:{port}").parse().unwrap(), "a").await;
    let b = Upstream::on(format!("127.0.0.2:{port}").parse().unwrap(), "b").await;
    dns.set("users.internal", 0, addresses(["127.0.0.1"]));
    let gateway = Gateway::start(&format!(
        "resolver: \"{}\"\nupstreams: {{ u: {{ dns: \"users.internal:{port}\" }} }}\nroutes: [{{ path: /*, to: u }}]\n",
        dns.addr
    ))
    .await;
    let load = Load::start(gateway.port, 4, "/", Duration::from_millis(5));
    wait_for(&load, 50).await;
    // A time to live of 0 counts as a second.
    dns.set("users.internal", 0, addresses(["127.0.0.1", "127.0.0.2"]));
    eventually("the new address is used", async || (b.hits() > 0).then_some(())).await;
    for mode in [Mode::ServFail, Mode::NxDomain, Mode::Empty, Mode::Garbage, Mode::Silent] {
        dns.fail(mode);
        let queries = dns.queries();
        eventually("it is asked", async || (dns.queries() > queries).then_some(())).await;
        wait_for(&load, 50).await;
    }
    drop(dns);
    wait_for(&load, 200).await;
    assert!(a.hits() > 100 && b.hits() > 100);
    unharmed(load.stop().await);
}

#[tokio::test]
async fn srv_records_give_ports_weights_and_tiers() {
    let dns = DnsServer::start().await;
    let servers = [Upstream::named("a").await, Upstream::named("b").await, Upstream::named("spare").await];
    let [a, b, spare] = servers.each_ref().map(|server| server.port);
    dns.set("one.internal", 60, addresses(["127.0.0.1"]));
    let records = [
        service(10, 3, a, "one.internal."),
        service(10, 1, b, "one.internal."),
        service(20, 1, spare, "one.internal."),
    ];
    dns.set("_http._tcp.users.internal", 1, records);
    let gateway = Gateway::start(&format!(
        "resolver: \"{}\"\nupstreams: {{ u: {{ srv: _http._tcp.users.internal }} }}\nroutes: [{{ path: /*, to: u }}]\n",
        dns.addr
    ))
    .await;
    for _ in 0..40 {
        assert_eq!(gateway.get("/").await.status, 200);
    }
    assert_eq!(servers.each_ref().map(Upstream::hits), [30, 10, 0]);
    dns.set("_http._tcp.users.internal", 1, [service(20, 1, spare, "one.internal.")]);
    eventually("the change is followed", async || (gateway.get("/").await.json()["server"] == "spare").then_some(()))
        .await;
}

#[tokio::test]
async fn an_endpoint_file_is_followed_and_a_bad_one_refused() {
    let (a, b) = (Upstream::named("a").await, Upstream::named("b").await);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("endpoints.txt");
    std::fs::write(&file, format!("127.0.0.1:{}\n", a.port)).unwrap();
    let gateway = Gateway::start(&format!(
        "upstreams: {{ u: {{ endpoints_file: {} }} }}\nroutes: [{{ path: /*, to: u }}]\n",
        file.display()
    ))
    .await;
    assert_eq!(gateway.get("/").await.json()["server"], "a");
    std::fs::write(&file, format!("# moved\n127.0.0.1:{} 2\n", b.port)).unwrap();
    eventually("the change is followed", async || (gateway.get("/").await.json()["server"] == "b").then_some(())).await;
    std::fs::write(&file, "127.0.0.1").unwrap();
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    assert_eq!(gateway.get("/").await.json()["server"], "b");
    let log = std::fs::read_to_string(gateway.path("stderr.log")).unwrap();
    assert!(log.contains("line 1: the endpoint `127.0.0.1` has no port"), "{log}");
}
