//! `pointsman health`: asks a running instance whether it is ready. For a container's HEALTHCHECK: needs no shell,
//! ends with 0 or 1 only, and soon.

use std::time::Duration;

use super::instance::{AdminArgs, block_on};
use super::{Exit, Failure, print};
use crate::remote::{Error, Remote};

/// Time for each step of the question.
const LIMIT: Duration = Duration::from_secs(2);

pub(super) fn run(args: &AdminArgs) -> Result<Exit, Failure> {
    let remote = Remote::new(args.address()?).within(LIMIT);
    let address = remote.address();
    let asked = block_on(async { Ok(remote.text("/ready").await) })?;
    asked.map_err(|error| {
        let why = match &error {
            Error::Refused { status, message, .. } => format!("answered {}: {message}", status.as_u16()),
            _ => error.why(),
        };
        Failure::Invalid(format!("not ready: {address}: {why}"))
    })?;
    print("ready\n")
}
