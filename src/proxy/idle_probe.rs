//! Queries the kernel whether bytes of an idle connection still move, and whether a peer has vanished.
//!
//! Written bytes may take long to reach a slow reader. Keepalive does not detect a peer that vanished with bytes in
//! flight, as it probes idle connections only; TCP_USER_TIMEOUT detects it, but also cuts off a live peer that does not
//! read (tcp(7)).

use std::cell::Cell;
use std::time::Duration;

use super::sockets::{self, Unacknowledged};
use super::stream::Stream;

/// The bytes that the kernel held for the two sides at the last probe.
#[derive(Debug, Default)]
pub(super) struct IdleProbe {
    held: Cell<[u32; 2]>,
}

/// The result of a probe.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ProbeResult {
    /// Nothing has moved since the last probe.
    Still,
    /// A peer has acknowledged bytes.
    Moves,
    /// Bytes are in flight to the client, and it has acknowledged nothing for too long.
    ClientVanished,
    /// Bytes are in flight to the backend, and it has acknowledged nothing for too long.
    BackendVanished,
}

impl IdleProbe {
    /// Probes both sides, the client first, each with its keepalive time. `first`: this is the first probe since the
    /// relay moved a byte, so the result is not compared with the last one.
    pub(super) fn run(
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

/// Waits until the peer has acknowledged what was written to `stream`, or acknowledges nothing for `timeout`.
pub(super) async fn delivered(stream: &Stream, timeout: Duration) {
    const STEPS: u32 = 10;
    let mut before = u32::MAX;
    loop {
        let bytes = sockets::unacknowledged(stream).bytes;
        if bytes == 0 || bytes >= before {
            return;
        }
        before = bytes;
        for _ in 0..STEPS {
            tokio::time::sleep(timeout / STEPS).await;
            if sockets::unacknowledged(stream).bytes == 0 {
                return;
            }
        }
    }
}
