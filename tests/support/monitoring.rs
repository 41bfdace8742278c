//! The queries of the alert rules and of the dashboard in `compose/monitoring`.

use std::path::{Path, PathBuf};

use serde_json::Value;

/// The folder of the files for Prometheus and Grafana.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("compose/monitoring")
}

/// The YAML files of one of its folders, in order, each with its content.
pub fn yaml_files(under: &str) -> Vec<(PathBuf, Value)> {
    let entries = std::fs::read_dir(folder().join(under)).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> =
        entries.filter(|path| path.extension().is_some_and(|end| end == "yaml")).collect();
    paths.sort();
    let read = |path: PathBuf| {
        let content = serde_yaml::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        (path, content)
    };
    paths.into_iter().map(read).collect()
}

/// The elements of a required array.
pub fn array(value: &Value) -> &[Value] {
    value.as_array().unwrap_or_else(|| panic!("no array: {value}"))
}

/// A required text.
pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}

/// All alert rules.
pub fn alerts() -> Vec<Value> {
    let files = yaml_files("prometheus/rules");
    let groups = files.iter().flat_map(|(_, file)| array(&file["groups"]));
    groups.flat_map(|group| array(&group["rules"])).cloned().collect()
}

/// The dashboard.
pub fn dashboard() -> Value {
    let path = folder().join("grafana/dashboards/pointsman.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// The panels of the dashboard with a query or a text.
pub fn panels(dashboard: &Value) -> Vec<&Value> {
    array(&dashboard["panels"]).iter().filter(|panel| panel["type"] != "row").collect()
}

/// The dashboard's queries as Grafana sends them for all values of its variables, each with its panel's title.
pub fn dashboard_queries() -> Vec<(String, String)> {
    let dashboard = dashboard();
    let expression = |query: &Value| {
        let query = text(query).replace("$__rate_interval", "1m");
        query.replace("$instance", ".+").replace("$pool", ".+")
    };
    let mut queries = Vec::new();
    for panel in panels(&dashboard) {
        let targets = array(&panel["targets"]).iter();
        queries.extend(targets.map(|target| (text(&panel["title"]).to_owned(), expression(&target["expr"]))));
    }
    let annotations = array(&dashboard["annotations"]["list"]).iter();
    queries.extend(annotations.map(|one| (text(&one["name"]).to_owned(), expression(&one["expr"]))));
    queries
}
