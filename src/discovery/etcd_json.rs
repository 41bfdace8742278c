//! The replies of etcd's JSON gateway: pure.
//!
//! The gateway writes 64-bit numbers as text, keys and values in base64, and leaves out what is zero or empty.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};

/// A key with its value.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct KeyRecord {
    #[serde(deserialize_with = "base64_bytes")]
    pub(super) key: Vec<u8>,
    #[serde(default, deserialize_with = "base64_bytes")]
    pub(super) value: Vec<u8>,
    /// The revision of the store with which it was changed or deleted.
    #[serde(default, deserialize_with = "int64")]
    pub(super) mod_revision: i64,
}

/// A message of a watch.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum WatchMessage {
    /// Changes, in order; none when the watch begins.
    Events(Vec<WatchedEvent>),
    /// The watch has ended, and why.
    Canceled(String),
}

/// A change of a key.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(from = "EventReply")]
pub(super) enum WatchedEvent {
    Put(KeyRecord),
    /// The record has no value.
    Delete(KeyRecord),
}

impl WatchedEvent {
    /// The revision of the store after it.
    pub(super) fn revision(&self) -> i64 {
        let (Self::Put(record) | Self::Delete(record)) = self;
        record.mod_revision
    }
}

impl From<EventReply> for WatchedEvent {
    fn from(EventReply { kind, kv }: EventReply) -> Self {
        match kind {
            EventKind::Put => Self::Put(kv),
            EventKind::Delete => Self::Delete(kv),
        }
    }
}

#[derive(Deserialize)]
struct EventReply {
    #[serde(default, rename = "type")]
    kind: EventKind,
    kv: KeyRecord,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum EventKind {
    #[default]
    Put,
    Delete,
}

#[derive(Deserialize)]
struct ReplyHeader {
    #[serde(deserialize_with = "int64")]
    revision: i64,
}

#[derive(Deserialize)]
struct RangeReply {
    header: ReplyHeader,
    #[serde(default)]
    kvs: Vec<KeyRecord>,
}

#[derive(Deserialize)]
struct LoginReply {
    token: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum WatchReply {
    Result(WatchResult),
    Error(WatchError),
}

#[derive(Deserialize)]
struct WatchResult {
    #[serde(default)]
    canceled: bool,
    #[serde(default)]
    cancel_reason: String,
    #[serde(default, deserialize_with = "int64")]
    compact_revision: i64,
    #[serde(default)]
    events: Vec<WatchedEvent>,
}

#[derive(Deserialize)]
struct WatchError {
    #[serde(default)]
    message: String,
}

fn int64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    let value = serde_json::Value::deserialize(deserializer)?;
    let number = value.as_i64().or_else(|| value.as_str()?.parse().ok());
    number.ok_or_else(|| D::Error::custom("a revision is no number of 64 bits"))
}

fn base64_bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    let text = String::deserialize(deserializer)?;
    BASE64.decode(text).map_err(|error| D::Error::custom(format!("a key or value is not in base64: {error}")))
}

fn read<T: DeserializeOwned>(json: &[u8]) -> Result<T, String> {
    serde_json::from_slice(json).map_err(|error| error.to_string())
}

/// Reads the reply to a read of keys: the keys, and the revision of the store.
pub(super) fn range_reply(json: &[u8]) -> Result<(Vec<KeyRecord>, i64), String> {
    read(json).map(|RangeReply { header, kvs }| (kvs, header.revision))
}

/// Reads the reply to a login: the token.
pub(super) fn login_reply(json: &[u8]) -> Result<String, String> {
    read(json).map(|LoginReply { token }| token)
}

/// Reads a message of a watch.
pub(super) fn watch_message(json: &[u8]) -> Result<WatchMessage, String> {
    Ok(match read(json)? {
        WatchReply::Error(error) => WatchMessage::Canceled(error.message),
        WatchReply::Result(result) if !result.canceled => WatchMessage::Events(result.events),
        WatchReply::Result(WatchResult { compact_revision, .. }) if compact_revision > 0 => {
            WatchMessage::Canceled(format!("the changes before revision {compact_revision} are compacted"))
        }
        WatchReply::Result(result) => WatchMessage::Canceled(result.cancel_reason),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn replies_of_etcd_are_read() {
        // As etcd 3.4.23 writes them.
        let range = br#"{"header":{"cluster_id":"14841639068965178418","member_id":"10276657743932975437","revision":"4","raft_term":"2"},"kvs":[{"key":"L3MvYQ==","create_revision":"2","mod_revision":"3","version":"2","value":"MS4yLjMuNDo1"},{"key":"L3MvYg==","mod_revision":"4"}],"count":"2"}"#;
        let (keys, revision) = range_reply(range).unwrap();
        assert_eq!(revision, 4);
        let record = |key: &str, value: &str, mod_revision| KeyRecord {
            key: key.into(),
            value: value.into(),
            mod_revision,
        };
        assert_eq!(keys, [record("/s/a", "1.2.3.4:5", 3), record("/s/b", "", 4)]);
        assert_eq!(range_reply(br#"{"header":{"revision":"1"}}"#), Ok((Vec::new(), 1)));

        let message = |json: &str| watch_message(json.as_bytes()).unwrap();
        let created = r#"{"result":{"header":{"revision":"4"},"created":true}}"#;
        assert_eq!(message(created), WatchMessage::Events(Vec::new()));
        let events = r#"{"result":{"header":{"revision":"6"},"events":[{"kv":{"key":"L3MvYQ==","mod_revision":"5","value":"eA=="}},{"type":"DELETE","kv":{"key":"L3MvYg==","mod_revision":"6"}}]}}"#;
        let changes =
            vec![WatchedEvent::Put(record("/s/a", "x", 5)), WatchedEvent::Delete(record("/s/b", "", 6))];
        assert_eq!(changes.iter().map(WatchedEvent::revision).collect::<Vec<_>>(), [5, 6]);
        assert_eq!(message(events), WatchMessage::Events(changes));
        for (json, reason) in [
            (
                r#"{"result":{"canceled":true,"compact_revision":"9"}}"#,
                "the changes before revision 9 are compacted",
            ),
            (
                r#"{"result":{"created":true,"canceled":true,"cancel_reason":"etcdserver: permission denied"}}"#,
                "etcdserver: permission denied",
            ),
            (
                r#"{"error":{"grpc_code":14,"http_code":503,"message":"transport is closing"}}"#,
                "transport is closing",
            ),
        ] {
            assert_eq!(message(json), WatchMessage::Canceled(reason.to_owned()));
        }
        for wrong in [
            "",
            "{}",
            "[]",
            "null",
            r#"{"result":{"events":[{}]}}"#,
            r#"{"result":{"events":[{"kv":{"key":"?"}}]}}"#,
        ] {
            assert!(watch_message(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>, text in r#"[{}\[\]":,a-z0-9=]{0,60}"#) {
            for bytes in [&bytes[..], text.as_bytes()] {
                let _ = (range_reply(bytes), watch_message(bytes), login_reply(bytes));
            }
        }
    }
}
