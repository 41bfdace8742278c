//! What there is to see of a pool's replicas, for the API, the metrics and the log.

use std::sync::Arc;
use std::time::SystemTime;

use serde::Serialize;

use super::fleet::{Fleet, Stage};
use super::neighbours::Neighbours;
use crate::config;
use crate::telemetry::decisions::unix_seconds;

/// So many decisions are kept.
const KEPT: usize = 100;

/// What there is to see of a pool's replicas.
#[derive(Clone, Debug, Serialize)]
pub struct Board {
    /// Whether the engine was ever seen: until then nothing is known of who there is.
    #[serde(skip)]
    pub known: bool,
    /// So many there are to be.
    pub wanted: usize,
    /// So many run.
    pub running: usize,
    /// So many there are at least.
    pub min: u32,
    /// So many there are at most.
    pub max: u32,
    /// Whether they follow the load.
    pub autoscale: bool,
    /// Whether it is only told what autoscaling would do.
    pub dry_run: bool,
    /// How often one that died was replaced.
    pub respawns: u64,
    /// Why the engine cannot be asked; null: it can.
    pub trouble: Option<String>,
    /// Those that there are to be, the oldest first.
    pub replicas: Vec<ReplicaStatus>,
    /// Those that are being taken out.
    pub leaving: Vec<Arc<str>>,
    /// Containers that still run of groups that the pool had before a reload gave it another one.
    pub former: Vec<Arc<str>>,
    /// Containers of its group that another Pointsman has started meanwhile.
    pub rivals: Vec<Arc<str>>,
    /// The last decision on their number.
    pub last_decision: Option<Decision>,
    /// The last decisions, the oldest first.
    #[serde(skip)]
    pub decisions: Arc<[Decision]>,
}

/// A replica at a glance.
#[derive(Clone, Debug, Serialize)]
pub struct ReplicaStatus {
    /// Its name.
    pub name: Arc<str>,
    /// `starting`, `running`, `restarting`: it ended, and its engine starts it again, or `waiting`: it died, and is replaced
    /// soon, unless it is back by then.
    pub stage: &'static str,
    /// Its container's id, if it runs.
    pub container: Option<Arc<str>>,
    /// Whether somebody else has started it.
    pub adopted: bool,
    /// How often it was replaced.
    pub respawns: u64,
}

/// A decision on how many replicas there are to be.
#[derive(Clone, Debug, Serialize)]
pub struct Decision {
    /// When, in seconds since the epoch.
    #[serde(serialize_with = "unix_seconds")]
    pub at: SystemTime,
    /// There were to be so many.
    pub from: usize,
    /// There are to be so many.
    pub to: usize,
    /// Why.
    pub cause: Arc<str>,
    /// Whether it was only told: a dry run, or a limit forbids it.
    pub only_told: bool,
}

impl Board {
    /// What there is to see before anything was seen.
    pub(super) fn new(config: &config::Replicas) -> Self {
        Self {
            known: false,
            wanted: 0,
            running: 0,
            min: config.min,
            max: config.max,
            autoscale: config.autoscale.is_some(),
            dry_run: config.autoscale.is_some_and(|autoscale| autoscale.dry_run),
            respawns: 0,
            trouble: None,
            replicas: Vec::new(),
            leaving: Vec::new(),
            former: Vec::new(),
            rivals: Vec::new(),
            last_decision: None,
            decisions: Arc::default(),
        }
    }

    /// What there is to see now.
    pub(super) fn of(
        fleet: &Fleet,
        config: &config::Replicas,
        trouble: Option<String>,
        neighbours: &Neighbours,
        decisions: &Arc<[Decision]>,
    ) -> Self {
        let replica = |slot: &super::fleet::Slot| ReplicaStatus {
            name: Arc::clone(&slot.name),
            stage: match slot.stage {
                Stage::Starting => "starting",
                Stage::Running { restarting: true, .. } => "restarting",
                Stage::Running { .. } => "running",
                Stage::Waiting { .. } => "waiting",
            },
            container: slot.id().cloned(),
            adopted: matches!(slot.stage, Stage::Running { ours: false, .. }),
            respawns: slot.respawns,
        };
        Self {
            known: fleet.known(),
            wanted: fleet.slots().len(),
            running: fleet.running(),
            respawns: fleet.respawns(),
            trouble,
            replicas: fleet.slots().iter().map(replica).collect(),
            leaving: fleet.leaving().cloned().collect(),
            former: neighbours.former().to_vec(),
            rivals: neighbours.rivals().to_vec(),
            last_decision: decisions.last().cloned(),
            decisions: Arc::clone(decisions),
            ..Self::new(config)
        }
    }

    /// The names of those that there are to be.
    pub fn names(&self) -> Vec<Arc<str>> {
        self.replicas.iter().map(|replica| Arc::clone(&replica.name)).collect()
    }
}

/// The decisions with one more; the oldest goes if there are too many.
pub(super) fn with(decisions: &[Decision], one: Decision) -> Arc<[Decision]> {
    let rest = &decisions[(decisions.len() + 1).saturating_sub(KEPT)..];
    rest.iter().cloned().chain([one]).collect()
}
