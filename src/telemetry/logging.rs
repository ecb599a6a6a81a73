//! The gateway's own log: to standard error, in text at a terminal and in JSON elsewhere.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Pingora reports each client that goes away; the access log tells the same once.
const DEFAULT_FILTER: &str = "info,pingora_proxy=off,pingora_core=off,pingora_load_balancing=off";

/// Begins logging. `POINTSMAN_LOG` sets the filter, for example `debug` or `info,pointsman=trace`.
/// A second call does nothing.
pub fn init() {
    let filter = EnvFilter::try_from_env("POINTSMAN_LOG").unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
    let registry = tracing_subscriber::registry().with(filter);
    // Initialising a second time, as tests may, leaves the first in place.
    let _ = if std::io::stderr().is_terminal() {
        registry.with(layer).try_init()
    } else {
        registry.with(layer.json().flatten_event(true).with_ansi(false)).try_init()
    };
    let _ = tracing_log::LogTracer::init();
}
