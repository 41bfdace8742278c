//! A small DNS server on loopback for names that change: what Docker's embedded server is to a container. The
//! demo's pool finds its backends here, and the integration tests make it misbehave.
//!
//! It answers A, AAAA and PTR over UDP and TCP on one port, in random order and with Docker's TTL; whatever else
//! a name may have, it has not. Not for anything but loopback: it knows no zones, no delegation, no limits.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hickory_resolver::proto::op::{Edns, Message, Metadata, OpCode, ResponseCode};
use hickory_resolver::proto::rr::rdata::PTR;
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
    udp: AtomicU64,
    tcp: AtomicU64,
}

#[derive(Debug, Default)]
struct Records {
    addresses: BTreeMap<String, BTreeSet<IpAddr>>,
    owners: BTreeMap<IpAddr, String>,
    mode: Mode,
    /// Bytes that a UDP answer may take at most, whatever the client offers.
    udp_limit: Option<u16>,
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
            answer.metadata.truncation = true;
            answer.answers.pop();
        }
    }

    /// The answer to `question` over TCP, as bytes, always whole; `None`: silence.
    fn over_tcp(&self, question: &[u8]) -> Option<Vec<u8>> {
        self.0.tcp.fetch_add(1, Ordering::Relaxed);
        self.answer(&Message::from_vec(question).ok()?)?.to_vec().ok()
    }

    fn answer(&self, question: &Message) -> Option<Message> {
        let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
        answer.metadata = Metadata::response_from_request(&question.metadata);
        answer.metadata.recursion_available = true;
        answer.add_queries(question.queries.iter().cloned());
        answer.edns = question.edns.as_ref().map(|_| Edns::new());
        let records = self.records();
        let result = match (records.mode, question.queries.first(), question.metadata.op_code) {
            (Mode::Silent, ..) => return None,
            (Mode::ServFail, ..) => Err(ResponseCode::ServFail),
            (Mode::Refused, ..) => Err(ResponseCode::Refused),
            (Mode::Answer, Some(query), OpCode::Query) => records.look_up(&query.name, query.query_type),
            (Mode::Answer, ..) => Err(ResponseCode::NotImp),
        };
        match result {
            Ok(mut data) => {
                data.shuffle(&mut rand::rng());
                let name = question.queries.first().map(|query| query.name.clone()).unwrap_or_default();
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
            let owner = Name::from_str_relaxed(owner).map_err(|_| ResponseCode::ServFail)?;
            return Ok(vec![RData::PTR(PTR(owner))]);
        }
        let known = self.addresses.get(&absolute(&name.to_ascii())).ok_or(ResponseCode::NXDomain)?;
        let wanted = |address: &IpAddr| match (address, kind) {
            (IpAddr::V4(v4), RecordType::A) => Some(RData::A((*v4).into())),
            (IpAddr::V6(v6), RecordType::AAAA) => Some(RData::AAAA((*v6).into())),
            _ => None,
        };
        Ok(known.iter().filter_map(wanted).collect())
    }
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
mod tests {
    use super::*;
    use hickory_resolver::proto::op::Query;

    fn ask(zone: &Zone, name: &str, kind: RecordType, payload: Option<u16>) -> Option<Message> {
        let mut question = Message::query();
        question.add_query(Query::query(Name::from_str_relaxed(name).unwrap(), kind));
        question.edns = payload.map(|bytes| {
            let mut edns = Edns::new();
            edns.set_max_payload(bytes);
            edns
        });
        let answer = Message::from_vec(&zone.over_udp(&question.to_vec().unwrap())?).unwrap();
        assert_eq!(answer.metadata.id, question.metadata.id);
        Some(answer)
    }

    fn code(zone: &Zone, name: &str, kind: RecordType) -> (ResponseCode, usize) {
        let answer = ask(zone, name, kind, None).unwrap();
        (answer.metadata.response_code, answer.answers.len())
    }

    #[test]
    fn names_and_types_are_told_apart_as_docker_does() {
        let zone = Zone::new();
        let ip: IpAddr = "127.0.0.2".parse().unwrap();
        zone.add("backend", ip);
        zone.name_owner(ip, "demo_backend_1.demo_default.");
        assert_eq!(code(&zone, "Backend.", RecordType::A), (ResponseCode::NoError, 1));
        assert_eq!(code(&zone, "backend.", RecordType::AAAA), (ResponseCode::NoError, 0));
        assert_eq!(code(&zone, "other.", RecordType::A), (ResponseCode::NXDomain, 0));
        let owner = ask(&zone, "2.0.0.127.in-addr.arpa.", RecordType::PTR, None).unwrap();
        assert_eq!(owner.answers[0].data.to_string(), "demo_backend_1.demo_default.");
        assert_eq!(owner.answers[0].ttl, TTL);
        assert_eq!(code(&zone, "3.0.0.127.in-addr.arpa.", RecordType::PTR), (ResponseCode::NXDomain, 0));
        zone.remove("backend", ip);
        assert_eq!(code(&zone, "backend.", RecordType::A), (ResponseCode::NXDomain, 0));
    }

    #[test]
    fn an_answer_that_is_too_long_is_cut_and_says_so() {
        let zone = Zone::new();
        zone.set("backend", (1..=100).map(|n| IpAddr::from([10, 0, 0, n])));
        let plain = ask(&zone, "backend.", RecordType::A, None).unwrap();
        assert!(plain.metadata.truncation && plain.answers.len() < 100);
        assert!(plain.to_vec().unwrap().len() <= 512);
        let edns = ask(&zone, "backend.", RecordType::A, Some(4096)).unwrap();
        assert!(!edns.metadata.truncation && edns.answers.len() == 100);
        zone.limit_udp(Some(100));
        let capped = ask(&zone, "backend.", RecordType::A, Some(4096)).unwrap();
        assert!(capped.metadata.truncation && capped.answers.len() < 10);
    }

    #[test]
    fn it_fails_as_it_is_told_to() {
        let zone = Zone::new();
        zone.set("backend", ["10.0.0.1".parse().unwrap()]);
        zone.set_mode(Mode::ServFail);
        assert_eq!(code(&zone, "backend.", RecordType::A), (ResponseCode::ServFail, 0));
        zone.set_mode(Mode::Refused);
        assert_eq!(code(&zone, "backend.", RecordType::A), (ResponseCode::Refused, 0));
        zone.set_mode(Mode::Silent);
        assert_eq!(ask(&zone, "backend.", RecordType::A, None), None);
        assert_eq!(zone.queries(), Queries { udp: 3, tcp: 0 });
    }

    #[tokio::test]
    async fn over_tcp_an_answer_is_whole() {
        let zone = Zone::new();
        zone.set("backend", (1..=100).map(|n| IpAddr::from([10, 0, 0, n])));
        let server = Server::start("127.0.0.1:0".parse().unwrap(), zone.clone()).await.unwrap();
        let mut question = Message::query();
        question.add_query(Query::query(Name::from_str_relaxed("backend.").unwrap(), RecordType::A));
        let bytes = question.to_vec().unwrap();
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_u16(bytes.len().try_into().unwrap()).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        let mut answer = vec![0; usize::from(stream.read_u16().await.unwrap())];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(Message::from_vec(&answer).unwrap().answers.len(), 100);
        assert_eq!(zone.queries(), Queries { udp: 0, tcp: 1 });
    }
}
