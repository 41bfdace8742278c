//! The loop in which one worker accepts the connections of one listening socket.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::connection;
use super::context::WorkerContext;
use super::listener::Listener;
use super::sockets;
use super::stream::Stream;
use crate::domain::Client;

/// How long a closing socket waits for the handshakes in progress when new SYNs began to be dropped: a round trip
/// across the world, after which the kernel has either completed them or lost a packet.
const LAST_HANDSHAKES: Duration = Duration::from_millis(300);
/// Pause after an accept that failed for lack of files or memory, so that the loop does not spin until connections have
/// ended.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The signals to close the sockets of an address.
#[derive(Clone, Debug, Default)]
pub struct Closing {
    syns_dropped: Arc<AtomicBool>,
    handed_over: Arc<AtomicBool>,
    now: CancellationToken,
}

impl Closing {
    /// Must be called before [`sockets::drop_new_syns`]: a connection that is accepted afterwards receives no data until
    /// [`sockets::restore_min_ttl`].
    pub fn dropping_syns(&self) {
        self.syns_dropped.store(true, Ordering::SeqCst);
    }

    /// Makes the sockets accept the connections that the kernel has completed, and then close.
    pub fn now(&self) {
        self.now.cancel();
    }

    /// Makes this process stop accepting: another process has the same sockets, and accepts what waits in them.
    pub fn handed_over(&self) {
        self.handed_over.store(true, Ordering::SeqCst);
        self.now.cancel();
    }
}

/// A worker's own socket of a listener.
#[derive(Debug)]
pub enum Socket {
    /// On a TCP address.
    Tcp(std::net::TcpListener),
    /// On a Unix path.
    Unix(std::os::unix::net::UnixListener),
}

enum Acceptor {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Acceptor {
    async fn accept(&self) -> io::Result<(Stream, Client)> {
        let (stream, client) = match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                (Stream::Tcp(stream), Client::Tcp(canonical(peer)))
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                (Stream::Unix(stream), Client::Unix)
            }
        };
        stream.clear_readable();
        Ok((stream, client))
    }
}

/// The IPv4 address of an IPv4 client on a socket of both families.
fn canonical(peer: SocketAddr) -> SocketAddr {
    SocketAddr::new(peer.ip().to_canonical(), peer.port())
}

/// Accepts until `closing`, and then the connections that the kernel has completed: closing the socket would reset them.
/// New SYNs must be dropped by then (see [`sockets::drop_new_syns`]).
pub(super) async fn accept(
    context: Rc<WorkerContext>,
    socket: Socket,
    listener: Arc<Listener>,
    closing: Closing,
) -> io::Result<()> {
    let acceptor = match socket {
        Socket::Tcp(socket) => Acceptor::Tcp(TcpListener::from_std(socket)?),
        Socket::Unix(socket) => Acceptor::Unix(UnixListener::from_std(socket)?),
    };
    loop {
        let accepted = tokio::select! {
            accepted = acceptor.accept() => accepted,
            () = closing.now.cancelled() => break,
        };
        start(&context, &listener, &closing, accepted).await;
    }
    if closing.handed_over.load(Ordering::SeqCst) {
        return Ok(());
    }
    let until = Instant::now() + LAST_HANDSHAKES;
    // Even after that time each round accepts a waiting connection: only an empty queue ends the loop.
    while let Ok(accepted) = tokio::time::timeout_at(until, acceptor.accept()).await {
        start(&context, &listener, &closing, accepted).await;
    }
    Ok(())
}

async fn start(
    context: &Rc<WorkerContext>,
    listener: &Arc<Listener>,
    closing: &Closing,
    accepted: io::Result<(Stream, Client)>,
) {
    match accepted {
        Ok((stream, client)) => {
            listener.count_accepted();
            if closing.syns_dropped.load(Ordering::SeqCst)
                && let Stream::Tcp(stream) = &stream
                && let Err(error) = sockets::restore_min_ttl(stream)
            {
                warn!(listener = %listener.name, %error, "a connection accepted while closing may not receive data from its client");
            }
            // At the process's limit new connections wait here and in the kernel's queue until one ends.
            let permit = context.limit.admit(listener).await;
            let life = connection::serve(Rc::clone(context), Arc::clone(listener), stream, client, permit);
            tokio::task::spawn_local(life);
        }
        // The client closed the connection before it was accepted (accept(2)).
        Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
        Err(error) => {
            context.shared.shortages.accepts.add(format!("listener {:?}: {error}", listener.name));
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
    }
}
