//! Pointsman: a load-balancing HTTP proxy and API gateway on Pingora.
//!
//! The modules form layers; each uses only what stands before it, which `tests/layering.rs`
//! holds:
//!
//! - [`config`]: what the operator wrote, with the place of every value, and what is wrong with it
//! - [`convert`]: other people's route files, turned into routes of this configuration
//! - [`telemetry`]: metrics, access log and log
//! - [`provider`]: where configurations come from
//! - [`route`]: which route; pure, knows no Pingora
//! - [`tls`]: whom to trust
//! - [`upstream`]: which endpoint: balancing, health, addresses
//! - [`filter`]: what happens on the way: edits of headers and paths
//! - [`snapshot`]: a configuration compiled into what requests meet; immutable
//! - [`proxy`]: Pingora's phases, each a few lines that hand over
//! - [`reload`]: the single writer: compile whole, swap once
//! - [`admin`]: metrics, probes and the API
//! - [`server`]: listeners, threads, signals
//! - [`cli`]: the command line
//!
//! A request loads the [`snapshot`] once and lives under it to its log line. Whatever outlives a
//! snapshot (an endpoint's health, counters, connections) is adopted by the next one.
#![forbid(unsafe_code)]

pub mod admin;
pub mod cli;
pub mod config;
pub mod convert;
pub mod filter;
pub mod provider;
pub mod proxy;
pub mod reload;
pub mod route;
pub mod server;
pub mod snapshot;
pub mod telemetry;
pub mod tls;
pub mod upstream;
