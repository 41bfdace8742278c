//! Clients that open a connection for each request, and record the result.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

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
