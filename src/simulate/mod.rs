//! An algorithm on paper, before it meets traffic.
//!
//! Backends, traffic and events are made up ([`Plan`]); time is virtual and everything random follows from a seed; but
//! the choice is made by [`balance::Picker`](crate::balance::Picker), the very code that chooses under traffic. What
//! comes does not depend on who serves it, so all algorithms that are compared meet the same connections in the same
//! moments, each as heavy for the one as for the other.
//!
//! # The world
//!
//! A backend has some servers and one line before them, first come first served. A connection takes a server for its
//! service time; until one is free, it waits. To the balancer it is open from its arrival until it is served. As a
//! weight says what a backend can do, one has four servers for each unit of it, unless `--servers` says otherwise. A
//! backend that goes down cuts its connections off; one that leaves lets them finish.
//!
//! What is left out: the network, the time to connect, retries (who was cut off does not come again), `limits`,
//! `slow_start`, backups, health checks that take their time. The figures are explained field by field in [`report`].
//!
//! # When does round robin do badly?
//!
//! When connections live for very different times. Most of these are short and a few very long; the load is the same
//! 70 % for both algorithms:
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
//! Round robin counts what it has handed out, to the last connection evenly; it does not see that the long ones have
//! piled up somewhere, and goes on sending there. Where all connections are alike and come in even steps
//! (`--service fixed:10ms --arrivals steady`), nobody waits under either, and round robin is all it takes.
//!
//! # What do sticky clients cost?
//!
//! Evenness. Here a few clients come often, as they do, and halfway through one of four backends fails:
//!
//! ```text
//! $ pointsman simulate --backends a,b,c,d --balance least-connections,source-hash,ring-hash,maglev \
//!       --clients 1000:zipf --duration 40s --at 20s down=b
//!                                           waiting time      response time
//!                         p50      p90      p99      max       p50      p99
//! least-connections         0  11.5 ms  27.3 ms  51.4 ms   9.94 ms  52.3 ms
//! source-hash          166 ms   1.12 s   2.55 s   2.68 s    175 ms   2.56 s
//! ring-hash           6.19 ms   418 ms   942 ms   1.02 s   19.1 ms   951 ms
//! maglev              9.57 ms   2.19 s   4.07 s   4.35 s   23.9 ms   4.08 s
//!
//! 20 s down=b (ideal: 25.0 % of the clients move)
//!   least-connections  keeps no client at a backend, 3 connections cut
//!   source-hash        753 of 989 clients moved (76.1 %), 1250 connections cut
//!   ring-hash          218 of 989 clients moved (22.0 %), 33 connections cut
//!   maglev             252 of 989 clients moved (25.5 %), 6 connections cut
//! ```
//!
//! A backend gets whoever is at home there, however many that are and however often they come: those who share it with
//! the busiest clients wait for seconds once the load is high. And a failure moves clients: as many as lived there
//! where hashing is consistent (`ring-hash`, `maglev`), three of four where it is not (`source-hash`), each of whom
//! finds no session, no cache, where it comes to. Most of the price can be had back: with `--load-factor 1.25` no
//! backend may have more than a quarter above its share, who comes too much goes elsewhere, and `ring-hash` waits
//! 34.9 ms at p99 in the same run.
//!
//! # Does one more backend always help?
//!
//! No. Two backends have 500 connections a second; then a third comes, five times as slow:
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
//! Under round robin the third gets a third, which is more than it can ever serve: its line grows for as long as they
//! come, and the pool with three is far worse than with two. Under `least-connections` the wait becomes shorter, as one
//! hopes; yet who is sent to the slow one is served slowly, and the slowest responses are slower than before. `ewma`,
//! which goes by how long answers take, sends it the least. A weight that says what a backend can do (`a*5,b*5,c`)
//! helps those that heed weights.

mod chart;
mod homes;
mod measure;
mod plan;
pub mod report;
mod scenario;
mod server;
mod table;
mod traffic;
pub mod words;
mod world;

pub use plan::{Arrivals, Change, Clients, Event, Intensity, Plan, Servers, Service, Setting, Share, Until};
pub use report::Report;
pub use scenario::{Error, Scenario};

#[cfg(test)]
mod tests;
