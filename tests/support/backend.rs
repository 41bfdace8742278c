//! Backends in the test process: small TCP servers in threads.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};

use super::{hold, join_within, keep_for_a_while};

/// How a backend handles each connection.
type Serve = Arc<dyn Fn(TcpStream) + Send + Sync>;

/// A TCP server in a thread, which can be killed and started again on the same address.
pub struct Backend {
    pub address: SocketAddr,
    /// Its address, also while it is killed.
    held: Socket,
    pub accepted: Arc<AtomicUsize>,
    serve: Serve,
    running: Option<ServingThread>,
}

struct ServingThread {
    listener: TcpListener,
    stop: Arc<AtomicBool>,
    open: Arc<Mutex<Vec<TcpStream>>>,
    thread: JoinHandle<()>,
}

impl Backend {
    /// A server on a free port that runs `serve` in a new thread for each connection.
    pub fn serving(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        Self::serving_at("127.0.0.1:0".parse().unwrap(), serve).unwrap()
    }

    /// The same at a given address; fails if that is in use.
    pub fn serving_at(
        address: SocketAddr,
        serve: impl Fn(TcpStream) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let held = hold(address)?;
        let address = held.local_addr()?.as_socket().unwrap();
        let serve = Arc::new(serve);
        let mut backend = Self { address, held, accepted: Arc::default(), serve, running: None };
        backend.listen()?;
        Ok(backend)
    }

    /// An HTTP server that responds to every request with `name`, and to /health with ok.
    pub fn http(name: &str) -> Self {
        let name = name.to_owned();
        Self::serving(move |stream| http(stream, &name))
    }

    pub fn http_at(address: SocketAddr, name: &str) -> io::Result<Self> {
        let name = name.to_owned();
        Self::serving_at(address, move |stream| http(stream, &name))
    }

    /// A server that echoes, and closes when its client does.
    pub fn echo() -> Self {
        Self::echo_at("127.0.0.1:0".parse().unwrap()).unwrap()
    }

    pub fn echo_at(address: SocketAddr) -> io::Result<Self> {
        Self::serving_at(address, |mut stream| {
            let mut reader = stream.try_clone().unwrap();
            let _ = io::copy(&mut reader, &mut stream);
            let _ = stream.shutdown(Shutdown::Write);
        })
    }

    /// Stops listening and resets all connections, like a killed process.
    pub fn kill(&mut self) {
        let Some(running) = self.running.take() else { return };
        running.stop.store(true, Ordering::SeqCst);
        // Ends the accept, and the listening even if a process that another test is just starting inherited the socket.
        let _ = SockRef::from(&running.listener).shutdown(Shutdown::Both);
        join_within(running.thread, "a backend that is killed accepts no more");
        for stream in running.open.lock().unwrap().drain(..) {
            let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Listens again on the same address.
    pub fn revive(&mut self) {
        self.listen().unwrap();
    }

    fn listen(&mut self) -> io::Result<()> {
        let socket = Socket::new(Domain::for_address(self.address), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&self.address.into())?;
        socket.listen(1024)?;
        let listener = TcpListener::from(socket);
        let kept_listener = listener.try_clone()?;
        let (stop, open) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Vec<TcpStream>>>::default());
        let (stopped, kept) = (Arc::clone(&stop), Arc::clone(&open));
        let (serve, accepted) = (Arc::clone(&self.serve), Arc::clone(&self.accepted));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                accepted.fetch_add(1, Ordering::SeqCst);
                if let Ok(copy) = stream.try_clone() {
                    let mut kept = kept.lock().unwrap();
                    kept.retain(|stream: &TcpStream| stream.peer_addr().is_ok());
                    kept.push(copy);
                }
                let serve = Arc::clone(&serve);
                std::thread::spawn(move || {
                    let end = stream.try_clone();
                    serve(stream);
                    // The kept copy must not hold the connection open.
                    if let Ok(end) = end {
                        let _ = end.shutdown(Shutdown::Both);
                    }
                });
            }
        });
        self.running = Some(ServingThread { listener: kept_listener, stop, open, thread });
        Ok(())
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.kill();
        // A balancer of the same test may still check this address.
        self.held.try_clone().into_iter().for_each(keep_for_a_while);
    }
}

/// Serves one HTTP/1.1 request.
pub fn http(mut stream: impl Read + Write, name: &str) {
    let Some(request) = read_request(&mut stream) else { return };
    let body = if request.starts_with("GET /health") { "ok" } else { name };
    let answer =
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
    let _ = stream.write_all(answer.as_bytes());
}

/// Reads up to the end of a request's header.
pub fn read_request(stream: &mut impl Read) -> Option<String> {
    let mut request = Vec::new();
    let mut buffer = [0; 1024];
    while !request.windows(4).any(|w| w == b"\r\n\r\n") {
        let n = stream.read(&mut buffer).ok().filter(|n| *n > 0)?;
        request.extend_from_slice(&buffer[..n]);
    }
    String::from_utf8(request).ok()
}
