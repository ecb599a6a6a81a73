//! One upstream `u` and how its endpoints are.

use super::load::{Load, Tally};
use super::{Gateway, eventually};

/// One upstream `u` over these ports, and a route to it.
pub fn configuration(ports: &[u16], upstream: &str, route: &str) -> String {
    let endpoints: Vec<String> = ports.iter().map(|port| format!("\"127.0.0.1:{port}\"")).collect();
    format!(
        "upstreams: {{ u: {{ endpoints: [{}]{upstream} }} }}\nroutes: [{{ path: /*, to: u{route} }}]\n",
        endpoints.join(", ")
    )
}

pub async fn condition(gateway: &Gateway, port: u16) -> String {
    let list = gateway.api("/v1/upstreams").await;
    let endpoints = list[0]["endpoints"].as_array().unwrap().clone();
    let address = format!("127.0.0.1:{port}");
    let found = endpoints.iter().find(|one| one["address"] == address).map(|one| one["condition"].clone());
    found.and_then(|condition| condition.as_str().map(str::to_owned)).unwrap_or_default()
}

pub async fn until(gateway: &Gateway, port: u16, expected: &str) {
    eventually(expected, async || (condition(gateway, port).await == expected).then_some(())).await;
}

pub async fn wait_for(load: &Load, more: usize) {
    let target = load.good() + more;
    eventually("more requests", async || (load.good() >= target).then_some(())).await;
}

pub fn unharmed(mut tally: Tally) {
    assert!(tally.bad.is_empty(), "{:?}", tally.bad);
    let p99 = tally.p99();
    println!("{} requests, p99 {p99:?}", tally.good);
}

/// Waits until every place is given back. That comes a moment after a client has its answer.
pub async fn idle(gateway: &Gateway) {
    eventually("all places are given back", async || {
        let list = gateway.api("/v1/upstreams").await;
        (list[0]["in_use"] == 0 && list[0]["waiting"] == 0).then_some(())
    })
    .await;
}
