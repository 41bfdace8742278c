//! The balancer's configuration for a scene.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use litemap::LiteMap;

use super::action::{CheckInterval, CheckPath};
use super::environment::{Environment, SERVICES, SIDES};
use super::scene::{CheckScene, Scene};
use crate::config::{
    self, Check, Config, Dns, Health, HttpCheck, Listener, Log, NoBackend, Pool, Runtime, Source,
};
use crate::domain::{Algorithm, SocketAddress};

/// The names of the pools, which are those of their listeners too. The second one exists while algorithms are compared.
pub(super) const POOLS: [&str; SIDES] = ["web", "compared"];

/// How long an address must be missing in DNS until its backend leaves: longer than a flapping one is.
const FLAP: Duration = Duration::from_secs(2);

/// The configuration. The first listener binds `bind`, the second one a port of the kernel's choice.
pub(super) fn config(bind: SocketAddr, scene: &Scene, environment: &Environment) -> Config {
    let binds = [bind, (Ipv4Addr::LOCALHOST, 0).into()];
    let algorithms = [Some(scene.balance), scene.compare];
    let mut config = Config {
        runtime: Runtime::default(),
        log: Log::default(),
        admin: None, // bound separately, as its port may be taken
        listeners: LiteMap::new(),
        pools: LiteMap::new(),
    };
    for (side, algorithm) in algorithms.into_iter().enumerate() {
        let Some(algorithm) = algorithm else { continue };
        let name: Arc<str> = POOLS[side].into();
        let pool = pool(algorithm, scene.check, SERVICES[side], environment);
        let bind = SocketAddress::Tcp(binds[side]);
        let listener =
            Listener { no_backend: NoBackend::Http503, ..Listener::new(bind, Arc::clone(&name), &pool) };
        config.listeners.insert(Arc::clone(&name), listener);
        config.pools.insert(name, pool);
    }
    config
}

fn pool(balance: Algorithm, check: CheckScene, service: &str, environment: &Environment) -> Pool {
    let query = config::Query {
        server: Some(environment.dns),
        every: Duration::from_millis(500),
        flap: FLAP,
        ..config::Query::default()
    };
    let dns = Dns { query, ..Dns::new(service.to_owned(), environment.port) };
    Pool { balance, health: health(check).into_iter().collect(), ..Pool::new(vec![Source::Dns(dns)]) }
}

fn health(check: CheckScene) -> Option<Health> {
    let (every, timeout) = match check.every {
        CheckInterval::Fast => (Duration::from_millis(500), Duration::from_millis(400)),
        CheckInterval::Slow => (Duration::from_secs(5), Duration::from_secs(1)),
        CheckInterval::Off => return None,
    };
    let path = match check.path {
        CheckPath::Health => "/health",
        CheckPath::Root => "/",
    };
    Some(Health { every, timeout, ..Health::new(Check::Http(HttpCheck::new(path.to_owned()))) })
}
