//! Filters for connections in requests.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use crate::domain::{Client, ConnectionRecord, SocketAddress};

/// Selects connections: those of clients, or one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionSubject {
    /// The connections of these clients.
    Clients(ClientFilter),
    /// The connection with this number.
    Conn(u64),
}

impl ConnectionSubject {
    /// Whether it selects the connection with that number and client.
    pub fn matches(self, conn: u64, client: Client) -> bool {
        match self {
            Self::Clients(clients) => clients.matches(client),
            Self::Conn(wanted) => wanted == conn,
        }
    }
}

impl fmt::Display for ConnectionSubject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Clients(ClientFilter::At(ip)) => ip.fmt(f),
            Self::Clients(ClientFilter::One(address)) => address.fmt(f),
            Self::Clients(ClientFilter::Unix) => f.write_str("clients over Unix sockets"),
            Self::Conn(conn) => write!(f, "connection {conn}"),
        }
    }
}

/// Selects the connections that match all of these.
#[derive(Clone, Debug, Default)]
pub struct ConnectionFilter {
    /// Their listener.
    pub listener: Option<String>,
    /// Their pool.
    pub pool: Option<String>,
    /// Their backend.
    pub backend: Option<BackendFilter>,
    /// Their client.
    pub client: Option<ClientFilter>,
}

impl ConnectionFilter {
    /// Whether it selects a connection of that listener, pool, backend and client.
    pub fn matches(
        &self,
        listener: &str,
        pool: Option<&str>,
        backend: Option<(&str, &SocketAddress)>,
        client: Client,
    ) -> bool {
        let is_backend = |wanted: &BackendFilter| backend.is_some_and(|(name, at)| wanted.matches(name, at));
        self.listener.as_deref().is_none_or(|wanted| wanted == listener)
            && self.pool.as_deref().is_none_or(|wanted| pool == Some(wanted))
            && self.backend.as_ref().is_none_or(is_backend)
            && self.client.is_none_or(|wanted| wanted.matches(client))
    }

    /// Whether it selects the connection of that record.
    pub fn matches_record(&self, record: &ConnectionRecord) -> bool {
        let backend = record.backend.as_ref().map(|backend| (&*backend.name, &backend.address));
        self.matches(&record.listener, record.pool.as_deref(), backend, record.client)
    }
}

/// Selects a backend, by its name or its address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendFilter {
    name: String,
    /// The name, if it is an address.
    address: Option<SocketAddress>,
}

impl From<String> for BackendFilter {
    fn from(name: String) -> Self {
        Self { address: name.parse().ok(), name }
    }
}

impl BackendFilter {
    fn matches(&self, name: &str, address: &SocketAddress) -> bool {
        name == self.name || self.address.as_ref() == Some(address)
    }
}

/// Selects clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientFilter {
    /// All at this address.
    At(IpAddr),
    /// The one at this address and port.
    One(SocketAddr),
    /// All that connected over a Unix socket.
    Unix,
}

impl ClientFilter {
    fn matches(self, client: Client) -> bool {
        match (self, client) {
            (Self::At(ip), Client::Tcp(address)) => ip == address.ip(),
            (Self::One(one), Client::Tcp(address)) => one == address,
            (Self::Unix, Client::Unix) => true,
            _ => false,
        }
    }
}

impl FromStr for ClientFilter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "unix" {
            return Ok(Self::Unix);
        }
        // Records have canonical addresses.
        let ip = text.parse().map(|ip: IpAddr| Self::At(ip.to_canonical()));
        let one =
            |address: SocketAddr| Self::One(SocketAddr::new(address.ip().to_canonical(), address.port()));
        ip.or_else(|_| text.parse().map(one)).map_err(|_| {
            format!("a client is an IP address, with or without a port, or `unix`, not {text:?}")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_of_a_filter_matches_alone_and_with_the_others() {
        let client = |text: &str| Client::Tcp(text.parse().unwrap());
        let address = "10.0.0.1:80".parse().unwrap();
        let backend = Some(("a", &address));
        let filter = |pool: &str, backend: &str, client: &str| {
            let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
            let client = some(client).map(|text| text.parse().unwrap());
            ConnectionFilter {
                listener: None,
                pool: some(pool),
                backend: some(backend).map(Into::into),
                client,
            }
        };
        for (pool, name, from) in [
            ("", "", ""),
            ("web", "", ""),
            ("", "a", ""),
            ("", "10.0.0.1:80", ""),
            ("", "", "192.0.2.7"),
            ("", "", "::ffff:192.0.2.7"),
            ("", "", "192.0.2.7:5"),
            ("web", "a", "192.0.2.7"),
        ] {
            assert!(
                filter(pool, name, from).matches("l", Some("web"), backend, client("192.0.2.7:5")),
                "{pool} {name} {from}"
            );
        }
        for (pool, name, from) in [
            ("api", "", ""),
            ("", "b", ""),
            ("", "10.0.0.1:81", ""),
            ("", "", "192.0.2.8"),
            ("", "", "192.0.2.7:6"),
            ("", "", "unix"),
            ("web", "a", "192.0.2.8"),
        ] {
            assert!(
                !filter(pool, name, from).matches("l", Some("web"), backend, client("192.0.2.7:5")),
                "{pool} {name} {from}"
            );
        }
        assert!(filter("", "", "unix").matches("l", Some("web"), None, Client::Unix));
        assert!(!filter("", "a", "").matches("l", Some("web"), None, Client::Unix));
        for (listener, is_selected) in [("l", true), ("m", false)] {
            let filter = ConnectionFilter { listener: Some(listener.to_owned()), ..filter("web", "", "") };
            assert_eq!(filter.matches("l", Some("web"), backend, Client::Unix), is_selected, "{listener}");
        }
        for wrong in ["", "somebody", "10.0.0.0/8", "10.0.0.1:", "10.0.0.1:99999"] {
            assert!(wrong.parse::<ClientFilter>().is_err(), "{wrong}");
        }
    }
}
