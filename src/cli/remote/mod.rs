//! A running instance, asked over its admin server: the one client that all commands use which talk to one.

mod address;
mod events;
pub(super) mod reply;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::{Failure, FileArgs};
use crate::config;
pub(super) use address::Address;
pub(super) use address::reachable;
pub(super) use events::{Event, Events};

/// Time to reach the server. It is near, or there is something wrong.
const CONNECT: Duration = Duration::from_secs(3);
/// Time for an answer; the server itself gives up on a request a little before.
const ANSWER: Duration = Duration::from_secs(15);
/// A longer answer is not one of a Pointsman.
const LONGEST: usize = 64 * 1024 * 1024;
/// Where the token is, if no file is named.
const TOKEN: &str = "POINTSMAN_TOKEN";

/// Which instance is asked.
#[derive(Debug, Args)]
pub(super) struct AdminArgs {
    /// The admin address to ask: ADDRESS:PORT, NAME:PORT or unix:PATH [default: the configuration's, or 127.0.0.1:9900]
    #[arg(long, env = "POINTSMAN_ADMIN", value_name = "ADDRESS", value_parser = str::parse::<Address>)]
    admin: Option<Address>,
    #[command(flatten)]
    file: FileArgs,
}

/// Which instance is asked, by whom, and how the answer is printed.
#[derive(Debug, Args)]
pub(super) struct RemoteArgs {
    #[command(flatten)]
    at: AdminArgs,
    /// A file with the token that the instance wants for changes, or set POINTSMAN_TOKEN to the token itself
    /// [default: the configuration's]
    #[arg(long, env = "POINTSMAN_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Print what the server answers, as JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// Why an instance did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// Nobody can be reached there.
    #[error(
        "cannot reach the admin server at {address}: {error}; is Pointsman running there? name another one with --admin"
    )]
    Unreachable {
        /// Where.
        address: Address,
        /// What the system says.
        error: String,
    },
    /// It could be reached, and what came is no answer, or none came.
    #[error("the admin server at {address} did not answer: {error}")]
    NoAnswer {
        /// Where.
        address: Address,
        /// What came instead.
        error: String,
    },
    /// The server says no.
    #[error("{}", [message.as_str(), hint].iter().filter(|part| !part.is_empty()).copied().collect::<Vec<_>>().join("\n  "))]
    Refused {
        /// The status of its answer.
        status: StatusCode,
        /// What it says.
        message: String,
        /// What it advises; may be empty.
        hint: String,
    },
}

impl Error {
    /// The exit code of a command that ends with it.
    pub(super) fn code(&self) -> u8 {
        match self {
            Self::Refused { .. } => 1,
            Self::Unreachable { .. } | Self::NoAnswer { .. } => 2,
        }
    }
}

impl AdminArgs {
    /// The address that is named, or that of the configuration, or the usual one.
    pub(super) fn address(&self) -> Result<Address, Failure> {
        self.find().map(|(address, _)| address)
    }

    /// The same, and the configuration's file with the token, if it is the configuration that says where.
    fn find(&self) -> Result<(Address, Option<PathBuf>), Failure> {
        if let Some(address) = &self.admin {
            return Ok((address.clone(), None));
        }
        let Some(path) = self.file.config.clone().or_else(config::find) else {
            return Ok((Address::usual(), None));
        };
        let none = || {
            let path = path.display();
            Failure::Invalid(format!(
                "{path} has no admin section to ask: write `admin: {{bind: 127.0.0.1:9900}}`, or name an address with --admin"
            ))
        };
        let admin = config::load(&path)?.admin.ok_or_else(none)?;
        let address = Address::from(admin.bind);
        if address.is_open() {
            let path = path.display();
            return Err(Failure::Invalid(format!(
                "{path} leaves the port of the admin server to the kernel: name the one that it chose with --admin"
            )));
        }
        Ok((address, admin.token_file))
    }
}

impl RemoteArgs {
    /// The instance.
    pub(super) fn remote(&self) -> Result<Remote, Failure> {
        let (address, configured) = self.at.find()?;
        let token = match (token(self.token_file.as_deref())?, configured) {
            // Who may not read that file can still look.
            (None, Some(file)) => token_in(&file).unwrap_or_default(),
            (token, _) => token,
        };
        Ok(Remote { token, ..Remote::new(address) })
    }
}

/// The token, which is never on the command line: everybody on the machine sees that.
fn token(file: Option<&Path>) -> Result<Option<String>, Failure> {
    let Some(path) = file else { return Ok(std::env::var(TOKEN).ok().filter(|token| !token.is_empty())) };
    let token = token_in(path).map_err(|error| {
        Failure::Invalid(format!("the token file {} cannot be read: {error}", path.display()))
    })?;
    let empty = || format!("the token file {} is empty: it holds nothing but the token", path.display());
    token.map(Some).ok_or_else(|| Failure::Invalid(empty()))
}

/// The token in a file, if there is one in it.
fn token_in(file: &Path) -> std::io::Result<Option<String>> {
    let text = std::fs::read_to_string(file)?;
    Ok(Some(text.trim().to_owned()).filter(|token| !token.is_empty()))
}

/// Runs a command that talks to an instance.
pub(super) fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime =
        runtime.map_err(|error| Failure::NotStarted(format!("the runtime cannot be started: {error}")))?;
    let result = runtime.block_on(work);
    // Nothing that hangs in the system's resolver, or waits for a key, holds up the end.
    runtime.shutdown_background();
    result
}

/// A running instance.
#[derive(Clone, Debug)]
pub(super) struct Remote {
    address: Address,
    token: Option<String>,
    connect: Duration,
    answer: Duration,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Remote {
    /// The one that has its admin server there.
    pub(super) fn new(address: Address) -> Self {
        Self { address, token: None, connect: CONNECT, answer: ANSWER }
    }

    /// The same with less patience.
    pub(super) fn within(self, limit: Duration) -> Self {
        Self { connect: limit, answer: limit, ..self }
    }

    /// Where its admin server is.
    pub(super) fn address(&self) -> &Address {
        &self.address
    }

    /// What is at that path, as it came.
    pub(super) async fn text(&self, path: &str) -> Result<String, Error> {
        self.send(Method::GET, path, None).await
    }

    /// What is at that path.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        self.read(&self.text(path).await?)
    }

    /// Makes a request; the answer as it came.
    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<String, Error> {
        let work = async {
            let response = self.ask(method, path, body, None).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), LONGEST).collect().await;
            let body = body.map_err(|error| self.no_answer(&error))?.to_bytes();
            let text = String::from_utf8_lossy(&body).into_owned();
            if status.is_success() { Ok(text) } else { Err(refused(status, &text)) }
        };
        match timeout(self.connect + self.answer, work).await {
            Ok(result) => result,
            Err(_) => {
                let limit = humantime::format_duration(self.connect + self.answer);
                Err(self.no_answer(&format!("nothing came within {limit}")))
            }
        }
    }

    /// Reads an answer.
    pub(super) fn read<T: DeserializeOwned>(&self, text: &str) -> Result<T, Error> {
        serde_json::from_str(text).map_err(|error| {
            self.no_answer(&format!(
                "what it says is not understood ({error}); is it a Pointsman of another version?"
            ))
        })
    }

    /// Follows the events at that path, from the one after `seen` on if it has a number. One that says nothing for the
    /// time `silence` is lost.
    pub(super) async fn follow(
        &self,
        path: &str,
        seen: Option<&str>,
        silence: Duration,
    ) -> Result<Events, Error> {
        let asked = timeout(self.connect + self.answer, self.ask(Method::GET, path, None, seen)).await;
        let response = asked.map_err(|_| self.no_answer(&"nothing came in time"))??;
        let status = response.status();
        if status.is_success() {
            return Ok(Events::new(self.clone(), response.into_body(), silence));
        }
        let body = Limited::new(response.into_body(), LONGEST).collect().await;
        let body = body.map_err(|error| self.no_answer(&error))?.to_bytes();
        Err(refused(status, &String::from_utf8_lossy(&body)))
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        seen: Option<&str>,
    ) -> Result<Response<Incoming>, Error> {
        let (stream, host) = match timeout(self.connect, self.open()).await {
            Ok(opened) => opened.map_err(|error| self.unreachable(&error))?,
            Err(_) => return Err(self.unreachable(&"no answer in time")),
        };
        let connected = http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = connected.map_err(|error| self.no_answer(&error))?;
        // It ends when the answer has been read, or is dropped.
        tokio::spawn(connection);
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, host)
            .header(header::USER_AGENT, concat!("pointsman/", env!("CARGO_PKG_VERSION")));
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        if let Some(seen) = seen {
            request = request.header("last-event-id", seen);
        }
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = request.body(Full::new(Bytes::from(body))).map_err(|error| self.no_answer(&error))?;
        sender.send_request(request).await.map_err(|error| self.no_answer(&error))
    }

    /// A connection, and what the server is called in the request: its address, as it lets nobody change anything who
    /// calls it by a name.
    async fn open(&self) -> std::io::Result<(Box<dyn Stream>, String)> {
        match &self.address {
            Address::Tcp(address) => {
                let stream = TcpStream::connect(address).await?;
                Ok((Box::new(stream), address.to_string()))
            }
            Address::Name(name) => {
                let stream = TcpStream::connect(name).await?;
                let host = stream.peer_addr()?.to_string();
                Ok((Box::new(stream), host))
            }
            Address::Unix(path) => Ok((Box::new(UnixStream::connect(path).await?), "localhost".to_owned())),
        }
    }

    fn unreachable(&self, error: &dyn ToString) -> Error {
        let text = error.to_string();
        // The system's number for it helps nobody here.
        let words = text.rsplit_once(" (os error ").map_or(&*text, |(words, _)| words);
        let mut letters = words.chars();
        let first = letters.next().map(|letter| letter.to_lowercase().to_string()).unwrap_or_default();
        Error::Unreachable { address: self.address.clone(), error: first + letters.as_str() }
    }

    fn no_answer(&self, error: &dyn ToString) -> Error {
        Error::NoAnswer { address: self.address.clone(), error: error.to_string() }
    }
}

/// What the server said in refusing; another server's words, if it is one, as they came.
fn refused(status: StatusCode, text: &str) -> Error {
    let json: Value = serde_json::from_str(text).unwrap_or_default();
    let part = |name: &str| json["error"][name].as_str().unwrap_or_default().to_owned();
    let message = match (part("message"), status) {
        (message, StatusCode::UNAUTHORIZED) if !message.is_empty() => {
            format!("{message} (--token-file, POINTSMAN_TOKEN_FILE or POINTSMAN_TOKEN)")
        }
        (message, _) if !message.is_empty() => message,
        _ => format!("the admin server answered {status}: {}", text.trim()),
    };
    Error::Refused { status, message, hint: part("hint") }
}

/// A part of a path, with all encoded that would be read as something else (RFC 3986, 2.3).
pub(super) fn encode(part: &str) -> String {
    let mut encoded = String::with_capacity(part.len());
    for byte in part.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(byte.into()),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_a_path_are_encoded() {
        assert_eq!(encode("a b/ü?#%"), "a%20b%2F%C3%BC%3F%23%25");
        assert_eq!(encode("[::1]:80"), "%5B%3A%3A1%5D%3A80");
        assert_eq!(encode("web-1.x_y~z"), "web-1.x_y~z");
    }

    #[test]
    fn a_refusal_passes_on_what_the_server_says() {
        let body = r#"{"error": {"code": "x", "message": "no backend \"c\"", "hint": "see /api/v1/status"}}"#;
        let error = refused(StatusCode::NOT_FOUND, body);
        assert_eq!(error.to_string(), "no backend \"c\"\n  see /api/v1/status");
        assert_eq!(error.code(), 1);
        let error = refused(StatusCode::BAD_GATEWAY, "<html>oh</html>\n");
        assert_eq!(error.to_string(), "the admin server answered 502 Bad Gateway: <html>oh</html>");
        let body = r#"{"error": {"message": "a token is needed"}}"#;
        assert!(refused(StatusCode::UNAUTHORIZED, body).to_string().contains("--token-file"));
    }
}
