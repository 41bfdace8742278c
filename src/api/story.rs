//! `/api/v1/journal`, `/api/v1/why` and `/api/v1/story`: what has happened.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{BackendInfo, ConnectionInfo, DecisionInfo, EndedInfo, Timestamp};
use crate::domain::{ConnectionRecord, Event};
use crate::story::fold::{StorySentence, StoryTotals};
use crate::story::summary::ClientSummary;
use crate::story::{Sentence, connection};
use crate::telemetry::journal;

/// Events, the oldest first.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
pub(crate) struct JournalReply {
    /// The events.
    pub events: Vec<JournalEntry>,
    /// How many events after the requested number are no longer kept.
    pub dropped: u64,
    /// The number of the latest.
    pub latest: u64,
}

/// An event, and when it happened.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
pub(crate) struct JournalEntry {
    /// Its number; the next one's is one more. The first is 1; with `runtime.state`, processes continue the numbers of
    /// those before them.
    pub id: u64,
    /// When it was recorded, in seconds since the epoch.
    pub at: Timestamp,
    /// The event as a sentence.
    pub sentence: String,
    /// The event. The server always sends one; a client reads the sentence only, as it may not know the kind.
    #[serde(flatten, skip_deserializing)]
    #[cfg_attr(test, schemars(with = "Event"))]
    pub event: Option<Arc<Event>>,
}

impl From<journal::Entry> for JournalEntry {
    fn from(entry: journal::Entry) -> Self {
        let journal::Entry { id, at, sentence, event } = entry;
        Self { id, at: at.into(), sentence: sentence.into(), event: Some(event) }
    }
}

/// A causal story, and the data behind it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
pub(crate) struct WhyReply {
    /// What it is about.
    pub about: String,
    /// The story. The first sentences are those of the summary, if there is one.
    pub sentences: Vec<Sentence>,
    /// Of a client: where its connections went, and how they ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub summary: Option<ClientSummary>,
    /// The connections, the newest first. The last sentences of the story are theirs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections: Option<Vec<ConnectionStory>>,
    /// The backend as it is now; absent: it is not in the pool any longer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend: Option<BackendInfo>,
    /// What has happened to it, the oldest first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub events: Option<Vec<JournalEntry>>,
}

/// What is kept of one connection.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
pub(crate) struct ConnectionStory {
    /// Its number, unique within the process.
    pub conn: u64,
    /// How it was routed, if that is still kept.
    pub decision: Option<DecisionInfo>,
    /// What it is now, if it is open.
    pub open: Option<ConnectionInfo>,
    /// How it ended, if it has and that is still kept.
    pub ended: Option<EndedInfo>,
    /// Its story, from the accept to the end.
    pub sentences: Vec<Sentence>,
}

impl From<&ConnectionRecord> for ConnectionStory {
    fn from(record: &ConnectionRecord) -> Self {
        Self {
            conn: record.conn,
            decision: DecisionInfo::of(record),
            open: ConnectionInfo::of_open(record),
            ended: EndedInfo::of(record),
            sentences: connection::story(record),
        }
    }
}

/// What happened in some time.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
pub(crate) struct StoryReply {
    /// When it begins, in seconds since the epoch.
    pub since: Timestamp,
    /// When it ends, in seconds since the epoch.
    pub until: Timestamp,
    /// The story, in order of time.
    pub sentences: Vec<StorySentence>,
    /// All of it in one sentence.
    pub summary: String,
    /// Everything together.
    pub totals: StoryTotals,
}
