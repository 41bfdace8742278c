//! Where a connection to the admin server comes from.
//!
//! An address of loopback is not enough to call a peer an operator on this machine: it may be our own connection to a
//! backend, on which a client of a listener speaks. That no backend is the admin server is seen to elsewhere
//! ([`crate::own`]). This holds also where the kernel redirects a connection to a backend to the admin server (REDIRECT
//! and DNAT in iptables-extensions(8)), which only the accepted socket can tell.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use socket2::SockRef;
use tokio::net::TcpStream;

use super::access::Peer;
use super::server::Workers;
use crate::own::destination;

/// Where a connection comes from.
#[derive(Debug)]
pub(super) struct Origin {
    peer: Peer,
    /// Over loopback: where its peer opened it to, which the kernel may have redirected.
    opened_to: Option<SocketAddr>,
    workers: Workers,
    /// It was found to be our own. What a client has sent may be read when our side of it has ended already.
    relayed: AtomicBool,
}

impl Origin {
    /// A connection over TCP.
    pub(super) fn tcp(stream: &TcpStream, peer: SocketAddr, workers: &Workers) -> Self {
        let over_loopback = destination(peer).ip().is_loopback();
        let opened_to = over_loopback.then(|| original_destination(stream)).flatten();
        Self { opened_to, ..Self::new(Peer::Tcp(peer), workers) }
    }

    /// A connection over the Unix socket.
    pub(super) fn unix(workers: &Workers) -> Self {
        Self::new(Peer::Unix, workers)
    }

    fn new(peer: Peer, workers: &Workers) -> Self {
        Self { peer, opened_to: None, workers: Arc::clone(workers), relayed: AtomicBool::new(false) }
    }

    /// The peer, as far as it is known now.
    pub(super) fn peer(&self) -> Peer {
        let (Peer::Tcp(peer), Some(opened_to)) = (self.peer, self.opened_to) else { return self.peer };
        let ours = || self.workers.iter().any(|worker| worker.loopback.contains(peer, opened_to));
        if self.relayed.load(Ordering::Relaxed) || ours() {
            self.relayed.store(true, Ordering::Relaxed);
            return Peer::Relayed(peer);
        }
        self.peer
    }
}

/// Where a connection was opened to before the kernel redirected it, if it did.
fn original_destination(stream: &TcpStream) -> Option<SocketAddr> {
    let (socket, local) = (SockRef::from(stream), stream.local_addr().ok()?);
    let original = match destination(local) {
        SocketAddr::V4(_) => socket.original_dst_v4(),
        SocketAddr::V6(_) => socket.original_dst_v6(),
    };
    // It fails where nothing is redirected.
    Some(original.ok().and_then(|original| original.as_socket()).unwrap_or(local))
}

/// Tells each request who sent it. Looked up for each: our side of the connection may have been entered after it was
/// accepted here.
pub(super) async fn identify(
    State(origin): State<Arc<Origin>>,
    mut request: Request,
    next: Next,
) -> Response {
    request.extensions_mut().insert(origin.peer());
    next.run(request).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::worker::Shared;
    use tokio::net::TcpListener;

    /// A connection as the server that accepted it sees it, and its two ends.
    async fn connection(workers: &Workers) -> (Origin, [SocketAddr; 2], [TcpStream; 2]) {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap();
        let client = TcpStream::connect(address).await.unwrap();
        let (accepted, peer) = server.accept().await.unwrap();
        let origin = Origin::tcp(&accepted, peer, workers);
        (origin, [client.local_addr().unwrap(), address], [client, accepted])
    }

    #[tokio::test]
    async fn our_own_connection_to_a_backend_is_not_a_local_peer() {
        let workers: Workers = [Arc::<Shared>::default(), Arc::default()].into();
        let (origin, [local, remote], _open) = connection(&workers).await;
        assert!(origin.peer().is_local(), "no worker has opened it");
        // To another destination it is another connection: the kernel may use a port for several.
        let other = workers[0].loopback.enter(local, "127.0.0.1:1".parse().unwrap());
        assert!(origin.peer().is_local());
        drop(other);
        // It may be entered after it was accepted, and end before its request is read.
        let entered = workers[1].loopback.enter(local, remote);
        assert_eq!(origin.peer(), Peer::Relayed(local));
        assert!(!origin.peer().is_local());
        drop(entered);
        assert!(!origin.peer().is_local());
        let (next, ..) = connection(&workers).await;
        assert!(next.peer().is_local(), "nothing is left of one that has ended");
    }

    #[tokio::test]
    async fn a_peer_on_a_unix_socket_is_local() {
        assert!(Origin::unix(&Workers::default()).peer().is_local());
    }
}
