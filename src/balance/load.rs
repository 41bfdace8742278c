//! The load of a backend, and how changes of it reach the pickers.
//!
//! Every worker changes loads, when a connection begins and when it ends. A picker must know which of ten thousand
//! loads have changed, without reading them all. So a change also sets a bit in the [`DirtySet`] of the latest picker:
//!
//! ```text
//!   Load ──► DirtyFlag { set, index } ──► DirtySet   words    one bit per candidate: its load has changed
//!                                                    summary  one bit per word: a bit of that word is set
//! ```
//!
//! No thread waits for another. One rule makes sure that no change is lost: **a writer changes the load before it
//! reads the dirty bit; a reader clears the bit before it reads the load.** Either the writer finds the bit cleared
//! and sets it again, or the reader comes late enough to see the new load. The rule spans two memory locations, so
//! all accesses are `SeqCst` (`tests/models` explores the interleavings). A dirty set holds no loads, so there is no
//! cycle: it lives as long as its picker and the loads that still report to it.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use super::latency::{Latency, LatencyEstimate};
use crate::sync::{ArcSwapOption, AtomicBool, AtomicU32, AtomicU64};

/// How busy one backend is: its open connections, those still connecting included, and its failure penalties. All
/// workers write it.
#[derive(Debug, Default)]
pub struct Load {
    open: AtomicU32,
    penalties: AtomicU32,
    /// Whether it ever had a dirty flag: without one, a change costs no more than to count it.
    tracked: AtomicBool,
    dirty_flag: ArcSwapOption<DirtyFlag>,
    connect: Latency,
    first_byte: Latency,
}

/// The bit that marks a load as changed.
#[derive(Debug)]
struct DirtyFlag {
    set: Arc<DirtySet>,
    index: usize,
}

impl Load {
    /// Open connections.
    pub fn open(&self) -> u32 {
        self.open.load(SeqCst)
    }

    /// What the algorithms compare: open connections and failure penalties.
    pub fn effective_load(&self) -> u32 {
        self.open().saturating_add(self.penalties.load(SeqCst))
    }

    /// Counts one connection until the lease is dropped.
    pub fn lease(self: &Arc<Self>) -> Lease {
        self.open.fetch_add(1, SeqCst);
        self.mark_dirty();
        Lease(Arc::clone(self))
    }

    /// Counts one connection until the lease is dropped, unless `limit` connections are open already.
    pub fn lease_within(self: &Arc<Self>, limit: NonZeroU32) -> Option<Lease> {
        let more = |open: u32| (open < limit.get()).then(|| open + 1);
        self.open.fetch_update(SeqCst, SeqCst, more).ok()?;
        self.mark_dirty();
        Some(Lease(Arc::clone(self)))
    }

    /// Adds a failure penalty, which the algorithms count as a connection until it is dropped. A backend that ends
    /// each connection at once looks idle and would get ever more; penalties that are held for a while prevent that.
    pub fn penalize(self: &Arc<Self>) -> FailurePenalty {
        self.penalties.fetch_add(1, SeqCst);
        self.mark_dirty();
        FailurePenalty(Arc::clone(self))
    }

    /// Records the connect time of a connection, at the time `now` of [`PickArgs`](super::PickArgs).
    pub fn connected(&self, took: Duration, now: Duration) {
        self.connect.observe(took, now);
    }

    /// Records the time from there to the first byte, at the time `now` of [`PickArgs`](super::PickArgs).
    pub fn answered(&self, took: Duration, now: Duration) {
        self.first_byte.observe(took, now);
    }

    /// Estimates of the connect and the first-byte latency at `now`.
    pub(super) fn latencies(&self, now: Duration) -> [LatencyEstimate; 2] {
        [self.connect.estimate(now), self.first_byte.estimate(now)]
    }

    /// Marks changes from now on in `set`, at `index`, and no longer in the set before it. The load must be read
    /// after this call: an earlier change is marked nowhere.
    pub(super) fn report_to(&self, set: &Arc<DirtySet>, index: usize) {
        self.dirty_flag.store(Some(Arc::new(DirtyFlag { set: Arc::clone(set), index })));
        // A writer reads `tracked` after its change, and this picker reads the load after setting `tracked`: a writer
        // that does not see the new flag has changed the load before this picker reads it.
        self.tracked.swap(true, SeqCst);
    }

    fn mark_dirty(&self) {
        if self.tracked.load(SeqCst)
            && let Some(flag) = &*self.dirty_flag.load()
        {
            flag.set.mark(flag.index);
        }
    }
}

/// One connection counted in a backend's [`Load`]; released when dropped.
#[derive(Debug)]
pub struct Lease(Arc<Load>);

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, SeqCst);
        self.0.mark_dirty();
    }
}

/// What a failed connection adds to a backend's [`Load`]; removed when dropped.
#[derive(Debug)]
pub struct FailurePenalty(Arc<Load>);

impl Drop for FailurePenalty {
    fn drop(&mut self) {
        self.0.penalties.fetch_sub(1, SeqCst);
        self.0.mark_dirty();
    }
}

/// Which loads have changed since the last [`drain`](Self::drain).
#[derive(Debug)]
pub(super) struct DirtySet {
    words: Box<[AtomicU64]>,
    summary: Box<[AtomicU64]>,
}

impl DirtySet {
    pub(super) fn new(loads: usize) -> Self {
        let zeros = |bits: usize| (0..bits.div_ceil(64)).map(|_| AtomicU64::new(0)).collect::<Box<_>>();
        let words = zeros(loads);
        Self { summary: zeros(words.len()), words }
    }

    /// A set bit is not written again, so that writers of one load do not fight for its cache line. The summary is
    /// checked even if the bit was set: the thread that set it may not have reached the summary yet.
    fn mark(&self, index: usize) {
        set(&self.words, index);
        set(&self.summary, index / 64);
    }

    /// Clears all bits: `each` gets the index of the first of 64 loads, and the bits of those 64. It is called after
    /// they are cleared, so it may read the loads.
    pub(super) fn drain(&self, mut each: impl FnMut(usize, u64)) {
        for (nth, summary) in self.summary.iter().enumerate() {
            if summary.load(SeqCst) == 0 {
                continue;
            }
            for word in set_bits(summary.swap(0, SeqCst)).map(|bit| nth * 64 + bit) {
                let bits = self.words[word].swap(0, SeqCst);
                if bits != 0 {
                    each(word * 64, bits);
                }
            }
        }
    }
}

fn set(words: &[AtomicU64], index: usize) {
    let (word, bit) = (&words[index / 64], 1 << (index % 64));
    if word.load(SeqCst) & bit == 0 {
        word.fetch_or(bit, SeqCst);
    }
}

/// The positions of the set bits, from the lowest.
pub(super) fn set_bits(mut bits: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let lowest = (bits != 0).then(|| bits.trailing_zeros() as usize)?;
        bits &= bits - 1;
        Some(lowest)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn drained(set: &DirtySet) -> Vec<usize> {
        let mut all = Vec::new();
        set.drain(|first, bits| all.extend(set_bits(bits).map(|bit| first + bit)));
        all
    }

    #[test]
    fn a_load_reports_to_the_last_dirty_set_only() {
        let load = Arc::new(Load::default());
        let before = load.lease();
        let (first, second) = (Arc::new(DirtySet::new(10)), Arc::new(DirtySet::new(100)));
        load.report_to(&first, 9);
        drop(before);
        assert_eq!(drained(&first), [9]);
        load.report_to(&second, 99);
        let lease = load.lease();
        assert_eq!((drained(&first), drained(&second)), (vec![], vec![99]));
        drop(lease);
        assert_eq!((drained(&first), drained(&second)), (vec![], vec![99]));
    }

    #[test]
    fn a_dirty_set_is_freed_when_its_loads_report_elsewhere() {
        let load = Arc::new(Load::default());
        let set = Arc::new(DirtySet::new(1));
        load.report_to(&set, 0);
        let _lease = load.lease();
        let freed = Arc::downgrade(&set);
        drop(set);
        assert!(freed.upgrade().is_some());
        load.report_to(&Arc::new(DirtySet::new(1)), 0);
        assert!(freed.upgrade().is_none());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn every_mark_is_drained_once(marks in proptest::collection::btree_set(0usize..10_000, 0..300)) {
            let set = DirtySet::new(10_000);
            for &index in &marks { set.mark(index); set.mark(index); }
            prop_assert_eq!(drained(&set), marks.into_iter().collect::<Vec<_>>());
            prop_assert_eq!(drained(&set), Vec::<usize>::new());
        }

        #[test]
        fn no_lease_is_given_above_the_limit(limit in 1u32..9, tries in 0u32..20) {
            let load = Arc::new(Load::default());
            let limit = NonZeroU32::new(limit).unwrap();
            let held: Vec<_> = (0..tries).filter_map(|_| load.lease_within(limit)).collect();
            prop_assert_eq!(held.len() as u32, tries.min(limit.get()));
            let penalty = load.penalize();
            prop_assert_eq!((load.open(), load.effective_load()), (held.len() as u32, held.len() as u32 + 1));
            drop((held, penalty));
            prop_assert_eq!((load.open(), load.effective_load()), (0, 0));
        }

        #[test]
        fn loads_return_to_zero_in_whatever_order_leases_end(order in proptest::collection::vec(any::<bool>(), 1..200)) {
            let load = Arc::new(Load::default());
            let mut held = Vec::new();
            for take in order {
                if take { held.push(load.lease()); } else { held.pop(); }
                prop_assert_eq!(load.open() as usize, held.len());
            }
            drop(held);
            prop_assert_eq!(load.open(), 0);
        }
    }
}
