//! The files that checks need: passwords, certificates, keys. They are read for each check, as they may change at any time.

use std::io;
use std::path::Path;

use tokio::io::AsyncReadExt;

use super::CheckError;
use super::tls::TlsClient;
use crate::config::{Check, Health};
use crate::domain::SocketAddress;

/// The longest password, in bytes: an endless file such as /dev/zero must not block a check.
const LONGEST_PASSWORD: u64 = 4096;

/// The password in `file`, without the line end.
pub(super) async fn password(file: Option<&Path>) -> Result<Option<String>, CheckError> {
    let Some(file) = file else { return Ok(None) };
    let text = contents("password file", file, LONGEST_PASSWORD).await?;
    Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned()))
}

/// What is wrong with the files that a check needs, as far as it can be known without a backend.
pub async fn problems(health: &Health) -> Vec<String> {
    let password_file = match &health.check {
        Check::Postgres(check) => check.password_file.as_deref(),
        Check::Redis(check) => check.password_file.as_deref(),
        Check::Tcp | Check::Http(_) | Check::Exchange(_) => None,
    };
    let mut results = vec![password(password_file).await.map(drop)];
    if let Some(tls) = &health.tls {
        let any = SocketAddress::Tcp(([127, 0, 0, 1], 0).into());
        results.push(TlsClient::new(tls.clone(), &any).config().await.map(drop));
    }
    results.into_iter().filter_map(|result| result.err()).map(|error| error.to_string()).collect()
}

/// The text in `file`, which messages call `what`, of at most `longest` bytes. A failure is a local error, not the
/// backend's.
pub(super) async fn contents(what: &str, file: &Path, longest: u64) -> Result<String, CheckError> {
    let read = async {
        let mut text = String::new();
        let file = tokio::fs::File::open(file).await?;
        file.take(longest + 1).read_to_string(&mut text).await?;
        if text.len() as u64 > longest {
            return Err(io::Error::other(format!("it has more than {longest} bytes")));
        }
        io::Result::Ok(text)
    };
    read.await.map_err(|error| {
        let file = file.display();
        let reason = format!(
            "the {what} {file} cannot be read: {error}; make it readable for the user that Pointsman runs as"
        );
        CheckError::Local(reason.into())
    })
}
