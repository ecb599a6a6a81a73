//! Function routes: `{"/api/users/*": "https://users.example.com/v2"}`.
//!
//! `P/*` strips `P` and joins the rest to the target's path; an exact pattern takes the target's
//! path as it is; `:name` in the target is what the pattern's parameter matched.

use crate::config::tree::{Key, Kind, Node};
use crate::config::{
    Code, Diagnostic, Diagnostics, Headers, Named, OneOrMany, Route, RouteTimeouts, Spanned, Target, TargetUrl,
};

/// Turns a document into routes of one host; a bad entry is reported with its JSON pointer.
pub fn convert(document: &Node, host: Option<&Spanned<String>>, found: &mut Diagnostics) -> Vec<Spanned<Route>> {
    let Kind::Map(entries) = &document.kind else {
        let message = "function routes are a mapping of path patterns to URLs";
        found.push(Diagnostic::at(Code::WrongType, message, document.span, "expected a mapping"));
        return Vec::new();
    };
    entries.iter().filter_map(|(key, value)| entry(key, value, host, found)).collect()
}

fn entry(key: &Key, value: &Node, host: Option<&Spanned<String>>, found: &mut Diagnostics) -> Option<Spanned<Route>> {
    let pointer = format!("/{}", key.text.replace('~', "~0").replace('/', "~1"));
    let Kind::Scalar(target) = &value.kind else {
        let message = format!("{pointer}: a target is a URL");
        found.push(Diagnostic::at(Code::WrongType, message, value.span, "expected a URL"));
        return None;
    };
    let url = match TargetUrl::parse(&target.text) {
        Ok(url) => url,
        Err(problem) => {
            let message = format!("{pointer}: `{}` is not a target: {problem}", target.text);
            found.push(Diagnostic::at(Code::TargetUrl, message, value.span, "expected an http or https URL"));
            return None;
        }
    };
    let rewrite = if key.text.ends_with("/*") { format!("{}/*", url.base()) } else { url.path.clone() };
    let route = Route {
        name: None,
        host: OneOrMany(host.cloned().into_iter().collect()),
        path: Spanned::new(key.text.clone(), key.span),
        method: OneOrMany::default(),
        header: Named::default(),
        query: Named::default(),
        cookie: Named::default(),
        client: OneOrMany::default(),
        priority: 0,
        strip_prefix: false,
        rewrite: Some(Spanned::new(rewrite, value.span)),
        headers: Headers::default(),
        timeout: RouteTimeouts::default(),
        retry: None,
        mirror: None,
        to: Spanned::new(Target::Upstream(url.origin()), value.span),
    };
    Some(Spanned::new(route, key.span))
}
