//! The two peers of a connection, and the kernel's view of the balancer's sockets.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use socket2::SockRef;

use super::{Lb, TIME_LIMIT, accept_within, connect_to, eventually, listen_alone, static_list};

/// A balancer in front of one backend, with more settings for its pool.
pub fn in_front_of(backend: SocketAddr, settings: &str) -> Lb {
    let discover = static_list(&[backend]);
    Lb::start(&format!(
        "listeners: {{l: {{bind: 127.0.0.1:0, pool: p}}}}\npools:\n  p:\n    discover: {discover}\n{settings}"
    ))
}

/// A server that holds the only handle of its connections, so that it can reset them.
pub struct Server {
    pub address: SocketAddr,
    accepted: Arc<AtomicUsize>,
}

impl Server {
    /// Serves each connection in a thread of its own.
    pub fn new(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        let listener = listen_alone();
        let server = Self { address: listener.local_addr().unwrap(), accepted: Arc::default() };
        let accepted = Arc::clone(&server.accepted);
        std::thread::spawn(move || {
            let serve = Arc::new(serve);
            for stream in listener.incoming().map_while(Result::ok) {
                accepted.fetch_add(1, Ordering::SeqCst);
                let serve = Arc::clone(&serve);
                std::thread::spawn(move || serve(stream));
            }
        });
        server
    }

    /// The connections that it has accepted.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

pub fn connect(lb: &Lb) -> TcpStream {
    connect_to(lb.address("l")).unwrap()
}

/// The next connection of a server, and the first byte of its client.
pub fn accept_speaker(server: &TcpListener) -> (TcpStream, char) {
    let mut stream = accept_within(server).0;
    let mut word = [0];
    stream.read_exact(&mut word).unwrap();
    (stream, word[0].into())
}

/// A client that sends a byte.
pub fn speaker(lb: &Lb, word: char) -> TcpStream {
    let mut client = connect(lb);
    client.write_all(word.to_string().as_bytes()).unwrap();
    client
}

/// Asserts that the balancer resets a connection. A reset is not retransmitted, and a busy kernel may drop it
/// (`net.core.netdev_max_backlog`): the client then sends a byte, which is answered by another one.
pub fn is_reset(client: &mut TcpStream) {
    const PATIENCE: Duration = Duration::from_secs(5);
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let deadline = Instant::now() + TIME_LIMIT;
    let mut read = client.read(&mut [0]);
    while read.as_ref().is_err_and(|error| error.kind() == ErrorKind::WouldBlock) && Instant::now() < deadline
    {
        let _ = client.write(b"?");
        read = client.read(&mut [0]);
    }
    assert_eq!(read.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

/// A connection: the client's end and the backend's.
pub fn pair(settings: &str) -> (Lb, TcpStream, TcpStream) {
    let backend = listen_alone();
    let lb = in_front_of(backend.local_addr().unwrap(), settings);
    let client = connect(&lb);
    let (server, _) = accept_within(&backend);
    // A reset before the first byte would be retried on another backend.
    lb.when_logged("routed conn=");
    (lb, client, server)
}

/// A server that handles one connection after the other with `serve`. Unlike `Backend`, it keeps no copy of a stream, so that
/// `serve` can reset it.
pub fn serving_one_at_a_time(serve: impl Fn(TcpStream) + Send + 'static) -> SocketAddr {
    let listener = listen_alone();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || listener.incoming().map_while(Result::ok).for_each(serve));
    address
}

/// Resets a connection.
pub fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream);
}

const SOON: Duration = Duration::from_millis(100);

/// Asserts that the shortest of several attempts is short, as the machine may be busy.
pub fn is_soon(time: impl Fn() -> Duration) {
    let (began, mut tries) = (Instant::now(), Vec::new());
    while tries.len() < 5 || began.elapsed() < TIME_LIMIT {
        tries.push(time());
        if tries.last().is_some_and(|time| *time < SOON) {
            return;
        }
    }
    panic!("never sooner than {tries:?}");
}

/// The [`timer`] of a socket that waits to probe its peer, and of one that retransmits.
pub const KEEPALIVE: u32 = 2;
pub const REPEATING: u32 = 1;
/// The same for a socket whose peer has a zero window.
pub const PROBING_A_CLOSED_WINDOW: u32 = 4;

/// Writes to the balancer until the kernel accepts no more: the sockets of the server and of the balancer are full, so the
/// balancer keeps bytes back. Returns the number of bytes written.
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

/// The timer of the socket at `ours` with the peer `theirs`; 0: none.
pub fn timer(ours: SocketAddr, theirs: SocketAddr) -> Option<u32> {
    number(field(ours, theirs, 5)?.split(':').next()?)
}

/// The bytes in the queues of the socket at `ours` with the peer `theirs`: not acknowledged by the peer, and not read.
pub fn queues(ours: SocketAddr, theirs: SocketAddr) -> Option<[u32; 2]> {
    let field = field(ours, theirs, 4)?;
    let (sent, received) = field.split_once(':')?;
    Some([number(sent)?, number(received)?])
}

/// A field of a socket's line in the kernel's table (proc(5), net/tcp).
fn field(ours: SocketAddr, theirs: SocketAddr, index: usize) -> Option<String> {
    let ends = [ours, theirs].map(|end| format!(":{:04X}", end.port()));
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let mut lines = table.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    let line = lines.find(|line| line[1].ends_with(&ends[0]) && line[2].ends_with(&ends[1]))?;
    Some(line[index].to_owned())
}

fn number(text: &str) -> Option<u32> {
    u32::from_str_radix(text, 16).ok()
}
