//! The environment of the demo: the backends, and the DNS zone in which the balancer finds them.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::net::TcpListener;

use super::backend::DemoBackend;
use super::zone::{self, Zone};

/// The DNS name of the backends.
pub(super) const SERVICE: &str = "backend.demo";
/// The backends with their response times.
const BACKENDS: [(&str, Duration); 4] = [
    ("a", Duration::from_millis(5)),
    ("b", Duration::from_millis(15)),
    ("c", Duration::from_millis(30)),
    ("d", Duration::from_millis(10)),
];
/// The number of backends at the start; the last one joins later.
const AT_START: usize = 3;
/// The port of all of them, if it is free.
const PORT: u16 = 5000;
/// Attempts to find a port that is free on every backend's address.
const ATTEMPTS: usize = 32;

/// The backends and their zone.
#[derive(Debug)]
pub(super) struct Environment {
    /// The port of all backends.
    pub(super) port: u16,
    /// The address of the DNS server.
    pub(super) dns: SocketAddr,
    zone: Zone,
    backends: Vec<DemoBackend>,
    _server: zone::DnsServer,
}

/// A change to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DemoChange {
    /// Its process is killed; DNS keeps its address.
    Kill,
    /// It is started again.
    Restart,
    /// Its response time becomes longer.
    SlowDown(Duration),
    /// Its response time is normal again.
    Recover,
    /// It is started, and its address appears in DNS.
    Join,
    /// Its address vanishes from DNS. It still serves its open connections.
    Leave,
}

impl Environment {
    /// Starts the first backends and the name server.
    pub(super) async fn start() -> io::Result<Self> {
        let (port, listeners) = listeners().await?;
        let zone = Zone::new();
        let server = zone::DnsServer::start((Ipv4Addr::LOCALHOST, 0).into(), zone.clone()).await?;
        let mut backends = Vec::new();
        for (index, ((name, time), listener)) in BACKENDS.into_iter().zip(listeners).enumerate() {
            let mut backend = DemoBackend::new(name, SocketAddr::new(ip(index), port));
            backend.set_response_time(time);
            zone.name_owner(backend.ip(), name);
            if index < AT_START {
                backend.serve(listener);
                zone.add(SERVICE, backend.ip());
            }
            backends.push(backend);
        }
        Ok(Self { port, dns: server.address, zone, backends, _server: server })
    }

    /// Changes the backend `name`. Returns the number of requests that the change broke.
    pub(super) async fn apply(&mut self, name: &str, change: DemoChange) -> io::Result<usize> {
        let Some(index) = self.backends.iter().position(|backend| backend.name() == name) else {
            return Ok(0);
        };
        let backend = &mut self.backends[index];
        match change {
            DemoChange::Kill => return Ok(backend.kill().await),
            DemoChange::Restart => backend.start().await?,
            DemoChange::SlowDown(time) => backend.set_response_time(time),
            DemoChange::Recover => backend.set_response_time(BACKENDS[index].1),
            DemoChange::Join => {
                backend.start().await?;
                self.zone.add(SERVICE, backend.ip());
            }
            DemoChange::Leave => self.zone.remove(SERVICE, backend.ip()),
        }
        Ok(0)
    }
}

/// 127.0.0.2 and on: each backend has its own address, as containers do.
fn ip(index: usize) -> IpAddr {
    let last = u8::try_from(index + 2).unwrap_or(u8::MAX);
    Ipv4Addr::new(127, 0, 0, last).into()
}

/// A port that is free on the address of every backend, with its listeners.
async fn listeners() -> io::Result<(u16, Vec<TcpListener>)> {
    let mut port = PORT;
    for _ in 0..ATTEMPTS {
        match listen_all(port).await {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => port = 0,
            result => return result,
        }
    }
    Err(io::ErrorKind::AddrInUse.into())
}

async fn listen_all(port: u16) -> io::Result<(u16, Vec<TcpListener>)> {
    let first = TcpListener::bind((ip(0), port)).await?;
    let port = first.local_addr()?.port();
    let mut listeners = vec![first];
    for index in 1..BACKENDS.len() {
        listeners.push(TcpListener::bind((ip(index), port)).await?);
    }
    Ok((port, listeners))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::in_time;
    use tokio::net::TcpStream;

    async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
        in_time("a connection is accepted or refused", TcpStream::connect(address)).await
    }

    #[tokio::test]
    async fn a_killed_backend_refuses_connections_and_a_restarted_one_accepts_them() {
        let mut environment = Environment::start().await.unwrap();
        let b = SocketAddr::new(ip(1), environment.port);
        let d = SocketAddr::new(ip(3), environment.port);
        connect(b).await.unwrap();
        assert!(connect(d).await.is_err());
        environment.apply("b", DemoChange::Kill).await.unwrap();
        assert!(connect(b).await.is_err());
        environment.apply("b", DemoChange::Restart).await.unwrap();
        connect(b).await.unwrap();
        environment.apply("d", DemoChange::Join).await.unwrap();
        connect(d).await.unwrap();
        environment.apply("d", DemoChange::Leave).await.unwrap();
        environment.apply("d", DemoChange::Kill).await.unwrap();
        environment.apply("d", DemoChange::Join).await.unwrap();
    }
}
