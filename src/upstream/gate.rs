//! A limit on the requests under way, with a waiting room of bounded size.
//!
//! One atomic word holds how many are inside and how many wait: with nobody waiting, one exchange
//! lets a request in. Only those who must wait take the lock, to join the line.
//!
//! The line is served in order while it is short-lived. Once it has not been empty for 100 ms it is
//! a standing queue: serving in order would make everybody wait, and many only to give up. Then the
//! newest is served first, so that most are served at once and only a few wait in vain: "adaptive
//! LIFO" in Ben Maurer, "Fail at Scale", ACM Queue 13(8), 2015. For the same reason a newcomer to a
//! full line then takes the place of the oldest, who would be served last; else it is refused.

use std::collections::VecDeque;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

/// A line that has not been empty for so long is a standing queue.
const STANDING: Duration = Duration::from_millis(100);

/// One who waits, in the gate's word; one inside is 1.
const WAITING: u64 = 1 << 32;

/// How many may be inside, and how many may wait for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The configured limit, from which the caller makes the one that it passes to [`Gate::enter`].
    pub limit: Option<u32>,
    /// How many may wait.
    pub queue: u32,
    /// The longest wait.
    pub patience: Duration,
}

/// Why a request was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The limit is reached and so is that of the waiting room, or a newcomer took the place there.
    Full,
    /// The wait was longer than allowed.
    TimedOut,
}

/// A limit on concurrency.
#[derive(Debug)]
pub struct Gate {
    /// How many wait, in the upper half, and how many are inside. The upper half, as it equals the
    /// length of the line, changes under the lock only.
    word: AtomicU64,
    /// The limit as last passed.
    limit: AtomicU32,
    line: Mutex<Line>,
}

/// Those who wait, in order of arrival.
#[derive(Debug, Default)]
struct Line {
    waiters: VecDeque<Waiter>,
    arrivals: u64,
    /// Since when it has not been empty.
    since: Option<Instant>,
    /// Whether it had been standing at the last arrival: the newest is served first.
    standing: bool,
}

#[derive(Debug)]
struct Waiter {
    number: u64,
    place: oneshot::Sender<Admission>,
}

/// A place inside; given back when dropped.
#[must_use = "dropping an admission gives the place back"]
#[derive(Debug)]
pub struct Admission(Arc<Gate>);

/// A place in the line; given up when dropped.
struct Ticket<'a> {
    gate: &'a Gate,
    number: u64,
    place: oneshot::Receiver<Admission>,
}

enum Arrival<'a> {
    Admitted(Admission),
    Waiting(Ticket<'a>),
}

impl Gate {
    /// A gate with nobody inside.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self { word: AtomicU64::new(0), limit: AtomicU32::new(u32::MAX), line: Mutex::default() })
    }

    /// Enters, or waits for a place as long as the policy allows.
    ///
    /// `limit` counts from now on, for those who wait as well; [`u32::MAX`] is none and 0 is 1.
    /// Those above a limit that became smaller leave in their time.
    ///
    /// # Errors
    /// When there is no room to wait in, or the wait was in vain.
    pub async fn enter(self: &Arc<Self>, limit: u32, policy: &Policy, now: Instant) -> Result<Admission, Refusal> {
        let limit = limit.max(1);
        if self.limit.load(Relaxed) != limit {
            self.limit.store(limit, Relaxed);
        }
        if self.word.try_update(AcqRel, Acquire, |word| has_room(word, limit).then_some(word + 1)).is_ok() {
            return Ok(Admission(Arc::clone(self)));
        }
        match self.arrive(limit, policy, now)? {
            Arrival::Admitted(admission) => Ok(admission),
            Arrival::Waiting(mut ticket) => match tokio::time::timeout(policy.patience, &mut ticket.place).await {
                Ok(place) => place.map_err(|_| Refusal::Full),
                Err(_) => Err(Refusal::TimedOut),
            },
        }
    }

    /// How many are inside.
    #[must_use]
    pub fn in_use(&self) -> u32 {
        inside(self.word.load(Acquire))
    }

    /// How many wait.
    #[must_use]
    pub fn waiting(&self) -> u32 {
        (self.word.load(Acquire) / WAITING) as u32
    }

    /// Takes a place that became free, or one in the line.
    fn arrive(self: &Arc<Self>, limit: u32, policy: &Policy, now: Instant) -> Result<Arrival<'_>, Refusal> {
        // The limit may have grown: those who wait come first.
        self.serve();
        // Declared before the lock, so that it is dropped, and its task woken, after it.
        let _refused;
        let mut line = self.lock();
        let full = line.waiters.len() >= policy.queue as usize;
        let arrived = self.word.try_update(AcqRel, Acquire, |word| match has_room(word, limit) {
            true => Some(word + 1),
            // In the same exchange: who leaves after it sees that somebody waits.
            false => (!full).then_some(word + WAITING),
        });
        line.look(now);
        match arrived {
            Ok(before) if has_room(before, limit) => return Ok(Arrival::Admitted(Admission(Arc::clone(self)))),
            Ok(_) => {}
            Err(_) if line.standing && !line.waiters.is_empty() => _refused = line.waiters.pop_front(),
            Err(_) => return Err(Refusal::Full),
        }
        let (number, place) = line.join();
        Ok(Arrival::Waiting(Ticket { gate: self, number, place }))
    }

    /// Gives free places to those who wait.
    fn serve(self: &Arc<Self>) {
        while let Some(waiter) = self.next() {
            // If it has just gone, the admission comes back and is dropped, which serves the next.
            let _ = waiter.place.send(Admission(Arc::clone(self)));
        }
    }

    /// Takes one who waits out of the line and counts it as inside, if there is room.
    fn next(&self) -> Option<Waiter> {
        let mut line = self.lock();
        let limit = self.limit.load(Relaxed);
        let enters = |word| (word >= WAITING && inside(word) < limit).then(|| word - WAITING + 1);
        self.word.try_update(AcqRel, Acquire, enters).ok()?;
        if line.standing { line.waiters.pop_back() } else { line.waiters.pop_front() }
    }

    fn lock(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    /// Sees how long it has not been empty.
    fn look(&mut self, now: Instant) {
        let since = self.since.filter(|_| !self.waiters.is_empty()).unwrap_or(now);
        self.since = Some(since);
        self.standing = now.saturating_duration_since(since) >= STANDING;
    }

    fn join(&mut self) -> (u64, oneshot::Receiver<Admission>) {
        let (place, receiver) = oneshot::channel();
        self.arrivals += 1;
        self.waiters.push_back(Waiter { number: self.arrivals, place });
        (self.arrivals, receiver)
    }
}

impl Drop for Ticket<'_> {
    // An admission that is on its way comes back after this, as the receiver is dropped.
    fn drop(&mut self) {
        if self.place.is_terminated() {
            return;
        }
        let mut line = self.gate.lock();
        if let Ok(position) = line.waiters.binary_search_by_key(&self.number, |waiter| waiter.number) {
            line.waiters.remove(position);
            self.gate.word.fetch_sub(WAITING, AcqRel);
        }
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        if self.0.word.fetch_sub(1, AcqRel) >= WAITING {
            self.0.serve();
        }
    }
}

/// Whether a newcomer may enter: those who wait come first.
fn has_room(word: u64, limit: u32) -> bool {
    word < WAITING && inside(word) < limit
}

fn inside(word: u64) -> u32 {
    (word % WAITING) as u32
}

#[cfg(test)]
mod tests;
