//! Tests that need the whole engine: no other test runs beside them. By this module's name they are the first, so that no
//! other test has to end before them.

use std::process::Command;

use super::*;
use crate::engine::{REQUIRED, try_docker};
use crate::support::{Limited, TOOL, skip};

#[test]
fn seventy_replicas_all_get_traffic() {
    const REPLICAS: usize = 70;
    let Some(_engine) = whole_engine() else { return };
    let network = Network::create("many", &[]);
    let folder = configuration(
        "admin: {bind: 0.0.0.0:9900}
listeners: {web: {bind: 0.0.0.0:8080, pool: web}}
pools: {web: {discover: [{dns: backend:5000}], health: {http: /health}}}",
    );
    let run = |_| {
        let network = ["--network", &network.0, "--network-alias", "backend"];
        let python = ["python:3.13-slim", "python", "-c", SERVER];
        Container::run("one", &[&network[..], &python].concat())
    };
    // The engine starts a few at a time.
    let backends: Vec<Container> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|part| scope.spawn(move || (part..REPLICAS).step_by(4).map(run).collect::<Vec<_>>()))
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(backends.len(), REPLICAS);
    let lb = pointsman(&network, &folder);
    let address = ip(&lb.0);
    when_up(address, REPLICAS);
    let answered: BTreeSet<String> =
        (0..REPLICAS).map(|_| http_get((address, WEB).into(), "/").unwrap().1).collect();
    assert_eq!(answered.len(), REPLICAS);
}

/// A swarm of this engine alone; left at the end, unless it existed before.
struct Swarm {
    ours: bool,
    /// Whether the network `docker_gwbridge` existed before.
    gateway: bool,
}

impl Swarm {
    const GATEWAY: &str = "docker_gwbridge";

    /// `None` if the engine is no manager of its swarm.
    fn join() -> Option<Self> {
        let gateway = try_docker(&["network", "inspect", Self::GATEWAY]).is_ok();
        let state = docker(&["info", "--format", "{{.Swarm.LocalNodeState}} {{.Swarm.ControlAvailable}}"]);
        match &*state {
            "active true" => Some(Self { ours: false, gateway }),
            "inactive false" => {
                let users = containers_on_attachable_networks();
                if !users.is_empty() {
                    let why = format!(
                        "leaving a swarm disconnects containers from attachable networks, such as those of \
                         docker-compose 1.29; stop these first: {users:?}"
                    );
                    skip(REQUIRED, &why);
                    return None;
                }
                let swarm = Self { ours: true, gateway };
                docker(&["swarm", "init", "--advertise-addr", "127.0.0.1"]);
                Some(swarm)
            }
            other => {
                let why = format!(
                    "this engine's part in its swarm is {other:?}, not that of a manager (`docker swarm leave`)"
                );
                skip(REQUIRED, &why);
                None
            }
        }
    }
}

impl Drop for Swarm {
    fn drop(&mut self) {
        if self.ours {
            let _ = Command::new("docker").args(["swarm", "leave", "--force"]).output_within(TOOL);
            if !self.gateway {
                let _ = Command::new("docker").args(["network", "rm", Self::GATEWAY]).output_within(TOOL);
            }
        }
    }
}

/// The names of the running containers that have an attachable network.
fn containers_on_attachable_networks() -> BTreeSet<String> {
    let networks = docker(&["network", "ls", "-q", "--no-trunc"]);
    let names = "{{if .Attachable}}{{range .Containers}}{{println .Name}}{{end}}{{end}}";
    let inspect = ["network", "inspect", "--format", names];
    // A network of another program may end meanwhile.
    let found = networks.lines().filter_map(|network| try_docker(&[&inspect[..], &[network]].concat()).ok());
    found.flat_map(|names| names.lines().map(str::to_owned).collect::<Vec<_>>()).collect()
}

/// A service of the swarm, removed at the end.
struct Service(String);

impl Service {
    fn create(replicas: u32, network: &Network) -> Self {
        let service = Self(unique("tasks"));
        let replicas = replicas.to_string();
        let how = [
            "service",
            "create",
            "-d",
            "--no-resolve-image",
            "--stop-signal",
            "KILL",
            "--replicas",
            &replicas,
        ];
        let what =
            ["--network", &network.0, "--name", &service.0, "python:3.13-slim", "python", "-c", SERVER];
        docker(&[&how[..], &what].concat());
        service
    }

    fn scale(&self, replicas: u32) {
        docker(&["service", "scale", "-d", &format!("{}={replicas}", self.0)]);
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = Command::new("docker").args(["service", "rm", &self.0]).output_within(TOOL);
        // Its network cannot be removed before its last task.
        let label = format!("label=com.docker.swarm.service.name={}", self.0);
        let gone = || try_docker(&["ps", "-aq", "--filter", &label]).is_ok_and(|left| left.is_empty());
        let deadline = Instant::now() + TIME_LIMIT;
        while !gone() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

#[test]
fn the_tasks_of_a_swarm_service_are_followed() {
    let Some(_engine) = whole_engine() else { return };
    let Some(_swarm) = Swarm::join() else { return };
    let network = Network::create("overlay", &["-d", "overlay", "--attachable"]);
    // Without overlay networks in the kernel there is no swarm.
    match try_docker(&["run", "--rm", "--network", &network.0, "pointsman", "--version"]) {
        Err(reason) if reason.contains("vxlan") => {
            return skip("", &format!("the kernel has no overlay networks (its module vxlan): {reason}"));
        }
        result => drop(result.unwrap()),
    }
    let service = Service::create(2, &network);
    let folder = configuration(&format!(
        "admin: {{bind: 0.0.0.0:9900}}
listeners: {{web: {{bind: 0.0.0.0:8080, pool: web}}}}
pools: {{web: {{discover: [{{dns: \"tasks.{}:5000\"}}], health: {{http: /health}}}}}}",
        service.0
    ));
    // This machine cannot reach an overlay's addresses, so Pointsman is on a bridge as well.
    let bridge = Network::create("bridge", &[]);
    let lb = pointsman(&bridge, &folder);
    let address = ip(&lb.0);
    docker(&["network", "connect", &network.0, &lb.0]);
    let answers = |count| -> BTreeSet<String> {
        (0..count).map(|_| http_get((address, WEB).into(), "/").unwrap().1).collect()
    };
    let two = eventually("two are up, each known as its task", || {
        Some(up(address)).filter(|up| up.len() == 2 && up.keys().all(|name| name.starts_with(&service.0)))
    });
    assert_eq!(answers(2).len(), 2);
    service.scale(3);
    let three = when_up(address, 3);
    assert!(two.iter().all(|(name, ip)| three.get(name) == Some(ip)), "{two:?} {three:?}");
    assert_eq!(answers(3).len(), 3);
    service.scale(1);
    when_up(address, 1);
    assert_eq!(answers(3).len(), 1);
}
