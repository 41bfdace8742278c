//! `pointsman check`: all problems of a configuration at once. Nothing is resolved, nothing is bound.

use super::{Exit, Failure, FileArgs, print};
use crate::config;

pub(super) fn run(args: &FileArgs) -> Result<Exit, Failure> {
    let path = args.path()?;
    let config = config::load(&path)?;
    let (listeners, pools) = (config.listeners.len(), config.pools.len());
    print(&format!("{}: good ({listeners} listeners, {pools} pools)\n", path.display()))
}
