//! Builds listeners and pools from a configuration, applies a changed one, and drains.

mod bound_address;
mod drain;
pub(crate) mod files;
mod hand_over;
mod listener_task;
mod plan;
mod rebalance;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use litemap::{Entry, LiteMap};
use tokio::sync::oneshot::{self, error::RecvError};
use tokio::time::Instant;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use tracing::{info, warn};

use crate::config::{self, Config};
use crate::domain::{Event, ListenerState, Plane, SocketAddress, Timestamp};
use crate::hand_over::SocketOwner;
use crate::health::Pace;
use crate::kernel_plane::{KernelPlane, nft};
use crate::overview::{Overview, Phase};
use crate::own::{OwnAddresses, Owner};
use crate::pool;
use crate::proxy::admit::Limit;
use crate::proxy::files::Files;
use crate::proxy::listener::{Listener, Settings};
use crate::proxy::sockets;
use crate::proxy::worker::Worker;
use crate::replicas::Replicas;
use crate::state_directory::{SavedListener, StateDirectory};
use crate::task::spawn;
use crate::telemetry::shortage;
use bound_address::BoundAddress;
pub(crate) use drain::Outcome;
pub(crate) use hand_over::Inherited;
use listener_task::ListenerTask;

/// How long a start or a reload waits for new pools to find and check their backends, so that the first clients are
/// served, and then for new addresses to open.
const SETTLING: Duration = Duration::from_secs(2);

/// From here on connections that the kernel forwards are numbered if no listener let it do so at the start. The workers number
/// theirs below: at a million a second for thirty years.
const LATER_NUMBERS: u64 = 1_000_000_000_000_000;

/// How long a removed pool still routes the connections that its listeners accepted last.
const LAST_CHOICES: Duration = Duration::from_secs(2);

/// The running balancer.
#[derive(Debug)]
pub(crate) struct Supervisor {
    config: Config,
    /// The configuration before the last reload that changed it.
    previous: Option<Config>,
    overview: Arc<Overview>,
    workers: Arc<Vec<Worker>>,
    pools: LiteMap<Arc<str>, pool::Handle>,
    /// By pool; pools without replicas are absent.
    replicas: LiteMap<Arc<str>, Replicas>,
    pace: Arc<Pace>,
    listeners: LiteMap<Arc<str>, Running>,
    kernel_plane: KernelPlane,
    /// The allocation of open files, made at the start.
    files: Files,
    /// The address of the admin server, if there is one.
    admin: Option<SocketAddress>,
    /// The addresses that this process listens on: none may be a backend.
    own: Arc<OwnAddresses>,
    /// What the process before has handed over and the first configuration has not taken yet.
    inherited: Inherited,
    /// Removed listeners that still accept the connections that the kernel has completed.
    closing: TaskTracker,
    /// Logs the workers' resource shortages.
    _shortages: AbortOnDropHandle<()>,
}

#[derive(Debug)]
struct Running {
    listener_task: ListenerTask,
    /// The addresses, each as configured and as bound.
    addresses: Vec<(SocketAddress, SocketAddress)>,
}

/// Why a configuration was not applied. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// An address cannot be listened on.
    #[error("listener {listener:?} cannot listen on {address}: {error}{}", hint(.error))]
    Bind {
        /// The listener.
        listener: Arc<str>,
        /// Its address.
        address: SocketAddress,
        /// The system's error.
        error: io::Error,
    },
    /// The kernel cannot forward a listener's connections.
    #[error("listener {listener:?} has `plane: kernel`: {error}")]
    KernelPlane {
        /// The listener.
        listener: Arc<str>,
        /// What is missing.
        error: nft::Error,
    },
    /// A thread of the data plane cannot be started.
    #[error("a worker thread cannot be started: {0}")]
    Worker(io::Error),
}

/// What forwards the bytes of each listener, and with `plane: auto` why that is not the kernel.
type Planes = LiteMap<Arc<str>, (Plane, Option<Arc<str>>)>;

async fn planes(config: &Config) -> Result<Planes, Error> {
    let mut planes = LiteMap::new();
    for (name, listener) in &config.listeners {
        let tcp =
            || listener.bind.iter().filter_map(SocketAddress::tcp).map(|address| address.ip().to_canonical());
        let [v4, v6] = [tcp().any(|ip| ip.is_ipv4() || ip.is_unspecified()), tcp().any(|ip| ip.is_ipv6())];
        let plane = match listener.plane {
            config::PlaneChoice::User => (Plane::User, None),
            config::PlaneChoice::Kernel => {
                let missing = |error| Error::KernelPlane { listener: Arc::clone(name), error };
                nft::check(v4, v6).await.map_err(missing)?;
                (Plane::Kernel, None)
            }
            config::PlaneChoice::Auto => {
                let mut obstacles = listener.kernel_obstacles(|pool| config.pools.get(pool));
                if obstacles.is_empty() {
                    obstacles.extend(nft::check(v4, v6).await.err().map(|error| error.to_string()));
                }
                match obstacles.is_empty() {
                    true => (Plane::Kernel, None),
                    false => {
                        let why = obstacles.join("; ");
                        info!(listener = %name, %why, "this process forwards its bytes: the kernel cannot");
                        (Plane::User, Some(why.into()))
                    }
                }
            }
        };
        planes.insert(Arc::clone(name), plane);
    }
    Ok(planes)
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "; another program has it: `ss -ltnp` shows which",
        io::ErrorKind::PermissionDenied => {
            "; ports below 1024 need CAP_NET_BIND_SERVICE, and a Unix socket a writable directory"
        }
        io::ErrorKind::AddrNotAvailable => "; no interface of this machine has that address",
        io::ErrorKind::NotFound => "; its directory does not exist",
        _ => "",
    }
}

impl Supervisor {
    /// Starts the balancer: binds its addresses, starts its workers and pools, and listens. `admin` is the address on
    /// which the admin server already listens, `state` what outlives the process, `inherited` what the process before has
    /// handed over. Needs a tokio runtime for the control plane.
    pub(crate) async fn start(
        config: Config,
        admin: Option<SocketAddress>,
        state: StateDirectory,
        inherited: Inherited,
    ) -> Result<Self, Error> {
        let count = files::workers(&config);
        let files = files::files(&config, sockets::raise_file_limit(), count);
        if let Some(shortage) = files::shortage(&files) {
            warn!("{shortage}");
        }
        let limit = Arc::new(Limit::new(config.runtime.max_connections, &files));
        let busy_poll = config.runtime.busy_poll;
        let numbered = inherited.numbered;
        let forwards = config.listeners.values().any(|listener| listener.plane != config::PlaneChoice::User);
        let (stride, first) = match forwards {
            // It numbers connections like one more worker.
            true => (count + 1, numbered + count as u64 + 1),
            false => (count, numbered + LATER_NUMBERS),
        };
        let kernel_plane = KernelPlane::start(first, stride as u64, numbered > 0);
        let start = |index| {
            Worker::start(index, stride, numbered, Arc::clone(&limit), busy_poll).map_err(Error::Worker)
        };
        let workers = (0..count).map(start).collect::<Result<Vec<_>, _>>()?;
        info!(workers = count, max_connections = limit.connections, "starting");
        let shortages = workers.iter().map(|worker| Arc::clone(&worker.shared.shortages)).collect();
        let shared = workers.iter().map(|worker| Arc::clone(&worker.shared));
        let shared = shared.chain([Arc::clone(&kernel_plane.shared)]).collect();
        let handles = workers.iter().map(|worker| worker.handle().clone());
        let handles = handles.chain([kernel_plane.handle().clone()]).collect();
        let empty = Config { listeners: LiteMap::new(), pools: LiteMap::new(), ..config.clone() };
        files::lowered(&empty, &files).iter().for_each(files::Lowered::log);
        let mut supervisor = Self {
            overview: Arc::new(Overview::new(empty.clone(), state, limit, shared, handles)),
            config: empty,
            previous: None,
            workers: Arc::new(workers),
            pools: LiteMap::new(),
            replicas: LiteMap::new(),
            pace: Arc::new(Pace::new(config.runtime.max_checks)),
            listeners: LiteMap::new(),
            kernel_plane,
            files,
            admin,
            own: Arc::default(),
            inherited,
            closing: TaskTracker::new(),
            _shortages: AbortOnDropHandle::new(spawn(shortage::report(shortages))),
        };
        spawn(Overview::sample(Arc::downgrade(&supervisor.overview)));
        spawn(rebalance::run(Arc::downgrade(&supervisor.overview)));
        supervisor.apply(config).await?;
        let kernel_plane = supervisor.kernel_plane.clone();
        match numbered {
            0 => kernel_plane.remove_remains().await,
            _ => drop(spawn(async move { kernel_plane.remove_remains().await })),
        }
        supervisor.overview.state.drop_other_pools();
        supervisor.overview.enter(Phase::Serving);
        Ok(supervisor)
    }

    /// The state of the process, for the admin server.
    pub(crate) fn overview(&self) -> &Arc<Overview> {
        &self.overview
    }

    /// The current configuration.
    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// The configuration before the last reload that changed it.
    pub(crate) fn previous(&self) -> Option<&Config> {
        self.previous.as_ref()
    }

    /// Drains a listener, or takes that back. `by` names the operator. The future ends when that is saved and the addresses are
    /// open or closed, which may take long at the process's limit of connections: those that the kernel has completed are
    /// accepted first. `None`: there is no listener of that name.
    pub(crate) fn set_listener_state(
        &self,
        name: &str,
        state: ListenerState,
        by: Arc<str>,
    ) -> Option<impl Future<Output = Result<(), RecvError>> + use<>> {
        let listener_task = &self.listeners.get(name)?.listener_task;
        let listener = &listener_task.listener;
        let (saved, when_saved) = oneshot::channel();
        if listener.state() == state {
            let _ = saved.send(());
        } else {
            listener.set_state(state);
            let (listener, open) = (Arc::clone(&listener.name), listener.active() as u64);
            let drained = (state == ListenerState::Draining).then(|| SavedListener {
                listener: Arc::clone(&listener),
                by: Arc::clone(&by),
                at: Timestamp::now(),
            });
            self.overview.state.save_listener(name, drained, Box::new(move || _ = saved.send(())));
            self.overview.journal.record(Event::ListenerChange { by, listener, state, open });
        }
        let addresses = listener_task.follow_state();
        Some(async move {
            when_saved.await?;
            addresses.await
        })
    }

    /// Drops what was saved for listeners that the configuration no longer has.
    fn drop_other_listeners(&self) {
        for saved in self.overview.state.drained_listeners() {
            if !self.listeners.contains_key(&saved.listener) {
                let SavedListener { listener, by, .. } = &saved;
                info!(%listener, by = &**by, "a drained listener is forgotten: the configuration no longer has it");
                self.overview.state.save_listener(listener, None, Box::new(|| ()));
            }
        }
    }

    /// Applies `config` in place of the current configuration. After an error, nothing has changed.
    pub(crate) async fn reload(&mut self, config: Config) -> Result<(), Error> {
        let before = self.config.clone();
        self.apply(config).await?;
        if self.config != before {
            self.previous = Some(before);
        }
        Ok(())
    }

    /// Applies `config`. Steps that can fail come first, so that a failure changes nothing. The parts that both
    /// configurations share are not interrupted.
    async fn apply(&mut self, config: Config) -> Result<(), Error> {
        let planes = planes(&config).await?;
        let mut addresses = self.reserve(&config, &planes)?;
        // Before any listener opens and any pool can discover it.
        self.listen_on(&addresses).await;
        self.change_pools(&config);
        self.change_replicas(&config);
        self.settle().await;
        let closing = self.change_listeners(&config, &planes, &mut addresses).await;
        self.remove_pools(&config, closing);
        self.listen_on(&LiteMap::new()).await;
        self.log_lowered(&config);
        self.overview.workers.iter().for_each(|worker| worker.records.resize(config.runtime.records));
        self.config = config;
        self.publish();
        Ok(())
    }

    /// Reserves the addresses that are new in `config`, or takes them from the process before.
    fn reserve(
        &mut self,
        config: &Config,
        planes: &Planes,
    ) -> Result<LiteMap<Arc<str>, Vec<BoundAddress>>, Error> {
        let held = self.listeners.values().flat_map(|running| &running.addresses).map(|(_, held)| held);
        let held = held.chain(self.inherited.sockets.places().map(|place| &place.address));
        // A path cannot have a second Unix socket.
        let held: Vec<_> = held.filter_map(SocketAddress::tcp).map(|held| held.port()).collect();
        let ours = |wanted: &SocketAddress| wanted.tcp().is_some_and(|wanted| held.contains(&wanted.port()));
        let inherited = &mut self.inherited.sockets;
        let mut addresses = LiteMap::new();
        for (name, listener) in &config.listeners {
            let held = self.listeners.get(name).map_or(&[][..], |running| &running.addresses);
            let new = listener.bind.iter().filter(|wanted| !held.iter().any(|(held, _)| held == *wanted));
            // Another machine may have the address now, and this one continue its connections later.
            let anywhere = planes.get(name).is_some_and(|(plane, _)| *plane == Plane::Kernel)
                && listener.client_address == config::ClientAddress::Keep;
            let reserve = |address: &SocketAddress| {
                let bound = match inherited.take(&SocketOwner::Listener(Arc::clone(name)), address) {
                    Some(inherited) => BoundAddress::inherit(inherited),
                    None => BoundAddress::reserve(address, ours(address), anywhere, listener.socket_mode),
                };
                bound.map_err(|error| Error::Bind {
                    listener: Arc::clone(name),
                    address: address.clone(),
                    error,
                })
            };
            addresses.insert(Arc::clone(name), new.map(reserve).collect::<Result<Vec<_>, _>>()?);
        }
        Ok(addresses)
    }

    /// Logs the limits of a new configuration that the open files do not allow. The allocation was made at the start.
    fn log_lowered(&self, config: &Config) {
        let before = files::lowered(&self.config, &self.files);
        let lowered = files::lowered(config, &self.files);
        lowered.iter().filter(|one| !before.contains(one)).for_each(files::Lowered::log);
        let now = files::files(config, self.files.limit(), self.workers.len());
        if now.reserved() > self.files.reserved() {
            let (reserved, needed) = (self.files.reserved(), now.reserved());
            warn!(
                reserved,
                needed,
                "more open files may be needed beside the clients than were reserved at the start: restart"
            );
        }
    }

    /// Sends the pools the addresses that this process listens on: its listeners, the given addresses, and the admin
    /// server.
    async fn listen_on(&mut self, also: &LiteMap<Arc<str>, Vec<BoundAddress>>) {
        let running = self.listeners.iter().flat_map(|(name, running)| {
            running.addresses.iter().map(move |(_, address)| (address, Owner::Listener(Arc::clone(name))))
        });
        let also = also.iter().flat_map(|(name, addresses)| {
            addresses.iter().map(move |bound| (&bound.address, Owner::Listener(Arc::clone(name))))
        });
        let admin = self.admin.iter().map(|address| (address, Owner::Admin));
        let bound = running.chain(also).chain(admin).map(|(address, owner)| (address.clone(), owner));
        self.own = Arc::new(OwnAddresses::new(bound.collect()));
        let updates: Vec<_> = self.pools.values().map(|handle| handle.refuse(&self.own)).collect();
        for update in updates {
            let _ = update.await; // a stopped pool routes nothing
        }
    }

    fn change_pools(&mut self, config: &Config) {
        for (name, wanted) in &config.pools {
            match self.pools.get_mut(name) {
                Some(running) => running.reconfigure(wanted),
                None => {
                    let (own, overview) = (&self.own, &self.overview);
                    let (settings, saved) = overview.state.pool(name);
                    let mut known = self.inherited.pool(name);
                    if overview.state.is_configured() {
                        // The process before has written the same there.
                        known.settings = saved;
                    }
                    let (name, journal) = (Arc::clone(name), &overview.journal);
                    let started = pool::Handle::restore(
                        name.clone(),
                        wanted,
                        own,
                        &self.pace,
                        journal,
                        settings,
                        known,
                    );
                    self.pools.insert(name, started);
                }
            }
        }
    }

    /// When a pool no longer has replicas, their containers keep running.
    fn change_replicas(&mut self, config: &Config) {
        let limit = config.runtime.drain.timeout;
        let wanted = |name: &Arc<str>| config.pools.get(name).and_then(|pool| pool.replicas.as_ref());
        self.replicas.retain(|name, _| {
            let stays = wanted(name).is_some();
            if !stays {
                info!(pool = %name, "replicas: no longer managed; containers keep running");
            }
            stays
        });
        for (name, handle) in &self.pools {
            let Some(settings) = wanted(name) else { continue };
            match self.replicas.get(name) {
                Some(running) => running.reconfigure(settings, limit),
                None => {
                    let started = Replicas::start(&handle.pool, settings, limit);
                    self.replicas.insert(Arc::clone(name), started);
                }
            }
        }
    }

    /// Waits until every pool has found and checked its backends, at most for [`SETTLING`].
    async fn settle(&self) {
        let deadline = Instant::now() + SETTLING;
        for pool in self.pools.values() {
            let _ = tokio::time::timeout_at(deadline, pool.pool.when_settled()).await;
        }
        for (name, handle) in &self.pools {
            if handle.pool.snapshot().is_empty() {
                warn!(pool = %name, "no backend is up yet");
            }
        }
    }

    /// Starts and changes listeners, and returns the removed ones when the new addresses are open.
    async fn change_listeners(
        &mut self,
        config: &Config,
        planes: &Planes,
        addresses: &mut LiteMap<Arc<str>, Vec<BoundAddress>>,
    ) -> Vec<ListenerTask> {
        let mut opened = Vec::new();
        let drained = self.overview.state.drained_listeners();
        for (name, wanted) in &config.listeners {
            let pool = |name: &str| self.pools.get(name).map(|handle| Arc::clone(&handle.pool));
            let Some((plane, obstacle)) = planes.get(name).cloned() else { continue }; // each listener has one
            let Some(settings) = Settings::new(wanted, plane, pool) else { continue }; // not in a valid configuration
            if wanted.options.fast_open.is_some() && !sockets::fast_open_served() {
                warn!(listener = %name, "fast_open does nothing: net.ipv4.tcp_fastopen does not have bit 2 set");
            }
            let add = addresses.remove(name).unwrap_or_default();
            let added: Vec<_> =
                add.iter().map(|bound| (bound.configured.clone(), bound.address.clone())).collect();
            let running = match self.listeners.entry(Arc::clone(name)) {
                Entry::Occupied(running) => {
                    let running = running.into_mut();
                    let before = running.listener_task.listener.settings.load();
                    settings.routing.continue_shares(&before.routing);
                    running.listener_task.listener.settings.store(Arc::new(settings));
                    running
                }
                Entry::Vacant(entry) => {
                    let listener = Arc::new(Listener::new(Arc::clone(name), settings));
                    if let Some(SavedListener { by, at, .. }) =
                        drained.iter().find(|saved| saved.listener == *name)
                    {
                        let since = humantime::format_rfc3339_seconds((*at).into());
                        info!(listener = %name, by = &**by, %since, "an operator has drained it: its addresses stay closed");
                        listener.set_state(ListenerState::Draining);
                    } else if self.inherited.drains(name) {
                        listener.set_state(ListenerState::Draining);
                    }
                    let listener_task =
                        ListenerTask::start(listener, Arc::clone(&self.workers), self.kernel_plane.clone());
                    entry.insert(Running { listener_task, addresses: Vec::new() })
                }
            };
            running.listener_task.listener.set_kernel_obstacle(obstacle);
            let (stay, go): (Vec<_>, Vec<_>) =
                running.addresses.drain(..).partition(|(held, _)| wanted.bind.contains(held));
            running.addresses = stay.into_iter().chain(added).collect();
            let remove = go.into_iter().map(|(configured, _)| configured).collect();
            opened.push(running.listener_task.change(add, remove));
        }
        let gone: Vec<_> =
            self.listeners.keys().filter(|name| !config.listeners.contains_key(*name)).cloned().collect();
        let gone: Vec<_> = gone.iter().filter_map(|name| self.listeners.remove(name)).collect();
        let gone: Vec<_> = gone.into_iter().map(|running| running.listener_task).collect();
        for listener_task in &gone {
            info!(listener = %listener_task.listener.name, "removed: its open connections continue");
        }
        self.drop_other_listeners();
        // A listener that is just closing, at the process's limit of connections, opens the new ones only after that.
        let deadline = Instant::now() + SETTLING;
        for opened in opened {
            let _ = tokio::time::timeout_at(deadline, opened).await;
        }
        gone
    }

    /// Closes the removed listeners, then removes pools when the last connections to them are routed.
    fn remove_pools(&mut self, config: &Config, listeners: Vec<ListenerTask>) {
        let gone: Vec<_> =
            self.pools.keys().filter(|name| !config.pools.contains_key(*name)).cloned().collect();
        let handles: Vec<_> = gone.iter().filter_map(|name| self.pools.remove(name)).collect();
        let closing = self.closing.spawn(listener_task::close_all(listeners));
        spawn(async move {
            let _ = closing.await;
            tokio::time::sleep(LAST_CHOICES).await;
            for handle in handles {
                info!(pool = %handle.pool.name, "removed: its open connections follow on_leave");
                handle.remove();
            }
        });
    }

    fn publish(&self) {
        self.overview.config.store(Arc::new(self.config.clone()));
        let pools = self.pools.iter().map(|(name, handle)| (Arc::clone(name), Arc::clone(&handle.pool)));
        self.overview.pools.store(Arc::new(pools.collect()));
        self.overview.replicas.store(Arc::new(self.replicas.clone()));
        let listeners = self.listeners.values().map(|running| {
            let addresses = running.addresses.iter().map(|(_, address)| address.clone()).collect();
            (Arc::clone(&running.listener_task.listener), addresses)
        });
        self.overview.listeners.store(Arc::new(listeners.collect()));
    }
}
