//! The rules of a listener's parts.

use super::super::decode::MapReader;
use super::super::model::PerClient;

/// Checks that there is a limit.
pub(in crate::config) fn per_client(limits: &mut PerClient, map: &MapReader<'_>) {
    let PerClient { connections, rate, .. } = limits;
    let misread = ["connections", "rate"].into_iter().any(|key| map.misread(key));
    if connections.is_none() && rate.is_none() && !misread {
        map.found.problem(format!("{} sets no limit: add connections or rate", map.what()));
    }
}
