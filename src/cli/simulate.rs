//! `pointsman simulate`: an algorithm in virtual time.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::builder::PossibleValue;

use super::{Exit, Failure, algorithm, one_of, print, write_chart};
use crate::chart;
use crate::config::{self, Algorithm, Factor, Hash, HashKey, Source, StaticBackend};
use crate::humanize;
use crate::sanitize;
use crate::simulate::{
    self, Arrivals, BackendSpec, Clients, Intensity, PlannedEvent, Servers, ServiceTime, Setting,
    SimulationPlan, SimulationReport, Until, notation,
};

/// The number of backends that are named of those that are left out.
const SHOWN: usize = 8;

const EXAMPLES: &str = "\
When does round robin perform badly? When connections last for very different times:
  pointsman simulate --backends a,b,c,d --service pareto:10ms \\
      --balance round-robin,least-connections
What does stickiness cost, and which clients move when a backend fails?
  pointsman simulate --backends a,b,c,d --balance source-hash,ring-hash,maglev \\
      --clients 1000:zipf --duration 40s --at 20s down=b
Does one more backend always help?
  pointsman simulate --backends a,b,c --service c=exp:50ms --rate 500/s \\
      --balance round-robin,least-connections,ewma
A configured pool, as a chart:
  pointsman simulate -c pointsman.yaml --pool web --chart web.svg

Time is virtual; the balancer's own code makes the choices. The same arguments give
the same figures; another --seed gives other random numbers. A backend serves as many
connections at once as it has servers; more wait in its queue, first come, first
served. Connecting takes no time, and closed connections are not retried. Backups
of a configured pool are left out, and backends of other zones if the pool prefers one.

Figures: promised is the share by weight; most is the most open connections of a
backend. Imbalance is the load (open connections per weight) of the busiest backend
divided by the mean: averaged over time, and at its peak; variation is how much the
shares differ from the promised ones.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
#[allow(rustdoc::broken_intra_doc_links, reason = "brackets are optional parts in the help")]
pub(super) struct SimulateArgs {
    /// The backends with their weights, such as 'a*3,b,c'
    #[arg(long, value_delimiter = ',', value_name = "NAME[*WEIGHT]", required_unless_present = "config")]
    backends: Vec<BackendSpec>,
    /// Use a pool's backends, algorithm and hash from this configuration file; options override it
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The pool of the file; optional if there is only one
    #[arg(long, value_name = "NAME", requires = "config")]
    pool: Option<String>,
    /// The algorithm; several are compared with the same traffic [default: the pool's, or weighted if the backends have
    /// weights, or round-robin]
    #[arg(long, value_parser = one_of(&Algorithm::ALL, algorithm), value_delimiter = ',', value_name = "ALGORITHM")]
    balance: Vec<Algorithm>,
    /// The number of connections [default: 100000]
    #[arg(long, value_name = "NUMBER", conflicts_with = "duration", value_parser = clap::value_parser!(u64).range(1..))]
    connections: Option<u64>,
    /// How long new connections arrive, instead of a number of them
    #[arg(long, value_name = "TIME", value_parser = notation::time)]
    duration: Option<Duration>,
    /// New connections per second or minute: 1000/s, 60/m
    #[arg(long, conflicts_with = "load", value_parser = notation::rate)]
    rate: Option<Intensity>,
    /// The arrival rate as a part of the backends' capacity [default: 70%]
    #[arg(long, value_name = "PERCENT", value_parser = notation::load)]
    load: Option<Intensity>,
    /// The arrival process: steady, poisson, or bursts:NUMBER at the same instant
    #[arg(long, default_value = "poisson", value_name = "PROCESS")]
    arrivals: Arrivals,
    /// The clients: NUMBER alike, or NUMBER:zipf[:EXPONENT] where a few come often
    #[arg(long, default_value = "1000")]
    clients: Clients,
    /// The service time: fixed:TIME, exp:TIME or pareto:TIME[:ALPHA] (mean, shape); NAME=… for one backend; repeatable
    /// [default: exp:10ms]
    #[arg(long, value_name = "[NAME=]SERVICE")]
    service: Vec<Setting<ServiceTime>>,
    /// The connections that a backend serves at once, per unit of weight, or unlimited; NAME=NUMBER is for one backend,
    /// whatever its weight [default: 4]
    #[arg(long, value_name = "[NAME=]NUMBER")]
    servers: Vec<Setting<Servers>>,
    /// Events at a time: down=B closes its connections, up=B, leave=B lets them finish, join=B*2, weight=B*5; several
    /// with commas; repeatable
    #[arg(long, num_args = 2, value_names = ["TIME", "EVENT[,EVENT]"])]
    at: Vec<String>,
    /// The seed of all randomness
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    hash: HashArgs,
    /// Print the figures as JSON
    #[arg(long)]
    json: bool,
    /// Draw a chart, as SVG or PNG by the file's extension
    #[arg(long, value_name = "FILE")]
    chart: Option<PathBuf>,
}

/// As `hash` in a configuration.
#[derive(Debug, Args)]
struct HashArgs {
    /// The part of the client that is hashed; with sni, each client requests its own name [default: source-ip]
    #[arg(long, value_parser = one_of(&HashKey::ALL, hash_key), value_name = "KEY")]
    hash_key: Option<HashKey>,
    /// No backend gets more than this times its share of the connections, such as 1.25; at least 1.01
    #[arg(long, value_name = "FACTOR", value_parser = factor)]
    load_factor: Option<Factor>,
    /// Slots on the ring of ring-hash
    #[arg(long, value_name = "NUMBER", value_parser = |text: &str| up_to(Hash::MOST_SLOTS, text))]
    slots: Option<NonZeroUsize>,
    /// Virtual nodes of a backend per unit of weight
    #[arg(long, value_name = "NUMBER", value_parser = |text: &str| up_to(Hash::MOST_VIRTUAL_NODES, text))]
    virtual_nodes: Option<NonZeroUsize>,
}

fn hash_key(key: &HashKey) -> PossibleValue {
    PossibleValue::new(key.name())
}

fn up_to(most: u64, text: &str) -> Result<NonZeroUsize, String> {
    let number = text.parse().ok().filter(|number: &NonZeroUsize| number.get() as u64 <= most);
    number.ok_or_else(|| format!("expected a number from 1 to {most}, not {text:?}"))
}

fn factor(text: &str) -> Result<Factor, String> {
    text.parse().ok().filter(|factor| Factor::RANGE.contains(factor)).ok_or_else(|| {
        let (least, most) = (Factor::RANGE.start().get(), Factor::RANGE.end().get());
        format!("a load factor is from {least} to {most} with at most two digits after the decimal point, such as 1.25, not {text:?}")
    })
}

impl HashArgs {
    /// A flag that no algorithm uses is an error, as in a configuration.
    fn check(&self, algorithms: &[Algorithm]) -> Result<(), Failure> {
        let names: Vec<_> = algorithms.iter().map(|algorithm| algorithm.name()).collect();
        let names = names.join(", ");
        let ring = [("--slots", self.slots.is_some()), ("--virtual-nodes", self.virtual_nodes.is_some())];
        if let Some((flag, _)) = ring.iter().find(|(_, given)| *given)
            && !algorithms.contains(&Algorithm::RingHash)
        {
            return Err(Failure::Invalid(format!(
                "{flag} does nothing with --balance {names}: only ring-hash has a ring"
            )));
        }
        let all = [("--hash-key", self.hash_key.is_some()), ("--load-factor", self.load_factor.is_some())];
        if let Some((flag, _)) = all.iter().find(|(_, given)| *given)
            && !algorithms.iter().any(|algorithm| algorithm.hashes())
        {
            return Err(Failure::Invalid(format!(
                "{flag} does nothing with --balance {names}: only source-hash, ring-hash and maglev hash"
            )));
        }
        Ok(())
    }

    fn over(&self, configured: Hash) -> Hash {
        Hash {
            key: self.hash_key.unwrap_or(configured.key),
            slots: self.slots.or(configured.slots),
            virtual_nodes: self.virtual_nodes.or(configured.virtual_nodes),
            load_factor: self.load_factor.or(configured.load_factor),
        }
    }
}

impl From<simulate::Error> for Failure {
    fn from(error: simulate::Error) -> Self {
        Self::Invalid(error.to_string())
    }
}

pub(super) fn run(args: &SimulateArgs) -> Result<Exit, Failure> {
    let format = args.chart.as_deref().map(chart::ImageFormat::of).transpose().map_err(Failure::Invalid)?;
    let pool = args.pool()?;
    let algorithms = args.algorithms(pool.as_ref());
    args.hash.check(&algorithms)?;
    let scenario = args.plan(pool.as_ref())?.scenario()?;
    let report = SimulationReport::new(&scenario, &algorithms);
    if let Some((path, format)) = args.chart.as_ref().zip(format) {
        write_chart(path, report.chart(format))?;
    }
    if args.json {
        let json = report
            .json()
            .map_err(|error| Failure::NotStarted(format!("the report cannot be written as JSON: {error}")))?;
        return print(&json);
    }
    print(&report.table())
}

impl SimulateArgs {
    fn plan(&self, pool: Option<&config::Pool>) -> Result<SimulationPlan, Failure> {
        Ok(SimulationPlan {
            backends: match pool {
                Some(pool) if self.backends.is_empty() => configured_backends(pool)?,
                _ => self.backends.clone(),
            },
            service: self.service.clone(),
            servers: self.servers.clone(),
            intensity: self.rate.or(self.load).unwrap_or(Intensity::Load(0.7)),
            arrivals: self.arrivals,
            clients: self.clients,
            until: self.duration.map_or(Until::Connections(self.connections.unwrap_or(100_000)), Until::Time),
            events: self.events()?,
            hash: self.hash.over(pool.map(|pool| pool.hash).unwrap_or_default()),
            seed: self.seed,
        })
    }

    fn algorithms(&self, pool: Option<&config::Pool>) -> Vec<Algorithm> {
        if !self.balance.is_empty() {
            return self.balance.clone();
        }
        // The default algorithm must use given weights.
        let weighted = self.backends.iter().any(|share| share.weight > 1);
        let usual = if weighted { Algorithm::Weighted } else { Algorithm::RoundRobin };
        vec![pool.map_or(usual, |pool| pool.balance)]
    }

    fn events(&self) -> Result<Vec<PlannedEvent>, Failure> {
        let event = |pair: &[String]| {
            let failed = |error| Failure::Invalid(format!("--at {}: {error}", pair.join(" ")));
            Ok(PlannedEvent {
                at: notation::time(&pair[0]).map_err(failed)?,
                changes: notation::changes(&pair[1]).map_err(failed)?,
            })
        };
        self.at.chunks_exact(2).map(event).collect()
    }

    fn pool(&self) -> Result<Option<config::Pool>, Failure> {
        let Some(path) = &self.config else { return Ok(None) };
        let mut pools = config::load(path)?.pools;
        let known: Vec<&str> = pools.keys().map(|name| &**name).collect();
        let name = match (&self.pool, &known[..]) {
            (Some(name), _) => name.clone(),
            (None, [only]) => (*only).to_owned(),
            (None, _) => {
                return Err(Failure::Invalid(format!(
                    "there are several pools: choose one with --pool {}",
                    known.join(" or ")
                )));
            }
        };
        let known = known.join(", ");
        let missing = || {
            Failure::Invalid(format!("there is no pool {name:?} in {}; there are {known}", path.display()))
        };
        pools.remove(&*name).ok_or_else(missing).map(Some)
    }
}

/// The backends of a pool, if its configuration lists them.
fn configured_backends(pool: &config::Pool) -> Result<Vec<BackendSpec>, Failure> {
    let mut primaries = Vec::new();
    for source in &pool.discover {
        let origin = match source {
            Source::Static(backends) => {
                // Backups get no connections while another backend is up.
                primaries.extend(backends.iter().filter(|backend| !backend.backup));
                continue;
            }
            Source::Dns(dns) => format!("by the name {}", dns.name),
            Source::Srv(srv) => format!("by the name {}", srv.name),
            Source::File(file) => format!("in the file {}", file.path.display()),
            Source::Docker(docker) => format!("by the label {}", docker.label),
            Source::Etcd(etcd) => format!("by the keys under {}", etcd.prefix),
            Source::Consul(consul) => format!("by the service {}", consul.service),
            Source::Kubernetes(kubernetes) => format!("by the Service {}", kubernetes.service),
        };
        return Err(Failure::Invalid(format!(
            "the pool discovers its backends {origin}, which a simulation cannot: list them, such as --backends 'a,b*2'"
        )));
    }
    let spec = |backend: &StaticBackend| BackendSpec { name: backend.name.clone(), weight: backend.weight };
    let Some(zone) = &pool.zone else { return Ok(primaries.into_iter().map(spec).collect()) };
    // Nor do backends of other zones while enough of the local zone are up.
    let (local, others): (Vec<_>, Vec<_>) =
        primaries.iter().copied().partition(|backend| zone.is_local(backend.zone.as_ref()));
    if local.is_empty() || others.is_empty() {
        return Ok(primaries.into_iter().map(spec).collect());
    }
    let names: Vec<_> = others.iter().map(|backend| &*backend.name).collect();
    let left_out = humanize::list(&names, SHOWN);
    eprintln!("left out, as in other zones than {}: {}", zone.name, sanitize::line(&left_out));
    Ok(local.into_iter().map(spec).collect())
}
