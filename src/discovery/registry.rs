//! What the sources etcd, Consul and Kubernetes have in common: the loop that follows their server, and how they report entries that
//! are no backends.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep};
use tracing::{debug, info, warn};

use super::http_api::{HttpApi, HttpApiError, HttpApiErrorKind};
use super::{Found, Observation, Outcome, Sink};
use crate::backoff::Backoff;
use crate::config::SourceKey;
use crate::domain::SocketAddress;
use crate::domain::cause::bounded;

/// The delays between attempts to reach a server.
const RECONNECT: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
/// The length of an entry's name and of its error in the log, in characters.
const LONGEST_SHOWN: usize = 300;
/// The number of invalid entries of one answer in the log; an answer can have thousands.
const MOST_LOGGED: usize = 10;
/// After how many connections that end soon after an answer the log has a warning: a restart of all members ends fewer.
const SHORT_CONNECTIONS: u32 = 5;

/// A source that follows a server.
pub(super) trait RegistrySource {
    /// Follows the server until it fails, and reports each answer.
    fn follow(
        &mut self,
        api: &HttpApi,
        query_now: &Notify,
        answers: &mut Answers,
    ) -> impl Future<Output = HttpApiError> + Send;
}

/// Receives the answers of a source.
pub(super) struct Answers {
    sink: Sink,
    /// Whether there was one since the connection was made.
    any: bool,
    invalid: InvalidEntries,
}

/// What a source has read: backends, and why other entries are none.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Entries {
    pub(super) found: Vec<Found>,
    pub(super) invalid: Vec<InvalidEntry>,
    /// The addresses of the backends.
    taken: HashSet<SocketAddress>,
}

/// An entry that is no backend.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct InvalidEntry {
    /// Its name at the server.
    pub(super) entry: String,
    pub(super) reason: String,
}

impl Entries {
    /// Adds a backend, unless one before has the same address: a pool has one backend for each address, and the name
    /// would change with each answer.
    pub(super) fn add(&mut self, entry: &str, found: Found) {
        if self.taken.insert(found.address.clone()) {
            self.found.push(found);
        } else {
            self.refuse(entry, &format!("another entry has its address {} too", found.address));
        }
    }

    /// Adds an entry that is no backend.
    pub(super) fn refuse(&mut self, entry: &str, reason: &str) {
        let [entry, reason] = [entry, reason].map(|text| bounded(text, LONGEST_SHOWN));
        self.invalid.push(InvalidEntry { entry, reason });
    }
}

impl Answers {
    fn new(source: SourceKey, sink: Sink) -> Self {
        Self { sink, any: false, invalid: InvalidEntries { source, logged: BTreeSet::new() } }
    }

    /// Reports an answer.
    pub(super) fn report(&mut self, entries: Entries) {
        self.any = true;
        self.invalid.log(entries.invalid);
        self.observe(match entries.found {
            found if found.is_empty() => Outcome::Empty,
            found => Outcome::Backends(found),
        });
    }

    fn observe(&self, outcome: Outcome) {
        (self.sink)(Observation { outcome, owners: HashMap::new() });
    }
}

/// Which invalid entries the log has: each is logged once, and again if it has another error.
struct InvalidEntries {
    source: SourceKey,
    logged: BTreeSet<InvalidEntry>,
}

impl InvalidEntries {
    fn log(&mut self, invalid: Vec<InvalidEntry>) {
        let invalid: BTreeSet<_> = invalid.into_iter().collect();
        let source = &self.source;
        let new: Vec<_> = invalid.difference(&self.logged).collect();
        for InvalidEntry { entry, reason } in new.iter().take(MOST_LOGGED) {
            warn!(%source, entry, reason, "entry invalid");
        }
        if let Some(more) = new.len().checked_sub(MOST_LOGGED).filter(|more| *more > 0) {
            warn!(%source, more, "entries invalid");
        }
        let names = |entries: &BTreeSet<InvalidEntry>| {
            entries.iter().map(|one| one.entry.clone()).collect::<BTreeSet<_>>()
        };
        for entry in names(&self.logged).difference(&names(&invalid)).take(MOST_LOGGED) {
            info!(%source, entry, "entry no longer invalid");
        }
        self.logged = invalid;
    }
}

/// Follows the server until dropped. When a member fails, the next one is used. A failure is reported when no member has
/// answered since the last answer: one that restarts is no outage.
pub(super) async fn watch(
    mut source: impl RegistrySource,
    key: SourceKey,
    mut api: HttpApi,
    query_now: Arc<Notify>,
    sink: Sink,
) {
    let mut answers = Answers::new(key, sink);
    let mut backoff = RECONNECT;
    // How many members in a row have failed without an answer, and how many soon after one.
    let (mut failed, mut short) = (0, 0);
    loop {
        let began = Instant::now();
        answers.any = false;
        let error = source.follow(&api, &query_now, &mut answers).await;
        debug!(reason = error.text, "server failed");
        api.use_next();
        if answers.any {
            failed = 0;
            short += 1;
            if began.elapsed() > backoff.longest() {
                backoff.reset();
                short = 0;
            }
            if short == SHORT_CONNECTIONS {
                // Each connection has its answer, so the source works, but it does not follow the server.
                let source = &answers.invalid.source;
                let reason = format!("{}; meanwhile changes are noticed late", error.text);
                warn!(%source, reason, "connections end at once");
            }
        } else {
            failed += 1;
            if failed < api.len() {
                continue; // the next member may work
            }
            let reason = error.text.into();
            answers.observe(match error.kind {
                HttpApiErrorKind::Timeout => Outcome::Timeout(reason),
                HttpApiErrorKind::Refused(_) | HttpApiErrorKind::Failed => Outcome::ServerFailure(reason),
            });
        }
        sleep(backoff.next_delay()).await;
    }
}
