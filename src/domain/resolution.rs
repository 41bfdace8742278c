//! The results of querying a source of backends.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The result of one query of a source. The kinds of failure mean different things.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resolution {
    /// It reported backends.
    #[serde(rename = "ok")]
    Found,
    /// It reported that there are none.
    Empty,
    /// The name does not exist.
    #[serde(rename = "nxdomain")]
    NoSuchName,
    /// The server failed.
    ServerFailure,
    /// There was no answer in time.
    Timeout,
    /// The source is invalid or unreadable.
    Invalid,
}

impl Resolution {
    /// All of them, in the order of [`index`](Self::index).
    pub const ALL: [Self; 6] =
        [Self::Found, Self::Empty, Self::NoSuchName, Self::ServerFailure, Self::Timeout, Self::Invalid];

    /// The value of `pointsman_resolutions_total{result}`, and the name in the log and in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Found => "ok",
            Self::Empty => "empty",
            Self::NoSuchName => "nxdomain",
            Self::ServerFailure => "server_failure",
            Self::Timeout => "timeout",
            Self::Invalid => "invalid",
        }
    }

    /// Its index in a table of counters.
    pub fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Resolution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for Resolution {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_result_is_at_its_index() {
        for (index, result) in Resolution::ALL.into_iter().enumerate() {
            assert_eq!(result.index(), index, "{result}");
        }
    }
}
