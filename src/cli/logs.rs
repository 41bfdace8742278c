//! `pointsman logs`: the log of a running instance, read through its admin server.

use std::borrow::Cow;
use std::ops::ControlFlow;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::instance::{RemoteArgs, block_on};
use super::{Exit, Failure, print, print_on, terminal};
use crate::api::{Skipped, path};
use crate::remote::{Event, Remote};
use crate::sanitize;
use crate::telemetry::log_fields;

/// More than the server keeps.
const ALL: usize = 1_000_000;
/// Time without data after which the connection is closed; the server sends a keepalive every 15 s.
const IDLE_TIMEOUT: Duration = Duration::from_secs(40);
/// Pause before a reconnect.
const RECONNECT_DELAY: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(super) struct LogsArgs {
    /// Follow the log
    #[arg(short, long)]
    follow: bool,
    /// How many of the last lines to print; the instance keeps 256 KiB of lines
    #[arg(short = 'n', long, value_name = "NUMBER", default_value_t = 100)]
    lines: usize,
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// Which lines to print.
#[derive(Debug, Default, Args)]
struct Filter {
    /// Only lines about this pool
    #[arg(long, value_name = "NAME")]
    pool: Option<String>,
    /// Only lines about this backend
    #[arg(long, value_name = "NAME")]
    backend: Option<String>,
    /// Only lines about this client: ADDRESS or ADDRESS:PORT
    #[arg(long, value_name = "ADDRESS", value_parser = client)]
    client: Option<String>,
}

impl Filter {
    fn is_empty(&self) -> bool {
        self.pool.is_none() && self.backend.is_none() && self.client.is_none()
    }

    fn matches(&self, line: &str) -> bool {
        let json: Option<Value> = if line.starts_with('{') { serde_json::from_str(line).ok() } else { None };
        let has = |field: &str, wanted: &Option<String>, ends: &[char]| {
            let Some(wanted) = wanted else { return true };
            let is = |value: &str| {
                value.strip_prefix(&**wanted).is_some_and(|rest| rest.is_empty() || rest.starts_with(ends))
            };
            match &json {
                Some(json) => json[field].as_str().is_some_and(is),
                None => fields(line).any(|(name, value)| name == field && is(&value)),
            }
        };
        // The client's port may be left out.
        has("pool", &self.pool, &[])
            && has("backend", &self.backend, &[])
            && has("client", &self.client, &[':'])
    }
}

/// The fields of a line in the text format: names and values.
fn fields(line: &str) -> impl Iterator<Item = (&str, Cow<'_, str>)> {
    let mut rest = line;
    std::iter::from_fn(move || {
        loop {
            // A word of the message, or a name up to its equals sign.
            let end = rest.find([' ', '=', '"'])?;
            let (word, after) = rest.split_at(end);
            if let Some(after) = after.strip_prefix('=') {
                let (value, after) = log_fields::value(after);
                rest = after;
                return Some((word, value));
            }
            rest = if after.starts_with('"') { log_fields::value(after).1 } else { &after[1..] };
        }
    })
}

/// A client's address as it is logged: IPv6 in brackets.
fn client(text: &str) -> Result<String, String> {
    Ok(if text.parse::<std::net::Ipv6Addr>().is_ok() { format!("[{text}]") } else { text.to_owned() })
}

pub(super) fn run(args: &LogsArgs) -> Result<Exit, Failure> {
    let remote = args.remote.remote()?;
    // The filter is applied here, so the server must send all lines.
    let number = if args.filter.is_empty() { args.lines } else { ALL };
    block_on(async {
        let mut events = remote.follow(&format!("{}?lines={number}", path::LOGS), None, IDLE_TIMEOUT).await?;
        let (mut last, mut seen) = (Vec::new(), "0".to_owned());
        while let Some(event) = events.next().await? {
            last.extend(args.shown(&event));
            seen = event.id.unwrap_or(seen);
        }
        drop(events);
        print(&last[last.len().saturating_sub(args.lines)..].concat())?;
        if !args.follow {
            return Ok(Exit::Done);
        }
        loop {
            match follow(args, &remote, &mut seen).await {
                Ok(ControlFlow::Break(())) => return Ok(Exit::Done),
                Ok(ControlFlow::Continue(())) => {}
                Err(Failure::Remote(error)) => eprintln!("({})", terminal::clean(&error.to_string())),
                Err(other) => return Err(other),
            }
            sleep(RECONNECT_DELAY).await;
        }
    })
}

/// Prints the lines after number `seen`, until the connection is lost or the reader closes standard output.
async fn follow(args: &LogsArgs, remote: &Remote, seen: &mut String) -> Result<ControlFlow<()>, Failure> {
    let mut events = remote.follow(&format!("{}?follow=true", path::LOGS), Some(seen), IDLE_TIMEOUT).await?;
    while let Some(event) = events.next().await? {
        if let Some(line) = args.shown(&event)
            && !print_on(&line)?
        {
            return Ok(ControlFlow::Break(()));
        }
        *seen = event.id.unwrap_or_else(|| std::mem::take(seen));
    }
    Ok(ControlFlow::Continue(()))
}

impl LogsArgs {
    /// The line to print for an event.
    fn shown(&self, event: &Event) -> Option<String> {
        match &*event.kind {
            "line" if !self.filter.matches(&event.data) => None,
            "line" if self.remote.json && !event.data.starts_with('{') => {
                Some(format!("{}\n", json!({"line": event.data})))
            }
            "line" if event.data.starts_with('{') => Some(format!("{}\n", sanitize::json(&event.data))),
            "line" => Some(format!("{}\n", terminal::clean(&event.data))),
            "skipped" => {
                let Skipped { lines } = serde_json::from_str(&event.data).unwrap_or_default();
                eprintln!("({lines} lines skipped: they arrive faster than they can be printed)");
                None
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pool: Option<&str>, backend: Option<&str>, from: Option<&str>, line: &str) -> bool {
        let text = |text: Option<&str>| text.map(str::to_owned);
        let from = from.map(|from| client(from).unwrap());
        Filter { pool: text(pool), backend: text(backend), client: from }.matches(line)
    }

    #[test]
    fn a_filter_matches_the_fields_of_both_formats() {
        let line = "12:00Z  INFO routed conn=7 client=10.0.0.1:4000 listener=web pool=web backend=\"my b\" skipped=\"pool=db backend=c\" address=[::1]:80";
        let json = r#"{"message": "routed", "conn": 7, "client": "10.0.0.1:4000", "pool": "web", "backend": "my b"}"#;
        for line in [line, json] {
            for (pool, backend, from, wanted) in [
                (None, None, None, true),
                (Some("web"), Some("my b"), Some("10.0.0.1"), true),
                (Some("we"), None, None, false),
                (Some("web2"), None, None, false),
                (None, Some("b"), None, false),
                (None, None, Some("10.0.0.1:4000"), true),
                (None, None, Some("10.0.0.1:400"), false),
                (None, None, Some("10.0.0.11"), false),
                (Some("web"), Some("c"), None, false),
            ] {
                assert_eq!(
                    matches(pool, backend, from, line),
                    wanted,
                    "{pool:?} {backend:?} {from:?} {line}"
                );
            }
        }
        assert!(matches(None, None, Some("::1"), "routed client=[::1]:4000 pool=web"));
        assert!(matches(None, None, Some("[::1]:4000"), "routed client=[::1]:4000 pool=web"));
        assert!(!matches(None, None, Some("::1"), "routed client=[::11]:4000"));
    }
}
