//! How long to wait before a retry.
//!
//! "Full jitter" as in Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015:
//! any time up to an exponentially growing bound. Of the ways compared there it sends the fewest
//! calls and ends nearly first, as tries that failed together no longer come back together.

use std::time::{Duration, SystemTime};

/// The longest wait that an upstream may ask for.
pub const LONGEST_ASKED: Duration = Duration::from_secs(300);

/// Bounds of the waits between retries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The bound of the first wait; it doubles with each retry.
    pub base: Duration,
    /// The bound that no wait exceeds.
    pub longest: Duration,
}

impl Backoff {
    /// The wait before a retry, the first being 1; `random` is uniform over all of `u64`.
    #[must_use]
    pub fn delay(&self, retry: u32, random: u64) -> Duration {
        let doublings = retry.saturating_sub(1).min(63);
        let bound = self.base.as_nanos().saturating_mul(1 << doublings).min(self.longest.as_nanos());
        let bound = bound.min(u128::from(u64::MAX - 1));
        Duration::from_nanos((((bound + 1) * u128::from(random)) >> 64) as u64)
    }
}

/// The wait that a `Retry-After` asks for: seconds or a date, by RFC 9110, section 10.2.3.
///
/// A time in the past is no wait; none is longer than [`LONGEST_ASKED`]. `None` if it is neither.
#[must_use]
pub fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    let (negative, digits) = value.strip_prefix('-').map_or((false, value), |digits| (true, digits));
    if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        let seconds = if negative { 0 } else { digits.parse().unwrap_or(u64::MAX) };
        return Some(Duration::from_secs(seconds).min(LONGEST_ASKED));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(now).unwrap_or(Duration::ZERO).min(LONGEST_ASKED))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BACKOFF: Backoff = Backoff { base: Duration::from_millis(25), longest: Duration::from_millis(250) };

    #[test]
    fn the_bound_doubles_until_the_longest() {
        for (retry, bound) in [(0, 25), (1, 25), (2, 50), (3, 100), (4, 200), (5, 250), (6, 250), (u32::MAX, 250)] {
            assert_eq!(BACKOFF.delay(retry, 0), Duration::ZERO);
            assert_eq!(BACKOFF.delay(retry, u64::MAX), Duration::from_millis(bound), "retry {retry}");
            assert_eq!(BACKOFF.delay(retry, 1 << 63).as_millis(), u128::from(bound / 2), "retry {retry}");
        }
    }

    #[test]
    fn the_waits_spread_evenly() {
        let mut random = fastrand::Rng::with_seed(7);
        let mut tenths = [0_u32; 10];
        for _ in 0..100_000 {
            let wait = BACKOFF.delay(9, random.u64(..)).as_secs_f64();
            tenths[((wait / 0.025) as usize).min(9)] += 1;
        }
        assert!(tenths.iter().all(|count| (9_500..10_500).contains(count)), "{tenths:?}");
    }

    #[test]
    fn a_retry_after_is_seconds_or_a_date() {
        // Sun, 06 Nov 1994 08:49:37 GMT
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let cases = [
            ("0", Some(0)),
            (" 120 ", Some(120)),
            ("301", Some(300)),
            ("99999999999999999999999999", Some(300)),
            ("-5", Some(0)),
            ("Sun, 06 Nov 1994 08:49:47 GMT", Some(10)),
            ("Sunday, 06-Nov-94 08:49:47 GMT", Some(10)),
            ("Sun Nov  6 08:49:47 1994", Some(10)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(0)),
            ("Sun, 06 Nov 1994 08:49:27 GMT", Some(0)),
            ("Mon, 07 Nov 1994 08:49:37 GMT", Some(300)),
            ("", None),
            ("-", None),
            ("1.5", None),
            ("+3", None),
            ("soon", None),
            ("10 s", None),
        ];
        for (value, seconds) in cases {
            assert_eq!(retry_after(value, now), seconds.map(Duration::from_secs), "{value:?}");
        }
    }

    proptest! {
        #[test]
        fn no_wait_exceeds_its_bounds(base: Duration, longest: Duration, retry: u32, random: u64) {
            let wait = Backoff { base, longest }.delay(retry, random);
            prop_assert!(wait <= longest);
        }

        #[test]
        fn no_header_brings_it_down(value in ".{0,40}") {
            prop_assert!(retry_after(&value, SystemTime::UNIX_EPOCH).is_none_or(|wait| wait <= LONGEST_ASKED));
        }
    }
}
