//! `pointsman connections` and `close`: the open connections of a running instance, and the end of one.

use clap::Args;
use hyper::Method;
use serde::Deserialize;

use super::instance::{RemoteArgs, block_on};
use super::status::{TextTable, colours};
use super::{Exit, Failure, print, print_json, terminal};
use crate::remote::encode;

#[derive(Debug, Args)]
pub(super) struct ConnectionsArgs {
    /// Only those of this pool
    #[arg(long, value_name = "NAME")]
    pool: Option<String>,
    /// Only those to this backend, by name or address
    #[arg(long, value_name = "NAME")]
    backend: Option<String>,
    /// Only those from this client: ADDRESS or ADDRESS:PORT
    #[arg(long, value_name = "ADDRESS")]
    client: Option<String>,
    /// So many at most, the oldest first
    #[arg(short = 'n', long, value_name = "NUMBER", default_value_t = 100)]
    limit: u32,
    #[command(flatten)]
    remote: RemoteArgs,
}

#[derive(Debug, Args)]
pub(super) struct CloseArgs {
    /// The connection's number, as in the log and in `pointsman connections`
    #[arg(value_name = "CONN")]
    conn: u64,
    /// With a TCP reset, so that a truncated stream does not look complete (the default)
    #[arg(long, conflicts_with = "fin")]
    reset: bool,
    /// With a FIN instead of a reset, as if the other side had finished
    #[arg(long)]
    fin: bool,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// `/api/v1/connections`, as far as it is shown.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Connections {
    connections: Vec<OpenConnection>,
    total: Option<u64>,
}

/// An open connection.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct OpenConnection {
    conn: u64,
    client: String,
    listener: String,
    pool: String,
    backend: Option<String>,
    age_ms: f64,
    bytes_in: u64,
    bytes_out: u64,
}

impl Connections {
    fn table(&self) -> TextTable {
        let mut table =
            TextTable::new(&["<CONN", "CLIENT", "LISTENER", "POOL", "BACKEND", "<AGE", "<IN", "<OUT"]);
        for connection in &self.connections {
            let cells = [
                connection.conn.to_string(),
                connection.client.clone(),
                connection.listener.clone(),
                connection.pool.clone(),
                connection.to().to_owned(),
                terminal::age(connection.age_ms / 1e3),
                terminal::bytes(connection.bytes_in as f64),
                terminal::bytes(connection.bytes_out as f64),
            ];
            table.row(cells.map(|cell| (cell, None)));
        }
        table
    }

    /// As lines of a table, without colours.
    pub(super) fn lines(&self) -> Vec<String> {
        let mut text = String::new();
        self.table().write(&mut text, false);
        text.lines().map(str::to_owned).collect()
    }
}

impl OpenConnection {
    /// Its backend's name.
    fn to(&self) -> &str {
        self.backend.as_deref().unwrap_or("-")
    }
}

/// The path that lists them.
pub(super) fn path(limit: u32, filters: [(&str, Option<&str>); 3]) -> String {
    let mut path = format!("/api/v1/connections?limit={limit}");
    for (name, value) in filters {
        if let Some(value) = value {
            path.push_str(&format!("&{name}={}", encode(value)));
        }
    }
    path
}

pub(super) fn run(args: &ConnectionsArgs) -> Result<Exit, Failure> {
    let remote = args.remote.remote()?;
    let filters = [("pool", &args.pool), ("backend", &args.backend), ("client", &args.client)];
    let path = path(args.limit, filters.map(|(name, value)| (name, value.as_deref())));
    let text = block_on(async { Ok(remote.text(&path).await?) })?;
    if args.remote.json {
        return print_json(&text);
    }
    let open: Connections = remote.read(&text)?;
    let mut words = String::new();
    open.table().write(&mut words, colours());
    let shown = open.connections.len() as u64;
    let total = open.total.unwrap_or(shown);
    if total > shown {
        words.push_str(&format!("{shown} of {total}: see more with --limit\n"));
    }
    print(&words)
}

pub(super) fn close(args: &CloseArgs) -> Result<Exit, Failure> {
    let remote = args.remote.remote()?;
    let how = if args.fin { "close" } else { "reset" };
    let path = format!("/api/v1/connections/{}?how={how}", args.conn);
    let text = block_on(async { Ok(remote.send(Method::DELETE, &path).await?) })?;
    if args.remote.json {
        return print_json(&text);
    }
    let was: OpenConnection = remote.read(&text)?;
    let age = terminal::age(was.age_ms / 1e3);
    print(&terminal::clean(&format!("closed #{}: {} to {}, {age} old", was.conn, was.client, was.to())))?;
    print("\n")
}
