//! One address of a listener: reserved for the process, opened and closed without losing a connection.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use socket2::Socket;
use tokio::sync::oneshot;
use tracing::{info, warn};

use crate::config::{SocketMode, SocketOptions};
use crate::domain::SocketAddress;
use crate::hand_over::{HandedSocket, InheritedAddress, SocketOwner, SocketPlace, SocketRole};
use crate::proxy::accept::{Closing, Socket as Listening};
use crate::proxy::listener::Listener;
use crate::proxy::sockets;
use crate::proxy::unix_socket::UnixSocket;
use crate::proxy::worker::Worker;
use std::sync::Arc;

/// One address of a listener.
#[derive(Debug)]
pub(super) struct BoundAddress {
    /// As it is configured.
    pub(super) configured: SocketAddress,
    /// As it is bound: with the port that the kernel chose, if port 0 is configured.
    pub(super) address: SocketAddress,
    hold: Hold,
    /// Sockets that listen already, in the process before; they are used when the address is opened.
    inherited: Vec<OwnedFd>,
    open: Option<Open>,
}

/// What reserves the address while it is not open.
#[derive(Debug)]
enum Hold {
    Tcp(Socket),
    /// A path cannot be held without listening on it.
    Unix,
}

#[derive(Debug)]
struct Open {
    /// Second handles of the workers' sockets, to change their options.
    sockets: Vec<Socket>,
    /// Their current options.
    options: SocketOptions,
    /// The Unix socket, and its mode.
    unix: Option<(UnixSocket, SocketMode)>,
    closing: Closing,
    closed: Vec<oneshot::Receiver<()>>,
}

impl BoundAddress {
    /// Binds an address for this process; fails if another process has it. `shared`: this process may already have it.
    /// `anywhere`: the machine may get the address later. `mode` applies to a Unix socket.
    pub(super) fn reserve(
        configured: &SocketAddress,
        shared: bool,
        anywhere: bool,
        mode: SocketMode,
    ) -> io::Result<Self> {
        let (address, hold) = match configured {
            SocketAddress::Tcp(address) => {
                let socket = sockets::reserve(*address, shared, anywhere)?;
                let address = socket.local_addr()?.as_socket().unwrap_or(*address);
                (SocketAddress::Tcp(address), Hold::Tcp(socket))
            }
            SocketAddress::Unix(path) => {
                // Only checks that a socket can be created there.
                UnixSocket::bind(path, mode)?.remove();
                (configured.clone(), Hold::Unix)
            }
        };
        Ok(Self { configured: configured.clone(), address, hold, inherited: Vec::new(), open: None })
    }

    /// Continues an address of the process before.
    pub(super) fn inherit(inherited: InheritedAddress) -> io::Result<Self> {
        let InheritedAddress { place: SocketPlace { configured, address, .. }, reserving, listening } =
            inherited;
        let hold = match (&address, reserving, listening.first()) {
            (SocketAddress::Tcp(_), Some(socket), _) => Hold::Tcp(socket.into()),
            // The service manager keeps the address.
            (SocketAddress::Tcp(_), None, Some(socket)) => Hold::Tcp(socket.try_clone()?.into()),
            (SocketAddress::Tcp(address), None, None) => Hold::Tcp(sockets::reserve(*address, true, false)?),
            (SocketAddress::Unix(_), ..) => Hold::Unix,
        };
        Ok(Self { configured, address, hold, inherited: listening, open: None })
    }

    /// The listener's sockets at this address, for a process that takes over.
    pub(super) fn share(&self, listener: &Arc<str>) -> io::Result<Vec<HandedSocket>> {
        let place = || SocketPlace {
            owner: SocketOwner::Listener(Arc::clone(listener)),
            configured: self.configured.clone(),
            address: self.address.clone(),
        };
        let mut shared = Vec::new();
        if let Hold::Tcp(socket) = &self.hold {
            shared.push(HandedSocket::share(place(), SocketRole::Reserving, socket)?);
        }
        let Some(open) = &self.open else { return Ok(shared) };
        match &open.unix {
            Some((socket, _)) => {
                shared.push(HandedSocket::share(place(), SocketRole::Listening, socket.listener()?)?);
            }
            None => {
                for socket in &open.sockets {
                    shared.push(HandedSocket::share(place(), SocketRole::Listening, socket)?);
                }
            }
        }
        Ok(shared)
    }

    /// Stops accepting, as the process that took over has the sockets.
    pub(super) async fn hand_over(&mut self) {
        let Some(Open { unix, closing, closed, .. }) = self.open.take() else { return };
        if let Some((socket, _)) = unix {
            socket.hand_over();
        }
        closing.handed_over();
        for closed in closed {
            let _ = closed.await;
        }
    }

    /// Accepts clients on every worker, if it does not yet.
    pub(super) fn open(
        &mut self,
        workers: &[Worker],
        listener: &Arc<Listener>,
        options: &SocketOptions,
        mode: SocketMode,
    ) -> io::Result<()> {
        if self.open.is_some() {
            return Ok(());
        }
        let mut sockets = Vec::new();
        let mut of_workers = Vec::new();
        let mut unix = None;
        match (&self.address, &self.hold) {
            (SocketAddress::Tcp(address), Hold::Tcp(_)) => {
                // Connections may wait in each inherited socket: a worker may have several.
                for socket in &self.inherited {
                    sockets.push(sockets::inherit(socket.try_clone()?, options)?);
                }
                let is_shared = sockets.iter().any(|socket| !socket.reuse_port().unwrap_or(false));
                while sockets.len() < workers.len() && !is_shared {
                    sockets.push(sockets::listen(*address, options)?);
                }
                // A socket without SO_REUSEPORT, from the service manager, is the only one: all workers accept on it.
                let count = if is_shared { workers.len().max(sockets.len()) } else { sockets.len() };
                for socket in sockets.iter().cycle().take(count) {
                    of_workers.push(Listening::Tcp(socket.try_clone()?.into()));
                }
            }
            (SocketAddress::Unix(path), _) => {
                let socket = match self.inherited.first() {
                    Some(socket) => UnixSocket::inherit(path, socket.try_clone()?)?,
                    None => UnixSocket::bind(path, mode)?,
                };
                for _ in workers {
                    of_workers.push(Listening::Unix(socket.listener()?));
                }
                unix = Some((socket, mode));
            }
            (SocketAddress::Tcp(_), Hold::Unix) => return Err(io::ErrorKind::InvalidInput.into()),
        }
        // Only now: after an error they are needed for the next attempt.
        self.inherited.clear();
        let closing = Closing::default();
        let workers = workers.iter().cycle().zip(of_workers);
        let closed = workers.map(|(worker, socket)| worker.accept(socket, listener, &closing)).collect();
        self.open = Some(Open { sockets, options: *options, unix, closing, closed });
        info!(listener = %listener.name, address = %self.address, "listening");
        Ok(())
    }

    /// Drops new SYNs, accepts the connections that the kernel has completed, and closes; the address stays reserved.
    pub(super) async fn close(&mut self) {
        if let Some(options) = self.open.as_ref().map(|open| open.options) {
            // Closing resets the connections that the kernel still defers.
            self.change(&SocketOptions { defer_accept: None, ..options });
        }
        let Some(Open { sockets, unix, closing, closed, .. }) = self.open.take() else { return };
        closing.dropping_syns();
        for socket in &sockets {
            if let Err(error) = sockets::drop_new_syns(socket.as_fd()) {
                warn!(address = %self.address, %error, "new SYNs cannot be dropped: a few connections may be reset");
            }
        }
        if let Some((socket, _)) = unix {
            // New clients find no socket from now on; the workers still accept those in its queue.
            socket.remove();
        }
        closing.now();
        for closed in closed {
            let _ = closed.await;
        }
    }

    /// Whether connections may wait in sockets of the process before that are not open here.
    pub(super) fn has_inherited(&self) -> bool {
        !self.inherited.is_empty()
    }

    /// Whether clients are accepted.
    pub(super) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Changes the mode of an open Unix socket.
    pub(super) fn change_mode(&mut self, mode: SocketMode) {
        let Some((socket, current)) = self.open.as_mut().and_then(|open| open.unix.as_mut()) else { return };
        if *current == mode {
            return;
        }
        if let Err(error) = socket.set_mode(mode) {
            warn!(address = %self.address, %mode, %error, "cannot change the mode of a socket");
        }
        // Recorded even after a failure, so that it is logged once and not at every change of the pool.
        *current = mode;
    }

    /// Changes the options of the open sockets, for connections that are accepted from now on.
    pub(super) fn change(&mut self, options: &SocketOptions) {
        let Some(open) = &mut self.open else { return };
        let change = |socket| sockets::change_options(socket, &open.options, options);
        match open.sockets.iter().try_for_each(change) {
            Ok(()) => open.options = *options,
            Err(error) => {
                warn!(address = %self.address, %error, "cannot change the options of a listener");
                // All sockets keep the same options; the listener task tries again with its next change.
                for socket in &open.sockets {
                    let _ = sockets::change_options(socket, options, &open.options);
                }
            }
        }
    }
}
