//! What keeps an upstream sound: balancing, ejection, breaker and limits.

use std::num::NonZero;
use std::time::Duration;

use crate::config::effective::{
    ADAPTIVE_MAX, ADAPTIVE_MIN, BREAKER_LONGEST, BREAKER_OPEN, BREAKER_PROBES, BREAKER_RATIO, BREAKER_WITHIN,
    EJECT_AT_MOST, EJECT_BASE, EJECT_FAILURES, EJECT_LONGEST, OF_AT_LEAST, QUEUE_TIMEOUT, span_or,
};
use crate::config::{
    self, Balance, Breaker, Code, Diagnostic, Diagnostics, Eject, KeySource, Limits, Scope, Span, Spanned,
};
use crate::upstream::balancer::Kind;
use crate::upstream::hash::Key;
use crate::upstream::{Resilience, breaker, gate, gradient, outlier};

/// Compiles it; every mistake is reported.
pub(super) fn compile(name: Span, written: &config::Upstream, found: &mut Diagnostics) -> Option<Resilience> {
    let eject = written.eject.as_ref().map(|eject| ejection(eject, found));
    let breaker = written.breaker.as_ref().map(breaker_policy);
    let limits = written.limits.as_ref().map(|limits| &limits.value);
    let shares = [
        (written.panic_threshold, "panic_threshold"),
        (written.breaker.as_ref().and_then(|breaker| breaker.failure_ratio), "failure_ratio"),
    ];
    let (whole, none) = (config::Percent::whole(100), config::Percent::whole(0));
    for (share, key) in shares {
        let Some(share) = share.filter(|share| *share > whole || key == "failure_ratio" && *share == none) else {
            continue;
        };
        let span = written.breaker.as_ref().filter(|_| key == "failure_ratio").map(|breaker| breaker.span);
        let message = format!("`{key}: {share}` is not a share");
        found.push(Diagnostic::at(Code::InvalidValue, message, span.unwrap_or(name), "here").help("at most `100%`"));
    }
    let adaptive = limits.and_then(|limits| limits.adaptive.as_ref()).map(|adaptive| adaptation(adaptive, found));
    let sticky = written.sticky.as_ref().map(|sticky| cookie(&sticky.cookie, found));
    let queue = limits.and_then(|limits| limits.queue).unwrap_or(0);
    let limited = limits.is_none_or(|limits| {
        limits.requests.is_some() || limits.connections.is_some() || limits.adaptive.is_some() || queue == 0
    });
    if let (false, Some(limits)) = (limited, &written.limits) {
        let message = "a queue without a limit to wait for";
        let help = "give `requests`, `connections` or `adaptive` too";
        found.push(Diagnostic::at(Code::InvalidValue, message, limits.span, "here").help(help));
        return None;
    }
    Some(Resilience {
        kind: kind(&written.balance),
        panic_threshold: written.panic_threshold.map_or(0.0, config::Percent::fraction),
        slow_start: written.slow_start.map_or(Duration::ZERO, |span| span.0),
        sticky: sticky.map_or(Some(None), |sticky| sticky.map(Some))?,
        eject: eject.map_or(Some(None), |eject| eject.map(Some))?,
        breaker,
        gate: places(limits),
        connections: limits.and_then(|limits| limits.connections).map(NonZero::get),
        retries: limits.and_then(|limits| limits.retries),
        adaptive: adaptive.map_or(Some(None), |adaptive| adaptive.map(Some))?,
    })
}

fn kind(balance: &Balance) -> Kind {
    let bound = |hashing: &config::Hashing| hashing.bounded_load.map(config::Percent::fraction);
    match balance {
        Balance::RoundRobin => Kind::RoundRobin,
        Balance::Random => Kind::Random,
        Balance::LeastRequest => Kind::LeastRequest,
        Balance::Ewma => Kind::Ewma,
        Balance::RingHash(hashing) => Kind::RingHash { bound: bound(hashing) },
        Balance::Maglev(hashing) => Kind::Maglev { bound: bound(hashing) },
    }
}

/// What a balancer hashes, if it does.
pub(super) fn key(balance: &Balance) -> Option<Key> {
    match balance {
        Balance::RingHash(hashing) | Balance::Maglev(hashing) => Some(source(&hashing.on)),
        _ => None,
    }
}

/// What tells requests apart.
pub(super) fn source(written: &KeySource) -> Key {
    match written {
        KeySource::ClientIp => Key::ClientIp,
        KeySource::Path => Key::Path,
        // Checked when it was read.
        KeySource::Header(name) => name.parse().map_or(Key::ClientIp, Key::Header),
        KeySource::Cookie(name) => Key::Cookie(name.as_str().into()),
        KeySource::Query(name) => Key::Query(name.as_str().into()),
    }
}

fn ejection(eject: &Spanned<Eject>, found: &mut Diagnostics) -> Option<outlier::Policy> {
    let shares = [eject.at_most, eject.failure_ratio];
    if shares.into_iter().flatten().any(|share| !share.is_share()) {
        found.push(Diagnostic::at(Code::InvalidValue, "a share above 100%", eject.span, "here"));
        return None;
    }
    Some(outlier::Policy {
        consecutive_failures: Some(eject.consecutive_failures.map_or(EJECT_FAILURES, NonZero::get)),
        failure_ratio: eject.failure_ratio.map(config::Percent::fraction),
        of_at_least: eject.of_at_least.map_or(OF_AT_LEAST, NonZero::get),
        base: span_or(eject.base, EJECT_BASE),
        longest: span_or(eject.longest, EJECT_LONGEST),
        at_most: eject.at_most.unwrap_or(EJECT_AT_MOST).fraction(),
    })
}

fn breaker_policy(written: &Spanned<Breaker>) -> (breaker::Policy, bool) {
    let consecutive = written.consecutive_failures.map(NonZero::get);
    let ratio = written.failure_ratio.or(consecutive.is_none().then_some(BREAKER_RATIO));
    let policy = breaker::Policy {
        failure_ratio: ratio.map(config::Percent::fraction),
        of_at_least: written.of_at_least.map_or(OF_AT_LEAST, NonZero::get),
        within: span_or(written.within, BREAKER_WITHIN),
        consecutive_failures: consecutive,
        open: span_or(written.open, BREAKER_OPEN),
        longest: span_or(written.longest, BREAKER_LONGEST),
        probes: written.probes.map_or(BREAKER_PROBES, NonZero::get),
    };
    (policy, written.per == Scope::Endpoint)
}

fn places(limits: Option<&Limits>) -> gate::Policy {
    gate::Policy {
        limit: limits.and_then(|limits| limits.requests).map(NonZero::get),
        queue: limits.and_then(|limits| limits.queue).unwrap_or(0),
        patience: span_or(limits.and_then(|limits| limits.queue_timeout), QUEUE_TIMEOUT),
    }
}

fn adaptation(adaptive: &Spanned<config::Adaptive>, found: &mut Diagnostics) -> Option<gradient::Policy> {
    let min = adaptive.min.map_or(ADAPTIVE_MIN, NonZero::get);
    let max = adaptive.max.map_or(ADAPTIVE_MAX, NonZero::get);
    if min > max {
        let message = format!("a lowest limit of {min} above the highest of {max}");
        found.push(Diagnostic::at(Code::InvalidValue, message, adaptive.span, "here"));
        return None;
    }
    Some(gradient::Policy { min, max, initial: 20.clamp(min, max) })
}

fn cookie(name: &Spanned<String>, found: &mut Diagnostics) -> Option<String> {
    // A cookie's name is a token (RFC 6265, section 4.1.1), as a header's is.
    if name.parse::<http::HeaderName>().is_err() {
        let message = format!("`{name}` is not a name of a cookie");
        found.push(Diagnostic::at(Code::InvalidValue, message, name.span, "here"));
        return None;
    }
    Some(name.value.clone())
}
