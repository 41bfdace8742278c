//! Listeners: `listeners.NAME`.

use std::fmt;
use std::num::{NonZeroU16, NonZeroU32, NonZeroU64};
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use litemap::LiteMap;

use super::super::check;
use super::super::keys::{Beside, Useless, settings, words};
use super::super::kind::{one_or_list, optional, or_off, table, word};
use super::super::scalar::{MOST, byte_rate, file_mode, flag, interval, time_within, whole};
use super::super::value::{bind, by_network, by_protocol, by_server_name, network_block, pool_shares, rate};
use super::{Buffers, Pool, PoolShares};
use crate::domain::SocketAddress;

settings! {
    /// A listener (`listeners.NAME`).
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Listener, needs ("anyOf", &["pool", "sources", "alpn", "sni"]), useless Listener::useless,
        check check::listener
    {
        /// Where it accepts, one address or a list: `0.0.0.0:8080`, `[::]:8080` (every IPv4 and IPv6 address), `:8080`
        /// (every IPv4 address) or `unix:/path`.
        bind: Vec<SocketAddress> => one_or_list(bind(), "at least one address is needed"), absent Vec::new(),
            required "0.0.0.0:8080";
        /// The pool that its connections go to, or several with the share of each: `{web: 95, canary: 5}`.
        pool: Option<PoolShares> => optional(pool_shares()), absent None, example "web";
        /// Pools by the client's network; the most specific one takes precedence. Compared before alpn and sni, which are
        /// then not needed.
        sources: LiteMap<IpNet, PoolShares> => by_network(), absent LiteMap::new(),
            example "{10.1.0.0/16: web}", only "instead of pool";
        /// Pools by the application protocols in a TLS client's ALPN extension, in the client's order. The connection is
        /// passed on as it is. Compared before sni.
        alpn: LiteMap<Arc<str>, PoolShares> => by_protocol(), absent LiteMap::new(),
            example "{acme-tls/1: web}", only "instead of pool";
        /// Pools by the server name that a TLS client asks for (SNI); the connection is passed on as it is. A name takes
        /// precedence over a pattern such as *.example.com, which matches any name that ends so, and a longer pattern
        /// over a shorter one.
        sni: LiteMap<Arc<str>, PoolShares> => by_server_name(), absent LiteMap::new(),
            example "{api.example.com: web, \"*.example.com\": web}", only "instead of pool";
        /// The pool of connections that match none of sources, alpn and sni, those without TLS included. Absent: they
        /// are refused.
        default: Option<PoolShares> => optional(pool_shares()), absent None, example "web",
            only "with sources, alpn or sni";
        /// Its clients speak PostgreSQL's protocol: their request for TLS, which precedes the ClientHello, is answered, and
        /// the backend is asked likewise. Backends must offer TLS.
        postgres: bool => flag(), absent false, example "true", only "with alpn, sni, or a pool that uses the server name";
        /// How long a connection may take to send its whole ClientHello, where that is read; one that sends no byte then
        /// belongs to the default. Absent: 5s.
        hello_timeout: Option<Duration> => optional(time_within(HELLO_TIMEOUT)), absent None, example "5s",
            only "with alpn, sni, or a pool that uses the server name";
        /// What forwards the bytes. user: this process; kernel: the kernel's packet filter (nftables), which costs this
        /// process nothing for each byte, and whose connections outlive it; a setting that it cannot apply is an error; auto:
        /// the kernel if it can apply all settings, and this process otherwise.
        plane: PlaneChoice => word(), default PlaneChoice::User;
        /// Which address the backends see as that of the client: this machine's, as without the kernel, or (keep) the
        /// client's. Then the backends' packets to the clients must pass through this machine: it is their router.
        client_address: ClientAddress => word(), default ClientAddress::Masquerade, only "with plane: kernel or auto";
        /// Which events of forwarded connections conntrack reports. few: what Pointsman needs; all: what other programs need
        /// besides, such as conntrackd, which sends the connections to another machine.
        conntrack_events: ConntrackEvents => word(), default ConntrackEvents::Few, only "with plane: kernel or auto";
        /// What a client gets when no backend is up: a TCP reset, an orderly close, an HTTP 503, or (refuse) a refused
        /// connect, as nothing listens until a backend is up.
        no_backend: NoBackend => word(), default NoBackend::Reset;
        /// Connections at once; further ones are reset. Absent: no limit of its own.
        max_connections: Option<usize> => optional(whole(1..=u64::MAX)), absent None, example "10000";
        /// Admits only clients of these networks, one or a list, and resets all other clients. Clients of Unix sockets
        /// have no address and are always admitted. Absent: every client is admitted.
        allow: Vec<IpNet> => one_or_list(network_block(), "leave it out to admit every client"), absent Vec::new(),
            example "[10.0.0.0/8, \"2001:db8::/32\"]", only "for TCP addresses";
        /// Resets clients of these networks, one or a list. It takes precedence over allow. Absent: none.
        deny: Vec<IpNet> => one_or_list(network_block(), "leave it out to admit every client"), absent Vec::new(),
            example "[10.6.6.0/24]", only "for TCP addresses";
        /// Limits for each client; connections over a limit are reset. A client is an IPv4 address or the /64 network of
        /// an IPv6 address. Absent: no limit.
        per_client: Option<PerClient> => optional(table()), absent None, only "for TCP addresses";
        /// Limits the bytes per second, in each direction. Absent: no limit.
        bandwidth: Option<Bandwidth> => optional(table()), absent None;
        /// How many bytes may wait in the kernel for one of its clients.
        buffers: Buffers => table(), absent Buffers::default(), only "for TCP addresses";
        /// Reads the PROXY header (version 1 or 2) that a proxy in front sends first. The client's address in it is used
        /// for the log, hashing, allow, deny and per_client. Absent: no header is expected.
        proxy_protocol: Option<ProxyProtocol> => optional(table()), absent None, only "behind proxies that send it";
        /// Options of its TCP sockets.
        options: SocketOptions => Beside, absent SocketOptions::NONE;
        /// The mode of the sockets at Unix paths, in octal and in quotes, whatever the umask; a user that may write to
        /// one may connect. Absent: "0660", the user and its group.
        socket_mode: SocketMode => file_mode(), absent SocketMode::default(), example "\"0660\"",
            only "for unix: paths";
    } also {
        /// Whether the ClientHello of a connection is read: a rule or the hash of a pool needs it.
        reads_hello: bool = false;
    }
}

impl Listener {
    /// A listener with the defaults, in front of the pool with that name and those settings.
    pub fn new(bind: SocketAddress, pool: Arc<str>, settings: &Pool) -> Self {
        Self {
            bind: vec![bind],
            pool: Some(PoolShares::one(pool)),
            sources: LiteMap::new(),
            alpn: LiteMap::new(),
            sni: LiteMap::new(),
            default: None,
            postgres: false,
            hello_timeout: None,
            plane: PlaneChoice::User,
            client_address: ClientAddress::Masquerade,
            conntrack_events: ConntrackEvents::Few,
            no_backend: NoBackend::Reset,
            max_connections: None,
            allow: Vec::new(),
            deny: Vec::new(),
            per_client: None,
            bandwidth: None,
            buffers: Buffers::default(),
            proxy_protocol: None,
            options: SocketOptions::new(settings),
            socket_mode: SocketMode::default(),
            reads_hello: false,
        }
    }

    /// Whether the pool of a connection depends on its client.
    pub fn has_rules(&self) -> bool {
        !(self.sources.is_empty() && self.alpn.is_empty() && self.sni.is_empty())
    }

    /// The names of its pools, those of share 0 included; a name may occur more than once.
    pub fn pools(&self) -> impl Iterator<Item = &Arc<str>> {
        let targets = self.pool.iter().chain(&self.default);
        let targets = targets.chain(self.sources.values()).chain(self.alpn.values()).chain(self.sni.values());
        targets.flat_map(|shares| shares.iter().map(|(pool, _)| pool))
    }

    fn useless(&self, key: &str) -> Useless {
        let unix = |address: &SocketAddress| matches!(address, SocketAddress::Unix(_));
        let of_kernel = match key {
            "client_address" => {
                Some((self.client_address != ClientAddress::Masquerade, "only the kernel can keep it"))
            }
            "conntrack_events" => Some((
                self.conntrack_events != ConntrackEvents::Few,
                "conntrack reports forwarded connections only",
            )),
            _ => None,
        };
        if let Some((is_set, why)) = of_kernel {
            let none = is_set && self.plane == PlaneChoice::User;
            return none.then(|| ("plane", format!("{why}; write `plane: kernel`")));
        }
        let SocketOptions { keepalive, defer_accept, fast_open, user_timeout, backlog } = self.options;
        let for_tcp = match key {
            "socket_mode" => {
                let none = !self.bind.iter().any(unix);
                return none.then(|| ("bind", "it has no Unix path".to_owned()));
            }
            "allow" => !self.allow.is_empty() && self.proxy_protocol.is_none(),
            "deny" => !self.deny.is_empty() && self.proxy_protocol.is_none(),
            "per_client" => self.per_client.is_some() && self.proxy_protocol.is_none(),
            "buffers" => self.buffers != Buffers::default(),
            "keepalive" => keepalive.is_some(),
            "defer_accept" => defer_accept.is_some(),
            "fast_open" => fast_open.is_some(),
            "user_timeout" => user_timeout.is_some(),
            "backlog" => backlog != SocketOptions::NONE.backlog,
            _ => false,
        };
        let none = for_tcp && self.bind.iter().all(unix);
        none.then(|| ("bind", "it has no TCP address".to_owned()))
    }
}

/// Longer, connections that send nothing would fill the listener.
const HELLO_TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(300);
/// The kernel counts it in whole seconds and takes no more than 32767 of them (tcp(7), `TCP_KEEPIDLE`).
pub(super) const KEEPALIVE: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(9 * 3600)];
/// The kernel counts it in whole seconds, and in SYN-ACKs: seven take two minutes, and no client waits longer.
const DEFER_ACCEPT: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(120)];
/// Below the minimum, one lost segment and its retransmission (RFC 6298) would end a healthy connection. A client does
/// not wait for more than a day.
pub(super) const USER_TIMEOUT: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(24 * 3600)];

settings! {
    /// Options of a listener's TCP sockets, as tcp(7) has them. They hold for connections that are accepted after they
    /// are set. A Unix socket has none of them.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct SocketOptions {
        /// Idle time before TCP keepalive probes to the clients, in whole seconds (TCP_KEEPIDLE). Absent: the pool's, or
        /// 60s if it has several that differ.
        keepalive: Option<Duration> => or_off(time_within(KEEPALIVE[0]..=KEEPALIVE[1])), absent None, example "60s";
        /// How long the kernel holds back a connection whose client is silent (TCP_DEFER_ACCEPT); it counts SYN-ACKs,
        /// and so rounds up to 1, 3, 7, 15, 31, 63 or 127 s. Not for services that speak first, such as SMTP, MySQL or
        /// SSH: their clients would wait for as long.
        defer_accept: Option<Duration> => or_off(time_within(DEFER_ACCEPT[0]..=DEFER_ACCEPT[1])), default None;
        /// How many connections on the socket of one worker may bring data in their SYN, before the handshake is
        /// complete (TCP_FASTOPEN, RFC 7413). net.ipv4.tcp_fastopen must have the bit 2. Only for services that can
        /// bear to get the first data of a connection twice.
        fast_open: Option<NonZeroU16> => or_off(whole(1..=u16::MAX.into())), default None;
        /// How long sent data may stay unacknowledged, or unread in a full window, before the kernel ends the
        /// connection (TCP_USER_TIMEOUT, RFC 5482). It also cuts off a client that is there and does not read, and
        /// replaces the number of keepalive probes.
        user_timeout: Option<Duration> => or_off(time_within(USER_TIMEOUT[0]..=USER_TIMEOUT[1])), default None;
        /// Connections that the kernel completes and holds on the socket of one worker until they are accepted (listen(2));
        /// it drops the SYN of further ones, which retry after a second. The kernel cuts it down to net.core.somaxconn.
        backlog: u16 => whole(1..=u16::MAX.into()), default SocketOptions::NONE.backlog;
    }
}

impl SocketOptions {
    /// The options of a new socket. `backlog` is the default of net.core.somaxconn since Linux 5.4: room for a burst
    /// between two turns of a worker.
    pub const NONE: Self =
        Self { keepalive: None, defer_accept: None, fast_open: None, user_timeout: None, backlog: 4096 };

    /// The defaults in front of a pool with these settings: clients get the same keepalive as backends.
    pub fn new(pool: &Pool) -> Self {
        Self { keepalive: pool.keepalive, ..Self::NONE }
    }
}

settings! {
    /// The limits for each client of a listener (`per_client`).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct PerClient: Default, check check::per_client {
        /// Maximum open connections. Absent: no limit.
        connections: Option<NonZeroU32> => optional(whole(1..=MOST)), absent None, example "100";
        /// Maximum new connections per second (s), minute (m) or hour (h). Absent: no limit.
        rate: Option<Rate> => optional(rate()), absent None, example "10/s";
        /// Size of the token bucket: how many connections may come at once after a pause. Absent: the number in rate.
        burst: Option<NonZeroU32> => optional(whole(1..=MOST)), absent None, example "20", with "rate";
        /// Admits connections over a limit, and only counts them (and logs them at the level debug).
        dry_run: bool => flag(), default false;
    }
}

impl PerClient {
    /// How many connections may come at once after a pause.
    pub fn burst_size(&self) -> u32 {
        self.burst.or(self.rate.map(|rate| rate.count)).map_or(1, NonZeroU32::get)
    }
}

settings! {
    /// The bandwidth limits of a listener, in each direction (`bandwidth`).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Bandwidth: Default, check check::bandwidth {
        /// Maximum bytes per second of each connection. Absent: no limit.
        per_connection: Option<ByteRate> => optional(byte_rate()), absent None, example "10MiB/s";
        /// Maximum bytes per second of all connections together, which take turns. Absent: no limit.
        total: Option<ByteRate> => optional(byte_rate()), absent None, example "100MiB/s";
    }
}

/// Bytes per second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteRate(pub NonZeroU64);

impl ByteRate {
    /// Below, a handshake of TLS would take seconds.
    pub const LEAST: Self = Self(NonZeroU64::new(1024).unwrap());
}

/// A number per unit of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many in each `per`.
    pub count: NonZeroU32,
    /// The unit of time.
    pub per: RateUnit,
}

words! {
    /// The unit of time of a rate.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum RateUnit {
        /// A second.
        Second = "s",
        /// A minute.
        Minute = "m",
        /// An hour.
        Hour = "h",
    }
}

impl Rate {
    /// How many in a second.
    pub fn per_second(self) -> f64 {
        let seconds = match self.per {
            RateUnit::Second => 1.0,
            RateUnit::Minute => 60.0,
            RateUnit::Hour => 3600.0,
        };
        f64::from(self.count.get()) / seconds
    }

    /// The maximum of `count`.
    pub const MOST: u32 = 1_000_000;

    /// The interval between connections at this rate.
    pub fn interval(self) -> Duration {
        let seconds = match self.per {
            RateUnit::Second => 1,
            RateUnit::Minute => 60,
            RateUnit::Hour => 3600,
        };
        Duration::from_secs(seconds) / self.count.get()
    }
}

impl FromStr for Rate {
    type Err = String;

    /// Reads a number and a unit, such as `10/s`.
    fn from_str(text: &str) -> Result<Self, String> {
        let read = || {
            let (count, unit) = text.split_once('/')?;
            let digits = count.bytes().all(|byte| byte.is_ascii_digit());
            let count =
                count.parse().ok().filter(|count: &NonZeroU32| digits && count.get() <= Self::MOST)?;
            Some(Self { count, per: RateUnit::ALL.into_iter().find(|per| per.name() == unit)? })
        };
        read().ok_or_else(|| {
            format!("must be a number from 1 to {} per s, m or h, such as 10/s or 600/m", Self::MOST)
        })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.count, self.per.name())
    }
}

settings! {
    /// The PROXY header that a listener expects (`proxy_protocol`).
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct ProxyProtocol: new {
        /// The networks of the proxies in front, one or a list. Connections from other addresses are reset; those over
        /// Unix sockets are trusted.
        trust: Vec<IpNet> => one_or_list(network_block(), "name the proxies in front"), absent Vec::new(),
            required "[10.0.0.0/8]";
        /// How long a connection may take to send the whole header.
        timeout: Duration => interval(), default Duration::from_secs(5);
    }
}

words! {
    /// What forwards a listener's bytes (`plane`).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum PlaneChoice {
        /// This process.
        User = "user",
        /// The kernel.
        Kernel = "kernel",
        /// The kernel if it can, and this process otherwise.
        Auto = "auto",
    }
}

words! {
    /// Which address the backends of a forwarded connection see (`client_address`).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum ClientAddress {
        /// The client's.
        Keep = "keep",
        /// This machine's.
        Masquerade = "masquerade",
    }
}

words! {
    /// Which events of a forwarded connection conntrack reports (`conntrack_events`).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum ConntrackEvents {
        /// That its backend has answered, that its mark has changed, and that it is gone.
        Few = "few",
        /// Its states of TCP, too.
        All = "all",
    }
}

words! {
    /// What a client gets when no backend is up (`no_backend`).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum NoBackend {
        /// A TCP reset.
        Reset = "reset",
        /// An orderly close.
        Close = "close",
        /// An HTTP/1.1 `503 Service Unavailable`.
        Http503 = "http-503",
        /// Nothing listens until a backend is up: the client's connect is refused.
        Refuse = "refuse",
    }
}

/// The mode of a Unix socket's file, whatever the umask: a process that may write to it may connect (unix(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketMode(pub u32);

impl Default for SocketMode {
    /// Pointsman's user and group.
    fn default() -> Self {
        Self(0o660)
    }
}

impl fmt::Display for SocketMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}
