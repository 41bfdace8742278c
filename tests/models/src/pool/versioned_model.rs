//! A model of `src/pool/versioned.rs` as backends and connections use it: the pool's task sets close directives and
//! publishes snapshots, in that order; a connection is routed by a snapshot, and its worker's tick follows the directives
//! after it. The first tick looks at the connection, and later ones only if any directive has been set since
//! (`src/proxy/table.rs`).

use std::sync::Arc;

use shuttle::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use shuttle::thread;

use super::versioned::Versioned;
use crate::sync::ArcSwapOption;

#[derive(Default)]
struct Backend {
    directive: Versioned<u32>,
    /// How often any directive was set.
    directives_set: AtomicU32,
    /// The version at the time of the snapshot.
    snapshot: ArcSwapOption<u32>,
}

/// A connection, routed at any moment, obeys the last directive that is later than its snapshot, and none before it.
pub fn a_connection_follows_the_directives_after_its_snapshot() {
    let backend = Arc::new(Backend::default());
    backend.snapshot.store(Some(Arc::new(0)));
    let done = Arc::new(AtomicBool::new(false));
    let worker = {
        let (backend, done) = (Arc::clone(&backend), Arc::clone(&done));
        thread::spawn(move || {
            let routed_by = backend.snapshot.load().as_deref().copied().unwrap();
            let (mut seen, mut in_force, mut set_before) = (routed_by, None, None);
            let mut tick = || {
                let set = Some(backend.directives_set.load(SeqCst));
                if std::mem::replace(&mut set_before, set) == set {
                    return;
                }
                let before = std::mem::replace(&mut seen, backend.directive.version());
                if seen != before {
                    in_force = backend.directive.value();
                    assert!(
                        in_force.is_none_or(|directive| directive > routed_by),
                        "an earlier directive is followed"
                    );
                }
            };
            while !done.load(SeqCst) {
                tick();
                thread::yield_now();
            }
            tick();
            (routed_by, in_force)
        })
    };
    // A directive's value is its version. The second one is withdrawn.
    for directive in [Some(1), None, Some(3)] {
        backend.directive.set(directive);
        backend.directives_set.fetch_add(1, SeqCst);
        let version = backend.directive.version();
        backend.snapshot.store(Some(Arc::new(version)));
    }
    done.store(true, SeqCst);
    let (routed_by, in_force) = worker.join().unwrap();
    assert_eq!(in_force, (routed_by < 3).then_some(3));
}
