//! The full backends at the time of a choice.

use std::sync::Arc;

use crate::domain::{Exclusion, ExclusionReason};
use crate::pool::{Backend, NAMED, PoolSnapshot};

/// The full backends at the time of a choice. If there are thousands, only the first are kept.
#[derive(Debug, Default)]
pub(super) struct Full {
    pub(super) named: Vec<Arc<Backend>>,
    pub(super) count: usize,
    /// The client's home backend, if it has a free slot but more than its share.
    pub(super) overloaded: Option<Arc<Backend>>,
}

impl Full {
    /// The full backends of `snapshot` that were not tried, and the sorted keys of all to exclude; without keys if no
    /// backend would be left.
    pub(super) fn of(snapshot: &PoolSnapshot, tried: &[u64]) -> (Self, Option<Vec<u64>>) {
        let (mut full, mut excluded, mut left) = (Self::default(), tried.to_vec(), false);
        for backend in snapshot.backends().filter(|backend| tried.binary_search(&backend.key).is_err()) {
            if !backend.is_full() {
                left = true;
                continue;
            }
            full.count += 1;
            excluded.push(backend.key);
            if full.named.len() < NAMED {
                full.named.push(Arc::clone(backend));
            }
        }
        excluded.sort_unstable();
        (full, left.then_some(excluded))
    }

    /// Adds the full backends of another tier or of other zones.
    pub(super) fn extend(&mut self, further: Self) {
        self.count += further.count;
        self.named.extend(further.named);
        self.named.truncate(NAMED);
        self.overloaded = further.overloaded;
    }

    pub(super) fn exclusions(&self) -> Vec<Exclusion> {
        let full = self.named.iter().map(|backend| (backend, ExclusionReason::Full));
        let overloaded = self.overloaded.iter().map(|home| (home, ExclusionReason::Overloaded));
        let one =
            |(backend, reason): (&Arc<Backend>, _)| Exclusion { backend: Arc::clone(&backend.name), reason };
        full.chain(overloaded).map(one).collect()
    }
}
