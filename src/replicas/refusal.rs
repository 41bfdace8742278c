//! Why replicas are not added or removed, as a message for users.

use std::fmt;
use std::sync::Arc;

/// Why replicas are not added or removed. Nothing has changed then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// More names than replicas to add.
    MoreNamesThanAdded,
    /// More names than replicas to remove.
    MoreNamesThanRemovable,
    /// The request is invalid, and why.
    Invalid(String),
    /// A name is taken.
    Taken(String),
    /// The replica with the name is being removed.
    StillLeaving(String),
    /// No replica has the name.
    Unknown {
        /// The name.
        name: String,
        /// The existing names.
        known: Vec<Arc<str>>,
    },
    /// There would be too many.
    AboveMax {
        /// The present number.
        now: usize,
        /// The number to add.
        n: usize,
        /// The limit.
        max: usize,
    },
    /// There would be too few.
    BelowMin {
        /// The present number.
        now: usize,
        /// The number to remove.
        n: usize,
        /// The limit.
        min: usize,
    },
    /// The engine does not have the image.
    NoImage(String),
    /// The engine is unreachable, and what to do.
    Engine(String),
    /// The engine failed; the partial addition was undone.
    Failed(String),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // Clients of this interface compare these two texts literally.
            Self::MoreNamesThanAdded => {
                f.write_str("Length of hostname list is more than newly added instances")
            }
            Self::MoreNamesThanRemovable => {
                f.write_str("Length of hostname list is more than removable instances")
            }
            Self::Invalid(why) => f.write_str(why),
            Self::Taken(name) => write!(f, "replica {name:?} already exists"),
            Self::StillLeaving(name) => {
                write!(
                    f,
                    "the replica {name:?} is being removed: wait until it is gone, or choose another name"
                )
            }
            Self::Unknown { name, known } if known.is_empty() => {
                write!(f, "there is no replica {name:?}, nor any other")
            }
            Self::Unknown { name, known } => {
                write!(f, "there is no replica {name:?}; there is {}", known.join(", "))
            }
            Self::AboveMax { now, n, max } => {
                write!(f, "cannot add {n}: there are {now}, and the max is {max}")
            }
            Self::BelowMin { now, n, min } => {
                write!(f, "cannot remove {n}: there are {now}, and the min is {min}")
            }
            Self::NoImage(image) => {
                write!(f, "the engine has no image {image:?}: build or pull it first")
            }
            Self::Engine(why) => f.write_str(why),
            Self::Failed(why) => write!(f, "{why}; nothing was added"),
        }
    }
}
