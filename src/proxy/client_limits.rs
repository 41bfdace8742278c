//! How many connections each client of a listener has, and how fast it opens them (`per_client`).

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing::debug;

use crate::config::{PerClient, Rate};
use crate::domain::{Client, LimitReached};

/// The number of tables, each with its own lock, so that workers seldom wait for each other.
const SHARDS: usize = 16;
/// Rate entries per table and generation. Beyond that, the oldest are dropped, so that a flood of addresses does not fill
/// the memory; other clients are not affected.
const REMEMBERED: usize = 4096;

/// The clients of a listener.
#[derive(Debug)]
pub struct ClientLimits {
    shards: [Mutex<Shard>; SHARDS],
    /// Randomly seeded: addresses that fall into one table cannot be chosen.
    hasher: RandomState,
    over_limits: [OverLimitCounters; 2],
}

#[derive(Debug, Default)]
struct OverLimitCounters {
    reset: AtomicU64,
    only_counted: AtomicU64,
}

/// Connections over one limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OverLimit {
    /// Connections that were reset.
    pub reset: u64,
    /// Connections that were only counted (`dry_run`).
    pub only_counted: u64,
}

#[derive(Debug, Default)]
struct Shard {
    /// Open connections, of clients that have any.
    open: HashMap<IpAddr, u32>,
    arrivals: Arrivals,
}

/// The theoretical arrival time of each client's next connection. Two generations: an entry without an admitted connection
/// for a whole one is dropped; by then its token bucket is full.
#[derive(Debug, Default)]
struct Arrivals {
    current: HashMap<IpAddr, Duration>,
    last: HashMap<IpAddr, Duration>,
    /// When the current generation began.
    began: Duration,
}

/// Counts an open connection of a client until it is dropped.
#[derive(Debug)]
pub(super) struct ClientSlot {
    limits: Arc<ClientLimits>,
    client: IpAddr,
}

impl ClientLimits {
    /// Limits without clients yet.
    pub(super) fn new() -> Self {
        Self { shards: Default::default(), hasher: RandomState::new(), over_limits: Default::default() }
    }

    /// Counts a new connection of a client at the time `now`, unless it exceeds a limit. Clients of Unix sockets cannot be
    /// distinguished and have no limit.
    pub(super) fn admit(
        self: &Arc<Self>,
        client: Client,
        limits: &PerClient,
        now: Duration,
    ) -> Result<Option<ClientSlot>, LimitReached> {
        let Client::Tcp(address) = client else { return Ok(None) };
        let client = network(address.ip());
        let admitted = {
            let mut shard = self.shard(client);
            let admitted = shard.admit(client, limits, now);
            if admitted.is_ok() || limits.dry_run {
                *shard.open.entry(client).or_default() += 1;
            }
            admitted
        };
        if let Err(limit) = admitted {
            let counters = &self.over_limits[usize::from(limit == LimitReached::ClientRate)];
            if !limits.dry_run {
                counters.reset.fetch_add(1, Ordering::Relaxed);
                return Err(limit);
            }
            counters.only_counted.fetch_add(1, Ordering::Relaxed);
            debug!(%client, limit = limit.name(), "over a limit of per_client (dry_run)");
        }
        Ok(Some(ClientSlot { limits: Arc::clone(self), client }))
    }

    /// Connections over each limit.
    pub fn over_limits(&self) -> [(LimitReached, OverLimit); 2] {
        let read = |index: usize| {
            let OverLimitCounters { reset, only_counted } = &self.over_limits[index];
            let [reset, only_counted] = [reset, only_counted].map(|count| count.load(Ordering::Relaxed));
            OverLimit { reset, only_counted }
        };
        [(LimitReached::ClientConnections, read(0)), (LimitReached::ClientRate, read(1))]
    }

    fn shard(&self, client: IpAddr) -> MutexGuard<'_, Shard> {
        let index = self.hasher.hash_one(client) as usize % SHARDS;
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ClientSlot {
    fn drop(&mut self) {
        let mut shard = self.limits.shard(self.client);
        if let Some(open) = shard.open.get_mut(&self.client) {
            *open -= 1;
            if *open == 0 {
                shard.open.remove(&self.client);
            }
        }
    }
}

impl Shard {
    /// Whether a new connection is within the limits. Only connections that are count against the rate.
    fn admit(&mut self, client: IpAddr, limits: &PerClient, now: Duration) -> Result<(), LimitReached> {
        let open = self.open.get(&client).copied().unwrap_or_default();
        if limits.connections.is_some_and(|most| open >= most.get()) {
            return Err(LimitReached::ClientConnections);
        }
        match limits.rate {
            Some(rate) => self.arrivals.admit(client, rate, limits.burst_size(), now),
            None => Ok(()),
        }
    }
}

impl Arrivals {
    /// The generic cell rate algorithm (ITU-T I.371, annex A): a token bucket of `burst` connections in one number.
    fn admit(&mut self, client: IpAddr, rate: Rate, burst: u32, now: Duration) -> Result<(), LimitReached> {
        let interval = rate.interval();
        self.forget(interval.saturating_mul(burst), now);
        let due = self.current.get(&client).or_else(|| self.last.get(&client)).copied().unwrap_or_default();
        if due > now + interval.saturating_mul(burst - 1) {
            return Err(LimitReached::ClientRate);
        }
        self.current.insert(client, due.max(now) + interval);
        Ok(())
    }

    /// Begins a new generation when the current one is as old as `full`, the time in which a bucket fills, or has too
    /// many clients.
    fn forget(&mut self, full: Duration, now: Duration) {
        if now.saturating_sub(self.began) >= full || self.current.len() >= REMEMBERED {
            self.last = std::mem::take(&mut self.current);
            self.began = now;
        }
    }
}

/// What counts as one client: an IPv4 address, or the /64 network of an IPv6 address, which one host can use whole (RFC
/// 6177).
fn network(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => ip.into(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;
    use std::num::NonZeroU32;

    use proptest::prelude::*;

    fn client(ip: &str) -> Client {
        Client::Tcp(SocketAddr::new(ip.parse().unwrap(), 1))
    }

    fn limits(connections: u32, rate: &str, burst: u32) -> PerClient {
        PerClient {
            connections: NonZeroU32::new(connections),
            rate: rate.parse().ok(),
            burst: NonZeroU32::new(burst),
            dry_run: false,
        }
    }

    /// The connections over each limit, reset and only counted.
    fn counts(all: &ClientLimits) -> [[u64; 2]; 2] {
        all.over_limits().map(|(_, over)| [over.reset, over.only_counted])
    }

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn each_client_has_its_connections_and_gets_them_back() {
        let (all, limits) = (Arc::new(ClientLimits::new()), limits(2, "", 0));
        let admit = |ip: &str| all.admit(client(ip), &limits, ms(0));
        let first = admit("192.0.2.1").unwrap();
        let _second = admit("192.0.2.1").unwrap();
        assert_eq!(admit("192.0.2.1").unwrap_err(), LimitReached::ClientConnections);
        let _other = admit("192.0.2.2").unwrap();
        drop(first);
        let _third = admit("192.0.2.1").unwrap();
        assert_eq!(admit("192.0.2.1").unwrap_err(), LimitReached::ClientConnections);
        assert!(all.admit(Client::Unix, &limits, ms(0)).unwrap().is_none());
        assert_eq!(counts(&all), [[2, 0], [0, 0]]);
    }

    #[test]
    fn addresses_of_one_ipv6_network_are_one_client() {
        let (all, limits) = (Arc::new(ClientLimits::new()), limits(1, "", 0));
        let _first = all.admit(client("2001:db8::1"), &limits, ms(0)).unwrap();
        assert!(all.admit(client("2001:db8::ffff:ffff:ffff:ffff"), &limits, ms(0)).is_err());
        assert!(all.admit(client("2001:db8:0:1::1"), &limits, ms(0)).is_ok());
    }

    #[test]
    fn a_burst_and_then_the_rate() {
        let (all, limits) = (Arc::new(ClientLimits::new()), limits(0, "10/s", 3));
        let at = |time| all.admit(client("192.0.2.1"), &limits, time).is_ok();
        let start = ms(50_000);
        assert_eq!([at(start), at(start), at(start), at(start)], [true, true, true, false]);
        assert_eq!([at(start + ms(99)), at(start + ms(100)), at(start + ms(101))], [false, true, false]);
        // A client that was silent has a whole burst again.
        let later = start + ms(1000);
        assert_eq!([at(later), at(later), at(later), at(later)], [true, true, true, false]);
    }

    #[test]
    fn a_rejected_connection_uses_nothing_up() {
        let (all, limits) = (Arc::new(ClientLimits::new()), limits(1, "1/s", 2));
        let at = |time| all.admit(client("192.0.2.1"), &limits, time);
        let place = at(ms(0)).unwrap();
        assert_eq!(at(ms(0)).unwrap_err(), LimitReached::ClientConnections);
        drop(place);
        let place = at(ms(0)).unwrap();
        drop(place);
        assert_eq!(at(ms(0)).unwrap_err(), LimitReached::ClientRate);
        assert!(all.shards.iter().all(|shard| shard.lock().unwrap().open.is_empty()));
    }

    #[test]
    fn a_dry_run_only_counts() {
        let all = Arc::new(ClientLimits::new());
        let limits = PerClient { dry_run: true, ..limits(1, "1/s", 1) };
        let places: Vec<_> =
            (0..3).map(|_| all.admit(client("192.0.2.1"), &limits, ms(0)).unwrap()).collect();
        assert_eq!(counts(&all), [[0, 2], [0, 0]]);
        drop(places);
        assert!(all.admit(client("192.0.2.1"), &limits, ms(0)).is_ok());
        assert_eq!(counts(&all), [[0, 2], [0, 1]]);
    }

    #[test]
    fn a_flood_of_clients_does_not_fill_the_memory() {
        let (all, limits) = (Arc::new(ClientLimits::new()), limits(0, "1/h", 100));
        for n in 0..1_000_000_u32 {
            let ip = IpAddr::V4(n.into());
            assert!(all.admit(Client::Tcp(SocketAddr::new(ip, 1)), &limits, ms(1)).is_ok());
        }
        for shard in &all.shards {
            let shard = shard.lock().unwrap();
            let Arrivals { current, last, .. } = &shard.arrivals;
            assert!(current.len() <= REMEMBERED && last.len() <= REMEMBERED);
            assert!(current.capacity() <= 2 * REMEMBERED && shard.open.is_empty());
        }
    }

    proptest! {
        /// A bucket of tokens, refilled in whole steps, as the model.
        #[test]
        fn the_rate_admits_as_a_token_bucket_does(
            per_second in 1u32..1000, burst in 1u32..50, pauses in proptest::collection::vec(0u64..2_000_000, 1..200),
        ) {
            let (all, limits) = (Arc::new(ClientLimits::new()), limits(0, &format!("{per_second}/s"), burst));
            let interval = limits.rate.unwrap().interval();
            let (mut now, mut tokens, mut filled) = (ms(0), u128::from(burst), ms(0));
            for pause in pauses {
                now += Duration::from_micros(pause);
                let steps = (now - filled).as_nanos() / interval.as_nanos();
                tokens = (tokens + steps).min(burst.into());
                // A full bucket begins to fill again when a token is taken.
                filled = if tokens == u128::from(burst) { now } else { filled + interval * steps as u32 };
                let admitted = all.admit(client("192.0.2.1"), &limits, now).is_ok();
                prop_assert_eq!(admitted, tokens > 0);
                tokens = tokens.saturating_sub(1);
            }
        }
    }
}
