//! The addresses of a name, asked for once, as a client does: the hosts file counts, and `localhost` is this machine.

use std::net::IpAddr;
use std::time::Duration;

use super::resolve::{Answer, Resolver};
use crate::config::Family;

/// For one question over one transport.
const TIMEOUT: Duration = Duration::from_secs(2);
/// How much longer the other family may take when one has answered.
const GRACE: Duration = Duration::from_millis(200);

/// The addresses of `host`, a name or an address itself, IPv4 first; at least one. An error says why there is none.
pub async fn addresses(host: &str) -> Result<Vec<IpAddr>, String> {
    if let Ok(ip) = host.parse() {
        return Ok(vec![ip]);
    }
    // It is so by definition (RFC 6761, 6.3), also where there is no name server to be configured.
    if host.trim_end_matches('.').eq_ignore_ascii_case("localhost") {
        return Ok(vec![IpAddr::from([127, 0, 0, 1]), IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])]);
    }
    let resolver = Resolver::new(None, TIMEOUT)?;
    let mut v4 = std::pin::pin!(resolver.addresses(host, Family::V4));
    let mut v6 = std::pin::pin!(resolver.addresses(host, Family::V6));
    let (first, second) = tokio::select! {
        first = &mut v4 => {
            let second = if_soon(matches!(first, Answer::Records(_)), v6).await;
            (first, second)
        }
        second = &mut v6 => {
            let first = if_soon(matches!(second, Answer::Records(_)), v4).await;
            (first, second)
        }
    };
    let mut addresses = Vec::new();
    let mut reasons = Vec::new();
    for answer in [first, second] {
        let server = &resolver.server;
        match answer {
            Answer::Records(records) => addresses.extend(records),
            Answer::Empty => reasons.push(format!("{host:?} has no address")),
            Answer::NoSuchName => reasons.push(format!("{server} knows no name {host:?}")),
            Answer::ServerFailure(reason) => {
                reasons.push(format!("{host:?} could not be resolved: {reason}"));
            }
            Answer::Silence => reasons.push(format!("{server} did not answer for {host:?} in time")),
        }
    }
    if addresses.is_empty() { Err(reasons.into_iter().next().unwrap_or_default()) } else { Ok(addresses) }
}

/// The answer; if it is not needed, only if it comes soon.
async fn if_soon<T>(not_needed: bool, answer: impl Future<Output = Answer<T>>) -> Answer<T> {
    if not_needed {
        tokio::time::timeout(GRACE, answer).await.unwrap_or(Answer::Silence)
    } else {
        answer.await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::in_time;

    /// The answer of this machine's resolver.
    async fn found(name: &str) -> Result<Vec<IpAddr>, String> {
        in_time(name, addresses(name)).await
    }

    #[tokio::test]
    async fn an_address_is_its_own_and_localhost_is_this_machine() {
        assert_eq!(found("192.0.2.1").await, Ok(vec![IpAddr::from([192, 0, 2, 1])]));
        assert_eq!(found("::1").await.unwrap().len(), 1);
        assert_eq!(found("LocalHost").await.unwrap()[0], IpAddr::from([127, 0, 0, 1]));
    }

    #[tokio::test]
    async fn a_name_that_cannot_be_one_is_told() {
        let error = found("a..b").await.unwrap_err();
        assert!(error.contains("a..b"), "{error}");
    }
}
