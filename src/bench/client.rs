//! One client: it sends a request, and tells what came of it.

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

use super::failure::Failure;
use super::speak_first::SpeakFirst;
use super::target::{Exchange, Request, Target, TcpUntil};
use super::who::{By, Name};
use crate::telemetry::not_with_itself;

/// How long a client lets the server end the connection first. Who ends it keeps its port from being used again for a
/// minute (TIME-WAIT, RFC 9293, 3.6.1), and ports are what a client runs out of.
const PARTING: Duration = Duration::from_millis(50);
/// What is read of an answer at once.
const CHUNK: usize = 4 * 1024;

/// What all clients do.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) target: Target,
    pub(super) timeout: Duration,
    pub(super) keep_alive: bool,
    pub(super) by: By,
    pub(super) addresses: Addresses,
}

/// Where the target's name leads.
#[derive(Debug)]
pub(super) struct Addresses {
    /// At least one.
    all: Vec<SocketAddr>,
    /// The one that was reached last.
    first: AtomicUsize,
}

impl Addresses {
    pub(super) fn new(all: Vec<SocketAddr>) -> Self {
        Self { all, first: AtomicUsize::new(0) }
    }

    /// A connection to the first that takes one.
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

/// What came back.
#[derive(Debug)]
pub(super) struct Answer {
    /// Of HTTP.
    pub(super) status: Option<u16>,
    /// When its last byte was there.
    pub(super) ended: Instant,
    /// Of its body.
    pub(super) bytes: u64,
    /// Who sent it.
    pub(super) who: Option<Name>,
}

/// A client.
#[derive(Debug)]
pub(super) struct Client {
    job: Rc<Job>,
    open: Option<Open>,
    /// The beginning of the last body.
    body: Vec<u8>,
    /// Connections opened since this was asked for.
    opened: u64,
}

/// A connection that is open.
#[derive(Debug)]
enum Open {
    Http(Http),
    Tcp(TcpStream),
}

/// Where requests are put in, and the task that carries them.
type Http = (SendRequest<Full<Bytes>>, AbortOnDropHandle<hyper::Result<Parts<TokioIo<SpeakFirst>>>>);

impl Client {
    pub(super) fn new(job: Rc<Job>) -> Self {
        Self { job, open: None, body: Vec::new(), opened: 0 }
    }

    /// Sends a request and waits for what comes of it; [`settle`](Self::settle) must follow.
    pub(super) async fn request(&mut self) -> Result<Answer, Failure> {
        let job = Rc::clone(&self.job);
        let exchange = async {
            match &job.target {
                Target::Http(request) => self.http(request).await,
                Target::Tcp(exchange) => self.tcp(exchange).await,
            }
        };
        tokio::time::timeout(job.timeout, exchange).await.unwrap_or(Err(Failure::Timeout))
    }

    /// Parts from the server, unless the connection is to be used again.
    pub(super) async fn settle(&mut self) {
        if !self.job.keep_alive
            && let Some(open) = self.open.take()
        {
            // Whoever does not part in time is left.
            let _ = tokio::time::timeout(PARTING, open.part()).await;
        }
    }

    /// Connections that were opened since this was asked last.
    pub(super) fn opened(&mut self) -> u64 {
        std::mem::take(&mut self.opened)
    }

    async fn connect(&mut self) -> Result<TcpStream, Failure> {
        let stream = self.job.addresses.connect().await.map_err(|error| Failure::from(&error))?;
        self.opened += 1;
        Ok(stream)
    }

    async fn http(&mut self, request: &Request) -> Result<Answer, Failure> {
        let failed = |error: hyper::Error| Failure::from(&error);
        let kept = self.kept().await;
        let reused = kept.is_some();
        let (mut sender, mut connection) = match kept {
            Some(kept) => kept,
            None => self.handshake().await?,
        };
        let mut sent = sender.send_request(self.message(request)).await;
        // The server ended a kept connection before the request was on its way: nobody has seen it.
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
        self.open = Some(Open::Http((sender, connection)));
        let who = self.job.by.name(&head.headers, &self.body);
        Ok(Answer { status: Some(head.status.as_u16()), ended, bytes, who })
    }

    /// The connection of the last request, if it can take another.
    async fn kept(&mut self) -> Option<Http> {
        match self.open.take() {
            Some(Open::Http((mut sender, connection))) => {
                sender.ready().await.ok().map(|()| (sender, connection))
            }
            _ => None,
        }
    }

    async fn handshake(&mut self) -> Result<Http, Failure> {
        let stream = self.connect().await?;
        let handshake = http1::handshake(TokioIo::new(SpeakFirst::new(stream))).await;
        let (sender, connection) = handshake.map_err(|error| Failure::from(&error))?;
        let connection: JoinHandle<_> = tokio::task::spawn_local(connection.without_shutdown());
        Ok((sender, AbortOnDropHandle::new(connection)))
    }

    fn message(&self, request: &Request) -> hyper::Request<Full<Bytes>> {
        let mut message = hyper::Request::new(Full::new(request.body.clone()));
        *message.method_mut() = request.method.clone();
        *message.uri_mut() = request.path.clone().into();
        *message.headers_mut() = request.headers.clone();
        if !self.job.keep_alive {
            message.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        message
    }

    async fn tcp(&mut self, exchange: &Exchange) -> Result<Answer, Failure> {
        let failed = |error: io::Error| Failure::from(&error);
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
                    (0, TcpUntil::Byte) => return Err(Failure::ClosedEarly),
                    (0, _) | (_, TcpUntil::Byte) => break,
                    _ => {}
                }
            }
        }
        let ended = Instant::now();
        if exchange.until == TcpUntil::Byte {
            self.open = Some(Open::Tcp(stream));
        }
        let who = self.job.by.name(&HeaderMap::new(), &self.body);
        Ok(Answer { status: None, ended, bytes, who })
    }

    /// Keeps as much of a body as is needed to know who sent it.
    fn keep(&mut self, data: &[u8]) {
        let room = self.job.by.needs().saturating_sub(self.body.len());
        self.body.extend_from_slice(&data[..data.len().min(room)]);
    }
}

impl Open {
    /// Reads until the server has ended the connection. What has come and was not read would make our end a reset.
    async fn part(self) {
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
