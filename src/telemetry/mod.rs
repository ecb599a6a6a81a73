//! What the gateway tells about itself: metrics, access log and log.

pub mod access_log;
pub mod logging;
pub mod metrics;

pub use access_log::{AccessLog, Destination, Record};
pub use metrics::{Copied, EndpointMetrics, Metrics, Outcome, RouteMetrics, UpstreamMetrics};
