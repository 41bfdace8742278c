//! The way back from what a configuration means to what a user could have written: every default filled in. Whoever reads
//! the result gets the same configuration.

mod discover;
mod health;
mod outline;
mod pool;
mod replicas;

use std::path::Path;
use std::time::Duration;

use super::model::{
    Admin, BindAddress, Config, Level, Listener, Log, LogFormat, NoBackend, Rotation, Runtime, SocketMode,
    SocketOptions,
};
use super::scalar::in_bytes;
pub(super) use outline::{Map, Outline};

/// A whole configuration.
pub(super) fn config(config: &Config) -> Outline {
    let listeners =
        config.listeners.iter().map(|(name, listener)| (name.to_string(), self::listener(listener)));
    let pools = config.pools.iter().map(|(name, pool)| (name.to_string(), pool::pool(pool)));
    Map::new()
        .with("runtime", runtime(&config.runtime))
        .with("log", log(&config.log))
        .with_some("admin", config.admin.as_ref().map(admin))
        .with("listeners", Outline::Map(listeners.collect()))
        .with("pools", Outline::Map(pools.collect()))
        .into()
}

fn runtime(runtime: &Runtime) -> Outline {
    let auto = |number: Option<usize>| number.map_or(Outline::text("auto"), Outline::from);
    let drain = Map::new()
        .with("grace", duration(runtime.drain.grace))
        .with("timeout", duration(runtime.drain.timeout));
    Map::new()
        .with("workers", auto(runtime.workers.map(usize::from)))
        .with("max_connections", auto(runtime.max_connections))
        .with("busy_poll", or_off(runtime.busy_poll))
        .with("max_checks", usize::from(runtime.max_checks))
        .with("drain", drain)
        .into()
}

fn log(log: &Log) -> Outline {
    let level = match log.level {
        Level::Error => "error",
        Level::Warn => "warn",
        Level::Info => "info",
        Level::Debug => "debug",
        Level::Trace => "trace",
    };
    let format = match log.format {
        LogFormat::Text => "text",
        LogFormat::Json => "json",
    };
    let rotation = match log.rotation {
        Rotation::Hourly => "hourly",
        Rotation::Daily => "daily",
        Rotation::Never => "never",
    };
    Map::new()
        .with("level", level)
        .with("format", format)
        .with_some("directory", log.directory.as_deref().map(path))
        .with("rotation", rotation)
        .with("max_size", log.max_size.map_or(off(), |size| Outline::text(in_bytes(size))))
        .with("keep", log.keep)
        .with("connections", log.connections)
        .into()
}

fn admin(admin: &Admin) -> Outline {
    let unix = matches!(admin.bind, BindAddress::Unix(_));
    Map::new()
        .with("bind", bind(&admin.bind))
        .with_some("token_file", admin.token_file.as_deref().map(path))
        .with("hosts", Outline::List(admin.hosts.iter().map(Outline::text).collect()))
        .with_some("socket_mode", unix.then(|| mode(admin.socket_mode)))
        .into()
}

fn listener(listener: &Listener) -> Outline {
    let SocketOptions { keepalive, defer_accept, fast_open, user_timeout } = listener.options;
    let no_backend = match listener.no_backend {
        NoBackend::Reset => "reset",
        NoBackend::Close => "close",
        NoBackend::Http503 => "http-503",
        NoBackend::Refuse => "refuse",
    };
    let unix = listener.bind.iter().any(|address| matches!(address, BindAddress::Unix(_)));
    // Where there is no TCP, it cannot be written, and is what the pool has.
    let tcp = listener.bind.iter().any(|address| matches!(address, BindAddress::Tcp(_)));
    let keepalive = (tcp || keepalive.is_none()).then(|| or_off(keepalive));
    Map::new()
        .with("bind", Outline::List(listener.bind.iter().map(bind).collect()))
        .with("pool", &*listener.pool)
        .with("no_backend", no_backend)
        .with_some("max_connections", listener.max_connections)
        .with_some("keepalive", keepalive)
        .with("defer_accept", or_off(defer_accept))
        .with("fast_open", fast_open.map_or(off(), |n| Outline::from(u64::from(n.get()))))
        .with("user_timeout", or_off(user_timeout))
        .with_some("socket_mode", unix.then(|| mode(listener.socket_mode)))
        .into()
}

fn bind(address: &BindAddress) -> Outline {
    Outline::text(address.to_string())
}

fn mode(mode: SocketMode) -> Outline {
    Outline::text(mode.to_string())
}

fn path(path: &Path) -> Outline {
    Outline::text(path.to_string_lossy())
}

fn duration(time: Duration) -> Outline {
    Outline::text(humantime::format_duration(time).to_string())
}

fn or_off(time: Option<Duration>) -> Outline {
    time.map_or(off(), duration)
}

fn off() -> Outline {
    Outline::text("off")
}
