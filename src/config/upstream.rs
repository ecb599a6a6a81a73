//! Upstreams as written.

use std::fmt;
use std::num::NonZeroU32;

use schemars::JsonSchema;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use super::balance::Balance;
use super::codes::Code;
use super::decode::invalid;
use super::health::{Breaker, Eject, Health, Limits};
use super::percent::Percent;
use super::source::Span;
use super::spanned::Spanned;
use super::value::TimeSpan;

/// A named set of endpoints that serve the same thing. A lone URL is the short form.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct Upstream {
    /// The servers. Exactly one of `endpoints`, `dns`, `srv` and `endpoints_file`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<Endpoint>")]
    pub endpoints: Vec<Spanned<Endpoint>>,
    /// A name and port whose addresses are the servers.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub dns: Option<Spanned<String>>,
    /// A name whose SRV records are the servers.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub srv: Option<Spanned<String>>,
    /// A file with a list of endpoints; a change of it is taken over at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub endpoints_file: Option<Spanned<String>>,
    /// A path put before every forwarded path. With the short form, the URL's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub base_path: Option<Spanned<String>>,
    /// The `Host` that forwarded requests carry. Default: the client's; with the short form the
    /// URL's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub host: Option<Spanned<String>>,
    /// How an endpoint is picked.
    #[serde(default)]
    pub balance: Balance,
    /// Sends a client to the endpoint that it had before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sticky: Option<Sticky>,
    /// How long a new or recovered endpoint's share grows to its full weight. Default: at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slow_start: Option<TimeSpan>,
    /// Below this share of usable endpoints, unhealthy and ejected ones are used too. Default 0%.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub panic_threshold: Option<Percent>,
    /// Connect with TLS, always verified.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Spanned<Tls>>,
    /// Active health checks; none unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<Spanned<Health>>,
    /// Takes failing endpoints out; not unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eject: Option<Spanned<Eject>>,
    /// Stops sending to what keeps failing; not unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub breaker: Option<Spanned<Breaker>>,
    /// How much it takes at once; unlimited unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<Spanned<Limits>>,
    /// Limits of time.
    #[serde(default)]
    pub timeout: Timeouts,
}

/// How a client is recognised.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sticky {
    /// The name of the cookie that the gateway sets.
    #[schemars(with = "String")]
    pub cookie: Spanned<String>,
}

impl Serialize for Upstream {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Self::serialize(self, serializer)
    }
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
                    invalid(
                        Code::TargetUrl,
                        format_args!("`{text}` is not an upstream: {problem}"),
                        "the short form is a URL such as `http://10.0.0.7:8080`",
                    )
                })?;
                Ok(url.upstream(Span::default()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Upstream, A::Error> {
                let upstream = Upstream::deserialize(MapAccessDeserializer::new(map))?;
                let sources = [!upstream.endpoints.is_empty(), upstream.dns.is_some(), upstream.srv.is_some()];
                let sources = sources.into_iter().chain([upstream.endpoints_file.is_some()]);
                match sources.filter(|given| *given).count() {
                    1 => Ok(upstream),
                    0 => {
                        let help = "give at least one, such as `endpoints: [10.0.0.5:8080]`, or `dns`, `srv` or `endpoints_file`";
                        Err(invalid(Code::Endpoint, "an upstream without endpoints", help))
                    }
                    _ => {
                        let help = "keep one of `endpoints`, `dns`, `srv` and `endpoints_file`";
                        Err(invalid(Code::Endpoint, "endpoints from two sources", help))
                    }
                }
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
    /// Endpoints of a higher tier serve only what those of the lower tiers cannot. Default 0.
    #[serde(default, skip_serializing_if = "is_first")]
    pub tier: u8,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_first(tier: &u8) -> bool {
    *tier == 0
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
            #[serde(default)]
            tier: u8,
        }

        struct EndpointVisitor;

        impl<'de> Visitor<'de> for EndpointVisitor {
            type Value = Endpoint;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an endpoint such as `10.0.0.5:8080`")
            }

            fn visit_str<E: de::Error>(self, address: &str) -> Result<Endpoint, E> {
                Ok(Endpoint { address: address.to_owned(), weight: one(), tier: 0 })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Endpoint, A::Error> {
                let LongForm { address, weight, tier } = LongForm::deserialize(MapAccessDeserializer::new(map))?;
                let weight = weight.unwrap_or(1);
                match NonZeroU32::new(weight).filter(|weight| weight.get() <= MAX_WEIGHT) {
                    Some(weight) => Ok(Endpoint { address, weight, tier }),
                    None => Err(invalid(
                        Code::InvalidValue,
                        format_args!("a weight of {weight}"),
                        "weights go from 1 to 65536; leave the endpoint out to send it nothing",
                    )),
                }
            }
        }

        deserializer.deserialize_any(EndpointVisitor)
    }
}

/// The largest weight of an endpoint.
pub const MAX_WEIGHT: u32 = 65_536;

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

/// Limits of time towards an upstream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Timeouts {
    /// Until a connection is open, TLS included. Default 2s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect: Option<TimeSpan>,
    /// The longest silence while an answer is awaited or being received. Default 30s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response: Option<TimeSpan>,
    /// How long an unused connection is kept. Default 60s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle: Option<TimeSpan>,
    /// The longest silence of an upgraded connection (WebSocket). Default 10m.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<TimeSpan>,
}
