//! The running sources of a pool.

use litemap::LiteMap;
use tokio::sync::mpsc;

use super::message::Message;
use crate::config::Source;
use crate::discovery::{self, RunningSource, SourceKey};

/// Starts and stops the sources of a pool. Their observations are sent to the pool's task.
pub(super) struct Sources {
    messages: mpsc::UnboundedSender<Message>,
    running: LiteMap<SourceKey, Running>,
}

struct Running {
    source: Source,
    /// The number of the configuration that started it.
    number: u64,
    task: RunningSource,
}

impl Sources {
    pub(super) fn new(messages: mpsc::UnboundedSender<Message>) -> Self {
        Self { messages, running: LiteMap::new() }
    }

    /// Starts and stops sources so that those in `wanted` run; unchanged ones continue. `number` is that of the configuration.
    pub(super) fn run(&mut self, wanted: &[Source], number: u64) {
        self.running.retain(|_, running| wanted.contains(&running.source));
        for source in wanted {
            let key = SourceKey::from(source);
            if self.running.contains_key(&key) {
                continue;
            }
            let (messages, from) = (self.messages.clone(), key.clone());
            let sink = move |observation| {
                let _ = messages.send(Message::Observed(from.clone(), number, observation));
            };
            let task = discovery::start(source, Box::new(sink));
            self.running.insert(key, Running { source: source.clone(), number, task });
        }
    }

    /// Whether an observation is from a source that still runs, and not from one that was replaced since.
    pub(super) fn is_current(&self, key: &SourceKey, number: u64) -> bool {
        self.running.get(key).is_some_and(|running| running.number == number)
    }

    /// Queries all of them now.
    pub(super) fn query_now(&self) {
        self.running.values().for_each(|running| running.task.query_now());
    }
}
