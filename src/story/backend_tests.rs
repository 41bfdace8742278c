use super::*;
use crate::telemetry::journal::Journal;
use std::net::SocketAddr;
use std::sync::Arc;

fn address(last: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, last], 80))
}

fn state(name: &str, last: u8, from: &'static str, to: &'static str, cause: &str) -> Fact {
    let (pool, backend) = ("web".into(), name.into());
    Fact::State { pool, backend, address: address(last), from, to, cause: cause.into() }
}

fn told(facts: Vec<Fact>, backend: &str) -> Vec<String> {
    let journal = Journal::default();
    facts.into_iter().for_each(|fact| journal.tell(fact));
    history(&journal.after(0).0, "web", backend).into_iter().map(|sentence| sentence.text).collect()
}

#[test]
fn the_chain_leads_from_the_answer_over_the_check_to_the_state() {
    let check = |passed, error: Option<&str>| Fact::Check {
        pool: "web".into(),
        backend: "a".into(),
        address: address(1),
        check: "http",
        passed,
        error: error.map(Into::into),
        took_ms: 1.5,
    };
    let discovered = |new: &[&str], missing: &[&str], backends| Fact::Discovered {
        pool: "web".into(),
        source: "dns:backend:80".into(),
        result: "ok",
        backends,
        new: new.iter().map(|one| Arc::from(*one)).collect(),
        missing: missing.iter().map(|one| Arc::from(*one)).collect(),
    };
    let facts = || {
        vec![
            discovered(&["a (10.0.0.1:80)", "b (10.0.0.2:80)"], &[], 2),
            state("a", 1, "gone", "joining", "found in dns:backend:80"),
            state("b", 2, "gone", "joining", "found in dns:backend:80"),
            check(true, None),
            state("a", 1, "joining", "up", "its first check passed"),
            check(false, Some("status 503")),
            state("a", 1, "up", "down", "3 failures in a row: status 503"),
            discovered(&[], &["a (10.0.0.1:80)"], 1),
        ]
    };
    let story = [
        "dns:backend:80 named 2 backends, and it was new among them",
        "it joined: found in dns:backend:80",
        "its http check passed, in 1.5 ms",
        "it came up (it was joining): its first check passed",
        "its http check failed after 1.5 ms: status 503",
        "it went down (it was up): 3 failures in a row: status 503",
        "dns:backend:80 named 1 backend, and it no longer",
    ];
    assert_eq!(told(facts(), "a"), story);
    assert_eq!(told(facts(), "10.0.0.1:80"), story);
    assert_eq!(told(facts(), "b").len(), 2);
    assert!(told(facts(), "c").is_empty());
}

#[test]
fn of_a_long_history_the_last_is_told_and_the_rest_counted() {
    let facts = (0..100).map(|_| state("a", 1, "up", "down", "it fails")).collect();
    let told = told(facts, "a");
    assert_eq!((told.len(), &*told[0]), (TOLD + 1, "before this, 60 more things happened to it"));
}

#[test]
fn ordinals_are_those_of_english() {
    assert_eq!(
        [1, 2, 3, 4, 11, 12, 13, 21, 102, 111].map(nth).join(" "),
        "1st 2nd 3rd 4th 11th 12th 13th 21st 102nd 111th"
    );
}
