//! How busy a backend is, and how those who choose by it learn of a change.
//!
//! Every worker changes loads, at the beginning and at the end of each connection; one that is about to choose
//! wants to know which of ten thousand have changed, without looking at all. So who changes a load also marks it on
//! the [`Board`] of the picker that listens, if one does:
//!
//! ```text
//!   Load ──► Bell { board, index } ──► Board   words    a bit for each candidate: its load has changed
//!                                              summary  a bit for each word: one of its bits is set
//! ```
//!
//! Nobody waits for anybody. The one rule that no change is lost by: **who writes, writes the load before it looks
//! at the board; who reads, takes the mark off the board before it looks at the load.** Either the writer finds the
//! mark gone and sets it anew, or the reader comes late enough to see the load. It is about two places in memory, so
//! all of it is in the one order that `SeqCst` gives. A board knows nothing of loads, so there is no cycle: it
//! lasts as long as its picker and the loads that still report to it.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use arc_swap::ArcSwapOption;

use super::latency::{Known, Latency};

/// How busy one backend is: the connections that were sent to it and have not ended, those that are still
/// connecting included, and the failure penalties of those that failed. All workers write it.
#[derive(Debug, Default)]
pub struct Load {
    active: AtomicU32,
    penalties: AtomicU32,
    /// Whether it ever had a bell: without one a change costs no more than to count it.
    listened_to: AtomicBool,
    bell: ArcSwapOption<Bell>,
    connect: Latency,
    first_byte: Latency,
}

/// Where to mark a load that has changed.
#[derive(Debug)]
struct Bell {
    board: Arc<Board>,
    index: usize,
}

impl Load {
    /// Connections at this moment.
    pub fn active(&self) -> u32 {
        self.active.load(SeqCst)
    }

    /// What the algorithms go by: connections and failure penalties.
    pub fn effective_load(&self) -> u32 {
        self.active().saturating_add(self.penalties.load(SeqCst))
    }

    /// Counts one connection until the lease is dropped, however it ends.
    pub fn lease(self: &Arc<Self>) -> Lease {
        self.active.fetch_add(1, SeqCst);
        self.ring();
        Lease(Arc::clone(self))
    }

    /// The same, unless there are `limit` connections already.
    pub fn lease_within(self: &Arc<Self>, limit: NonZeroU32) -> Option<Lease> {
        let more = |active: u32| (active < limit.get()).then(|| active + 1);
        self.active.fetch_update(SeqCst, SeqCst, more).ok()?;
        self.ring();
        Some(Lease(Arc::clone(self)))
    }

    /// Leaves a failure penalty, which counts as a connection until it is dropped, but only for who chooses. A backend that
    /// ends each connection at once would look idle, and get ever more: whoever holds the failure penalties of such connections
    /// for a while keeps that from happening.
    pub fn penalize(self: &Arc<Self>) -> FailurePenalty {
        self.penalties.fetch_add(1, SeqCst);
        self.ring();
        FailurePenalty(Arc::clone(self))
    }

    /// Notes how long a connection took to be established, at the time `now` of [`PickArgs`](super::PickArgs).
    pub fn connected(&self, took: Duration, now: Duration) {
        self.connect.observe(took, now);
    }

    /// Notes how long it then took until the backend's first byte, at the time `now` of [`PickArgs`](super::PickArgs).
    pub fn answered(&self, took: Duration, now: Duration) {
        self.first_byte.observe(took, now);
    }

    /// What is known at `now` of the time to connect, and of that to the first byte.
    pub(super) fn latencies(&self, now: Duration) -> [Known; 2] {
        [self.connect.known(now), self.first_byte.known(now)]
    }

    /// From now on changes are marked on `board` as those of `index`, and no longer on the board before it. What the
    /// load is must be read after this: a change in between would be marked nowhere.
    pub(super) fn report_to(&self, board: &Arc<Board>, index: usize) {
        self.bell.store(Some(Arc::new(Bell { board: Arc::clone(board), index })));
        // Who changes the load reads this after, and we read the load after this: who is too early to see the new
        // bell, which stands in memory before this is written, is early enough for us to see the change.
        self.listened_to.swap(true, SeqCst);
    }

    fn ring(&self) {
        if self.listened_to.load(SeqCst)
            && let Some(bell) = &*self.bell.load()
        {
            bell.board.mark(bell.index);
        }
    }
}

/// One connection's place in a backend's [`Load`]; given back when dropped.
#[derive(Debug)]
pub struct Lease(Arc<Load>);

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, SeqCst);
        self.0.ring();
    }
}

/// What is left of a connection that failed; gone when dropped.
#[derive(Debug)]
pub struct FailurePenalty(Arc<Load>);

impl Drop for FailurePenalty {
    fn drop(&mut self) {
        self.0.penalties.fetch_sub(1, SeqCst);
        self.0.ring();
    }
}

/// Which loads have changed since somebody looked.
#[derive(Debug)]
pub(super) struct Board {
    words: Box<[AtomicU64]>,
    summary: Box<[AtomicU64]>,
}

impl Board {
    pub(super) fn new(loads: usize) -> Self {
        let zeros = |bits: usize| (0..bits.div_ceil(64)).map(|_| AtomicU64::new(0)).collect::<Box<_>>();
        let words = zeros(loads);
        Self { summary: zeros(words.len()), words }
    }

    /// A bit that is set is not written again: those who change one load at the same time share its line in peace.
    /// The summary is seen to even if the word was marked already: who did that may not have come to it yet.
    fn mark(&self, index: usize) {
        set(&self.words, index);
        set(&self.summary, index / 64);
    }

    /// Takes all marks off: `each` gets the index of the first of 64 loads, and the marks of the 64 as bits. It is to
    /// read the loads, so it is called when the marks are off.
    pub(super) fn take(&self, mut each: impl FnMut(usize, u64)) {
        for (nth, summary) in self.summary.iter().enumerate() {
            if summary.load(SeqCst) == 0 {
                continue;
            }
            for word in ones(summary.swap(0, SeqCst)).map(|bit| nth * 64 + bit) {
                let marks = self.words[word].swap(0, SeqCst);
                if marks != 0 {
                    each(word * 64, marks);
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

/// The places of the bits that are set, from the lowest.
pub(super) fn ones(mut bits: u64) -> impl Iterator<Item = usize> {
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

    fn taken(board: &Board) -> Vec<usize> {
        let mut all = Vec::new();
        board.take(|first, marks| all.extend(ones(marks).map(|bit| first + bit)));
        all
    }

    #[test]
    fn a_load_reports_to_the_last_board_only() {
        let load = Arc::new(Load::default());
        let before = load.lease();
        let (first, second) = (Arc::new(Board::new(10)), Arc::new(Board::new(100)));
        load.report_to(&first, 9);
        drop(before);
        assert_eq!(taken(&first), [9]);
        load.report_to(&second, 99);
        let lease = load.lease();
        assert_eq!((taken(&first), taken(&second)), (vec![], vec![99]));
        drop(lease);
        assert_eq!((taken(&first), taken(&second)), (vec![], vec![99]));
    }

    #[test]
    fn a_board_is_gone_when_its_loads_report_elsewhere() {
        let load = Arc::new(Load::default());
        let board = Arc::new(Board::new(1));
        load.report_to(&board, 0);
        let _lease = load.lease();
        let gone = Arc::downgrade(&board);
        drop(board);
        assert!(gone.upgrade().is_some());
        load.report_to(&Arc::new(Board::new(1)), 0);
        assert!(gone.upgrade().is_none());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn every_mark_is_taken_once(marks in proptest::collection::btree_set(0usize..10_000, 0..300)) {
            let board = Board::new(10_000);
            for &index in &marks { board.mark(index); board.mark(index); }
            prop_assert_eq!(taken(&board), marks.into_iter().collect::<Vec<_>>());
            prop_assert_eq!(taken(&board), Vec::<usize>::new());
        }

        #[test]
        fn nobody_gets_a_place_above_the_limit(limit in 1u32..9, tries in 0u32..20) {
            let load = Arc::new(Load::default());
            let limit = NonZeroU32::new(limit).unwrap();
            let held: Vec<_> = (0..tries).filter_map(|_| load.lease_within(limit)).collect();
            prop_assert_eq!(held.len() as u32, tries.min(limit.get()));
            let penalty = load.penalize();
            prop_assert_eq!((load.active(), load.effective_load()), (held.len() as u32, held.len() as u32 + 1));
            drop((held, penalty));
            prop_assert_eq!((load.active(), load.effective_load()), (0, 0));
        }

        #[test]
        fn loads_return_to_zero_in_whatever_order_leases_end(order in proptest::collection::vec(any::<bool>(), 1..200)) {
            let load = Arc::new(Load::default());
            let mut held = Vec::new();
            for take in order {
                if take { held.push(load.lease()); } else { held.pop(); }
                prop_assert_eq!(load.active() as usize, held.len());
            }
            drop(held);
            prop_assert_eq!(load.active(), 0);
        }
    }
}
