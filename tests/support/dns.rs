//! A name server in the test process.

use std::net::IpAddr;

use pointsman_core::zone::{DnsServer, Zone};
use tokio::runtime::Runtime;

/// A name server and its runtime.
pub struct Dns {
    pub zone: Zone,
    pub server: DnsServer,
    _runtime: Runtime,
}

impl Dns {
    pub fn start() -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let zone = Zone::new();
        let server =
            runtime.block_on(DnsServer::start("127.0.0.1:0".parse().unwrap(), zone.clone())).unwrap();
        Self { zone, server, _runtime: runtime }
    }

    /// Sets the containers of the name `backend`, each with its name and address.
    pub fn containers(&self, containers: &[(&str, IpAddr)]) {
        for (name, ip) in containers {
            self.zone.name_owner(*ip, name);
        }
        self.zone.set("backend", containers.iter().map(|(_, ip)| *ip));
    }
}
