//! What the kernel can do for a listener (`plane: kernel`).

use super::model::{Buffers, Listener, NoBackend, Pool, Replay, SocketOptions, Source};
use crate::config::{Algorithm, HashKey};
use crate::domain::SocketAddress;

impl Listener {
    /// What its settings and those of its pool ask for that the kernel cannot do, each as a clause without a subject but with
    /// the key; empty: the kernel can forward its connections. `pool`: finds a pool by its name.
    pub fn kernel_obstacles<'p>(&self, pool: impl Fn(&str) -> Option<&'p Pool>) -> Vec<String> {
        let mut obstacles = Vec::new();
        let mut unless = |possible: bool, obstacle: &str| {
            if !possible {
                obstacles.push(obstacle.to_owned());
            }
        };
        let tcp = self.bind.iter().map(SocketAddress::tcp);
        unless(tcp.clone().all(|address| address.is_some()), "bind: a Unix socket has no packets to forward");
        let loopback = tcp.flatten().any(|address| address.ip().to_canonical().is_loopback());
        unless(
            !loopback,
            "bind: packets to a loopback address are not forwarded; use an address of an interface",
        );
        let one_pool = self.pool.as_ref().and_then(|pool| pool.single());
        unless(
            one_pool.is_some(),
            "sources, alpn, sni, and shares of several pools need the connection to be accepted first",
        );
        unless(
            matches!(self.no_backend, NoBackend::Reset | NoBackend::Refuse),
            "no_backend: the kernel can only refuse a connection (reset or refuse)",
        );
        unless(self.max_connections.is_none(), "max_connections: the kernel does not limit connections");
        unless(
            self.allow.is_empty() && self.deny.is_empty(),
            "allow, deny: filter packets in a firewall instead",
        );
        unless(self.per_client.is_none(), "per_client: the kernel does not count connections by client");
        unless(self.bandwidth.is_none(), "bandwidth: the kernel does not limit bytes");
        unless(self.proxy_protocol.is_none(), "proxy_protocol: the kernel reads no PROXY header");
        unless(self.buffers == Buffers::default(), "buffers: forwarded packets do not wait in buffers");
        let options = SocketOptions { keepalive: self.options.keepalive, ..SocketOptions::NONE };
        unless(self.options == options, "defer_accept, fast_open, user_timeout, backlog: there is no socket");
        if let Some(pool) = one_pool.and_then(|name| pool(name)) {
            obstacles.extend(pool.kernel_obstacles());
        }
        obstacles
    }
}

impl Pool {
    /// The same for a pool.
    fn kernel_obstacles(&self) -> Vec<String> {
        let mut obstacles = Vec::new();
        let mut unless = |possible: bool, obstacle: &str| {
            if !possible {
                obstacles.push(obstacle.to_owned());
            }
        };
        let balance = self.balance;
        let with_table = matches!(
            balance,
            Algorithm::RoundRobin
                | Algorithm::Weighted
                | Algorithm::Random
                | Algorithm::SourceHash
                | Algorithm::Maglev
        );
        let message = format!(
            "balance: the kernel cannot choose by {}; use round-robin, weighted, random, source-hash or maglev",
            balance.name()
        );
        unless(with_table, &message);
        let hashes = balance.hashes();
        unless(!hashes || self.hash.key != HashKey::Sni, "hash.key: the kernel reads no ClientHello");
        unless(
            !hashes || self.hash.load_factor.is_none(),
            "hash.load_factor: the kernel does not know the loads",
        );
        unless(self.shadow.is_empty(), "shadow: the choices of the kernel are not repeated");
        let slow = self.eject.as_ref().is_some_and(|eject| eject.slow.is_some());
        unless(!slow, "eject.slow: the time to the first byte is not known");
        unless(self.connect.source.is_empty(), "connect.source: the kernel chooses the source address");
        unless(!self.connect.transparent, "connect.transparent: use `client_address: keep` of the listener");
        let attempts = [Self::default().connect.attempts, 1];
        unless(
            attempts.contains(&self.connect.attempts),
            "connect.attempts: the kernel tries no other backend",
        );
        unless(self.replay != Replay::Always, "replay: the kernel tries no other backend");
        unless(self.rebalance.is_none(), "rebalance: it is not known how long a connection has been idle");
        unless(
            self.timeouts.lifetime.is_none(),
            "timeouts.lifetime: the kernel does not limit the age of a connection",
        );
        unless(self.user_timeout.is_none(), "user_timeout: there is no socket");
        unless(self.buffers == Buffers::default(), "buffers: forwarded packets do not wait in buffers");
        let has_limit = |source: &Source| match source {
            Source::Static(backends) => backends.iter().any(|backend| backend.connections.is_some()),
            _ => false,
        };
        let limited = self.limits.connections.is_some() || self.limits.queue > 0;
        unless(
            !limited && !self.discover.iter().any(has_limit),
            "limits, connections: the kernel does not limit the connections of a backend",
        );
        unless(self.send_proxy_protocol.is_none(), "send_proxy_protocol: the kernel writes no PROXY header");
        unless(!self.is_postgres(), "postgres: requests to cancel a query are not copied to all backends");
        obstacles
    }
}
