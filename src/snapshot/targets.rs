//! Where routes lead: targets, retries and mirrors.

use std::num::NonZero;
use std::sync::Arc;
use std::time::Instant;

use http::Method;

use crate::config::effective::{
    ATTEMPTS, BACKOFF, BUDGET, GUARD_EXCESS, GUARD_OF_AT_LEAST, LONGEST_BACKOFF, MIRROR_AT_ONCE, MIRROR_BODY, span_or,
};
use crate::config::{self, Breach, Code, Condition, OneOrMany, Percent, Span, Spanned, Target as Written};
use crate::filter::Rewrite;
use crate::route::Template;
use crate::telemetry::RouteMetrics;
use crate::upstream::backoff::Backoff;
use crate::upstream::budget::Budget;
use crate::upstream::failure::{Conditions, Methods};
use crate::upstream::hash::Key;
use crate::upstream::mirror::{Mirror, Rule};
use crate::upstream::shift::{self, Shift};
use crate::upstream::target::{Onward, Share, Split, Target};

use super::compile::Scope;
use super::resilience::source;
use super::upstreams::Lookup;
use super::{Forward, Leg, Retry, Route};

/// Repeated tries that are always allowed, each second, as in linkerd.
const BUDGET_FLOOR: f64 = 3.0;
/// The most tries at one upstream.
const MOST_ATTEMPTS: u32 = 10;
/// The most targets that a request may try in turn.
const MOST_TARGETS: usize = 16;

/// The route before this one of the same name, for what it hands on.
pub(super) type Before<'a> = Option<&'a Route>;

/// Compiles what forwards a route's requests; every mistake is reported.
pub(super) fn forward(
    scope: &mut Scope<'_>,
    route: &config::Route,
    template: Option<&Template>,
    (before, metrics): (Before<'_>, &RouteMetrics),
) -> Option<Arc<Forward>> {
    let retry = retry(scope, route, before);
    let mirror = route.mirror.as_ref().map(|mirror| compile_mirror(scope, mirror, template));
    let mut compiler = Compiler { scope: &mut *scope, template, metrics, before: shifts(before), count: 0 };
    let target = compiler.target(&route.to);
    let count = compiler.count;
    if count > MOST_TARGETS {
        let message = format!("{count} targets in one route");
        scope.report(Code::InvalidValue, message, route.to.span, format!("at most {MOST_TARGETS} can be tried"));
        return None;
    }
    let hedge = route.retry.as_ref().and_then(|retry| retry.hedge);
    if let (Some(hedge), Some(target)) = (hedge, &target) {
        let mut secured = None;
        target.leaves(&mut |leg| secured = secured.or(leg.upstream.sni().map(|_| leg.upstream.name())));
        if let Some(name) = secured {
            let message = format!("a hedge over TLS to the upstream `{name}`");
            scope.report(Code::InvalidValue, message, hedge.span, "hedged requests need upstreams without TLS");
            return None;
        }
    }
    let mirror = mirror.map_or(Some(None), |mirror| mirror.map(Some))?;
    let fingerprint = serde_json::to_string(&(
        (&route.to, &route.retry, &route.mirror),
        (&route.path, &route.rewrite, route.strip_prefix),
    ));
    let forward = Forward {
        label: describe(&route.to).into(),
        fingerprint: fingerprint.unwrap_or_default(),
        target: target?,
        retry: retry?,
        mirror,
    };
    // Kept whole, a split goes on where it was, and a mirror keeps its connections.
    Some(match before.map(|route| &route.action) {
        Some(super::Action::Forward(known)) if is_same(known, &forward) => Arc::clone(known),
        _ => Arc::new(forward),
    })
}

/// Whether two ways are the same, to the very upstreams.
fn is_same(one: &Forward, other: &Forward) -> bool {
    let upstreams = |forward: &Forward| {
        let mut list = Vec::new();
        forward.target.leaves(&mut |leg| list.push(Arc::as_ptr(&leg.upstream)));
        list.extend(forward.mirror.iter().map(|(leg, _)| Arc::as_ptr(&leg.upstream)));
        list
    };
    one.fingerprint == other.fingerprint && upstreams(one) == upstreams(other)
}

/// The shifts that a route has, to be carried on.
fn shifts(before: Before<'_>) -> Vec<Arc<Shift>> {
    let mut list = Vec::new();
    if let Some(super::Action::Forward(forward)) = before.map(|route| &route.action) {
        forward.target.shifts(&mut |shift| list.push(Arc::clone(shift)));
    }
    list
}

struct Compiler<'a, 'b> {
    scope: &'a mut Scope<'b>,
    template: Option<&'a Template>,
    metrics: &'a RouteMetrics,
    before: Vec<Arc<Shift>>,
    count: usize,
}

impl Compiler<'_, '_> {
    fn target(&mut self, to: &Spanned<Written>) -> Option<Target<Leg, Key>> {
        match &to.value {
            Written::Upstream(name) => {
                self.count += 1;
                let leg = leg(self.scope, name, to.span, self.template)?;
                Some(Target::leaf(Arc::new(leg)))
            }
            Written::Split(split) => self.split(split, to.span),
            Written::Fallback(fallback) => self.fallback(fallback, to.span),
            Written::Shift(shift) => self.shift(shift),
            Written::Respond(_) | Written::Redirect(_) => {
                let message = "an answer cannot stand within a split, a fallback or a shift";
                self.scope.report(Code::InvalidValue, message, to.span, "only upstreams, URLs and combinators can");
                None
            }
        }
    }

    fn split(&mut self, split: &config::Split, span: Span) -> Option<Target<Leg, Key>> {
        let compiled: Vec<_> = split.shares.iter().map(|share| self.target(&share.to)).collect();
        let mut shares = Vec::new();
        for (target, share) in compiled.into_iter().zip(&split.shares) {
            let label = describe(&share.to);
            let selected = self.metrics.selections(&label);
            shares.push(Share { target: target?, weight: share.weight, selected });
        }
        let split = Split::new(shares, split.sticky.as_ref().map(source));
        if split.is_none() {
            let help = "give at least one member a weight above 0";
            self.scope.report(Code::InvalidValue, "a split that sends nothing anywhere", span, help);
        }
        split.map(Target::Split)
    }

    fn fallback(&mut self, fallback: &config::Fallback, span: Span) -> Option<Target<Leg, Key>> {
        if fallback.targets.is_empty() {
            let help = "list at least one target";
            self.scope.report(Code::InvalidValue, "a fallback without targets", span, help);
            return None;
        }
        let methods = methods(self.scope, &fallback.methods);
        let targets: Vec<_> = fallback.targets.iter().map(|target| self.target(target)).collect();
        let on = if fallback.on.0.is_empty() {
            let (connect, reset, refused_stream, timeout, server_error) = (true, true, true, true, true);
            Conditions { connect, reset, refused_stream, timeout, server_error, statuses: Box::default() }
        } else {
            conditions(&fallback.on)
        };
        let per_try = fallback.per_try.map(|span| span.0);
        let targets: Option<Vec<_>> = targets.into_iter().collect();
        Some(Target::fallback(targets?, Arc::new(Onward { on, methods: methods?, per_try })))
    }

    fn shift(&mut self, written: &config::Shift) -> Option<Target<Leg, Key>> {
        let (from, to) = (self.target(&written.from), self.target(&written.to));
        let steps = &written.steps;
        let ascending = steps.windows(2).all(|pair| pair[0] < pair[1]);
        let shares = steps.iter().all(|step| step.is_share() && *step > Percent::whole(0));
        if steps.is_empty() || !ascending || !shares {
            let help = "write shares that grow, such as `[1%, 10%, 50%]`";
            let message = "the steps of a shift are shares from above 0% to 100% that grow";
            self.scope.report(Code::InvalidValue, message, steps.span, help);
            return None;
        }
        let guard = &written.guard;
        if guard.failure_excess.is_some_and(|excess| !excess.is_share()) {
            let message = "a guard that allows more failures than there are requests";
            self.scope.report(Code::InvalidValue, message, steps.span, "`failure_excess` is at most `100%`");
            return None;
        }
        let mut steps: Vec<_> = steps.iter().map(|step| step.fraction()).collect();
        if steps.last().is_some_and(|last| *last < 1.0) {
            steps.push(1.0);
        }
        let policy = shift::Policy {
            between: format!("{} > {}", describe(&written.from), describe(&written.to)),
            steps,
            hold: written.hold.0,
            failure_excess: guard.failure_excess.unwrap_or(GUARD_EXCESS).fraction(),
            of_at_least: guard.of_at_least.map_or(GUARD_OF_AT_LEAST, NonZero::get).into(),
            latency: guard.latency.map(Percent::fraction),
            rollback: guard.then == Breach::Rollback,
        };
        let known = self.before.iter().position(|shift| *shift.policy() == policy);
        let shift = match known {
            Some(index) => self.before.remove(index),
            None => Arc::new(Shift::new(policy, Instant::now())),
        };
        let key = written.sticky.as_ref().map_or(Key::ClientIp, source);
        Some(Target::Shift { shift, key, from: Box::new(from?), to: Box::new(to?) })
    }
}

/// The upstream that a name or URL means, and the path that it sees.
fn leg(scope: &mut Scope<'_>, target: &str, span: Span, template: Option<&Template>) -> Option<Leg> {
    let (lookup, base) = scope.upstreams.resolve(target, span, scope.found);
    let upstream = match lookup {
        Lookup::Found(upstream) => upstream,
        Lookup::Broken => return None,
        Lookup::Unknown(diagnostic) => {
            scope.found.push(diagnostic);
            return None;
        }
    };
    let base = format!("{}{base}", upstream.settings().base_path).into();
    Some(Leg { upstream, rewrite: Rewrite { base, template: template.cloned() } })
}

/// A target in a few words, for labels.
pub(super) fn describe(target: &Written) -> String {
    match target {
        Written::Upstream(name) => name.clone(),
        Written::Split(split) => joined("split", split.shares.iter().map(|share| &share.to.value)),
        Written::Fallback(fallback) => joined("fallback", fallback.targets.iter().map(|target| &target.value)),
        Written::Shift(shift) => joined("shift", [&shift.from.value, &shift.to.value].into_iter()),
        Written::Respond(respond) => format!("respond {}", respond.status),
        Written::Redirect(redirect) => format!("redirect {}", redirect.status),
    }
}

fn joined<'a>(kind: &str, targets: impl Iterator<Item = &'a Written>) -> String {
    format!("{kind}({})", targets.map(describe).collect::<Vec<_>>().join(", "))
}

fn retry(scope: &mut Scope<'_>, route: &config::Route, before: Before<'_>) -> Option<Retry> {
    let default = config::Retry::default();
    let written = route.retry.as_ref().unwrap_or(&default);
    let methods = methods(scope, &written.methods);
    let attempts = written.attempts.map_or(ATTEMPTS, NonZero::get);
    if attempts > MOST_ATTEMPTS {
        let message = format!("{attempts} tries of one request");
        scope.report(Code::InvalidValue, message, route.path.span, format!("at most {MOST_ATTEMPTS}"));
        return None;
    }
    let on = if written.on.0.is_empty() {
        Conditions { connect: true, reset: true, refused_stream: true, ..Conditions::default() }
    } else {
        conditions(&written.on)
    };
    let share = written.budget.unwrap_or(BUDGET);
    let known = match before.map(|route| &route.action) {
        Some(super::Action::Forward(forward)) if forward.retry.share == share.fraction() => Some(&forward.retry.budget),
        _ => None,
    };
    Some(Retry {
        attempts,
        on,
        methods: methods?,
        per_try: written.per_try.map(|span| span.0),
        hedge: written.hedge.map(|hedge| hedge.value.0),
        backoff: Backoff {
            base: span_or(written.backoff, BACKOFF),
            longest: span_or(written.longest_backoff, LONGEST_BACKOFF),
        },
        share: share.fraction(),
        spans_fallback: written.budget.is_some(),
        budget: known.map_or_else(|| Arc::new(Budget::new(share.fraction(), BUDGET_FLOOR, Instant::now())), Arc::clone),
    })
}

fn conditions(written: &OneOrMany<Spanned<Condition>>) -> Conditions {
    let has = |wanted: Condition| written.0.iter().any(|one| one.value == wanted);
    let statuses = written.0.iter().filter_map(|one| match one.value {
        Condition::Status(status) => Some(status),
        _ => None,
    });
    Conditions {
        connect: has(Condition::Connect),
        reset: has(Condition::Reset),
        refused_stream: has(Condition::RefusedStream),
        timeout: has(Condition::Timeout),
        server_error: has(Condition::ServerError),
        statuses: statuses.collect(),
    }
}

/// `any`, or methods; idempotent ones when there are none.
fn methods(scope: &mut Scope<'_>, written: &OneOrMany<Spanned<String>>) -> Option<Methods> {
    match &written.0[..] {
        [] => Some(Methods::Idempotent),
        [any] if any.value == "any" => Some(Methods::Any),
        list if list.iter().any(|method| method.value.eq_ignore_ascii_case("any")) => {
            let span = list[0].span;
            scope.report(Code::Method, "`any` stands alone", span, "write `any` for every method, or list methods");
            None
        }
        _ => Some(Methods::Listed(super::routes::methods(scope, written)?.into())),
    }
}

fn compile_mirror(
    scope: &mut Scope<'_>,
    written: &config::Mirror,
    template: Option<&Template>,
) -> Option<(Leg, Arc<Mirror>)> {
    let methods = if written.methods.0.is_empty() {
        Some(Methods::Listed([Method::GET, Method::HEAD, Method::OPTIONS].into()))
    } else {
        methods(scope, &written.methods)
    };
    let leg = leg(scope, &written.to, written.to.span, template)?;
    let share = written.share.unwrap_or(Percent::whole(100));
    if !share.is_share() {
        scope.report(Code::InvalidValue, format!("a share of {share}"), written.to.span, "at most `100%`");
        return None;
    }
    let rule = Rule {
        share: share.fraction(),
        max_body: usize::try_from(written.max_body.unwrap_or(MIRROR_BODY).0).unwrap_or(usize::MAX),
        methods: methods?,
        at_once: written.at_once.map_or(MIRROR_AT_ONCE, NonZero::get),
        compare: written.compare,
    };
    let mirror = Mirror::new(Arc::clone(&leg.upstream), rule);
    Some((leg, mirror))
}
