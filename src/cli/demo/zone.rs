//! A small DNS server on loopback for names that change: what Docker's embedded server is to a container. The
//! demo's pool finds its backends here, and the integration tests make it misbehave.
//!
//! It answers A, AAAA, PTR and SRV over UDP and TCP on one port, in random order and with Docker's TTL; whatever else
//! a name may have, it has not. Not for anything but loopback: it knows no zones, no delegation, no limits.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hickory_resolver::proto::op::{Edns, Message, Metadata, OpCode, ResponseCode};
use hickory_resolver::proto::rr::rdata::{CNAME, PTR, SRV};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use rand::seq::SliceRandom;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

/// The time to live of every record, in seconds: Docker's, whatever happens.
pub const TTL: u32 = 600;
/// What a UDP answer may take without EDNS, in bytes.
const PLAIN_UDP: u16 = 512;
/// Tries to get one port for both UDP and TCP when the kernel chooses it.
const TRIES: usize = 32;

/// Names and addresses, changed by one side while the server answers from them. Clones are the same zone. Names
/// may be given with or without the final dot, in any case.
#[derive(Clone, Debug, Default)]
pub struct Zone(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    records: Mutex<Records>,
    next: Mutex<Option<Next>>,
    udp: AtomicU64,
    tcp: AtomicU64,
}

/// What happens once a name has been answered for.
struct Next {
    name: String,
    change: Box<dyn FnOnce(&Zone) + Send>,
}

impl fmt::Debug for Next {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Next").field("name", &self.name).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct Records {
    addresses: BTreeMap<String, BTreeSet<IpAddr>>,
    owners: BTreeMap<IpAddr, String>,
    services: BTreeMap<String, Vec<Service>>,
    aliases: BTreeMap<String, Name>,
    /// Names that are answered for in another way than the rest.
    exceptions: BTreeMap<String, Mode>,
    mode: Mode,
    /// Whether answers of SRV bring the addresses of the targets along.
    brings_along: bool,
    /// Bytes that a UDP answer may take at most, whatever the client offers.
    udp_limit: Option<u16>,
}

/// An SRV record (RFC 2782).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// The lowest is to be used first.
    pub priority: u16,
    /// The share among those of the same priority.
    pub weight: u16,
    /// Where the target listens.
    pub port: u16,
    /// A name of the zone.
    pub target: String,
}

/// How the server answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
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

/// How many questions came, by transport; those met with silence too.
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

    /// Gives `name` exactly these addresses. With none it is still known, and answers are empty.
    pub fn set(&self, name: &str, addresses: impl IntoIterator<Item = IpAddr>) {
        self.records().addresses.insert(absolute(name), addresses.into_iter().collect());
    }

    /// Adds an address to `name`.
    pub fn add(&self, name: &str, address: IpAddr) {
        self.records().addresses.entry(absolute(name)).or_default().insert(address);
    }

    /// Takes an address from `name`. Without any left the name is unknown, as with Docker.
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

    /// Makes `name` unknown.
    pub fn forget(&self, name: &str) {
        self.records().addresses.remove(&absolute(name));
    }

    /// Says whose address this is: the answer to a reverse lookup.
    pub fn name_owner(&self, address: IpAddr, owner: &str) {
        self.records().owners.insert(address, absolute(owner));
    }

    /// Makes the address nobody's.
    pub fn forget_owner(&self, address: IpAddr) {
        self.records().owners.remove(&address);
    }

    /// Gives `name` exactly these SRV records.
    pub fn set_services(&self, name: &str, services: impl IntoIterator<Item = Service>) {
        self.records().services.insert(absolute(name), services.into_iter().collect());
    }

    /// Makes `name` an alias: answers for it are those for `end`, after a CNAME record.
    pub fn set_alias(&self, name: &str, end: &str) {
        if let Ok(end) = Name::from_str_relaxed(absolute(end)) {
            self.records().aliases.insert(absolute(name), end);
        }
    }

    /// Whether answers of SRV bring the addresses of their targets along (RFC 2782, "Target"). At first they do not.
    pub fn bring_along(&self, brings_along: bool) {
        self.records().brings_along = brings_along;
    }

    /// How to answer questions for `name` from now on, whatever holds for the others.
    pub fn set_mode_of(&self, name: &str, mode: Mode) {
        self.records().exceptions.insert(absolute(name), mode);
    }

    /// Makes a change between two questions: right after the next answer for `name`, before anything else is answered.
    pub fn once_answered(&self, name: &str, change: impl FnOnce(&Self) + Send + 'static) {
        let next = Next { name: absolute(name), change: Box::new(change) };
        *self.next() = Some(next);
    }

    /// How to answer from now on.
    pub fn set_mode(&self, mode: Mode) {
        self.records().mode = mode;
    }

    /// Caps UDP answers at so many bytes, whatever the client offers; longer ones are cut and marked, so that the
    /// client has to ask again over TCP. `None`: no cap.
    pub fn limit_udp(&self, bytes: Option<u16>) {
        self.records().udp_limit = bytes;
    }

    /// How many questions came so far.
    pub fn queries(&self) -> Queries {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Queries { udp: count(&self.0.udp), tcp: count(&self.0.tcp) }
    }

    fn records(&self) -> MutexGuard<'_, Records> {
        self.0.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> MutexGuard<'_, Option<Next>> {
        self.0.next.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer to `question` over UDP, as bytes; `None`: silence.
    fn over_udp(&self, question: &[u8]) -> Option<Vec<u8>> {
        self.0.udp.fetch_add(1, Ordering::Relaxed);
        let question = Message::from_vec(question).ok()?;
        let offered = question.edns.as_ref().map_or(PLAIN_UDP, |edns| edns.max_payload().max(PLAIN_UDP));
        let limit = self.records().udp_limit.map_or(offered, |cap| cap.min(offered));
        let mut answer = self.answer(&question)?;
        loop {
            let bytes = answer.to_vec().ok()?;
            if bytes.len() <= usize::from(limit) || answer.answers.is_empty() {
                return Some(bytes);
            }
            // Without those an answer is still whole (RFC 2181, 9).
            if !answer.additionals.is_empty() {
                answer.additionals.clear();
                continue;
            }
            answer.metadata.truncation = true;
            let fit = answer.answers.len() * usize::from(limit) / bytes.len();
            answer.answers.truncate(fit.min(answer.answers.len() - 1));
        }
    }

    /// The answer to `question` over TCP, as bytes, always whole; `None`: silence.
    fn over_tcp(&self, question: &[u8]) -> Option<Vec<u8>> {
        self.0.tcp.fetch_add(1, Ordering::Relaxed);
        self.answer(&Message::from_vec(question).ok()?)?.to_vec().ok()
    }

    fn answer(&self, question: &Message) -> Option<Message> {
        let answer = self.answer_now(question);
        let asked = question.queries.first().map(|query| key(&query.name));
        let next = self.next().take_if(|next| asked.as_ref() == Some(&next.name));
        if let Some(Next { change, .. }) = next {
            change(self);
        }
        answer
    }

    fn answer_now(&self, question: &Message) -> Option<Message> {
        let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
        answer.metadata = Metadata::response_from_request(&question.metadata);
        answer.metadata.recursion_available = true;
        answer.add_queries(question.queries.iter().cloned());
        answer.edns = question.edns.as_ref().map(|_| Edns::new());
        let records = self.records();
        let mode = question.queries.first().and_then(|query| records.exceptions.get(&key(&query.name)));
        let mode = *mode.unwrap_or(&records.mode);
        let mut name = question.queries.first().map(|query| query.name.clone()).unwrap_or_default();
        if let Some(end) = records.aliases.get(&key(&name)).filter(|_| mode == Mode::Answer) {
            answer.add_answer(Record::from_rdata(name, TTL, RData::CNAME(CNAME(end.clone()))));
            name = end.clone();
        }
        let result = match (mode, question.queries.first(), question.metadata.op_code) {
            (Mode::Silent, ..) => return None,
            (Mode::ServFail, ..) => Err(ResponseCode::ServFail),
            (Mode::Refused, ..) => Err(ResponseCode::Refused),
            (Mode::Answer, Some(query), OpCode::Query) => records.look_up(&name, query.query_type),
            (Mode::Answer, ..) => Err(ResponseCode::NotImp),
        };
        match result {
            Ok(mut data) => {
                data.shuffle(&mut rand::rng());
                if records.brings_along {
                    answer.add_additionals(data.iter().flat_map(|data| records.along(data)));
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
            return services.iter().map(Service::data).collect();
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
    fn along(&self, data: &RData) -> Vec<Record> {
        let RData::SRV(srv) = data else { return Vec::new() };
        let kinds = [RecordType::A, RecordType::AAAA];
        let found = kinds.into_iter().filter_map(|kind| self.look_up(&srv.target, kind).ok()).flatten();
        found.map(|data| Record::from_rdata(srv.target.clone(), TTL, data)).collect()
    }
}

impl Service {
    fn data(&self) -> Result<RData, ResponseCode> {
        let target = Name::from_str_relaxed(absolute(&self.target)).map_err(|_| ResponseCode::ServFail)?;
        Ok(RData::SRV(SRV::new(self.priority, self.weight, self.port, target)))
    }
}

fn key(name: &Name) -> String {
    absolute(&name.to_ascii())
}

/// The form in which names are compared.
fn absolute(name: &str) -> String {
    format!("{}.", name.trim_end_matches('.').to_ascii_lowercase())
}

/// A running server; it ends when this is dropped.
#[derive(Debug)]
pub struct Server {
    /// Where it answers, over UDP and TCP alike.
    pub address: SocketAddr,
    _tasks: [AbortOnDropHandle<()>; 2],
}

impl Server {
    /// Starts to answer from `zone` at `address`; with port 0 at one that the kernel chooses. Needs a tokio
    /// runtime.
    pub async fn start(address: SocketAddr, zone: Zone) -> io::Result<Self> {
        let (udp, tcp) = bind(address).await?;
        let address = udp.local_addr()?;
        let tasks = [tokio::spawn(serve_udp(udp, zone.clone())), tokio::spawn(serve_tcp(tcp, zone))];
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
        // An error here is the echo of an answer that nobody waited for.
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
            connections.spawn(converse(stream, zone.clone()));
        }
        while connections.try_join_next().is_some() {}
    }
}

/// One TCP connection: question after question, each after its length (RFC 1035, 4.2.2).
async fn converse(mut stream: TcpStream, zone: Zone) -> io::Result<()> {
    loop {
        let mut question = vec![0; usize::from(stream.read_u16().await?)];
        stream.read_exact(&mut question).await?;
        let Some(answer) = zone.over_tcp(&question) else { continue };
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
        stream.write_all(&[&length.to_be_bytes(), &answer[..]].concat()).await?;
    }
}

#[cfg(test)]
#[path = "zone_tests.rs"]
mod tests;
