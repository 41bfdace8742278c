//! Why an instance did not do what was asked of it.

use hyper::StatusCode;

use super::Address;
use crate::api::ErrorReply;

/// Why an instance did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// No server can be reached there.
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
    /// No server can be reached there; `text` is the system's error.
    pub(super) fn unreachable(address: Address, text: &str) -> Self {
        // The system's number does not help an operator.
        let words = text.rsplit_once(" (os error ").map_or(text, |(words, _)| words);
        let mut letters = words.chars();
        let first = letters.next().map(|letter| letter.to_lowercase().to_string()).unwrap_or_default();
        Self::Unreachable { address, error: first + letters.as_str() }
    }

    /// What the server said in refusing; another server's words, if it is one, as they came.
    pub(super) fn refused(status: StatusCode, text: &str) -> Self {
        let ErrorReply { error } = serde_json::from_str(text).unwrap_or_default();
        let message = match (error.message, status) {
            (message, StatusCode::UNAUTHORIZED) if !message.is_empty() => {
                format!("{message} (--token-file, POINTSMAN_TOKEN_FILE or POINTSMAN_TOKEN)")
            }
            (message, _) if !message.is_empty() => message,
            _ => format!("the admin server answered {status}: {}", text.trim()),
        };
        Self::Refused { status, message, hint: error.hint.into_owned() }
    }

    /// What went wrong, without the address.
    pub(crate) fn why(&self) -> String {
        match self {
            Self::Unreachable { error, .. } | Self::NoAnswer { error, .. } => error.clone(),
            Self::Refused { .. } => self.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_passes_on_what_the_server_says() {
        let body = r#"{"error": {"code": "x", "message": "no backend \"c\"", "hint": "see /api/v1/status"}}"#;
        let error = Error::refused(StatusCode::NOT_FOUND, body);
        assert_eq!(error.to_string(), "no backend \"c\"\n  see /api/v1/status");
        let error = Error::refused(StatusCode::BAD_GATEWAY, "<html>oh</html>\n");
        assert_eq!(error.to_string(), "the admin server answered 502 Bad Gateway: <html>oh</html>");
        let body = r#"{"error": {"message": "a token is needed"}}"#;
        assert!(Error::refused(StatusCode::UNAUTHORIZED, body).to_string().contains("--token-file"));
    }
}
