//! Balancers: which of the eligible endpoints is next.
//!
//! Pure. A [`Balancer`] is laid out over [`Seat`]s when the members change and is immutable from
//! then on, but for round robin's position. What changes from one request to the next (health,
//! load, latency) it asks of [`Members`], by index. A pick takes no lock, allocates nothing, never
//! returns an ineligible member and is `None` only if no seat is eligible.

mod affinity;
mod draw;
mod ewma;
mod hash;
mod least_request;
mod maglev;
mod peak;
mod random;
mod ring_hash;
mod round_robin;
#[cfg(test)]
mod testing;

pub use ewma::Ewma;
pub use least_request::LeastRequest;
pub use maglev::Maglev;
pub use peak::PeakEwma;
pub use random::Random;
pub use ring_hash::RingHash;
pub use round_robin::RoundRobin;

/// What a pick may know of the members at this moment.
pub trait Members {
    /// Whether the member may be picked now.
    fn eligible(&self, member: u32) -> bool;
    /// Requests that it is serving.
    fn in_flight(&self, member: u32) -> u32;
    /// Its present share of its weight: 1.0, less during slow start; never 0.
    fn ramp(&self, member: u32) -> f32;
    /// What one more request there is expected to cost: the peak EWMA of its latency in
    /// nanoseconds, requests in flight not included; 0.0 if nothing is known yet.
    fn latency(&self, member: u32) -> f64;
    /// Requests in flight at all members, if that is known without adding up.
    fn load(&self) -> Option<u32> {
        None
    }
}

/// The algorithms.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Smooth weighted round robin.
    RoundRobin,
    /// At random, by weight.
    Random,
    /// The less busy of two drawn at random.
    LeastRequest,
    /// The one of two drawn at random that is expected to answer sooner.
    Ewma,
    /// Consistent hashing on a ring, as nginx does it.
    RingHash {
        /// At least 1.0: a member takes at most this many times its fair share of the requests in
        /// flight.
        bound: Option<f64>,
    },
    /// Consistent hashing by a Maglev table.
    Maglev {
        /// At least 1.0: a member takes at most this many times its fair share of the requests in
        /// flight.
        bound: Option<f64>,
    },
}

/// A member as a balancer is laid out over it.
#[derive(Clone, Copy, Debug)]
pub struct Seat<'a> {
    /// Its index, by which [`Members`] knows it.
    pub member: u32,
    /// Its share of the requests; with 0 it gets none.
    pub weight: u32,
    /// `ip:port`: what consistent hashing places it by.
    pub name: &'a str,
}

/// One algorithm, laid out over the members.
#[derive(Debug)]
pub enum Balancer {
    /// See [`Kind::RoundRobin`].
    RoundRobin(RoundRobin),
    /// See [`Kind::Random`].
    Random(Random),
    /// See [`Kind::LeastRequest`].
    LeastRequest(LeastRequest),
    /// See [`Kind::Ewma`].
    Ewma(Ewma),
    /// See [`Kind::RingHash`].
    RingHash(RingHash),
    /// See [`Kind::Maglev`].
    Maglev(Maglev),
}

impl Default for Balancer {
    /// A round robin over nobody.
    fn default() -> Self {
        Self::RoundRobin(RoundRobin::default())
    }
}

impl Balancer {
    /// Lays the algorithm out over `seats`.
    #[must_use]
    pub fn new(kind: Kind, seats: &[Seat<'_>]) -> Self {
        match kind {
            Kind::RoundRobin => Self::RoundRobin(RoundRobin::new(seats)),
            Kind::Random => Self::Random(Random::new(seats)),
            Kind::LeastRequest => Self::LeastRequest(LeastRequest::new(seats)),
            Kind::Ewma => Self::Ewma(Ewma::new(seats)),
            Kind::RingHash { bound } => Self::RingHash(RingHash::new(seats, bound)),
            Kind::Maglev { bound } => Self::Maglev(Maglev::new(seats, bound)),
        }
    }

    /// Continues where another stood; only round robin has a position.
    #[must_use]
    pub fn resume(self, other: &Self) -> Self {
        match (self, other) {
            (Self::RoundRobin(turn), Self::RoundRobin(other)) => Self::RoundRobin(turn.resume(other)),
            (balancer, _) => balancer,
        }
    }

    /// The member to send the next request to.
    ///
    /// `key` is what the hashing balancers hash; they spread requests with an empty key at random.
    /// `random` yields uniform numbers.
    pub fn pick(&self, members: &impl Members, key: &[u8], random: &mut impl FnMut() -> u64) -> Option<u32> {
        match self {
            Self::RoundRobin(balancer) => balancer.pick(members, random),
            Self::Random(balancer) => balancer.pick(members, random),
            Self::LeastRequest(balancer) => balancer.pick(members, random),
            Self::Ewma(balancer) => balancer.pick(members, random),
            Self::RingHash(balancer) => balancer.pick(members, key, random),
            Self::Maglev(balancer) => balancer.pick(members, key, random),
        }
    }
}

/// A seat as balancers keep it: without its name.
#[derive(Clone, Copy, Debug)]
struct Place {
    member: u32,
    weight: u32,
}

impl Place {
    /// The places of the seats that have a weight, in order.
    fn all(seats: &[Seat<'_>]) -> Box<[Self]> {
        weighted(seats).map(|seat| Self { member: seat.member, weight: seat.weight }).collect()
    }

    /// Its weight as of now; never 0.
    fn share(self, members: &impl Members) -> f64 {
        f64::from(self.weight) * f64::from(members.ramp(self.member).max(f32::MIN_POSITIVE))
    }
}

/// The seats that have a weight.
fn weighted<'a, 'b>(seats: &'b [Seat<'a>]) -> impl Iterator<Item = &'b Seat<'a>> {
    seats.iter().filter(|seat| seat.weight > 0)
}

/// Whether slow start lets a member have the turn that fell to it.
fn takes_turn(member: u32, members: &impl Members, random: &mut impl FnMut() -> u64) -> bool {
    let ramp = members.ramp(member);
    ramp >= 1.0 || unit(random()) < f64::from(ramp)
}

/// A uniform number as one of `0.0..1.0`.
fn unit(random: u64) -> f64 {
    const STEPS: f64 = (1_u64 << 53) as f64;
    (random >> 11) as f64 / STEPS
}

/// A uniform number as one of `0..length`; 0 if `length` is.
fn below(random: u64, length: usize) -> usize {
    ((u128::from(random) * length as u128) >> 64) as usize
}

#[cfg(test)]
mod tests;
