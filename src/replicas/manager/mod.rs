//! The task that manages a pool's replicas: it feeds the [`Fleet`] and the [`Scaler`] with what the [`EngineWatcher`]
//! lists, and takes their actions. One addition or removal is decided at a time; departing replicas drain in the
//! background.

mod tasks;

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep_until};
use tracing::{info, warn};

use super::container_runtime::ContainerRuntime;
use super::engine_health::EngineHealth;
use super::fleet::{Fleet, ReplicaContainer, RunState};
use super::load::{RecentStarts, least_busy, load};
use super::scale::Scaler;
use super::status::{self, FleetStatus};
use super::unmanaged::UnmanagedContainers;
use super::{FleetLimits, Refusal};
use crate::api::{ScaleDecision, Timestamp};
use crate::config::{GROUP_LABEL, Replicas};
use crate::discovery::engine_watcher::{EngineWatcher, Listing, Scope};
use crate::pool::Pool;
use crate::task::spawn;
use tasks::{Addition, TaskResult};

/// The interval between evaluations of the load.
const EVALUATE: Duration = Duration::from_millis(250);
/// The names of all replicas after a command.
type ReplicaReply = oneshot::Sender<Result<Vec<Arc<str>>, Refusal>>;

/// A command to the task. `actor` is for the log.
#[derive(Debug)]
pub(super) enum ReplicaCommand {
    Add { n: usize, names: Vec<String>, actor: Arc<str>, reply: ReplicaReply },
    Remove { n: usize, names: Vec<String>, actor: Arc<str>, reply: ReplicaReply },
    Reconfigure(Box<Replicas>, Duration),
}

/// Starts the task. It ends when all senders of commands are dropped and all removals have finished.
pub(super) fn start(
    pool: Arc<Pool>,
    config: Replicas,
    drain: Duration,
    commands: mpsc::UnboundedReceiver<ReplicaCommand>,
    status: watch::Sender<Arc<FleetStatus>>,
) {
    let instance: Arc<str> = format!("{:016x}", rand::random::<u64>()).into();
    let manager = Manager {
        watcher: watcher(&config),
        runtime: None,
        health: EngineHealth::new(Arc::clone(&pool.name)),
        unmanaged: UnmanagedContainers::new(Arc::clone(&instance)),
        instance,
        fleet: Fleet::new(FleetLimits::from(&config)),
        scaler: scaler(&config),
        config: Arc::new(config),
        drain,
        pool,
        status,
        tasks: JoinSet::new(),
        addition: None,
        starts: RecentStarts::default(),
        taken: HashSet::new(),
        addresses: HashMap::new(),
        decisions: Arc::default(),
    };
    spawn(manager.run(commands));
}

fn scaler(config: &Replicas) -> Option<Scaler> {
    config.autoscale.map(|autoscale| Scaler::new(autoscale, config.min, config.max))
}

fn watcher(config: &Replicas) -> EngineWatcher {
    let (address, filter) = ContainerRuntime::scope(config);
    EngineWatcher::new(address, filter, Scope::All)
}

struct Manager {
    pool: Arc<Pool>,
    config: Arc<Replicas>,
    /// The drain timeout, unless the configuration has one for replicas.
    drain: Duration,
    fleet: Fleet,
    scaler: Option<Scaler>,
    status: watch::Sender<Arc<FleetStatus>>,
    watcher: EngineWatcher,
    /// `None` while the engine is unreachable.
    runtime: Option<ContainerRuntime>,
    /// The value of the instance label of new containers.
    instance: Arc<str>,
    health: EngineHealth,
    unmanaged: UnmanagedContainers,
    tasks: JoinSet<TaskResult>,
    addition: Option<Addition>,
    starts: RecentStarts,
    /// The names of all containers at the engine, as of the last listing.
    taken: HashSet<String>,
    /// The addresses of the replicas' containers, by id, as of the last listing.
    addresses: HashMap<Arc<str>, Vec<IpAddr>>,
    decisions: Arc<[ScaleDecision]>,
}

impl Manager {
    async fn run(mut self, mut commands: mpsc::UnboundedReceiver<ReplicaCommand>) {
        let mut evaluate = interval(EVALUATE);
        evaluate.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let due = self.fleet.deadline().filter(|_| self.runtime.is_some());
            tokio::select! {
                command = commands.recv(), if self.addition.is_none() => match command {
                    Some(command) => self.on_command(command).await,
                    None => break,
                },
                Some(Ok(result)) = self.tasks.join_next() => self.on_task(result).await,
                listing = self.watcher.next() => match listing {
                    Ok(listing) => self.on_listing(listing).await,
                    Err(reason) => self.on_engine_failure(reason),
                },
                () = sleep_until(due.unwrap_or_else(Instant::now).into()), if due.is_some() => {
                    let actions = self.fleet.due(Instant::now());
                    if let Some(runtime) = self.runtime.clone() {
                        self.act(&runtime, actions).await;
                    }
                }
                _ = evaluate.tick(), if self.scaler.is_some() => self.evaluate_load().await,
            }
            self.publish();
        }
        // Removals may still be in progress, but the engine is no longer watched.
        self.watcher.close();
        while self.tasks.join_next().await.is_some() {}
    }

    async fn on_command(&mut self, command: ReplicaCommand) {
        match command {
            // A client that has given up may have sent its request again.
            ReplicaCommand::Add { reply, .. } | ReplicaCommand::Remove { reply, .. } if reply.is_closed() => {
            }
            ReplicaCommand::Add { n, names, actor, reply } => {
                if let Err(reason) = self.list_now().await {
                    let _ = reply.send(Err(Refusal::Engine(reason)));
                    return;
                }
                let from = self.fleet.slots().len();
                match self.fleet.add(n, &names) {
                    Ok(names) => {
                        let decision = decision(from, from + n, &format!("{actor} added {n}"));
                        self.begin_addition(names, Some(reply), decision);
                    }
                    Err(refusal) => _ = reply.send(Err(refusal)),
                }
            }
            ReplicaCommand::Remove { n, names, actor, reply } => {
                if let Err(reason) = self.list_now().await {
                    let _ = reply.send(Err(Refusal::Engine(reason)));
                    return;
                }
                let from = self.fleet.slots().len();
                match self.fleet.choose(n, &names, |below| rand::random_range(0..below)) {
                    Ok(names) => {
                        self.decide(decision(from, from - n, &format!("{actor} removed {n}")));
                        self.remove(&names).await;
                        self.publish();
                        let _ = reply.send(Ok(self.names()));
                    }
                    Err(refusal) => _ = reply.send(Err(refusal)),
                }
            }
            ReplicaCommand::Reconfigure(config, drain) => self.reconfigure(*config, drain),
        }
    }

    fn reconfigure(&mut self, config: Replicas, drain: Duration) {
        let old = std::mem::replace(&mut self.config, Arc::new(config));
        self.drain = drain;
        let new = &self.config;
        let left = self.fleet.slots().iter().filter(|slot| slot.is_ours()).count();
        let scope = |c: &Replicas| (c.engine.clone(), c.group.clone(), c.adopt.clone());
        if scope(&old) == scope(new) {
            self.fleet.reconfigure(FleetLimits::from(&**new));
        } else {
            self.fleet = Fleet::new(FleetLimits::from(&**new));
        }
        if (&old.engine, &old.group) != (&new.engine, &new.group) {
            self.unmanaged.on_move(&old.group, &new.group);
            if left > 0 {
                let advice = format!(
                    "they keep running, no longer managed: `docker rm -f $(docker ps -q -f label={GROUP_LABEL}={})` removes them",
                    old.group
                );
                warn!(pool = %self.pool.name, group = %old.group, left, advice, "replicas: group or engine changed");
            }
        }
        if (&old.autoscale, old.min, old.max) != (&new.autoscale, new.min, new.max) {
            self.scaler = scaler(new);
        }
        (self.watcher, self.runtime) = (watcher(new), None);
    }

    /// Lists the containers for a command: the last listing may be older than a start or an exit.
    async fn list_now(&mut self) -> Result<(), String> {
        match self.watcher.list_now().await {
            Ok(listing) => {
                self.on_listing(listing).await;
                Ok(())
            }
            Err(reason) => {
                self.on_engine_failure(reason.clone());
                Err(reason)
            }
        }
    }

    fn on_engine_failure(&mut self, reason: String) {
        self.runtime = None;
        self.health.on_failure(reason);
    }

    async fn on_listing(&mut self, Listing { engine, first, containers, .. }: Listing) {
        self.health.on_success();
        let runtime = match self.runtime.take().filter(|_| !first) {
            Some(runtime) => runtime,
            None => ContainerRuntime::new(engine, &self.config, &self.instance).await,
        };
        let inventory = runtime.read(containers);
        let known = self.fleet.known();
        let actions = self.fleet.on_list(&inventory.replicas, Instant::now());
        if !known {
            let runs =
                |one: &&ReplicaContainer| matches!(one.state, RunState::Running | RunState::Restarting);
            let found = inventory.replicas.iter().filter(runs).count();
            let (min, max) = (self.config.min, self.config.max);
            info!(pool = %self.pool.name, found, min, max, network = runtime.network(), image = self.config.image, "replicas");
        }
        if let Some(container) = self.unmanaged.on_list(&inventory.labelled, &self.config.group) {
            let (container, group) = (&*container, &*self.config.group);
            let advice = "give each a `group` of its own";
            warn!(pool = %self.pool.name, group, container, advice, "replicas: another Pointsman uses the same group");
        }
        (self.taken, self.addresses) = (inventory.names, inventory.addresses);
        self.runtime = Some(runtime.clone());
        self.act(&runtime, actions).await;
    }

    async fn remove(&mut self, names: &[Arc<str>]) {
        let actions = self.fleet.remove(names);
        if let Some(runtime) = self.runtime.clone() {
            self.act(&runtime, actions).await;
        }
        self.on_change();
    }

    fn on_change(&mut self) {
        if let Some(scaler) = &mut self.scaler {
            scaler.on_change(Instant::now());
        }
    }

    async fn evaluate_load(&mut self) {
        if self.runtime.is_none() || !self.fleet.known() || self.addition.is_some() {
            return;
        }
        let load = load(&self.pool, &self.fleet, &self.starts);
        let Some(advice) = self.scaler.as_mut().and_then(|scaler| scaler.on_load(load, Instant::now()))
        else {
            return;
        };
        let (from, to) = (load.replicas as usize, advice.to as usize);
        let mut decision = decision(from, to, &advice.cause);
        if advice.report_only {
            decision.only_told = true;
            self.decide(decision);
        } else if to > from {
            match self.fleet.add(to - from, &[]) {
                Ok(names) => self.begin_addition(names, None, decision),
                Err(refusal) => warn!(pool = %self.pool.name, reason = %refusal, "replicas: not added"),
            }
        } else {
            let names = least_busy(&self.pool, &self.fleet, from - to);
            if names.is_empty() {
                return;
            }
            decision.to = from - names.len();
            self.decide(decision);
            self.remove(&names).await;
        }
    }

    /// Logs and keeps a decision.
    fn decide(&mut self, decision: ScaleDecision) {
        let ScaleDecision { from, to, cause, only_told, .. } = &decision;
        let pool = &self.pool.name;
        let dry_run =
            (self.config.autoscale.is_some_and(|scale| scale.dry_run) && *only_told).then_some(true);
        info!(%pool, from, to, cause = &**cause, dry_run, "scale");
        self.decisions = status::with(&self.decisions, decision);
    }

    fn names(&self) -> Vec<Arc<str>> {
        self.fleet.slots().iter().map(|slot| Arc::clone(&slot.name)).collect()
    }

    fn publish(&self) {
        let trouble = self.health.failure().map(str::to_owned);
        let status = FleetStatus::of(&self.fleet, &self.config, trouble, &self.unmanaged, &self.decisions);
        self.status.send_replace(Arc::new(status));
    }
}

fn decision(from: usize, to: usize, cause: &str) -> ScaleDecision {
    ScaleDecision { at: Timestamp::now(), from, to, cause: cause.into(), only_told: false }
}
