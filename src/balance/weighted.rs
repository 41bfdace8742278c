//! Smooth weighted round robin: each candidate in turn, in proportion to its weight, spread out so that a heavy
//! one does not get its share in one burst. Weights 5, 1, 1 give a a b a c a a.
//!
//! Each choice gives every candidate its weight as credit; the one with the most credit is chosen and pays the sum of
//! all weights (nginx, `ngx_http_upstream_round_robin`, since 1.3.1). Use it when the backends differ in size and the
//! connections do not.
//!
//! # Without visiting every candidate
//!
//! nginx visits all candidates to add credit. But the credit is known beforehand: after `turns` choices a
//! candidate has `base + weight × turns`, and `base` changes only when it pays. Candidates of one weight gain the same
//! credit, so their order stays until one pays: they form a class, a heap with the most credit on top. A choice
//! compares the tops, at most one per distinct weight, and the winner sinks in its heap.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, binary_heap::PeekMut};
use std::sync::{Mutex, PoisonError};

use litemap::LiteMap;

use super::source_hash::greatest_common_divisor;
use super::{Candidate, PickArgs};

/// The rotation, shared by all workers.
#[derive(Debug)]
pub(super) struct Weighted {
    credits: Mutex<Credits>,
}

/// The credit of each candidate, by weight.
///
/// An i64 is enough: credit stays within a few times the sum of weights, and `base` follows the turns, of which 2^55
/// fit at the largest weight, 256. At a million choices a second they last a thousand years.
#[derive(Debug)]
struct Credits {
    /// Choices so far.
    turns: i64,
    /// What a choice costs: the sum of all weights.
    price: i64,
    classes: Box<[WeightClass]>,
    /// Excluded candidates, taken out during a choice. Empty between choices; kept for its memory.
    set_aside: Vec<(usize, BaseCredit)>,
}

/// The candidates of one weight.
#[derive(Debug)]
struct WeightClass {
    weight: i64,
    members: BinaryHeap<BaseCredit>,
}

/// The credit of one candidate without what the turns have added. The greatest has the most credit of its class; of
/// equals, the one of the lowest index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct BaseCredit {
    base: i64,
    index: Reverse<usize>,
}

impl Weighted {
    pub(super) fn new(candidates: &[Candidate]) -> Self {
        Self::with_credit(candidates, |_| 0)
    }

    /// The rotation for a changed set: remaining candidates keep their credit, so that their cycle does not restart.
    /// Credit is scaled with the sum of all weights.
    pub(super) fn carried_over(&self, before: &[Candidate], after: &[Candidate]) -> Self {
        let (price_before, old) = {
            // Workers wait for this lock: only copy.
            let credits = self.credits.lock().unwrap_or_else(PoisonError::into_inner);
            (credits.price.max(1), credits.each().collect::<Vec<_>>())
        };
        let price_after = price(after);
        let worth = |(index, credit): (usize, i64)| (before[index].key, credit * price_after / price_before);
        let old: HashMap<u64, i64> = old.into_iter().map(worth).collect();
        Self::with_credit(after, |candidate| old.get(&candidate.key).copied().unwrap_or(0))
    }

    fn with_credit(candidates: &[Candidate], credit: impl Fn(&Candidate) -> i64) -> Self {
        let mut classes: LiteMap<u32, Vec<BaseCredit>> = LiteMap::new();
        for (index, candidate) in candidates.iter().enumerate() {
            let member = BaseCredit { base: credit(candidate), index: Reverse(index) };
            classes.entry(candidate.weight).or_default().push(member);
        }
        let class =
            |(weight, members): (u32, Vec<_>)| WeightClass { weight: weight.into(), members: members.into() };
        let classes = classes.into_iter().map(class).collect();
        Self {
            credits: Mutex::new(Credits {
                turns: 0,
                price: price(candidates),
                classes,
                set_aside: Vec::new(),
            }),
        }
    }

    pub(super) fn choose(&self, candidates: &[Candidate], args: &PickArgs<'_>) -> Option<usize> {
        let mut credits = self.credits.lock().unwrap_or_else(PoisonError::into_inner);
        credits.choose(|index| args.excludes(candidates[index].key))
    }
}

/// The indices of the candidates in the order of their turns until that repeats, at most `most`.
pub(super) fn cycle(candidates: &[Candidate], most: usize) -> Vec<u32> {
    let divisor = candidates.iter().fold(0, |a, one| greatest_common_divisor(a, one.weight.into())).max(1);
    let turns = price(candidates) as u64 / divisor;
    let rotation = Weighted::new(candidates);
    let none = PickArgs::default();
    (0..turns)
        .take(most)
        .filter_map(|_| rotation.choose(candidates, &none))
        .map(|index| index as u32)
        .collect()
}

fn price(candidates: &[Candidate]) -> i64 {
    candidates.iter().map(|candidate| i64::from(candidate.weight)).sum()
}

impl Credits {
    /// An excluded candidate gets credit like all others, so it is chosen sooner when it is back.
    fn choose(&mut self, excluded: impl Fn(usize) -> bool) -> Option<usize> {
        let turn = self.turns + 1;
        let chosen = loop {
            let classes = self.classes.iter_mut().enumerate();
            let (number, class) = classes.max_by_key(|(_, class)| class.most(turn))?;
            let Some(mut top) = class.members.peek_mut() else { break None };
            let Reverse(index) = top.index;
            if excluded(index) {
                self.set_aside.push((number, PeekMut::pop(top)));
                continue;
            }
            top.base -= self.price;
            self.turns = turn;
            break Some(index);
        };
        for (class, member) in self.set_aside.drain(..) {
            self.classes[class].members.push(member);
        }
        chosen
    }

    /// Each candidate's index and credit.
    fn each(&self) -> impl Iterator<Item = (usize, i64)> + '_ {
        self.classes.iter().flat_map(|class| {
            class.members.iter().map(|member| (member.index.0, class.credit(member, self.turns)))
        })
    }
}

impl WeightClass {
    fn credit(&self, member: &BaseCredit, turns: i64) -> i64 {
        member.base + self.weight * turns
    }

    /// The most credit of the class; `None` if all its candidates are set aside.
    fn most(&self, turns: i64) -> Option<(i64, Reverse<usize>)> {
        self.members.peek().map(|top| (self.credit(top, turns), top.index))
    }
}

#[cfg(test)]
#[path = "weighted_tests.rs"]
mod tests;
