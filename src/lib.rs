//! Pointsman: a load-balancing HTTP proxy and API gateway.
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
