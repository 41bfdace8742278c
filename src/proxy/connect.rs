//! Finding a connection a backend: choose one, connect, and on failure try another before the client learns of
//! any trouble.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::SockRef;
use tracing::{debug, warn};

use super::sockets;
use super::stream::Stream;
use crate::balance::{Ask, Lease};
use crate::config;
use crate::pool::{Backend, Failure, Pool};
use crate::telemetry::ConnectError;

/// A connection to a backend, and how it came about.
#[derive(Debug)]
pub struct Connected {
    /// The chosen backend.
    pub backend: Arc<Backend>,
    /// The connection to it.
    pub stream: Stream,
    /// The pool's settings that led to it.
    pub settings: Arc<config::Pool>,
    /// Its place in the backend's load.
    pub lease: Lease,
    /// How long the successful attempt took.
    pub took: Duration,
    /// What was passed over.
    pub trail: Trail,
}

/// Why there is no connection to a backend.
#[derive(Debug)]
pub struct NotConnected {
    /// What was passed over; empty-handed without a single attempt if no backend was up.
    pub trail: Trail,
}

/// The way to a choice: how it was made, and who was passed over.
#[derive(Debug)]
pub struct Trail {
    /// The algorithm that chose.
    pub algorithm: &'static str,
    /// Backends that were passed over, each with its reason.
    pub skipped: Arc<str>,
    /// Backends that were tried.
    pub attempts: u32,
}

/// Connects to a backend of `pool`, to as many different ones as its settings allow until one answers. `spoken`: the
/// client has said something that is to be sent to it at once.
pub async fn connect(pool: &Pool, conn: u64, spoken: bool) -> Result<Connected, NotConnected> {
    let settings = pool.settings();
    let mut tried: Vec<u64> = Vec::new();
    let mut failed: Vec<String> = Vec::new();
    loop {
        // A fresh view each time: the keeper may just have ruled out whom the last one still had.
        let view = pool.view();
        let trail = |failed: &[String], attempts: usize| Trail {
            algorithm: view.algorithm.name(),
            skipped: join(&view.skipped, failed),
            attempts: u32::try_from(attempts).unwrap_or(u32::MAX),
        };
        let another = tried.len() < settings.connect.attempts as usize;
        let Some(backend) = another.then(|| view.choose(&Ask { passed: &tried, ..Ask::default() })).flatten()
        else {
            return Err(NotConnected { trail: trail(&failed, tried.len()) });
        };
        let lease = backend.load.lease();
        let began = Instant::now();
        match attempt(backend, &settings, spoken).await {
            Ok(stream) => {
                return Ok(Connected {
                    backend: Arc::clone(backend),
                    stream,
                    settings: Arc::clone(&settings),
                    lease,
                    took: began.elapsed(),
                    trail: trail(&failed, tried.len() + 1),
                });
            }
            Err(error) => {
                let kind = ConnectError::from(&error);
                backend.connect_failed(kind);
                let error = kind.explain(&error);
                debug!(conn, pool = %pool.name, backend = %backend.name, address = %backend.address, error, "connect failed");
                if kind == ConnectError::Local {
                    warn!(pool = %pool.name, address = %backend.address, error, "connect failed for want of local resources");
                } else {
                    pool.report_failure(backend, Failure::Connect(error.clone()));
                }
                tried.push(backend.key);
                failed.push(format!("{}: {error}", backend.name));
            }
        }
    }
}

async fn attempt(backend: &Backend, settings: &config::Pool, spoken: bool) -> io::Result<Stream> {
    let limit = settings.connect.timeout;
    match tokio::time::timeout(limit, sockets::connect(backend.address, spoken)).await {
        Ok(result) => {
            let stream = result?;
            if settings.user_timeout.is_some() {
                SockRef::from(&stream).set_tcp_user_timeout(settings.user_timeout)?;
            }
            Ok(Stream::Tcp(stream))
        }
        Err(_) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("no answer within {}", humantime::format_duration(limit)),
        )),
    }
}

fn join(skipped: &Arc<str>, failed: &[String]) -> Arc<str> {
    if failed.is_empty() {
        return Arc::clone(skipped);
    }
    let before = (!skipped.is_empty()).then(|| skipped.to_string());
    before.into_iter().chain(failed.iter().cloned()).collect::<Vec<_>>().join("; ").into()
}
