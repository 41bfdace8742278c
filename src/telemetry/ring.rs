//! The last records of a worker, kept in memory.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

/// How many are kept for each worker.
pub const KEPT: usize = 1024;

/// A record that was made at some moment.
pub trait Dated {
    /// When it was made.
    fn at(&self) -> SystemTime;
}

/// One worker's last records. The worker writes; a reader holds the lock only for a copy. A clone is the same ring.
#[derive(Clone, Debug)]
pub struct Ring<T>(Arc<Mutex<VecDeque<T>>>);

impl<T> Default for Ring<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T: Dated + Clone> Ring<T> {
    /// Adds one, forgetting the oldest.
    pub fn record(&self, record: T) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back(record);
    }

    /// The last records of several workers together, newest first, at most `limit`.
    pub fn latest(of: &[Self], limit: usize) -> Vec<T> {
        Self::gather(of, limit, |_| true)
    }

    /// The same, of those that are wanted only.
    pub fn gather(of: &[Self], limit: usize, wanted: impl Fn(&T) -> bool) -> Vec<T> {
        let copy = |one: &Self| {
            let kept = one.0.lock().unwrap_or_else(PoisonError::into_inner);
            kept.iter().rev().filter(|record| wanted(record)).take(limit).cloned().collect()
        };
        let mut all: Vec<T> = of.iter().flat_map(|one| -> Vec<T> { copy(one) }).collect();
        all.sort_by_key(|record| std::cmp::Reverse(record.at()));
        all.truncate(limit);
        all
    }

    /// How many are kept by several workers together, and when the oldest of them was made.
    pub fn extent(of: &[Self]) -> (usize, Option<SystemTime>) {
        let mut extent = (0, None);
        for one in of {
            let kept = one.0.lock().unwrap_or_else(PoisonError::into_inner);
            let oldest = kept.front().map(Dated::at);
            extent = (extent.0 + kept.len(), [extent.1, oldest].into_iter().flatten().min());
        }
        extent
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[derive(Clone, Debug, PartialEq)]
    struct Record(u64);

    impl Dated for Record {
        fn at(&self) -> SystemTime {
            SystemTime::UNIX_EPOCH + Duration::from_secs(self.0)
        }
    }

    #[test]
    fn the_newest_of_all_workers_come_first_and_the_oldest_are_forgotten() {
        let rings = [Ring::default(), Ring::default()];
        assert_eq!((Ring::<Record>::latest(&rings, 9), Ring::extent(&rings)), (vec![], (0, None)));
        let all = KEPT as u64 * 2 + 10;
        (0..all).for_each(|n| rings[(n % 2) as usize].record(Record(n)));
        assert_eq!(Ring::latest(&rings, 2), [Record(all - 1), Record(all - 2)]);
        assert_eq!(Ring::gather(&rings, 2, |record| record.0 < 13), [Record(12), Record(11)]);
        assert_eq!(Ring::extent(&rings), (2 * KEPT, Some(Record(10).at())));
    }
}
