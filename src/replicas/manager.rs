//! The task that looks after a pool's replicas: it tells the [`Fleet`] and the [`Scaler`] what the [`Lookout`] sees, and does
//! what they say. One thing is added or taken out at a time; who leaves does so beside all that.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use humantime::format_duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep_until};
use tracing::{info, warn};

use super::board::{self, Board};
use super::containers::{NotStarted, Yard};
use super::fleet::{Action, Fleet, Life, Sighting};
use super::leave::{self, Leaver};
use super::load::{Starts, least_busy, load};
use super::lookout::Lookout;
use super::neighbours::Neighbours;
use super::scale::Scaler;
use super::{Refusal, Settings};
use crate::api::{ScaleDecision, Timestamp};
use crate::config::{GROUP_LABEL, Replicas};
use crate::pool::Pool;

/// How often the load is weighed.
const WEIGH: Duration = Duration::from_millis(250);
/// What somebody asked for gets.
type Reply = oneshot::Sender<Result<Vec<Arc<str>>, Refusal>>;

/// What somebody wants.
#[derive(Debug)]
pub(super) enum Order {
    Add { n: usize, names: Vec<String>, who: Arc<str>, reply: Reply },
    Remove { n: usize, names: Vec<String>, who: Arc<str>, reply: Reply },
    Reconfigure(Box<Replicas>, Duration),
}

/// Starts the task. It ends when nobody can order anything any longer, and all who are leaving have left.
pub(super) fn start(
    pool: Arc<Pool>,
    config: Replicas,
    drain: Duration,
    orders: mpsc::UnboundedReceiver<Order>,
    shown: watch::Sender<Arc<Board>>,
) {
    let instance: Arc<str> = format!("{:016x}", rand::random::<u64>()).into();
    let manager = Manager {
        lookout: Lookout::new(Arc::clone(&pool.name), Arc::clone(&instance)),
        neighbours: Neighbours::new(instance),
        fleet: Fleet::new(Settings::from(&config)),
        scaler: scaler(&config),
        config: Arc::new(config),
        drain,
        pool,
        shown,
        work: JoinSet::new(),
        batch: None,
        starts: Starts::default(),
        taken: BTreeSet::new(),
        addresses: HashMap::new(),
        decisions: Arc::default(),
    };
    tokio::spawn(manager.run(orders));
}

fn scaler(config: &Replicas) -> Option<Scaler> {
    config.autoscale.map(|autoscale| Scaler::new(autoscale, config.min, config.max))
}

/// What was done beside the task.
enum Done {
    /// One was started, or not; `added`: as part of the addition under way.
    Started { name: Arc<str>, added: bool, yard: Box<Yard>, result: Result<Arc<str>, NotStarted> },
    /// What an addition had begun is taken back.
    TakenBack,
    /// One has been drained, stopped and removed.
    Left(Arc<str>),
    /// Nothing that anybody waits for.
    Swept,
}

/// An addition under way.
struct Batch {
    names: Vec<Arc<str>>,
    /// So many starts have not ended.
    pending: usize,
    started: Vec<(Arc<str>, Arc<str>)>,
    failed: Option<Refusal>,
    /// Who waits for it; nobody, if the load asked for it.
    reply: Option<Reply>,
    decision: ScaleDecision,
}

struct Manager {
    pool: Arc<Pool>,
    config: Arc<Replicas>,
    /// How long who is taken out may take, unless the configuration says otherwise.
    drain: Duration,
    fleet: Fleet,
    scaler: Option<Scaler>,
    shown: watch::Sender<Arc<Board>>,
    lookout: Lookout,
    neighbours: Neighbours,
    work: JoinSet<Done>,
    batch: Option<Batch>,
    starts: Starts,
    /// The names of all containers at the engine, as of the last look.
    taken: BTreeSet<String>,
    /// The addresses of the replicas' containers, by id, as of then.
    addresses: HashMap<Arc<str>, Vec<IpAddr>>,
    decisions: Arc<[ScaleDecision]>,
}

impl Manager {
    async fn run(mut self, mut orders: mpsc::UnboundedReceiver<Order>) {
        let mut weigh = interval(WEIGH);
        weigh.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let due = self.fleet.deadline().filter(|_| self.lookout.yard().is_some());
            let look_at = self.lookout.look_at();
            tokio::select! {
                order = orders.recv(), if self.batch.is_none() => match order {
                    Some(order) => self.obey(order).await,
                    None => break,
                },
                Some(Ok(done)) = self.work.join_next() => self.take_in(done).await,
                event = self.lookout.event() => self.lookout.heed(event),
                () = sleep_until(look_at.into()) => drop(self.look().await),
                () = sleep_until(due.unwrap_or_else(Instant::now).into()), if due.is_some() => {
                    let actions = self.fleet.due(Instant::now());
                    if let Some(yard) = self.lookout.yard().cloned() {
                        self.carry_out(&yard, actions).await;
                    }
                }
                _ = weigh.tick(), if self.scaler.is_some() => self.weigh().await,
            }
            self.show();
        }
        // Departing replicas still drain. The engine's events no longer matter, and an open, unread subscription would
        // stop the engine once its socket is full.
        self.lookout.unsubscribe();
        while self.work.join_next().await.is_some() {}
    }

    async fn obey(&mut self, order: Order) {
        match order {
            // Whoever has given up waiting was told that nothing came of it, and may have asked again.
            Order::Add { reply, .. } | Order::Remove { reply, .. } if reply.is_closed() => {}
            Order::Add { n, names, who, reply } => {
                // Whoever started or ended one meanwhile was not necessarily heard yet.
                if let Err(why) = self.look().await {
                    let _ = reply.send(Err(Refusal::Engine(why)));
                    return;
                }
                let from = self.fleet.slots().len();
                match self.fleet.add(n, &names) {
                    Ok(names) => {
                        let decision = decision(from, from + n, &format!("{who} added {n}"));
                        self.begin(names, Some(reply), decision);
                    }
                    Err(refusal) => _ = reply.send(Err(refusal)),
                }
            }
            Order::Remove { n, names, who, reply } => {
                if let Err(why) = self.look().await {
                    let _ = reply.send(Err(Refusal::Engine(why)));
                    return;
                }
                let from = self.fleet.slots().len();
                match self.fleet.choose(n, &names, |below| rand::random_range(0..below)) {
                    Ok(names) => {
                        self.decide(decision(from, from - n, &format!("{who} took out {n}")));
                        self.take_out(&names).await;
                        self.show();
                        let _ = reply.send(Ok(self.names()));
                    }
                    Err(refusal) => _ = reply.send(Err(refusal)),
                }
            }
            Order::Reconfigure(config, drain) => self.reconfigure(*config, drain),
        }
    }

    fn reconfigure(&mut self, config: Replicas, drain: Duration) {
        let old = std::mem::replace(&mut self.config, Arc::new(config));
        self.drain = drain;
        let new = &self.config;
        let left = self.fleet.slots().iter().filter(|slot| slot.is_ours()).count();
        let others = |c: &Replicas| (c.engine.clone(), c.group.clone(), c.adopt.clone());
        if others(&old) == others(new) {
            self.fleet.reconfigure(Settings::from(&**new));
        } else {
            self.fleet = Fleet::new(Settings::from(&**new));
        }
        if (&old.engine, &old.group) != (&new.engine, &new.group) {
            self.neighbours.moved(&old.group, &new.group);
            if left > 0 {
                let advice = format!(
                    "they run on, and nobody looks after them: `docker rm -f $(docker ps -q -f label={GROUP_LABEL}={})` removes them",
                    old.group
                );
                warn!(pool = %self.pool.name, group = %old.group, left, advice, "replicas: the pool has another group or engine now");
            }
        }
        if (&old.autoscale, old.min, old.max) != (&new.autoscale, new.min, new.max) {
            self.scaler = scaler(new);
        }
        self.lookout.begin_anew();
    }

    /// Looks at the engine, and does what follows; why that is not possible, otherwise.
    async fn look(&mut self) -> Result<(), String> {
        let (yard, list) = self.lookout.look(&self.config).await?;
        let known = self.fleet.known();
        let actions = self.fleet.see(&list.sightings, Instant::now());
        if !known {
            let runs = |seen: &&Sighting| matches!(seen.life, Life::Running | Life::Restarting);
            let found = list.sightings.iter().filter(runs).count();
            let (min, max) = (self.config.min, self.config.max);
            info!(pool = %self.pool.name, found, min, max, network = yard.network(), image = self.config.image, "replicas");
        }
        if let Some(container) = self.neighbours.see(&list.labelled, &self.config.group) {
            let (container, group) = (&*container, &*self.config.group);
            let advice = "give each a `group` of its own";
            warn!(pool = %self.pool.name, group, container, advice, "replicas: another Pointsman starts some of the same group");
        }
        self.taken = list.taken;
        self.addresses = list.addresses;
        self.carry_out(&yard, actions).await;
        Ok(())
    }

    async fn carry_out(&mut self, yard: &Yard, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Start(name) => self.start(yard, name, false),
                Action::Bury { name, id, ours, again_in } => {
                    let again_in = again_in.map(|pause| format_duration(pause).to_string());
                    let (pool, yard) = (Arc::clone(&self.pool.name), yard.clone());
                    self.work.spawn(async move {
                        let cause = yard.epitaph(&id).await;
                        warn!(%pool, replica = &*name, container = short(&id), cause, again_in, "replica died");
                        if ours {
                            leave::sweep(&yard, &pool, &id).await;
                        }
                        Done::Swept
                    });
                }
                Action::Mourn { name, id } => {
                    let (pool, yard) = (Arc::clone(&self.pool.name), yard.clone());
                    self.work.spawn(async move {
                        let cause = yard.epitaph(&id).await;
                        warn!(%pool, replica = &*name, container = short(&id), cause, "replica died, and its engine starts it again");
                        Done::Swept
                    });
                }
                Action::Remove(id) => self.sweep(yard, id),
                Action::Leave { name, id, ours } => self.see_off(yard, name, id, ours).await,
            }
        }
    }

    /// Removes what may be left of one that could not be started, and does not take it for a replica until then.
    fn discard(&mut self, yard: &Yard, id: Arc<str>) {
        self.fleet.removing(Arc::clone(&id));
        self.sweep(yard, id);
    }

    fn sweep(&mut self, yard: &Yard, id: Arc<str>) {
        let (pool, yard) = (Arc::clone(&self.pool.name), yard.clone());
        self.work.spawn(async move {
            leave::sweep(&yard, &pool, &id).await;
            Done::Swept
        });
    }

    fn start(&mut self, yard: &Yard, name: Arc<str>, added: bool) {
        let (yard, taken) = (yard.clone(), self.taken.clone());
        self.work.spawn(async move {
            let result = yard.start(&name, taken).await;
            Done::Started { name, added, yard: Box::new(yard), result }
        });
    }

    /// Takes one out of service at once; the rest takes its time.
    async fn see_off(&mut self, yard: &Yard, name: Arc<str>, id: Arc<str>, ours: bool) {
        let limit = self.config.drain.unwrap_or(self.drain);
        // One that was not seen yet is looked for by the leaver itself.
        let addresses = self.addresses.get(&id).cloned().unwrap_or_default();
        let mut leaver = Leaver::new(&self.pool, yard, (&name, &id), ours, limit, addresses);
        leaver.out_of_service().await;
        self.work.spawn(async move {
            leaver.leave().await;
            Done::Left(id)
        });
    }

    async fn take_out(&mut self, names: &[Arc<str>]) {
        let actions = self.fleet.leave(names);
        if let Some(yard) = self.lookout.yard().cloned() {
            self.carry_out(&yard, actions).await;
        }
        self.changed();
    }

    fn changed(&mut self) {
        if let Some(scaler) = &mut self.scaler {
            scaler.changed(Instant::now());
        }
    }

    /// Begins to add those whose places are reserved.
    fn begin(&mut self, names: Vec<Arc<str>>, reply: Option<Reply>, decision: ScaleDecision) {
        let Some(yard) = self.lookout.yard().cloned() else { return };
        for name in &names {
            self.start(&yard, Arc::clone(name), true);
        }
        let pending = names.len();
        self.batch = Some(Batch { names, pending, started: Vec::new(), failed: None, reply, decision });
    }

    async fn take_in(&mut self, done: Done) {
        match done {
            Done::Started { name, added, yard, result } => {
                let result = result.map_err(|NotStarted { refusal, left }| {
                    left.into_iter().for_each(|id| self.discard(&yard, id));
                    refusal
                });
                // By name alone, one that an earlier configuration had begun to replace would count, too.
                match self.batch.as_mut().filter(|_| added) {
                    Some(batch) => {
                        batch.pending -= 1;
                        match result {
                            Ok(id) => batch.started.push((name, id)),
                            Err(refusal) => _ = batch.failed.get_or_insert(refusal),
                        }
                        if batch.pending == 0 {
                            self.end_batch(*yard);
                        }
                    }
                    None => self.one_started(&yard, &name, result).await,
                }
            }
            Done::TakenBack => {
                if let Some(Batch { reply, failed, .. }) = self.batch.take() {
                    let refusal = failed.unwrap_or_else(|| Refusal::Failed("it failed".to_owned()));
                    reply.into_iter().for_each(|reply| _ = reply.send(Err(refusal.clone())));
                }
            }
            Done::Left(id) => self.fleet.left(&id),
            Done::Swept => {}
        }
    }

    /// All starts of an addition have ended.
    fn end_batch(&mut self, yard: Yard) {
        let Some(batch) = &mut self.batch else { return };
        if let Some(refusal) = &batch.failed {
            warn!(pool = %self.pool.name, reason = %refusal, cause = &*batch.decision.cause, "replicas: not added");
            self.fleet.take_back(&batch.names);
            let started = std::mem::take(&mut batch.started);
            started.iter().for_each(|(_, id)| self.fleet.removing(Arc::clone(id)));
            let pool = Arc::clone(&self.pool.name);
            self.work.spawn(async move {
                let sweep = |(_, id): &(_, Arc<str>)| {
                    let (yard, pool, id) = (yard.clone(), Arc::clone(&pool), Arc::clone(id));
                    async move { leave::sweep(&yard, &pool, &id).await }
                };
                join_all(started.iter().map(sweep)).await;
                Done::TakenBack
            });
            return;
        }
        let Some(batch) = self.batch.take() else { return };
        for (name, id) in batch.started {
            self.starts.note(&name);
            info!(pool = %self.pool.name, replica = &*name, container = short(&id), "replica started");
            let _ = self.fleet.started(&name, id, Instant::now());
        }
        self.decide(batch.decision);
        self.changed();
        self.show();
        batch.reply.into_iter().for_each(|reply| _ = reply.send(Ok(self.names())));
    }

    /// One that was missing was started, or not.
    async fn one_started(&mut self, yard: &Yard, name: &Arc<str>, result: Result<Arc<str>, Refusal>) {
        let pool = &self.pool.name;
        match result {
            Ok(id) => {
                info!(%pool, replica = &**name, container = short(&id), "replica started");
                self.starts.note(name);
                let unwanted = self.fleet.started(name, id, Instant::now());
                self.carry_out(yard, unwanted.into_iter().collect()).await;
            }
            Err(refusal) => {
                let again_in = self.fleet.start_failed(name, Instant::now());
                let again_in = again_in.map(|pause| format_duration(pause).to_string());
                warn!(%pool, replica = &**name, reason = %refusal, again_in, "replica not started");
            }
        }
    }

    /// Weighs the load, and does what follows.
    async fn weigh(&mut self) {
        if self.lookout.yard().is_none() || !self.fleet.known() || self.batch.is_some() {
            return;
        }
        let load = load(&self.pool, &self.fleet, &self.starts);
        let Some(verdict) = self.scaler.as_mut().and_then(|scaler| scaler.weigh(load, Instant::now())) else {
            return;
        };
        let (from, to) = (load.replicas as usize, verdict.to as usize);
        let mut decision = decision(from, to, &verdict.cause);
        if verdict.only_told {
            decision.only_told = true;
            self.decide(decision);
        } else if to > from {
            match self.fleet.add(to - from, &[]) {
                Ok(names) => self.begin(names, None, decision),
                Err(refusal) => warn!(pool = %self.pool.name, reason = %refusal, "replicas: not added"),
            }
        } else {
            let names = least_busy(&self.pool, &self.fleet, from - to);
            if names.is_empty() {
                return;
            }
            decision.to = from - names.len();
            self.decide(decision);
            self.take_out(&names).await;
        }
    }

    /// Tells a decision, and keeps it.
    fn decide(&mut self, decision: ScaleDecision) {
        let ScaleDecision { from, to, cause, only_told, .. } = &decision;
        let pool = &self.pool.name;
        let dry_run =
            (self.config.autoscale.is_some_and(|scale| scale.dry_run) && *only_told).then_some(true);
        info!(%pool, from, to, cause = &**cause, dry_run, "scale");
        self.decisions = board::with(&self.decisions, decision);
    }

    fn names(&self) -> Vec<Arc<str>> {
        self.fleet.slots().iter().map(|slot| Arc::clone(&slot.name)).collect()
    }

    fn show(&self) {
        let trouble = self.lookout.trouble().map(str::to_owned);
        let board = Board::of(&self.fleet, &self.config, trouble, &self.neighbours, &self.decisions);
        self.shown.send_replace(Arc::new(board));
    }
}

fn decision(from: usize, to: usize, cause: &str) -> ScaleDecision {
    ScaleDecision { at: Timestamp::now(), from, to, cause: cause.into(), only_told: false }
}

/// The engine's id of a container as people are used to it.
fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}
