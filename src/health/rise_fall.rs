//! Rise and fall: how many results in a row change the verdict on a backend. Pure.

/// The state of a backend according to its check results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is no result yet.
    Unchecked,
    /// It can receive connections.
    Passing,
    /// It cannot receive connections.
    Failing,
}

/// The latest results in a row that all passed or all failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// Whether they passed.
    pub passed: bool,
    /// How many there are.
    pub length: u32,
}

/// Counts results in a row. The very first result counts alone: a new backend need not wait for `rise`, and gets no
/// connections while it fails.
#[derive(Clone, Copy, Debug)]
pub struct RiseFall {
    verdict: Verdict,
    run: Run,
    /// A live connection failed, and too few results in a row agree since then.
    suspected: bool,
}

impl RiseFall {
    /// No result yet.
    pub fn new() -> Self {
        Self::presumed(Verdict::Unchecked)
    }

    /// A verdict that is adopted without a check.
    pub fn presumed(verdict: Verdict) -> Self {
        let run = Run { passed: verdict == Verdict::Passing, length: 0 };
        Self { verdict, run, suspected: false }
    }

    /// The verdict of the results so far.
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// The last results.
    pub fn run(&self) -> Run {
        self.run
    }

    /// Whether the next result may change the verdict, so that it should come soon: there is none yet, the last results
    /// contradict it, or a live connection failed and since then too few results agree.
    pub fn in_transition(&self) -> bool {
        match self.verdict {
            Verdict::Unchecked => true,
            _ if self.suspected => true,
            verdict => self.run.length > 0 && self.run.passed != (verdict == Verdict::Passing),
        }
    }

    /// A live connection failed: one passed check does not clear the backend, but `rise` in a row do.
    pub fn suspect(&mut self) {
        self.suspected = true;
    }

    /// Records one result; returns the verdict when it changes. `rise` and `fall` are at least 1.
    pub fn on(&mut self, passed: bool, rise: u32, fall: u32) -> Option<Verdict> {
        let length = if self.run.passed == passed { self.run.length.saturating_add(1) } else { 1 };
        self.run = Run { passed, length };
        self.suspected &= length < if passed { rise } else { fall };
        let (to, needed) = match (self.verdict, passed) {
            (Verdict::Passing, true) | (Verdict::Failing, false) => return None,
            (Verdict::Unchecked, true) => (Verdict::Passing, 1),
            (Verdict::Unchecked, false) => (Verdict::Failing, 1),
            (Verdict::Failing, true) => (Verdict::Passing, rise),
            (Verdict::Passing, false) => (Verdict::Failing, fall),
        };
        if length < needed {
            return None;
        }
        self.verdict = to;
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
    fn the_first_result_counts_alone() {
        assert!(RiseFall::new().in_transition());
        assert_eq!(RiseFall::new().on(true, 5, 5), Some(Verdict::Passing));
        assert_eq!(RiseFall::new().on(false, 5, 5), Some(Verdict::Failing));
    }

    #[test]
    fn after_a_failed_connection_enough_results_must_agree() {
        let (rise, fall) = (3, 3);
        let suspected = || {
            let mut rise_fall = RiseFall::presumed(Verdict::Passing);
            assert!(!rise_fall.in_transition());
            rise_fall.suspect();
            assert_eq!(rise_fall.on(false, rise, fall), None);
            assert!(rise_fall.in_transition());
            rise_fall
        };
        let transitions = |results: &[bool]| {
            let mut rise_fall = suspected();
            let next = |passed: &bool| {
                rise_fall.on(*passed, rise, fall);
                rise_fall.in_transition()
            };
            results.iter().map(next).collect::<Vec<_>>()
        };
        assert_eq!(transitions(&[true, true, true, true]), [true, true, false, false]);
        assert_eq!(transitions(&[false, false, false]), [true, false, false]);
        assert_eq!(transitions(&[true, false, true, true, true]), [true, true, true, true, false]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn it_changes_exactly_after_rise_or_fall_in_a_row(
            results in proptest::collection::vec(any::<bool>(), 1..200), rise in 1u32..6, fall in 1u32..6,
        ) {
            let mut rise_fall = RiseFall::new();
            rise_fall.on(results[0], rise, fall);
            let (mut passing, mut run) = (results[0], 0);
            for &passed in &results[1..] {
                run = if passed == passing { 0 } else { run + 1 };
                let due = run == if passing { fall } else { rise };
                prop_assert_eq!(rise_fall.on(passed, rise, fall).is_some(), due);
                if due { passing = !passing; run = 0; }
                prop_assert_eq!(rise_fall.in_transition(), run > 0);
                prop_assert_eq!(rise_fall.run().passed, passed);
            }
            prop_assert_eq!(rise_fall.verdict() == Verdict::Passing, passing);
        }
    }
}
