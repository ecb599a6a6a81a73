//! Balancers: which of the eligible endpoints is next. Pure; they know members by index only.

mod round_robin;

pub use round_robin::RoundRobin;
