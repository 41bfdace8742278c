//! `pointsman check`: reports all problems of a configuration at once, including those of the files and sockets that it
//! names. It resolves no names and binds no addresses.

use super::preflight::findings;
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
    let found = findings(&config)?;
    for warning in found.warnings {
        eprintln!("{}: warning: {warning}", path.display());
    }
    if !found.errors.is_empty() {
        let named = |error| format!("{}: {error}", path.display());
        return Err(Failure::Invalid(found.errors.iter().map(named).collect::<Vec<_>>().join("\n")));
    }
    let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    let (listeners, pools) = (count(config.listeners.len(), "listener"), count(config.pools.len(), "pool"));
    print(&format!("{}: good ({listeners}, {pools})\n", path.display()))
}
