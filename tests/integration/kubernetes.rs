//! The manifests in `conf/kubernetes`: their schemas, and what must agree between them, the configuration and the image. There
//! is no cluster here to run them on.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::support::backend::Backend;
use crate::support::dns::Dns;
use crate::support::monitoring::{array, text};
use crate::support::tool::{on_the_search_path, python_tool};
use crate::support::{Lb, Limited, TOOL, eventually, http_get, skip};

/// The folders that an operator applies.
const VARIANTS: [&str; 2] = ["deployment", "daemonset"];
/// The oldest and the newest version of Kubernetes that the manifests are for. Before 1.30 a cluster ignores `preStop.sleep`.
const VERSIONS: [&str; 2] = ["1.30.0", "1.37.0"];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/kubernetes")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The documents of a YAML file.
fn documents(text: &str) -> Vec<Value> {
    serde_yaml::from_multiple(text).unwrap()
}

/// A folder's kustomization.
fn kustomization(folder: &Path) -> Value {
    documents(&read(&folder.join("kustomization.yaml"))).remove(0)
}

/// The elements of an array that may be missing.
fn elements(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// The files and folders that a kustomization names.
fn named(kustomization: &Value) -> impl Iterator<Item = &str> {
    let generated = elements(&kustomization["configMapGenerator"]).iter();
    let files = generated.flat_map(|map| array(&map["files"]));
    elements(&kustomization["resources"]).iter().chain(files).map(text)
}

/// The folders with a kustomization, each with the files in it.
fn folders() -> Vec<(PathBuf, BTreeSet<String>)> {
    let entries = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path());
    let with_files = |folder: PathBuf| {
        let files = fs::read_dir(&folder).unwrap().map(|file| file.unwrap().file_name());
        (folder, files.map(|name| name.into_string().unwrap()).collect())
    };
    entries.map(with_files).collect()
}

/// The files with manifests.
fn manifests() -> Vec<PathBuf> {
    let of_folder = |(folder, _): (PathBuf, _)| -> Vec<PathBuf> {
        let kustomization = kustomization(&folder);
        let resources = array(&kustomization["resources"]).iter().map(|name| folder.join(text(name)));
        resources.filter(|path| path.is_file()).collect()
    };
    folders().into_iter().flat_map(of_folder).collect()
}

/// All resources that the manifests declare.
fn resources() -> Vec<Value> {
    manifests().iter().flat_map(|path| documents(&read(path))).collect()
}

/// The resources that run pods.
fn workloads() -> Vec<Value> {
    let workloads = resources().into_iter().filter(|one| one["spec"]["template"].is_object());
    let workloads: Vec<_> = workloads.collect();
    assert_eq!(workloads.len(), VARIANTS.len() + 1, "each variant's, and the example backend's");
    workloads
}

/// The specification of a workload's pods.
fn pod(workload: &Value) -> &Value {
    &workload["spec"]["template"]["spec"]
}

/// The specification of the pods of each variant.
fn pods() -> Vec<Value> {
    let ours = workloads().into_iter().filter(|one| one["metadata"]["name"] == "pointsman");
    ours.map(|workload| pod(&workload).clone()).collect()
}

/// The effective configuration, as Pointsman reads it.
fn configuration() -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_pointsman"))
        .args(["check", "--print", "json", "-c"])
        .arg(folder().join("base/pointsman.yaml"))
        .env("NAMESPACE", "shop")
        .output_within(TOOL)
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn validate<T: AsRef<OsStr>>(tool: &Path, files: impl IntoIterator<Item = T>) -> Output {
    let versions = VERSIONS.iter().flat_map(|version| ["-k", version]);
    Command::new(tool).arg("--strict").args(versions).args(files).output_within(TOOL).unwrap()
}

/// Both outputs of a tool, which says what is wrong on either.
fn said(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes)).concat()
}

#[test]
fn the_kustomizations_name_every_file_and_no_other() {
    for (folder, mut files) in folders() {
        assert!(files.remove("kustomization.yaml"), "{}", folder.display());
        let kustomization = kustomization(&folder);
        let (folders, named): (BTreeSet<_>, BTreeSet<_>) =
            named(&kustomization).map(str::to_owned).partition(|name| name.starts_with("../"));
        assert_eq!(named, files, "{}", folder.display());
        assert!(folders.iter().all(|other| folder.join(other).join("kustomization.yaml").is_file()));
    }
    let names = |(folder, _): (PathBuf, _)| folder.file_name().unwrap().to_str().unwrap().to_owned();
    let expected = BTreeSet::from(["api-access", "base", "daemonset", "deployment"].map(str::to_owned));
    assert_eq!(folders().into_iter().map(names).collect::<BTreeSet<_>>(), expected);
}

#[test]
fn every_manifest_matches_the_published_schema() {
    let Some(tool) = python_tool("kubernetes-validate") else { return };
    let output = validate(&tool, manifests());
    assert!(output.status.success(), "{}", said(&output));

    // It would refuse a key that does not exist.
    let wrong = tempfile::NamedTempFile::new().unwrap();
    let service = read(&folder().join("base/service.yaml"));
    fs::write(wrong.path(), service.replace("externalTrafficPolicy", "externalTraffic")).unwrap();
    let output = validate(&tool, [wrong.path()]);
    assert!(!output.status.success(), "{}", said(&output));
}

#[test]
fn kustomize_makes_valid_manifests_of_both_variants() {
    let Some(kubectl) = on_the_search_path("kubectl") else {
        return skip("", "there is no kubectl on the PATH (https://kubernetes.io/docs/tasks/tools)");
    };
    let Some(tool) = python_tool("kubernetes-validate") else { return };
    for variant in VARIANTS {
        let mut command = Command::new(&kubectl);
        let output = command.arg("kustomize").arg(folder().join(variant)).output_within(TOOL).unwrap();
        assert!(output.status.success(), "{variant}: {}", said(&output));
        let made = tempfile::NamedTempFile::new().unwrap();
        fs::write(made.path(), &output.stdout).unwrap();
        let validated = validate(&tool, [made.path()]);
        assert!(validated.status.success(), "{variant}: {}", said(&validated));

        let made = documents(&read(made.path()));
        let of_kind = |kind: &str| -> Vec<&Value> { made.iter().filter(|one| one["kind"] == kind).collect() };
        let map = of_kind("ConfigMap")[0];
        assert_eq!(map["data"]["pointsman.yaml"], read(&folder().join("base/pointsman.yaml")));
        let workload = made.iter().find(|one| {
            one["metadata"]["name"] == "pointsman" && one["kind"].as_str().unwrap().to_lowercase() == variant
        });
        let volumes = &pod(workload.unwrap_or_else(|| panic!("no {variant}")))["volumes"];
        assert_eq!(volumes[0]["configMap"]["name"], map["metadata"]["name"], "{variant}");
        let service = of_kind("Service").into_iter().find(|one| one["metadata"]["name"] == "pointsman");
        let local = service.unwrap()["spec"]["internalTrafficPolicy"] == "Local";
        assert_eq!(local, variant == "daemonset");
    }
}

#[test]
fn the_configuration_is_valid_and_finds_the_headless_service() {
    let configuration = configuration();
    let source = text(&configuration["pools"]["web"]["discover"][0]["dns"]);
    let resources = resources();
    let service = resources.iter().find(|one| one["kind"] == "Service" && one["spec"]["clusterIP"] == "None");
    let service = service.expect("a headless Service");
    let (name, port) = (text(&service["metadata"]["name"]), &service["spec"]["ports"][0]["port"]);
    assert_eq!(source, format!("{name}.shop.svc.cluster.local.:{port}"));
}

#[test]
fn pods_that_the_headless_service_resolves_to_are_served_from() {
    let (dns, backend) = (Dns::start(), Backend::http("a pod"));
    dns.zone.set("backend.default.svc.cluster.local", [backend.address.ip()]);
    let source = format!(".local.:{}\n        server: {}", backend.address.port(), dns.server.address);
    let text = read(&folder().join("base/pointsman.yaml"));
    let here = text.replace("bind: 0.0.0.0:8080", "bind: 127.0.0.1:0").replace(".local.:5000", &source);
    let lb = Lb::start(&here.replace("bind: 0.0.0.0:9900", "bind: 127.0.0.1:0"));
    eventually("a request is served", || {
        (http_get(lb.address("web"), "/") == Ok((200, "a pod".to_owned()))).then_some(())
    });
    assert_eq!(lb.get("/ready").0, 200);
    assert_eq!(lb.get("/heartbeat").0, 200);
}

#[test]
fn the_ports_are_those_of_the_configuration() {
    let configuration = configuration();
    let port = |bind: &Value| text(bind).rsplit_once(':').unwrap().1.parse::<u16>().unwrap();
    let web = port(&configuration["listeners"]["web"]["bind"][0]);
    let admin = port(&configuration["admin"]["bind"]);
    let expected = json!([{"name": "web", "containerPort": web}, {"name": "admin", "containerPort": admin}]);
    for pod in pods() {
        let container = &pod["containers"][0];
        assert_eq!(container["ports"], expected);
        assert_eq!(container["readinessProbe"]["httpGet"], json!({"path": "/ready", "port": "admin"}));
        assert_eq!(container["livenessProbe"]["httpGet"], json!({"path": "/heartbeat", "port": "admin"}));
    }
}

#[test]
fn every_service_selects_pods_and_a_port_that_they_have() {
    let (resources, workloads) = (resources(), workloads());
    for service in resources.iter().filter(|one| one["kind"] == "Service") {
        let selector = service["spec"]["selector"].as_object().unwrap();
        let selected: Vec<_> = workloads
            .iter()
            .filter(|one| {
                let labels = &one["spec"]["template"]["metadata"]["labels"];
                selector.iter().all(|(key, value)| labels[key] == *value)
            })
            .collect();
        assert!(!selected.is_empty(), "{service}");
        for (workload, port) in selected
            .iter()
            .flat_map(|one| array(&service["spec"]["ports"]).iter().map(move |port| (one, port)))
        {
            let ports = array(&pod(workload)["containers"][0]["ports"]);
            assert!(ports.iter().any(|one| one["name"] == port["targetPort"]), "{service}");
        }
    }
}

#[test]
fn a_pod_has_more_time_than_its_drain_takes() {
    let drain = &configuration()["runtime"]["drain"];
    let seconds = |value: &Value| text(value).strip_suffix('s').unwrap().parse::<u64>().unwrap();
    let drain = seconds(&drain["grace"]) + seconds(&drain["timeout"]);
    for pod in pods() {
        let before = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"].as_u64().unwrap();
        let limit = pod["terminationGracePeriodSeconds"].as_u64().unwrap();
        assert!(limit > before + drain, "{limit} s, and {before} s + {drain} s are needed");
    }
}

#[test]
fn both_variants_run_the_same_pod() {
    let mut pods = pods();
    for pod in &mut pods {
        // One pod on each node needs no rule for spreading them.
        pod.as_object_mut().unwrap().remove("topologySpreadConstraints");
    }
    assert_eq!(pods[0], pods[1]);
}

/// `conf/kubernetes/api-access`, for a source `kubernetes`.
#[test]
fn the_addition_grants_what_the_source_needs_and_fits_both_variants() {
    let resources = resources();
    let of_kind = |kind: &str| resources.iter().find(|one| one["kind"] == kind).unwrap();
    let [account, role, binding] = ["ServiceAccount", "Role", "RoleBinding"].map(of_kind);
    let rule = json!({"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]});
    assert_eq!(role["rules"], json!([rule]));
    assert_eq!(binding["roleRef"]["name"], role["metadata"]["name"]);
    assert_eq!(binding["subjects"][0]["name"], account["metadata"]["name"]);
    let addition = kustomization(&folder().join("api-access"));
    let [patch] = elements(&addition["patches"]) else { panic!("{addition}") };
    let target = text(&patch["target"]["kind"]);
    assert_eq!(
        target.split('|').map(str::to_lowercase).collect::<BTreeSet<_>>(),
        VARIANTS.map(str::to_owned).into()
    );
    let operations = documents(text(&patch["patch"])).remove(0);
    for mut pod in pods() {
        for operation in array(&operations) {
            let key = text(&operation["path"]).strip_prefix("/spec/template/spec/").unwrap();
            assert_eq!(operation["op"] == "replace", !pod[key].is_null(), "{operation}");
            pod[key] = operation["value"].clone();
        }
        assert_eq!(pod["serviceAccountName"], account["metadata"]["name"]);
        assert_eq!(pod["automountServiceAccountToken"], true);
    }
}

/// What the Pod Security Standard "restricted" requires, and limits of what a pod uses.
#[test]
fn every_pod_is_restricted_and_has_limits() {
    for workload in workloads() {
        let (name, pod) = (text(&workload["metadata"]["name"]), pod(&workload));
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true, "{name}");
        assert_eq!(pod["securityContext"]["seccompProfile"], json!({"type": "RuntimeDefault"}), "{name}");
        assert_eq!(pod["automountServiceAccountToken"], false, "{name}");
        for container in array(&pod["containers"]) {
            let restricted = json!({
                "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true,
                "capabilities": {"drop": ["ALL"]},
            });
            assert_eq!(container["securityContext"], restricted, "{name}");
            let resources = &container["resources"];
            let set = [
                &resources["requests"]["cpu"],
                &resources["requests"]["memory"],
                &resources["limits"]["memory"],
            ];
            assert!(set.iter().all(|value| value.is_string()), "{name}: {resources}");
        }
    }
    // The kubelet can tell only from a number that a user is not root.
    let dockerfile = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("Dockerfile"));
    for pod in pods() {
        let [user, group] = ["runAsUser", "runAsGroup"].map(|key| &pod["securityContext"][key]);
        assert!(dockerfile.contains(&format!("\nUSER {user}:{group}\n")), "{user}:{group}");
    }
}

#[test]
fn a_disruption_budget_covers_the_deployment() {
    let resources = resources();
    let of_kind = |kind: &str| {
        resources.iter().find(|one| one["kind"] == kind && one["metadata"]["name"] == "pointsman")
    };
    let [budget, deployment] = ["PodDisruptionBudget", "Deployment"].map(|kind| of_kind(kind).unwrap());
    assert_eq!(budget["spec"]["selector"], deployment["spec"]["selector"]);
}
