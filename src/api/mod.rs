//! The requests and replies of the admin API. The server serializes these types; the command line, `top` and `bench`
//! deserialize the same ones.
//!
//! A field that a reply lacks gets its default, and an unknown field is ignored: a client reads what it can of the
//! reply of an older or newer server. A request is read strictly.

mod connection;
mod history;
pub(crate) mod path;
mod problems;
mod process;
mod replicas;
mod request;
mod shadow;
mod status;
mod story;

use std::borrow::Cow;

pub(crate) use crate::domain::Timestamp;
pub(crate) use connection::{
    ConnectionInfo, ConnectionSummary, ConnectionsReply, DecisionInfo, DecisionsReply, EndedInfo,
    RenderedDecision,
};
pub(crate) use history::{BackendTrack, HistoryReply, LatencyTrack, PoolTrack, Track};
pub(crate) use problems::{CapacityInfo, ProblemInfo, ProblemsReply};
pub(crate) use process::{
    Acknowledgement, DrainForecastReply, DrainReply, ErrorDetail, ErrorReply, HandOverReply, Hello, Lagged,
    PlannedChange, ReloadPlanReply, ReloadReply, Skipped,
};
pub(crate) use replicas::{
    AllReplicasReply, ReplicaChange, ReplicaFailure, ReplicaGroup, ReplicaInfo, ReplicaList, ReplicaNames,
    ReplicaPool, ScaleDecision,
};
pub(crate) use request::{
    BackendChange, CheckRequest, HandOverRequest, ListenerChange, NewBackend, whole_number,
};
pub(crate) use shadow::{AlgorithmScore, BackendScore, ShadowReply};
pub(crate) use status::{
    BackendInfo, BackendsReply, CheckInfo, CheckReply, LatencyInfo, ListenerInfo, ListenersReply, PoolInfo,
    PoolsReply, SourceInfo, StatusReply, TierInfo, ZoneInfo,
};
pub(crate) use story::{ConnectionStory, JournalEntry, JournalReply, StoryReply, WhyReply};

/// A word from a fixed list, which a server of another version may have extended.
pub(crate) type Word = Cow<'static, str>;
