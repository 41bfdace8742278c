//! What was counted under a backend's name. Stays of one name follow each other (a container that comes back with
//! another address), and a counter must never go back.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::backend::Backend;
use crate::domain::BackendState;
use crate::telemetry::ConnectError;
use crate::telemetry::flow::Reading;
use crate::telemetry::histogram::DurationCounts;

/// Counters of one name.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// The connections, by the listener they came by.
    pub ways: BTreeMap<Arc<str>, Reading>,
    /// Failed attempts to connect, in the order of [`ConnectError::ALL`].
    pub failures: [u64; ConnectError::ALL.len()],
    /// How often it entered each state, by [`BackendState::index`].
    pub entered: [u64; BackendState::ALL.len()],
    /// How long connecting took.
    pub connect: DurationCounts,
    /// How long it took from the routing decision to the first byte.
    pub first_byte: DurationCounts,
    /// Checks that passed.
    pub passed: u64,
    /// Checks that failed.
    pub failed: u64,
    /// Checks without a result, for a reason of our own.
    pub local: u64,
}

impl Totals {
    /// Adds what a stay has counted so far.
    pub fn add(&mut self, backend: &Backend) {
        for (listener, reading) in backend.flows.read() {
            *self.ways.entry(listener).or_default() += reading;
        }
        for (sum, (_, n)) in self.failures.iter_mut().zip(backend.connect_failures()) {
            *sum += n;
        }
        for (sum, n) in self.entered.iter_mut().zip(backend.entered()) {
            *sum += n;
        }
        self.connect += backend.pace.connect.counts();
        self.first_byte += backend.pace.first_byte.counts();
        let checks = backend.checks();
        self.passed += checks.passed;
        self.failed += checks.failed;
        self.local += checks.local;
    }
}

/// What the stays that are over have counted.
#[derive(Clone, Debug, Default)]
pub(super) struct Former {
    /// By name, for as long as there is a backend of that name.
    names: BTreeMap<Arc<str>, Totals>,
    /// The connections under names without a backend, by the listener they came by.
    forgotten: BTreeMap<Arc<str>, Reading>,
}

impl Former {
    /// Adds a stay that is over.
    pub(super) fn bury(&mut self, backend: &Backend) {
        self.names.entry(Arc::clone(&backend.name)).or_default().add(backend);
    }

    /// Forgets names without a backend.
    pub(super) fn keep(&mut self, living: impl Fn(&str) -> bool) {
        let forgotten = &mut self.forgotten;
        self.names.retain(|name, totals| {
            let lives = living(name);
            if !lives {
                for (listener, reading) in &totals.ways {
                    *forgotten.entry(Arc::clone(listener)).or_default() += *reading;
                }
            }
            lives
        });
    }

    /// What was counted under each name, by the backends that are there and those before them.
    pub(super) fn with<'a>(
        &self,
        living: impl Iterator<Item = &'a Arc<Backend>>,
    ) -> BTreeMap<Arc<str>, Totals> {
        let mut all = self.names.clone();
        for backend in living {
            all.entry(Arc::clone(&backend.name)).or_default().add(backend);
        }
        all
    }

    /// The connections of all, by the listener they came by: of backends that are there and those before them.
    pub(super) fn ways<'a>(
        &self,
        living: impl Iterator<Item = &'a Arc<Backend>>,
    ) -> BTreeMap<Arc<str>, Reading> {
        let mut ways = self.forgotten.clone();
        let former = self.names.values().flat_map(|totals| totals.ways.clone());
        for (listener, reading) in former.chain(living.flat_map(|backend| backend.flows.read())) {
            *ways.entry(listener).or_default() += reading;
        }
        ways
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::Found;
    use crate::domain::CloseReason;

    fn stay(key: u64, address: &str) -> Arc<Backend> {
        let address = address.parse().unwrap();
        let found = Found::new("a".into(), address);
        Arc::new(Backend::new(key, &found))
    }

    #[test]
    fn counters_go_on_where_the_last_stay_left_them_and_begin_anew_when_nobody_was_left() {
        let (old, new, listener) = (stay(0, "10.0.0.1:1"), stay(1, "10.0.0.2:1"), Arc::from("web"));
        let ended = |backend: &Backend| {
            let flow = backend.flows.of(&listener);
            flow.opened();
            flow.closed(CloseReason::ClientClosed);
            backend.enter(BackendState::Up);
        };
        let count = |former: &Former, living: &[&Arc<Backend>]| {
            former.with(living.iter().copied()).get("a").map_or(0, |totals| {
                assert_eq!(totals.entered[BackendState::Up.index()], totals.ways[&listener].total());
                totals.ways[&listener].total()
            })
        };
        let mut former = Former::default();
        ended(&old);
        ended(&new);
        assert_eq!(count(&former, &[&old, &new]), 2);
        former.bury(&old);
        former.keep(|name| name == "a");
        assert_eq!(count(&former, &[&new]), 2);
        former.bury(&new);
        former.keep(|_| false);
        assert_eq!(count(&former, &[]), 0);
        // The pool's own go on.
        let all = |living: &[&Arc<Backend>]| former.ways(living.iter().copied())[&listener].total();
        assert_eq!((all(&[]), all(&[&new])), (2, 3));
    }
}
