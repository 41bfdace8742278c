//! The clients: each visit is one connection, whose bytes are verified and counted.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng, RngExt};
use socket2::SockRef;

use crate::support::{Lb, connect_to};

/// What a client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// One HTTP request to the pool `web`, whose backends are killed.
    Web,
    /// One HTTP request to the pool whose backends are replicas.
    Scaled,
    /// Words to the pool `echo`, whose backends are killed, for up to three seconds.
    Echo,
    /// Megabytes in one direction or both.
    Bulk,
    /// The same, read slowly, and reset before the end.
    Aborted,
    /// A word, and then nothing until the idle limit.
    Idle,
    /// A connection without a byte.
    Silent,
}

impl Kind {
    /// One for each client.
    pub(super) const CLIENTS: [Self; 11] = [
        Self::Web,
        Self::Web,
        Self::Web,
        Self::Scaled,
        Self::Echo,
        Self::Echo,
        Self::Echo,
        Self::Bulk,
        Self::Aborted,
        Self::Idle,
        Self::Silent,
    ];

    /// The pool that it is routed to.
    pub(super) fn pool(self) -> &'static str {
        match self {
            Self::Web | Self::Silent => "web",
            Self::Scaled => "scaled",
            Self::Echo => "echo",
            Self::Bulk | Self::Aborted => "bulk",
            Self::Idle => "idle",
        }
    }
}

/// A connection as its client saw it.
#[derive(Debug)]
pub(super) struct Visit {
    pub(super) kind: Kind,
    /// The client's address; `None`: it could not connect.
    pub(super) client: Option<SocketAddr>,
    pub(super) began: Instant,
    pub(super) ended: Instant,
    /// Bytes that it has written, and those that it has read.
    pub(super) sent: u64,
    pub(super) received: u64,
    /// Whether it has got everything, and the end; otherwise what went wrong, or what it did itself.
    pub(super) end: Result<(), String>,
}

/// The addresses of the listeners.
#[derive(Clone, Copy)]
pub(super) struct Addresses {
    web: SocketAddr,
    echo: SocketAddr,
    bulk: SocketAddr,
    idle: SocketAddr,
    scaled: SocketAddr,
}

impl Addresses {
    pub(super) fn of(lb: &Lb) -> Self {
        let [web, echo, bulk, idle, scaled] =
            ["web", "echo", "bulk", "idle", "scaled"].map(|name| lb.address(name));
        Self { web, echo, bulk, idle, scaled }
    }

    fn of_pool(self, pool: &str) -> SocketAddr {
        match pool {
            "web" => self.web,
            "echo" => self.echo,
            "bulk" => self.bulk,
            "idle" => self.idle,
            _ => self.scaled,
        }
    }
}

/// The bytes of a client's connection, counted.
struct Counted {
    stream: TcpStream,
    sent: u64,
    received: u64,
}

impl Counted {
    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let n = self.stream.write(rest)?;
            self.sent += n as u64;
            rest = &rest[n..];
        }
        Ok(())
    }

    /// Reads into `buffer`; 0: the end.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.stream.read(buffer)?;
        self.received += n as u64;
        Ok(n)
    }

    fn read_exact(&mut self, mut buffer: &mut [u8]) -> io::Result<()> {
        while !buffer.is_empty() {
            match self.read(buffer)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => buffer = &mut buffer[n..],
            }
        }
        Ok(())
    }

    fn read_to_end(&mut self) -> io::Result<Vec<u8>> {
        let (mut all, mut buffer) = (Vec::new(), [0; 16 << 10]);
        loop {
            match self.read(&mut buffer)? {
                0 => return Ok(all),
                n => all.extend_from_slice(&buffer[..n]),
            }
        }
    }
}

/// Makes one connection of this kind.
pub(super) fn visit(kind: Kind, addresses: Addresses, random: &mut SmallRng) -> Visit {
    std::thread::sleep(Duration::from_millis(random.random_range(1..30)));
    let began = Instant::now();
    let connected = connect_to(addresses.of_pool(kind.pool()));
    let mut visit = Visit { kind, client: None, began, ended: began, sent: 0, received: 0, end: Ok(()) };
    match connected.and_then(|stream| Ok((stream.local_addr()?, stream))) {
        Ok((client, stream)) => {
            let mut counted = Counted { stream, sent: 0, received: 0 };
            let end = match kind {
                Kind::Web | Kind::Scaled => get(&mut counted),
                Kind::Echo => echo(&mut counted, random),
                Kind::Bulk => bulk(&mut counted, random),
                Kind::Aborted => aborted(&mut counted, random),
                Kind::Idle => idle(&mut counted),
                Kind::Silent => counted.stream.shutdown(Shutdown::Write),
            };
            visit.client = Some(client);
            visit.end = end.map_err(|error| error.to_string());
            (visit.sent, visit.received) = (counted.sent, counted.received);
        }
        Err(error) => visit.end = Err(format!("connect: {error}")),
    }
    visit.ended = Instant::now();
    visit
}

fn wrong(what: &str, got: &[u8]) -> io::Error {
    io::Error::other(format!("{what}: {}", got[..got.len().min(200)].escape_ascii()))
}

fn get(client: &mut Counted) -> io::Result<()> {
    client.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")?;
    let answer = client.read_to_end()?;
    let is_whole = answer.starts_with(b"HTTP/1.1 200 OK\r\n") && answer.ends_with(b"\r\n\r\nweb");
    if is_whole { Ok(()) } else { Err(wrong("not the whole answer", &answer)) }
}

fn echo(client: &mut Counted, random: &mut SmallRng) -> io::Result<()> {
    let until = Instant::now() + Duration::from_millis(random.random_range(0..3000));
    loop {
        let mut word = vec![0; random.random_range(1..3000)];
        random.fill_bytes(&mut word);
        client.send(&word)?;
        let mut answer = vec![0; word.len()];
        client.read_exact(&mut answer)?;
        if answer != word {
            return Err(wrong("other bytes came back", &answer));
        }
        if Instant::now() >= until {
            break;
        }
        std::thread::sleep(Duration::from_millis(random.random_range(0..100)));
    }
    client.stream.shutdown(Shutdown::Write)?;
    let rest = client.read_to_end()?;
    if rest.is_empty() { Ok(()) } else { Err(wrong("more came back", &rest)) }
}

fn idle(client: &mut Counted) -> io::Result<()> {
    // Fewer bytes than the pool's servers wait for.
    client.send(b"idle")?;
    client.read_to_end()?;
    Err(io::Error::other("the idle limit"))
}

/// The byte at a place of a stream.
fn pattern(place: u64) -> u8 {
    (place.wrapping_mul(31) >> 3) as u8
}

fn write_pattern(length: u64, mut write: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut place = 0;
    while place < length {
        let part: Vec<u8> = (place..length.min(place + (64 << 10))).map(pattern).collect();
        write(&part)?;
        place += part.len() as u64;
    }
    Ok(())
}

/// Reads `length` bytes of a stream.
fn read_pattern(length: u64, mut read: impl FnMut(&mut [u8]) -> io::Result<usize>) -> io::Result<()> {
    let (mut place, mut buffer) = (0, vec![0; 64 << 10]);
    while place < length {
        let room = usize::try_from(length - place).unwrap().min(buffer.len());
        let n = read(&mut buffer[..room])?;
        if n == 0 {
            return Err(io::Error::other(format!("{place} bytes of {length}")));
        }
        if !(place..).map(pattern).zip(&buffer[..n]).all(|(wanted, got)| wanted == *got) {
            return Err(wrong("wrong bytes", &buffer[..n]));
        }
        place += n as u64;
    }
    Ok(())
}

fn lengths(random: &mut SmallRng) -> (u64, u64) {
    let mut length = || if random.random_bool(0.3) { 0 } else { random.random_range(1..3 << 20) };
    (length(), length())
}

/// The lengths of both directions, and then so many bytes.
fn bulk(client: &mut Counted, random: &mut SmallRng) -> io::Result<()> {
    let (up, down) = lengths(random);
    client.send(&[up.to_be_bytes(), down.to_be_bytes()].concat())?;
    write_pattern(up, |part| client.send(part))?;
    client.stream.shutdown(Shutdown::Write)?;
    read_pattern(down, |buffer| client.read(buffer))?;
    let rest = client.read_to_end()?;
    if rest.is_empty() { Ok(()) } else { Err(wrong("more came back", &rest)) }
}

fn aborted(client: &mut Counted, random: &mut SmallRng) -> io::Result<()> {
    client.send(&[0_u64.to_be_bytes(), (64_u64 << 20).to_be_bytes()].concat())?;
    let mut buffer = [0; 10_000];
    for _ in 0..random.random_range(1..10) {
        client.read(&mut buffer)?;
        std::thread::sleep(Duration::from_millis(random.random_range(0..100)));
    }
    SockRef::from(&client.stream).set_linger(Some(Duration::ZERO))?;
    Err(io::Error::other("its own reset"))
}

/// The server of [`bulk`]. It closes after wrong bytes.
pub(super) fn serve_bulk(mut stream: TcpStream) {
    let mut lengths = [0; 16];
    if stream.read_exact(&mut lengths).is_err() {
        return;
    }
    let [up, down] = [&lengths[..8], &lengths[8..]].map(|half| u64::from_be_bytes(half.try_into().unwrap()));
    let received = read_pattern(up, |buffer| stream.read(buffer));
    let _ = received.and_then(|()| write_pattern(down, |part| stream.write_all(part)));
}
