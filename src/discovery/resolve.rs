//! DNS queries and the meaning of their answers; only this file uses the resolver library.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig, ServerOrderingStrategy};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::xfer::{DnsHandle, FirstAnswer};
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::{DnsRequestOptions, DnsResponse, Query, ResponseCode};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use hickory_resolver::system_conf::read_system_conf;
use hickory_resolver::{NameServerPool, PoolContext, TlsConfig, TokioResolver};

use super::Outcome;
use crate::config::Family;

/// Docker's embedded server, the same address in every container.
const DOCKER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 11));

/// Queries one server, or those of the system, without a cache.
pub(super) struct Resolver {
    inner: TokioResolver,
    /// For SRV records and reverse lookups. The library's resolver answers reverse lookups of 127.0.0.0/8 itself, with
    /// "localhost" (RFC 6761, 6.3), although the server may know the names.
    servers: NameServerPool<TokioRuntimeProvider>,
    /// The suffixes for relative names.
    search: Vec<Name>,
    /// A name with so many dots is first tried without a suffix (resolv.conf(5)).
    ndots: usize,
    /// The timeout of one query over one transport.
    pub(super) timeout: Duration,
    /// The servers, for messages.
    pub(super) server: String,
    /// Whether all names are absolute, so that the search list is not used.
    absolute: bool,
    /// Whether the server is Docker's.
    pub(super) docker: bool,
    /// Whether the server runs on this machine, where queries are cheap.
    pub(super) local: bool,
}

/// The answer to a query for records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum DnsAnswer<T> {
    /// The complete set, not empty.
    Records(T),
    /// NOERROR without a record of the type.
    Empty,
    /// NXDOMAIN.
    NoSuchName,
    /// SERVFAIL, REFUSED, or anything else that is inconclusive.
    ServerFailure(String),
    /// No answer in time.
    Timeout,
}

/// The SRV records of a name.
#[derive(Debug, Default)]
pub(super) struct SrvRecords {
    /// One or more, in any order.
    pub(super) records: Vec<SrvRecord>,
    /// The targets by their texts, from which not every name could be read again.
    names: HashMap<Arc<str>, Name>,
    /// The addresses of targets from the additional section. Such a set is complete or absent (RFC 2181, 9), so it is
    /// not queried again.
    additional: AdditionalAddresses,
}

type AdditionalAddresses = HashMap<(Name, RecordType), BTreeSet<IpAddr>>;

/// An SRV record (RFC 2782).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SrvRecord {
    /// The host, in lower case without the final dot; empty: the service is not available here.
    pub(super) target: Arc<str>,
    pub(super) port: u16,
    /// Records with the lowest number are used while one of their backends is up.
    pub(super) priority: u16,
    /// The share among records of equal priority.
    pub(super) weight: u16,
}

/// The answer to a reverse lookup.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum AddressOwner {
    /// One or more names, without the final dot, sorted.
    Named(BTreeSet<Arc<str>>),
    /// The address has no name.
    Nameless,
    /// The lookup failed.
    Unknown,
}

impl<T> DnsAnswer<T> {
    /// The outcome for the source that queried `name`; `found` converts the records.
    pub(super) fn outcome(
        self,
        name: &str,
        resolver: &Resolver,
        found: impl FnOnce(T) -> Outcome,
    ) -> Outcome {
        let server = &resolver.server;
        match self {
            Self::Records(records) => found(records),
            Self::Empty => Outcome::Empty,
            Self::NoSuchName => Outcome::NoSuchName(format!("NXDOMAIN for {name:?} from {server}").into()),
            Self::ServerFailure(reason) => {
                let reason = format!("{name:?} could not be resolved by {server}: {reason}");
                Outcome::ServerFailure(reason.into())
            }
            Self::Timeout => Outcome::Timeout(format!("{server} did not answer for {name:?} in time").into()),
        }
    }
}

impl Resolver {
    /// Queries `server`, or those of `/etc/resolv.conf`; one query times out after `timeout`.
    pub(super) fn new(server: Option<SocketAddr>, timeout: Duration) -> Result<Self, String> {
        let (config, mut options) = match server {
            Some(address) => {
                let mut servers = NameServerConfig::udp_and_tcp(address.ip());
                for connection in &mut servers.connections {
                    connection.port = address.port();
                }
                (ResolverConfig::from_parts(None, vec![], vec![servers]), Default::default())
            }
            None => read_system_conf().map_err(|e| format!("/etc/resolv.conf: {e}"))?,
        };
        let search = config.search().iter().chain(config.domain()).cloned().collect();
        let ips: Vec<IpAddr> = config.name_servers().iter().map(|server| server.ip).collect();
        let docker = !ips.is_empty() && ips.iter().all(|ip| *ip == DOCKER);
        options.cache_size = 0; // Docker's TTL is always 600 s
        options.timeout = timeout;
        options.attempts = 0; // retries; the next round is the retry
        options.edns0 = true;
        options.edns_payload_len = 4096; // the default of 1232 truncates Docker's answer at 52 containers
        options.server_ordering_strategy = ServerOrderingStrategy::UserProvidedOrder;
        if server.is_some() {
            options.use_hosts_file = ResolveHosts::Never;
        }
        let tls = TlsConfig::new().map_err(|e| e.to_string())?;
        let context = Arc::new(PoolContext::new(options.clone(), tls));
        let provider = TokioRuntimeProvider::default();
        let servers = NameServerPool::from_config(config.name_servers().to_vec(), context, provider.clone());
        let ndots = options.ndots;
        let mut builder = TokioResolver::builder_with_config(config, provider);
        *builder.options_mut() = options;
        Ok(Self {
            inner: builder.build().map_err(|e| e.to_string())?,
            servers,
            search,
            ndots,
            timeout,
            server: server.map_or_else(
                || ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
                |address| address.to_string(),
            ),
            // With the host's search list and an outside wildcard zone, the name of a stopped service would resolve to
            // a foreign address.
            absolute: server.is_some() || docker,
            docker,
            local: !ips.is_empty() && ips.iter().all(IpAddr::is_loopback),
        })
    }

    /// The addresses of `name`. The families are queried separately, so that a failure of one is not mistaken for the
    /// absence of its addresses.
    pub(super) async fn addresses(&self, name: &str, family: Family) -> DnsAnswer<BTreeSet<IpAddr>> {
        match self.name(name) {
            Ok(name) => self.families(name, family, &AdditionalAddresses::new()).await,
            Err(reason) => DnsAnswer::ServerFailure(reason),
        }
    }

    /// The SRV records of `name`.
    pub(super) async fn srv_records(&self, name: &str) -> DnsAnswer<SrvRecords> {
        let name = match self.name(name) {
            Ok(name) => name,
            Err(reason) => return DnsAnswer::ServerFailure(reason),
        };
        let mut inconclusive = DnsAnswer::NoSuchName;
        for name in self.candidates(name) {
            // The library's resolver mistakes a record's target for the end of a chain of aliases, and loses the
            // records of a name that is an alias itself.
            let answer = match self.query(name, RecordType::SRV).await {
                Ok(response) => srv_records(&response.answers, &response.additionals, response.response_code),
                Err(failed) => failed,
            };
            match answer {
                DnsAnswer::NoSuchName => {}
                DnsAnswer::Empty => inconclusive = DnsAnswer::Empty,
                conclusive => return conclusive,
            }
        }
        inconclusive
    }

    /// The addresses of a target of these records.
    pub(super) async fn target(
        &self,
        target: &str,
        family: Family,
        records: &SrvRecords,
    ) -> DnsAnswer<BTreeSet<IpAddr>> {
        match records.names.get(target) {
            Some(name) => self.families(name.clone(), family, &records.additional).await,
            None => DnsAnswer::ServerFailure("it is no target of these records".to_owned()),
        }
    }

    /// The name of `address`.
    pub(super) async fn owner(&self, address: IpAddr) -> AddressOwner {
        match self.query::<()>(Name::from(address), RecordType::PTR).await {
            Ok(response) => owner(&response),
            Err(DnsAnswer::Empty | DnsAnswer::NoSuchName) => AddressOwner::Nameless,
            Err(_) => AddressOwner::Unknown,
        }
    }

    /// The name to query.
    fn name(&self, text: &str) -> Result<Name, String> {
        let mut name =
            Name::from_str_relaxed(text).map_err(|error| format!("{text} is no DNS name: {error}"))?;
        name.set_fqdn(self.absolute || name.is_fqdn());
        Ok(name)
    }

    /// The absolute names to try for `name`, in order.
    fn candidates(&self, name: Name) -> Vec<Name> {
        if name.is_fqdn() {
            return vec![name];
        }
        let mut names: Vec<Name> =
            self.search.iter().filter_map(|suffix| name.clone().append_domain(suffix).ok()).collect();
        let first = usize::from(name.num_labels()) > self.ndots;
        let mut bare = name;
        bare.set_fqdn(true);
        names.insert(if first { 0 } else { names.len() }, bare);
        names
    }

    /// The addresses of the families; those in `additional` are not queried.
    async fn families(
        &self,
        name: Name,
        family: Family,
        additional: &AdditionalAddresses,
    ) -> DnsAnswer<BTreeSet<IpAddr>> {
        let one = |kind: RecordType| {
            let (name, known) = (name.clone(), additional.get(&(name.clone(), kind)).cloned());
            async move {
                match known {
                    Some(set) => DnsAnswer::Records(set),
                    None => self.lookup(name, kind).await,
                }
            }
        };
        match family {
            Family::V4 => one(RecordType::A).await,
            Family::V6 => one(RecordType::AAAA).await,
            Family::Any => {
                let (v4, v6) = tokio::join!(one(RecordType::A), one(RecordType::AAAA));
                both(v4, v6)
            }
        }
    }

    /// Queries the servers directly for an absolute name; the error is the reason why there is no response.
    async fn query<T>(&self, name: Name, kind: RecordType) -> Result<DnsResponse, DnsAnswer<T>> {
        let mut options = DnsRequestOptions::default();
        options.recursion_desired = true;
        let answer = self.servers.lookup(Query::query(name, kind), options).first_answer();
        match tokio::time::timeout(self.limit(), answer).await {
            Ok(result) => result.map_err(failure),
            Err(_) => Err(DnsAnswer::Timeout),
        }
    }

    async fn lookup(&self, name: Name, kind: RecordType) -> DnsAnswer<BTreeSet<IpAddr>> {
        match tokio::time::timeout(self.limit(), self.inner.lookup(name, kind)).await {
            Ok(result) => classify(result),
            Err(_) => DnsAnswer::Timeout,
        }
    }

    /// The timeout of a whole query, which may need both transports: a truncated UDP answer is retried over TCP. The
    /// library applies its own timeout to each.
    pub(super) fn limit(&self) -> Duration {
        self.timeout * 2
    }
}

fn classify(result: Result<Lookup, NetError>) -> DnsAnswer<BTreeSet<IpAddr>> {
    match result {
        Ok(lookup) => {
            let set: BTreeSet<_> = lookup.answers().iter().filter_map(|r| address(&r.data)).collect();
            if set.is_empty() { DnsAnswer::Empty } else { DnsAnswer::Records(set) }
        }
        Err(error) => failure(error),
    }
}

fn address(data: &RData) -> Option<IpAddr> {
    match data {
        RData::A(a) => Some(IpAddr::V4(a.0)),
        RData::AAAA(a) => Some(IpAddr::V6(a.0)),
        _ => None,
    }
}

/// The owner of an address in the response to a reverse lookup.
fn owner(response: &DnsResponse) -> AddressOwner {
    let name = |data: &RData| match data {
        RData::PTR(name) => Some(name.0.to_utf8()),
        _ => None,
    };
    let names: BTreeSet<Arc<str>> = response
        .answers
        .iter()
        .filter_map(|record| name(&record.data))
        .map(|name| Arc::from(without_final_dot(&name)))
        // Any loopback address may have this name, so it identifies nothing.
        .filter(|name: &Arc<str>| !name.eq_ignore_ascii_case("localhost"))
        .collect();
    match response.metadata.response_code {
        _ if !names.is_empty() => AddressOwner::Named(names),
        ResponseCode::NoError | ResponseCode::NXDomain => AddressOwner::Nameless,
        _ => AddressOwner::Unknown,
    }
}

/// An absolute name as it is usually written. A label may itself end in a dot, which is escaped.
fn without_final_dot(name: &str) -> &str {
    name.strip_suffix('.').unwrap_or(name)
}

fn failure<T>(error: NetError) -> DnsAnswer<T> {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(none)) => no_records(none.response_code),
        NetError::Timeout => DnsAnswer::Timeout,
        error => DnsAnswer::ServerFailure(error.to_string()),
    }
}

/// The meaning of a response without records.
fn no_records<T>(code: ResponseCode) -> DnsAnswer<T> {
    match code {
        ResponseCode::NoError => DnsAnswer::Empty,
        ResponseCode::NXDomain => DnsAnswer::NoSuchName,
        other => DnsAnswer::ServerFailure(format!("the server answered {other}")),
    }
}

fn srv_records(answers: &[Record], additionals: &[Record], code: ResponseCode) -> DnsAnswer<SrvRecords> {
    let mut found = SrvRecords::default();
    for record in answers {
        if let RData::SRV(srv) = &record.data {
            let name = srv.target.to_lowercase();
            let target: Arc<str> = without_final_dot(&name.to_ascii()).into();
            found.names.insert(Arc::clone(&target), name);
            found.records.push(SrvRecord {
                target,
                port: srv.port,
                priority: srv.priority,
                weight: srv.weight,
            });
        }
    }
    // Some servers put addresses of targets into the answer section.
    for record in answers.iter().chain(additionals) {
        if let Some(address) = address(&record.data) {
            found.additional.entry((record.name.clone(), record.record_type())).or_default().insert(address);
        }
    }
    if found.records.is_empty() { no_records(code) } else { DnsAnswer::Records(found) }
}

fn both(v4: DnsAnswer<BTreeSet<IpAddr>>, v6: DnsAnswer<BTreeSet<IpAddr>>) -> DnsAnswer<BTreeSet<IpAddr>> {
    use DnsAnswer::{Empty, NoSuchName, Records, ServerFailure, Timeout};
    match (v4, v6) {
        (failure @ (ServerFailure(_) | Timeout), _) | (_, failure @ (ServerFailure(_) | Timeout)) => failure,
        (Records(mut a), Records(b)) => {
            a.extend(b);
            Records(a)
        }
        (Records(a), Empty | NoSuchName) | (Empty | NoSuchName, Records(a)) => Records(a),
        (NoSuchName, _) | (_, NoSuchName) => NoSuchName,
        (Empty, Empty) => Empty,
    }
}

#[cfg(any(test, feature = "laws"))]
#[path = "resolve_laws.rs"]
pub mod laws;
#[cfg(test)]
#[path = "resolve_tests.rs"]
mod tests;
