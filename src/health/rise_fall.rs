//! Rise and fall: the number of consecutive results that changes the verdict on a backend. Pure.

/// The verdict on a backend by its check results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is no result yet.
    Unchecked,
    /// It passes.
    Passing,
    /// It fails.
    Failing,
}

/// Counts consecutive results. The very first result decides alone: a new backend does not wait for `rise`, and gets no
/// connection if it fails.
#[derive(Clone, Copy, Debug)]
pub struct RiseFall {
    verdict: Verdict,
    /// Consecutive results against the verdict.
    against: u32,
}

impl RiseFall {
    /// Starts without a result.
    pub fn new() -> Self {
        Self { verdict: Verdict::Unchecked, against: 0 }
    }

    /// Starts with a verdict from elsewhere, without a result.
    pub fn presumed(verdict: Verdict) -> Self {
        Self { verdict, against: 0 }
    }

    /// The present verdict.
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// Whether the verdict may be about to change: there is no result yet, or the last ones are against it.
    pub fn in_transition(&self) -> bool {
        self.verdict == Verdict::Unchecked || self.against > 0
    }

    /// Takes in one result; `Some` when the verdict changes. `rise` and `fall` are at least 1.
    pub fn on(&mut self, passed: bool, rise: u32, fall: u32) -> Option<Verdict> {
        let (to, needed) = match (self.verdict, passed) {
            (Verdict::Passing, true) | (Verdict::Failing, false) => {
                self.against = 0;
                return None;
            }
            (Verdict::Unchecked, true) => (Verdict::Passing, 1),
            (Verdict::Unchecked, false) => (Verdict::Failing, 1),
            (Verdict::Failing, true) => (Verdict::Passing, rise),
            (Verdict::Passing, false) => (Verdict::Failing, fall),
        };
        self.against += 1;
        if self.against < needed {
            return None;
        }
        *self = Self { verdict: to, against: 0 };
        Some(to)
    }
}

impl Default for RiseFall {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_first_result_decides_alone() {
        assert!(RiseFall::new().in_transition());
        assert_eq!(RiseFall::new().on(true, 5, 5), Some(Verdict::Passing));
        assert_eq!(RiseFall::new().on(false, 5, 5), Some(Verdict::Failing));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn the_verdict_changes_exactly_after_rise_or_fall_consecutive_results(
            results in proptest::collection::vec(any::<bool>(), 1..200), rise in 1u32..6, fall in 1u32..6,
        ) {
            let mut counter = RiseFall::new();
            counter.on(results[0], rise, fall);
            let (mut passing, mut run) = (results[0], 0);
            for &passed in &results[1..] {
                run = if passed == passing { 0 } else { run + 1 };
                let due = run == if passing { fall } else { rise };
                prop_assert_eq!(counter.on(passed, rise, fall).is_some(), due);
                if due { passing = !passing; run = 0; }
                prop_assert_eq!(counter.in_transition(), run > 0);
            }
            prop_assert_eq!(counter.verdict() == Verdict::Passing, passing);
        }
    }
}
