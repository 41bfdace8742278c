//! Connections that the kernel forwards (`plane: kernel`): nftables translates their addresses, and no byte of them passes
//! through this process.
//!
//! One task owns the table of rules. It builds the table from the snapshots of the pools ([`rules`], pure), writes the
//! differences in single transactions ([`nft`]), and follows what conntrack reports of the connections ([`conntrack`]), which
//! it counts, logs and records like those of the workers ([`connections`]). To the rest of the process it looks like one more
//! worker. The connections do not need the process: after `kill -9` they go on, and the next process finds them again.

mod connections;
pub mod conntrack;
pub mod nft;
mod ownership;
pub mod rules;

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;
use tracing::{error, info, warn};

use crate::balance::SlotChoice;
use crate::config::HashKey;
use crate::domain::{Plane, SocketAddress};
use crate::pool::backend::directives_set;
use crate::pool::{Backend, Pool, PoolSnapshot, PoolStatus};
use crate::proxy::context::Shared;
use crate::proxy::listener::Listener;
use crate::proxy::progress::CloseRequest;
use crate::proxy::table::IdleOf;
use crate::proxy::worker::{Report, WorkerCommand, WorkerHandle};
use crate::task::spawn;
use connections::{Connections, Ends, Target};
use conntrack::{Entry, Event, Events, Table, Tuple};
use nft::{Error, Generation};
use ownership::Ownership;
use rules::{ListenerRules, OPEN_TABLE, Rules, TABLES};

/// How often time limits are applied and the rules are checked for changes by other programs.
const TICK: Duration = Duration::from_millis(200);
/// Datagrams that are read before other work gets a turn.
const AT_ONCE: usize = 256;
/// Entries that are asked for at once.
const ASKED: usize = 64;

/// The handle of the kernel plane.
#[derive(Clone, Debug)]
pub struct KernelPlane {
    commands: mpsc::UnboundedSender<Command>,
    /// Its records.
    pub shared: Arc<Shared>,
    worker: WorkerHandle,
}

enum Command {
    Forward {
        listener: Arc<Listener>,
        addresses: Vec<SocketAddress>,
        done: oneshot::Sender<Result<(), Error>>,
    },
    Withdraw {
        listener: Arc<str>,
        done: oneshot::Sender<()>,
    },
    Hold(bool),
    RemoveRemains(oneshot::Sender<bool>),
    Abandon(oneshot::Sender<()>),
    End(oneshot::Sender<()>),
}

impl KernelPlane {
    /// Starts it; it does nothing before the first listener. Its connections have the number `first` and every `stride`th
    /// after it. `takes_over`: from another process, which may own the table until it has handed over. Needs a tokio runtime.
    pub fn start(first: u64, stride: u64, takes_over: bool) -> Self {
        let (commands, received) = mpsc::unbounded_channel();
        let (worker, worker_commands) = WorkerHandle::channel();
        let shared = Arc::<Shared>::default();
        let task = Task {
            served: Vec::new(),
            ownership: None,
            takes_over,
            is_held: false,
            applied: None,
            table: TABLES[0],
            has_rules: false,
            listing: String::new(),
            generation: None,
            more_events: false,
            connections: Connections::new(Arc::clone(&shared), first, stride),
            kernel: None,
            changed: Arc::default(),
            directives_set: 0,
            shared: Arc::clone(&shared),
        };
        spawn(task.run(received, worker_commands));
        Self { commands, shared, worker }
    }

    /// Lists and closes its connections.
    pub fn handle(&self) -> &WorkerHandle {
        &self.worker
    }

    /// Lets the kernel forward new connections to these addresses of a listener; returns when it does.
    pub async fn forward(
        &self,
        listener: &Arc<Listener>,
        addresses: Vec<SocketAddress>,
    ) -> Result<(), Error> {
        let (done, when_done) = oneshot::channel();
        let _ = self.commands.send(Command::Forward { listener: Arc::clone(listener), addresses, done });
        when_done.await.unwrap_or(Ok(()))
    }

    /// Takes a listener out of the kernel's rules: its new connections reach this process's sockets, open ones continue.
    pub async fn withdraw(&self, listener: &Arc<str>) {
        let (done, when_done) = oneshot::channel();
        let _ = self.commands.send(Command::Withdraw { listener: Arc::clone(listener), done });
        let _ = when_done.await;
    }

    /// Whether the rules stay as they are, as another process may be taking over.
    pub fn hold(&self, is_held: bool) {
        let _ = self.commands.send(Command::Hold(is_held));
    }

    /// Another process has taken over: leaves rules and connections to it.
    pub async fn abandon(&self) {
        let (done, when_done) = oneshot::channel();
        let _ = self.commands.send(Command::Abandon(done));
        let _ = when_done.await;
    }

    /// Removes rules that another process has left; a listener that the kernel forwards would replace them. Waits for a process
    /// that hands over.
    pub async fn remove_remains(&self) {
        loop {
            let (done, when_done) = oneshot::channel();
            let _ = self.commands.send(Command::RemoveRemains(done));
            if when_done.await.unwrap_or(true) {
                return;
            }
            tokio::time::sleep(TICK).await;
        }
    }

    /// Removes the table.
    pub async fn end(&self) {
        let (done, when_done) = oneshot::channel();
        let _ = self.commands.send(Command::End(done));
        let _ = when_done.await;
    }
}

/// The sockets to conntrack.
struct Kernel {
    events: AsyncFd<Events>,
    table: Table,
    generation: Generation,
}

/// A listener whose connections the kernel forwards.
struct Served {
    listener: Arc<Listener>,
    pool: Arc<Pool>,
    addresses: Vec<SocketAddress>,
    snapshot: Arc<PoolSnapshot>,
    /// The backends in the rules, and those that were in them and are still in the pool.
    backends: HashMap<SocketAddr, Arc<Backend>>,
    /// Backends that the kernel cannot reach, which were reported.
    unreachable: HashSet<u64>,
    /// Reports changes of the pool.
    follower: JoinHandle<()>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

struct Task {
    served: Vec<Served>,
    /// `None`: not taken yet.
    ownership: Option<Ownership>,
    takes_over: bool,
    /// Another process may be taking over.
    is_held: bool,
    /// The rules in the kernel; `None`: there is no table.
    applied: Option<Rules>,
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
    /// There are events that were not read yet.
    more_events: bool,
}

impl Task {
    async fn run(
        mut self,
        mut commands: mpsc::UnboundedReceiver<Command>,
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
                () = readable(self.kernel.as_ref(), self.more_events), if is_used => self.read_events(),
                () = until(next_look), if next_look.is_some() => self.look_at_ending(),
                _ = tick.tick(), if is_used => self.tick().await,
            }
        }
    }

    async fn carry_out(&mut self, command: Command) {
        match command {
            Command::Forward { listener, addresses, done } => {
                let _ = done.send(self.forward(listener, addresses).await);
            }
            Command::Withdraw { listener, done } => {
                self.served.retain(|served| served.listener.name != listener);
                if self.has_rules {
                    self.update().await;
                }
                let _ = done.send(());
            }
            Command::Hold(is_held) => {
                self.is_held = is_held;
                if !is_held {
                    // The other process may have written its own.
                    self.applied = None;
                    if self.has_rules {
                        self.update().await;
                    }
                }
            }
            Command::Abandon(done) => {
                self.served.clear();
                self.ownership = None;
                (self.applied, self.has_rules) = (None, false);
                self.kernel = None;
                self.connections.forget();
                let _ = done.send(());
            }
            Command::RemoveRemains(done) => {
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
            Command::End(done) => {
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
            follower,
        });
        self.served.sort_by(|a, b| a.listener.name.cmp(&b.listener.name));
        let applied = self.try_update().await;
        if applied.is_err() {
            self.served.retain(|served| served.listener.name != listener.name);
            // Without it: this process is to relay its connections.
            self.update().await;
            return applied;
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

    /// Brings the rules in line with the pools.
    async fn update(&mut self) {
        if self.is_held {
            return; // the rules may be those of the other process
        }
        if let Err(error) = self.try_update().await {
            let listeners: Vec<_> = self.served.iter().map(|served| &*served.listener.name).collect();
            let listeners = listeners.join(", ");
            error!(%error, %listeners, "cannot change the kernel's rules, which stay as they are: retrying");
            let changed = Arc::clone(&self.changed);
            spawn(async move {
                tokio::time::sleep(Duration::from_secs(1)).await;
                changed.notify_one();
            });
        }
    }

    async fn try_update(&mut self) -> Result<(), Error> {
        let rules = Rules { listeners: self.served.iter_mut().map(Served::rules).collect() };
        let changes = match &self.applied {
            Some(before) if *before == rules => return Ok(()),
            Some(before) => rules.scripts_from(before, self.table),
            None => None,
        };
        // After an error it is made anew.
        self.applied = None;
        let (scripts, table) = match changes {
            Some(scripts) => (scripts, self.table),
            None => {
                // The table in force, also that of another process, stays until the new one is complete.
                for name in TABLES {
                    if nft::has_chain(name, "translate").await {
                        self.table = name;
                    }
                }
                rules.scripts(self.table)
            }
        };
        self.has_rules = true;
        for script in scripts {
            nft::apply(&script).await?;
        }
        (self.applied, self.table) = (Some(rules), table);
        self.note_listing().await;
        Ok(())
    }

    /// Notes how the table looks now.
    async fn note_listing(&mut self) {
        self.generation = self.current_generation();
        self.listing = listing(self.table).await;
    }

    /// The number of the last change of any rule.
    fn current_generation(&mut self) -> Option<u32> {
        self.kernel.as_mut()?.generation.read().ok()
    }

    /// Writes the table again if another program has changed it.
    async fn repair(&mut self) {
        let generation = self.current_generation();
        if self.applied.is_none() || self.is_held || generation == self.generation {
            return;
        }
        if listing(self.table).await == self.listing {
            self.generation = generation;
            return;
        }
        warn!(table = self.table, "another program has changed our table of nftables: it is written again");
        self.applied = None;
        self.update().await;
    }

    /// Reads some events, and all of them after a loss: only then the kernel reports again.
    fn read_events(&mut self) {
        if self.read_some(AT_ONCE) {
            self.shared.events_lost.fetch_add(1, Ordering::Relaxed);
            warn!("events of conntrack were lost: connections are compared with its table");
            self.resync();
        }
    }

    /// Reads at most `most` events; returns whether some were lost, and then reads all.
    fn read_some(&mut self, most: usize) -> bool {
        let Some(kernel) = &mut self.kernel else { return false };
        let (connections, served, now) = (&mut self.connections, &self.served, Instant::now());
        let mut lost = false;
        self.more_events = true;
        for n in 0.. {
            if n >= most && !lost {
                break;
            }
            let read = kernel.events.get_mut().read(|event| match event {
                Event::New(entry) | Event::Changed(entry) => {
                    connections.follow(&entry, now, |entry| target(served, entry));
                }
                Event::Gone(entry) => connections.gone(&entry, now, |entry| target(served, entry)),
            });
            match read {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.more_events = false;
                    break;
                }
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => lost = true,
                Err(error) => {
                    error!(%error, "cannot read the events of conntrack");
                    self.more_events = false;
                    break;
                }
            }
        }
        lost
    }

    /// Asks for the entries of the connections that one side has ended: both may have by now.
    fn look_at_ending(&mut self) {
        let Some(kernel) = &mut self.kernel else { return };
        let tuples = self.connections.take_ending(Instant::now());
        for tuples in tuples.chunks(ASKED) {
            // An entry that is gone is reported with its bytes.
            match kernel.table.entries(tuples) {
                Ok(found) => found.iter().for_each(|(_, entry)| self.connections.look_at(entry)),
                Err(error) => {
                    error!(%error, "cannot read conntrack's entries: retrying");
                    kernel.reopen();
                }
            }
        }
    }

    /// Asks for the bytes of connections that are listed.
    fn ask_for_bytes(&mut self, listed: &[Tuple]) {
        let Some(kernel) = &mut self.kernel else { return };
        for tuples in listed.chunks(ASKED) {
            match kernel.table.entries(tuples) {
                Ok(found) => found.iter().for_each(|(_, entry)| self.connections.note_bytes(entry)),
                Err(error) => {
                    error!(%error, "cannot read the bytes of forwarded connections");
                    kernel.reopen();
                    return;
                }
            }
        }
    }

    /// Compares the connections with the table: adds those that are not known, and ends those that are gone.
    fn resync(&mut self) {
        // What is reported already is older than the table.
        self.read_some(usize::MAX);
        let Some(kernel) = &mut self.kernel else { return };
        let (now, mut present) = (Instant::now(), HashSet::new());
        let (connections, served) = (&mut self.connections, &self.served);
        let dumped = kernel.table.dump(|entry| {
            present.insert(entry.original);
            connections.follow(&entry, now, |entry| target(served, entry));
        });
        match dumped {
            Ok(()) => connections.keep(|original| present.contains(original), now),
            Err(error) => {
                error!(%error, "cannot read conntrack's table: open connections may be missing");
                kernel.reopen();
            }
        }
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
        self.repair().await;
    }

    /// Ends connections: both sides get a reset for their next packet.
    async fn close(&mut self, wanted: Vec<[Tuple; 2]>) {
        if wanted.is_empty() {
            return;
        }
        for script in rules::close_scripts(wanted.as_flattened()) {
            if let Err(error) = nft::apply(&script).await {
                error!(%error, "cannot reset forwarded connections: retrying");
                self.connections.retry(&wanted);
                return;
            }
        }
        let Some(kernel) = &mut self.kernel else { return };
        for directions in &wanted {
            if let Err(error) = kernel.table.delete(&directions[0]) {
                error!(%error, client = %directions[0].source, "cannot end a forwarded connection: retrying");
                self.connections.retry(&[*directions]);
                kernel.reopen();
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
                self.ask_for_bytes(&self.connections.listed(&filter, limit));
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
        let events = Events::subscribe()?.registered()?;
        Ok(Self { events, table: Table::open()?, generation: Generation::open()? })
    }
}

/// Returns when there are events; `more`: some are left, of which epoll(7) does not tell again.
async fn readable(kernel: Option<&Kernel>, more: bool) {
    let Some(kernel) = kernel else { return std::future::pending().await };
    if !more && let Ok(mut ready) = kernel.events.readable().await {
        ready.clear_ready();
    }
}

async fn until(time: Option<Instant>) {
    if let Some(time) = time {
        tokio::time::sleep_until(time.into()).await;
    }
}

/// All tables that this process may have made.
fn all_tables() -> impl Iterator<Item = &'static str> {
    TABLES.into_iter().chain([OPEN_TABLE])
}

/// Removes them.
async fn remove() {
    let script: String =
        all_tables().map(|name| format!("add table inet {name}\ndelete table inet {name}\n")).collect();
    if let Err(error) = nft::apply(&script).await {
        error!(%error, "cannot remove the rules of nftables: `nft delete table inet pointsman` does, and likewise \
                        pointsman-2 and pointsman-open");
    }
}

/// The rules of a table and of that of open connections; empty: one is missing.
async fn listing(table: &str) -> String {
    match (nft::list(table).await, nft::list(OPEN_TABLE).await) {
        (Ok(rules), Ok(open)) => rules + &open,
        _ => String::new(),
    }
}

/// Where the kernel has sent a connection.
fn target(served: &[Served], entry: &Entry) -> Option<Target> {
    let Ends { listener: to, backend, .. } = Ends::of(entry);
    let served =
        served.iter().find(|served| served.addresses.iter().any(|at| connections::accepts(at, to)))?;
    Some(Target {
        listener: Arc::clone(&served.listener),
        pool: Arc::clone(&served.pool),
        backend: served.backend(backend)?,
        snapshot: Arc::clone(&served.snapshot),
    })
}

impl Served {
    /// The backend at an address.
    fn backend(&self, address: SocketAddr) -> Option<Arc<Backend>> {
        let in_pool = || {
            let status = self.pool.status();
            let at = |backend: &Backend| backend.address.tcp().map(canonical) == Some(address);
            status.members.iter().find(|entry| at(&entry.backend)).map(|entry| Arc::clone(&entry.backend))
        };
        self.backends.get(&address).cloned().or_else(in_pool)
    }

    /// Its rules for the pool's current snapshot.
    fn rules(&mut self) -> ListenerRules {
        let settings = self.listener.settings.load();
        let pool_settings = self.pool.settings();
        self.snapshot = self.pool.snapshot();
        let status = self.pool.status();
        let known = |backend: &Backend| status.members.iter().any(|entry| entry.backend.key == backend.key);
        self.backends.retain(|_, backend| known(backend));
        // Also while there is no backend.
        let choice = match pool_settings.balance.hashes() {
            true => SlotChoice::Client,
            false => SlotChoice::Rotation,
        };
        let slots = [true, false].map(|v4| {
            let forwardable = |backend: &Backend| is_forwardable(backend).is_some_and(|is_v4| is_v4 == v4);
            let Some(slots) = self.snapshot.slots(&pool_settings.hash, forwardable) else {
                return Vec::new();
            };
            let backends: Vec<_> = self.snapshot.backends().filter(|backend| forwardable(backend)).collect();
            let address = |owner: u32| backends[owner as usize].address.tcp();
            for backend in &backends {
                if let Some(address) = backend.address.tcp() {
                    self.backends.insert(canonical(address), Arc::clone(backend));
                }
            }
            slots.owners.into_iter().filter_map(address).collect()
        });
        for backend in self.snapshot.backends().filter(|backend| is_forwardable(backend).is_none()) {
            if self.unreachable.insert(backend.key) {
                warn!(
                    listener = %self.listener.name, backend = %backend.name, address = %backend.address,
                    "the kernel cannot forward to this address: the backend gets no connection of this listener"
                );
            }
        }
        ListenerRules {
            name: rules::identifier(&self.listener.name),
            addresses: self.addresses.iter().filter_map(SocketAddress::tcp).collect(),
            masquerade: settings.masquerade,
            choice,
            connect: pool_settings.connect.timeout,
            key: if pool_settings.balance.hashes() { pool_settings.hash.key } else { HashKey::SourceIp },
            slots,
            backends: known_addresses(&status),
            timeouts: [pool_settings.timeouts.idle, pool_settings.timeouts.half_closed],
        }
    }
}

/// The addresses of all backends of a pool, in order.
fn known_addresses(status: &PoolStatus) -> Vec<SocketAddr> {
    let mut addresses: Vec<_> =
        status.members.iter().filter_map(|entry| entry.backend.address.tcp()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

/// The address as the kernel reports it.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Whether the kernel can forward packets to a backend, and then whether by IPv4.
fn is_forwardable(backend: &Backend) -> Option<bool> {
    let ip = backend.address.tcp()?.ip().to_canonical();
    (!ip.is_loopback()).then(|| ip.is_ipv4())
}
