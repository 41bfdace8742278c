//! Why replicas are not added or taken out, for the person who wanted it.

use std::fmt;
use std::sync::Arc;

/// Why replicas are not added or taken out. Nothing has changed then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// More names than replicas to add.
    MoreNamesThanAdded,
    /// More names than replicas to take out.
    MoreNamesThanRemovable,
    /// What was said makes no sense, and why.
    Wrong(String),
    /// A name is taken.
    Taken(String),
    /// The replica that has the name is being taken out.
    StillLeaving(String),
    /// Nobody has a name.
    Unknown {
        /// The name.
        name: String,
        /// Those that there are.
        known: Vec<Arc<str>>,
    },
    /// There would be too many.
    AboveMax {
        /// There are so many.
        now: usize,
        /// So many more were wanted.
        n: usize,
        /// There can be so many.
        max: usize,
    },
    /// There would be too few.
    BelowMin {
        /// There are so many.
        now: usize,
        /// So many fewer were wanted.
        n: usize,
        /// So many there must be.
        min: usize,
    },
    /// The engine does not have the image.
    NoImage(String),
    /// The engine cannot be asked, and what to do.
    Engine(String),
    /// The engine could not do it; what was begun has been taken back.
    Failed(String),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // These two are what other load balancers of this interface say, to the letter.
            Self::MoreNamesThanAdded => {
                f.write_str("Length of hostname list is more than newly added instances")
            }
            Self::MoreNamesThanRemovable => {
                f.write_str("Length of hostname list is more than removable instances")
            }
            Self::Wrong(why) => f.write_str(why),
            Self::Taken(name) => write!(f, "there is a replica {name:?} already"),
            Self::StillLeaving(name) => {
                write!(
                    f,
                    "the replica {name:?} is just being taken out: wait until it is gone, or choose another name"
                )
            }
            Self::Unknown { name, known } if known.is_empty() => {
                write!(f, "there is no replica {name:?}; there is none at all")
            }
            Self::Unknown { name, known } => {
                write!(f, "there is no replica {name:?}; there is {}", known.join(", "))
            }
            Self::AboveMax { now, n, max } => {
                write!(f, "{n} more would be more than the max of {max}: there are {now}")
            }
            Self::BelowMin { now, n, min } => {
                write!(f, "{n} fewer would be fewer than the min of {min}: there are {now}")
            }
            Self::NoImage(image) => {
                write!(f, "the engine has no image {image:?}: build or pull it first")
            }
            Self::Engine(why) => f.write_str(why),
            Self::Failed(why) => write!(f, "{why}; nothing was added"),
        }
    }
}
