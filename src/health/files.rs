//! The files that checks need: passwords, certificates, keys. They are read for each check, as they may change at any time.

use std::path::Path;

use super::CheckError;
use crate::config::{Check, Health};
use crate::domain::SocketAddress;
use crate::text_file::secret;
use crate::tls::TlsClient;

/// The password in `file`, without the line end. A failure is a local error, not the backend's.
pub(super) async fn password(file: Option<&Path>) -> Result<Option<String>, CheckError> {
    secret("password file", file).await.map_err(|error| CheckError::Local(error.into()))
}

/// What is wrong with the files that a check needs, as far as it can be known without a backend.
pub async fn problems(health: &Health) -> Vec<String> {
    let password_file = match &health.check {
        Check::Postgres(check) => check.password_file.as_deref(),
        Check::Redis(check) => check.password_file.as_deref(),
        Check::Tcp | Check::Http(_) | Check::Exchange(_) => None,
    };
    let mut results = vec![secret("password file", password_file).await.map(drop)];
    if let Some(tls) = &health.tls {
        let any = SocketAddress::Tcp(([127, 0, 0, 1], 0).into());
        results.push(TlsClient::new(tls.clone(), &any).config().await.map(drop));
    }
    results.into_iter().filter_map(Result::err).collect()
}
