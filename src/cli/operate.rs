//! What an operator tells a running instance: `drain`, `maintenance`, `up`, `weight`, `recheck`, `reload`.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use clap::Args;
use hyper::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::instance::{RemoteArgs, block_on};
use super::reply::{Backend, Status};
use super::{Exit, Failure, look, print};
use crate::remote::{Error, Remote, encode};

/// How often it is looked whether the connections are gone.
const LOOK: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
pub(super) struct DrainArgs {
    /// The backend, by name or address; without it, the whole instance is drained, and ends
    #[arg(value_name = "POOL/BACKEND")]
    target: Option<String>,
    /// Wait until its connections are gone; of a whole instance: until it has ended
    #[arg(long)]
    wait: bool,
    /// Wait so long at most; what is left then is code 1
    #[arg(long, value_name = "DURATION", requires = "wait", value_parser = humantime::parse_duration)]
    timeout: Option<Duration>,
    /// Do not ask whether the whole instance is meant
    #[arg(long, conflicts_with = "target")]
    yes: bool,
    #[command(flatten)]
    remote: RemoteArgs,
}

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

/// A backend, as it is called in a path of the API.
pub(super) struct Target {
    pub(super) pool: String,
    pub(super) backend: String,
}

impl Target {
    /// Finds who is meant: names may have slashes in them, and a backend's name alone will do if only one has it.
    pub(super) fn find(written: &str, status: &Status) -> Result<Self, Failure> {
        let is = |backend: &Backend, name: &str| backend.name == name || backend.address == name;
        let named = |pool: &str, backend: &str| Self { pool: pool.to_owned(), backend: backend.to_owned() };
        for pool in &status.pools {
            let rest = written.strip_prefix(&*pool.name).and_then(|rest| rest.strip_prefix('/'));
            if let Some(rest) = rest.filter(|rest| pool.backends.iter().any(|backend| is(backend, rest))) {
                return Ok(named(&pool.name, rest));
            }
        }
        let mut alone = status.pools.iter().filter(|pool| pool.backends.iter().any(|b| is(b, written)));
        match (alone.next(), alone.next()) {
            (Some(pool), None) => return Ok(named(&pool.name, written)),
            (Some(one), Some(other)) => {
                return Err(Failure::Invalid(format!(
                    "several pools have a backend {written:?}: say {}/{written} or {}/{written}",
                    one.name, other.name
                )));
            }
            (None, _) => {}
        }
        // Nobody is: the server says best who there is.
        match written.split_once('/') {
            Some((pool, backend)) if !pool.is_empty() && !backend.is_empty() => Ok(named(pool, backend)),
            _ => {
                let mut known = Vec::new();
                for pool in &status.pools {
                    known.extend(
                        pool.backends.iter().map(|backend| format!("{}/{}", pool.name, backend.name)),
                    );
                }
                let more = if known.len() > 8 { ", …" } else { "" };
                let known = if known.is_empty() {
                    "there is none".to_owned()
                } else {
                    format!("there is {}{more}", known[..known.len().min(8)].join(", "))
                };
                Err(Failure::Invalid(format!("no backend is called {written:?}: say POOL/BACKEND; {known}")))
            }
        }
    }

    pub(super) fn path(&self) -> String {
        format!("/api/v1/pools/{}/backends/{}", encode(&self.pool), encode(&self.backend))
    }
}

/// Makes a change of a backend; what it is then, as it came.
async fn change(remote: &Remote, written: &str, change: &Value) -> Result<(Target, String), Failure> {
    let target = Target::find(written, &remote.get("/api/v1/status").await?)?;
    let text = remote.send(Method::PATCH, &target.path(), Some(change)).await?;
    Ok((target, text))
}

fn print_change(remote: &Remote, target: &Target, text: &str, json: bool) -> Result<Exit, Failure> {
    if json {
        return print(&format!("{}\n", text.trim_end()));
    }
    let backend: Backend = remote.read(text)?;
    let (pool, name) = (&target.pool, &backend.name);
    let (state, cause) = (backend.state_name(), &backend.cause);
    let open = connections(backend.active);
    print(&look::clean(&format!("{pool}/{name} is {state}, weight {}, {open}: {cause}", backend.weight)))?;
    print("\n")
}

fn connections(number: u64) -> String {
    format!("{number} connection{} open", if number == 1 { "" } else { "s" })
}

pub(super) fn drain(args: &DrainArgs) -> Result<Exit, Failure> {
    let remote = args.remote.remote()?;
    let Some(target) = &args.target else { return drain_all(args, &remote) };
    let until = args.timeout.and_then(|time| Instant::now().checked_add(time));
    block_on(async {
        let (target, text) = change(&remote, target, &json!({"state": "draining"})).await?;
        if !args.wait {
            return print_change(&remote, &target, &text, args.remote.json);
        }
        let mut backend: Backend = remote.read(&text)?;
        let name = format!("{}/{}", target.pool, backend.name);
        let mut told = Progress::default();
        while backend.active > 0 {
            told.tell(&format!("{name}: {}", connections(backend.active)));
            wait(until, || format!("{name} still has {}", connections(backend.active))).await?;
            let status: Status = remote.get("/api/v1/status").await?;
            let pool = status.pools.into_iter().find(|pool| pool.name == target.pool);
            let mut backends = pool.into_iter().flat_map(|pool| pool.backends);
            // The same one: by now another may have its name, or its address.
            let same = |other: &Backend| other.name == backend.name && other.address == backend.address;
            match backends.find(same) {
                Some(now) => backend = now,
                None => break, // it has left, which it does when it has none
            }
        }
        told.end();
        let was = if args.remote.json {
            json!({"drained": name}).to_string()
        } else {
            format!("{name} is drained")
        };
        print(&format!("{was}\n"))
    })
}

/// What the server says when it begins to drain.
#[derive(Deserialize)]
struct Draining {
    open: u64,
    timeout_seconds: f64,
}

fn drain_all(args: &DrainArgs, remote: &Remote) -> Result<Exit, Failure> {
    let until = args.timeout.and_then(|time| Instant::now().checked_add(time));
    block_on(async {
        if !args.yes {
            let status: Status = remote.get("/api/v1/status").await?;
            confirm(remote, &status)?;
        }
        let text = remote.send(Method::POST, "/api/v1/drain", None).await?;
        if args.remote.json {
            print(&format!("{}\n", text.trim_end()))?;
        } else {
            let begun: Draining = remote.read(&text)?;
            let limit =
                humantime::format_duration(Duration::from_secs_f64(begun.timeout_seconds.clamp(0.0, 1e9)));
            print(&format!("draining: {}, with {limit} to finish\n", connections(begun.open)))?;
        }
        if !args.wait {
            return Ok(Exit::Done);
        }
        let mut told = Progress::default();
        let mut uptime = 0.0;
        loop {
            match remote.get::<Status>("/api/v1/status").await {
                // Whoever looks after the process has started another one.
                Ok(status) if status.uptime_seconds < uptime => break,
                Ok(status) => {
                    uptime = status.uptime_seconds;
                    told.tell(&connections(status.open()));
                }
                Err(Error::Unreachable { .. } | Error::NoAnswer { .. }) => break,
                Err(error) => return Err(error.into()),
            }
            wait(until, || "it has not ended yet".to_owned()).await?;
        }
        told.end();
        if args.remote.json { Ok(Exit::Done) } else { print("it has ended\n") }
    })
}

/// Asks a person whether the whole instance is meant.
fn confirm(remote: &Remote, status: &Status) -> Result<(), Failure> {
    let address = remote.address();
    if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
        return Err(Failure::Invalid(format!(
            "this would drain the whole instance at {address}, and end it: say --yes if that is meant, or name a POOL/BACKEND"
        )));
    }
    eprint!(
        "Drain the whole instance at {address}? {}; it ends when they are done. [y/N] ",
        connections(status.open())
    );
    let mut answer = String::new();
    let _ = io::stdin().read_line(&mut answer);
    if matches!(answer.trim(), "y" | "Y" | "yes") {
        return Ok(());
    }
    Err(Failure::Invalid("nothing was done".to_owned()))
}

/// Waits a little, as long as there is time.
async fn wait(until: Option<Instant>, what: impl FnOnce() -> String) -> Result<(), Failure> {
    if until.is_some_and(|until| Instant::now() >= until) {
        return Err(Failure::Invalid(format!("the time is over: {}", what())));
    }
    sleep(LOOK).await;
    Ok(())
}

/// One line on the terminal that is written over again and again; nothing if there is no terminal.
#[derive(Default)]
struct Progress {
    last: Option<String>,
}

impl Progress {
    fn tell(&mut self, words: &str) {
        if !io::stderr().is_terminal() || self.last.as_deref() == Some(words) {
            return;
        }
        eprint!("\r\x1b[K{}", look::clean(words));
        let _ = io::stderr().flush();
        self.last = Some(words.to_owned());
    }

    fn end(&mut self) {
        if self.last.take().is_some() {
            eprint!("\r\x1b[K");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.last.is_some() {
            eprintln!();
        }
    }
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
        return print(&format!("{}\n", text.trim_end()));
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
        return print(&format!("{}\n", text.trim_end()));
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

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> Status {
        let text = r#"{"pools": [
            {"name": "web", "backends": [{"name": "a", "address": "10.0.0.1:80"}, {"name": "x/y z", "address": "10.0.0.2:80"}]},
            {"name": "web/x", "backends": [{"name": "y", "address": "10.0.0.3:80"}, {"name": "a", "address": "10.0.0.4:80"}]}]}"#;
        serde_json::from_str(text).unwrap()
    }

    fn found(written: &str) -> Result<String, String> {
        Target::find(written, &status()).map(|target| target.path()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_backend_is_found_however_it_is_called() {
        for (written, path) in [
            ("web/a", "/api/v1/pools/web/backends/a"),
            ("web/x/y z", "/api/v1/pools/web/backends/x%2Fy%20z"),
            ("web/x/y", "/api/v1/pools/web%2Fx/backends/y"),
            ("web/10.0.0.1:80", "/api/v1/pools/web/backends/10.0.0.1%3A80"),
            ("10.0.0.3:80", "/api/v1/pools/web%2Fx/backends/10.0.0.3%3A80"),
            ("y", "/api/v1/pools/web%2Fx/backends/y"),
            // The server says what is wrong with these.
            ("web/b", "/api/v1/pools/web/backends/b"),
            ("wob/a", "/api/v1/pools/wob/backends/a"),
        ] {
            assert_eq!(found(written).as_deref(), Ok(path), "{written}");
        }
        assert!(found("a").unwrap_err().contains("web/a or web/x/a"));
        for wrong in ["", "nobody", "/", "web/"] {
            assert!(found(wrong).unwrap_err().contains("POOL/BACKEND"), "{wrong}");
        }
    }
}
