//! Which of a pool's backends its connections go to.

use serde::{Deserialize, Serialize};

/// Which of a pool's backends its connections go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(any(test, feature = "testing"), derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum ServingTier {
    /// None is up: connections are rejected.
    None,
    /// Primary backends.
    Primaries,
    /// Primary backends of all zones, because too few of the local zone are up (`zone`).
    #[serde(rename = "all_zones")]
    AllZones,
    /// Backups, because no primary is up.
    Backups,
    /// All, up or not, because too few are up (panic).
    All,
}

impl ServingTier {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::None, Self::Primaries, Self::AllZones, Self::Backups, Self::All];

    /// The name in the API and in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Primaries => "primaries",
            Self::AllZones => "all_zones",
            Self::Backups => "backups",
            Self::All => "all",
        }
    }
}
