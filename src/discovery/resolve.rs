//! One question to DNS and what its answer means: the only file that knows the resolver library.

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

/// Asks one server (or those of the system) without remembering any answer.
pub(super) struct Resolver {
    inner: TokioResolver,
    /// For reverse lookups: the library's resolver answers those of 127.0.0.0/8 itself, with "localhost" for every
    /// address (RFC 6761, 6.3), and the server may know better.
    servers: NameServerPool<TokioRuntimeProvider>,
    /// The suffixes that are tried after a name that is not absolute.
    search: Vec<Name>,
    /// A name with so many dots is tried as it stands first (resolv.conf(5)).
    ndots: usize,
    /// Of one question over one transport.
    pub(super) timeout: Duration,
    /// Whom it asks, for messages.
    pub(super) server: String,
    /// Whether names are asked for as they stand, without trying the search list's suffixes.
    absolute: bool,
    /// Whether it is Docker's.
    pub(super) docker: bool,
    /// Whether the server runs on this machine, so that asking it costs next to nothing.
    pub(super) nearby: bool,
}

/// What asking for the records of a name found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer<T> {
    /// The complete set; not empty.
    Records(T),
    /// NOERROR without such a record.
    Empty,
    /// NXDOMAIN.
    NoSuchName,
    /// SERVFAIL, REFUSED, or anything else that says nothing about the name.
    ServerFailure(String),
    /// No answer in time.
    Silence,
}

/// The SRV records of a name.
#[derive(Debug, Default)]
pub(super) struct Services {
    /// One or more, in no particular order.
    pub(super) records: Vec<Service>,
    /// The addresses of targets that the answer brought along. Such a set is there as a whole or not at all
    /// (RFC 2181, 9), so that it need not be asked for again.
    along: Along,
}

type Along = HashMap<(Name, RecordType), BTreeSet<IpAddr>>;

/// An SRV record (RFC 2782).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Service {
    /// The host's name, in lower case and without the final dot; empty: the service is not available here.
    pub(super) target: Arc<str>,
    pub(super) port: u16,
    /// Those of the lowest number are to be used while one of them can be.
    pub(super) priority: u16,
    /// The share among those of the same priority.
    pub(super) weight: u16,
}

/// What asking for the name of an address found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// Its names, without the final dot, in alphabetical order; at least one.
    Named(BTreeSet<Arc<str>>),
    /// The server knows no name for it.
    Nameless,
    /// Nothing can be concluded.
    Unknown,
}

impl<T> Answer<T> {
    /// What it means for the source that asked `resolver` for `name`; `found` says it of the records.
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
            Self::NoSuchName => Outcome::NoSuchName(format!("{server} knows no name {name:?}").into()),
            Self::ServerFailure(reason) => {
                let reason = format!("{name:?} could not be resolved by {server}: {reason}");
                Outcome::ServerFailure(reason.into())
            }
            Self::Silence => Outcome::Silence(format!("{server} did not answer for {name:?} in time").into()),
        }
    }
}

impl Resolver {
    /// Asks `server`, or those of `/etc/resolv.conf`; gives up on one question after `timeout`.
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
        options.cache_size = 0; // our own schedule decides: Docker's TTL is 600 s whatever happens
        options.timeout = timeout;
        options.attempts = 0; // how often to ask again after silence; the next round is the retry
        options.edns0 = true;
        options.edns_payload_len = 4096; // the default of 1232 cuts Docker's answer at 52 containers
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
            // With a search list copied from the host and a wildcard zone outside, `backend` of a stopped
            // service would resolve to a stranger.
            absolute: server.is_some() || docker,
            docker,
            nearby: !ips.is_empty() && ips.iter().all(IpAddr::is_loopback),
        })
    }

    /// The addresses of `name`. The two families are asked for apart, so that the failure of one is never
    /// taken for the absence of its addresses.
    pub(super) async fn addresses(&self, name: &str, family: Family) -> Answer<BTreeSet<IpAddr>> {
        match self.name(name) {
            Ok(name) => self.families(name, family, &Along::new()).await,
            Err(reason) => Answer::ServerFailure(reason),
        }
    }

    /// The SRV records of `name`.
    pub(super) async fn services(&self, name: &str) -> Answer<Services> {
        let name = match self.name(name) {
            Ok(name) => name,
            Err(reason) => return Answer::ServerFailure(reason),
        };
        let mut nothing = Answer::NoSuchName;
        for name in self.candidates(name) {
            // Not by the library's resolver: it takes a record's target for the end of a chain of aliases, and loses
            // the records of a name that is an alias itself.
            let answer = match self.question(name, RecordType::SRV).await {
                Ok(response) => services(&response.answers, &response.additionals, response.response_code),
                Err(nothing) => nothing,
            };
            match answer {
                Answer::NoSuchName => {}
                Answer::Empty => nothing = Answer::Empty,
                conclusive => return conclusive,
            }
        }
        nothing
    }

    /// The addresses of the target of one of these records.
    pub(super) async fn target(
        &self,
        target: &str,
        family: Family,
        services: &Services,
    ) -> Answer<BTreeSet<IpAddr>> {
        match self.name(&format!("{target}.")) {
            Ok(name) => self.families(name, family, &services.along).await,
            Err(reason) => Answer::ServerFailure(reason),
        }
    }

    /// The name of `address`.
    pub(super) async fn owner(&self, address: IpAddr) -> Owner {
        match self.question::<()>(Name::from(address), RecordType::PTR).await {
            Ok(response) => {
                let name = |data: &RData| match data {
                    RData::PTR(name) => Some(name.0.to_utf8()),
                    _ => None,
                };
                let names: BTreeSet<Arc<str>> = response
                    .answers
                    .iter()
                    .filter_map(|record| name(&record.data))
                    .map(|name| Arc::from(name.trim_end_matches('.')))
                    // Every loopback address may be called so: it says nothing about who is there.
                    .filter(|name: &Arc<str>| !name.eq_ignore_ascii_case("localhost"))
                    .collect();
                match response.metadata.response_code {
                    _ if !names.is_empty() => Owner::Named(names),
                    ResponseCode::NoError | ResponseCode::NXDomain => Owner::Nameless,
                    _ => Owner::Unknown,
                }
            }
            Err(Answer::Empty | Answer::NoSuchName) => Owner::Nameless,
            Err(_) => Owner::Unknown,
        }
    }

    /// A name as it is asked for.
    fn name(&self, text: &str) -> Result<Name, String> {
        let mut name =
            Name::from_str_relaxed(text).map_err(|error| format!("{text} cannot be asked for: {error}"))?;
        name.set_fqdn(self.absolute || name.is_fqdn());
        Ok(name)
    }

    /// The absolute names that `name` may stand for, in the order in which they are tried.
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

    /// The addresses of the families, but for those that came along with something else.
    async fn families(&self, name: Name, family: Family, along: &Along) -> Answer<BTreeSet<IpAddr>> {
        let one = |kind: RecordType| {
            let (name, along) = (name.clone(), along.get(&(name.clone(), kind)).cloned());
            async move {
                match along {
                    Some(set) => Answer::Records(set),
                    None => self.ask(name, kind).await,
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

    /// Asks the servers themselves, for one absolute name; the error says why there is no response.
    async fn question<T>(&self, name: Name, kind: RecordType) -> Result<DnsResponse, Answer<T>> {
        let mut options = DnsRequestOptions::default();
        options.recursion_desired = true;
        let asking = self.servers.lookup(Query::query(name, kind), options).first_answer();
        match tokio::time::timeout(self.limit(), asking).await {
            Ok(result) => result.map_err(failure),
            Err(_) => Err(Answer::Silence),
        }
    }

    async fn ask(&self, name: Name, kind: RecordType) -> Answer<BTreeSet<IpAddr>> {
        match tokio::time::timeout(self.limit(), self.inner.lookup(name, kind)).await {
            Ok(result) => classify(result),
            Err(_) => Answer::Silence,
        }
    }

    /// The library applies its time-out to each try over each transport; this one is for the question as a
    /// whole: a truncated UDP answer is followed by one over TCP.
    pub(super) fn limit(&self) -> Duration {
        self.timeout * 2
    }
}

fn classify(result: Result<Lookup, NetError>) -> Answer<BTreeSet<IpAddr>> {
    match result {
        Ok(lookup) => {
            let set: BTreeSet<_> = lookup.answers().iter().filter_map(|r| address(&r.data)).collect();
            if set.is_empty() { Answer::Empty } else { Answer::Records(set) }
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

fn failure<T>(error: NetError) -> Answer<T> {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(none)) => nothing(none.response_code),
        NetError::Timeout => Answer::Silence,
        error => Answer::ServerFailure(error.to_string()),
    }
}

/// What an answer without a record means.
fn nothing<T>(code: ResponseCode) -> Answer<T> {
    match code {
        ResponseCode::NoError => Answer::Empty,
        ResponseCode::NXDomain => Answer::NoSuchName,
        other => Answer::ServerFailure(format!("the server answered {other}")),
    }
}

fn services(answers: &[Record], additionals: &[Record], code: ResponseCode) -> Answer<Services> {
    let mut services = Services::default();
    for record in answers {
        if let RData::SRV(srv) = &record.data {
            let target = srv.target.to_lowercase().to_ascii();
            services.records.push(Service {
                target: target.trim_end_matches('.').into(),
                port: srv.port,
                priority: srv.priority,
                weight: srv.weight,
            });
        }
    }
    // Some servers count an alias and its end among the answers.
    for record in answers.iter().chain(additionals) {
        if let Some(address) = address(&record.data) {
            services.along.entry((record.name.clone(), record.record_type())).or_default().insert(address);
        }
    }
    if services.records.is_empty() { nothing(code) } else { Answer::Records(services) }
}

fn both(v4: Answer<BTreeSet<IpAddr>>, v6: Answer<BTreeSet<IpAddr>>) -> Answer<BTreeSet<IpAddr>> {
    use Answer::{Empty, NoSuchName, Records, ServerFailure, Silence};
    match (v4, v6) {
        (failure @ (ServerFailure(_) | Silence), _) | (_, failure @ (ServerFailure(_) | Silence)) => failure,
        (Records(mut a), Records(b)) => {
            a.extend(b);
            Records(a)
        }
        (Records(a), Empty | NoSuchName) | (Empty | NoSuchName, Records(a)) => Records(a),
        (NoSuchName, _) | (_, NoSuchName) => NoSuchName,
        (Empty, Empty) => Empty,
    }
}

#[cfg(test)]
#[path = "resolve_tests.rs"]
mod tests;
