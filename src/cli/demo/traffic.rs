//! Steady traffic: a few clients that open a new connection for each request, like any other client of the
//! balancer, and write down how it went.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::task::AbortOnDropHandle;

use super::backend::WHO;

/// Requests a second of all clients together.
const RATE: u32 = 30;
/// A client that waits longer for its answer gives up.
const PATIENCE: Duration = Duration::from_secs(5);
/// How far back the figures of the view look.
pub(super) const WINDOW: Duration = Duration::from_secs(3);

/// What the clients wrote down. Clones are the same book.
#[derive(Clone, Debug, Default)]
pub(super) struct Book(Arc<Mutex<Pages>>);

#[derive(Debug, Default)]
struct Pages {
    account: Account,
    recent: VecDeque<(Instant, String, Duration)>,
}

/// How it went, from the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Account {
    /// Requests that were answered.
    pub(super) answered: u64,
    /// Those that broke off with the backend which was answering them: nobody who does not look into the bytes
    /// can hide that.
    pub(super) broken: u64,
    /// Those that got no backend: what a balancer is there to prevent.
    pub(super) failed: u64,
    /// Answers by backend.
    pub(super) by_backend: BTreeMap<String, u64>,
}

/// Why a request was not answered.
#[derive(Debug)]
enum Miss {
    Broken,
    Failed,
}

impl Book {
    /// How it went, from the start.
    pub(super) fn account(&self) -> Account {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).account.clone()
    }

    /// For each backend that answered lately: how often, and the median of the time that it took.
    pub(super) fn recent(&self, now: Instant) -> BTreeMap<String, (usize, Duration)> {
        let mut pages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while pages.recent.front().is_some_and(|(at, ..)| now.duration_since(*at) > WINDOW) {
            pages.recent.pop_front();
        }
        let mut times = BTreeMap::<String, Vec<Duration>>::new();
        for (_, who, time) in &pages.recent {
            times.entry(who.clone()).or_default().push(*time);
        }
        let median = |mut times: Vec<Duration>| {
            times.sort_unstable();
            (times.len(), times[times.len() / 2])
        };
        times.into_iter().map(|(who, times)| (who, median(times))).collect()
    }

    fn write(&self, result: Result<String, Miss>, time: Duration) {
        let mut pages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(who) => {
                pages.account.answered += 1;
                *pages.account.by_backend.entry(who.clone()).or_default() += 1;
                pages.recent.push_back((Instant::now(), who, time));
            }
            Err(Miss::Broken) => pages.account.broken += 1,
            Err(Miss::Failed) => pages.account.failed += 1,
        }
    }
}

/// Sends traffic to `address` until it is dropped.
pub(super) fn send(address: SocketAddr, book: Book) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(async move {
        let mut tick = tokio::time::interval(Duration::from_secs(1) / RATE);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut clients = JoinSet::new();
        loop {
            tick.tick().await;
            let book = book.clone();
            clients.spawn(async move {
                let began = Instant::now();
                let result = tokio::time::timeout(PATIENCE, request(address)).await;
                book.write(result.unwrap_or(Err(Miss::Failed)), began.elapsed());
            });
            while clients.try_join_next().is_some() {}
        }
    }))
}

/// One request on a connection of its own; says which backend answered.
async fn request(address: SocketAddr) -> Result<String, Miss> {
    let stream = TcpStream::connect(address).await.map_err(|_| Miss::Failed)?;
    let broken = |_| Miss::Broken;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let request = Request::get("/")
        .header(header::HOST, address.to_string())
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|_| Miss::Failed)?;
    let (parts, body) = sender.send_request(request).await.map_err(broken)?.into_parts();
    body.collect().await.map_err(broken)?;
    // Only a backend says who it is; our own 503 does not.
    let who = parts.headers.get(WHO).and_then(|who| who.to_str().ok());
    who.map(str::to_owned).ok_or(Miss::Failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_book_counts_and_forgets() {
        let book = Book::default();
        for millis in [1, 2, 9] {
            book.write(Ok("a".to_owned()), Duration::from_millis(millis));
        }
        book.write(Err(Miss::Broken), Duration::ZERO);
        book.write(Err(Miss::Failed), Duration::ZERO);
        let now = Instant::now();
        assert_eq!(book.recent(now)["a"], (3, Duration::from_millis(2)));
        assert!(book.recent(now + WINDOW * 2).is_empty());
        let account = book.account();
        assert_eq!((account.answered, account.broken, account.failed), (3, 1, 1));
        assert_eq!(account.by_backend["a"], 3);
    }
}
