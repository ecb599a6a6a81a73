//! Pointsman: a load-balancing HTTP proxy and API gateway.
pub mod config;
pub mod route;
pub mod telemetry;
pub mod tls;
pub mod upstream;
pub mod convert;
pub mod filter;
pub mod provider;
pub mod snapshot;
pub mod proxy;
pub mod admin;
pub mod reload;
