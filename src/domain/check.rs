//! Health checks: their kinds, and how a backend fails one.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Cause, SocketAddress};

/// A kind of check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckKind {
    /// A TCP connection can be opened.
    Tcp,
    /// An HTTP/1.1 GET gets the expected response.
    Http,
    /// The sent bytes get the expected response.
    Exchange,
    /// A PostgreSQL server has the expected role.
    Postgres,
    /// A Redis server has the expected role.
    Redis,
}

impl CheckKind {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Tcp, Self::Http, Self::Exchange, Self::Postgres, Self::Redis];

    /// Its key in the configuration, and the name in the log and in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Http => "http",
            Self::Exchange => "exchange",
            Self::Postgres => "postgres",
            Self::Redis => "redis",
        }
    }
}

impl fmt::Display for CheckKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for CheckKind {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// What a check was doing when it failed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckStep {
    /// No particular step, such as when the whole check timed out.
    Whole,
    /// It connected.
    Connect,
    /// It negotiated TLS on the connection.
    Tls,
    /// It set up HTTP on the connection.
    Http,
    /// It requested this path.
    Get(Arc<str>),
    /// It read the response to the bytes that it had sent.
    Exchange,
    /// It queried a PostgreSQL server.
    Postgres,
    /// It queried a Redis server.
    Redis,
}

/// How a backend failed a check.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CheckFailure {
    /// What the check was doing.
    pub step: CheckStep,
    /// The address that it connected to; `None`: each backend's own, if several share this failure
    /// ([`without_address`](Self::without_address)).
    pub address: Option<SocketAddress>,
    /// The error, possibly a text from the backend.
    pub error: Cause,
}

impl CheckFailure {
    /// A failure at no particular step.
    pub fn new(error: impl Into<Cause>) -> Self {
        Self { step: CheckStep::Whole, address: None, error: error.into() }
    }

    /// A failure at that step, with a server at that address.
    pub fn at(step: CheckStep, address: SocketAddress, error: impl Into<Cause>) -> Self {
        Self { step, address: Some(address), error: error.into() }
    }

    /// The same failure without the address.
    #[must_use]
    pub fn without_address(&self) -> Self {
        Self { address: None, ..self.clone() }
    }

    /// Its text, bounded as a whole.
    pub fn text(&self) -> Cause {
        let address =
            self.address.as_ref().map_or_else(|| "its address".to_owned(), |address| address.to_string());
        let error = &self.error;
        match &self.step {
            CheckStep::Whole => error.clone(),
            CheckStep::Connect => format!("connect to {address}: {error}").into(),
            CheckStep::Tls => format!("tls with {address}: {error}").into(),
            CheckStep::Http => format!("http to {address}: {error}").into(),
            CheckStep::Get(path) => format!("GET {path} on {address}: {error}").into(),
            CheckStep::Exchange => format!("{address} {error}").into(),
            CheckStep::Postgres => format!("postgres on {address}: {error}").into(),
            CheckStep::Redis => format!("redis on {address}: {error}").into(),
        }
    }
}

impl fmt::Display for CheckFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_its_step_and_address() {
        let address: SocketAddress = "10.0.0.1:80".parse().unwrap();
        for (step, error, text, of_any) in [
            (
                CheckStep::Connect,
                "refused",
                "connect to 10.0.0.1:80: refused",
                "connect to its address: refused",
            ),
            (CheckStep::Tls, "eof", "tls with 10.0.0.1:80: eof", "tls with its address: eof"),
            (CheckStep::Http, "reset", "http to 10.0.0.1:80: reset", "http to its address: reset"),
            (
                CheckStep::Get("/x".into()),
                "status 503, not 2xx",
                "GET /x on 10.0.0.1:80: status 503, not 2xx",
                "GET /x on its address: status 503, not 2xx",
            ),
            (
                CheckStep::Exchange,
                "answered nothing, not \"+PONG\"",
                "10.0.0.1:80 answered nothing, not \"+PONG\"",
                "its address answered nothing, not \"+PONG\"",
            ),
            (CheckStep::Postgres, "no", "postgres on 10.0.0.1:80: no", "postgres on its address: no"),
            (CheckStep::Redis, "no", "redis on 10.0.0.1:80: no", "redis on its address: no"),
        ] {
            let failure = CheckFailure::at(step, address.clone(), error);
            assert_eq!((&*failure.to_string(), &*failure.without_address().to_string()), (text, of_any));
        }
        assert_eq!(CheckFailure::new("no answer within 1s").to_string(), "no answer within 1s");
    }
}
