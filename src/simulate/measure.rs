//! What is measured while the world goes on: times, and how even the load is.

use std::time::Duration;

use super::report::{Imbalance, Spread, rounded};
use super::server::Server;

/// So often is looked at the load, in even steps over the whole time.
const LOOKS: u32 = 10_000;

/// Times that connections took.
#[derive(Debug, Default)]
pub(super) struct Times(Vec<u64>);

impl Times {
    pub(super) fn add(&mut self, time: Duration) {
        self.0.push(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    /// In milliseconds; `None`: there are none.
    pub(super) fn figures(mut self) -> Option<Spread> {
        self.0.sort_unstable();
        let milliseconds = |nanoseconds: f64| rounded(nanoseconds / 1e6);
        // The least that so many percent are not above.
        let percentile = |percent: usize| {
            let rank = (self.0.len() * percent).div_ceil(100);
            self.0.get(rank.saturating_sub(1)).map(|&time| milliseconds(time as f64))
        };
        let sum: f64 = self.0.iter().map(|&time| time as f64).sum();
        Some(Spread {
            mean: milliseconds(sum / self.0.len() as f64),
            p50: percentile(50)?,
            p90: percentile(90)?,
            p99: percentile(99)?,
            max: percentile(100)?,
        })
    }
}

/// How even the load is: connections for each unit of weight.
#[derive(Debug)]
pub(super) struct Balance {
    step: Duration,
    next: Duration,
    looks: u64,
    /// Sums over all looks.
    busiest: f64,
    mean: f64,
    /// The most that any backend ever had.
    peak: f64,
}

impl Balance {
    /// Looks are spread over this time.
    pub(super) fn over(time: Duration) -> Self {
        let step = (time / LOOKS).max(Duration::from_nanos(1));
        Self { step, next: step, looks: 0, busiest: 0.0, mean: 0.0, peak: 0.0 }
    }

    /// Takes the looks that are due until `now`; nothing has changed since the one before.
    pub(super) fn until(&mut self, now: Duration, servers: &[Server]) {
        if now < self.next {
            return;
        }
        let eligible = || servers.iter().filter(|server| server.eligible());
        let busiest = eligible().map(Server::relative_load).fold(0.0, f64::max);
        let connections: f64 = eligible().map(|server| f64::from(server.load.open())).sum();
        let weights: f64 = eligible().map(|server| f64::from(server.weight)).sum();
        while self.next <= now {
            self.next += self.step;
            self.looks += 1;
            self.busiest += busiest;
            self.mean += connections / weights.max(1.0);
        }
    }

    /// A backend has so many connections for its weight.
    pub(super) fn peak(&mut self, load: f64) {
        self.peak = self.peak.max(load);
    }

    /// `shares` are the connections that each backend got, and those that its weight had promised.
    pub(super) fn figures(&self, shares: impl Iterator<Item = (f64, f64)>) -> Imbalance {
        let ratios: Vec<f64> =
            shares.filter(|&(_, promised)| promised > 0.0).map(|(got, promised)| got / promised).collect();
        let number = ratios.len().max(1) as f64;
        let mean = ratios.iter().sum::<f64>() / number;
        let variance = ratios.iter().map(|ratio| (ratio - mean).powi(2)).sum::<f64>() / number;
        let to_mean = |load: f64| (self.mean > 0.0).then(|| rounded(load / self.mean));
        Imbalance {
            average: to_mean(self.busiest),
            peak: to_mean(self.peak * self.looks as f64),
            variation: if mean > 0.0 { rounded(variance.sqrt() / mean) } else { 0.0 },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan::Servers;
    use super::*;

    #[test]
    fn a_percentile_is_the_least_that_so_many_are_not_above() {
        let times = |milliseconds: std::ops::Range<u64>| {
            let mut times = Times::default();
            milliseconds.for_each(|time| times.add(Duration::from_millis(time)));
            times.figures().map(|spread| [spread.mean, spread.p50, spread.p90, spread.p99, spread.max])
        };
        assert_eq!(times(1..101), Some([50.5, 50.0, 90.0, 99.0, 100.0]));
        assert_eq!(times(7..8), Some([7.0; 5]));
        assert_eq!(times(0..0), None);
    }

    #[test]
    fn imbalance_is_the_busiest_against_the_mean_by_weight_over_time() {
        let mut servers = [3, 1].map(|weight| Server::new(weight, Servers::Unlimited, true));
        let mut balance = Balance::over(Duration::from_secs(10_000)); // a look each second
        let at = Duration::from_secs;
        for _ in 0..3 {
            servers[0].enter(at(0), at(1)); // 3 / 3 against 0 / 1: the mean is 3 / 4
        }
        balance.peak(1.0);
        balance.until(at(10), &servers);
        servers[1].enter(at(10), at(1)); // all have 1
        balance.until(at(20), &servers);
        let Imbalance { average, peak, variation } = balance.figures([(3.0, 3.0), (2.0, 1.0)].into_iter());
        assert_eq!(average, Some(rounded(20.0 / (7.5 + 10.0))));
        assert_eq!(peak, Some(rounded(1.0 / 0.875)));
        assert_eq!(variation, rounded(1.0 / 3.0)); // 1 and 2: 0.5 from 1.5
    }
}
