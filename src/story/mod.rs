//! What has happened, told in sentences: why a connection went where it went and how it ended, why a backend is in its
//! state, and what a pool has been through.
//!
//! Pure: it is handed what was kept (decisions, ends, events, samples of counters) and the time.

pub mod backend;
pub mod connection;
pub mod fold;
mod phrases;
pub mod samples;

use std::time::SystemTime;

use serde::Serialize;

use crate::telemetry::decisions::unix_seconds;

/// One sentence of a story.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Sentence {
    /// When that was; `None`: it holds now, or all the time.
    #[serde(serialize_with = "unix_seconds_if_known")]
    #[cfg_attr(test, schemars(with = "Option<f64>"))]
    pub at: Option<SystemTime>,
    /// The sentence, without the time.
    pub text: String,
}

impl Sentence {
    /// Of something that happened at that time.
    pub fn then(at: SystemTime, text: impl Into<String>) -> Self {
        Self { at: Some(at), text: text.into() }
    }

    /// Of something that holds now.
    pub fn now(text: impl Into<String>) -> Self {
        Self { at: None, text: text.into() }
    }
}

fn unix_seconds_if_known<S: serde::Serializer>(
    at: &Option<SystemTime>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match at {
        Some(at) => unix_seconds(at, serializer),
        None => serializer.serialize_none(),
    }
}
