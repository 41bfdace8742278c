//! A running instance, reached over its admin server: the one client of the admin API.

mod address;
mod error;
mod events;

use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response, header};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_util::either::Either;

use crate::http1::handshake;
pub(crate) use address::Address;
pub(crate) use error::Error;
pub(crate) use events::{Event, Events};

/// The time limit for connecting to the server.
const CONNECT: Duration = Duration::from_secs(3);
/// The time limit for a response; the server's own limit is a little shorter.
const ANSWER: Duration = Duration::from_secs(15);
/// The longest response, in bytes; Pointsman sends no longer ones.
const LONGEST: usize = 64 * 1024 * 1024;

/// A running instance.
#[derive(Clone, Debug)]
pub(crate) struct Remote {
    address: Address,
    token: Option<String>,
    connect: Duration,
    answer: Duration,
}

impl Remote {
    /// The instance whose admin server has that address.
    pub(crate) fn new(address: Address) -> Self {
        Self { address, token: None, connect: CONNECT, answer: ANSWER }
    }

    /// The same with a shorter time limit.
    pub(crate) fn within(self, limit: Duration) -> Self {
        Self { connect: limit, answer: limit, ..self }
    }

    /// The same with the operator's token.
    pub(crate) fn with_token(self, token: Option<String>) -> Self {
        Self { token, ..self }
    }

    /// The address of its admin server.
    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    /// Gets that path and returns the response as text.
    pub(crate) async fn text(&self, path: &str) -> Result<String, Error> {
        self.send(Method::GET, path).await
    }

    /// Gets that path and deserializes the response.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        self.read(&self.text(path).await?)
    }

    /// Makes a request without a body and returns the response as text.
    pub(crate) async fn send(&self, method: Method, path: &str) -> Result<String, Error> {
        self.request(method, path, None).await
    }

    /// Makes a request with a body and returns the response as text.
    pub(crate) async fn submit(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<String, Error> {
        let body = serde_json::to_string(body).map_err(|error| self.no_answer(&error))?;
        self.request(method, path, Some(body)).await
    }

    async fn request(&self, method: Method, path: &str, body: Option<String>) -> Result<String, Error> {
        let work = async {
            let response = self.start(method, path, body, None).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), LONGEST).collect().await;
            let body = body.map_err(|error| self.no_answer(&error))?.to_bytes();
            let text = String::from_utf8_lossy(&body).into_owned();
            if status.is_success() { Ok(text) } else { Err(Error::refused(status, &text)) }
        };
        match timeout(self.connect + self.answer, work).await {
            Ok(result) => result,
            Err(_) => {
                let limit = humantime::format_duration(self.connect + self.answer);
                Err(self.no_answer(&format!("nothing came within {limit}")))
            }
        }
    }

    /// Deserializes a response.
    pub(crate) fn read<T: DeserializeOwned>(&self, text: &str) -> Result<T, Error> {
        serde_json::from_str(text).map_err(|error| {
            self.no_answer(&format!(
                "its response is invalid ({error}); is it a Pointsman of another version?"
            ))
        })
    }

    /// Follows the stream of events at that path, after the event `seen` if one is given. It is an error if the stream
    /// sends nothing for the time `silence`.
    pub(crate) async fn follow(
        &self,
        path: &str,
        seen: Option<&str>,
        silence: Duration,
    ) -> Result<Events, Error> {
        let work = async {
            let response = self.start(Method::GET, path, None, seen).await?;
            let status = response.status();
            if status.is_success() {
                return Ok(Events::new(self.clone(), response.into_body(), silence));
            }
            let body = Limited::new(response.into_body(), LONGEST).collect().await;
            let body = body.map_err(|error| self.no_answer(&error))?.to_bytes();
            Err(Error::refused(status, &String::from_utf8_lossy(&body)))
        };
        match timeout(self.connect + self.answer, work).await {
            Ok(result) => result,
            Err(_) => Err(self.no_answer(&"nothing came in time")),
        }
    }

    /// Sends a request and returns the head of its response.
    async fn start(
        &self,
        method: Method,
        path: &str,
        body: Option<String>,
        seen: Option<&str>,
    ) -> Result<Response<Incoming>, Error> {
        let (stream, host) = match timeout(self.connect, self.open()).await {
            Ok(opened) => opened.map_err(|error| self.unreachable(&error))?,
            Err(_) => return Err(self.unreachable(&"no answer in time")),
        };
        let connected = handshake(stream, None).await;
        let (mut sender, connection) = connected.map_err(|error| self.no_answer(&error))?;
        // The task ends when the response has been read or dropped.
        connection.detach();
        // The token crosses the network in clear text: only requests that need it carry it.
        let token = self.token.as_ref().filter(|_| !method.is_safe());
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, host)
            .header(header::USER_AGENT, concat!("pointsman/", env!("CARGO_PKG_VERSION")));
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        if let Some(seen) = seen {
            request = request.header("last-event-id", seen);
        }
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let request = request
            .body(Full::new(Bytes::from(body.unwrap_or_default())))
            .map_err(|error| self.no_answer(&error))?;
        sender.send_request(request).await.map_err(|error| self.no_answer(&error))
    }

    /// A connection, and the Host header: an address, as the server refuses changes under a name.
    async fn open(&self) -> std::io::Result<(Either<TcpStream, UnixStream>, String)> {
        match &self.address {
            Address::Tcp(address) => {
                let stream = TcpStream::connect(address).await?;
                Ok((Either::Left(stream), address.to_string()))
            }
            Address::Name(name) => {
                let stream = TcpStream::connect(name).await?;
                let host = stream.peer_addr()?.to_string();
                Ok((Either::Left(stream), host))
            }
            Address::Unix(path) => {
                Ok((Either::Right(UnixStream::connect(path).await?), "localhost".to_owned()))
            }
        }
    }

    fn unreachable(&self, error: &dyn ToString) -> Error {
        Error::unreachable(self.address.clone(), &error.to_string())
    }

    fn no_answer(&self, error: &dyn ToString) -> Error {
        Error::NoAnswer { address: self.address.clone(), error: error.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;
    use crate::task::spawn;
    use crate::testing::in_time;

    #[tokio::test]
    async fn following_events_times_out_if_a_refusal_never_ends() {
        let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let remote =
            Remote::new(Address::Tcp(server.local_addr().unwrap())).within(Duration::from_millis(100));
        let refusing = spawn(async move {
            let (mut stream, _) = server.accept().await.unwrap();
            stream.write_all(b"HTTP/1.1 503 No\r\nContent-Length: 100\r\n\r\nhalf of").await.unwrap();
            stream
        });
        let followed = in_time("it gives up", remote.follow("/", None, CONNECT)).await;
        let error = followed.unwrap_err().to_string();
        assert!(error.contains("nothing came in time"), "{error}");
        drop(refusing.await.unwrap());
    }
}
