//! Steady traffic: clients that open a connection for each request, and the statistics of their results.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::{Request, header};
use litemap::LiteMap;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::task::AbortOnDropHandle;

use super::backend::BACKEND_HEADER;
use crate::http1::handshake;
use crate::task::{boxed, spawn};

/// Requests per second.
const RATE: u32 = 30;
/// The timeout of a request.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The period of the figures in the view.
pub(super) const WINDOW: Duration = Duration::from_secs(3);

/// The results of all requests. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct TrafficStats(Arc<Mutex<StatsData>>);

#[derive(Debug, Default)]
struct StatsData {
    totals: TrafficTotals,
    recent: VecDeque<(Instant, String, Duration)>,
}

/// The totals since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct TrafficTotals {
    /// Requests with a response.
    pub(super) answered: u64,
    /// Requests that broke because their backend was killed. A balancer that does not parse the protocol cannot retry them.
    pub(super) broken: u64,
    /// Requests without a backend, which a balancer should prevent.
    pub(super) failed: u64,
    /// Responses by backend.
    pub(super) by_backend: LiteMap<String, u64>,
}

/// Why a request got no response.
#[derive(Debug)]
enum RequestFailure {
    Broken,
    Failed,
}

impl TrafficStats {
    /// The totals since the start.
    pub(super) fn totals(&self) -> TrafficTotals {
        self.data().totals.clone()
    }

    /// The number of recent responses of each backend, and the median of their times.
    pub(super) fn recent(&self, now: Instant) -> LiteMap<String, (usize, Duration)> {
        let mut data = self.data();
        while data.recent.front().is_some_and(|(at, ..)| now.duration_since(*at) > WINDOW) {
            data.recent.pop_front();
        }
        let mut times = LiteMap::<String, Vec<Duration>>::new();
        for (_, backend, time) in &data.recent {
            times.entry(backend.clone()).or_default().push(*time);
        }
        let median = |mut times: Vec<Duration>| {
            times.sort_unstable();
            (times.len(), times[times.len() / 2])
        };
        times.into_iter().map(|(backend, times)| (backend, median(times))).collect()
    }

    fn data(&self) -> MutexGuard<'_, StatsData> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, result: Result<String, RequestFailure>, time: Duration) {
        let mut data = self.data();
        match result {
            Ok(backend) => {
                data.totals.answered += 1;
                *data.totals.by_backend.entry(backend.clone()).or_default() += 1;
                data.recent.push_back((Instant::now(), backend, time));
            }
            Err(RequestFailure::Broken) => data.totals.broken += 1,
            Err(RequestFailure::Failed) => data.totals.failed += 1,
        }
    }
}

/// Sends traffic to `address` until it is dropped.
pub(super) fn send(address: SocketAddr, stats: TrafficStats) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(spawn(async move {
        let mut tick = tokio::time::interval(Duration::from_secs(1) / RATE);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut clients = JoinSet::new();
        loop {
            tick.tick().await;
            let stats = stats.clone();
            clients.spawn(boxed(async move {
                let began = Instant::now();
                let result = tokio::time::timeout(TIMEOUT, request(address)).await;
                stats.add(result.unwrap_or(Err(RequestFailure::Failed)), began.elapsed());
            }));
            while clients.try_join_next().is_some() {}
        }
    }))
}

/// One request on its own connection; the name of the backend that responded.
async fn request(address: SocketAddr) -> Result<String, RequestFailure> {
    // A backend that is killed just after it was connected to resets this connection before its connect is noticed.
    let stream = TcpStream::connect(address).await.map_err(|error| match error.kind() {
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
    backend.map(str::to_owned).ok_or(RequestFailure::Failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_counted_and_recent_ones_expire() {
        let stats = TrafficStats::default();
        for millis in [1, 2, 9] {
            stats.add(Ok("a".to_owned()), Duration::from_millis(millis));
        }
        stats.add(Err(RequestFailure::Broken), Duration::ZERO);
        stats.add(Err(RequestFailure::Failed), Duration::ZERO);
        let now = Instant::now();
        assert_eq!(stats.recent(now)[&"a".to_owned()], (3, Duration::from_millis(2)));
        assert!(stats.recent(now + WINDOW * 2).is_empty());
        let totals = stats.totals();
        assert_eq!((totals.answered, totals.broken, totals.failed), (3, 1, 1));
        assert_eq!(totals.by_backend[&"a".to_owned()], 3);
    }

    #[tokio::test]
    async fn a_connection_that_is_reset_at_once_is_broken() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let reset_at_once = async {
            // The connect has begun; its end is noticed after this, as nothing else runs meanwhile.
            let (stream, _) = listener.accept().unwrap();
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        };
        let (result, ()) = tokio::join!(biased; request(address), reset_at_once);
        assert!(matches!(result, Err(RequestFailure::Broken)), "{result:?}");
    }
}
