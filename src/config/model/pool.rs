//! A pool: how a backend is chosen, connected to, and taken out.

use std::num::{NonZeroU32, NonZeroUsize};
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use super::{Health, Replicas, Source};
use crate::domain::Ending;

/// A pool (`pools.NAME`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// How a backend is chosen.
    pub balance: Algorithm,
    /// What the algorithms hash that do.
    pub hash: Hash,
    /// Algorithms that choose too and are only counted, to be compared; empty: none.
    pub shadow: Vec<Algorithm>,
    /// Where the backends come from; never empty. Where two sources know the same address, the first one here tells the
    /// name, the weight and the rest.
    pub discover: Vec<Source>,
    /// Active checks, all of which must pass; empty: a backend is up as soon as it is found.
    pub health: Vec<Health>,
    /// When a backend is taken out for what live connections meet; `None`: never.
    pub eject: Option<Eject>,
    /// When a smaller share than this is up, all are used; zero: never.
    pub panic: Percent,
    /// How a backend is connected to.
    pub connect: Connect,
    /// When a connection is given up.
    pub timeouts: Timeouts,
    /// Idle time before a backend is probed, in whole seconds (`TCP_KEEPIDLE` in tcp(7)), and a client whose listener
    /// says nothing else; `None`: no probes.
    pub keepalive: Option<Duration>,
    /// How long what was sent to a backend may go unacknowledged, or untaken, before the kernel ends the connection, in
    /// milliseconds (`TCP_USER_TIMEOUT` in tcp(7), RFC 5482); `None`: as long as it sends again. Off unless it is asked
    /// for: it also cuts off a backend that is there and does not read.
    pub user_timeout: Option<Duration>,
    /// What a backend may carry, and who waits for it.
    pub limits: Limits,
    /// How long a backend that came up takes to get its whole share; zero: it gets it at once.
    pub slow_start: Duration,
    /// What happens to the connections of a backend whose checks fail.
    pub on_down: Policy,
    /// What happens to the connections of a backend that left discovery.
    pub on_leave: Policy,
    /// What happens to the connections of a backend that an operator takes out.
    pub on_drain: Policy,
    /// The backends that Pointsman itself starts, which one of the sources finds; `None`: there are none.
    pub replicas: Option<Replicas>,
}

impl Pool {
    /// A pool with the defaults.
    pub fn new(discover: Vec<Source>) -> Self {
        Self {
            balance: Algorithm::RoundRobin,
            hash: Hash::default(),
            shadow: Vec::new(),
            discover,
            health: Vec::new(),
            eject: None,
            panic: Percent(0),
            connect: Connect { timeout: Duration::from_secs(1), attempts: 3 },
            timeouts: Timeouts {
                idle: Some(Duration::from_secs(3600)),
                half_closed: Some(Duration::from_secs(60)),
                lifetime: None,
            },
            keepalive: Some(Duration::from_secs(60)),
            user_timeout: None,
            limits: Limits { connections: None, queue: 0, queue_timeout: Duration::from_secs(5) },
            slow_start: Duration::ZERO,
            on_down: Policy::Keep,
            on_leave: Policy::End {
                how: Ending::Close,
                after: Duration::ZERO,
                over: Duration::from_secs(300),
            },
            on_drain: Policy::Keep,
            replicas: None,
        }
    }
}

/// An algorithm that chooses a backend (`balance`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// Each in turn, whatever its weight.
    RoundRobin,
    /// Each in turn, as often as its weight says, spread out smoothly.
    Weighted,
    /// The one with the fewest connections for its weight.
    LeastConnections,
    /// Of two drawn at random, the one with fewer connections for its weight.
    RandomTwo,
    /// By the client's address, modulo the sum of the weights.
    SourceHash,
    /// By the client's address, on a ring (ketama).
    RingHash,
    /// By the client's address, in a table (Maglev).
    Maglev,
    /// Of two drawn at random, the one that answers sooner for its load (peak EWMA).
    Ewma,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::RoundRobin,
        Self::Weighted,
        Self::LeastConnections,
        Self::RandomTwo,
        Self::SourceHash,
        Self::RingHash,
        Self::Maglev,
        Self::Ewma,
    ];

    /// The name in the configuration and in the log.
    pub fn name(self) -> &'static str {
        match self {
            Self::RoundRobin => "round-robin",
            Self::Weighted => "weighted",
            Self::LeastConnections => "least-connections",
            Self::RandomTwo => "random-two",
            Self::SourceHash => "source-hash",
            Self::RingHash => "ring-hash",
            Self::Maglev => "maglev",
            Self::Ewma => "ewma",
        }
    }

    /// Whether it gives a backend of more weight more.
    pub fn heeds_weights(self) -> bool {
        self != Self::RoundRobin
    }

    /// Whether it chooses by what the client is.
    pub fn hashes(self) -> bool {
        matches!(self, Self::SourceHash | Self::RingHash | Self::Maglev)
    }
}

/// What the algorithms hash that do (`hash`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hash {
    /// What of the client is hashed.
    pub key: HashKey,
    /// Places on the ring; `None`: as many as there are 64-bit numbers.
    pub slots: Option<NonZeroUsize>,
    /// How often a backend stands on the ring for each unit of its weight; `None`: the algorithm's own number.
    pub virtual_nodes: Option<NonZeroUsize>,
    /// No backend gets more connections than this times its share; at least 1.01. `None`: however many there come.
    pub load_factor: Option<Factor>,
}

impl Hash {
    /// The most `slots`: a table that is looked into for each connection should fit into a cache.
    pub const MOST_SLOTS: u64 = 1 << 20;
    /// The most `virtual_nodes`: even for one backend alone, more would not make shares any more equal that a person
    /// could tell.
    pub const MOST_VIRTUAL_NODES: u64 = 10_000;
}

/// What of the client is hashed (`hash.key`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HashKey {
    /// Its address.
    #[default]
    SourceIp,
    /// Its address and port: connections of one client are spread.
    SourceIpPort,
    /// Its network: the first 24 bits of an IPv4 address, the first 64 of an IPv6 address.
    SourceNet,
}

impl HashKey {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::SourceIp, Self::SourceIpPort, Self::SourceNet];

    /// The name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::SourceIp => "source-ip",
            Self::SourceIpPort => "source-ip-port",
            Self::SourceNet => "source-net",
        }
    }
}

/// A number with two digits behind the point, in hundredths: 125 is 1.25.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Factor(pub u32);

impl Factor {
    /// What a share may be multiplied by: below, a backend would be full as soon as it has its share; above, none ever is.
    pub const RANGE: RangeInclusive<Self> = Self(101)..=Self(10_000);

    /// As a number.
    pub fn get(self) -> f64 {
        f64::from(self.0) / 100.0
    }
}

impl FromStr for Factor {
    type Err = String;

    /// Reads a plain number with at most two digits behind the point.
    fn from_str(text: &str) -> Result<Self, String> {
        let (whole, rest) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let hundredths = || {
            let whole = whole.parse::<u32>().ok()?.checked_mul(100)?;
            whole.checked_add(format!("{rest:0<2}").parse().ok()?)
        };
        let valid = digits(whole) && digits(rest) && rest.len() <= 2;
        let number = if valid { hundredths() } else { None };
        number.map(Self).ok_or_else(|| "it is a number with at most two digits behind the point".to_owned())
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

/// When a backend is taken out for what live connections meet (`eject`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Eject {
    /// So many connections in a row failed to open or were reset before any answer; `None`: that is no reason. Clients
    /// that send what the server refuses by a reset count too, so that they can have one ejected: `at_most` bounds the
    /// harm.
    pub failures: Option<NonZeroU32>,
    /// How long it stays out the first time; each time it comes back and fails again, so much longer.
    pub period: Duration,
    /// No more than this share of those whose checks pass is out at once, rounded down.
    pub at_most: Percent,
    /// When it answers, but slowly; `None`: that is no reason.
    pub slow: Option<Slow>,
}

impl Default for Eject {
    fn default() -> Self {
        Self {
            failures: NonZeroU32::new(5),
            period: Duration::from_secs(30),
            at_most: Percent(50),
            slow: None,
        }
    }
}

/// When a backend that answers is too slow (`eject.slow`): its median time to the first byte is compared with the
/// median of the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slow {
    /// It takes more than this times as long.
    pub factor: Factor,
    /// And more than this.
    pub floor: Duration,
    /// It was asked this often at least since the last comparison.
    pub answers: NonZeroU32,
    /// From one comparison to the next.
    pub every: Duration,
}

impl Default for Slow {
    fn default() -> Self {
        Self {
            factor: Factor(300),
            floor: Duration::from_millis(100),
            answers: NonZeroU32::new(20).unwrap_or(NonZeroU32::MIN),
            every: Duration::from_secs(10),
        }
    }
}

/// How a backend is connected to (`connect`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connect {
    /// Time for one attempt.
    pub timeout: Duration,
    /// Different backends tried before the client learns of trouble; at least 1.
    pub attempts: u32,
}

/// When a connection is given up (`timeouts`); `None`: never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// No byte in either direction for this long. Both sides get a FIN; of a half-closed connection, a reset.
    pub idle: Option<Duration>,
    /// One side has finished, and the other has neither sent nor received a byte for this long. Both get a reset.
    pub half_closed: Option<Duration>,
    /// The maximum age of a connection, however busy it is. Both sides get a reset.
    pub lifetime: Option<Duration>,
}

/// What a backend may carry, and who waits for it (`limits`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections to one backend at once, unless it has a limit of its own; `None`: as many as there come.
    pub connections: Option<NonZeroU32>,
    /// Clients that may wait for a place, for each backend that is up. More are turned away.
    pub queue: u32,
    /// How long one waits before it is turned away.
    pub queue_timeout: Duration,
}

/// What happens to the connections of a backend that is taken out (`on_down`, `on_leave`, `on_drain`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// They run on.
    Keep,
    /// They are ended.
    End {
        /// By an orderly close or by a reset.
        how: Ending,
        /// Not before so long after; who is back by then keeps them.
        after: Duration,
        /// Zero: at once. Else they are ended one by one, spread evenly over this time, so that the clients
        /// do not all come back in the same instant.
        over: Duration,
    },
}
