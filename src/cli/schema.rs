//! `pointsman schema`: the JSON Schema of the configuration.

use super::{Exit, Failure, print};

pub(super) fn run() -> Result<Exit, Failure> {
    print(crate::config::json_schema())
}
