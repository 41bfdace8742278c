//! Shares the slots for checks between pools. Pure.
//!
//! At most `runtime.max_checks` checks run at once. A check of a silent backend holds its slot until it times out. With
//! first come, first served, the silent backends of one pool would take every slot and delay the checks of all pools.
//! Instead:
//!
//! - A free slot goes to the pool that holds the fewest; among equals, to the pool that has waited longest since its last
//!   slot. Within a pool the order is first come, first served.
//! - Each pool has a *reserve*: half of the slots are divided evenly, at least one for each pool and at most one for each
//!   of its checks. No pool takes a slot from another pool's reserve, so a check of a pool below its reserve starts at
//!   once. All pools share the other half, and a single pool gets all slots.
//! - With more pools than half of the slots, the reserves together are that half, and a pool may have to wait for its
//!   first slot.
//!
//! The cost: a pool with many silent backends gets as few as half of the slots, and its checks, which are late anyway, are
//! up to twice as late. The gain: the checks of all other pools are on time.

use std::collections::VecDeque;

use litemap::LiteMap;

/// The slots, the pools that share them, and the waiting checks.
#[derive(Debug)]
pub(super) struct CheckSlots<W> {
    total: usize,
    free: usize,
    pools: LiteMap<u64, PoolQueue<W>>,
    next_pool: u64,
    /// The number of slots assigned so far.
    assigned: u64,
}

#[derive(Debug)]
struct PoolQueue<W> {
    /// The number of its checkers: it never needs more slots.
    checkers: usize,
    held: usize,
    waiting: VecDeque<W>,
    /// The number of the last slot that it received.
    last: u64,
    /// The pool has no more checks; running ones still hold their slots.
    removed: bool,
}

impl<W> CheckSlots<W> {
    /// All slots are free; there are no pools.
    pub(super) fn new(total: usize) -> Self {
        Self { total, free: total, pools: LiteMap::new(), next_pool: 0, assigned: 0 }
    }

    /// Adds a pool; its id.
    pub(super) fn add_pool(&mut self) -> u64 {
        let id = self.next_pool;
        self.next_pool += 1;
        // Among equals it comes after the existing pools.
        let last = self.assigned;
        let pool = PoolQueue { checkers: 0, held: 0, waiting: VecDeque::new(), last, removed: false };
        self.pools.insert(id, pool);
        id
    }

    /// Removes a pool.
    pub(super) fn remove_pool(&mut self, id: u64) {
        if let Some(pool) = self.pools.get_mut(&id) {
            (pool.removed, pool.checkers) = (true, 0);
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

    /// Queues a check of a pool for a slot.
    pub(super) fn wait(&mut self, id: u64, waiter: W) {
        if let Some(pool) = self.pools.get_mut(&id) {
            pool.waiting.push_back(waiter);
        }
    }

    /// Releases a slot of a pool.
    pub(super) fn release(&mut self, id: u64) {
        if let Some(pool) = self.pools.get_mut(&id).filter(|pool| pool.held > 0) {
            pool.held -= 1;
            self.free += 1;
        }
        self.forget(id);
    }

    /// Assigns a free slot to a waiting check; `None`: none is free, or none may be assigned.
    pub(super) fn next(&mut self, is_waiting: impl Fn(&W) -> bool) -> Option<(u64, W)> {
        for (_, pool) in &mut self.pools {
            while pool.waiting.front().is_some_and(|waiter| !is_waiting(waiter)) {
                pool.waiting.pop_front();
            }
        }
        if self.free == 0 {
            return None;
        }
        let share = self.share();
        let reserved: usize = self.pools.values().map(|pool| pool.lacks(share)).sum();
        let most_reserved = self.total / 2;
        let may = |pool: &PoolQueue<W>| {
            let lacks = pool.lacks(share);
            !pool.waiting.is_empty() && (lacks > 0 || self.free > (reserved - lacks).min(most_reserved))
        };
        let waiting = self.pools.iter().filter(|(_, pool)| may(pool));
        let (&id, _) = waiting.min_by_key(|(_, pool)| (pool.held, pool.last))?;
        let pool = self.pools.get_mut(&id)?;
        let waiter = pool.waiting.pop_front()?;
        self.assigned += 1;
        (pool.held, pool.last) = (pool.held + 1, self.assigned);
        self.free -= 1;
        Some((id, waiter))
    }

    /// The number of free slots.
    pub(super) fn free(&self) -> usize {
        self.free
    }

    /// The reserve of each pool.
    fn share(&self) -> usize {
        let pools = self.pools.values().filter(|pool| pool.checkers > 0).count();
        (self.total / 2 / pools.max(1)).max(1)
    }

    /// Forgets a removed pool that holds no slot.
    fn forget(&mut self, id: u64) {
        if self.pools.get(&id).is_some_and(|pool| pool.removed && pool.held == 0) {
            self.pools.remove(&id);
        }
    }
}

impl<W> PoolQueue<W> {
    /// The slots of its reserve that it does not hold.
    fn lacks(&self, share: usize) -> usize {
        share.min(self.checkers).saturating_sub(self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Assigns all slots: the pools and waiters, in order.
    fn assign(slots: &mut CheckSlots<u32>) -> Vec<(u64, u32)> {
        std::iter::from_fn(|| slots.next(|_| true)).collect()
    }

    /// `total` slots, and pools with that many checkers.
    fn slots(total: usize, checkers: &[usize]) -> CheckSlots<u32> {
        let mut slots = CheckSlots::new(total);
        for n in checkers {
            let id = slots.add_pool();
            (0..*n).for_each(|_| slots.add_checker(id));
        }
        slots
    }

    #[test]
    fn a_single_pool_gets_all_slots_in_order() {
        let mut slots = slots(4, &[10, 0]);
        (0..10).for_each(|n| slots.wait(0, n));
        assert_eq!(assign(&mut slots), [(0, 0), (0, 1), (0, 2), (0, 3)]);
        slots.release(0);
        assert_eq!(assign(&mut slots), [(0, 4)]);
        // A cancelled waiter takes no slot.
        slots.release(0);
        assert_eq!(slots.next(|waiter| *waiter > 6), Some((0, 7)));
    }

    #[test]
    fn a_pool_of_silent_backends_leaves_the_reserve_of_other_pools_free() {
        let mut slots = slots(256, &[2000, 5, 400]);
        (0..2000).for_each(|n| slots.wait(0, n));
        // A third of a half for the third pool, and one for each check of the second.
        assert_eq!(assign(&mut slots).len(), 256 - 42 - 5);
        (0..5).for_each(|n| slots.wait(1, n));
        (0..400).for_each(|n| slots.wait(2, n));
        let given = assign(&mut slots);
        assert_eq!(given.len(), 47);
        assert_eq!(given.iter().filter(|(id, _)| *id == 1).count(), 5);
        // Slots that the silent pool releases go to the pool that holds the fewest, until both hold as many.
        let mut held = [256 - 47, 5, 42_usize];
        for _ in 0..100 {
            slots.release(0);
            held[0] -= 1;
            for (id, _) in assign(&mut slots) {
                held[id as usize] += 1;
            }
        }
        assert!(held[1] == 5 && held[0].abs_diff(held[2]) <= 1, "{held:?}");
    }

    #[test]
    fn with_fewer_slots_than_pools_they_alternate() {
        let mut slots = slots(1, &[3, 3, 3]);
        for n in 0..9 {
            slots.wait(n / 3, n as u32);
        }
        let mut order = Vec::new();
        for _ in 0..9 {
            let given = assign(&mut slots);
            assert_eq!(given.len(), 1);
            order.push(given[0].1);
            slots.release(given[0].0);
        }
        assert_eq!(order, [0, 3, 6, 1, 4, 7, 2, 5, 8]);
    }

    #[test]
    fn a_removed_pool_keeps_only_its_running_checks() {
        let mut slots = slots(2, &[5, 5]);
        (0..5).for_each(|n| slots.wait(0, n));
        assert_eq!(assign(&mut slots).len(), 1);
        slots.remove_pool(0);
        (0..5).for_each(|n| slots.wait(1, n));
        assert_eq!(assign(&mut slots), [(1, 0)]);
        slots.release(0);
        assert_eq!((slots.pools.len(), assign(&mut slots)), (1, vec![(1, 1)]));
    }

    #[derive(Clone, Debug)]
    enum SlotStep {
        Wait(usize),
        Release(usize),
        AddPool(usize),
        RemovePool(usize),
    }

    fn step(churn: bool) -> impl Strategy<Value = SlotStep> {
        let often =
            prop_oneof![any::<usize>().prop_map(SlotStep::Wait), any::<usize>().prop_map(SlotStep::Release)];
        let seldom = prop_oneof![
            (1usize..9).prop_map(SlotStep::AddPool),
            any::<usize>().prop_map(SlotStep::RemovePool)
        ];
        prop_oneof![8 => often, u32::from(churn) => seldom]
    }

    proptest! {
        /// For any history: no slot is lost, each pool's checks keep their order, and each other pool overtakes a waiting
        /// pool without slots at most once.
        #[test]
        fn no_pool_is_passed_over_for_long(
            total in 1usize..12, steps in prop::collection::vec(step(true), 1..200),
        ) {
            let mut slots = slots(total, &[4, 4]);
            let mut open = vec![0u64, 1];
            let mut held: Vec<u64> = Vec::new();
            let mut number = 0;
            // By pool: its waiters, and the pools that overtook it since it began to wait without a slot.
            let mut waiting = LiteMap::<u64, VecDeque<u32>>::new();
            let mut passed = LiteMap::<u64, Vec<u64>>::new();
            for step in steps {
                match step {
                    SlotStep::Wait(n) if !open.is_empty() => {
                        let id = open[n % open.len()];
                        number += 1;
                        slots.wait(id, number);
                        waiting.entry(id).or_default().push_back(number);
                    }
                    SlotStep::Release(n) if !held.is_empty() => {
                        let id = held.swap_remove(n % held.len());
                        slots.release(id);
                    }
                    SlotStep::AddPool(checkers) => {
                        let id = slots.add_pool();
                        (0..checkers).for_each(|_| slots.add_checker(id));
                        open.push(id);
                    }
                    SlotStep::RemovePool(n) if open.len() > 1 => {
                        let id = open.swap_remove(n % open.len());
                        slots.remove_pool(id);
                        waiting.remove(&id);
                        passed.remove(&id);
                    }
                    _ => {}
                }
                for (id, waiter) in assign(&mut slots) {
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
                prop_assert_eq!(slots.free() + held.len(), total);
                // A slot stays free only if no check waits, or for another pool's reserve.
                let waits = waiting.values().any(|waits| !waits.is_empty());
                if waits && open.len() == 1 && held.iter().all(|id| open.contains(id)) {
                    prop_assert_eq!(slots.free(), 0);
                }
            }
        }

        /// With any number of pools, the only one with waiting checks gets at least half of the slots.
        #[test]
        fn many_pools_do_not_keep_half_of_the_slots_idle(pools in 1usize..60, total in 2usize..40) {
            let mut slots = slots(total, &vec![total; pools]);
            for _ in 0..total {
                slots.wait(0, 0);
            }
            prop_assert!(assign(&mut slots).len() >= total / 2);
        }

        /// While the pools stay the same and half of the slots are enough for one each, a pool below its reserve never
        /// waits.
        #[test]
        fn a_pool_within_its_reserve_never_waits(
            checkers in prop::collection::vec(1usize..20, 1..6),
            more in 0usize..40,
            steps in prop::collection::vec(step(false), 1..300),
        ) {
            let total = 2 * checkers.len() + more;
            let mut slots = slots(total, &checkers);
            let share = (total / 2 / checkers.len()).max(1);
            let mut held = vec![0usize; checkers.len()];
            let mut waiting = vec![0usize; checkers.len()];
            for step in steps {
                match step {
                    // A checker has one check at a time.
                    SlotStep::Wait(n) => {
                        let id = n % checkers.len();
                        if held[id] + waiting[id] < checkers[id] {
                            slots.wait(id as u64, 0);
                            waiting[id] += 1;
                        }
                    }
                    SlotStep::Release(n) => {
                        let id = n % checkers.len();
                        if held[id] > 0 {
                            slots.release(id as u64);
                            held[id] -= 1;
                        }
                    }
                    SlotStep::AddPool(_) | SlotStep::RemovePool(_) => {}
                }
                for (id, _) in assign(&mut slots) {
                    held[id as usize] += 1;
                    waiting[id as usize] -= 1;
                }
                for id in 0..checkers.len() {
                    let within = held[id] < share.min(checkers[id]);
                    prop_assert!(waiting[id] == 0 || !within, "pool {} waits: {:?} held", id, held);
                }
                prop_assert_eq!(slots.free() + held.iter().sum::<usize>(), total);
            }
        }
    }
}
