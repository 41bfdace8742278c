//! Checks of what a configuration refers to outside itself, such as files and sockets, and of parts that have no effect:
//! errors that `run` would fail with, and likely mistakes.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use super::Failure;
use super::instance::block_on;
use crate::admin::access::Access;
use crate::config::{self, Admin, Config, Source};
use crate::discovery;
use crate::domain::SocketAddress;
use crate::health;
use crate::proxy::{sockets, unix_socket};
use crate::supervisor::files;

/// The findings.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Findings {
    /// `run` would fail.
    pub(super) errors: Vec<String>,
    /// `run` would start, but something would not work as expected.
    pub(super) warnings: Vec<String>,
}

/// Checks the files, sockets and limits that the configuration needs. Nothing is resolved or bound.
pub(super) fn findings(config: &Config) -> Result<Findings, Failure> {
    let mut errors: Vec<String> = obstacles(config).collect();
    errors.extend(Access::read_rules(config.admin.as_ref()).err());
    if let Some(directory) = &config.log.directory {
        errors.extend(unwritable(directory).map(|error| {
            let directory = directory.display();
            format!("the log cannot be written to {directory} (log.directory): {error}")
        }));
    }
    if let Some(folder) = &config.runtime.state {
        errors.extend(unwritable(folder).map(|error| {
            let folder = folder.display();
            format!("the state cannot be kept in {folder} (runtime.state): {error}")
        }));
    }
    let mut warnings: Vec<String> = config.admin.as_ref().and_then(open_admin).into_iter().collect();
    warnings.extend(unused_pools(config));
    warnings.extend(backend_files(config));
    warnings.extend(block_on(check_files(config))?);
    let files = files::files(config, sockets::file_limit(), files::workers(config));
    // The limit of this process: a service may have a different one.
    warnings.extend(files::shortage(&files).map(|shortage| shortage.to_string()));
    warnings.extend(files::lowered(config, &files).into_iter().map(|lowered| lowered.to_string()));
    Ok(Findings { errors, warnings })
}

/// Other files at the paths of the configured Unix sockets.
fn obstacles(config: &Config) -> impl Iterator<Item = String> {
    let of_listeners = config.listeners.iter().flat_map(|(name, listener)| {
        listener.bind.iter().map(move |address| (format!("listener {name:?}"), address))
    });
    let of_admin = config.admin.iter().map(|admin| ("the admin server".to_owned(), &admin.bind));
    of_listeners.chain(of_admin).filter_map(|(what, address)| match address {
        SocketAddress::Unix(path) => {
            let obstacle = unix_socket::obstacle(path)?;
            Some(format!("{what} cannot listen on {address}: {obstacle}"))
        }
        SocketAddress::Tcp(_) => None,
    })
}

/// Why no file can be written in a directory, or the directory cannot be created. Writes an empty file and removes it.
fn unwritable(directory: &Path) -> Option<io::Error> {
    // `run` creates missing directories below the nearest existing one.
    let existing = directory.ancestors().find(|path| path.exists()).unwrap_or(Path::new("."));
    let existing = if existing.as_os_str().is_empty() { Path::new(".") } else { existing };
    let trial = existing.join(format!(".pointsman-check-{}", std::process::id()));
    let written = OpenOptions::new().write(true).create_new(true).open(&trial);
    let _ = fs::remove_file(&trial);
    written.err()
}

/// A warning about an admin server that other machines can reach and that has no token.
fn open_admin(admin: &Admin) -> Option<String> {
    let SocketAddress::Tcp(address) = &admin.bind else { return None };
    (admin.token_file.is_none() && !address.ip().is_loopback()).then(|| {
        format!(
            "the admin server at {address} has no token (admin.token_file): every client that reaches it can read the \
             configuration, the connections and the log, and changes are possible from this machine only"
        )
    })
}

/// Warnings about pools that no connection can reach.
fn unused_pools(config: &Config) -> impl Iterator<Item = String> {
    let is_used = |name| config.listeners.values().any(|one| one.pools().any(|pool| pool == name));
    let unused = config.pools.keys().filter(move |name| !is_used(*name));
    unused.map(|name| format!("no listener uses the pool {name:?}"))
}

/// Warnings about files with backends that cannot be read or are wrong.
fn backend_files(config: &Config) -> Vec<String> {
    let sources =
        config.pools.iter().flat_map(|(name, pool)| pool.discover.iter().map(move |one| (name, one)));
    let files = sources.filter_map(|(name, source)| match source {
        Source::File(file) => Some((name, &file.path)),
        _ => None,
    });
    let problem = |path: &PathBuf| match fs::read_to_string(path) {
        Err(error) => Some(format!("{}: {error}", path.display())),
        Ok(text) => {
            config::read_backends(&path.display().to_string(), &text).err().map(|report| report.to_string())
        }
    };
    files
        .filter_map(|(name, path)| {
            Some(format!("pool {name:?} has no backends from its file: {}", problem(path)?))
        })
        .collect()
}

/// Warnings about passwords, tokens and certificates of checks and sources.
async fn check_files(config: &Config) -> Result<Vec<String>, Failure> {
    let mut warnings = Vec::new();
    for (name, pool) in &config.pools {
        for source in &pool.discover {
            let problems = discovery::file_problems(source).await.into_iter();
            warnings
                .extend(problems.map(|problem| format!("a source of pool {name:?} cannot work: {problem}")));
        }
        for check in &pool.health {
            let problems = health::file_problems(check).await;
            warnings.extend(
                problems
                    .into_iter()
                    .map(|problem| format!("a check of pool {name:?} cannot work: {problem}")),
            );
        }
    }
    Ok(warnings)
}
