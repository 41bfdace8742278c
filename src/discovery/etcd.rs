//! The keys under a prefix in etcd as backends, read once and then watched, over etcd's JSON gateway.
//!
//! The gateway cannot send progress requests on an open watch: over HTTP/1.1 the request has ended when the response
//! begins. TCP keepalive would not notice a member that is stopped or has no leader, and such a watch is silent. So all
//! keys are read again at intervals, over another connection and with the consent of the majority of members; if that
//! fails, or shows a change that the watch did not, the watch is opened anew. It also finds what etcd itself omits: in
//! versions such as 3.4.23, a deletion at the revision of a compaction may be missing from a watch that begins there
//! (etcd-io/etcd#18089).

use std::collections::{BTreeMap, HashSet};
use std::convert::Infallible;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hyper::{Method, StatusCode, header};
use serde_json::json;
use tokio::sync::Notify;
use tokio::time::{Duration, Instant, sleep_until};

use super::Found;
use super::etcd_json::{KeyRecord, WatchMessage, WatchedEvent, login_reply, range_reply, watch_message};
use super::file::explain as explain_entry;
use super::http_api::{ANSWER, ApiRequest, HttpApi, HttpApiError, HttpApiErrorKind, read_secret};
use super::json_lines::JsonWatch;
use super::registry::{Answers, Entries, RegistrySource};
use crate::config::{self, Etcd, StaticBackend};

/// The least interval between reads that failed connections trigger.
const BETWEEN_READS: Duration = Duration::from_millis(100);

/// The source for the keys under a prefix.
pub(super) struct EtcdSource {
    settings: Etcd,
    /// The token of the login.
    token: Option<String>,
    keys: EtcdKeys,
}

impl RegistrySource for EtcdSource {
    async fn follow(&mut self, api: &HttpApi, query_now: &Notify, answers: &mut Answers) -> HttpApiError {
        // A token may be that of another member, or of the time before a restart.
        self.token = None;
        match self.read_and_watch(api, query_now, answers).await {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }
}

impl EtcdSource {
    pub(super) fn new(settings: Etcd) -> Self {
        let keys = EtcdKeys { prefix: settings.prefix.clone().into_bytes(), keys: BTreeMap::new() };
        Self { settings, token: None, keys }
    }

    async fn read_and_watch(
        &mut self,
        api: &HttpApi,
        query_now: &Notify,
        answers: &mut Answers,
    ) -> Result<Infallible, HttpApiError> {
        let mut watch = None;
        loop {
            let (records, revision) = self.read(api).await?;
            if self.keys.replace(records) {
                watch = None; // it did not report the change
            }
            answers.report(self.keys.entries());
            let mut due = Instant::now() + self.settings.every;
            let watch = match &mut watch {
                Some(watch) => watch,
                None => watch.insert(self.watch(api, revision + 1).await?),
            };
            loop {
                tokio::select! {
                    message = next_message(watch, api) => match message? {
                        WatchMessage::Events(events) => {
                            let new = events.into_iter().filter(|event| event.revision() > revision);
                            if self.keys.apply(new) {
                                answers.report(self.keys.entries());
                            }
                        }
                        // After a compaction, for one: all keys are read again with the next connection.
                        WatchMessage::Canceled(reason) => {
                            let what = format!("etcd canceled the watch: {reason}");
                            return Err(api.error(HttpApiErrorKind::Failed, &watch.request, &what));
                        }
                    },
                    () = sleep_until(due) => break,
                    () = query_now.notified() => due = due.min(Instant::now() + BETWEEN_READS),
                }
            }
        }
    }

    /// Reads all keys; returns them with the revision of the store.
    async fn read(&mut self, api: &HttpApi) -> Result<(Vec<KeyRecord>, i64), HttpApiError> {
        let (key, range_end) = self.keys.range();
        let body = json!({"key": key, "range_end": range_end}).to_string();
        let mut request = self.request(api, "/v3/kv/range", body).await?;
        let mut reply = api.fetch(&request, ANSWER).await;
        // Tokens expire.
        if let Err(HttpApiError { kind: HttpApiErrorKind::Refused(StatusCode::UNAUTHORIZED), .. }) = reply
            && self.token.take().is_some()
        {
            let body = request.body.take().unwrap_or_default();
            request = self.request(api, "/v3/kv/range", body).await?;
            reply = api.fetch(&request, ANSWER).await;
        }
        let (_, body) = reply?;
        range_reply(&body).map_err(|error| api.error(HttpApiErrorKind::Failed, &request, &not_etcd(&error)))
    }

    /// Watches all keys from a revision on.
    async fn watch(&mut self, api: &HttpApi, from: i64) -> Result<JsonWatch, HttpApiError> {
        let (key, range_end) = self.keys.range();
        let create = json!({"key": key, "range_end": range_end, "start_revision": from.to_string()});
        let body = json!({"create_request": create}).to_string();
        let request = self.request(api, "/v3/watch", body).await?;
        let response = api.start(&request, ANSWER).await?;
        Ok(JsonWatch::new(request, response))
    }

    /// A request with the token, after a login if one is needed.
    async fn request(&mut self, api: &HttpApi, path: &str, body: String) -> Result<ApiRequest, HttpApiError> {
        if self.token.is_none()
            && let Some(user) = self.settings.user.clone()
        {
            self.token = Some(self.login(api, &user).await?);
        }
        Ok(ApiRequest {
            method: Method::POST,
            path: path.to_owned(),
            secret: self.token.clone(),
            secret_header: Some((header::AUTHORIZATION, "")),
            body: Some(body),
        })
    }

    async fn login(&self, api: &HttpApi, user: &str) -> Result<String, HttpApiError> {
        let mut request = ApiRequest {
            method: Method::POST,
            path: "/v3/auth/authenticate".to_owned(),
            secret: None,
            secret_header: None,
            body: None,
        };
        let password = read_secret(&self.settings).await;
        let password = password.map_err(|error| api.error(HttpApiErrorKind::Failed, &request, &error))?;
        request.body = Some(json!({"name": user, "password": password}).to_string());
        request.secret = password;
        let (_, body) = api.fetch(&request, ANSWER).await?;
        login_reply(&body).map_err(|error| api.error(HttpApiErrorKind::Failed, &request, &not_etcd(&error)))
    }
}

/// The error for a reply that cannot be read.
fn not_etcd(error: &str) -> String {
    format!("the reply is not that of etcd 3.4 or later ({error}); check the endpoint")
}

/// The next message of a watch. Cancel safe.
async fn next_message(watch: &mut JsonWatch, api: &HttpApi) -> Result<WatchMessage, HttpApiError> {
    let message = match watch.next(api).await? {
        Some(line) => watch_message(&line).map_err(|error| not_etcd(&error)),
        None => Err("etcd ended the watch".to_owned()),
    };
    message.map_err(|error| api.error(HttpApiErrorKind::Failed, &watch.request, &error))
}

/// The keys under the prefix, as last read.
#[derive(Debug, Default)]
struct EtcdKeys {
    prefix: Vec<u8>,
    keys: BTreeMap<Vec<u8>, EtcdKey>,
}

/// A key's value, and what it means.
#[derive(Debug)]
struct EtcdKey {
    value: Vec<u8>,
    /// The last valid value as a backend: an invalid edit changes nothing.
    backend: Option<StaticBackend>,
    /// Why the value is invalid.
    error: Option<String>,
}

impl EtcdKeys {
    /// The range of the keys with the prefix, in base64: its begin, and its end, which is not in it.
    fn range(&self) -> (String, String) {
        let mut end = self.prefix.clone();
        // The last byte of UTF-8 text is never 0xff.
        if let Some(last) = end.last_mut() {
            *last = last.saturating_add(1);
        }
        (BASE64.encode(&self.prefix), BASE64.encode(end))
    }

    /// Replaces all keys; whether one has changed.
    fn replace(&mut self, records: Vec<KeyRecord>) -> bool {
        let present: HashSet<_> = records.iter().map(|record| record.key.clone()).collect();
        let before = self.keys.len();
        self.keys.retain(|key, _| present.contains(key));
        let mut changed = self.keys.len() != before;
        for record in records {
            changed |= self.put(record);
        }
        changed
    }

    /// Applies events; whether a key has changed.
    fn apply(&mut self, events: impl Iterator<Item = WatchedEvent>) -> bool {
        let mut changed = false;
        for event in events {
            changed |= match event {
                WatchedEvent::Put(record) => self.put(record),
                WatchedEvent::Delete(record) => self.keys.remove(&record.key).is_some(),
            };
        }
        changed
    }

    /// Sets a key; whether its value is another one.
    fn put(&mut self, KeyRecord { key, value, .. }: KeyRecord) -> bool {
        if self.keys.get(&key).is_some_and(|before| before.value == value) {
            return false;
        }
        let (backend, error) = match self.read_value(&key, &value) {
            Ok(backend) => (Some(backend), None),
            Err(error) => (self.keys.remove(&key).and_then(|before| before.backend), Some(error)),
        };
        self.keys.insert(key, EtcdKey { value, backend, error });
        true
    }

    /// A value as a backend, or why it is none.
    fn read_value(&self, key: &[u8], value: &[u8]) -> Result<StaticBackend, String> {
        let name = key.strip_prefix(&self.prefix[..]).unwrap_or(key);
        if name.is_empty() {
            return Err("the key has no name after the prefix".to_owned());
        }
        let text = std::str::from_utf8(value).map_err(|_| "the value is not UTF-8 text")?;
        config::read_backend("value", text, &String::from_utf8_lossy(name))
            .map_err(|report| explain_entry(&report))
    }

    /// The backends, and the keys that are none.
    fn entries(&self) -> Entries {
        let mut entries = Entries::default();
        for (key, EtcdKey { backend, error, .. }) in &self.keys {
            let key = String::from_utf8_lossy(key);
            if let Some(error) = error {
                entries.refuse(&key, error);
            }
            if let Some(backend) = backend {
                entries.add(&key, Found::from(backend));
            }
        }
        entries
    }
}

#[cfg(test)]
#[path = "etcd_tests.rs"]
mod tests;
