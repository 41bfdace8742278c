//! The environment of the demo: the backends, and the DNS zone in which the balancer finds them. There are two identical
//! sets of backends, one for each pool, so that two algorithms can be compared on the same requests.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::time::Instant;

use super::action::{SLOTS, Slot};
use super::backend::DemoBackend;
use super::scene::{ProcessScene, Scene};
use crate::zone::{self, Zone};

/// The number of sets.
pub(super) const SIDES: usize = 2;
/// The DNS name of each set.
pub(super) const SERVICES: [&str; SIDES] = ["backend.demo", "compared.demo"];
/// The first address of each set, 127.0.0.x: each backend has its own address, as containers do.
const FIRST: [u8; SIDES] = [2, 22];
/// The response times of the backends, in milliseconds.
const RESPONSE_TIMES: [u64; SLOTS] = [5, 15, 30, 10, 20, 8, 25, 12];
/// The response time of a slow backend, in milliseconds.
const SLOW: Duration = Duration::from_millis(250);
/// How long a flapping address is in DNS, and how long it is not.
const FLAP: Duration = Duration::from_secs(1);
/// The port of all backends, if it is free.
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
    sides: [Vec<DemoBackend>; SIDES],
    began: Instant,
    /// Whether flapping addresses are not in DNS now.
    hidden: bool,
    _server: zone::DnsServer,
}

impl Environment {
    /// Starts the backends of `scene` and the name server.
    pub(super) async fn start(scene: &Scene) -> io::Result<Self> {
        let (port, listeners) = listeners().await?;
        let zone = Zone::new();
        let server = zone::DnsServer::start((Ipv4Addr::LOCALHOST, 0).into(), zone.clone()).await?;
        let mut listeners = listeners.into_iter();
        let sides = std::array::from_fn(|side| {
            let backend = |slot: Slot| {
                let backend = DemoBackend::new(slot.name(), SocketAddr::new(ip(side, slot.place()), port));
                zone.name_owner(backend.ip(), backend.name());
                backend
            };
            let backends = Slot::all().map(backend).zip(&mut listeners).zip(&scene.backends);
            let serving = backends.map(|((mut backend, listener), wanted)| {
                if wanted.present {
                    backend.serve(listener);
                }
                backend
            });
            serving.collect()
        });
        let dns = server.address;
        let mut environment =
            Self { port, dns, zone, sides, began: Instant::now(), hidden: false, _server: server };
        environment.show(scene).await?;
        Ok(environment)
    }

    /// Makes the backends and the zone match `scene`.
    pub(super) async fn show(&mut self, scene: &Scene) -> io::Result<()> {
        for (side, backends) in self.sides.iter_mut().enumerate() {
            // All stop before one starts, as each gets another one's address.
            for (backend, wanted) in backends.iter_mut().zip(&scene.backends) {
                let ip = ip(side, wanted.address);
                if backend.ip() != ip {
                    backend.move_to(ip).await;
                    self.zone.name_owner(ip, backend.name());
                }
            }
            for ((slot, backend), wanted) in Slot::all().zip(backends).zip(&scene.backends) {
                if !wanted.present {
                    continue; // it still serves its open connections
                }
                backend.set_response_time(response_time(slot, wanted.slow));
                backend.set_failing(wanted.failing);
                match wanted.process {
                    ProcessScene::Killed => backend.kill().await,
                    ProcessScene::Running | ProcessScene::Paused => {
                        backend.set_paused(wanted.process == ProcessScene::Paused);
                        if !backend.is_running() {
                            backend.start().await?;
                        }
                    }
                }
            }
        }
        self.publish(scene);
        Ok(())
    }

    /// Lets the addresses of flapping backends vanish and reappear as time goes by.
    pub(super) fn tick(&mut self, scene: &Scene) {
        let hidden = self.began.elapsed().as_secs() / FLAP.as_secs() % 2 == 1;
        if hidden != self.hidden {
            self.hidden = hidden;
            self.publish(scene);
        }
    }

    /// The address of a backend of the first set.
    pub(super) fn address(&self, scene: &Scene, slot: Slot) -> SocketAddr {
        SocketAddr::new(ip(0, scene.backend(slot).address), self.port)
    }

    fn publish(&self, scene: &Scene) {
        for (side, service) in SERVICES.into_iter().enumerate() {
            let in_dns = scene.present().filter(|(_, backend)| !(backend.flapping && self.hidden));
            self.zone.set(service, in_dns.map(|(_, backend)| ip(side, backend.address)));
        }
    }
}

/// The response time of a backend.
pub(super) fn response_time(slot: Slot, slow: bool) -> Duration {
    if slow { SLOW } else { Duration::from_millis(RESPONSE_TIMES[slot.place()]) }
}

fn ip(side: usize, place: usize) -> IpAddr {
    let last = u8::try_from(place).unwrap_or_default().saturating_add(FIRST[side]);
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
    let mut listeners = Vec::new();
    let mut port = port;
    for side in 0..SIDES {
        for slot in Slot::all() {
            let listener = TcpListener::bind((ip(side, slot.place()), port)).await?;
            port = listener.local_addr()?.port();
            listeners.push(listener);
        }
    }
    Ok((port, listeners))
}

#[cfg(test)]
mod tests {
    use super::super::action::DemoAction;
    use super::*;
    use crate::domain::Algorithm;
    use crate::testing::in_time;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    /// An environment and its scene.
    struct Demo(Environment, Scene);

    impl Demo {
        async fn start() -> Self {
            let scene = Scene::new(Algorithm::RoundRobin);
            Self(Environment::start(&scene).await.unwrap(), scene)
        }

        async fn act(&mut self, action: DemoAction) {
            self.1.apply(action).unwrap();
            self.0.show(&self.1).await.unwrap();
        }

        async fn connect(&self, side: usize, place: usize) -> io::Result<TcpStream> {
            let address = SocketAddr::new(ip(side, place), self.0.port);
            in_time("a connection is accepted or refused", TcpStream::connect(address)).await
        }

        async fn answer(&self, place: usize, path: &str) -> String {
            let mut stream = self.connect(0, place).await.unwrap();
            let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            in_time("an answer", stream.read_to_string(&mut answer)).await.unwrap();
            answer
        }
    }

    #[tokio::test]
    async fn a_killed_backend_refuses_connections_and_a_restarted_one_accepts_them() {
        let mut demo = Demo::start().await;
        for side in 0..SIDES {
            demo.connect(side, 1).await.unwrap();
            assert!(demo.connect(side, 3).await.is_err());
        }
        demo.act(DemoAction::Kill { backend: Slot::B }).await;
        for side in 0..SIDES {
            assert!(demo.connect(side, 1).await.is_err());
        }
        demo.act(DemoAction::Restart { backend: Slot::B }).await;
        demo.connect(0, 1).await.unwrap();
        demo.act(DemoAction::Add).await;
        demo.connect(1, 3).await.unwrap();
        demo.act(DemoAction::Remove { backend: Slot::D }).await;
        demo.connect(0, 3).await.unwrap();
    }

    #[tokio::test]
    async fn a_paused_backend_completes_handshakes_and_answers_when_it_goes_on() {
        let mut demo = Demo::start().await;
        demo.act(DemoAction::Pause { backend: Slot::A }).await;
        let mut stream = demo.connect(0, 0).await.unwrap();
        stream.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        let wait = Duration::from_millis(100);
        assert!(tokio::time::timeout(wait, stream.read_to_string(&mut answer)).await.is_err());
        demo.act(DemoAction::Resume { backend: Slot::A }).await;
        in_time("an answer", stream.read_to_string(&mut answer)).await.unwrap();
        assert!(answer.ends_with("ok\n"), "{answer}");
    }

    #[tokio::test]
    async fn the_health_of_a_failing_backend_is_fine() {
        let mut demo = Demo::start().await;
        demo.act(DemoAction::Fail { backend: Slot::A }).await;
        assert!(demo.answer(0, "/health").await.starts_with("HTTP/1.1 200"));
        assert!(demo.answer(0, "/").await.starts_with("HTTP/1.1 500"));
        demo.act(DemoAction::Repair { backend: Slot::A }).await;
        assert!(demo.answer(0, "/").await.ends_with("Response from a\n"));
    }

    #[tokio::test]
    async fn backends_that_swap_their_addresses_keep_their_names() {
        let mut demo = Demo::start().await;
        demo.act(DemoAction::SwapAddresses).await;
        assert!(demo.answer(0, "/").await.ends_with("Response from b\n"));
        assert!(demo.answer(1, "/").await.ends_with("Response from a\n"));
    }
}
