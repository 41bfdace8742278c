//! Hand-over to another process: SIGUSR2 and `run --take-over`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;

use super::{Failure, instance, service_manager};
use crate::admin::server::AdminSocket;
use crate::api::{HandOverRequest, path};
use crate::config::Config;
use crate::domain::{Cause, Event};
use crate::hand_over::{HandOver, HandOverError, Invitation, Predecessor, Successor, Taken};
use crate::remote::{self, Remote};
use crate::supervisor::Supervisor;
use hyper::Method;

/// What a process does in a hand-over: `ps` shows it as the name of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProcessRole {
    /// It starts, to take over.
    Starting,
    /// It accepts connections.
    InCharge,
    /// Another process has taken over, and this one drains.
    Draining,
}

impl ProcessRole {
    /// The name of a process with this role, at most 15 bytes (PR_SET_NAME(2const)).
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Starting => "pointsman-new",
            Self::InCharge => "pointsman",
            Self::Draining => "pointsman-old",
        }
    }

    /// Gives this process the name. It is called on the main thread.
    pub(super) fn show(self) {
        let name = std::ffi::CString::new(self.name()).unwrap_or_default();
        // It fails only for an invalid pointer.
        let _ = rustix::thread::set_name(&name);
    }
}

/// The program and the arguments with which this process was started, to start the next one.
#[derive(Clone, Debug)]
pub(super) struct Invoked {
    program: PathBuf,
    arguments: Vec<OsString>,
}

impl Invoked {
    /// As this process was started. The path is that of the program now: a new version may replace the file later.
    pub(super) fn now() -> Result<Self, Failure> {
        let program = std::env::current_exe()
            .map_err(|error| Failure::NotStarted(format!("the path of the program is unknown: {error}")))?;
        Ok(Self { program, arguments: std::env::args_os().skip(1).collect() })
    }

    /// Starts the process that takes over from this one, which reads `file`.
    pub(super) fn start(&self, file: Option<&Path>) -> Result<Successor, HandOverError> {
        if file == Some(Path::new("-")) {
            return Err(HandOverError::NoFile);
        }
        Successor::start(&self.program, &self.arguments)
    }
}

/// Asks the instance that runs with this configuration's admin address to hand over to this process. `None`: none runs.
pub(super) async fn ask(config: &Config) -> Result<Option<Predecessor>, Failure> {
    let admin = config.admin.as_ref().ok_or_else(|| {
        let hint = "without an admin server the running process cannot be asked: add `admin: {bind: 127.0.0.1:9900}`, \
                    or send SIGUSR2 to the running process instead";
        Failure::Invalid(format!("--take-over needs `admin` in the configuration: {hint}"))
    })?;
    let address = remote::Address::from(admin.bind.clone());
    if address.has_port_zero() {
        return Err(Failure::Invalid(
            "--take-over needs a fixed port of the admin server, not port 0".to_owned(),
        ));
    }
    // What is wrong with the file is reported when the rules for access are read.
    let token = admin.token_file.as_deref().and_then(|file| instance::token_in(file).ok()).flatten();
    let remote = Remote::new(address).with_token(token);
    let not_started = |error: &dyn std::fmt::Display| {
        Failure::NotStarted(format!("the running process did not hand over: {error}"))
    };
    let invitation = Invitation::new().map_err(|error| not_started(&error))?;
    let request = HandOverRequest { socket: invitation.path().to_owned() };
    match remote.submit(Method::POST, path::HAND_OVER, &request).await {
        Ok(_) => invitation.accept().map(Some).map_err(|error| not_started(&error)),
        Err(remote::Error::Unreachable { .. }) => {
            eprintln!("no process runs at {}: nothing is taken over", admin.bind);
            Ok(None)
        }
        Err(error) => Err(not_started(&error)),
    }
}

/// How a hand-over ended.
#[derive(Debug)]
pub(super) enum HandOverResult {
    /// The other process is in charge: this one drains.
    Done(Taken),
    /// It failed: this process continues.
    Failed,
    /// A signal came meanwhile: this process drains, and still has its sockets.
    Stopped(&'static str),
}

/// Hands over to `successor`. `stop` resolves with the name of a signal that ends this process.
pub(super) async fn hand_over(
    supervisor: &mut Supervisor,
    admin: Option<&AdminSocket>,
    successor: Result<Successor, HandOverError>,
    by: Arc<str>,
    stop: impl Future<Output = &'static str>,
) -> HandOverResult {
    let overview = Arc::clone(supervisor.overview());
    overview.journal.record(Event::HandOverStarted { by });
    overview.set_handing_over(true);
    let mut stopped = None;
    let result = match successor {
        Ok(successor) => {
            let stop = async { stopped = Some(stop.await) };
            attempt(supervisor, admin, successor, stop).await
        }
        Err(error) => Err(error),
    };
    let result = result.and_then(|(successor, taken)| {
        // Before the other process reports that it is ready, which the service manager takes from the main process only.
        service_manager::main_process(taken.pid);
        let confirmed = successor.confirm();
        if confirmed.is_err() {
            service_manager::main_process(std::process::id());
        }
        confirmed.map(|()| taken)
    });
    match result {
        Ok(taken) => {
            supervisor.handed_over(&taken);
            if let Some(admin) = admin.filter(|_| taken.has_admin()) {
                admin.handed_over();
            }
            overview.state.abandon();
            overview.journal.record(Event::HandOverDone { process: taken.pid });
            HandOverResult::Done(taken)
        }
        Err(error) => {
            overview.state.resume();
            supervisor.resume();
            overview.set_handing_over(false);
            overview.journal.record(Event::HandOverFailed { error: Cause::from(&error.to_string()) });
            stopped.map_or(HandOverResult::Failed, HandOverResult::Stopped)
        }
    }
}

async fn attempt(
    supervisor: &mut Supervisor,
    admin: Option<&AdminSocket>,
    mut successor: Successor,
    stop: impl Future<Output = ()>,
) -> Result<(Successor, Taken), HandOverError> {
    let mut stop = pin!(stop);
    let offer = tokio::select! {
        offer = offer(supervisor, admin) => offer,
        () = &mut stop => Err(HandOverError::Cancelled),
    };
    let offer = offer.inspect_err(|error| successor.refuse(error))?;
    let canceller = successor.canceller()?;
    let mut exchange = tokio::task::spawn_blocking(move || {
        let taken = successor.hand_over(offer);
        (successor, taken)
    });
    let ended = tokio::select! {
        ended = &mut exchange => ended,
        () = &mut stop => {
            canceller.cancel();
            // The other process ends before this one closes its sockets.
            let _ = exchange.await;
            return Err(HandOverError::Cancelled);
        }
    };
    let (successor, taken) = ended.map_err(std::io::Error::other)?;
    taken.map(|taken| (successor, taken))
}

/// What this process hands over.
async fn offer(supervisor: &mut Supervisor, admin: Option<&AdminSocket>) -> Result<HandOver, HandOverError> {
    let mut offer = supervisor.offer().await?;
    offer.sockets.extend(admin.map(AdminSocket::share).transpose()?);
    offer.state = supervisor.overview().state.hand_over()?;
    Ok(offer)
}
