use std::collections::BTreeSet;

use super::super::CheckStep;
use super::super::cause::LONGEST;
use super::*;

const MINUTE: Duration = Duration::from_secs(60);

fn check(step: CheckStep, host: u8) -> HealthFailure {
    let address = format!("10.0.0.{host}:80").parse().unwrap();
    HealthFailure::Check(CheckFailure::at(step, address, "connection refused"))
}

/// One of each, with its name and its text.
pub(in crate::domain) fn all() -> Vec<(StateReason, &'static str, &'static str)> {
    let by = || Arc::from("an operator at 10.1.1.1");
    let source = || Arc::from("dns backend:80");
    let failure = || check(CheckStep::Connect, 1);
    let refused = || Failure::Connect("connection refused".into());
    let slow = EjectionReason::Slow { median: Duration::from_micros(412_340), others: MINUTE };
    let failures = EjectionReason::Failures { count: 5, failure: Failure::Reset };
    let address = Some("10.0.0.1:80".parse().unwrap());
    let set = |state| StateReason::SetByOperator { state, by: by() };
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_566_859);
    let set_before = |state| StateReason::SetBeforeRestart { state, by: by(), at };
    vec![
        (StateReason::Found { source: source() }, "found", "found in dns backend:80"),
        (StateReason::FoundUnchecked, "found_unchecked", "found, and the pool has no checks"),
        (
            StateReason::TakenOver { cause: "its first check passed".into() },
            "taken_over",
            "taken over from the process before: its first check passed",
        ),
        (StateReason::ContainerStarting, "container_starting", "its container is starting"),
        (StateReason::SourceHealthy, "source_healthy", "its source reports it healthy"),
        (StateReason::SourceUnhealthy("it is paused".into()), "source_unhealthy", "it is paused"),
        (StateReason::FirstCheckPassed, "first_check_passed", "its first check passed"),
        (StateReason::ChecksPassed { count: 1 }, "checks_passed", "a check passed"),
        (StateReason::ChecksPassed { count: 2 }, "checks_passed", "2 checks passed in a row"),
        (
            StateReason::FirstCheckFailed(failure()),
            "first_check_failed",
            "its first check failed: connect to 10.0.0.1:80: connection refused",
        ),
        (
            StateReason::GraceOver { grace: MINUTE, failure: failure() },
            "grace_over",
            "its checks did not pass within 1m: connect to 10.0.0.1:80: connection refused",
        ),
        (
            StateReason::Failures { count: 1, failure: failure() },
            "failures",
            "a failure: connect to 10.0.0.1:80: connection refused",
        ),
        (
            StateReason::Failures { count: 3, failure: HealthFailure::Connection(refused()) },
            "failures",
            "3 failures in a row: a client's connection failed: connection refused",
        ),
        (StateReason::ChecksRemoved, "checks_removed", "the pool's checks were removed"),
        (StateReason::ChecksChanged, "checks_changed", "the pool's checks were changed"),
        (
            StateReason::Ejected { why: failures, time: MINUTE },
            "ejected_failures",
            "5 failures in a row: it reset a client's connection before any response; ejected for 1m",
        ),
        (
            StateReason::Ejected { why: slow, time: MINUTE },
            "ejected_slow",
            "median response time 412.3 ms, other backends 60000 ms; ejected for 1m",
        ),
        (StateReason::EjectionOver, "ejection_over", "its ejection time is over"),
        (StateReason::TooFewOthers, "too_few_others", "ejection lifted: too few other backends"),
        (set(AdminState::Up), "operator_up", "put back in service by an operator at 10.1.1.1"),
        (set(AdminState::Draining), "operator_draining", "drained by an operator at 10.1.1.1"),
        (
            set(AdminState::Maintenance),
            "operator_maintenance",
            "put into maintenance by an operator at 10.1.1.1",
        ),
        (
            set_before(AdminState::Up),
            "operator_up_before_restart",
            "put back in service by an operator at 10.1.1.1 before the restart, on 2026-11-25 at 00:34:19 UTC",
        ),
        (
            set_before(AdminState::Draining),
            "operator_draining_before_restart",
            "drained by an operator at 10.1.1.1 before the restart, on 2026-11-25 at 00:34:19 UTC",
        ),
        (
            set_before(AdminState::Maintenance),
            "operator_maintenance_before_restart",
            "put into maintenance by an operator at 10.1.1.1 before the restart, on 2026-11-25 at 00:34:19 UTC",
        ),
        (
            StateReason::RemovedByOperator { by: by() },
            "operator_removed",
            "removed by an operator at 10.1.1.1",
        ),
        (StateReason::LeftSource { source: source() }, "left_source", "no longer in dns backend:80"),
        (
            StateReason::SourceSilent { source: source(), time: MINUTE },
            "source_silent",
            "dns backend:80 has not answered for 1m, and its checks fail",
        ),
        (
            StateReason::AddressTaken { by: "b.net".into() },
            "address_taken",
            "its address now belongs to b.net",
        ),
        (
            StateReason::OwnAddress { address, owner: Owner::Listener("web".into()) },
            "own_address",
            "refused: 10.0.0.1:80 is this balancer's own listener \"web\"",
        ),
        (
            StateReason::OwnAddressReleased,
            "own_address_released",
            "this balancer no longer listens at its address",
        ),
        (StateReason::PoolRemoved, "pool_removed", "its pool was removed from the configuration"),
    ]
}

/// One of each.
pub(crate) fn each() -> Vec<StateReason> {
    all().into_iter().map(|(reason, ..)| reason).collect()
}

#[test]
fn each_reason_has_its_name_and_its_text() {
    for (reason, name, text) in all() {
        assert_eq!((reason.name(), &*reason.to_string()), (name, text));
        let json = serde_json::to_value(&reason).unwrap();
        assert_eq!(json, serde_json::json!({"reason": name, "cause": text}));
    }
    let names: BTreeSet<_> = all().into_iter().map(|(reason, ..)| reason.name()).collect();
    assert_eq!(names.len(), 30, "each reason has a name of its own");
}

#[test]
fn a_time_that_no_calendar_has_does_no_harm() {
    let reason = |at| StateReason::SetBeforeRestart { state: AdminState::Draining, by: "root".into(), at };
    let last = SystemTime::UNIX_EPOCH + Duration::from_secs(i64::MAX as u64);
    assert!(reason(last).text().ends_with("on 9999-12-31 at 23:59:59 UTC"), "{}", reason(last));
    let early = SystemTime::UNIX_EPOCH - MINUTE;
    assert!(reason(early).text().ends_with("on 1970-01-01 at 00:00:00 UTC"), "{}", reason(early));
}

#[test]
fn reasons_of_backends_at_different_addresses_are_compared_without_them() {
    let down = |step, host| StateReason::Failures { count: 3, failure: check(step, host) };
    let (one, other) = (down(CheckStep::Connect, 1), down(CheckStep::Connect, 2));
    assert_ne!(one, other);
    assert_eq!(one.without_address(), other.without_address());
    assert_eq!(
        &*one.without_address().text(),
        "3 failures in a row: connect to its address: connection refused"
    );
    assert_ne!(one.without_address(), down(CheckStep::Http, 1).without_address());
    for (reason, ..) in all() {
        assert!(!reason.without_address().text().contains("10.0.0.1"), "{reason}");
        assert_eq!(reason.without_address().name(), reason.name());
    }
}

#[test]
fn an_address_in_a_text_from_outside_stays_in_the_reason() {
    let text = "the backup of 10.0.0.1:80 is running";
    let reason = StateReason::SourceUnhealthy(text.into());
    assert_eq!(&*reason.without_address().text(), text);
}

#[test]
fn the_text_is_bounded_and_harmless_as_a_whole() {
    let long: Arc<str> = "\u{1b}[2J".repeat(LONGEST).into();
    let failure = CheckFailure::at(CheckStep::Get(Arc::clone(&long)), "10.0.0.1:80".parse().unwrap(), &*long);
    for reason in [
        StateReason::Found { source: Arc::clone(&long) },
        StateReason::FirstCheckFailed(HealthFailure::Check(failure)),
        StateReason::SetByOperator { state: AdminState::Draining, by: long },
    ] {
        let text = reason.to_string();
        assert_eq!((text.chars().count(), text.contains('\u{1b}')), (LONGEST, false));
    }
}
