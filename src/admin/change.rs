//! Changes that an operator makes while the balancer runs.
//!
//! Without a token only who is on this machine may make them: over loopback, or over a Unix socket whose permissions
//! say who can. A page in a browser on this machine is not its operator: what a request calls the server must be an
//! address or `localhost`, never a name that somebody else's DNS can point here.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::Json;
use axum::extract;
use axum::extract::rejection::JsonRejection;
use axum::extract::{FromRequestParts, Path, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use serde::Deserialize;
use tracing::info;

use super::status::BackendStatus;
use super::{App, Failure};
use crate::pool::{Backend, Command, Pool, Wish};

/// The largest weight, as in the configuration.
const HEAVIEST: u32 = 256;

/// Who sent a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    /// Over TCP, from there.
    Tcp(SocketAddr),
    /// Over the Unix socket.
    Unix,
}

impl Peer {
    fn name(self) -> Arc<str> {
        match self {
            Self::Tcp(address) => format!("an operator at {}", address.ip().to_canonical()).into(),
            Self::Unix => "an operator on this machine".into(),
        }
    }

    /// Whether it is on this machine.
    pub(super) fn is_local(self) -> bool {
        match self {
            Self::Unix => true,
            Self::Tcp(address) => address.ip().to_canonical().is_loopback(),
        }
    }

    /// Whether it may make changes, calling the server by this name.
    fn may_change(self, host: Option<&str>) -> bool {
        self == Self::Unix || self.is_local() && host.is_some_and(no_name)
    }
}

/// A peer that may make changes. It is known by a request's head: of anybody else no body is waited for.
pub(super) struct Operator(Peer);

impl<S: Sync> FromRequestParts<S> for Operator {
    type Rejection = Failure;

    async fn from_request_parts(head: &mut Parts, _: &S) -> Result<Self, Failure> {
        let host = head.headers.get(header::HOST).and_then(|host| host.to_str().ok());
        match head.extensions.get::<Peer>() {
            Some(peer) if peer.may_change(host) => Ok(Self(*peer)),
            _ => {
                let message = "changes are allowed from this machine only: over loopback by address, or over a Unix socket";
                let hint = "ask http://127.0.0.1 on the machine that Pointsman runs on";
                Err(Failure::new(StatusCode::FORBIDDEN, "forbidden", message, hint))
            }
        }
    }
}

/// Whether a Host header has an address or `localhost`, with or without a port.
fn no_name(host: &str) -> bool {
    let bare = host.rsplit_once(':').map_or(host, |(bare, port)| match port.parse::<u16>() {
        Ok(_) => bare,
        Err(_) => host,
    });
    let ip = bare.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(bare);
    bare.eq_ignore_ascii_case("localhost") || ip.parse::<IpAddr>().is_ok()
}

/// What is to change of a backend.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Change {
    state: Option<Wanted>,
    weight: Option<u32>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Wanted {
    Up,
    Draining,
    Maintenance,
}

/// `PATCH /api/v1/pools/{pool}/backends/{backend}`: everything that is asked for, or nothing, and then the new state.
///
/// It holds for the backend's stay in the pool and ends with it: a container that is restarted comes back as another
/// backend, and maintenance, draining and a weight are not handed on to it. Nothing is kept over a restart of Pointsman.
pub(super) async fn backend(
    Operator(peer): Operator, // the first, as nothing else of the request matters if it is not one
    State(app): State<App>,
    Path((pool, backend)): Path<(String, String)>,
    change: Result<extract::Json<Change>, JsonRejection>,
) -> Result<Json<BackendStatus>, Failure> {
    let example = r#"send a body such as {"state": "draining"} or {"weight": 3} as application/json"#;
    let change = match change {
        Ok(Json(change)) => change,
        Err(error) => return Err(Failure::new(error.status(), "bad_request", error.body_text(), example)),
    };
    let bad = |message: &str| Failure::new(StatusCode::BAD_REQUEST, "bad_request", message, example);
    if change.state.is_none() && change.weight.is_none() {
        return Err(bad("there is neither a state nor a weight in it"));
    }
    if change.weight.is_some_and(|weight| weight > HEAVIEST) {
        return Err(bad("a weight is a whole number from 0 to 256"));
    }
    let pools = app.overview.pools.load();
    let Some(pool) = pools.get(&*pool) else {
        let known: Vec<_> = pools.keys().map(|name| &**name).collect();
        let message = format!("there is no pool {pool:?}; there is {}", known.join(", "));
        return Err(Failure::new(StatusCode::NOT_FOUND, "no_such_pool", message, "see /api/v1/status"));
    };
    let found = find(pool, &backend)?;
    // As in the configuration: a share that nobody heeds must not look as if it were granted. 0 is always heeded.
    if change.weight.is_some_and(|weight| weight > 1) && !pool.settings().balance.heeds_weights() {
        let message =
            format!("the pool {:?} is balanced by round-robin, which heeds no weight but 0", &*pool.name);
        let hint = "write `balance: weighted` into the configuration of the pool";
        return Err(Failure::new(StatusCode::CONFLICT, "weight_not_heeded", message, hint));
    }
    let who = peer.name();
    let state = change.state.map(|state| match state {
        Wanted::Up => ("up", Wish::Up),
        Wanted::Draining => ("draining", Wish::Draining),
        Wanted::Maintenance => ("maintenance", Wish::Maintenance),
    });
    info!(
        pool = %pool.name,
        backend = %found.name,
        address = %found.address,
        who = &*who,
        state = state.map(|(name, _)| name),
        weight = change.weight,
        "operator"
    );
    let commands = [state.map(|(_, wish)| Command::Be(wish)), change.weight.map(Command::Weigh)];
    for command in commands.into_iter().flatten() {
        pool.tell(&found, command, Arc::clone(&who)).await;
    }
    let roster = pool.roster();
    let now = roster.members.iter().find(|entry| entry.backend.key == found.key);
    now.map(|entry| Json(BackendStatus::of(entry))).ok_or_else(|| {
        let message = format!("{backend:?} has left meanwhile");
        Failure::new(StatusCode::CONFLICT, "gone", message, "see /api/v1/status")
    })
}

/// The backend of that name or address.
fn find(pool: &Pool, wanted: &str) -> Result<Arc<Backend>, Failure> {
    let roster = pool.roster();
    let is = |backend: &Backend| *backend.name == *wanted || backend.address.to_string() == wanted;
    let mut found = roster.members.iter().filter(|entry| !entry.leaving && is(&entry.backend));
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(Arc::clone(&one.backend)),
        (Some(_), Some(_)) => {
            let message = format!("several backends are called {wanted:?}");
            let hint = "name one by its address, as in /api/v1/status";
            Err(Failure::new(StatusCode::CONFLICT, "ambiguous", message, hint))
        }
        (None, _) => {
            let known: Vec<_> = roster.members.iter().take(8).map(|entry| &*entry.backend.name).collect();
            let message = format!(
                "the pool {:?} has no backend {wanted:?}; it has {}",
                &*pool.name,
                if known.is_empty() { "none".to_owned() } else { known.join(", ") }
            );
            Err(Failure::new(StatusCode::NOT_FOUND, "no_such_backend", message, "see /api/v1/status"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_is_on_this_machine_and_calls_it_by_address_may_change_anything() {
        let peer = |address: &str| Peer::Tcp(address.parse().unwrap());
        for host in ["127.0.0.1:9900", "localhost", "localhost:9900", "[::1]:9900", "[::1]", "LOCALHOST:1"] {
            assert!(peer("127.0.0.1:1").may_change(Some(host)), "{host}");
        }
        assert!(peer("[::ffff:127.0.0.1]:1").may_change(Some("127.0.0.1")));
        assert!(Peer::Unix.may_change(None));
        for host in [Some("evil.example:9900"), Some("localhost.evil.example"), Some(""), None] {
            assert!(!peer("127.0.0.1:1").may_change(host), "{host:?}");
        }
        assert!(!peer("10.0.0.1:1").may_change(Some("127.0.0.1")));
    }
}
