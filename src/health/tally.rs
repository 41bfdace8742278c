//! Rise and fall: how many results in a row it takes to change one's mind about a backend. Pure.

/// What the results so far say of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is no result yet.
    Unchecked,
    /// It is fit for traffic.
    Passing,
    /// It is not.
    Failing,
}

/// Counts results in a row. The very first result counts alone: a new backend need not wait for `rise`, and
/// gets nothing while it fails.
#[derive(Clone, Copy, Debug)]
pub struct Tally {
    verdict: Verdict,
    /// Results in a row that contradict the verdict.
    against: u32,
}

impl Tally {
    /// Nothing is known yet.
    pub fn new() -> Self {
        Self { verdict: Verdict::Unchecked, against: 0 }
    }

    /// A verdict that is taken over, without a check having said so.
    pub fn presumed(verdict: Verdict) -> Self {
        Self { verdict, against: 0 }
    }

    /// What the results so far say.
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// Whether another result may well change what is known: there is none yet, or the last ones contradict those
    /// before.
    pub fn in_doubt(&self) -> bool {
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

impl Default for Tally {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_first_result_counts_alone() {
        assert!(Tally::new().in_doubt());
        assert_eq!(Tally::new().on(true, 5, 5), Some(Verdict::Passing));
        assert_eq!(Tally::new().on(false, 5, 5), Some(Verdict::Failing));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn it_changes_exactly_after_rise_or_fall_in_a_row(
            results in proptest::collection::vec(any::<bool>(), 1..200), rise in 1u32..6, fall in 1u32..6,
        ) {
            let mut tally = Tally::new();
            tally.on(results[0], rise, fall);
            let (mut passing, mut run) = (results[0], 0);
            for &passed in &results[1..] {
                run = if passed == passing { 0 } else { run + 1 };
                let due = run == if passing { fall } else { rise };
                prop_assert_eq!(tally.on(passed, rise, fall).is_some(), due);
                if due { passing = !passing; run = 0; }
                prop_assert_eq!(tally.in_doubt(), run > 0);
            }
            prop_assert_eq!(tally.verdict() == Verdict::Passing, passing);
        }
    }
}
