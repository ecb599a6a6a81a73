//! Behaviour over real sockets: the gateway's own binary between real clients and real servers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod harness;

mod admin;
mod balancing;
mod bodies;
mod cli;
mod conf;
mod diagnostics;
mod discovery;
mod errors;
mod faults;
mod forwarding;
mod function_routes;
mod health;
mod paths;
mod reload;
mod resilience;
mod resolver;
mod retries;
mod targets;
mod upstreams;
