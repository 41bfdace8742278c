use super::*;
use crate::domain::{
    BackendState, CheckFailure, CheckKind, Endpoint, Event, HealthFailure, Resolution, SocketAddress,
    StateReason,
};
use crate::telemetry::journal::Journal;

fn address(last: u8) -> SocketAddress {
    format!("10.0.0.{last}:80").parse().unwrap()
}

fn state(name: &str, last: u8, from: BackendState, to: BackendState, reason: StateReason) -> Event {
    let (pool, backend) = ("web".into(), name.into());
    Event::StateChanged { pool, backend, address: address(last), from, to, reason }
}

fn joined() -> StateReason {
    StateReason::Found { source: "dns:backend:80".into() }
}

fn failures() -> StateReason {
    StateReason::Failures { count: 3, failure: HealthFailure::Check(CheckFailure::new("status 503")) }
}

fn texts(events: Vec<Event>, backend: &str) -> Vec<String> {
    let journal = Journal::default();
    events.into_iter().for_each(|event| journal.record(event));
    history(&journal.after(0).0, "web", backend).into_iter().map(|sentence| sentence.text).collect()
}

#[test]
fn a_restart_is_told_between_what_happened_before_and_after_it() {
    let started = || Event::Started { version: "0.1.0".into(), events: 1, skipped: 0 };
    let joined = |name| state(name, 1, BackendState::Gone, BackendState::Joining, joined());
    let told = "it joined: found in dns:backend:80";
    let events = || vec![started(), joined("a"), started(), joined("b"), started(), joined("a"), started()];
    assert_eq!(texts(events(), "a"), [told, "Pointsman 0.1.0 started", told]);
    assert_eq!(texts(events(), "b"), [told]);
}

#[test]
fn the_history_leads_from_discovery_through_checks_to_the_state() {
    let check = |passed, error: Option<&str>| Event::CheckResultChanged {
        pool: "web".into(),
        backend: "a".into(),
        address: address(1),
        check: CheckKind::Http,
        passed,
        error: error.map(Into::into),
        took_ms: 1.5,
    };
    let endpoint =
        |last: &u8| Endpoint { name: ["a", "b"][usize::from(last - 1)].into(), address: address(*last) };
    let endpoints = |all: &[u8]| all.iter().map(endpoint).collect();
    let discovered = |new: &[u8], missing: &[u8], backends| Event::EndpointsChanged {
        pool: "web".into(),
        source: "dns:backend:80".into(),
        result: Resolution::Found,
        backends,
        new: endpoints(new),
        missing: endpoints(missing),
    };
    let events = || {
        vec![
            discovered(&[1, 2], &[], 2),
            state("a", 1, BackendState::Gone, BackendState::Joining, joined()),
            state("b", 2, BackendState::Gone, BackendState::Joining, joined()),
            check(true, None),
            state("a", 1, BackendState::Joining, BackendState::Up, StateReason::FirstCheckPassed),
            check(false, Some("status 503")),
            state("a", 1, BackendState::Up, BackendState::Down, failures()),
            discovered(&[], &[1], 1),
        ]
    };
    let story = [
        "dns:backend:80 reported 2 endpoints, and it was new among them",
        "it joined: found in dns:backend:80",
        "its http check passed in 1.5 ms",
        "it came up (it was joining): its first check passed",
        "its http check failed after 1.5 ms: status 503",
        "it went down (it was up): 3 failures in a row: status 503",
        "dns:backend:80 reported 1 endpoint, and it was no longer among them",
    ];
    assert_eq!(texts(events(), "a"), story);
    assert_eq!(texts(events(), "10.0.0.1:80"), story);
    assert_eq!(texts(events(), "b").len(), 2);
    assert!(texts(events(), "c").is_empty());
}

#[test]
fn a_long_history_shows_the_last_events_and_counts_the_rest() {
    let events = (0..100).map(|_| state("a", 1, BackendState::Up, BackendState::Down, failures())).collect();
    let texts = texts(events, "a");
    assert_eq!((texts.len(), &*texts[0]), (SHOWN + 1, "not shown: 60 earlier events"));
}

#[test]
fn ordinals_are_those_of_english() {
    assert_eq!(
        [1, 2, 3, 4, 11, 12, 13, 21, 102, 111].map(nth).join(" "),
        "1st 2nd 3rd 4th 11th 12th 13th 21st 102nd 111th"
    );
}
