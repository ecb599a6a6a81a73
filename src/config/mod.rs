//! What the operator wrote.
//!
//! These types hold a configuration as it stands in its files, with the place of every value
//! that a later finding may point at. Nothing here runs: [`crate::snapshot`] compiles these types
//! into the ones that do, and no running type has one of them as a field.

mod balance;
pub mod codes;
pub mod decode;
pub mod diagnostic;
pub mod effective;
mod health;
mod listener;
pub mod load;
pub mod origins;
mod percent;
mod retry;
mod route;
mod size;
pub mod source;
mod spanned;
mod target;
pub mod tree;
mod upstream;
mod url;
mod value;

use std::num::NonZeroUsize;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use balance::{Balance, Hashing, KeySource};
pub use codes::Code;
pub use diagnostic::{Diagnostic, Diagnostics, Severity};
pub use health::{Adaptive, Breaker, Eject, Health, Limits, Scope};
pub use listener::{AccessLog, Admin, Listener, Network};
pub use percent::Percent;
pub use retry::{Condition, Retry};
pub use route::{HeaderEdits, Headers, Route, RouteTimeouts, Test};
pub use size::Size;
pub use source::{Sources, Span};
pub use spanned::Spanned;
pub use target::{Breach, Fallback, Guard, Mirror, Redirect, Respond, Share, Shift, Split, Target};
pub use upstream::{Endpoint, MAX_WEIGHT, Sticky, Timeouts, Tls, Upstream};
pub use url::TargetUrl;
pub use value::{Named, OneOrMany, TimeSpan};

/// A whole configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "Pointsman configuration")]
pub struct Config {
    /// More files of the same shape, as paths and patterns such as `conf.d/*.yaml`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<String>")]
    pub include: Vec<Spanned<String>>,
    /// Route files in other shapes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub imports: Vec<Import>,
    /// Threads that serve requests. Default: one for each processor.
    #[schemars(with = "Option<NonZeroUsize>")]
    pub workers: Option<NonZeroUsize>,
    /// How long running requests may take to finish when the process is told to stop. Default 30s.
    pub drain_timeout: Option<TimeSpan>,
    /// The DNS server that names of upstreams are asked of. Default: those of `/etc/resolv.conf`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub resolver: Option<Spanned<String>>,
    /// Where clients connect.
    #[serde(default)]
    pub listeners: Vec<Listener>,
    /// Metrics, probes and the API. Default 127.0.0.1:9901.
    pub admin: Option<Admin>,
    /// `stdout`, `off` or a file. Default `stdout`.
    #[serde(default)]
    #[schemars(with = "String")]
    pub access_log: AccessLog,
    /// How much an error's answer says about its cause.
    #[serde(default)]
    pub error_detail: ErrorDetail,
    /// Values for what upstreams and routes leave out.
    #[serde(default)]
    pub defaults: Defaults,
    /// Named sets of endpoints.
    #[serde(default)]
    #[schemars(with = "Named<Upstream>")]
    pub upstreams: Named<Spanned<Upstream>>,
    /// Which requests go where.
    #[serde(default)]
    #[schemars(with = "Vec<Route>")]
    pub routes: Vec<Spanned<Route>>,
}

/// A route file in another shape.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Import {
    /// The file, relative to the one that names it.
    #[schemars(with = "String")]
    pub file: Spanned<String>,
    /// The host of its routes. Default: every host.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub host: Option<Spanned<String>>,
    /// Its shape. Default: told from its content.
    #[serde(rename = "as", skip_serializing_if = "Option::is_none")]
    pub shape: Option<Shape>,
}

/// A shape of a route file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// `{"/api/users/*": "https://users.example.com"}`.
    FunctionRoutes,
}

/// How much an error's answer says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorDetail {
    /// Error, reason and request id.
    #[default]
    Reason,
    /// Also the target that failed.
    Full,
}

/// Values for what upstreams and routes leave out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Defaults {
    /// Limits of time.
    #[serde(default)]
    pub timeout: DefaultTimeouts,
    /// Retries of routes that have no `retry` of their own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
}

/// Limits of time for all upstreams and routes that give none of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DefaultTimeouts {
    /// See an upstream's `timeout`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect: Option<TimeSpan>,
    /// See an upstream's `timeout`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response: Option<TimeSpan>,
    /// See an upstream's `timeout`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle: Option<TimeSpan>,
    /// See an upstream's `timeout`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<TimeSpan>,
    /// See a route's `timeout`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total: Option<TimeSpan>,
}

/// The JSON Schema of a configuration file.
#[must_use]
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(Config).to_value()
}
