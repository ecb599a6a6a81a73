//! Routes.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, StatusCode};

use crate::config::{self, Code, Diagnostic, Named, OneOrMany, Span, Spanned, Target, Test};
use crate::filter::HeaderEdits;
use crate::filter::headers::may_edit;
use crate::route::conflict::{Conflict, conflicts};
use crate::route::pattern;
use crate::route::{Check, Definition, HostPattern, PathPattern, RouteTable, Template, Tests};
use crate::telemetry::RouteMetrics;

use super::compile::{Scope, within};
use super::upstreams::check_name;
use super::{Action, Route, targets};

/// Compiles all routes, and reports those that conflict.
pub(super) fn compile(scope: &mut Scope<'_>) -> RouteTable<Arc<Route>> {
    let known: HashMap<&str, &Route> = match scope.input.previous {
        Some(previous) => previous.table.iter().map(|route| (&*route.value.name, &*route.value)).collect(),
        None => HashMap::new(),
    };
    let mut names = HashSet::new();
    let mut definitions = Vec::new();
    let mut spans = Vec::new();
    for written in &scope.config.routes {
        let Some(draft) = draft(scope, &written.value) else { continue };
        let name = unique(scope, &mut names, &draft.name(), written);
        let before = known.get(name.as_str()).copied();
        let metrics = before.map_or_else(
            || Arc::new(RouteMetrics::new(scope.input.metrics, &name)),
            |known| Arc::clone(&known.metrics),
        );
        let Some(action) = action(scope, &written.value, &draft.path, (before, &metrics)) else { continue };
        definitions.push(draft.finish(&written.value, name, metrics, action));
        spans.push(written.value.path.span);
    }
    let table = RouteTable::new(definitions);
    for conflict in conflicts(&table) {
        let diagnostic = describe(&table, &spans, conflict);
        scope.found.push(diagnostic);
    }
    table
}

fn describe(table: &RouteTable<Arc<Route>>, spans: &[Span], conflict: Conflict) -> Diagnostic {
    let name = |index: usize| table.get(index).map(|route| route.value.name.to_string()).unwrap_or_default();
    match conflict {
        Conflict::Same { first, second } => {
            let message = format!("the routes `{}` and `{}` cannot be told apart", name(first), name(second));
            Diagnostic::at(Code::SameRoutes, message, spans[second], "matches exactly the same requests")
                .related(spans[first], "as this one")
        }
        Conflict::Unreachable { route, by, witness } => {
            let message = format!("the route `{}` is never reached", name(route));
            let diagnostic = Diagnostic::at(Code::Unreachable, message, spans[route], "never reached")
                .related(spans[by], format!("`{}` takes its requests", name(by)));
            diagnostic.maybe_help(witness.map(|witness| format!("for example {witness}")))
        }
    }
}

/// A route's own name, else one made of what it matches; made unique.
fn unique(scope: &mut Scope<'_>, names: &mut HashSet<String>, made: &str, written: &Spanned<config::Route>) -> String {
    match &written.value.name {
        Some(name) => {
            if let Err(problem) = check_name(name) {
                scope.found.push(Diagnostic::at(Code::Name, problem, name.span, "here"));
            } else if !names.insert(name.value.clone()) {
                let message = format!("two routes are called `{name}`");
                scope.found.push(Diagnostic::at(Code::Name, message, name.span, "again here"));
            }
            name.value.clone()
        }
        None => {
            let mut name = made.to_owned();
            let mut number = 2;
            while !names.insert(name.clone()) {
                name = format!("{made} #{number}");
                number += 1;
            }
            name
        }
    }
}

/// A route before it has its name and handles.
struct Draft {
    hosts: Vec<HostPattern>,
    path: PathPattern,
    tests: Tests,
    request_edits: HeaderEdits,
    response_edits: HeaderEdits,
}

impl Draft {
    /// A name made of what the route matches.
    fn name(&self) -> String {
        let host =
            self.hosts.first().filter(|host| **host != HostPattern::Any).map(ToString::to_string).unwrap_or_default();
        let method = self.tests.methods.first().map(|method| format!("{method} ")).unwrap_or_default();
        format!("{method}{host}{}", self.path)
    }

    fn finish(
        self,
        written: &config::Route,
        name: String,
        metrics: Arc<RouteMetrics>,
        action: Action,
    ) -> Definition<Arc<Route>> {
        let Self { hosts, path, tests, request_edits, response_edits } = self;
        let total = written.timeout.total.map(|total| total.0);
        let route = Route { name: name.into(), metrics, action, request_edits, response_edits, total };
        Definition { hosts, path, tests, priority: written.priority, value: Arc::new(route) }
    }
}

/// Reads every part before giving up on one, so that all mistakes are reported.
fn draft(scope: &mut Scope<'_>, route: &config::Route) -> Option<Draft> {
    let path = path_pattern(scope, &route.path);
    let hosts = hosts(scope, &route.host);
    let tests = tests(scope, route);
    let request_edits = edits(scope, &route.headers.request);
    let response_edits = edits(scope, &route.headers.response);
    let sound = path.is_some() && hosts.is_some() && tests.is_some();
    if let (false, Some(path)) = (sound, &path) {
        // For its findings alone.
        let metrics = RouteMetrics::new(scope.input.metrics, "refused");
        let _ = action(scope, route, path, (None, &metrics));
    }
    Some(Draft {
        path: path?,
        hosts: hosts?,
        tests: tests?,
        request_edits: request_edits?,
        response_edits: response_edits?,
    })
}

fn path_pattern(scope: &mut Scope<'_>, path: &Spanned<String>) -> Option<PathPattern> {
    match PathPattern::parse(path) {
        Ok(pattern) => Some(pattern),
        Err(error) => {
            let code = if error.regex { Code::Regex } else { Code::PathPattern };
            let span = within(&scope.input.loaded.sources, path.span, error.at, error.length);
            scope.report(code, error.message, span, error.help);
            None
        }
    }
}

fn hosts(scope: &mut Scope<'_>, written: &OneOrMany<Spanned<String>>) -> Option<Vec<HostPattern>> {
    if written.0.is_empty() {
        return Some(vec![HostPattern::Any]);
    }
    let mut hosts = Vec::new();
    let mut sound = true;
    for host in &written.0 {
        match HostPattern::parse(host) {
            Ok(host) if hosts.contains(&host) => {}
            Ok(host) => hosts.push(host),
            Err(problem) => {
                sound = false;
                scope.found.push(Diagnostic::at(Code::Host, problem, host.span, "here"));
            }
        }
    }
    sound.then_some(hosts)
}

fn tests(scope: &mut Scope<'_>, route: &config::Route) -> Option<Tests> {
    let methods = methods(scope, &route.method);
    let mut headers = Vec::new();
    let mut sound = true;
    for (name, test) in route.header.iter() {
        match (header_name(scope, name), check(scope, test)) {
            (Some(name), Some(check)) => headers.push((name, check)),
            _ => sound = false,
        }
    }
    let query = named_checks(scope, &route.query);
    let cookies = named_checks(scope, &route.cookie);
    let clients = route.client.0.iter().map(|network| network.value.0).collect();
    let tests = Tests { methods: methods?, headers, query: query?, cookies: cookies?, clients };
    sound.then_some(tests)
}

pub(super) fn methods(scope: &mut Scope<'_>, written: &OneOrMany<Spanned<String>>) -> Option<Vec<Method>> {
    let mut methods = Vec::new();
    let mut sound = true;
    for text in &written.0 {
        let upper = text.to_ascii_uppercase();
        match text.parse::<Method>() {
            Ok(method) if upper == text.value && method != Method::CONNECT => methods.push(method),
            Ok(_) if upper != text.value => {
                sound = false;
                scope.report(
                    Code::Method,
                    format!("`{text}` is not an upper-case method"),
                    text.span,
                    format!("methods are case-sensitive: write `{upper}`"),
                );
            }
            _ => {
                sound = false;
                scope.report(
                    Code::Method,
                    format!("`{text}` is not a method that can be routed"),
                    text.span,
                    "write a method such as GET or POST",
                );
            }
        }
    }
    sound.then_some(methods)
}

fn named_checks(scope: &mut Scope<'_>, written: &Named<Spanned<Test>>) -> Option<Vec<(Box<str>, Check)>> {
    written.iter().map(|(name, test)| Some((name.value.as_str().into(), check(scope, test)?))).collect()
}

fn check(scope: &mut Scope<'_>, test: &Spanned<Test>) -> Option<Check> {
    match &test.value {
        Test::Exact(text) => Some(Check::Exact(text.as_str().into())),
        Test::Present(true) => Some(Check::Present),
        Test::Present(false) => Some(Check::Absent),
        Test::Regex(source) => match pattern::regex(source) {
            Ok(regex) => Some(Check::Regex(Box::new(regex))),
            Err(problem) => {
                scope.report(Code::Regex, problem, test.span, pattern::REGEX_HELP);
                None
            }
        },
    }
}

fn edits(scope: &mut Scope<'_>, written: &config::HeaderEdits) -> Option<HeaderEdits> {
    let set = header_pairs(scope, &written.set);
    let add = header_pairs(scope, &written.add);
    let remove: Option<Vec<_>> = written.remove.0.iter().map(|name| editable_name(scope, name)).collect();
    Some(HeaderEdits { remove: remove?, set: set?, add: add? })
}

fn header_pairs(scope: &mut Scope<'_>, written: &Named<Spanned<String>>) -> Option<Vec<(HeaderName, HeaderValue)>> {
    let mut pairs = Vec::new();
    let mut sound = true;
    for (name, value) in written.iter() {
        let parsed = HeaderValue::from_str(value);
        if parsed.is_err() {
            scope.report(
                Code::Header,
                format!("the value of `{name}` has a character that no header may have"),
                value.span,
                "values are visible ASCII characters and spaces",
            );
        }
        match (editable_name(scope, name), parsed) {
            (Some(name), Ok(value)) => pairs.push((name, value)),
            _ => sound = false,
        }
    }
    sound.then_some(pairs)
}

fn header_name(scope: &mut Scope<'_>, name: &Spanned<String>) -> Option<HeaderName> {
    let parsed = name.parse().ok();
    if parsed.is_none() {
        let help = "header names are tokens, such as `x-beta`";
        scope.report(Code::Header, format!("`{name}` is not a header name"), name.span, help);
    }
    parsed
}

fn editable_name(scope: &mut Scope<'_>, name: &Spanned<String>) -> Option<HeaderName> {
    let parsed = header_name(scope, name)?;
    if !may_edit(&parsed) {
        let help = "it frames the message, belongs to the connection, or is set by the gateway";
        scope.report(Code::Header, format!("`{name}` cannot be edited"), name.span, help);
        return None;
    }
    Some(parsed)
}

fn action(
    scope: &mut Scope<'_>,
    route: &config::Route,
    path: &PathPattern,
    running: (targets::Before<'_>, &RouteMetrics),
) -> Option<Action> {
    let template = template(scope, route, path)?;
    let answers = matches!(route.to.value, Target::Respond(_) | Target::Redirect(_));
    if let (true, Some(mirror)) = (answers, &route.mirror) {
        let message = "a mirror of requests that are not forwarded";
        scope.report(Code::InvalidValue, message, mirror.to.span, "leave it out, or send the route to an upstream");
        return None;
    }
    match &route.to.value {
        Target::Respond(respond) => respond_action(scope, respond),
        Target::Redirect(redirect) => redirect_action(scope, redirect, path),
        _ => targets::forward(scope, route, template.as_ref(), running).map(Action::Forward),
    }
}

fn template(scope: &mut Scope<'_>, route: &config::Route, path: &PathPattern) -> Option<Option<Template>> {
    let (text, span) = match (&route.rewrite, route.strip_prefix) {
        (None, false) => return Some(None),
        (None, true) => ("/*", route.path.span),
        (Some(rewrite), false) => (rewrite.as_str(), rewrite.span),
        (Some(rewrite), true) => {
            scope.report(
                Code::Rewrite,
                "a route has `rewrite` or `strip_prefix`, not both",
                rewrite.span,
                "put the rest where it belongs in `rewrite`, as in `/v2/*`",
            );
            return None;
        }
    };
    let result =
        if text.starts_with('/') { Template::new(path, text) } else { Err("a rewrite begins with `/`".to_owned()) };
    match result {
        Ok(template) => Some(Some(template)),
        Err(problem) => {
            scope.report(Code::Rewrite, problem, span, "`strip_prefix` and a last `*` need a path that ends in `/*`");
            None
        }
    }
}

fn respond_action(scope: &mut Scope<'_>, respond: &config::Respond) -> Option<Action> {
    let status = StatusCode::from_u16(respond.status.value).ok().filter(|status| (200..600).contains(&status.as_u16()));
    let Some(status) = status else {
        scope.report(
            Code::InvalidValue,
            format!("{} is not a status to answer with", respond.status),
            respond.status.span,
            "from 200 to 599",
        );
        return None;
    };
    let mut headers = header_pairs(scope, &respond.headers)?;
    let has_type = headers.iter().any(|(name, _)| name == http::header::CONTENT_TYPE);
    if !has_type && !respond.body.is_empty() {
        headers.push((http::header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8")));
    }
    Some(Action::Respond { status, headers, body: Bytes::from(respond.body.clone()) })
}

fn redirect_action(scope: &mut Scope<'_>, redirect: &config::Redirect, path: &PathPattern) -> Option<Action> {
    let status = StatusCode::from_u16(redirect.status.value)
        .ok()
        .filter(|status| matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308));
    let Some(status) = status else {
        scope.report(
            Code::InvalidValue,
            format!("{} is not a status of a redirect", redirect.status),
            redirect.status.span,
            "301, 302, 303, 307 or 308",
        );
        return None;
    };
    let text = redirect.to.as_str();
    let safe = HeaderValue::from_str(text).is_ok()
        && (text.starts_with("https://")
            || text.starts_with("http://")
            || text.starts_with('/') && !text.starts_with("//"));
    if !safe {
        scope.report(
            Code::TargetUrl,
            format!("`{text}` is not a place to redirect to"),
            redirect.to.span,
            "write a path that begins with one `/`, or a URL",
        );
        return None;
    }
    match Template::new(path, text) {
        Ok(to) => Some(Action::Redirect { status, to }),
        Err(problem) => {
            scope.report(Code::Rewrite, problem, redirect.to.span, "a last `*` needs a path that ends in `/*`");
            None
        }
    }
}
