//! The running instance that a command sends requests to, and the token of these requests.

use std::path::{Path, PathBuf};
use std::pin::Pin;

use clap::Args;

use super::{Failure, FileArgs};
use crate::config;
use crate::remote::{Address, Remote};
use crate::sanitize;

/// The environment variable with the token, if no file is named.
const TOKEN: &str = "POINTSMAN_TOKEN";

/// The instance that gets the request.
#[derive(Debug, Args)]
pub(super) struct AdminArgs {
    /// The address of the admin server: ADDRESS:PORT, NAME:PORT or unix:PATH [default: the configuration's, or 127.0.0.1:9900]
    #[arg(long, env = "POINTSMAN_ADMIN", value_name = "ADDRESS", value_parser = str::parse::<Address>)]
    admin: Option<Address>,
    #[command(flatten)]
    file: FileArgs,
}

/// The instance to ask, the token, and how the reply is printed.
#[derive(Debug, Args)]
pub(super) struct RemoteArgs {
    #[command(flatten)]
    at: AdminArgs,
    /// A file with the token that the instance requires for changes, or set POINTSMAN_TOKEN to the token itself
    /// [default: the configuration's]
    #[arg(long, env = "POINTSMAN_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Print the server's reply, as JSON
    #[arg(long)]
    pub(super) json: bool,
}

impl AdminArgs {
    /// The given address, otherwise that of the configuration, which may be invalid elsewhere, otherwise the default.
    pub(super) fn address(&self) -> Result<Address, Failure> {
        self.find().map(|(address, _)| address)
    }

    /// The same address, with the configuration's token file if the address is the configuration's.
    fn find(&self) -> Result<(Address, Option<PathBuf>), Failure> {
        if let Some(address) = &self.admin {
            return Ok((address.clone(), None));
        }
        let Some(path) = self.file.config.clone().or_else(config::find) else {
            return Ok((Address::default_admin(), None));
        };
        let none = || {
            let path = path.display();
            Failure::Invalid(format!(
                "{path} has no admin section: add `admin: {{bind: 127.0.0.1:9900}}`, or name an address with --admin"
            ))
        };
        let admin = match config::load_admin(&path) {
            Ok(admin) => admin.ok_or_else(none)?,
            // A change must not reach another instance than that of the named file.
            Err(errors) if self.file.config.is_some() || !path.exists() => return Err(errors.into()),
            Err(_) => {
                let (path, address) = (path.display(), Address::default_admin());
                let note = format!(
                    "{path} is invalid (`pointsman check -c {path}` shows why) and has no readable admin address: asking \
                     {address}; name another one with --admin"
                );
                eprintln!("{}", sanitize::line(&note));
                return Ok((address, None));
            }
        };
        let address = Address::from(admin.bind);
        if address.has_port_zero() {
            let path = path.display();
            return Err(Failure::Invalid(format!(
                "{path} lets the kernel choose the port of the admin server (port 0): name the chosen one with --admin"
            )));
        }
        Ok((address, admin.token_file))
    }
}

impl RemoteArgs {
    /// A client of the instance.
    pub(super) fn remote(&self) -> Result<Remote, Failure> {
        let (address, configured) = self.at.find()?;
        let token = match (token(self.token_file.as_deref())?, configured) {
            // Reading needs no token, so an unreadable file is no error.
            (None, Some(file)) => token_in(&file).unwrap_or_default(),
            (token, _) => token,
        };
        Ok(Remote::new(address).with_token(token))
    }
}

/// The token. It is never an argument: all users of the machine can read arguments.
fn token(file: Option<&Path>) -> Result<Option<String>, Failure> {
    let Some(path) = file else { return Ok(std::env::var(TOKEN).ok().filter(|token| !token.is_empty())) };
    let token = token_in(path).map_err(|error| {
        Failure::Invalid(format!("the token file {} cannot be read: {error}", path.display()))
    })?;
    let empty =
        || format!("the token file {} is empty: it must contain the token and nothing else", path.display());
    token.map(Some).ok_or_else(|| Failure::Invalid(empty()))
}

/// The token in a file; `None`: the file is empty.
pub(super) fn token_in(file: &Path) -> std::io::Result<Option<String>> {
    let text = std::fs::read_to_string(file)?;
    Ok(Some(text.trim().to_owned()).filter(|token| !token.is_empty()))
}

/// Runs a command that sends requests, on its own runtime.
pub(super) fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    // Boxed, so that the runtime's code is compiled once for each result and not for each command.
    run_alone(Box::pin(work))
}

fn run_alone<T>(work: Pin<Box<dyn Future<Output = Result<T, Failure>> + '_>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime =
        runtime.map_err(|error| Failure::NotStarted(format!("the runtime cannot be started: {error}")))?;
    let result = runtime.block_on(work);
    // A thread that hangs in the system's resolver, or waits for a key, must not delay the exit.
    runtime.shutdown_background();
    result
}
