//! Two balancers with the same configuration (`plane: kernel`, `client_address: keep`, `maglev`), and one virtual address on
//! each side, which keepalived gives to one of them. When that one is cut off, the other one continues its connections.

mod routes;
mod shared_state;
mod streams;

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::support::backend::Backend;
use crate::support::machine::Machine;
use crate::support::network::{is_inside, sh};
use crate::support::{Lb, eventually};
use streams::{Streams, serve};

/// The virtual addresses: the listener's, and the router of the backends.
const LISTENER: &str = "10.90.0.100";
const ROUTER: &str = "10.91.0.100";
const PORT: u16 = 8080;
/// The number of streams in the tests, half of them in each direction.
const STREAMS: usize = 200;

/// A process that is killed at the end.
struct Daemon(Child);

impl Daemon {
    fn start(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A machine with a balancer and keepalived.
struct Balancer {
    machine: Machine,
    lb: Lb,
    _keepalived: Daemon,
    name: &'static str,
}

impl Balancer {
    fn start(name: &'static str, end: u8, priority: u8, config: &str) -> Self {
        let machine = Machine::alone();
        machine.plug("front", &format!("{name}-front"), &format!("10.90.0.{end}"));
        machine.plug("back", &format!("{name}-back"), &format!("10.91.0.{end}"));
        let config = config.to_owned();
        let lb = machine.run(move || {
            sh("echo 1 >/proc/sys/net/ipv4/ip_forward");
            Lb::start(&config)
        });
        let folder = lb.folder().to_owned();
        let keepalived = machine.run(move || start_keepalived(&folder, priority));
        Self { machine, lb, _keepalived: keepalived, name }
    }

    fn has_address(&self) -> bool {
        let list = || Command::new("ip").args(["-brief", "address"]).output().unwrap().stdout;
        String::from_utf8(self.machine.run(list)).unwrap().contains(LISTENER)
    }

    /// Pulls its cables.
    fn cut_off(&self) {
        let name = self.name;
        sh(&format!("ip link set {name}-front down; ip link set {name}-back down"));
    }
}

fn start_keepalived(folder: &Path, priority: u8) -> Daemon {
    let config = format!(
        "vrrp_instance both {{
           state BACKUP
           interface front
           virtual_router_id 51
           version 3
           priority {priority}
           advert_int 0.2
           virtual_ipaddress {{
             {LISTENER}/24 dev front
             {ROUTER}/24 dev back
           }}
         }}"
    );
    std::fs::write(folder.join("keepalived.conf"), config).unwrap();
    let pid_file = |name: &str| folder.join(name).display().to_string();
    Daemon::start(
        Command::new("keepalived")
            .args(["--dont-fork", "--log-console", "--vrrp", "--use-file"])
            .arg(folder.join("keepalived.conf"))
            .args(["--pid", &pid_file("keepalived.pid"), "--vrrp_pid", &pid_file("vrrp.pid")]),
    )
}

/// What the balancers' cables are plugged into, and the programs.
const BRIDGES: &str = "ip link add front type bridge && ip link add back type bridge \
                       && ip link set front up && ip link set back up && nft list tables && keepalived --version";

/// Runs the test in a network namespace of its own.
fn has_bridges(test: &str) -> bool {
    is_inside(&format!("two_machines::{test}"), "nftables, keepalived", BRIDGES)
}

/// A client, and machines with a backend each.
struct Network {
    client: Machine,
    /// Of the listener: events of conntrack.
    events: &'static str,
    _backends: Vec<(Machine, Backend)>,
}

impl Network {
    /// `ends`: of the backends' addresses.
    fn new(ends: &[u8], serve: impl Fn(u8, TcpStream) + Clone + Send + Sync + 'static) -> Self {
        let client = Machine::alone();
        client.plug("front", "client", "10.90.0.10");
        let backend = |end: &u8| {
            let (machine, end, serve) = (Machine::alone(), *end, serve.clone());
            machine.plug("back", &format!("backend{end}"), &format!("10.91.0.{end}"));
            let address = SocketAddr::from(([10, 91, 0, end], 5000));
            let backend = machine.run(move || {
                sh(&format!("ip route add default via {ROUTER}"));
                Backend::serving_at(address, move |stream| serve(end, stream))
            });
            (machine, backend.unwrap())
        };
        Self { client, events: "few", _backends: ends.iter().map(backend).collect() }
    }

    /// The configuration with these backends.
    fn config(&self, ends: &[u8]) -> String {
        let backends = ends.iter().map(|end| format!("10.91.0.{end}:5000")).collect::<Vec<_>>().join(", ");
        let events = self.events;
        format!(
            "listeners:
  web: {{bind: {LISTENER}:{PORT}, pool: web, plane: kernel, client_address: keep, conntrack_events: {events}}}
pools:
  web:
    balance: maglev
    hash: {{key: source-ip-port}}
    discover: [{{static: [{backends}]}}]
    health: {{tcp: {{}}, every: 500ms, timeout: 400ms}}"
        )
    }

    /// The two balancers, the first one with the addresses.
    fn balancers(&self, ends: [&[u8]; 2]) -> [Balancer; 2] {
        let first = Balancer::start("first", 2, 200, &self.config(ends[0]));
        eventually("the first one has the addresses", || first.has_address().then_some(()));
        [first, Balancer::start("second", 3, 100, &self.config(ends[1]))]
    }

    /// Connections of the client.
    fn connect(&self, count: usize) -> Vec<TcpStream> {
        self.client.run(move || connect((LISTENER.parse::<IpAddr>().unwrap(), PORT).into(), count))
    }
}

/// Connections from the machine that calls it.
fn connect(to: SocketAddr, count: usize) -> Vec<TcpStream> {
    let connect = |_| {
        let stream = TcpStream::connect_timeout(&to, crate::TIME_LIMIT).unwrap();
        stream.set_read_timeout(Some(crate::TIME_LIMIT)).unwrap();
        stream
    };
    (0..count).map(connect).collect()
}

#[test]
fn the_second_machine_continues_the_connections_of_the_first() {
    if !has_bridges("the_second_machine_continues_the_connections_of_the_first") {
        return;
    }
    let network = Network::new(&[21, 22], |_, stream| serve(stream));
    let [first, second] = network.balancers([&[21, 22]; 2]);
    let streams = Streams::start(network.connect(STREAMS));
    first.lb.when_logged_times(STREAMS, &["routed conn="]);
    streams.when_all_move();
    first.cut_off();
    streams.when_all_move();
    let gap = streams.finish();
    eprintln!("the longest gap of a download: {gap:?}");
    assert!(second.has_address());
    // The second one tells of them as of its own.
    second.lb.when_logged_times(STREAMS, &["routed conn=", "client=10.90.0.10:", "listener=web"]);
    second.lb.when_logged_times(STREAMS, &["closed conn=", "client=10.90.0.10:"]);
}

/// The backend's end of a connection: sends its number, and then what it receives.
fn number_and_echo(number: u8, mut stream: TcpStream) {
    if stream.write_all(&[number]).is_ok() {
        let mut reader = stream.try_clone().unwrap();
        let _ = std::io::copy(&mut reader, &mut stream);
    }
}

/// A client's connection that has received the backend's number.
fn numbered(mut stream: TcpStream) -> (TcpStream, u8) {
    let mut number = [0];
    stream.read_exact(&mut number).unwrap();
    (stream, number[0])
}

/// Whether the backend still answers; an error: the connection was reset.
fn echoes(stream: &mut TcpStream) -> bool {
    let mut answer = [0; 4];
    match stream.write_all(b"ping").and_then(|()| stream.read_exact(&mut answer)) {
        Ok(()) => answer == *b"ping",
        Err(error) => {
            assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "neither an answer nor a reset");
            false
        }
    }
}

#[test]
fn a_backend_that_the_second_machine_lacks_costs_only_its_own_connections() {
    if !has_bridges("a_backend_that_the_second_machine_lacks_costs_only_its_own_connections") {
        return;
    }
    let network = Network::new(&[21, 22, 23], number_and_echo);
    // 23 has left when the second one takes over.
    let [first, second] = network.balancers([&[21, 22, 23], &[21, 22]]);
    let mut streams: Vec<_> = network.connect(STREAMS).into_iter().map(numbered).collect();
    assert!(streams.iter_mut().all(|(stream, _)| echoes(stream)));
    first.cut_off();
    eventually("the second one has the addresses", || second.has_address().then_some(()));
    let (mut stayed, mut ended) = (0, 0);
    for (stream, number) in &mut streams {
        match (*number, echoes(stream)) {
            (23, continues) => assert!(!continues, "its backend is in no rule"),
            (_, true) => stayed += 1,
            (_, false) => ended += 1,
        }
    }
    eprintln!("of those with other backends {stayed} stayed and {ended} ended");
    // Maglev moves some entries of others when a backend leaves.
    assert!(stayed > STREAMS / 3 && ended * 5 < stayed, "{stayed} stayed, {ended} ended");
    // A reset of a connection that has moved there is no failure of the backend.
    second.lb.when_logged("reason=backend_reset");
    assert_eq!(second.lb.logged(&["backend down", "a client's connection failed"]), Vec::<String>::new());
    assert!(network.connect(STREAMS).into_iter().map(numbered).all(|(_, number)| number != 23));
}
