//! The one way from what the user wrote to what it means: defaults, ranges, and what must fit together.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::decode::{
    self, Decoder, TOP, Table, boolean, choice, duration, duration_or_off, nearest, number, text,
};
use super::model::*;
use super::report::Place;
use super::tree::{Node, Value};

/// A shorter interval would be a busy loop.
const SHORTEST: Duration = Duration::from_millis(10);

/// Reads a whole configuration. The result is meaningful only if no problem was noted.
pub(super) fn config(root: &Node, d: &Decoder) -> Option<Config> {
    let top = d.table(root, TOP, "")?;
    let runtime = runtime(&top);
    let log = log(&top);
    let (admin, admin_at) = admin(&top).unzip();
    let mut pools = BTreeMap::new();
    if let Some(table) = top.table("pools") {
        for (key, node) in table.named() {
            if let Some(pool) = pool(node, &key.text, d) {
                pools.insert(Arc::from(&*key.text), pool);
            } else {
                pools.insert(Arc::from(&*key.text), Pool::new(Vec::new()));
            }
        }
    }
    let mut binds: Vec<(BindAddress, Place, String)> = Vec::new();
    if let (Some(Some(admin)), Some(at)) = (&admin, admin_at) {
        binds.push((admin.bind.clone(), at, "the admin server".to_owned()));
    }
    let mut listeners = BTreeMap::new();
    if let Some(table) = top.table("listeners") {
        for (key, node) in table.named() {
            if let Some(listener) = listener(node, &key.text, &pools, &mut binds, d) {
                listeners.insert(Arc::from(&*key.text), listener);
            }
        }
    }
    for (missing, names) in [("pools", pools.is_empty()), ("listeners", listeners.is_empty())] {
        if names && top.present(&[missing]).is_empty() {
            d.problem(
                top.at,
                format!("there are no {missing}: at least one is needed, as `{missing}: {{NAME: …}}`"),
            );
        } else if names && missing == "pools" {
            d.problem(top.place(missing), format!("{missing:?} is empty: at least one is needed"));
        }
    }
    clashes(&binds, d);
    Some(Config { runtime, log, admin: admin.flatten(), listeners, pools })
}

fn runtime(top: &Table<'_>) -> Runtime {
    let mut runtime = Runtime::default();
    let Some(table) = top.table("runtime") else { return runtime };
    let auto_or = |range| {
        move |node: &Node| match text(node) {
            Ok("auto") => Ok(None),
            _ => number(range)(node).map(Some).map_err(|error| format!("{error}, or auto")),
        }
    };
    let size = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    runtime.workers =
        table.read("workers", auto_or(1..=1024)).flatten().and_then(|n| NonZeroUsize::new(size(n)));
    runtime.max_connections = table.read("max_connections", auto_or(1..=u64::MAX)).flatten().map(size);
    if let Some(drain) = table.table("drain") {
        let any = || duration(Duration::ZERO);
        runtime.drain.grace = drain.read("grace", any()).unwrap_or(runtime.drain.grace);
        runtime.drain.timeout = drain.read("timeout", any()).unwrap_or(runtime.drain.timeout);
    }
    runtime
}

fn log(top: &Table<'_>) -> Log {
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
    let keep = table.read("keep", number(1..=10_000));
    log.keep = keep.map_or(log.keep, |n| usize::try_from(n).unwrap_or(usize::MAX));
    log.connections = table.read("connections", boolean).unwrap_or(log.connections);
    log
}

fn admin(top: &Table<'_>) -> Option<(Option<Admin>, Place)> {
    let table = top.table("admin")?;
    match table.get("bind") {
        None => {
            table.decoder.problem(table.at, "\"admin\" needs a \"bind\", such as 127.0.0.1:9900");
            None
        }
        Some(node) => {
            let bind = read_bind(node, "\"bind\" in \"admin\"", table.decoder)?;
            Some((Some(Admin { bind }), node.at))
        }
    }
}

fn listener(
    node: &Node,
    name: &str,
    pools: &BTreeMap<Arc<str>, Pool>,
    binds: &mut Vec<(BindAddress, Place, String)>,
    d: &Decoder,
) -> Option<Listener> {
    let what = format!("listener {name:?}");
    let table = d.table(node, &what, ".listeners.*")?;
    let mut bind = Vec::new();
    match table.get("bind") {
        None => d.problem(table.at, format!("{what} needs a \"bind\", such as 0.0.0.0:8080")),
        Some(node) => {
            let nodes = match &node.value {
                Value::List(nodes) => &nodes[..],
                _ => std::slice::from_ref(node),
            };
            if nodes.is_empty() {
                d.problem(node.at, format!("\"bind\" in {what} is empty: at least one address is needed"));
            }
            for node in nodes {
                if let Some(address) = read_bind(node, &format!("\"bind\" in {what}"), d) {
                    binds.push((address.clone(), node.at, what.clone()));
                    bind.push(address);
                }
            }
        }
    }
    let pool = match table.get("pool") {
        None => {
            d.problem(table.at, format!("{what} needs a \"pool\": where its connections go"));
            None
        }
        Some(node) => match text(node) {
            Ok(pool) if pools.contains_key(pool) => Some(Arc::from(pool)),
            Ok(pool) => {
                let near = nearest(pool, pools.keys().map(|name| &**name));
                let names = || pools.keys().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
                let end = match near {
                    Some(near) => format!("; did you mean {near:?}?"),
                    None if pools.is_empty() => String::new(),
                    None => format!("; there is {}", names()),
                };
                d.problem(node.at, format!("{what} names the pool {pool:?}, which does not exist{end}"));
                None
            }
            Err(error) => {
                d.problem(node.at, format!("\"pool\" in {what} {error}, not {}", decode::describe(node)));
                None
            }
        },
    };
    let ways = [
        ("reset", NoBackend::Reset),
        ("close", NoBackend::Close),
        ("http-503", NoBackend::Http503),
        ("refuse", NoBackend::Refuse),
    ];
    let no_backend = table.read("no_backend", choice(&ways)).unwrap_or(NoBackend::Reset);
    let max_connections =
        table.read("max_connections", number(1..=u64::MAX)).map(|n| usize::try_from(n).unwrap_or(usize::MAX));
    Some(Listener { bind, pool: pool?, no_backend, max_connections })
}

fn pool(node: &Node, name: &str, d: &Decoder) -> Option<Pool> {
    let what = format!("pool {name:?}");
    let table = d.table(node, &what, ".pools.*")?;
    let mut pool = Pool::new(Vec::new());
    let algorithms = [Algorithm::RoundRobin, Algorithm::Weighted, Algorithm::LeastConnections];
    pool.balance = table.read("balance", choice(&algorithms.map(|a| (a.name(), a)))).unwrap_or(pool.balance);
    pool.discover = discover(&table, pool.balance);
    pool.health = table.table("health").and_then(|table| health(&table));
    if let Some(table) = table.table("connect") {
        pool.connect.timeout = table.read("timeout", duration(SHORTEST)).unwrap_or(pool.connect.timeout);
        let attempts = table.read("attempts", number(1..=100)).and_then(|n| u32::try_from(n).ok());
        pool.connect.attempts = attempts.unwrap_or(pool.connect.attempts);
    }
    if let Some(table) = table.table("timeouts") {
        let limit = |key, default| table.read(key, duration_or_off(SHORTEST)).unwrap_or(default);
        let Timeouts { idle, half_closed, lifetime } = pool.timeouts;
        pool.timeouts = Timeouts {
            idle: limit("idle", idle),
            half_closed: limit("half_closed", half_closed),
            lifetime: limit("lifetime", lifetime),
        };
    }
    let keepalive = duration_or_off(Duration::from_secs(1));
    pool.keepalive = table.read("keepalive", keepalive).unwrap_or(pool.keepalive);
    pool.on_down = policy(&table, "on_down").unwrap_or(pool.on_down);
    pool.on_leave = policy(&table, "on_leave").unwrap_or(pool.on_leave);
    Some(pool)
}

fn policy(table: &Table<'_>, key: &'static str) -> Option<Policy> {
    let node = table.get(key)?;
    let end = |how, over| Policy::End { how, over };
    if let Value::Map(_) = &node.value {
        let inner = table.table(key)?;
        let any = || duration(Duration::ZERO);
        return match (inner.read("close", any()), inner.read("reset", any())) {
            (Some(over), None) => Some(end(Ending::Close, over)),
            (None, Some(over)) => Some(end(Ending::Reset, over)),
            (None, None) if !inner.present(&["close", "reset"]).is_empty() => None, // told already
            _ => {
                inner
                    .decoder
                    .problem(inner.at, format!("{} is either close or reset with a duration", inner.what));
                None
            }
        };
    }
    let words = [
        ("keep", Policy::Keep),
        ("close", end(Ending::Close, Duration::ZERO)),
        ("reset", end(Ending::Reset, Duration::ZERO)),
    ];
    let also = |error| format!("{error}, or as {{close: 30s}}");
    table.read(key, |node| choice(&words)(node).map_err(also))
}

fn health(table: &Table<'_>) -> Option<Health> {
    let d = table.decoder;
    let http = table.get("http").and_then(|node| http_check(node, table));
    table.table("tcp"); // it has no keys
    let kinds = table.present(&["http", "tcp"]);
    if kinds.len() != 1 {
        let which = if kinds.is_empty() { "needs one of" } else { "can have only one of" };
        d.problem(table.at, format!("{} {which} `http: /health` and `tcp: {{}}`", table.what));
    }
    let mut health = Health::new(http.map_or(Check::Tcp, Check::Http));
    health.every = table.read("every", duration(SHORTEST)).unwrap_or(health.every);
    let timeout = table.read("timeout", duration(Duration::from_millis(1)));
    health.timeout = timeout.unwrap_or(health.timeout.min(health.every));
    if health.timeout > health.every {
        let time = |t| humantime::format_duration(t);
        d.problem(
            table.place("timeout"),
            format!(
                "the timeout of {} ({}) is longer than its interval ({}): a check must end before the next begins",
                table.what,
                time(health.timeout),
                time(health.every)
            ),
        );
    }
    let count = |key, default| {
        table.read(key, number(1..=1000)).and_then(|n| u32::try_from(n).ok()).unwrap_or(default)
    };
    health.rise = count("rise", health.rise);
    health.fall = count("fall", health.fall);
    health.port = table.read("port", number(1..=65535)).and_then(|n| u16::try_from(n).ok());
    Some(health)
}

fn http_check(node: &Node, parent: &Table<'_>) -> Option<HttpCheck> {
    let d = parent.decoder;
    let path = |node: &Node| match text(node) {
        Ok(path) if path.starts_with('/') && path.parse::<hyper::Uri>().is_ok() => Ok(path.to_owned()),
        _ => Err("must be a path that begins with /, such as /health".to_owned()),
    };
    if let Value::Scalar(_) = node.value {
        return parent.read("http", path).map(HttpCheck::new);
    }
    let table = d.table(node, &format!("\"http\" in {}", parent.what), &format!("{}.http", parent.path))?;
    let Some(path) = table.read("path", path) else {
        if table.present(&["path"]).is_empty() {
            d.problem(table.at, format!("{} needs a \"path\", such as /health", table.what));
        }
        return None;
    };
    let mut check = HttpCheck::new(path);
    check.host = table.read("host", |node| {
        let host = text(node)?;
        hyper::header::HeaderValue::from_str(host).map_err(|_| "must be a host name".to_owned())?;
        Ok(host.to_owned())
    });
    check.status = table.read("status", number(100..=599)).and_then(|n| u16::try_from(n).ok());
    check.body = table.read("body", |node| text(node).map(str::to_owned));
    Some(check)
}

fn discover(pool: &Table<'_>, balance: Algorithm) -> Vec<Source> {
    let d = pool.decoder;
    let Some(node) = pool.get("discover") else {
        d.problem(pool.at, format!("{} needs \"discover\": where its backends come from", pool.what));
        return Vec::new();
    };
    let items = match &node.value {
        Value::List(items) if !items.is_empty() => items,
        Value::List(_) => {
            d.problem(
                node.at,
                format!("\"discover\" in {} is empty: at least one source is needed", pool.what),
            );
            return Vec::new();
        }
        _ => {
            let found = decode::describe(node);
            d.problem(
                node.at,
                format!(
                    "\"discover\" in {} must be a list, such as [{{dns: backend:5000}}], not {found}",
                    pool.what
                ),
            );
            return Vec::new();
        }
    };
    let mut written: Vec<(StaticBackend, Place)> = Vec::new();
    let mut sources = Vec::new();
    let mut static_at = None;
    for item in items {
        let Some(table) = d.table(item, &format!("\"discover\" in {}", pool.what), ".pools.*.discover")
        else {
            continue;
        };
        match (table.get("static"), table.get("dns")) {
            (Some(list), None) => {
                static_at = static_at.or(Some(table.place("static")));
                static_backends(list, &table, &mut written);
            }
            (None, Some(node)) => {
                let at = node.at;
                if let Some(dns) = dns(&table) {
                    let same = |source: &Source| matches!(source, Source::Dns(other) if other.name == dns.name && other.port == dns.port);
                    if sources.iter().any(same) {
                        d.problem(at, format!("{} asks for {}:{} twice", pool.what, dns.name, dns.port));
                    }
                    sources.push(Source::Dns(dns));
                }
            }
            // Keys of the other kinds are told as unknown, which says more.
            (None, None) if !table.later() => {
                d.problem(table.at, format!("{} needs one of \"static\" and \"dns\"", table.what));
            }
            (None, None) => {}
            (Some(_), Some(_)) => {
                d.problem(
                    table.at,
                    format!(
                        "{} has both \"static\" and \"dns\": make them two items of the list",
                        table.what
                    ),
                );
            }
        }
    }
    check_static(&written, static_at, pool, balance, sources.is_empty());
    if !written.is_empty() {
        sources.insert(0, Source::Static(written.into_iter().map(|(backend, _)| backend).collect()));
    }
    sources
}

fn check_static(
    written: &[(StaticBackend, Place)],
    at: Option<Place>,
    pool: &Table<'_>,
    balance: Algorithm,
    alone: bool,
) {
    let d = pool.decoder;
    for (index, (backend, place)) in written.iter().enumerate() {
        if written[..index].iter().any(|(other, _)| other.address == backend.address) {
            d.problem(*place, format!("{} has the backend {} twice", pool.what, backend.address));
        } else if written[..index].iter().any(|(other, _)| other.name == backend.name) {
            d.problem(*place, format!("{} has two backends of the name {:?}", pool.what, backend.name));
        }
        if balance == Algorithm::RoundRobin && backend.weight > 1 {
            d.problem(
                *place,
                format!(
                    "{} gives a weight, which round-robin does not heed; write `balance: weighted`",
                    pool.what
                ),
            );
        }
    }
    if let Some(at) = at
        && alone
        && !written.is_empty()
        && written.iter().all(|(backend, _)| backend.weight == 0)
    {
        d.problem(at, format!("every backend of {} has a weight of 0: none would ever be chosen", pool.what));
    }
}

fn static_backends(list: &Node, table: &Table<'_>, written: &mut Vec<(StaticBackend, Place)>) {
    let d = table.decoder;
    let Value::List(items) = &list.value else {
        let found = decode::describe(list);
        d.problem(
            list.at,
            format!("\"static\" must be a list, such as [10.0.0.1:5000, 10.0.0.2:5000], not {found}"),
        );
        return;
    };
    if items.is_empty() {
        d.problem(list.at, "\"static\" is empty: at least one backend is needed");
    }
    for item in items {
        let mut backend = None;
        if let Value::Scalar(text) = &item.value {
            match socket_address(text) {
                Ok(address) => backend = Some(StaticBackend::new(address)),
                Err(error) => d.problem(item.at, format!("a backend under \"static\" {error}, not {text:?}")),
            }
        } else if let Some(inner) = d.table(item, "a backend under \"static\"", ".pools.*.discover.static") {
            let address = inner.read("address", |node| socket_address(text(node).unwrap_or_default()));
            let name = inner.read("name", |node| text(node).map(Arc::from));
            let weight = inner.read("weight", number(0..=256)).and_then(|n| u32::try_from(n).ok());
            if address.is_none() && inner.present(&["address"]).is_empty() {
                d.problem(inner.at, "a backend under \"static\" needs an \"address\", such as 10.0.0.1:5000");
            }
            if let Some(address) = address {
                let mut one = StaticBackend::new(address);
                one.name = name.unwrap_or(one.name);
                one.weight = weight.unwrap_or(one.weight);
                backend = Some(one);
            }
        }
        written.extend(backend.map(|backend| (backend, item.at)));
    }
}

fn socket_address(text: &str) -> Result<SocketAddr, String> {
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() > 0 => Ok(address),
        _ if text.rsplit_once(':').is_some_and(|(host, _)| looks_like_a_name(host)) => {
            Err("must be an IP address and a port; for a name write `dns: NAME:PORT`".to_owned())
        }
        _ => Err("must be an IP address and a port, such as 10.0.0.1:5000".to_owned()),
    }
}

fn looks_like_a_name(host: &str) -> bool {
    host.parse::<IpAddr>().is_err() && host.contains(|c: char| c.is_ascii_alphabetic()) && !host.contains(':')
}

fn dns(table: &Table<'_>) -> Option<Dns> {
    let target = table.read("dns", |node| {
        let text = text(node).unwrap_or_default();
        let (host, port) = text.rsplit_once(':').ok_or("must be a name and a port, such as backend:5000")?;
        if host.parse::<IpAddr>().is_ok() || host.starts_with('[') {
            return Err(format!("must be a name; for an address write `static: [{text}]`"));
        }
        let port = port.parse::<u16>().ok().filter(|port| *port > 0);
        let port = port.ok_or("must be a name and a port from 1 to 65535, such as backend:5000")?;
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
        };
        let name = host.strip_suffix('.').unwrap_or(host);
        if name.len() > 253 || !name.split('.').all(label) {
            return Err(
                "must be a DNS name (letters, digits, - and _) and a port, such as backend:5000".to_owned()
            );
        }
        Ok((host.to_owned(), port))
    });
    let every = table.read("every", duration(SHORTEST));
    let server = table.read("server", |node| {
        let text = text(node).unwrap_or_default();
        let with_port = text.parse::<SocketAddr>().ok();
        let address = with_port.or_else(|| text.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, 53)));
        address.ok_or_else(|| "must be the IP address of a DNS server, such as 127.0.0.11".to_owned())
    });
    let hold = table.read("hold", duration(Duration::ZERO));
    let flap = table.read("flap", duration(Duration::ZERO));
    let families = [("any", Family::Any), ("4", Family::V4), ("6", Family::V6)];
    let family = table.read("family", choice(&families));
    let (name, port) = target?;
    let mut dns = Dns::new(name, port);
    dns.every = every.unwrap_or(dns.every);
    dns.server = server;
    dns.hold = hold.unwrap_or(dns.hold);
    dns.flap = flap.unwrap_or(dns.flap);
    dns.family = family.unwrap_or(dns.family);
    Some(dns)
}

/// Reads an address to listen on.
fn read_bind(node: &Node, what: &str, d: &Decoder) -> Option<BindAddress> {
    let given = text(node).unwrap_or_default();
    match bind_address(given) {
        Ok(address) => Some(address),
        Err(error) => {
            d.problem(node.at, format!("{what} {error}, not {}", decode::describe(node)));
            None
        }
    }
}

/// Reads an address to listen on: `0.0.0.0:8080`, `[::]:8080`, `:8080` (every IPv4 address), `unix:/path`.
pub fn bind_address(text: &str) -> Result<BindAddress, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        // The kernel's limit, the final NUL included (unix(7)).
        return match path.len() {
            0 => Err("must name a path after unix:".to_owned()),
            1..=107 => Ok(BindAddress::Unix(PathBuf::from(path))),
            _ => Err("must be a path of at most 107 bytes after unix:".to_owned()),
        };
    }
    let full = if text.starts_with(':') { format!("0.0.0.0{text}") } else { text.to_owned() };
    if let Ok(address) = full.parse() {
        return Ok(BindAddress::Tcp(address));
    }
    let host = text.rsplit_once(':').map_or(text, |(host, _)| host);
    Err(if text.parse::<IpAddr>().is_ok() {
        "must have a port, such as 0.0.0.0:8080".to_owned()
    } else if looks_like_a_name(host) && text != host {
        "must be an IP address and a port: the address of an interface of this machine, or 0.0.0.0".to_owned()
    } else {
        "must be an address and a port, such as 0.0.0.0:8080, or unix:/path".to_owned()
    })
}

/// Two that listen on one address.
fn clashes(binds: &[(BindAddress, Place, String)], d: &Decoder) {
    let clash = |a: &BindAddress, b: &BindAddress| match (a, b) {
        (BindAddress::Tcp(a), BindAddress::Tcp(b)) => {
            let all = |one: &SocketAddr, other: &SocketAddr| {
                one.ip().is_unspecified() && (one.is_ipv6() || other.is_ipv4())
            };
            a.port() != 0 && a.port() == b.port() && (a.ip() == b.ip() || all(a, b) || all(b, a))
        }
        (BindAddress::Unix(a), BindAddress::Unix(b)) => a == b,
        _ => false,
    };
    for (index, (address, at, what)) in binds.iter().enumerate() {
        if let Some((other, _, who)) = binds[..index].iter().find(|(other, _, _)| clash(address, other)) {
            let same = if address == other { String::new() } else { format!(" as {other}") };
            d.problem(*at, format!("{what} cannot listen on {address}: {who} does already{same}"));
        }
    }
}
