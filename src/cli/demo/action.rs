//! What can be done in the demo: the actions that the page sends, the keys make and the scripts consist of.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::script::ScriptId;
use crate::domain::Algorithm;

/// The most backends of the demo.
pub(super) const SLOTS: usize = 8;

/// Their names.
const NAMES: [&str; SLOTS] = ["a", "b", "c", "d", "e", "f", "g", "h"];

/// One of the backends, in the demo now or not, by its place in the order of names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Slot(usize);

impl Slot {
    pub(super) const A: Self = Self(0);
    pub(super) const B: Self = Self(1);
    pub(super) const C: Self = Self(2);
    pub(super) const D: Self = Self(3);

    /// All of them.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        (0..SLOTS).map(Self)
    }

    /// The slot at a place from 0; `None`: there is none.
    pub(super) fn at(place: usize) -> Option<Self> {
        (place < SLOTS).then_some(Self(place))
    }

    /// The place, from 0.
    pub(super) const fn place(self) -> usize {
        self.0
    }

    pub(super) const fn name(self) -> &'static str {
        NAMES[self.0]
    }
}

impl Serialize for Slot {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Slot {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        let slot = Self::all().find(|slot| slot.name() == name);
        slot.ok_or_else(|| de::Error::unknown_variant(&name, &NAMES))
    }
}

/// How often the backends are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum CheckInterval {
    /// Every 0.5 s.
    Fast,
    /// Every 5 s.
    Slow,
    /// Never: a backend is up as soon as it is found.
    Off,
}

/// What the checks request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum CheckPath {
    /// A path that only shows that the process is running.
    #[serde(rename = "/health")]
    Health,
    /// What clients request.
    #[serde(rename = "/")]
    Root,
}

/// Which clients send the requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Clients {
    /// Each request comes from another address.
    Many,
    /// Requests come from a few addresses, again and again.
    Few,
}

/// An action of the user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum DemoAction {
    /// The process of a backend is killed; DNS keeps its address.
    Kill { backend: Slot },
    /// A killed backend is started again.
    Restart { backend: Slot },
    /// The process of a backend is stopped: the kernel completes handshakes for it, but it never answers.
    Pause { backend: Slot },
    /// A paused backend resumes.
    Resume { backend: Slot },
    /// The response time of a backend increases.
    SlowDown { backend: Slot },
    /// Its response time is normal again.
    Recover { backend: Slot },
    /// The answers of a backend are errors, except that of `/health`.
    Fail { backend: Slot },
    /// Its answers are good again.
    Repair { backend: Slot },
    /// The address of a backend vanishes from DNS and reappears, again and again.
    Flap { backend: Slot },
    /// The address stays in DNS.
    Settle { backend: Slot },
    /// One more backend is started and appears in DNS.
    Add,
    /// The address of a backend vanishes from DNS. The process still serves its open connections.
    Remove { backend: Slot },
    /// The first two backends are started again, each with the address of the other.
    SwapAddresses,
    /// Another algorithm chooses.
    Balance { algorithm: Algorithm },
    /// A second pool with this algorithm gets the same requests; `null`: no second pool.
    Compare { algorithm: Option<Algorithm> },
    /// How often backends are checked.
    CheckEvery { every: CheckInterval },
    /// What the checks request.
    CheckPath { path: CheckPath },
    /// Requests per second.
    Rate { per_second: u32 },
    /// Which clients send them.
    Clients { kind: Clients },
    /// A script is played from its beginning.
    Play { script: ScriptId },
    /// The script is stopped.
    Stop,
    /// All backends, checks and the traffic are reset; the algorithm stays.
    Reset,
}

impl DemoAction {
    /// Whether it changes backends, which a script would change too.
    pub(super) fn is_about_backends(self) -> bool {
        match self {
            Self::Balance { .. }
            | Self::Compare { .. }
            | Self::CheckEvery { .. }
            | Self::CheckPath { .. }
            | Self::Rate { .. }
            | Self::Clients { .. }
            | Self::Play { .. }
            | Self::Stop => false,
            Self::Kill { .. }
            | Self::Restart { .. }
            | Self::Pause { .. }
            | Self::Resume { .. }
            | Self::SlowDown { .. }
            | Self::Recover { .. }
            | Self::Fail { .. }
            | Self::Repair { .. }
            | Self::Flap { .. }
            | Self::Settle { .. }
            | Self::Add
            | Self::Remove { .. }
            | Self::SwapAddresses
            | Self::Reset => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_are_read_strictly() {
        let read = |text: &str| serde_json::from_str::<DemoAction>(text);
        assert_eq!(
            read(r#"{"action": "kill", "backend": "b"}"#).unwrap(),
            DemoAction::Kill { backend: Slot::B }
        );
        assert_eq!(read(r#"{"action": "add"}"#).unwrap(), DemoAction::Add);
        assert_eq!(
            read(r#"{"action": "compare", "algorithm": "least-connections"}"#).unwrap(),
            DemoAction::Compare { algorithm: Some(Algorithm::LeastConnections) }
        );
        assert_eq!(
            read(r#"{"action": "compare", "algorithm": null}"#).unwrap(),
            DemoAction::Compare { algorithm: None }
        );
        for wrong in [
            r#"{"action": "kill"}"#,
            r#"{"action": "kill", "backend": "z"}"#,
            r#"{"action": "kill", "backend": "b", "hard": true}"#,
            r#"{"action": "explode"}"#,
            r#"{"action": "check_path", "path": "/elsewhere"}"#,
            r#"{"action": "balance", "algorithm": "by-chance"}"#,
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
