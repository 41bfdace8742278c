//! The arriving connections: when, from which client, and with which service demand.
//!
//! Arrivals do not depend on the choices, so all compared algorithms get the same traffic.

use std::net::Ipv4Addr;
use std::time::Duration;

use rand::rngs::Xoshiro256PlusPlus;
use rand::{Rng, RngExt, SeedableRng};
use rand_distr::{Distribution, Exp1, Pareto, Zipf};

use super::plan::{Arrivals, Clients, ServiceTime, Until};
use super::scenario::Scenario;
use crate::balance::hash;
use crate::config::HashKey;

/// The longest service time in seconds, about thirty years: a heavy tail must still fit a `Duration`.
const LONGEST: f64 = 1e9;

/// An arriving connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Arrival {
    pub(super) at: Duration,
    /// The number of the client, from 0.
    pub(super) client: u32,
    /// The client's port.
    pub(super) port: u16,
    /// The seed of its service time, for [`service_time`].
    pub(super) demand: u64,
    /// The random number for the choice.
    pub(super) random: u64,
}

/// All arrivals in order. Each aspect has its own random generator, so that other clients do not change the arrival
/// times.
#[derive(Clone, Debug)]
pub(super) struct Traffic {
    arrivals: Arrivals,
    rate: f64,
    clients: ClientDraw,
    until: Until,
    /// Connections so far.
    number: u64,
    /// Seconds, as a sum of many steps below a nanosecond must stay exact.
    now: f64,
    arrival_rng: Xoshiro256PlusPlus,
    client_rng: Xoshiro256PlusPlus,
    demand_rng: Xoshiro256PlusPlus,
    choice_rng: Xoshiro256PlusPlus,
}

#[derive(Clone, Debug)]
enum ClientDraw {
    Alike(u32),
    Zipf(Zipf<f64>),
}

impl ClientDraw {
    fn new(clients: Clients) -> Self {
        match Zipf::new(f64::from(clients.number), clients.exponent) {
            Ok(zipf) if clients.exponent > 0.0 => Self::Zipf(zipf),
            _ => Self::Alike(clients.number),
        }
    }

    fn draw(&self, random: &mut impl Rng) -> u32 {
        match self {
            Self::Alike(number) => random.random_range(0..*number),
            Self::Zipf(zipf) => zipf.sample(random) as u32 - 1, // it counts from 1
        }
    }
}

impl Traffic {
    pub(super) fn new(scenario: &Scenario) -> Self {
        let mut seed = Xoshiro256PlusPlus::seed_from_u64(scenario.seed);
        let mut source = || Xoshiro256PlusPlus::from_rng(&mut seed);
        Self {
            arrivals: scenario.arrivals,
            rate: scenario.rate,
            clients: ClientDraw::new(scenario.clients),
            until: scenario.until,
            number: 0,
            now: 0.0,
            arrival_rng: source(),
            client_rng: source(),
            demand_rng: source(),
            choice_rng: source(),
        }
    }

    /// Seconds from the last connection to the next.
    fn gap(&mut self) -> f64 {
        let exponential = |rng: &mut _| -> f64 { Exp1.sample(rng) };
        match self.arrivals {
            Arrivals::Steady => 1.0 / self.rate,
            Arrivals::Poisson => exponential(&mut self.arrival_rng) / self.rate,
            Arrivals::Bursts(size) if self.number.is_multiple_of(size.into()) => {
                exponential(&mut self.arrival_rng) * f64::from(size) / self.rate
            }
            Arrivals::Bursts(_) => 0.0,
        }
    }
}

impl Iterator for Traffic {
    type Item = Arrival;

    fn next(&mut self) -> Option<Arrival> {
        self.now += self.gap();
        let at = Duration::from_secs_f64(self.now);
        let over = match self.until {
            Until::Connections(number) => self.number >= number,
            Until::Time(time) => at > time,
        };
        if over {
            return None;
        }
        self.number += 1;
        Some(Arrival {
            at,
            client: self.clients.draw(&mut self.client_rng),
            port: self.client_rng.random_range(32_768..61_000), // Linux's ephemeral ports
            demand: self.demand_rng.next_u64(),
            random: self.choice_rng.next_u64(),
        })
    }
}

/// How long a connection is served: the same demand is a long one at every backend.
pub(super) fn service_time(service: ServiceTime, demand: u64) -> Duration {
    let random = &mut Xoshiro256PlusPlus::seed_from_u64(demand);
    let seconds = match service {
        ServiceTime::Fixed(time) => return time,
        ServiceTime::Exponential(mean) => {
            let one: f64 = Exp1.sample(random);
            one * mean.as_secs_f64()
        }
        ServiceTime::Pareto { mean, alpha } => {
            // The mean of Pareto's distribution is scale × alpha / (alpha − 1).
            let scale = mean.as_secs_f64() * (alpha - 1.0) / alpha;
            Pareto::new(scale, alpha).map_or(mean.as_secs_f64(), |pareto| pareto.sample(random))
        }
    };
    Duration::from_secs_f64(seconds.min(LONGEST))
}

/// The hash of a client. Each has its own address, spread over all IPv4 addresses.
pub(super) fn client_hash(client: u32, port: u16, key: HashKey) -> u64 {
    // Any odd factor maps numbers one to one; this one (Knuth, TAOCP 3, section 6.4) puts neighbors far apart.
    let address = Ipv4Addr::from(client.wrapping_add(1).wrapping_mul(0x9e37_79b1));
    hash::client(address.into(), port, key)
}

#[cfg(test)]
mod tests {
    use super::super::plan::SimulationPlan;
    use super::super::tests::plan;
    use super::*;

    fn traffic(change: impl FnOnce(&mut SimulationPlan)) -> Traffic {
        let mut plan = plan("a");
        change(&mut plan);
        Traffic::new(&plan.scenario().unwrap())
    }

    fn assert_near(found: f64, wanted: f64, tolerance: f64) {
        assert!((found / wanted - 1.0).abs() < tolerance, "{found} is not near {wanted}");
    }

    #[test]
    fn all_arrival_processes_keep_the_rate() {
        for arrivals in [Arrivals::Steady, Arrivals::Poisson, Arrivals::Bursts(50)] {
            let all = traffic(|plan| {
                plan.arrivals = arrivals;
                plan.until = Until::Time(Duration::from_secs(1_000));
            });
            assert_near(all.count() as f64, 200.0 * 1_000.0, 0.02);
        }
    }

    #[test]
    fn a_burst_arrives_at_one_instant() {
        let all: Vec<_> = traffic(|plan| plan.arrivals = Arrivals::Bursts(50)).take(150).collect();
        let bursts: Vec<_> = all.chunk_by(|one, other| one.at == other.at).map(<[_]>::len).collect();
        assert_eq!(bursts, [50, 50, 50]);
    }

    #[test]
    fn gaps_of_poisson_arrivals_deviate_by_their_mean() {
        let at: Vec<_> = traffic(|_| ()).take(100_000).map(|arrival| arrival.at.as_secs_f64()).collect();
        let gaps: Vec<_> = at.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert_near(mean, 1.0 / 200.0, 0.02);
        assert_near(variance.sqrt(), mean, 0.02);
    }

    #[test]
    fn every_distribution_has_the_requested_mean() {
        let mean = Duration::from_millis(10);
        for (service, tolerance) in [
            (ServiceTime::Fixed(mean), 1e-9),
            (ServiceTime::Exponential(mean), 0.01),
            (ServiceTime::Pareto { mean, alpha: 3.0 }, 0.02),
            (ServiceTime::Pareto { mean, alpha: 1.8 }, 0.1),
        ] {
            let times = traffic(|_| ()).take(200_000).map(|one| service_time(service, one.demand));
            assert_near(times.sum::<Duration>().as_secs_f64() / 200_000.0, 0.01, tolerance);
        }
    }

    #[test]
    fn the_heaviest_tail_fits_a_duration() {
        let service = ServiceTime::Pareto { mean: Duration::from_secs(1_000_000), alpha: 1.01 };
        assert!((0..100_000).all(|demand| service_time(service, demand).as_secs_f64() <= LONGEST));
    }

    #[test]
    fn the_first_client_of_zipf_comes_twice_as_often_as_the_second() {
        let clients = Clients { number: 100, exponent: 1.0 };
        let mut counts = [0u32; 100];
        for arrival in traffic(|plan| plan.clients = clients).take(200_000) {
            counts[arrival.client as usize] += 1;
        }
        assert_near(f64::from(counts[0]), 2.0 * f64::from(counts[1]), 0.03);
        assert!(counts.iter().all(|&count| count > 0));
    }

    #[test]
    fn other_clients_do_not_change_when_connections_arrive() {
        let when = |clients| {
            traffic(move |plan| plan.clients = clients)
                .take(1_000)
                .map(|one| (one.at, one.demand))
                .collect::<Vec<_>>()
        };
        assert_eq!(when(Clients { number: 10, exponent: 0.0 }), when(Clients { number: 99, exponent: 1.2 }));
    }

    #[test]
    fn no_two_clients_share_an_address() {
        let hashes: std::collections::HashSet<_> =
            (0..100_000).map(|client| client_hash(client, 1, HashKey::SourceIp)).collect();
        assert_eq!(hashes.len(), 100_000);
    }
}
