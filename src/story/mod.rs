//! Describes in sentences what happened: why a connection was routed to its backend and how it ended, why a backend is
//! in its state, and what changed in a pool.
//!
//! Pure: the caller passes the records of connections, the events, the samples of counters, and the time.

pub(crate) mod backend;
pub(crate) mod connection;
pub(crate) mod fold;
mod phrases;
pub(crate) mod samples;
pub(crate) mod summary;

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

/// One sentence of a story.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
pub(crate) struct Sentence {
    /// When that was; null: it holds now, or all the time.
    #[serde(with = "timestamp")]
    #[cfg_attr(test, schemars(with = "Option<f64>"))]
    pub at: Option<SystemTime>,
    /// The sentence, without the time.
    pub text: String,
}

impl Sentence {
    /// A sentence about an event at that time.
    pub(crate) fn then(at: SystemTime, text: impl Into<String>) -> Self {
        Self { at: Some(at), text: text.into() }
    }

    /// A sentence about the present.
    pub(crate) fn now(text: impl Into<String>) -> Self {
        Self { at: None, text: text.into() }
    }
}

/// A time in the API's format.
mod timestamp {
    use std::time::SystemTime;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::domain::Timestamp;

    pub(super) fn serialize<S: Serializer>(
        at: &Option<SystemTime>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        at.map(Timestamp::from).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<SystemTime>, D::Error> {
        Ok(Option::<Timestamp>::deserialize(deserializer)?.map(SystemTime::from))
    }
}
