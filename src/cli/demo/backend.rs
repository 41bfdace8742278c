//! A small HTTP backend whose speed, life and death the story decides.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

/// The header in which a backend says who it is.
pub(super) const WHO: &str = "x-backend";

/// A backend of the demo, alive or not.
#[derive(Debug)]
pub(super) struct Backend {
    name: &'static str,
    address: SocketAddr,
    shared: Arc<Shared>,
    alive: Option<AbortOnDropHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    name: &'static str,
    /// Time that an answer takes, in milliseconds.
    millis: AtomicU64,
    answering: AtomicUsize,
}

impl Backend {
    /// A backend that is not alive yet.
    pub(super) fn new(name: &'static str, address: SocketAddr) -> Self {
        let shared = Shared { name, millis: AtomicU64::new(0), answering: AtomicUsize::new(0) };
        Self { name, address, shared: Arc::new(shared), alive: None }
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    pub(super) fn ip(&self) -> IpAddr {
        self.address.ip()
    }

    /// Starts to listen and to answer.
    pub(super) async fn start(&mut self) -> io::Result<()> {
        let listener = TcpListener::bind(self.address).await?;
        self.serve(listener);
        Ok(())
    }

    /// Answers on a listener that exists already.
    pub(super) fn serve(&mut self, listener: TcpListener) {
        self.alive = Some(AbortOnDropHandle::new(tokio::spawn(serve(listener, Arc::clone(&self.shared)))));
    }

    /// Ends as a killed process does: its port is closed and its connections break. Says how many requests it
    /// was answering.
    pub(super) async fn kill(&mut self) -> usize {
        let Some(task) = self.alive.take() else { return 0 };
        let answering = self.shared.answering.load(Ordering::Acquire);
        let task = task.detach();
        task.abort();
        let _ = task.await; // cancelled, as it was told to be: now its sockets are closed
        answering
    }

    /// From now on an answer takes so long.
    pub(super) fn take_time(&self, time: Duration) {
        let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.shared.millis.store(millis, Ordering::Relaxed);
    }
}

/// Its connections end with it.
async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        if let Ok((stream, _)) = listener.accept().await {
            let shared = Arc::clone(&shared);
            connections.spawn(async move {
                let answer = service_fn(|request| answer(request, Arc::clone(&shared)));
                // A client that breaks off is its own affair.
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), answer)
                    .await;
            });
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn answer(
    request: Request<Incoming>,
    shared: Arc<Shared>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let body = if request.uri().path() == "/health" {
        "ok\n".to_owned()
    } else {
        let _answering = Answering::begin(&shared);
        tokio::time::sleep(Duration::from_millis(shared.millis.load(Ordering::Relaxed))).await;
        format!("Response from {}\n", shared.name)
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    response.headers_mut().insert(WHO, header::HeaderValue::from_static(shared.name));
    Ok(response)
}

struct Answering<'a>(&'a AtomicUsize);

impl<'a> Answering<'a> {
    fn begin(shared: &'a Shared) -> Self {
        shared.answering.fetch_add(1, Ordering::AcqRel);
        Self(&shared.answering)
    }
}

impl Drop for Answering<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
