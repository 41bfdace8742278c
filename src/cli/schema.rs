//! `pointsman schema`: the JSON Schema of the configuration, or a configuration with every key.

use super::{Exit, Failure, print};
use crate::config;

pub(super) fn run(example: bool) -> Result<Exit, Failure> {
    print(&if example { config::example() } else { config::json_schema() })
}
