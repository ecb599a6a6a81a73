//! What the gateway would do with a request, in words. No upstream is asked.

use std::net::IpAddr;
use std::time::Instant;

use http::{HeaderMap, Method, Uri};
use serde::{Deserialize, Serialize};

use crate::route::Verdict;
use crate::route::host::Host;
use crate::route::normalize::normalize;
use crate::route::predicate::Request;
use crate::upstream::breaker;

use super::{Action, Forward, Leg, Route, Snapshot};

/// Routes near the request that are told of besides those considered.
const MAX_OTHERS: usize = 5;

/// A request to explain.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Question {
    /// The method.
    pub method: String,
    /// An absolute URL.
    pub url: String,
    /// Headers as `name: value`.
    #[serde(default)]
    pub headers: Vec<String>,
    /// The client's address.
    #[serde(default)]
    pub client: Option<IpAddr>,
}

/// What would become of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Explanation {
    /// Host and path in the form in which they are matched.
    pub host: String,
    /// The path in its one form.
    pub path: String,
    /// The route that serves the request.
    pub route: Option<String>,
    /// What the route does.
    pub action: Option<String>,
    /// The status of the gateway's own answer, where it is known.
    pub status: Option<u16>,
    /// The URL that the upstream would see.
    pub forwarded: Option<String>,
    /// The upstream's endpoints and whether each may be picked.
    pub endpoints: Vec<String>,
    /// What else holds for the route's requests: retries, shifts, mirrors, limits and breakers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// All targets, where there is more than one; `forwarded` and `endpoints` tell of the first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<Goal>,
    /// Routes whose host and path match, in the order of consideration.
    pub considered: Vec<Line>,
    /// Other routes for this host or path, and why they do not match.
    pub others: Vec<Line>,
}

/// A target and what it would see.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Goal {
    /// The upstream.
    pub upstream: String,
    /// The URL that it would see.
    pub forwarded: String,
    /// Its endpoints and whether each may be picked.
    pub endpoints: Vec<String>,
}

/// A route and what became of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Line {
    /// The route's name.
    pub route: String,
    /// What became of it.
    pub verdict: String,
}

impl Snapshot {
    /// Explains a request.
    ///
    /// # Errors
    /// Says what is wrong with the question itself.
    pub fn explain(&self, question: &Question) -> Result<Explanation, String> {
        let method: Method = question.method.parse().map_err(|_| format!("`{}` is not a method", question.method))?;
        let url: Uri = question.url.parse().map_err(|error| format!("`{}` is not a URL: {error}", question.url))?;
        let authority =
            url.authority().ok_or_else(|| format!("`{}` has no host: write http://host/path", question.url))?;
        let headers = headers(&question.headers)?;
        let strict = self.listeners.iter().all(|listener| listener.strict_paths) && !self.listeners.is_empty();
        let host = Host::new(authority.as_str());
        let path = normalize(url.path(), strict).map_err(|error| format!("answered with 400 bad_request: {error}"))?;
        let request = Request {
            method: &method,
            host: host.as_str(),
            path: &path,
            query: url.query(),
            headers: &headers,
            client: question.client,
        };
        Ok(self.describe(&request))
    }

    fn describe(&self, request: &Request<'_>) -> Explanation {
        let considered = self.table.explain(request);
        let named = |index: usize| self.table.get(index).map(|route| &*route.value);
        let chosen = considered.iter().find(|one| one.verdict == Verdict::Chosen).and_then(|one| named(one.index));
        let lines = considered.iter().filter_map(|one| {
            let verdict = match &one.verdict {
                Verdict::Chosen => "chosen".to_owned(),
                Verdict::Passed => "matches too, but ranks after the chosen route".to_owned(),
                Verdict::Failed(failure) => failure.to_string(),
            };
            Some(Line { route: named(one.index)?.name.to_string(), verdict })
        });
        let mut explanation = Explanation {
            host: request.host.to_owned(),
            path: request.path.to_owned(),
            route: chosen.map(|route| route.name.to_string()),
            action: None,
            status: None,
            forwarded: None,
            endpoints: Vec::new(),
            notes: Vec::new(),
            targets: Vec::new(),
            considered: lines.collect(),
            others: self.others(request, &considered.iter().map(|one| one.index).collect::<Vec<_>>()),
        };
        match chosen {
            Some(route) => act(&mut explanation, route, request),
            None => (explanation.action, explanation.status) = (Some("no_route".to_owned()), Some(404)),
        }
        explanation
    }

    /// Routes that match the host or the path, but not both.
    fn others(&self, request: &Request<'_>, considered: &[usize]) -> Vec<Line> {
        let routes = self.table.iter().enumerate().filter(|(index, _)| !considered.contains(index));
        let near = routes.filter_map(|(_, route)| {
            let host = route.hosts.iter().any(|host| host.matches(request.host));
            let path = route.path.matches(request.path);
            let verdict = match (host, path) {
                (false, true) => format!(
                    "the host is not {}",
                    route.hosts.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ")
                ),
                (true, false) => format!("the path does not match {}", route.path),
                _ => return None,
            };
            Some(Line { route: route.value.name.to_string(), verdict })
        });
        near.take(MAX_OTHERS).collect()
    }
}

fn act(explanation: &mut Explanation, route: &Route, request: &Request<'_>) {
    let query = request.query.map(|query| format!("?{query}")).unwrap_or_default();
    match &route.action {
        Action::Respond { status, .. } => {
            (explanation.action, explanation.status) = (Some("respond".to_owned()), Some(status.as_u16()));
        }
        Action::Redirect { status, to } => {
            let mut place = String::new();
            to.expand(request.path, &mut place);
            (explanation.action, explanation.status) =
                (Some(format!("redirect to {place}{query}")), Some(status.as_u16()));
        }
        Action::Forward(forward) => {
            explanation.action = Some(format!("forward to {}", forward.label));
            forward.target.leaves(&mut |leg| explanation.targets.push(target(leg, request, &query)));
            if let Some(first) = explanation.targets.first() {
                explanation.forwarded = Some(first.forwarded.clone());
                explanation.endpoints = first.endpoints.clone();
            }
            if explanation.targets.len() == 1 {
                explanation.targets.clear();
            }
            explanation.notes = notes(forward);
        }
    }
}

fn notes(forward: &Forward) -> Vec<String> {
    let now = Instant::now();
    let retry = &forward.retry;
    let mut notes = vec![match retry.attempts {
        1 => "never tried again".to_owned(),
        tries => format!("up to {tries} tries at one upstream, {:.0}% of the requests again", retry.share * 100.0),
    }];
    notes.extend(
        retry.hedge.map(|after| format!("a second endpoint is asked after {}", humantime::format_duration(after))),
    );
    forward.target.shifts(&mut |shift| notes.push(shift.describe()));
    notes.extend(forward.mirror.iter().map(|(leg, _)| format!("copied to {}", leg.upstream.name())));
    let mut told = Vec::new();
    forward.target.leaves(&mut |leg| {
        let (name, condition) = (leg.upstream.name(), leg.upstream.condition(now));
        if told.contains(&name) {
            return;
        }
        told.push(name);
        if condition.breaker != breaker::State::Closed {
            notes.push(format!("{name}: its breaker is {}", condition.breaker.as_str()));
        }
        if let Some(limit) = Some(leg.upstream.limit()).filter(|limit| *limit != u32::MAX) {
            notes.push(format!("{name}: {} of {limit} places taken, {} waiting", condition.in_use, condition.waiting));
        }
        if condition.panic {
            notes.push(format!("{name}: unhealthy endpoints are used for want of others"));
        }
    });
    notes
}

fn target(leg: &Leg, request: &Request<'_>, query: &str) -> Goal {
    let (upstream, now) = (&leg.upstream, Instant::now());
    let host = upstream.settings().host.as_ref().and_then(|host| host.to_str().ok()).unwrap_or(request.host);
    let scheme = if upstream.sni().is_some() { "https" } else { "http" };
    let endpoints = upstream.endpoints();
    let shown = endpoints
        .iter()
        .map(|(endpoint, weight)| format!("{} weight {weight} {}", endpoint.name(), endpoint.condition(now)));
    Goal {
        upstream: upstream.name().to_owned(),
        forwarded: format!("{scheme}://{host}{}{query}", leg.rewrite.apply(request.path)),
        endpoints: shown.collect(),
    }
}

fn headers(lines: &[String]) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for line in lines {
        let wrong = || format!("`{line}` is not a header: write `name: value`");
        let (name, value) = line.split_once(':').ok_or_else(wrong)?;
        let name: http::HeaderName = name.trim().parse().map_err(|_| wrong())?;
        headers.append(name, value.trim().parse().map_err(|_| wrong())?);
    }
    Ok(headers)
}
