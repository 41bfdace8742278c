//! The requests and replies of the admin API. The server serializes these types; the command line, `top` and `bench`
//! deserialize the same ones.
//!
//! A field that a reply lacks gets its default, and an unknown field is ignored: a client reads what it can of the
//! reply of an older or newer server. A request is read strictly.

mod history;
pub mod path;
mod process;
mod replicas;
mod request;
mod shadow;
mod status;

use std::borrow::Cow;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

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

/// A word from a fixed list, which a server of another version may have extended.
pub type Word = Cow<'static, str>;

/// A moment, in seconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub f64);

impl From<SystemTime> for Timestamp {
    /// Rounded to milliseconds.
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self((since.as_secs_f64() * 1e3).round() / 1e3)
    }
}

impl Timestamp {
    /// This moment.
    pub fn now() -> Self {
        SystemTime::now().into()
    }
}
