//! The status of a pool's replicas, for the API, the metrics and the log.

use std::sync::Arc;

use super::fleet::{Fleet, Slot, Stage};
use super::unmanaged::UnmanagedContainers;
use crate::api::{ReplicaGroup, ReplicaInfo, ScaleDecision};
use crate::config;

/// The number of decisions to keep.
const KEPT: usize = 100;

/// The status of a pool's replicas.
#[derive(Clone, Debug)]
pub(crate) struct FleetStatus {
    /// Whether the containers were ever listed; until then the replicas are unknown.
    pub known: bool,
    /// The replicas.
    pub group: Arc<ReplicaGroup>,
    /// The last decisions, the oldest first.
    pub decisions: Arc<[ScaleDecision]>,
}

impl FleetStatus {
    /// The status before the first listing.
    pub(super) fn new(config: &config::Replicas) -> Self {
        Self { known: false, group: Arc::new(limits(config)), decisions: Arc::default() }
    }

    /// The present status.
    pub(super) fn of(
        fleet: &Fleet,
        config: &config::Replicas,
        trouble: Option<String>,
        unmanaged: &UnmanagedContainers,
        decisions: &Arc<[ScaleDecision]>,
    ) -> Self {
        let replica = |slot: &Slot| ReplicaInfo {
            name: Arc::clone(&slot.name),
            stage: match slot.stage {
                Stage::Starting => "starting",
                Stage::Running { restarting: true, .. } => "restarting",
                Stage::Running { .. } => "running",
                Stage::Waiting { .. } => "waiting",
            }
            .into(),
            container: slot.id().cloned(),
            adopted: matches!(slot.stage, Stage::Running { ours: false, .. }),
            respawns: slot.respawns,
        };
        let group = ReplicaGroup {
            wanted: fleet.slots().len(),
            running: fleet.running(),
            respawns: fleet.respawns(),
            trouble,
            replicas: fleet.slots().iter().map(replica).collect(),
            leaving: fleet.leaving().cloned().collect(),
            former: unmanaged.former().to_vec(),
            rivals: unmanaged.rivals().to_vec(),
            last_decision: decisions.last().cloned(),
            ..limits(config)
        };
        Self { known: fleet.known(), group: Arc::new(group), decisions: Arc::clone(decisions) }
    }

    /// The names of the wanted replicas.
    pub(crate) fn names(&self) -> Vec<Arc<str>> {
        self.group.replicas.iter().map(|replica| Arc::clone(&replica.name)).collect()
    }
}

/// The configured limits.
fn limits(config: &config::Replicas) -> ReplicaGroup {
    ReplicaGroup {
        min: config.min,
        max: config.max,
        autoscale: config.autoscale.is_some(),
        dry_run: config.autoscale.is_some_and(|autoscale| autoscale.dry_run),
        ..ReplicaGroup::default()
    }
}

/// The decisions with one more; at the limit the oldest is dropped.
pub(super) fn with(decisions: &[ScaleDecision], one: ScaleDecision) -> Arc<[ScaleDecision]> {
    let rest = &decisions[(decisions.len() + 1).saturating_sub(KEPT)..];
    rest.iter().cloned().chain([one]).collect()
}
