//! What the bandwidth limits let a connection read.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use tokio::time::Sleep;

use super::bandwidth::{Passage, SharedBandwidth, step};
use super::clock::Moment;
use super::listener::Listener;
use crate::config::{Bandwidth, ByteRate};

/// The limits of one direction of a connection.
#[derive(Debug)]
pub(super) struct Throttle {
    listener: Arc<Listener>,
    /// Which of the listener's.
    direction: usize,
    own: Passage,
    reserved: Option<Reservation>,
    /// Until the reserved bytes may be read.
    wait: Option<Pin<Box<Sleep>>>,
}

/// Bytes that are reserved, by the limits at that time.
#[derive(Clone, Copy, Debug)]
struct Reservation {
    bytes: u64,
    limits: Bandwidth,
    delayed: bool,
}

impl Throttle {
    /// The limits of both directions of a connection: from the client, and from the backend.
    pub(super) fn pair(listener: &Arc<Listener>) -> [Self; 2] {
        [0, 1].map(|direction| Self {
            listener: Arc::clone(listener),
            direction,
            own: Passage::default(),
            reserved: None,
            wait: None,
        })
    }

    /// How many bytes may be read; pending until some may. [`read`](Self::read) must follow.
    pub(super) fn poll_allowance(&mut self, cx: &mut Context<'_>) -> Poll<usize> {
        let reserved = match self.reserved {
            Some(reserved) => reserved,
            // A reload may have removed the limit.
            None => match self.listener.settings.load().bandwidth {
                Some(limits) => self.reserve(limits, Moment::now()),
                None => return Poll::Ready(usize::MAX),
            },
        };
        if let Some(wait) = &mut self.wait {
            ready!(wait.as_mut().poll(cx));
            self.wait = None;
        }
        Poll::Ready(usize::try_from(reserved.bytes).unwrap_or(usize::MAX))
    }

    fn reserve(&mut self, limits: Bandwidth, now: Moment) -> Reservation {
        let bytes = step(&limits);
        let now = now.since_origin();
        let at = self.passages(&limits).map(|(passage, rate)| passage.reserve(bytes, rate, now)).max();
        let wait = at.unwrap_or_default().saturating_sub(now);
        let reserved = Reservation { bytes, limits, delayed: !wait.is_zero() };
        if reserved.delayed {
            self.wait = Some(Box::pin(tokio::time::sleep(wait)));
        }
        self.reserved = Some(reserved);
        reserved
    }

    /// So many bytes were read; the rest of the reservation is returned.
    pub(super) fn read(&mut self, bytes: usize) {
        let Some(reserved) = self.reserved.take() else { return };
        let bytes = bytes as u64;
        for (passage, rate) in self.passages(&reserved.limits) {
            passage.release(reserved.bytes.saturating_sub(bytes), rate);
        }
        if reserved.delayed {
            self.shared().delayed.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    fn shared(&self) -> &SharedBandwidth {
        &self.listener.bandwidth[self.direction]
    }

    fn passages(&self, limits: &Bandwidth) -> impl Iterator<Item = (&Passage, ByteRate)> {
        let own = limits.per_connection.map(|rate| (&self.own, rate));
        own.into_iter().chain(limits.total.map(|rate| (&self.shared().passage, rate)))
    }
}

impl Drop for Throttle {
    /// A connection that ends while it waits leaves its turn to the others.
    fn drop(&mut self) {
        self.read(0);
    }
}
