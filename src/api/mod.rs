//! The requests and replies of the admin API. The server serializes these types; the command line, `top` and `bench`
//! deserialize the same ones.
//!
//! A field that a reply lacks gets its default, and an unknown field is ignored: a client reads what it can of the
//! reply of an older or newer server. A request is read strictly.

mod connection;
mod history;
pub mod path;
mod process;
mod replicas;
mod request;
mod shadow;
mod status;
mod story;

use std::borrow::Cow;

pub use crate::domain::Timestamp;
pub use connection::{
    AttemptInfo, CandidateInfo, CandidatesInfo, ConnectionInfo, ConnectionSummary, ConnectionsReply,
    DecisionInfo, DecisionsReply, EndedInfo, ExclusionInfo, RenderedDecision,
};
pub use history::{HistoryReply, PoolTrack, Track};
pub use process::{
    Acknowledgement, DrainReply, ErrorDetail, ErrorReply, Hello, Lagged, ReloadReply, Skipped,
};
pub use replicas::{
    AllReplicasReply, ReplicaChange, ReplicaFailure, ReplicaGroup, ReplicaInfo, ReplicaList, ReplicaNames,
    ReplicaPool, ScaleDecision,
};
pub use request::{BackendChange, CheckRequest, NewBackend, whole_number};
pub use shadow::{AlgorithmScore, BackendScore, ShadowReply};
pub use status::{
    BackendInfo, BackendsReply, CheckInfo, CheckReply, ListenerInfo, PoolInfo, PoolsReply, StatusReply,
    TierInfo,
};
pub use story::{ConnectionStory, JournalEntry, JournalReply, StoryReply, WhyReply};

/// A word from a fixed list, which a server of another version may have extended.
pub type Word = Cow<'static, str>;
