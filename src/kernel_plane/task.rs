//! The task of the kernel plane: keeps the rules in line with the pools, and follows the connections.

mod events;
mod upkeep;

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc};
use tracing::{error, info, warn};

use self::events::{events_due, until};
use self::upkeep::{all_tables, remove};
use super::PlaneCommand;
use super::connections::Connections;
use super::conntrack::{Events, Table, Tuple};
use super::nft::{self, Error, Generation};
use super::ownership::Ownership;
use super::probe;
use super::rules::{self, Ruleset, TABLES};
use super::served::Served;
use crate::domain::{Plane, SocketAddress};
use crate::pool::backend::directives_set;
use crate::proxy::context::Shared;
use crate::proxy::listener::Listener;
use crate::proxy::progress::CloseRequest;
use crate::proxy::table::IdleOf;
use crate::proxy::worker::{Report, WorkerCommand};
use crate::task::spawn;

/// How often time limits are applied and the rules are checked for changes by other programs.
const TICK: Duration = Duration::from_millis(200);
/// Connections that are probed between two reads of events.
const PROBED: usize = 64;

/// The sockets to conntrack.
struct Kernel {
    events: Events,
    table: Table,
    generation: Generation,
}

/// The task of the kernel plane, which owns the rules and the connections.
pub(super) struct Task {
    served: Vec<Served>,
    /// `None`: not taken yet.
    ownership: Option<Ownership>,
    takes_over: bool,
    /// Another process may be taking over.
    is_held: bool,
    /// The rules in the kernel; `None`: there is no table.
    applied: Option<Ruleset>,
    /// The name of the table.
    table: &'static str,
    /// There may be rules of this process in the kernel.
    has_rules: bool,
    /// What `nft` has listed after they were applied, and the generation of all rules then, to notice changes by others.
    listing: String,
    generation: Option<u32>,
    connections: Connections,
    /// Open once a listener is served.
    kernel: Option<Kernel>,
    /// The pool of a served listener has changed.
    changed: Arc<Notify>,
    /// How often directives were set by the last tick.
    directives_set: u64,
    shared: Arc<Shared>,
    /// When events are read next; `None`: as soon as there are some.
    next_read: Option<Instant>,
}

impl Task {
    /// Its connections have the number `first` and every `stride`th after it.
    pub(super) fn new(shared: Arc<Shared>, first: u64, stride: u64, takes_over: bool) -> Self {
        Self {
            served: Vec::new(),
            ownership: None,
            takes_over,
            is_held: false,
            applied: None,
            table: TABLES[0],
            has_rules: false,
            listing: String::new(),
            generation: None,
            next_read: None,
            connections: Connections::new(Arc::clone(&shared), first, stride),
            kernel: None,
            changed: Arc::default(),
            directives_set: 0,
            shared,
        }
    }

    pub(super) async fn run(
        mut self,
        mut commands: mpsc::UnboundedReceiver<PlaneCommand>,
        mut worker_commands: mpsc::UnboundedReceiver<WorkerCommand>,
    ) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let changed = Arc::clone(&self.changed);
        loop {
            let is_used = self.kernel.is_some();
            let next_look = self.connections.next_look();
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => self.carry_out(command).await,
                    None => return,
                },
                Some(command) = worker_commands.recv() => self.reply(command).await,
                () = changed.notified() => self.update().await,
                () = events_due(self.kernel.as_ref(), self.next_read), if is_used => self.read_events(),
                () = until(next_look), if next_look.is_some() => self.look_at_ending(),
                _ = tick.tick(), if is_used => self.tick().await,
            }
        }
    }

    async fn carry_out(&mut self, command: PlaneCommand) {
        match command {
            PlaneCommand::Forward { listener, addresses, done } => {
                let _ = done.send(self.forward(listener, addresses).await);
            }
            PlaneCommand::Withdraw { listener, done } => {
                self.served.retain(|served| served.listener.name != listener);
                if self.has_rules {
                    self.update().await;
                }
                let _ = done.send(());
            }
            PlaneCommand::Hold(is_held) => {
                self.is_held = is_held;
                if !is_held {
                    // The other process may have written its own.
                    self.applied = None;
                    if self.has_rules {
                        self.update().await;
                    }
                }
            }
            PlaneCommand::Abandon(done) => {
                self.served.clear();
                self.ownership = None;
                (self.applied, self.has_rules) = (None, false);
                self.kernel = None;
                self.connections.forget();
                let _ = done.send(());
            }
            PlaneCommand::RemoveRemains(done) => {
                let has_table = all_tables().any(nft::has_table);
                let is_over = !self.served.is_empty() || !has_table;
                let is_ours = || matches!(Ownership::take(), Ok(Some(_)));
                let removes = !is_over && is_ours();
                if removes {
                    warn!("the rules of nftables are left from another process: they are removed");
                    remove().await;
                }
                let _ = done.send(is_over || removes || !self.takes_over);
            }
            PlaneCommand::End(done) => {
                self.served.clear();
                self.applied = None;
                if std::mem::take(&mut self.has_rules) {
                    remove().await;
                }
                let _ = done.send(());
            }
        }
    }

    async fn forward(&mut self, listener: Arc<Listener>, addresses: Vec<SocketAddress>) -> Result<(), Error> {
        let settings = listener.settings.load_full();
        let Some(pool) = settings.routing.only() else { return Ok(()) }; // the configuration is checked for it
        self.own()?;
        if self.kernel.is_none() {
            self.kernel = Some(Kernel::open().map_err(Error::Conntrack)?);
            if let Err(error) = nft::turn_on("net.netfilter.nf_conntrack_acct") {
                warn!(%error, "bytes of forwarded connections are not counted: set net.netfilter.nf_conntrack_acct to 1");
            }
        }
        let (mut published, changed) = (pool.published(), Arc::clone(&self.changed));
        published.mark_unchanged();
        let follower = spawn(async move {
            while published.changed().await.is_ok() {
                changed.notify_one();
            }
        });
        let former = self.served.extract_if(.., |served| served.listener.name == listener.name).last();
        let opened: Vec<_> = addresses
            .iter()
            .filter(|address| former.as_ref().is_none_or(|former| !former.addresses.contains(address)))
            .cloned()
            .collect();
        self.served.push(Served {
            snapshot: pool.snapshot(),
            pool: Arc::clone(pool),
            listener: Arc::clone(&listener),
            addresses,
            backends: HashMap::new(),
            unreachable: HashSet::new(),
            can_continue: [false; 2],
            follower,
        });
        self.served.sort_by(|a, b| a.listener.name.cmp(&b.listener.name));
        match self.try_update().await {
            Ok(refused) => {
                if let Some((_, error)) = refused.into_iter().find(|(name, _)| *name == listener.name) {
                    self.served.retain(|served| served.listener.name != listener.name);
                    // Its former rules stay until this process listens, and withdraws them.
                    self.served.extend(former);
                    self.served.sort_by(|a, b| a.listener.name.cmp(&b.listener.name));
                    return Err(error);
                }
            }
            Err(error) => {
                self.served.retain(|served| served.listener.name != listener.name);
                // Without it: this process is to relay its connections.
                self.update().await;
                return Err(error);
            }
        }
        let before = self.connections.len();
        if !opened.is_empty() {
            self.resync();
        }
        let found = self.connections.len().saturating_sub(before);
        for address in opened {
            info!(listener = %listener.name, %address, plane = %Plane::Kernel.name(), found, "listening");
        }
        Ok(())
    }

    /// Takes the ownership of the table. A process that takes over may get it later.
    fn own(&mut self) -> Result<(), Error> {
        if self.ownership.is_none() {
            self.ownership = Ownership::take().map_err(Error::Ownership)?;
        }
        if self.ownership.is_some() || self.takes_over { Ok(()) } else { Err(Error::InUse) }
    }

    async fn tick(&mut self) {
        let now = Instant::now();
        let set = directives_set();
        if std::mem::replace(&mut self.directives_set, set) != set {
            self.connections.schedule(now);
        }
        if self.ownership.is_none() && !self.served.is_empty() {
            let _ = self.own();
        }
        let due = self.connections.due(now);
        self.close(due).await;
        if self.has_rules {
            let expired = self.connections.take_expired();
            match reset_packets(&expired).await {
                Ok(()) => self.probe(&expired),
                Err(error) => {
                    error!(%error, "cannot reset connections that have reached a time limit: retrying");
                    self.connections.retry_expired(expired);
                }
            }
        }
        self.repair().await;
    }

    /// Ends connections: both sides get a reset for their next packet, which a probe provokes.
    async fn close(&mut self, wanted: Vec<[Tuple; 2]>) {
        if let Err(error) = reset_packets(&wanted).await {
            error!(%error, "cannot reset forwarded connections: retrying");
            self.connections.retry(&wanted);
            return;
        }
        let Some(kernel) = &mut self.kernel else { return };
        let mut removed = Vec::with_capacity(wanted.len());
        for directions in wanted {
            match kernel.table.delete(&directions[0]) {
                Ok(()) => removed.push(directions),
                Err(error) => {
                    error!(%error, client = %directions[0].source, "cannot end a forwarded connection: retrying");
                    self.connections.retry(&[directions]);
                    kernel.reopen();
                }
            }
        }
        self.probe(&removed);
    }

    /// Lets both ends of these connections send a packet. Events are read meanwhile, so that none is lost.
    fn probe(&mut self, connections: &[[Tuple; 2]]) {
        for some in connections.chunks(PROBED) {
            some.iter().for_each(probe::probe_both);
            if connections.len() > PROBED {
                self.read_events();
            }
        }
    }

    /// Replies like a worker.
    async fn reply(&mut self, command: WorkerCommand) {
        let now = Instant::now();
        match command {
            WorkerCommand::Report(reply) => {
                let connections = &self.connections;
                let (open, cut) = (connections.len(), connections.cut);
                // Unused numbers are no bound for those of the next process.
                let next_conn = if self.kernel.is_some() { connections.coming_conn() } else { 0 };
                let _ = reply.send(Report { open, cut, next_conn });
            }
            WorkerCommand::List(filter, limit, reply) => {
                let listed = self.connections.listed(&filter, limit);
                self.each_entry(&listed, Connections::note_bytes);
                let _ = reply.send(self.connections.list(&filter, limit, now));
            }
            WorkerCommand::Find(subject, limit, reply) => {
                let _ = reply.send(self.connections.find(subject, limit, now));
            }
            WorkerCommand::Ages(selected, reply) => {
                let _ = reply.send(self.connections.ages(&selected, now));
            }
            WorkerCommand::Close(conn, request, reply) => {
                let record = self.connections.record(conn, now);
                self.close_selected(request, |open| open == conn).await;
                let _ = reply.send(record);
            }
            WorkerCommand::CloseAll(request) => self.close_selected(request, |_| true).await,
            WorkerCommand::CloseOver(request, over) => self.connections.close_over(request, over, now),
            // Conntrack does not tell how long a connection has been idle.
            WorkerCommand::CloseIdle { reply, .. } => {
                let _ = reply.send(IdleOf::default());
            }
            WorkerCommand::Accept { .. } | WorkerCommand::Stop => {}
        }
    }

    async fn close_selected(&mut self, request: CloseRequest, selected: impl Fn(u64) -> bool) {
        let wanted = self.connections.request(request, selected);
        self.close(wanted).await;
    }
}

impl Kernel {
    /// Opens the socket for questions again: late replies to the last one would be taken for those to the next.
    fn reopen(&mut self) {
        match Table::open() {
            Ok(table) => self.table = table,
            Err(error) => error!(%error, "cannot open a socket to conntrack"),
        }
    }

    fn open() -> io::Result<Self> {
        Ok(Self { events: Events::subscribe()?, table: Table::open()?, generation: Generation::open()? })
    }
}

/// Lets the kernel answer the next packets of these connections with a reset.
async fn reset_packets(connections: &[[Tuple; 2]]) -> Result<(), Error> {
    for script in rules::close_scripts(connections.as_flattened()) {
        nft::apply(&script).await?;
    }
    Ok(())
}
