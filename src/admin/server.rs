//! An HTTP server for a [`Router`], with the time limits and caps that keep it from ever becoming a burden: slow
//! clients, idle ones and many of them cost it a little, and the data plane nothing.

use std::io;
use std::sync::Arc;
use std::time::Duration;

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

use super::change::Peer;
use crate::config::BindAddress;
use crate::proxy::sockets;

/// Connections at once; more wait.
const CONNECTIONS: usize = 256;
/// Header lines of a request.
const HEADERS: usize = 64;
/// Time for a request's header to arrive; also how long a connection may idle.
const HEADER_TIME: Duration = Duration::from_secs(10);
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
}

#[derive(Debug)]
enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Bound {
    /// Takes an address.
    pub async fn bind(address: &BindAddress) -> io::Result<Self> {
        let (listener, address) = match address {
            BindAddress::Tcp(wanted) => {
                let listener = TcpListener::bind(wanted).await?;
                let address = BindAddress::Tcp(listener.local_addr()?);
                (Listener::Tcp(listener), address)
            }
            BindAddress::Unix(path) => {
                let listener = UnixListener::from_std(sockets::listen_unix(path)?)?;
                (Listener::Unix(listener), address.clone())
            }
        };
        Ok(Self { listener, address, header_time: HEADER_TIME })
    }

    /// Serves until `stop` is cancelled, and then lets running requests end.
    pub async fn serve(self, router: Router, stop: CancellationToken) {
        info!(address = %self.address, "admin listening");
        let graceful = GracefulShutdown::new();
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        let mut protocol = http1::Builder::new();
        protocol.timer(TokioTimer::new()).header_read_timeout(self.header_time).max_headers(HEADERS);
        let serve = |io: TokioIo<_>, peer: Peer, place: OwnedSemaphorePermit| {
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
                Ok((stream, peer, place)) => serve(TokioIo::new(stream), peer, place),
                Err(error) => {
                    warn!(address = %self.address, %error, "admin accept failed; trying again");
                    tokio::time::sleep(BREATHER).await;
                }
            }
        }
        if let BindAddress::Unix(path) = &self.address {
            let _ = std::fs::remove_file(path);
        }
        let _ = tokio::time::timeout(FAREWELL, graceful.shutdown()).await;
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

async fn accept(
    listener: &Listener,
    places: &Arc<Semaphore>,
) -> io::Result<(Box<dyn Stream>, Peer, OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, peer): (Box<dyn Stream>, Peer) = match listener {
        Listener::Tcp(listener) => {
            let (stream, address) = listener.accept().await?;
            (Box::new(stream), Peer::Tcp(address))
        }
        Listener::Unix(listener) => (Box::new(listener.accept().await?.0), Peer::Unix),
    };
    Ok((stream, peer, place))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    async fn started() -> (TcpStream, CancellationToken, tokio::task::JoinHandle<()>) {
        let mut bound = Bound::bind(&BindAddress::Tcp("127.0.0.1:0".parse().unwrap())).await.unwrap();
        bound.header_time = Duration::from_millis(200);
        let BindAddress::Tcp(address) = bound.address else { unreachable!() };
        let stop = CancellationToken::new();
        let router = Router::new().route("/", axum::routing::get(|| async { "hello" }));
        let server = tokio::spawn(bound.serve(router, stop.clone()));
        (TcpStream::connect(address).await.unwrap(), stop, server)
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
