//! The login to a PostgreSQL server and the query for its role, as a state machine. Pure: server messages in, client
//! messages out (<https://www.postgresql.org/docs/current/protocol-flow.html>).

use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};

use super::wire::{self, Message};
use crate::config::{AuthMethod, PostgresCheck, Role};
use crate::domain::cause::bounded;
use crate::sanitize::without_secret;

/// The length of a quoted server error, in characters: the advice after it must not be cut off.
const SHOWN: usize = 200;

/// The query. Its result is one row with one column, `t` or `f`.
const QUERY: &[u8] = b"SELECT pg_is_in_recovery()\0";

/// The codes of authentication requests (message type `R`).
mod request {
    pub(super) const OK: u32 = 0;
    pub(super) const PASSWORD: u32 = 3;
    pub(super) const MD5: u32 = 5;
    pub(super) const SASL: u32 = 10;
    pub(super) const SASL_CONTINUE: u32 = 11;
    pub(super) const SASL_FINAL: u32 = 12;
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum LoginStep {
    /// Read another message.
    Read,
    /// Send these bytes, and then read another message.
    Send(Vec<u8>),
    /// The server has reported its role. Send these bytes, and close the connection.
    Done(Role, Vec<u8>),
}

/// A login and a query.
pub(super) struct Session {
    user: String,
    password: Option<String>,
    /// The authentication methods that the check allows.
    allowed: Vec<AuthMethod>,
    state: LoginState,
}

enum LoginState {
    /// Waits for the authentication request.
    Started,
    /// SCRAM: waits for the salt.
    Salt(Box<ScramSha256>),
    /// SCRAM: waits for the proof that the server knows the password.
    Proof(Box<ScramSha256>),
    /// Waits for the result of the authentication.
    CredentialsSent,
    /// Waits until the server is ready for queries.
    Authenticated,
    /// The query is sent; the first row of its result, if received.
    Query(Option<Role>),
    /// Finished or failed.
    Closed,
}

impl Session {
    /// Logs in as configured; with `password`, only by the allowed methods.
    pub(super) fn new(check: &PostgresCheck, password: Option<&str>) -> Self {
        let (user, allowed) = (check.user.clone(), check.require_auth.clone());
        Self { user, password: password.map(str::to_owned), allowed, state: LoginState::Started }
    }

    /// The first message.
    pub(super) fn startup(&self, database: &str) -> Vec<u8> {
        wire::startup(&[
            ("client_encoding", "UTF8"),
            ("user", &self.user),
            ("database", database),
            ("application_name", "pointsman"),
        ])
    }

    /// Whether handling a message takes long: SCRAM slows down guessing by a number of HMAC rounds that the server
    /// chooses (up to 100,000, a tenth of a second).
    pub(super) fn is_slow(&self) -> bool {
        matches!(self.state, LoginState::Salt(_))
    }

    /// Handles a server message. An error ends the session.
    pub(super) fn on(&mut self, message: &Message) -> Result<LoginStep, String> {
        match (message.tag, std::mem::replace(&mut self.state, LoginState::Closed)) {
            (b'E', _) => Err(explain(&message.body, self.password.as_deref())),
            // Notices, parameters and notifications may come at any time.
            (b'N' | b'S' | b'A', state) => self.go(state, LoginStep::Read),
            (b'R', state) => self.authentication(state, &message.body),
            (b'K', LoginState::Authenticated) => self.go(LoginState::Authenticated, LoginStep::Read),
            (b'Z', LoginState::Authenticated) => {
                self.go(LoginState::Query(None), LoginStep::Send(wire::message(b'Q', &[QUERY])))
            }
            (b'T' | b'C', state @ LoginState::Query(_)) => self.go(state, LoginStep::Read),
            (b'D', LoginState::Query(None)) => match wire::first_column(&message.body) {
                Some(b"t") => self.go(LoginState::Query(Some(Role::Replica)), LoginStep::Read),
                Some(b"f") => self.go(LoginState::Query(Some(Role::Primary)), LoginStep::Read),
                _ => Err("pg_is_in_recovery() returned neither t nor f".to_owned()),
            },
            (b'D', LoginState::Query(Some(_))) => {
                Err("pg_is_in_recovery() returned more than one row".to_owned())
            }
            (b'Z', LoginState::Query(Some(role))) => Ok(LoginStep::Done(role, wire::message(b'X', &[]))),
            (b'Z', LoginState::Query(None)) => Err("pg_is_in_recovery() returned no row".to_owned()),
            (tag, _) => {
                let tag = char::from(tag);
                Err(format!("it sent a message {tag:?} that is not expected here; is it PostgreSQL?"))
            }
        }
    }

    fn go(&mut self, state: LoginState, next: LoginStep) -> Result<LoginStep, String> {
        self.state = state;
        Ok(next)
    }

    fn authentication(&mut self, state: LoginState, body: &[u8]) -> Result<LoginStep, String> {
        let Some((number, data)) = body.split_first_chunk::<4>() else {
            return Err("its request for authentication cannot be read".to_owned());
        };
        match (u32::from_be_bytes(*number), state) {
            (request::OK, LoginState::CredentialsSent) => self.go(LoginState::Authenticated, LoginStep::Read),
            (request::OK, LoginState::Started) => {
                if self.password.is_some() && !self.allowed.contains(&AuthMethod::None) {
                    return Err(format!(
                        "it requires no password, so it may be any server; let its pg_hba.conf require \
                         scram-sha-256, or {}",
                        allow(AuthMethod::None)
                    ));
                }
                self.go(LoginState::Authenticated, LoginStep::Read)
            }
            (request::OK, LoginState::Proof(_)) => {
                Err("it did not prove that it knows the password: it ends SCRAM without its signature"
                    .to_owned())
            }
            (request::PASSWORD, LoginState::Started) => {
                let password = self.password(AuthMethod::Password, "the password in clear")?;
                let message = wire::message(b'p', &[password.as_bytes(), b"\0"]);
                self.go(LoginState::CredentialsSent, LoginStep::Send(message))
            }
            (request::MD5, LoginState::Started) => {
                let password = self.password(AuthMethod::Md5, "an MD5 hash of the password")?;
                let salt = data.try_into().map_err(|_| "its salt for MD5 is not 4 bytes long".to_owned())?;
                let hash = md5_hash(self.user.as_bytes(), password.as_bytes(), salt);
                self.go(
                    LoginState::CredentialsSent,
                    LoginStep::Send(wire::message(b'p', &[hash.as_bytes(), b"\0"])),
                )
            }
            (request::SASL, LoginState::Started) => {
                let password = self.password(AuthMethod::ScramSha256, "SCRAM")?;
                if !mechanisms(data).any(|name| name == SCRAM_SHA_256.as_bytes()) {
                    return Err(format!("it offers SASL without {SCRAM_SHA_256}"));
                }
                let scram = ScramSha256::new(password.as_bytes(), ChannelBinding::unsupported());
                let first = scram.message();
                let length = u32::try_from(first.len()).unwrap_or(u32::MAX).to_be_bytes();
                let parts = [SCRAM_SHA_256.as_bytes(), b"\0", &length[..], first];
                let message = wire::message(b'p', &parts);
                self.go(LoginState::Salt(Box::new(scram)), LoginStep::Send(message))
            }
            (request::SASL_CONTINUE, LoginState::Salt(mut scram)) => {
                scram.update(data).map_err(|error| format!("SCRAM fails: {error}"))?;
                let message = wire::message(b'p', &[scram.message()]);
                self.go(LoginState::Proof(scram), LoginStep::Send(message))
            }
            (request::SASL_FINAL, LoginState::Proof(mut scram)) => {
                let unproved = |error| format!("it did not prove that it knows the password: {error}");
                scram.finish(data).map_err(unproved)?;
                self.go(LoginState::CredentialsSent, LoginStep::Read)
            }
            (known @ (request::PASSWORD | request::MD5 | request::SASL..=request::SASL_FINAL), _) => {
                Err(format!("its request {known} for authentication is not expected here"))
            }
            (number, _) => Err(format!(
                "it requires an authentication method that is not supported (number {number}); let its pg_hba.conf \
                 ask for scram-sha-256"
            )),
        }
    }

    /// The password, for a server that requests it by this method.
    fn password(&self, method: AuthMethod, what: &str) -> Result<&str, String> {
        let Some(password) = self.password.as_deref() else {
            return Err("it requires a password, and the check has no password_file".to_owned());
        };
        if self.allowed.contains(&method) {
            return Ok(password);
        }
        let instead = match method {
            AuthMethod::ScramSha256 => "".to_owned(),
            _ => "let its pg_hba.conf ask for scram-sha-256, or ".to_owned(),
        };
        Err(format!("it requires {what}, which was not sent: {instead}{}", allow(method)))
    }
}

/// How to allow a method.
fn allow(method: AuthMethod) -> String {
    format!("add {} to the check's require_auth", method.name())
}

/// The SASL mechanisms that a server offers.
fn mechanisms(data: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = data;
    std::iter::from_fn(move || {
        let (name, after) = wire::text(rest)?;
        rest = after;
        (!name.is_empty()).then_some(name)
    })
}

/// The text of a server error, without the password, with advice.
fn explain(body: &[u8], password: Option<&str>) -> String {
    let field = |letter| {
        let value = wire::fields(body).find(|(one, _)| *one == letter).map_or(&b""[..], |(_, value)| value);
        String::from_utf8_lossy(value).into_owned()
    };
    // https://www.postgresql.org/docs/current/errcodes-appendix.html
    let hint = match &*field(b'C') {
        "28P01" | "28000" => {
            "; check the user and password_file of this health check, and the server's pg_hba.conf"
        }
        "53300" => "; raise its max_connections, or reserve a connection for the check's user",
        _ => "",
    };
    let (severity, message) = (field(b'S'), field(b'M'));
    if message.is_empty() {
        return "it sent an error without a message; is it PostgreSQL?".to_owned();
    }
    let shown = |text: &str| {
        // The password is removed before the text is cut: neither a part of it nor the whole may remain.
        let text = bounded(&without_secret(password, text), wire::LONGEST);
        bounded(&without_secret(password, &text), SHOWN)
    };
    format!("{}: {}{hint}", shown(&severity), shown(&message))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn session(password: Option<&str>, allowed: &[AuthMethod]) -> Session {
        let require_auth = allowed.to_vec();
        Session::new(&PostgresCheck { require_auth, ..PostgresCheck::new(Role::Any) }, password)
    }

    fn message_of(tag: u8, body: &[u8]) -> Message {
        Message { tag, body: body.to_vec() }
    }

    fn auth_request(number: u32, data: &[u8]) -> Message {
        message_of(b'R', &[&number.to_be_bytes()[..], data].concat())
    }

    /// The result of the last of these messages.
    fn after(mut session: Session, messages: &[Message]) -> Result<LoginStep, String> {
        let mut last = Ok(LoginStep::Read);
        for message in messages {
            last = session.on(message);
            if last.is_err() {
                break;
            }
        }
        last
    }

    const ONLY_SCRAM: [AuthMethod; 1] = [AuthMethod::ScramSha256];

    #[test]
    fn a_server_that_requests_a_method_that_is_not_allowed_receives_nothing() {
        for (request, expected, key) in [
            (
                auth_request(request::PASSWORD, b""),
                "requires the password in clear, which was not sent",
                "add password",
            ),
            (
                auth_request(request::MD5, b"salt"),
                "requires an MD5 hash of the password, which was not sent",
                "add md5",
            ),
            (auth_request(request::OK, b""), "requires no password", "add none"),
        ] {
            let error =
                after(session(Some("s3cret"), &ONLY_SCRAM), std::slice::from_ref(&request)).unwrap_err();
            assert!(
                error.contains(expected) && error.contains(&format!("{key} to the check's require_auth")),
                "{error}"
            );
        }
        let error = after(
            session(Some("s3cret"), &[AuthMethod::Md5]),
            &[auth_request(request::SASL, b"SCRAM-SHA-256\0\0")],
        );
        assert!(error.unwrap_err().ends_with("add scram-sha-256 to the check's require_auth"));
    }

    #[test]
    fn an_allowed_method_is_used() {
        let sent =
            after(session(Some("s3cret"), &[AuthMethod::Password]), &[auth_request(request::PASSWORD, b"")]);
        assert_eq!(sent, Ok(LoginStep::Send(b"p\0\0\0\x0bs3cret\0".to_vec())));
        // https://www.postgresql.org/docs/current/protocol-flow.html, AuthenticationMD5Password
        let sent = after(session(Some("s3cret"), &[AuthMethod::Md5]), &[auth_request(request::MD5, b"salt")]);
        let hash = md5_hash(b"postgres", b"s3cret", *b"salt");
        assert_eq!(sent, Ok(LoginStep::Send([b"p\0\0\0\x28", hash.as_bytes(), b"\0"].concat())));
        let error = after(session(Some("s3cret"), &[AuthMethod::Md5]), &[auth_request(request::MD5, b"sal")]);
        assert!(error.unwrap_err().contains("4 bytes"));
        for allowed in [&[AuthMethod::None][..], &[AuthMethod::ScramSha256, AuthMethod::None]] {
            assert_eq!(
                after(session(Some("s3cret"), allowed), &[auth_request(request::OK, b"")]),
                Ok(LoginStep::Read)
            );
        }
        // Without a configured password no proof is needed.
        assert_eq!(after(session(None, &ONLY_SCRAM), &[auth_request(request::OK, b"")]), Ok(LoginStep::Read));
        for method in
            [auth_request(request::PASSWORD, b""), auth_request(request::SASL, b"SCRAM-SHA-256\0\0")]
        {
            let error = after(session(None, &ONLY_SCRAM), &[method]).unwrap_err();
            assert_eq!(error, "it requires a password, and the check has no password_file");
        }
    }

    #[test]
    fn a_server_that_does_not_finish_scram_has_proved_nothing() {
        let begins = auth_request(request::SASL, b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0");
        let mut login = session(Some("s3cret"), &ONLY_SCRAM);
        assert!(!login.is_slow());
        let Ok(LoginStep::Send(first)) = login.on(&begins) else { panic!("SCRAM begins") };
        assert!(login.is_slow());
        let nonce = String::from_utf8_lossy(&first).split("r=").nth(1).unwrap().to_owned();
        let salt = format!("r={nonce}more,s=c2FsdA==,i=16");
        let Ok(LoginStep::Send(proof)) = login.on(&auth_request(request::SASL_CONTINUE, salt.as_bytes()))
        else {
            panic!("SCRAM goes on")
        };
        assert!(!proof.windows(6).any(|part| part == b"s3cret"));
        // The server cannot sign: it skips the signature, or sends a random one.
        let error = login.on(&auth_request(request::OK, b"")).unwrap_err();
        assert!(error.contains("did not prove that it knows the password"), "{error}");
        for early in [
            auth_request(request::OK, b""),
            auth_request(request::SASL_FINAL, b"v=AAAA"),
            auth_request(request::PASSWORD, b""),
        ] {
            let all = [begins.clone(), early];
            assert!(after(session(Some("s3cret"), &ONLY_SCRAM), &all).is_err());
        }
        let too_slow =
            auth_request(request::SASL_CONTINUE, format!("r={nonce}more,s=c2FsdA==,i=2000000000").as_bytes());
        assert!(after(session(Some("s3cret"), &ONLY_SCRAM), &[begins, too_slow]).is_err());
        let other =
            after(session(Some("s3cret"), &ONLY_SCRAM), &[auth_request(request::SASL, b"OAUTHBEARER\0\0")]);
        assert!(other.unwrap_err().contains("without SCRAM-SHA-256"));
        let kerberos = after(session(Some("s3cret"), &ONLY_SCRAM), &[auth_request(2, b"")]);
        assert!(kerberos.unwrap_err().contains("number 2"));
    }

    /// A session up to the query.
    fn logged_in() -> Vec<Message> {
        vec![
            message_of(b'N', b"SNOTICE\0\0"),
            auth_request(request::OK, b""),
            message_of(b'S', b"server_version\x0015\0"),
            message_of(b'K', b"12345678"),
            message_of(b'Z', b"I"),
        ]
    }

    const TRUE: &[u8] = b"\0\x01\0\0\0\x01t";
    const FALSE: &[u8] = b"\0\x01\0\0\0\x01f";

    #[test]
    fn the_result_of_the_query_is_the_role() {
        let open = || session(None, &ONLY_SCRAM);
        assert_eq!(
            after(open(), &logged_in()),
            Ok(LoginStep::Send(b"Q\0\0\0\x1fSELECT pg_is_in_recovery()\0".to_vec()))
        );
        let answered = |rows: &[&[u8]]| {
            let rows = rows.iter().map(|row| message_of(b'D', row));
            let answer = [message_of(b'T', b"")].into_iter().chain(rows);
            let all: Vec<_> = logged_in()
                .into_iter()
                .chain(answer)
                .chain([message_of(b'C', b""), message_of(b'Z', b"I")])
                .collect();
            after(open(), &all)
        };
        assert_eq!(answered(&[TRUE]), Ok(LoginStep::Done(Role::Replica, b"X\0\0\0\x04".to_vec())));
        assert_eq!(answered(&[FALSE]), Ok(LoginStep::Done(Role::Primary, b"X\0\0\0\x04".to_vec())));
        for (rows, expected) in [
            (&[][..], "returned no row"),
            (&[TRUE, TRUE], "returned more than one row"),
            (&[&b"\0\x01\0\0\0\x04true"[..]], "returned neither t nor f"),
            (&[&b"\0\0"[..]], "returned neither t nor f"),
        ] {
            let error = answered(rows).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn errors_quote_the_server_and_end_with_advice() {
        let refused =
            |fields: &[u8]| after(session(None, &ONLY_SCRAM), &[message_of(b'E', fields)]).unwrap_err();
        assert_eq!(refused(b"SFATAL\0C57P03\0Mstarting up\0\0"), "FATAL: starting up");
        let long = [b"SFATAL\0C28P01\0M", &b"x".repeat(29_000)[..], b"\0\0"].concat();
        let error = refused(&long);
        assert!(error.ends_with(
            "x…; check the user and password_file of this health check, and the server's pg_hba.conf"
        ));
        assert!(error.len() < 400, "{error}");
        assert!(refused(b"").contains("is it PostgreSQL?"));
        for length in SHOWN - 8..SHOWN {
            let words = [&"x".repeat(length)[..], "s3cret"].concat();
            let fields = [b"SFATAL\0M", words.as_bytes(), b"\0\0"].concat();
            let error =
                after(session(Some("s3cret"), &ONLY_SCRAM), &[message_of(b'E', &fields)]).unwrap_err();
            assert!(!error.contains("s3"), "{error}");
        }
        assert!(
            after(session(None, &ONLY_SCRAM), &[message_of(b'H', b"TTP/1.1 400")])
                .unwrap_err()
                .contains("'H'")
        );
    }

    proptest! {
        /// For any messages in any order: a server receives the password only by an allowed method, and passes a check with a
        /// password only if it has proved that it knows it.
        #[test]
        fn no_order_of_messages_reveals_or_bypasses_the_password(
            messages in prop::collection::vec(
                (
                    prop::sample::select(&b"RRRRRRNSKZTDCEAv"[..]),
                    prop::sample::select(vec![0u32, 2, 3, 5, 10, 11, 12, 99]),
                    prop::sample::select(vec![&b""[..], b"SCRAM-SHA-256\0\0", b"salt", b"v=AAAA", b"r=x,s=AAAA,i=1"]),
                ),
                0..12,
            ),
        ) {
            let mut login = session(Some("s3cret"), &ONLY_SCRAM);
            for (tag, number, data) in messages {
                let message = if tag == b'R' { auth_request(number, data) } else { message_of(tag, data) };
                match login.on(&message) {
                    Ok(LoginStep::Send(sent)) => {
                        prop_assert!(!sent.windows(6).any(|part| part == b"s3cret"));
                        prop_assert_ne!(sent[0], b'Q', "it was authenticated");
                    }
                    Ok(LoginStep::Done(..)) => prop_assert!(false, "it passed"),
                    Ok(LoginStep::Read) => {}
                    Err(error) => {
                        prop_assert!(!error.contains("s3cret"));
                        break;
                    }
                }
            }
        }
    }
}
