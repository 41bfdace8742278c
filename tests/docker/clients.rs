//! Clients that open a connection for each request, and record the result: threads of the test, or containers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use super::engine::{Container, logs};
use super::support::{TIME_LIMIT, http_get_on, join_within};

/// One request on its own connection.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// When it began.
    pub at: Instant,
    /// The client's port, as in the log field `client`.
    pub port: u16,
    /// Status and body, or the error.
    pub result: Result<(u16, String), String>,
}

impl Request {
    /// Whether it was answered with 200.
    pub(crate) fn served(&self) -> bool {
        matches!(self.result, Ok((200, _)))
    }

    /// Sends a request.
    pub(crate) fn make(address: SocketAddr, path: &str) -> Self {
        Self::connecting_within(TIME_LIMIT, address, path)
    }

    fn connecting_within(limit: Duration, address: SocketAddr, path: &str) -> Self {
        let (at, mut port) = (Instant::now(), 0);
        let result = send(limit, address, path, &mut port);
        Self { at, port, result }
    }
}

fn send(limit: Duration, address: SocketAddr, path: &str, port: &mut u16) -> Result<(u16, String), String> {
    let error = |error| format!("connect: {error}");
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).map_err(error)?;
    let connected = socket.connect_timeout(&address.into(), limit);
    // Before the request: a connection may be reset at once.
    *port = socket.local_addr().ok().and_then(|local| local.as_socket()).map_or(0, |local| local.port());
    connected.map_err(error)?;
    let (status, body) = http_get_on(socket.into(), path)?;
    Ok((status, body.trim().to_owned()))
}

/// Clients that send requests until they are stopped.
pub(crate) struct Clients {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    requests: Receiver<Request>,
}

impl Clients {
    /// `count` clients, each with this pause between requests.
    pub(crate) fn start(count: usize, pause: Duration, address: SocketAddr) -> Self {
        Self::connecting_within(TIME_LIMIT, count, pause, address)
    }

    /// The same with a time limit for connecting: nothing answers at the address of a container that has ended.
    pub(crate) fn connecting_within(
        limit: Duration,
        count: usize,
        pause: Duration,
        address: SocketAddr,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (sender, requests) = channel();
        let client = |_| {
            let (stop, sender): (_, Sender<Request>) = (Arc::clone(&stop), sender.clone());
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let _ = sender.send(Request::connecting_within(limit, address, "/"));
                    std::thread::sleep(pause);
                }
            })
        };
        let threads = (0..count).map(client).collect();
        Self { stop, threads, requests }
    }

    /// Waits until `count` more requests have ended.
    pub(crate) fn wait_for(&self, count: usize) -> Vec<Request> {
        (0..count).map(|_| self.requests.recv_timeout(TIME_LIMIT).unwrap()).collect()
    }

    /// Stops all clients; the requests since the last wait.
    pub(crate) fn stop(mut self) -> Vec<Request> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in std::mem::take(&mut self.threads) {
            join_within(thread, "a client's last request");
        }
        self.requests.try_iter().collect()
    }
}

impl Drop for Clients {
    /// The address may belong to another test soon.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// The program of [`Contained`]: a line for each request, with the time in seconds and the last word of the response or the
/// error. Of several addresses it uses a random one, and no other if that fails.
const PROGRAM: &str = "
import http.client, random, socket, sys, threading, time
host, timeout, threads = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
def work():
    while True:
        at = time.monotonic()
        try:
            found = socket.getaddrinfo(host, 8080, socket.AF_INET, socket.SOCK_STREAM)
            connection = http.client.HTTPConnection(*random.choice(found)[4], timeout=timeout)
            connection.request('GET', '/')
            answer = connection.getresponse()
            body = answer.read().decode()
            result = f'served {body.split()[-1]}' if answer.status == 200 else f'failed {answer.status} {body!r}'
        except (OSError, http.client.HTTPException) as error:
            result = f'failed {error!r}'
        sys.stdout.write(f'{at} {result}\\n')
        sys.stdout.flush()
        time.sleep(0.05)
for _ in range(threads):
    threading.Thread(target=work).start()";

/// Clients in a container, which have its address, and whose requests go to port 8080 of a name or address.
pub(crate) struct Contained(Container);

impl Contained {
    /// So many clients with this time limit for each step of a request.
    pub(crate) fn start(network: &str, host: &str, limit: Duration, clients: usize) -> Self {
        let (limit, clients) = (limit.as_secs_f64().to_string(), clients.to_string());
        let python = ["python:3.13-slim", "python", "-c", PROGRAM, host, &limit, &clients];
        Self(Container::run("client", &[&["--network", network], &python[..]].concat()))
    }

    /// The requests that were served: when, in seconds, and by which backend.
    pub(crate) fn served(&self) -> Vec<(f64, String)> {
        let served = |line: &str| {
            let (at, name) = line.split_once(" served ")?;
            Some((at.parse().unwrap(), name.to_owned()))
        };
        logs(&self.0.0).lines().filter_map(served).collect()
    }

    /// The lines of the requests that failed.
    pub(crate) fn failed(&self) -> Vec<String> {
        logs(&self.0.0).lines().filter(|line| !line.contains(" served ")).map(str::to_owned).collect()
    }
}
