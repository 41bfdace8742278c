//! A small DNS server on loopback, which acts like Docker's embedded server. The demo's pool finds its backends with it,
//! and integration tests make it fail.
//!
//! It answers A, AAAA, PTR and SRV over UDP and TCP on one port, in random order and with Docker's TTL. It has no
//! delegation and no limits, so it is for loopback only.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hickory_resolver::proto::op::{Edns, Message, Metadata, OpCode, ResponseCode};
use hickory_resolver::proto::rr::rdata::{CNAME, PTR, SRV};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use litemap::LiteMap;
use rand::seq::SliceRandom;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

use crate::task::{boxed, spawn};

/// The time to live of every record, in seconds, as with Docker.
pub const TTL: u32 = 600;
/// The size limit of a UDP answer without EDNS, in bytes (RFC 1035, 4.2.1).
const PLAIN_UDP: u16 = 512;
/// Attempts to get one port for both UDP and TCP when the kernel chooses it.
const TRIES: usize = 32;

/// Names and addresses, which can be changed while the server answers from them. Clones share them. Names are given with
/// or without the final dot, in any case.
#[derive(Clone, Debug, Default)]
pub struct Zone(Arc<ZoneState>);

#[derive(Debug, Default)]
struct ZoneState {
    records: Mutex<Records>,
    pending: Mutex<Option<PendingChange>>,
    udp: AtomicU64,
    tcp: AtomicU64,
}

/// A change after the next answer for a name.
struct PendingChange {
    name: String,
    change: Box<dyn FnOnce(&Zone) + Send>,
}

impl fmt::Debug for PendingChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingChange").field("name", &self.name).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct Records {
    addresses: LiteMap<String, BTreeSet<IpAddr>>,
    owners: LiteMap<IpAddr, String>,
    services: LiteMap<String, Vec<ServiceRecord>>,
    aliases: LiteMap<String, Name>,
    /// The modes of single names.
    exceptions: LiteMap<String, AnswerMode>,
    mode: AnswerMode,
    /// Whether SRV answers have the addresses of the targets in the additional section.
    with_additionals: bool,
    /// A size limit of UDP answers below that of the client, in bytes.
    udp_limit: Option<u16>,
}

/// An SRV record (RFC 2782).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceRecord {
    /// The lowest is used first.
    pub priority: u16,
    /// The share among records of equal priority.
    pub weight: u16,
    /// The port of the target.
    pub port: u16,
    /// A name of the zone.
    pub target: String,
}

/// How the server answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AnswerMode {
    /// From the zone.
    #[default]
    Answer,
    /// Not at all.
    Silent,
    /// SERVFAIL to everything.
    ServFail,
    /// REFUSED to everything.
    Refused,
}

/// The number of queries by transport, including unanswered ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Queries {
    /// Over UDP.
    pub udp: u64,
    /// Over TCP.
    pub tcp: u64,
}

impl Zone {
    /// A zone without names.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the addresses of `name`. Without any it still exists, and answers are empty.
    pub fn set(&self, name: &str, addresses: impl IntoIterator<Item = IpAddr>) {
        self.records().addresses.insert(absolute(name), addresses.into_iter().collect());
    }

    /// Adds an address to `name`.
    pub fn add(&self, name: &str, address: IpAddr) {
        self.records().addresses.entry(absolute(name)).or_default().insert(address);
    }

    /// Removes an address from `name`. With the last one the name is gone, as with Docker.
    pub fn remove(&self, name: &str, address: IpAddr) {
        let mut records = self.records();
        let name = absolute(name);
        if let Some(set) = records.addresses.get_mut(&name) {
            set.remove(&address);
            if set.is_empty() {
                records.addresses.remove(&name);
            }
        }
    }

    /// Removes `name`.
    pub fn forget(&self, name: &str) {
        self.records().addresses.remove(&absolute(name));
    }

    /// Sets the answer to a reverse lookup of `address`.
    pub fn name_owner(&self, address: IpAddr, owner: &str) {
        self.records().owners.insert(address, absolute(owner));
    }

    /// Removes the answer to a reverse lookup of `address`.
    pub fn forget_owner(&self, address: IpAddr) {
        self.records().owners.remove(&address);
    }

    /// Sets the SRV records of `name`.
    pub fn set_services(&self, name: &str, services: impl IntoIterator<Item = ServiceRecord>) {
        self.records().services.insert(absolute(name), services.into_iter().collect());
    }

    /// Makes `name` an alias of `end`: answers have a CNAME record before the records of `end`.
    pub fn set_alias(&self, name: &str, end: &str) {
        if let Ok(end) = Name::from_str_relaxed(absolute(end)) {
            self.records().aliases.insert(absolute(name), end);
        }
    }

    /// Whether SRV answers have the addresses of their targets in the additional section (RFC 2782, "Target"); the default
    /// is no.
    pub fn set_additionals(&self, with_additionals: bool) {
        self.records().with_additionals = with_additionals;
    }

    /// Sets the mode for queries of `name` alone.
    pub fn set_mode_of(&self, name: &str, mode: AnswerMode) {
        self.records().exceptions.insert(absolute(name), mode);
    }

    /// Makes a change right after the next answer for `name`, before any other answer.
    pub fn after_next_answer(&self, name: &str, change: impl FnOnce(&Self) + Send + 'static) {
        let change = PendingChange { name: absolute(name), change: Box::new(change) };
        *self.pending() = Some(change);
    }

    /// Sets the mode for all names.
    pub fn set_mode(&self, mode: AnswerMode) {
        self.records().mode = mode;
    }

    /// Limits the size of UDP answers below what the client offers. Longer ones are truncated, so that the client retries
    /// over TCP. `None`: no limit.
    pub fn limit_udp(&self, bytes: Option<u16>) {
        self.records().udp_limit = bytes;
    }

    /// The number of queries so far.
    pub fn queries(&self) -> Queries {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Queries { udp: count(&self.0.udp), tcp: count(&self.0.tcp) }
    }

    fn records(&self) -> MutexGuard<'_, Records> {
        self.0.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pending(&self) -> MutexGuard<'_, Option<PendingChange>> {
        self.0.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer to `query` over UDP; `None`: no answer.
    fn over_udp(&self, query_bytes: &[u8]) -> Option<Vec<u8>> {
        self.0.udp.fetch_add(1, Ordering::Relaxed);
        let query = Message::from_vec(query_bytes).ok()?;
        let offered = query.edns.as_ref().map_or(PLAIN_UDP, |edns| edns.max_payload().max(PLAIN_UDP));
        let limit = self.records().udp_limit.map_or(offered, |cap| cap.min(offered));
        let mut answer = self.answer(&query)?;
        loop {
            let bytes = answer.to_vec().ok()?;
            if bytes.len() <= usize::from(limit) || answer.answers.is_empty() {
                return Some(bytes);
            }
            // Without additionals an answer is still complete (RFC 2181, 9).
            if !answer.additionals.is_empty() {
                answer.additionals.clear();
                continue;
            }
            answer.metadata.truncation = true;
            let fit = answer.answers.len() * usize::from(limit) / bytes.len();
            answer.answers.truncate(fit.min(answer.answers.len() - 1));
        }
    }

    /// The answer to `query` over TCP, never truncated; `None`: no answer.
    fn over_tcp(&self, query_bytes: &[u8]) -> Option<Vec<u8>> {
        self.0.tcp.fetch_add(1, Ordering::Relaxed);
        self.answer(&Message::from_vec(query_bytes).ok()?)?.to_vec().ok()
    }

    fn answer(&self, message: &Message) -> Option<Message> {
        let answer = self.answer_now(message);
        let queried = message.queries.first().map(|query| key(&query.name));
        let pending = self.pending().take_if(|pending| queried.as_ref() == Some(&pending.name));
        if let Some(PendingChange { change, .. }) = pending {
            change(self);
        }
        answer
    }

    fn answer_now(&self, message: &Message) -> Option<Message> {
        let mut answer = Message::response(message.metadata.id, message.metadata.op_code);
        answer.metadata = Metadata::response_from_request(&message.metadata);
        answer.metadata.recursion_available = true;
        answer.add_queries(message.queries.iter().cloned());
        answer.edns = message.edns.as_ref().map(|_| Edns::new());
        let records = self.records();
        let mode = message.queries.first().and_then(|query| records.exceptions.get(&key(&query.name)));
        let mode = *mode.unwrap_or(&records.mode);
        let mut name = message.queries.first().map(|query| query.name.clone()).unwrap_or_default();
        if let Some(end) = records.aliases.get(&key(&name)).filter(|_| mode == AnswerMode::Answer) {
            answer.add_answer(Record::from_rdata(name, TTL, RData::CNAME(CNAME(end.clone()))));
            name = end.clone();
        }
        let result = match (mode, message.queries.first(), message.metadata.op_code) {
            (AnswerMode::Silent, ..) => return None,
            (AnswerMode::ServFail, ..) => Err(ResponseCode::ServFail),
            (AnswerMode::Refused, ..) => Err(ResponseCode::Refused),
            (AnswerMode::Answer, Some(query), OpCode::Query) => records.look_up(&name, query.query_type),
            (AnswerMode::Answer, ..) => Err(ResponseCode::NotImp),
        };
        match result {
            Ok(mut data) => {
                data.shuffle(&mut rand::rng());
                if records.with_additionals {
                    answer.add_additionals(data.iter().flat_map(|data| records.additionals(data)));
                }
                answer.add_answers(data.into_iter().map(|data| Record::from_rdata(name.clone(), TTL, data)));
            }
            Err(code) => answer.metadata.response_code = code,
        }
        Some(answer)
    }
}

impl Records {
    fn look_up(&self, name: &Name, kind: RecordType) -> Result<Vec<RData>, ResponseCode> {
        if let Ok(net) = name.parse_arpa_name() {
            let owner = self.owners.get(&net.addr()).ok_or(ResponseCode::NXDomain)?;
            if kind != RecordType::PTR {
                return Ok(Vec::new());
            }
            // A server may answer with any bytes, not only with those of host names (RFC 2181, 11).
            let labels = || Name::from_labels(owner.trim_end_matches('.').split('.').map(str::as_bytes));
            let mut owner =
                Name::from_str_relaxed(owner).or_else(|_| labels()).map_err(|_| ResponseCode::ServFail)?;
            owner.set_fqdn(true);
            return Ok(vec![RData::PTR(PTR(owner))]);
        }
        let services = self.services.get(&key(name));
        if let (Some(services), RecordType::SRV) = (services, kind) {
            return services.iter().map(ServiceRecord::data).collect();
        }
        let addresses = self.addresses.get(&key(name));
        if services.is_none() && addresses.is_none() {
            return Err(ResponseCode::NXDomain);
        }
        let wanted = |address: &IpAddr| match (address, kind) {
            (IpAddr::V4(v4), RecordType::A) => Some(RData::A((*v4).into())),
            (IpAddr::V6(v6), RecordType::AAAA) => Some(RData::AAAA((*v6).into())),
            _ => None,
        };
        Ok(addresses.into_iter().flatten().filter_map(wanted).collect())
    }

    /// The addresses of an SRV record's target.
    fn additionals(&self, data: &RData) -> Vec<Record> {
        let RData::SRV(srv) = data else { return Vec::new() };
        let kinds = [RecordType::A, RecordType::AAAA];
        let found = kinds.into_iter().filter_map(|kind| self.look_up(&srv.target, kind).ok()).flatten();
        found.map(|data| Record::from_rdata(srv.target.clone(), TTL, data)).collect()
    }
}

impl ServiceRecord {
    fn data(&self) -> Result<RData, ResponseCode> {
        let target = Name::from_str_relaxed(absolute(&self.target)).map_err(|_| ResponseCode::ServFail)?;
        Ok(RData::SRV(SRV::new(self.priority, self.weight, self.port, target)))
    }
}

fn key(name: &Name) -> String {
    absolute(&name.to_ascii())
}

/// The canonical form of a name.
fn absolute(name: &str) -> String {
    format!("{}.", name.trim_end_matches('.').to_ascii_lowercase())
}

/// A running server; it stops when dropped.
#[derive(Debug)]
pub struct DnsServer {
    /// Its address, over UDP and TCP.
    pub address: SocketAddr,
    _tasks: [AbortOnDropHandle<()>; 2],
}

impl DnsServer {
    /// Answers from `zone` at `address`; with port 0 the kernel chooses the port. Needs a tokio runtime.
    pub async fn start(address: SocketAddr, zone: Zone) -> io::Result<Self> {
        let (udp, tcp) = bind(address).await?;
        let address = udp.local_addr()?;
        let tasks = [spawn(serve_udp(udp, zone.clone())), spawn(serve_tcp(tcp, zone))];
        Ok(Self { address, _tasks: tasks.map(AbortOnDropHandle::new) })
    }
}

/// A port that is free for both transports.
async fn bind(address: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let mut tries = 0;
    loop {
        tries += 1;
        let udp = UdpSocket::bind(address).await?;
        match TcpListener::bind(udp.local_addr()?).await {
            Ok(tcp) => return Ok((udp, tcp)),
            Err(_) if address.port() == 0 && tries < TRIES => {}
            Err(error) => return Err(error),
        }
    }
}

async fn serve_udp(socket: UdpSocket, zone: Zone) {
    let mut buffer = vec![0; usize::from(u16::MAX)];
    loop {
        // An error reports an earlier answer that was not received (ICMP).
        let Ok((length, client)) = socket.recv_from(&mut buffer).await else { continue };
        if let Some(answer) = zone.over_udp(&buffer[..length]) {
            let _ = socket.send_to(&answer, client).await;
        }
    }
}

async fn serve_tcp(listener: TcpListener, zone: Zone) {
    let mut connections = JoinSet::new();
    loop {
        if let Ok((stream, _)) = listener.accept().await {
            connections.spawn(boxed(converse(stream, zone.clone())));
        }
        while connections.try_join_next().is_some() {}
    }
}

/// One TCP connection: queries, each after its length (RFC 1035, 4.2.2).
async fn converse(mut stream: TcpStream, zone: Zone) -> io::Result<()> {
    loop {
        let mut query = vec![0; usize::from(stream.read_u16().await?)];
        stream.read_exact(&mut query).await?;
        let Some(answer) = zone.over_tcp(&query) else { continue };
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
        stream.write_all(&[&length.to_be_bytes(), &answer[..]].concat()).await?;
    }
}

#[cfg(test)]
#[path = "zone_tests.rs"]
mod tests;
