//! Which route: host, path and tests to one route, in order of specificity.
//!
//! Pure and generic over what a route leads to. The same walk over a [`RouteTable`] serves
//! requests ([`RouteTable::find`]), explains decisions ([`RouteTable::explain`]) and finds routes
//! that are never reached ([`conflict`]), so the three cannot disagree.

pub mod conflict;
mod explain;
pub mod host;
pub mod normalize;
pub mod pattern;
pub mod predicate;
mod table;
pub mod template;
mod tree;

pub use explain::{Considered, Verdict};
pub use host::HostPattern;
pub use pattern::PathPattern;
pub use predicate::{Check, Request, Tests};
pub use table::{Definition, RouteTable};
pub use template::Template;
