//! The built-in defaults, and a configuration with every default filled in.

use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use super::source::Span;
use super::spanned::Spanned;
use super::{
    Adaptive, Admin, Breaker, Config, DefaultTimeouts, Eject, Health, Limits, Mirror, Percent, Retry, Size, TimeSpan,
    Timeouts, Upstream,
};

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
/// See [`Eject::consecutive_failures`].
pub const EJECT_FAILURES: u32 = 5;
/// See [`Eject::of_at_least`] and [`Breaker::of_at_least`].
pub const OF_AT_LEAST: u32 = 20;
/// See [`Eject::base`].
pub const EJECT_BASE: Duration = Duration::from_secs(30);
/// See [`Eject::longest`].
pub const EJECT_LONGEST: Duration = Duration::from_secs(300);
/// See [`Eject::at_most`].
pub const EJECT_AT_MOST: Percent = Percent::whole(50);
/// See [`Breaker::failure_ratio`].
pub const BREAKER_RATIO: Percent = Percent::whole(50);
/// See [`Breaker::within`].
pub const BREAKER_WITHIN: Duration = Duration::from_secs(10);
/// See [`Breaker::open`].
pub const BREAKER_OPEN: Duration = Duration::from_secs(10);
/// See [`Breaker::longest`].
pub const BREAKER_LONGEST: Duration = Duration::from_secs(120);
/// See [`Breaker::probes`].
pub const BREAKER_PROBES: u32 = 1;
/// See [`Limits::queue_timeout`].
pub const QUEUE_TIMEOUT: Duration = Duration::from_secs(1);
/// See [`Adaptive::min`].
pub const ADAPTIVE_MIN: u32 = 3;
/// See [`Adaptive::max`].
pub const ADAPTIVE_MAX: u32 = 1000;
/// See [`Retry::attempts`].
pub const ATTEMPTS: u32 = 3;
/// See [`Retry::backoff`].
pub const BACKOFF: Duration = Duration::from_millis(25);
/// See [`Retry::longest_backoff`].
pub const LONGEST_BACKOFF: Duration = Duration::from_millis(250);
/// See [`Retry::budget`].
pub const BUDGET: Percent = Percent::whole(20);
/// See [`Mirror::max_body`].
pub const MIRROR_BODY: Size = Size(64 << 10);
/// See [`Mirror::at_once`].
pub const MIRROR_AT_ONCE: u32 = 64;
/// See [`super::Guard::failure_excess`].
pub const GUARD_EXCESS: Percent = Percent::whole(1);
/// See [`super::Guard::of_at_least`].
pub const GUARD_OF_AT_LEAST: u32 = 100;
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
    let defaults = config.defaults.clone();
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
        fill_timeouts(&mut upstream.value.timeout, &defaults.timeout);
        fill_upstream(&mut upstream.value);
    }
    for route in &mut config.routes {
        route.value.timeout.total = route.value.timeout.total.or(defaults.timeout.total);
        if route.value.retry.is_some() || defaults.retry.is_some() {
            let retry = route.value.retry.get_or_insert_default();
            fill_retry(retry, defaults.retry.as_ref());
        }
        if let Some(mirror) = &mut route.value.mirror {
            fill_mirror(mirror);
        }
    }
    config
}

fn fill_upstream(upstream: &mut Upstream) {
    if let Some(health) = &mut upstream.health {
        fill_health(&mut health.value);
    }
    if let Some(eject) = &mut upstream.eject {
        fill_eject(&mut eject.value);
    }
    if let Some(breaker) = &mut upstream.breaker {
        fill_breaker(&mut breaker.value);
    }
    if let Some(limits) = &mut upstream.limits {
        fill_limits(&mut limits.value);
    }
}

fn fill_eject(eject: &mut Eject) {
    eject.consecutive_failures = eject.consecutive_failures.or(NonZeroU32::new(EJECT_FAILURES));
    eject.of_at_least = eject.of_at_least.or(NonZeroU32::new(OF_AT_LEAST));
    eject.base.get_or_insert(TimeSpan(EJECT_BASE));
    eject.longest.get_or_insert(TimeSpan(EJECT_LONGEST));
    eject.at_most.get_or_insert(EJECT_AT_MOST);
}

fn fill_breaker(breaker: &mut Breaker) {
    if breaker.consecutive_failures.is_none() {
        breaker.failure_ratio.get_or_insert(BREAKER_RATIO);
    }
    breaker.of_at_least = breaker.of_at_least.or(NonZeroU32::new(OF_AT_LEAST));
    breaker.within.get_or_insert(TimeSpan(BREAKER_WITHIN));
    breaker.open.get_or_insert(TimeSpan(BREAKER_OPEN));
    breaker.longest.get_or_insert(TimeSpan(BREAKER_LONGEST));
    breaker.probes = breaker.probes.or(NonZeroU32::new(BREAKER_PROBES));
}

fn fill_limits(limits: &mut Limits) {
    limits.queue.get_or_insert(0);
    limits.queue_timeout.get_or_insert(TimeSpan(QUEUE_TIMEOUT));
    if let Some(adaptive) = &mut limits.adaptive {
        let Adaptive { min, max } = &mut adaptive.value;
        *min = min.or(NonZeroU32::new(ADAPTIVE_MIN));
        *max = max.or(NonZeroU32::new(ADAPTIVE_MAX));
    }
}

/// A route's own value, else the one of `defaults:`, else the built-in one.
pub fn fill_retry(retry: &mut Retry, defaults: Option<&Retry>) {
    let fill = |value: &mut Option<TimeSpan>, default: Option<TimeSpan>, built_in| {
        *value = value.or(default).or(Some(TimeSpan(built_in)));
    };
    retry.attempts = retry.attempts.or(defaults.and_then(|defaults| defaults.attempts)).or(NonZeroU32::new(ATTEMPTS));
    fill(&mut retry.backoff, defaults.and_then(|defaults| defaults.backoff), BACKOFF);
    fill(&mut retry.longest_backoff, defaults.and_then(|defaults| defaults.longest_backoff), LONGEST_BACKOFF);
    retry.budget = retry.budget.or(defaults.and_then(|defaults| defaults.budget));
    retry.hedge = retry.hedge.or(defaults.and_then(|defaults| defaults.hedge));
    retry.per_try = retry.per_try.or(defaults.and_then(|defaults| defaults.per_try));
    if let Some(defaults) = defaults {
        if retry.on.0.is_empty() {
            retry.on = defaults.on.clone();
        }
        if retry.methods.0.is_empty() {
            retry.methods = defaults.methods.clone();
        }
    }
}

fn fill_mirror(mirror: &mut Mirror) {
    mirror.share.get_or_insert(Percent::whole(100));
    mirror.max_body.get_or_insert(MIRROR_BODY);
    mirror.at_once = mirror.at_once.or(NonZeroU32::new(MIRROR_AT_ONCE));
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
    let every = *health.every.get_or_insert(TimeSpan(HEALTH_EVERY));
    health.every_down.get_or_insert(every);
    health.timeout.get_or_insert(TimeSpan(HEALTH_TIMEOUT));
    health.rise = health.rise.or(NonZeroU32::new(HEALTH_RISE));
    health.fall = health.fall.or(NonZeroU32::new(HEALTH_FALL));
}
