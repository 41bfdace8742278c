//! The last routing decisions, kept in memory for the status, the dashboard and the demo.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::SystemTime;

use serde::Serialize;
use serde::ser::SerializeStruct;

use super::ring::{Dated, Ring};
use crate::config::Algorithm;
#[cfg(test)]
use crate::domain::ExclusionInfo;
use crate::domain::{Cause, Client, Excluded, Exclusion, ExclusionReason};

/// So many candidates of a choice are named, with what load they had.
pub const SHOWN: usize = 16;

/// One worker's last decisions.
pub type Decisions = Ring<Decision>;

/// The record of one choice.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Decision {
    /// The connection's number, unique within the process.
    pub conn: u64,
    /// When it was made.
    #[serde(serialize_with = "unix_seconds")]
    #[cfg_attr(test, schemars(with = "f64"))]
    pub at: SystemTime,
    /// The client.
    pub client: Client,
    /// Where.
    pub listener: Arc<str>,
    /// The pool that was chosen from.
    pub pool: Arc<str>,
    /// The name of the chosen backend; `None`: there was none, or none could be reached.
    pub backend: Option<Arc<str>>,
    /// Its address.
    pub address: Option<SocketAddr>,
    /// How it was chosen.
    #[serde(serialize_with = "name")]
    #[cfg_attr(test, schemars(with = "Algorithm"))]
    pub algorithm: Algorithm,
    /// The excluded backends; of many, the first.
    #[cfg_attr(test, schemars(with = "Vec<ExclusionInfo>"))]
    pub excluded: Excluded,
    /// Backends that were tried, the one that was reached included.
    pub attempts: u32,
    /// Those of them that could not be reached, in the order in which they were tried.
    pub failed: Vec<Attempt>,
    /// The eligible backends.
    pub candidates: CandidateSet,
    /// The client's home, if that had more than its share (`load_factor`).
    pub home: Option<Arc<str>>,
    /// Which of the pool's backends were eligible.
    pub tier: Tier,
    /// Time from the accept to this decision, in milliseconds.
    pub age_ms: f64,
    /// How long the client waited for a place, in milliseconds, if it had to.
    pub queued_ms: Option<f64>,
    /// How long the successful attempt to connect took, in milliseconds.
    pub connect_ms: Option<f64>,
}

impl Dated for Decision {
    fn at(&self) -> SystemTime {
        self.at
    }
}

/// An attempt to connect to a backend in vain.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Attempt {
    /// The backend's name.
    pub backend: Arc<str>,
    /// Its address.
    pub address: SocketAddr,
    /// What went wrong, in words.
    pub error: Cause,
    /// How long it took, in milliseconds.
    pub took_ms: f64,
}

impl Attempt {
    /// The backend as one that later attempts exclude.
    pub fn exclusion(&self) -> Exclusion {
        let reason = ExclusionReason::ConnectFailed(self.error.clone());
        Exclusion { backend: Arc::clone(&self.backend), reason }
    }
}

fn name<S: serde::Serializer>(algorithm: &Algorithm, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(algorithm.name())
}

/// Which of a pool's backends a choice was made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// Those that are no backups.
    Primaries,
    /// Backups, as no primary was up.
    Backups,
    /// Those of the next tier, as all of the one before were tried in vain.
    Standby,
    /// All, whether up or not: panic.
    All,
}

/// A backend that could be chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its name.
    pub name: Arc<str>,
    /// Its share, in the units of the others' in the same snapshot.
    pub share: u32,
}

/// The eligible backends of a decision, and their connections. In a fixed array, so that a decision costs no
/// memory of its own.
#[derive(Clone, Debug)]
pub struct CandidateSet {
    /// The first [`SHOWN`] of them: one list for all choices from one snapshot.
    pub shown: Arc<[Candidate]>,
    /// The connections of each of those, opening ones included.
    pub loads: [u32; SHOWN],
    /// How many there were.
    pub total: u32,
    /// How many backends the pool knew, those that could not be chosen included.
    pub known: u32,
    /// The connections of the chosen one.
    pub chosen: Option<u32>,
}

impl CandidateSet {
    /// The listed ones, each with its connections.
    pub fn shown(&self) -> impl Iterator<Item = (&Candidate, u32)> {
        self.shown.iter().zip(self.loads)
    }
}

impl Serialize for CandidateSet {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct One<'a> {
            name: &'a str,
            share: u32,
            load: u32,
        }
        let shown = self.shown().map(|(one, load)| One { name: &one.name, share: one.share, load });
        let mut all = serializer.serialize_struct("CandidateSet", 4)?;
        all.serialize_field("shown", &shown.collect::<Vec<_>>())?;
        all.serialize_field("total", &self.total)?;
        all.serialize_field("known", &self.known)?;
        all.serialize_field("chosen_load", &self.chosen)?;
        all.end()
    }
}

impl Decision {
    /// Whether it is among those that are asked for.
    pub fn is_of(&self, which: &Which) -> bool {
        let backend = self.backend.as_deref().zip(self.address);
        which.has(&self.pool, backend, self.client)
    }
}

/// Whose connections are requested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// Those clients'.
    Clients(ClientFilter),
    /// The one of that number.
    Conn(u64),
}

impl Whose {
    /// Whether the connection of that number and client is meant.
    pub fn is(self, conn: u64, client: Client) -> bool {
        match self {
            Self::Clients(clients) => clients.has(client),
            Self::Conn(wanted) => wanted == conn,
        }
    }
}

impl fmt::Display for Whose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Clients(ClientFilter::At(ip)) => ip.fmt(f),
            Self::Clients(ClientFilter::One(address)) => address.fmt(f),
            Self::Clients(ClientFilter::Unix) => f.write_str("clients over Unix sockets"),
            Self::Conn(conn) => write!(f, "connection {conn}"),
        }
    }
}

/// Which connections are requested: those that match all of these.
#[derive(Clone, Debug, Default)]
pub struct Which {
    /// Their pool.
    pub pool: Option<String>,
    /// Their backend.
    pub backend: Option<WhichBackend>,
    /// Their client.
    pub client: Option<ClientFilter>,
}

impl Which {
    /// Whether a connection is among them.
    pub fn has(&self, pool: &str, backend: Option<(&str, SocketAddr)>, client: Client) -> bool {
        let is_backend = |wanted: &WhichBackend| backend.is_some_and(|(name, at)| wanted.is(name, at));
        self.pool.as_deref().is_none_or(|wanted| wanted == pool)
            && self.backend.as_ref().is_none_or(is_backend)
            && self.client.is_none_or(|wanted| wanted.has(client))
    }
}

/// Which backend is requested, by its name or its address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WhichBackend {
    name: String,
    /// What is asked for, if it is an address.
    address: Option<SocketAddr>,
}

impl From<String> for WhichBackend {
    fn from(name: String) -> Self {
        Self { address: name.parse().ok(), name }
    }
}

impl WhichBackend {
    fn is(&self, name: &str, address: SocketAddr) -> bool {
        name == self.name || self.address == Some(address)
    }
}

/// Which clients are requested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientFilter {
    /// All at that address.
    At(IpAddr),
    /// The one at that address and port.
    One(SocketAddr),
    /// Those that came over a Unix socket.
    Unix,
}

impl ClientFilter {
    fn has(self, client: Client) -> bool {
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
        // Clients are told by their canonical addresses.
        let ip = text.parse().map(|ip: IpAddr| Self::At(ip.to_canonical()));
        let one =
            |address: SocketAddr| Self::One(SocketAddr::new(address.ip().to_canonical(), address.port()));
        ip.or_else(|_| text.parse().map(one)).map_err(|_| {
            format!("a client is an IP address, with or without a port, or `unix`, not {text:?}")
        })
    }
}

/// Serialises a moment as seconds since the epoch.
pub fn unix_seconds<S: serde::Serializer>(at: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    serializer.serialize_f64((since.as_secs_f64() * 1000.0).round() / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_found_by_each_of_its_words_and_by_all_together() {
        let client = |text: &str| Client::Tcp(text.parse().unwrap());
        let backend = Some(("a", "10.0.0.1:80".parse().unwrap()));
        let which = |pool: &str, backend: &str, client: &str| {
            let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
            let client = some(client).map(|text| text.parse().unwrap());
            Which { pool: some(pool), backend: some(backend).map(Into::into), client }
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
                which(pool, name, from).has("web", backend, client("192.0.2.7:5")),
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
                !which(pool, name, from).has("web", backend, client("192.0.2.7:5")),
                "{pool} {name} {from}"
            );
        }
        assert!(which("", "", "unix").has("web", None, Client::Unix));
        assert!(!which("", "a", "").has("web", None, Client::Unix));
        for wrong in ["", "somebody", "10.0.0.0/8", "10.0.0.1:", "10.0.0.1:99999"] {
            assert!(wrong.parse::<ClientFilter>().is_err(), "{wrong}");
        }
    }
}
