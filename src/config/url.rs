//! Target URLs.

use std::num::NonZeroU32;

use super::source::Span;
use super::spanned::Spanned;
use super::upstream::{Endpoint, Tls, Upstream};

/// A URL that requests are sent to: scheme, authority and base path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetUrl {
    /// Whether the scheme is https.
    pub tls: bool,
    /// Host as written, an IPv6 address in brackets.
    pub host: String,
    /// Port, the scheme's own unless written.
    pub port: u16,
    /// Path as written; `/` when there is none.
    pub path: String,
}

impl TargetUrl {
    /// Whether a text is meant as a URL rather than a name.
    #[must_use]
    pub fn looks_like(text: &str) -> bool {
        text.contains("://")
    }

    /// Reads a target URL.
    ///
    /// # Errors
    /// Says in a few words what is wrong: another scheme, a missing host, or a user name, query
    /// or fragment.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (scheme, _) = text.split_once("://").ok_or("it has no scheme such as `http://`")?;
        let tls = match scheme.to_ascii_lowercase().as_str() {
            "http" => false,
            "https" => true,
            _ => return Err(format!("the scheme `{scheme}` is not http or https")),
        };
        if text.contains('#') {
            return Err("a target has no fragment".to_owned());
        }
        let uri: http::Uri = text.parse().map_err(|error| format!("{error}"))?;
        let authority = uri.authority().ok_or("it has no host")?;
        if authority.as_str().contains('@') {
            return Err("a target has no user name or password".to_owned());
        }
        if uri.query().is_some() {
            return Err("a target has no query".to_owned());
        }
        let port_text = authority.as_str().strip_prefix(authority.host()).and_then(|rest| rest.strip_prefix(':'));
        let port = match port_text {
            None => {
                if tls {
                    443
                } else {
                    80
                }
            }
            Some(text) => text.parse().ok().filter(|port| *port != 0).ok_or(format!("`{text}` is not a port"))?,
        };
        if authority.host().is_empty() || authority.host() == "[]" {
            return Err("it has no host".to_owned());
        }
        let path = if uri.path().is_empty() { "/" } else { uri.path() };
        Ok(Self { tls, host: authority.host().to_owned(), port, path: path.to_owned() })
    }

    /// The path that others are put behind: empty, or without a slash at its end.
    #[must_use]
    pub fn base(&self) -> &str {
        self.path.trim_end_matches('/')
    }

    /// Scheme, host and port: what two URLs share that lead to the same servers.
    #[must_use]
    pub fn origin(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}", self.authority())
    }

    /// The `Host` that requests to this URL carry.
    #[must_use]
    pub fn authority(&self) -> String {
        let standard = if self.tls { 443 } else { 80 };
        if self.port == standard { self.host.clone() } else { format!("{}:{}", self.host, self.port) }
    }

    /// The upstream that this URL stands for.
    #[must_use]
    pub fn upstream(&self, span: Span) -> Upstream {
        let address = format!("{}:{}", self.host, self.port);
        let sni = Spanned::new(self.host.clone(), span);
        Upstream {
            endpoints: vec![Spanned::new(Endpoint { address, weight: NonZeroU32::MIN, tier: 0 }, span)],
            base_path: (!self.base().is_empty()).then(|| Spanned::new(self.base().to_owned(), span)),
            host: Some(Spanned::new(self.authority(), span)),
            tls: self.tls.then(|| Spanned::new(Tls { sni: Some(sni), ca: None }, span)),
            ..Upstream::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_or_refused() {
        let good = [
            ("http://a", "http://a", ""),
            ("HTTP://a/", "http://a", ""),
            ("https://a:443/x/", "https://a", "/x"),
            ("https://a:8443/x/y", "https://a:8443", "/x/y"),
            ("http://[::1]:8080", "http://[::1]:8080", ""),
        ];
        for (text, origin, path) in good {
            let url = TargetUrl::parse(text).unwrap();
            assert_eq!((url.origin().as_str(), url.base()), (origin, path), "{text}");
        }
        let bad = [
            "a",
            "ftp://a",
            "http://",
            "http://u:p@a",
            "http://a#f",
            "http://a?q",
            "http://a:0",
            "http://a:x",
            "http://a:70000",
        ];
        for text in bad {
            assert!(TargetUrl::parse(text).is_err(), "{text}");
        }
    }
}
