//! `pointsman drain`: drains one backend, or the whole instance, which then stops. With `--wait` it returns when the drain
//! has ended.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use clap::Args;
use hyper::Method;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::instance::{RemoteArgs, block_on};
use super::operate::{ForceArgs, change, connections, print_change};
use super::{Exit, Failure, print, print_json, terminal};
use crate::api::{BackendChange, BackendInfo, DrainReply, StatusReply, path};
use crate::domain::AdminState;
use crate::remote::{Error, Remote};

/// The interval between two queries of the open connections.
const POLL: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
pub(super) struct DrainArgs {
    /// The backend, by name or address; without it, the whole instance drains and stops
    #[arg(value_name = "POOL/BACKEND")]
    target: Option<String>,
    /// Wait until its connections have ended, or until the whole instance has stopped
    #[arg(long)]
    wait: bool,
    /// The maximum time to wait; exit code 1 if connections are still open then
    #[arg(long, value_name = "DURATION", requires = "wait", value_parser = humantime::parse_duration)]
    timeout: Option<Duration>,
    /// Drain the whole instance without confirmation
    #[arg(long, conflicts_with = "target")]
    yes: bool,
    #[command(flatten)]
    force: ForceArgs,
    #[command(flatten)]
    remote: RemoteArgs,
}

pub(super) fn run(args: &DrainArgs) -> Result<Exit, Failure> {
    let remote = args.remote.remote()?;
    let Some(target) = &args.target else { return drain_all(args, &remote) };
    let until = args.timeout.and_then(|time| Instant::now().checked_add(time));
    block_on(async {
        let draining = BackendChange::to_state(AdminState::Draining);
        let (target, text) = change(&remote, target, draining, &args.force).await?;
        if !args.wait {
            return print_change(&remote, &target, &text, args.remote.json);
        }
        let mut backend: BackendInfo = remote.read(&text)?;
        let name = format!("{}/{}", target.pool, backend.name);
        let mut progress = DrainProgress::default();
        while backend.active > 0 {
            progress.show(&format!("{name}: {}", connections(backend.active)));
            wait(until, || format!("{name} still has {}", connections(backend.active))).await?;
            let status: StatusReply = remote.get(path::STATUS).await?;
            let pool = status.pools.into_iter().find(|pool| *pool.name == *target.pool);
            let mut backends = pool.into_iter().flat_map(|pool| pool.backends);
            // Another backend may have taken its name or its address.
            let same = |other: &BackendInfo| other.name == backend.name && other.address == backend.address;
            match backends.find(same) {
                Some(now) => backend = now,
                None => break, // it leaves after its last connection
            }
        }
        progress.end();
        let was = if args.remote.json {
            json!({"drained": name}).to_string()
        } else {
            terminal::clean(&format!("{name} is drained"))
        };
        print(&format!("{was}\n"))
    })
}

fn drain_all(args: &DrainArgs, remote: &Remote) -> Result<Exit, Failure> {
    let until = args.timeout.and_then(|time| Instant::now().checked_add(time));
    block_on(async {
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
        let mut progress = DrainProgress::default();
        let mut uptime = 0.0;
        loop {
            match remote.get::<StatusReply>(path::STATUS).await {
                // A service manager has started another process.
                Ok(status) if status.uptime_seconds < uptime => break,
                Ok(status) => {
                    uptime = status.uptime_seconds;
                    progress.show(&connections(status.open));
                }
                Err(Error::Unreachable { .. } | Error::NoAnswer { .. }) => break,
                Err(error) => return Err(error.into()),
            }
            wait(until, || "it has not stopped yet".to_owned()).await?;
        }
        progress.end();
        if args.remote.json { Ok(Exit::Done) } else { print("stopped\n") }
    })
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

/// A line on the terminal that is redrawn; without a terminal nothing is written.
#[derive(Default)]
struct DrainProgress {
    last: Option<String>,
}

impl DrainProgress {
    fn show(&mut self, words: &str) {
        if !io::stderr().is_terminal() || self.last.as_deref() == Some(words) {
            return;
        }
        eprint!("\r\x1b[K{}", terminal::clean(words));
        let _ = io::stderr().flush();
        self.last = Some(words.to_owned());
    }

    fn end(&mut self) {
        if self.last.take().is_some() {
            eprint!("\r\x1b[K");
        }
    }
}

impl Drop for DrainProgress {
    fn drop(&mut self) {
        if self.last.is_some() {
            eprintln!();
        }
    }
}
