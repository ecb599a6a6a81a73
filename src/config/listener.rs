//! Listeners, the admin listener and the access log, as written.

use std::fmt;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use super::spanned::Spanned;
use super::value::TimeSpan;

/// A place where clients connect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// IP address and port, as `0.0.0.0:80` or `[::]:80`.
    #[schemars(with = "String")]
    pub address: Spanned<String>,
    /// Answer every request with a permanent redirect to the same URL with https.
    #[serde(default)]
    pub redirect_to_https: bool,
    /// Networks of proxies in front of this one, whose forwarding headers are believed.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub trusted_proxies: Vec<Network>,
    /// Also refuse `%2F`, `%5C`, overlong UTF-8 and `;` beside dots in paths.
    #[serde(default)]
    pub strict_paths: bool,
    /// How long a connection may stay idle between two requests. Default 60s.
    pub keep_alive: Option<TimeSpan>,
}

/// The listener for metrics, probes and the read side of the API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Admin {
    /// A loopback address and port, or `unix:/path`.
    #[schemars(with = "String")]
    pub address: Spanned<String>,
}

/// Where the access log goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AccessLog {
    /// To standard output, one JSON object a line.
    #[default]
    Stdout,
    /// Nowhere.
    Off,
    /// To a file, which is reopened on SIGUSR1.
    File(String),
}

impl Serialize for AccessLog {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(match self {
            Self::Stdout => "stdout",
            Self::Off => "off",
            Self::File(path) => path,
        })
    }
}

impl<'de> Deserialize<'de> for AccessLog {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AccessLogVisitor;

        impl Visitor<'_> for AccessLogVisitor {
            type Value = AccessLog;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`stdout`, `off` or a file's path")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<AccessLog, E> {
                Ok(match text {
                    "stdout" => AccessLog::Stdout,
                    "off" => AccessLog::Off,
                    path => AccessLog::File(path.to_owned()),
                })
            }
        }

        deserializer.deserialize_any(AccessLogVisitor)
    }
}

/// A network in CIDR notation, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network(pub IpNet);

impl Serialize for Network {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NetworkVisitor;

        impl Visitor<'_> for NetworkVisitor {
            type Value = Network;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a network such as 10.0.0.0/8")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Network, E> {
                let address = || text.parse().map(|address: std::net::IpAddr| IpNet::from(address)).ok();
                let network = text.parse().ok().or_else(address);
                network.map(|network: IpNet| Network(network.trunc())).ok_or_else(|| {
                    super::decode::invalid(
                        super::codes::Code::InvalidValue,
                        format_args!("`{text}` is not a network"),
                        "a network is written as `10.0.0.0/8` or `fd00::/8`, a single address as `10.0.0.1`",
                    )
                })
            }
        }

        deserializer.deserialize_any(NetworkVisitor)
    }
}
