//! The words of the domain as types: what a backend's state is, why a connection ended, what happened. Every other
//! module uses them; they use none of the others.

mod admin_state;
mod backend_state;
pub mod cause;
mod client;
mod close_reason;
mod ending;
pub mod event;
mod exclusion;

pub use admin_state::AdminState;
pub use backend_state::BackendState;
pub use cause::Cause;
pub use client::Client;
pub use close_reason::CloseReason;
pub use ending::Ending;
pub use event::{ConfigProblem, Endpoint, Event, ServingTier, Trouble};
#[cfg(test)]
pub(crate) use exclusion::ExclusionInfo;
pub use exclusion::{Excluded, Exclusion, ExclusionReason, Ineligible};
