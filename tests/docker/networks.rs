//! Networks that are not a bridge of IPv4: one of IPv6, and Swarm's overlay.

use std::process::Command;

use super::engine::{REQUIRED, try_docker, unique};
use super::*;
use crate::support::{Limited, TOOL, skip};

const BOTH_WAYS: &str = "
admin: {bind: 0.0.0.0:9900}
listeners:
  six: {bind: 0.0.0.0:8080, pool: six}
  whole: {bind: 0.0.0.0:8081, pool: whole}
pools:
  six: {discover: [{dns: backend:5000, family: 6}], health: {http: /health}}
  whole: {discover: [{dns: backend:5000, family: any}]}
";

/// Like [`SERVER`], but only on IPv6, and with the client's address.
const SERVER_OF_IPV6: &str = "
import http.server, socket
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = f'{socket.gethostname()} {self.client_address[0]}'.encode()
        self.send_response(200)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
    def server_bind(self):
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        super().server_bind()
Server(('::', 5000), Handler).serve_forever()";

#[test]
fn backends_are_found_and_reached_over_ipv6() {
    let Some(_engine) = engine() else { return };
    // A unique local address (RFC 4193).
    let subnet = format!("fd00:6b1d:{:x}::/64", std::process::id() & 0xffff);
    let network = Network::create("six", &["--ipv6", "--subnet", &subnet]);
    let folder = configuration(BOTH_WAYS);
    let run = |_| {
        let network = ["--network", &network.0, "--network-alias", "backend"];
        let python = ["python:3.13-slim", "python", "-c", SERVER_OF_IPV6];
        Container::run("six", &[&network[..], &python].concat())
    };
    let backends: Vec<Container> = (0..2).map(run).collect();
    let sixth = |what: &str| -> IpAddr {
        let format = "{{range .NetworkSettings.Networks}}{{.GlobalIPv6Address}}{{end}}";
        inspect(what, format).parse().unwrap()
    };
    let lb = pointsman(&network, &folder);
    let address = ip(&lb.0);
    let found: BTreeSet<IpAddr> = when_up(address, 2).into_values().collect();
    assert_eq!(found, backends.iter().map(|backend| sixth(&backend.0)).collect());
    let answers: BTreeSet<String> = (0..2).map(|_| http_get((address, WEB).into(), "/").unwrap().1).collect();
    let ours = format!(" {}", sixth(&lb.0));
    assert_eq!(answers.len(), 2, "{answers:?}");
    assert!(answers.iter().all(|answer| answer.ends_with(&ours)), "{answers:?} by way of {ours}");

    // A container with both families is one backend.
    let whole = eventually("both are known", || {
        let (_, status) = http_get((address, ADMIN).into(), "/api/v1/status").ok()?;
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        let pools = status["pools"].as_array().unwrap();
        let whole = pools.iter().find(|pool| pool["name"] == "whole").unwrap();
        let whole = whole["backends"].as_array().unwrap().clone();
        (whole.len() == 2 && whole.iter().all(|backend| backend["also"][0].is_string())).then_some(whole)
    });
    let also =
        |backend: &serde_json::Value| backend["also"][0].as_str().unwrap().parse::<SocketAddr>().unwrap();
    assert_eq!(whole.iter().map(|backend| also(backend).ip()).collect::<BTreeSet<_>>(), found);
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
