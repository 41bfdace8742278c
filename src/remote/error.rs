//! Why a request to an instance failed.

use hyper::StatusCode;

use super::Address;
use crate::api::{ErrorDetail, ErrorReply, Word};

/// Why a request to an instance failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// No server can be reached at the address.
    #[error(
        "cannot reach the admin server at {address}: {error}; is Pointsman running there? name another one with --admin"
    )]
    Unreachable {
        /// The server's address.
        address: Address,
        /// The system's error.
        error: String,
    },
    /// The server can be reached, but sent no valid response.
    #[error("the admin server at {address} did not answer: {error}")]
    NoAnswer {
        /// The server's address.
        address: Address,
        /// What is wrong with the response.
        error: String,
    },
    /// The server refused the request.
    #[error("{}", [message.as_str(), hint].iter().filter(|part| !part.is_empty()).copied().collect::<Vec<_>>().join("\n  "))]
    Refused {
        /// The status of its response.
        status: StatusCode,
        /// The server's word for the error; empty if the response is not Pointsman's.
        code: Word,
        /// Its message.
        message: String,
        /// What to do about it; may be empty.
        hint: Word,
    },
}

impl Error {
    /// No server can be reached at `address`; `text` is the system's error.
    pub(super) fn unreachable(address: Address, text: &str) -> Self {
        // The number of the error does not help an operator.
        let message = text.rsplit_once(" (os error ").map_or(text, |(message, _)| message);
        let mut letters = message.chars();
        let first = letters.next().map(|letter| letter.to_lowercase().to_string()).unwrap_or_default();
        Self::Unreachable { address, error: first + letters.as_str() }
    }

    /// A refusal by the server. A body that is not Pointsman's becomes the message as it is.
    pub(super) fn refused(status: StatusCode, text: &str) -> Self {
        let ErrorReply { error } = serde_json::from_str(text).unwrap_or_default();
        let message = match (error.message, status) {
            (message, StatusCode::UNAUTHORIZED) if !message.is_empty() => {
                format!("{message} (--token-file, POINTSMAN_TOKEN_FILE or POINTSMAN_TOKEN)")
            }
            (message, _) if !message.is_empty() => message,
            _ => format!("the admin server answered {status}: {}", text.trim()),
        };
        let hint = command_hint(&error.code).map_or(error.hint, Word::from);
        Self::Refused { status, code: error.code, message, hint }
    }

    /// Whether the server refused to take out the last eligible backend of a pool.
    pub(crate) fn is_last_eligible(&self) -> bool {
        matches!(self, Self::Refused { code, .. } if code == ErrorDetail::LAST_ELIGIBLE)
    }

    /// Whether the server refused a change of a backend because the pool does not have it, or not any more.
    pub(crate) fn is_no_such_backend(&self) -> bool {
        matches!(self, Self::Refused { code, .. } if code == ErrorDetail::NO_SUCH_BACKEND || code == ErrorDetail::GONE)
    }

    /// What went wrong, without what to do about it.
    pub(crate) fn message(&self) -> String {
        match self {
            Self::Refused { message, .. } => message.clone(),
            Self::Unreachable { .. } | Self::NoAnswer { .. } => self.to_string(),
        }
    }

    /// What went wrong, without the address.
    pub(crate) fn why(&self) -> String {
        match self {
            Self::Unreachable { error, .. } | Self::NoAnswer { error, .. } => error.clone(),
            Self::Refused { .. } => self.to_string(),
        }
    }
}

/// What to do about the error with that code, in commands: the server's own hint names requests to its API.
fn command_hint(code: &str) -> Option<&'static str> {
    Some(match code {
        ErrorDetail::NO_SUCH_POOL | ErrorDetail::NO_SUCH_BACKEND | ErrorDetail::GONE => {
            "`pointsman status` lists the pools and their backends"
        }
        "ambiguous" => "name it by its address, as `pointsman status` shows it: POOL/ADDRESS:PORT",
        "no_such_connection" => "`pointsman connections` lists the open ones",
        "too_many_streams" => "close a dashboard or another `pointsman top`",
        "bad_request" | "not_found" => "is it a Pointsman of another version? `pointsman status` names it",
        ErrorDetail::LAST_ELIGIBLE => "put another backend in service first, or say --force",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_contains_the_servers_message() {
        let body = r#"{"error": {"code": "x", "message": "no backend \"c\"", "hint": "write one"}}"#;
        let error = Error::refused(StatusCode::NOT_FOUND, body);
        assert_eq!(error.to_string(), "no backend \"c\"\n  write one");
        let error = Error::refused(StatusCode::BAD_GATEWAY, "<html>oh</html>\n");
        assert_eq!(error.to_string(), "the admin server answered 502 Bad Gateway: <html>oh</html>");
        let body = r#"{"error": {"message": "a token is needed"}}"#;
        assert!(Error::refused(StatusCode::UNAUTHORIZED, body).to_string().contains("--token-file"));
    }
}
