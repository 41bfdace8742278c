//! The types of the domain: the state of a backend, the record of a connection, the events of the balancer. Every
//! other module uses them; they use none of the others.

mod admin_state;
mod algorithm;
mod backend_state;
pub mod cause;
mod check;
mod client;
mod close_reason;
mod connection;
mod drain;
mod ending;
pub mod event;
mod exclusion;
mod listener_state;
mod owner;
mod plane;
mod preface_error;
mod problem;
#[cfg(test)]
mod reference_tests;
mod rejection;
mod resolution;
mod route;
mod routing_rule;
#[cfg(any(test, feature = "testing"))]
mod schemas;
mod serving_tier;
mod socket_address;
mod state_reason;
mod timestamp;

pub use admin_state::{AdminState, SetBy};
pub use algorithm::Algorithm;
pub use backend_state::BackendState;
pub use cause::Cause;
pub use check::{CheckFailure, CheckKind, CheckStep};
pub use client::Client;
pub use close_reason::CloseReason;
pub use connection::{ConnectedBackend, ConnectionEnd, ConnectionRecord, Stage, TcpInfo, TcpSides};
pub use drain::{DrainForecast, IdleConnection};
pub use ending::Ending;
pub use event::{ConfigProblem, Endpoint, Event, Trouble};
pub use exclusion::{Excluded, Exclusion, ExclusionReason, Ineligible};
pub use listener_state::ListenerState;
pub use owner::Owner;
pub use plane::Plane;
pub use preface_error::{PrefaceError, PrefaceKind};
pub use problem::{ProblemKind, Resource, Severity};
pub use rejection::{LimitReached, Rejection};
pub use resolution::Resolution;
pub use route::{CandidateSet, FailedAttempt, Route, RouteCandidate, RouteTier, SHOWN};
pub use routing_rule::{PoolMatch, PoolShare, RoutingRule};
pub use serving_tier::ServingTier;
pub use socket_address::SocketAddress;
#[cfg(any(test, feature = "testing"))]
use state_reason::StateReasonInfo;
#[cfg(test)]
pub(crate) use state_reason::tests::each as state_reasons;
pub use state_reason::{EjectionReason, Failure, HealthFailure, StateReason};
pub use timestamp::Timestamp;
