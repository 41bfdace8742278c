//! Prometheus rules and Grafana dashboard (`compose/monitoring`): the rules fire when they should, and each metric that
//! they and the dashboard query exists.
//!
//! The tests that need `promtool` (of Debian's package `prometheus`) are skipped without it, unless
//! `POINTSMAN_REQUIRE_TOOLS=1`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::{Command, Stdio};

use crate::support::backend::Backend;
use crate::support::monitoring::{
    alerts, array, dashboard, dashboard_queries, folder, panels, text, yaml_files,
};
use crate::support::{Lb, TOOL, connect_to, eventually, http_get, output_of, skip};
use serde_json::Value;

/// Runs promtool, which must succeed; `false` if it is not installed.
fn promtool(arguments: &[&str], input: &str) -> bool {
    let mut command = Command::new("promtool");
    command.args(arguments).current_dir(folder());
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => {
            let missing = format!("promtool does not start: {error} (`apt-get install prometheus`)");
            skip("POINTSMAN_REQUIRE_TOOLS", &missing);
            return false;
        }
    };
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes()); // promtool may exit before it has read everything
    let output = output_of(child, TOOL, "promtool");
    let text =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success(), "{command:?}: {}\n{text}", output.status);
    true
}

/// A balancer whose metrics all have values.
fn busy() -> (Lb, Backend) {
    let backend = Backend::http("a");
    let lb = Lb::start(&format!(
        "listeners:
  web: {{bind: 127.0.0.1:0, pool: web, max_connections: 100}}
  tls: {{bind: 127.0.0.1:0, sni: {{www.example.com: web}}}}
  behind: {{bind: 127.0.0.1:0, pool: web, proxy_protocol: {{trust: 127.0.0.1, timeout: 50ms}}}}
pools: {{web: {{discover: [{{static: [127.0.0.1:1, \"{}\"]}}]}}}}",
        backend.address
    ));
    for _ in 0..4 {
        assert_eq!(http_get(lb.address("web"), "/").unwrap().1, "a");
    }
    // Without a byte of a PROXY header in time, and with other bytes; a busy machine may send those too late.
    let late = connect_to(lb.address("behind")).unwrap();
    lb.when_logged("reason=preface_timeout");
    eventually("a connection without a header is rejected", || {
        http_get(lb.address("behind"), "/").unwrap_err();
        lb.logged(&["reason=preface_invalid"]).pop()
    });
    // A client without TLS, and one that asks for another server.
    http_get(lb.address("tls"), "/").unwrap_err();
    let hello = include_bytes!("../../src/protocol/client_hello_samples/curl.bin");
    connect_to(lb.address("tls")).unwrap().write_all(hello).unwrap();
    lb.when_logged("reason=denied");
    lb.when_idle();
    drop(late);
    (lb, backend)
}

/// `/metrics` in the plain text format, which names counters without a suffix rule.
fn plain(lb: &Lb) -> String {
    let mut stream = connect_to(lb.admin()).unwrap();
    stream
        .write_all(
            b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: text/plain\r\nConnection: close\r\n\r\n",
        )
        .unwrap();
    let answer = std::io::read_to_string(stream).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.to_lowercase().contains("content-type: text/plain; version=0.0.4"), "{head}");
    body.to_owned()
}

/// The selector of a metric in a query.
#[derive(Debug, Default)]
struct Selected {
    /// Labels with their allowed values; none for negative matchers.
    labels: Vec<(String, Vec<String>)>,
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Pointsman's metrics that a query selects.
fn selected(query: &str) -> Vec<(String, Selected)> {
    let mut all = Vec::new();
    let mut rest = query;
    while let Some(start) = ["pointsman_", "process_"].iter().filter_map(|prefix| rest.find(prefix)).min() {
        rest = &rest[start..];
        let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        let name = rest[..end].to_owned();
        rest = &rest[end..];
        let mut selected = Selected::default();
        if let Some(matchers) = rest.strip_prefix('{') {
            let end = matchers.find('}').unwrap();
            rest = &matchers[end..];
            for matcher in matchers[..end].split(", ") {
                let (label, test) = matcher.split_at(matcher.find(|c| !is_word(c)).unwrap());
                let (how, value) = test.split_once('"').unwrap();
                let value = value.strip_suffix('"').unwrap();
                let values = match how {
                    "=" => vec![value.to_owned()],
                    "=~" => value.split('|').map(str::to_owned).collect(),
                    "!=" | "!~" => Vec::new(),
                    _ => panic!("{how} in {query}"),
                };
                selected.labels.push((label.to_owned(), values));
            }
        }
        all.push((name, selected));
    }
    all
}

/// The labels by which a query groups and matches.
fn grouped(query: &str) -> Vec<String> {
    let mut labels = Vec::new();
    for word in ["by (", "without (", "ignoring (", "on ("] {
        for rest in query.split(word).skip(1) {
            let list = rest.split(')').next().unwrap();
            labels.extend(list.split(',').map(|label| label.trim().to_owned()));
        }
    }
    labels
}

/// Labels and their values, of each metric that is served.
fn served(text: &str) -> BTreeMap<String, BTreeMap<String, BTreeSet<String>>> {
    let mut all = BTreeMap::<String, BTreeMap<String, BTreeSet<String>>>::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let name = &line[..line.find([' ', '{']).unwrap()];
        let labels = all.entry(name.to_owned()).or_default();
        let Some((list, _)) = line[name.len()..].strip_prefix('{').and_then(|list| list.rsplit_once('}'))
        else {
            continue;
        };
        for label in list.strip_suffix('"').unwrap_or(list).split("\",") {
            let (label, value) = label.split_once("=\"").unwrap();
            labels.entry(label.to_owned()).or_default().insert(value.to_owned());
        }
    }
    all
}

#[test]
fn the_alerts_pass_their_promtool_tests() {
    let names = |under: &str| -> Vec<String> {
        let files = yaml_files(under).into_iter();
        files.map(|(path, _)| path.file_name().unwrap().to_string_lossy().into_owned()).collect()
    };
    assert_eq!(names("prometheus/rules"), names("prometheus/tests"), "each group has its tests");
    if !promtool(&["check", "config", "prometheus/prometheus.yml"], "") {
        return;
    }
    for file in names("prometheus/tests") {
        promtool(&["test", "rules", &format!("prometheus/tests/{file}")], "");
    }
}

#[test]
fn every_alert_is_tested_firing_and_silent_and_has_a_remedy() {
    let tests = yaml_files("prometheus/tests");
    let tests = tests.iter().flat_map(|(_, file)| array(&file["tests"]));
    let tried: Vec<_> = tests.flat_map(|test| array(&test["alert_rule_test"])).collect();
    for alert in alerts() {
        let name = text(&alert["alert"]);
        assert!(name.starts_with("Pointsman"), "{name}");
        let severity = text(&alert["labels"]["severity"]);
        assert!(["critical", "warning", "info"].contains(&severity), "{name}: {severity}");
        for (annotation, least) in [("summary", 20), ("description", 80)] {
            assert!(text(&alert["annotations"][annotation]).len() >= least, "{name}: {annotation}");
        }
        let fires = |test: &Value| test["exp_alerts"].as_array().is_some_and(|alerts| !alerts.is_empty());
        for wanted in [true, false] {
            let found = tried.iter().any(|test| test["alertname"] == name && fires(test) == wanted);
            assert!(found, "no test in which {name} {}", if wanted { "fires" } else { "stays silent" });
        }
    }
}

#[test]
fn the_queries_of_the_dashboard_are_promql() {
    let queries = dashboard_queries();
    let rule = |(index, (_, query)): (usize, &(String, String))| serde_json::json!({"record": format!("query:{index}"), "expr": query});
    let rules: Vec<_> = queries.iter().enumerate().map(rule).collect();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("queries.yaml");
    let rules = serde_json::json!({"groups": [{"name": "dashboard", "rules": rules}]});
    std::fs::write(&path, rules.to_string()).unwrap();
    promtool(&["check", "rules", path.to_str().unwrap()], "");
}

#[test]
fn every_metric_that_alerts_and_dashboard_query_is_served() {
    let (lb, _backend) = busy();
    let served = served(&plain(&lb));
    // Prometheus adds the first two.
    let mut labels: BTreeSet<&str> = ["job", "instance", "le"].into();
    labels.extend(served.values().flat_map(|labels| labels.keys().map(String::as_str)));
    let alerts = alerts();
    let alerts =
        alerts.iter().map(|alert| (text(&alert["alert"]).to_owned(), text(&alert["expr"]).to_owned()));
    let dashboard = dashboard();
    // A variable lists the values of a label: `label_values(metric, label)`.
    let variables =
        array(&dashboard["templating"]["list"]).iter().filter_map(|one| one["definition"].as_str());
    let variables = variables.map(|query| ("a variable".to_owned(), query.replace("$instance", ".+")));
    let queries: Vec<_> = alerts.chain(dashboard_queries()).chain(variables).collect();
    assert!(queries.len() > 50, "{}", queries.len());
    for (source, query) in queries {
        for label in grouped(&query) {
            assert!(labels.contains(label.as_str()), "{source}: no series has the label {label}: {query}");
        }
        for (metric, selected) in selected(&query) {
            let Some(series) = served.get(&metric) else { panic!("{source}: {metric} is not served") };
            for (label, values) in selected.labels {
                if label == "job" || label == "instance" {
                    continue;
                }
                let Some(there) = series.get(&label) else {
                    panic!("{source}: {metric} has no label {label}")
                };
                for value in values.iter().filter(|value| *value != ".+") {
                    assert!(
                        there.contains(value),
                        "{source}: no {metric} has {label}={value}, only {there:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn the_dashboard_is_valid() {
    let dashboard = dashboard();
    let variables = array(&dashboard["templating"]["list"]).iter();
    let variables: Vec<_> = variables.map(|variable| text(&variable["name"])).collect();
    assert_eq!(variables, ["datasource", "instance", "pool"]);
    let mut ids = BTreeSet::new();
    let mut taken = BTreeSet::new();
    for panel in array(&dashboard["panels"]) {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "an id twice: {panel}");
        let place = |key: &str| panel["gridPos"][key].as_u64().unwrap();
        assert!(place("x") + place("w") <= 24, "{panel}");
        for x in place("x")..place("x") + place("w") {
            for y in place("y")..place("y") + place("h") {
                assert!(taken.insert((x, y)), "{} lies on another panel", panel["title"]);
            }
        }
    }
    for panel in panels(&dashboard) {
        let title = text(&panel["title"]);
        assert!(!title.is_empty() && !text(&panel["description"]).is_empty(), "{panel}");
        assert!(
            panel["type"] == "state-timeline" || panel["fieldConfig"]["defaults"]["unit"].is_string(),
            "{title} has no unit"
        );
        assert!(panel.get("links").is_none(), "{title}");
        for target in array(&panel["targets"]) {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{title}");
            let query = text(&target["expr"]);
            assert!(query.contains("instance=~\"$instance\""), "{title} is of all instances: {query}");
        }
    }
}

#[test]
fn the_metrics_follow_the_conventions() {
    let (lb, _backend) = busy();
    let text = plain(&lb);
    assert!(!text.contains("# EOF"), "{text}");
    promtool(&["check", "metrics"], &text);
    // Both formats have the same metrics.
    let series = |text: &str| -> BTreeSet<String> {
        let series = text.lines().filter(|line| !line.starts_with('#'));
        series.map(|line| line.rsplit_once(' ').unwrap().0.to_owned()).collect()
    };
    assert_eq!(series(&text), series(&lb.get("/metrics").1));
}
