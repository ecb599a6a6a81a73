//! Repeated tries: when, where, and how often.

use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use crate::harness::pool::idle;
use crate::harness::upstream::{Script, Scripted};
use crate::harness::{Gateway, Upstream, free_port, raw};

/// Which settings of a route a cell of the matrix uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Retry {
    /// One try.
    Never,
    /// Nothing is written.
    Default,
    /// Every failure, every method.
    All,
}

impl Retry {
    fn yaml(self) -> &'static str {
        match self {
            Self::Never => "retry: { attempts: 1, per_try: 400ms }",
            Self::Default => "retry: { per_try: 400ms }",
            Self::All => {
                "retry: { attempts: 2, on: [connect, reset, timeout, 404, 5xx], methods: any, budget: 100%, per_try: 400ms }"
            }
        }
    }
}

/// How the first endpoint fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Refused,
    ResetBefore,
    ResetAfter,
    Timeout,
    Status503,
    Status404,
}

const PHASES: [Phase; 6] =
    [Phase::Refused, Phase::ResetBefore, Phase::ResetAfter, Phase::Timeout, Phase::Status503, Phase::Status404];
const SIZES: [usize; 5] = [0, 1 << 10, 64 << 10, (65 << 10) + 1, 10 << 20];
/// What Pingora keeps of a body for sending it again (bytes).
const KEPT: usize = 64 << 10;

/// What the client sees.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    /// The second endpoint's answer, to the whole body.
    Good,
    /// The gateway's answer, with its reason.
    Own(u16, &'static str),
    /// The first endpoint's answer.
    Passed(u16),
    /// A connection that ends within the answer.
    Cut,
}

/// The table: what each cell has to give, and how many whole requests the first endpoint may see.
fn expected(phase: Phase, method: &str, size: usize, retry: Retry) -> (Outcome, usize) {
    let again = match (retry, phase) {
        (Retry::Never, _) | (_, Phase::ResetAfter) => false,
        (_, Phase::Refused) => true,
        (Retry::Default, Phase::ResetBefore) => method != "POST" && size <= KEPT,
        (Retry::Default, _) => false,
        (Retry::All, _) => size <= KEPT,
    };
    let seen = usize::from(phase != Phase::Refused);
    let outcome = match phase {
        _ if again => Outcome::Good,
        Phase::Refused => Outcome::Own(502, "connect_failed"),
        Phase::ResetBefore => Outcome::Own(502, "upstream_reset"),
        Phase::ResetAfter => Outcome::Cut,
        Phase::Timeout => Outcome::Own(504, "upstream_timeout"),
        Phase::Status503 => Outcome::Passed(503),
        Phase::Status404 => Outcome::Passed(404),
    };
    (outcome, seen)
}

async fn ask(gateway: &Gateway, path: &str, method: &str, body: &[u8]) -> Outcome {
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let request = [head.as_bytes(), body].concat();
    let answer = match raw::exchange_both_ways(gateway.port, request).await {
        Ok(answer) => answer,
        Err(_) => return Outcome::Cut,
    };
    if answer.status == 200 {
        let json = answer.json();
        assert_eq!(json["sha256"], format!("{:x}", Sha256::digest(body)), "the body arrives byte for byte");
        return Outcome::Good;
    }
    match answer.header("proxy-status") {
        Some(_) => {
            let reasons = ["connect_failed", "upstream_reset", "upstream_timeout", "upstream_tls"];
            let reason = answer.reason();
            Outcome::Own(answer.status, reasons.into_iter().find(|known| *known == reason).unwrap_or("other"))
        }
        None => Outcome::Passed(answer.status),
    }
}

async fn broken(phase: Phase) -> (u16, Option<Scripted>) {
    let script = match phase {
        Phase::Refused => return (free_port(), None),
        Phase::ResetBefore => Script::Reset,
        Phase::ResetAfter => Script::ResetMidAnswer,
        Phase::Timeout => Script::Silence,
        Phase::Status503 => Script::Answer(503),
        Phase::Status404 => Script::Answer(404),
    };
    let server = Scripted::start(script).await;
    (server.port, Some(server))
}

/// Every phase of failure × method × size of the body × setting.
#[tokio::test]
async fn each_cell_of_the_matrix_holds() {
    let good = Upstream::named("good").await;
    let mut servers = Vec::new();
    let mut upstreams = String::new();
    let mut routes = String::new();
    for phase in PHASES {
        let (port, server) = broken(phase).await;
        // The second tier serves what the first cannot.
        upstreams += &format!(
            "  {phase:?}: {{ endpoints: [\"127.0.0.1:{port}\", {{ address: \"127.0.0.1:{}\", tier: 1 }}] }}\n",
            good.port
        );
        for retry in [Retry::Never, Retry::Default, Retry::All] {
            routes += &format!("  - {{ path: /{phase:?}/{retry:?}, {}, to: {phase:?} }}\n", retry.yaml());
        }
        servers.push(server);
    }
    let gateway = Gateway::start(&format!("upstreams:\n{upstreams}routes:\n{routes}")).await;
    let mut wrong = Vec::new();
    for (phase, server) in PHASES.into_iter().zip(&servers) {
        for retry in [Retry::Never, Retry::Default, Retry::All] {
            for method in ["GET", "PUT", "POST"] {
                for size in if method == "GET" { &SIZES[..1] } else { &SIZES[..] } {
                    let body: Vec<u8> = (0..*size).map(|at| (at * 7 % 251) as u8).collect();
                    let before = server.as_ref().map_or(0, Scripted::hits);
                    let outcome = ask(&gateway, &format!("/{phase:?}/{retry:?}"), method, &body).await;
                    let seen = server.as_ref().map_or(0, Scripted::hits) - before;
                    if (outcome.clone(), seen) != expected(phase, method, *size, retry) {
                        wrong.push((phase, retry, method, *size, outcome, seen));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn what_cannot_be_verified_gets_no_request() {
    let plain = Upstream::named("plain").await;
    let gateway = Gateway::start(&format!(
        "upstreams: {{ u: {{ endpoints: [\"127.0.0.1:{}\"], tls: {{ sni: users.internal }} }} }}\nroutes: [{{ path: /*, {}, to: u }}]\n",
        plain.port,
        Retry::All.yaml()
    ))
    .await;
    for method in ["GET", "POST"] {
        assert_eq!(ask(&gateway, "/", method, b"x").await, Outcome::Own(502, "upstream_tls"), "{method}");
    }
    assert_eq!(plain.hits(), 0);
}

#[tokio::test]
async fn a_retry_never_goes_to_the_endpoint_just_tried() {
    let (a, b) = (Scripted::start(Script::Answer(503)).await, Scripted::start(Script::Answer(503)).await);
    let gateway = Gateway::start(&format!(
        "upstreams: {{ u: {{ endpoints: [\"127.0.0.1:{}\", \"127.0.0.1:{}\"], balance: random }} }}\nroutes: [{{ path: /*, retry: {{ attempts: 2, on: 503, budget: 100% }}, to: u }}]\n",
        a.port, b.port
    ))
    .await;
    for _ in 0..50 {
        assert_eq!(gateway.get("/").await.status, 503);
    }
    assert_eq!((a.hits(), b.hits()), (50, 50));
    // One endpoint alone is not asked twice.
    gateway.change(&format!(
        "upstreams: {{ u: {{ endpoints: [\"127.0.0.1:{}\"] }} }}\nroutes: [{{ path: /*, retry: {{ attempts: 5, on: 503, budget: 100% }}, to: u }}]\n",
        a.port
    ));
    assert_eq!(gateway.get("/").await.status, 503);
    assert_eq!(a.hits(), 51);
}

#[tokio::test]
async fn retry_after_is_waited_for_or_passed_on() {
    let good = Upstream::named("good").await;
    for (seconds, status, least) in [(1, 200, 900), (60, 503, 0)] {
        let busy = Scripted::start(Script::Busy(seconds)).await;
        let gateway = Gateway::start(&format!(
            "upstreams: {{ u: {{ endpoints: [\"127.0.0.1:{}\", {{ address: \"127.0.0.1:{}\", tier: 1 }}] }} }}\nroutes: [{{ path: /*, retry: {{ on: 503, longest_backoff: 2s, budget: 100% }}, to: u }}]\n",
            busy.port, good.port
        ))
        .await;
        let begin = Instant::now();
        let answer = gateway.get("/").await;
        let took = begin.elapsed();
        assert_eq!(answer.status, status, "{seconds}");
        assert!(took >= Duration::from_millis(least) && took < Duration::from_millis(least + 600), "{took:?}");
    }
}

#[tokio::test]
async fn an_answer_in_time_may_pause_for_longer() {
    let slow = Scripted::start(Script::Silence).await;
    let streaming = streaming().await;
    let gateway = Gateway::start(&format!(
        "upstreams: {{ slow: \"http://127.0.0.1:{}\", streaming: \"http://127.0.0.1:{streaming}\" }}\nroutes:\n  - {{ path: /slow, retry: {{ per_try: 300ms, attempts: 1 }}, to: slow }}\n  - {{ path: /streaming, retry: {{ per_try: 300ms, attempts: 1 }}, to: streaming }}\n",
        slow.port
    ))
    .await;
    let begin = Instant::now();
    assert_eq!(gateway.get("/slow").await.status, 504);
    let took = begin.elapsed();
    assert!(took >= Duration::from_millis(295) && took < Duration::from_millis(420), "{took:?}");
    // Kept connections and new ones.
    for _ in 0..3 {
        let answer = gateway.get("/streaming").await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "first second"));
    }
}

/// A server whose answers pause for 700 ms within the body.
async fn streaming() -> u16 {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                while stream.read(&mut [0; 4096]).await.unwrap_or(0) > 0 {
                    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\nfirst ").await.unwrap();
                    tokio::time::sleep(Duration::from_millis(700)).await;
                    stream.write_all(b"second").await.unwrap();
                }
            });
        }
    });
    port
}

#[tokio::test]
async fn a_hedge_overtakes_a_slow_endpoint() {
    let (slow, fast) = (Upstream::named("slow").await, Upstream::named("fast").await);
    slow.delay(Duration::from_millis(900));
    let gateway = Gateway::start(&format!(
        "upstreams: {{ u: {{ endpoints: [\"127.0.0.1:{}\", {{ address: \"127.0.0.1:{}\", tier: 1 }}] }} }}\nroutes: [{{ path: /*, retry: {{ hedge: 150ms, budget: 100% }}, to: u }}]\n",
        slow.port, fast.port
    ))
    .await;
    for round in 1..=5 {
        let begin = Instant::now();
        let answer = gateway.get("/").await;
        let took = begin.elapsed();
        assert_eq!((answer.status, answer.json()["server"].as_str()), (200, Some("fast")));
        assert!(took >= Duration::from_millis(145) && took < Duration::from_millis(400), "{took:?}");
        assert_eq!((slow.hits(), fast.hits()), (round, round));
    }
    let log = gateway.log(5).await;
    assert_eq!(log[0]["endpoint"], format!("127.0.0.1:{}", fast.port));
    // What may not be sent twice is not, and what answers in time is left alone.
    let post = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi";
    assert_eq!(gateway.send(post).await.json()["server"], "slow");
    slow.delay(Duration::ZERO);
    for _ in 0..20 {
        assert_eq!(gateway.get("/").await.json()["server"], "slow");
    }
    assert_eq!(fast.hits(), 5);
    // The answer of the second is whole though the first fails under it.
    slow.delay(Duration::from_millis(400));
    fast.delay(Duration::from_millis(400));
    for _ in 0..5 {
        assert_eq!(gateway.get("/").await.status, 200);
    }
    idle(&gateway).await;
}

#[tokio::test]
async fn a_hedged_try_keeps_to_its_time() {
    let (a, b) = (Scripted::start(Script::Silence).await, Scripted::start(Script::Silence).await);
    let gateway = Gateway::start(&format!(
        "upstreams: {{ u: {{ endpoints: [\"127.0.0.1:{}\", \"127.0.0.1:{}\"] }} }}\nroutes: [{{ path: /*, retry: {{ hedge: 100ms, per_try: 400ms, budget: 100% }}, to: u }}]\n",
        a.port, b.port
    ))
    .await;
    let begin = Instant::now();
    let answer = gateway.get("/").await;
    let took = begin.elapsed();
    assert_eq!(answer.reason(), "upstream_timeout");
    assert!(took >= Duration::from_millis(390) && took < Duration::from_millis(650), "{took:?}");
    assert_eq!((a.hits(), b.hits()), (1, 1));
    idle(&gateway).await;
}

#[tokio::test]
async fn a_hedge_takes_the_budget_and_no_more() {
    let (a, b) = (Upstream::named("a").await, Upstream::named("b").await);
    a.delay(Duration::from_millis(100));
    b.delay(Duration::from_millis(100));
    let gateway = Gateway::start(&format!(
        "upstreams: {{ u: {{ endpoints: [\"127.0.0.1:{}\", \"127.0.0.1:{}\"] }} }}\nroutes: [{{ path: /*, retry: {{ hedge: 20ms, budget: 10% }}, to: u }}]\n",
        a.port, b.port
    ))
    .await;
    let begin = Instant::now();
    let load = crate::harness::load::Load::start(gateway.port, 64, "/", Duration::ZERO);
    tokio::time::sleep(Duration::from_secs(3)).await;
    let tally = load.stop().await;
    assert!(tally.bad.is_empty(), "{:?}", tally.bad);
    let (tries, requests) = ((a.hits() + b.hits()) as f64, tally.good as f64);
    let most = 1.1 * requests + 3.0 * (begin.elapsed().as_secs_f64() + 1.0);
    assert!(tries <= most && tries > 1.05 * requests, "{tries} tries of {requests} requests");
}

/// All backends answer 503 at some 2 000 requests a second for ten seconds.
#[tokio::test]
async fn a_retry_storm_stays_within_the_budget() {
    let backends = [
        Scripted::start(Script::Answer(503)).await,
        Scripted::start(Script::Answer(503)).await,
        Scripted::start(Script::Answer(503)).await,
    ];
    let endpoints: Vec<String> = backends.iter().map(|one| format!("\"127.0.0.1:{}\"", one.port)).collect();
    let gateway = Gateway::start(&format!(
        "upstreams: {{ u: {{ endpoints: [{}] }} }}\nroutes: [{{ path: /*, retry: {{ attempts: 3, on: 5xx }}, to: u }}]\n",
        endpoints.join(", ")
    ))
    .await;
    let begin = Instant::now();
    let load = crate::harness::load::Load::start(gateway.port, 64, "/", Duration::from_millis(15));
    tokio::time::sleep(Duration::from_secs(10)).await;
    let tally = load.stop().await;
    let requests = tally.bad.values().sum::<usize>() as f64;
    assert_eq!(tally.bad.keys().collect::<Vec<_>>(), ["status 503"]);
    let attempts: usize = backends.iter().map(Scripted::hits).sum();
    let floor = 3.0 * (begin.elapsed().as_secs_f64() + 1.0);
    assert!(requests > 12_000.0, "only {requests} requests");
    assert!(attempts as f64 <= 1.2 * requests + floor, "{attempts} tries of {requests} requests");
    assert!(attempts as f64 >= 1.1 * requests, "{attempts} tries of {requests} requests: the budget is to be used");
    println!("{requests} requests, {attempts} tries");
}
