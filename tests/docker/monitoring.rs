//! A real Prometheus with Pointsman, as in `compose/monitoring.yaml`: it scrapes, loads the rules, and answers the
//! dashboard's queries. Grafana does not run.

use serde_json::Value;

use super::*;
use crate::engine::image;
use crate::support::connect_to;
use crate::support::monitoring::{alerts, array, dashboard_queries, text};

/// The image of Prometheus in the Compose file.
fn prometheus_image() -> String {
    let path = std::path::Path::new(engine::ROOT).join("compose/monitoring.yaml");
    let file: Value = serde_yaml::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    text(&file["services"]["prometheus"]["image"]).to_owned()
}

/// A value in a query string.
fn encoded(text: &str) -> String {
    let byte =
        |b: u8| if b.is_ascii_alphanumeric() { char::from(b).to_string() } else { format!("%{b:02X}") };
    text.bytes().map(byte).collect()
}

/// A response of Prometheus' API; `None` while it starts. By HTTP/1.0, which has no chunks.
fn get(prometheus: SocketAddr, path: &str) -> Option<Value> {
    let mut stream = connect_to(prometheus).ok()?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: test\r\n\r\n").as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let answer: Value = serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()?;
    assert_ne!(answer["errorType"], "bad_data", "{path}: {answer}");
    (answer["status"] == "success").then(|| answer["data"].clone())
}

/// Waits for Prometheus, which scrapes every five seconds and evaluates every five seconds.
fn when_known<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    eventually(what, condition)
}

/// The series of a query.
fn query(prometheus: SocketAddr, query: &str) -> Vec<Value> {
    let data = get(prometheus, &format!("/api/v1/query?query={}", encoded(query)));
    data.map(|data| data["result"].as_array().cloned().unwrap_or_default()).unwrap_or_default()
}

#[test]
fn prometheus_scrapes_it_and_fires_alerts() {
    let Some(_engine) = engine() else { return };
    if !image(&prometheus_image()) {
        return;
    }
    let project = Project::new("compose/monitoring.yaml", 2);
    project.compose(&["up", "-d", "pointsman", "backend", "prometheus"]);
    let web = project.published("pointsman", "8080");
    let prometheus = project.published("prometheus", "9090");
    when_up(ip(&project.containers("pointsman")[0]), 2);
    let _clients = Clients::start(2, Duration::from_millis(50), web);

    // It has the metrics of Pointsman.
    when_known("Prometheus knows that two are up", || {
        let up = query(prometheus, "pointsman_backends{job=\"pointsman\", pool=\"web\", state=\"up\"}");
        up.iter().any(|series| series["value"][1] == "2").then_some(())
    });

    // All rules are loaded, and can be evaluated.
    let rules = when_known("all rules were evaluated", || {
        let data = get(prometheus, "/api/v1/rules")?;
        let groups = array(&data["groups"]).iter();
        let rules: Vec<Value> = groups.flat_map(|group| array(&group["rules"])).cloned().collect();
        (!rules.is_empty() && rules.iter().all(|rule| rule["health"] != "unknown")).then_some(rules)
    });
    assert!(rules.iter().all(|rule| rule["health"] == "ok"), "{rules:?}");
    let names = |rules: &[Value], key: &str| -> BTreeSet<String> {
        rules.iter().map(|rule| text(&rule[key]).to_owned()).collect()
    };
    assert_eq!(names(&rules, "name"), names(&alerts(), "alert"));

    // The dashboard's queries have results, except for events that have not happened.
    for (panel, expression) in dashboard_queries() {
        if panel == "Start of the process" {
            query(prometheus, &expression); // checks that it is valid
            continue;
        }
        let mut expression = expression;
        // Of a query that hides zeros, whether the metric exists.
        if let Some(all) = expression.strip_suffix(" > 0") {
            expression = all.to_owned();
        }
        when_known(&format!("{panel} has data: {expression}"), || {
            (!query(prometheus, &expression).is_empty()).then_some(())
        });
    }

    // All backends stop: an alert is pending or firing.
    for backend in project.containers("backend") {
        docker(&["kill", &backend]);
    }
    let alert = when_known("an alert is on its way", || {
        let data = get(prometheus, "/api/v1/alerts")?;
        array(&data["alerts"])
            .iter()
            .find(|one| one["labels"]["alertname"] == "PointsmanNoBackendUp")
            .cloned()
    });
    assert_eq!(alert["labels"]["pool"], "web", "{alert}");
    assert!(["pending", "firing"].contains(&text(&alert["state"])), "{alert}");
    assert!(text(&alert["annotations"]["summary"]).contains("No backend of web is up"), "{alert}");
    assert_eq!(query(prometheus, "pointsman_pool_serving_tier{tier=\"none\"} == 1").len(), 1);
}
