//! The connections of each backend, as the balancer itself counts them.

use std::fmt::{Debug, Display};
use std::pin::Pin;
use std::time::Duration;

use litemap::LiteMap;

use super::attribution::{CountsByName, ResponseCounts};

/// The balancer counts a connection when it routes it, which may be after its client has left.
const SETTLING: Duration = Duration::from_secs(1);
/// The interval between two queries while the counts settle.
const POLL: Duration = Duration::from_millis(50);

/// A query's result, later.
pub type Querying<'a> = Pin<Box<dyn Future<Output = Result<BackendCounts, String>> + Send + 'a>>;

/// What reports the connections of each backend; shown as its address.
pub trait BackendCounters: Debug + Display + Send + Sync {
    /// The current counts, or why there are none.
    fn query(&self) -> Querying<'_>;
}

/// Connections by pool, name and address of a backend, at one moment.
#[derive(Debug)]
pub struct BackendCounts {
    /// How long the balancer has run, in seconds: below an earlier value, it was started again.
    pub uptime: f64,
    /// The connections since then.
    pub backends: LiteMap<(String, String, String), u64>,
}

impl BackendCounts {
    /// The counts when they have grown by `by` connections since `before`, or after [`SETTLING`] if they have not.
    pub(super) async fn grown(
        counters: &dyn BackendCounters,
        before: &Self,
        by: u64,
    ) -> Result<Self, String> {
        let settled = tokio::time::Instant::now() + SETTLING;
        loop {
            let now = counters.query().await?;
            let grown: u64 = before.until(&now)?.values().map(ResponseCounts::requests).sum();
            if grown >= by || tokio::time::Instant::now() >= settled {
                return Ok(now);
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// The connections of each backend between these counts and later ones, for the pools that got any.
    pub(super) fn until(&self, later: &Self) -> Result<CountsByName, String> {
        if later.uptime < self.uptime {
            return Err("the balancer was started again during the test, which reset its counters".to_owned());
        }
        let grown = |key: &(String, String, String), count: u64| {
            count.saturating_sub(self.backends.get(key).copied().unwrap_or(0))
        };
        let mut pools = LiteMap::<&str, u64>::new();
        for (key, count) in &later.backends {
            *pools.entry(&key.0).or_default() += grown(key, *count);
        }
        pools.retain(|_, grown| *grown > 0);
        let mut accounts = CountsByName::new();
        for (key, count) in &later.backends {
            let (pool, name, address) = key;
            if !pools.contains_key(pool.as_str()) {
                continue;
            }
            let mut shown = if pools.len() > 1 { format!("{pool}/{name}") } else { name.clone() };
            // The same name at another address is another backend.
            if accounts.contains_key(&shown) {
                shown = format!("{shown} {address}");
            }
            accounts
                .insert(shown, ResponseCounts { succeeded: grown(key, *count), ..ResponseCounts::default() });
        }
        Ok(accounts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(uptime: f64, backends: &[(&str, &str, &str, u64)]) -> BackendCounts {
        let backends = backends.iter().map(|(pool, name, address, connections)| {
            (((*pool).to_owned(), (*name).to_owned(), (*address).to_owned()), *connections)
        });
        BackendCounts { uptime, backends: backends.collect() }
    }

    fn grown(accounts: &CountsByName) -> Vec<(&str, u64)> {
        accounts.iter().map(|(name, account)| (name.as_str(), account.requests())).collect()
    }

    #[test]
    fn the_difference_is_counted_and_idle_pools_are_left_out() {
        let before = counts(1.0, &[("web", "a", "1", 10), ("web", "b", "2", 5), ("idle", "c", "3", 7)]);
        let after = counts(
            2.0,
            &[("web", "a", "1", 13), ("web", "b", "2", 5), ("web", "new", "4", 2), ("idle", "c", "3", 7)],
        );
        let of = before.until(&after).unwrap();
        assert_eq!(grown(&of), [("a", 3), ("b", 0), ("new", 2)]);
    }

    #[test]
    fn equal_names_in_several_pools_or_at_several_addresses_are_distinguished() {
        let before = counts(1.0, &[]);
        let after = counts(2.0, &[("p", "a", "1", 1), ("p", "a", "2", 2), ("q", "a", "3", 3)]);
        let of = before.until(&after).unwrap();
        assert_eq!(grown(&of), [("p/a", 1), ("p/a 2", 2), ("q/a", 3)]);
    }

    #[test]
    fn a_restart_of_the_balancer_is_an_error() {
        assert!(counts(9.0, &[]).until(&counts(1.0, &[])).unwrap_err().contains("started again"));
    }
}
