//! The handles of one route.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use http::Method;
use prometheus::{Histogram, IntCounter};

use super::Metrics;

/// Pairs of method and code that a route counts without a lookup.
const QUICK: usize = 12;

/// The handles of one route.
#[derive(Debug)]
pub struct RouteMetrics {
    name: Box<str>,
    key: String,
    metrics: Arc<Metrics>,
    duration: OnceLock<Histogram>,
    quick: OnceLock<Box<[OnceLock<Counted>; QUICK]>>,
    /// What found no quick slot, and the reasons of rejections: label values to remove at the end.
    rare: Mutex<Vec<Rare>>,
}

#[derive(Debug)]
struct Counted {
    method: &'static str,
    code: u16,
    counter: IntCounter,
}

#[derive(Debug, PartialEq, Eq)]
enum Rare {
    Request(&'static str, u16),
    Rejection(&'static str),
    Fallback(String, String, &'static str),
    Selection(String),
    Shift,
}

impl RouteMetrics {
    /// Handles for a route of this name.
    #[must_use]
    pub fn new(metrics: &Arc<Metrics>, name: &str) -> Self {
        let metrics = Arc::clone(metrics);
        let key = metrics.hold(format!("route {name}"));
        Self {
            name: name.into(),
            key,
            metrics,
            duration: OnceLock::new(),
            quick: OnceLock::new(),
            rare: Mutex::default(),
        }
    }

    /// Counts an answered request.
    pub fn answered(&self, method: &Method, code: u16, duration: Duration) {
        let method = method_label(method);
        let histogram = self.duration.get_or_init(|| self.metrics.duration.with_label_values(&[&*self.name]));
        histogram.observe(duration.as_secs_f64());
        let quick = self.quick.get_or_init(Box::default);
        for slot in quick.iter() {
            let counted = slot.get_or_init(|| Counted { method, code, counter: self.counter(method, code) });
            if counted.code == code && counted.method == method {
                return counted.counter.inc();
            }
        }
        self.remember(Rare::Request(method, code));
        self.counter(method, code).inc();
    }

    /// Counts a request that the gateway itself answered with an error.
    pub fn rejected(&self, reason: &'static str) {
        self.remember(Rare::Rejection(reason));
        self.metrics.rejected.with_label_values(&[&*self.name, reason]).inc();
    }

    /// Counts a request that went on from one target to the next.
    pub fn fell_back(&self, from: &str, to: &str, reason: &'static str) {
        self.remember(Rare::Fallback(from.to_owned(), to.to_owned(), reason));
        self.metrics.fallbacks.with_label_values(&[&*self.name, from, to, reason]).inc();
    }

    /// The counter of a member of a split.
    #[must_use]
    pub fn selections(&self, target: &str) -> IntCounter {
        self.remember(Rare::Selection(target.to_owned()));
        self.metrics.splits.with_label_values(&[&*self.name, target])
    }

    /// Shows the share of a shift's new target.
    pub fn shifted(&self, share: f64) {
        self.remember(Rare::Shift);
        self.metrics.shifts.with_label_values(&[&*self.name]).set(share);
    }

    fn counter(&self, method: &str, code: u16) -> IntCounter {
        self.metrics.requests.with_label_values(&[&*self.name, method, &code.to_string()])
    }

    fn remember(&self, rare: Rare) {
        let mut list = self.rare.lock().unwrap_or_else(PoisonError::into_inner);
        if !list.contains(&rare) {
            list.push(rare);
        }
    }
}

impl Drop for RouteMetrics {
    fn drop(&mut self) {
        self.metrics.release(&self.key, || self.remove());
    }
}

impl RouteMetrics {
    fn remove(&self) {
        let name = &*self.name;
        // A series that never began cannot end; both are fine.
        let _ = self.metrics.duration.remove_label_values(&[name]);
        let quick = self.quick.get().into_iter().flat_map(|slots| slots.iter().filter_map(OnceLock::get));
        for counted in quick {
            let _ = self.metrics.requests.remove_label_values(&[name, counted.method, &counted.code.to_string()]);
        }
        for rare in self.rare.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let _ = match rare {
                Rare::Request(method, code) => {
                    self.metrics.requests.remove_label_values(&[name, method, &code.to_string()])
                }
                Rare::Rejection(reason) => self.metrics.rejected.remove_label_values(&[name, reason]),
                Rare::Fallback(from, to, reason) => {
                    self.metrics.fallbacks.remove_label_values(&[name, from, to, reason])
                }
                Rare::Shift => self.metrics.shifts.remove_label_values(&[name]),
                Rare::Selection(target) => self.metrics.splits.remove_label_values(&[name, target]),
            };
        }
    }
}

fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::PATCH => "PATCH",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(metrics: &Metrics) -> String {
        String::from_utf8(metrics.render().unwrap()).unwrap()
    }

    #[test]
    fn series_of_a_removed_route_disappear() {
        let metrics = Metrics::new().unwrap();
        let route = RouteMetrics::new(&metrics, "users");
        for code in 200..230 {
            route.answered(&Method::GET, code, Duration::from_millis(3));
        }
        route.rejected("no_endpoint");
        let before = text(&metrics);
        assert!(
            before.contains(r#"pointsman_http_requests_total{code="229",method="GET",route="users"} 1"#),
            "{before}"
        );
        assert!(before.contains(r#"pointsman_requests_rejected_total{reason="no_endpoint",route="users"} 1"#));
        drop(route);
        assert!(!text(&metrics).contains("users"));
    }

    #[test]
    fn unknown_methods_share_one_label() {
        let metrics = Metrics::new().unwrap();
        let route = RouteMetrics::new(&metrics, "r");
        for name in ["BREW", "TRACE", "X"] {
            route.answered(&name.parse().unwrap(), 200, Duration::ZERO);
        }
        assert!(text(&metrics).contains(r#"pointsman_http_requests_total{code="200",method="other",route="r"} 3"#));
    }
}
