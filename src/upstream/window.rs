//! Successes and failures of the last while, counted without a lock.
//!
//! A ring of ten slots, each a tenth of the window long. A slot is one atomic word that holds its
//! counts together with the time they belong to, so a slot that comes round again is emptied and
//! counted in by the same exchange, and no count is lost to a race.

use std::array;
use std::iter::Sum;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::clock;

const SLOTS: u64 = 10;
const TICK_BITS: u32 = 24;
const COUNT_BITS: u32 = 20;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;

/// How many tries went well and how many did not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Tries that went well.
    pub successes: u64,
    /// Tries that failed.
    pub failures: u64,
}

impl Tally {
    /// All tries.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.successes + self.failures
    }

    /// The share of failures, from 0 to 1; zero when there was no try.
    #[must_use]
    pub fn failure_ratio(&self) -> f64 {
        self.failures as f64 / self.requests().max(1) as f64
    }
}

impl Sum for Tally {
    fn sum<I: Iterator<Item = Self>>(tallies: I) -> Self {
        tallies.fold(Self::default(), |sum, tally| Self {
            successes: sum.successes + tally.successes,
            failures: sum.failures + tally.failures,
        })
    }
}

/// A sliding window of results.
#[derive(Debug)]
pub struct Window([AtomicU64; SLOTS as usize]);

impl Window {
    /// An empty window.
    #[must_use]
    pub fn new() -> Self {
        Self(array::from_fn(|_| AtomicU64::new(0)))
    }

    /// Counts a result at `at` nanoseconds, in a window `span` long.
    pub fn add(&self, at: u64, span: Duration, ok: bool) {
        let tick = tick(at, span);
        let slot = &self.0[(tick % SLOTS) as usize];
        slot.update(Relaxed, Relaxed, |word| Slot::unpack(word).counting(tick, ok).pack());
    }

    /// What was counted in the `span` before `at`, to a tenth of it.
    #[must_use]
    pub fn tally(&self, at: u64, span: Duration) -> Tally {
        let tick = tick(at, span);
        let slots = self.0.iter().map(|word| Slot::unpack(word.load(Relaxed)));
        slots.filter(|slot| slot.age(tick) < SLOTS).map(|slot| slot.tally).sum()
    }

    /// Forgets everything.
    pub fn clear(&self) {
        self.0.iter().for_each(|word| word.store(0, Relaxed));
    }
}

impl Default for Window {
    fn default() -> Self {
        Self::new()
    }
}

/// The number of the tenth of a `span` in which `at` lies.
fn tick(at: u64, span: Duration) -> u64 {
    at / (clock::nanos(span) / SLOTS).max(1)
}

/// A slot's word: 24 bits of the tick, 20 bits for each count.
#[derive(Clone, Copy)]
struct Slot {
    tick: u64,
    tally: Tally,
}

impl Slot {
    fn unpack(word: u64) -> Self {
        let tally = Tally { successes: word & COUNT_MASK, failures: (word >> COUNT_BITS) & COUNT_MASK };
        Self { tick: word >> (2 * COUNT_BITS), tally }
    }

    fn pack(self) -> u64 {
        self.tick << (2 * COUNT_BITS) | self.tally.failures << COUNT_BITS | self.tally.successes
    }

    /// How many ticks ago it was written; huge for a slot of the future.
    fn age(&self, tick: u64) -> u64 {
        tick.wrapping_sub(self.tick) & ((1 << TICK_BITS) - 1)
    }

    /// The slot with one more result; empty before that if its tick is over.
    fn counting(mut self, tick: u64, ok: bool) -> Self {
        // A thread that was held up may come with a tick that is a little past: its result counts
        // with those of the newer tick rather than in their place.
        let ahead = (self.age(tick).wrapping_neg()) & ((1 << TICK_BITS) - 1);
        if ahead > SLOTS {
            self = Self { tick: tick & ((1 << TICK_BITS) - 1), tally: Tally::default() };
        }
        let full = self.tally.successes == COUNT_MASK || self.tally.failures == COUNT_MASK;
        match ok {
            // A million in a tenth of the window tell enough; counting on would distort the ratio.
            _ if full => {}
            true => self.tally.successes += 1,
            false => self.tally.failures += 1,
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    const SPAN: Duration = Duration::from_secs(10);
    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_result_counts_for_ten_slots_and_no_longer() {
        let window = Window::new();
        window.add(0, SPAN, true);
        window.add(3 * SECOND, SPAN, false);
        let cases = [(3, 1, 1), (9, 1, 1), (10, 0, 1), (12, 0, 1), (13, 0, 0), (1_000_000, 0, 0)];
        for (second, successes, failures) in cases {
            assert_eq!(window.tally(second * SECOND, SPAN), Tally { successes, failures }, "at {second} s");
        }
    }

    #[test]
    fn a_slot_that_comes_round_starts_empty() {
        let window = Window::new();
        window.add(0, SPAN, false);
        window.add(10 * SECOND, SPAN, true);
        assert_eq!(window.tally(10 * SECOND, SPAN), Tally { successes: 1, failures: 0 });
        window.clear();
        assert_eq!(window.tally(10 * SECOND, SPAN), Tally::default());
    }

    #[test]
    fn a_late_thread_does_not_wipe_out_newer_counts() {
        let window = Window::new();
        window.add(12 * SECOND, SPAN, true);
        window.add(2 * SECOND, SPAN, false);
        assert_eq!(window.tally(12 * SECOND, SPAN), Tally { successes: 1, failures: 1 });
    }

    #[test]
    fn a_window_made_longer_counts_on() {
        let window = Window::new();
        let longer = SPAN * 10;
        (0..1_000).for_each(|second| window.add(second * SECOND, SPAN, true));
        (0..50).for_each(|second| window.add((1_000 + second) * SECOND, longer, false));
        assert_eq!(window.tally(1_050 * SECOND, longer), Tally { successes: 0, failures: 50 });
    }

    #[test]
    fn no_result_of_many_threads_is_lost() {
        let window = Window::new();
        thread::scope(|scope| {
            for worker in 0..4_u64 {
                let window = &window;
                scope.spawn(move || (0..9_000).for_each(|n| window.add(n * SECOND / 1_000, SPAN, worker > 0)));
            }
        });
        assert_eq!(window.tally(9 * SECOND, SPAN), Tally { successes: 27_000, failures: 9_000 });
    }
}
