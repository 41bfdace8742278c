//! Two active balancers behind routers that spread connections over both. BIRD announces each while it is ready, with the files in
//! `conf/bird`.

use std::net::IpAddr;
use std::path::Path;
use std::process::Command;

use super::streams::{Streams, serve};
use super::{Daemon, PORT, STREAMS};
use crate::support::backend::Backend;
use crate::support::machine::Machine;
use crate::support::network::{is_inside, sh};
use crate::support::{Lb, eventually};

const CONF: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/conf/bird");
/// The address of the listener in those files.
const LISTENER: &str = "192.0.2.10";
const BACKENDS: [u8; 2] = [21, 22];

/// What the cables are plugged into, and the programs.
const BRIDGES: &str = "for bridge in clients front back servers; do \
                       ip link add $bridge type bridge; ip link set $bridge up; done; \
                       nft list tables && bird --version && command -v birdc conntrack";

/// BIRD with a file of [`CONF`], and its socket in this folder.
fn start_bird(file: &str, folder: &Path) -> Daemon {
    let mut command = Command::new("bird");
    command.arg("-f").args(["-c", &format!("{CONF}/{file}")]);
    command.arg("-s").arg(folder.join("bird.ctl")).arg("-P").arg(folder.join("bird.pid"));
    Daemon::start(&mut command)
}

/// A router between two networks, which spreads what goes to a destination that both balancers announce.
struct Router {
    machine: Machine,
    /// The destination.
    to: &'static str,
    _bird: Daemon,
    _folder: tempfile::TempDir,
}

impl Router {
    /// `networks`: the bridges, with its addresses there. `fields`: see `router.conf`.
    fn start(networks: [(&'static str, &str); 2], to: &'static str, fields: &str) -> Self {
        let machine = Machine::alone();
        for (bridge, address) in networks {
            machine.plug(bridge, &format!("router-{bridge}"), address);
        }
        let fields = fields.to_owned();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_owned();
        let bird = machine.run(move || {
            sh(&format!(
                "cd /proc/sys/net/ipv4; echo 1 >ip_forward; echo 3 >fib_multipath_hash_policy
                 echo {fields} >fib_multipath_hash_fields"
            ));
            start_bird("router.conf", &path)
        });
        Self { machine, to, _bird: bird, _folder: folder }
    }

    /// How many balancers it sends packets to.
    fn balancers(&self) -> usize {
        let to = self.to;
        let routes =
            move || Command::new("ip").args(["-oneline", "route", "show", to]).output().unwrap().stdout;
        String::from_utf8(self.machine.run(routes)).unwrap().matches("via 10.9").count()
    }
}

/// A machine with a balancer and BIRD.
struct Balancer {
    machine: Machine,
    name: &'static str,
    /// `None` while it is stopped.
    lb: Option<Lb>,
    _daemons: [Daemon; 2],
    _folder: tempfile::TempDir,
}

impl Balancer {
    fn start(name: &'static str, end: u8) -> Self {
        let machine = Machine::alone();
        machine.plug("front", &format!("{name}-front"), &format!("10.90.0.{end}"));
        machine.plug("back", &format!("{name}-back"), &format!("10.91.0.{end}"));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_owned();
        std::fs::write(path.join("pointsman.yaml"), config()).unwrap();
        let daemons = machine.run(move || {
            sh(&format!(
                "echo 1 >/proc/sys/net/ipv4/ip_forward; ip address add {LISTENER}/32 dev lo
                 ip route add default via 10.90.0.1; ip route add 10.92.0.0/24 via 10.91.0.1"
            ));
            let pointsman = Path::new(env!("CARGO_BIN_EXE_pointsman")).parent().unwrap();
            let others = std::env::var("PATH").unwrap();
            let mut announce = Command::new(format!("{CONF}/announce"));
            announce
                .env("PATH", format!("{}:{others}", pointsman.display()))
                .env("CONFIG", path.join("pointsman.yaml"))
                .env("BIRD_SOCKET", path.join("bird.ctl"))
                .env("EVERY", "0.1");
            [start_bird("balancer.conf", &path), Daemon::start(&mut announce)]
        });
        let mut balancer = Self { machine, name, lb: None, _daemons: daemons, _folder: folder };
        balancer.resume();
        balancer
    }

    /// Starts Pointsman.
    fn resume(&mut self) {
        self.lb = Some(self.machine.run(|| Lb::start(&config())));
    }

    /// Waits for the end of Pointsman, and removes what the kernel has of its connections.
    fn when_stopped(&mut self) {
        self.lb.take().unwrap().when_ended();
        self.machine.run(|| sh("conntrack -F"));
    }

    fn lb(&self) -> &Lb {
        self.lb.as_ref().unwrap()
    }

    /// Pulls its cables.
    fn cut_off(&self) {
        let name = self.name;
        sh(&format!("ip link set {name}-front down; ip link set {name}-back down"));
    }
}

/// The same on both, with the admin server where `announce` finds it.
fn config() -> String {
    let backends = BACKENDS.map(|end| format!("10.92.0.{end}:5000")).join(", ");
    format!(
        "listeners:
  web: {{bind: {LISTENER}:{PORT}, pool: web, plane: kernel, client_address: keep}}
pools:
  web:
    balance: maglev
    hash: {{key: source-ip-port}}
    discover: [{{static: [{backends}]}}]
    health: {{tcp: {{}}, every: 500ms, timeout: 400ms}}
admin: {{bind: 127.0.0.1:9900}}
runtime: {{drain: {{grace: 5s, timeout: 1s}}}}
"
    )
}

#[test]
fn streams_continue_whichever_of_two_active_machines_drains_returns_or_is_cut_off() {
    let test = "streams_continue_whichever_of_two_active_machines_drains_returns_or_is_cut_off";
    if !is_inside(&format!("two_machines::routes::{test}"), "nftables, bird2, conntrack", BRIDGES) {
        return;
    }
    let client = Machine::alone();
    client.plug("clients", "client", "10.89.0.10");
    client.run(|| sh("ip route add default via 10.89.0.1"));
    let _backends = BACKENDS.map(|end| {
        let machine = Machine::alone();
        machine.plug("servers", &format!("backend{end}"), &format!("10.92.0.{end}"));
        let backend = machine.run(move || {
            sh("ip route add default via 10.92.0.1");
            Backend::serving_at(([10, 92, 0, end], 5000).into(), serve).unwrap()
        });
        (machine, backend)
    });
    let routers = [
        Router::start([("clients", "10.89.0.1"), ("front", "10.90.0.1")], LISTENER, "0x11"),
        Router::start([("servers", "10.92.0.1"), ("back", "10.91.0.1")], "default", "0x22"),
    ];
    let when_announced = |count: usize| {
        eventually("the routers know the balancers", || {
            routers.iter().all(|router| router.balancers() == count).then_some(())
        });
    };
    let [mut first, second] = [("first", 2), ("second", 3)].map(|(name, end)| Balancer::start(name, end));
    when_announced(2);

    let connections =
        client.run(|| super::connect((LISTENER.parse::<IpAddr>().unwrap(), PORT).into(), STREAMS));
    let streams = Streams::start(connections);
    streams.when_all_move();
    let routed = |balancer: &Balancer| balancer.lb().logged(&["routed conn="]).len();
    let shares = eventually("all are routed", || {
        Some([routed(&first), routed(&second)]).filter(|shares| shares.iter().sum::<usize>() == STREAMS)
    });
    assert!(shares.iter().all(|n| *n > STREAMS / 4), "{shares:?}");

    // It is no longer announced soon after the drain begins; until then it forwards what arrives.
    first.lb().signal("TERM");
    when_announced(1);
    assert!(first.lb.as_mut().unwrap().is_running(), "the announcement ends with the process only");
    streams.when_all_move();
    second.lb().when_logged_times(STREAMS, &["routed conn="]);
    first.when_stopped();

    // It gets its share again.
    first.resume();
    when_announced(2);
    streams.when_all_move();
    first.lb().when_logged_times(shares[0], &["routed conn="]);
    assert_eq!(routed(&first), shares[0], "{}", first.lb().log());

    first.cut_off();
    when_announced(1);
    streams.when_all_move();
    let gap = streams.finish();
    eprintln!("shares {shares:?}, the longest gap of a download: {gap:?}");
}
