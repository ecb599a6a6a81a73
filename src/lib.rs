//! Pointsman: a load-balancing HTTP proxy and API gateway.
pub mod config;
pub mod route;
pub mod telemetry;
pub mod tls;
