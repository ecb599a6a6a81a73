//! Health checks, ejection, breakers and limits of upstreams, as written.

use std::num::NonZeroU32;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::percent::Percent;
use super::spanned::Spanned;
use super::value::{Named, TimeSpan};

/// Active health checks: exactly one of `http`, `tcp` and `grpc`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Health {
    /// GET this path; healthy is any answer from 200 to 399 unless `status` says otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<String>,
    /// The `Host` that the check sends. Default: the endpoint's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// More headers that the check sends.
    #[serde(default, skip_serializing_if = "Named::is_empty")]
    #[schemars(with = "Named<String>")]
    pub headers: Named<Spanned<String>>,
    /// The statuses that are healthy. Default: 200 to 399.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<u16>")]
    pub status: Vec<Spanned<u16>>,
    /// A text that the first 64 KiB of the answer's body must contain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// Healthy is a connection that opens.
    #[serde(default)]
    pub tcp: bool,
    /// Ask `grpc.health.v1.Health/Check` for this service; `""` is the whole server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc: Option<String>,
    /// Time between two checks of one endpoint. Default 5s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub every: Option<TimeSpan>,
    /// The same while the endpoint is unhealthy. Default: `every`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub every_down: Option<TimeSpan>,
    /// How long one check may take in all. Default 1s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<TimeSpan>,
    /// Successes in a row that bring an endpoint back. Default 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rise: Option<NonZeroU32>,
    /// Failures in a row that take an endpoint out. Default 3.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fall: Option<NonZeroU32>,
}

/// Takes endpoints out that fail requests, for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Eject {
    /// Failures in a row that eject an endpoint: no connection, no answer in time, a broken
    /// connection, or a status of 500 or more. Default 5.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consecutive_failures: Option<NonZeroU32>,
    /// Ejects an endpoint whose share of failures in the last 10 s exceeds that of its peers by
    /// this. Default: not looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure_ratio: Option<Percent>,
    /// Requests in 10 s below which `failure_ratio` says nothing. Default 20.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub of_at_least: Option<NonZeroU32>,
    /// How long the first ejection lasts; each further one that long again. Default 30s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<TimeSpan>,
    /// The longest ejection. Default 5m.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub longest: Option<TimeSpan>,
    /// The share of the endpoints that may be out at once; never the last one. Default 50%.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_most: Option<Percent>,
}

/// Stops sending to what keeps failing, and probes it after a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Breaker {
    /// Opens at this share of failures. Default 50%, unless `consecutive_failures` is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure_ratio: Option<Percent>,
    /// Requests within the window below which `failure_ratio` says nothing. Default 20.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub of_at_least: Option<NonZeroU32>,
    /// The window. Default 10s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub within: Option<TimeSpan>,
    /// Opens after so many failures in a row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consecutive_failures: Option<NonZeroU32>,
    /// How long it stays open before it probes; doubles while probes fail. Default 10s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub open: Option<TimeSpan>,
    /// The longest it stays open at a time. Default 2m.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub longest: Option<TimeSpan>,
    /// Probes that must succeed to close it again. Default 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probes: Option<NonZeroU32>,
    /// One breaker for the whole upstream, or one for each endpoint.
    #[serde(default)]
    pub per: Scope,
}

/// What has a breaker of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// The upstream.
    #[default]
    Upstream,
    /// Each endpoint.
    Endpoint,
}

/// How much an upstream takes at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Requests at the upstream at once. Default: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests: Option<NonZeroU32>,
    /// Requests at one endpoint at once, each of which holds a connection. Default: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections: Option<NonZeroU32>,
    /// Repeated tries at the upstream at once. Default: no limit but the route's budget.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retries: Option<u32>,
    /// Requests that may wait for a place. Default 0: refused at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<u32>,
    /// How long a request may wait. Default 1s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_timeout: Option<TimeSpan>,
    /// Finds the limit of requests by itself, from how answers slow down.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adaptive: Option<Spanned<Adaptive>>,
}

/// Bounds of a limit that adapts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Adaptive {
    /// The lowest limit. Default 3.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min: Option<NonZeroU32>,
    /// The highest limit. Default 1000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<NonZeroU32>,
}
