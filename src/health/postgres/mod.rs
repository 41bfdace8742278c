//! The PostgreSQL check: login works, and the server reports the role that the check requires (`pg_is_in_recovery()`,
//! <https://www.postgresql.org/docs/current/functions-admin.html#FUNCTIONS-RECOVERY-INFO-TABLE>).
//!
//! It implements the few messages itself: a client library trusts the length that a server announces and collects all
//! rows, so that a broken server could fill the memory. `session.rs` has the state machine, `wire.rs` the encoding;
//! both are pure.

mod session;
mod wire;

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use self::session::{LoginStep, Session};
use self::wire::Message;
use super::connection::{CheckStream, PlainStream, open, secure};
use super::files::password;
use super::response::quoted;
use super::{CheckError, CheckTarget};
use crate::config::{PostgresCheck, Role};
use crate::domain::{CheckFailure, CheckStep};
use crate::protocol::postgres::{ACCEPTED, NOT_OFFERED, SSL_REQUEST};
use crate::sanitize::without_secret;

/// Bytes read from a server: about a hundred times the size of a login and the query, and room for two messages of the
/// maximum length.
const MOST: u64 = 64 * 1024;

pub(super) async fn check(target: &CheckTarget, wanted: &PostgresCheck) -> Result<(), CheckError> {
    let password = password(wanted.password_file.as_deref()).await?;
    let failed = |what: String| {
        let what = without_secret(password.as_deref(), &what);
        CheckError::from(CheckFailure::at(CheckStep::Postgres, target.address.clone(), what))
    };
    let mut stream = open(target).await?;
    if target.tls.is_some() {
        request_tls(&mut stream).await.map_err(failed)?;
    }
    let mut stream = secure(stream, target, MOST).await?;
    let role = role(&mut stream, wanted, password.as_deref()).await.map_err(failed)?;
    match wanted.role {
        Role::Any => Ok(()),
        wanted if wanted == role => Ok(()),
        Role::Primary => Err(failed("it is a standby, not the primary".to_owned())),
        Role::Replica => Err(failed("it is the primary, not a standby".to_owned())),
    }
}

/// Asks the server for TLS ("SSL Session Encryption" in PostgreSQL's documentation of its protocol). Reads one byte: what
/// an attacker may have put behind it must not be taken for the server's (CVE-2021-23222).
async fn request_tls(stream: &mut PlainStream) -> Result<(), String> {
    let answer = async {
        stream.write_all(&SSL_REQUEST).await?;
        stream.read_u8().await
    };
    match answer.await {
        Ok(ACCEPTED) => Ok(()),
        Ok(NOT_OFFERED) => Err("it offers no TLS (`ssl = off` in postgresql.conf)".to_owned()),
        Ok(other) => Err(format!("it answered the request for TLS with {}", quoted(&[other]))),
        Err(error) => Err(format!("requesting TLS: {error}")),
    }
}

/// Logs in, queries the role, and sends Terminate, so that the server logs no broken connection.
async fn role(
    stream: &mut CheckStream,
    wanted: &PostgresCheck,
    password: Option<&str>,
) -> Result<Role, String> {
    let mut session = Session::new(wanted, password);
    let mut sent = stream.write_all(&session.startup(&wanted.database)).await;
    let mut received = Vec::new();
    loop {
        // After a write error the server may have sent the reason.
        let message = read(stream, &mut received).await.map_err(|error| match &sent {
            Err(error) => format!("writing failed: {error}"),
            Ok(()) => error,
        })?;
        let next;
        (session, next) = take_in(session, message).await?;
        match next? {
            LoginStep::Read => {}
            LoginStep::Send(message) => sent = stream.write_all(&message).await,
            LoginStep::Done(role, terminate) => {
                // The role is known, even if the server does not receive the Terminate.
                let _ = stream.write_all(&terminate).await;
                return Ok(role);
            }
        }
    }
}

/// Reads a message.
async fn read(stream: &mut CheckStream, received: &mut Vec<u8>) -> Result<Message, String> {
    let mut chunk = [0; 4096];
    loop {
        if let Some(message) = wire::take(received)? {
            return Ok(message);
        }
        match stream.read(&mut chunk).await {
            Ok(0) => return Err("it closed the connection before the check ended".to_owned()),
            Ok(n) => received.extend_from_slice(&chunk[..n]),
            Err(error) => return Err(read_error(&error)),
        }
    }
}

fn read_error(error: &io::Error) -> String {
    format!("reading the response: {error}")
}

/// Handles a message, in a separate thread if that takes long: the runtime has other checks to run.
async fn take_in(
    mut session: Session,
    message: Message,
) -> Result<(Session, Result<LoginStep, String>), String> {
    if !session.is_slow() {
        let next = session.on(&message);
        return Ok((session, next));
    }
    let slow = move || {
        let next = session.on(&message);
        (session, next)
    };
    tokio::task::spawn_blocking(slow).await.map_err(|error| format!("SCRAM fails: {error}"))
}
