//! Instants as numbers, so that they fit into an atomic.

use std::time::{Duration, Instant};

/// The instant from which nanoseconds are counted; they last for 584 years.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    /// A clock that shows zero at `origin`.
    #[must_use]
    pub fn new(origin: Instant) -> Self {
        Self(origin)
    }

    /// Nanoseconds from the origin to `at`; zero if it was before.
    #[must_use]
    pub fn nanos(&self, at: Instant) -> u64 {
        nanos(at.saturating_duration_since(self.0))
    }

    /// The instant of so many nanoseconds after the origin.
    #[must_use]
    pub fn instant(&self, nanos: u64) -> Instant {
        self.0 + Duration::from_nanos(nanos)
    }
}

/// A duration in nanoseconds, at most [`u64::MAX`] of them.
#[must_use]
pub fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instant_survives_the_way_there_and_back() {
        let origin = Instant::now();
        let clock = Clock::new(origin);
        let later = origin + Duration::from_nanos(1_234_567);
        assert_eq!(clock.nanos(later), 1_234_567);
        assert_eq!(clock.instant(clock.nanos(later)), later);
        assert_eq!(clock.nanos(origin - Duration::from_millis(1)), 0);
        assert_eq!(nanos(Duration::MAX), u64::MAX);
    }
}
