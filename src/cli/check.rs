//! `pointsman check`: all problems of a configuration at once. Nothing is resolved, nothing is bound.

use super::{Exit, Failure, FileArgs, print};
use crate::config;

pub(super) fn run(args: &FileArgs) -> Result<Exit, Failure> {
    let path = args.path()?;
    let config = config::load(&path)?;
    let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    let (listeners, pools) = (count(config.listeners.len(), "listener"), count(config.pools.len(), "pool"));
    print(&format!("{}: good ({listeners}, {pools})\n", path.display()))
}
