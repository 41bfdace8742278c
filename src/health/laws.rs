//! Laws of health checks that hold for any response of a server. Property tests and the fuzzer (`tests/fuzz`) assert
//! them.

use std::path::PathBuf;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::runtime::Runtime;
use tokio::time::{Instant, timeout};

use super::{CheckError, CheckTarget};
use crate::config::{Check, parse};
use crate::sanitize::is_unsafe;

/// Far longer than a check takes whose server closes the connection.
const LIMIT: Duration = Duration::from_secs(10);

/// The password of the checks that log in. Nothing that makes a text safe to show changes it.
const PASSWORD: &str = "the-password-of-checks";

thread_local! {
    static PEER: Peer = Peer::new();
}

/// Asserts the laws for a server that sends these bytes to a check, and then closes the connection. The first byte
/// selects the check.
///
/// # Panics
/// If a law does not hold.
pub fn check(bytes: &[u8]) {
    if let Some((selector, response)) = bytes.split_first() {
        PEER.with(|peer| peer.check(usize::from(*selector), response));
    }
}

/// The server, and the checks that it gets.
struct Peer {
    runtime: Runtime,
    /// Contains its socket and the password's file.
    directory: PathBuf,
    listener: UnixListener,
    target: CheckTarget,
    checks: Vec<Check>,
}

impl Peer {
    fn new() -> Self {
        let thread = format!("{:?}", std::thread::current().id()).replace(|c: char| !c.is_ascii_digit(), "");
        let name = format!("pointsman-checks-{}-{thread}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).expect("the temporary directory can be written to");
        let (socket, password) = (directory.join("socket"), directory.join("password"));
        std::fs::write(&password, PASSWORD).expect("the temporary directory can be written to");
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("it can start");
        let listener = runtime.block_on(async { UnixListener::bind(&socket) }).expect("a new path is free");
        let address = format!("unix:{}", socket.display()).parse().expect("it is a path");
        let target = CheckTarget { address, source: None, proxy_header: None, tls: None };
        Self { runtime, listener, target, checks: checks(&password), directory }
    }

    fn check(&self, selector: usize, response: &[u8]) {
        let check = &self.checks[selector % self.checks.len()];
        let server = async {
            let Ok((mut client, _)) = self.listener.accept().await else { return };
            // The check may end before it has read everything.
            let _ = client.write_all(response).await;
            let _ = client.shutdown().await;
            let _ = client.read_to_end(&mut Vec::new()).await;
        };
        let deadline = Instant::now() + LIMIT;
        let work = async { tokio::join!(server, super::check(&self.target, check, deadline)).1 };
        let result = self.runtime.block_on(async { timeout(LIMIT, work).await });
        let Ok(result) = result else { panic!("{check:?} does not end after {}", response.escape_ascii()) };
        let Err(error) = result else { return };
        let shown = error.to_string();
        let context = || format!("{check:?} of {} says {shown:?}", response.escape_ascii());
        // A server that could cause local errors would never be down.
        assert!(matches!(error, CheckError::Failed(_)), "{}", context());
        assert!(
            !shown.is_empty() && shown.chars().count() <= 1024 && !shown.contains(is_unsafe),
            "{}",
            context()
        );
        let has_password = match check {
            Check::Postgres(check) => check.password_file.is_some(),
            Check::Redis(check) => check.password_file.is_some(),
            Check::Tcp | Check::Http(_) | Check::Exchange(_) => false,
        };
        assert!(!has_password || !shown.contains(PASSWORD), "{}", context());
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// One check of each kind.
fn checks(password: &std::path::Path) -> Vec<Check> {
    let file = password.display();
    let health = [
        "http: /health".to_owned(),
        "http: {path: /health, body: ok, status: [200, 4xx]}".to_owned(),
        r"exchange: {send: 'PING\r\n', expect: '+PONG'}".to_owned(),
        format!(
            "postgres: {{role: any, user: u, database: d, password_file: '{file}', require_auth: [scram-sha-256, md5, password]}}"
        ),
        "postgres: {role: primary}".to_owned(),
        format!("redis: {{role: master, user: u, password_file: '{file}'}}"),
        "redis: {role: replica}".to_owned(),
    ];
    let list: String = health.iter().map(|check| format!("\n      - {{{check}}}")).collect();
    let text = format!(
        "listeners: {{l: {{bind: ':1', pool: p}}}}\npools:\n  p:\n    discover: [{{dns: a:1}}]\n    health:{list}\n"
    );
    let config = parse("checks", &text, &|_| None).unwrap_or_else(|errors| panic!("{errors}"));
    let (_, pool) = config.pools.iter().next().expect("there is one");
    pool.health.iter().map(|health| health.check.clone()).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn any_response_ends_a_check_with_a_harmless_text() {
        crate::testing::corpus::hold("checks", super::check);
    }
}
