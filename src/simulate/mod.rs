//! Simulates an algorithm in virtual time.
//!
//! Backends, traffic and events are synthetic ([`SimulationPlan`]), and all randomness follows from a seed; but
//! [`balance::Picker`](crate::balance::Picker), the code of the data plane, makes the choices. Arrivals do not depend on
//! the choices, so all compared algorithms get the same connections at the same times with the same service demand.
//!
//! # The model
//!
//! A backend has servers and one first-come, first-served queue before them. A connection occupies a server for its
//! service time and waits while none is free. To the balancer it is open from its arrival until it is served. A backend
//! has four servers per unit of weight unless `--servers` sets another number. A backend that goes down closes its
//! connections; one that leaves lets them finish.
//!
//! Not modeled: the network, connect times, retries (a closed connection does not return), `limits`, `slow_start`,
//! backups, the delay of health checks. [`report`] explains each field of the result.
//!
//! # When does round robin do badly?
//!
//! When connections live for very different times. Here most are short and a few very long, at a load of 70 %:
//!
//! ```text
//! $ pointsman simulate --backends a,b,c,d --balance round-robin,least-connections \
//!       --service pareto:10ms --connections 50000
//!                                           waiting time      response time
//!                         p50      p90      p99      max       p50      p99
//! round-robin               0  8.10 ms  65.0 ms   171 ms   6.33 ms   113 ms
//! least-connections         0        0  5.92 ms  38.9 ms   5.52 ms  73.2 ms
//! ```
//!
//! Round robin hands out connections evenly; it does not see that long ones have piled up at a backend, and keeps
//! sending there. When all connections are alike and come in even steps (`--service fixed:10ms --arrivals steady`), no
//! connection waits under either algorithm, and round robin is enough.
//!
//! # What do sticky clients cost?
//!
//! Evenness. Here a few clients send most connections, and halfway through one of four backends fails:
//!
//! ```text
//! $ pointsman simulate --backends a,b,c,d --balance least-connections,source-hash,ring-hash,maglev \
//!       --clients 1000:zipf --duration 40s --at 20s down=b
//!                                           waiting time      response time
//!                         p50      p90      p99      max       p50      p99
//! least-connections         0  11.5 ms  27.3 ms  51.4 ms   9.94 ms  52.3 ms
//! source-hash         19.1 ms   1.21 s   2.08 s   2.19 s   32.6 ms   2.09 s
//! ring-hash           14.5 ms   1.41 s   2.83 s   3.07 s   29.1 ms   2.84 s
//! maglev              5.46 ms   395 ms   615 ms   676 ms   18.3 ms   627 ms
//!
//! 20 s down=b (ideal: 25.0 % of the clients move)
//!   least-connections  keeps no client at a backend, 3 connections cut
//!   source-hash        342 of 989 clients moved (34.6 %), 53 connections cut
//!   ring-hash          242 of 989 clients moved (24.5 %), 1475 connections cut
//!   maglev             246 of 989 clients moved (24.9 %), 0 connections cut
//! ```
//!
//! A backend gets all connections of its clients, however many there are: clients that share it with the busiest ones
//! wait for seconds at high load. And a failure moves clients: with consistent hashing (`ring-hash`, `maglev`) only
//! those of the failed backend, with `source-hash` some others, too; each loses its session or cache. `--load-factor 1.25`
//! recovers most of the cost: no backend may exceed its share by more than a quarter, the excess goes elsewhere, and
//! `ring-hash` waits 33.8 ms at p99 in the same run.
//!
//! # Does one more backend always help?
//!
//! No. Two backends get 500 connections a second; then a third joins, five times as slow:
//!
//! ```text
//! $ pointsman simulate --backends a,b --rate 500/s --balance round-robin,least-connections,ewma
//!                                           waiting time      response time
//!                         p50      p90      p99      max       p50      p99
//! round-robin               0  4.53 ms  17.5 ms  65.7 ms   8.20 ms  48.8 ms
//! least-connections         0  1.85 ms  11.4 ms  34.9 ms   7.63 ms  47.1 ms
//! ewma                      0  2.31 ms  12.3 ms  40.2 ms   7.73 ms  47.1 ms
//!
//! $ pointsman simulate --backends a,b,c --rate 500/s --service c=exp:50ms \
//!       --balance round-robin,least-connections,ewma
//!                                           waiting time      response time
//!                         p50      p90      p99      max       p50      p99
//! round-robin               0    150 s    210 s    217 s   13.9 ms    210 s
//! least-connections         0        0  9.13 ms   114 ms   8.15 ms   128 ms
//! ewma                      0  2.35 ms  12.1 ms  35.6 ms   8.11 ms  72.9 ms
//! ```
//!
//! Under round robin the slow backend gets a third, more than it can serve: its queue keeps growing, and the pool of
//! three is far worse than that of two. Under `least-connections` the wait becomes shorter, but connections to the slow
//! backend are served slowly, so that the slowest responses are slower than before. `ewma`, which measures latency,
//! sends it the least. Weights (`a*5,b*5,c`) help the algorithms that use them.

mod backend;
mod chart;
mod measure;
mod moved_clients;
pub mod notation;
mod plan;
pub mod report;
mod scenario;
mod simulation;
mod table;
mod traffic;

pub use plan::{
    Arrivals, BackendSpec, Clients, Intensity, PlannedEvent, Servers, ServiceTime, Setting, SimulationPlan,
    Until,
};
pub use report::SimulationReport;
pub use scenario::Error;

#[cfg(test)]
mod tests;
