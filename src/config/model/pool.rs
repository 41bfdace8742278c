//! A pool: how a backend is chosen, connected to, and taken out.

use std::net::IpAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use super::super::check;
use super::super::keys::{Useless, WordEnum, settings, words};
use super::super::kind::{Kind, one_or_list, optional, or_off, shorthand, table, word};
use super::super::scalar::{MOST, factor, flag, interval, share, time, time_within, whole};
use super::super::value::{ip_address, policy, rate, shadow, zone_name};
use super::{
    Backup, Buffers, Check, Health, KEEPALIVE, Rate, RateUnit, Replicas, Source, USER_TIMEOUT,
    ZonePreference, sources,
};
pub use crate::domain::Algorithm;
use crate::domain::{Client, Ending, SocketAddress};
pub use crate::protocol::proxy_header::ProxyVersion;

settings! {
    /// A pool (`pools.NAME`).
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Pool: Default, needs ("anyOf", &["discover", "replicas"]), useless Pool::useless, check check::pool {
        /// How a backend is chosen. round-robin: in rotation; weighted: in rotation in proportion to its weight, spread
        /// out smoothly; least-connections: the fewest open connections for its weight; random: drawn at random in
        /// proportion to its weight; random-two: the less loaded of two drawn at random; ewma: of two, the one that answers
        /// sooner for its load; source-hash, ring-hash and maglev: by the client's address.
        balance: Algorithm => word(), default Algorithm::RoundRobin;
        /// What the client is recognized by.
        hash: Hash => table(), absent Hash::default(), only "with source-hash, ring-hash and maglev";
        /// Algorithms that choose too and are only counted, so that their choices can be compared: a list, true for all
        /// but ewma, or false. Each chooses once more for each connection.
        shadow: Vec<Algorithm> => shadow(), default Vec::new();
        /// Where the backends come from, as many sources as needed; if two report the same address, the first one here
        /// sets its name, weight and the rest. Not needed next to replicas, which are backends themselves.
        discover: Vec<Source> => sources(), absent Vec::new();
        /// Active checks, one or a list of which all must pass. Absent: a backend is up as soon as it is found.
        health: Vec<Health> => one_or_list(table(), "leave it out to do without checks"), absent Vec::new();
        /// Backends that Pointsman itself starts and stops, as containers of a Docker engine; they outlive it and are
        /// found again. Absent: none.
        replicas: Option<Replicas> => optional(table()), absent None;
        /// When a backend is taken out because live connections to it fail. Absent: never.
        eject: Option<Eject> => optional(table()), absent None;
        /// When a smaller share than this is up, all backends are used; 0%: never.
        panic: Percent => share(Percent(0)), default Percent(0);
        /// How a backend is connected to.
        connect: Connect => table(), absent Connect::default();
        /// Which clients are connected to another backend if theirs accepts the connection and ends it before its first
        /// byte. harmless: those that have asked for nothing yet, as they have sent nothing, a ClientHello, or the first
        /// message of a PostgreSQL client. always: all that have sent at most 16 KiB, for services in which a request may be
        /// carried out twice. never: none.
        replay: Replay => word(), default Replay::Harmless;
        /// Moves long-lived connections to backends with fewer, such as one that has come up: idle connections of the others
        /// are closed, one by one, and their clients connect again. Absent: connections stay where they are.
        rebalance: Option<Rebalance> => optional(table()), absent None, only "with algorithms that do not hash";
        /// When a connection is given up.
        timeouts: Timeouts => table(), absent Timeouts::default();
        /// Idle time before TCP keepalive probes to the backends, and to the clients of listeners without a setting of
        /// their own, in whole seconds (TCP_KEEPIDLE); a peer that has vanished is found 30 s later.
        keepalive: Option<Duration> => or_off(time_within(KEEPALIVE[0]..=KEEPALIVE[1])),
            default Some(Duration::from_secs(60));
        /// How long data sent to a backend may stay unacknowledged, or unread in a full window, before the kernel ends
        /// the connection (TCP_USER_TIMEOUT, RFC 5482). It also cuts off a backend that is there and does not read.
        user_timeout: Option<Duration> => or_off(time_within(USER_TIMEOUT[0]..=USER_TIMEOUT[1])), default None;
        /// How many bytes may wait in the kernel for one of its backends.
        buffers: Buffers => table(), absent Buffers::default();
        /// How much load a backend may carry, and how many clients may wait for it.
        limits: Limits => table(), absent Limits::default();
        /// When its backups are used: backends with `backup: true`, or with a higher priority number in SRV records.
        backup: Backup => table(), absent Backup::default();
        /// The zone in which this Pointsman runs, or more than that: backends of other zones are used only while too few
        /// of this one are up, and for connections that fail or find no room here. A backend without a zone counts as one
        /// of this zone. Absent: zones do not matter.
        zone: Option<ZonePreference> => optional(shorthand(zone_name(), ZonePreference::new)), absent None,
            example "eu-1a";
        /// How long a backend that came up takes to get its whole share; 0s: it gets it at once.
        slow_start: Duration => time(), default Duration::ZERO, only "with algorithms that do not hash";
        /// Sends a PROXY header to the backends before the client's bytes, with the client's address: its version, or
        /// more than that. Health checks send one too, except to a port of their own. Absent: none.
        send_proxy_protocol: Option<SendProxyProtocol> => optional(send_proxy_protocol()), absent None,
            only "for backends that expect it";
        /// Its backends are PostgreSQL servers: all of them get a request to cancel a query (Ctrl-C in psql), which does not
        /// tell which server has the session. Not needed with a postgres check.
        postgres: bool => flag(), absent false, example "true", only "for PostgreSQL whose checks are of another kind";
        /// What happens to the connections of a backend whose checks fail.
        on_down: Policy => policy(), default Policy::Keep;
        /// What happens to the connections of a backend that left discovery.
        on_leave: Policy => policy(),
            default Policy::End { how: Ending::Close, after: Duration::ZERO, over: Duration::from_secs(300) };
        /// What happens to the connections of a backend that an operator drains.
        on_drain: Policy => policy(), default Policy::Keep;
    }
}

impl Pool {
    /// A pool with the defaults.
    pub fn new(discover: Vec<Source>) -> Self {
        Self { discover, ..Self::default() }
    }

    /// Whether clients are hashed, for its algorithm or for one that is only counted.
    pub fn hashes(&self) -> bool {
        self.balance.hashes() || self.shadow.iter().any(|shadow| shadow.hashes())
    }

    /// Whether its backends are PostgreSQL servers, as its key or its checks tell.
    pub fn is_postgres(&self) -> bool {
        self.postgres || self.health.iter().any(|health| matches!(health.check, Check::Postgres(_)))
    }

    /// Whether the server name that a TLS client asks for is needed to choose a backend or for the backend's PROXY header.
    pub fn uses_server_name(&self) -> bool {
        self.hashes() && self.hash.key == HashKey::Sni
            || self.send_proxy_protocol.is_some_and(|header| header.authority)
    }

    fn useless(&self, key: &str) -> Useless {
        let balance = self.balance.name();
        let why = match key {
            "hash" if !self.balance.hashes() => {
                format!("{balance} does not hash; source-hash, ring-hash and maglev do")
            }
            "slow_start" if self.balance.hashes() && !self.slow_start.is_zero() => {
                format!("with {balance}, a weight that grows would move clients again and again")
            }
            "rebalance" if self.balance.hashes() && self.rebalance.is_some() => {
                format!("with {balance}, a client that connects again gets the same backend")
            }
            _ => return None,
        };
        Some(("balance", why))
    }
}

settings! {
    /// The PROXY header that backends receive (`send_proxy_protocol`).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct SendProxyProtocol: new, useless SendProxyProtocol::useless {
        /// The version. Version 2 passes on the TLVs of a header that came in.
        version: ProxyVersion => word(), required "v2";
        /// Adds the server name that a TLS client asks for (SNI; PP2_TYPE_AUTHORITY), unless a header that came in has
        /// one. The ClientHello is read for it.
        authority: bool => flag(), default false, only "with version v2";
        /// Adds an identifier of the connection (PP2_TYPE_UNIQUE_ID), unless a header that came in has one: a random
        /// number of the worker that relays it, a hyphen, and the number that it has in the log (conn).
        unique_id: bool => flag(), default false, only "with version v2";
    }
}

impl SendProxyProtocol {
    fn useless(&self, key: &str) -> Useless {
        let adds = match key {
            "authority" => self.authority,
            "unique_id" => self.unique_id,
            _ => return None,
        };
        (adds && self.version == ProxyVersion::V1)
            .then(|| ("version", "a header of version v1 has no TLVs".to_owned()))
    }
}

fn send_proxy_protocol() -> Kind<SendProxyProtocol> {
    shorthand(word(), SendProxyProtocol::new)
}

impl WordEnum for ProxyVersion {
    const WORDS: &'static [(&'static str, Self)] = &[("v1", Self::V1), ("v2", Self::V2)];
}

impl WordEnum for Algorithm {
    const WORDS: &'static [(&'static str, Self)] = &{
        let mut words = [("", Self::RoundRobin); Self::ALL.len()];
        let mut index = 0;
        while index < words.len() {
            words[index] = (Self::ALL[index].name(), Self::ALL[index]);
            index += 1;
        }
        words
    };
}

settings! {
    /// What hashing algorithms hash, and how (`hash`).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Hash: Default {
        /// What of the client is hashed: its address, its address and port (connections of one client are spread), or
        /// its network (the first 24 bits of an IPv4 address, 64 of an IPv6 address); with sni, the server name that a
        /// TLS client asks for, and its address if it names none.
        key: HashKey => word(), default HashKey::SourceIp;
        /// Slots on the ring of ring-hash; a virtual node that finds its slot taken gets the next free one. Absent: as
        /// many as there are 64-bit numbers.
        slots: Option<NonZeroUsize> => optional(whole(1..=Hash::MOST_SLOTS)), absent None, example "512";
        /// How often a backend stands on the ring of ring-hash for each unit of its weight. Absent: 160, or with slots
        /// the logarithm of their number.
        virtual_nodes: Option<NonZeroUsize> => optional(whole(1..=Hash::MOST_VIRTUAL_NODES)), absent None,
            example "9";
        /// No backend gets more connections than this times its share; its clients return when there is room. Absent:
        /// no bound.
        load_factor: Option<Factor> => optional(factor()), absent None, example "1.25";
    }
}

impl Hash {
    /// The maximum of `slots`: the table is read for each connection and should fit into a CPU cache.
    pub const MOST_SLOTS: u64 = 1 << 20;
    /// The maximum of `virtual_nodes`: more would not make the shares noticeably more equal, even for a single backend.
    pub const MOST_VIRTUAL_NODES: u64 = 10_000;
}

words! {
    /// What of the client is hashed (`hash.key`).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum HashKey {
        /// Its address.
        SourceIp = "source-ip",
        /// Its address and port: connections of one client are spread.
        SourceIpPort = "source-ip-port",
        /// Its network: the first 24 bits of an IPv4 address, the first 64 of an IPv6 address.
        SourceNet = "source-net",
        /// The server name that a TLS client asks for, and its address if it names none.
        Sni = "sni",
    }
}

/// A number with two digits after the decimal point, in hundredths: 125 is 1.25.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Factor(pub u32);

impl Factor {
    /// The allowed factors of a share: below, a backend is full as soon as it has its share; above, none is ever full.
    pub const RANGE: RangeInclusive<Self> = Self(101)..=Self(10_000);

    /// As a number.
    pub fn get(self) -> f64 {
        f64::from(self.0) / 100.0
    }
}

impl FromStr for Factor {
    type Err = String;

    /// Reads a plain number with at most two digits after the decimal point.
    fn from_str(text: &str) -> Result<Self, String> {
        let (whole, rest) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let hundredths = || {
            let whole = whole.parse::<u32>().ok()?.checked_mul(100)?;
            whole.checked_add(format!("{rest:0<2}").parse().ok()?)
        };
        let valid = digits(whole) && digits(rest) && rest.len() <= 2;
        let number = if valid { hundredths() } else { None };
        number
            .map(Self)
            .ok_or_else(|| "it is a number with at most two digits after the decimal point".to_owned())
    }
}

/// A share, from 0 to 100 percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percent(pub u8);

impl Percent {
    /// The whole part of this share of `n`.
    pub fn of(self, n: usize) -> usize {
        n.saturating_mul(self.0.into()) / 100
    }
}

settings! {
    /// When a backend is taken out because live connections to it fail (`eject`).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Eject: Default, check check::eject {
        /// So many connections in a row failed to open, or were reset before any answer; off: failures do not eject.
        /// Requests that the server refuses by a reset count too; `at_most` bounds the harm.
        failures: Option<NonZeroU32> => or_off(whole(1..=MOST)), default NonZeroU32::new(5);
        /// How long it stays out the first time; each time it comes back and fails again, so much longer.
        period as "for": Duration => interval(), default Duration::from_secs(30);
        /// No more than this share of those whose checks pass is out at once, rounded down: of two, 40% is none.
        at_most: Percent => share(Percent(1)), default Percent(50);
        /// Take out a backend that answers much more slowly than the others. Absent: slowness does not eject.
        slow: Option<Slow> => optional(table()), absent None;
    }
}

settings! {
    /// When a backend that answers is too slow (`eject.slow`): its median time to the first byte is compared with the
    /// median of the pool.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Slow: Default {
        /// Its median time to the first byte is more than this times the pool's.
        factor: Factor => factor(), default Factor(300);
        /// And more than this.
        floor: Duration => time(), default Duration::from_millis(100);
        /// It gave at least so many answers since the last comparison.
        answers: NonZeroU32 => whole(1..=MOST), default NonZeroU32::new(20).unwrap_or(NonZeroU32::MIN);
        /// Time from one comparison to the next.
        every: Duration => interval(), default Duration::from_secs(10);
    }
}

settings! {
    /// Which connections are moved to backends with fewer (`rebalance`).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Rebalance: Default {
        /// Only connections over which no byte was relayed for this long are closed. A request that is being served for
        /// longer looks idle too: choose more than the longest one takes. A client that sends just then sees a closed
        /// connection, as with any server that closes idle ones.
        idle: Duration => interval(), default Duration::from_secs(60);
        /// At most so many are closed, of all backends together.
        rate: Rate => rate(), default Rate { count: NonZeroU32::MIN, per: RateUnit::Second };
        /// A backend keeps its connections while it has no more than this above its share.
        tolerance: Percent => share(Percent(0)), default Percent(10);
        /// Closes none, and only logs how many it would close.
        dry_run: bool => flag(), default false;
    }
}

settings! {
    /// How a backend is connected to (`connect`).
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Connect: Default {
        /// Time for one attempt.
        timeout: Duration => interval(), default Duration::from_secs(1);
        /// Different backends that are tried before the failure becomes visible to the client.
        attempts: u32 => whole(1..=100), default 3;
        /// The address of this machine that connections to backends come from; of a list, one at random. Each has
        /// all ports of net.ipv4.ip_local_port_range for each backend. Health checks come from the first one. Absent, and
        /// for backends of another address family: the kernel chooses.
        source: Vec<IpAddr> => one_or_list(ip_address(), "leave it out to let the kernel choose"), absent Vec::new(),
            example "[10.0.0.5, 10.0.0.6]", only "on a machine with these addresses";
        /// Connections to backends come from the client's address (IP_TRANSPARENT), if it is of the backend's address
        /// family. It needs the capability CAP_NET_ADMIN, and routes that bring the backend's packets for these addresses
        /// back to this machine. Health checks come from source.
        transparent: bool => flag(), default false;
    }
}

impl Connect {
    /// The source address of a connection of `client` to `backend`, one of several at random; `None`: the kernel chooses.
    pub fn source_for(
        &self,
        client: Client,
        backend: &SocketAddress,
        random: impl FnOnce() -> u64,
    ) -> Option<SourceAddress> {
        if let (true, Client::Tcp(client), Some(backend)) = (self.transparent, client, backend.tcp())
            && client.is_ipv4() == backend.is_ipv4()
        {
            return Some(SourceAddress::Client(client.ip()));
        }
        let mut usable = usable_sources(&self.source, backend);
        let index = match usable.clone().count() {
            0 => return None,
            1 => 0,
            count => (random() % count as u64) as usize,
        };
        usable.nth(index).map(SourceAddress::Own)
    }
}

/// The address that a connection to a backend comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceAddress {
    /// One of this machine's (`connect.source`).
    Own(IpAddr),
    /// The client's (`connect.transparent`).
    Client(IpAddr),
}

impl SourceAddress {
    /// The IP address.
    pub fn ip(self) -> IpAddr {
        match self {
            Self::Own(ip) | Self::Client(ip) => ip,
        }
    }
}

/// The addresses of `sources` that a connection to `backend` can come from: those of its address family.
pub fn usable_sources(sources: &[IpAddr], backend: &SocketAddress) -> impl Iterator<Item = IpAddr> + Clone {
    let is_ipv4 = backend.tcp().map(|backend| backend.is_ipv4());
    sources.iter().copied().filter(move |source| Some(source.is_ipv4()) == is_ipv4)
}

settings! {
    /// When a connection is given up (`timeouts`); `None`: never.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Timeouts: Default {
        /// No byte in either direction for this long: both sides get a FIN, or a reset if one has finished.
        idle: Option<Duration> => or_off(interval()), default Some(Duration::from_secs(3600));
        /// One side has finished and nothing has moved for this long: both sides get a reset.
        half_closed: Option<Duration> => or_off(interval()), default Some(Duration::from_secs(60));
        /// Maximum age of a connection, however busy it is: both sides get a reset.
        lifetime: Option<Duration> => or_off(interval()), default None;
    }
}

settings! {
    /// How much load a backend may carry, and how many clients may wait for it (`limits`).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Limits: Default {
        /// Connections to one backend at once, unless it has a limit of its own; 0: no limit.
        connections: Option<NonZeroU32> => no_limit(), default None;
        /// Clients that may wait for a free connection, for each backend that is up; further ones are refused.
        queue: u32 => whole(0..=MOST), default 0;
        /// How long a client waits before it is refused.
        queue_timeout: Duration => interval(), default Duration::from_secs(5);
    }
}

words! {
    /// What is sent to another backend (`replay`).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Replay {
        /// What asks for nothing yet.
        Harmless = "harmless",
        /// Everything.
        Always = "always",
        /// Nothing.
        Never = "never",
    }
}

/// A limit; zero means no limit.
fn no_limit() -> Kind<Option<NonZeroU32>> {
    whole(0..=MOST).map(NonZeroU32::new, |limit: &Option<NonZeroU32>| limit.map_or(0, NonZeroU32::get))
}

/// What happens to the connections of a backend that is taken out (`on_down`, `on_leave`, `on_drain`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// They continue.
    Keep,
    /// They end.
    End {
        /// By an orderly close or by a reset.
        how: Ending,
        /// Not before this delay; a backend that is back by then keeps its connections.
        after: Duration,
        /// Zero: at once. Else they are ended one by one, spread evenly over this time, so that the clients
        /// do not all come back in the same instant.
        over: Duration,
    },
}
