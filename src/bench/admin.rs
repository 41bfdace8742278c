//! The balancer's own account of who served how many connections, from its admin server.

use std::collections::BTreeMap;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_util::task::AbortOnDropHandle;

use super::who::{Account, Accounts};
use crate::config::BindAddress;

const LIMIT: Duration = Duration::from_secs(5);
/// A status of more bytes is not Pointsman's: ten thousand backends have a tenth of it.
const LARGEST: usize = 64 << 20;
/// The balancer counts a connection when it routes it, which may be after its client has left.
const SETTLING: Duration = Duration::from_secs(1);
const AGAIN: Duration = Duration::from_millis(50);

/// What is read of `/api/v1/status`.
#[derive(Debug, Deserialize)]
struct Status {
    uptime_seconds: f64,
    pools: Vec<Pool>,
}

#[derive(Debug, Deserialize)]
struct Pool {
    name: String,
    backends: Vec<Backend>,
}

#[derive(Debug, Deserialize)]
struct Backend {
    name: String,
    address: String,
    connections: u64,
}

/// Connections by pool and backend, at one moment.
#[derive(Debug)]
pub(super) struct Counts {
    uptime: f64,
    backends: BTreeMap<(String, String, String), u64>,
}

impl From<Status> for Counts {
    fn from(status: Status) -> Self {
        let mut backends = BTreeMap::new();
        for pool in status.pools {
            for backend in pool.backends {
                let key = (pool.name.clone(), backend.name, backend.address);
                backends.insert(key, backend.connections);
            }
        }
        Self { uptime: status.uptime_seconds, backends }
    }
}

impl Counts {
    /// The counts of now.
    pub(super) async fn ask(address: &BindAddress) -> Result<Self, String> {
        let failed = |error: &dyn std::fmt::Display| {
            format!("the admin server {address} does not tell who served: {error}")
        };
        match tokio::time::timeout(LIMIT, status(address)).await {
            Ok(status) => status.map(Self::from).map_err(|error| failed(&error)),
            Err(_) => Err(failed(&format!("no answer in {}", humantime::format_duration(LIMIT)))),
        }
    }

    /// The counts when they have grown by so many connections since `before`, or some time later.
    pub(super) async fn grown(address: &BindAddress, before: &Self, by: u64) -> Result<Self, String> {
        let settled = tokio::time::Instant::now() + SETTLING;
        loop {
            let now = Self::ask(address).await?;
            let grown: u64 = before.until(&now)?.values().map(Account::requests).sum();
            if grown >= by || tokio::time::Instant::now() >= settled {
                return Ok(now);
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// What each backend got between these counts and later ones: all those of the pools that got something.
    pub(super) fn until(&self, later: &Self) -> Result<Accounts, String> {
        if later.uptime < self.uptime {
            return Err("the balancer was started again during the test: its counts began anew".to_owned());
        }
        let grown = |key: &(String, String, String), count: u64| {
            count.saturating_sub(self.backends.get(key).copied().unwrap_or(0))
        };
        let mut pools = BTreeMap::<&str, u64>::new();
        for (key, count) in &later.backends {
            *pools.entry(&key.0).or_default() += grown(key, *count);
        }
        pools.retain(|_, grown| *grown > 0);
        let mut accounts = Accounts::new();
        for (key, count) in &later.backends {
            let (pool, name, address) = key;
            if !pools.contains_key(pool.as_str()) {
                continue;
            }
            let mut shown = if pools.len() > 1 { format!("{pool}/{name}") } else { name.clone() };
            // The same name at another address is another backend.
            if accounts.contains_key(&shown) {
                shown = format!("{shown} {address}");
            }
            accounts.insert(shown, Account { succeeded: grown(key, *count), ..Account::default() });
        }
        Ok(accounts)
    }
}

type Failed = Box<dyn std::error::Error + Send + Sync>;

async fn status(address: &BindAddress) -> Result<Status, Failed> {
    match address {
        BindAddress::Tcp(address) => get(TcpStream::connect(address).await?, &address.to_string()).await,
        BindAddress::Unix(path) => get(UnixStream::connect(path).await?, "localhost").await,
    }
}

async fn get(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    host: &str,
) -> Result<Status, Failed> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let request = Request::get("/api/v1/status").header(header::HOST, host).body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    if response.status() != StatusCode::OK {
        return Err(format!("it answered {}", response.status()).into());
    }
    let body = Limited::new(response.into_body(), LARGEST).collect().await?.to_bytes();
    Ok(serde_json::from_slice(&body)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(uptime: f64, backends: &[(&str, &str, &str, u64)]) -> Counts {
        let backends = backends.iter().map(|(pool, name, address, connections)| {
            (((*pool).to_owned(), (*name).to_owned(), (*address).to_owned()), *connections)
        });
        Counts { uptime, backends: backends.collect() }
    }

    fn grown(accounts: &Accounts) -> Vec<(&str, u64)> {
        accounts.iter().map(|(name, account)| (name.as_str(), account.requests())).collect()
    }

    #[test]
    fn what_is_counted_is_the_difference_and_idle_pools_are_left_out() {
        let before = counts(1.0, &[("web", "a", "1", 10), ("web", "b", "2", 5), ("idle", "c", "3", 7)]);
        let after = counts(
            2.0,
            &[("web", "a", "1", 13), ("web", "b", "2", 5), ("web", "new", "4", 2), ("idle", "c", "3", 7)],
        );
        let of = before.until(&after).unwrap();
        assert_eq!(grown(&of), [("a", 3), ("b", 0), ("new", 2)]);
    }

    #[test]
    fn several_pools_are_told_apart_and_so_are_two_of_one_name() {
        let before = counts(1.0, &[]);
        let after = counts(2.0, &[("p", "a", "1", 1), ("p", "a", "2", 2), ("q", "a", "3", 3)]);
        let of = before.until(&after).unwrap();
        assert_eq!(grown(&of), [("p/a", 1), ("p/a 2", 2), ("q/a", 3)]);
    }

    #[test]
    fn a_balancer_that_was_started_again_is_told() {
        assert!(counts(9.0, &[]).until(&counts(1.0, &[])).unwrap_err().contains("started again"));
    }
}
