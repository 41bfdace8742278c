//! The words of the domain as types: what a backend's state is, what is known of a connection, what happened. Every
//! other module uses them; they use none of the others.

mod admin_state;
mod algorithm;
mod backend_state;
pub mod cause;
mod check;
mod client;
mod close_reason;
mod connection;
mod ending;
pub mod event;
mod exclusion;
mod owner;
mod resolution;
mod route;
mod state_reason;
mod timestamp;

pub use admin_state::AdminState;
pub use algorithm::Algorithm;
pub use backend_state::BackendState;
pub use cause::Cause;
pub use check::{CheckFailure, CheckKind, CheckStep};
pub use client::Client;
pub use close_reason::CloseReason;
pub use connection::{ConnectedBackend, ConnectionEnd, ConnectionRecord, Stage, TcpInfo, TcpSides};
pub use ending::Ending;
pub use event::{ConfigProblem, Endpoint, Event, ServingTier, Trouble};
pub use exclusion::{Excluded, Exclusion, ExclusionReason, Ineligible};
pub use owner::Owner;
pub use resolution::Resolution;
pub use route::{CandidateSet, FailedAttempt, Route, RouteCandidate, RouteTier, SHOWN};
#[cfg(test)]
pub(crate) use state_reason::StateReasonInfo;
pub use state_reason::{EjectionReason, Failure, HealthFailure, StateReason};
pub use timestamp::Timestamp;
