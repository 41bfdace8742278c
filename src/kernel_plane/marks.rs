//! The bits of conntrack's mark (`ct mark`) that the rules set: what a connection is, and which side has ended it; and the mark of
//! packets that conntrack is to ignore.

/// The connection is translated by this table …
pub(super) const OURS: u32 = 0x1000_0000;
/// … its source address, too …
pub(super) const MASQUERADED: u32 = 0x2000_0000;
/// … its first packet that was seen came from the backend, as it began through another machine …
pub(super) const REVERSED: u32 = 0x4000_0000;
/// … it began through another machine, and its first packet that was seen came from the client …
pub(super) const CONTINUED: u32 = 0x8000_0000;
/// … and this was the first to end it: the FIN or reset of one side.
pub(super) const CLIENT_CLOSED: u32 = 0x0100_0000;
/// The backend's FIN.
pub(super) const BACKEND_CLOSED: u32 = 0x0200_0000;
/// A reset of the client, first or not.
pub(super) const CLIENT_RESET: u32 = 0x0400_0000;
/// A reset of the backend.
pub(super) const BACKEND_RESET: u32 = 0x0800_0000;
/// Any of these.
pub(super) const ENDING: u32 = CLIENT_CLOSED | BACKEND_CLOSED | CLIENT_RESET | BACKEND_RESET;

/// The mark (`meta mark`) of a [probe](super::probe): "PM", and a number.
pub(super) const PROBE: u32 = 0x504d_0001;
