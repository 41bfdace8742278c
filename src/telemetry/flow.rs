//! Counters of the connections from one listener to one backend of a pool.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::domain::CloseReason;

/// The counters of one listener and one backend. All workers write them; a scrape reads them.
#[derive(Debug, Default)]
pub struct Flow {
    opened: AtomicU64,
    closed: [AtomicU64; CloseReason::ALL.len()],
    not_admitted: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
}

impl Flow {
    /// Counts an open connection; [`closed`](Self::closed) must follow.
    pub fn opened(&self) {
        self.opened.fetch_add(1, Ordering::Release);
    }

    /// Counts its end.
    pub fn closed(&self, reason: CloseReason) {
        self.closed[reason.index()].fetch_add(1, Ordering::Release);
    }

    /// Counts a connection that ended before it was routed.
    pub fn ended_unrouted(&self, reason: CloseReason) {
        self.opened();
        self.closed(reason);
    }

    /// Counts a connection that its listener did not admit, or that ended before.
    pub fn not_admitted(&self, reason: CloseReason) {
        self.ended_unrouted(reason);
        self.not_admitted.fetch_add(1, Ordering::Relaxed);
    }

    /// Adds bytes that were written: `bytes_in` to the backend, `bytes_out` to the client.
    pub fn moved(&self, bytes_in: u64, bytes_out: u64) {
        if bytes_in > 0 {
            self.bytes_in.fetch_add(bytes_in, Ordering::Relaxed);
        }
        if bytes_out > 0 {
            self.bytes_out.fetch_add(bytes_out, Ordering::Relaxed);
        }
    }

    /// The current counters.
    pub fn read(&self) -> Reading {
        let mut closed = [0; CloseReason::ALL.len()];
        for (value, counter) in closed.iter_mut().zip(&self.closed) {
            *value = counter.load(Ordering::Acquire);
        }
        // Read last, so that every end that is counted has a counted beginning.
        let opened = self.opened.load(Ordering::Acquire);
        Reading {
            active: opened.saturating_sub(closed.iter().sum()),
            closed,
            not_admitted: self.not_admitted.load(Ordering::Relaxed),
            bytes_in: self.bytes_in.load(Ordering::Relaxed),
            bytes_out: self.bytes_out.load(Ordering::Relaxed),
        }
    }
}

/// The counters of a [`Flow`] at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Connections open.
    pub active: u64,
    /// Connections ended, by [`CloseReason::index`].
    pub closed: [u64; CloseReason::ALL.len()],
    /// Those of them that ended before their listener had admitted them.
    pub not_admitted: u64,
    /// Bytes from clients that were written to backends.
    pub bytes_in: u64,
    /// Bytes from backends that were written to clients.
    pub bytes_out: u64,
}

impl Reading {
    /// Connections that were ever counted: those that ended and those that are open.
    pub fn total(&self) -> u64 {
        self.active + self.closed.iter().sum::<u64>()
    }
}

impl std::ops::AddAssign for Reading {
    fn add_assign(&mut self, other: Self) {
        self.active += other.active;
        for (sum, value) in self.closed.iter_mut().zip(other.closed) {
            *sum += value;
        }
        self.not_admitted += other.not_admitted;
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
    }
}

/// The flows of one backend (or of a pool's connections that reached none), one for each listener.
#[derive(Debug, Default)]
pub struct Flows(Mutex<Vec<(Arc<str>, Arc<Flow>)>>);

impl Flows {
    /// The flow of the connections that `listener` accepted.
    pub fn of(&self, listener: &Arc<str>) -> Arc<Flow> {
        let mut flows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, flow)) = flows.iter().find(|(name, _)| name == listener) {
            return Arc::clone(flow);
        }
        let flow = Arc::<Flow>::default();
        flows.push((Arc::clone(listener), Arc::clone(&flow)));
        flow
    }

    /// Each listener's name with its counters.
    pub fn read(&self) -> Vec<(Arc<str>, Reading)> {
        let flows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        flows.iter().map(|(listener, flow)| (Arc::clone(listener), flow.read())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_counted_once_at_every_moment() {
        let flow = Flow::default();
        let counted = |total, active| {
            let reading = flow.read();
            assert_eq!((reading.total(), reading.active), (total, active));
        };
        counted(0, 0);
        flow.opened();
        flow.opened();
        counted(2, 2);
        flow.closed(CloseReason::BackendReset);
        counted(2, 1);
        flow.closed(CloseReason::ClientClosed);
        counted(2, 0);
    }
}
