//! What there is to see at one moment, gathered from the running program: the figures of the live view.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::traffic::{Account, Book, WINDOW};
use crate::cli::words;
use crate::domain::{BackendState, Cause};
use crate::overview::Overview;
use crate::telemetry::decisions::Decision;

/// Lines of each kind that are kept.
const KEPT: usize = 32;

/// Everything that there is to see at one moment.
#[derive(Clone, Debug)]
pub(super) struct Scene {
    /// Time since the start of the demo.
    pub(super) time: Duration,
    /// Where the balancer listens.
    pub(super) address: String,
    /// Where the admin server listens.
    pub(super) admin: String,
    /// What happened last in the story.
    pub(super) story: String,
    /// The backends.
    pub(super) backends: Vec<Row>,
    /// The last decisions in words, newest first.
    pub(super) decisions: Vec<String>,
    /// The last changes of state in words, newest first.
    pub(super) changes: Vec<String>,
    /// How it went for the clients.
    pub(super) account: Account,
    /// Failed attempts that no client learned of.
    pub(super) masked: u64,
}

/// One backend.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) name: Arc<str>,
    pub(super) address: String,
    pub(super) state: BackendState,
    /// Its part of the connections routed lately, from 0 to 1.
    pub(super) share: f64,
    pub(super) active: u32,
    /// The median time of its latest answers.
    pub(super) latency: Option<Duration>,
    /// Connections that it was sent since it was found.
    pub(super) connections: u64,
    pub(super) cause: Cause,
}

/// Looks again and again, and remembers what a single look does not show.
#[derive(Debug)]
pub(super) struct Observer {
    overview: Arc<Overview>,
    book: Book,
    began: Instant,
    address: String,
    admin: String,
    story: String,
    /// The state of each backend at the last look.
    known: BTreeMap<(Arc<str>, u64), BackendState>,
    changes: VecDeque<String>,
    /// Each backend's connections at the last looks.
    counts: VecDeque<(Instant, BTreeMap<u64, u64>)>,
}

impl Observer {
    pub(super) fn new(overview: Arc<Overview>, book: Book, address: String, admin: String) -> Self {
        Self {
            overview,
            book,
            began: Instant::now(),
            address,
            admin,
            story: "three backends take turns; watch what happens to them".to_owned(),
            known: BTreeMap::new(),
            changes: VecDeque::new(),
            counts: VecDeque::new(),
        }
    }

    /// Notes what the story tells.
    pub(super) fn tell(&mut self, words: &str) {
        words.clone_into(&mut self.story);
    }

    /// Looks.
    pub(super) fn look(&mut self) -> Scene {
        let now = Instant::now();
        let recent = self.book.recent(now);
        let mut rows = Vec::new();
        let mut counts = BTreeMap::new();
        let mut masked = 0;
        for pool in self.overview.pools.load().values() {
            masked += pool.counters.failures_masked();
            for entry in &pool.status().members {
                let backend = &entry.backend;
                let connections = backend.flows.read().iter().map(|(_, flow)| flow.total()).sum();
                counts.insert(backend.key, connections);
                self.note_change(&backend.name, backend.key, entry.state, &entry.cause);
                rows.push((
                    backend.key,
                    Row {
                        name: Arc::clone(&backend.name),
                        address: backend.address.to_string(),
                        state: entry.state,
                        share: 0.0,
                        active: backend.load.open(),
                        latency: recent.get(&*backend.name).map(|(_, median)| *median),
                        connections,
                        cause: entry.cause.clone(),
                    },
                ));
            }
        }
        self.note_gone(&counts);
        self.share_out(now, &counts, &mut rows);
        let mut backends: Vec<_> = rows.into_iter().map(|(_, row)| row).collect();
        backends.sort_by(|a, b| a.name.cmp(&b.name));
        let decisions = self.overview.decisions(KEPT);
        Scene {
            time: self.began.elapsed(),
            address: self.address.clone(),
            admin: self.admin.clone(),
            story: self.story.clone(),
            backends,
            decisions: decisions.iter().map(|decision| self.in_words(decision)).collect(),
            changes: self.changes.iter().rev().cloned().collect(),
            account: self.book.account(),
            masked,
        }
    }

    fn note_change(&mut self, name: &Arc<str>, key: u64, state: BackendState, cause: &str) {
        if self.known.insert((Arc::clone(name), key), state) != Some(state) {
            let words = format!("{} {} is {}: {cause}", clock(self.began.elapsed()), name, state.name());
            self.add_change(words);
        }
    }

    fn note_gone(&mut self, present: &BTreeMap<u64, u64>) {
        let gone: Vec<_> = self.known.keys().filter(|(_, key)| !present.contains_key(key)).cloned().collect();
        for id in gone {
            self.known.remove(&id);
            self.add_change(format!("{} {} is gone", clock(self.began.elapsed()), id.0));
        }
    }

    fn add_change(&mut self, words: String) {
        if self.changes.len() == KEPT {
            self.changes.pop_front();
        }
        self.changes.push_back(words);
    }

    /// Gives each row its part of the connections that were routed within the window.
    fn share_out(&mut self, now: Instant, counts: &BTreeMap<u64, u64>, rows: &mut [(u64, Row)]) {
        self.counts.push_back((now, counts.clone()));
        while self.counts.front().is_some_and(|(at, _)| now.duration_since(*at) > WINDOW) {
            self.counts.pop_front();
        }
        let Some((_, before)) = self.counts.front() else { return };
        let new =
            |key: u64, row: &Row| row.connections.saturating_sub(before.get(&key).copied().unwrap_or(0));
        let total: u64 = rows.iter().map(|(key, row)| new(*key, row)).sum();
        for (key, row) in rows {
            row.share = if total == 0 { 0.0 } else { new(*key, row) as f64 / total as f64 };
        }
    }

    /// One decision as one would tell it.
    fn in_words(&self, decision: &Decision) -> String {
        let age = SystemTime::now().duration_since(decision.at).unwrap_or_default();
        let time = clock(self.began.elapsed().saturating_sub(age));
        let client = decision.client.to_string();
        let words = words::decision(
            decision.conn,
            &client,
            decision.backend.as_deref(),
            decision.algorithm,
            &decision.skipped,
        );
        format!("{time} {words}")
    }
}

/// Minutes and seconds since the start.
pub(super) fn clock(time: Duration) -> String {
    format!("{:02}:{:02}", time.as_secs() / 60, time.as_secs() % 60)
}
