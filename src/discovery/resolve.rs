//! One question to DNS and what its answer means: the only file that knows the resolver library.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig, ServerOrderingStrategy};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::xfer::{DnsHandle, FirstAnswer};
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::{DnsRequestOptions, Query, ResponseCode};
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::system_conf::read_system_conf;
use hickory_resolver::{NameServerPool, PoolContext, TlsConfig, TokioResolver};

use crate::config::Family;

/// Docker's embedded server, the same address in every container.
const DOCKER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 11));

/// Asks one server (or those of the system) without remembering any answer.
pub(super) struct Resolver {
    inner: TokioResolver,
    /// For reverse lookups: the library's resolver answers those of 127.0.0.0/8 itself, with "localhost" for every
    /// address (RFC 6761, 6.3), and the server may know better.
    servers: NameServerPool<TokioRuntimeProvider>,
    timeout: Duration,
    /// Whom it asks, for messages.
    pub(super) server: String,
    /// Whether names are asked for as they stand, without trying the search list's suffixes.
    absolute: bool,
    /// Whether it is Docker's.
    pub(super) docker: bool,
    /// Whether the server runs on this machine, so that asking it costs next to nothing.
    pub(super) nearby: bool,
}

/// What asking for the addresses of a name found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The complete set; not empty.
    Addresses(BTreeSet<IpAddr>),
    /// NOERROR without an address.
    Empty,
    /// NXDOMAIN.
    NoSuchName,
    /// SERVFAIL, REFUSED, or anything else that says nothing about the name.
    ServerFailure(String),
    /// No answer in time.
    Silence,
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
        let mut builder = TokioResolver::builder_with_config(config, provider);
        *builder.options_mut() = options;
        Ok(Self {
            inner: builder.build().map_err(|e| e.to_string())?,
            servers,
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
    pub(super) async fn addresses(&self, name: &str, family: Family) -> Answer {
        let mut name = match Name::from_str_relaxed(name) {
            Ok(name) => name,
            Err(error) => return Answer::ServerFailure(format!("{name} cannot be asked for: {error}")),
        };
        name.set_fqdn(self.absolute || name.is_fqdn());
        match family {
            Family::V4 => self.ask(name, RecordType::A).await,
            Family::V6 => self.ask(name, RecordType::AAAA).await,
            Family::Any => {
                let (v4, v6) =
                    tokio::join!(self.ask(name.clone(), RecordType::A), self.ask(name, RecordType::AAAA));
                both(v4, v6)
            }
        }
    }

    /// The name of `address`.
    pub(super) async fn owner(&self, address: IpAddr) -> Owner {
        let query = Query::query(Name::from(address), RecordType::PTR);
        let mut options = DnsRequestOptions::default();
        options.recursion_desired = true;
        let asking = self.servers.lookup(query, options).first_answer();
        match tokio::time::timeout(self.limit(), asking).await {
            Ok(Ok(response)) => {
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
            Ok(Err(NetError::Dns(DnsError::NoRecordsFound(none))))
                if matches!(none.response_code, ResponseCode::NXDomain | ResponseCode::NoError) =>
            {
                Owner::Nameless
            }
            Ok(Err(_)) | Err(_) => Owner::Unknown,
        }
    }

    async fn ask(&self, name: Name, kind: RecordType) -> Answer {
        match tokio::time::timeout(self.limit(), self.inner.lookup(name, kind)).await {
            Ok(result) => classify(result),
            Err(_) => Answer::Silence,
        }
    }

    /// The library applies its time-out to each try over each transport; this one is for the question as a
    /// whole: a truncated UDP answer is followed by one over TCP.
    fn limit(&self) -> Duration {
        self.timeout * 2
    }
}

fn classify(result: Result<Lookup, NetError>) -> Answer {
    match result {
        Ok(lookup) => {
            let address = |data: &RData| match data {
                RData::A(a) => Some(IpAddr::V4(a.0)),
                RData::AAAA(a) => Some(IpAddr::V6(a.0)),
                _ => None,
            };
            let set: BTreeSet<_> = lookup.answers().iter().filter_map(|r| address(&r.data)).collect();
            if set.is_empty() { Answer::Empty } else { Answer::Addresses(set) }
        }
        Err(NetError::Dns(DnsError::NoRecordsFound(none))) => match none.response_code {
            ResponseCode::NoError => Answer::Empty,
            ResponseCode::NXDomain => Answer::NoSuchName,
            other => Answer::ServerFailure(format!("the server answered {other}")),
        },
        Err(NetError::Timeout) => Answer::Silence,
        Err(error) => Answer::ServerFailure(error.to_string()),
    }
}

fn both(v4: Answer, v6: Answer) -> Answer {
    use Answer::{Addresses, Empty, NoSuchName, ServerFailure, Silence};
    match (v4, v6) {
        (failure @ (ServerFailure(_) | Silence), _) | (_, failure @ (ServerFailure(_) | Silence)) => failure,
        (Addresses(mut a), Addresses(b)) => {
            a.extend(b);
            Addresses(a)
        }
        (Addresses(a), Empty | NoSuchName) | (Empty | NoSuchName, Addresses(a)) => Addresses(a),
        (NoSuchName, _) | (_, NoSuchName) => NoSuchName,
        (Empty, Empty) => Empty,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(text: &str) -> Answer {
        Answer::Addresses([text.parse().unwrap()].into())
    }

    #[test]
    fn a_failed_family_is_never_taken_for_an_absent_one() {
        assert_eq!(both(addresses("10.0.0.1"), Answer::Silence), Answer::Silence);
        assert_eq!(
            both(Answer::ServerFailure("SERVFAIL".into()), addresses("fd00::1")),
            Answer::ServerFailure("SERVFAIL".into())
        );
        assert_eq!(both(addresses("10.0.0.1"), Answer::Empty), addresses("10.0.0.1"));
        assert_eq!(both(Answer::NoSuchName, Answer::Empty), Answer::NoSuchName);
        assert_eq!(both(Answer::Empty, Answer::Empty), Answer::Empty);
    }
}
