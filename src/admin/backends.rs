//! The backends of a pool, and an operator's changes to them at run time.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use super::access::Operator;
use super::pools::pool_of;
use super::request::{At, Body, bad_request};
use super::{ApiError, App};
use crate::api::{BackendChange, BackendInfo, BackendsReply, ErrorDetail, NewBackend};
use crate::config::{BACKEND_NAME_RULE, backend_address, is_backend_name};
use crate::discovery::Found;
use crate::domain::{BackendState, Event, SocketAddress, StateReason};
use crate::own::Owner;
use crate::pool::{Backend, Command, NotAdded, NotRemoved, Pool};

/// The largest weight, as in the configuration.
const HEAVIEST: u32 = 256;

/// `GET /api/v1/pools/{pool}/backends`.
pub(super) async fn all(
    State(app): State<App>,
    At(pool): At<String>,
) -> Result<Json<BackendsReply>, ApiError> {
    let pool = pool_of(&app, &pool)?;
    let backends = BackendInfo::all(&pool.status().members, &pool.settings());
    Ok(Json(BackendsReply { backends }))
}

/// `GET /api/v1/pools/{pool}/backends/{backend}`.
pub(super) async fn one(
    State(app): State<App>,
    At((pool, backend)): At<(String, String)>,
) -> Result<Json<BackendInfo>, ApiError> {
    let pool = pool_of(&app, &pool)?;
    let found = find(&pool, &backend)?;
    as_it_is(&pool, &found).map(Json)
}

impl NewBackend {
    /// Validates the backend and returns it in the pool's terms.
    fn read(self, pool: &Pool) -> Result<Found, ApiError> {
        let given = &self.address;
        let address = backend_address(given)
            .map_err(|error| bad_request(format!("\"address\" {error}, not {given:?}")))?;
        if address.ip().is_some_and(|ip| ip.is_unspecified()) {
            return Err(bad_request(format!("\"address\" must be that of a machine, not {given:?}")));
        }
        if self.name.as_deref().is_some_and(|name| !is_backend_name(name)) {
            return Err(bad_request(format!("a name has {BACKEND_NAME_RULE}")));
        }
        if self.zone.as_deref().is_some_and(|zone| !is_backend_name(zone)) {
            return Err(bad_request(format!("a zone has {BACKEND_NAME_RULE}")));
        }
        check_weight(pool, self.weight)?;
        let nameless = self.name.is_none();
        let name = self.name.map_or_else(|| address.default_name(), Arc::from);
        Ok(Found {
            nameless,
            weight: self.weight,
            tier: u16::from(self.backup),
            zone: self.zone.map(Arc::from),
            ..Found::new(name, address)
        })
    }
}

/// `POST /api/v1/pools/{pool}/backends`: adds a backend, which is checked like any other before it gets connections.
///
/// It stays through reloads of the configuration until the pool is removed or Pointsman stops.
pub(super) async fn add(
    Operator(operator): Operator,
    State(app): State<App>,
    At(pool): At<String>,
    Body(new): Body<NewBackend>,
) -> Result<(StatusCode, Json<BackendInfo>), ApiError> {
    let pool = pool_of(&app, &pool)?;
    let found = new.read(&pool)?;
    let conflict = |code, message: String, hint| ApiError::new(StatusCode::CONFLICT, code, message, hint);
    pool.add(found.clone()).await.map_err(|why| match why {
        NotAdded::Own(owner) => {
            let message = format!("{} is this balancer's own {owner}", found.address);
            match owner {
                Owner::Listener(_) => {
                    conflict("own_listener", message, "connections to it would be routed again and again")
                }
                Owner::Admin => {
                    conflict("own_admin", message, "clients would reach the admin server from this machine")
                }
            }
        }
        NotAdded::AddressTaken(name) => {
            let message = format!("the pool {:?} has {name:?} at {} already", &*pool.name, found.address);
            conflict("address_taken", message, "PATCH that one")
        }
        NotAdded::NameTaken(address) => {
            let message = format!("the pool {:?} has {:?} at {address} already", &*pool.name, &*found.name);
            conflict("name_taken", message, "give it another name, or none")
        }
        NotAdded::TooMany => {
            let message = format!("no more backends can be added to the pool {:?}", &*pool.name);
            conflict("too_many", message, "write them into a file that the pool discovers")
        }
    })?;
    app.overview.journal.record(Event::BackendAdded {
        by: operator,
        pool: Arc::clone(&pool.name),
        backend: Arc::clone(&found.name),
        address: found.address.clone(),
        weight: found.weight,
        backup: found.tier > 0,
    });
    let added = find(&pool, &found.address.to_string())?;
    Ok((StatusCode::CREATED, Json(as_it_is(&pool, &added)?)))
}

/// `DELETE /api/v1/pools/{pool}/backends/{backend}`: removes a backend that an operator added. Its connections follow
/// `on_leave`.
pub(super) async fn remove(
    Operator(operator): Operator,
    State(app): State<App>,
    At((pool, backend)): At<(String, String)>,
) -> Result<Json<BackendInfo>, ApiError> {
    let pool = pool_of(&app, &pool)?;
    let found = find(&pool, &backend)?;
    let before = as_it_is(&pool, &found)?;
    pool.remove(&found, Arc::clone(&operator)).await.map_err(|why| match why {
        NotRemoved::Known(sources) => {
            let message = format!("{backend:?} is still known by {}", sources.join(" and "));
            let hint = r#"take it out there, or PATCH it to {"state": "draining"}"#;
            ApiError::new(StatusCode::CONFLICT, "still_known", message, hint)
        }
        NotRemoved::NotThere => gone(&found),
    })?;
    let cause = StateReason::RemovedByOperator { by: Arc::clone(&operator) }.text();
    app.overview.journal.record(Event::BackendRemoved {
        by: operator,
        pool: Arc::clone(&pool.name),
        backend: Arc::clone(&found.name),
        address: found.address.clone(),
    });
    // Without open connections it has left already.
    let gone = BackendInfo { state: Some(BackendState::Gone), cause, sources: Box::default(), ..before };
    Ok(Json(as_it_is(&pool, &found).unwrap_or(gone)))
}

/// `PATCH /api/v1/pools/{pool}/backends/{backend}`: makes all requested changes or none, and returns the
/// new state.
///
/// The change ends when the backend leaves the pool: a restarted container is a new backend, which does not inherit
/// maintenance, draining or a weight. A restart of Pointsman discards all changes, unless `runtime.state` is set.
pub(super) async fn change(
    Operator(operator): Operator, // first: without permission, nothing else is read
    State(app): State<App>,
    At((pool, backend)): At<(String, String)>,
    Body(change): Body<BackendChange>,
) -> Result<Json<BackendInfo>, ApiError> {
    if change.state.is_none() && change.weight.is_none() {
        return Err(bad_request("there is neither a state nor a weight in it"));
    }
    let pool = pool_of(&app, &pool)?;
    change.weight.map_or(Ok(()), |weight| check_weight(&pool, weight))?;
    let _turn = app.changing.lock().await;
    let found = find(&pool, &backend)?;
    if change.unless_last && change.takes_out() && pool.status().is_last_eligible(&found) {
        let message = format!(
            "{:?} is the last eligible backend of the pool {:?}: without it, new connections get no backend",
            &*found.name, &*pool.name
        );
        let hint = "put another backend in service first, or leave out \"unless_last\"";
        return Err(ApiError::new(StatusCode::CONFLICT, ErrorDetail::LAST_ELIGIBLE, message, hint));
    }
    app.overview.journal.record(Event::OperatorChange {
        by: Arc::clone(&operator),
        pool: Arc::clone(&pool.name),
        backend: Arc::clone(&found.name),
        address: found.address.clone(),
        state: change.state,
        weight: change.weight,
    });
    let commands = [change.state.map(Command::SetAdminState), change.weight.map(Command::SetWeight)];
    for command in commands.into_iter().flatten() {
        pool.send_command(&found, command, Arc::clone(&operator)).await;
    }
    as_it_is(&pool, &found).map(Json)
}

/// Whether backends of that pool can have that weight. As in the configuration, a weight that the algorithm ignores is
/// refused, except 0, which every algorithm uses.
fn check_weight(pool: &Pool, weight: u32) -> Result<(), ApiError> {
    if weight > HEAVIEST {
        return Err(bad_request("a weight is a whole number from 0 to 256"));
    }
    if weight > 1 && !pool.settings().balance.uses_weights() {
        let message =
            format!("the pool {:?} is balanced by round-robin, which ignores weights except 0", &*pool.name);
        let hint = "write `balance: weighted` into the configuration of the pool";
        return Err(ApiError::new(StatusCode::CONFLICT, "weight_not_heeded", message, hint));
    }
    Ok(())
}

/// The present state of a backend.
pub(super) fn as_it_is(pool: &Pool, backend: &Backend) -> Result<BackendInfo, ApiError> {
    let status = pool.status();
    let now = status.members.iter().find(|entry| entry.backend.key == backend.key);
    now.map(BackendInfo::of).ok_or_else(|| gone(backend))
}

fn gone(backend: &Backend) -> ApiError {
    let message = format!("{:?} has left meanwhile", &*backend.name);
    ApiError::new(StatusCode::CONFLICT, ErrorDetail::GONE, message, "see /api/v1/status")
}

/// The backend with that address or, if there is none, with that name. An address belongs to at most one backend, even
/// if another one has it as its name.
pub(super) fn find(pool: &Pool, wanted: &str) -> Result<Arc<Backend>, ApiError> {
    let status = pool.status();
    let present = || status.members.iter().filter(|entry| !entry.leaving);
    if let Ok(address) = wanted.parse::<SocketAddress>()
        && let Some(entry) = present().find(|entry| entry.backend.address == address)
    {
        return Ok(Arc::clone(&entry.backend));
    }
    let mut found = present().filter(|entry| *entry.backend.name == *wanted);
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(Arc::clone(&one.backend)),
        (Some(_), Some(_)) => {
            let message = format!("several backends are called {wanted:?}");
            let hint = "name one by its address, as in /api/v1/status";
            Err(ApiError::new(StatusCode::CONFLICT, "ambiguous", message, hint))
        }
        (None, _) => {
            let known: Vec<_> = status.members.iter().take(8).map(|entry| &*entry.backend.name).collect();
            let message = format!(
                "the pool {:?} has no backend {wanted:?}; it has {}",
                &*pool.name,
                if known.is_empty() { "none".to_owned() } else { known.join(", ") }
            );
            let code = ErrorDetail::NO_SUCH_BACKEND;
            Err(ApiError::new(StatusCode::NOT_FOUND, code, message, "see /api/v1/status"))
        }
    }
}
