//! The address of a Docker engine: connecting, requests with a time limit, errors with advice.

use std::fmt;
use std::future::Future;
use std::io;
use std::time::Duration;

use bollard::Docker as Engine;
use bollard::errors::Error;
use tokio::time::timeout;

use crate::domain::cause::{LONGEST, bounded};

/// The time limit of a request; an engine answers a list in milliseconds, and in seconds on a busy machine.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// The address if nothing else is configured.
const DEFAULT: &str = "unix:///var/run/docker.sock";

/// The address of an engine.
#[derive(Clone, Debug)]
pub struct EngineAddress(String);

impl fmt::Display for EngineAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl EngineAddress {
    /// The configured address, else `$DOCKER_HOST`, else the default socket.
    pub fn new(configured: Option<&str>) -> Self {
        let from_environment = || std::env::var("DOCKER_HOST").ok().filter(|address| !address.is_empty());
        let address = configured.map(str::to_owned).or_else(from_environment);
        Self(address.unwrap_or_else(|| DEFAULT.to_owned()))
    }

    /// Connects and negotiates the API version: an engine refuses versions newer than its own, and new engines refuse
    /// old ones.
    pub async fn connect(&self) -> Result<Engine, String> {
        let engine = Engine::connect_with_host(&self.0).map_err(|error| self.explain(&error))?;
        self.within(engine.negotiate_version()).await
    }

    /// The answer to a request, within the time limit.
    pub async fn within<T>(&self, request: impl Future<Output = Result<T, Error>>) -> Result<T, String> {
        match timeout(REQUEST_TIMEOUT, request).await {
            Ok(answer) => answer.map_err(|error| self.explain(&error)),
            Err(_) => Err(format!("the engine at {} did not answer within {REQUEST_TIMEOUT:?}", self.0)),
        }
    }

    /// What went wrong and what to do, bounded: an engine, or a proxy in front of it, may send a long text.
    pub fn explain(&self, error: &Error) -> String {
        bounded(&self.in_full(error), LONGEST)
    }

    fn in_full(&self, error: &Error) -> String {
        let address = &self.0;
        let kind = match error {
            Error::SocketNotFoundError(_) => Some(io::ErrorKind::NotFound),
            // The answer of a proxy in front of the engine's socket to a request that it does not allow.
            Error::DockerResponseServerError { status_code: 403, message } => {
                return format!(
                    "the engine at {address} forbids it ({}); allow GET of /version, /events and /containers",
                    message.trim()
                );
            }
            Error::UnsupportedURISchemeError { .. } => {
                return format!("the engine {address:?} must be unix:///PATH or tcp://HOST:PORT");
            }
            error => causes(error).find_map(|cause| Some(cause.downcast_ref::<io::Error>()?.kind())),
        };
        let advice = match kind {
            Some(io::ErrorKind::NotFound) => {
                "there is no such socket; in a container mount it: -v /var/run/docker.sock:/var/run/docker.sock"
            }
            Some(io::ErrorKind::PermissionDenied) => {
                "permission denied; give this process the group that owns the socket: --group-add GROUP"
            }
            Some(io::ErrorKind::ConnectionRefused) => "connection refused; does the engine run?",
            _ => {
                let messages: Vec<_> = causes(error).map(ToString::to_string).collect();
                return format!("the engine at {address} cannot be reached: {}", messages.join(": "));
            }
        };
        format!("the engine at {address} cannot be reached: {advice}")
    }
}

/// An error and its chain of causes.
fn causes(error: &Error) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    std::iter::from_fn(move || {
        let error = next?;
        next = error.source();
        Some(error)
    })
}
