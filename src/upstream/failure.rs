//! What of a try failed, and what such a failure is worth.

use http::Method;

/// How a try failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No connection, or no endpoint to connect to; nothing was sent.
    Connect,
    /// The connection broke, or what came over it was no answer.
    Reset,
    /// The server refused the stream unread (RFC 9113, section 8.7).
    RefusedStream,
    /// No answer in time.
    Timeout,
    /// An answer with this status.
    Status(u16),
}

impl Failure {
    /// Whether the server may have seen the request.
    #[must_use]
    pub fn reached_server(self) -> bool {
        !matches!(self, Self::Connect | Self::RefusedStream)
    }

    /// As a metric's label; from a closed set.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Reset => "reset",
            Self::RefusedStream => "refused_stream",
            Self::Timeout => "timeout",
            Self::Status(500..) => "5xx",
            Self::Status(_) => "4xx",
        }
    }
}

/// Failures that lead to another try.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "a set of names, each in it or not")]
pub struct Conditions {
    /// [`Failure::Connect`].
    pub connect: bool,
    /// [`Failure::Reset`].
    pub reset: bool,
    /// [`Failure::RefusedStream`].
    pub refused_stream: bool,
    /// [`Failure::Timeout`].
    pub timeout: bool,
    /// Every status from 500.
    pub server_error: bool,
    /// These statuses.
    pub statuses: Box<[u16]>,
}

impl Conditions {
    /// Whether this failure is among them.
    #[must_use]
    pub fn include(&self, failure: Failure) -> bool {
        match failure {
            Failure::Connect => self.connect,
            Failure::Reset => self.reset,
            Failure::RefusedStream => self.refused_stream,
            Failure::Timeout => self.timeout,
            Failure::Status(status) => self.server_error && status >= 500 || self.statuses.contains(&status),
        }
    }
}

/// Methods whose requests may be sent twice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Methods {
    /// Those that do no more when sent twice (RFC 9110, section 9.2.2).
    #[default]
    Idempotent,
    /// Every method.
    Any,
    /// These.
    Listed(Box<[Method]>),
}

impl Methods {
    /// Whether this method is among them.
    #[must_use]
    pub fn include(&self, method: &Method) -> bool {
        match self {
            Self::Idempotent => method.is_idempotent(),
            Self::Any => true,
            Self::Listed(list) => list.contains(method),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_include_what_they_name() {
        let conditions = Conditions { connect: true, statuses: [404, 503].into(), ..Conditions::default() };
        let cases = [
            (Failure::Connect, true),
            (Failure::Reset, false),
            (Failure::Timeout, false),
            (Failure::Status(503), true),
            (Failure::Status(404), true),
            (Failure::Status(500), false),
        ];
        for (failure, expected) in cases {
            assert_eq!(conditions.include(failure), expected, "{failure:?}");
        }
        let all = Conditions { server_error: true, ..Conditions::default() };
        assert!(all.include(Failure::Status(599)) && !all.include(Failure::Status(404)));
    }

    #[test]
    fn only_idempotent_methods_repeat_by_default() {
        for (method, idempotent) in
            [(Method::GET, true), (Method::PUT, true), (Method::POST, false), (Method::PATCH, false)]
        {
            assert_eq!(Methods::default().include(&method), idempotent);
            assert!(Methods::Any.include(&method));
        }
    }
}
