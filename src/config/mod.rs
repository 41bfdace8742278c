//! The configuration: the YAML that the user writes, and what it means.
//!
//! `tree` reads the file and keeps every key's and value's place; `env` replaces variables; `read` turns the tree
//! into the [`model`], noting every problem on the way with the help of `decode` (maps and their keys), `scalar` (single
//! values) and `escape` (bytes as text); a [`Report`] tells them. `write` is the way back.

mod backend_name;
mod decode;
mod env;
pub mod escape;
pub mod model;
mod read;
mod report;
mod scalar;
mod tree;
mod write;

use std::io::Read;
use std::path::{Path, PathBuf};

pub use backend_name::{BACKEND_NAME_RULE, is_backend_name};
pub use model::*;
pub use read::bind_address;
pub use report::{Place, Problem, Report};

/// Reads the configuration in `path`, with variables from the environment; `-` is standard input.
pub fn load(path: &Path) -> Result<Config, Report> {
    let name =
        if path == Path::new("-") { "<standard input>".to_owned() } else { path.display().to_string() };
    let text = if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        std::fs::read_to_string(path)
    };
    match text {
        Ok(text) => parse(&name, &text, &|variable| std::env::var(variable).ok()),
        Err(error) => {
            let message = format!("cannot be read: {error}; name another file with -c FILE");
            Err(Report::new(&name, "", vec![Problem { at: None, message }]))
        }
    }
}

/// Reads the configuration in `text`; `name` is what messages call it.
pub fn parse(name: &str, text: &str, variables: &dyn Fn(&str) -> Option<String>) -> Result<Config, Report> {
    read_with(name, text, |root, problems| env::substitute(root, variables, problems), read::config)
}

/// Reads the backends in `text`, a file that holds nothing else: a YAML list as it would stand under `static`, or a map
/// with such a list under `backends`. A variable is a problem: who writes the list is not always who may read this process's
/// environment, which would show in the status as a backend's name. An empty list is `[]`: a file with nothing in it has a problem, as it is how a file
/// looks while it is being written. `name` is what messages call it.
pub fn read_backends(name: &str, text: &str) -> Result<Vec<StaticBackend>, Report> {
    read_with(name, text, env::refuse, |root, decoder| Some(read::backends(root, decoder)))
}

/// Reads `text` with `read`, after what `expand` does with its variables. The result counts only if there are no problems.
fn read_with<T>(
    name: &str,
    text: &str,
    expand: impl FnOnce(&mut tree::Node, &mut Vec<Problem>),
    read: impl FnOnce(&tree::Node, &decode::Decoder<'_>) -> Option<T>,
) -> Result<T, Report> {
    let report = |problems| Report::new(name, text, problems);
    let mut root = tree::parse(text).map_err(|problem| report(vec![problem]))?;
    let mut problems = Vec::new();
    expand(&mut root, &mut problems);
    if !problems.is_empty() {
        return Err(report(problems)); // what the values would have been is not known
    }
    let decoder = decode::Decoder::new(text);
    let result = read(&root, &decoder);
    match (result, decoder.into_problems()) {
        (Some(result), problems) if problems.is_empty() => Ok(result),
        (_, problems) => Err(report(problems)),
    }
}

/// Where the configuration is looked for when nobody says where: `$POINTSMAN_CONFIG`, `pointsman.yaml` here, in
/// the user's configuration directory, in `/etc/pointsman`. The first that exists.
pub fn find() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("POINTSMAN_CONFIG").filter(|path| !path.is_empty()) {
        return Some(path.into()); // even if it does not exist: the user means it
    }
    let home = std::env::var_os("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".config")));
    let places = [
        Some(PathBuf::from("pointsman.yaml")),
        home.map(|home| home.join("pointsman/pointsman.yaml")),
        Some(PathBuf::from("/etc/pointsman/pointsman.yaml")),
    ];
    places.into_iter().flatten().find(|path| path.exists())
}

/// What stands in the place of a secret.
const MASKED: &str = "***";

/// A configuration as JSON in the shape of the file, every default filled in. JSON is YAML: who reads it gets the same
/// configuration.
pub fn to_json(config: &Config) -> impl serde::Serialize + use<> {
    write::config(config)
}

/// The same without what may be secret, for whoever may look: what replicas are given, and what an exchange sends.
pub fn to_json_without_secrets(config: &Config) -> impl serde::Serialize + use<> {
    let mut config = config.clone();
    for pool in config.pools.values_mut() {
        if let Some(replicas) = &mut pool.replicas {
            replicas.env.values_mut().for_each(|value| MASKED.clone_into(value));
            replicas.command = replicas.command.as_ref().map(|_| vec![MASKED.to_owned()]);
        }
        for health in &mut pool.health {
            if let model::Check::Exchange(exchange) = &mut health.check
                && !exchange.send.is_empty()
            {
                exchange.send = MASKED.into();
            }
        }
    }
    write::config(&config)
}

/// The same as YAML.
pub fn to_yaml(config: &Config) -> String {
    write::config(config).to_yaml()
}

/// The JSON Schema of the configuration, for editors.
pub fn json_schema() -> &'static str {
    include_str!("schema.json")
}

#[cfg(test)]
mod tests;
