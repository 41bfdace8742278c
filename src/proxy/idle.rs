//! Connections on which nothing moves: whether that is so, and whether the peer is still there.
//!
//! What was written is with the kernel, and may be on its way to a slow reader for long after. And a peer that has
//! vanished while bytes are under way to it is not found by keepalive, which probes idle connections only, while
//! TCP_USER_TIMEOUT, which finds it, also cuts off a peer that is there and just does not read (tcp(7)).

use std::cell::Cell;
use std::time::Duration;

use super::sockets::{self, Unacknowledged};
use super::stream::Stream;

/// What the kernel was found to hold of a connection's two streams.
#[derive(Debug, Default)]
pub(super) struct IdleProbe {
    held: Cell<[u32; 2]>,
}

/// What a look found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ProbeResult {
    /// Nothing has moved since the last look.
    Still,
    /// The kernel has passed something on.
    Moves,
    /// Bytes are under way to the client, and it has acknowledged nothing for too long.
    ClientVanished,
    /// The same of the backend.
    BackendVanished,
}

impl IdleProbe {
    /// Looks at both sides, the client first, each with its keepalive. `first`: there was no look since the relay itself
    /// moved a byte.
    pub(super) fn look(
        &self,
        sides: [&Stream; 2],
        first: bool,
        keepalives: [Option<Duration>; 2],
    ) -> ProbeResult {
        let now = sides.map(sockets::unacknowledged);
        let vanished = |side: &Unacknowledged, keepalive: Option<Duration>| {
            keepalive.is_some_and(|idle| side.vanished(idle))
        };
        if vanished(&now[0], keepalives[0]) {
            return ProbeResult::ClientVanished;
        }
        if vanished(&now[1], keepalives[1]) {
            return ProbeResult::BackendVanished;
        }
        let held = now.map(|side| side.bytes);
        if self.held.replace(held) != held && !first { ProbeResult::Moves } else { ProbeResult::Still }
    }
}

/// Waits until what was written to `stream` has arrived, for as long as something of it arrives now and then.
pub(super) async fn delivered(stream: &Stream, patience: Duration) {
    const STEPS: u32 = 10;
    let mut before = u32::MAX;
    loop {
        let bytes = sockets::unacknowledged(stream).bytes;
        if bytes == 0 || bytes >= before {
            return;
        }
        before = bytes;
        for _ in 0..STEPS {
            tokio::time::sleep(patience / STEPS).await;
            if sockets::unacknowledged(stream).bytes == 0 {
                return;
            }
        }
    }
}
