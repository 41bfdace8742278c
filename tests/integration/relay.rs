//! Relaying between client and backend.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::support::backend::Backend;
use crate::support::peers::{KEEPALIVE, connect, in_front_of, is_soon, pair, reset, timer};
use crate::support::{
    Lb, TIME_LIMIT, accept_within, connect_to, eventually, listen_alone, static_list, within,
};

/// Bytes that repeat only after 16 MiB. Computed once: these functions are not optimized, and to compute each byte would take
/// most of the time of a test that sends a gibibyte.
static PATTERN: LazyLock<Vec<u8>> =
    LazyLock::new(|| (0..1_u32 << 24).map(|n| (n ^ (n >> 8) ^ (n >> 16)) as u8).collect());

/// At most `length` bytes of the stream, from `offset` on.
fn pattern(offset: usize, length: usize) -> &'static [u8] {
    let rest = &PATTERN[offset % PATTERN.len()..];
    &rest[..length.min(rest.len())]
}

fn send_pattern(stream: &mut TcpStream, total: usize) {
    let mut offset = 0;
    while offset < total {
        let part = pattern(offset, (256 * 1024).min(total - offset));
        stream.write_all(part).unwrap();
        offset += part.len();
    }
    stream.shutdown(Shutdown::Write).unwrap();
}

fn expect_pattern(stream: &mut TcpStream, total: usize) {
    let mut buffer = vec![0; 256 * 1024];
    let mut offset = 0;
    loop {
        let n = stream.read(&mut buffer).unwrap();
        if n == 0 {
            break;
        }
        let mut received = &buffer[..n];
        while !received.is_empty() {
            let wanted = pattern(offset, received.len());
            let (part, rest) = received.split_at(wanted.len());
            assert!(part == wanted, "bytes differ between {offset} and {}", offset + part.len());
            offset += part.len();
            received = rest;
        }
    }
    assert_eq!(offset, total, "the stream ended early or late");
}

#[test]
fn a_gibibyte_each_way_at_once_arrives_byte_by_byte() {
    const TOTAL: usize = 1 << 30;
    let (_lb, client, server) = pair("");
    let ends = [client, server].map(|stream| {
        let mut writer = stream.try_clone().unwrap();
        let mut reader = stream;
        [
            std::thread::spawn(move || send_pattern(&mut writer, TOTAL)),
            std::thread::spawn(move || expect_pattern(&mut reader, TOTAL)),
        ]
    });
    for end in ends.into_iter().flatten() {
        // Each read and each write has its own time limit, so the test continues while bytes move.
        within(25 * TIME_LIMIT, "all bytes have arrived", || end.is_finished().then_some(()));
        end.join().unwrap();
    }
}

#[test]
fn urgent_data_stays_in_its_place() {
    // Large parts are relayed within the kernel, small ones are copied.
    for (before, after) in [(3, 5), (16 << 20, 1 << 20)] {
        let (_lb, client, server) = pair("");
        for (sender, mut receiver) in [(&client, &server), (&server, &client)] {
            let byte = |at: usize| (at % 251) as u8;
            let bytes: Vec<u8> = (0..before + after).map(byte).collect();
            std::thread::scope(|scope| {
                let (mut stream, bytes) = (sender, &bytes);
                scope.spawn(move || {
                    stream.write_all(&bytes[..before]).unwrap();
                    SockRef::from(stream).send_out_of_band(&bytes[before..=before]).unwrap();
                    stream.write_all(&bytes[before + 1..]).unwrap();
                    stream.shutdown(Shutdown::Write).unwrap();
                });
                let mut received = Vec::new();
                receiver.read_to_end(&mut received).unwrap();
                let differs = received.iter().zip(bytes).position(|(got, sent)| got != sent);
                assert_eq!((received.len(), differs), (bytes.len(), None), "{before} bytes before it");
            });
        }
    }
}

#[test]
fn a_client_that_half_closes_first_still_gets_the_response() {
    let (lb, mut client, mut server) = pair("");
    client.write_all(b"question").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut question = String::new();
    server.read_to_string(&mut question).unwrap();
    assert_eq!(question, "question");
    server.write_all(b"answer").unwrap();
    drop(server);
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "answer");
    assert!(lb.when_logged("closed conn=").contains("reason=client_closed bytes_in=8 bytes_out=6"));
}

#[test]
fn a_backend_that_half_closes_first_still_gets_the_rest() {
    let (lb, mut client, mut server) = pair("");
    server.write_all(b"greeting").unwrap();
    server.shutdown(Shutdown::Write).unwrap();
    let mut greeting = String::new();
    client.read_to_string(&mut greeting).unwrap();
    assert_eq!(greeting, "greeting");
    client.write_all(b"the rest").unwrap();
    drop(client);
    let mut rest = String::new();
    server.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "the rest");
    assert!(lb.when_logged("closed conn=").contains("reason=backend_closed bytes_in=8 bytes_out=8"));
}

#[test]
fn data_and_end_sent_at_once_arrive_and_are_answered() {
    let backend = Backend::echo();
    let lb = in_front_of(backend.address, "");
    for size in [1, 1000, 200_000] {
        let mut client = connect(&lb);
        send_pattern(&mut client, size);
        expect_pattern(&mut client, size);
    }
}

#[test]
fn a_client_that_half_closes_without_data_reaches_the_backend() {
    let backend = listen_alone();
    let lb = in_front_of(backend.local_addr().unwrap(), "");
    let mut client = connect(&lb);
    client.shutdown(Shutdown::Write).unwrap();
    let (mut server, _) = accept_within(&backend);
    assert_eq!(server.read(&mut [0; 8]).unwrap(), 0);
    server.write_all(b"still here").unwrap();
    drop(server);
    let mut received = String::new();
    client.read_to_string(&mut received).unwrap();
    assert_eq!(received, "still here");
}

/// The last bytes are held back to be sent with the FIN, and must wait for nothing else: the kernel would send them
/// only after 200 ms.
#[test]
fn the_last_bytes_are_not_delayed() {
    is_soon(|| {
        let (_lb, mut client, mut server) = pair("");
        let began = Instant::now();
        server.write_all(b"the last").unwrap();
        server.shutdown(Shutdown::Write).unwrap();
        client.read_exact(&mut [0; 8]).unwrap();
        let took = began.elapsed();
        assert_eq!(client.read(&mut [0; 8]).unwrap(), 0);
        client.write_all(b"goodbye").unwrap();
        drop(client);
        let mut goodbye = String::new();
        server.read_to_string(&mut goodbye).unwrap();
        assert_eq!(goodbye, "goodbye");
        took
    });
}

#[test]
fn a_server_may_send_first() {
    let backend = Backend::serving(|mut stream| {
        let _ = stream.write_all(b"220 ready\r\n");
    });
    let lb = in_front_of(backend.address, "");
    let mut greeting = String::new();
    connect(&lb).read_to_string(&mut greeting).unwrap();
    assert_eq!(greeting, "220 ready\r\n");
}

#[test]
fn a_thousand_concurrent_connections_leave_no_descriptor_open() {
    let backend = Backend::echo();
    let lb = in_front_of(backend.address, "");
    let address = lb.address("l");
    let files = lb.open_files();
    for _ in 0..4 {
        let clients: Vec<_> = (0..250).map(|_| connect_to(address).unwrap()).collect();
        for (i, mut client) in clients.into_iter().enumerate() {
            client.set_read_timeout(Some(TIME_LIMIT)).unwrap();
            client.write_all(b"ping").unwrap();
            match i % 3 {
                0 => reset(client),
                1 => drop(client),
                _ => {
                    client.shutdown(Shutdown::Write).unwrap();
                    let mut answer = String::new();
                    client.read_to_string(&mut answer).unwrap();
                    assert_eq!(answer, "ping");
                }
            }
        }
    }
    // A connection that was reset at once may be accepted only now.
    eventually("all were routed", || {
        (lb.status()["pools"][0]["backends"][0]["connections"] == 1000).then_some(())
    });
    lb.when_idle();
    eventually("every file is closed", || (lb.open_files() <= files).then_some(()));
    let status = lb.status();
    assert_eq!(status["pools"][0]["backends"][0]["active"], 0);
    assert_eq!(status["listeners"][0]["active"], 0);
}

#[test]
fn a_busy_polling_worker_relays_and_sleeps_when_idle() {
    let backend = Backend::echo();
    let discover = static_list(&[backend.address]);
    let lb = Lb::start(&format!(
        "runtime: {{busy_poll: 1ms}}\nlisteners: {{l: {{bind: 127.0.0.1:0, pool: p}}}}\npools: {{p: {{discover: {discover}}}}}\n"
    ));
    let mut client = connect(&lb);
    for n in 0..100 {
        client.write_all(&[n]).unwrap();
        let mut answer = [0xff];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(answer, [n]);
    }
    // The connection is open and idle: less than a tenth of the time is spent polling.
    eventually("the workers sleep", || {
        let before = lb.cpu_time();
        std::thread::sleep(Duration::from_millis(300));
        (lb.cpu_time() - before < Duration::from_millis(30)).then_some(())
    });
}

#[test]
fn a_unix_socket_is_a_listener_like_any_other() {
    let backend = Backend::echo();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("l.sock");
    let discover = static_list(&[backend.address]);
    let mut lb = Lb::start(&format!(
        "listeners: {{l: {{bind: \"unix:{}\", pool: p}}}}\npools: {{p: {{discover: {discover}}}}}\n",
        path.display()
    ));
    let mut client = std::os::unix::net::UnixStream::connect(&path).unwrap();
    client.set_read_timeout(Some(TIME_LIMIT)).unwrap();
    client.write_all(b"hello").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "hello");
    assert!(lb.when_logged("routed conn=").contains("client=unix"));
    lb.signal("TERM");
    assert_eq!(lb.when_ended().code(), Some(0));
    assert!(!path.exists(), "the socket file is left behind");
}

/// A read ends at the byte with a passed descriptor, although more data follows.
#[test]
fn data_after_a_descriptor_of_a_unix_client_arrives() {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    use std::os::fd::AsFd;
    let backend = listen_alone();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lb.sock");
    let discover = static_list(&[backend.local_addr().unwrap()]);
    let _lb = Lb::start(&format!(
        "listeners: {{l: {{bind: \"unix:{}\", pool: p}}}}\npools:\n  p:\n    discover: {discover}\n",
        path.display()
    ));
    let client = eventually("it listens", || std::os::unix::net::UnixStream::connect(&path).ok());
    let (mut server, _) = accept_within(&backend);
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut passed = SendAncillaryBuffer::new(&mut space);
    let descriptor = std::fs::File::open(folder.path()).unwrap();
    let descriptors = [descriptor.as_fd()];
    assert!(passed.push(SendAncillaryMessage::ScmRights(&descriptors)));
    sendmsg(&client, &[io::IoSlice::new(b"ab")], &mut passed, SendFlags::empty()).unwrap();
    (&client).write_all(b"cd").unwrap();
    let mut received = [0; 4];
    server.read_exact(&mut received).unwrap();
    assert_eq!(&received, b"abcd");
}

#[test]
fn a_long_connection_is_probed_on_both_sides() {
    let (sender, peers) = std::sync::mpsc::channel();
    let backend = Backend::serving(move |mut stream| {
        sender.send(stream.peer_addr().unwrap()).unwrap();
        let _ = stream.read(&mut [0; 1]);
    });
    let lb = in_front_of(backend.address, "");
    let client = connect(&lb);
    let to_backend = peers.recv_timeout(TIME_LIMIT).unwrap();
    eventually("the backend is probed", || (timer(to_backend, backend.address)? == KEEPALIVE).then_some(()));
    assert_eq!(timer(client.peer_addr().unwrap(), client.local_addr().unwrap()), Some(KEEPALIVE));
}
