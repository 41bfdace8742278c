//! Resolves a name once, as a client does: with the hosts file, and `localhost` is this machine.

use std::net::IpAddr;
use std::time::Duration;

use super::resolve::{DnsAnswer, Resolver};
use crate::config::Family;

/// The timeout of one query over one transport.
const TIMEOUT: Duration = Duration::from_secs(2);
/// The other family may answer this much later than the first one.
const GRACE: Duration = Duration::from_millis(200);

/// The addresses of `host` (a name or an address), IPv4 first; at least one. The error is the reason why there is none.
pub async fn addresses(host: &str) -> Result<Vec<IpAddr>, String> {
    if let Ok(ip) = host.parse() {
        return Ok(vec![ip]);
    }
    // By definition (RFC 6761, 6.3), even without a name server.
    if host.trim_end_matches('.').eq_ignore_ascii_case("localhost") {
        return Ok(vec![IpAddr::from([127, 0, 0, 1]), IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])]);
    }
    let resolver = Resolver::new(None, TIMEOUT)?;
    let mut v4 = std::pin::pin!(resolver.addresses(host, Family::V4));
    let mut v6 = std::pin::pin!(resolver.addresses(host, Family::V6));
    let (first, second) = tokio::select! {
        first = &mut v4 => {
            let second = if_soon(matches!(first, DnsAnswer::Records(_)), v6).await;
            (first, second)
        }
        second = &mut v6 => {
            let first = if_soon(matches!(second, DnsAnswer::Records(_)), v4).await;
            (first, second)
        }
    };
    let mut addresses = Vec::new();
    let mut reasons = Vec::new();
    for answer in [first, second] {
        let server = &resolver.server;
        match answer {
            DnsAnswer::Records(records) => addresses.extend(records),
            DnsAnswer::Empty => reasons.push(format!("{host:?} has no address")),
            DnsAnswer::NoSuchName => reasons.push(format!("NXDOMAIN for {host:?} from {server}")),
            DnsAnswer::ServerFailure(reason) => {
                reasons.push(format!("{host:?} could not be resolved: {reason}"));
            }
            DnsAnswer::Timeout => reasons.push(format!("{server} did not answer for {host:?} in time")),
        }
    }
    if addresses.is_empty() { Err(reasons.into_iter().next().unwrap_or_default()) } else { Ok(addresses) }
}

/// Waits for the answer; only briefly if it is not needed.
async fn if_soon<T>(not_needed: bool, answer: impl Future<Output = DnsAnswer<T>>) -> DnsAnswer<T> {
    if not_needed {
        tokio::time::timeout(GRACE, answer).await.unwrap_or(DnsAnswer::Timeout)
    } else {
        answer.await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::in_time;

    /// The addresses by this machine's resolver.
    async fn found(name: &str) -> Result<Vec<IpAddr>, String> {
        in_time(name, addresses(name)).await
    }

    #[tokio::test]
    async fn an_address_resolves_to_itself_and_localhost_to_this_machine() {
        assert_eq!(found("192.0.2.1").await, Ok(vec![IpAddr::from([192, 0, 2, 1])]));
        assert_eq!(found("::1").await.unwrap().len(), 1);
        assert_eq!(found("LocalHost").await.unwrap()[0], IpAddr::from([127, 0, 0, 1]));
    }

    #[tokio::test]
    async fn an_invalid_name_is_reported() {
        let error = found("a..b").await.unwrap_err();
        assert!(error.contains("a..b"), "{error}");
    }
}
