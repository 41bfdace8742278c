//! How much of a connection waits in the kernel: `buffers` of a listener and of a pool.

use super::super::keys::settings;
use super::super::kind::or_off;
use super::super::scalar::size;

settings! {
    /// How many bytes wait in the kernel for a client (of a listener) or a backend (of a pool) that reads slowly (`buffers`).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Buffers: Default {
        /// Bytes for a receiver that takes less than 4 MiB in a second, besides those that are on their way to it
        /// (TCP_NOTSENT_LOWAT); with more, its sender has to wait. off: as many as net.ipv4.tcp_wmem allows, usually 4 MiB,
        /// and as many again or more from the sender.
        unsent: Option<u64> => or_off(size(Buffers::LEAST)), default Some(Buffers::UNSENT);
    }
}

impl Buffers {
    /// The minimum: less would wake a worker for every few packets.
    const LEAST: u64 = 16 * 1024;
    /// The default of `unsent`: what crosses a network in two milliseconds at 1 Gbit/s.
    const UNSENT: u64 = 256 * 1024;
}
