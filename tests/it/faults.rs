//! Faults of the network and of servers, at the figures that a gateway has to hold.

use std::collections::HashMap;
use std::process::Command;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::load::Load;
use crate::harness::pool::{condition, idle};
use crate::harness::upstream::{Script, Scripted};
use crate::harness::{Gateway, Nginx, Upstream, eventually, raw, scale};

fn upstream(ports: &[u16], settings: &str) -> String {
    let endpoints: Vec<String> = ports.iter().map(|port| format!("\"127.0.0.1:{port}\"")).collect();
    format!("upstreams: {{ u: {{ endpoints: [{}]{settings} }} }}\n", endpoints.join(", "))
}

/// Posts with ids of their own, until told to stop; the answers' statuses.
async fn posts(port: u16, stop: tokio::sync::watch::Receiver<bool>) -> Vec<u16> {
    let mut statuses = Vec::new();
    while !*stop.borrow() {
        let id = statuses.len();
        let request = format!("POST /?id={id} HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi");
        statuses.push(raw::exchange(port, request.as_bytes()).await.map_or(0, |answer| answer.status));
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    statuses
}

/// One of three backends killed again and again under load: no GET fails, no POST runs twice.
#[tokio::test]
async fn kills_under_load_fail_no_get_and_double_no_post() {
    let mut servers = [Some(Nginx::start().await), Some(Nginx::start().await), Some(Nginx::start().await)];
    let ports = servers.each_ref().map(|server| server.as_ref().unwrap().port);
    let settings =
        ", eject: { consecutive_failures: 3, base: 1s }, health: { http: /healthz, every: 200ms, fall: 1, rise: 1 }";
    let body = format!("{}routes: [{{ path: /*, to: u }}]\n", upstream(&ports, settings));
    let gateway = Gateway::start(&body).await;
    let load = Load::start(gateway.port, 16, "/", Duration::from_millis(4));
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let posting = tokio::spawn(posts(gateway.port, stopped));
    let mut ran: HashMap<String, usize> = HashMap::new();
    for round in 0..20 {
        let index = round % 3;
        let target = load.good() + 150 * scale();
        eventually("more requests", async || (load.good() >= target).then_some(())).await;
        let killed = servers[index].take().unwrap();
        for id in killed.posted() {
            *ran.entry(id).or_default() += 1;
        }
        killed.kill();
        let begin = Instant::now();
        eventually("it is out", async || (condition(&gateway, ports[index]).await != "healthy").then_some(())).await;
        assert!(begin.elapsed() < Duration::from_secs(1), "out after {:?}", begin.elapsed());
        servers[index] = Some(Nginx::at(ports[index]).await);
        let begin = Instant::now();
        eventually("it is back", async || (condition(&gateway, ports[index]).await == "healthy").then_some(())).await;
        assert!(begin.elapsed() < Duration::from_secs(2), "back after {:?}", begin.elapsed());
    }
    stop.send(true).unwrap();
    let statuses = posting.await.unwrap();
    let mut tally = load.stop().await;
    for server in servers.iter().flatten() {
        for id in server.posted() {
            *ran.entry(id).or_default() += 1;
        }
    }
    assert!(tally.bad.is_empty(), "{:?}", tally.bad);
    let twice: Vec<_> = ran.iter().filter(|(_, count)| **count > 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
    let failed = statuses.iter().filter(|status| **status != 200).count();
    assert!(statuses.iter().all(|status| matches!(status, 200 | 502)), "{statuses:?}");
    // At most what was on the wire in the moment of each kill.
    assert!(failed <= 20, "{failed} of {}", statuses.len());
    let p99 = tally.p99();
    println!("{} GETs, p99 {p99:?}; {} POSTs, {failed} failed", tally.good, statuses.len());
}

/// A stopped backend: times hold, it is ejected, others are unharmed, every place comes back.
#[tokio::test]
async fn a_stopped_backend_costs_its_time_and_no_place() {
    let servers = [Nginx::start().await, Nginx::start().await];
    let ports = servers.each_ref().map(|server| server.port);
    let alone = upstream(&ports[..1], ", limits: { requests: 50 }");
    let body = format!("{alone}routes: [{{ path: /*, retry: {{ attempts: 1, per_try: 500ms }}, to: u }}]\n");
    let gateway = Gateway::start(&body).await;
    assert_eq!(gateway.get("/").await.status, 200);
    servers[0].signal("STOP");
    for _ in 0..3 {
        let begin = Instant::now();
        let answer = gateway.get("/").await;
        let took = begin.elapsed();
        assert_eq!((answer.status, answer.reason().as_str()), (504, "upstream_timeout"));
        assert!(took >= Duration::from_millis(475) && took <= Duration::from_millis(545), "{took:?}");
    }
    servers[0].signal("CONT");
    eventually("it serves again", async || (gateway.get("/").await.status == 200).then_some(())).await;
    idle(&gateway).await;
    // With another beside it, it is ejected and hardly noticed.
    let both = upstream(&ports, ", eject: { consecutive_failures: 3, base: 30s }");
    let route =
        "routes: [{ path: /*, retry: { on: [connect, reset, timeout], per_try: 500ms, budget: 100% }, to: u }]\n";
    gateway.change(&format!("{both}{route}"));
    servers[0].signal("STOP");
    let load = Load::start(gateway.port, 16, "/", Duration::from_millis(5));
    eventually("it is ejected", async || (condition(&gateway, ports[0]).await == "ejected").then_some(())).await;
    drop(load.stop().await);
    let load = Load::start(gateway.port, 16, "/", Duration::from_millis(5));
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut tally = load.stop().await;
    servers[0].signal("CONT");
    assert!(tally.bad.is_empty(), "{:?}", tally.bad);
    assert!(tally.p99() < Duration::from_millis(100), "{:?}", tally.p99());
}

/// What a client gets of an answer, byte by byte, until the connection ends.
async fn everything(port: u16, request: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut all = Vec::new();
    // A reset is an end too.
    let _ = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut all)).await.unwrap();
    all
}

#[tokio::test]
async fn a_truncated_answer_is_seen_as_truncated_and_its_connection_not_used_again() {
    let cases: [(&str, &'static [u8], &[u8]); 4] = [
        ("short of its length", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", b"half"),
        ("within a chunk", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhalf", b"half"),
        ("before the last chunk", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", b"half"),
        ("a bad chunk size", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nxyz\r\n", b"half"),
    ];
    for (name, bytes, body) in cases {
        let server = Scripted::start(Script::Send(bytes)).await;
        let gateway =
            Gateway::start(&format!("{}routes: [{{ path: /*, to: u }}]\n", upstream(&[server.port], ""))).await;
        for _ in 0..3 {
            let all = everything(gateway.port, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
            let text = String::from_utf8_lossy(&all).into_owned();
            assert!(
                text.starts_with("HTTP/1.1 200") && text.contains(std::str::from_utf8(body).unwrap()),
                "{name}: {text}"
            );
            let whole = text.contains("Content-Length: 4") || text.ends_with("0\r\n\r\n");
            assert!(!whole, "{name}: {text}");
        }
        // Each request had a connection of its own.
        assert_eq!(server.hits(), 3, "{name}");
    }
}

/// A server that refuses an upload before it has read it: the refusal reaches the client.
#[tokio::test]
async fn an_early_answer_to_an_upload_is_delivered() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream.write_all(b"HTTP/1.1 413 X\r\nContent-Length: 4\r\nConnection: close\r\n\r\nfull").await;
                // Reads on, so that its own kernel does not reset the connection under the answer.
                let _ = stream.shutdown().await;
                while stream.read(&mut [0; 65_536]).await.is_ok_and(|count| count > 0) {}
            });
        }
    });
    let gateway = Gateway::start(&format!("{}routes: [{{ path: /*, to: u }}]\n", upstream(&[port], ""))).await;
    for _ in 0..5 {
        let mut request = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", 4 << 20).into_bytes();
        request.resize(request.len() + (4 << 20), b'x');
        let answer = raw::exchange_both_ways(gateway.port, request).await.unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (413, "full"));
    }
}

/// A relay that lets 50 KB a second through, after half a second.
#[tokio::test]
async fn a_slow_relay_loses_its_share_within_five_seconds() {
    let fast = [Upstream::named("a").await, Upstream::named("b").await];
    let behind = Upstream::named("c").await;
    let relay = relay(behind.port).await;
    for balance in ["least_request", "ewma"] {
        let ports = [fast[0].port, fast[1].port, relay];
        let body = format!("{}routes: [{{ path: /*, to: u }}]\n", upstream(&ports, &format!(", balance: {balance}")));
        let gateway = Gateway::start(&body).await;
        let load = Load::start(gateway.port, 24, "/", Duration::from_millis(3));
        tokio::time::sleep(Duration::from_secs(3)).await;
        let count = || (behind.hits(), fast[0].hits() + fast[1].hits());
        let before = count();
        tokio::time::sleep(Duration::from_secs(2)).await;
        let after = count();
        let (slow, all) = (after.0 - before.0, after.0 - before.0 + after.1 - before.1);
        drop(load.stop().await);
        // A fair share would be a third; four fifths of it are gone.
        assert!((slow as f64) < all as f64 / 15.0, "{balance}: {slow} of {all}");
    }
}

async fn relay(to: u16) -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut server = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
                let mut part = [0; 2_500];
                loop {
                    let Ok(count @ 1..) = client.read(&mut part).await else { return };
                    tokio::time::sleep(Duration::from_millis(500)).await;
                    server.write_all(&part[..count]).await.unwrap();
                    while let Ok(Ok(count @ 1..)) =
                        tokio::time::timeout(Duration::from_millis(20), server.read(&mut part)).await
                    {
                        if client.write_all(&part[..count]).await.is_err() {
                            return;
                        }
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                }
            });
        }
    });
    port
}

/// Set in the process that runs within the lossy network.
const INSIDE: &str = "POINTSMAN_TEST_LOSSY";

/// Five percent of all packets lost, one percent of those to the backends answered with a reset:
/// through the gateway no more fails than without it. Runs itself again in a network namespace of
/// its own, where the packet filter does the damage.
#[tokio::test]
async fn a_lossy_network_costs_no_more_than_without_a_gateway() {
    if std::env::var_os(INSIDE).is_some() {
        return inside_a_lossy_network().await;
    }
    let program = std::env::current_exe().unwrap();
    let test = "faults::a_lossy_network_costs_no_more_than_without_a_gateway";
    let script = format!(
        "ip link set lo up && {INSIDE}=1 exec '{}' --exact {test} --nocapture --test-threads 1",
        program.display()
    );
    let search = format!("{}:/usr/sbin", std::env::var("PATH").unwrap());
    let status = tokio::process::Command::new("unshare")
        .args(["-r", "-n", "sh", "-c", &script])
        .env("PATH", search)
        .status()
        .await
        .unwrap();
    assert!(status.success(), "see above");
}

async fn inside_a_lossy_network() {
    let servers = [Nginx::start().await, Nginx::start().await];
    let ports = servers.each_ref().map(|server| server.port);
    let retry = "retry: { attempts: 5, on: [connect, reset, timeout], per_try: 3s, budget: 100% }";
    let gateway = Gateway::start(&format!("{}routes: [{{ path: /*, {retry}, to: u }}]\n", upstream(&ports, ""))).await;
    let rules = format!(
        "add table inet t
         add chain inet t in {{ type filter hook input priority 0; }}
         add rule inet t in tcp dport {{ {}, {} }} numgen random mod 100 < 1 reject with tcp reset
         add rule inet t in numgen random mod 100 < 5 drop",
        ports[0], ports[1]
    );
    let file = gateway.path("rules.nft");
    std::fs::write(&file, rules).unwrap();
    assert!(Command::new("nft").arg("-f").arg(&file).status().unwrap().success());
    let direct = failures(ports[0]).await;
    let through = failures(gateway.port).await;
    // Through such a network nobody says goodbye in order.
    servers.into_iter().for_each(Nginx::kill);
    println!("failed directly {:.2} %, through the gateway {:.2} %", direct * 100.0, through * 100.0);
    assert!(direct > 0.001, "the network is not lossy: {direct}");
    assert!(through <= direct + 0.001, "{through} through the gateway, {direct} directly");
}

/// The share of requests that fail within six seconds of load.
async fn failures(port: u16) -> f64 {
    let load = Load::start(port, 64, "/", Duration::from_millis(20));
    tokio::time::sleep(Duration::from_secs(6)).await;
    let tally = load.stop().await;
    let bad: usize = tally.bad.values().sum();
    assert!(tally.good > 1_000, "only {} requests", tally.good);
    bad as f64 / (bad + tally.good) as f64
}

/// All backends fail: the breaker opens within a second, and what recovers is not overrun.
#[tokio::test]
async fn a_breaker_opens_within_a_second_and_recovery_has_no_overshoot() {
    let servers = [Upstream::named("a").await, Upstream::named("b").await];
    let ports = servers.each_ref().map(|server| server.port);
    let settings = ", breaker: { failure_ratio: 50%, of_at_least: 20, within: 2s, open: 500ms, longest: 500ms }";
    let body = format!("{}routes: [{{ path: /*, retry: {{ on: 5xx }}, to: u }}]\n", upstream(&ports, settings));
    let gateway = Gateway::start(&body).await;
    let load = Load::start(gateway.port, 16, "/", Duration::from_millis(8));
    eventually("requests", async || (load.good() > 200).then_some(())).await;
    servers.iter().for_each(|server| server.answer(503));
    let begin = Instant::now();
    let open = async || (gateway.api("/v1/upstreams").await[0]["breaker"] != "closed").then_some(());
    eventually("it is open", open).await;
    assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
    let opened = servers[0].hits() + servers[1].hits();
    tokio::time::sleep(Duration::from_secs(2)).await;
    // A probe each half second, each with its budgeted repetition at most.
    let probes = servers[0].hits() + servers[1].hits() - opened;
    assert!((2..=12).contains(&probes), "{probes}");
    servers.iter().for_each(|server| server.answer(200));
    let good = load.good();
    eventually("it serves again", async || (load.good() > good + 100).then_some(())).await;
    assert!(servers.iter().all(|server| server.most() <= 16), "no more than the clients offer");
    drop(load.stop().await);
}
