//! A connection's two peers, and what the kernel knows of the balancer's sockets towards them.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use socket2::SockRef;

use super::{Lb, PATIENCE, static_list};

/// A balancer in front of one backend, with more settings for its pool.
pub fn in_front_of(backend: SocketAddr, settings: &str) -> Lb {
    let discover = static_list(&[backend]);
    Lb::start(&format!(
        "listeners: {{l: {{bind: 127.0.0.1:0, pool: p}}}}\npools:\n  p:\n    discover: {discover}\n{settings}"
    ))
}

pub fn connect(lb: &Lb) -> TcpStream {
    let stream = TcpStream::connect(lb.address("l")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// A client's connection and the backend's end of it.
pub fn pair(settings: &str) -> (Lb, TcpStream, TcpStream) {
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

/// Ends a connection by a reset.
pub fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream);
}

const SOON: Duration = Duration::from_millis(100);

/// Whether something takes no longer than that: the best of some tries, as the machine may be busy with other things.
pub fn is_soon(time: impl Fn() -> Duration) {
    let (began, mut tries) = (Instant::now(), Vec::new());
    while tries.len() < 5 || began.elapsed() < PATIENCE {
        tries.push(time());
        if tries.last().is_some_and(|time| *time < SOON) {
            return;
        }
    }
    panic!("never sooner than {tries:?}");
}

/// What [`timer`] says of a socket that waits to probe its peer, and of one that repeats what is under way.
pub const KEEPALIVE: u32 = 2;
pub const REPEATING: u32 = 1;

/// The timer of the socket at `ours` whose peer is `theirs`, by the kernel's table; 0 is none (proc(5), net/tcp).
pub fn timer(ours: SocketAddr, theirs: SocketAddr) -> Option<u32> {
    let ends = [ours, theirs].map(|end| format!(":{:04X}", end.port()));
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let mut lines = table.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    let line = lines.find(|line| line[1].ends_with(&ends[0]) && line[2].ends_with(&ends[1]))?;
    u32::from_str_radix(line[5].split(':').next()?, 16).ok()
}
