//! The states of a backend.

use serde::{Deserialize, Serialize};

/// The state of a backend. Only those that are up are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(any(test, feature = "testing"), derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum BackendState {
    /// Found, and not yet checked.
    Joining,
    /// Fit for traffic.
    Up,
    /// Its checks fail.
    Down,
    /// It failed live connections, and gets none for a while.
    Ejected,
    /// It gets no new connections: it left discovery and still has some, or an operator drains it.
    Draining,
    /// An operator disabled it: it gets no new connections and is not checked.
    Maintenance,
    /// It left discovery and has none: nothing of it remains.
    Gone,
}

impl BackendState {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Joining, Self::Up, Self::Down, Self::Ejected, Self::Draining, Self::Maintenance, Self::Gone];

    /// Its index in a table of counters, and in [`ALL`](Self::ALL).
    pub fn index(self) -> usize {
        self as usize
    }

    /// The name in the log, in metrics and in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Joining => "joining",
            Self::Up => "up",
            Self::Down => "down",
            Self::Ejected => "ejected",
            Self::Draining => "draining",
            Self::Maintenance => "maintenance",
            Self::Gone => "gone",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_is_at_its_index() {
        for (index, state) in BackendState::ALL.into_iter().enumerate() {
            assert_eq!(state.index(), index, "{}", state.name());
        }
    }
}
