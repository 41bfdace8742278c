//! Which results bring the next check forward.

use super::tests::{SECOND, found, observed};
use super::*;
use crate::config::{Check, Health, Pool, Source};
use crate::domain::Failure;
use crate::health::CheckError;

/// A result for a backend.
#[derive(Clone, Copy, Debug)]
enum CheckOutcome {
    Passed,
    Failed,
    /// A check had no result because of a local error.
    Local,
    /// A client's connection failed.
    Live,
}

/// For each outcome, at this many seconds after the backend was found: whether the next check comes soon.
fn soon(health: Health, outcomes: &[(u32, CheckOutcome)]) -> Vec<bool> {
    let mut config = Pool::new(vec![Source::Static(Vec::new())]);
    config.health = vec![health];
    let now = Instant::now();
    let mut pool_state = PoolState::new("web".into(), config, Arc::default());
    pool_state.on(observed(SourceKey::Static, vec![found("a", "10.0.0.1")]), now);
    let key = pool_state.members()[0].backend.key;
    let one = |(seconds, outcome): &(u32, CheckOutcome)| {
        let input = match outcome {
            CheckOutcome::Passed => Input::Checked(key, 0, Ok(())),
            CheckOutcome::Failed => Input::Checked(key, 0, Err("no".to_owned().into())),
            CheckOutcome::Local => Input::Checked(key, 0, Err(CheckError::Local("no port".into()))),
            CheckOutcome::Live => Input::Failed(key, Failure::Connect("refused".into()), 1),
        };
        let effects = pool_state.on(input, now + SECOND * *seconds);
        let soon =
            effects.iter().filter(|effect| matches!(effect, Effect::CheckSoon(of, 0) if *of == key)).count();
        assert!(soon <= 1, "{effects:?}");
        soon == 1
    };
    outcomes.iter().map(one).collect()
}

fn health(rise: u32, fall: u32) -> Health {
    Health { rise, fall, ..Health::new(Check::Tcp) }
}

fn at_once(outcomes: &[CheckOutcome]) -> Vec<(u32, CheckOutcome)> {
    outcomes.iter().map(|outcome| (0, *outcome)).collect()
}

#[test]
fn the_next_check_comes_soon_while_the_verdict_is_in_transition() {
    use CheckOutcome::{Failed, Local, Passed};
    // New; up; two failures and a success again; down for good; a first success, then up.
    let outcomes =
        [Local, Passed, Failed, Failed, Passed, Failed, Failed, Failed, Failed, Passed, Local, Passed, Local];
    let (f, t) = (false, true);
    assert_eq!(soon(health(2, 3), &at_once(&outcomes)), [t, f, t, t, f, t, t, f, f, t, t, f, f]);
}

#[test]
fn after_a_failed_connection_checks_come_soon_until_enough_results_agree() {
    use CheckOutcome::{Failed, Live, Passed};
    let after = |rise, fall, results: &[CheckOutcome]| {
        let outcomes = [&[Passed, Passed, Live], results].concat();
        let soon = soon(health(rise, fall), &at_once(&outcomes));
        assert_eq!(soon[..3], [false, false, true], "{outcomes:?}");
        soon[3..].to_vec()
    };
    assert_eq!(after(3, 3, &[Passed; 4]), [true, true, false, false]);
    assert_eq!(after(3, 3, &[Failed; 3]), [true, false, false], "the connection counts too");
    assert_eq!(after(3, 3, &[Passed, Failed, Passed, Passed, Passed]), [true, true, true, true, false]);
    // The connection alone takes it down, and the next check still comes soon.
    assert_eq!(after(2, 1, &[Failed, Passed, Passed]), [false, true, false]);
}

#[test]
fn checks_come_soon_during_the_grace_period() {
    let health = Health { grace: SECOND * 3, ..health(2, 3) };
    let outcomes = [0, 1, 2, 3, 4].map(|seconds| (seconds, CheckOutcome::Failed));
    assert_eq!(soon(health, &outcomes), [true, true, true, false, false], "then it is down");
}
