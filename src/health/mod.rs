//! Active checks: one file per kind, when they are due, and the rise/fall state machine.
//!
//! Each check of each backend has a [`Checker`], which runs it again and again. What a result means for the backend
//! is the pool state's to decide. To add a kind: its file here, its [`Check`] variant, and a line in `check`.

mod answer;
mod checker;
mod eject;
mod exchange;
mod http;
pub(crate) mod late;
mod pace;
mod postgres;
mod redis;
mod schedule;
mod tally;
mod tcp;
mod turns;

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::time::Instant;

use crate::config::Check;
use crate::domain::Cause;
pub use checker::{Checker, Sink};
pub use eject::Ejection;
pub use pace::{Pace, PoolPace};
pub use tally::{Tally, Verdict};

/// The longest password, in bytes. The file is read for each check, and an endless file such as /dev/zero must not
/// block it.
const LONGEST_PASSWORD: u64 = 4096;

/// What one check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// Its kind: [`Check::kind`].
    pub kind: &'static str,
    /// `Err`: why it did not pass.
    pub result: Result<(), CheckError>,
    /// How long it waited for a place (`runtime.max_checks`).
    pub waited: Duration,
    /// How long it took after it started.
    pub took: Duration,
}

/// Why a check did not pass, in words for a person.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckError {
    /// The backend is not as it should be.
    #[error("{0}")]
    Failed(Cause),
    /// Our own side is short of something, such as a port or the password: it says nothing about the backend, which
    /// stays what it was. Otherwise one mistake here, and it would be the same for all backends, would take out every
    /// one of them. Until it is mended nobody notices a backend that dies, so it is counted and told every minute.
    #[error("{0}")]
    Local(Cause),
}

impl From<String> for CheckError {
    fn from(why: String) -> Self {
        Self::Failed(why.into())
    }
}

/// Checks once. Whoever asks gives up at `deadline`.
async fn check(address: SocketAddr, kind: &Check, deadline: Instant) -> Result<(), CheckError> {
    match kind {
        Check::Tcp => tcp::check(address).await,
        Check::Http(wanted) => http::check(address, wanted).await,
        Check::Exchange(exchange) => exchange::check(address, exchange, deadline).await,
        Check::Postgres(wanted) => postgres::check(address, wanted).await,
        Check::Redis(wanted) => redis::check(address, wanted).await,
    }
}

/// What a server said, for a person, without the password: some repeat what they were sent.
fn without(password: Option<&str>, said: &str) -> String {
    match password {
        Some(password) if !password.is_empty() => said.replace(password, "***"),
        _ => said.to_owned(),
    }
}

/// The password in `file`, without the end of its line. It is read anew for each check, as it may be changed at any
/// time; that it cannot be read is our own trouble, not the backend's.
async fn password(file: Option<&Path>) -> Result<Option<String>, CheckError> {
    let Some(file) = file else { return Ok(None) };
    let read = async {
        let mut text = String::new();
        let file = tokio::fs::File::open(file).await?;
        file.take(LONGEST_PASSWORD + 1).read_to_string(&mut text).await?;
        if text.len() as u64 > LONGEST_PASSWORD {
            return Err(io::Error::other(format!("it has more than {LONGEST_PASSWORD} bytes")));
        }
        io::Result::Ok(text)
    };
    match read.await {
        Ok(text) => Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned())),
        Err(error) => {
            let file = file.display();
            let why = format!(
                "the password file {file} cannot be read: {error}; give it to the user that Pointsman runs as"
            );
            Err(CheckError::Local(why.into()))
        }
    }
}
