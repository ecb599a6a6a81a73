//! Upstreams: the named ones, and those that URLs in routes stand for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use http::HeaderValue;

use crate::config::diagnostic::did_you_mean;
use crate::config::effective::{
    CONNECT, HEALTH_EVERY, HEALTH_FALL, HEALTH_RISE, HEALTH_TIMEOUT, IDLE, RESPONSE, TUNNEL, fill_timeouts, span_or,
};
use crate::config::{self, Code, Config, Diagnostic, Diagnostics, Span, Spanned, TargetUrl, load};
use crate::route::host;
use crate::tls;
use crate::upstream::health::{HttpProbe, Plan, Probe, Thresholds};
use crate::upstream::{Location, Settings, Source, Timeouts, Tls, Upstream, endpoint_list};

use super::{Input, resilience};

/// The upstreams of a configuration while it is compiled.
pub(super) struct Book<'a> {
    input: &'a Input<'a>,
    known: BTreeMap<String, Arc<Upstream>>,
    /// Every name that the file declares, those of broken upstreams included.
    declared: BTreeSet<String>,
    used: BTreeSet<String>,
    defaults: config::Defaults,
}

/// The upstream that a route names.
pub(super) enum Lookup {
    Found(Arc<Upstream>),
    /// Its own mistakes are reported already.
    Broken,
    Unknown(Diagnostic),
}

impl<'a> Book<'a> {
    pub(super) fn new(input: &'a Input<'a>, config: &Config, found: &mut Diagnostics) -> Self {
        let root = input.loaded.root.as_ref();
        let entries = root.and_then(|root| root.entry("upstreams")).map(|(_, list)| list.entries()).unwrap_or_default();
        let declared = entries.iter().map(|(key, _)| key.text.clone()).collect();
        let mut book =
            Self { input, known: BTreeMap::new(), declared, used: BTreeSet::new(), defaults: config.defaults.clone() };
        if let Some(server) = config.resolver.as_ref().filter(|_| resolver(config).is_none()) {
            let message = format!("`{server}` is not the address of a DNS server");
            let diagnostic = Diagnostic::at(Code::InvalidValue, message, server.span, "here");
            found.push(diagnostic.help("write an IP address and a port, such as `127.0.0.1:53`"));
        }
        for (name, upstream) in config.upstreams.iter() {
            if let Err(problem) = check_name(name) {
                found.push(Diagnostic::at(Code::Name, problem, name.span, "here"));
                continue;
            }
            if let Some(settings) = settings(input, name, &upstream.value, found) {
                book.insert(settings);
            }
        }
        book
    }

    fn insert(&mut self, settings: Settings) -> Arc<Upstream> {
        let previous = self.input.previous.and_then(|snapshot| snapshot.upstream(&settings.name));
        let upstream = match previous {
            Some(previous) if previous.settings().fingerprint == settings.fingerprint => Arc::clone(previous),
            previous => Upstream::new(settings, previous.map(|previous| &**previous), self.input.metrics),
        };
        self.known.insert(upstream.name().to_owned(), Arc::clone(&upstream));
        upstream
    }

    /// The upstream that a name or URL in a route means, and the URL's path.
    pub(super) fn resolve(&mut self, target: &str, span: Span, found: &mut Diagnostics) -> (Lookup, String) {
        if !TargetUrl::looks_like(target) {
            return (self.named(target, span), String::new());
        }
        let url = match TargetUrl::parse(target) {
            Ok(url) => url,
            Err(problem) => {
                let message = format!("`{target}` is not a target: {problem}");
                found.push(Diagnostic::at(Code::TargetUrl, message, span, "here"));
                return (Lookup::Broken, String::new());
            }
        };
        let base = url.base().to_owned();
        let origin = url.origin();
        if let Some(upstream) = self.known.get(&origin) {
            return (Lookup::Found(Arc::clone(upstream)), base);
        }
        let mut written = TargetUrl { path: "/".to_owned(), ..url }.upstream(span);
        fill_timeouts(&mut written.timeout, &self.defaults.timeout);
        match settings(self.input, &Spanned::new(origin.clone(), span), &written, found) {
            Some(settings) => {
                self.used.insert(origin);
                (Lookup::Found(self.insert(settings)), base)
            }
            None => (Lookup::Broken, base),
        }
    }

    fn named(&mut self, name: &str, span: Span) -> Lookup {
        self.used.insert(name.to_owned());
        if let Some(upstream) = self.known.get(name) {
            return Lookup::Found(Arc::clone(upstream));
        }
        if self.declared.contains(name) {
            return Lookup::Broken;
        }
        let message = format!("route sends traffic to unknown upstream `{name}`");
        let help = did_you_mean(name, self.declared.iter().map(String::as_str));
        Lookup::Unknown(
            Diagnostic::at(Code::UnknownUpstream, message, span, "no upstream has this name").maybe_help(help),
        )
    }

    /// All upstreams by name; warns of those that no route uses.
    pub(super) fn finish(self, config: &Config, found: &mut Diagnostics) -> Vec<Arc<Upstream>> {
        // Beside errors, the route that uses it may be one that could not be read.
        if found.has_errors() {
            return Vec::new();
        }
        for (name, _) in config.upstreams.iter().filter(|(name, _)| !self.used.contains(&name.value)) {
            let message = format!("no route uses the upstream `{name}`");
            found.push(Diagnostic::at(Code::UnusedUpstream, message, name.span, "not used"));
        }
        self.known.into_values().collect()
    }
}

/// Names stand in logs, metrics and URLs.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    let valid = |c: char| c.is_ascii_alphanumeric() || "-_./:*~".contains(c);
    if name.is_empty() || name.len() > 128 || !name.chars().all(valid) {
        return Err(format!("`{name}` is not a name"));
    }
    Ok(())
}

fn settings(
    input: &Input<'_>,
    name: &Spanned<String>,
    written: &config::Upstream,
    found: &mut Diagnostics,
) -> Option<Settings> {
    let source = source(input, written, found);
    let tls = tls_settings(input, name, written, found);
    let health = health(written, found);
    let host = host_header(written, found);
    let resilience = resilience::compile(name.span, written, found);
    let base_path = base_path(written, found);
    let timeouts = Timeouts {
        connect: span_or(written.timeout.connect, CONNECT),
        response: span_or(written.timeout.response, RESPONSE),
        idle: span_or(written.timeout.idle, IDLE),
        tunnel: span_or(written.timeout.tunnel, TUNNEL),
    };
    let (source, tls, health, host) = (source?, tls?, health?, host?);
    let authorities = tls.as_ref().and_then(|tls: &Tls| tls.authorities.as_ref()).map(|known| known.fingerprint);
    let text = serde_json::to_string(written).unwrap_or_default();
    let resolver = input.loaded.config.as_ref().and_then(resolver);
    let label = label(name, written, tls.is_some());
    Some(Settings {
        name: name.value.clone(),
        label: HeaderValue::from_str(&label).unwrap_or(HeaderValue::from_static("unknown")),
        source,
        resolver,
        key: resilience::key(&written.balance),
        tls,
        health,
        resilience: resilience?,
        timeouts,
        base_path: base_path?,
        host,
        fingerprint: format!("{text}{authorities:?}{resolver:?}"),
    })
}

/// The DNS server to ask, unless it is the system's.
pub(super) fn resolver(config: &Config) -> Option<std::net::SocketAddr> {
    config.resolver.as_ref()?.parse().ok()
}

/// What answers are said to come from: the URL of the short form, else the name.
fn label(name: &str, written: &config::Upstream, tls: bool) -> String {
    match (&written.host, &written.endpoints[..]) {
        (Some(host), [endpoint]) if is_authority_of(host, &endpoint.address) => {
            let scheme = if tls { "https" } else { "http" };
            format!("{scheme}://{host}{}", written.base_path.as_ref().map_or("", |path| path))
        }
        _ => name.to_owned(),
    }
}

/// Whether a host is what a URL of this endpoint would have; its port may be left out.
fn is_authority_of(host: &str, address: &str) -> bool {
    host == address || [":80", ":443"].iter().any(|port| address.strip_suffix(port) == Some(host))
}

fn base_path(written: &config::Upstream, found: &mut Diagnostics) -> Option<String> {
    let Some(path) = &written.base_path else { return Some(String::new()) };
    if !path.starts_with('/') || path.ends_with('/') {
        let diagnostic = Diagnostic::at(Code::InvalidValue, "an invalid base path", path.span, "here");
        found.push(diagnostic.help("a base path is written as `/v2`"));
        return None;
    }
    Some(path.value.clone())
}

fn source(input: &Input<'_>, written: &config::Upstream, found: &mut Diagnostics) -> Option<Source> {
    if let Some(name) = &written.srv {
        let valid = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if name.is_empty() || !name.chars().all(valid) {
            let message = format!("`{name}` is not a name of SRV records");
            let help = "such a name is written as `_http._tcp.users.internal`";
            found.push(Diagnostic::at(Code::Endpoint, message, name.span, "here").help(help));
            return None;
        }
        return Some(Source::Srv(name.value.clone()));
    }
    if let Some(file) = &written.endpoints_file {
        let path = load::resolve(input.base, file);
        return match endpoint_list::read(&path) {
            Ok(_) => Some(Source::File(path)),
            Err(problem) => {
                found.push(Diagnostic::at(Code::Endpoint, problem, file.span, "named here"));
                None
            }
        };
    }
    if let Some(name) = &written.dns {
        return match Location::parse(name, 1, 0) {
            Ok(location) => Some(Source::Listed(vec![location])),
            Err(problem) => {
                let help = "a name and a port, such as `users.internal:8080`";
                found.push(Diagnostic::at(Code::Endpoint, problem, name.span, "here").help(help));
                None
            }
        };
    }
    locations(written, found).map(Source::Listed)
}

fn locations(written: &config::Upstream, found: &mut Diagnostics) -> Option<Vec<Location>> {
    let mut list: Vec<Location> = Vec::new();
    let mut sound = true;
    for endpoint in &written.endpoints {
        match Location::parse(&endpoint.address, endpoint.weight.get(), endpoint.tier) {
            Err(problem) => {
                let help = "an endpoint is a host and a port, such as `10.0.0.5:8080`";
                found.push(Diagnostic::at(Code::Endpoint, problem, endpoint.span, "here").help(help));
                sound = false;
            }
            Ok(location) if list.iter().any(|known| known.is_at(&location)) => {
                let message = format!("the endpoint `{}` stands twice", endpoint.address);
                found.push(
                    Diagnostic::at(Code::Endpoint, message, endpoint.span, "again here")
                        .help("use `weight` to give it more requests"),
                );
                sound = false;
            }
            Ok(location) => list.push(location),
        }
    }
    sound.then_some(list)
}

fn tls_settings(
    input: &Input<'_>,
    name: &Spanned<String>,
    written: &config::Upstream,
    found: &mut Diagnostics,
) -> Option<Option<Tls>> {
    let Some(tls) = &written.tls else { return Some(None) };
    let named = written.endpoints.first().map(|endpoint| endpoint.address.as_str());
    let first = named.or(written.dns.as_ref().map(|name| name.as_str())).map(host::without_port);
    let sni = tls.sni.as_ref().map(|sni| sni.value.as_str()).or(first).unwrap_or_default();
    let is_address = sni.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>().is_ok();
    if sni.is_empty() || is_address && tls.sni.is_none() {
        let message = format!("TLS to the upstream `{name}` needs a server name to verify");
        found.push(
            Diagnostic::at(Code::Tls, message, tls.span, "no server name")
                .help("give one: `tls: { sni: users.internal }`"),
        );
        return None;
    }
    let authorities = match &tls.ca {
        None => None,
        Some(ca) => match tls::authorities(&load::resolve(input.base, ca)) {
            Ok(authorities) => Some(authorities),
            Err(problem) => {
                found.push(Diagnostic::at(Code::Tls, problem, ca.span, "named here"));
                return None;
            }
        },
    };
    Some(Some(Tls { sni: sni.to_owned(), authorities }))
}

fn health(written: &config::Upstream, found: &mut Diagnostics) -> Option<Option<Plan>> {
    let Some(health) = &written.health else { return Some(None) };
    let mut refuse = |message: String, help: &str| {
        let diagnostic = Diagnostic::at(Code::InvalidValue, message, health.span, "here");
        found.push(if help.is_empty() { diagnostic } else { diagnostic.help(help) });
        None
    };
    let probe = match (&health.http, health.tcp, &health.grpc) {
        (Some(path), false, None) if path.starts_with('/') && path.parse::<http::Uri>().is_ok() => {
            Probe::Http(http_probe(health, path, found)?)
        }
        (None, true, None) => Probe::Tcp,
        (None, false, Some(service)) => Probe::Grpc(service.clone()),
        (Some(path), false, None) => {
            return refuse(format!("`{path}` is not a path to check"), "a path begins with `/`");
        }
        _ => {
            let message = "a health check is one of `http: /path`, `tcp: true` and `grpc: service`";
            return refuse(message.to_owned(), "");
        }
    };
    let only_http = [
        ("status", !health.status.is_empty()),
        ("body", health.body.is_some()),
        ("headers", !health.headers.is_empty()),
        ("host", health.host.is_some()),
    ];
    if health.http.is_none()
        && let Some((key, _)) = only_http.iter().find(|(_, given)| *given)
    {
        let diagnostic =
            Diagnostic::at(Code::InvalidValue, format!("`{key}` belongs to an `http` check"), health.span, "here");
        found.push(diagnostic);
        return None;
    }
    let every = span_or(health.every, HEALTH_EVERY);
    let thresholds = Thresholds {
        rise: health.rise.map_or(HEALTH_RISE, std::num::NonZero::get),
        fall: health.fall.map_or(HEALTH_FALL, std::num::NonZero::get),
    };
    let every_down = span_or(health.every_down, every);
    Some(Some(Plan { probe, every, every_down, timeout: span_or(health.timeout, HEALTH_TIMEOUT), thresholds }))
}

fn http_probe(health: &Spanned<config::Health>, path: &str, found: &mut Diagnostics) -> Option<HttpProbe> {
    let mut sound = true;
    for status in health.status.iter().filter(|status| !(100..600).contains(&status.value)) {
        let message = format!("{status} is not a status");
        found.push(Diagnostic::at(Code::InvalidValue, message, status.span, "here").help("from 100 to 599"));
        sound = false;
    }
    let mut headers = Vec::new();
    for (name, value) in health.headers.iter() {
        match (name.parse::<http::HeaderName>(), HeaderValue::from_str(value)) {
            (Ok(name), Ok(value)) => headers.push((name, value)),
            _ => {
                let message = format!("`{name}: {value}` is not a header");
                found.push(Diagnostic::at(Code::Header, message, name.span, "here"));
                sound = false;
            }
        }
    }
    sound.then(|| HttpProbe {
        path: path.to_owned(),
        host: health.host.clone(),
        headers,
        statuses: health.status.iter().map(|status| status.value).collect(),
        body: health.body.clone(),
    })
}

fn host_header(written: &config::Upstream, found: &mut Diagnostics) -> Option<Option<HeaderValue>> {
    let Some(host) = &written.host else { return Some(None) };
    let valid = host.parse::<http::uri::Authority>().is_ok_and(|authority| !authority.as_str().contains('@'));
    match HeaderValue::from_str(host) {
        Ok(value) if valid => Some(Some(value)),
        _ => {
            found.push(Diagnostic::at(Code::Host, format!("`{host}` is not a host"), host.span, "here"));
            None
        }
    }
}
