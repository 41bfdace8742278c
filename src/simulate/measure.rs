//! The measurements of a run: durations, and the imbalance of the load.

use std::time::Duration;

use super::backend::SimulatedBackend;
use super::report::{Imbalance, Spread, rounded};

/// Samples of the load, at even intervals over the run.
const SAMPLES: u32 = 10_000;

/// Durations of one kind, one per connection.
#[derive(Debug, Default)]
pub(super) struct DurationSamples(Vec<u64>);

impl DurationSamples {
    pub(super) fn add(&mut self, time: Duration) {
        self.0.push(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Their spread in milliseconds; `None` without samples.
    pub(super) fn figures(mut self) -> Option<Spread> {
        self.0.sort_unstable();
        let milliseconds = |nanoseconds: f64| rounded(nanoseconds / 1e6);
        // Nearest rank.
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

/// Samples how even the load (open connections per unit of weight) is.
#[derive(Debug)]
pub(super) struct LoadSampler {
    step: Duration,
    next: Duration,
    samples: u64,
    /// Sums over all samples.
    busiest: f64,
    mean: f64,
    /// The highest load of any backend.
    peak: f64,
}

impl LoadSampler {
    /// Spreads the samples over this time.
    pub(super) fn over(time: Duration) -> Self {
        let step = (time / SAMPLES).max(Duration::from_nanos(1));
        Self { step, next: step, samples: 0, busiest: 0.0, mean: 0.0, peak: 0.0 }
    }

    /// Takes the samples due by `now`; no load may have changed since the last call.
    pub(super) fn until(&mut self, now: Duration, backends: &[SimulatedBackend]) {
        if now < self.next {
            return;
        }
        let eligible = || backends.iter().filter(|backend| backend.eligible());
        let busiest = eligible().map(SimulatedBackend::relative_load).fold(0.0, f64::max);
        let connections: f64 = eligible().map(|backend| f64::from(backend.load.open())).sum();
        let weights: f64 = eligible().map(|backend| f64::from(backend.weight)).sum();
        while self.next <= now {
            self.next += self.step;
            self.samples += 1;
            self.busiest += busiest;
            self.mean += connections / weights.max(1.0);
        }
    }

    /// Records the load of one backend.
    pub(super) fn peak(&mut self, load: f64) {
        self.peak = self.peak.max(load);
    }

    /// `shares` are the connections of each backend, and the number expected from its weight.
    pub(super) fn figures(&self, shares: impl Iterator<Item = (f64, f64)>) -> Imbalance {
        let ratios: Vec<f64> =
            shares.filter(|&(_, promised)| promised > 0.0).map(|(got, promised)| got / promised).collect();
        let number = ratios.len().max(1) as f64;
        let mean = ratios.iter().sum::<f64>() / number;
        let variance = ratios.iter().map(|ratio| (ratio - mean).powi(2)).sum::<f64>() / number;
        let to_mean = |load: f64| (self.mean > 0.0).then(|| rounded(load / self.mean));
        Imbalance {
            average: to_mean(self.busiest),
            peak: to_mean(self.peak * self.samples as f64),
            variation: if mean > 0.0 { rounded(variance.sqrt() / mean) } else { 0.0 },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan::Servers;
    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks() {
        let times = |milliseconds: std::ops::Range<u64>| {
            let mut times = DurationSamples::default();
            milliseconds.for_each(|time| times.add(Duration::from_millis(time)));
            times.figures().map(|spread| [spread.mean, spread.p50, spread.p90, spread.p99, spread.max])
        };
        assert_eq!(times(1..101), Some([50.5, 50.0, 90.0, 99.0, 100.0]));
        assert_eq!(times(7..8), Some([7.0; 5]));
        assert_eq!(times(0..0), None);
    }

    #[test]
    fn imbalance_compares_the_busiest_load_with_the_mean() {
        let mut backends = [3, 1].map(|weight| SimulatedBackend::new(weight, Servers::Unlimited, true));
        let mut balance = LoadSampler::over(Duration::from_secs(10_000)); // one sample a second
        let at = Duration::from_secs;
        for _ in 0..3 {
            backends[0].arrive(at(0), at(1)); // 3 / 3 against 0 / 1: the mean is 3 / 4
        }
        balance.peak(1.0);
        balance.until(at(10), &backends);
        backends[1].arrive(at(10), at(1)); // all have 1
        balance.until(at(20), &backends);
        let Imbalance { average, peak, variation } = balance.figures([(3.0, 3.0), (2.0, 1.0)].into_iter());
        assert_eq!(average, Some(rounded(20.0 / (7.5 + 10.0))));
        assert_eq!(peak, Some(rounded(1.0 / 0.875)));
        assert_eq!(variation, rounded(1.0 / 3.0)); // 1 and 2: 0.5 from 1.5
    }
}
