//! What the manager does at the engine, in background tasks, and their results.

use std::sync::Arc;
use std::time::Instant;

use futures_util::future::join_all;
use humantime::format_duration;
use tracing::{info, warn};

use super::super::Refusal;
use super::super::container_runtime::{ContainerRuntime, NotStarted};
use super::super::fleet::FleetAction;
use super::super::names::short_id;
use super::super::removal::{self, Removal};
use super::{Manager, ReplicaReply};
use crate::api::ScaleDecision;
use crate::task::boxed;

/// What a background task has finished.
pub(super) enum TaskResult {
    /// A start; `added`: it belongs to the addition in progress.
    Start {
        name: Arc<str>,
        added: bool,
        runtime: Box<ContainerRuntime>,
        result: Result<Arc<str>, NotStarted>,
    },
    /// The failed addition is undone.
    AdditionUndone,
    /// A replica is drained, stopped and removed.
    Removed(Arc<str>),
    /// A report or a cleanup, which nothing waits for.
    Other,
}

/// An addition in progress.
pub(super) struct Addition {
    names: Vec<Arc<str>>,
    /// The number of starts in progress.
    pending: usize,
    started: Vec<(Arc<str>, Arc<str>)>,
    failure: Option<Refusal>,
    /// `None` for an addition by the scaler.
    reply: Option<ReplicaReply>,
    decision: ScaleDecision,
}

impl Manager {
    pub(super) async fn act(&mut self, runtime: &ContainerRuntime, actions: Vec<FleetAction>) {
        for action in actions {
            match action {
                FleetAction::Start(name) => self.start(runtime, name, false),
                FleetAction::ReportExit { name, id, ours, again_in } => {
                    let again_in = again_in.map(|delay| format_duration(delay).to_string());
                    let (pool, runtime) = (Arc::clone(&self.pool.name), runtime.clone());
                    self.spawn(async move {
                        let cause = runtime.exit_cause(&id).await;
                        warn!(%pool, replica = &*name, container = short_id(&id), cause, again_in, "replica exited");
                        if ours {
                            removal::remove_container(&runtime, &pool, &id).await;
                        }
                        TaskResult::Other
                    });
                }
                FleetAction::ReportRestart { name, id } => {
                    let (pool, runtime) = (Arc::clone(&self.pool.name), runtime.clone());
                    self.spawn(async move {
                        let cause = runtime.exit_cause(&id).await;
                        warn!(%pool, replica = &*name, container = short_id(&id), cause, "replica exited; the engine restarts it");
                        TaskResult::Other
                    });
                }
                FleetAction::RemoveContainer(id) => self.remove_container(runtime, id),
                FleetAction::RemoveReplica { name, id, ours } => {
                    self.remove_replica(runtime, name, id, ours).await;
                }
            }
        }
    }

    fn remove_container(&mut self, runtime: &ContainerRuntime, id: Arc<str>) {
        let (pool, runtime) = (Arc::clone(&self.pool.name), runtime.clone());
        self.spawn(async move {
            removal::remove_container(&runtime, &pool, &id).await;
            TaskResult::Other
        });
    }

    fn spawn(&mut self, task: impl Future<Output = TaskResult> + Send + 'static) {
        self.tasks.spawn(boxed(task));
    }

    fn start(&mut self, runtime: &ContainerRuntime, name: Arc<str>, added: bool) {
        let (runtime, taken) = (runtime.clone(), self.taken.clone());
        self.spawn(async move {
            let result = runtime.start(&name, taken).await;
            TaskResult::Start { name, added, runtime: Box::new(runtime), result }
        });
    }

    /// Drains a replica at once; the rest of its removal runs in the background.
    async fn remove_replica(&mut self, runtime: &ContainerRuntime, name: Arc<str>, id: Arc<str>, ours: bool) {
        let drain_timeout = self.config.drain.unwrap_or(self.drain);
        // The removal looks up the addresses of a container that was not listed yet.
        let addresses = self.addresses.get(&id).cloned().unwrap_or_default();
        let mut removal = Removal::new(&self.pool, runtime, (&name, &id), ours, drain_timeout, addresses);
        removal.drain().await;
        self.spawn(async move {
            removal.run().await;
            TaskResult::Removed(id)
        });
    }

    /// Starts the replicas whose slots are reserved.
    pub(super) fn begin_addition(
        &mut self,
        names: Vec<Arc<str>>,
        reply: Option<ReplicaReply>,
        decision: ScaleDecision,
    ) {
        let Some(runtime) = self.runtime.clone() else { return };
        for name in &names {
            self.start(&runtime, Arc::clone(name), true);
        }
        let pending = names.len();
        self.addition =
            Some(Addition { names, pending, started: Vec::new(), failure: None, reply, decision });
    }

    pub(super) async fn on_task(&mut self, result: TaskResult) {
        match result {
            TaskResult::Start { name, added, runtime, result } => {
                let result = result.map_err(|NotStarted { refusal, leftover }| {
                    if let Some(id) = leftover {
                        self.fleet.removing(Arc::clone(&id));
                        self.remove_container(&runtime, id);
                    }
                    refusal
                });
                // The name alone is ambiguous: under an earlier configuration a replacement of that name may have
                // begun.
                match self.addition.as_mut().filter(|_| added) {
                    Some(addition) => {
                        addition.pending -= 1;
                        match result {
                            Ok(id) => addition.started.push((name, id)),
                            Err(refusal) => _ = addition.failure.get_or_insert(refusal),
                        }
                        if addition.pending == 0 {
                            self.end_addition(*runtime);
                        }
                    }
                    None => self.on_replacement(&runtime, &name, result).await,
                }
            }
            TaskResult::AdditionUndone => {
                if let Some(Addition { reply: Some(reply), failure, .. }) = self.addition.take() {
                    let refusal = failure.unwrap_or_else(|| Refusal::Failed("it failed".to_owned()));
                    let _ = reply.send(Err(refusal));
                }
            }
            TaskResult::Removed(id) => self.fleet.removed(&id),
            TaskResult::Other => {}
        }
    }

    /// All starts of the addition have ended.
    fn end_addition(&mut self, runtime: ContainerRuntime) {
        let Some(addition) = &mut self.addition else { return };
        if let Some(refusal) = &addition.failure {
            warn!(pool = %self.pool.name, reason = %refusal, cause = &*addition.decision.cause, "replicas: not added");
            self.fleet.cancel_addition(&addition.names);
            let started = std::mem::take(&mut addition.started);
            started.iter().for_each(|(_, id)| self.fleet.removing(Arc::clone(id)));
            let pool = Arc::clone(&self.pool.name);
            self.spawn(async move {
                join_all(started.iter().map(|(_, id)| removal::remove_container(&runtime, &pool, id))).await;
                TaskResult::AdditionUndone
            });
            return;
        }
        let Some(addition) = self.addition.take() else { return };
        for (name, id) in addition.started {
            self.starts.note(&name);
            info!(pool = %self.pool.name, replica = &*name, container = short_id(&id), "replica started");
            let _ = self.fleet.started(&name, id, Instant::now());
        }
        self.decide(addition.decision);
        self.on_change();
        self.publish();
        addition.reply.into_iter().for_each(|reply| _ = reply.send(Ok(self.names())));
    }

    /// A missing replica was started, or could not be.
    async fn on_replacement(
        &mut self,
        runtime: &ContainerRuntime,
        name: &Arc<str>,
        result: Result<Arc<str>, Refusal>,
    ) {
        let pool = &self.pool.name;
        match result {
            Ok(id) => {
                info!(%pool, replica = &**name, container = short_id(&id), "replica started");
                self.starts.note(name);
                let unwanted = self.fleet.started(name, id, Instant::now());
                self.act(runtime, unwanted.into_iter().collect()).await;
            }
            Err(refusal) => {
                let again_in = self.fleet.start_failed(name, Instant::now());
                let again_in = again_in.map(|delay| format_duration(delay).to_string());
                warn!(%pool, replica = &**name, reason = %refusal, again_in, "replica not started");
            }
        }
    }
}
