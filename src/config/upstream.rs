//! Upstreams as written.

use std::fmt;
use std::num::NonZeroU32;

use schemars::JsonSchema;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::source::Span;
use super::spanned::Spanned;
use super::value::TimeSpan;

/// A named set of endpoints that serve the same thing. A lone URL is the short form.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Upstream {
    /// Where the servers are.
    #[schemars(with = "Vec<Endpoint>", length(min = 1))]
    pub endpoints: Vec<Spanned<Endpoint>>,
    /// A path put before every forwarded path. With the short form, the URL's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_path: Option<String>,
    /// The `Host` that forwarded requests carry. Default: the client's; with the short form the
    /// URL's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub host: Option<Spanned<String>>,
    /// How an endpoint is picked.
    #[serde(default)]
    pub balance: Balance,
    /// Connect with TLS, always verified.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Spanned<Tls>>,
    /// Active health checks; none unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<Spanned<Health>>,
    /// Limits of time.
    #[serde(default)]
    pub timeout: Timeouts,
}

/// The long form, as serde reads it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LongForm {
    endpoints: Spanned<Vec<Spanned<Endpoint>>>,
    base_path: Option<String>,
    host: Option<Spanned<String>>,
    #[serde(default)]
    balance: Balance,
    tls: Option<Spanned<Tls>>,
    health: Option<Spanned<Health>>,
    #[serde(default)]
    timeout: Timeouts,
}

impl<'de> Deserialize<'de> for Upstream {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct UpstreamVisitor;

        impl<'de> Visitor<'de> for UpstreamVisitor {
            type Value = Upstream;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an upstream: a URL, or a mapping with `endpoints`")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Upstream, E> {
                let url = super::TargetUrl::parse(text).map_err(|problem| {
                    super::decode::invalid(
                        super::Code::TargetUrl,
                        format_args!("`{text}` is not an upstream: {problem}"),
                        "the short form is a URL such as `http://10.0.0.7:8080`",
                    )
                })?;
                Ok(url.upstream(Span::default()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Upstream, A::Error> {
                let long = LongForm::deserialize(MapAccessDeserializer::new(map))?;
                if long.endpoints.value.is_empty() {
                    let help = "give at least one, such as `endpoints: [10.0.0.5:8080]`";
                    return Err(super::decode::invalid(super::Code::Endpoint, "an upstream without endpoints", help));
                }
                let LongForm { endpoints, base_path, host, balance, tls, health, timeout } = long;
                if base_path.as_ref().is_some_and(|path| !path.starts_with('/') || path.ends_with('/')) {
                    let help = "a base path is written as `/v2`";
                    return Err(super::decode::invalid(super::Code::InvalidValue, "an invalid base path", help));
                }
                Ok(Upstream { endpoints: endpoints.value, base_path, host, balance, tls, health, timeout })
            }
        }

        deserializer.deserialize_any(UpstreamVisitor)
    }
}

/// One server. `host:port` alone is the short form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Endpoint {
    /// Host and port.
    pub address: String,
    /// Its share of the requests, against the other endpoints' weights.
    #[schemars(default = "one")]
    pub weight: NonZeroU32,
}

fn one() -> NonZeroU32 {
    NonZeroU32::MIN
}

impl<'de> Deserialize<'de> for Endpoint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct LongForm {
            address: String,
            weight: Option<u32>,
        }

        struct EndpointVisitor;

        impl<'de> Visitor<'de> for EndpointVisitor {
            type Value = Endpoint;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an endpoint such as `10.0.0.5:8080`")
            }

            fn visit_str<E: de::Error>(self, address: &str) -> Result<Endpoint, E> {
                Ok(Endpoint { address: address.to_owned(), weight: one() })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Endpoint, A::Error> {
                let LongForm { address, weight } = LongForm::deserialize(MapAccessDeserializer::new(map))?;
                let weight = weight.unwrap_or(1);
                match NonZeroU32::new(weight).filter(|weight| weight.get() <= MAX_WEIGHT) {
                    Some(weight) => Ok(Endpoint { address, weight }),
                    None => Err(super::decode::invalid(
                        super::Code::InvalidValue,
                        format_args!("a weight of {weight}"),
                        "weights go from 1 to 65536; leave the endpoint out to send it nothing",
                    )),
                }
            }
        }

        deserializer.deserialize_any(EndpointVisitor)
    }
}

const MAX_WEIGHT: u32 = 65_536;

/// How an endpoint is picked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// In turn, each as often as its weight says, evenly spread.
    #[default]
    RoundRobin,
}

/// TLS towards the endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// The server name that is sent and that the certificate must carry.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub sni: Option<Spanned<String>>,
    /// A PEM file with the authorities to trust instead of the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub ca: Option<Spanned<String>>,
}

/// Active health checks: exactly one of `http` and `tcp`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Health {
    /// GET this path; healthy is any answer from 200 to 399.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<String>,
    /// The `Host` that the check sends. Default: the endpoint's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Healthy is a connection that opens.
    #[serde(default)]
    pub tcp: bool,
    /// Time between two checks of one endpoint. Default 5s.
    pub every: Option<TimeSpan>,
    /// How long one check may take in all. Default 1s.
    pub timeout: Option<TimeSpan>,
    /// Successes in a row that bring an endpoint back. Default 2.
    pub rise: Option<NonZeroU32>,
    /// Failures in a row that take an endpoint out. Default 3.
    pub fall: Option<NonZeroU32>,
}

/// Limits of time towards an upstream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Timeouts {
    /// Until a connection is open, TLS included. Default 2s.
    pub connect: Option<TimeSpan>,
    /// The longest silence while an answer is awaited or being received. Default 30s.
    pub response: Option<TimeSpan>,
    /// How long an unused connection is kept. Default 60s.
    pub idle: Option<TimeSpan>,
    /// The longest silence of an upgraded connection (WebSocket). Default 10m.
    pub tunnel: Option<TimeSpan>,
}
