//! The endpoints of an upstream as they are laid out for picking.
//!
//! A layout is made anew when an endpoint becomes usable or ceases to be, and swapped whole; a
//! pick reads one. Tiers share the requests as Envoy's priority levels do: a tier takes 1.4 times
//! the share of its endpoints that are usable, at most all; what is left spills over to the next.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::HeaderValue;
use pingora::upstreams::peer::HttpPeer;

use super::balancer::{self, Balancer, Kind, Seat};
use super::breaker;
use super::endpoint::{Endpoint, Health, State};

/// How much more than its usable share a tier takes, in percent, as in Envoy.
const OVERPROVISIONING: u64 = 140;
/// All requests, in percent.
const ALL: u64 = 100;

/// An endpoint as a member of an upstream.
#[derive(Clone)]
pub(super) struct Member {
    pub endpoint: Arc<Endpoint>,
    pub location: usize,
    pub weight: u32,
    pub tier: u8,
    /// The way to it.
    pub peer: Arc<HttpPeer>,
    /// What names it in a sticky client's cookie, and the whole cookie.
    pub token: u64,
    pub cookie: Option<HeaderValue>,
}

/// What of an upstream's settings a layout and its picks depend on.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Rules {
    pub kind: Kind,
    pub panic_threshold: f64,
    pub slow_start: Duration,
    /// Requests at one endpoint at once.
    pub connections: u32,
    /// The breaker of each endpoint.
    pub breaker: Option<breaker::Policy>,
}

impl Ask<'_> {
    /// A request with nothing to heed.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { key: &[], avoid: None, token: None, load: 0, deadline: None, now }
    }
}

impl Rules {
    /// Whether the load of the whole upstream matters to a pick.
    pub fn is_bounded(&self) -> bool {
        matches!(self.kind, Kind::RingHash { bound: Some(_) } | Kind::Maglev { bound: Some(_) })
    }

    /// Whether a sound endpoint may take one more request: it has room, was not just tried, and its
    /// breaker is not open.
    fn admit(&self, endpoint: &Endpoint, ask: &Ask<'_>) -> bool {
        let open = || self.breaker.is_some() && endpoint.breaker.state(ask.now) == breaker::State::Open;
        endpoint.in_flight() < self.connections && Some(endpoint.address()) != ask.avoid && !open()
    }

    /// Whether equal keys go to equal endpoints.
    fn hashes(&self) -> bool {
        matches!(self.kind, Kind::RingHash { .. } | Kind::Maglev { .. })
    }
}

/// Endpoints, laid out.
#[derive(Default)]
pub(super) struct Members {
    pub list: Vec<Member>,
    /// Which of them were usable when this was laid out.
    usable: Vec<bool>,
    tiers: Vec<Tier>,
}

struct Tier {
    number: u8,
    /// Its share of the requests; out of the sum over the tiers.
    share: u64,
    balancer: Arc<Balancer>,
    /// Whether the unhealthy are used too.
    panic: bool,
    seats: usize,
}

/// What a pick has to heed.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// What hashing balancers hash.
    pub key: &'a [u8],
    /// The endpoint just tried.
    pub avoid: Option<SocketAddr>,
    /// What the client's cookie names.
    pub token: Option<u64>,
    /// Requests at the whole upstream, for balancers with bounded load.
    pub load: u32,
    /// When the whole request must be over.
    pub deadline: Option<Instant>,
    /// The present.
    pub now: Instant,
}

impl Members {
    /// Lays members out.
    pub fn new(list: Vec<Member>, rules: &Rules, last: &Self, now: Instant) -> Self {
        let mut numbers: Vec<u8> = list.iter().map(|member| member.tier).collect();
        numbers.sort_unstable();
        numbers.dedup();
        // Only where all tiers together lack sound endpoints are the others used.
        let sound: u64 = numbers.iter().map(|number| sound_share(&list, *number, now)).sum();
        let mut left = ALL;
        let mut tiers = Vec::new();
        for number in numbers {
            let (seats, panic, usable) = seats(&list, number, (rules, sound < ALL), now);
            let taken = usable.min(left);
            left -= taken;
            // A tier without a share still takes what the others cannot.
            if usable == 0 {
                continue;
            }
            let before = last.tiers.iter().find(|tier| tier.number == number).map(|tier| &tier.balancer);
            let balancer = match before {
                // A ring stands over all members, so that keys return home: health changes nothing.
                Some(before) if rules.hashes() && same(&last.list, &list, number) => Arc::clone(before),
                Some(before) => Arc::new(Balancer::new(rules.kind, &seats).resume(before)),
                None => Arc::new(Balancer::new(rules.kind, &seats)),
            };
            tiers.push(Tier { number, share: taken, balancer, panic, seats: seats.len() });
        }
        let usable = list.iter().map(|member| member.endpoint.is_usable(now)).collect();
        Self { list, usable, tiers }
    }

    /// Whether endpoints became usable, or ceased to be, since this was laid out.
    pub fn is_outdated(&self, now: Instant) -> bool {
        self.list.iter().zip(&self.usable).any(|(member, usable)| member.endpoint.is_usable(now) != *usable)
    }

    /// Picks a member for a new request.
    pub fn pick(&self, ask: &Ask<'_>, rules: &Rules) -> Option<&Member> {
        if let Some(member) = ask.token.and_then(|token| self.kept(token, ask, rules)) {
            return Some(member);
        }
        let mut random = || fastrand::u64(..);
        if let [tier] = &self.tiers[..] {
            return self.pick_from(tier, ask, rules, &mut random);
        }
        let total: u64 = self.tiers.iter().map(|tier| tier.share).sum();
        let mut at = if total == 0 { 0 } else { random() % total };
        let chosen = self.tiers.iter().position(|tier| {
            let here = at < tier.share;
            at = at.saturating_sub(tier.share);
            here
        })?;
        // What the chosen tier cannot take, another may.
        let others = self.tiers.iter().enumerate().filter(|(index, _)| *index != chosen).map(|(_, tier)| tier);
        std::iter::once(&self.tiers[chosen])
            .chain(others)
            .find_map(|tier| self.pick_from(tier, ask, rules, &mut random))
    }

    fn pick_from(
        &self,
        tier: &Tier,
        ask: &Ask<'_>,
        rules: &Rules,
        random: &mut impl FnMut() -> u64,
    ) -> Option<&Member> {
        let view = View { list: &self.list, ask, rules, panic: tier.panic };
        let index = tier.balancer.pick(&view, ask.key, random)?;
        self.list.get(index as usize)
    }

    /// The member that a client sticks to, if it still may.
    fn kept(&self, token: u64, ask: &Ask<'_>, rules: &Rules) -> Option<&Member> {
        let member = self.list.iter().find(|member| member.token == token)?;
        let endpoint = &member.endpoint;
        (endpoint.keeps_clients(ask.now) && rules.admit(endpoint, ask)).then_some(member)
    }

    /// The members that may be picked, from one on.
    pub fn usable_from<'a>(
        &'a self,
        start: usize,
        ask: &'a Ask<'_>,
        rules: &'a Rules,
    ) -> impl Iterator<Item = &'a Member> {
        let length = self.list.len().max(1);
        let panics = |index: usize| {
            let number = self.list.get(index).map(|member| member.tier);
            self.tiers.iter().any(|tier| tier.panic && Some(tier.number) == number)
        };
        let indices = (0..self.list.len()).map(move |step| start.wrapping_add(step) % length);
        let eligible = indices.filter(move |index| {
            let view = View { list: &self.list, ask, rules, panic: panics(*index) };
            u32::try_from(*index).is_ok_and(|index| balancer::Members::eligible(&view, index))
        });
        eligible.filter_map(|index| self.list.get(index))
    }

    /// Whether a try could go somewhere else than to `avoid`.
    pub fn has_other(&self, avoid: Option<SocketAddr>, rules: &Rules, now: Instant) -> bool {
        let ask = Ask { avoid, ..Ask::new(now) };
        self.tiers.iter().any(|tier| {
            let view = View { list: &self.list, ask: &ask, rules, panic: tier.panic };
            (0..).zip(&self.list).any(|(index, member)| {
                let seated = tier.panic || member.endpoint.health() != Health::New;
                member.tier == tier.number && seated && balancer::Members::eligible(&view, index)
            })
        })
    }

    /// How many endpoints requests are laid out over.
    pub fn seats(&self) -> usize {
        self.tiers.iter().map(|tier| tier.seats).sum()
    }

    /// Whether a tier uses unhealthy endpoints for want of others.
    pub fn panics(&self) -> bool {
        self.tiers.iter().any(|tier| tier.panic)
    }
}

/// The share of all requests that a tier's usable endpoints can take, in percent.
fn sound_share(list: &[Member], number: u8, now: Instant) -> u64 {
    let tier = list.iter().map(|member| (member.tier, &member.endpoint)).filter(|(tier, _)| *tier == number);
    let ready = tier.filter(|(_, endpoint)| endpoint.state() == State::Ready);
    let (all, sound) =
        ready.fold((0_u64, 0_u64), |(all, sound), (_, endpoint)| (all + 1, sound + u64::from(endpoint.is_usable(now))));
    // However few they are, they get something.
    let share = (OVERPROVISIONING * sound).checked_div(all).unwrap_or(0);
    share.clamp(u64::from(sound > 0), ALL)
}

/// Whether a tier has the same members, in the same places and with the same weights.
fn same(one: &[Member], other: &[Member], number: u8) -> bool {
    let tier = |list: &[Member]| -> Vec<_> {
        let members = list.iter().enumerate().filter(|(_, member)| member.tier == number);
        members.map(|(index, member)| (index, member.endpoint.address(), member.weight)).collect()
    };
    tier(one) == tier(other)
}

/// The seats of a tier, whether it panics, and the share of the requests that it takes (percent).
fn seats<'a>(
    list: &'a [Member],
    number: u8,
    (rules, may_panic): (&Rules, bool),
    now: Instant,
) -> (Vec<Seat<'a>>, bool, u64) {
    let tier = || (0..).zip(list).filter(move |(_, member)| member.tier == number);
    let ready = || tier().filter(|(_, member)| member.endpoint.state() == State::Ready);
    let usable = || ready().filter(move |(_, member)| member.endpoint.is_usable(now));
    // Endpoints that were never checked wait while there are others.
    let tested = || usable().filter(|(_, member)| member.endpoint.health() != Health::New);
    let (all, sound) = (ready().count(), usable().count());
    #[expect(clippy::cast_precision_loss, reason = "a share")]
    let panic = may_panic && all > 0 && (sound as f64) < rules.panic_threshold * all as f64;
    let seat = |(member, at): (u32, &'a Member)| Seat { member, weight: at.weight, name: at.endpoint.name() };
    let seats: Vec<_> = if rules.hashes() {
        tier().map(seat).collect()
    } else if panic {
        ready().map(seat).collect()
    } else if tested().next().is_some() {
        tested().map(seat).collect()
    } else {
        usable().map(seat).collect()
    };
    let share = if panic { ALL } else { sound_share(list, number, now) };
    (seats, panic, share)
}

/// The members at the moment of a pick.
struct View<'a> {
    list: &'a [Member],
    ask: &'a Ask<'a>,
    rules: &'a Rules,
    panic: bool,
}

impl View<'_> {
    fn endpoint(&self, member: u32) -> &Endpoint {
        &self.list[member as usize].endpoint
    }
}

impl balancer::Members for View<'_> {
    fn eligible(&self, member: u32) -> bool {
        let endpoint = self.endpoint(member);
        let sound = if self.panic { endpoint.state() == State::Ready } else { endpoint.is_usable(self.ask.now) };
        sound && self.rules.admit(endpoint, self.ask)
    }

    fn in_flight(&self, member: u32) -> u32 {
        self.endpoint(member).in_flight()
    }

    fn ramp(&self, member: u32) -> f32 {
        self.endpoint(member).ramp(self.ask.now, self.rules.slow_start)
    }

    fn load(&self) -> Option<u32> {
        Some(self.ask.load)
    }

    fn latency(&self, member: u32) -> f64 {
        let endpoint = self.endpoint(member);
        endpoint.latency.value(endpoint.clock(self.ask.now))
    }
}
