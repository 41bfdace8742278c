//! A small HTTP backend, which can be killed, paused, slowed down and made to fail.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::watch;
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
    /// Whether its answers are errors, except that of `/health`.
    failing: AtomicBool,
    paused: watch::Sender<bool>,
}

impl DemoBackend {
    /// A backend that does not run yet.
    pub(super) fn new(name: &'static str, address: SocketAddr) -> Self {
        let state = DemoBackendState {
            name,
            millis: AtomicU64::new(0),
            failing: AtomicBool::new(false),
            paused: watch::Sender::new(false),
        };
        Self { name, address, state: Arc::new(state), task: None }
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    pub(super) fn ip(&self) -> IpAddr {
        self.address.ip()
    }

    pub(super) fn is_running(&self) -> bool {
        self.task.is_some()
    }

    /// Gives it another address, at which it listens when it is started again.
    pub(super) async fn move_to(&mut self, ip: IpAddr) {
        self.kill().await;
        self.address.set_ip(ip);
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

    /// Stops like a killed process: its port closes and its connections break.
    pub(super) async fn kill(&mut self) {
        let Some(task) = self.task.take() else { return };
        let task = task.detach();
        task.abort();
        let _ = task.await; // cancelled; now its sockets are closed
    }

    /// Sets the response time.
    pub(super) fn set_response_time(&self, time: Duration) {
        let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.state.millis.store(millis, Ordering::Relaxed);
    }

    /// Sets whether its answers are errors. Its `/health` is not affected.
    pub(super) fn set_failing(&self, failing: bool) {
        self.state.failing.store(failing, Ordering::Relaxed);
    }

    /// Pauses it like a process that is stopped by SIGSTOP, or resumes it. While paused, its socket still listens, so
    /// the kernel completes handshakes, but no connection is accepted and no request is answered.
    pub(super) fn set_paused(&self, paused: bool) {
        self.state.paused.send_if_modified(|now| std::mem::replace(now, paused) != paused);
    }
}

impl DemoBackendState {
    /// Waits while the backend is paused.
    async fn resumed(&self) {
        // The sender is part of this state, so it is not closed.
        let _ = self.paused.subscribe().wait_for(|paused| !paused).await;
    }
}

/// Serves connections, which end with this task.
async fn serve(listener: TcpListener, state: Arc<DemoBackendState>) {
    let mut connections = JoinSet::new();
    let mut paused = state.paused.subscribe();
    loop {
        state.resumed().await;
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = paused.changed() => continue,
        };
        if let Ok((stream, _)) = accepted {
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
    let (status, body) = if request.uri().path() == "/health" {
        state.resumed().await;
        (StatusCode::OK, "ok\n".to_owned())
    } else {
        tokio::time::sleep(Duration::from_millis(state.millis.load(Ordering::Relaxed))).await;
        state.resumed().await;
        match state.failing.load(Ordering::Relaxed) {
            true => (StatusCode::INTERNAL_SERVER_ERROR, format!("Error in {}\n", state.name)),
            false => (StatusCode::OK, format!("Response from {}\n", state.name)),
        }
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(BACKEND_HEADER, header::HeaderValue::from_static(state.name));
    Ok(response)
}
