//! The admin server of a running balancer, for the laws of `admin/laws.rs`.

use axum::Router;
use tokio::runtime::Runtime;

use crate::admin::access::Access;
use crate::admin::control::Control;
use crate::admin::{self, laws};
use crate::config::parse;
use crate::state_directory::StateDirectory;
use crate::supervisor::{Inherited, Supervisor};

/// Backends without checks: nothing connects to what requests add. No image can be started at this engine.
const CONFIGURATION: &str = "
runtime: {workers: 1}
listeners:
  web: {bind: 127.0.0.1:0, pool: web}
pools:
  web: {balance: weighted, discover: [{static: [{address: 127.0.0.1:1, name: a}, {address: 127.0.0.1:2, name: b}]}]}
  scaled: {replicas: {image: none, port: 1, min: 0, max: 9, engine: unix:///nonexistent}}
";

thread_local! {
    static INSTANCE: Instance = Instance::start();
}

struct Instance {
    runtime: Runtime,
    router: Router,
    _supervisor: Supervisor,
}

impl Instance {
    fn start() -> Self {
        let config = parse("laws", CONFIGURATION, &|_| None).unwrap_or_else(|errors| panic!("{errors}"));
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().build().expect("a runtime can be started");
        let (router, supervisor) = runtime.block_on(async {
            let supervisor = Supervisor::start(config, None, StateDirectory::default(), Inherited::default());
            let supervisor = supervisor.await.unwrap_or_else(|error| panic!("{error}"));
            (admin::router(supervisor.overview(), &Control::none(), &Access::default()), supervisor)
        });
        Self { runtime, router, _supervisor: supervisor }
    }
}

/// Asserts the laws for a request: its method and target in the first line, and its body behind it.
///
/// # Panics
/// If a law does not hold.
pub(crate) fn check_request(bytes: &[u8]) {
    INSTANCE.with(|instance| {
        instance.runtime.block_on(laws::check_request(instance.router.clone(), bytes));
    });
}

/// Asserts the laws for the bytes of a connection to the admin server.
///
/// # Panics
/// If a law does not hold.
pub(crate) fn check_framings(bytes: &[u8]) {
    INSTANCE.with(|instance| instance.runtime.block_on(laws::check_framings(bytes)));
}

#[cfg(test)]
mod tests {
    use crate::testing::corpus::hold;

    #[test]
    fn any_request_is_answered() {
        hold("requests", super::check_request);
    }

    #[test]
    fn each_request_of_any_connection_has_its_framing() {
        hold("framings", super::check_framings);
    }
}
