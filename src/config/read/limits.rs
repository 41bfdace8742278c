//! What a backend may carry, and how soon: `limits` and `slow_start`.

use std::num::NonZeroU32;
use std::time::Duration;

use super::super::decode::Table;
use super::super::model::{Algorithm, Limits, Pool, Source};
use super::super::scalar::{duration, number};
use super::{MOST, SHORTEST};

/// `limits` of a pool that has the sources that are known of it so far.
pub(super) fn limits(table: &Table<'_>, pool: &Pool) -> Limits {
    let mut limits = pool.limits;
    let Some(table) = table.table("limits") else { return limits };
    let connections = table.read("connections", number(0..=MOST));
    limits.connections = connections.and_then(NonZeroU32::new);
    limits.queue = table.read("queue", number(0..=MOST)).unwrap_or(limits.queue);
    limits.queue_timeout = table.read("queue_timeout", duration(SHORTEST)).unwrap_or(limits.queue_timeout);
    let misread = connections.is_none() && !table.present(&["connections"]).is_empty();
    let unlimited = limits.connections.is_none() && !pool.discover.iter().any(may_limit);
    if limits.queue > 0 && unlimited && !misread && !pool.discover.is_empty() {
        let message = format!(
            "\"queue\" in {} does nothing: no backend has a limit; give them one, such as `connections: 100`",
            table.what
        );
        table.decoder.problem(table.place("queue"), message);
    }
    limits
}

/// Whether a source can give a backend a limit of its own.
fn may_limit(source: &Source) -> bool {
    match source {
        Source::Static(backends) => backends.iter().any(|backend| backend.connections.is_some()),
        Source::Dns(_) | Source::Srv(_) => false,
        Source::File(_) | Source::Docker(_) => true,
    }
}

/// `slow_start`. Without the algorithm, what depends on it is not judged.
pub(super) fn slow_start(table: &Table<'_>, balance: Option<Algorithm>) -> Option<Duration> {
    let time = table.read("slow_start", duration(Duration::ZERO))?;
    if let Some(balance) = balance.filter(|balance| balance.hashes() && !time.is_zero()) {
        let message = format!(
            "\"slow_start\" in {} does nothing with {}: a weight that grows would move clients again and again",
            table.what,
            balance.name()
        );
        table.decoder.problem(table.place("slow_start"), message);
    }
    Some(time)
}
