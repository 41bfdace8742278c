//! The rules in the kernel: in line with the pools, and written again after changes by other programs.

use std::sync::Arc;
use std::time::Duration;

use tracing::{error, warn};

use super::super::listener_rules;
use super::super::nft::{self, Error};
use super::super::rules::{OPEN_TABLE, Ruleset, TABLES};
use super::Task;
use crate::task::spawn;

impl Task {
    /// Brings the rules in line with the pools.
    pub(super) async fn update(&mut self) {
        if self.is_held {
            return; // the rules may be those of the other process
        }
        let updated = self.try_update().await;
        for (name, _) in updated.iter().flatten() {
            if let Some(served) = self.served.iter().find(|served| served.listener.name == *name) {
                // Its task asks again, and gets the error.
                served.listener.kernel_plane_failed.notify_one();
            }
        }
        if let Err(error) = updated {
            let listeners: Vec<_> = self.served.iter().map(|served| &*served.listener.name).collect();
            let listeners = listeners.join(", ");
            error!(%error, %listeners, "cannot change the kernel's rules, which stay as they are: retrying");
            let changed = Arc::clone(&self.changed);
            spawn(async move {
                tokio::time::sleep(Duration::from_secs(1)).await;
                changed.notify_one();
            });
        }
    }

    /// The same; returns the listeners that cannot have the rules that they need, and why: their former ones stay.
    pub(super) async fn try_update(&mut self) -> Result<Vec<(Arc<str>, Error)>, Error> {
        let (rules, refused) = self.rules();
        let changes = match &self.applied {
            Some(before) if *before == rules => return Ok(refused),
            Some(before) => rules.scripts_from(before, self.table),
            None => None,
        };
        // After an error it is made anew.
        self.applied = None;
        let (scripts, table) = match changes {
            Some(scripts) => (scripts, self.table),
            None => {
                // The table in force, also that of another process, stays until the new one is complete.
                for name in TABLES {
                    if nft::has_chain(name, "translate").await {
                        self.table = name;
                    }
                }
                rules.scripts(self.table)
            }
        };
        self.has_rules = true;
        for script in scripts {
            nft::apply(&script).await?;
        }
        (self.applied, self.table) = (Some(rules), table);
        self.note_listing().await;
        Ok(refused)
    }

    /// The rules of all listeners, and the listeners that cannot have the rules that they need.
    fn rules(&mut self) -> (Ruleset, Vec<(Arc<str>, Error)>) {
        let (mut rules, mut refused) = (Ruleset::default(), Vec::new());
        for served in &mut self.served {
            match served.rules() {
                Ok(new) => rules.listeners.push(new),
                Err(error) => {
                    let name = listener_rules::identifier(&served.listener.name);
                    let applied = self.applied.iter().flat_map(|applied| &applied.listeners);
                    rules.listeners.extend(applied.filter(|former| former.name == name).cloned());
                    refused.push((Arc::clone(&served.listener.name), error));
                }
            }
        }
        (rules, refused)
    }

    /// Notes how the table looks now.
    pub(super) async fn note_listing(&mut self) {
        self.generation = self.current_generation();
        self.listing = listing(self.table).await;
    }

    /// The number of the last change of any rule.
    fn current_generation(&mut self) -> Option<u32> {
        self.kernel.as_mut()?.generation.read().ok()
    }

    /// Writes the table again if another program has changed it.
    pub(super) async fn repair(&mut self) {
        let generation = self.current_generation();
        if self.applied.is_none() || self.is_held || generation == self.generation {
            return;
        }
        if listing(self.table).await == self.listing {
            self.generation = generation;
            return;
        }
        warn!(table = self.table, "another program has changed our table of nftables: it is written again");
        self.applied = None;
        self.update().await;
    }
}

/// All tables that this process may have made.
pub(super) fn all_tables() -> impl Iterator<Item = &'static str> {
    TABLES.into_iter().chain([OPEN_TABLE])
}

/// Removes them.
pub(super) async fn remove() {
    let script: String =
        all_tables().map(|name| format!("add table inet {name}\ndelete table inet {name}\n")).collect();
    if let Err(error) = nft::apply(&script).await {
        error!(%error, "cannot remove the rules of nftables: `nft delete table inet pointsman` does, and likewise \
                        pointsman-2 and pointsman-open");
    }
}

/// The rules of a table and of that of open connections; empty: one is missing.
async fn listing(table: &str) -> String {
    match (nft::list(table).await, nft::list(OPEN_TABLE).await) {
        (Ok(rules), Ok(open)) => rules + &open,
        _ => String::new(),
    }
}
