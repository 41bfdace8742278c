use std::num::NonZeroU32;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::domain::SocketAddress;

/// A container in the list of an engine of API version 1.41, as recorded from Docker 20.10.
fn recorded() -> Value {
    json!({
        "Id": "dfd16b34f8bbfdb88e469be85b985d792b74ac1e71277ce992589ff80332d20c",
        "Names": ["/web-1"],
        "Image": "python:3.13-slim",
        "ImageID": "sha256:05461ac1ac84cee65a00bb2512dc3140f56be9d6b5497c4df455c847fe5c23bc",
        "Command": "sleep 60",
        "Created": 1795271293,
        "Ports": [{"PrivatePort": 5000, "Type": "tcp"}],
        "Labels": {"org.example.stand-in": "true", "pointsman.pool": "web"},
        "State": "running",
        "Status": "Up 3 seconds",
        "HostConfig": {"NetworkMode": "default"},
        "NetworkSettings": {"Networks": {"bridge": {
            "IPAMConfig": null, "Links": null, "Aliases": null,
            "NetworkID": "d63b56a1568b9380ea34b13384935ddd9ed07880b9108e46b4790bad8ffc2b8a",
            "EndpointID": "348b53d2b655f5356c82bceb62e62ed289e22db6901d7d0ba9b44378c84dbbd1",
            "Gateway": "172.17.0.1", "IPAddress": "172.17.0.2", "IPPrefixLen": 16,
            "IPv6Gateway": "", "GlobalIPv6Address": "", "GlobalIPv6PrefixLen": 0,
            "MacAddress": "02:42:ac:11:00:02", "DriverOpts": null
        }}},
        "Mounts": []
    })
}

/// The recorded container with a change.
fn but(change: impl FnOnce(&mut Value)) -> ContainerSummary {
    let mut container = recorded();
    change(&mut container);
    serde_json::from_value(container).unwrap()
}

/// The recorded container with additional labels.
fn labelled(labels: &[(&str, &str)]) -> ContainerSummary {
    but(|container| {
        for (key, value) in labels {
            container["Labels"][*key] = json!(value);
        }
    })
}

fn on(networks: Value) -> ContainerSummary {
    but(|container| container["NetworkSettings"]["Networks"] = networks)
}

fn settings() -> Docker {
    Docker::new("pointsman.pool=web".into())
}

fn filter(settings: &Docker) -> ContainerFilter {
    ContainerFilter::new(&settings.label, settings.adopt.as_ref())
}

fn reading(settings: &Docker, containers: &[ContainerSummary]) -> ParsedList {
    read(settings, &filter(settings), containers, &HashMap::new(), &|_| false)
}

/// The only backend that a container makes, without setup errors.
fn only(settings: &Docker, container: ContainerSummary) -> Found {
    let mut reading = reading(settings, &[container]);
    assert!(reading.setup_errors.is_empty(), "{:?}", reading.setup_errors);
    assert_eq!(reading.found.len(), 1);
    reading.found.remove(0)
}

/// Why a container makes no backend.
fn skipped(settings: &Docker, container: ContainerSummary) -> String {
    let reading = reading(settings, &[container]);
    assert!(reading.found.is_empty(), "{:?}", reading.found);
    let error = reading.setup_errors.into_iter().next().unwrap();
    assert!(error.skipped);
    error.reason
}

fn address(text: &str) -> SocketAddress {
    text.parse().unwrap()
}

#[test]
fn a_container_is_a_backend_with_its_name_its_address_and_its_exposed_port() {
    let found = only(&settings(), but(|_| ()));
    assert_eq!(found, Found::new("web-1".into(), address("172.17.0.2:5000")));
}

#[test]
fn labels_set_name_port_weight_backup_connections_and_zone() {
    let labels = [
        ("pointsman.name", "big"),
        ("pointsman.port", "8080"),
        ("pointsman.weight", "0"),
        ("pointsman.backup", "true"),
        ("pointsman.connections", "7"),
        ("pointsman.zone", "eu-1a"),
    ];
    let found = only(&Docker { port: Some(80), ..settings() }, labelled(&labels));
    let wanted = Found {
        weight: 0,
        tier: 1,
        connections: NonZeroU32::new(7),
        zone: Some("eu-1a".into()),
        ..Found::new("big".into(), address("172.17.0.2:8080"))
    };
    assert_eq!(found, wanted);
}

#[test]
fn an_empty_zone_is_unknown() {
    assert_eq!(only(&settings(), labelled(&[("pointsman.zone", "")])).zone, None);
}

#[test]
fn invalid_labels_are_reported_and_the_defaults_apply() {
    let labels = [
        ("pointsman.name", "web\n2026-11-22 INFO closed"),
        ("pointsman.port", "0"),
        ("pointsman.weight", "257"),
        ("pointsman.backup", "yes"),
        ("pointsman.connections", "-1"),
        ("pointsman.zone", "eu/1a"),
    ];
    let reading = reading(&settings(), &[labelled(&labels)]);
    assert_eq!(reading.found, [Found::new("web-1".into(), address("172.17.0.2:5000"))]);
    let reasons: Vec<_> = reading.setup_errors.iter().map(|error| error.reason.as_str()).collect();
    assert_eq!(reasons.len(), labels.len(), "{reasons:?}");
    for (label, value) in labels {
        let word = format!("its label {label} must be");
        let value = format!("{value:?}");
        assert!(reasons.iter().any(|one| one.contains(&word) && one.contains(&value)), "{reasons:?}");
    }
    assert!(reading.setup_errors.iter().all(|error| !error.skipped && &*error.name == "web-1"));
}

#[test]
fn an_invalid_name_label_leaves_the_container_its_own_name() {
    let long = "x".repeat(300_000);
    for label in ["a\nb", "\x1b[2J", "\u{202e}gnp", "a/b", "..", &long] {
        let reading = reading(&settings(), &[labelled(&[("pointsman.name", label)])]);
        assert_eq!(reading.found, [Found::new("web-1".into(), address("172.17.0.2:5000"))], "{label:?}");
        assert_eq!(reading.owners.values().map(|name| &**name).collect::<Vec<_>>(), ["web-1"]);
        let error = reading.setup_errors.first().unwrap();
        assert!(!error.skipped && error.reason.starts_with("its label pointsman.name must be"));
        assert!(error.reason.len() < 500 && !error.reason.contains(char::is_control), "{error:?}");
    }
    // An empty label counts as absent, and surrounding spaces are ignored.
    assert_eq!(&*only(&settings(), labelled(&[("pointsman.name", "")])).name, "web-1");
    assert_eq!(&*only(&settings(), labelled(&[("pointsman.name", " Server 1 ")])).name, "Server 1");
}

#[test]
fn only_labelled_containers_are_backends_but_all_own_their_addresses() {
    let unlabelled = but(|container| {
        container["Id"] = json!("2");
        container["Names"] = json!(["/other"]);
        container["Labels"]["pointsman.pool"] = json!("db");
        container["NetworkSettings"]["Networks"]["bridge"]["IPAddress"] = json!("172.17.0.3");
    });
    let list = reading(&settings(), &[unlabelled.clone(), but(|_| ())]);
    assert_eq!(list.found.len(), 1);
    let owner = |ip: &str| list.owners.get(&ip.parse::<IpAddr>().unwrap()).map(|name| &**name);
    assert_eq!((owner("172.17.0.2"), owner("172.17.0.3")), (Some("web-1"), Some("other")));
    // A label without a value matches any value.
    assert_eq!(reading(&Docker::new("pointsman.pool".into()), &[unlabelled]).found.len(), 1);
}

#[test]
fn no_port_is_guessed_from_several() {
    let ports = |ports: Value| but(|container| container["Ports"] = ports);
    let many = json!([{"PrivatePort": 80, "Type": "tcp"}, {"PrivatePort": 443, "Type": "tcp"}]);
    let why = skipped(&settings(), ports(many.clone()));
    assert!(why.contains("2 ports") && why.contains("pointsman.port"), "{why}");
    assert!(
        skipped(&settings(), ports(json!([{"PrivatePort": 53, "Type": "udp"}]))).contains("pointsman.port")
    );
    let found = only(&Docker { port: Some(443), ..settings() }, ports(many));
    assert_eq!(found.address.tcp().unwrap().port(), 443);
    // A port that is published for both families is listed twice.
    let published = json!([
        {"IP": "0.0.0.0", "PrivatePort": 5000, "PublicPort": 8080, "Type": "tcp"},
        {"IP": "::", "PrivatePort": 5000, "PublicPort": 8080, "Type": "tcp"},
        {"PrivatePort": 53, "Type": "udp"}
    ]);
    assert_eq!(only(&settings(), ports(published)).address.tcp().unwrap().port(), 5000);
}

#[test]
fn the_network_is_the_configured_one_or_a_local_one_or_the_first() {
    let networks = json!({
        "c": {"IPAddress": "10.3.0.2", "IPPrefixLen": 16},
        "a": {"IPAddress": "10.1.0.2", "IPPrefixLen": 16},
        "b": {"IPAddress": "10.2.0.2", "IPPrefixLen": 16},
        "down": {"IPAddress": "", "IPPrefixLen": 0}
    });
    let found = |settings: &Docker, is_local: &dyn Fn(&IpNet) -> bool| {
        let containers = [on(networks.clone())];
        let mut reading = read(settings, &filter(settings), &containers, &HashMap::new(), is_local);
        reading.found.remove(0).address.ip().unwrap().to_string()
    };
    assert_eq!(found(&settings(), &|_| false), "10.1.0.2");
    let ours: IpAddr = "10.3.0.9".parse().unwrap();
    assert_eq!(found(&settings(), &|net| net.contains(&ours)), "10.3.0.2");
    let named = |network: &str| Docker { network: Some(network.into()), ..settings() };
    assert_eq!(found(&named("b"), &|net| net.contains(&ours)), "10.2.0.2");
    let why = skipped(&named("down"), on(networks.clone()));
    assert_eq!(why, "it is not on the network \"down\", but on a, b, c");
}

#[test]
fn an_ipv4_and_an_ipv6_address_are_one_backend_and_either_is_enough() {
    let both = json!({"n": {"IPAddress": "10.1.0.2", "IPPrefixLen": 16,
        "GlobalIPv6Address": "fd00::2", "GlobalIPv6PrefixLen": 64}});
    let found = only(&settings(), on(both));
    assert_eq!(
        (found.address, found.also),
        (address("10.1.0.2:5000"), vec!["[fd00::2]:5000".parse().unwrap()])
    );
    let sixth = json!({"n": {"IPAddress": "", "GlobalIPv6Address": "fd00::2", "GlobalIPv6PrefixLen": 64}});
    let found = only(&settings(), on(sixth));
    assert_eq!((found.address, found.also), (address("[fd00::2]:5000"), vec![]));
}

#[test]
fn a_container_without_its_own_address_is_reported() {
    let mode = |mode: &str, networks: Value| {
        but(|container| {
            container["HostConfig"]["NetworkMode"] = json!(mode);
            container["NetworkSettings"]["Networks"] = networks;
        })
    };
    let why = skipped(&settings(), mode("host", json!({"host": {"IPAddress": "", "IPPrefixLen": 0}})));
    assert!(why.contains("shares its host's network") && why.contains("`static`"), "{why}");
    let why = skipped(&settings(), mode("container:abc", json!({})));
    assert!(why.contains("container:abc"), "{why}");
}

#[test]
fn the_healthcheck_gives_the_fitness() {
    let status = |status: &str| but(|container| container["Status"] = json!(status));
    let fitness = |container| only(&settings(), container).fitness;
    assert_eq!(fitness(status("Up 3 seconds")), Fitness::Unknown);
    assert_eq!(fitness(status("Up 3 seconds (health: starting)")), Fitness::Starting);
    assert_eq!(fitness(status("Up 3 seconds (healthy)")), Fitness::Healthy);
    assert_eq!(
        fitness(status("Up About an hour (unhealthy)")),
        Fitness::Unhealthy("its HEALTHCHECK fails".into())
    );
    let reasons = HashMap::from([(id(&but(|_| ())).to_owned(), unhealthy_because("first\ndisk full\n\n"))]);
    let unhealthy = [status("Up 3 seconds (unhealthy)")];
    let reading = read(&settings(), &filter(&settings()), &unhealthy, &reasons, &|_| false);
    assert_eq!(reading.found[0].fitness, Fitness::Unhealthy("its HEALTHCHECK fails: disk full".into()));
    // Newer engines have a field for the condition.
    let newer =
        |status: &str| but(|container| container["Health"] = json!({"Status": status, "FailingStreak": 0}));
    assert_eq!(fitness(newer("starting")), Fitness::Starting);
    assert_eq!(fitness(newer("none")), Fitness::Unknown);
    let without = Docker { healthcheck: false, ..settings() };
    assert_eq!(only(&without, status("Up 3 seconds (unhealthy)")).fitness, Fitness::Unknown);
}

#[test]
fn a_paused_container_is_unhealthy_and_a_restarting_one_is_no_backend() {
    let state = |state: &str| but(|container| container["State"] = json!(state));
    assert_eq!(only(&settings(), state("paused")).fitness, Fitness::Unhealthy("it is paused".into()));
    let reading = reading(&settings(), &[state("restarting"), state("exited")]);
    assert!(reading.found.is_empty() && reading.setup_errors.is_empty() && reading.owners.is_empty());
}

#[test]
fn a_name_given_by_a_link_is_not_used() {
    let linked = but(|container| container["Names"] = json!(["/front/web", "/web-7"]));
    assert_eq!(&*only(&settings(), linked).name, "web-7");
}

/// Any text for a label, often one that is nearly valid.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![any::<String>(), "[ ]?-?[0-9]{1,6}[ ]?", "true|false|TRUE|yes"]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever the labels and networks: a container with a usable address and port is a backend within bounds, each
    /// ignored label is reported, and the order of the list does not matter.
    #[test]
    fn any_labels_give_backends_within_bounds(
        containers in proptest::collection::vec(
            (proptest::option::of(text()), proptest::option::of(text()), proptest::option::of(text()),
             proptest::option::of(text()), 0_u8..3, 0..5_u8), 0..6),
    ) {
        let list: Vec<_> = containers.iter().enumerate().map(|(index, (port, weight, backup, connections, nets, state))| {
            but(|container| {
                container["Id"] = json!(index.to_string());
                container["Names"] = json!([format!("/c{index}")]);
                let labels = [("port", port), ("weight", weight), ("backup", backup), ("connections", connections)];
                for (key, value) in labels {
                    if let Some(value) = value {
                        container["Labels"][format!("pointsman.{key}")] = json!(value);
                    }
                }
                let networks = (0..*nets).map(|n| {
                    (format!("n{n}"), json!({"IPAddress": format!("10.{n}.0.{index}"), "IPPrefixLen": 16}))
                });
                container["NetworkSettings"]["Networks"] = Value::Object(networks.collect());
                container["State"] = json!(["running", "running", "running", "paused", "exited"][usize::from(*state)]);
            })
        }).collect();
        let settings = settings();
        let one = reading(&settings, &list);
        for (index, (_, _, _, _, nets, state)) in containers.iter().enumerate() {
            let there = one.found.iter().filter(|found| *found.name == *format!("c{index}")).count();
            prop_assert_eq!(there, usize::from(*nets > 0 && *state < 4));
        }
        for found in &one.found {
            prop_assert!(found.weight <= 256 && found.tier <= 1 && found.address.tcp().is_some_and(|address| address.port() > 0));
            prop_assert_eq!(one.owners.get(&found.address.ip().unwrap()), Some(&found.name));
        }
        let valid = |text: &Option<String>, good: fn(&str) -> bool| text.as_deref().is_none_or(|text| good(text.trim()));
        let wrong: usize = containers.iter().filter(|c| c.4 > 0 && c.5 < 4).map(|(port, weight, backup, connections, _, _)| {
            [
                valid(port, |text| text.parse::<u16>().is_ok_and(|port| port > 0)),
                valid(weight, |text| text.parse::<u32>().is_ok_and(|weight| weight <= 256)),
                valid(backup, |text| matches!(text, "true" | "false")),
                valid(connections, |text| text.parse::<u32>().is_ok_and(|n| n > 0)),
            ].into_iter().filter(|valid| !valid).count()
        }).sum();
        prop_assert_eq!(one.setup_errors.iter().filter(|error| !error.skipped).count(), wrong);
        let reversed: Vec<_> = list.into_iter().rev().collect();
        let other = reading(&settings, &reversed);
        prop_assert_eq!((one.found, one.setup_errors), (other.found, other.setup_errors));
    }
}
