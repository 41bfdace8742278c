//! What a connection's two peers see of each other through the balancer.

#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use socket2::{Domain, SockRef, Socket, Type};
use support::backend::Backend;
use support::{Lb, PATIENCE, eventually, static_list};

/// A balancer in front of one backend, with more settings for its pool.
fn in_front_of(backend: SocketAddr, settings: &str) -> Lb {
    let discover = static_list(&[backend]);
    Lb::start(&format!(
        "listeners: {{l: {{bind: 127.0.0.1:0, pool: p}}}}\npools:\n  p:\n    discover: {discover}\n{settings}"
    ))
}

fn connect(lb: &Lb) -> TcpStream {
    let stream = TcpStream::connect(lb.address("l")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// A client's connection and the backend's end of it.
fn pair(settings: &str) -> (Lb, TcpStream, TcpStream) {
    let backend = TcpListener::bind("127.0.0.1:0").unwrap();
    let lb = in_front_of(backend.local_addr().unwrap(), settings);
    let client = connect(&lb);
    let (server, _) = backend.accept().unwrap();
    // A reset before this would be a connect that failed, and another backend's chance.
    lb.when_logged("routed conn=");
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    server.set_write_timeout(Some(PATIENCE)).unwrap();
    (lb, client, server)
}

/// Byte `i` of a stream that repeats only after 16 MiB.
fn pattern(offset: usize, buffer: &mut [u8]) {
    for (i, byte) in buffer.iter_mut().enumerate() {
        let n = (offset + i) as u32;
        *byte = (n ^ (n >> 8) ^ (n >> 16)) as u8;
    }
}

fn send_pattern(stream: &mut TcpStream, total: usize) {
    let mut buffer = vec![0; 256 * 1024];
    let mut offset = 0;
    while offset < total {
        let n = buffer.len().min(total - offset);
        pattern(offset, &mut buffer[..n]);
        stream.write_all(&buffer[..n]).unwrap();
        offset += n;
    }
    stream.shutdown(Shutdown::Write).unwrap();
}

fn expect_pattern(stream: &mut TcpStream, total: usize) {
    let (mut buffer, mut wanted) = (vec![0; 256 * 1024], vec![0; 256 * 1024]);
    let mut offset = 0;
    loop {
        let n = stream.read(&mut buffer).unwrap();
        if n == 0 {
            break;
        }
        pattern(offset, &mut wanted[..n]);
        assert!(buffer[..n] == wanted[..n], "bytes differ between {offset} and {}", offset + n);
        offset += n;
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
        end.join().unwrap();
    }
}

#[test]
fn a_client_that_finishes_first_still_gets_the_answer() {
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
fn a_backend_that_finishes_first_still_gets_the_rest() {
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
fn what_a_client_says_at_once_arrives_with_its_end_and_is_answered() {
    let backend = Backend::echo();
    let lb = in_front_of(backend.address, "");
    for size in [1, 1000, 200_000] {
        let mut client = connect(&lb);
        send_pattern(&mut client, size);
        expect_pattern(&mut client, size);
    }
}

#[test]
fn a_client_that_says_nothing_before_it_finishes_reaches_the_backend() {
    let backend = TcpListener::bind("127.0.0.1:0").unwrap();
    let lb = in_front_of(backend.local_addr().unwrap(), "");
    let mut client = connect(&lb);
    client.shutdown(Shutdown::Write).unwrap();
    let (mut server, _) = backend.accept().unwrap();
    assert_eq!(server.read(&mut [0; 8]).unwrap(), 0);
    server.write_all(b"still here").unwrap();
    drop(server);
    let mut heard = String::new();
    client.read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "still here");
}

/// The last bytes wait for the sender's end, to travel with it, and must not wait for anything else: the kernel would
/// let them go after 200 ms.
#[test]
fn the_last_bytes_arrive_soon() {
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

fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream);
}

/// Waits for a reset; how long it took.
fn expect_reset(stream: &mut TcpStream) -> Duration {
    let began = Instant::now();
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => panic!("an orderly end instead of a reset"),
            Ok(_) => {}
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::ConnectionReset);
                return began.elapsed();
            }
        }
    }
}

const SOON: Duration = Duration::from_millis(100);

/// Whether something takes no longer than that: the best of a few tries, as the machine may be busy with other things.
fn is_soon(time: impl Fn() -> Duration) {
    let mut tries = Vec::new();
    while tries.len() < 5 {
        tries.push(time());
        if tries.last().is_some_and(|time| *time < SOON) {
            return;
        }
    }
    panic!("never sooner than {tries:?}");
}

#[test]
fn a_reset_by_the_client_reaches_the_backend() {
    is_soon(|| {
        let (lb, client, mut server) = pair("");
        reset(client);
        let took = expect_reset(&mut server);
        assert!(lb.when_logged("closed conn=").contains("reason=client_reset"));
        took
    });
}

#[test]
fn a_reset_by_the_backend_reaches_the_client() {
    is_soon(|| {
        let (lb, mut client, server) = pair("");
        reset(server);
        let took = expect_reset(&mut client);
        assert!(lb.when_logged("closed conn=").contains("reason=backend_reset"));
        assert_eq!(lb.metric("pointsman_failures_seen_total{pool=\"p\",reason=\"backend_reset\"}"), 1.0);
        took
    });
}

#[test]
fn a_reset_is_noticed_on_a_side_that_has_finished() {
    is_soon(|| {
        let (_lb, client, mut server) = pair("");
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(server.read(&mut [0]).unwrap(), 0);
        reset(client);
        // What is written now can be refused by nobody but the balancer.
        let began = Instant::now();
        eventually("the backend learns of the reset", || server.write_all(b"x").is_err().then_some(()));
        began.elapsed()
    });
}

#[test]
fn a_reset_is_noticed_on_a_side_whose_bytes_nobody_takes() {
    let (lb, mut client, server) = pair("");
    client.set_nonblocking(true).unwrap();
    let block = vec![0; 1 << 16];
    // Until all buffers between the two are full, and the balancer itself is holding bytes back.
    let mut still = Instant::now();
    while still.elapsed() < Duration::from_millis(300) {
        if client.write(&block).is_ok() {
            still = Instant::now();
        }
    }
    reset(client);
    assert!(lb.when_logged("closed conn=").contains("reason=client_reset"));
    drop(server);
}

#[test]
fn an_answer_in_the_middle_of_an_upload_arrives_although_the_backend_resets() {
    const ANSWER: &[u8] = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n";
    let (_lb, mut client, mut server) = pair("");
    let mut upload = client.try_clone().unwrap();
    let uploading = std::thread::spawn(move || {
        let block = vec![0; 1 << 16];
        while upload.write_all(&block).is_ok() {}
    });
    server.read_exact(&mut [0; 1000]).unwrap();
    // Until the balancer itself is held up.
    eventually("the upload is stuck", || {
        (server.peek(&mut vec![0; 1 << 20]).unwrap() >= 1 << 15).then_some(())
    });
    server.write_all(ANSWER).unwrap();
    drop(server); // much is unread: the kernel makes this a reset
    let mut answer = Vec::new();
    // Whether the reset meets the reader or the writer is chance.
    let _ = client.read_to_end(&mut answer);
    assert_eq!(String::from_utf8_lossy(&answer), String::from_utf8_lossy(ANSWER));
    uploading.join().unwrap();
}

/// All of it arrives in one go here: the balancer stands still meanwhile.
#[test]
fn an_answer_arrives_although_a_reset_and_more_of_the_upload_come_with_it() {
    for _ in 0..5 {
        let (lb, mut client, mut server) = pair("");
        client.write_all(b"hello").unwrap();
        server.read_exact(&mut [0; 5]).unwrap();
        lb.signal("STOP");
        let state = || std::fs::read_to_string(format!("/proc/{}/stat", lb.pid())).unwrap();
        eventually("it stands still", || state().contains(") T ").then_some(()));
        client.write_all(b"more").unwrap();
        server.write_all(b"an answer").unwrap();
        reset(server);
        lb.signal("CONT");
        let mut answer = Vec::new();
        // Whether the reset meets the reader is chance.
        let _ = client.read_to_end(&mut answer);
        assert_eq!(String::from_utf8_lossy(&answer), "an answer");
    }
}

#[test]
fn a_slow_reader_is_not_cut_off_although_all_is_written_to_the_kernel() {
    const TOTAL: usize = 3 << 20;
    // Far less than the transfer takes; and the kernel's buffers take steps that are longer.
    let backend = TcpListener::bind("127.0.0.1:0").unwrap();
    let lb = in_front_of(backend.local_addr().unwrap(), "    timeouts: {half_closed: 1s}\n");
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(16 * 1024).unwrap();
    socket.connect(&lb.address("l").into()).unwrap();
    let mut client: TcpStream = socket.into();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let (mut server, _) = backend.accept().unwrap();
    let sending = std::thread::spawn(move || server.write_all(&vec![1; TOTAL]).unwrap());
    let (mut total, mut buffer) = (0, [0; 16 * 1024]);
    loop {
        let n = client.read(&mut buffer).unwrap();
        if n == 0 {
            break;
        }
        total += n;
        std::thread::sleep(Duration::from_millis(25));
    }
    assert_eq!(total, TOTAL, "{}", lb.log());
    sending.join().unwrap();
}

#[test]
fn a_reader_that_stops_stops_its_sender_and_costs_no_memory() {
    let (lb, mut client, mut server) = pair("");
    // One transfer first, so that what is allocated once is allocated.
    client.write_all(&vec![1; 1 << 20]).unwrap();
    server.read_exact(&mut vec![0; 1 << 20]).unwrap();
    let before = lb.resident_kib();
    client.set_nonblocking(true).unwrap();
    let block = vec![0; 1 << 20];
    let (mut sent, mut still) = (0, Instant::now());
    while still.elapsed() < Duration::from_millis(500) {
        if let Ok(n) = client.write(&block) {
            sent += n;
            still = Instant::now();
        }
    }
    let grown = lb.resident_kib().saturating_sub(before);
    assert!(grown < 400, "{grown} KiB more after {sent} bytes that nobody read");
    assert!(sent < 64 << 20, "the sender was never stopped: {sent} bytes");
    // And nothing of it is lost once the reader goes on.
    client.set_nonblocking(false).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(std::io::copy(&mut server, &mut std::io::sink()).unwrap(), sent as u64);
}

#[test]
fn an_idle_connection_is_ended_after_its_time_and_a_busy_one_is_not() {
    let (lb, mut client, mut server) = pair("    timeouts: {idle: 400ms}\n");
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(1) {
        client.write_all(b"x").unwrap();
        server.read_exact(&mut [0]).unwrap();
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    assert!(lb.when_logged("closed conn=").contains("reason=idle_timeout"));
}

#[test]
fn a_half_closed_connection_that_hangs_is_ended_and_one_that_moves_is_not() {
    let (lb, mut client, mut server) = pair("    timeouts: {half_closed: 400ms}\n");
    client.shutdown(Shutdown::Write).unwrap();
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(1) {
        server.write_all(b"x").unwrap();
        client.read_exact(&mut [0]).unwrap();
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    assert!(lb.when_logged("closed conn=").contains("reason=half_closed_timeout"));
}

#[test]
fn a_connection_ends_with_its_lifetime_however_busy() {
    let (lb, mut client, mut server) = pair("    timeouts: {lifetime: 500ms}\n");
    let began = Instant::now();
    while client.write_all(b"x").is_ok() && server.read(&mut [0]).is_ok_and(|n| n > 0) {
        assert!(began.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(began.elapsed() >= Duration::from_millis(450));
    assert!(lb.when_logged("closed conn=").contains("reason=lifetime"));
}

#[test]
fn a_server_that_speaks_first_is_heard() {
    let backend = Backend::serving(|mut stream| {
        let _ = stream.write_all(b"220 ready\r\n");
    });
    let lb = in_front_of(backend.address, "");
    let mut greeting = String::new();
    connect(&lb).read_to_string(&mut greeting).unwrap();
    assert_eq!(greeting, "220 ready\r\n");
}

#[test]
fn a_thousand_connections_at_once_leave_no_trace() {
    let backend = Backend::echo();
    let lb = in_front_of(backend.address, "");
    let address = lb.address("l");
    let files = lb.open_files();
    for _ in 0..4 {
        let clients: Vec<_> = (0..250).map(|_| TcpStream::connect(address).unwrap()).collect();
        for (i, mut client) in clients.into_iter().enumerate() {
            client.set_read_timeout(Some(PATIENCE)).unwrap();
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
    lb.when_idle();
    eventually("every file is closed", || (lb.open_files() <= files).then_some(()));
    let status = lb.status();
    assert_eq!(status["pools"][0]["backends"][0]["active"], 0);
    assert_eq!(status["listeners"][0]["active"], 0);
    assert_eq!(status["pools"][0]["backends"][0]["connections"], 1000);
}

#[test]
fn a_worker_that_polls_busily_relays_and_sleeps_when_all_is_quiet() {
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
    // The connection is still open, and nobody spins: less than a tenth of the time is spent on it.
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

/// A read stops where a descriptor was passed along, with more behind it.
#[test]
fn what_a_unix_client_says_after_passing_a_descriptor_arrives() {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    use std::os::fd::AsFd;
    let backend = TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lb.sock");
    let discover = static_list(&[backend.local_addr().unwrap()]);
    let _lb = Lb::start(&format!(
        "listeners: {{l: {{bind: \"unix:{}\", pool: p}}}}\npools:\n  p:\n    discover: {discover}\n",
        path.display()
    ));
    let client = eventually("it listens", || std::os::unix::net::UnixStream::connect(&path).ok());
    let (mut server, _) = backend.accept().unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut passed = SendAncillaryBuffer::new(&mut space);
    let descriptor = std::fs::File::open(folder.path()).unwrap();
    let descriptors = [descriptor.as_fd()];
    assert!(passed.push(SendAncillaryMessage::ScmRights(&descriptors)));
    sendmsg(&client, &[io::IoSlice::new(b"ab")], &mut passed, SendFlags::empty()).unwrap();
    (&client).write_all(b"cd").unwrap();
    let mut heard = [0; 4];
    server.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"abcd");
}

/// What the kernel's table says of the timer of the socket at `local`: 2 is a keepalive timer (proc(5), net/tcp).
fn timer(local: SocketAddr) -> Option<String> {
    let SocketAddr::V4(v4) = local else { return None };
    let address = format!("{:08X}:{:04X}", u32::from_ne_bytes(v4.ip().octets()), v4.port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let mut fields = table.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    let line = fields.find(|fields| fields[1] == address)?;
    Some(line[5].split(':').next()?.to_owned())
}

#[test]
fn a_connection_that_lasts_is_probed_on_both_sides() {
    let (sender, peers) = std::sync::mpsc::channel();
    let backend = Backend::serving(move |mut stream| {
        sender.send(stream.peer_addr().unwrap()).unwrap();
        let _ = stream.read(&mut [0; 1]);
    });
    let lb = in_front_of(backend.address, "");
    let client = connect(&lb);
    let to_backend = peers.recv_timeout(PATIENCE).unwrap();
    eventually("the backend is probed", || (timer(to_backend)? == "02").then_some(()));
    // The kernel names the sockets of both ends; ours is the one whose peer is the client.
    let ours = client.peer_addr().unwrap();
    let remote = format!(":{:04X}", client.local_addr().unwrap().port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let mut lines = table.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    let port = format!(":{:04X}", ours.port());
    let line = lines.find(|fields| fields[1].ends_with(&port) && fields[2].ends_with(&remote)).unwrap();
    assert!(line[5].starts_with("02:"), "{line:?}");
}
