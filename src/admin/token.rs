//! The token that changes need.

use std::fmt;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tracing::warn;

/// A shorter token could be guessed.
const SHORTEST: usize = 16;
/// A longer file was configured by mistake.
const LONGEST: usize = 4096;

/// The hash of a token: hashes have the same length, whatever was sent.
#[derive(Clone, Copy)]
pub(super) struct Token([u8; 32]);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

impl Token {
    /// Reads it from a file, without the white space around it. An error describes the problem with the file.
    pub(super) fn read(path: &Path) -> Result<Self, String> {
        let named = path.display();
        let mut text = String::new();
        let file = std::fs::File::open(path).map_err(|error| {
            let hint = format!("make one with `head -c 32 /dev/urandom | base64 >{named}`");
            format!("the token of the admin server cannot be read from {named}: {error}; {hint}")
        })?;
        let readable = file.metadata().is_ok_and(|file| file.permissions().mode() & 0o004 != 0);
        file.take(LONGEST as u64 + 1)
            .read_to_string(&mut text)
            .map_err(|error| format!("the token of the admin server cannot be read from {named}: {error}"))?;
        let token = text.trim();
        let problem = match token.len() {
            0 => "is empty",
            length if length < SHORTEST => "is shorter than 16 characters",
            _ if text.len() > LONGEST => "is longer than 4096 bytes",
            _ if !token.bytes().all(|byte| byte.is_ascii_graphic()) => {
                "has characters in it that a header cannot carry: only printable ASCII without spaces can be sent"
            }
            _ => "",
        };
        if !problem.is_empty() {
            return Err(format!("the token of the admin server in {named} {problem}"));
        }
        if readable {
            warn!(token_file = %named, "all users of this machine can read the token; `chmod 600` restricts it to its owner");
        }
        Ok(Self::new(token))
    }

    fn new(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }

    /// Whether it is the token that was sent, compared in constant time.
    pub(super) fn is(self, sent: &str) -> bool {
        self.0.ct_eq(&Self::new(sent).0).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_the_content_of_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            Token::read(&path)
        };
        let token = read("  0123456789abcdef==\n\n").unwrap();
        assert!(token.is("0123456789abcdef=="));
        for wrong in ["", "0123456789abcdef=", "0123456789abcdef== ", "0123456789ABCDEF=="] {
            assert!(!token.is(wrong), "{wrong:?}");
        }
        assert!(!format!("{token:?}").contains("0123"));
        for (text, problem) in [
            ("", "is empty"),
            (" \n", "is empty"),
            ("short", "shorter"),
            ("0123456789 abcdef", "printable"),
            ("0123456789abcdé", "printable"),
            (&"x".repeat(5000), "longer"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(problem) && error.contains("/token"), "{error}");
        }
        std::fs::remove_file(&path).unwrap();
        assert!(read_error(&path).contains("head -c 32"));
    }

    fn read_error(path: &Path) -> String {
        Token::read(path).unwrap_err()
    }
}
