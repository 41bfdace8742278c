//! `pointsman check`: all problems of a configuration at once. Nothing is resolved, nothing is bound.

use super::{Exit, Failure, FileArgs, Form, print};
use crate::config;

pub(super) fn run(args: &FileArgs, form: Option<Form>) -> Result<Exit, Failure> {
    let path = args.path()?;
    let config = config::load(&path)?;
    match form {
        Some(Form::Yaml) => return print(&config::to_yaml(&config)),
        Some(Form::Json) => {
            let json = serde_json::to_string_pretty(&config::to_json(&config));
            return print(&(json.map_err(|error| Failure::NotStarted(error.to_string()))? + "\n"));
        }
        None => {}
    }
    let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    let (listeners, pools) = (count(config.listeners.len(), "listener"), count(config.pools.len(), "pool"));
    print(&format!("{}: good ({listeners}, {pools})\n", path.display()))
}
