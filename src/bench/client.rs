//! One client: sends a request and reports its result.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, Parts, SendRequest};
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::task::AbortOnDropHandle;

use super::attribution::{Attribution, By};
use super::request_error::RequestError;
use super::speak_first::SpeakFirst;
use super::target::{BenchTarget, Request, TcpExchange, TcpUntil};
use crate::outgoing::not_with_itself;

/// How long a client waits for the server to close first. The side that closes first keeps its port in TIME-WAIT for a
/// minute (RFC 9293, 3.6.1), and a client runs out of ports.
const CLOSE_WAIT: Duration = Duration::from_millis(50);
/// The size of one read.
const CHUNK: usize = 4 * 1024;

/// The configuration that all clients share.
#[derive(Debug)]
pub(super) struct ClientConfig {
    pub(super) target: BenchTarget,
    pub(super) timeout: Duration,
    pub(super) keep_alive: bool,
    pub(super) by: By,
    pub(super) addresses: Addresses,
}

/// The addresses of the target's name.
#[derive(Debug)]
pub(super) struct Addresses {
    /// At least one.
    all: Vec<SocketAddr>,
    /// The one that accepted last, which is tried first.
    first: AtomicUsize,
}

impl Addresses {
    pub(super) fn new(all: Vec<SocketAddr>) -> Self {
        Self { all, first: AtomicUsize::new(0) }
    }

    /// A connection to the first address that accepts one.
    async fn connect(&self) -> io::Result<TcpStream> {
        let first = self.first.load(Ordering::Relaxed);
        let mut failed = None;
        for nth in (first..self.all.len()).chain(0..first) {
            let address = self.all[nth];
            let connected = TcpStream::connect(address).await.and_then(|stream| {
                not_with_itself(address, || stream.local_addr())?;
                stream.set_nodelay(true)?;
                Ok(stream)
            });
            match connected {
                Ok(stream) => {
                    if nth != first {
                        self.first.store(nth, Ordering::Relaxed);
                    }
                    return Ok(stream);
                }
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        Err(failed.unwrap_or_else(|| io::ErrorKind::NotFound.into()))
    }
}

/// A response.
#[derive(Debug)]
pub(super) struct Response {
    /// The HTTP status.
    pub(super) status: Option<u16>,
    /// When its last byte arrived.
    pub(super) ended: Instant,
    /// Bytes of its body.
    pub(super) bytes: u64,
    /// The backend that it names.
    pub(super) backend: Option<Attribution>,
}

/// A client.
#[derive(Debug)]
pub(super) struct Client {
    config: Rc<ClientConfig>,
    open: Option<OpenConnection>,
    /// The beginning of the last body, for its attribution.
    body: Vec<u8>,
    /// Connections opened since the last call of [`opened`](Self::opened).
    opened: u64,
}

/// An open connection.
#[derive(Debug)]
enum OpenConnection {
    Http(Http),
    Tcp(TcpStream),
}

/// The sender of requests, and the task that drives the connection.
type Http = (SendRequest<Full<Bytes>>, AbortOnDropHandle<hyper::Result<Parts<TokioIo<SpeakFirst>>>>);

impl Client {
    pub(super) fn new(config: Rc<ClientConfig>) -> Self {
        Self { config, open: None, body: Vec::new(), opened: 0 }
    }

    /// Sends a request and waits for its result; [`finish`](Self::finish) must follow.
    pub(super) async fn request(&mut self) -> Result<Response, RequestError> {
        let config = Rc::clone(&self.config);
        let exchange = async {
            match &config.target {
                BenchTarget::Http(request) => self.http(request).await,
                BenchTarget::Tcp(exchange) => self.tcp(exchange).await,
            }
        };
        tokio::time::timeout(config.timeout, exchange).await.unwrap_or(Err(RequestError::Timeout))
    }

    /// Closes the connection unless it is kept for the next request.
    pub(super) async fn finish(&mut self) {
        if !self.config.keep_alive
            && let Some(open) = self.open.take()
        {
            // After the wait the drop of the connection closes it.
            let _ = tokio::time::timeout(CLOSE_WAIT, open.close()).await;
        }
    }

    /// The connections opened since the last call.
    pub(super) fn opened(&mut self) -> u64 {
        std::mem::take(&mut self.opened)
    }

    async fn connect(&mut self) -> Result<TcpStream, RequestError> {
        let stream = self.config.addresses.connect().await.map_err(|error| RequestError::from(&error))?;
        self.opened += 1;
        Ok(stream)
    }

    async fn http(&mut self, request: &Request) -> Result<Response, RequestError> {
        let failed = |error: hyper::Error| RequestError::from(&error);
        let kept = self.kept().await;
        let reused = kept.is_some();
        let (mut sender, mut connection) = match kept {
            Some(kept) => kept,
            None => self.handshake().await?,
        };
        let mut sent = sender.send_request(self.message(request)).await;
        // The server closed a kept connection before the request was sent: it is safe to send it again.
        if reused && sent.as_ref().is_err_and(hyper::Error::is_canceled) {
            (sender, connection) = self.handshake().await?;
            sent = sender.send_request(self.message(request)).await;
        }
        let (head, mut body) = sent.map_err(failed)?.into_parts();
        self.body.clear();
        let mut bytes = 0;
        while let Some(frame) = body.frame().await {
            if let Some(data) = frame.map_err(failed)?.data_ref() {
                bytes += data.len() as u64;
                self.keep(data);
            }
        }
        let ended = Instant::now();
        self.open = Some(OpenConnection::Http((sender, connection)));
        let backend = self.config.by.attribute(&head.headers, &self.body);
        Ok(Response { status: Some(head.status.as_u16()), ended, bytes, backend })
    }

    /// The connection of the last request, if it can be reused.
    async fn kept(&mut self) -> Option<Http> {
        match self.open.take() {
            Some(OpenConnection::Http((mut sender, connection))) => {
                sender.ready().await.ok().map(|()| (sender, connection))
            }
            _ => None,
        }
    }

    async fn handshake(&mut self) -> Result<Http, RequestError> {
        let stream = self.connect().await?;
        let handshake = http1::handshake(TokioIo::new(SpeakFirst::new(stream))).await;
        let (sender, connection) = handshake.map_err(|error| RequestError::from(&error))?;
        let connection: JoinHandle<_> = tokio::task::spawn_local(connection.without_shutdown());
        Ok((sender, AbortOnDropHandle::new(connection)))
    }

    fn message(&self, request: &Request) -> hyper::Request<Full<Bytes>> {
        let mut message = hyper::Request::new(Full::new(request.body.clone()));
        *message.method_mut() = request.method.clone();
        *message.uri_mut() = request.path.clone().into();
        *message.headers_mut() = request.headers.clone();
        if !self.config.keep_alive {
            message.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        message
    }

    async fn tcp(&mut self, exchange: &TcpExchange) -> Result<Response, RequestError> {
        let failed = |error: io::Error| RequestError::from(&error);
        let mut stream = self.connect().await?;
        stream.write_all(&exchange.send).await.map_err(failed)?;
        self.body.clear();
        let mut bytes = 0;
        if exchange.until != TcpUntil::Connected {
            let mut chunk = vec![0; CHUNK];
            loop {
                let n = stream.read(&mut chunk).await.map_err(failed)?;
                bytes += n as u64;
                self.keep(&chunk[..n]);
                match (n, exchange.until) {
                    (0, TcpUntil::Byte) => return Err(RequestError::ClosedEarly),
                    (0, _) | (_, TcpUntil::Byte) => break,
                    _ => {}
                }
            }
        }
        let ended = Instant::now();
        if exchange.until == TcpUntil::Byte {
            self.open = Some(OpenConnection::Tcp(stream));
        }
        let backend = self.config.by.attribute(&HeaderMap::new(), &self.body);
        Ok(Response { status: None, ended, bytes, backend })
    }

    /// Keeps as much of a body as its attribution needs.
    fn keep(&mut self, data: &[u8]) {
        let room = self.config.by.needed_bytes().saturating_sub(self.body.len());
        self.body.extend_from_slice(&data[..data.len().min(room)]);
    }
}

impl OpenConnection {
    /// Reads until the server has closed. Unread data would turn our close into a reset.
    async fn close(self) {
        let mut stream = match self {
            Self::Http((sender, connection)) => {
                drop(sender);
                match connection.await {
                    Ok(Ok(parts)) => parts.io.into_inner().into_inner(),
                    _ => return,
                }
            }
            Self::Tcp(mut stream) => {
                let _ = stream.shutdown().await;
                stream
            }
        };
        let mut rest = vec![0; CHUNK];
        while stream.read(&mut rest).await.is_ok_and(|n| n > 0) {}
    }
}
