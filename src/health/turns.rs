//! How the places for checks are shared between pools. Pure.
//!
//! At most `runtime.max_checks` checks run at once. A check of a silent backend holds its place until its time limit.
//! With first come, first served, the silent backends of one pool would take every place and delay the checks of all
//! pools. Instead:
//!
//! - A free place goes to the pool that holds the fewest places; among equals, to the pool whose last place is the
//!   oldest. Within a pool the order is first come, first served.
//! - Each pool has a *reserve*: half of the places are divided evenly, at least one for each pool and at most one for
//!   each of its checks. No pool takes a place from another pool's reserve, so a check of a pool below its reserve
//!   starts at once. All pools share the other half, and a single pool gets all places.
//! - With more pools than half of the places, the reserves together are that half, and a pool may have to wait for its first
//!   place.
//!
//! The cost: a pool with many silent backends gets as few as half of the places, and its checks, which are late anyway,
//! are up to twice as late. The gain: the checks of all other pools are on time.

use std::collections::{BTreeMap, VecDeque};

/// The places, the pools that share them, and the waiting checks.
#[derive(Debug)]
pub(super) struct Turns<W> {
    places: usize,
    free: usize,
    pools: BTreeMap<u64, Pool<W>>,
    next_pool: u64,
    /// Places given so far.
    given: u64,
}

#[derive(Debug)]
struct Pool<W> {
    /// The number of its checkers: it never needs more places.
    checkers: usize,
    held: usize,
    waiting: VecDeque<W>,
    /// The number of the last place that it received.
    last: u64,
    /// The pool has no more checks; running ones still hold their places.
    closed: bool,
}

impl<W> Turns<W> {
    /// Creates that many places, all free, without pools.
    pub(super) fn new(places: usize) -> Self {
        Self { places, free: places, pools: BTreeMap::new(), next_pool: 0, given: 0 }
    }

    /// A new pool.
    pub(super) fn open(&mut self) -> u64 {
        let id = self.next_pool;
        self.next_pool += 1;
        // It comes after the existing pools.
        let last = self.given;
        let pool = Pool { checkers: 0, held: 0, waiting: VecDeque::new(), last, closed: false };
        self.pools.insert(id, pool);
        id
    }

    /// Closes a pool.
    pub(super) fn close(&mut self, id: u64) {
        if let Some(pool) = self.pools.get_mut(&id) {
            (pool.closed, pool.checkers) = (true, 0);
            pool.waiting.clear();
        }
        self.forget(id);
    }

    /// Adds a checker to a pool.
    pub(super) fn add_checker(&mut self, id: u64) {
        if let Some(pool) = self.pools.get_mut(&id) {
            pool.checkers += 1;
        }
    }

    /// Removes a checker from a pool.
    pub(super) fn remove_checker(&mut self, id: u64) {
        if let Some(pool) = self.pools.get_mut(&id) {
            pool.checkers = pool.checkers.saturating_sub(1);
        }
    }

    /// Queues a check of a pool for a place.
    pub(super) fn ask(&mut self, id: u64, waiter: W) {
        if let Some(pool) = self.pools.get_mut(&id) {
            pool.waiting.push_back(waiter);
        }
    }

    /// Returns a pool's place.
    pub(super) fn give_back(&mut self, id: u64) {
        if let Some(pool) = self.pools.get_mut(&id).filter(|pool| pool.held > 0) {
            pool.held -= 1;
            self.free += 1;
        }
        self.forget(id);
    }

    /// Assigns a free place to a waiting check; call it again until it returns nothing.
    pub(super) fn next(&mut self, wants: impl Fn(&W) -> bool) -> Option<(u64, W)> {
        for pool in self.pools.values_mut() {
            while pool.waiting.front().is_some_and(|waiter| !wants(waiter)) {
                pool.waiting.pop_front();
            }
        }
        if self.free == 0 {
            return None;
        }
        let share = self.share();
        let reserved: usize = self.pools.values().map(|pool| pool.lacks(share)).sum();
        let most_reserved = self.places / 2;
        let may = |pool: &Pool<W>| {
            let lacks = pool.lacks(share);
            !pool.waiting.is_empty() && (lacks > 0 || self.free > (reserved - lacks).min(most_reserved))
        };
        let waiting = self.pools.iter().filter(|(_, pool)| may(pool));
        let (&id, _) = waiting.min_by_key(|(_, pool)| (pool.held, pool.last))?;
        let pool = self.pools.get_mut(&id)?;
        let waiter = pool.waiting.pop_front()?;
        self.given += 1;
        (pool.held, pool.last) = (pool.held + 1, self.given);
        self.free -= 1;
        Some((id, waiter))
    }

    /// The number of free places.
    pub(super) fn free(&self) -> usize {
        self.free
    }

    /// Each pool's share of the places that are reserved.
    fn share(&self) -> usize {
        let pools = self.pools.values().filter(|pool| pool.checkers > 0).count();
        (self.places / 2 / pools.max(1)).max(1)
    }

    /// Removes a closed pool that holds no place.
    fn forget(&mut self, id: u64) {
        if self.pools.get(&id).is_some_and(|pool| pool.closed && pool.held == 0) {
            self.pools.remove(&id);
        }
    }
}

impl<W> Pool<W> {
    /// The places of its reserve that it does not hold.
    fn lacks(&self, share: usize) -> usize {
        share.min(self.checkers).saturating_sub(self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Assigns all places: the pools and waiters, in order.
    fn give(turns: &mut Turns<u32>) -> Vec<(u64, u32)> {
        std::iter::from_fn(|| turns.next(|_| true)).collect()
    }

    /// Places, and pools with that many checkers.
    fn turns(places: usize, checkers: &[usize]) -> Turns<u32> {
        let mut turns = Turns::new(places);
        for n in checkers {
            let id = turns.open();
            (0..*n).for_each(|_| turns.add_checker(id));
        }
        turns
    }

    #[test]
    fn a_pool_alone_has_all_places_and_gives_them_in_order() {
        let mut turns = turns(4, &[10, 0]);
        (0..10).for_each(|n| turns.ask(0, n));
        assert_eq!(give(&mut turns), [(0, 0), (0, 1), (0, 2), (0, 3)]);
        turns.give_back(0);
        assert_eq!(give(&mut turns), [(0, 4)]);
        // A cancelled waiter takes no place.
        turns.give_back(0);
        assert_eq!(turns.next(|waiter| *waiter > 6), Some((0, 7)));
    }

    #[test]
    fn a_pool_of_silent_backends_leaves_the_reserve_of_other_pools_free() {
        let mut turns = turns(256, &[2000, 5, 400]);
        (0..2000).for_each(|n| turns.ask(0, n));
        // A third of a half for the third pool, and one for each check of the second.
        assert_eq!(give(&mut turns).len(), 256 - 42 - 5);
        (0..5).for_each(|n| turns.ask(1, n));
        (0..400).for_each(|n| turns.ask(2, n));
        let given = give(&mut turns);
        assert_eq!(given.len(), 47);
        assert_eq!(given.iter().filter(|(id, _)| *id == 1).count(), 5);
        // Places that the silent pool returns go to the pool that holds the fewest, until both hold as many.
        let mut held = [256 - 47, 5, 42_usize];
        for _ in 0..100 {
            turns.give_back(0);
            held[0] -= 1;
            for (id, _) in give(&mut turns) {
                held[id as usize] += 1;
            }
        }
        assert!(held[1] == 5 && held[0].abs_diff(held[2]) <= 1, "{held:?}");
    }

    #[test]
    fn with_fewer_places_than_pools_they_take_turns() {
        let mut turns = turns(1, &[3, 3, 3]);
        for n in 0..9 {
            turns.ask(n / 3, n as u32);
        }
        let mut order = Vec::new();
        for _ in 0..9 {
            let given = give(&mut turns);
            assert_eq!(given.len(), 1);
            order.push(given[0].1);
            turns.give_back(given[0].0);
        }
        assert_eq!(order, [0, 3, 6, 1, 4, 7, 2, 5, 8]);
    }

    #[test]
    fn a_closed_pool_keeps_only_its_running_checks() {
        let mut turns = turns(2, &[5, 5]);
        (0..5).for_each(|n| turns.ask(0, n));
        assert_eq!(give(&mut turns).len(), 1);
        turns.close(0);
        (0..5).for_each(|n| turns.ask(1, n));
        assert_eq!(give(&mut turns), [(1, 0)]);
        turns.give_back(0);
        assert_eq!((turns.pools.len(), give(&mut turns)), (1, vec![(1, 1)]));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Ask(usize),
        GiveBack(usize),
        Open(usize),
        Close(usize),
    }

    fn step(churn: bool) -> impl Strategy<Value = Step> {
        let often = prop_oneof![any::<usize>().prop_map(Step::Ask), any::<usize>().prop_map(Step::GiveBack)];
        let seldom = prop_oneof![(1usize..9).prop_map(Step::Open), any::<usize>().prop_map(Step::Close)];
        prop_oneof![8 => often, u32::from(churn) => seldom]
    }

    proptest! {
        /// However checks come and go: no place is lost, each pool's checks keep their order, and each other pool
        /// overtakes a waiting pool without places at most once.
        #[test]
        fn no_pool_is_passed_over_for_long(
            places in 1usize..12, steps in prop::collection::vec(step(true), 1..200),
        ) {
            let mut turns = turns(places, &[4, 4]);
            let mut open = vec![0u64, 1];
            let mut held: Vec<u64> = Vec::new();
            let mut number = 0;
            // By pool: its waiters, and the pools that overtook it since it began to wait without a place.
            let mut waiting = BTreeMap::<u64, VecDeque<u32>>::new();
            let mut passed = BTreeMap::<u64, Vec<u64>>::new();
            for step in steps {
                match step {
                    Step::Ask(n) if !open.is_empty() => {
                        let id = open[n % open.len()];
                        number += 1;
                        turns.ask(id, number);
                        waiting.entry(id).or_default().push_back(number);
                    }
                    Step::GiveBack(n) if !held.is_empty() => {
                        let id = held.swap_remove(n % held.len());
                        turns.give_back(id);
                    }
                    Step::Open(checkers) => {
                        let id = turns.open();
                        (0..checkers).for_each(|_| turns.add_checker(id));
                        open.push(id);
                    }
                    Step::Close(n) if open.len() > 1 => {
                        let id = open.swap_remove(n % open.len());
                        turns.close(id);
                        waiting.remove(&id);
                        passed.remove(&id);
                    }
                    _ => {}
                }
                for (id, waiter) in give(&mut turns) {
                    prop_assert_eq!(waiting.get_mut(&id).and_then(VecDeque::pop_front), Some(waiter));
                    passed.remove(&id);
                    for (other, waits) in &waiting {
                        if *other != id && !waits.is_empty() && !held.contains(other) {
                            passed.entry(*other).or_default().push(id);
                        }
                    }
                    held.push(id);
                }
                for by in passed.values() {
                    let mut once = by.clone();
                    once.sort_unstable();
                    once.dedup();
                    prop_assert_eq!(once.len(), by.len(), "passed over twice: {:?}", by);
                }
                prop_assert_eq!(turns.free() + held.len(), places);
                // A place stays free only if no check waits, or for another pool's reserve.
                let waits = waiting.values().any(|waits| !waits.is_empty());
                if waits && open.len() == 1 && held.iter().all(|id| open.contains(id)) {
                    prop_assert_eq!(turns.free(), 0);
                }
            }
        }

        /// However many pools there are, one that has checks waiting gets more than one place while half are free.
        #[test]
        fn many_pools_do_not_keep_half_of_the_places_idle(pools in 1usize..60, places in 2usize..40) {
            let mut turns = turns(places, &vec![places; pools]);
            for _ in 0..places {
                turns.ask(0, 0);
            }
            prop_assert!(give(&mut turns).len() >= places / 2);
        }

        /// While the pools stay the same and half of the places are enough for one each, a pool below its reserve never waits.
        #[test]
        fn a_pool_within_its_reserve_never_waits(
            checkers in prop::collection::vec(1usize..20, 1..6),
            more in 0usize..40,
            steps in prop::collection::vec(step(false), 1..300),
        ) {
            let places = 2 * checkers.len() + more;
            let mut turns = turns(places, &checkers);
            let share = (places / 2 / checkers.len()).max(1);
            let mut held = vec![0usize; checkers.len()];
            let mut waiting = vec![0usize; checkers.len()];
            for step in steps {
                match step {
                    // A checker has one check at a time.
                    Step::Ask(n) => {
                        let id = n % checkers.len();
                        if held[id] + waiting[id] < checkers[id] {
                            turns.ask(id as u64, 0);
                            waiting[id] += 1;
                        }
                    }
                    Step::GiveBack(n) => {
                        let id = n % checkers.len();
                        if held[id] > 0 {
                            turns.give_back(id as u64);
                            held[id] -= 1;
                        }
                    }
                    Step::Open(_) | Step::Close(_) => {}
                }
                for (id, _) in give(&mut turns) {
                    held[id as usize] += 1;
                    waiting[id as usize] -= 1;
                }
                for id in 0..checkers.len() {
                    let within = held[id] < share.min(checkers[id]);
                    prop_assert!(waiting[id] == 0 || !within, "pool {} waits: {:?} held", id, held);
                }
                prop_assert_eq!(turns.free() + held.iter().sum::<usize>(), places);
            }
        }
    }
}
