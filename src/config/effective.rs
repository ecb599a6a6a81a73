//! The built-in defaults, and a configuration with every default filled in.

use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use super::source::Span;
use super::spanned::Spanned;
use super::{Admin, Config, DefaultTimeouts, Health, TimeSpan, Timeouts};

/// See [`Timeouts::connect`].
pub const CONNECT: Duration = Duration::from_secs(2);
/// See [`Timeouts::response`].
pub const RESPONSE: Duration = Duration::from_secs(30);
/// See [`Timeouts::idle`].
pub const IDLE: Duration = Duration::from_secs(60);
/// See [`Timeouts::tunnel`].
pub const TUNNEL: Duration = Duration::from_secs(600);
/// See [`super::Listener::keep_alive`].
pub const KEEP_ALIVE: Duration = Duration::from_secs(60);
/// See [`Config::drain_timeout`].
pub const DRAIN: Duration = Duration::from_secs(30);
/// See [`Health::every`].
pub const HEALTH_EVERY: Duration = Duration::from_secs(5);
/// See [`Health::timeout`].
pub const HEALTH_TIMEOUT: Duration = Duration::from_secs(1);
/// See [`Health::rise`].
pub const HEALTH_RISE: u32 = 2;
/// See [`Health::fall`].
pub const HEALTH_FALL: u32 = 3;
/// See [`Config::admin`].
pub const ADMIN_ADDRESS: &str = "127.0.0.1:9901";

/// A value of time, or the built-in one.
#[must_use]
pub fn span_or(written: Option<TimeSpan>, built_in: Duration) -> Duration {
    written.map_or(built_in, |span| span.0)
}

/// The configuration with every default filled in: an upstream's own value, else the one of
/// `defaults:`, else the built-in one.
#[must_use]
pub fn effective(config: &Config) -> Config {
    let mut config = config.clone();
    let defaults = config.defaults.timeout;
    // What they name is part of the configuration by now.
    config.include.clear();
    config.imports.clear();
    config.workers.get_or_insert_with(|| std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN));
    config.drain_timeout.get_or_insert(TimeSpan(DRAIN));
    config.admin.get_or_insert_with(|| Admin { address: Spanned::new(ADMIN_ADDRESS.to_owned(), Span::default()) });
    for listener in &mut config.listeners {
        listener.keep_alive.get_or_insert(TimeSpan(KEEP_ALIVE));
    }
    for (_, upstream) in &mut config.upstreams.0 {
        fill_timeouts(&mut upstream.value.timeout, &defaults);
        if let Some(health) = &mut upstream.value.health {
            fill_health(&mut health.value);
        }
    }
    for route in &mut config.routes {
        route.value.timeout.total = route.value.timeout.total.or(defaults.total);
    }
    config
}

/// Fills in what an upstream leaves out.
pub fn fill_timeouts(timeouts: &mut Timeouts, defaults: &DefaultTimeouts) {
    let fill = |value: &mut Option<TimeSpan>, default: Option<TimeSpan>, built_in| {
        *value = value.or(default).or(Some(TimeSpan(built_in)));
    };
    fill(&mut timeouts.connect, defaults.connect, CONNECT);
    fill(&mut timeouts.response, defaults.response, RESPONSE);
    fill(&mut timeouts.idle, defaults.idle, IDLE);
    fill(&mut timeouts.tunnel, defaults.tunnel, TUNNEL);
}

fn fill_health(health: &mut Health) {
    health.every.get_or_insert(TimeSpan(HEALTH_EVERY));
    health.timeout.get_or_insert(TimeSpan(HEALTH_TIMEOUT));
    health.rise = health.rise.or(NonZeroU32::new(HEALTH_RISE));
    health.fall = health.fall.or(NonZeroU32::new(HEALTH_FALL));
}
