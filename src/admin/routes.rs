//! All paths of the admin server except those of the dashboard, in one table: the router and the description of the API
//! are generated from it.

use axum::Router;
use axum::routing::{MethodFilter, on};

use super::{
    App, backends, checks, connections, drain, events, listeners, logs, pools, problems, process, replicas,
    shadow, story, why,
};
use crate::api::path;

/// The operations: name, method, path and handler. `operations!(m)` calls the macro `m` with all of them. The function
/// of the same name in `openapi/operations.rs` describes the operation.
macro_rules! operations {
    ($each:ident) => {
        $each! {
            heartbeat: GET "/heartbeat" => process::heartbeat,
            ready: GET "/ready" => process::ready,
            metrics: GET "/metrics" => process::metrics,
            openapi: GET "/api/v1/openapi.json" => process::openapi,
            status: GET path::STATUS => process::status,
            problems: GET path::PROBLEMS => problems::problems,
            config: GET "/api/v1/config" => process::config,
            check: POST path::CHECK => checks::check,
            reload: POST path::RELOAD => process::reload,
            plan_reload: POST path::RELOAD_PLAN => process::plan_reload,
            undo_reload: POST path::RELOAD_UNDO => process::undo_reload,
            hand_over: POST path::HAND_OVER => process::hand_over,
            drain: POST path::DRAIN => process::drain,
            drain_forecast: GET path::DRAIN => drain::forecast,
            listeners: GET "/api/v1/listeners" => listeners::all,
            listener: GET "/api/v1/listeners/{listener}" => listeners::one,
            change_listener: PATCH "/api/v1/listeners/{listener}" => listeners::change,
            pools: GET "/api/v1/pools" => pools::all,
            pool: GET "/api/v1/pools/{pool}" => pools::one,
            shadow: GET "/api/v1/pools/{pool}/shadow" => shadow::shadow,
            backends: GET "/api/v1/pools/{pool}/backends" => backends::all,
            add_backend: POST "/api/v1/pools/{pool}/backends" => backends::add,
            backend: GET "/api/v1/pools/{pool}/backends/{backend}" => backends::one,
            change_backend: PATCH "/api/v1/pools/{pool}/backends/{backend}" => backends::change,
            remove_backend: DELETE "/api/v1/pools/{pool}/backends/{backend}" => backends::remove,
            connections: GET path::CONNECTIONS => connections::all,
            end_connection: DELETE "/api/v1/connections/{id}" => connections::end,
            decisions: GET path::DECISIONS => connections::decisions,
            journal: GET path::JOURNAL => process::journal,
            history: GET path::HISTORY => process::history,
            events: GET path::EVENTS => events::events,
            logs: GET path::LOGS => logs::logs,
            why: GET path::WHY => why::why,
            story: GET path::STORY => story::story,
            replicas: GET "/api/v1/replicas" => replicas::overview,
            list_replicas: GET "/rep" => replicas::list,
            add_replicas: POST "/add" => replicas::add,
            remove_replicas: DELETE "/rm" => replicas::remove,
        }
    };
}

macro_rules! router {
    ($($name:ident: $method:ident $path:expr => $handler:path,)*) => {
        Router::new()$(.route($path, on(MethodFilter::$method, $handler)))*
    };
}

#[cfg(test)]
pub(super) use operations;

/// A router with all operations.
pub(super) fn routes() -> Router<App> {
    operations!(router)
}
