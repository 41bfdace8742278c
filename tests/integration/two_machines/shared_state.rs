//! The same with conntrackd, which sends the first machine's connections to the second one: with the file in `conf/conntrackd`.

use std::path::Path;
use std::process::Command;

use super::{BRIDGES, Balancer, Daemon, LISTENER, Network, STREAMS, echoes, number_and_echo, numbered};
use crate::support::eventually;
use crate::support::network::is_inside;

const CONF: &str = include_str!("../../../conf/conntrackd/conntrackd.conf");

/// conntrackd of a machine with this address, with its files in this folder.
fn start_conntrackd(folder: &Path, own: &str, other: &str) -> Daemon {
    // The address of this end comes first.
    let mut is_first = true;
    // A process in a user namespace may not enlarge these buffers.
    let lines = CONF.lines().filter(|line| !line.contains("SocketBuffer "));
    let lines = lines.map(|line| match line.trim().split_once(' ') {
        Some(("IPv4_Destination_Address", _)) => format!("IPv4_Destination_Address {other}"),
        Some(("IPv4_address", _)) if std::mem::take(&mut is_first) => format!("IPv4_address {own}"),
        Some(("Syslog", _)) => format!("LogFile {}", folder.join("conntrackd.log").display()),
        Some((key @ "LockFile", _)) => format!("{key} {}", folder.join("conntrackd.lock").display()),
        Some((key @ "Path", _)) => format!("{key} {}", folder.join("conntrackd.ctl").display()),
        _ => line.to_owned(),
    });
    let file = folder.join("conntrackd.conf");
    std::fs::write(&file, lines.collect::<Vec<_>>().join("\n")).unwrap();
    Daemon::start(Command::new("conntrackd").arg("-C").arg(file))
}

fn runs_conntrackd(balancer: &Balancer) -> bool {
    let file = balancer.lb.folder().join("conntrackd.conf");
    let ask = move || Command::new("conntrackd").arg("-C").arg(file).arg("-s").output().unwrap();
    balancer.machine.run(ask).status.success()
}

/// The open connections to the listener in the kernel's table of a machine.
fn entries(balancer: &Balancer) -> usize {
    let list = || Command::new("conntrack").args(["-L", "-d", LISTENER]).output().unwrap().stdout;
    String::from_utf8(balancer.machine.run(list)).unwrap().matches("ESTABLISHED").count()
}

#[test]
fn with_conntrackd_a_backend_that_the_second_machine_lacks_costs_no_connection() {
    let test = "with_conntrackd_a_backend_that_the_second_machine_lacks_costs_no_connection";
    let prepare = format!("{BRIDGES} && command -v conntrackd conntrack");
    if !is_inside(
        &format!("two_machines::shared_state::{test}"),
        "nftables, keepalived, conntrackd",
        &prepare,
    ) {
        return;
    }
    let mut network = Network::new(&[21, 22, 23], number_and_echo);
    network.events = "all";
    let [first, second] = network.balancers([&[21, 22, 23], &[21, 22]]);
    let [own, other] = ["10.91.0.2", "10.91.0.3"];
    let _conntrackd = [(&first, own, other), (&second, other, own)].map(|(balancer, own, other)| {
        let folder = balancer.lb.folder().to_owned();
        balancer.machine.run(move || start_conntrackd(&folder, own, other))
    });
    eventually("conntrackd runs on both", || {
        [&first, &second].into_iter().all(runs_conntrackd).then_some(())
    });
    let mut streams: Vec<_> = network.connect(STREAMS).into_iter().map(numbered).collect();
    assert!(streams.iter_mut().all(|(stream, _)| echoes(stream)));
    assert!(streams.iter().any(|(_, number)| *number == 23));
    eventually("the second one has all connections", || (entries(&second) == STREAMS).then_some(()));
    // The second one counts those whose backends are its own.
    let of_both = streams.iter().filter(|(_, number)| *number != 23).count();
    second.lb.when_logged_times(of_both, &["routed conn=", "client=10.90.0.10:"]);
    first.cut_off();
    eventually("the second one has the addresses", || second.has_address().then_some(()));
    let lost = streams.iter_mut().filter_map(|(stream, number)| (!echoes(stream)).then_some(*number)).count();
    assert_eq!(lost, 0);
    // New ones go where its own rules say.
    assert!(network.connect(STREAMS).into_iter().map(numbered).all(|(_, number)| number != 23));
}
