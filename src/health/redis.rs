//! The Redis check: the server executes commands and has the configured role. For any server with its protocol (RESP 2,
//! <https://redis.io/docs/latest/develop/reference/protocol-spec/>).
//!
//! The server refuses `PING` while it loads its data (`-LOADING`), and as a replica without a master that is configured not
//! to serve stale data (`-MASTERDOWN`, `replica-serve-stale-data no`). `ROLE` gives the role; a replica without a master is
//! still a replica if it serves.

use std::fmt::Write as _;

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncWriteExt, BufReader};

use super::connection::connect;
use super::files::password;
use super::response::quoted;
use super::{CheckError, CheckTarget};
use crate::config::{RedisCheck, Role};
use crate::domain::{CheckFailure, CheckStep};
use crate::sanitize::without_secret;

/// The errors of `AUTH` that are shown. The rest of its reply is not shown: a server that does not support the command
/// repeats its arguments, shortened or escaped in its own way, and so parts of the password.
const REFUSALS: [&str; 8] =
    ["WRONGPASS", "NOPERM", "NOAUTH", "LOADING", "BUSY", "MASTERDOWN", "DENIED", "ERR"];

/// The limit of bytes read: the first replies fit; the rest of the reply to `ROLE` is not needed.
const LONGEST: u64 = 4096;

pub(super) async fn check(target: &CheckTarget, wanted: &RedisCheck) -> Result<(), CheckError> {
    let password = password(wanted.password_file.as_deref()).await?;
    let mut stream = connect(target, LONGEST).await?;
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
    let failed =
        |what: String| CheckError::from(CheckFailure::at(CheckStep::Redis, target.address.clone(), what));
    let sent = stream.write_all(commands.as_bytes()).await;
    let secret = password.as_deref();
    let role = role(BufReader::new(stream), authenticates, secret).await;
    // After a write error the server may have sent the reason.
    let role = role.map_err(|what| match sent {
        Ok(()) => failed(what),
        Err(error) => failed(format!("{what} ({error})")),
    })?;
    check_role(&role, wanted.role, secret).map_err(failed)
}

fn check_role(role: &str, wanted: Role, secret: Option<&str>) -> Result<(), String> {
    match (wanted, role) {
        (Role::Any, _) | (Role::Primary, "master") | (Role::Replica, "slave" | "replica") => Ok(()),
        (_, "sentinel") => Err("it is a sentinel, which keeps no data".to_owned()),
        (Role::Primary, "slave" | "replica") => Err("it is a replica, not the master".to_owned()),
        (Role::Replica, "master") => Err("it is the master, not a replica".to_owned()),
        (_, other) => {
            Err(format!("its role is {}, which is unknown", quoted(without_secret(secret, other).as_bytes())))
        }
    }
}

/// Appends a command: an array of bulk strings.
fn command(to: &mut String, words: &[&str]) {
    let _ = write!(to, "*{}\r\n", words.len());
    for word in words {
        let _ = write!(to, "${}\r\n{word}\r\n", word.len());
    }
}

/// Reads the replies up to the role, the first item of the reply to `ROLE` (an array of bulk strings). Hides `secret` in
/// errors.
async fn role(
    mut answers: impl AsyncBufRead + Unpin,
    authenticates: bool,
    secret: Option<&str>,
) -> Result<String, String> {
    if authenticates {
        is_authenticated(&line(&mut answers).await?)?;
    }
    for (what, begins) in [("PING", '+'), ("ROLE", '*'), ("ROLE", '$')] {
        let answer = text(&line(&mut answers).await?, secret)?;
        if !answer.starts_with(begins) {
            return Err(unexpected(what, &without_secret(secret, &answer)));
        }
    }
    text(&line(&mut answers).await?, secret)
}

/// Checks the reply to `AUTH`.
fn is_authenticated(answer: &[u8]) -> Result<(), String> {
    match answer.strip_suffix(b"\r\n") {
        Some([b'+', ..]) => Ok(()),
        Some([b'-', error @ ..]) => {
            let code = error.split(|byte| *byte == b' ').next().unwrap_or_default();
            let code = REFUSALS.into_iter().find(|known| known.as_bytes() == code);
            let code = code.unwrap_or("an unknown error");
            Err(format!("AUTH is refused: {code}; check the user and password_file of this health check"))
        }
        _ => Err("the reply to AUTH is not in the Redis protocol".to_owned()),
    }
}

/// Reads a line, including its end if there is one.
async fn line(answers: &mut (impl AsyncBufRead + Unpin)) -> Result<Vec<u8>, String> {
    let mut line = Vec::new();
    answers.read_until(b'\n', &mut line).await.map_err(|error| error.to_string())?;
    if line.is_empty() { Err("it closed the connection without a reply".to_owned()) } else { Ok(line) }
}

/// The text of a line. Hides `secret` in errors.
fn text(line: &[u8], secret: Option<&str>) -> Result<String, String> {
    let text = |line| String::from_utf8_lossy(line).into_owned();
    let whole = line.strip_suffix(b"\r\n");
    whole.map(text).ok_or_else(|| {
        format!("not the Redis protocol: {}", quoted(without_secret(secret, &text(line)).as_bytes()))
    })
}

/// An error reply, which begins with a minus, or another unexpected reply.
fn unexpected(what: &str, answer: &str) -> String {
    match answer.strip_prefix('-') {
        Some(error) => format!("{what} is refused: {}", quoted(error.as_bytes())),
        None => format!("{what} is answered with {}", quoted(answer.as_bytes())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(answers: &[u8], authenticates: bool) -> Result<String, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(role(answers, authenticates, Some("secret")))
    }

    #[test]
    fn a_password_with_any_characters_is_one_argument() {
        let mut commands = String::new();
        command(&mut commands, &["AUTH", "a b\r\nPING é"]);
        assert_eq!(commands, "*2\r\n$4\r\nAUTH\r\n$12\r\na b\r\nPING é\r\n");
    }

    #[test]
    fn the_role_is_the_first_item_of_the_reply() {
        let master = b"+PONG\r\n*3\r\n$6\r\nmaster\r\n:3129659\r\n*0\r\n";
        assert_eq!(read(master, false).as_deref(), Ok("master"));
        let replica =
            b"+OK\r\n+PONG\r\n*5\r\n$5\r\nslave\r\n$9\r\n127.0.0.1\r\n:6379\r\n$9\r\nconnected\r\n:1\r\n";
        assert_eq!(read(replica, true).as_deref(), Ok("slave"));
    }

    #[test]
    fn refusals_quote_the_server() {
        for (answers, authenticates, message) in [
            (
                &b"-WRONGPASS invalid username-password pair\r\n-NOAUTH x\r\n"[..],
                true,
                "AUTH is refused: WRONGPASS; check the user and password_file of this health check",
            ),
            (
                b"-ERR unknown command 'AUTH', with args beginning with: 'secret' \r\n",
                true,
                "AUTH is refused: ERR; check the user and password_file of this health check",
            ),
            (
                b"-secret is not my password\r\n",
                true,
                "AUTH is refused: an unknown error; check the user and password_file of this health check",
            ),
            (b"-ERR args beginning with: 'secr", true, "the reply to AUTH is not in the Redis protocol"),
            (b"+OK\r\n-ERR you said secret\r\n", true, "PING is refused: \"ERR you said ***\""),
            (b"+OK\r\nsecret", true, "not the Redis protocol: \"***\""),
            (
                b"-NOAUTH Authentication required.\r\n",
                false,
                "PING is refused: \"NOAUTH Authentication required.\"",
            ),
            (b"-LOADING Redis is loading\r\n*3\r\n", false, "PING is refused: \"LOADING Redis is loading\""),
            (b"+PONG\r\n-NOPERM no\r\n", false, "ROLE is refused: \"NOPERM no\""),
            (b"+PONG\r\n*0\r\n", false, "it closed the connection without a reply"),
            (b"", false, "it closed the connection without a reply"),
            (b"HTTP/1.1 400 Bad Request\r\n", false, "PING is answered with \"HTTP/1.1 400 Bad Request\""),
            (b"220 mail", false, "not the Redis protocol: \"220 mail\""),
        ] {
            assert_eq!(read(answers, authenticates).unwrap_err(), message);
        }
    }

    #[test]
    fn an_unwanted_role_is_named() {
        assert_eq!(check_role("master", Role::Primary, Some("master")), Ok(()));
        assert_eq!(check_role("slave", Role::Replica, None), Ok(()));
        assert_eq!(check_role("sentinel", Role::Any, None), Ok(()));
        for (role, wanted, message) in [
            ("slave", Role::Primary, "it is a replica, not the master"),
            ("master", Role::Replica, "it is the master, not a replica"),
            ("sentinel", Role::Replica, "it is a sentinel, which keeps no data"),
            ("new\n", Role::Primary, "its role is \"new\\n\", which is unknown"),
            ("secret", Role::Primary, "its role is \"***\", which is unknown"),
        ] {
            assert_eq!(check_role(role, wanted, Some("secret")), Err(message.to_owned()));
        }
    }

    const PIECES: [&str; 8] =
        ["+OK\r\n", "+PONG\r\n", "*3\r\n", "$6\r\n", "master\r\n", "-ERR no\r\n", "+", "\r\n"];

    proptest! {
        #[test]
        fn only_a_complete_reply_gives_a_role(
            answers in prop::collection::vec(prop::sample::select(&PIECES[..]), 0..7), authenticates: bool,
        ) {
            let answers = answers.concat();
            let lines: Vec<_> = answers.split_inclusive('\n').collect();
            let begins: &[&str] = if authenticates { &["+", "+", "*", "$", ""] } else { &["+", "*", "$", ""] };
            let is_role = lines.len() >= begins.len()
                && lines.iter().zip(begins).all(|(line, begin)| line.starts_with(begin) && line.ends_with("\r\n"));
            prop_assert_eq!(read(answers.as_bytes(), authenticates).is_ok(), is_role);
        }
    }
}
