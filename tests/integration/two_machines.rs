//! Two balancers with the same configuration (`plane: kernel`, `client_address: keep`, `maglev`), and one virtual address on
//! each side, which keepalived gives to one of them. When that one is cut off, the other one continues its connections.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::support::backend::Backend;
use crate::support::machine::Machine;
use crate::support::network::{is_inside, sh};
use crate::support::{Lb, eventually};

/// The virtual addresses: the listener's, and the router of the backends.
const LISTENER: &str = "10.90.0.100";
const ROUTER: &str = "10.91.0.100";
const PORT: u16 = 8080;

/// Streams in each direction. Each has these pieces with a pause between two: two and a half seconds.
const STREAMS: usize = 100;
const PIECES: u8 = 64;
const PIECE: usize = 4096;
const PAUSE: Duration = Duration::from_millis(40);

/// The pieces that all streams have received.
static RECEIVED: AtomicUsize = AtomicUsize::new(0);

/// Sends a stream.
fn send(stream: &mut TcpStream) -> std::io::Result<()> {
    for number in 0..PIECES {
        stream.write_all(&[number; PIECE])?;
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

/// Receives a whole stream; returns the longest time without a piece.
fn receive(stream: &mut TcpStream) -> Result<Duration, String> {
    let (mut gap, mut last) = (Duration::ZERO, Instant::now());
    for number in 0..PIECES {
        let mut bytes = [0; PIECE];
        stream.read_exact(&mut bytes).map_err(|error| format!("piece {number}: {error}"))?;
        if bytes != [number; PIECE] {
            return Err(format!("piece {number} has other bytes"));
        }
        RECEIVED.fetch_add(1, Ordering::Relaxed);
        gap = gap.max(last.elapsed());
        last = Instant::now();
    }
    Ok(gap)
}

/// The backend of a download (`d`) or an upload (`u`).
fn serve(mut stream: TcpStream) {
    let mut direction = [0];
    let _ = stream.read_exact(&mut direction);
    if direction == *b"d" {
        let _ = send(&mut stream);
    } else if receive(&mut stream).is_ok() {
        let _ = stream.write_all(b"whole");
    }
}

/// A client's stream.
fn transfer(mut stream: TcpStream, is_download: bool) -> Result<Duration, String> {
    stream.set_read_timeout(Some(crate::TIME_LIMIT)).unwrap();
    stream.write_all(if is_download { b"d" } else { b"u" }).map_err(|error| error.to_string())?;
    if is_download {
        return receive(&mut stream);
    }
    send(&mut stream).map_err(|error| format!("sending: {error}"))?;
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).map_err(|error| format!("the answer: {error}"))?;
    Ok(Duration::ZERO)
}

/// A machine with a balancer and keepalived.
struct Balancer {
    machine: Machine,
    lb: Lb,
    keepalived: Child,
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
        Self { machine, lb, keepalived, name }
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

impl Drop for Balancer {
    fn drop(&mut self) {
        let _ = self.keepalived.kill();
        let _ = self.keepalived.wait();
    }
}

fn start_keepalived(folder: &Path, priority: u8) -> Child {
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
    Command::new("keepalived")
        .args(["--dont-fork", "--log-console", "--vrrp", "--use-file"])
        .arg(folder.join("keepalived.conf"))
        .args(["--pid", &pid_file("keepalived.pid"), "--vrrp_pid", &pid_file("vrrp.pid")])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn the_second_machine_continues_the_connections_of_the_first() {
    let bridges = "ip link add front type bridge && ip link add back type bridge \
                   && ip link set front up && ip link set back up && nft list tables && keepalived --version";
    let test = "two_machines::the_second_machine_continues_the_connections_of_the_first";
    if !is_inside(test, "nftables, keepalived", bridges) {
        return;
    }
    let client = Machine::alone();
    client.plug("front", "client", "10.90.0.10");
    let machines = [21, 22].map(|end| {
        let machine = Machine::alone();
        machine.plug("back", &format!("backend{end}"), &format!("10.91.0.{end}"));
        machine.run(|| sh(&format!("ip route add default via {ROUTER}")));
        machine
    });
    let backends: Vec<_> = [21, 22]
        .into_iter()
        .zip(&machines)
        .map(|(end, machine)| {
            let address = SocketAddr::from(([10, 91, 0, end], 5000));
            machine.run(move || Backend::serving_at(address, serve)).unwrap()
        })
        .collect();
    let config = format!(
        "listeners:
  web: {{bind: {LISTENER}:{PORT}, pool: web, plane: kernel, client_address: keep}}
pools:
  web:
    balance: maglev
    hash: {{key: source-ip-port}}
    discover: [{{static: [{}, {}]}}]
    health: {{tcp: {{}}, every: 500ms, timeout: 400ms}}",
        backends[0].address, backends[1].address
    );
    let first = Balancer::start("first", 2, 200, &config);
    eventually("the first one has the addresses", || first.has_address().then_some(()));
    let second = Balancer::start("second", 3, 100, &config);

    let to: SocketAddr = format!("{LISTENER}:{PORT}").parse().unwrap();
    let streams: Vec<JoinHandle<_>> = client.run(move || {
        let connect = |n: usize| {
            let stream = TcpStream::connect_timeout(&to, crate::TIME_LIMIT).unwrap();
            std::thread::spawn(move || transfer(stream, n.is_multiple_of(2)))
        };
        (0..2 * STREAMS).map(connect).collect()
    });
    first.lb.when_logged_times(2 * STREAMS, &["routed conn="]);
    eventually("all are under way", || {
        (RECEIVED.load(Ordering::Relaxed) >= 2 * STREAMS * usize::from(PIECES) / 6).then_some(())
    });
    first.cut_off();
    let (mut gaps, mut broken) = (Vec::new(), Vec::new());
    for (n, stream) in streams.into_iter().enumerate() {
        match stream.join().unwrap() {
            Ok(gap) => gaps.push(gap),
            Err(error) => broken.push(format!("{}: {error}", if n % 2 == 0 { "download" } else { "upload" })),
        }
    }
    eprintln!("the longest gap of a download: {:?}", gaps.iter().max().unwrap());
    assert!(broken.is_empty(), "{broken:#?}\n{}", second.lb.log());
    assert!(second.has_address());
    // The second one tells of them as of its own.
    second.lb.when_logged_times(2 * STREAMS, &["routed conn=", "client=10.90.0.10:", "listener=web"]);
    second.lb.when_logged_times(2 * STREAMS, &["closed conn=", "client=10.90.0.10:"]);
}
