//! Replay: a backend that accepts a connection and ends it before its first byte costs the client nothing, if what the
//! client has sent so far can be sent to another backend without harm.
//!
//! By default that is the case if the client has asked for nothing yet: it has sent nothing, a ClientHello, or the first
//! message of a PostgreSQL client. The bytes are kept until the backend's first byte.

use super::preface::Preface;
use crate::config::{self, Replay as Policy};
use crate::domain::FailedAttempt;
use crate::protocol::{client_hello, postgres};

/// The most bytes that are kept: a ClientHello is not longer.
const MOST: usize = client_hello::LONGEST;

/// Whether what a client has sent can be sent to another backend.
#[derive(Debug)]
pub(super) enum Replay {
    /// It cannot: the backend has answered, or may have done what the client asked for.
    Impossible,
    /// It can: the client has sent nothing.
    Nothing(Harmless),
    /// It can.
    Sent(Box<Sent>),
}

/// What a client has sent.
#[derive(Debug)]
pub(super) struct Sent {
    /// Its preface; `rest` is what it has sent to its backend.
    pub(super) preface: Preface,
    /// The backends that ended the connection before their first byte, each with its key.
    pub(super) unanswered: Vec<(u64, FailedAttempt)>,
    harmless: Harmless,
}

/// Which bytes can be sent to another backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Harmless {
    policy: Policy,
    /// The backends are PostgreSQL servers.
    postgres: bool,
}

impl Harmless {
    /// As the pool is configured.
    pub(super) fn of(pool: &config::Pool) -> Self {
        Self { policy: pool.replay, postgres: pool.is_postgres() }
    }

    fn allows(self, sent: &[u8]) -> bool {
        match self.policy {
            Policy::Never => false,
            _ if sent.len() > MOST => false,
            Policy::Always => true,
            Policy::Harmless => {
                sent.is_empty()
                    || client_hello::is_alone(sent)
                    || postgres::is_request(sent)
                    || self.postgres && postgres::is_startup(sent)
            }
        }
    }
}

impl Replay {
    /// The bytes of a client that begins with `preface`, for its backend, and its replay. `harmless`: which bytes can be sent
    /// again; `None`: none. `unanswered`: the backends that ended the connection before.
    pub(super) fn new(
        harmless: Option<Harmless>,
        preface: Preface,
        unanswered: Vec<(u64, FailedAttempt)>,
    ) -> (Vec<u8>, Self) {
        let Some(harmless) = harmless.filter(|harmless| harmless.allows(&preface.rest)) else {
            return (preface.rest, Self::Impossible);
        };
        let is_plain = preface.header.is_none() && preface.hello.is_none();
        if is_plain && preface.rest.is_empty() && unanswered.is_empty() {
            return (Vec::new(), Self::Nothing(harmless));
        }
        (preface.rest.clone(), Self::Sent(Box::new(Sent { preface, unanswered, harmless })))
    }

    /// Whether it is possible.
    pub(super) fn is_possible(&self) -> bool {
        !matches!(self, Self::Impossible)
    }

    /// Adds bytes that the client has sent.
    pub(super) fn add(&mut self, bytes: &[u8]) {
        if !self.is_possible() {
            return;
        }
        *self = match std::mem::replace(self, Self::Impossible) {
            Self::Impossible => Self::Impossible,
            Self::Nothing(harmless) if harmless.allows(bytes) => {
                let preface = Preface { rest: bytes.to_vec(), ..Preface::default() };
                Self::Sent(Box::new(Sent { preface, unanswered: Vec::new(), harmless }))
            }
            Self::Nothing(_) => Self::Impossible,
            Self::Sent(mut sent) => {
                sent.preface.rest.extend_from_slice(bytes);
                if sent.harmless.allows(&sent.preface.rest) { Self::Sent(sent) } else { Self::Impossible }
            }
        };
    }

    /// What the client has sent, if it can be sent to another backend.
    pub(super) fn take(&mut self) -> Option<Box<Sent>> {
        match std::mem::replace(self, Self::Impossible) {
            Self::Impossible => None,
            Self::Nothing(harmless) => {
                Some(Box::new(Sent { preface: Preface::default(), unanswered: Vec::new(), harmless }))
            }
            Self::Sent(sent) => Some(sent),
        }
    }
}

impl Sent {
    /// The replay after it was sent to another backend.
    pub(super) fn again(self) -> (Vec<u8>, Replay) {
        Replay::new(Some(self.harmless), self.preface, self.unanswered)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELLO: &[u8] = include_bytes!("../protocol/client_hello_samples/chromium.bin");
    const STARTUP: [u8; 9] = [0, 0, 0, 9, 0, 3, 0, 0, 0];

    /// Whether a client that sends these parts one by one can be replayed at the end.
    fn possible(policy: Policy, postgres: bool, parts: &[&[u8]]) -> bool {
        let harmless = Some(Harmless { policy, postgres });
        let (_, mut replay) = Replay::new(harmless, Preface::default(), Vec::new());
        parts.iter().for_each(|part| replay.add(part));
        let sent = parts.concat();
        match replay.take() {
            Some(taken) => {
                assert_eq!(taken.preface.rest, sent);
                true
            }
            None => false,
        }
    }

    #[test]
    fn only_what_asks_for_nothing_is_sent_again_by_default() {
        let harmless = |parts: &[&[u8]]| possible(Policy::Harmless, false, parts);
        assert!(harmless(&[]));
        assert!(harmless(&[HELLO]) && harmless(&[&HELLO[..100], &HELLO[100..]]));
        assert!(!harmless(&[HELLO, b"\x17\x03\x03\x00\x01x"]), "early data");
        assert!(!harmless(&[b"GET / HTTP/1.1\r\n"]) && !harmless(&[b"G"]) && !harmless(&[&HELLO[..5]]));
        assert!(harmless(&[&postgres::SSL_REQUEST]) && !harmless(&[&postgres::SSL_REQUEST, b"x"]));
        assert!(!harmless(&[&STARTUP]) && possible(Policy::Harmless, true, &[&STARTUP]));
        assert!(!possible(Policy::Harmless, true, &[&STARTUP, b"Q"]));
    }

    #[test]
    fn the_policy_may_allow_everything_or_nothing() {
        assert!(possible(Policy::Always, false, &[b"GET / HTTP/1.1\r\n", b"\r\n"]));
        assert!(possible(Policy::Always, false, &[&vec![b'x'; MOST]]));
        assert!(!possible(Policy::Always, false, &[&vec![b'x'; MOST], b"x"]));
        assert!(!possible(Policy::Never, false, &[]) && !possible(Policy::Never, false, &[HELLO]));
    }

    #[test]
    fn what_is_sent_again_can_be_sent_a_third_time() {
        let mut replay = Replay::Nothing(Harmless { policy: Policy::Harmless, postgres: false });
        replay.add(HELLO);
        let (bytes, mut again) = replay.take().unwrap().again();
        assert!(bytes == HELLO && !replay.is_possible() && again.is_possible());
        assert_eq!(again.take().unwrap().preface.rest, HELLO);
    }
}
