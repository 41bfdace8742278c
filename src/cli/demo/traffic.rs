//! The traffic of the demo: clients that open a connection for each request. While two pools are compared, each request
//! is sent to both.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::{Request, header};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::task::AbortOnDropHandle;

use super::action::Clients;
use super::backend::BACKEND_HEADER;
use super::environment::SIDES;
use super::scene::TrafficScene;
use super::stats::{Answer, RequestFailure, TrafficStats};
use crate::http1::handshake;
use crate::task::{boxed, spawn};

/// The timeout of a request.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The number of clients that connect again and again.
pub(super) const FEW: u32 = 8;
/// The number of addresses below 127.0.x.0 that clients use, of 254.
const HOSTS: u32 = 250;
/// The number of such networks, from 127.0.1.0 on.
const NETWORKS: u32 = 200;

/// What is sent, and where to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TrafficPlan {
    pub(super) traffic: TrafficScene,
    /// The listener of each pool; `None`: there is none.
    pub(super) listeners: [Option<SocketAddr>; SIDES],
}

/// The running traffic. It stops when dropped.
#[derive(Debug)]
pub(super) struct Traffic {
    plan: watch::Sender<TrafficPlan>,
    /// The results of each pool.
    pub(super) stats: [TrafficStats; SIDES],
    _task: AbortOnDropHandle<()>,
}

impl Traffic {
    /// Starts to send requests.
    pub(super) fn start(plan: TrafficPlan) -> Self {
        let stats: [TrafficStats; SIDES] = Default::default();
        let (sender, receiver) = watch::channel(plan);
        let task = AbortOnDropHandle::new(spawn(send(receiver, stats.clone())));
        Self { plan: sender, stats, _task: task }
    }

    /// Changes what is sent.
    pub(super) fn set(&self, plan: TrafficPlan) {
        self.plan.send_if_modified(|now| std::mem::replace(now, plan) != plan);
    }
}

/// Sends requests as planned.
async fn send(mut plan: watch::Receiver<TrafficPlan>, stats: [TrafficStats; SIDES]) {
    let mut requests = JoinSet::new();
    let mut number = 0_u32;
    loop {
        let TrafficPlan { traffic, listeners } = *plan.borrow_and_update();
        let mut tick = tokio::time::interval(Duration::from_secs(1) / traffic.rate.max(1));
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                changed = plan.changed() => match changed {
                    Ok(()) => break,
                    Err(_) => return, // the traffic is over
                },
                _ = tick.tick() => {}
            }
            number = number.wrapping_add(1);
            let client = client(traffic.clients, number);
            let comes_again = (traffic.clients == Clients::Few).then_some(client);
            for (listener, stats) in listeners.into_iter().zip(&stats) {
                let Some(listener) = listener else { continue };
                let stats = stats.clone();
                requests.spawn(boxed(async move {
                    let began = Instant::now();
                    let result = tokio::time::timeout(TIMEOUT, request(client, listener)).await;
                    stats.add(comes_again, result.unwrap_or(Err(RequestFailure::Failed)), began.elapsed());
                }));
            }
            while requests.try_join_next().is_some() {}
        }
    }
}

/// The address of the client of a request. All of 127.0.0.0/8 is this machine, so each client can have its own.
fn client(clients: Clients, number: u32) -> IpAddr {
    let place = match clients {
        Clients::Few => number % FEW,
        Clients::Many => number % (HOSTS * NETWORKS),
    };
    IpAddr::V4((u32::from(Ipv4Addr::new(127, 0, 1, 1)) + place / HOSTS * 256 + place % HOSTS).into())
}

/// Connects from a client's address, or from any address where only 127.0.0.1 belongs to this machine.
async fn connect(client: IpAddr, address: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if address.ip().is_loopback() && address.is_ipv4() {
        match socket.bind((client, 0).into()) {
            Err(error) if error.kind() != ErrorKind::AddrNotAvailable => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    socket.connect(address).await
}

/// One request on its own connection.
async fn request(client: IpAddr, address: SocketAddr) -> Result<Answer, RequestFailure> {
    // A backend that is killed just after it was connected to resets this connection before its connect is noticed.
    let stream = connect(client, address).await.map_err(|error| match error.kind() {
        ErrorKind::ConnectionReset => RequestFailure::Broken,
        _ => RequestFailure::Failed,
    })?;
    let broken = |_| RequestFailure::Broken;
    let (mut sender, _connection) = handshake(stream, None).await.map_err(broken)?;
    let request = Request::get("/")
        .header(header::HOST, address.to_string())
        .header(header::CONNECTION, "close")
        .body(Full::default())
        .map_err(|_| RequestFailure::Failed)?;
    let (parts, body) = sender.send_request(request).await.map_err(broken)?.into_parts();
    body.collect().await.map_err(broken)?;
    // A response without the header is the balancer's own 503.
    let backend = parts.headers.get(BACKEND_HEADER).and_then(|name| name.to_str().ok());
    let backend = backend.map(str::to_owned).ok_or(RequestFailure::Failed)?;
    Ok(Answer { backend, error: !parts.status.is_success() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[tokio::test]
    async fn a_connection_that_is_reset_at_once_is_broken() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let reset_at_once = async {
            // The connect has begun; the task notices its end only after this, as nothing else runs meanwhile.
            let (stream, _) = listener.accept().unwrap();
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        };
        let client = client(Clients::Few, 0);
        let (result, ()) = tokio::join!(biased; request(client, address), reset_at_once);
        assert!(matches!(result, Err(RequestFailure::Broken)), "{result:?}");
    }

    #[test]
    fn few_clients_come_again_and_many_do_not() {
        let addresses = |clients, number| (0..number).map(|n| client(clients, n)).collect::<BTreeSet<_>>();
        assert_eq!(addresses(Clients::Few, 1000).len(), FEW as usize);
        let many = addresses(Clients::Many, HOSTS * NETWORKS);
        assert_eq!(many.len(), (HOSTS * NETWORKS) as usize);
        assert!(many.iter().all(IpAddr::is_loopback));
        assert_eq!(many.first(), Some(&IpAddr::from([127, 0, 1, 1])));
        assert_eq!(many.last(), Some(&IpAddr::from([127, 0, 200, 250])));
    }
}
