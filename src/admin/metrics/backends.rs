//! The series of each backend, by its [`series`](crate::pool::Backend::series): its name, with its address if another backend
//! of that name serves beside it.

use std::collections::BTreeMap;
use std::fmt::Error;
use std::sync::Arc;

use litemap::LiteMap;
use prometheus_client::encoding::DescriptorEncoder;

use super::series::{counters, durations, gauges};
use crate::domain::BackendState;
use crate::pool::{Pool, Totals};
use crate::telemetry::ConnectError;

/// The values of one name.
#[derive(Default)]
struct Row {
    states: [u64; BackendState::ALL.len()],
    weight: u64,
    totals: Totals,
}

/// The states of a backend that is present.
fn present_states() -> impl Iterator<Item = BackendState> {
    BackendState::ALL.into_iter().filter(|state| *state != BackendState::Gone)
}

/// Writes the series of the pools' backends.
pub(super) fn encode(
    e: &mut DescriptorEncoder<'_>,
    pools: &LiteMap<Arc<str>, Arc<Pool>>,
) -> Result<(), Error> {
    let mut rows = BTreeMap::<(&str, Arc<str>), Row>::new();
    let mut sums = LiteMap::<&str, [u64; BackendState::ALL.len()]>::new();
    for (pool, running) in pools {
        let status = running.status();
        let sum = sums.entry(pool).or_default();
        for entry in &status.members {
            let row = rows.entry((pool, Arc::clone(entry.backend.series()))).or_default();
            row.states[entry.state.index()] += 1;
            row.weight += u64::from(entry.weight);
            sum[entry.state.index()] += 1;
        }
        for (name, totals) in status.totals() {
            rows.entry((pool, name)).or_default().totals = totals;
        }
    }
    let rows = || rows.iter().map(|((pool, backend), row)| (*pool, &**backend, row));
    gauges(
        e,
        "pointsman_backend_state",
        "1 for the state that a backend is in, 0 for the others",
        rows().flat_map(|(pool, backend, row)| {
            present_states().map(move |state| {
                let labels = [("pool", pool), ("backend", backend), ("state", state.name())];
                (labels, u64::from(row.states[state.index()] > 0))
            })
        }),
    )?;
    counters(
        e,
        "pointsman_backend_state_changes",
        "Changes of a backend's state, by the state that it entered",
        rows().flat_map(|(pool, backend, row)| {
            present_states().map(move |state| {
                let labels = [("pool", pool), ("backend", backend), ("to", state.name())];
                (labels, row.totals.entered[state.index()])
            })
        }),
    )?;
    gauges(
        e,
        "pointsman_backend_weight",
        "The share of a backend, as set by the configuration, its source or an operator",
        rows().map(|(pool, backend, row)| ([("pool", pool), ("backend", backend)], row.weight)),
    )?;
    gauges(
        e,
        "pointsman_backends",
        "Backends, by state",
        sums.iter().flat_map(|(pool, sum)| {
            present_states()
                .map(move |state| ([("pool", *pool), ("state", state.name())], sum[state.index()]))
        }),
    )?;
    counters(
        e,
        "pointsman_health_checks",
        "Health checks, by result; local: none, because of a local error",
        rows().flat_map(|(pool, backend, row)| {
            let totals = &row.totals;
            [("pass", totals.passed), ("fail", totals.failed), ("local", totals.local)]
                .map(move |(result, n)| ([("pool", pool), ("backend", backend), ("result", result)], n))
        }),
    )?;
    durations(
        e,
        "pointsman_connect_duration_seconds",
        "Time to connect to a backend",
        rows().map(|(pool, backend, row)| ([("pool", pool), ("backend", backend)], row.totals.connect)),
    )?;
    durations(
        e,
        "pointsman_first_byte_duration_seconds",
        "Time from the routing decision to a backend's first byte",
        rows().map(|(pool, backend, row)| ([("pool", pool), ("backend", backend)], row.totals.first_byte)),
    )?;
    counters(
        e,
        "pointsman_connect_failures",
        "Attempts to connect to a backend that failed, by kind",
        rows().flat_map(|(pool, backend, row)| {
            let failed = ConnectError::ALL.into_iter().zip(row.totals.failures);
            failed.map(move |(kind, n)| ([("pool", pool), ("backend", backend), ("error", kind.name())], n))
        }),
    )
}
