//! Where backends come from: `discover`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::super::decode::{self, Table};
use super::super::model::{Algorithm, Docker, File, Source, SourceKey};
use super::super::report::Place;
use super::super::scalar::{boolean, duration, number, text};
use super::super::tree::{Node, Value};
use super::written::{self, Written};
use super::{SHORTEST, dns};

/// Addresses of backends, with their positions in the file.
pub(super) type Places = Vec<(SocketAddr, Place)>;

const KINDS: [&str; 5] = ["static", "dns", "srv", "file", "docker"];
/// What stands beside some of them.
const BESIDE: [&str; 5] = ["every", "server", "hold", "flap", "family"];

/// The sources of a pool, and the positions of its configured backends. Without the algorithm, settings that depend on
/// it are not checked.
pub(super) fn discover(pool: &Table<'_>, balance: Option<Algorithm>) -> (Vec<Source>, Places) {
    let d = pool.decoder;
    let mut written = Written::new();
    let mut static_at = None;
    let mut sources: Vec<Source> = Vec::new();
    for item in items(pool) {
        let what = format!("\"discover\" in {}", pool.what);
        let Some(mut table) = d.table(item, &what, ".pools.*.discover") else { continue };
        table.beside = &["hold"];
        let source = match table.kind(&KINDS) {
            Some("static") => {
                static_at = static_at.or(Some((sources.len(), table.place("static"))));
                written.extend(static_backends(&table));
                None
            }
            Some("dns") => dns::dns(&table).map(Source::Dns),
            Some("srv") => dns::srv(&table).map(Source::Srv),
            Some("file") => file(&table).map(Source::File),
            Some(_) => docker(&table).map(Source::Docker),
            None => {
                // Which of these it may have depends on the kind.
                for key in BESIDE {
                    table.get(key);
                }
                None
            }
        };
        let Some(source) = source else { continue };
        let key = SourceKey::from(&source);
        if sources.iter().any(|other| SourceKey::from(other) == key) {
            d.problem(item.at, format!("{} has the source \"{key}\" twice", pool.what));
        }
        sources.push(source);
    }
    written::check_names(&written, &pool.what, d);
    let places = written.iter().map(|(backend, place)| (backend.address, *place)).collect();
    if let Some((index, at)) = static_at {
        let alone = sources.is_empty() && pool.present(&["replicas"]).is_empty();
        written::check_use(&written, at, pool, balance, alone);
        // All that is written down is one source, which stands where its first part does.
        sources.insert(index, Source::Static(written.into_iter().map(|(backend, _)| backend).collect()));
    }
    (sources, places)
}

/// The items of the list; none at all is a problem.
fn items<'a>(pool: &Table<'a>) -> &'a [Node] {
    let d = pool.decoder;
    let Some(node) = pool.get("discover") else {
        // Those that it starts itself are enough.
        if pool.present(&["replicas"]).is_empty() {
            d.problem(pool.at, format!("{} needs \"discover\": where its backends come from", pool.what));
        }
        return &[];
    };
    let what = format!("\"discover\" in {}", pool.what);
    match &node.value {
        Value::List(items) => {
            if items.is_empty() {
                d.problem(node.at, format!("{what} is empty: at least one source is needed"));
            }
            items
        }
        _ => {
            let found = decode::describe(node);
            d.problem(
                node.at,
                format!("{what} must be a list, such as [{{dns: backend:5000}}], not {found}"),
            );
            &[]
        }
    }
}

fn static_backends(table: &Table<'_>) -> Written {
    let d = table.decoder;
    let Some(list) = table.get("static") else { return Written::new() };
    if matches!(&list.value, Value::List(items) if items.is_empty()) {
        d.problem(list.at, "\"static\" is empty: at least one backend is needed");
    }
    written::backends(list, "\"static\"", "a backend under \"static\"", d)
}

fn file(table: &Table<'_>) -> Option<File> {
    let path = table.read("file", |node| text(node).map(PathBuf::from));
    let every = table.read("every", duration(SHORTEST));
    let mut file = File::new(path?);
    file.every = every.unwrap_or(file.every);
    Some(file)
}

fn docker(table: &Table<'_>) -> Option<Docker> {
    let hold = table.read("hold", duration(Duration::ZERO));
    let mut docker = match &table.get("docker")?.value {
        Value::Scalar(_) => table.read("docker", label).map(Docker::new),
        _ => labelled(&table.table("docker")?),
    }?;
    docker.hold = hold.unwrap_or(docker.hold);
    Some(docker)
}

fn labelled(table: &Table<'_>) -> Option<Docker> {
    let label = table.read("label", label);
    let port = table.read("port", number(1..=65535));
    let network = table.read("network", |node| text(node).map(str::to_owned));
    let engine = table.read("engine", engine);
    let healthcheck = table.read("healthcheck", boolean);
    if table.present(&["label"]).is_empty() {
        let message = format!("{} needs a \"label\", such as pointsman.pool=web", table.what);
        table.decoder.problem(table.at, message);
    }
    let mut docker = Docker { port, network, engine, ..Docker::new(label?) };
    docker.healthcheck = healthcheck.unwrap_or(docker.healthcheck);
    Some(docker)
}

pub(super) fn label(node: &Node) -> Result<String, String> {
    let label = text(node).unwrap_or_default();
    let key = label.split_once('=').map_or(label, |(key, _)| key);
    if key.is_empty() || key.contains(char::is_whitespace) {
        return Err("must be a label of containers, such as pointsman.pool=web".to_owned());
    }
    Ok(label.to_owned())
}

pub(super) fn engine(node: &Node) -> Result<String, String> {
    let engine = text(node).unwrap_or_default();
    let good = match engine.split_once("://") {
        Some(("unix", path)) => path.starts_with('/'),
        Some(("tcp", address)) => address
            .rsplit_once(':')
            .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)),
        _ => false,
    };
    if !good {
        return Err("must be unix:///path or tcp://host:port".to_owned());
    }
    Ok(engine.to_owned())
}
