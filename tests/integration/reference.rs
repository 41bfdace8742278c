//! The page `metrics.md` of the book, from `/metrics` of a process that has a value of each metric. The other pages of the
//! reference are rendered by unit tests.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;

use crate::support::backend::Backend;
use crate::support::engine::FakeEngine;
use crate::support::{Lb, connect_to, eventually, http_get, static_list};

/// PostgreSQL's request to cancel a query.
const CANCEL_REQUEST: [u8; 16] = [0, 0, 0, 16, 4, 210, 22, 46, 0, 0, 0, 7, 1, 2, 3, 4];

/// A metric as `/metrics` describes it.
#[derive(Default)]
struct Metric {
    help: String,
    kind: String,
    /// The labels of its series.
    labels: BTreeSet<String>,
    has_series: bool,
}

/// The labels in a line such as `name{a="x",b="y"} 1`.
fn labels(series: &str) -> impl Iterator<Item = &str> {
    let inside =
        series.split_once('{').and_then(|(_, rest)| rest.rsplit_once('}')).map_or("", |(inside, _)| inside);
    inside.split(',').filter_map(|pair| Some(pair.split_once('=')?.0)).filter(|label| *label != "le")
}

/// The metrics in OpenMetrics.
fn parse(text: &str) -> BTreeMap<String, Metric> {
    const OF_A_FAMILY: [&str; 4] = ["_total", "_bucket", "_sum", "_count"];
    let mut metrics = BTreeMap::<String, Metric>::new();
    for line in text.lines() {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        match words[..] {
            ["#", "HELP", name, help] => {
                metrics.entry(name.to_owned()).or_default().help = help.trim_end_matches('.').to_owned();
            }
            ["#", "TYPE", name, kind] => metrics.entry(name.to_owned()).or_default().kind = kind.to_owned(),
            ["#", ..] => {}
            _ => {
                let name = line.split(['{', ' ']).next().unwrap();
                let mut family = OF_A_FAMILY.iter().filter_map(|end| name.strip_suffix(end));
                let family = family.find(|family| metrics.contains_key(*family)).unwrap_or(name);
                let metric = metrics.get_mut(family).unwrap_or_else(|| panic!("{line} has no type"));
                metric.labels.extend(labels(line).map(str::to_owned));
                metric.has_series = true;
            }
        }
    }
    metrics
}

/// A process with a listener that has every kind of limit, two pools, replicas, and one connection to each pool.
fn every_metric() -> String {
    let backend = Backend::http("a");
    let engine = FakeEngine::start();
    let list = static_list(&[backend.address]);
    let lb = Lb::start(&format!(
        "listeners:\n  web: {{bind: 127.0.0.1:0, pool: web, max_connections: 100, per_client: {{connections: 100}}, \
         bandwidth: {{total: 1GiB/s}}}}\n  db: {{bind: 127.0.0.1:0, pool: db}}\n\
         pools:\n  web: {{discover: {list}, health: {{http: /health}}}}\n  db: {{discover: {list}, postgres: true}}\n  \
         own: {{replicas: {{image: backend, port: 5000, engine: \"{}\"}}}}\n",
        engine.address()
    ));
    eventually("the backend serves", || {
        http_get(lb.address("web"), "/").ok().filter(|(status, _)| *status == 200)
    });
    connect_to(lb.address("db")).unwrap().write_all(&CANCEL_REQUEST).unwrap();
    eventually("a series of every metric", || {
        let text = lb.get("/metrics").1;
        let complete = text.contains("pointsman_listener_cancel_requests_total{")
            && text.contains("pointsman_replicas{");
        (complete && text.contains("pointsman_connections_closed_total{")).then_some(text)
    })
}

#[test]
fn the_reference_of_the_metrics_is_current() {
    let mut page = "<!-- Generated: POINTSMAN_WRITE_REFERENCE=1 cargo test reference. Edits here are overwritten. -->\n\n\
                    # Metrics\n\nAll of `/metrics` on the admin address. The values of the labels come from the \
                    configuration, from discovery, or from a list in the program; never from clients. `backend` is a name, or \
                    `name@address` if another backend of that name serves beside it and was found first. A histogram has the \
                    series `_bucket`, `_sum` and `_count`.\n\n| metric | type | labels | meaning |\n| --- | --- | --- | --- |\n"
        .to_owned();
    for (name, metric) in parse(&every_metric()) {
        assert!(metric.has_series, "{name} has no series: give every_metric a configuration with one");
        let labels: Vec<_> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        let end = if metric.kind == "counter" { "_total" } else { "" };
        page += &format!("| `{name}{end}` | {} | {} | {} |\n", metric.kind, labels.join(", "), metric.help);
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/src/reference/metrics.md");
    if std::env::var_os("POINTSMAN_WRITE_REFERENCE").is_some() {
        std::fs::write(&file, page).unwrap();
        return;
    }
    let current = std::fs::read_to_string(&file).is_ok_and(|current| current == page);
    assert!(current, "{} is stale: POINTSMAN_WRITE_REFERENCE=1 cargo test reference", file.display());
}
