//! Where a request goes when there is a choice: a tree of splits, shifts and fallbacks over
//! leaves, and for each request the leaves to try, in order.
//!
//! Whatever does not depend on the request is flattened when the tree is made; such a request
//! gets its plan by counting a reference.

use std::sync::Arc;
use std::time::Duration;

use prometheus::IntCounter;

use super::balancer::{Members, RoundRobin, Seat};
use super::failure::{Conditions, Methods};
use super::shift::{Shift, Side};

/// Where requests go.
pub enum Target<L, K> {
    /// The same leaves for every request.
    Steps(Plan<L>),
    /// One of several, by weight.
    Split(Split<L, K>),
    /// One of two, by a share that grows.
    Shift {
        /// Where it stands.
        shift: Arc<Shift>,
        /// What keeps a client on its side.
        key: K,
        /// What is left.
        from: Box<Self>,
        /// What is gone to.
        to: Box<Self>,
    },
    /// One after another, of which some depend on the request.
    Chain(Vec<Self>, Arc<Onward>),
}

/// The leaves that one request may try, in order; never empty.
pub type Plan<L> = Arc<[Step<L>]>;

/// A leaf of a plan.
pub struct Step<L> {
    /// Where it leads.
    pub leaf: Arc<L>,
    /// What leads on to the next step; `None` outside a fallback.
    pub onward: Option<Arc<Onward>>,
    /// How long a try here may take until its answer begins.
    pub per_try: Option<Duration>,
    /// The shift that decided for this step, and its side.
    pub shifted: Option<(Arc<Shift>, Side)>,
}

impl<L> Clone for Step<L> {
    fn clone(&self) -> Self {
        Self {
            leaf: Arc::clone(&self.leaf),
            onward: self.onward.clone(),
            per_try: self.per_try,
            shifted: self.shifted.clone(),
        }
    }
}

/// What leads from one target of a fallback to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Onward {
    /// These failures,
    pub on: Conditions,
    /// of requests with these methods, unless nothing of them was sent.
    pub methods: Methods,
    /// How long each target may take until its answer begins.
    pub per_try: Option<Duration>,
}

/// A choice by weight.
pub struct Split<L, K> {
    turn: RoundRobin,
    shares: Vec<Share<L, K>>,
    /// Equal keys go to equal shares.
    key: Option<K>,
    total: u64,
}

/// A member of a split.
pub struct Share<L, K> {
    /// Where this share goes.
    pub target: Target<L, K>,
    /// Against the other members' weights.
    pub weight: u32,
    /// Counts the requests that went there.
    pub selected: IntCounter,
}

/// Members that may all be picked, whenever it is their turn.
struct Anyone;

impl Members for Anyone {
    fn eligible(&self, _: u32) -> bool {
        true
    }

    fn in_flight(&self, _: u32) -> u32 {
        0
    }

    fn ramp(&self, _: u32) -> f32 {
        1.0
    }

    fn latency(&self, _: u32) -> f64 {
        0.0
    }
}

impl<L, K> Split<L, K> {
    /// A split over these members; `None` if no weight is above zero.
    #[must_use]
    pub fn new(shares: Vec<Share<L, K>>, key: Option<K>) -> Option<Self> {
        let seat = |(member, share): (u32, &Share<L, K>)| Seat { member, weight: share.weight, name: "" };
        let seats: Vec<_> = (0..).zip(&shares).map(seat).collect();
        let total = shares.iter().map(|share| u64::from(share.weight)).sum();
        (total > 0).then(|| Self { turn: RoundRobin::new(&seats), shares, key, total })
    }

    /// The next share: in turn, so that the weights hold exactly over a cycle; or by the key's
    /// hash, so that equal keys stay together.
    fn choose(&self, hash: &mut impl FnMut(&K) -> u64) -> Option<&Share<L, K>> {
        let share = match &self.key {
            None => self.shares.get(self.turn.pick(&Anyone, &mut || 0)? as usize)?,
            Some(key) => {
                // The hash as a fraction of the whole range, so that every bit counts.
                let mut at = u64::try_from((u128::from(hash(key)) * u128::from(self.total)) >> 64).unwrap_or(0);
                self.shares.iter().find(|share| {
                    let here = at < u64::from(share.weight);
                    at = at.saturating_sub(u64::from(share.weight));
                    here
                })?
            }
        };
        share.selected.inc();
        Some(share)
    }
}

impl<L, K> Target<L, K> {
    /// A single leaf.
    #[must_use]
    pub fn leaf(leaf: Arc<L>) -> Self {
        Self::Steps(Arc::new([Step { leaf, onward: None, per_try: None, shifted: None }]))
    }

    /// Targets in order.
    #[must_use]
    pub fn fallback(targets: Vec<Self>, onward: Arc<Onward>) -> Self {
        let known = targets.iter().all(|target| matches!(target, Self::Steps(_)));
        let chain = Self::Chain(targets, onward);
        if !known {
            return chain;
        }
        let mut steps = Vec::new();
        chain.collect(&mut |_| 0, &mut steps);
        Self::Steps(steps.into())
    }

    /// The leaves that one request may try. `hash` gives a key's hash for the request.
    pub fn plan(&self, mut hash: impl FnMut(&K) -> u64) -> Plan<L> {
        let mut target = self;
        loop {
            target = match target {
                Self::Steps(plan) => return Arc::clone(plan),
                Self::Split(split) => match split.choose(&mut hash) {
                    Some(share) => &share.target,
                    None => return Arc::new([]),
                },
                Self::Shift { .. } | Self::Chain(..) => {
                    let mut steps = Vec::new();
                    target.collect(&mut hash, &mut steps);
                    return steps.into();
                }
            };
        }
    }

    fn collect(&self, hash: &mut impl FnMut(&K) -> u64, steps: &mut Vec<Step<L>>) {
        match self {
            Self::Steps(plan) => steps.extend(plan.iter().cloned()),
            Self::Split(split) => {
                if let Some(share) = split.choose(hash) {
                    share.target.collect(hash, steps);
                }
            }
            Self::Shift { shift, key, from, to } => {
                let side = shift.side(hash(key));
                let begin = steps.len();
                if side == Side::Old { from } else { to }.collect(hash, steps);
                for step in &mut steps[begin..] {
                    step.shifted = Some((Arc::clone(shift), side));
                }
            }
            Self::Chain(targets, onward) => {
                for target in targets {
                    let begin = steps.len();
                    target.collect(hash, steps);
                    // What an inner fallback says of its own members holds; its last leads on as
                    // the outer one says.
                    let count = steps.len();
                    for (index, step) in steps.iter_mut().enumerate().skip(begin) {
                        step.per_try = step.per_try.or(onward.per_try);
                        if step.onward.is_none() || index + 1 == count {
                            step.onward = Some(Arc::clone(onward));
                        }
                    }
                }
            }
        }
    }

    /// Every leaf of the tree.
    pub fn leaves<'a>(&'a self, visit: &mut impl FnMut(&'a Arc<L>)) {
        match self {
            Self::Steps(plan) => plan.iter().for_each(|step| visit(&step.leaf)),
            Self::Split(split) => split.shares.iter().for_each(|share| share.target.leaves(visit)),
            Self::Shift { from, to, .. } => [from, to].into_iter().for_each(|target| target.leaves(visit)),
            Self::Chain(targets, _) => targets.iter().for_each(|target| target.leaves(visit)),
        }
    }

    /// Every shift of the tree.
    pub fn shifts<'a>(&'a self, visit: &mut impl FnMut(&'a Arc<Shift>)) {
        match self {
            Self::Steps(_) => {}
            Self::Split(split) => split.shares.iter().for_each(|share| share.target.shifts(visit)),
            Self::Shift { shift, from, to, .. } => {
                visit(shift);
                [from, to].into_iter().for_each(|target| target.shifts(visit));
            }
            Self::Chain(targets, _) => targets.iter().for_each(|target| target.shifts(visit)),
        }
    }
}
