//! `pointsman check`: all problems of a configuration at once. It resolves and binds nothing, but checks whether
//! another file is at the path of a Unix socket.

use super::{Exit, Failure, FileArgs, Form, print};
use crate::config::{self, Config};
use crate::domain::SocketAddress;
use crate::proxy::{sockets, unix_socket};
use crate::supervisor::files;

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
    let obstacles = obstacles(&config);
    if !obstacles.is_empty() {
        return Err(Failure::Invalid(format!("{}: {}", path.display(), obstacles.join("\n"))));
    }
    let files = files::files(&config, sockets::file_limit(), files::workers(&config));
    // The limit of this process: a service may have a different one.
    let shortage = files::shortage(&files).map(|shortage| shortage.to_string());
    let lowered = files::lowered(&config, &files).into_iter().map(|lowered| lowered.to_string());
    for warning in shortage.into_iter().chain(lowered) {
        eprintln!("{}: warning: {warning}", path.display());
    }
    let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    let (listeners, pools) = (count(config.listeners.len(), "listener"), count(config.pools.len(), "pool"));
    print(&format!("{}: good ({listeners}, {pools})\n", path.display()))
}

/// Other files at the paths of the configured Unix sockets.
fn obstacles(config: &Config) -> Vec<String> {
    let of_listeners = config.listeners.iter().flat_map(|(name, listener)| {
        listener.bind.iter().map(move |address| (format!("listener {name:?}"), address))
    });
    let of_admin = config.admin.iter().map(|admin| ("the admin server".to_owned(), &admin.bind));
    of_listeners
        .chain(of_admin)
        .filter_map(|(what, address)| match address {
            SocketAddress::Unix(path) => {
                let obstacle = unix_socket::obstacle(path)?;
                Some(format!("{what} cannot listen on {address}: {obstacle}"))
            }
            SocketAddress::Tcp(_) => None,
        })
        .collect()
}
