//! `pointsman run`: the balancer, until a signal ends it.

use std::path::Path;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{error, info, warn};

use super::{Exit, Failure, RunArgs, check};
use crate::admin;
use crate::config::{self, Config};
use crate::supervisor::{Outcome, Supervisor};
use crate::telemetry::log;

pub(super) fn run(args: &RunArgs) -> Result<Exit, Failure> {
    if args.check {
        return check::run(&args.file);
    }
    let path = args.file.path()?;
    let config = config::load(&path)?;
    serve(config, Some(&path))
}

/// Runs a configuration until a signal ends it; a reload reads `file` again.
pub(super) fn serve(config: Config, file: Option<&Path>) -> Result<Exit, Failure> {
    let log = log::init(&config.log)?;
    let runtime = control_plane()?;
    let result = runtime.block_on(live(config, file, &log));
    // A check that hangs in the system's resolver must not hold up the end.
    runtime.shutdown_background();
    if let Err(failure) = &result {
        error!(error = %failure, "could not start");
    }
    result
}

/// The runtime that carries everything but the connections.
pub(super) fn control_plane() -> Result<tokio::runtime::Runtime, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("control")
        .enable_all()
        .build();
    runtime.map_err(|error| Failure::NotStarted(format!("the control plane cannot be started: {error}")))
}

async fn live(config: Config, file: Option<&Path>, log: &log::Guard) -> Result<Exit, Failure> {
    let mut signals = Signals::new()?;
    let mut reloads = listen(SignalKind::hangup())?;
    if let Some(file) = file {
        info!(version = %env!("CARGO_PKG_VERSION"), config = %file.display(), pid = std::process::id(), "pointsman");
    }
    let _dropped = AbortOnDropHandle::new(tokio::spawn(log::report_dropped()));
    let admin = match &config.admin {
        Some(admin) => Some(admin::server::Bound::bind(&admin.bind).await.map_err(|error| {
            Failure::NotStarted(format!("the admin server cannot listen on {}: {error}", admin.bind))
        })?),
        None => None,
    };
    let starting = Supervisor::start(config);
    let mut supervisor = tokio::select! {
        started = starting => started?,
        () = signals.end() => return Ok(Exit::Done),
    };
    let stop = CancellationToken::new();
    let admin =
        admin.map(|bound| tokio::spawn(bound.serve(admin::router(supervisor.overview()), stop.clone())));
    loop {
        tokio::select! {
            () = signals.end() => break,
            _ = reloads.recv() => reload(&mut supervisor, file, log).await,
        }
    }
    let outcome = supervisor.drain(signals.end()).await;
    stop.cancel();
    if let Some(admin) = admin {
        let _ = admin.await;
    }
    info!("the end");
    Ok(match outcome {
        Outcome::Finished => Exit::Done,
        Outcome::Cut => Exit::Cut,
    })
}

/// Reads the configuration again and brings everything in line with it, or changes nothing and says why.
async fn reload(supervisor: &mut Supervisor, file: Option<&Path>, log: &log::Guard) {
    let Some(file) = file else {
        warn!("reload refused: this instance has no configuration file");
        return;
    };
    let config = match config::load(file) {
        Ok(config) => config,
        Err(report) => {
            for problem in report.problems() {
                let at = problem.at.map(|at| format!(":{}:{}", at.line, at.column)).unwrap_or_default();
                error!(config = %format_args!("{}{at}", file.display()), error = problem.message, "reload refused");
            }
            return;
        }
    };
    let before = supervisor.config().clone();
    let (listeners, pools) = (config.listeners.len(), config.pools.len());
    if let Err(error) = supervisor.apply(config.clone()).await {
        error!(config = %file.display(), %error, "reload refused");
        return;
    }
    if let Err(error) = log.reconfigure(&config.log) {
        warn!(%error, "the log goes on as it was");
    }
    for part in needs_restart(&before, &config) {
        warn!(part, "changed, and takes effect after a restart");
    }
    info!(config = %file.display(), listeners, pools, "reload applied");
}

/// What a reload cannot change in a running process.
fn needs_restart(before: &Config, after: &Config) -> Vec<&'static str> {
    let (old, new) = (&before.log, &after.log);
    let files = (old.format, &old.directory, old.rotation, old.keep)
        != (new.format, &new.directory, new.rotation, new.keep);
    [
        (before.runtime.workers != after.runtime.workers, "runtime.workers"),
        (before.runtime.max_connections != after.runtime.max_connections, "runtime.max_connections"),
        (before.runtime.busy_poll != after.runtime.busy_poll, "runtime.busy_poll"),
        (before.runtime.max_checks != after.runtime.max_checks, "runtime.max_checks"),
        (before.admin != after.admin, "admin"),
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

    /// Returns at a signal that means to end.
    pub(super) async fn end(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = self.quit.recv() => {}
        }
    }
}

fn listen(kind: SignalKind) -> Result<Signal, Failure> {
    signal(kind).map_err(|error| Failure::NotStarted(format!("signals cannot be heeded: {error}")))
}
