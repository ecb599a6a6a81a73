//! Listeners and the other things that are set when the process starts.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::config::effective::{ADMIN_ADDRESS, KEEP_ALIVE, span_or};
use crate::config::tree::Kind;
use crate::config::{AccessLog, Code, Diagnostic, Span, load};
use crate::telemetry::Destination;

use super::compile::Scope;
use super::{AdminAddress, Fixed, Listener};

/// Compiles the listeners.
pub(super) fn compile(scope: &mut Scope<'_>) -> Vec<Listener> {
    let mut listeners: Vec<Listener> = Vec::new();
    for written in &scope.config.listeners {
        let span = written.address.span;
        let Ok(address) = written.address.parse::<SocketAddr>() else {
            let help = "write an IP address and a port, such as `0.0.0.0:80` or `[::]:80`";
            scope.report(Code::Listener, format!("`{}` is not an address to listen on", written.address), span, help);
            continue;
        };
        if address.port() == 0 {
            scope.report(
                Code::Listener,
                "a listener needs a port",
                span,
                "clients could not know a port that the system picks",
            );
            continue;
        }
        if listeners.iter().any(|known| known.address == address) {
            scope.report(Code::Listener, format!("two listeners at `{address}`"), span, "remove one of the two");
            continue;
        }
        listeners.push(Listener {
            address,
            redirect_to_https: written.redirect_to_https,
            trusted: written.trusted_proxies.iter().map(|network| network.0).collect(),
            strict_paths: written.strict_paths,
            keep_alive: span_or(written.keep_alive, KEEP_ALIVE).as_secs().max(1),
        });
    }
    let written = scope.input.loaded.root.as_ref().and_then(|root| root.entry("listeners"));
    if written.is_none_or(|(_, list)| matches!(&list.kind, Kind::List(items) if items.is_empty())) {
        let span = written.map(|(key, _)| key.span);
        let help = "for example `listeners: [{ address: \"0.0.0.0:8080\" }]`";
        let diagnostic = Diagnostic::new(Code::Listener, "no listener: the gateway would not be reachable").help(help);
        scope.found.push(Diagnostic { span, ..diagnostic });
    }
    listeners
}

/// What only a start can set.
pub(super) fn fixed(scope: &mut Scope<'_>, listeners: &[Listener]) -> Option<Fixed> {
    let written = scope.config.admin.as_ref();
    let text = written.map_or(ADMIN_ADDRESS, |admin| admin.address.value.as_str());
    let span = written.map_or(Span::default(), |admin| admin.address.span);
    let admin = match admin_address(text, scope) {
        Ok(address) => address,
        Err(problem) => {
            scope.report(
                Code::Admin,
                problem,
                span,
                "use a loopback address such as `127.0.0.1:9901`, or `unix:/run/pointsman/admin.sock`",
            );
            return None;
        }
    };
    let access_log = match &scope.config.access_log {
        AccessLog::Stdout => Destination::Stdout,
        AccessLog::Off => Destination::Off,
        AccessLog::File(path) => Destination::File(load::resolve(scope.input.base, path)),
    };
    Some(Fixed {
        listeners: listeners.iter().map(|listener| listener.address).collect(),
        workers: scope.config.workers.map_or(1, std::num::NonZero::get),
        admin,
        access_log,
    })
}

fn admin_address(text: &str, scope: &Scope<'_>) -> Result<AdminAddress, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        let path: PathBuf = load::resolve(scope.input.base, path);
        return Ok(AdminAddress::Unix(path));
    }
    match text.parse::<SocketAddr>() {
        Ok(address) if address.ip().is_loopback() => Ok(AdminAddress::Tcp(address)),
        Ok(_) => Err(format!("the admin address `{text}` is reachable from other hosts")),
        Err(_) => Err(format!("`{text}` is not an address")),
    }
}
