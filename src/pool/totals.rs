//! The counters of a backend's name in metrics ([`Backend::series`]). Backends with the same name may follow each other (a
//! container that returns with another address), and a counter must never decrease.

use std::collections::BTreeMap;
use std::sync::Arc;

use litemap::LiteMap;

use super::backend::Backend;
use crate::domain::BackendState;
use crate::telemetry::ConnectError;
use crate::telemetry::flow::Reading;
use crate::telemetry::histogram::DurationCounts;

/// Counters of one name.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// The connections, by listener.
    pub by_listener: LiteMap<Arc<str>, Reading>,
    /// Failed attempts to connect, in the order of [`ConnectError::ALL`].
    pub failures: [u64; ConnectError::ALL.len()],
    /// How often it entered each state, by [`BackendState::index`].
    pub entered: [u64; BackendState::ALL.len()],
    /// Connect times.
    pub connect: DurationCounts,
    /// Times from the routing decision to the first byte.
    pub first_byte: DurationCounts,
    /// Checks that passed.
    pub passed: u64,
    /// Checks that failed.
    pub failed: u64,
    /// Checks without a result because of a local error.
    pub local: u64,
}

impl Totals {
    /// Adds the counters of a backend.
    pub fn add(&mut self, backend: &Backend) {
        for (listener, reading) in backend.flows.read() {
            *self.by_listener.entry(listener).or_default() += reading;
        }
        for (sum, (_, n)) in self.failures.iter_mut().zip(backend.connect_failures()) {
            *sum += n;
        }
        for (sum, n) in self.entered.iter_mut().zip(backend.entered()) {
            *sum += n;
        }
        self.connect += backend.latency.connect.counts();
        self.first_byte += backend.latency.first_byte.counts();
        let checks = backend.checks();
        self.passed += checks.passed;
        self.failed += checks.failed;
        self.local += checks.local;
    }
}

/// The counters of backends that are gone.
#[derive(Clone, Debug, Default)]
pub(super) struct Former {
    /// By name, while another backend has that name.
    names: BTreeMap<Arc<str>, Totals>,
    /// The connections under names without a backend, by listener.
    forgotten: LiteMap<Arc<str>, Reading>,
}

impl Former {
    /// Adds a backend that is gone.
    pub(super) fn add(&mut self, backend: &Backend) {
        self.names.entry(Arc::clone(backend.series())).or_default().add(backend);
    }

    /// Drops names without a backend; only the sum of their connections stays.
    pub(super) fn keep(&mut self, living: impl Fn(&str) -> bool) {
        let forgotten = &mut self.forgotten;
        self.names.retain(|name, totals| {
            let lives = living(name);
            if !lives {
                for (listener, reading) in &totals.by_listener {
                    *forgotten.entry(Arc::clone(listener)).or_default() += *reading;
                }
            }
            lives
        });
    }

    /// The counters of each name, for current and gone backends.
    pub(super) fn with<'a>(
        &self,
        living: impl Iterator<Item = &'a Arc<Backend>>,
    ) -> BTreeMap<Arc<str>, Totals> {
        let mut all = self.names.clone();
        for backend in living {
            all.entry(Arc::clone(backend.series())).or_default().add(backend);
        }
        all
    }

    /// The connections of current and gone backends, by listener.
    pub(super) fn by_listener<'a>(
        &self,
        living: impl Iterator<Item = &'a Arc<Backend>>,
    ) -> LiteMap<Arc<str>, Reading> {
        let mut by_listener = self.forgotten.clone();
        let former = self.names.values().flat_map(|totals| totals.by_listener.clone());
        for (listener, reading) in former.chain(living.flat_map(|backend| backend.flows.read())) {
            *by_listener.entry(listener).or_default() += reading;
        }
        by_listener
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::Found;
    use crate::domain::CloseReason;

    fn backend_at(key: u64, address: &str) -> Arc<Backend> {
        let address = address.parse().unwrap();
        let found = Found::new("a".into(), address);
        Arc::new(Backend::new(key, &found))
    }

    #[test]
    fn counters_of_a_name_continue_with_its_next_backend_and_restart_without_one() {
        let (old, new, listener) =
            (backend_at(0, "10.0.0.1:1"), backend_at(1, "10.0.0.2:1"), Arc::from("web"));
        let ended = |backend: &Backend| {
            let flow = backend.flows.of(&listener);
            flow.opened();
            flow.closed(CloseReason::ClientClosed);
            backend.enter(BackendState::Up);
        };
        let count = |former: &Former, living: &[&Arc<Backend>]| {
            former.with(living.iter().copied()).get("a").map_or(0, |totals| {
                assert_eq!(totals.entered[BackendState::Up.index()], totals.by_listener[&listener].total());
                totals.by_listener[&listener].total()
            })
        };
        let mut former = Former::default();
        ended(&old);
        ended(&new);
        assert_eq!(count(&former, &[&old, &new]), 2);
        former.add(&old);
        former.keep(|name| name == "a");
        assert_eq!(count(&former, &[&new]), 2);
        former.add(&new);
        former.keep(|_| false);
        assert_eq!(count(&former, &[]), 0);
        // The pool's own counters continue.
        let all = |living: &[&Arc<Backend>]| former.by_listener(living.iter().copied())[&listener].total();
        assert_eq!((all(&[]), all(&[&new])), (2, 3));
    }
}
