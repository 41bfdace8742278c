//! `pointsman health`: checks whether a running instance is ready. For a container's HEALTHCHECK: it needs no shell,
//! exits only with 0 or 1, and has short time limits.

use std::time::Duration;

use super::instance::{AdminArgs, block_on};
use super::{Exit, Failure, print};
use crate::remote::{Error, Remote};

/// The time limit of each step of the request.
const LIMIT: Duration = Duration::from_secs(2);

pub(super) fn run(args: &AdminArgs) -> Result<Exit, Failure> {
    let remote = Remote::new(args.address()?).within(LIMIT);
    let address = remote.address();
    let response = block_on(async { Ok(remote.text("/ready").await) })?;
    response.map_err(|error| {
        let why = match &error {
            Error::Refused { status, message, .. } => format!("answered {}: {message}", status.as_u16()),
            _ => error.why(),
        };
        Failure::Invalid(format!("not ready: {address}: {why}"))
    })?;
    print("ready\n")
}
