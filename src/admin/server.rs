//! An HTTP server for a [`Router`], with time limits and connection limits: slow, idle or many clients cost it little,
//! and the data plane nothing. Clients on this machine are answered however many connections remote clients hold, and
//! health checks from anywhere however many connections are idle.

use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use hyper_util::service::TowerToHyperService;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use super::access::{Peer, PerOrigin};
use super::admission;
use super::connection_slots::{ConnectionSlot, ConnectionSlots};
use super::events::Stop;
use super::framing::{Framings, Watched};
use super::message;
use super::origin::Ends;
use super::write_timeout::WriteTimeout;
use super::{ApiError, replicas};
use crate::config::{Admin, SocketMode};
use crate::domain::SocketAddress;
use crate::hand_over::{HandedSocket, InheritedAddress, SocketOwner, SocketPlace, SocketRole};
use crate::proxy::unix_socket::UnixSocket;
use crate::task::spawn;

/// Connection slots reserved for short answers while clients read long ones slowly.
const RESERVED: usize = 32;
/// Header lines of a request.
const HEADERS: usize = 64;
/// Longest header of a request, in bytes; so much of its body is held at a time, too.
pub(super) const HEADER: usize = 16 * 1024;
/// Time for a request's header to arrive; also how long a connection may idle.
const HEADER_TIME: Duration = Duration::from_secs(10);
/// Time from a request's header to the beginning of its answer, including the arrival of its body. The rest of the
/// answer may take longer: it can be a stream of events.
const REQUEST_TIME: Duration = Duration::from_secs(10);
/// The same for requests that start or remove containers, which wait for the container engine.
const SLOW_TIME: Duration = Duration::from_secs(180);
/// How long a write may wait for a client that does not read its answer.
const WRITE_TIME: Duration = Duration::from_secs(30);
/// Unsent bytes per connection that the kernel queues (TCP_NOTSENT_LOWAT). By default it queues megabytes, which are
/// outdated when a slow client reads them.
const UNSENT: u32 = 128 * 1024;
/// Time for running requests to end when the server stops.
const SHUTDOWN_TIME: Duration = Duration::from_secs(2);
/// Time after the stop in which the first request of a connection is answered: it may have been sent just before, to
/// whichever process had the address.
const FIRST_REQUEST_TIME: Duration = Duration::from_millis(500);
/// Pause after a failed accept, such as for want of file descriptors.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(200);

/// A server that is bound to its address but not serving yet.
#[derive(Debug)]
pub(crate) struct Bound {
    listener: AdminListener,
    configured: SocketAddress,
    /// Its address; instead of port 0, the port that the kernel chose.
    pub address: SocketAddress,
    header_time: Duration,
    request_time: Duration,
    slow_time: Duration,
    write_time: Duration,
    first_request_time: Duration,
}

#[derive(Debug)]
enum AdminListener {
    Tcp(TcpListener),
    Unix(UnixListener, Arc<UnixSocket>),
}

/// The listening socket of the admin server, for a process that takes over.
#[derive(Debug)]
pub(crate) struct AdminSocket {
    socket: OwnedFd,
    place: SocketPlace,
    unix: Option<Arc<UnixSocket>>,
}

impl AdminSocket {
    /// The socket, to hand over.
    pub(crate) fn share(&self) -> io::Result<HandedSocket> {
        HandedSocket::share(self.place.clone(), SocketRole::Listening, &self.socket)
    }

    /// Leaves the file of a Unix socket to the process that has taken over.
    pub(crate) fn handed_over(&self) {
        if let Some(unix) = &self.unix {
            unix.hand_over();
        }
    }
}

impl Bound {
    /// Binds an address, or continues that of the process before. `mode` applies to a Unix socket.
    pub(crate) async fn bind(
        configured: &SocketAddress,
        mode: SocketMode,
        inherited: Option<InheritedAddress>,
    ) -> io::Result<Self> {
        let inherited = inherited.and_then(|mut inherited| inherited.listening.pop());
        let (listener, address) = match configured {
            SocketAddress::Tcp(wanted) => {
                let listener = match inherited {
                    Some(socket) => TcpListener::from_std(socket.into())?,
                    None => TcpListener::bind(wanted).await?,
                };
                let address = SocketAddress::Tcp(listener.local_addr()?);
                (AdminListener::Tcp(listener), address)
            }
            SocketAddress::Unix(path) => {
                let socket = match inherited {
                    Some(socket) => UnixSocket::inherit(path, socket)?,
                    None => UnixSocket::bind(path, mode)?,
                };
                let listener = UnixListener::from_std(socket.listener()?)?;
                (AdminListener::Unix(listener, Arc::new(socket)), configured.clone())
            }
        };
        Ok(Self {
            listener,
            configured: configured.clone(),
            address,
            header_time: HEADER_TIME,
            request_time: REQUEST_TIME,
            slow_time: SLOW_TIME,
            write_time: WRITE_TIME,
            first_request_time: FIRST_REQUEST_TIME,
        })
    }

    /// Its listening socket, for a process that takes over.
    pub(crate) fn socket(&self) -> io::Result<AdminSocket> {
        let (socket, unix) = match &self.listener {
            AdminListener::Tcp(listener) => (listener.as_fd(), None),
            AdminListener::Unix(listener, socket) => (listener.as_fd(), Some(Arc::clone(socket))),
        };
        let (configured, address) = (self.configured.clone(), self.address.clone());
        let place = SocketPlace { owner: SocketOwner::Admin, configured, address };
        Ok(AdminSocket { socket: socket.try_clone_to_owned()?, place, unix })
    }

    /// Serves until `stop` is cancelled, and then waits up to `SHUTDOWN_TIME` for running requests.
    pub(crate) async fn serve(self, router: Router, stop: CancellationToken) {
        info!(address = %self.address, "admin listening");
        let connections = TaskTracker::new();
        let slots = || ConnectionSlots::new(Admin::CONNECTIONS, RESERVED);
        let slots = PerOrigin { local: slots(), remote: slots() };
        let limits = [self.request_time, self.slow_time];
        let router = router
            .layer(middleware::from_fn(move |request, next| in_time(limits, request, next)))
            .layer(middleware::from_fn(message::well_formed))
            .layer(middleware::from_fn(admission::admit))
            .layer(Extension(Stop(stop.clone())));
        let protocol = protocol(self.header_time);
        let serve =
            |stream: Either<TcpStream, UnixStream>, peer: Peer, ends: Option<Ends>, slot: ConnectionSlot| {
                let framings = Framings::default();
                let stream = Watched::new(stream, framings.clone());
                let io = TokioIo::new(WriteTimeout::new(stream, self.write_time, slot.blocked()));
                let router = router
                    .clone()
                    .layer(Extension(framings))
                    .layer(Extension(slot.handle()))
                    .layer(Extension(peer));
                let router = match ends {
                    Some(ends) => router.layer(Extension(ends)),
                    None => router,
                };
                let requested = CancellationToken::new();
                let may_end = may_end(stop.clone(), requested.clone(), self.first_request_time);
                let stop = stop.clone();
                let router = router.layer(middleware::from_fn(move |request, next| {
                    requested.cancel();
                    last_if_stopped(stop.clone(), request, next)
                }));
                let connection = protocol.serve_connection(io, TowerToHyperService::new(router));
                spawn(connections.track_future(async move {
                    run_connection(connection, &slot, may_end).await;
                }));
            };
        loop {
            let accepted = tokio::select! {
                accepted = accept(&self.listener) => accepted,
                () = stop.cancelled() => break,
            };
            match accepted {
                Ok((stream, peer, ends)) => tokio::select! {
                    biased; // an accepted connection is served if a slot is free
                    slot = acquire_slot(&slots, peer) => {
                        if let Some(slot) = slot {
                            serve(stream, peer, ends, slot);
                        }
                    }
                    () = stop.cancelled() => break,
                },
                Err(error) => {
                    warn!(address = %self.address, %error, "admin accept failed; trying again");
                    tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
                }
            }
        }
        if let AdminListener::Unix(_, socket) = &self.listener {
            socket.remove();
        }
        connections.close();
        let _ = tokio::time::timeout(SHUTDOWN_TIME, connections.wait()).await;
    }
}

/// HTTP/1 with this server's limits; a request's header must arrive within `header_time`.
pub(super) fn protocol(header_time: Duration) -> http1::Builder {
    let mut protocol = http1::Builder::new();
    protocol
        .timer(TokioTimer::new())
        .header_read_timeout(header_time)
        .max_headers(HEADERS)
        .max_buf_size(HEADER);
    protocol
}

/// Waits until a connection may end: the server has stopped, and the connection's first request has arrived or is late.
async fn may_end(stop: CancellationToken, requested: CancellationToken, limit: Duration) {
    stop.cancelled().await;
    let _ = tokio::time::timeout(limit, requested.cancelled()).await;
}

/// Serves a connection until it ends, its slot is given to a new connection, or it may end and no request of it is running.
async fn run_connection(
    connection: impl GracefulConnection,
    slot: &ConnectionSlot,
    may_end: impl Future<Output = ()>,
) {
    let (mut connection, mut may_end) = (pin!(connection), pin!(may_end));
    let mut ending = false;
    loop {
        tokio::select! {
            biased;
            _ = &mut connection => return, // a client that disconnects is not a server error
            () = slot.evicted() => {}
            () = &mut may_end, if !ending => {
                ending = true;
                connection.as_mut().graceful_shutdown();
                continue;
            }
        }
        // A request may have arrived but not been read: this lets the runtime poll the connection.
        tokio::task::yield_now().await;
        let ended = poll_fn(|cx| Poll::Ready(connection.as_mut().poll(cx).is_ready())).await;
        if ended || slot.is_evicted() {
            return;
        }
    }
}

/// Answers a request, as the last one of its connection if the server has stopped.
async fn last_if_stopped(stop: CancellationToken, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    if stop.is_cancelled() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Answers a request, with an error if the answer does not begin in time.
async fn in_time([limit, slow_limit]: [Duration; 2], request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let slow = replicas::is_slow(&path);
    let limit = if slow { slow_limit } else { limit };
    tokio::time::timeout(limit, next.run(request)).await.unwrap_or_else(|_| {
        let time = humantime::format_duration(limit);
        let failure = if slow {
            // The handler limits the time for the request's body itself.
            let message = format!("the container engine did not finish within {time}, and may still do so");
            ApiError::new(StatusCode::GATEWAY_TIMEOUT, "too_slow", message, "see /rep")
        } else {
            let message = format!(
                "it could not be answered within {time}: the request was incomplete, or takes longer"
            );
            ApiError::new(
                StatusCode::REQUEST_TIMEOUT,
                "too_slow",
                message,
                "send the whole request at once, or check whether it took effect",
            )
        };
        failure.at(&path)
    })
}

async fn accept(listener: &AdminListener) -> io::Result<(Either<TcpStream, UnixStream>, Peer, Option<Ends>)> {
    Ok(match listener {
        AdminListener::Tcp(listener) => {
            let (stream, address) = listener.accept().await?;
            // Only saves memory: the server works on a kernel without this option, too.
            let _ = SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT);
            let ends = Ends { peer: address, local: stream.local_addr()? };
            (Either::Left(stream), Peer::Tcp(address), Some(ends))
        }
        AdminListener::Unix(listener, _) => (Either::Right(listener.accept().await?.0), Peer::Unix, None),
    })
}

/// A slot for a connection from that peer. A peer on this machine waits for one; a remote peer gets `None` if none is
/// free.
async fn acquire_slot(slots: &PerOrigin<Arc<ConnectionSlots>>, peer: Peer) -> Option<ConnectionSlot> {
    let slots = slots.of(Some(peer));
    if peer.is_local() { Some(slots.wait().await) } else { slots.take() }
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
