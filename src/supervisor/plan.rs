//! What a reload would do: which parts of the configuration change, and what happens to the open connections of each.

use std::sync::Arc;
use std::time::Duration;

use humantime::format_duration;

use super::Supervisor;
use crate::api::PlannedChange;
use crate::config::{self, Config, ConfigPart, PartChange, Policy, Source, SourceKey};
use crate::domain::Ending;
use crate::humanize::list;
use crate::pool::Entry;

/// The maximum number of backends that a sentence names.
const NAMED: usize = 5;

impl Supervisor {
    /// What [`reload`](Self::reload) would do with `config`.
    pub(crate) fn plan(&self, config: &Config) -> Vec<PlannedChange> {
        let planned = |(part, change): (ConfigPart, PartChange)| {
            let (open, effect) = match &part {
                ConfigPart::Section(_) => (0, String::new()),
                ConfigPart::Listener(name) => self.listener_effect(name, &change),
                ConfigPart::Pool(name) => self.pool_effect(name, &change, config),
            };
            let (change, keys) = match change {
                PartChange::Added => ("added", Vec::new()),
                PartChange::Removed => ("removed", Vec::new()),
                PartChange::Changed(keys) => ("changed", keys),
            };
            PlannedChange { part: part.to_string(), change: change.into(), keys, open, effect }
        };
        config::changes(&self.config, config).into_iter().map(planned).collect()
    }

    /// The open connections of a listener, and what happens to them.
    fn listener_effect(&self, name: &Arc<str>, change: &PartChange) -> (u64, String) {
        let open =
            self.listeners.get(name).map_or(0, |running| running.listener_task.listener.active() as u64);
        let effect = match change {
            PartChange::Added => "it begins to accept connections".to_owned(),
            PartChange::Removed => format!("it accepts no new connections; open ones ({open}) continue"),
            PartChange::Changed(keys) if keys.iter().any(|key| key.key.starts_with("bind")) => {
                format!("new addresses open before others close; open connections ({open}) continue")
            }
            PartChange::Changed(_) => format!("for new connections; open ones ({open}) continue"),
        };
        (open, effect)
    }

    /// The open connections of a pool, and what happens to them.
    fn pool_effect(&self, name: &Arc<str>, change: &PartChange, config: &Config) -> (u64, String) {
        let (Some(handle), before) = (self.pools.get(name), self.config.pools.get(name)) else {
            return (0, "its backends are discovered and checked".to_owned());
        };
        let status = handle.pool.status();
        let open = open_of(&status.members);
        let effect = match (change, config.pools.get(name)) {
            (PartChange::Changed(keys), Some(after)) => {
                let mut effects = Vec::new();
                let leaving: Vec<_> = status.members.iter().filter(|entry| leaves(entry, after)).collect();
                if !leaving.is_empty() {
                    let names: Vec<_> = leaving.iter().map(|entry| &*entry.backend.name).collect();
                    let open = open_of(leaving.iter().copied());
                    let leave = if names.len() == 1 { "leaves; its" } else { "leave; their" };
                    let (names, policy) = (list(&names, NAMED), policy(after.on_leave));
                    effects.push(format!("{names} {leave} open connections ({open}) {policy}"));
                }
                if keys.iter().any(|key| !key.key.starts_with("discover")) {
                    effects.push("settings apply to new connections".to_owned());
                }
                if effects.is_empty() {
                    format!("open connections ({open}) continue")
                } else {
                    effects.join("; ")
                }
            }
            _ => {
                let on_leave = before.map_or(Policy::Keep, |pool| pool.on_leave);
                format!("its open connections ({open}) {}", policy(on_leave))
            }
        };
        (open, effect)
    }
}

fn open_of<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> u64 {
    entries.into_iter().map(|entry| u64::from(entry.backend.load.open())).sum()
}

/// Whether no source of `after` can report the backend: its sources are no longer there, or list it no longer.
fn leaves(entry: &Entry, after: &config::Pool) -> bool {
    let is_listed = |source: &Source| match source {
        Source::Static(backends) => backends
            .iter()
            .any(|one| (&one.name, &one.address) == (&entry.backend.name, &entry.backend.address)),
        _ => true,
    };
    let reports = |word: &Arc<str>| {
        **word == *SourceKey::Operator.word()
            || after
                .discover
                .iter()
                .any(|source| *SourceKey::from(source).word() == **word && is_listed(source))
    };
    !entry.sources.is_empty() && !entry.sources.iter().any(reports)
}

/// What happens to open connections.
fn policy(policy: Policy) -> String {
    let Policy::End { how, after, over } = policy else { return "continue".to_owned() };
    let how = if how == Ending::Reset { "are reset" } else { "are closed" };
    let time = |word: &str, time: Duration| match time.is_zero() {
        true => String::new(),
        false => format!(" {word} {}", format_duration(time)),
    };
    format!("{how}{}{}", time("after", after), time("over", over))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_told_in_words() {
        let end = |how, after, over| {
            policy(Policy::End { how, after: Duration::from_secs(after), over: Duration::from_secs(over) })
        };
        assert_eq!(policy(Policy::Keep), "continue");
        assert_eq!(end(Ending::Close, 0, 0), "are closed");
        assert_eq!(end(Ending::Reset, 10, 300), "are reset after 10s over 5m");
    }
}
