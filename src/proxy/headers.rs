//! Headers in Pingora's types.

use http::{HeaderName, HeaderValue};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora_proxy::Session;

use crate::filter::Editable;

/// The request's id.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The chain of addresses.
pub const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// The host that the client asked for.
pub const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// The scheme that the client used.
pub const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// Asks for the first target of a fallback only; sent along, so that gateways do not go in circles.
pub const NO_FALLBACK: HeaderName = HeaderName::from_static("x-no-fallback");
/// Which target of a fallback answered.
pub const BACKEND_SOURCE: HeaderName = HeaderName::from_static("x-backend-source");
/// Other headers that tell where a request came from; those of untrusted peers are removed.
pub const OTHER_FORWARDED: [&str; 5] =
    ["forwarded", "x-forwarded-port", "x-forwarded-server", "x-forwarded-prefix", "x-real-ip"];

/// Whether an answer was begun to the client; informational ones do not count.
pub fn has_begun(session: &Session) -> bool {
    session.response_written().is_some_and(|answer| !answer.status.is_informational())
}

// Names and values were checked when the configuration was compiled; inserting them cannot fail.
impl Editable for RequestHeader {
    fn set(&mut self, name: &HeaderName, value: &HeaderValue) {
        let _ = self.insert_header(name, value.clone());
    }

    fn add(&mut self, name: &HeaderName, value: &HeaderValue) {
        let _ = self.append_header(name, value.clone());
    }

    fn remove(&mut self, name: &HeaderName) {
        self.remove_header(name);
    }
}

impl Editable for ResponseHeader {
    fn set(&mut self, name: &HeaderName, value: &HeaderValue) {
        let _ = self.insert_header(name, value.clone());
    }

    fn add(&mut self, name: &HeaderName, value: &HeaderValue) {
        let _ = self.append_header(name, value.clone());
    }

    fn remove(&mut self, name: &HeaderName) {
        self.remove_header(name);
    }
}
