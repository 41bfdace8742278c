//! Points in time and durations that take less memory than the standard library's: there are many idle connections.

use std::num::{NonZeroU16, NonZeroU32, NonZeroU64};
use std::ops::Add;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// One origin for all workers, as the algorithms compare moments of different workers.
static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// A moment: microseconds since the origin, which is the first moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(NonZeroU64);

impl Moment {
    /// The last moment of all.
    pub(super) const LAST: Self = Self(NonZeroU64::MAX);

    /// The current moment.
    pub fn now() -> Self {
        Instant::now().into()
    }

    /// The time from this moment to a later one; zero if that one is earlier.
    pub fn until(self, later: Self) -> Duration {
        Duration::from_micros(later.0.get().saturating_sub(self.0.get()))
    }

    /// The time from this moment until now.
    pub fn elapsed(self) -> Duration {
        self.until(Self::now())
    }

    /// The moment in the form that the algorithms use.
    pub(super) fn since_origin(self) -> Duration {
        Duration::from_micros(self.0.get())
    }
}

impl From<Instant> for Moment {
    /// Anything before the origin is the first moment.
    fn from(instant: Instant) -> Self {
        let micros = instant.saturating_duration_since(*ORIGIN).as_micros();
        Self(NonZeroU64::MIN.saturating_add(u64::try_from(micros).unwrap_or(u64::MAX)))
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, time: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(time.as_micros()).unwrap_or(u64::MAX)))
    }
}

/// A duration in microseconds, from one to 71 minutes; shorter and longer ones count as these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShortTime(NonZeroU32);

impl From<Duration> for ShortTime {
    fn from(time: Duration) -> Self {
        let micros = u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
        Self(NonZeroU32::new(micros).unwrap_or(NonZeroU32::MIN))
    }
}

impl From<ShortTime> for Duration {
    fn from(time: ShortTime) -> Self {
        Self::from_micros(time.0.get().into())
    }
}

/// A duration in whole seconds, rounded down, from one second to 18 hours; shorter and longer ones count as these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WholeSeconds(NonZeroU16);

impl From<Duration> for WholeSeconds {
    fn from(time: Duration) -> Self {
        let seconds = u16::try_from(time.as_secs()).unwrap_or(u16::MAX);
        Self(NonZeroU16::new(seconds).unwrap_or(NonZeroU16::MIN))
    }
}

impl From<WholeSeconds> for Duration {
    fn from(time: WholeSeconds) -> Self {
        Self::from_secs(time.0.get().into())
    }
}
