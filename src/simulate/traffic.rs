//! The connections that come: when, from whom, and how heavy each is.
//!
//! What comes does not depend on who serves it, so every algorithm that is compared meets the very same traffic.

use std::net::Ipv4Addr;
use std::time::Duration;

use rand::rngs::Xoshiro256PlusPlus;
use rand::{Rng, RngExt, SeedableRng};
use rand_distr::{Distribution, Exp1, Pareto, Zipf};

use super::plan::{Arrivals, Clients, Service, Until};
use super::scenario::Scenario;
use crate::balance::hash;
use crate::config::HashKey;

/// No service takes longer, as heavy as its tail may be: about thirty years.
const LONGEST: f64 = 1e9;

/// One connection that comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Arrival {
    pub(super) at: Duration,
    /// Who it comes from, from 0.
    pub(super) client: u32,
    /// The client's port.
    pub(super) port: u16,
    /// How heavy it is: what [`service_time`] makes a time of.
    pub(super) weight: u64,
    /// What the algorithms get that want a random number.
    pub(super) random: u64,
}

/// All that come, in order. Each aspect has a source of randomness of its own, so that who changes the clients does
/// not change the arrivals with them.
#[derive(Clone, Debug)]
pub(super) struct Traffic {
    arrivals: Arrivals,
    rate: f64,
    who: Who,
    until: Until,
    /// Connections so far.
    number: u64,
    /// Seconds: a sum of many steps that are shorter than a nanosecond is still right.
    now: f64,
    when: Xoshiro256PlusPlus,
    whose: Xoshiro256PlusPlus,
    weight: Xoshiro256PlusPlus,
    choice: Xoshiro256PlusPlus,
}

#[derive(Clone, Debug)]
enum Who {
    Alike(u32),
    Zipf(Zipf<f64>),
}

impl Who {
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
            who: Who::new(scenario.clients),
            until: scenario.until,
            number: 0,
            now: 0.0,
            when: source(),
            whose: source(),
            weight: source(),
            choice: source(),
        }
    }

    /// Seconds from the connection before to the next.
    fn gap(&mut self) -> f64 {
        let random = |when: &mut _| -> f64 { Exp1.sample(when) };
        match self.arrivals {
            Arrivals::Steady => 1.0 / self.rate,
            Arrivals::Poisson => random(&mut self.when) / self.rate,
            Arrivals::Bursts(size) if self.number.is_multiple_of(size.into()) => {
                random(&mut self.when) * f64::from(size) / self.rate
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
            client: self.who.draw(&mut self.whose),
            port: self.whose.random_range(32_768..61_000), // as Linux gives them
            weight: self.weight.next_u64(),
            random: self.choice.next_u64(),
        })
    }
}

/// How long a connection of this weight is served: the same weight is a heavy one at every backend.
pub(super) fn service_time(service: Service, weight: u64) -> Duration {
    let random = &mut Xoshiro256PlusPlus::seed_from_u64(weight);
    let seconds = match service {
        Service::Fixed(time) => return time,
        Service::Exponential(mean) => {
            let one: f64 = Exp1.sample(random);
            one * mean.as_secs_f64()
        }
        Service::Pareto { mean, alpha } => {
            // The mean of Pareto's distribution is scale × alpha / (alpha − 1).
            let scale = mean.as_secs_f64() * (alpha - 1.0) / alpha;
            Pareto::new(scale, alpha).map_or(mean.as_secs_f64(), |pareto| pareto.sample(random))
        }
    };
    Duration::from_secs_f64(seconds.min(LONGEST))
}

/// The hash of a client. Each has an address of its own, and they are spread over all there are.
pub(super) fn client_hash(client: u32, port: u16, key: HashKey) -> u64 {
    // Any odd factor gives every number another one; this one (Knuth, TAOCP 3, section 6.4) puts neighbours far apart.
    let address = Ipv4Addr::from(client.wrapping_add(1).wrapping_mul(0x9e37_79b1));
    hash::client(address.into(), port, key)
}

#[cfg(test)]
mod tests {
    use super::super::plan::Plan;
    use super::super::tests::plan;
    use super::*;

    fn traffic(change: impl FnOnce(&mut Plan)) -> Traffic {
        let mut plan = plan("a");
        change(&mut plan);
        Traffic::new(&plan.scenario().unwrap())
    }

    fn assert_near(found: f64, wanted: f64, tolerance: f64) {
        assert!((found / wanted - 1.0).abs() < tolerance, "{found} is not near {wanted}");
    }

    #[test]
    fn whatever_the_way_they_arrive_so_many_come_in_a_second() {
        for arrivals in [Arrivals::Steady, Arrivals::Poisson, Arrivals::Bursts(50)] {
            let all = traffic(|plan| {
                plan.arrivals = arrivals;
                plan.until = Until::Time(Duration::from_secs(1_000));
            });
            assert_near(all.count() as f64, 200.0 * 1_000.0, 0.02);
        }
    }

    #[test]
    fn a_burst_comes_in_one_instant() {
        let all: Vec<_> = traffic(|plan| plan.arrivals = Arrivals::Bursts(50)).take(150).collect();
        let bursts: Vec<_> = all.chunk_by(|one, other| one.at == other.at).map(<[_]>::len).collect();
        assert_eq!(bursts, [50, 50, 50]);
    }

    #[test]
    fn gaps_of_poisson_arrivals_vary_as_much_as_they_are_long() {
        let at: Vec<_> = traffic(|_| ()).take(100_000).map(|arrival| arrival.at.as_secs_f64()).collect();
        let gaps: Vec<_> = at.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert_near(mean, 1.0 / 200.0, 0.02);
        assert_near(variance.sqrt(), mean, 0.02);
    }

    #[test]
    fn every_distribution_has_the_mean_that_was_asked_for() {
        let mean = Duration::from_millis(10);
        for (service, tolerance) in [
            (Service::Fixed(mean), 1e-9),
            (Service::Exponential(mean), 0.01),
            (Service::Pareto { mean, alpha: 3.0 }, 0.02),
            (Service::Pareto { mean, alpha: 1.8 }, 0.1),
        ] {
            let times = traffic(|_| ()).take(200_000).map(|one| service_time(service, one.weight));
            assert_near(times.sum::<Duration>().as_secs_f64() / 200_000.0, 0.01, tolerance);
        }
    }

    #[test]
    fn the_heaviest_tail_still_is_a_time() {
        let service = Service::Pareto { mean: Duration::from_secs(1_000_000), alpha: 1.01 };
        assert!((0..100_000).all(|weight| service_time(service, weight).as_secs_f64() <= LONGEST));
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
                .map(|one| (one.at, one.weight))
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
