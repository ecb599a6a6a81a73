//! Routes as written.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use super::listener::Network;
use super::retry::Retry;
use super::spanned::Spanned;
use super::target::{Mirror, Target};
use super::value::{Named, OneOrMany, TimeSpan};

/// Which requests, and what becomes of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// The name in logs and metrics. Default: made of host and path.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub name: Option<Spanned<String>>,
    /// Exact names, wildcards such as `*.example.com`, or `*`. Default: every host.
    #[serde(default, skip_serializing_if = "is_empty")]
    #[schemars(with = "OneOrMany<String>")]
    pub host: OneOrMany<Spanned<String>>,
    /// `/exact`, `/with/:parameters`, `/a/*`, or `~^/regex$`.
    #[schemars(with = "String")]
    pub path: Spanned<String>,
    /// Default: every method.
    #[serde(default, skip_serializing_if = "is_empty")]
    #[schemars(with = "OneOrMany<String>")]
    pub method: OneOrMany<Spanned<String>>,
    /// Tests on request headers.
    #[serde(default, skip_serializing_if = "Named::is_empty")]
    #[schemars(with = "Named<Test>")]
    pub header: Named<Spanned<Test>>,
    /// Tests on query parameters.
    #[serde(default, skip_serializing_if = "Named::is_empty")]
    #[schemars(with = "Named<Test>")]
    pub query: Named<Spanned<Test>>,
    /// Tests on cookies.
    #[serde(default, skip_serializing_if = "Named::is_empty")]
    #[schemars(with = "Named<Test>")]
    pub cookie: Named<Spanned<Test>>,
    /// Networks that the client's address must lie in.
    #[serde(default, skip_serializing_if = "is_empty")]
    #[schemars(with = "OneOrMany<String>")]
    pub client: OneOrMany<Spanned<Network>>,
    /// Outranks specificity; higher first. Default 0.
    #[serde(default)]
    pub priority: i32,
    /// Forward only what the path's last `*` matched.
    #[serde(default)]
    pub strip_prefix: bool,
    /// Forward this path instead; `:name` and a last `*` stand for what the path's matched.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub rewrite: Option<Spanned<String>>,
    /// Edits of headers.
    #[serde(default)]
    pub headers: Headers,
    /// Limits of time.
    #[serde(default)]
    pub timeout: RouteTimeouts,
    /// When a failed try is repeated. Default: `defaults.retry`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    /// Copies requests to another upstream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mirror: Option<Mirror>,
    /// An upstream's name, a URL, `split`, `fallback`, `shift`, `respond` or `redirect`.
    #[schemars(with = "Target")]
    pub to: Spanned<Target>,
}

fn is_empty<T>(list: &OneOrMany<T>) -> bool {
    list.0.is_empty()
}

/// Limits of time of a route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteTimeouts {
    /// From the request's header to the last byte of the answer. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total: Option<TimeSpan>,
}

/// Edits of the headers in both directions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Headers {
    /// Of the request, before it is forwarded.
    #[serde(default)]
    pub request: HeaderEdits,
    /// Of the answer, before it is returned.
    #[serde(default)]
    pub response: HeaderEdits,
}

/// Edits of headers; `remove` first, then `set`, then `add`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HeaderEdits {
    /// Replace the header, or add it where it is absent.
    #[serde(default, skip_serializing_if = "Named::is_empty")]
    #[schemars(with = "Named<String>")]
    pub set: Named<Spanned<String>>,
    /// Add one more line of the header.
    #[serde(default, skip_serializing_if = "Named::is_empty")]
    #[schemars(with = "Named<String>")]
    pub add: Named<Spanned<String>>,
    /// Remove every line of the header.
    #[serde(default, skip_serializing_if = "is_empty")]
    #[schemars(with = "OneOrMany<String>")]
    pub remove: OneOrMany<Spanned<String>>,
}

/// A test on one header, query parameter or cookie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Test {
    /// The value is exactly this.
    Exact(String),
    /// The value matches this regular expression somewhere.
    Regex(String),
    /// It is there (`true`), or absent (`false`).
    Present(bool),
}

impl Serialize for Test {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Exact(text) => serializer.serialize_str(text),
            Self::Regex(source) => serializer.collect_str(&format_args!("~{source}")),
            Self::Present(present) => serializer.serialize_bool(*present),
        }
    }
}

impl<'de> Deserialize<'de> for Test {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TestVisitor;

        impl Visitor<'_> for TestVisitor {
            type Value = Test;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, a regular expression after `~`, or `true` for presence")
            }

            fn visit_bool<E: de::Error>(self, present: bool) -> Result<Test, E> {
                Ok(Test::Present(present))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Test, E> {
                Ok(Test::Exact(number.to_string()))
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Test, E> {
                Ok(Test::Exact(number.to_string()))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Test, E> {
                Ok(match text.strip_prefix('~') {
                    Some(source) => Test::Regex(source.to_owned()),
                    None => Test::Exact(text.to_owned()),
                })
            }
        }

        deserializer.deserialize_any(TestVisitor)
    }
}

impl JsonSchema for Test {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Test".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "An exact text; a regular expression after `~`; true for present, false for absent.",
            "type": ["string", "boolean", "integer"],
        })
    }
}
