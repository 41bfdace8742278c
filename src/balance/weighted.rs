//! Smooth weighted round robin: each candidate in turn, as often as its weight says, spread out so that a heavy
//! one does not get its whole share in one burst. Weights 5, 1, 1 give a a b a c a a.
//!
//! Each choice gives every candidate its weight as credit; who has most is chosen and pays the sum of all
//! weights (nginx, `ngx_http_upstream_round_robin`, since 1.3.1). Use it when the backends differ in size and
//! the connections do not.
//!
//! # Without looking at everybody
//!
//! nginx goes through all candidates to hand out credit. But what they are given is known beforehand: after so
//! many turns a candidate has `base + weight × turns`, where `base` only moves when it pays. Those of one weight are
//! given the same, so the order among them stays until one pays: they form a class, a heap with the one of most
//! credit on top. A choice compares the tops, at most one for each of the weights there are, and lets the winner
//! sink in its heap.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, binary_heap::PeekMut};
use std::sync::{Mutex, PoisonError};

use super::{Candidate, PickArgs};

/// Whose turn it is. A choice moves it on for all workers, so a lock guards it.
#[derive(Debug)]
pub(super) struct Weighted {
    credits: Mutex<Credits>,
}

/// The credit of each candidate, by weight.
///
/// An i64 is enough: of credit nobody has more than a few times the sum of weights, and `base` follows the turns,
/// of which 2^55 fit at the largest weight of 256. At a million choices a second they last a thousand years.
#[derive(Debug)]
struct Credits {
    /// Choices that were made.
    turns: i64,
    /// The sum of all weights, which is what a choice costs.
    price: i64,
    classes: Box<[Class]>,
    /// The tried ones, while a choice is made among the others. Empty between choices; here to keep its memory.
    aside: Vec<(usize, Account)>,
}

/// The candidates of one weight.
#[derive(Debug)]
struct Class {
    weight: i64,
    accounts: BinaryHeap<Account>,
}

/// The credit of one candidate, but for what the turns have given it. The greatest has most credit in its class,
/// among equals the lowest index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Account {
    base: i64,
    index: Reverse<usize>,
}

impl Weighted {
    pub(super) fn new(candidates: &[Candidate]) -> Self {
        Self::with_credit(candidates, |_| 0)
    }

    /// Credit for a changed set: who stays keeps theirs, so that a change elsewhere does not start anew the
    /// cycle that the others are in. Credit is worth its part of the sum of all weights, whatever that is.
    pub(super) fn carried_over(&self, before: &[Candidate], after: &[Candidate]) -> Self {
        let (price_before, old) = {
            // Workers may be waiting for their choice: no longer than to copy it.
            let credits = self.credits.lock().unwrap_or_else(PoisonError::into_inner);
            (credits.price.max(1), credits.each().collect::<Vec<_>>())
        };
        let price_after = price(after);
        let worth = |(index, credit): (usize, i64)| (before[index].key, credit * price_after / price_before);
        let old: HashMap<u64, i64> = old.into_iter().map(worth).collect();
        Self::with_credit(after, |candidate| old.get(&candidate.key).copied().unwrap_or(0))
    }

    fn with_credit(candidates: &[Candidate], credit: impl Fn(&Candidate) -> i64) -> Self {
        let mut classes: BTreeMap<u32, Vec<Account>> = BTreeMap::new();
        for (index, candidate) in candidates.iter().enumerate() {
            let account = Account { base: credit(candidate), index: Reverse(index) };
            classes.entry(candidate.weight).or_default().push(account);
        }
        let class =
            |(weight, accounts): (u32, Vec<_>)| Class { weight: weight.into(), accounts: accounts.into() };
        let classes = classes.into_iter().map(class).collect();
        Self {
            credits: Mutex::new(Credits { turns: 0, price: price(candidates), classes, aside: Vec::new() }),
        }
    }

    pub(super) fn choose(&self, candidates: &[Candidate], args: &PickArgs<'_>) -> Option<usize> {
        let mut credits = self.credits.lock().unwrap_or_else(PoisonError::into_inner);
        credits.choose(|index| args.excludes(candidates[index].key))
    }
}

fn price(candidates: &[Candidate]) -> i64 {
    candidates.iter().map(|candidate| i64::from(candidate.weight)).sum()
}

impl Credits {
    /// Who was tried gets credit for this turn as everybody does, and has its turn the sooner when it is back.
    fn choose(&mut self, tried: impl Fn(usize) -> bool) -> Option<usize> {
        let turn = self.turns + 1;
        let chosen = loop {
            let classes = self.classes.iter_mut().enumerate();
            let (number, class) = classes.max_by_key(|(_, class)| class.most(turn))?;
            let Some(mut top) = class.accounts.peek_mut() else { break None };
            let Reverse(index) = top.index;
            if tried(index) {
                self.aside.push((number, PeekMut::pop(top)));
                continue;
            }
            top.base -= self.price;
            self.turns = turn;
            break Some(index);
        };
        for (class, account) in self.aside.drain(..) {
            self.classes[class].accounts.push(account);
        }
        chosen
    }

    /// Each candidate's index and credit.
    fn each(&self) -> impl Iterator<Item = (usize, i64)> + '_ {
        self.classes.iter().flat_map(|class| {
            class.accounts.iter().map(|account| (account.index.0, class.credit(account, self.turns)))
        })
    }
}

impl Class {
    fn credit(&self, account: &Account, turns: i64) -> i64 {
        account.base + self.weight * turns
    }

    /// What its top has to offer against those of other classes; nothing when all are set aside.
    fn most(&self, turns: i64) -> Option<(i64, Reverse<usize>)> {
        self.accounts.peek().map(|top| (self.credit(top, turns), top.index))
    }
}

#[cfg(test)]
#[path = "weighted_tests.rs"]
mod tests;
