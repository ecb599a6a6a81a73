//! Retries, as written.

use std::fmt;
use std::num::NonZeroU32;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use super::codes::Code;
use super::decode::invalid;
use super::percent::Percent;
use super::spanned::Spanned;
use super::value::{OneOrMany, TimeSpan};

/// When and how a failed try is repeated at another endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Retry {
    /// Tries in all, the first included, at one upstream; from 1 (never again) to 10. Default 3.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempts: Option<NonZeroU32>,
    /// Failures that are worth another try. Default: connect, reset, refused_stream.
    #[serde(default, skip_serializing_if = "is_empty")]
    #[schemars(with = "OneOrMany<Condition>")]
    pub on: OneOrMany<Spanned<Condition>>,
    /// Methods that may be sent twice. Default: idempotent ones (RFC 9110, section 9.2.2). What
    /// never reached a server is repeated for every method.
    #[serde(default, skip_serializing_if = "is_empty")]
    #[schemars(with = "OneOrMany<String>")]
    pub methods: OneOrMany<Spanned<String>>,
    /// How long one try may take until its answer begins. Default: the upstream's `response`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_try: Option<TimeSpan>,
    /// The pause before a retry is drawn from up to this, doubling with each; a first retry of what
    /// was not answered needs none. Default 25ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backoff: Option<TimeSpan>,
    /// The longest pause; also how long a `Retry-After` is waited for. Default 250ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub longest_backoff: Option<TimeSpan>,
    /// Asks a second endpoint too when the first has not begun to answer after this time, and takes
    /// the answer that begins first. For requests without a body, and upstreams without TLS; each
    /// such request has a connection of its own. Default: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<TimeSpan>")]
    pub hedge: Option<Spanned<TimeSpan>>,
    /// Repeated tries that reach servers, as a share of the requests. Default 20%.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<Percent>,
}

fn is_empty<T>(list: &OneOrMany<T>) -> bool {
    list.0.is_empty()
}

/// What of a try counts as failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// No connection; nothing was sent.
    Connect,
    /// The connection broke before the answer began.
    Reset,
    /// The server refused the stream unread (HTTP/2).
    RefusedStream,
    /// No answer in time.
    Timeout,
    /// A status of 500 or more.
    ServerError,
    /// This status.
    Status(u16),
}

const NAMES: [(&str, Condition); 5] = [
    ("connect", Condition::Connect),
    ("reset", Condition::Reset),
    ("refused_stream", Condition::RefusedStream),
    ("timeout", Condition::Timeout),
    ("5xx", Condition::ServerError),
];
const EXPECTED: &[&str] = &["connect", "reset", "refused_stream", "timeout", "5xx", "a status such as 503"];

impl Serialize for Condition {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match NAMES.iter().find(|(_, condition)| condition == self) {
            Some((name, _)) => serializer.serialize_str(name),
            None => match self {
                Self::Status(status) => serializer.serialize_u16(*status),
                _ => serializer.serialize_none(),
            },
        }
    }
}

impl<'de> Deserialize<'de> for Condition {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ConditionVisitor;

        impl Visitor<'_> for ConditionVisitor {
            type Value = Condition;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a failure such as `connect`, `timeout`, `5xx` or a status such as 503")
            }

            fn visit_u64<E: de::Error>(self, status: u64) -> Result<Condition, E> {
                match u16::try_from(status).ok().filter(|status| (400..600).contains(status)) {
                    Some(status) => Ok(Condition::Status(status)),
                    None => Err(invalid(
                        Code::InvalidValue,
                        format_args!("{status} is not a failure"),
                        "statuses that count as failures go from 400 to 599",
                    )),
                }
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<Condition, E> {
                if let Ok(status) = name.parse() {
                    return self.visit_u64(status);
                }
                let known = NAMES.iter().find(|(known, _)| *known == name);
                known.map(|(_, condition)| *condition).ok_or_else(|| E::unknown_variant(name, EXPECTED))
            }
        }

        deserializer.deserialize_any(ConditionVisitor)
    }
}

impl JsonSchema for Condition {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Condition".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A failure of a try.",
            "anyOf": [
                { "enum": NAMES.map(|(name, _)| name) },
                { "type": "integer", "minimum": 400, "maximum": 599 },
            ],
        })
    }
}
