//! Where routes lead, as written.

use std::fmt;
use std::num::NonZeroU32;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};

use super::balance::KeySource;
use super::codes::Code;
use super::decode::invalid;
use super::percent::Percent;
use super::retry::Condition;
use super::size::Size;
use super::spanned::Spanned;
use super::value::{Named, OneOrMany, TimeSpan};

/// Where a route leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// An upstream's name or a URL.
    Upstream(String),
    /// One of several, by weight.
    Split(Split),
    /// One after another, until one succeeds.
    Fallback(Fallback),
    /// From one to another, step by step.
    Shift(Shift),
    /// A fixed answer.
    Respond(Respond),
    /// A redirect.
    Redirect(Redirect),
}

/// A choice by weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// The members and their weights.
    pub shares: Vec<Share>,
    /// Equal keys go to equal members. Default: every request for itself.
    pub sticky: Option<KeySource>,
}

/// A member of a split.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Share {
    /// Where this share goes.
    #[schemars(with = "Target")]
    pub to: Spanned<Target>,
    /// Against the other members' weights; 0 gets nothing.
    pub weight: u32,
}

/// Targets in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fallback {
    /// The first is tried first.
    pub targets: Vec<Spanned<Target>>,
    /// Failures that lead to the next. Default: connect, reset, refused_stream, timeout, 5xx.
    pub on: OneOrMany<Spanned<Condition>>,
    /// Methods that may go to a second target after a first one saw the request. Default:
    /// idempotent ones; `any` is every method.
    pub methods: OneOrMany<Spanned<String>>,
    /// How long one target may take until its answer begins. Default: the upstream's `response`.
    pub per_try: Option<TimeSpan>,
}

/// A gradual move from one target to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Shift {
    /// Serves what is not shifted yet.
    #[schemars(with = "Target")]
    pub from: Box<Spanned<Target>>,
    /// Serves a share that grows.
    #[schemars(with = "Target")]
    pub to: Box<Spanned<Target>>,
    /// The shares, ascending. `100%` follows the last.
    #[schemars(with = "Vec<Percent>")]
    pub steps: Spanned<Vec<Percent>>,
    /// How long each step lasts.
    pub hold: TimeSpan,
    /// Equal keys stay on one side as long as the share does not pass them. Default: client_ip.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sticky: Option<KeySource>,
    /// What stops it.
    #[serde(default)]
    pub guard: Guard,
}

/// Compares the new target with the old one, both at the same time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Guard {
    /// By how much the new target's share of failures may exceed the old one's. Default 1%.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure_excess: Option<Percent>,
    /// Requests at the new target below which a step says nothing; the step lasts until then.
    /// Default 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub of_at_least: Option<NonZeroU32>,
    /// How the new target's mean time to an answer may compare with the old one's, such as
    /// `150%`. Default: not looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency: Option<Percent>,
    /// What happens when it is exceeded.
    #[serde(default)]
    pub then: Breach,
}

/// What happens when a guard is exceeded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Breach {
    /// All requests go to the old target again.
    #[default]
    Rollback,
    /// The share stays as it is.
    Hold,
}

/// A copy of requests for another upstream, whose answers nobody gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Mirror {
    /// An upstream's name or a URL.
    #[schemars(with = "String")]
    pub to: Spanned<String>,
    /// The share of the requests that are copied. Default 100%.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share: Option<Percent>,
    /// Requests with a larger body are not copied. Default 64KiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_body: Option<Size>,
    /// Methods that are copied. Default: GET, HEAD, OPTIONS; `any` is every method.
    #[serde(default, skip_serializing_if = "is_empty")]
    #[schemars(with = "OneOrMany<String>")]
    pub methods: OneOrMany<Spanned<String>>,
    /// Copies under way at once; beyond, requests are not copied. Default 64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_once: Option<NonZeroU32>,
    /// Compare status, body and time of both answers.
    #[serde(default)]
    pub compare: bool,
}

fn is_empty<T>(list: &OneOrMany<T>) -> bool {
    list.0.is_empty()
}

/// A fixed answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Respond {
    /// From 200 to 599. Default 200.
    #[serde(default = "ok")]
    #[schemars(with = "u16", range(min = 200, max = 599))]
    pub status: Spanned<u16>,
    /// Default: empty.
    #[serde(default)]
    pub body: String,
    /// More headers of the answer. `content-type` defaults to `text/plain; charset=utf-8`.
    #[serde(default, skip_serializing_if = "Named::is_empty")]
    #[schemars(with = "Named<String>")]
    pub headers: Named<Spanned<String>>,
}

fn ok() -> Spanned<u16> {
    Spanned { value: 200, span: super::source::Span::default() }
}

/// A redirect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Redirect {
    /// A path or URL; `:name` and a last `*` stand for what the path's matched. The query is kept.
    #[schemars(with = "String")]
    pub to: Spanned<String>,
    /// 301, 302, 303, 307 or 308. Default 308.
    #[serde(default = "permanent")]
    #[schemars(with = "u16")]
    pub status: Spanned<u16>,
}

fn permanent() -> Spanned<u16> {
    Spanned { value: 308, span: super::source::Span::default() }
}

/// A target's mapping as serde reads it.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Written {
    respond: Option<Respond>,
    redirect: Option<Redirect>,
    shift: Option<Shift>,
    split: Option<Shares>,
    sticky: Option<KeySource>,
    #[schemars(with = "Option<Vec<Target>>")]
    fallback: Option<Vec<Spanned<Target>>>,
    #[serde(default)]
    #[schemars(with = "OneOrMany<Condition>")]
    on: OneOrMany<Spanned<Condition>>,
    #[serde(default)]
    #[schemars(with = "OneOrMany<String>")]
    methods: OneOrMany<Spanned<String>>,
    per_try: Option<TimeSpan>,
}

const ONE_OF: &str = "keep one of `split`, `fallback`, `shift`, `respond` and `redirect`";

impl Written {
    fn target<E: de::Error>(self) -> Result<Target, E> {
        let misplaced = |key: &str, owner: &str| -> E {
            invalid(Code::InvalidValue, format_args!("`{key}` belongs to a {owner}"), "leave it out here")
        };
        if self.split.is_none() && self.sticky.is_some() {
            let owner = if self.shift.is_some() { "mapping of the `shift` itself, or to a `split`" } else { "split" };
            return Err(misplaced("sticky", owner));
        }
        let settings =
            [("on", is_empty(&self.on)), ("methods", is_empty(&self.methods)), ("per_try", self.per_try.is_none())];
        if self.fallback.is_none()
            && let Some((key, _)) = settings.iter().find(|(_, absent)| !absent)
        {
            return Err(misplaced(key, "fallback"));
        }
        let Self { respond, redirect, shift, split, sticky, fallback, on, methods, per_try } = self;
        match (respond, redirect, shift, split, fallback) {
            (Some(respond), None, None, None, None) => Ok(Target::Respond(respond)),
            (None, Some(redirect), None, None, None) => Ok(Target::Redirect(redirect)),
            (None, None, Some(shift), None, None) => Ok(Target::Shift(shift)),
            (None, None, None, Some(Shares(shares)), None) => Ok(Target::Split(Split { shares, sticky })),
            (None, None, None, None, Some(targets)) => Ok(Target::Fallback(Fallback { targets, on, methods, per_try })),
            (None, None, None, None, None) => Err(invalid(
                Code::MissingKey,
                "an empty target",
                "give one of `split`, `fallback`, `shift`, `respond` and `redirect`",
            )),
            _ => Err(invalid(Code::InvalidValue, "a target is one thing", ONE_OF)),
        }
    }
}

/// The members of a split: a mapping of names to weights, or a list.
#[derive(JsonSchema)]
struct Shares(#[schemars(with = "SharesShape")] Vec<Share>);

/// The two ways to write them.
#[derive(JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "describes the schema")]
enum SharesShape {
    ByName(Named<u32>),
    List(Vec<Share>),
}

impl<'de> Deserialize<'de> for Shares {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SharesVisitor;

        impl<'de> Visitor<'de> for SharesVisitor {
            type Value = Shares;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("weights such as `{ users: 95, users-v2: 5 }`, or a list of `{ to, weight }`")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Shares, A::Error> {
                let mut shares = Vec::new();
                while let Some((name, weight)) = map.next_entry::<Spanned<String>, u32>()? {
                    shares.push(Share { to: Spanned::new(Target::Upstream(name.value), name.span), weight });
                }
                Ok(Shares(shares))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Shares, A::Error> {
                let mut shares = Vec::new();
                while let Some(share) = items.next_element()? {
                    shares.push(share);
                }
                Ok(Shares(shares))
            }
        }

        deserializer.deserialize_any(SharesVisitor)
    }
}

impl<'de> Deserialize<'de> for Target {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TargetVisitor;

        impl<'de> Visitor<'de> for TargetVisitor {
            type Value = Target;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an upstream's name, a URL, or a mapping such as `{ fallback: [a, b] }`")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Target, E> {
                Ok(Target::Upstream(text.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Target, A::Error> {
                Written::deserialize(MapAccessDeserializer::new(map))?.target()
            }
        }

        deserializer.deserialize_any(TargetVisitor)
    }
}

impl Serialize for Target {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if let Self::Upstream(name) = self {
            return serializer.serialize_str(name);
        }
        let mut map = serializer.serialize_map(None)?;
        match self {
            Self::Upstream(_) => {}
            Self::Respond(respond) => map.serialize_entry("respond", respond)?,
            Self::Redirect(redirect) => map.serialize_entry("redirect", redirect)?,
            Self::Shift(shift) => map.serialize_entry("shift", shift)?,
            Self::Split(Split { shares, sticky }) => {
                map.serialize_entry("split", &shares)?;
                if let Some(sticky) = sticky {
                    map.serialize_entry("sticky", sticky)?;
                }
            }
            Self::Fallback(Fallback { targets, on, methods, per_try }) => {
                map.serialize_entry("fallback", targets)?;
                if !is_empty(on) {
                    map.serialize_entry("on", on)?;
                }
                if !is_empty(methods) {
                    map.serialize_entry("methods", methods)?;
                }
                if let Some(per_try) = per_try {
                    map.serialize_entry("per_try", per_try)?;
                }
            }
        }
        map.end()
    }
}

impl JsonSchema for Target {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Target".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let written = generator.subschema_for::<Written>();
        let upstream = json_schema!({ "type": "string", "description": "An upstream's name or a URL." });
        json_schema!({ "anyOf": [upstream, written] })
    }
}
