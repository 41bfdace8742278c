//! Backends and clients for the comparison. Results are one line of JSON on standard output.

mod backend;
mod client;

use std::net::SocketAddr;
use std::time::Duration;

use clap::{Parser, Subcommand};

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve small HTTP answers (keep-alive, or closed when asked to), on one thread
    Http {
        /// Where
        addresses: Vec<SocketAddr>,
    },
    /// Send endless bytes to each client, and read theirs
    Source { address: SocketAddr },
    /// Echo all bytes, and keep idle connections
    Echo { address: SocketAddr },
    /// Read from this many concurrent streams, and optionally write to them
    Bulk {
        address: SocketAddr,
        #[arg(long, default_value_t = 1)]
        streams: usize,
        #[arg(long)]
        both: bool,
        #[arg(long, default_value_t = 3.0)]
        seconds: f64,
    },
    /// Exchange one byte each way repeatedly, on one connection
    Ping {
        address: SocketAddr,
        #[arg(long, default_value_t = 3.0)]
        seconds: f64,
    },
    /// Open this many connections, use each once, and hold them until standard input ends
    Idle {
        address: SocketAddr,
        #[arg(long)]
        connections: usize,
    },
    /// Open a new connection for each exchange of this many bytes, on this many concurrent streams
    Transfers {
        address: SocketAddr,
        #[arg(long)]
        bytes: u64,
        #[arg(long, default_value_t = 8)]
        streams: usize,
        #[arg(long, default_value_t = 3.0)]
        seconds: f64,
    },
}

fn main() -> std::io::Result<()> {
    let seconds = Duration::from_secs_f64;
    match Cli::parse().command {
        Command::Http { addresses } => backend::http(&addresses),
        Command::Source { address } => backend::source(address),
        Command::Echo { address } => backend::echo(address),
        Command::Bulk { address, streams, both, seconds: s } => {
            client::bulk(address, streams, both, seconds(s))
        }
        Command::Ping { address, seconds: s } => client::ping(address, seconds(s)),
        Command::Idle { address, connections } => client::idle(address, connections),
        Command::Transfers { address, bytes, streams, seconds: s } => {
            client::transfers(address, bytes, streams, seconds(s))
        }
    }
}
