//! Moments in the API.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

/// A moment, in seconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub f64);

impl From<SystemTime> for Timestamp {
    /// Rounded to milliseconds.
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self((since.as_secs_f64() * 1e3).round() / 1e3)
    }
}

impl From<Timestamp> for SystemTime {
    /// The epoch for a moment before it or too far after it.
    fn from(Timestamp(seconds): Timestamp) -> Self {
        let since = Duration::try_from_secs_f64(seconds).unwrap_or_default();
        Self::UNIX_EPOCH.checked_add(since).unwrap_or(Self::UNIX_EPOCH)
    }
}

impl Timestamp {
    /// This moment.
    pub fn now() -> Self {
        SystemTime::now().into()
    }
}
