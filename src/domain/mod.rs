//! The types of the domain: the state of a backend, the record of a connection, the events of the balancer. Every
//! other module uses them; they use none of the others.

mod admin_state;
mod algorithm;
mod backend_state;
pub(crate) mod cause;
mod check;
mod client;
mod close_reason;
mod connection;
mod drain;
mod ending;
pub(crate) mod event;
mod exclusion;
mod owner;
mod preface_error;
mod problem;
#[cfg(test)]
mod reference_tests;
mod rejection;
mod resolution;
mod route;
mod routing_rule;
mod socket_address;
mod state_reason;
mod timestamp;

pub(crate) use admin_state::{AdminState, SetBy};
pub use algorithm::Algorithm;
pub(crate) use backend_state::BackendState;
pub(crate) use cause::Cause;
pub(crate) use check::{CheckFailure, CheckKind, CheckStep};
pub use client::Client;
pub(crate) use close_reason::CloseReason;
pub(crate) use connection::{ConnectedBackend, ConnectionEnd, ConnectionRecord, Stage, TcpInfo, TcpSides};
pub(crate) use drain::{DrainForecast, IdleConnection};
pub(crate) use ending::Ending;
pub(crate) use event::{ConfigProblem, Endpoint, Event, ServingTier, Trouble};
pub(crate) use exclusion::{Excluded, Exclusion, ExclusionReason, Ineligible};
pub use owner::Owner;
pub(crate) use preface_error::{PrefaceError, PrefaceKind};
pub(crate) use problem::{ProblemKind, Resource, Severity};
pub(crate) use rejection::{LimitReached, Rejection};
pub(crate) use resolution::Resolution;
pub(crate) use route::{CandidateSet, FailedAttempt, Route, RouteCandidate, RouteTier, SHOWN};
pub(crate) use routing_rule::{PoolMatch, PoolShare, RoutingRule};
pub use socket_address::SocketAddress;
pub(crate) use state_reason::{EjectionReason, Failure, HealthFailure, StateReason};
#[cfg(test)]
pub(crate) use state_reason::{StateReasonInfo, tests::each as state_reasons};
pub(crate) use timestamp::Timestamp;
