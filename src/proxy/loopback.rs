//! Our own connections to backends over loopback. To a server on this machine their peer looks like any local program,
//! but a client of a listener decides what is sent on them. The admin server must know them.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use crate::own::destination;

/// The two ends of a connection: ours, and where it was opened to.
type Ends = (SocketAddr, SocketAddr);

/// A worker's connections to backends over loopback. The lock is the worker's alone, except for the moments when the
/// admin server looks something up.
#[derive(Debug, Default)]
pub struct LoopbackConnections(Mutex<HashSet<Ends>>);

impl LoopbackConnections {
    /// Whether one of them was opened from `local` to `remote`.
    pub fn contains(&self, local: SocketAddr, remote: SocketAddr) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(&ends(local, remote))
    }

    /// Enters a connection, until what is returned is dropped.
    pub fn enter(self: &Arc<Self>, local: SocketAddr, remote: SocketAddr) -> Entered {
        let ends = ends(local, remote);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(ends);
        Entered { ends, all: Arc::clone(self) }
    }
}

fn ends(local: SocketAddr, remote: SocketAddr) -> Ends {
    (destination(local), destination(remote))
}

/// Whether a connection to that address goes over loopback.
pub(super) fn is_loopback(remote: SocketAddr) -> bool {
    destination(remote).ip().is_loopback()
}

/// A connection's entry.
#[derive(Debug)]
pub struct Entered {
    ends: Ends,
    all: Arc<LoopbackConnections>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.all.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.ends);
    }
}
