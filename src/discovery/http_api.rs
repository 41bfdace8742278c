//! Requests to a server with an HTTP API, such as etcd, Consul or Kubernetes: each over a connection of its own, with a time limit.

use std::error::Error as _;
use std::io;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_util::either::Either;
use tokio_util::task::AbortOnDropHandle;

use crate::config::{ClientTls, HttpUrl, RegistryServer};
use crate::domain::cause::bounded;
use crate::http1::handshake;
use crate::outgoing::not_with_itself;
use crate::sanitize::without_secret;
use crate::telemetry::ConnectError;
use crate::text_file::secret;
use crate::tls::{TlsClient, TlsError};

/// The time limit for a connection, TLS included, and again for a response that is due at once.
pub(super) const ANSWER: Duration = Duration::from_secs(5);
/// The longest head of a response, in bytes.
const LONGEST_HEAD: usize = 64 * 1024;
/// The longest response, in bytes: 20,000 instances in Consul, of 800 bytes each, or more keys in etcd.
const LONGEST_BODY: usize = 16 << 20;
/// The length of a server's own error message in ours, in characters.
const LONGEST_SHOWN: usize = 200;

/// A server at one or more URLs, of which one is in use.
#[derive(Debug)]
pub(super) struct HttpApi {
    members: Vec<ApiMember>,
    current: usize,
}

#[derive(Debug)]
struct ApiMember {
    url: HttpUrl,
    tls: Option<TlsClient>,
}

/// A request.
#[derive(Debug)]
pub(super) struct ApiRequest {
    pub(super) method: Method,
    /// Path and query.
    pub(super) path: String,
    /// A password or token, which is in no message.
    pub(super) secret: Option<String>,
    /// The header that carries the secret, and what is before it in there; `None`: the body does.
    pub(super) secret_header: Option<(HeaderName, &'static str)>,
    /// A body in JSON.
    pub(super) body: Option<String>,
}

/// Why a request failed.
#[derive(Debug)]
pub(super) struct HttpApiError {
    pub(super) kind: HttpApiErrorKind,
    /// What failed, on which server, and what to do.
    pub(super) text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HttpApiErrorKind {
    /// No answer in time.
    Timeout,
    /// The server refused the request with this status.
    Refused(StatusCode),
    /// Anything else.
    Failed,
}

/// A response whose body is still to be read.
#[derive(Debug)]
pub(super) struct ApiResponse {
    pub(super) headers: HeaderMap,
    pub(super) body: Incoming,
    /// The connection, which ends when this is dropped.
    _connection: AbortOnDropHandle<hyper::Result<()>>,
}

impl HttpApi {
    /// The server of a source.
    pub(super) fn new(server: &impl RegistryServer) -> Self {
        let tls = |url: &HttpUrl| server.tls().filter(|_| url.tls).map(|tls| tls_client(tls, url));
        let members = server.endpoints().iter().map(|url| ApiMember { url: url.clone(), tls: tls(url) });
        Self { members: members.collect(), current: 0 }
    }

    /// The number of its members.
    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    /// Uses the next member from now on.
    pub(super) fn use_next(&mut self) {
        self.current = (self.current + 1) % self.members.len().max(1);
    }

    /// An error of `request` at the member in use.
    pub(super) fn error(&self, kind: HttpApiErrorKind, request: &ApiRequest, what: &str) -> HttpApiError {
        // A query may be long.
        let path = request.path.split('?').next().unwrap_or_default();
        let what = request.without_secret(what);
        let server = self.members.get(self.current).map(|member| member.url.to_string()).unwrap_or_default();
        HttpApiError { kind, text: format!("{} {path} at {server}: {what}", request.method) }
    }

    /// Sends a request, and reads the whole response, which begins within `limit`.
    pub(super) async fn fetch(
        &self,
        request: &ApiRequest,
        limit: Duration,
    ) -> Result<(HeaderMap, Bytes), HttpApiError> {
        let response = self.start(request, limit).await?;
        let body = timeout(ANSWER, Limited::new(response.body, LONGEST_BODY).collect()).await;
        match body {
            Ok(Ok(body)) => Ok((response.headers, body.to_bytes())),
            Ok(Err(error)) => {
                Err(self.error(HttpApiErrorKind::Failed, request, &format!("reading the response: {error}")))
            }
            Err(_) => Err(self.late(request, "the response did not end", ANSWER)),
        }
    }

    /// Sends a request, and returns its response when it begins, which it must within `limit`.
    pub(super) async fn start(
        &self,
        request: &ApiRequest,
        limit: Duration,
    ) -> Result<ApiResponse, HttpApiError> {
        let failed = |what: &str| self.error(HttpApiErrorKind::Failed, request, what);
        let Some(member) = self.members.get(self.current) else { return Err(failed("it has no URL")) };
        let stream = match timeout(ANSWER, member.connect()).await {
            Ok(connected) => connected.map_err(|error| failed(&error))?,
            Err(_) => return Err(self.late(request, "no connection", ANSWER)),
        };
        let explained = |error: &hyper::Error| failed(&explain(error));
        let (mut sender, connection) =
            handshake(stream, Some(LONGEST_HEAD)).await.map_err(|error| explained(&error))?;
        let message = request.message(&member.url).map_err(|error| failed(&error))?;
        let response = match timeout(limit, sender.send_request(message)).await {
            Ok(response) => response.map_err(|error| explained(&error))?,
            Err(_) => return Err(self.late(request, "no response", limit)),
        };
        if !response.status().is_success() {
            return Err(self.refused(request, response).await);
        }
        let (head, body) = response.into_parts();
        Ok(ApiResponse { headers: head.headers, body, _connection: connection })
    }

    fn late(&self, request: &ApiRequest, what: &str, limit: Duration) -> HttpApiError {
        let limit = humantime::format_duration(limit);
        self.error(HttpApiErrorKind::Timeout, request, &format!("{what} within {limit}"))
    }

    /// The error for a response with a status that is no success.
    async fn refused(&self, request: &ApiRequest, response: Response<Incoming>) -> HttpApiError {
        let status = response.status();
        let body = timeout(ANSWER, Limited::new(response.into_body(), LONGEST_HEAD).collect()).await;
        let body = body.ok().and_then(Result::ok).map(|body| body.to_bytes()).unwrap_or_default();
        let own = bounded(request.without_secret(&message_of(&body)).trim(), LONGEST_SHOWN);
        let advice = match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                "; check the user or the token, and its rights to read"
            }
            _ => "",
        };
        let what = format!("status {}: {own}{advice}", status.as_u16());
        self.error(HttpApiErrorKind::Refused(status), request, &what)
    }
}

impl ApiMember {
    /// Opens a connection; the error is a text.
    async fn connect(&self) -> Result<Either<TcpStream, tokio_rustls::client::TlsStream<TcpStream>>, String> {
        let stream =
            connect_tcp(&self.url).await.map_err(|error| ConnectError::from(&error).explain(&error))?;
        let Some(tls) = &self.tls else { return Ok(Either::Left(stream)) };
        match tls.handshake(stream).await {
            Ok(stream) => Ok(Either::Right(stream)),
            Err(TlsError::Local(what)) => Err(what),
            Err(TlsError::Handshake(what)) => Err(format!("TLS: {what}")),
        }
    }
}

impl ApiRequest {
    fn message(&self, url: &HttpUrl) -> Result<Request<Full<Bytes>>, String> {
        let mut message = Request::builder()
            .method(self.method.clone())
            .uri(&self.path)
            .header(header::HOST, url.authority())
            .header(header::USER_AGENT, concat!("pointsman/", env!("CARGO_PKG_VERSION")))
            .header(header::CONNECTION, "close");
        if let (Some((name, before)), Some(secret)) = (&self.secret_header, &self.secret) {
            // The library's own error would not show the value, but would not name the cause either.
            let mut value = HeaderValue::from_str(&format!("{before}{secret}"))
                .map_err(|_| "the token has characters that a header cannot carry".to_owned())?;
            value.set_sensitive(true);
            message = message.header(name, value);
        }
        if self.body.is_some() {
            message = message.header(header::CONTENT_TYPE, "application/json");
        }
        let body = Full::new(Bytes::from(self.body.clone().unwrap_or_default()));
        message.body(body).map_err(|error| error.to_string())
    }

    /// A text without the secret: a server may repeat what it received.
    fn without_secret(&self, text: &str) -> String {
        without_secret(self.secret.as_deref(), text)
    }
}

/// The client of TLS for the server at `url`.
fn tls_client(tls: &ClientTls, url: &HttpUrl) -> TlsClient {
    let mut settings = tls.clone();
    let ip = url.host.parse().ok();
    if ip.is_none() {
        settings.name.get_or_insert_with(|| url.host.clone());
    }
    let ip = ip.unwrap_or(std::net::Ipv4Addr::LOCALHOST.into());
    TlsClient::new(settings, &std::net::SocketAddr::new(ip, url.port).into())
}

/// The password or token of a source, from its file.
pub(super) async fn read_secret<S: RegistryServer>(server: &S) -> Result<Option<String>, String> {
    secret(S::SECRET, server.secret_file()).await
}

/// What is wrong with the files of a source, as far as it can be known without its server.
pub(super) async fn file_problems(server: &impl RegistryServer) -> Vec<String> {
    let mut problems: Vec<_> = read_secret(server).await.err().into_iter().collect();
    let encrypted = server.endpoints().iter().find(|url| url.tls);
    if let (Some(tls), Some(url)) = (server.tls(), encrypted) {
        problems.extend(tls_client(tls, url).config().await.err());
    }
    problems
}

/// Connects to the first address of the host that accepts.
async fn connect_tcp(url: &HttpUrl) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{} has no address", url.host));
    for address in lookup_host((&*url.host, url.port)).await? {
        let connected = TcpStream::connect(address).await;
        match connected.and_then(|stream| {
            not_with_itself(address, || stream.local_addr())?;
            Ok(stream)
        }) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// The text of a server's error: the message in JSON that etcd and Kubernetes send, or the text that Consul sends.
fn message_of(body: &[u8]) -> String {
    let json = serde_json::from_slice::<serde_json::Value>(body).unwrap_or_default();
    match json["message"].as_str().or(json["error"].as_str()) {
        Some(message) => message.to_owned(),
        None => String::from_utf8_lossy(body).into_owned(),
    }
}

/// An error with its cause.
pub(super) fn explain(error: &hyper::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}
