//! The time as the algorithms are told it: since one moment that is the same for all workers.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// The time from the origin to `at`; zero for what was before.
pub(super) fn since_origin(at: Instant) -> Duration {
    at.saturating_duration_since(*ORIGIN)
}
