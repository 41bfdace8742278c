//! `pointsman connections` and `close`: lists the open connections of a running instance, and closes one.

use clap::Args;
use hyper::Method;

use super::instance::{RemoteArgs, block_on};
use super::status::{TextTable, colors};
use super::{Exit, Failure, print, print_json, terminal};
use crate::api::{self, ConnectionInfo, ConnectionSummary, ConnectionsReply};
use crate::http1::encode;

#[derive(Debug, Args)]
pub(super) struct ConnectionsArgs {
    /// Only connections of this pool
    #[arg(long, value_name = "NAME")]
    pool: Option<String>,
    /// Only connections to this backend, by name or address
    #[arg(long, value_name = "NAME")]
    backend: Option<String>,
    /// Only connections from this client: ADDRESS or ADDRESS:PORT
    #[arg(long, value_name = "ADDRESS")]
    client: Option<String>,
    /// The maximum number of connections, the oldest first
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
    /// Close with a TCP reset, so that a truncated stream does not look complete (the default)
    #[arg(long, conflicts_with = "fin")]
    reset: bool,
    /// Close with a FIN instead of a reset, as if the other side had finished
    #[arg(long)]
    fin: bool,
    #[command(flatten)]
    remote: RemoteArgs,
}

fn table(open: &ConnectionsReply) -> TextTable {
    let mut table =
        TextTable::new(&["<CONN", "CLIENT", "LISTENER", "POOL", "BACKEND", "<AGE", "<IN", "<OUT"]);
    for connection in &open.connections {
        let summary = &connection.summary;
        let cells = [
            summary.conn.to_string(),
            summary.client.clone(),
            summary.listener.to_string(),
            summary.pool.as_deref().unwrap_or("-").to_owned(),
            backend(summary).to_owned(),
            terminal::age(connection.age_ms / 1e3),
            terminal::bytes(connection.bytes_in as f64),
            terminal::bytes(connection.bytes_out as f64),
        ];
        table.row(cells.map(|cell| (cell, None)));
    }
    table
}

/// The name of a connection's backend.
fn backend(summary: &ConnectionSummary) -> &str {
    summary.backend.as_deref().unwrap_or("-")
}

/// The lines of a table, without colors.
pub(super) fn lines(open: &ConnectionsReply) -> Vec<String> {
    let mut text = String::new();
    table(open).write(&mut text, false);
    text.lines().map(str::to_owned).collect()
}

/// The API path of the list.
pub(super) fn path(limit: u32, filters: [(&str, Option<&str>); 3]) -> String {
    let mut path = format!("{}?limit={limit}", api::path::CONNECTIONS);
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
    let open: ConnectionsReply = remote.read(&text)?;
    let mut words = String::new();
    table(&open).write(&mut words, colors());
    let (shown, total) = (open.connections.len(), open.total);
    if total > shown {
        words.push_str(&format!("{shown} of {total} connections: --limit shows more\n"));
    }
    print(&words)
}

pub(super) fn close(args: &CloseArgs) -> Result<Exit, Failure> {
    let remote = args.remote.remote()?;
    let how = if args.fin { "close" } else { "reset" };
    let path = format!("{}/{}?how={how}", api::path::CONNECTIONS, args.conn);
    let text = block_on(async { Ok(remote.send(Method::DELETE, &path).await?) })?;
    if args.remote.json {
        return print_json(&text);
    }
    let was: ConnectionInfo = remote.read(&text)?;
    let (summary, age) = (&was.summary, terminal::age(was.age_ms / 1e3));
    let (conn, client, backend) = (summary.conn, &summary.client, backend(summary));
    print(&terminal::clean(&format!("closed #{conn}: {client} to {backend}, {age} old")))?;
    print("\n")
}
