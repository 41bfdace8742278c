//! Settings of the process itself: `runtime`, `log`, `admin`.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use super::super::decode::Table;
use super::super::model::{Admin, BindAddress, Level, Log, LogFormat, Rotation, Runtime};
use super::super::scalar::{
    boolean, choice, duration, duration_or_off, file_mode, number, or_off, size, text,
};
use super::super::tree::{Node, Value};
use super::bind::Binds;

/// A log file below 64 KiB would hold less than one burst of lines.
const SMALLEST_LOG_FILE: u64 = 64 << 10;

pub(super) fn runtime(top: &Table<'_>) -> Runtime {
    let mut runtime = Runtime::default();
    let Some(table) = top.table("runtime") else { return runtime };
    let auto_or = |range| {
        move |node: &Node| match text(node) {
            Ok("auto") => Ok(None),
            _ => number(range)(node).map(Some).map_err(|error| format!("{error}, or auto")),
        }
    };
    runtime.workers = table.read("workers", auto_or(1..=1024)).flatten().and_then(NonZeroUsize::new);
    runtime.max_connections = table.read("max_connections", auto_or(1..=u64::MAX)).flatten();
    let busy_poll = duration_or_off(Duration::from_micros(1));
    runtime.busy_poll = table.read("busy_poll", busy_poll).unwrap_or(runtime.busy_poll);
    let max_checks = table.read("max_checks", number(1..=super::MOST)).and_then(NonZeroUsize::new);
    runtime.max_checks = max_checks.unwrap_or(runtime.max_checks);
    if let Some(drain) = table.table("drain") {
        let any = || duration(Duration::ZERO);
        runtime.drain.grace = drain.read("grace", any()).unwrap_or(runtime.drain.grace);
        runtime.drain.timeout = drain.read("timeout", any()).unwrap_or(runtime.drain.timeout);
    }
    runtime
}

pub(super) fn log(top: &Table<'_>) -> Log {
    let mut log = Log::default();
    let Some(table) = top.table("log") else { return log };
    let levels = [
        ("error", Level::Error),
        ("warn", Level::Warn),
        ("info", Level::Info),
        ("debug", Level::Debug),
        ("trace", Level::Trace),
    ];
    log.level = table.read("level", choice(&levels)).unwrap_or(log.level);
    let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    log.format = table.read("format", choice(&formats)).unwrap_or(log.format);
    log.directory = table.read("directory", |node| text(node).map(PathBuf::from));
    let rotations = [("hourly", Rotation::Hourly), ("daily", Rotation::Daily), ("never", Rotation::Never)];
    log.rotation = table.read("rotation", choice(&rotations)).unwrap_or(log.rotation);
    log.max_size = table.read("max_size", or_off(size(SMALLEST_LOG_FILE))).unwrap_or(log.max_size);
    log.keep = table.read("keep", number(1..=10_000)).unwrap_or(log.keep);
    log.connections = table.read("connections", boolean).unwrap_or(log.connections);
    log
}

pub(super) fn admin(top: &Table<'_>, binds: &mut Binds) -> Option<Admin> {
    let table = top.table("admin")?;
    let token_file = table.read("token_file", |node| text(node).map(PathBuf::from));
    let socket_mode = table.read("socket_mode", file_mode);
    let hosts = table.read("hosts", host_names).unwrap_or_default();
    let Some(node) = table.get("bind") else {
        table.decoder.problem(table.at, "\"admin\" needs a \"bind\", such as 127.0.0.1:9900");
        return None;
    };
    let bind = binds.read(node, "\"admin\"", table.decoder)?;
    if socket_mode.is_some() && matches!(bind, BindAddress::Tcp(_)) {
        let message = "\"socket_mode\" in \"admin\" does nothing: it has no Unix path";
        table.decoder.problem(table.place("socket_mode"), message);
    }
    Some(Admin { bind, token_file, hosts, socket_mode: socket_mode.unwrap_or_default() })
}

/// Reads a list of names as a Host header has them, but for the port.
fn host_names(node: &Node) -> Result<Vec<String>, String> {
    let is_name = |name: &&str| name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    let names = match &node.value {
        Value::List(items) => {
            items.iter().map(|item| text(item).ok().filter(is_name).map(str::to_owned)).collect()
        }
        _ => None,
    };
    names.ok_or_else(|| "must be a list of names without ports, such as [lb.example.com]".to_owned())
}
