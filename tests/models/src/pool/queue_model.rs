//! Models of `src/pool/queue.rs` with the loop of its clients (`src/proxy/connect.rs`): a client waits only while no slot
//! that it may take is free. The scheduler reports a client that waits forever as a deadlock.

use std::num::NonZeroU32;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use shuttle::sync::atomic::{AtomicU32, Ordering::SeqCst};
use shuttle::{future, thread};

use super::queue::{Queue, Ticket};
use crate::balance::{Lease, Load};

/// The backends of a pool, each with a limit of open connections, which an operator may change.
struct Pool {
    queue: Queue,
    backends: Vec<(Arc<Load>, AtomicU32)>,
}

impl Pool {
    fn new(limits: &[u32]) -> Arc<Self> {
        let backends = limits.iter().map(|limit| (Arc::default(), AtomicU32::new(*limit))).collect();
        Arc::new(Self { queue: Queue::default(), backends })
    }

    /// A lease on one of the backends, except `tried`.
    fn look(&self, tried: Option<usize>) -> Option<Lease> {
        let others = self.backends.iter().enumerate().filter(|(index, _)| Some(*index) != tried);
        others
            .filter_map(|(_, (load, limit))| Some((load, NonZeroU32::new(limit.load(SeqCst))?)))
            .find_map(|(load, limit)| load.lease_within(limit))
    }

    /// What a connection does, from the choice of a backend to its end.
    fn serve(&self, tried: Option<usize>) {
        let lease = self.look_or_wait(tried);
        for (load, _) in &self.backends {
            assert!(load.open() <= 1, "a slot was given twice");
        }
        drop(lease);
        self.queue.notify_first();
    }

    fn look_or_wait(&self, tried: Option<usize>) -> Lease {
        if self.queue.is_empty()
            && let Some(lease) = self.look(tried)
        {
            return lease;
        }
        let ticket = self.queue.join(usize::MAX).unwrap();
        future::block_on(async {
            loop {
                ticket.turn().await;
                if let Some(lease) = self.look(tried) {
                    return lease;
                }
                if tried.is_some() {
                    ticket.notify_next();
                }
            }
        })
    }

    /// A client that waits for its turn at most until now, and then leaves.
    fn give_up(&self) {
        let Some(ticket) = self.queue.join(usize::MAX) else { return };
        let lease = if has_turn(&ticket) { self.look(None) } else { None };
        drop(ticket);
        if lease.is_some() {
            drop(lease);
            self.queue.notify_first();
        }
    }

    fn assert_is_idle(&self) {
        assert!(self.queue.is_empty());
        assert!(self.backends.iter().all(|(load, _)| load.open() == 0));
    }
}

fn has_turn(ticket: &Ticket<'_>) -> bool {
    pin!(ticket.turn()).poll(&mut Context::from_waker(Waker::noop())) == Poll::Ready(())
}

fn run_all(pool: &Arc<Pool>, clients: Vec<Box<dyn FnOnce(&Pool) + Send>>) {
    let clients: Vec<_> = clients
        .into_iter()
        .map(|client| {
            let pool = Arc::clone(pool);
            thread::spawn(move || client(&pool))
        })
        .collect();
    for client in clients {
        client.join().unwrap();
    }
    pool.assert_is_idle();
}

/// Three clients for one slot.
pub fn every_client_is_served() {
    let client = || Box::new(|pool: &Pool| pool.serve(None)) as Box<dyn FnOnce(&Pool) + Send>;
    run_all(&Pool::new(&[1]), vec![client(), client(), client()]);
}

/// Clients that leave the queue while others wait in it.
pub fn a_client_that_leaves_delays_no_other() {
    run_all(
        &Pool::new(&[1]),
        vec![
            Box::new(|pool| pool.serve(None)),
            Box::new(|pool| pool.give_up()),
            Box::new(|pool| pool.serve(None)),
            Box::new(|pool| pool.give_up()),
        ],
    );
}

/// The first client in the queue waits for a backend that stays full; the one behind it waits for the other backend.
pub fn a_client_that_cannot_be_served_delays_no_other() {
    let pool = Pool::new(&[1, 1]);
    let held = pool.look(Some(0));
    let [first, second, short] = [Some(0), Some(1), Some(1)].map(|tried| {
        let pool = Arc::clone(&pool);
        thread::spawn(move || pool.serve(tried))
    });
    short.join().unwrap();
    second.join().unwrap();
    drop(held);
    pool.queue.notify_first();
    first.join().unwrap();
    pool.assert_is_idle();
}

/// Two backends, and clients that each of them has failed.
pub fn a_client_waits_only_for_backends_that_have_not_failed_it() {
    run_all(
        &Pool::new(&[1, 1]),
        vec![
            Box::new(|pool| pool.serve(Some(0))),
            Box::new(|pool| pool.serve(Some(1))),
            Box::new(|pool| pool.serve(None)),
            Box::new(|pool| pool.serve(Some(0))),
        ],
    );
}

/// No backend has a slot until an operator raises the limit.
pub fn a_raised_limit_serves_the_clients_that_wait() {
    run_all(
        &Pool::new(&[0]),
        vec![
            Box::new(|pool| pool.serve(None)),
            Box::new(|pool| pool.serve(None)),
            Box::new(|pool| {
                pool.backends[0].1.store(1, SeqCst);
                pool.queue.notify_first();
            }),
        ],
    );
}
