//! What an operator tells a running instance: `maintenance`, `up`, `weight`, `recheck`, `reload`.

use clap::Args;
use hyper::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::instance::{RemoteArgs, block_on};
use super::reply::{Backend, Status};
use super::target::Target;
use super::{Exit, Failure, look, print, print_json};
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
pub(super) struct WeightArgs {
    /// The backend, by name or address
    #[arg(value_name = "POOL/BACKEND")]
    target: String,
    /// Its share, from 0 (nobody new) to 256
    #[arg(value_name = "N")]
    weight: u32,
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

/// Makes a change of a backend; what it is then, as it came.
pub(super) async fn change(
    remote: &Remote,
    written: &str,
    change: &Value,
) -> Result<(Target, String), Failure> {
    let target = Target::find(written, &remote.get("/api/v1/status").await?)?;
    let text = remote.send(Method::PATCH, &target.path(), Some(change)).await?;
    Ok((target, text))
}

pub(super) fn print_change(
    remote: &Remote,
    target: &Target,
    text: &str,
    json: bool,
) -> Result<Exit, Failure> {
    if json {
        return print_json(text);
    }
    let backend: Backend = remote.read(text)?;
    let (pool, name) = (&target.pool, &backend.name);
    let (state, cause) = (backend.state_name(), &backend.cause);
    let open = connections(backend.active);
    print(&look::clean(&format!("{pool}/{name} is {state}, weight {}, {open}: {cause}", backend.weight)))?;
    print("\n")
}

/// So many, in words.
pub(super) fn connections(number: u64) -> String {
    format!("{number} connection{} open", if number == 1 { "" } else { "s" })
}

/// Takes a backend out, or back in.
pub(super) fn be(args: &TargetArgs, state: &'static str) -> Result<Exit, Failure> {
    let remote = args.remote.remote()?;
    let wanted = json!({"state": state});
    let (target, text) = block_on(change(&remote, &args.target, &wanted))?;
    print_change(&remote, &target, &text, args.remote.json)
}

pub(super) fn weight(args: &WeightArgs) -> Result<Exit, Failure> {
    let remote = args.remote.remote()?;
    let wanted = json!({"weight": args.weight});
    let (target, text) = block_on(change(&remote, &args.target, &wanted))?;
    print_change(&remote, &target, &text, args.remote.json)
}

/// What the server says when it has checked.
#[derive(Deserialize)]
struct Checked {
    backends: Vec<Backend>,
    /// How many of them have checks that have not ended.
    #[serde(default)]
    pending: u64,
}

pub(super) fn recheck(args: &RecheckArgs) -> Result<Exit, Failure> {
    let remote = args.remote.remote()?;
    let text = block_on(async {
        let body = match &args.target {
            None => json!({}),
            Some(written) => {
                let status: Status = remote.get("/api/v1/status").await?;
                if status.pools.iter().any(|pool| pool.name == *written) {
                    json!({"pool": written})
                } else {
                    let target = Target::find(written, &status)?;
                    json!({"pool": target.pool, "backend": target.backend})
                }
            }
        };
        Ok(remote.send(Method::POST, "/api/v1/check", Some(&body)).await?)
    })?;
    if args.remote.json {
        return print_json(&text);
    }
    let checked: Checked = remote.read(&text)?;
    let mut lines = String::new();
    for backend in &checked.backends {
        let result = match &backend.last_check {
            None => "never checked".to_owned(),
            Some(check) if check.passed => {
                format!("{} passed in {} ms", check.kind, look::millis(check.took_ms))
            }
            Some(check) => {
                format!("{} failed: {}", check.kind, check.error.as_deref().unwrap_or("no reason"))
            }
        };
        let line = format!("{} is {}: {result}", backend.name, backend.state_name());
        lines.push_str(&look::clean(&line));
        lines.push('\n');
    }
    if checked.pending > 0 {
        let words =
            format!("{} have checks that have not ended yet: see `pointsman status`\n", checked.pending);
        lines.push_str(&words);
    }
    print(if lines.is_empty() { "there is nothing to check\n" } else { &lines })
}

/// What the server says when it has read its configuration again.
#[derive(Deserialize)]
struct Reloaded {
    listeners: usize,
    pools: usize,
    #[serde(default)]
    restart: Vec<String>,
}

pub(super) fn reload(args: &RemoteArgs) -> Result<Exit, Failure> {
    let remote = args.remote()?;
    let text = block_on(async { Ok(remote.send(Method::POST, "/api/v1/reload", None).await?) })?;
    if args.json {
        return print_json(&text);
    }
    let applied: Reloaded = remote.read(&text)?;
    let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    let mut words = format!(
        "the configuration is applied: {}, {}\n",
        count(applied.listeners, "listener"),
        count(applied.pools, "pool")
    );
    if !applied.restart.is_empty() {
        let parts = look::clean(&applied.restart.join(", "));
        words.push_str(&format!("takes effect after a restart only: {parts}\n"));
    }
    print(&words)
}
