//! Checks that the proxy applies the decisions of the pure modules: each test fails if one line of glue code is
//! missing.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use crate::support::backend::Backend;
use crate::support::peers::{connect, in_front_of, pair, reset};
use crate::support::{Lb, TIME_LIMIT, eventually, http_get, listen_alone, static_list};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use socket2::{Domain, Socket, Type};

fn balancing(backends: &[SocketAddr], pool: &str) -> Lb {
    let discover = static_list(backends);
    Lb::start(&format!(
        "listeners: {{l: {{bind: 127.0.0.1:0, pool: p}}}}\npools:\n  p:\n    discover: {discover}\n{pool}"
    ))
}

/// Runs `act` while the balancer is suspended, so that all resulting events are ready when it resumes.
fn while_suspended<T>(lb: &Lb, act: impl FnOnce() -> T) -> T {
    lb.signal("STOP");
    let state = || std::fs::read_to_string(format!("/proc/{}/stat", lb.pid())).unwrap();
    eventually("it is suspended", || state().contains(") T ").then_some(()));
    let done = act();
    lb.signal("CONT");
    done
}

/// Bytes that the balancer has read from the backend of its only connection. The worker itself answers, so it has
/// handled all earlier events.
fn bytes_from_backend(lb: &Lb) -> u64 {
    let list: serde_json::Value = serde_json::from_str(&lb.get("/api/v1/connections").1).unwrap();
    list["connections"][0]["bytes_out"].as_u64().unwrap()
}

/// Writes until the balancer accepts no more bytes, as the client does not read.
fn write_until_stuck(lb: &Lb, server: &mut TcpStream) {
    let block = vec![0; 1 << 16];
    server.set_nonblocking(true).unwrap();
    let (mut read, mut same) = (0, 0);
    eventually("the balancer takes nothing more", || {
        let mut written = false;
        while server.write(&block).is_ok() {
            written = true;
        }
        let now = bytes_from_backend(lb);
        same = if written || now != read { 0 } else { same + 1 };
        read = now;
        (same == 5).then_some(())
    });
}

#[test]
fn a_backend_that_resets_while_the_client_does_not_read_is_noticed() {
    let (lb, client, mut server) = pair("");
    write_until_stuck(&lb, &mut server);
    assert!(lb.logged(&["closed conn="]).is_empty());
    reset(server);
    assert!(lb.when_logged("closed conn=").contains("reason=backend_reset"));
    drop(client);
}

#[test]
fn client_bytes_before_routing_are_counted() {
    let backend = Backend::echo();
    let lb = in_front_of(backend.address, "");
    let mut client = while_suspended(&lb, || {
        let mut client = connect(&lb);
        client.write_all(&[1; 100]).unwrap();
        client
    });
    client.read_exact(&mut [0; 100]).unwrap();
    drop(client);
    let closed = lb.when_logged("closed conn=");
    assert!(closed.contains("bytes_in=100 bytes_out=100"), "{closed}");
    let backend = &lb.status()["pools"][0]["backends"][0];
    assert_eq!((&backend["bytes_in"], &backend["bytes_out"]), (&100.into(), &100.into()));
}

/// Lowers the limit of open files so that only one more can be opened.
fn leave_one_file(pid: Pid) {
    let open: Vec<u64> = std::fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero()))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap().parse().unwrap())
        .collect();
    // The limit is one above the highest file descriptor, not a count.
    let first_free = (0..).find(|number| !open.contains(number)).unwrap();
    let second_free = (first_free + 1..).find(|number| !open.contains(number)).unwrap();
    set_file_limit(pid, second_free);
}

fn set_file_limit(pid: Pid, current: u64) {
    let maximum = rustix::process::getrlimit(Resource::Nofile).maximum;
    prlimit(Some(pid), Resource::Nofile, Rlimit { current: Some(current), maximum }).unwrap();
}

#[test]
fn a_lack_of_open_files_does_not_count_as_a_backend_failure() {
    let backends = [Backend::http("a"), Backend::http("b")];
    let lb = balancing(
        &backends.each_ref().map(|backend| backend.address),
        "    eject: {failures: 1, for: 1h, at_most: 100%}\n",
    );
    let pid = Pid::from_raw(lb.pid() as i32).unwrap();
    // The client's connection takes the last file.
    eventually("a backend cannot be connected to", || {
        leave_one_file(pid);
        let mut client = TcpStream::connect(lb.address("l")).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        let _ = client.read(&mut [0]);
        (!lb.logged(&["cannot connect to backends: local resources are exhausted"]).is_empty()).then_some(())
    });
    set_file_limit(pid, 1024);
    lb.when_idle();
    assert!(lb.logged(&["ejected"]).is_empty(), "{}", lb.log());
    let count = |error: &str| -> f64 {
        let text = lb.get("/metrics").1;
        let lines = text.lines().filter(|line| line.starts_with("pointsman_connect_failures_total{"));
        let of_kind = lines.filter(|line| line.contains(&format!("error=\"{error}\"")));
        of_kind.map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()).sum()
    };
    assert!(count("local") > 0.0);
    assert_eq!(count("other"), 0.0);
    lb.when_up(backends.iter().map(|backend| backend.address.to_string()).collect());
    let mut answers: Vec<_> = (0..2).map(|_| http_get(lb.address("l"), "/").unwrap().1).collect();
    answers.sort();
    assert_eq!(answers, ["a", "b"]);
}

#[test]
fn the_connections_of_full_backends_are_shared_evenly_by_the_others() {
    // Two adjacent full backends, followed by two with room.
    let full = [(); 2].map(|()| listen_alone());
    let free = [Backend::http("c"), Backend::http("d")];
    let entry = |address: SocketAddr, limit: &str| format!("{{address: \"{address}\"{limit}}}");
    let mut entries = Vec::new();
    entries.extend(full.iter().map(|server| entry(server.local_addr().unwrap(), ", connections: 1")));
    entries.extend(free.iter().map(|backend| entry(backend.address, "")));
    let lb = Lb::start(&format!(
        "listeners: {{l: {{bind: 127.0.0.1:0, pool: p}}}}\npools: {{p: {{discover: [{{static: [{}]}}]}}}}\n",
        entries.join(", ")
    ));
    // The rotation begins with the two full ones, one connection for each.
    let _held: Vec<_> = full
        .iter()
        .enumerate()
        .map(|(n, _)| {
            let client = connect(&lb);
            eventually("it is routed", || (lb.logged(&["routed"]).len() == n + 1).then_some(()));
            client
        })
        .collect();
    let answers: Vec<_> = (0..60).map(|_| http_get(lb.address("l"), "/").unwrap().1).collect();
    let count = |name: &str| answers.iter().filter(|answer| *answer == name).count();
    assert_eq!((count("c"), count("d")), (30, 30), "{answers:?}");
}

#[test]
fn ewma_detects_a_slow_backend_by_its_first_byte() {
    const REQUESTS: usize = 60;
    let slow = Backend::serving(|stream| {
        // Far above a delay of `quick` on a busy machine: one such delay would make it the slow one for seconds.
        std::thread::sleep(Duration::from_secs(2));
        crate::support::backend::http(stream, "slow");
    });
    let quick = Backend::http("quick");
    let lb = balancing(&[slow.address, quick.address], "    balance: ewma\n");
    let answers = (0..REQUESTS).map(|_| http_get(lb.address("l"), "/").unwrap().1);
    let slow = answers.filter(|answer| answer == "slow").count();
    // Random choice alone would give 30 of 60; until both are known, the choice is random.
    assert!(slow <= 15, "{slow} of {REQUESTS} went to the slow backend");
}

/// A server that accepts its first connection after a second: its queue is full until the kernel retries.
fn slow_to_connect() -> (SocketAddr, TcpStream) {
    const SYN_SENT: &str = "02";
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    // One connection fits, and the kernel ignores later ones (listen(2), tcp_abort_on_overflow in tcp(7)).
    socket.listen(0).unwrap();
    let listener = TcpListener::from(socket);
    let address = listener.local_addr().unwrap();
    let first = TcpStream::connect(address).unwrap();
    let theirs = format!(":{:04X}", address.port());
    std::thread::spawn(move || {
        eventually("a client waits for a connection", || {
            let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
            let waiting = |line: &str| {
                let fields: Vec<_> = line.split_ascii_whitespace().collect();
                fields[2].ends_with(&theirs) && fields[3] == SYN_SENT
            };
            table.lines().skip(1).any(waiting).then_some(())
        });
        for mut stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let _ = stream.set_read_timeout(Some(TIME_LIMIT));
                let _ = stream.read(&mut [0]);
            });
        }
    });
    (address, first)
}

#[test]
fn ewma_detects_a_slow_backend_by_its_time_to_connect() {
    const CLIENTS: usize = 40;
    let (slow, _first) = slow_to_connect();
    // It sends no byte: only the time to connect distinguishes the two.
    let quick = Backend::serving(|mut stream| _ = stream.read(&mut [0]));
    let lb = balancing(&[slow, quick.address], "    balance: ewma\n    connect: {timeout: 20s}\n");
    for n in 1..=CLIENTS {
        let client = connect(&lb);
        eventually("it is routed", || (lb.logged(&["routed"]).len() == n).then_some(()));
        drop(client);
        eventually("it is closed", || (lb.logged(&["closed"]).len() == n).then_some(()));
    }
    let to_slow = lb.logged(&["routed", &format!("address={slow} ")]).len();
    // Random choice alone would give 20 of 40; until both are known, the choice is random.
    assert!((1..=10).contains(&to_slow), "{to_slow} of {CLIENTS} went to the slow backend");
}
