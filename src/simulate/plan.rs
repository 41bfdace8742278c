//! What was asked for: the types that the words of the command line ([`words`](super::words)) are read into.

use std::sync::Arc;
use std::time::Duration;

use crate::config::Hash;

/// What was asked for.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The backends at the beginning.
    pub backends: Vec<Share>,
    /// How long a connection is served, of all backends or of one; the last that names a backend counts.
    pub service: Vec<Setting<Service>>,
    /// How many connections a backend serves at once. Without a name: for each unit of its weight.
    pub servers: Vec<Setting<Servers>>,
    /// How often connections arrive.
    pub intensity: Intensity,
    /// In which way they arrive.
    pub arrivals: Arrivals,
    /// Who they come from.
    pub clients: Clients,
    /// How many come.
    pub until: Until,
    /// What happens to the backends.
    pub events: Vec<Event>,
    /// What the algorithms hash that do.
    pub hash: Hash,
    /// All that is random follows from it.
    pub seed: u64,
}

/// A backend with its weight, written `name*weight`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// Its name.
    pub name: Arc<str>,
    /// Its weight, at most 256; with 0 it gets nothing.
    pub weight: u32,
}

/// A value for all backends, or for one, written `name=value`.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting<T> {
    /// Whose it is; `None`: everybody's who has none of their own.
    pub backend: Option<Arc<str>>,
    /// The value.
    pub value: T,
}

/// How long a connection is served.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Service {
    /// Always this long.
    Fixed(Duration),
    /// Exponentially distributed with this mean.
    Exponential(Duration),
    /// Pareto distributed: most are short, a few are very long.
    Pareto {
        /// The mean.
        mean: Duration,
        /// The shape, above 1: the smaller, the heavier the tail. Up to 2 the variance is infinite.
        alpha: f64,
    },
}

impl Service {
    /// The mean.
    pub fn mean(self) -> Duration {
        match self {
            Self::Fixed(mean) | Self::Exponential(mean) | Self::Pareto { mean, .. } => mean,
        }
    }
}

/// How many connections are served at once; more wait in line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Servers {
    /// So many.
    Number(u32),
    /// All that come: nobody ever waits.
    Unlimited,
}

/// How often connections arrive.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Intensity {
    /// Connections a second.
    Rate(f64),
    /// A part of what the backends of the beginning can serve; 1 is all of it.
    Load(f64),
}

/// In which way connections arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrivals {
    /// In even steps.
    Steady,
    /// Independently of each other.
    Poisson,
    /// So many in the same instant; the bursts come independently of each other.
    Bursts(u32),
}

/// Who connections come from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Clients {
    /// How many there are, each with an address of its own.
    pub number: u32,
    /// The exponent of Zipf's law, by which the nth client comes 1/n^exponent as often as the first; 0: all alike.
    pub exponent: f64,
}

/// How many connections come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// So many.
    Connections(u64),
    /// All that come in this time.
    Time(Duration),
}

/// What happens in one instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When, from the beginning.
    pub at: Duration,
    /// What, all at once.
    pub changes: Vec<Change<Arc<str>>>,
}

/// What happens to one backend `B`: its name in a plan, its place in a scenario.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change<B> {
    /// It fails: its connections are cut off.
    Down(B),
    /// It is back, and empty.
    Up(B),
    /// It gets nothing new; those that it has finish.
    Leave(B),
    /// A new one, with its weight.
    Join(B, u32),
    /// It gets another weight; it is as fast as before.
    Weight(B, u32),
}

impl<B> Change<B> {
    /// Whom it happens to.
    pub fn backend(&self) -> &B {
        match self {
            Self::Down(backend) | Self::Up(backend) | Self::Leave(backend) => backend,
            Self::Join(backend, _) | Self::Weight(backend, _) => backend,
        }
    }

    pub(super) fn of<C>(&self, backend: C) -> Change<C> {
        match *self {
            Self::Down(_) => Change::Down(backend),
            Self::Up(_) => Change::Up(backend),
            Self::Leave(_) => Change::Leave(backend),
            Self::Join(_, weight) => Change::Join(backend, weight),
            Self::Weight(_, weight) => Change::Weight(backend, weight),
        }
    }
}
