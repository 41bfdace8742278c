//! A small HTTP backend, which the demo's script starts, slows down and kills.

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

use crate::task::{boxed, spawn};

/// The header with the name of the backend that responded.
pub(super) const BACKEND_HEADER: &str = "x-backend";

/// A backend of the demo, running or not.
#[derive(Debug)]
pub(super) struct DemoBackend {
    name: &'static str,
    address: SocketAddr,
    state: Arc<DemoBackendState>,
    task: Option<AbortOnDropHandle<()>>,
}

#[derive(Debug)]
struct DemoBackendState {
    name: &'static str,
    /// The response time, in milliseconds.
    millis: AtomicU64,
    /// The number of requests in progress.
    open: AtomicUsize,
}

impl DemoBackend {
    /// A backend that does not run yet.
    pub(super) fn new(name: &'static str, address: SocketAddr) -> Self {
        let state = DemoBackendState { name, millis: AtomicU64::new(0), open: AtomicUsize::new(0) };
        Self { name, address, state: Arc::new(state), task: None }
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    pub(super) fn ip(&self) -> IpAddr {
        self.address.ip()
    }

    /// Listens and serves.
    pub(super) async fn start(&mut self) -> io::Result<()> {
        let listener = TcpListener::bind(self.address).await?;
        self.serve(listener);
        Ok(())
    }

    /// Serves on an existing listener.
    pub(super) fn serve(&mut self, listener: TcpListener) {
        self.task = Some(AbortOnDropHandle::new(spawn(serve(listener, Arc::clone(&self.state)))));
    }

    /// Stops like a killed process: its port closes and its connections break. Returns the number of requests that were in
    /// progress.
    pub(super) async fn kill(&mut self) -> usize {
        let Some(task) = self.task.take() else { return 0 };
        let open = self.state.open.load(Ordering::Acquire);
        let task = task.detach();
        task.abort();
        let _ = task.await; // cancelled; now its sockets are closed
        open
    }

    /// Sets the response time.
    pub(super) fn set_response_time(&self, time: Duration) {
        let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.state.millis.store(millis, Ordering::Relaxed);
    }
}

/// Serves connections, which end with this task.
async fn serve(listener: TcpListener, state: Arc<DemoBackendState>) {
    let mut connections = JoinSet::new();
    loop {
        if let Ok((stream, _)) = listener.accept().await {
            let state = Arc::clone(&state);
            connections.spawn(boxed(async move {
                let respond = service_fn(|request| respond(request, Arc::clone(&state)));
                // Errors of clients do not matter.
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), respond)
                    .await;
            }));
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn respond(
    request: Request<Incoming>,
    state: Arc<DemoBackendState>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let body = if request.uri().path() == "/health" {
        "ok\n".to_owned()
    } else {
        let _open = OpenRequest::begin(&state);
        tokio::time::sleep(Duration::from_millis(state.millis.load(Ordering::Relaxed))).await;
        format!("Response from {}\n", state.name)
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    response.headers_mut().insert(BACKEND_HEADER, header::HeaderValue::from_static(state.name));
    Ok(response)
}

struct OpenRequest<'a>(&'a AtomicUsize);

impl<'a> OpenRequest<'a> {
    fn begin(state: &'a DemoBackendState) -> Self {
        state.open.fetch_add(1, Ordering::AcqRel);
        Self(&state.open)
    }
}

impl Drop for OpenRequest<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
