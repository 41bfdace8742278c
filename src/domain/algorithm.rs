//! The algorithms that choose a backend.

use serde::{Deserialize, Serialize};

/// An algorithm that chooses a backend (`balance`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Algorithm {
    /// In rotation, whatever the weights.
    RoundRobin,
    /// In rotation, in proportion to the weights, spread out smoothly.
    Weighted,
    /// The one with the fewest connections for its weight.
    LeastConnections,
    /// One drawn at random, in proportion to the weights.
    Random,
    /// Of two drawn at random, the one with fewer connections for its weight.
    RandomTwo,
    /// By the client's address, in a table in which each has as many slots as its weight.
    SourceHash,
    /// By the client's address, on a ring (ketama).
    RingHash,
    /// By the client's address, in a table (Maglev).
    Maglev,
    /// Of two drawn at random, the one that answers sooner for its load (peak EWMA).
    Ewma,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::RoundRobin,
        Self::Weighted,
        Self::LeastConnections,
        Self::Random,
        Self::RandomTwo,
        Self::SourceHash,
        Self::RingHash,
        Self::Maglev,
        Self::Ewma,
    ];

    /// The name in the configuration, in the log and in the API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RoundRobin => "round-robin",
            Self::Weighted => "weighted",
            Self::LeastConnections => "least-connections",
            Self::Random => "random",
            Self::RandomTwo => "random-two",
            Self::SourceHash => "source-hash",
            Self::RingHash => "ring-hash",
            Self::Maglev => "maglev",
            Self::Ewma => "ewma",
        }
    }

    /// Whether a backend of more weight gets more connections.
    pub fn uses_weights(self) -> bool {
        self != Self::RoundRobin
    }

    /// Whether it chooses by the hash of the client.
    pub fn hashes(self) -> bool {
        matches!(self, Self::SourceHash | Self::RingHash | Self::Maglev)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_algorithm_has_one_name_in_json_and_everywhere_else() {
        for algorithm in Algorithm::ALL {
            let json = serde_json::to_value(algorithm).unwrap();
            assert_eq!(json, algorithm.name());
            assert_eq!(serde_json::from_value::<Algorithm>(json).unwrap(), algorithm);
        }
    }
}
