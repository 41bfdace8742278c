//! The configuration: from YAML to types and back.
//!
//! `yaml` parses the file and keeps the position of every key and value; `env` replaces variables; [`model`] declares
//! each key once (`keys`), from which come the reader, the writer, the JSON Schema and `conf/full.yaml`; `check` has the
//! rules about more than one key. [`ConfigErrors`] shows every problem at once. `not_yaml` and `foreign` explain files that
//! are not YAML or belong to another program.

mod backend_name;
mod changes;
mod check;
mod decode;
mod env;
pub mod escape;
mod example;
mod foreign;
mod kernel_plane;
mod keys;
mod kind;
#[cfg(any(test, feature = "laws"))]
pub mod laws;
pub mod model;
mod not_yaml;
mod outline;
mod problem;
mod scalar;
mod schema;
mod shape;
mod value;
mod yaml;

use std::io::Read;
use std::path::{Path, PathBuf};

pub use backend_name::{BACKEND_NAME_RULE, is_backend_name};
pub use changes::{ChangedKey, ConfigPart, PartChange, changes};
pub use model::*;
use problem::FilePosition;
pub use problem::{ConfigErrors, Problem};
pub use value::{HttpUrl, ServicePort, backend_address, bind_address};

use decode::{Decoder, FoundValue};
use kind::table;
use outline::Outline;
use value::bind;
use yaml::{YamlNode, YamlValue};

/// Reads the configuration in `path`, with variables from the environment; `-` is standard input.
pub fn load(path: &Path) -> Result<Config, ConfigErrors> {
    let (name, text) = read_file(path)?;
    parse(&name, &text, &environment)
}

/// The admin server of the configuration in `path`; `None`: it has none. An invalid configuration is no error if its
/// admin address can be read: commands for a running instance need nothing else, and are needed then.
pub fn load_admin(path: &Path) -> Result<Option<Admin>, ConfigErrors> {
    let (name, text) = read_file(path)?;
    match parse(&name, &text, &environment) {
        Ok(config) => Ok(config.admin),
        Err(errors) => admin_of(&text, &environment).map(Some).ok_or(errors),
    }
}

/// The value of an environment variable.
fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Reads the address of the admin server and its token's file in `text`, whatever else is wrong with it.
fn admin_of(text: &str, variables: &dyn Fn(&str) -> Option<String>) -> Option<Admin> {
    let mut root = yaml::parse(text).ok()?;
    env::substitute(&mut root, variables, &mut Vec::new());
    let section = root.get("admin")?;
    let decoder = Decoder::new(text);
    let found = |key: &str| section.get(key).map(|node| FoundValue::root(node, key, &decoder));
    let mut admin = Admin::new(bind().read(&found("bind")?)?);
    admin.token_file = found("token_file").and_then(|file| scalar::path().read(&file));
    Some(admin)
}

/// What messages call the file, and its text; `-` is standard input.
fn read_file(path: &Path) -> Result<(String, String), ConfigErrors> {
    let name =
        if path == Path::new("-") { "<standard input>".to_owned() } else { path.display().to_string() };
    let text = if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        std::fs::read_to_string(path)
    };
    match text {
        Ok(text) => Ok((name, text)),
        Err(error) => {
            let message = format!("cannot be read: {error}; name another file with -c FILE");
            Err(ConfigErrors::new(&name, "", vec![Problem { at: None, message }]))
        }
    }
}

/// Reads the configuration in `text`; `name` is what messages call it.
pub fn parse(
    name: &str,
    text: &str,
    variables: &dyn Fn(&str) -> Option<String>,
) -> Result<Config, ConfigErrors> {
    let expand = |root: &mut YamlNode, problems: &mut Vec<_>| env::substitute(root, variables, problems);
    let read = read_with(name, text, expand, decode::TOP, |root| table().read(root));
    read.map_err(|errors| match foreign::recognize(text) {
        Some(problem) => ConfigErrors::new(name, text, vec![problem]),
        None => errors,
    })
}

/// Reads the backends in `text`, a file with nothing else: a YAML list as under `static`, or a map with such a list
/// under `backends`. A variable is a problem: the author of the list may not be allowed to read this process's
/// environment, which a backend's name would show in the status. An empty file is a problem, because a file may be
/// empty while it is being written; an empty list is `[]`. `name` is what messages call it.
pub fn read_backends(name: &str, text: &str) -> Result<Vec<StaticBackend>, ConfigErrors> {
    read_with(name, text, env::refuse, "the file", |root| {
        let list = match &root.node.value {
            YamlValue::Map(_) => {
                let map = root.map(vec!["backends"])?;
                map.report_unknown(&[]);
                match map.get("backends") {
                    Some(list) => root.item(list, "\"backends\" in the file".to_owned()),
                    None => {
                        root.problem("the file needs a list of backends, or \"backends\" with such a list");
                        return None;
                    }
                }
            }
            YamlValue::Null => {
                root.problem("the file is empty; for no backends at all write []");
                return None;
            }
            _ => root.item(root.node, root.what.clone()),
        };
        let backends = static_backends(None).read(&list);
        check::backend_names(list.node, root);
        backends
    })
}

/// Reads one backend in `text`: its address, or a JSON object with the keys of an entry of `static`. `name` is its name if
/// it has none of its own, and `what` is what messages call the text. A variable is a problem, as in [`read_backends`].
pub fn read_backend(what: &str, text: &str, name: &str) -> Result<StaticBackend, ConfigErrors> {
    let text = text.trim();
    let read = |root: &FoundValue<'_>| {
        let mut backend = static_backend().read(root)?;
        if root.node.get("name").is_none() {
            backend.name = name.into();
        }
        Some(backend)
    };
    if text.starts_with('{') {
        return read_with(what, text, env::refuse, "the value", read);
    }
    // Not as YAML, in which an IPv6 address and its port are no text.
    let at = FilePosition { line: 1, column: 1 };
    let node = YamlNode { at, value: YamlValue::Scalar(text.to_owned()) };
    finish(what, text, "the value", &node, read)
}

/// Reads `text` with `read`, after `expand` has handled its variables; messages call it `what`. Returns the result only
/// if there are no problems.
fn read_with<T>(
    name: &str,
    text: &str,
    expand: impl FnOnce(&mut YamlNode, &mut Vec<Problem>),
    what: &str,
    read: impl FnOnce(&FoundValue<'_>) -> Option<T>,
) -> Result<T, ConfigErrors> {
    let errors = |problems| ConfigErrors::new(name, text, problems);
    let mut root = yaml::parse(text).map_err(|problem| errors(vec![problem]))?;
    let mut problems = Vec::new();
    expand(&mut root, &mut problems);
    if !problems.is_empty() {
        return Err(errors(problems)); // the values are not known
    }
    finish(name, text, what, &root, read)
}

/// Reads a tree that was parsed from `text`.
fn finish<T>(
    name: &str,
    text: &str,
    what: &str,
    root: &YamlNode,
    read: impl FnOnce(&FoundValue<'_>) -> Option<T>,
) -> Result<T, ConfigErrors> {
    let decoder = Decoder::new(text);
    let result = read(&FoundValue::root(root, what, &decoder));
    match (result, decoder.into_problems()) {
        (Some(result), problems) if problems.is_empty() => Ok(result),
        (_, problems) => Err(ConfigErrors::new(name, text, problems)),
    }
}

/// The default configuration: `$POINTSMAN_CONFIG`, or the first `pointsman.yaml` that exists in the working directory,
/// in the user's configuration directory or in `/etc/pointsman`.
pub fn find() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("POINTSMAN_CONFIG").filter(|path| !path.is_empty()) {
        return Some(path.into()); // even if it does not exist: the user means it
    }
    let home = std::env::var_os("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".config")));
    let paths = [
        Some(PathBuf::from("pointsman.yaml")),
        home.map(|home| home.join("pointsman/pointsman.yaml")),
        Some(PathBuf::from("/etc/pointsman/pointsman.yaml")),
    ];
    paths.into_iter().flatten().find(|path| path.exists())
}

/// Replaces a secret in the output.
const MASKED: &str = "***";

/// A configuration as JSON in the shape of the file, defaults filled in. JSON is YAML: reading it gives the same
/// configuration.
pub fn to_json(config: &Config) -> impl serde::Serialize + use<> {
    outline(config.clone())
}

/// The same with possible secrets masked: the replicas' environment and command, and the bytes that a check sends.
pub fn to_json_without_secrets(config: &Config) -> impl serde::Serialize + use<> {
    outline(without_secrets(config))
}

fn without_secrets(config: &Config) -> Config {
    let mut config = config.clone();
    for (_, pool) in &mut config.pools {
        if let Some(replicas) = &mut pool.replicas {
            replicas.env.iter_mut().for_each(|(_, value)| MASKED.clone_into(value));
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
    config
}

/// The same as [`to_json`] as YAML.
pub fn to_yaml(config: &Config) -> String {
    outline(config.clone()).to_yaml()
}

fn outline(mut config: Config) -> Outline {
    for (_, pool) in &mut config.pools {
        // `replicas` implies its source.
        let implied = pool.replicas.as_ref().map(|replicas| Source::Docker(replicas.source()));
        pool.discover.retain(|source| implied.as_ref() != Some(source));
    }
    table().write(&config).unwrap_or_else(|| Outline::Map(Vec::new()))
}

/// The JSON Schema of the configuration, for editors.
pub fn json_schema() -> String {
    format!("{:#}\n", schema::schema())
}

/// A configuration with every key, its meaning and its default or an example: `conf/full.yaml`.
pub fn example() -> String {
    example::example()
}

#[cfg(test)]
mod tests;
