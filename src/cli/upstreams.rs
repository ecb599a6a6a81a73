//! `pointsman upstreams`: how upstreams are, and what their endpoints may do.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::client::Client;
use super::{Exit, Source, print};

/// Time between two looks at a draining endpoint.
const LOOK: Duration = Duration::from_millis(100);

/// Arguments of `upstreams`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    common: Common,
}

#[derive(Clone, Debug, clap::Args)]
struct Common {
    /// Print JSON.
    #[arg(long, global = true)]
    json: bool,
    /// The admin address, `http://HOST:PORT` or `unix:PATH`. Default: that of the configuration.
    #[arg(long, value_name = "URL", global = true)]
    server: Option<String>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Show all upstreams and their endpoints.
    List,
    /// Let an endpoint finish what it has; only clients that stick to it go on being served there.
    Drain {
        #[command(flatten)]
        endpoint: Endpoint,
        /// Return once no request is left there.
        #[arg(long)]
        wait: bool,
        /// Give up waiting after this time.
        #[arg(long, default_value = "5m", value_parser = humantime::parse_duration)]
        timeout: Duration,
    },
    /// Let an endpoint serve again.
    Ready(Endpoint),
    /// Send an endpoint nothing at all.
    Maintenance(Endpoint),
}

/// Which endpoint.
#[derive(Clone, Debug, clap::Args)]
struct Endpoint {
    /// The upstream's name.
    upstream: String,
    /// The endpoint's address, such as 10.0.0.5:8080.
    endpoint: String,
}

/// Runs `upstreams`.
pub fn run(args: &Args) -> anyhow::Result<Exit> {
    let common = &args.common;
    let client = Client::new(&Source { server: common.server.clone(), config: None })?;
    match &args.command {
        None | Some(Command::List) => list(&client, common.json),
        Some(Command::Ready(endpoint)) => set(&client, endpoint, "ready", common.json),
        Some(Command::Maintenance(endpoint)) => set(&client, endpoint, "maintenance", common.json),
        Some(Command::Drain { endpoint, wait, timeout }) => {
            let exit = set(&client, endpoint, "drain", common.json)?;
            if *wait && exit == Exit::Ok { drained(&client, endpoint, *timeout) } else { Ok(exit) }
        }
    }
}

fn list(client: &Client, json: bool) -> anyhow::Result<Exit> {
    let (_, value) = client.get("/v1/upstreams")?;
    if json {
        return print(&serde_json::to_string_pretty(&value)?);
    }
    let mut out = String::new();
    for upstream in value.as_array().into_iter().flatten() {
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "{}  breaker {}, {} in use, {} waiting{}",
            text(upstream, "name"),
            text(upstream, "breaker"),
            upstream["in_use"],
            upstream["waiting"],
            if upstream["panic"] == true { ", PANIC: unhealthy endpoints are used" } else { "" }
        );
        for endpoint in upstream["endpoints"].as_array().into_iter().flatten() {
            let _ = writeln!(
                out,
                "  {:<24} {:<12} weight {:<4} in flight {:<4} {:.1} ms",
                text(endpoint, "address"),
                text(endpoint, "condition"),
                endpoint["weight"],
                endpoint["in_flight"],
                endpoint["latency_ms"].as_f64().unwrap_or_default()
            );
        }
    }
    print(&out)
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn set(client: &Client, endpoint: &Endpoint, state: &str, json: bool) -> anyhow::Result<Exit> {
    let encoded = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let path = format!("/v1/upstreams/{}/endpoints/{}", encoded(&endpoint.upstream), encoded(&endpoint.endpoint));
    let (status, answer) = client.put(&path, &json!({ "state": state }))?;
    if !status.is_success() {
        eprintln!("error: {}", text(&answer, "error"));
        return Ok(if status == http::StatusCode::NOT_FOUND { Exit::NotFound } else { Exit::Failed });
    }
    if json {
        return print(&serde_json::to_string_pretty(&answer)?);
    }
    eprintln!("{} of {} is set to {state}", endpoint.endpoint, endpoint.upstream);
    Ok(Exit::Ok)
}

fn drained(client: &Client, endpoint: &Endpoint, timeout: Duration) -> anyhow::Result<Exit> {
    let begin = Instant::now();
    loop {
        let (_, value) = client.get("/v1/upstreams")?;
        let upstream = value.as_array().into_iter().flatten().find(|one| text(one, "name") == endpoint.upstream);
        let endpoints = upstream.and_then(|upstream| upstream["endpoints"].as_array()).into_iter().flatten();
        let address = endpoint.endpoint.parse::<SocketAddr>().ok();
        let mut found = endpoints.filter(|one| text(one, "address").parse().ok() == address);
        match found.next().and_then(|one| one["in_flight"].as_u64()) {
            None | Some(0) => return Ok(Exit::Ok),
            Some(left) if begin.elapsed() >= timeout => {
                eprintln!("error: {left} requests are still there after {}", humantime::format_duration(timeout));
                return Ok(Exit::Failed);
            }
            Some(_) => pause(),
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the gateway has no event for it; the wait is bounded")]
fn pause() {
    std::thread::sleep(LOOK);
}
