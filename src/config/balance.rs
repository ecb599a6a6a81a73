//! How endpoints are picked, as written.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use super::codes::Code;
use super::decode::invalid;
use super::percent::Percent;

/// How an endpoint is picked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// In turn, each as often as its weight says, evenly spread.
    #[default]
    RoundRobin,
    /// By lot, each as often as its weight says.
    Random,
    /// The one of two by lot that serves fewer requests for its weight.
    LeastRequest,
    /// The one of two by lot that is expected to answer sooner.
    Ewma,
    /// Equal keys to equal endpoints, as nginx's `hash … consistent`.
    RingHash(Hashing),
    /// Equal keys to equal endpoints, by Google's Maglev.
    Maglev(Hashing),
}

/// What a hashing balancer hashes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Hashing {
    /// The key of a request. Requests without one share the client address as key.
    pub on: KeySource,
    /// No endpoint serves more than this share of the average; from `100%`. Default: no bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bounded_load: Option<Percent>,
}

const NAMES: &[&str] = &["round_robin", "random", "least_request", "ewma", "ring_hash", "maglev"];

impl<'de> Deserialize<'de> for Balance {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct BalanceVisitor;

        impl<'de> Visitor<'de> for BalanceVisitor {
            type Value = Balance;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a balancer such as `least_request` or `{ ring_hash: { on: client_ip } }`")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<Balance, E> {
                match name {
                    "round_robin" => Ok(Balance::RoundRobin),
                    "random" => Ok(Balance::Random),
                    "least_request" => Ok(Balance::LeastRequest),
                    "ewma" => Ok(Balance::Ewma),
                    "ring_hash" | "maglev" => Err(invalid(
                        Code::InvalidValue,
                        format_args!("`{name}` needs a key to hash"),
                        &format!("write `{{ {name}: {{ on: client_ip }} }}`"),
                    )),
                    _ => Err(E::unknown_variant(name, NAMES)),
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Balance, A::Error> {
                #[derive(Deserialize)]
                #[serde(deny_unknown_fields)]
                struct Keyed {
                    ring_hash: Option<Hashing>,
                    maglev: Option<Hashing>,
                }
                let keyed = Keyed::deserialize(MapAccessDeserializer::new(map))?;
                let hashing = keyed.ring_hash.as_ref().or(keyed.maglev.as_ref());
                if hashing.and_then(|hashing| hashing.bounded_load).is_some_and(|bound| bound < Percent::whole(100)) {
                    let help = "`125%` lets an endpoint serve a quarter more than the average";
                    return Err(invalid(Code::InvalidValue, "a bound below the average load", help));
                }
                match (keyed.ring_hash, keyed.maglev) {
                    (Some(hashing), None) => Ok(Balance::RingHash(hashing)),
                    (None, Some(hashing)) => Ok(Balance::Maglev(hashing)),
                    _ => Err(invalid(Code::InvalidValue, "a balancer is one thing", "keep `ring_hash` or `maglev`")),
                }
            }
        }

        deserializer.deserialize_any(BalanceVisitor)
    }
}

impl JsonSchema for Balance {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Balance".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let hashing = generator.subschema_for::<Hashing>();
        let keyed = |name: &str| json_schema!({ "type": "object", "properties": { name: hashing }, "required": [name], "additionalProperties": false });
        json_schema!({
            "description": "How an endpoint is picked.",
            "oneOf": [{ "enum": NAMES[..4] }, keyed("ring_hash"), keyed("maglev")],
        })
    }
}

/// What tells requests apart: `client_ip`, `path`, `{ header: name }`, `{ cookie: name }` or
/// `{ query: name }`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// The client's address.
    ClientIp,
    /// The path.
    Path,
    /// A request header.
    Header(String),
    /// A cookie.
    Cookie(String),
    /// A query parameter.
    Query(String),
}

const SOURCES: &[&str] = &["client_ip", "path", "header", "cookie", "query"];

impl Serialize for KeySource {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::ClientIp => serializer.serialize_str("client_ip"),
            Self::Path => serializer.serialize_str("path"),
            Self::Header(name) => serializer.collect_map([("header", name)]),
            Self::Cookie(name) => serializer.collect_map([("cookie", name)]),
            Self::Query(name) => serializer.collect_map([("query", name)]),
        }
    }
}

impl<'de> Deserialize<'de> for KeySource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SourceVisitor;

        impl<'de> Visitor<'de> for SourceVisitor {
            type Value = KeySource;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`client_ip`, `path`, or a mapping such as `{ header: x-user }`")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<KeySource, E> {
                match name {
                    "client_ip" => Ok(KeySource::ClientIp),
                    "path" => Ok(KeySource::Path),
                    "header" | "cookie" | "query" => Err(invalid(
                        Code::InvalidValue,
                        format_args!("which {name}?"),
                        &format!("write `{{ {name}: name }}`"),
                    )),
                    _ => Err(E::unknown_variant(name, SOURCES)),
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<KeySource, A::Error> {
                #[derive(Deserialize)]
                #[serde(deny_unknown_fields)]
                struct Keyed {
                    header: Option<String>,
                    cookie: Option<String>,
                    query: Option<String>,
                }
                let Keyed { header, cookie, query } = Keyed::deserialize(MapAccessDeserializer::new(map))?;
                match (header, cookie, query) {
                    (Some(name), None, None) if name.parse::<http::HeaderName>().is_err() => {
                        Err(invalid(Code::Header, format_args!("`{name}` is not a header name"), ""))
                    }
                    (Some(name), None, None) => Ok(KeySource::Header(name)),
                    (None, Some(name), None) => Ok(KeySource::Cookie(name)),
                    (None, None, Some(name)) => Ok(KeySource::Query(name)),
                    _ => Err(invalid(Code::InvalidValue, "a key is one thing", "keep one of header, cookie and query")),
                }
            }
        }

        deserializer.deserialize_any(SourceVisitor)
    }
}

impl JsonSchema for KeySource {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "KeySource".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let named = |kind: &str| json_schema!({ "type": "object", "properties": { kind: { "type": "string" } }, "required": [kind], "additionalProperties": false });
        json_schema!({
            "description": "What tells requests apart.",
            "oneOf": [{ "enum": SOURCES[..2] }, named("header"), named("cookie"), named("query")],
        })
    }
}
