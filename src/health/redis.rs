//! The Redis check: the server serves commands, and has the role wanted. For Redis and what speaks its protocol
//! (RESP 2, <https://redis.io/docs/latest/develop/reference/protocol-spec/>).
//!
//! `PING` tells whether it serves: it is refused while the data is loaded (`-LOADING`) and by a replica that lost
//! its master and was told not to serve stale data (`-MASTERDOWN`, `replica-serve-stale-data no`). `ROLE` tells what
//! it is; a replica without its master is still a replica, if it serves.

use std::fmt::Write as _;
use std::net::SocketAddr;

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

use super::answer::shown;
use super::{CheckError, password, tcp};
use crate::config::{RedisCheck, Role};

/// The answers that are read all fit in this, in bytes: the rest of what `ROLE` tells is not looked at.
const LONGEST: u64 = 4096;

pub(super) async fn check(address: SocketAddr, wanted: &RedisCheck) -> Result<(), CheckError> {
    let password = password(wanted.password_file.as_deref()).await?;
    let mut stream = tcp::connect(address).await?;
    let mut commands = String::new();
    match (&wanted.user, &password) {
        (Some(user), password) => {
            command(&mut commands, &["AUTH", user, password.as_deref().unwrap_or_default()]);
        }
        (None, Some(password)) => command(&mut commands, &["AUTH", password]),
        (None, None) => {}
    }
    let authenticates = !commands.is_empty();
    command(&mut commands, &["PING"]);
    command(&mut commands, &["ROLE"]);
    let failed = |what: String| CheckError::Failed(format!("redis on {address}: {what}"));
    let sent = stream.write_all(commands.as_bytes()).await;
    let mut answers = BufReader::new(stream.take(LONGEST));
    if authenticates {
        simple(&mut answers, "AUTH").await.map_err(failed)?;
    }
    simple(&mut answers, "PING").await.map_err(failed)?;
    let role = role(&mut answers).await.map_err(failed)?;
    sent.map_err(|error| failed(error.to_string()))?;
    match (wanted.role, &role[..]) {
        (Role::Any, _) | (Role::Primary, "master") | (Role::Replica, "slave" | "replica") => Ok(()),
        (_, "sentinel") => Err(failed("it is a sentinel, which keeps no data".to_owned())),
        (Role::Primary, "slave") => Err(failed("it is a replica, not the master".to_owned())),
        (Role::Primary, other) => Err(failed(format!("it is a {other}, not the master"))),
        (Role::Replica, other) => Err(failed(format!("it is the {other}, not a replica"))),
    }
}

/// Appends a command: an array of bulk strings.
fn command(to: &mut String, words: &[&str]) {
    let _ = write!(to, "*{}\r\n", words.len());
    for word in words {
        let _ = write!(to, "${}\r\n{word}\r\n", word.len());
    }
}

/// Reads a simple answer to `what`, such as +OK.
async fn simple(answers: &mut (impl AsyncBufRead + Unpin), what: &str) -> Result<(), String> {
    match line(answers).await? {
        answer if answer.starts_with('+') => Ok(()),
        answer => Err(unexpected(what, &answer)),
    }
}

/// Reads the beginning of the answer to `ROLE`: an array whose first item, a bulk string, is the role.
async fn role(answers: &mut (impl AsyncBufRead + Unpin)) -> Result<String, String> {
    for begins in ['*', '$'] {
        let answer = line(answers).await?;
        if !answer.starts_with(begins) {
            return Err(unexpected("ROLE", &answer));
        }
    }
    line(answers).await
}

async fn line(answers: &mut (impl AsyncBufRead + Unpin)) -> Result<String, String> {
    let mut line = Vec::new();
    answers.read_until(b'\n', &mut line).await.map_err(|error| error.to_string())?;
    match line.strip_suffix(b"\r\n") {
        Some(line) => Ok(String::from_utf8_lossy(line).into_owned()),
        None if line.is_empty() => Err("it closed the connection without an answer".to_owned()),
        None => Err(format!("not the Redis protocol: {}", shown(&line))),
    }
}

/// The server's own words for an error, which begins with a minus.
fn unexpected(what: &str, answer: &str) -> String {
    match answer.strip_prefix('-') {
        Some(error) => format!("{what} is refused: {}", shown(error.as_bytes())),
        None => format!("{what} is answered with {}", shown(answer.as_bytes())),
    }
}
