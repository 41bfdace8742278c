//! An HTTP server for a [`Router`], with the time limits and caps that keep it from ever becoming a burden: slow
//! clients, idle ones and many of them cost it a little, and the data plane nothing. However many others there are, who
//! is on this machine is answered: its health check must not fail because somebody far away holds connections open.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::access::Peer;
use super::events::Stop;
use super::patience::Patience;
use super::{Failure, replicas};
use crate::config::{BindAddress, SocketMode};
use crate::proxy::unix_socket::UnixSocket;

/// Connections at once; more wait.
const CONNECTIONS: usize = 256;
/// So many of them may come from other machines; more are closed.
const GUESTS: usize = 128;
/// Header lines of a request.
const HEADERS: usize = 64;
/// Longest header of a request, in bytes; so much of its body is held at a time, too.
const HEADER: usize = 16 * 1024;
/// Time for a request's header to arrive; also how long a connection may idle.
const HEADER_TIME: Duration = Duration::from_secs(10);
/// Time from a request's header to the beginning of its answer, with the request's body in it. What follows may take
/// longer: an answer can be a stream of events.
const REQUEST_TIME: Duration = Duration::from_secs(10);
/// The same for what starts containers, which takes as long as their engine does.
const SLOW_TIME: Duration = Duration::from_secs(180);
/// How long a client may take nothing of an answer that waits for it.
const WRITE_TIME: Duration = Duration::from_secs(30);
/// Time for running requests to end when the server stops.
const FAREWELL: Duration = Duration::from_secs(2);
/// Pause after accepting failed for want of files.
const BREATHER: Duration = Duration::from_millis(200);

/// A server that has its address and is not serving yet.
#[derive(Debug)]
pub struct Bound {
    listener: Listener,
    /// Its address, with the port that the kernel chose if it was left to it.
    pub address: BindAddress,
    header_time: Duration,
    request_time: Duration,
    slow_time: Duration,
    write_time: Duration,
}

#[derive(Debug)]
enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, UnixSocket),
}

impl Bound {
    /// Takes an address. `mode` is that of a Unix socket.
    pub async fn bind(address: &BindAddress, mode: SocketMode) -> io::Result<Self> {
        let (listener, address) = match address {
            BindAddress::Tcp(wanted) => {
                let listener = TcpListener::bind(wanted).await?;
                let address = BindAddress::Tcp(listener.local_addr()?);
                (Listener::Tcp(listener), address)
            }
            BindAddress::Unix(path) => {
                let socket = UnixSocket::bind(path, mode)?;
                let listener = UnixListener::from_std(socket.listener()?)?;
                (Listener::Unix(listener, socket), address.clone())
            }
        };
        Ok(Self {
            listener,
            address,
            header_time: HEADER_TIME,
            request_time: REQUEST_TIME,
            slow_time: SLOW_TIME,
            write_time: WRITE_TIME,
        })
    }

    /// Serves until `stop` is cancelled, and then lets running requests end.
    pub async fn serve(self, router: Router, stop: CancellationToken) {
        info!(address = %self.address, "admin listening");
        let graceful = GracefulShutdown::new();
        let places = Places::default();
        let limits = [self.request_time, self.slow_time];
        let router = router
            .layer(middleware::from_fn(move |request, next| in_time(limits, request, next)))
            .layer(Extension(Stop(stop.clone())));
        let mut protocol = http1::Builder::new();
        protocol
            .timer(TokioTimer::new())
            .header_read_timeout(self.header_time)
            .max_headers(HEADERS)
            .max_buf_size(HEADER);
        let serve = |io: TokioIo<_>, peer: Peer, place: Place| {
            let service = TowerToHyperService::new(router.clone().layer(Extension(peer)));
            let connection = graceful.watch(protocol.serve_connection(io, service));
            tokio::spawn(async move {
                let _ = connection.await; // a client that breaks off is none of our business
                drop(place);
            });
        };
        loop {
            let accepted = tokio::select! {
                accepted = accept(&self.listener, &places) => accepted,
                () = stop.cancelled() => break,
            };
            match accepted {
                Ok(Some((stream, peer, place))) => {
                    serve(TokioIo::new(Patience::new(stream, self.write_time)), peer, place);
                }
                Ok(None) => {} // one guest too many
                Err(error) => {
                    warn!(address = %self.address, %error, "admin accept failed; trying again");
                    tokio::time::sleep(BREATHER).await;
                }
            }
        }
        if let Listener::Unix(_, socket) = &self.listener {
            socket.remove();
        }
        let _ = tokio::time::timeout(FAREWELL, graceful.shutdown()).await;
    }
}

/// Answers a request, if that can be begun in time.
async fn in_time([limit, slow_limit]: [Duration; 2], request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let slow = replicas::is_slow(&path);
    let limit = if slow { slow_limit } else { limit };
    tokio::time::timeout(limit, next.run(request)).await.unwrap_or_else(|_| {
        let time = humantime::format_duration(limit);
        let failure = if slow {
            // That the request arrives in time is seen to there.
            let message = format!("the engine has not done it within {time}, and may still do it");
            Failure::new(StatusCode::GATEWAY_TIMEOUT, "too_slow", message, "see /rep")
        } else {
            let message = format!("it could not be answered within {time}: the request was not there whole, or what it asks for takes longer");
            Failure::new(StatusCode::REQUEST_TIMEOUT, "too_slow", message, "send it at once, or look whether it was done")
        };
        failure.at(&path)
    })
}

/// The connections that there may be.
struct Places {
    all: Arc<Semaphore>,
    /// Those of them that other machines may have.
    guests: Arc<Semaphore>,
}

/// A connection's place, or two: a guest's is also one among the guests.
type Place = (OwnedSemaphorePermit, Option<OwnedSemaphorePermit>);

impl Default for Places {
    fn default() -> Self {
        Self { all: Arc::new(Semaphore::new(CONNECTIONS)), guests: Arc::new(Semaphore::new(GUESTS)) }
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// The next connection, once there is a place for it; `None`: it was closed, being one guest too many.
async fn accept(listener: &Listener, places: &Places) -> io::Result<Option<(Box<dyn Stream>, Peer, Place)>> {
    let place = Arc::clone(&places.all).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, peer): (Box<dyn Stream>, Peer) = match listener {
        Listener::Tcp(listener) => {
            let (stream, address) = listener.accept().await?;
            (Box::new(stream), Peer::Tcp(address))
        }
        Listener::Unix(listener, _) => (Box::new(listener.accept().await?.0), Peer::Unix),
    };
    if peer.is_local() {
        return Ok(Some((stream, peer, (place, None))));
    }
    let guest = Arc::clone(&places.guests).try_acquire_owned().ok();
    Ok(guest.map(|guest| (stream, peer, (place, Some(guest)))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    async fn started() -> (TcpStream, CancellationToken, tokio::task::JoinHandle<()>) {
        serving(router()).await
    }

    async fn serving(router: Router) -> (TcpStream, CancellationToken, tokio::task::JoinHandle<()>) {
        let mut bound = Bound::bind(&BindAddress::Tcp("127.0.0.1:0".parse().unwrap()), SocketMode::default())
            .await
            .unwrap();
        bound.header_time = Duration::from_millis(200);
        bound.request_time = Duration::from_millis(200);
        bound.slow_time = Duration::from_millis(300);
        bound.write_time = Duration::from_millis(200);
        let BindAddress::Tcp(address) = bound.address else { unreachable!() };
        let stop = CancellationToken::new();
        let server = tokio::spawn(bound.serve(router, stop.clone()));
        (TcpStream::connect(address).await.unwrap(), stop, server)
    }

    fn router() -> Router {
        let stream = || async {
            let late = futures_util::stream::once(async {
                tokio::time::sleep(Duration::from_millis(500)).await;
                Ok::<_, io::Error>("late")
            });
            axum::body::Body::from_stream(late)
        };
        let route = axum::routing::get(|| async { "hello" }).post(|body: String| async { body });
        let never = axum::routing::post(std::future::pending::<()>);
        Router::new().route("/", route).route("/stream", axum::routing::get(stream)).route("/add", never)
    }

    /// The rest of what comes, until the other side ends it.
    async fn rest(client: &mut TcpStream) -> String {
        let mut rest = String::new();
        client.read_to_string(&mut rest).await.unwrap();
        rest
    }

    #[tokio::test]
    async fn half_a_body_is_not_waited_for_for_ever() {
        let (mut client, _stop, _server) = started().await;
        client.write_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf").await.unwrap();
        let answer = rest(&mut client).await;
        assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("within 200ms"), "{answer}");
    }

    #[tokio::test]
    async fn an_engine_is_waited_for_longer_and_not_for_ever() {
        let (mut client, _stop, _server) = started().await;
        client.write_all(b"POST /add HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
        let answer = rest(&mut client).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 504 "), "{answer}");
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["status"], "failure");
        assert!(body["message"].as_str().unwrap().contains("within 300ms"), "{answer}");
    }

    #[tokio::test]
    async fn an_answer_that_is_a_stream_may_take_longer() {
        let (mut client, _stop, _server) = started().await;
        client.write_all(b"GET /stream HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
        let answer = rest(&mut client).await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("late"), "{answer}");
    }

    /// A path whose answer has no end, and which tells when nobody wants any more of it.
    fn endless() -> (Router, tokio::sync::mpsc::Receiver<()>) {
        let (wanted, given_up) = tokio::sync::mpsc::channel(1);
        let wanted = Arc::new(std::sync::Mutex::new(Some(wanted)));
        let endless = move || {
            let wanted = wanted.lock().unwrap().take();
            async move {
                let block = axum::body::Bytes::from(vec![b'x'; 64 * 1024]);
                let next = move |wanted| {
                    let block = block.clone();
                    async move { Some((Ok::<_, io::Error>(block), wanted)) }
                };
                axum::body::Body::from_stream(futures_util::stream::unfold(wanted, next))
            }
        };
        (Router::new().route("/endless", axum::routing::get(endless)), given_up)
    }

    #[tokio::test]
    async fn who_takes_nothing_of_its_answer_gives_up_its_place() {
        let (router, mut given_up) = endless();
        let (mut client, _stop, _server) = serving(router).await;
        client.write_all(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        // It takes its time, and is served for as long as it takes anything.
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            client.read_exact(&mut vec![0; 4 << 20]).await.unwrap();
        }
        assert!(given_up.try_recv().is_err_and(|end| end == tokio::sync::mpsc::error::TryRecvError::Empty));
        let end = tokio::time::timeout(Duration::from_secs(20), given_up.recv()).await;
        assert_eq!(end, Ok(None), "its answer is still kept for it");
    }

    /// An address of this machine by which it is not on this machine; nothing is sent to find it.
    fn from_outside() -> Option<std::net::IpAddr> {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
        socket.connect("192.0.2.1:9").ok()?;
        socket.local_addr().ok().map(|address| address.ip()).filter(|ip| !ip.is_loopback())
    }

    #[tokio::test]
    async fn however_many_sockets_others_hold_who_is_on_this_machine_is_answered() {
        let Some(outside) = from_outside() else {
            return eprintln!("skipped: this machine has no address but loopback");
        };
        let bound = Bound::bind(&BindAddress::Tcp("0.0.0.0:0".parse().unwrap()), SocketMode::default())
            .await
            .unwrap();
        let BindAddress::Tcp(address) = bound.address else { unreachable!() };
        let _server = tokio::spawn(bound.serve(router(), CancellationToken::new()));
        let mut held = Vec::new();
        for _ in 0..CONNECTIONS + 10 {
            let mut guest = TcpStream::connect((outside, address.port())).await.unwrap();
            let _ = guest.write_all(b"GET / HTTP/1.1\r\n").await;
            held.push(guest);
        }
        let mut local = TcpStream::connect(("127.0.0.1", address.port())).await.unwrap();
        local.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
        let answer = tokio::time::timeout(HEADER_TIME / 2, rest(&mut local)).await.unwrap();
        assert!(answer.ends_with("hello"), "{answer}");
        drop(held);
    }

    #[tokio::test]
    async fn half_a_header_is_not_waited_for_for_ever() {
        let (mut client, _stop, _server) = started().await;
        client.write_all(b"GET / HTTP/1.1\r\nHost:").await.unwrap();
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).await.unwrap(); // ends
    }

    #[tokio::test]
    async fn an_idle_connection_does_not_hold_up_the_end() {
        let (mut client, stop, server) = started().await;
        client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut byte = [0];
        client.read_exact(&mut byte).await.unwrap();
        let began = Instant::now();
        stop.cancel();
        server.await.unwrap();
        assert!(began.elapsed() < FAREWELL);
    }
}
