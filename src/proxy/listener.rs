//! A listener as the workers share it, and the loop in which one worker accepts its connections.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::net::{TcpListener, UnixListener};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::connection;
use super::sockets;
use super::stream::Stream;
use super::worker::WorkerContext;
use crate::config::{NoBackend, SocketMode, SocketOptions};
use crate::domain::Client;
use crate::pool::Pool;

/// How long a closing socket waits for handshakes that were under way when newcomers began to be ignored: a
/// round trip across the world, after which the kernel has either completed them or lost a packet.
const LAST_HANDSHAKES: Duration = Duration::from_millis(300);
/// Pause after accepting failed for want of files or memory: time for connections to end, and no busy loop.
const BREATHER: Duration = Duration::from_millis(50);

/// A listener as all workers share it.
#[derive(Debug)]
pub struct Listener {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// What happens to its connections; replaced by a reload.
    pub settings: ArcSwap<Settings>,
    admitted: Arc<AtomicUsize>,
}

/// What happens to a listener's connections.
#[derive(Debug)]
pub struct Settings {
    /// Where they go.
    pub pool: Arc<Pool>,
    /// What a client gets when no backend is up.
    pub no_backend: NoBackend,
    /// Connections at once.
    pub max_connections: Option<usize>,
    /// Options of its TCP sockets.
    pub options: SocketOptions,
    /// Which users may connect to its Unix sockets.
    pub socket_mode: SocketMode,
}

impl Listener {
    /// A listener without connections.
    pub fn new(name: Arc<str>, settings: Settings) -> Self {
        Self { name, settings: ArcSwap::from_pointee(settings), admitted: Arc::default() }
    }

    /// Connections that were admitted and have not ended.
    pub fn active(&self) -> usize {
        self.admitted.load(Ordering::Relaxed)
    }

    /// Admits a connection, unless `limit` are open already.
    pub fn admit(&self, limit: Option<usize>) -> Option<Admitted> {
        let before = self.admitted.fetch_add(1, Ordering::Relaxed);
        let admitted = Admitted(Arc::clone(&self.admitted));
        limit.is_none_or(|limit| before < limit).then_some(admitted)
    }
}

/// A connection's place in its listener's count; given back when dropped.
#[derive(Debug)]
pub struct Admitted(Arc<AtomicUsize>);

impl Drop for Admitted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How the sockets of an address are told to close.
#[derive(Clone, Debug, Default)]
pub struct Closing {
    ignoring: Arc<AtomicBool>,
    now: CancellationToken,
}

impl Closing {
    /// Must be called before newcomers are ignored (see [`sockets::drop_new_syns`]): who is let in from then on
    /// is deaf until told otherwise.
    pub fn ignoring_newcomers(&self) {
        self.ignoring.store(true, Ordering::SeqCst);
    }

    /// Take in whom the kernel has let in, then close.
    pub fn now(&self) {
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
        // At once, see there.
        stream.forget_readable();
        Ok((stream, client))
    }
}

/// An IPv4 client of a socket that listens on both families is an IPv4 client.
fn canonical(peer: SocketAddr) -> SocketAddr {
    SocketAddr::new(peer.ip().to_canonical(), peer.port())
}

/// Accepts until `closing`, and then what the kernel has accepted already: nobody who was let in is turned away.
/// Newcomers must be ignored by then (see [`sockets::drop_new_syns`]).
pub async fn accept(
    local: Rc<WorkerContext>,
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
        begin(&local, &listener, &closing, accepted).await;
    }
    let until = Instant::now() + LAST_HANDSHAKES;
    // Even with the time up, each round takes what is there: only an empty queue ends it.
    while let Ok(accepted) = tokio::time::timeout_at(until, acceptor.accept()).await {
        begin(&local, &listener, &closing, accepted).await;
    }
    Ok(())
}

async fn begin(
    local: &Rc<WorkerContext>,
    listener: &Arc<Listener>,
    closing: &Closing,
    accepted: io::Result<(Stream, Client)>,
) {
    match accepted {
        Ok((stream, client)) => {
            if closing.ignoring.load(Ordering::SeqCst)
                && let Stream::Tcp(stream) = &stream
                && let Err(error) = sockets::restore_min_ttl(stream)
            {
                warn!(listener = %listener.name, %error, "one of the last connections may stay deaf to its client");
            }
            // At the process's limit newcomers wait here and in the kernel's queue until a connection ends.
            let permit = local.limit.admit(listener).await;
            let life = connection::serve(Rc::clone(local), Arc::clone(listener), stream, client, permit);
            tokio::task::spawn_local(life);
        }
        // The client gave up before it was accepted (accept(2)): nothing is wrong here.
        Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
        Err(error) => {
            local.shared.shortages.accepts.add(format!("listener {:?}: {error}", listener.name));
            tokio::time::sleep(BREATHER).await;
        }
    }
}
