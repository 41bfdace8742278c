//! Connections that the kernel forwards (`plane: kernel`), between network namespaces: a client's, the balancer's and those
//! of the backends.

mod obstacles;

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::Command;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};

use socket2::{Domain, Socket, Type};

use crate::hand_over::Successors;
use crate::support::backend::Backend;
use crate::support::machine::Machine;
use crate::support::network::{is_inside, sh};
use crate::support::{Lb, eventually, static_list, within};

/// A router that has rules.
const ROUTER: &str = "echo 1 >/proc/sys/net/ipv4/ip_forward && echo 1 >/proc/sys/net/ipv6/conf/all/forwarding \
                      && nft list tables";

/// Runs the test in a network namespace of its own.
fn is_router(test: &str) -> bool {
    is_inside(&format!("kernel_plane::{test}"), "nftables", ROUTER)
}

/// A client, and two machines with a backend each, `a` and `b`, which echo after they have said their name.
struct Network {
    client: Machine,
    machines: [Machine; 2],
    backends: [Arc<Mutex<Backend>>; 2],
}

impl Network {
    fn new() -> Self {
        Self::with_addresses(["10.77.2.2:0", "10.77.3.2:0"])
    }

    fn with_addresses(addresses: [&str; 2]) -> Self {
        let machines = [Machine::new("backend2", 2), Machine::new("backend3", 3)];
        let backend = |n: usize| {
            let address: SocketAddr = addresses[n].parse().unwrap();
            let backend = machines[n].run(move || {
                Backend::serving_at(address, move |mut stream| {
                    let name: &[u8] = [b"a", b"b"][n];
                    if stream.write_all(name).is_ok() {
                        let mut reader = stream.try_clone().unwrap();
                        let _ = std::io::copy(&mut reader, &mut stream);
                    }
                })
            });
            Arc::new(Mutex::new(backend.unwrap()))
        };
        let network =
            Self { client: Machine::new("client0", 1), backends: [backend(0), backend(1)], machines };
        for address in network.addresses() {
            within(crate::TIME_LIMIT, "a route to the backend", || TcpStream::connect(address).ok());
        }
        network
    }

    fn addresses(&self) -> [SocketAddr; 2] {
        self.backends.each_ref().map(|backend| backend.lock().unwrap().address)
    }

    /// The configuration of a listener with these settings besides, and a pool with these.
    fn config(&self, listener: &str, pool: &str) -> String {
        let [a, b] = self.addresses();
        format!(
            "listeners:\n  web: {{bind: 10.77.1.1:0, pool: web, {listener}}}\npools:\n  web:\n    discover: \
             [{{static: [{{address: '{a}', name: a}}, {{address: '{b}', name: b}}]}}]\n    {pool}\n"
        )
    }

    /// A connection of the client, and the name of the backend that it has reached.
    fn connect(&self, to: SocketAddr) -> (TcpStream, char) {
        self.try_connect(to, 0).unwrap()
    }

    /// The same from a port of the client; 0: any.
    fn try_connect(&self, to: SocketAddr, port: u16) -> std::io::Result<(TcpStream, char)> {
        self.client.run(move || {
            let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
            socket.set_reuse_address(true)?;
            let unspecified: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0u16; 8].into() };
            socket.bind(&SocketAddr::new(unspecified, port).into())?;
            socket.connect_timeout(&to.into(), crate::TIME_LIMIT)?;
            let mut stream = TcpStream::from(socket);
            stream.set_read_timeout(Some(crate::TIME_LIMIT))?;
            let mut name = [0];
            stream.read_exact(&mut name)?;
            Ok((stream, name[0].into()))
        })
    }
}

/// Sends something and gets it back.
fn echo(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(b"ping")?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer)?;
    assert_eq!(&answer, b"ping");
    Ok(())
}

/// The rules; empty: there is no table.
fn table() -> String {
    let output = Command::new("nft").args(["list", "table", "inet", "pointsman"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// The value of a field of a log line.
fn field<'l>(line: &'l str, name: &str) -> &'l str {
    let rest = line.split_once(&format!(" {name}=")).unwrap_or_else(|| panic!("{name}: {line}")).1;
    rest.split(' ').next().unwrap()
}

#[test]
fn each_connection_is_logged_counted_and_shown() {
    if !is_router("each_connection_is_logged_counted_and_shown") {
        return;
    }
    let network = Network::new();
    let mut lb = Lb::start(&network.config("plane: kernel", ""));
    let web = lb.address("web");
    let (mut first, a) = network.connect(web);
    let (second, b) = network.connect(web);
    assert_ne!(a, b, "in rotation");
    echo(&mut first).unwrap();
    let port = first.local_addr().unwrap().port().to_string();
    let routed = lb.when_logged_times(2, &["routed conn="]);
    let line = routed.iter().find(|line| line.contains(&format!(":{port} "))).unwrap();
    assert_eq!((field(line, "backend"), field(line, "algorithm")), (&*a.to_string(), "round-robin"));
    let open: serde_json::Value = serde_json::from_str(&lb.get("/api/v1/connections").1).unwrap();
    let listed = open["connections"].as_array().unwrap();
    assert_eq!(listed.len(), 2, "{open}");
    // Handshake, name and echo: at least as many packets of 40 bytes.
    assert!(
        listed.iter().all(|one| one["bytes_in"].as_u64() > Some(80) && one["bytes_out"].as_u64() > Some(80)),
        "{open}"
    );
    let status = lb.status();
    assert_eq!(
        (&status["listeners"][0]["plane"], &status["listeners"][0]["active"]),
        (&"kernel".into(), &2.into())
    );
    drop(first);
    let closed = lb.when_logged("closed conn=");
    assert_eq!((field(&closed, "reason"), field(&closed, "backend")), ("client_closed", &*a.to_string()));
    let bytes = |name: &str| field(&closed, name).parse::<u64>().unwrap();
    // The bytes of the packets: of IP and TCP there are at least 40 in each.
    assert!(
        (100..1000).contains(&bytes("bytes_in")) && (100..1000).contains(&bytes("bytes_out")),
        "{closed}"
    );
    let why: String = lb.get(&format!("/api/v1/why?conn={}", field(&closed, "conn"))).1;
    assert!(why.contains("accepted"), "{why}");
    // Killed with the connection open: the backend resets it.
    let killed = &network.backends[usize::from(b == 'b')];
    killed.lock().unwrap().kill();
    let closed = &lb.when_logged_times(2, &["closed conn="])[1];
    assert_eq!(field(closed, "reason"), "backend_reset");
    drop(second);
    lb.when_idle();
    lb.signal("TERM");
    assert!(lb.when_ended().success());
    assert_eq!(table(), "", "it is removed");
}

#[test]
fn a_refused_connection_is_a_check_and_the_backend_leaves_the_rules() {
    if !is_router("a_refused_connection_is_a_check_and_the_backend_leaves_the_rules") {
        return;
    }
    let network = Network::new();
    let lb = Lb::start(&network.config("plane: kernel", "health: {tcp: {}, every: 1h, fall: 1}"));
    let web = lb.address("web");
    network.backends[0].lock().unwrap().kill();
    let refused = eventually("a refused connection", || network.try_connect(web, 0).err());
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    let closed = lb.when_logged("closed conn=");
    assert_eq!(field(&closed, "reason"), "connect_failed");
    lb.when_logged("backend down pool=web backend=a");
    let gone = network.addresses()[0].ip().to_string();
    eventually("the rules without it", || (!table().contains(&gone)).then_some(()));
    for _ in 0..4 {
        assert_eq!(network.connect(web).1, 'b');
    }
    network.backends[1].lock().unwrap().kill();
    eventually("no backend", || {
        lb.backends().iter().all(|(_, state, _)| state == "down").then_some(()).or_else(|| {
            let _ = network.try_connect(web, 0);
            None
        })
    });
    assert_eq!(network.try_connect(web, 0).unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
}

#[test]
fn connections_outlive_the_process_and_the_next_one_finds_them() {
    if !is_router("connections_outlive_the_process_and_the_next_one_finds_them") {
        return;
    }
    let network = Network::new();
    let mut lb = Lb::start(&network.config("plane: kernel", ""));
    let web = lb.address("web");
    let (mut stream, backend) = network.connect(web);
    lb.when_logged("routed conn=");
    lb.signal("KILL");
    lb.when_ended();
    echo(&mut stream).unwrap();
    // New ones, too: the rules are those that the process has left.
    echo(&mut network.connect(web).0).unwrap();
    let config = network.config("plane: kernel", "").replace("10.77.1.1:0", &web.to_string());
    let next = Lb::start(&config);
    let found = next.when_logged("plane=kernel");
    assert!(found.contains("found=1") || found.contains("found=2"), "{found}");
    echo(&mut stream).unwrap();
    drop(stream);
    let closed = next.when_logged("reason=client_closed");
    assert_eq!(field(&closed, "backend"), backend.to_string());
    next.when_idle();
}

#[test]
fn a_hand_over_leaves_the_connections_to_the_next_process() {
    if !is_router("a_hand_over_leaves_the_connections_to_the_next_process") {
        return;
    }
    let network = Network::new();
    let lb = Lb::start(&network.config("plane: kernel", ""));
    let mut successors = Successors::of(&lb);
    let (mut stream, _) = network.connect(lb.address("web"));
    lb.when_logged("routed conn=");
    for n in 1..=3 {
        successors.hand_over();
        echo(&mut stream).unwrap();
        echo(&mut network.connect(lb.address("web")).0).unwrap();
        // None of them waits for the connections of the kernel.
        successors.when_others_stopped();
        let found = lb.when_logged_times(n + 1, &["listening listener=web", "plane=kernel"]).pop().unwrap();
        assert!(!found.ends_with("found=0"), "{found}");
    }
    assert_ne!(table(), "");
    drop(stream);
    lb.when_logged("reason=client_closed");
}

#[test]
fn a_connection_that_an_operator_closes_is_reset_on_both_sides() {
    if !is_router("a_connection_that_an_operator_closes_is_reset_on_both_sides") {
        return;
    }
    let network = Network::new();
    for address in ["masquerade", "keep"] {
        let lb = Lb::start(&network.config(&format!("plane: kernel, client_address: {address}"), ""));
        let (mut stream, _) = network.connect(lb.address("web"));
        let routed = lb.when_logged("routed conn=");
        let (code, reply) =
            lb.request("DELETE", &format!("/api/v1/connections/{}", field(&routed, "conn")), "");
        assert_eq!(code, 200, "{reply}");
        let closed = lb.when_logged("closed conn=");
        assert_eq!(field(&closed, "reason"), "operator", "{address}");
        eventually("a reset", || echo(&mut stream).err());
        // Another connection between the same ends is none of that.
        let port = stream.local_addr().unwrap().port();
        drop(stream);
        let (mut again, _) = network.try_connect(lb.address("web"), port).unwrap();
        echo(&mut again).unwrap();
    }
}

#[test]
fn both_sides_of_a_closed_connection_learn_of_it_without_sending() {
    let test = "kernel_plane::both_sides_of_a_closed_connection_learn_of_it_without_sending";
    if !is_inside(test, "nftables, conntrack", &format!("{ROUTER} && command -v conntrack")) {
        return;
    }
    let network = Network::new();
    // A server that answers once, and reports how the connection has ended. A health check asks for nothing.
    let (ended, endings) = channel();
    let answer_once = move |mut stream: TcpStream| {
        let asked = stream.write_all(b"s").and_then(|()| stream.read_exact(&mut [0]));
        let answered = asked.and_then(|()| stream.write_all(b"s"));
        if answered.and_then(|()| stream.read_exact(&mut [0])).is_ok() {
            let _ = ended.send(stream.read(&mut [0]).map_err(|error| error.kind()));
        }
    };
    for (listen, address) in [("10.77.1.1:0", "10.77.2.2:0"), ("[fd77:1::1]:0", "[fd77:2::2]:0")] {
        let (serve, address) = (answer_once.clone(), address.parse::<SocketAddr>().unwrap());
        let backend = network.machines[0].run(move || Backend::serving_at(address, serve)).unwrap();
        // Without a route the client's SYN would be sent twice, and its kernel answers an invalid packet once in 500 ms.
        within(crate::TIME_LIMIT, "a route to the backend", || TcpStream::connect(backend.address).ok());
        for client_address in ["masquerade", "keep"] {
            let lb = Lb::start(&format!(
                "listeners:\n  web: {{bind: '{listen}', pool: web, plane: kernel, client_address: {client_address}}}\n\
                 pools:\n  web: {{discover: [{{static: ['{}']}}]}}\n",
                backend.address
            ));
            let web = lb.address("web");
            for reason in ["operator", "idle_timeout"] {
                let (mut stream, _) = network.connect(web);
                stream.write_all(b"?").and_then(|()| stream.read_exact(&mut [0])).unwrap();
                // The last byte acknowledges the answer; once it is acknowledged itself, neither side sends any more.
                stream.write_all(b"!").unwrap();
                let port = stream.local_addr().unwrap().port();
                let sent =
                    move || Command::new("ss").args(["-Htn", "sport", &format!(":{port}")]).output().unwrap();
                eventually("all is acknowledged", || {
                    let sockets = String::from_utf8(network.client.run(sent).stdout).unwrap();
                    let send_queue = sockets.split_whitespace().nth(2).unwrap().to_owned();
                    (send_queue == "0").then_some(())
                });
                let routed = lb.when_logged_times(1, &["routed conn=", &format!(":{port} ")]).remove(0);
                if reason == "operator" {
                    let path = format!("/api/v1/connections/{}", field(&routed, "conn"));
                    assert_eq!(lb.request("DELETE", &path, "").0, 200);
                } else {
                    // As after the time limit; the kernel takes up to a minute to notice that.
                    let family = if web.is_ipv4() { "ipv4" } else { "ipv6" };
                    sh(&format!("conntrack -D -f {family} -p tcp --sport {port} --dport {}", web.port()));
                }
                let reset = Err(ErrorKind::ConnectionReset);
                let of_client = stream.read(&mut [0]).map_err(|error| error.kind());
                assert_eq!(of_client, reset, "client, {listen}, {client_address}, {reason}");
                let of_backend = endings.recv_timeout(crate::TIME_LIMIT);
                assert_eq!(of_backend, Ok(reset), "backend, {listen}, {client_address}, {reason}");
                lb.when_logged(&format!("reason={reason}"));
            }
        }
    }
}

#[test]
fn the_kernel_draws_backends_at_random() {
    if !is_router("the_kernel_draws_backends_at_random") {
        return;
    }
    let network = Network::new();
    let lb = Lb::start(&network.config("plane: kernel", "balance: random"));
    let names: Vec<char> = (0..64).map(|_| network.connect(lb.address("web")).1).collect();
    let a = names.iter().filter(|name| **name == 'a').count();
    // Five standard deviations of 64 draws.
    assert!((12..=52).contains(&a), "{names:?}");
    // In rotation no backend would come twice in a row.
    assert!(names.windows(2).any(|pair| pair[0] == pair[1]), "{names:?}");
    lb.when_logged("algorithm=random");
}

/// Compares the two planes for many ports of a client; `listen` is an address of the balancer.
fn compare_planes(addresses: [&str; 2], listen: &str) {
    let network = Network::with_addresses(addresses);
    for balance in ["maglev", "source-hash"] {
        let pool = format!("balance: {balance}\n    hash: {{key: source-ip-port}}");
        let config = network.config("plane: kernel", &pool).replace("10.77.1.1:0", listen);
        let user = format!("  user: {{bind: {listen}, pool: web}}\npools:");
        let lb = Lb::start(&config.replace("pools:", &user));
        lb.when_logged("plane=kernel");
        assert_eq!(lb.logged(&["the kernel cannot forward"]), Vec::<String>::new());
        let (user, kernel) = (lb.address("user"), lb.address("web"));
        let mut counts = [0; 2];
        for port in 20_000..20_040 {
            let names = [user, kernel].map(|to| network.try_connect(to, port).unwrap().1);
            assert_eq!(names[0], names[1], "{balance}, port {port}");
            counts[usize::from(names[0] == 'b')] += 1;
        }
        assert!(counts.iter().all(|n| *n > 5), "{counts:?}");
    }
}

#[test]
fn a_client_gets_the_same_backend_in_either_plane() {
    if is_router("a_client_gets_the_same_backend_in_either_plane") {
        compare_planes(["10.77.2.2:0", "10.77.3.2:0"], "10.77.1.1:0");
    }
}

#[test]
fn a_client_gets_the_same_backend_in_either_plane_by_ipv6() {
    if is_router("a_client_gets_the_same_backend_in_either_plane_by_ipv6") {
        compare_planes(["[fd77:2::2]:0", "[fd77:3::2]:0"], "'[fd77:1::1]:0'");
    }
}

#[test]
fn a_listener_changes_its_plane_and_no_connection_notices() {
    if !is_router("a_listener_changes_its_plane_and_no_connection_notices") {
        return;
    }
    let network = Network::new();
    for address in ["masquerade", "keep"] {
        let [user, kernel] = [
            network.config("plane: user", ""),
            network.config(&format!("plane: kernel, client_address: {address}"), ""),
        ];
        let lb = Lb::start(&user);
        let web = lb.address("web");
        let mut streams = vec![network.connect(web).0];
        for _ in 0..2 {
            for config in [&kernel, &user] {
                lb.reload(config);
                streams.iter_mut().for_each(|stream| echo(stream).unwrap());
                streams.push(network.connect(web).0);
                streams.iter_mut().for_each(|stream| echo(stream).unwrap());
            }
        }
        assert_eq!(lb.status()["open"].as_u64().unwrap(), 3, "those of this process");
        let all: serde_json::Value = serde_json::from_str(&lb.get("/api/v1/connections").1).unwrap();
        assert_eq!(all["connections"].as_array().unwrap().len(), 5, "{all}");
    }
}

#[test]
fn rules_that_another_program_has_removed_are_written_again() {
    if !is_router("rules_that_another_program_has_removed_are_written_again") {
        return;
    }
    let network = Network::new();
    let lb = Lb::start(&network.config("plane: kernel", ""));
    let (mut stream, _) = network.connect(lb.address("web"));
    sh("nft add table ip other && nft 'add chain ip other rules'");
    sh("nft flush ruleset");
    lb.when_logged("another program has changed our table of nftables");
    eventually("the rules", || network.try_connect(lb.address("web"), 0).ok());
    echo(&mut stream).unwrap();
    sh("nft add table ip other && nft 'add chain ip other rules'");
    network.connect(lb.address("web"));
    assert_eq!(lb.logged(&["another program has changed"]).len(), 1, "{}", lb.log());
}

#[test]
fn a_drained_listener_and_one_without_backends_refuse_and_open_connections_stay() {
    if !is_router("a_drained_listener_and_one_without_backends_refuse_and_open_connections_stay") {
        return;
    }
    let network = Network::new();
    // Every address of the machine.
    let config = network.config("plane: kernel", "on_drain: reset").replace("10.77.1.1:0", "0.0.0.0:0");
    let lb = Lb::start(&config);
    let web = SocketAddr::new([10, 77, 1, 1].into(), lb.address("web").port());
    let (mut stream, kept) = network.connect(web);
    let drain = |state: &str| {
        let (code, reply) =
            lb.request("PATCH", "/api/v1/listeners/web", &format!("{{\"state\": \"{state}\"}}"));
        assert_eq!(code, 200, "{reply}");
    };
    drain("draining");
    assert_eq!(network.try_connect(web, 0).unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
    echo(&mut stream).unwrap();
    drain("up");
    eventually("it accepts", || network.try_connect(web, 0).ok());
    // From this machine, too.
    let mut own = TcpStream::connect(web).unwrap();
    own.set_read_timeout(Some(crate::TIME_LIMIT)).unwrap();
    own.read_exact(&mut [0]).unwrap();
    echo(&mut own).unwrap();
    // The connections of a drained backend are reset, those of the other one stay.
    let (code, reply) =
        lb.request("PATCH", &format!("/api/v1/pools/web/backends/{kept}"), "{\"state\": \"draining\"}");
    assert_eq!(code, 200, "{reply}");
    eventually("a reset", || echo(&mut stream).err());
    lb.when_logged(&format!("backend={kept} address={} reason=operator", address_of(&network, kept)));
    let (mut other, name) =
        eventually("the other one", || network.try_connect(web, 0).ok().filter(|(_, name)| *name != kept));
    echo(&mut other).unwrap();
    let (code, reply) =
        lb.request("PATCH", &format!("/api/v1/pools/web/backends/{name}"), "{\"state\": \"maintenance\"}");
    assert_eq!(code, 200, "{reply}");
    let refused = eventually("no backend", || network.try_connect(web, 0).err());
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
}

/// The address of the backend of that name.
fn address_of(network: &Network, name: char) -> SocketAddr {
    network.addresses()[usize::from(name == 'b')]
}

#[test]
fn a_stopped_process_lets_connections_finish_and_removes_what_another_one_has_left() {
    if !is_router("a_stopped_process_lets_connections_finish_and_removes_what_another_one_has_left") {
        return;
    }
    let network = Network::new();
    let drain = "runtime: {drain: {timeout: 20s}}\n";
    let mut lb = Lb::start(&format!("{drain}{}", network.config("plane: kernel", "")));
    let web = lb.address("web");
    let (mut stream, _) = network.connect(web);
    lb.signal("TERM");
    lb.when_logged("drain started");
    let refused = eventually("it refuses", || network.try_connect(web, 0).err());
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    echo(&mut stream).unwrap();
    drop(stream);
    assert!(lb.when_ended().success());
    assert_eq!(table(), "");

    // With the time limit over, the rest is reset.
    let mut lb = Lb::start(
        &network
            .config("plane: kernel", "")
            .replace("listeners:", "runtime: {drain: {timeout: 500ms}}\nlisteners:"),
    );
    let (mut stream, _) = network.connect(lb.address("web"));
    lb.signal("TERM");
    assert_eq!(lb.when_ended().code(), Some(3));
    assert!(lb.log().contains("reason=drain_timeout"), "{}", lb.log());
    eventually("a reset", || echo(&mut stream).err());

    let mut killed = Lb::start(&network.config("plane: kernel", ""));
    killed.signal("KILL");
    killed.when_ended();
    assert_ne!(table(), "");
    let lb = Lb::start(&network.config("plane: user", ""));
    lb.when_logged("the rules of nftables are left from another process: they are removed");
    assert_eq!(table(), "");
}

#[test]
fn the_backend_sees_the_address_that_is_configured() {
    if !is_router("the_backend_sees_the_address_that_is_configured") {
        return;
    }
    let network = Network::new();
    let server = network.machines[0].run(|| std::net::TcpListener::bind("10.77.2.2:0")).unwrap();
    let address = server.local_addr().unwrap();
    for (client_address, expected) in [("keep", "10.77.1.2"), ("masquerade", "10.77.2.1")] {
        let lb = Lb::start(&format!(
            "listeners:\n  web: {{bind: 10.77.1.1:0, pool: web, plane: kernel, client_address: {client_address}}}\n\
             pools:\n  web:\n    discover: {}\n",
            static_list(&[address])
        ));
        let web = lb.address("web");
        let _client = network.client.run(move || TcpStream::connect(web)).unwrap();
        assert_eq!(crate::support::accept_within(&server).1.ip().to_string(), expected);
    }
}
