//! The plan of a simulation: the types that [`notation`](super::notation) reads from the command line.

use std::sync::Arc;
use std::time::Duration;

use crate::config::Hash;

/// The plan of a simulation.
#[derive(Clone, Debug)]
pub struct SimulationPlan {
    /// The initial backends.
    pub backends: Vec<BackendSpec>,
    /// The service times of all backends, or of one; the last that names a backend counts.
    pub service: Vec<Setting<ServiceTime>>,
    /// The connections that a backend serves at once; without a name, per unit of its weight.
    pub servers: Vec<Setting<Servers>>,
    /// The arrival rate.
    pub intensity: Intensity,
    /// The arrival process.
    pub arrivals: Arrivals,
    /// The clients.
    pub clients: Clients,
    /// When arrivals end.
    pub until: Until,
    /// Changes of the backends.
    pub events: Vec<PlannedEvent>,
    /// The settings of the hashing algorithms.
    pub hash: Hash,
    /// The seed of all randomness.
    pub seed: u64,
}

/// A backend with its weight, written `name*weight`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendSpec {
    /// Its name.
    pub name: Arc<str>,
    /// Its weight, at most 256; with 0 it gets nothing.
    pub weight: u32,
}

/// A value for all backends, or for one, written `name=value`.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting<T> {
    /// The backend; `None`: all backends without a setting.
    pub backend: Option<Arc<str>>,
    /// The value.
    pub value: T,
}

/// The distribution of the time that a connection is served.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ServiceTime {
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

impl ServiceTime {
    /// The mean.
    pub fn mean(self) -> Duration {
        match self {
            Self::Fixed(mean) | Self::Exponential(mean) | Self::Pareto { mean, .. } => mean,
        }
    }
}

/// How many connections a backend serves at once; more wait in its queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Servers {
    /// This many.
    Number(u32),
    /// All: no connection waits.
    Unlimited,
}

/// The arrival rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Intensity {
    /// Connections a second.
    Rate(f64),
    /// A part of the capacity of the initial backends; 1 is all of it.
    Load(f64),
}

/// The arrival process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrivals {
    /// At even intervals.
    Steady,
    /// Independently of each other.
    Poisson,
    /// This many at one instant; the bursts are independent of each other.
    Bursts(u32),
}

/// The clients that open connections.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Clients {
    /// Their number; each has its own address.
    pub number: u32,
    /// The exponent of Zipf's law: the nth client comes 1/n^exponent as often as the first; 0: all alike.
    pub exponent: f64,
}

/// When arrivals end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// After this many connections.
    Connections(u64),
    /// After this time.
    Time(Duration),
}

/// Changes at one instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedEvent {
    /// The time since the beginning.
    pub at: Duration,
    /// The changes.
    pub changes: Vec<BackendChange<Arc<str>>>,
}

/// A change of one backend `B`: its name in a plan, its index in a scenario.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackendChange<B> {
    /// It fails: its connections are closed.
    Down(B),
    /// It is back, without connections.
    Up(B),
    /// It gets no new connections; existing ones finish.
    Leave(B),
    /// It joins with this weight.
    Join(B, u32),
    /// Its weight changes; its capacity does not.
    Weight(B, u32),
}

impl<B> BackendChange<B> {
    /// The changed backend.
    pub fn backend(&self) -> &B {
        match self {
            Self::Down(backend) | Self::Up(backend) | Self::Leave(backend) => backend,
            Self::Join(backend, _) | Self::Weight(backend, _) => backend,
        }
    }

    pub(super) fn of<C>(&self, backend: C) -> BackendChange<C> {
        match *self {
            Self::Down(_) => BackendChange::Down(backend),
            Self::Up(_) => BackendChange::Up(backend),
            Self::Leave(_) => BackendChange::Leave(backend),
            Self::Join(_, weight) => BackendChange::Join(backend, weight),
            Self::Weight(_, weight) => BackendChange::Weight(backend, weight),
        }
    }
}
