//! Tests of reading EndpointSlices.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// A slice of the Service `web`, as Kubernetes 1.30 writes it; the port has the name `http` and the number 8080.
fn slice(name: &str, endpoints: &[Value]) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name,
            "generateName": "web-",
            "namespace": "default",
            "uid": "f3cc4b0a-3d2a-4cd9-9e10-3d0d3c1b0f7d",
            "resourceVersion": "4711",
            "labels": {"kubernetes.io/service-name": "web", "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
        "endpoints": endpoints,
    })
}

fn pod(name: &str, ip: &str, conditions: &Value) -> Value {
    json!({
        "addresses": [ip],
        "conditions": conditions,
        "nodeName": "node-1",
        "zone": "zone-a",
        "targetRef": {"kind": "Pod", "namespace": "default", "name": name, "uid": "0f2f3f9e-5d66-4d5c-8cc3-a0a4b9a60a4d"},
    })
}

fn ready(name: &str, ip: &str) -> Value {
    pod(name, ip, &json!({"ready": true, "serving": true, "terminating": false}))
}

fn read_slices(slices: &[Value]) -> Vec<EndpointSlice> {
    let list = json!({"kind": "EndpointSliceList", "metadata": {"resourceVersion": "5000"}, "items": slices});
    let (version, slices) = slice_list(list.to_string().as_bytes()).unwrap();
    assert_eq!(version, "5000");
    slices
}

/// The backends as `name address tier fitness`, and the reasons of the other entries.
fn shown(slices: &[Value], change: impl FnOnce(&mut Kubernetes)) -> (Vec<String>, Vec<String>) {
    let mut settings = Kubernetes::new("web".to_owned());
    change(&mut settings);
    let Entries { found, invalid, .. } = entries(&read_slices(slices), &settings);
    let show = |found: Found| {
        let fitness = match found.fitness {
            Fitness::Healthy => "healthy".to_owned(),
            Fitness::Unhealthy(cause) => format!("unhealthy: {cause}"),
            Fitness::Starting | Fitness::Unknown => "unknown".to_owned(),
        };
        let also: String = found.also.iter().map(|also| format!(" also {also}")).collect();
        format!("{} {}{also} {} {fitness}", found.name, found.address, found.tier)
    };
    let invalid = invalid.into_iter().map(|one| format!("{}: {}", one.entry, one.reason));
    (found.into_iter().map(show).collect(), invalid.collect())
}

#[test]
fn the_conditions_determine_how_a_pod_is_used() {
    let slices = [slice(
        "web-1",
        &[
            ready("a", "10.0.0.1"),
            pod("b", "10.0.0.2", &json!({"ready": false, "serving": false, "terminating": false})),
            pod("c", "10.0.0.3", &json!({"ready": false, "serving": true, "terminating": true})),
            pod("d", "10.0.0.4", &json!({"ready": false, "serving": false, "terminating": true})),
            pod("e", "10.0.0.5", &json!({})),
            pod("f", "10.0.0.6", &Value::Null),
        ],
    )];
    let (found, invalid) = shown(&slices, |_| {});
    assert_eq!(
        found,
        [
            "a 10.0.0.1:8080 0 healthy",
            "e 10.0.0.5:8080 0 healthy",
            "f 10.0.0.6:8080 0 healthy",
            "c 10.0.0.3:8080 1 healthy",
            "b 10.0.0.2:8080 0 unhealthy: Kubernetes reports that the Pod is not ready",
        ]
    );
    assert!(invalid.is_empty(), "{invalid:?}");
    let (found, _) = shown(&slices, |settings| settings.healthcheck = false);
    assert!(found.iter().all(|one| one.ends_with(" unknown")), "{found:?}");
    assert_eq!(found.len(), 5);
}

#[test]
fn a_port_is_chosen_by_name_by_number_or_as_the_only_one() {
    let mut one = slice("web-1", &[ready("a", "10.0.0.1")]);
    let chosen = |one: &Value, port| shown(std::slice::from_ref(one), |settings| settings.port = port);
    let name = |name: &str| Some(ServicePort::Name(name.to_owned()));
    let at = |port: u16| (vec![format!("a 10.0.0.1:{port} 0 healthy")], Vec::new());
    let refused = |reason: &str| (Vec::new(), vec![format!("web-1: {reason}")]);
    assert_eq!(chosen(&one, None), at(8080));
    assert_eq!(chosen(&one, Some(ServicePort::Number(9))), at(9));
    assert_eq!(chosen(&one, name("x")), refused("it has no TCP port with the name \"x\"; it has: http"));
    one["ports"] = json!([
        {"name": "http", "port": 8080}, {"name": "metrics", "protocol": "TCP", "port": 9100},
        {"name": "dns", "protocol": "UDP", "port": 53},
    ]);
    assert_eq!(chosen(&one, name("metrics")), at(9100));
    assert_eq!(chosen(&one, None), refused("it has several ports: http, metrics; set `port` to one of them"));
    one["ports"] = json!([{"name": "", "port": null, "protocol": "TCP"}]);
    assert_eq!(chosen(&one, None), refused("its port has no number; set `port` to it"));
    one["ports"] = Value::Null;
    assert_eq!(chosen(&one, None), refused("it has no TCP port"));
    // A Service without Pods has a slice without ports.
    one["endpoints"] = Value::Null;
    assert_eq!(chosen(&one, None), (Vec::new(), Vec::new()));
}

#[test]
fn a_pod_in_several_slices_is_one_backend() {
    let leaving = json!({"ready": false, "serving": true, "terminating": true});
    let slices = [
        slice("web-1", &[pod("a", "10.0.0.1", &leaving), ready("b", "10.0.0.2")]),
        slice("web-2", &[ready("a", "10.0.0.1")]),
        slice("web-6", &[ready("b", "2001:db8::2")]),
    ];
    let (found, invalid) = shown(&slices, |_| {});
    assert_eq!(found, ["a 10.0.0.1:8080 0 healthy", "b 10.0.0.2:8080 also [2001:db8::2]:8080 0 healthy"]);
    assert!(invalid.is_empty(), "{invalid:?}");
}

#[test]
fn a_pod_has_the_zone_of_its_node() {
    let mut unknown = ready("b", "10.0.0.2");
    unknown["zone"] = Value::Null;
    let slices = read_slices(&[slice("web-1", &[ready("a", "10.0.0.1"), unknown])]);
    let Entries { found, .. } = entries(&slices, &Kubernetes::new("web".to_owned()));
    let zones: Vec<_> = found.iter().map(|one| one.zone.as_deref()).collect();
    assert_eq!(zones, [Some("zone-a"), None]);
}

#[test]
fn an_address_belongs_to_the_pod_that_can_be_used() {
    let not_ready = json!({"ready": false, "serving": false, "terminating": false});
    let slices = [slice("web-1", &[pod("a", "10.0.0.1", &not_ready), ready("b", "10.0.0.1")])];
    let (found, invalid) = shown(&slices, |_| {});
    assert_eq!(found, ["b 10.0.0.1:8080 0 healthy"]);
    assert_eq!(invalid, ["a: another entry has its address 10.0.0.1:8080 too"]);
}

#[test]
fn endpoints_need_no_pod() {
    let slices = [slice(
        "external",
        &[
            json!({"addresses": ["192.0.2.1"]}),
            json!({"addresses": ["192.0.2.2"], "hostname": "db"}),
            json!({"addresses": ["db.example.com"]}),
            json!({"addresses": []}),
        ],
    )];
    let (found, invalid) = shown(&slices, |_| {});
    assert_eq!(found, ["192.0.2.1:8080 192.0.2.1:8080 0 healthy", "db 192.0.2.2:8080 0 healthy"]);
    assert_eq!(
        invalid,
        [
            "an endpoint in external: its address \"db.example.com\" is no IP address",
            "an endpoint in external: it has no address",
        ]
    );
}

#[test]
fn messages_of_a_watch_are_read() {
    let event = |kind: &str, object: &Value| {
        slice_event(json!({"type": kind, "object": object}).to_string().as_bytes())
    };
    let object = slice("web-1", &[ready("a", "10.0.0.1")]);
    for kind in ["ADDED", "MODIFIED"] {
        assert!(matches!(event(kind, &object), Ok(SliceEvent::Changed(slice)) if slice.version() == "4711"));
    }
    assert!(matches!(event("DELETED", &object), Ok(SliceEvent::Deleted(slice)) if slice.name() == "web-1"));
    let bookmark = json!({"kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1", "addressType": "",
        "metadata": {"resourceVersion": "12746", "creationTimestamp": null}, "endpoints": null, "ports": null});
    assert!(matches!(event("BOOKMARK", &bookmark), Ok(SliceEvent::Version(version)) if version == "12746"));
    let status = |code: u16, message: &str| json!({"kind": "Status", "status": "Failure", "message": message, "code": code});
    let expired = status(410, "too old resource version: 1 (4711)");
    assert!(matches!(event("ERROR", &expired), Ok(SliceEvent::Expired)));
    let failed = event("ERROR", &status(500, "etcdserver: leader changed"));
    assert!(
        matches!(failed, Ok(SliceEvent::Error(reason)) if reason == "status 500: etcdserver: leader changed")
    );
    assert!(event("GONE", &object).is_err());
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes: Vec<u8>, text in r#"[{}\[\]":,a-zA-Z0-9]{0,60}"#) {
        for bytes in [&bytes[..], text.as_bytes()] {
            let _ = (slice_list(bytes), slice_event(bytes));
        }
    }

    #[test]
    fn each_address_is_one_backend(
        pods in prop::collection::vec(("[ab]?", "10\\.0\\.0\\.[1-3]|2001:db8::[12]|.{0,5}", any::<[Option<bool>; 3]>()), 0..9),
    ) {
        let endpoints: Vec<_> = pods
            .iter()
            .map(|(name, ip, [ready, serving, terminating])| {
                pod(name, ip, &json!({"ready": ready, "serving": serving, "terminating": terminating}))
            })
            .collect();
        let slices = read_slices(&[slice("web-1", &endpoints)]);
        let Entries { found, invalid, .. } = entries(&slices, &Kubernetes::new("web".to_owned()));
        let mut addresses: Vec<_> = found.iter().map(|one| one.address.to_string()).collect();
        addresses.sort();
        let all = addresses.len();
        addresses.dedup();
        prop_assert_eq!(addresses.len(), all);
        // No endpoint that can be used is lost, unless another one has its address.
        let conflict = invalid.iter().any(|one| one.reason.contains("another entry has its address"));
        let usable = pods
            .iter()
            .filter(|(_, ip, [ready, ..])| !conflict && ip.parse::<IpAddr>().is_ok() && ready.unwrap_or(true));
        for (_, ip, _) in usable {
            let address = SocketAddr::new(ip.parse().unwrap(), 8080);
            let one = found.iter().find(|one| one.address == address.into() || one.also.contains(&address));
            prop_assert!(one.is_some(), "{} {:?}", address, found);
        }
    }
}
