//! The Docker engine: where it is, how it is asked, and what to tell people when that fails.

use std::fmt;
use std::future::Future;
use std::io;
use std::time::Duration;

use bollard::Docker as Engine;
use bollard::errors::Error;
use tokio::time::timeout;

use crate::domain::cause::{LONGEST, bounded};

/// An engine that has not answered for this long is taken for one that does not.
const REQUEST: Duration = Duration::from_secs(5);
/// Where an engine listens if nothing else is said.
const USUAL: &str = "unix:///var/run/docker.sock";

/// Where an engine is.
#[derive(Clone, Debug)]
pub(crate) struct Address(String);

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Address {
    /// What is configured; else `$DOCKER_HOST`; else the usual socket.
    pub(crate) fn new(configured: Option<&str>) -> Self {
        let from_environment = || std::env::var("DOCKER_HOST").ok().filter(|address| !address.is_empty());
        let address = configured.map(str::to_owned).or_else(from_environment);
        Self(address.unwrap_or_else(|| USUAL.to_owned()))
    }

    /// Finds out which version of the API the engine speaks: it refuses newer ones than its own, and new engines
    /// refuse old ones.
    pub(crate) async fn connect(&self) -> Result<Engine, String> {
        let engine = Engine::connect_with_host(&self.0).map_err(|error| self.explain(&error))?;
        self.within(engine.negotiate_version()).await
    }

    /// What the engine answers to a request, if it does so in time.
    pub(crate) async fn within<T>(
        &self,
        request: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, String> {
        match timeout(REQUEST, request).await {
            Ok(answer) => answer.map_err(|error| self.explain(&error)),
            Err(_) => Err(format!("the engine at {} did not answer within {REQUEST:?}", self.0)),
        }
    }

    /// What went wrong, and what to do. An engine, or a proxy in front of it, may send a long text: it is cut here.
    pub(crate) fn explain(&self, error: &Error) -> String {
        bounded(&self.in_full(error), LONGEST)
    }

    fn in_full(&self, error: &Error) -> String {
        let address = &self.0;
        let kind = match error {
            Error::SocketNotFoundError(_) => Some(io::ErrorKind::NotFound),
            // A proxy before the engine's socket says so of what it does not let through.
            Error::DockerResponseServerError { status_code: 403, message } => {
                return format!(
                    "the engine at {address} forbids it ({}); needed are GET /version, /events and /containers",
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
                let told: Vec<_> = causes(error).map(ToString::to_string).collect();
                return format!("the engine at {address} cannot be asked: {}", told.join(": "));
            }
        };
        format!("the engine at {address} cannot be asked: {advice}")
    }
}

/// An error, what caused it, what caused that …
fn causes(error: &Error) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    std::iter::from_fn(move || {
        let error = next?;
        next = error.source();
        Some(error)
    })
}
