//! A connection's two peers, and what the kernel knows of the balancer's sockets towards them.

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use socket2::SockRef;

use super::{Lb, PATIENCE, accept_within, connect_to, eventually, static_list};

/// A balancer in front of one backend, with more settings for its pool.
pub fn in_front_of(backend: SocketAddr, settings: &str) -> Lb {
    let discover = static_list(&[backend]);
    Lb::start(&format!(
        "listeners: {{l: {{bind: 127.0.0.1:0, pool: p}}}}\npools:\n  p:\n    discover: {discover}\n{settings}"
    ))
}

pub fn connect(lb: &Lb) -> TcpStream {
    connect_to(lb.address("l")).unwrap()
}

/// A client's connection and the backend's end of it.
pub fn pair(settings: &str) -> (Lb, TcpStream, TcpStream) {
    let backend = TcpListener::bind("127.0.0.1:0").unwrap();
    let lb = in_front_of(backend.local_addr().unwrap(), settings);
    let client = connect(&lb);
    let (server, _) = accept_within(&backend);
    // A reset before this would be a connect that failed, and another backend's chance.
    lb.when_logged("routed conn=");
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
/// The same for a socket that holds bytes for which its peer has no room.
pub const PROBING_A_CLOSED_WINDOW: u32 = 4;

/// Writes to the balancer until the kernel accepts no more: the server's socket and the balancer's socket are full, so
/// the balancer holds bytes back. Returns the number of bytes written.
pub fn fill(client: &mut TcpStream, server: &TcpStream) -> usize {
    let (client_ends, server_ends) = (ends(client), ends(server));
    let is_closed = |ours, theirs| timer(ours, theirs) == Some(PROBING_A_CLOSED_WINDOW);
    let (block, mut sent) = (vec![0; 1 << 16], 0);
    client.set_nonblocking(true).unwrap();
    eventually("all buffers between the client and the server are full", || {
        let mut full = true;
        while let Ok(n) = client.write(&block) {
            (sent, full) = (sent + n, false);
        }
        let to_balancer = is_closed(client_ends.0, client_ends.1);
        let to_server = is_closed(server_ends.1, server_ends.0);
        (full && to_balancer && to_server).then_some(())
    });
    client.set_nonblocking(false).unwrap();
    sent
}

/// The addresses of a connection: local and peer.
fn ends(stream: &TcpStream) -> (SocketAddr, SocketAddr) {
    (stream.local_addr().unwrap(), stream.peer_addr().unwrap())
}

/// The timer of the socket at `ours` whose peer is `theirs`, by the kernel's table; 0 is none (proc(5), net/tcp).
pub fn timer(ours: SocketAddr, theirs: SocketAddr) -> Option<u32> {
    let ends = [ours, theirs].map(|end| format!(":{:04X}", end.port()));
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let mut lines = table.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    let line = lines.find(|line| line[1].ends_with(&ends[0]) && line[2].ends_with(&ends[1]))?;
    u32::from_str_radix(line[5].split(':').next()?, 16).ok()
}
