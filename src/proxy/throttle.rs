//! Applies the bandwidth limits to the reads of a connection.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Sleep;

use super::bandwidth::{BandwidthLimits, Passage};
use super::clock::Moment;
use super::listener::{Listener, Settings};
use crate::config::ByteRate;

/// The maximum delay after which a waiting connection notices that a reload has changed its limits.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);

/// The limits of one direction of a connection.
#[derive(Debug)]
pub(super) struct Throttle {
    listener: Arc<Listener>,
    /// Which of the listener's.
    direction: usize,
    own: Passage,
    reserved: Option<Reservation>,
    sleep: Option<Pin<Box<Sleep>>>,
}

/// Bytes that are reserved.
#[derive(Debug)]
struct Reservation {
    /// By these settings' limits.
    settings: Arc<Settings>,
    bytes: u64,
    /// When they may be read, as [`Moment::since_origin`].
    at: Duration,
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
            sleep: None,
        })
    }

    /// How many bytes may be read; pending until some may. [`read`](Self::read) must follow.
    pub(super) fn poll_allowance(&mut self, cx: &mut Context<'_>) -> Poll<usize> {
        loop {
            if let Some(sleep) = &mut self.sleep {
                ready!(sleep.as_mut().poll(cx));
                self.sleep = None;
            }
            let now = Moment::now().since_origin();
            let Some(reserved) = &self.reserved else {
                let settings = self.listener.settings.load_full();
                // A reload may have removed the limits.
                if settings.bandwidth.is_none() {
                    return Poll::Ready(usize::MAX);
                }
                self.reserve(settings, now);
                continue;
            };
            if reserved.at <= now {
                return Poll::Ready(usize::try_from(reserved.bytes).unwrap_or(usize::MAX));
            }
            if !Arc::ptr_eq(&reserved.settings, &self.listener.settings.load()) {
                self.read(0);
                continue;
            }
            self.sleep = Some(Box::pin(tokio::time::sleep((reserved.at - now).min(LONGEST_SLEEP))));
        }
    }

    fn reserve(&mut self, settings: Arc<Settings>, now: Duration) {
        let Some(limits) = &settings.bandwidth else { return };
        let bytes = limits.step();
        let at = self.passages(limits).map(|(passage, rate)| passage.reserve(bytes, rate, now)).max();
        let at = at.unwrap_or_default();
        self.reserved = Some(Reservation { bytes, at, delayed: at > now, settings });
    }

    /// Records how many bytes were read; the rest of the reservation is returned.
    pub(super) fn read(&mut self, bytes: usize) {
        let Some(reserved) = self.reserved.take() else { return };
        let bytes = bytes as u64;
        for (passage, rate) in reserved.settings.bandwidth.iter().flat_map(|limits| self.passages(limits)) {
            passage.release(reserved.bytes.saturating_sub(bytes), rate);
        }
        if reserved.delayed {
            self.listener.bytes_delayed[self.direction].fetch_add(bytes, Ordering::Relaxed);
        }
    }

    fn passages<'a>(&'a self, limits: &'a BandwidthLimits) -> impl Iterator<Item = (&'a Passage, ByteRate)> {
        let own = limits.rates.per_connection.map(|rate| (&self.own, rate));
        own.into_iter().chain(limits.rates.total.map(|rate| (&limits.total[self.direction], rate)))
    }
}

impl Drop for Throttle {
    /// A connection that ends while it waits leaves its turn to the others.
    fn drop(&mut self) {
        self.read(0);
    }
}
