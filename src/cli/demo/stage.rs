//! Where the demo takes place: the backends, and the DNS zone in which the balancer finds them.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::net::TcpListener;

use super::backend::Backend;
use super::zone::{self, Zone};

/// The name that the pool asks for.
pub(super) const SERVICE: &str = "backend.demo";
/// The backends, each with the time that it takes for an answer.
const CAST: [(&str, Duration); 4] = [
    ("a", Duration::from_millis(5)),
    ("b", Duration::from_millis(15)),
    ("c", Duration::from_millis(30)),
    ("d", Duration::from_millis(10)),
];
/// The last one joins later.
const AT_FIRST: usize = 3;
/// The port of all of them, if it is free.
const PORT: u16 = 5000;
/// Tries to find a port that is free on every backend's address.
const TRIES: usize = 32;

/// The backends and their zone.
#[derive(Debug)]
pub(super) struct Stage {
    /// The port of all backends.
    pub(super) port: u16,
    /// The name server.
    pub(super) dns: SocketAddr,
    zone: Zone,
    backends: Vec<Backend>,
    _server: zone::Server,
}

/// What happens to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// Its process is killed. DNS does not notice.
    Die,
    /// It is started again.
    Return,
    /// Its answers take so long.
    Slow(Duration),
    /// Its answers take their usual time.
    Recover,
    /// It is started, and its address appears in DNS.
    Join,
    /// Its address vanishes from DNS. It goes on answering whom it has.
    Leave,
}

impl Stage {
    /// Starts the first backends and the name server.
    pub(super) async fn set() -> io::Result<Self> {
        let (port, listeners) = listeners().await?;
        let zone = Zone::new();
        let server = zone::Server::start((Ipv4Addr::LOCALHOST, 0).into(), zone.clone()).await?;
        let mut backends = Vec::new();
        for (index, ((name, time), listener)) in CAST.into_iter().zip(listeners).enumerate() {
            let mut backend = Backend::new(name, SocketAddr::new(ip(index), port));
            backend.take_time(time);
            zone.name_owner(backend.ip(), name);
            if index < AT_FIRST {
                backend.serve(listener);
                zone.add(SERVICE, backend.ip());
            }
            backends.push(backend);
        }
        Ok(Self { port, dns: server.address, zone, backends, _server: server })
    }

    /// Lets something happen to the backend `name`. Says how many requests broke off by it.
    pub(super) async fn happen(&mut self, name: &str, event: Event) -> io::Result<usize> {
        let Some(index) = self.backends.iter().position(|backend| backend.name() == name) else {
            return Ok(0);
        };
        let backend = &mut self.backends[index];
        match event {
            Event::Die => return Ok(backend.kill().await),
            Event::Return => backend.start().await?,
            Event::Slow(time) => backend.take_time(time),
            Event::Recover => backend.take_time(CAST[index].1),
            Event::Join => {
                backend.start().await?;
                self.zone.add(SERVICE, backend.ip());
            }
            Event::Leave => self.zone.remove(SERVICE, backend.ip()),
        }
        Ok(0)
    }
}

/// 127.0.0.2 and on: each backend has an address of its own, as containers do.
fn ip(index: usize) -> IpAddr {
    let last = u8::try_from(index + 2).unwrap_or(u8::MAX);
    Ipv4Addr::new(127, 0, 0, last).into()
}

/// A port that is free on the address of every backend, with its listeners.
async fn listeners() -> io::Result<(u16, Vec<TcpListener>)> {
    let mut port = PORT;
    for _ in 0..TRIES {
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
    for index in 1..CAST.len() {
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
        in_time("a connection is let in or refused", TcpStream::connect(address)).await
    }

    #[tokio::test]
    async fn who_dies_is_refused_and_who_returns_answers() {
        let mut stage = Stage::set().await.unwrap();
        let b = SocketAddr::new(ip(1), stage.port);
        let d = SocketAddr::new(ip(3), stage.port);
        connect(b).await.unwrap();
        assert!(connect(d).await.is_err());
        stage.happen("b", Event::Die).await.unwrap();
        assert!(connect(b).await.is_err());
        stage.happen("b", Event::Return).await.unwrap();
        connect(b).await.unwrap();
        stage.happen("d", Event::Join).await.unwrap();
        connect(d).await.unwrap();
        stage.happen("d", Event::Leave).await.unwrap();
        stage.happen("d", Event::Die).await.unwrap();
        stage.happen("d", Event::Join).await.unwrap();
    }
}
