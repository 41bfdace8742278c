//! What there is to see of a pool's replicas, for the API, the metrics and the log.

use std::sync::Arc;

use super::fleet::{Fleet, Stage};
use super::neighbours::Neighbours;
use crate::api::{ReplicaGroup, ReplicaInfo, ScaleDecision};
use crate::config;

/// So many decisions are kept.
const KEPT: usize = 100;

/// What there is to see of a pool's replicas.
#[derive(Clone, Debug)]
pub struct Board {
    /// Whether the engine was ever seen: until then, nothing is known of the containers.
    pub known: bool,
    /// The replicas.
    pub group: Arc<ReplicaGroup>,
    /// The last decisions, the oldest first.
    pub decisions: Arc<[ScaleDecision]>,
}

impl Board {
    /// What there is to see before anything was seen.
    pub(super) fn new(config: &config::Replicas) -> Self {
        Self { known: false, group: Arc::new(group(config)), decisions: Arc::default() }
    }

    /// What there is to see now.
    pub(super) fn of(
        fleet: &Fleet,
        config: &config::Replicas,
        trouble: Option<String>,
        neighbours: &Neighbours,
        decisions: &Arc<[ScaleDecision]>,
    ) -> Self {
        let replica = |slot: &super::fleet::Slot| ReplicaInfo {
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
            former: neighbours.former().to_vec(),
            rivals: neighbours.rivals().to_vec(),
            last_decision: decisions.last().cloned(),
            ..group(config)
        };
        Self { known: fleet.known(), group: Arc::new(group), decisions: Arc::clone(decisions) }
    }

    /// The names of those that there are to be.
    pub fn names(&self) -> Vec<Arc<str>> {
        self.group.replicas.iter().map(|replica| Arc::clone(&replica.name)).collect()
    }
}

/// The limits that the configuration sets.
fn group(config: &config::Replicas) -> ReplicaGroup {
    ReplicaGroup {
        min: config.min,
        max: config.max,
        autoscale: config.autoscale.is_some(),
        dry_run: config.autoscale.is_some_and(|autoscale| autoscale.dry_run),
        ..ReplicaGroup::default()
    }
}

/// The decisions with one more; the oldest goes if there are too many.
pub(super) fn with(decisions: &[ScaleDecision], one: ScaleDecision) -> Arc<[ScaleDecision]> {
    let rest = &decisions[(decisions.len() + 1).saturating_sub(KEPT)..];
    rest.iter().cloned().chain([one]).collect()
}
