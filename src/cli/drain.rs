//! `pointsman drain`: drains one backend, a pool, a listener, or the whole instance, which then stops. With `--wait` it
//! returns when the drain has ended; `--forecast` only tells how long it would take.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use clap::Args;
use hyper::Method;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::instance::{RemoteArgs, block_on};
use super::operate::{ForceArgs, change, change_listener, connections, print_change, print_listener};
use super::target::{BackendTarget, listener_path};
use super::{Exit, Failure, print, print_json, terminal};
use crate::api::{
    BackendChange, BackendInfo, DrainForecastReply, DrainReply, ListenerInfo, StatusReply, path,
};
use crate::domain::{AdminState, ListenerState};
use crate::http1::encode;
use crate::humanize::count;
use crate::remote::{Error, Remote};

/// The interval between two queries of the open connections.
const POLL: Duration = Duration::from_millis(200);
/// The interval between two forecasts.
const FORECAST_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(super) struct DrainArgs {
    /// The backend, by name or address, or a pool; without it, the whole instance drains and stops
    #[arg(value_name = "POOL[/BACKEND]")]
    target: Option<String>,
    /// Drain this listener: it refuses new clients until `pointsman up --listener`
    #[arg(long, value_name = "LISTENER", conflicts_with = "target")]
    listener: Option<String>,
    /// Drain nothing; print how long the open connections are expected to take
    #[arg(long, conflicts_with_all = ["wait", "yes", "force"])]
    forecast: bool,
    /// Wait until its connections have ended, or until the whole instance has stopped
    #[arg(long)]
    wait: bool,
    /// The maximum time to wait; exit code 1 if connections are still open then
    #[arg(long, value_name = "DURATION", requires = "wait", value_parser = humantime::parse_duration)]
    timeout: Option<Duration>,
    /// Drain the whole instance without confirmation
    #[arg(long, conflicts_with_all = ["target", "listener"])]
    yes: bool,
    #[command(flatten)]
    force: ForceArgs,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// What is drained.
#[derive(Debug)]
enum Subject {
    Instance,
    Listener(String),
    Pool(String),
    Backend(BackendTarget),
}

impl Subject {
    async fn find(args: &DrainArgs, remote: &Remote) -> Result<Self, Failure> {
        if let Some(listener) = &args.listener {
            return Ok(Self::Listener(listener.clone()));
        }
        let Some(written) = args.target.as_deref() else { return Ok(Self::Instance) };
        let status: StatusReply = remote.get(path::STATUS).await?;
        match status.pools.iter().any(|pool| *pool.name == *written) {
            true => Ok(Self::Pool(written.to_owned())),
            false => BackendTarget::find(written, &status).map(Self::Backend),
        }
    }

    /// The path of its forecast.
    fn forecast(&self) -> String {
        match self {
            Self::Instance => path::DRAIN.to_owned(),
            Self::Listener(listener) => format!("{}?listener={}", path::DRAIN, encode(listener)),
            Self::Pool(pool) => format!("{}?pool={}", path::DRAIN, encode(pool)),
            Self::Backend(BackendTarget { pool, backend }) => {
                format!("{}?pool={}&backend={}", path::DRAIN, encode(pool), encode(backend))
            }
        }
    }
}

pub(super) fn run(args: &DrainArgs) -> Result<Exit, Failure> {
    let remote = args.remote.remote()?;
    block_on(async {
        let subject = Subject::find(args, &remote).await?;
        if args.forecast {
            return print_forecast(&subject, &remote, args.remote.json).await;
        }
        match &subject {
            Subject::Instance => drain_all(args, &remote).await,
            Subject::Listener(listener) => drain_listener(args, &remote, listener).await,
            Subject::Pool(pool) => drain_pool(args, &remote, pool).await,
            Subject::Backend(backend) => {
                let written = format!("{}/{}", backend.pool, backend.backend);
                let draining = BackendChange::to_state(AdminState::Draining);
                let (target, text) = change(&remote, &written, draining, &args.force).await?;
                if !args.wait {
                    return print_change(&remote, &target, &text, args.remote.json);
                }
                let backend: BackendInfo = remote.read(&text)?;
                let name = format!("{}/{}", target.pool, backend.name);
                wait_for(args, &remote, &subject, &name, &target.pool, vec![backend]).await
            }
        }
    })
}

async fn print_forecast(subject: &Subject, remote: &Remote, json: bool) -> Result<Exit, Failure> {
    let text = remote.text(&subject.forecast()).await?;
    if json {
        return print_json(&text);
    }
    let reply: DrainForecastReply = remote.read(&text)?;
    print(&format!("{}\n", terminal::clean(&reply.sentence)))
}

/// Asks the operator to confirm what makes clients fail; without a terminal that is an error.
fn confirm_unless_forced(force: &ForceArgs, warning: &str, question: &str) -> Result<(), Failure> {
    match (force.force, terminal::can_ask()) {
        (true, _) => Ok(()),
        (false, true) => terminal::confirm(&format!("{warning}. {question}")),
        (false, false) => Err(Failure::Invalid(format!("{warning}; confirm with --force"))),
    }
}

/// Drains a listener.
async fn drain_listener(args: &DrainArgs, remote: &Remote, listener: &str) -> Result<Exit, Failure> {
    let path = listener_path(listener);
    let now: ListenerInfo = remote.get(&path).await?;
    let addresses = now.addresses.join(", ");
    let warning = format!("This closes the listener {} ({addresses}): new clients are refused", now.name);
    confirm_unless_forced(&args.force, &warning, "Drain it?")?;
    let text = change_listener(remote, listener, ListenerState::Draining).await?;
    if !args.wait {
        return print_listener(remote, &text, args.remote.json);
    }
    let until = args.timeout.and_then(|time| Instant::now().checked_add(time));
    let mut progress = DrainProgress::new(&Subject::Listener(listener.to_owned()));
    loop {
        let ListenerInfo { active, .. } = remote.get(&path).await?;
        if active == 0 {
            break;
        }
        progress.show(remote, &format!("{listener}: {}", connections(active))).await;
        wait(until, || format!("{listener} still has {}", connections(active))).await?;
    }
    progress.end();
    print_drained(listener, args.remote.json)
}

fn print_drained(name: &str, json: bool) -> Result<Exit, Failure> {
    let was = match json {
        true => json!({"drained": name}).to_string(),
        false => terminal::clean(&format!("{name} is drained")),
    };
    print(&format!("{was}\n"))
}

/// The backends of a pool.
async fn backends_of(remote: &Remote, pool: &str) -> Result<Vec<BackendInfo>, Failure> {
    let status: StatusReply = remote.get(path::STATUS).await?;
    Ok(status.pools.into_iter().filter(|info| *info.name == *pool).flat_map(|info| info.backends).collect())
}

/// Drains all backends of a pool. One that is leaving, or has left meanwhile, gets no new connections anyway.
async fn drain_pool(args: &DrainArgs, remote: &Remote, pool: &str) -> Result<Exit, Failure> {
    let backends = backends_of(remote, pool).await?;
    let question = format!(
        "This takes all backends of {pool} out of service ({}): new connections of the pool are rejected",
        count(backends.len() as u64, "backend")
    );
    confirm_unless_forced(&args.force, &question, "Drain them?")?;
    // Others may have joined before the answer.
    let backends = backends_of(remote, pool).await?;
    let mut names: HashMap<&str, u32> = HashMap::new();
    backends.iter().for_each(|backend| *names.entry(&backend.name).or_default() += 1);
    // A backend that is leaving may have the name and the address of its successor.
    let mut changed = BTreeSet::new();
    for backend in &backends {
        let named =
            if names[&*backend.name] == 1 { backend.name.to_string() } else { backend.address.to_string() };
        let target = BackendTarget { pool: pool.to_owned(), backend: named };
        if !changed.insert(target.path()) {
            continue;
        }
        let draining = BackendChange::to_state(AdminState::Draining);
        match remote.submit(Method::PATCH, &target.path(), &draining).await {
            Err(error) if error.is_no_such_backend() => {}
            Err(error) => return Err(error.into()),
            Ok(_) if args.wait => {}
            Ok(text) => {
                print_change(remote, &target, &text, args.remote.json)?;
            }
        }
    }
    if !args.wait {
        return Ok(Exit::Done);
    }
    wait_for(args, remote, &Subject::Pool(pool.to_owned()), pool, pool, backends).await
}

/// Waits until the connections of the backends, which drain, have ended.
async fn wait_for(
    args: &DrainArgs,
    remote: &Remote,
    subject: &Subject,
    name: &str,
    pool: &str,
    mut backends: Vec<BackendInfo>,
) -> Result<Exit, Failure> {
    let until = args.timeout.and_then(|time| Instant::now().checked_add(time));
    let mut progress = DrainProgress::new(subject);
    loop {
        // Another backend may have taken a name or an address; one that is missing has left after its last connection.
        let drained: HashSet<_> = backends.iter().map(|backend| (&backend.name, &backend.address)).collect();
        let mut now = backends_of(remote, pool).await?;
        now.retain(|backend| drained.contains(&(&backend.name, &backend.address)));
        backends = now;
        let open: u64 = backends.iter().map(|backend| backend.active).sum();
        if open == 0 {
            break;
        }
        progress.show(remote, &format!("{name}: {}", connections(open))).await;
        wait(until, || format!("{name} still has {}", connections(open))).await?;
    }
    progress.end();
    print_drained(name, args.remote.json)
}

async fn drain_all(args: &DrainArgs, remote: &Remote) -> Result<Exit, Failure> {
    let until = args.timeout.and_then(|time| Instant::now().checked_add(time));
    if !args.yes {
        let status: StatusReply = remote.get(path::STATUS).await?;
        confirm(remote, &status)?;
    }
    let text = remote.send(Method::POST, path::DRAIN).await?;
    if args.remote.json {
        print_json(&text)?;
    } else {
        let begun: DrainReply = remote.read(&text)?;
        let limit =
            humantime::format_duration(Duration::from_secs_f64(begun.timeout_seconds.clamp(0.0, 1e9)));
        print(&format!("draining: {}, with {limit} to finish\n", connections(begun.open)))?;
    }
    if !args.wait {
        return Ok(Exit::Done);
    }
    let mut progress = DrainProgress::new(&Subject::Instance);
    let mut uptime = 0.0;
    loop {
        match remote.get::<StatusReply>(path::STATUS).await {
            // A service manager has started another process.
            Ok(status) if status.uptime_seconds < uptime => break,
            Ok(status) => {
                uptime = status.uptime_seconds;
                progress.show(remote, &connections(status.open)).await;
            }
            Err(Error::Unreachable { .. } | Error::NoAnswer { .. }) => break,
            Err(error) => return Err(error.into()),
        }
        wait(until, || "it has not stopped yet".to_owned()).await?;
    }
    progress.end();
    if args.remote.json { Ok(Exit::Done) } else { print("stopped\n") }
}

/// Asks the operator to confirm the drain of the whole instance.
fn confirm(remote: &Remote, status: &StatusReply) -> Result<(), Failure> {
    let address = remote.address();
    if !terminal::can_ask() {
        return Err(Failure::Invalid(format!(
            "this would drain and stop the whole instance at {address}: confirm with --yes, or name a POOL/BACKEND"
        )));
    }
    let open = connections(status.open);
    terminal::confirm(&format!(
        "Drain the whole instance at {address}? {open}; it stops when they have finished."
    ))
}

/// Waits for [`POLL`]; fails at the deadline.
async fn wait(until: Option<Instant>, what: impl FnOnce() -> String) -> Result<(), Failure> {
    if until.is_some_and(|until| Instant::now() >= until) {
        return Err(Failure::Invalid(format!("timed out: {}", what())));
    }
    sleep(POLL).await;
    Ok(())
}

/// A line on the terminal that is redrawn: the open connections and, once a second, the forecast. Without a terminal
/// nothing is written.
struct DrainProgress {
    /// The path of the forecast.
    forecast: String,
    /// The last forecast, and when it was made.
    last: Option<(Instant, String)>,
    shown: bool,
}

impl DrainProgress {
    fn new(subject: &Subject) -> Self {
        Self { forecast: subject.forecast(), last: None, shown: false }
    }

    /// Shows the forecast, or `words` while there is none.
    async fn show(&mut self, remote: &Remote, words: &str) {
        if !io::stderr().is_terminal() {
            return;
        }
        if self.last.as_ref().is_none_or(|(at, _)| at.elapsed() >= FORECAST_EVERY) {
            let reply = remote.get::<DrainForecastReply>(&self.forecast).await;
            self.last = reply.ok().map(|reply| (Instant::now(), reply.sentence));
        }
        let words = self.last.as_ref().map_or(words, |(_, sentence)| sentence);
        eprint!("\r\x1b[K{}", terminal::clean(words));
        let _ = io::stderr().flush();
        self.shown = true;
    }

    fn end(&mut self) {
        if std::mem::take(&mut self.shown) {
            eprint!("\r\x1b[K");
        }
    }
}

impl Drop for DrainProgress {
    fn drop(&mut self) {
        if self.shown {
            eprintln!();
        }
    }
}
