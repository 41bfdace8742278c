//! A swarm of this engine alone: the tasks of a service, and the stack of `compose/swarm.yaml`.

use std::process::Command;
use std::sync::{Mutex, PoisonError};

use super::*;
use crate::clients::Contained;
use crate::engine::{REQUIRED, ROOT, try_docker};
use crate::support::{Limited, TOOL, skip};

/// The swarm that these tests have started.
static STARTED: Mutex<Option<Started>> = Mutex::new(None);

struct Started {
    /// The tests that use it.
    users: u32,
    /// Whether its network [`Swarm::GATEWAY`] existed before.
    gateway: bool,
}

/// A swarm of this engine alone; left at the end of the last test that uses it, unless it existed before.
struct Swarm {
    ours: bool,
}

impl Swarm {
    const GATEWAY: &str = "docker_gwbridge";

    /// `None` if the engine is no manager of its swarm.
    fn join() -> Option<Self> {
        let mut started = STARTED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(started) = &mut *started {
            started.users += 1;
            return Some(Self { ours: true });
        }
        let state = docker(&["info", "--format", "{{.Swarm.LocalNodeState}} {{.Swarm.ControlAvailable}}"]);
        match &*state {
            "active true" => Some(Self { ours: false }),
            "inactive false" => {
                let containers = containers_on_attachable_networks();
                if !containers.is_empty() {
                    let why = format!(
                        "leaving a swarm disconnects containers from attachable networks, such as those of \
                         docker-compose 1.29; stop these first: {containers:?}"
                    );
                    skip(REQUIRED, &why);
                    return None;
                }
                let gateway = try_docker(&["network", "inspect", Self::GATEWAY]).is_ok();
                if let Err(error) = try_docker(&["swarm", "init", "--advertise-addr", "127.0.0.1"]) {
                    let _ = try_docker(&["swarm", "leave", "--force"]);
                    panic!("docker swarm init: {error}");
                }
                *started = Some(Started { users: 1, gateway });
                Some(Self { ours: true })
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
        if !self.ours {
            return;
        }
        let mut started = STARTED.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(swarm) = &mut *started else { return };
        swarm.users -= 1;
        if swarm.users > 0 {
            return;
        }
        let _ = Command::new("docker").args(["swarm", "leave", "--force"]).output_within(TOOL);
        if !swarm.gateway {
            let _ = Command::new("docker").args(["network", "rm", Self::GATEWAY]).output_within(TOOL);
        }
        *started = None;
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

/// A network of the swarm. `None` without overlay networks in the kernel, without which there is no swarm.
fn overlay() -> Option<Network> {
    let network = Network::create("overlay", &["-d", "overlay", "--attachable"]);
    match try_docker(&["run", "--rm", "--network", &network.0, "pointsman", "--version"]) {
        Err(reason) if reason.contains("vxlan") => {
            skip("", &format!("the kernel has no overlay networks (its module vxlan): {reason}"));
            None
        }
        result => {
            result.unwrap();
            Some(network)
        }
    }
}

/// Waits until no container of the swarm has this label: a network cannot be removed before its last task.
fn when_gone(label: &str) {
    let label = format!("label={label}");
    let gone = || try_docker(&["ps", "-aq", "--filter", &label]).is_ok_and(|left| left.is_empty());
    let deadline = Instant::now() + TIME_LIMIT;
    while !gone() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(100));
    }
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
        when_gone(&format!("com.docker.swarm.service.name={}", self.0));
    }
}

#[test]
fn the_tasks_of_a_swarm_service_are_followed() {
    let Some(_engine) = engine_to_change() else { return };
    let Some(_swarm) = Swarm::join() else { return };
    let Some(network) = overlay() else { return };
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

/// A stack of `compose/swarm.yaml`, removed at the end.
struct Stack(String);

impl Stack {
    /// Deploys it with a config of this name, and backends whose names begin with `version`.
    fn deploy(&self, config: &str, version: &str) {
        let mut command = Command::new("docker");
        command.args(["stack", "deploy", "--resolve-image", "never", "-c", "compose/swarm.yaml", &self.0]);
        // Any free port of the host.
        command.envs([("PORT", "0"), ("PUBLISH", "host"), ("BACKENDS", "3")]);
        command.envs([("CONFIG", format!("{}-{config}", self.0)), ("BACKEND_NAME", version.to_owned())]);
        let output = command.current_dir(ROOT).output_within(TOOL).unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// The containers of a service that are healthy.
    fn healthy(&self, service: &str) -> BTreeSet<String> {
        let service = format!("label=com.docker.swarm.service.name={}_{service}", self.0);
        let found = docker(&["ps", "-q", "--filter", &service, "--filter", "health=healthy"]);
        found.lines().map(str::to_owned).collect()
    }

    /// Waits until these are all healthy.
    fn when_healthy(&self, service: &str, count: usize) -> BTreeSet<String> {
        let what = format!("{count} tasks of {service} are healthy");
        eventually(&what, || Some(self.healthy(service)).filter(|found| found.len() == count))
    }

    /// Waits until an update of the service has ended.
    fn when_updated(&self, service: &str) {
        let service = format!("{}_{service}", self.0);
        eventually(&format!("{service} is updated"), || {
            let state = inspect(&service, "{{if .UpdateStatus}}{{.UpdateStatus.State}}{{end}}");
            assert!(state.is_empty() || state == "updating" || state == "completed", "{service}: {state}");
            (state == "completed").then_some(())
        });
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for service in ["pointsman", "backend"] {
                let tasks = ["service", "ps", "--no-trunc", &format!("{}_{service}", self.0)];
                eprintln!("{}", try_docker(&tasks).unwrap_or_else(|error| error));
            }
        }
        let _ = Command::new("docker").args(["stack", "rm", &self.0]).output_within(TOOL);
        when_gone(&format!("com.docker.stack.namespace={}", self.0));
    }
}

#[test]
fn a_stack_is_updated_without_a_failed_request() {
    const LIMIT: Duration = Duration::from_secs(30);
    let Some(_engine) = engine_to_change() else { return };
    let Some(_swarm) = Swarm::join() else { return };
    if overlay().is_none() {
        return;
    }
    let stack = Stack(unique("stack"));
    stack.deploy("1", "old");
    let old = stack.when_healthy("pointsman", 2);
    stack.when_healthy("backend", 3);
    let clients = Contained::start(&format!("{}_default", stack.0), "tasks.pointsman", LIMIT, 8);
    let when_served_by = |prefix: &str, count: usize, more: usize| {
        let before = clients.served().len();
        eventually(&format!("{count} backends serve, whose names begin with {prefix}"), || {
            let served = clients.served().split_off(before);
            let names: BTreeSet<_> = served.iter().map(|(_, name)| name).collect();
            let all = names.len() == count && names.iter().all(|name| name.starts_with(prefix));
            (all && served.len() > more).then_some(())
        });
    };
    when_served_by("old-", 3, 100);

    stack.deploy("2", "new");
    for service in ["backend", "pointsman"] {
        stack.when_updated(service);
    }
    let new = eventually("the old Pointsmen have ended", || {
        Some(stack.healthy("pointsman")).filter(|tasks| tasks.len() == 2 && tasks.is_disjoint(&old))
    });
    when_served_by("new-", 3, 100);
    assert_eq!(clients.failed(), Vec::<String>::new());
    eprintln!("{} requests were served; the Pointsmen are now {new:?}", clients.served().len());

    // The published ports are those of tasks on this node.
    let port =
        inspect(new.first().unwrap(), "{{(index (index .NetworkSettings.Ports \"8080/tcp\") 0).HostPort}}");
    let address = SocketAddr::new([127, 0, 0, 1].into(), port.parse().unwrap());
    assert_eq!(http_get(address, "/").unwrap().0, 200);
}
