//! `pointsman run`: the balancer, until a signal ends it.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use tokio::runtime::{Handle, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{Level, enabled, error, info, warn};

use super::hand_over::{self, HandOverResult, Invoked, ProcessRole};
use super::{Exit, Failure, RunArgs, check, init, instance, service_manager};
use crate::admin;
use crate::admin::access::Access;
use crate::admin::control::{Control, Order, Refusal, ReloadFrom};
use crate::admin::server::Bound;
use crate::api::{DrainReply, HandOverReply, ReloadPlanReply, ReloadReply};
use crate::config::{self, Admin, Config};
use crate::domain::{Cause, ConfigProblem, Event};
use crate::hand_over::service_manager as passed_sockets;
use crate::hand_over::{HandOver, InheritedAddress, Predecessor, SocketOwner, Successor, Taken};
use crate::state_directory::StateDirectory;
use crate::supervisor::{Inherited, Outcome, Supervisor};
use crate::task::spawn;
use crate::telemetry::log;

pub(super) fn run(args: &RunArgs) -> Result<Exit, Failure> {
    if args.check {
        return check::run(&args.file, None);
    }
    let path = args.file.path()?;
    let mut predecessor = Predecessor::from_environment().map_err(|error| not_taken_over(&error))?;
    let role = if predecessor.is_some() { ProcessRole::Starting } else { ProcessRole::InCharge };
    role.show();
    let result = config::load(&path).map_err(Failure::from).and_then(|config| {
        if args.take_over && predecessor.is_none() {
            predecessor = instance::block_on(hand_over::ask(&config))?;
        }
        serve(config, Some(&path), predecessor.as_mut())
    });
    if let (Err(failure), Some(predecessor)) = (&result, &predecessor) {
        predecessor.failed(failure.to_string());
    }
    result
}

fn not_taken_over(error: &io::Error) -> Failure {
    Failure::NotStarted(format!("the sockets of the running process cannot be taken over: {error}"))
}

/// Runs a configuration until a signal ends it; a reload reads `file` again. `predecessor`: the process that this one
/// takes over from.
pub(super) fn serve(
    config: Config,
    file: Option<&Path>,
    predecessor: Option<&mut Predecessor>,
) -> Result<Exit, Failure> {
    let log = log::init(&config.log)?;
    let invoked = Invoked::now()?;
    // The admin server has its own thread: a flood of requests must not delay checks and pool states.
    let (runtime, admin) = (control_plane()?, thread("admin")?);
    let result = runtime.block_on(live(config, file, &log, admin.handle(), &invoked, predecessor));
    // A check that hangs in the system's resolver must not delay the exit.
    admin.shutdown_background();
    runtime.shutdown_background();
    result.map_err(|failure| {
        if !enabled!(Level::ERROR) {
            return failure;
        }
        error!(error = %failure, "could not start");
        Failure::Logged(Box::new(failure))
    })
}

/// The runtime of everything except the connections and the admin server of `run`.
pub(super) fn control_plane() -> Result<Runtime, Failure> {
    thread("control")
}

/// A runtime of one thread.
fn thread(name: &str) -> Result<Runtime, Failure> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).thread_name(name).enable_all().build();
    runtime.map_err(|error| Failure::NotStarted(format!("the thread {name:?} cannot be started: {error}")))
}

async fn live(
    config: Config,
    file: Option<&Path>,
    log: &log::Guard,
    admin_runtime: &Handle,
    invoked: &Invoked,
    mut predecessor: Option<&mut Predecessor>,
) -> Result<Exit, Failure> {
    let mut signals = Signals::new()?;
    let mut reloads = listen(SignalKind::hangup())?;
    let mut hand_overs = listen(SignalKind::user_defined2())?;
    if let Some(file) = file {
        info!(version = %env!("CARGO_PKG_VERSION"), config = %file.display(), pid = std::process::id(), "pointsman");
    }
    let _dropped = AbortOnDropHandle::new(spawn(log::report_dropped()));
    let received = predecessor.as_deref_mut().map(Predecessor::receive).transpose();
    let HandOver { mut sockets, pools, state, draining, next_conn } =
        received.map_err(|error| not_taken_over(&error))?.unwrap_or_default();
    if predecessor.is_none() {
        sockets = passed_sockets::passed().map_err(|error| {
            Failure::NotStarted(format!("the sockets of the service manager cannot be used: {error}"))
        })?;
    }
    let mut inherited = Inherited::new(sockets, pools, draining, next_conn);
    let offered: Vec<_> = inherited.sockets.places().cloned().collect();
    let state = open_state(config.runtime.state.as_deref(), state)?;
    let access = Access::default();
    access.apply(Access::read_rules(config.admin.as_ref()).map_err(Failure::NotStarted)?);
    let admin = match &config.admin {
        Some(admin) => {
            Some(bind(admin, admin_runtime, inherited.sockets.take(&SocketOwner::Admin, &admin.bind)).await?)
        }
        None => None,
    };
    let address = admin.as_ref().map(|admin| admin.address.clone());
    let admin_socket = admin.as_ref().map(Bound::socket).transpose();
    let admin_socket =
        admin_socket.map_err(|error| Failure::NotStarted(format!("the admin server: {error}")))?;
    let starting = Supervisor::start(config, address, state.clone(), inherited);
    let mut supervisor = tokio::select! {
        started = starting => started?,
        _ = signals.end() => return Ok(Exit::Done),
    };
    let stop = CancellationToken::new();
    let (control, mut orders) = Control::new();
    let admin = admin.map(|bound| {
        let _guard = admin_runtime.enter();
        spawn(bound.serve(admin::router(supervisor.overview(), &control, &access), stop.clone()))
    });
    let left = supervisor.drop_inherited();
    if let Some(predecessor) = predecessor {
        let places: Vec<_> = offered.into_iter().filter(|place| !left.contains(place)).collect();
        let (process, addresses) = (predecessor.pid, places.len());
        predecessor
            .ready(Taken { pid: std::process::id(), places })
            .map_err(|error| Failure::NotStarted(format!("the running process did not confirm: {error}")))?;
        ProcessRole::InCharge.show();
        supervisor.overview().journal.record(Event::TookOver { process, addresses });
    }
    service_manager::keep_sockets(&supervisor, admin_socket.as_ref()).await;
    service_manager::ready(supervisor.overview());
    let followed =
        AbortOnDropHandle::new(spawn(service_manager::follow(Arc::downgrade(supervisor.overview()))));
    // Notified when a listener has been opened or closed for an operator.
    let opened = Arc::new(Notify::new());
    let mut successor = None;
    let by: Arc<str> = loop {
        let (newcomer, by) = tokio::select! {
            signal = signals.end() => break signal.into(),
            () = opened.notified() => {
                service_manager::keep_sockets(&supervisor, admin_socket.as_ref()).await;
                continue;
            }
            _ = hand_overs.recv() => (invoked.start(file), "SIGUSR2".into()),
            _ = reloads.recv() => {
                let _ = reload(&mut supervisor, ReloadFrom::File, file, log, &access, &"SIGHUP".into()).await;
                service_manager::keep_sockets(&supervisor, admin_socket.as_ref()).await;
                continue;
            }
            Some(order) = orders.next() => match order {
                Order::PlanReload { answer } => {
                    let _ = answer.send(plan_reload(&supervisor, file));
                    continue;
                }
                Order::Reload { from, operator, answer } => {
                    let _ = answer.send(reload(&mut supervisor, from, file, log, &access, &operator).await);
                    service_manager::keep_sockets(&supervisor, admin_socket.as_ref()).await;
                    continue;
                }
                Order::SetListenerState { listener, state, operator, answer } => {
                    let done = supervisor.set_listener_state(&listener, state, operator);
                    let opened = Arc::clone(&opened);
                    // Signals must not wait for it.
                    spawn(async move {
                        let _ = answer.send(match done {
                            Some(done) => done.await.map_err(|_| Refusal::NoListener),
                            None => Err(Refusal::NoListener),
                        });
                        opened.notify_one();
                    });
                    service_manager::keep_sockets(&supervisor, admin_socket.as_ref()).await;
                    continue;
                }
                Order::HandOver { operator, socket, answer } => match Successor::connect(&socket) {
                    Ok(newcomer) => {
                        let _ = answer.send(Ok(HandOverReply { process: std::process::id() }));
                        (Ok(newcomer), operator)
                    }
                    Err(error) => {
                        let _ = answer.send(Err(Refusal::NotPossible(error.to_string())));
                        continue;
                    }
                },
                Order::Drain { operator, answer } => {
                    let open = supervisor.overview().limit.open() as u64;
                    let timeout_seconds = supervisor.config().runtime.drain.timeout.as_secs_f64();
                    let _ = answer.send(Ok(DrainReply { open, timeout_seconds }));
                    break operator;
                }
            },
        };
        let admin_socket = admin_socket.as_ref();
        match hand_over::hand_over(&mut supervisor, admin_socket, newcomer, by, signals.end()).await {
            HandOverResult::Done(taken) => {
                ProcessRole::Draining.show();
                // From here on, the service manager listens to the other process only.
                drop(followed);
                let by = format!("the hand-over to process {}", taken.pid).into();
                successor = Some(taken);
                break by;
            }
            HandOverResult::Failed => {}
            HandOverResult::Stopped(signal) => break signal.into(),
        }
    };
    drop(orders); // later requests are refused
    let drain = supervisor.config().runtime.drain;
    match &successor {
        None => service_manager::stopping(drain.grace + drain.timeout),
        // The other process answers at this address now.
        Some(taken) if taken.has_admin() => stop.cancel(),
        Some(_) => {}
    }
    let outcome = supervisor.drain(by, signals.end()).await;
    stop.cancel();
    if let Some(admin) = admin {
        let _ = admin.await;
    }
    state.close();
    info!("stopped");
    if successor.is_some() && std::process::id() == 1 {
        return init::stay(&mut signals, &mut reloads, &mut hand_overs).await;
    }
    Ok(match outcome {
        Outcome::Finished => Exit::Done,
        Outcome::Cut => Exit::Cut,
    })
}

/// Opens the state directory, if there is one.
fn open_state(folder: Option<&Path>, inherited: Option<OwnedFd>) -> Result<StateDirectory, Failure> {
    let Some(folder) = folder else { return Ok(StateDirectory::default()) };
    StateDirectory::open(folder, inherited).map_err(|error| {
        let folder = folder.display();
        Failure::NotStarted(format!("the state cannot be kept in {folder} (runtime.state): {error}"))
    })
}

/// Binds the admin server on the runtime that will run it.
async fn bind(
    admin: &Admin,
    admin_runtime: &Handle,
    inherited: Option<InheritedAddress>,
) -> Result<Bound, Failure> {
    let (address, wanted) = (&admin.bind, admin.clone());
    let binding = async move { Bound::bind(&wanted.bind, wanted.socket_mode, inherited).await };
    let bound = admin_runtime.spawn(binding).await;
    let bound = bound.unwrap_or_else(|error| Err(std::io::Error::other(error)));
    bound
        .map_err(|error| Failure::NotStarted(format!("the admin server cannot listen on {address}: {error}")))
}

/// Applies another configuration, or changes nothing and returns the reason. `by` names the operator or the signal, for
/// the log.
async fn reload(
    supervisor: &mut Supervisor,
    from: ReloadFrom,
    file: Option<&Path>,
    log: &log::Guard,
    access: &Access,
    by: &Arc<str>,
) -> Result<ReloadReply, Refusal> {
    service_manager::reloading();
    let reloaded = match from {
        ReloadFrom::File => {
            let reloaded = reload_file(supervisor, file, log, access, by).await;
            let reloads = &supervisor.overview().reloads;
            reloads.note(reloaded.is_ok());
            if let Err(Refusal::Invalid(why) | Refusal::NotPossible(why)) = &reloaded {
                reloads.reject(&format!("a reload was refused: {}", why.lines().next().unwrap_or_default()));
            }
            reloaded
        }
        ReloadFrom::Previous => undo_reload(supervisor, file, log, access, by).await,
    };
    service_manager::ready(supervisor.overview());
    reloaded
}

/// Reads the configuration again and applies it.
async fn reload_file(
    supervisor: &mut Supervisor,
    file: Option<&Path>,
    log: &log::Guard,
    access: &Access,
    by: &Arc<str>,
) -> Result<ReloadReply, Refusal> {
    let Some(file) = file else {
        warn!("reload refused: this instance has no configuration file");
        return Err(Refusal::NoFile);
    };
    let name: Arc<str> = file.display().to_string().into();
    match config::load(file) {
        Ok(config) => put_in_effect(supervisor, config, &name, log, access, by).await,
        Err(report) => {
            let wrong = |problem: &config::Problem| ConfigProblem {
                line: problem.at.map(|at| at.line),
                column: problem.at.map(|at| at.column),
                message: Cause::from(&problem.message),
            };
            let problems = report.problems().iter().map(wrong).collect();
            let event = Event::ReloadRefused { by: Arc::clone(by), config: name, problems };
            supervisor.overview().journal.record(event);
            Err(Refusal::Invalid(report.to_string()))
        }
    }
}

/// Applies the configuration before the last reload again.
async fn undo_reload(
    supervisor: &mut Supervisor,
    file: Option<&Path>,
    log: &log::Guard,
    access: &Access,
    by: &Arc<str>,
) -> Result<ReloadReply, Refusal> {
    let file = file.ok_or(Refusal::NoFile)?;
    let config = supervisor.previous().cloned().ok_or(Refusal::NothingToUndo)?;
    let name = format!("{} as it was before the last reload", file.display()).into();
    let undone = put_in_effect(supervisor, config, &name, log, access, by).await;
    let reloads = &supervisor.overview().reloads;
    reloads.note(undone.is_ok());
    let undone = undone?;
    // A second undo may return to it.
    if config::load(file).map_or(true, |of_file| of_file != *supervisor.config()) {
        reloads.reject(&format!("{by} returned to the configuration before the last reload"));
    }
    Ok(undone)
}

/// What a reload would change.
fn plan_reload(supervisor: &Supervisor, file: Option<&Path>) -> Result<ReloadPlanReply, Refusal> {
    let config = config::load(file.ok_or(Refusal::NoFile)?);
    let config = config.map_err(|report| Refusal::Invalid(report.to_string()))?;
    let restart = needs_restart(supervisor.config(), &config).into_iter().map(Into::into).collect();
    Ok(ReloadPlanReply { changes: supervisor.plan(&config), restart })
}

/// Puts a valid configuration, which `name` describes, in effect.
async fn put_in_effect(
    supervisor: &mut Supervisor,
    config: Config,
    name: &Arc<str>,
    log: &log::Guard,
    access: &Access,
    by: &Arc<str>,
) -> Result<ReloadReply, Refusal> {
    let journal = supervisor.overview().journal.clone();
    let not_possible = |why: String| {
        let problems = vec![ConfigProblem { line: None, column: None, message: Cause::from(&why) }];
        journal.record(Event::ReloadRefused { by: Arc::clone(by), config: Arc::clone(name), problems });
        Err(Refusal::NotPossible(why))
    };
    let rules = match Access::read_rules(config.admin.as_ref()) {
        Ok(rules) => rules,
        Err(error) => return not_possible(error),
    };
    let before = supervisor.config().clone();
    let (listeners, pools) = (config.listeners.len(), config.pools.len());
    if let Err(error) = supervisor.reload(config.clone()).await {
        return not_possible(error.to_string());
    }
    // A removed admin server runs until the restart, and keeps its token.
    if config.admin.is_some() {
        access.apply(rules);
    }
    if let Err(error) = log.reconfigure(&config.log) {
        warn!(%error, "the log's settings are unchanged");
    }
    let restart = needs_restart(&before, &config);
    journal.record(Event::ReloadApplied {
        by: Arc::clone(by),
        config: Arc::clone(name),
        listeners,
        pools,
        restart: restart.iter().copied().map(Into::into).collect(),
    });
    Ok(ReloadReply { listeners, pools, restart: restart.into_iter().map(Into::into).collect() })
}

/// The changed settings that take effect only after a restart.
fn needs_restart(before: &Config, after: &Config) -> Vec<&'static str> {
    let (old, new) = (&before.log, &after.log);
    let files = (old.format, &old.directory, old.rotation, old.max_size, old.keep)
        != (new.format, &new.directory, new.rotation, new.max_size, new.keep);
    let bind = |config: &Config| config.admin.as_ref().map(|admin| (admin.bind.clone(), admin.socket_mode));
    [
        (before.runtime.state != after.runtime.state, "runtime.state"),
        (before.runtime.workers != after.runtime.workers, "runtime.workers"),
        (before.runtime.max_connections != after.runtime.max_connections, "runtime.max_connections"),
        (before.runtime.busy_poll != after.runtime.busy_poll, "runtime.busy_poll"),
        (before.runtime.max_checks != after.runtime.max_checks, "runtime.max_checks"),
        (bind(before) != bind(after), "admin"),
        (files, "log"),
    ]
    .into_iter()
    .filter_map(|(changed, part)| changed.then_some(part))
    .collect()
}

/// The signals that end the program.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
}

impl Signals {
    pub(super) fn new() -> Result<Self, Failure> {
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            quit: listen(SignalKind::quit())?,
        })
    }

    /// Waits for SIGTERM, SIGINT or SIGQUIT, and returns its name.
    pub(super) async fn end(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.quit.recv() => "SIGQUIT",
        }
    }
}

/// A stream of the signals of one kind.
pub(super) fn listen(kind: SignalKind) -> Result<Signal, Failure> {
    signal(kind).map_err(|error| Failure::NotStarted(format!("signal handlers cannot be installed: {error}")))
}
