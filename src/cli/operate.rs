//! The commands that change a running instance: `maintenance`, `up`, `weight`, `recheck`, `reload`.

use clap::Args;
use hyper::Method;

use super::instance::{RemoteArgs, block_on};
use super::target::{BackendTarget, listener_path};
use super::{Exit, Failure, print, print_json, terminal};
use crate::api::{
    BackendChange, BackendInfo, CheckReply, CheckRequest, ListenerChange, ListenerInfo, ReloadPlanReply,
    ReloadReply, StatusReply, Word, path,
};
use crate::domain::{AdminState, ListenerState};
use crate::humanize::count;
use crate::names;
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
pub(super) struct UpArgs {
    /// The backend, by name or address
    #[arg(value_name = "POOL/BACKEND", required_unless_present = "listener")]
    target: Option<String>,
    /// The listener, after `pointsman drain --listener`
    #[arg(long, value_name = "LISTENER", conflicts_with = "target")]
    listener: Option<String>,
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

#[derive(Debug, Args)]
pub(super) struct ReloadArgs {
    /// Change nothing; print what a reload would change, and what happens to the open connections
    #[arg(long)]
    plan: bool,
    /// Apply the configuration before the last reload again; the file stays as it is
    #[arg(long, conflicts_with = "plan")]
    undo: bool,
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

pub(super) fn up(args: &UpArgs) -> Result<Exit, Failure> {
    if let Some(listener) = &args.listener {
        let remote = args.remote.remote()?;
        let text = block_on(change_listener(&remote, listener, ListenerState::Up))?;
        return print_listener(&remote, &text, args.remote.json);
    }
    let target = args.target.as_deref().unwrap_or_default(); // clap requires one of both
    let wanted = BackendChange::to_state(AdminState::Up);
    change_and_print(&args.remote, target, wanted, &ForceArgs { force: false })
}

/// Drains a listener, or takes that back; returns its new status as JSON.
pub(super) async fn change_listener(
    remote: &Remote,
    listener: &str,
    state: ListenerState,
) -> Result<String, Failure> {
    Ok(remote.submit(Method::PATCH, &listener_path(listener), &ListenerChange { state }).await?)
}

pub(super) fn print_listener(remote: &Remote, text: &str, json: bool) -> Result<Exit, Failure> {
    if json {
        return print_json(text);
    }
    let listener: ListenerInfo = remote.read(text)?;
    let open = connections(listener.active);
    print(&terminal::clean(&format!("{} is {}, {open}", listener.name, listener.state)))?;
    print("\n")
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

pub(super) fn reload(args: &ReloadArgs) -> Result<Exit, Failure> {
    let remote = args.remote.remote()?;
    let path = match (args.plan, args.undo) {
        (true, _) => path::RELOAD_PLAN,
        (_, true) => path::RELOAD_UNDO,
        (false, false) => path::RELOAD,
    };
    let text = block_on(async { Ok(remote.send(Method::POST, path).await?) })?;
    if args.remote.json {
        return print_json(&text);
    }
    if args.plan {
        return print(&plan_in_words(&remote.read(&text)?));
    }
    let applied: ReloadReply = remote.read(&text)?;
    let mut words = format!(
        "the configuration {}is applied: {}, {}\n",
        if args.undo { "before the last reload " } else { "" },
        count(applied.listeners as u64, "listener"),
        count(applied.pools as u64, "pool")
    );
    words.push_str(&after_restart(&applied.restart));
    if args.undo {
        words.push_str("the file stays as it is, and the next reload applies it\n");
    }
    print(&words)
}

/// The changed parts that take effect after a restart, as a line; empty if there are none.
fn after_restart(parts: &[Word]) -> String {
    if parts.is_empty() {
        return String::new();
    }
    format!("takes effect after a restart only: {}\n", terminal::clean(&parts.join(", ")))
}

/// The longest value that is shown whole.
const LONGEST_VALUE: usize = 60;

fn plan_in_words(plan: &ReloadPlanReply) -> String {
    let value = |value: &Option<String>| match value {
        None => "(absent)".to_owned(),
        Some(value) => names::shortened(&terminal::clean(value), LONGEST_VALUE).into_owned(),
    };
    let mut words = String::new();
    for change in &plan.changes {
        words.push_str(&terminal::clean(&format!("{} {}", change.part, change.change)));
        if !change.effect.is_empty() {
            words.push_str(&terminal::clean(&format!(": {}", change.effect)));
        }
        words.push('\n');
        for key in &change.keys {
            let (key, before, after) = (terminal::clean(&key.key), value(&key.before), value(&key.after));
            words.push_str(&format!("  {key}: {before} → {after}\n"));
        }
    }
    words.push_str(&after_restart(&plan.restart));
    if plan.changes.is_empty() { "a reload would change nothing\n".to_owned() } else { words }
}
