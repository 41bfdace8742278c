//! The commands that change a running instance: `maintenance`, `up`, `weight`, `recheck`, `reload`.

use clap::Args;
use hyper::Method;

use super::instance::{RemoteArgs, block_on};
use super::target::BackendTarget;
use super::{Exit, Failure, print, print_json, terminal};
use crate::api::{BackendChange, BackendInfo, CheckReply, CheckRequest, ReloadReply, StatusReply, path};
use crate::domain::AdminState;
use crate::remote::Remote;

#[derive(Debug, Args)]
pub(super) struct TargetArgs {
    /// The backend, by name or address
    #[arg(value_name = "POOL/BACKEND")]
    target: String,
    #[command(flatten)]
    remote: RemoteArgs,
}

#[derive(Debug, Args)]
pub(super) struct MaintenanceArgs {
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    force: ForceArgs,
}

/// Whether the last eligible backend of a pool may be taken out.
#[derive(Debug, Args)]
pub(super) struct ForceArgs {
    /// Do it without confirmation, even if it is the last eligible backend of its pool
    #[arg(long)]
    pub(super) force: bool,
}

#[derive(Debug, Args)]
pub(super) struct WeightArgs {
    /// The backend, by name or address
    #[arg(value_name = "POOL/BACKEND")]
    target: String,
    /// The weight, from 0 (no new connections) to 256
    #[arg(value_name = "N")]
    weight: u32,
    #[command(flatten)]
    force: ForceArgs,
    #[command(flatten)]
    remote: RemoteArgs,
}

#[derive(Debug, Args)]
pub(super) struct RecheckArgs {
    /// A pool, or one backend of it; without it, all are checked
    #[arg(value_name = "POOL[/BACKEND]")]
    target: Option<String>,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// Changes a backend; returns it and the response, its new status as JSON. Before it takes out the last eligible backend
/// of a pool, it asks; without a terminal that is an error.
pub(super) async fn change(
    remote: &Remote,
    written: &str,
    change: BackendChange,
    force: &ForceArgs,
) -> Result<(BackendTarget, String), Failure> {
    let target = BackendTarget::find(written, &remote.get(path::STATUS).await?)?;
    let path = target.path();
    let first = if force.force { change } else { change.careful() };
    match remote.submit(Method::PATCH, &path, &first).await {
        Err(error) if error.is_last_eligible() && terminal::can_ask() => {
            terminal::confirm(&format!("{}. Take it out?", error.message()))?;
            let text = remote.submit(Method::PATCH, &path, &change).await?;
            Ok((target, text))
        }
        changed => Ok((target, changed?)),
    }
}

pub(super) fn print_change(
    remote: &Remote,
    target: &BackendTarget,
    text: &str,
    json: bool,
) -> Result<Exit, Failure> {
    if json {
        return print_json(text);
    }
    let backend: BackendInfo = remote.read(text)?;
    let (pool, name) = (&target.pool, &backend.name);
    let (state, cause) = (backend.state_name(), &backend.cause);
    let open = connections(backend.active);
    print(&terminal::clean(&format!(
        "{pool}/{name} is {state}, weight {}, {open}: {cause}",
        backend.weight
    )))?;
    print("\n")
}

/// The number of open connections as text.
pub(super) fn connections(number: u64) -> String {
    format!("{number} connection{} open", if number == 1 { "" } else { "s" })
}

pub(super) fn maintenance(args: &MaintenanceArgs) -> Result<Exit, Failure> {
    let wanted = BackendChange::to_state(AdminState::Maintenance);
    change_and_print(&args.target.remote, &args.target.target, wanted, &args.force)
}

pub(super) fn up(args: &TargetArgs) -> Result<Exit, Failure> {
    let wanted = BackendChange::to_state(AdminState::Up);
    change_and_print(&args.remote, &args.target, wanted, &ForceArgs { force: false })
}

pub(super) fn weight(args: &WeightArgs) -> Result<Exit, Failure> {
    change_and_print(&args.remote, &args.target, BackendChange::to_weight(args.weight), &args.force)
}

fn change_and_print(
    args: &RemoteArgs,
    target: &str,
    wanted: BackendChange,
    force: &ForceArgs,
) -> Result<Exit, Failure> {
    let remote = args.remote()?;
    let (target, text) = block_on(change(&remote, target, wanted, force))?;
    print_change(&remote, &target, &text, args.json)
}

pub(super) fn recheck(args: &RecheckArgs) -> Result<Exit, Failure> {
    let remote = args.remote.remote()?;
    let text = block_on(async {
        let body = match &args.target {
            None => CheckRequest::default(),
            Some(written) => {
                let status: StatusReply = remote.get(path::STATUS).await?;
                if status.pools.iter().any(|pool| *pool.name == *written) {
                    CheckRequest { pool: Some(written.clone()), backend: None }
                } else {
                    let target = BackendTarget::find(written, &status)?;
                    CheckRequest { pool: Some(target.pool), backend: Some(target.backend) }
                }
            }
        };
        Ok(remote.submit(Method::POST, path::CHECK, &body).await?)
    })?;
    if args.remote.json {
        return print_json(&text);
    }
    let checked: CheckReply = remote.read(&text)?;
    let mut lines = String::new();
    for backend in &checked.backends {
        let result = match &backend.last_check {
            None => "never checked".to_owned(),
            Some(check) if check.passed => {
                format!("{} passed in {} ms", check.kind, terminal::millis(check.took_ms))
            }
            Some(check) => {
                format!("{} failed: {}", check.kind, check.error.as_deref().unwrap_or("no reason"))
            }
        };
        let line = format!("{} is {}: {result}", backend.name, backend.state_name());
        lines.push_str(&terminal::clean(&line));
        lines.push('\n');
    }
    if checked.pending > 0 {
        let words =
            format!("{} have checks that are still running: see `pointsman status`\n", checked.pending);
        lines.push_str(&words);
    }
    print(if lines.is_empty() { "no backends to check\n" } else { &lines })
}

pub(super) fn reload(args: &RemoteArgs) -> Result<Exit, Failure> {
    let remote = args.remote()?;
    let text = block_on(async { Ok(remote.send(Method::POST, path::RELOAD).await?) })?;
    if args.json {
        return print_json(&text);
    }
    let applied: ReloadReply = remote.read(&text)?;
    let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    let mut words = format!(
        "the configuration is applied: {}, {}\n",
        count(applied.listeners, "listener"),
        count(applied.pools, "pool")
    );
    if !applied.restart.is_empty() {
        let parts = terminal::clean(&applied.restart.join(", "));
        words.push_str(&format!("takes effect after a restart only: {parts}\n"));
    }
    print(&words)
}
