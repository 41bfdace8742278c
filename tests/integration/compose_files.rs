//! The platforms in `compose`: what their pages promise of each service, which a key that replaces a merged one would
//! remove without an error.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::monitoring::{array, text};

/// The files with a whole platform.
const PLATFORMS: [&str; 2] = ["ecommerce.yaml", "microservices.yaml"];

fn read(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A YAML file, with its anchors and merge keys resolved.
fn parsed(file: &str) -> Value {
    serde_yaml::from_str(&read(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// The entries of a required mapping.
fn entries(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let map = value.as_object().unwrap_or_else(|| panic!("no mapping: {value}"));
    map.iter().map(|(key, value)| (&**key, value))
}

/// The services that `up` starts. Those with a profile are tools that an operator runs.
fn services(platform: &Value) -> impl Iterator<Item = (&str, &Value)> {
    entries(&platform["services"]).filter(|(_, service)| service["profiles"].is_null())
}

/// Whether it has a health check, in the file or in its image, or says that it has none.
fn has_health_check(service: &Value) -> bool {
    let check = &service["healthcheck"];
    let from_dockerfile = service["build"] == ".." && read("Dockerfile").contains("\nHEALTHCHECK ");
    check["test"].is_array() || check["disable"] == true || from_dockerfile
}

/// What a service lacks of that which all services of a platform have.
fn missing(service: &Value) -> Vec<&'static str> {
    let resources = &service["deploy"]["resources"];
    let log_files = json!({"driver": "json-file", "options": {"max-size": "10m", "max-file": "3"}});
    let required = [
        ("a limit of CPU", resources["limits"]["cpus"].is_string()),
        ("a limit of memory", resources["limits"]["memory"].is_string()),
        ("a reservation of memory", resources["reservations"]["memory"].is_string()),
        ("three log files of 10 MB", service["logging"] == log_files),
        ("a restart policy", service["restart"] == "unless-stopped"),
        ("no new privileges", service["security_opt"] == json!(["no-new-privileges:true"])),
        ("a health check", has_health_check(service)),
    ];
    required.into_iter().filter(|(_, present)| !present).map(|(what, _)| what).collect()
}

#[test]
fn every_service_of_a_platform_has_limits_log_files_and_a_health_check() {
    let mut lacking = Vec::new();
    for file in PLATFORMS {
        let platform = parsed(&format!("compose/{file}"));
        for (name, service) in services(&platform) {
            lacking.extend(missing(service).into_iter().map(|what| format!("{file}: {name} lacks {what}")));
        }
    }
    assert!(lacking.is_empty(), "{lacking:#?}");
}

#[test]
fn a_service_without_a_health_check_says_why() {
    for file in PLATFORMS {
        let text = read(&format!("compose/{file}"));
        let mut disabled = text.lines().filter(|line| line.contains("disable: true"));
        assert!(disabled.all(|line| line.contains("} # ")), "{file}");
    }
}

#[test]
fn a_platform_publishes_the_ports_of_pointsman_only() {
    for file in PLATFORMS {
        let platform = parsed(&format!("compose/{file}"));
        let publishing = services(&platform).filter(|(_, service)| !service["ports"].is_null());
        assert_eq!(publishing.map(|(name, _)| name).collect::<Vec<_>>(), ["pointsman"], "{file}");
    }
}

#[test]
fn stores_are_on_internal_networks_only() {
    const STORES: [&str; 3] = ["postgres:", "redis:", "rabbitmq:"];
    for file in PLATFORMS {
        let platform = parsed(&format!("compose/{file}"));
        let is_store =
            |service: &Value| STORES.iter().any(|image| text(&service["image"]).starts_with(image));
        let stores: Vec<_> = services(&platform).filter(|(_, service)| is_store(service)).collect();
        assert!(stores.len() > 2, "{file}: {stores:#?}");
        for (name, store) in stores {
            for network in array(&store["networks"]).iter().map(text) {
                assert_eq!(platform["networks"][network]["internal"], true, "{file}: {name} on {network}");
            }
        }
    }
}

#[test]
fn in_production_every_secret_comes_from_elsewhere() {
    let names = |file: &str| -> Vec<String> {
        entries(&parsed(file)["secrets"]).map(|(name, _)| name.to_owned()).collect()
    };
    assert_eq!(names("compose/ecommerce.production.yaml"), names("compose/ecommerce.yaml"));
    for (name, secret) in entries(&parsed("compose/ecommerce.production.yaml")["secrets"]) {
        assert_eq!(secret["file"], format!("${{SECRETS:-/run/shop-secrets}}/{name}"));
    }
}

#[test]
fn grafana_knows_the_interval_of_the_scrapes() {
    for (datasource, scrapes) in [
        ("monitoring/grafana/datasources/prometheus.yaml", "monitoring/prometheus/prometheus.yml"),
        ("ecommerce/grafana/datasources/prometheus.yaml", "ecommerce/prometheus/prometheus.yml"),
    ] {
        let prometheus = parsed(&format!("compose/{scrapes}"));
        let grafana = parsed(&format!("compose/{datasource}"));
        let interval = &grafana["datasources"][0]["jsonData"]["timeInterval"];
        assert_eq!(interval, &prometheus["global"]["scrape_interval"], "{datasource}");
    }
}
