//! The sockets that one process hands over to the next.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::domain::SocketAddress;

/// What a socket belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum SocketOwner {
    /// The admin server.
    Admin,
    /// The listener of that name.
    Listener(Arc<str>),
    /// Whatever is configured at its address: it comes from the service manager.
    AtItsAddress,
}

/// Where a socket belongs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SocketPlace {
    /// What it belongs to.
    pub owner: SocketOwner,
    /// The address as it is configured.
    pub configured: SocketAddress,
    /// The address as it is bound.
    pub address: SocketAddress,
}

/// What a socket does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum SocketRole {
    /// It keeps the address for the process.
    Reserving,
    /// It accepts connections.
    Listening,
}

/// A socket that is handed over.
#[derive(Debug)]
pub(crate) struct HandedSocket {
    /// Where it belongs.
    pub place: SocketPlace,
    /// What it does.
    pub role: SocketRole,
    /// The socket.
    pub socket: OwnedFd,
}

impl HandedSocket {
    /// Another handle of `socket`, to hand over.
    pub(crate) fn share(place: SocketPlace, role: SocketRole, socket: impl AsFd) -> io::Result<Self> {
        Ok(Self { place, role, socket: socket.as_fd().try_clone_to_owned()? })
    }
}

impl AsFd for HandedSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The sockets of one address.
#[derive(Debug)]
pub(crate) struct InheritedAddress {
    /// Where they belong.
    pub place: SocketPlace,
    /// The socket that reserves the address, if there is one.
    pub reserving: Option<OwnedFd>,
    /// The sockets that accept connections: completed connections may wait in each.
    pub listening: Vec<OwnedFd>,
}

/// The sockets that a process received, by address.
#[derive(Debug, Default)]
pub(crate) struct InheritedSockets(Vec<InheritedAddress>);

impl InheritedSockets {
    /// Takes the sockets of an address: those of `owner` at `configured`, or else those of the service manager or of
    /// another listener at that address, which was renamed.
    pub(crate) fn take(
        &mut self,
        owner: &SocketOwner,
        configured: &SocketAddress,
    ) -> Option<InheritedAddress> {
        use SocketOwner::{AtItsAddress, Listener};
        let at = |one: &InheritedAddress| one.place.configured == *configured;
        let same = |one: &InheritedAddress| at(one) && one.place.owner == *owner;
        // A port that the kernel chose for another listener is another address.
        let renamed = |one: &InheritedAddress| {
            at(one)
                && configured.tcp().is_none_or(|address| address.port() != 0)
                && matches!((&one.place.owner, owner), (AtItsAddress, _) | (Listener(_), Listener(_)))
        };
        let index = self.0.iter().position(same).or_else(|| self.0.iter().position(renamed))?;
        Some(self.0.remove(index))
    }

    /// Where the sockets belong that are not taken.
    pub(crate) fn places(&self) -> impl Iterator<Item = &SocketPlace> {
        self.0.iter().map(|one| &one.place)
    }
}

impl FromIterator<HandedSocket> for InheritedSockets {
    fn from_iter<T: IntoIterator<Item = HandedSocket>>(sockets: T) -> Self {
        let mut all: Vec<InheritedAddress> = Vec::new();
        for HandedSocket { place, role, socket } in sockets {
            let index = all.iter().position(|one| one.place == place).unwrap_or_else(|| {
                all.push(InheritedAddress { place, reserving: None, listening: Vec::new() });
                all.len() - 1
            });
            match role {
                SocketRole::Reserving => all[index].reserving = Some(socket),
                SocketRole::Listening => all[index].listening.push(socket),
            }
        }
        Self(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener(name: &str) -> SocketOwner {
        SocketOwner::Listener(name.into())
    }

    fn socket(owner: SocketOwner, configured: &str, address: &str, role: SocketRole) -> HandedSocket {
        let place =
            SocketPlace { owner, configured: configured.parse().unwrap(), address: address.parse().unwrap() };
        HandedSocket::share(place, role, std::io::stdin()).unwrap()
    }

    #[test]
    fn an_address_is_taken_with_all_of_its_sockets() {
        use SocketOwner::{Admin, AtItsAddress};
        use SocketRole::{Listening, Reserving};
        let mut sockets: InheritedSockets = [
            socket(listener("web"), "127.0.0.1:0", "127.0.0.1:4001", Reserving),
            socket(listener("web"), "127.0.0.1:0", "127.0.0.1:4001", Listening),
            socket(listener("web"), "127.0.0.1:0", "127.0.0.1:4002", Reserving),
            socket(listener("web"), "127.0.0.1:0", "127.0.0.1:4001", Listening),
            socket(listener("db"), "127.0.0.1:5432", "127.0.0.1:5432", Listening),
            socket(Admin, "127.0.0.1:9090", "127.0.0.1:9090", Listening),
            socket(AtItsAddress, "127.0.0.1:443", "127.0.0.1:443", Listening),
            socket(AtItsAddress, "127.0.0.1:9091", "127.0.0.1:9091", Listening),
        ]
        .into_iter()
        .collect();
        let mut take = |owner: SocketOwner, configured: &str| {
            let taken = sockets.take(&owner, &configured.parse().unwrap())?;
            Some((taken.place.address.to_string(), taken.reserving.is_some(), taken.listening.len()))
        };
        let found = |address: &str, reserved, listening| Some((address.to_owned(), reserved, listening));
        assert_eq!(take(listener("other"), "127.0.0.1:0"), None, "its port was chosen for another listener");
        assert_eq!(take(listener("web"), "127.0.0.1:0"), found("127.0.0.1:4001", true, 2));
        assert_eq!(take(listener("web"), "127.0.0.1:0"), found("127.0.0.1:4002", true, 0));
        assert_eq!(take(listener("web"), "127.0.0.1:0"), None);
        assert_eq!(take(listener("renamed"), "127.0.0.1:5432"), found("127.0.0.1:5432", false, 1));
        assert_eq!(take(listener("web"), "127.0.0.1:9090"), None, "the admin server's");
        assert_eq!(take(Admin, "127.0.0.1:9090"), found("127.0.0.1:9090", false, 1));
        assert_eq!(take(listener("web"), "127.0.0.1:443"), found("127.0.0.1:443", false, 1));
        assert_eq!(take(Admin, "127.0.0.1:9091"), found("127.0.0.1:9091", false, 1));
        assert_eq!(sockets.places().count(), 0);
    }
}
