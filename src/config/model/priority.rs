//! Which backends of a pool are used first: primaries before backups, those of the local zone before those of others.

use std::num::NonZeroU32;
use std::sync::Arc;

use super::super::keys::{settings, words};
use super::super::kind::word;
use super::super::scalar::{MOST, share, whole};
use super::super::value::zone_name;
use super::Percent;

settings! {
    /// When a pool's backups are used (`backup`).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Backup: Default {
        /// down: while no other backend is up, and for a connection that failed at all of them; full: also for a
        /// connection that finds all of them full (`limits.connections`) and no place in the queue, or waits there for
        /// `limits.queue_timeout`, as nginx does; HAProxy's way is down.
        when: BackupWhen => word(), default BackupWhen::Full;
    }
}

words! {
    /// When a backup gets a connection (`backup.when`).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum BackupWhen {
        /// When the other backends are down or full.
        Full = "full",
        /// Only when they are down.
        Down = "down",
    }
}

settings! {
    /// The local zone, and when backends of other zones are used too (`zone`).
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct ZonePreference: new {
        /// The zone in which this Pointsman runs, spelled as its backends have it.
        name: Arc<str> => zone_name(), required "eu-1a";
        /// While a smaller share of the zone's backends is up, by weight, backends of all zones are used: the few that are
        /// left could not carry all connections. At 70%, a backend gets at most 1.43 times what it gets when all are up.
        min_up: Percent => share(Percent(0)), default Percent(70);
        /// The same while fewer of the zone's backends are up than this number. It matters if backends that fail also leave
        /// discovery, as with DNS: then all that are left are up.
        min_backends: NonZeroU32 => whole(1..=MOST), default NonZeroU32::MIN;
    }
}

impl ZonePreference {
    /// Whether a backend of that zone is a local one; so is one whose zone is unknown, so that a forgotten key does not
    /// take it out of use.
    pub fn is_local(&self, zone: Option<&Arc<str>>) -> bool {
        zone.is_none_or(|zone| *zone == self.name)
    }
}
