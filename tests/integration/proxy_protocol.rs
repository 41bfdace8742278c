//! The PROXY protocol: headers from proxies in front, and headers for backends. `interoperability.rs` has the same with
//! HAProxy and nginx.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

use crate::support::backend::{self, Backend};
use crate::support::peers::is_reset;
use crate::support::{
    ClosedPort, Lb, TIME_LIMIT, accept_within, connect_to, eventually, http_get_on, listen_alone, static_list,
};

const READ: &str = ", proxy_protocol: {trust: 127.0.0.0/8}";
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

fn config(backends: &[SocketAddr], listener: &str, pool: &str) -> String {
    let discover = static_list(backends);
    format!(
        "listeners: {{l: {{bind: ['127.0.0.1:0', 'unix:l.sock'], pool: p{listener}}}}}\n\
         pools: {{p: {{discover: {discover}{pool}}}}}\n"
    )
}

/// A header of version 2 for an IPv4 connection, with additional fields.
fn v2(source: &str, destination: &str, fields: &[u8]) -> Vec<u8> {
    let [source, destination] = [source, destination].map(|text| text.parse::<SocketAddr>().unwrap());
    let ip = |address: SocketAddr| match address {
        SocketAddr::V4(address) => address.ip().octets(),
        SocketAddr::V6(_) => unreachable!(),
    };
    let ports = [source.port().to_be_bytes(), destination.port().to_be_bytes()].concat();
    let rest = [&ip(source)[..], &ip(destination), &ports, fields].concat();
    [SIGNATURE, &[0x21, 0x11], &(rest.len() as u16).to_be_bytes(), &rest].concat()
}

/// Sends `header` and a byte in one piece to an echo server.
fn is_served(lb: &Lb, header: &[u8]) -> TcpStream {
    let mut client = connect_to(lb.address("l")).unwrap();
    client.write_all(&[header, b"x"].concat()).unwrap();
    echoes(&mut client);
    client
}

fn echoes(client: &mut impl Read) {
    let mut answer = [0];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"x");
}

/// The value of a field in a line of the log.
fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    line.split_once(&format!(" {name}="))?.1.split(' ').next()
}

#[test]
fn the_address_in_a_header_is_the_clients_everywhere() {
    let backend = Backend::echo();
    let lists = ", allow: [192.0.2.0/24, '2001:db8::/32'], deny: 192.0.2.9";
    let lb = Lb::start(&config(&[backend.address], &format!("{READ}{lists}"), ", balance: source-hash"));
    let v1 = |client: &str| format!("PROXY TCP4 {client} 198.51.100.1 7 80\r\n").into_bytes();
    let v6 = b"PROXY TCP6 2001:db8::1 2001:db8::2 7 80\r\n";
    for (header, client) in [
        (v1("192.0.2.1"), "192.0.2.1:7"),
        (v2("192.0.2.2:8", "198.51.100.1:80", &[]), "192.0.2.2:8"),
        (v6.to_vec(), "[2001:db8::1]:7"),
    ] {
        drop(is_served(&lb, &header));
        let lines = lb.when_logged_times(2, &[&format!("client={client} ")]);
        assert!(lines[0].contains("routed") && lines[1].contains("reason=client_closed"), "{lines:#?}");
        // The header is no data of the client.
        assert_eq!([field(&lines[1], "bytes_in"), field(&lines[1], "bytes_out")], [Some("1"), Some("1")]);
    }
    for denied in ["192.0.2.9", "198.51.100.1"] {
        let mut client = connect_to(lb.address("l")).unwrap();
        client.write_all(&v1(denied)).unwrap();
        is_reset(&mut client);
        let line = lb.when_logged(&format!("client={denied}:7 "));
        assert!(line.contains("reason=denied"), "{line}");
    }
    let why = lb.get("/api/v1/why?client=192.0.2.2").1;
    assert!(why.contains("from 192.0.2.2:8, as the PROXY header of 127.0.0.1:"), "{why}");
    assert!(why.contains("says, was accepted by the listener l"), "{why}");
    assert!(lb.when_logged("client=192.0.2.2:8 ").contains(" proxy=127.0.0.1:"), "{}", lb.log());
    let open = is_served(&lb, &v1("192.0.2.3"));
    let connections = lb.get("/api/v1/connections?client=192.0.2.3").1;
    assert!(connections.contains("\"192.0.2.3:7\""), "{connections}");
    drop(open);
}

#[test]
fn the_address_in_a_header_decides_which_backend_a_hash_chooses() {
    let names = ["a", "b", "c", "d"];
    let backends = names.map(Backend::http);
    let addresses = backends.each_ref().map(|backend| backend.address);
    for algorithm in ["source-hash", "maglev"] {
        let lb = Lb::start(&config(&addresses, READ, &format!(", balance: {algorithm}")));
        let backend_of = |header: Vec<u8>| {
            let mut client = connect_to(lb.address("l")).unwrap();
            client.write_all(&header).unwrap();
            http_get_on(client, "/").unwrap().1
        };
        // All connections come from one peer, so many clients that none of the four is left out by chance: the backends'
        // ports decide where an address goes.
        let mut clients = BTreeMap::<_, BTreeSet<_>>::new();
        for port in [7, 4711] {
            for client in (0..100).map(|n| format!("192.0.2.{n}")) {
                let v1 = format!("PROXY TCP4 {client} 198.51.100.1 {port} 80\r\n").into_bytes();
                let v2 = v2(&format!("{client}:{port}"), "198.51.100.1:80", &[]);
                clients.entry(client).or_default().extend([v1, v2].map(backend_of));
            }
        }
        for (client, reached) in &clients {
            assert_eq!(reached.len(), 1, "{algorithm}: {client} reached {reached:?}");
        }
        let used: BTreeSet<_> = clients.values().flatten().map(String::as_str).collect();
        assert_eq!(used, names.into(), "{algorithm}");
    }
}

#[test]
fn a_header_may_come_in_pieces_and_a_silent_client_may_follow_it() {
    // This server speaks first.
    let backend = Backend::serving(|mut stream| {
        let _ = stream.write_all(b"x");
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let lb = Lb::start(&config(&[backend.address], READ, ""));
    let mut client = connect_to(lb.address("l")).unwrap();
    client.set_nodelay(true).unwrap();
    for byte in v2("192.0.2.1:7", "198.51.100.1:80", &[1, 0, 2, b'h', b'2']) {
        client.write_all(&[byte]).unwrap();
        // A system call of this process gives the balancer a chance to read the piece alone.
        std::thread::yield_now();
    }
    echoes(&mut client);
    lb.when_logged("client=192.0.2.1:7 ");
}

#[test]
fn headers_without_a_relayed_connection_leave_the_peers_address() {
    let backend = Backend::echo();
    let lb = Lb::start(&config(&[backend.address], READ, ""));
    let local = [SIGNATURE, &[0x20, 0, 0, 0]].concat();
    for header in [b"PROXY UNKNOWN\r\n".to_vec(), b"PROXY UNKNOWN any text\r\n".to_vec(), local] {
        let client = is_served(&lb, &header);
        lb.when_logged(&format!("client={} ", client.local_addr().unwrap()));
    }
    // Peers over a Unix socket are trusted.
    let mut client = UnixStream::connect(lb.folder().join("l.sock")).unwrap();
    client.set_read_timeout(Some(TIME_LIMIT)).unwrap();
    client.write_all(b"PROXY UNKNOWN\r\nx").unwrap();
    echoes(&mut client);
    let mut client = UnixStream::connect(lb.folder().join("l.sock")).unwrap();
    client.set_read_timeout(Some(TIME_LIMIT)).unwrap();
    client.write_all(b"PROXY TCP4 192.0.2.4 192.0.2.5 6 7\r\nx").unwrap();
    echoes(&mut client);
    lb.when_logged("client=192.0.2.4:6 ");
}

#[test]
fn what_is_not_a_valid_header_is_reset_with_the_cause() {
    let backend = Backend::echo();
    let lb = Lb::start(&config(&[backend.address], ", proxy_protocol: {trust: 127.0.0.1}", ""));
    let mut checksum = v2("192.0.2.1:7", "198.51.100.1:80", &[3, 0, 4, 0, 0, 0, 0]);
    checksum.extend(b"x");
    for (sent, cause) in [
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "the first bytes are not a PROXY header"),
        (b"PROXY TCP4 192.0.2.1\r\n".to_vec(), "the PROXY header is malformed"),
        (checksum, "the checksum of the PROXY header is wrong"),
        (
            [SIGNATURE, &[0x21, 0x11, 0xff, 0xff]].concat(),
            "the PROXY header is too long (at most 107 bytes in version 1, 4096 in version 2)",
        ),
    ] {
        let mut client = connect_to(lb.address("l")).unwrap();
        client.write_all(&sent).unwrap();
        is_reset(&mut client);
        let line = lb.when_logged(&format!("client={} ", client.local_addr().unwrap()));
        assert!(line.contains(&format!("reason=preface_invalid cause=\"{cause}\"")), "{line}");
    }
    let mut half = connect_to(lb.address("l")).unwrap();
    half.write_all(b"PROXY TCP4").unwrap();
    half.shutdown(Shutdown::Write).unwrap();
    is_reset(&mut half);
    let truncated = format!("client={} ", half.local_addr().unwrap());
    assert!(
        lb.when_logged(&truncated).contains("cause=\"the peer closed before the end of the PROXY header\"")
    );
    // A peer that only opens a connection, as a check does.
    drop(connect_to(lb.address("l")).unwrap());
    lb.when_logged("reason=client_closed");

    let untrusted = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    untrusted.bind(&SocketAddr::from((Ipv4Addr::new(127, 0, 0, 2), 0)).into()).unwrap();
    untrusted.connect(&lb.address("l").into()).unwrap();
    is_reset(&mut TcpStream::from(untrusted));
    let line = lb.when_logged("client=127.0.0.2:");
    assert!(line.contains("cause=\"the peer is not in proxy_protocol.trust\""), "{line}");

    lb.when_idle();
    let status = lb.status();
    assert_eq!([&status["listeners"][0]["preface_failed"], &status["listeners"][0]["connections"]], [6, 7]);
    let pool = &status["pools"][0];
    assert_eq!([&pool["failures_seen"], &pool["connections"], &pool["unserved"]], [0, 0, 0]);
    assert_eq!(backend.accepted.load(std::sync::atomic::Ordering::SeqCst), 0);
    let why = lb.get("/api/v1/why?client=127.0.0.2").1;
    assert!(
        why.contains("its listener rejected it before a backend was chosen")
            && why.contains("so it was reset (preface_invalid): the peer is not in proxy_protocol.trust"),
        "{why}"
    );
}

#[test]
fn connections_that_wait_for_their_header_have_a_limit_and_a_deadline() {
    let backend = Backend::echo();
    let listener = |timeout: &str| {
        format!(", max_connections: 1, proxy_protocol: {{trust: 127.0.0.1, timeout: {timeout}}}")
    };
    let lb = Lb::start(&config(&[backend.address], &listener("1h"), ""));
    let mut silent = connect_to(lb.address("l")).unwrap();
    silent.write_all(b"PROXY TCP4").unwrap();
    let waits = "pointsman_listener_connections_open{listener=\"l\"}";
    eventually("it counts as open", || (lb.metric(waits) == 1.0).then_some(()));
    is_reset(&mut connect_to(lb.address("l")).unwrap());
    lb.when_logged("reason=limited cause=\"the listener has as many connections as max_connections allows\"");
    let why = lb.get("/api/v1/why?client=127.0.0.1").1;
    assert!(why.contains("it is being admitted"), "{why}");
    // An operator can close it.
    let open = lb.get("/api/v1/connections").1;
    let conn =
        serde_json::from_str::<serde_json::Value>(&open).unwrap()["connections"][0]["conn"].to_string();
    assert_eq!(lb.request("DELETE", &format!("/api/v1/connections/{conn}"), "").0, 200);
    is_reset(&mut silent);
    lb.reload(&config(&[backend.address], &listener("2s"), ""));
    let mut slow = connect_to(lb.address("l")).unwrap();
    slow.write_all(b"PROXY TCP4").unwrap();
    is_reset(&mut slow);
    lb.when_logged("reason=preface_timeout");
    // And the place is free again.
    drop(is_served(&lb, b"PROXY UNKNOWN\r\n"));
}

/// Backends that record what they receive and answer with `x`.
fn recording() -> (Backend, Arc<Mutex<Vec<Vec<u8>>>>) {
    let received = Arc::<Mutex<Vec<Vec<u8>>>>::default();
    let kept = Arc::clone(&received);
    let backend = Backend::serving(move |mut stream| {
        let mut bytes = Vec::new();
        let mut buffer = [0; 4096];
        // The client's last byte is an `x`.
        while !bytes.ends_with(b"x") {
            match stream.read(&mut buffer) {
                Ok(0) | Err(_) => return,
                Ok(n) => bytes.extend_from_slice(&buffer[..n]),
            }
        }
        kept.lock().unwrap().push(bytes);
        let _ = stream.write_all(b"x");
        let _ = stream.read_to_end(&mut Vec::new());
    });
    (backend, received)
}

#[test]
fn a_backend_receives_a_header_before_the_first_byte() {
    let (backend, received) = recording();
    // The first attempt fails: the second backend receives the whole header too.
    let closed = ClosedPort::new();
    let backends = [closed.address, backend.address];
    for version in ["v1", "v2"] {
        let lb = Lb::start(&config(&backends, "", &format!(", send_proxy_protocol: {version}")));
        let listener = lb.address("l");
        for _ in 0..2 {
            let mut client = connect_to(listener).unwrap();
            let source = client.local_addr().unwrap();
            client.write_all(b"x").unwrap();
            echoes(&mut client);
            let expected = if version == "v1" {
                format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\n", source.port(), listener.port())
                    .into_bytes()
            } else {
                v2(&source.to_string(), &listener.to_string(), &[])
            };
            assert_eq!(received.lock().unwrap().pop().unwrap(), [&expected[..], b"x"].concat());
            drop(client);
            let line = lb.when_logged_times(2, &[&format!("client={source} ")]).pop().unwrap();
            assert_eq!(
                [field(&line, "bytes_in"), field(&line, "bytes_out")],
                [Some("1"), Some("1")],
                "{line}"
            );
        }
        let mut local = UnixStream::connect(lb.folder().join("l.sock")).unwrap();
        local.set_read_timeout(Some(TIME_LIMIT)).unwrap();
        local.write_all(b"x").unwrap();
        echoes(&mut local);
        let unknown = if version == "v1" {
            b"PROXY UNKNOWN\r\nx".to_vec()
        } else {
            [SIGNATURE, &[0x20, 0, 0, 0], b"x"].concat()
        };
        assert_eq!(received.lock().unwrap().pop().unwrap(), unknown);
    }
}

#[test]
fn a_backend_receives_the_header_even_if_the_client_is_silent() {
    let backend = listen_alone();
    let lb = Lb::start(&config(&[backend.local_addr().unwrap()], "", ", send_proxy_protocol: v1"));
    let client = connect_to(lb.address("l")).unwrap();
    let (mut stream, _) = accept_within(&backend);
    let expected = format!(
        "PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\n",
        client.local_addr().unwrap().port(),
        lb.address("l").port()
    );
    let mut header = vec![0; expected.len()];
    stream.read_exact(&mut header).unwrap();
    assert_eq!(String::from_utf8(header).unwrap(), expected);
}

#[test]
fn a_header_that_comes_in_goes_on_with_its_additional_fields() {
    let (backend, received) = recording();
    let lb = Lb::start(&config(&[backend.address], READ, ", send_proxy_protocol: v2"));
    // The padding is left out; an authority (SNI) and a unique id stay.
    let kept = [2, 0, 2, b'a', b'b', 5, 0, 1, 9];
    let header = v2("192.0.2.1:7", "198.51.100.1:80", &[&[4, 0, 1, 0][..], &kept].concat());
    drop(is_served(&lb, &header));
    let expected = [v2("192.0.2.1:7", "198.51.100.1:80", &kept), b"x".to_vec()].concat();
    assert_eq!(received.lock().unwrap().pop().unwrap(), expected);
    // A reload changes the version for new connections.
    lb.reload(&config(&[backend.address], READ, ", send_proxy_protocol: v1"));
    drop(is_served(&lb, &header));
    let line = b"PROXY TCP4 192.0.2.1 198.51.100.1 7 80\r\nx".to_vec();
    assert_eq!(received.lock().unwrap().pop().unwrap(), line);
}

#[test]
fn a_backend_receives_the_server_name_and_an_identifier_if_asked_for() {
    const HELLO: &[u8] = include_bytes!("../../src/protocol/client_hello_samples/openssl.bin");
    let (backend, received) = recording();
    let pool = ", send_proxy_protocol: {version: v2, authority: true, unique_id: true}";
    let lb = Lb::start(&config(&[backend.address], READ, pool));
    let name = [&[2, 0, 15][..], b"api.example.com"].concat();
    // Sends a header with the TLVs `came`, and `first`; returns the TLVs that the backend gets.
    let relayed = |port: u16, came: &[u8], first: &[u8]| {
        let client = format!("192.0.2.1:{port}");
        drop(is_served(&lb, &[&v2(&client, "198.51.100.1:80", came)[..], first].concat()));
        let line = lb.when_logged(&format!("client={client} "));
        let bytes = received.lock().unwrap().pop().unwrap();
        let tlvs = bytes[28..].strip_suffix(&[first, b"x"].concat()[..]).unwrap().to_vec();
        (tlvs, field(&line, "conn").unwrap().to_owned())
    };
    let identifier = |tlv: &[u8], conn: &str| {
        assert_eq!(tlv[..3], [5, 0, (tlv.len() - 3) as u8], "{tlv:?}");
        let text = String::from_utf8(tlv[3..].to_vec()).unwrap();
        let (worker, number) = text.split_once('-').unwrap();
        assert_eq!((worker.len(), number), (16, conn), "{text}");
        text
    };
    let (tlvs, conn) = relayed(1, &[], HELLO);
    let first = identifier(tlvs.strip_prefix(&name[..]).unwrap(), &conn);
    // Without TLS, there is no name.
    let (tlvs, conn) = relayed(2, &[], b"GET /");
    assert_ne!(identifier(&tlvs, &conn), first);
    // What came in stays.
    let came = [2, 0, 1, b'a', 5, 0, 1, 9];
    assert_eq!(relayed(3, &came, HELLO).0, came);
}

/// An HTTP server that requires a PROXY header, and keeps it.
fn behind_a_proxy() -> (Backend, Arc<Mutex<Vec<Vec<u8>>>>) {
    let headers = Arc::<Mutex<Vec<Vec<u8>>>>::default();
    let kept = Arc::clone(&headers);
    let backend = Backend::serving(move |mut stream| {
        let (mut header, mut byte) = (Vec::new(), [0]);
        loop {
            if stream.read_exact(&mut byte).is_err() {
                return;
            }
            header.push(byte[0]);
            let line = header.starts_with(b"PROXY ") && header.ends_with(b"\r\n");
            let binary = header.starts_with(SIGNATURE)
                && header.len() > 15
                && header.len() == 16 + usize::from(u16::from_be_bytes([header[14], header[15]]));
            if line || binary {
                break;
            }
        }
        kept.lock().unwrap().push(header);
        backend::http(stream, "behind");
    });
    (backend, headers)
}

#[test]
fn checks_send_a_header_too() {
    for (version, begin) in
        [("v1", &b"PROXY TCP4 127.0.0.1 127.0.0.1 "[..]), ("v2", b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0")]
    {
        let (backend, headers) = behind_a_proxy();
        let port = backend.address.port();
        let health = format!(", send_proxy_protocol: {version}, health: {{http: /health, every: 1s}}");
        let lb = Lb::start(&config(&[backend.address], "", &health));
        lb.when_up(vec![backend.address.to_string()]);
        let header = headers.lock().unwrap()[0].clone();
        assert!(header.starts_with(begin), "{header:?}");
        if version == "v1" {
            assert!(header.ends_with(format!(" {port}\r\n").as_bytes()), "{header:?}");
        }
        // A port of its own is another server's: its check begins with the request.
        let begins = Arc::<Mutex<Vec<u8>>>::default();
        let kept = Arc::clone(&begins);
        let plain = Backend::serving(move |mut stream| {
            let mut four = [0; 4];
            if stream.read_exact(&mut four).is_ok() {
                kept.lock().unwrap().extend(four);
                backend::http(stream, "plain");
            }
        });
        let own = format!(
            ", send_proxy_protocol: {version}, health: {{http: /health, every: 1s, port: {}}}",
            plain.address.port()
        );
        let lb = Lb::start(&config(&[backend.address], "", &own));
        lb.when_up(vec![backend.address.to_string()]);
        assert_eq!(begins.lock().unwrap()[..4], *b"GET ");
    }
}
