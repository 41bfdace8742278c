//! An HTTP server for a [`Router`], with the time limits and caps that keep it from ever becoming a burden: slow
//! clients, idle ones and many of them cost it a little, and the data plane nothing. Clients on this machine are answered
//! however many connections remote clients hold, and health checks from anywhere however many connections are idle.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
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
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::access::{Peer, PerOrigin};
use super::admission;
use super::events::Stop;
use super::framing::{Framings, Watched};
use super::message;
use super::origin::Ends;
use super::patience::Patience;
use super::places::{Place, Places};
use super::{ApiError, replicas};
use crate::config::{Admin, BindAddress, SocketMode};
use crate::proxy::unix_socket::UnixSocket;

/// Places reserved for short answers while clients read long ones slowly.
const RESERVED: usize = 32;
/// Header lines of a request.
const HEADERS: usize = 64;
/// Longest header of a request, in bytes; so much of its body is held at a time, too.
pub(super) const HEADER: usize = 16 * 1024;
/// Time for a request's header to arrive; also how long a connection may idle.
const HEADER_TIME: Duration = Duration::from_secs(10);
/// Time from a request's header to the beginning of its answer, with the request's body in it. What follows may take
/// longer: an answer can be a stream of events.
const REQUEST_TIME: Duration = Duration::from_secs(10);
/// The same for what starts containers, which takes as long as their engine does.
const SLOW_TIME: Duration = Duration::from_secs(180);
/// How long a client may take nothing of an answer that waits for it.
const WRITE_TIME: Duration = Duration::from_secs(30);
/// Unsent bytes per connection that the kernel queues (TCP_NOTSENT_LOWAT). By default it queues megabytes, which are
/// outdated when a slow client reads them.
const UNSENT: u32 = 128 * 1024;
/// Time for running requests to end when the server stops.
const FAREWELL: Duration = Duration::from_secs(2);
/// Pause after accepting failed for want of files.
const BREATHER: Duration = Duration::from_millis(200);

/// A server that has its address and is not serving yet.
#[derive(Debug)]
pub(crate) struct Bound {
    listener: AdminListener,
    /// Its address, with the port that the kernel chose if it was left to it.
    pub address: BindAddress,
    header_time: Duration,
    request_time: Duration,
    slow_time: Duration,
    write_time: Duration,
}

#[derive(Debug)]
enum AdminListener {
    Tcp(TcpListener),
    Unix(UnixListener, UnixSocket),
}

impl Bound {
    /// Binds an address. `mode` applies to a Unix socket.
    pub(crate) async fn bind(address: &BindAddress, mode: SocketMode) -> io::Result<Self> {
        let (listener, address) = match address {
            BindAddress::Tcp(wanted) => {
                let listener = TcpListener::bind(wanted).await?;
                let address = BindAddress::Tcp(listener.local_addr()?);
                (AdminListener::Tcp(listener), address)
            }
            BindAddress::Unix(path) => {
                let socket = UnixSocket::bind(path, mode)?;
                let listener = UnixListener::from_std(socket.listener()?)?;
                (AdminListener::Unix(listener, socket), address.clone())
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
    pub(crate) async fn serve(self, router: Router, stop: CancellationToken) {
        info!(address = %self.address, "admin listening");
        let graceful = GracefulShutdown::new();
        let places = || Places::new(Admin::CONNECTIONS, RESERVED);
        let places = PerOrigin { local: places(), remote: places() };
        let limits = [self.request_time, self.slow_time];
        let router = router
            .layer(middleware::from_fn(move |request, next| in_time(limits, request, next)))
            .layer(middleware::from_fn(message::well_formed))
            .layer(middleware::from_fn(admission::admit))
            .layer(Extension(Stop(stop.clone())));
        let mut protocol = http1::Builder::new();
        protocol
            .timer(TokioTimer::new())
            .header_read_timeout(self.header_time)
            .max_headers(HEADERS)
            .max_buf_size(HEADER);
        let serve = |stream: Either<TcpStream, UnixStream>, peer: Peer, ends: Option<Ends>, place: Place| {
            let framings = Framings::default();
            let stream = Watched::new(stream, framings.clone());
            let io = TokioIo::new(Patience::new(stream, self.write_time, place.blocked()));
            let router = router
                .clone()
                .layer(Extension(framings))
                .layer(Extension(place.turns()))
                .layer(Extension(peer));
            let router = match ends {
                Some(ends) => router.layer(Extension(ends)),
                None => router,
            };
            let connection = graceful.watch(protocol.serve_connection(io, TowerToHyperService::new(router)));
            tokio::spawn(async move {
                live(connection, &place).await;
            });
        };
        loop {
            let accepted = tokio::select! {
                accepted = accept(&self.listener) => accepted,
                () = stop.cancelled() => break,
            };
            match accepted {
                Ok((stream, peer, ends)) => tokio::select! {
                    place = place(&places, peer) => {
                        if let Some(place) = place {
                            serve(stream, peer, ends, place);
                        }
                    }
                    () = stop.cancelled() => break,
                },
                Err(error) => {
                    warn!(address = %self.address, %error, "admin accept failed; trying again");
                    tokio::time::sleep(BREATHER).await;
                }
            }
        }
        if let AdminListener::Unix(_, socket) = &self.listener {
            socket.remove();
        }
        let _ = tokio::time::timeout(FAREWELL, graceful.shutdown()).await;
    }
}

/// Serves a connection until it ends, or has to give way.
async fn live(connection: impl Future, place: &Place) {
    let mut connection = pin!(connection);
    loop {
        tokio::select! {
            biased;
            _ = &mut connection => return, // a client that disconnects is not a server error
            () = place.given_away() => {}
        }
        // A request may have arrived but not been read: this lets the runtime poll the connection.
        tokio::task::yield_now().await;
        let ended = poll_fn(|cx| Poll::Ready(connection.as_mut().poll(cx).is_ready())).await;
        if ended || place.gives_way() {
            return;
        }
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
            ApiError::new(StatusCode::GATEWAY_TIMEOUT, "too_slow", message, "see /rep")
        } else {
            let message = format!("it could not be answered within {time}: the request was not there whole, or what it asks for takes longer");
            ApiError::new(StatusCode::REQUEST_TIMEOUT, "too_slow", message, "send it at once, or look whether it was done")
        };
        failure.at(&path)
    })
}

async fn accept(listener: &AdminListener) -> io::Result<(Either<TcpStream, UnixStream>, Peer, Option<Ends>)> {
    Ok(match listener {
        AdminListener::Tcp(listener) => {
            let (stream, address) = listener.accept().await?;
            // It only saves memory: on a kernel without this option the server works as well.
            let _ = SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT);
            let ends = Ends { peer: address, local: stream.local_addr()? };
            (Either::Left(stream), Peer::Tcp(address), Some(ends))
        }
        AdminListener::Unix(listener, _) => (Either::Right(listener.accept().await?.0), Peer::Unix, None),
    })
}

/// A place for a connection of that origin, if there is one.
async fn place(places: &PerOrigin<Arc<Places>>, peer: Peer) -> Option<Place> {
    let places = places.of(Some(peer));
    if peer.is_local() { Some(places.wait().await) } else { places.take() }
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
