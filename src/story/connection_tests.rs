use super::*;
use crate::domain::{BackendState, Client, CloseReason, Excluded, Exclusion, ExclusionReason, Ineligible};
use crate::telemetry::decisions::{Attempt, SHOWN};
use crate::telemetry::ends::Sides;

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn candidates(loads: &[(&str, u32)]) -> CandidateSet {
    let mut busy = [0; SHOWN];
    busy.iter_mut().zip(loads).for_each(|(to, (_, load))| *to = *load);
    CandidateSet {
        shown: loads.iter().map(|(name, _)| Candidate { name: (*name).into(), share: 1 }).collect(),
        loads: busy,
        total: loads.len() as u32,
        known: loads.len() as u32 + 1,
        chosen: loads.first().map(|(_, load)| *load),
    }
}

/// The backend `c`, which is down for that cause.
fn excluded(cause: &str) -> Excluded {
    let reason = ExclusionReason::State(BackendState::Down, cause.into());
    let ineligible = Ineligible::new(vec![Exclusion { backend: "c".into(), reason }], 0, false);
    Excluded { ineligible: Arc::new(ineligible), ..Excluded::default() }
}

fn decision(conn: u64) -> Decision {
    Decision {
        conn,
        at: at(100 + conn),
        client: Client::Tcp("192.0.2.7:4000".parse().unwrap()),
        listener: "front".into(),
        pool: "web".into(),
        backend: Some("b".into()),
        address: Some("10.0.0.2:80".parse().unwrap()),
        algorithm: Algorithm::LeastConnections,
        excluded: excluded("3 failures in a row: connection refused"),
        attempts: 1,
        failed: Vec::new(),
        candidates: candidates(&[("b", 3), ("a", 5)]),
        home: None,
        tier: Tier::Primaries,
        age_ms: 1.0,
        queued_ms: None,
        connect_ms: Some(0.31),
    }
}

fn ended(conn: u64, reason: CloseReason) -> Ended {
    let Decision { client, listener, pool, backend, address, .. } = decision(conn);
    Ended {
        conn,
        at: at(200 + conn),
        client,
        listener,
        pool,
        backend,
        address,
        reason,
        first: None,
        bytes_in: 80,
        bytes_out: 2048,
        duration_ms: 2500.0,
        connect_ms: Some(0.31),
        first_byte_ms: Some(4.2),
        kernel: None,
    }
}

fn told(decision: Option<Decision>, ended: Option<Ended>) -> String {
    let all = gather(decision.into_iter().collect(), Vec::new(), ended.into_iter().collect());
    assert_eq!(all.len(), 1);
    let story = all[0].story();
    let times: Vec<_> = story.iter().filter_map(|sentence| sentence.at).collect();
    assert!(times.is_sorted(), "{story:?}");
    story.into_iter().map(|sentence| sentence.text).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_connection_is_told_from_its_accept_to_its_end() {
    let path = Path { rtt_us: 310, rttvar_us: 120, retransmitted: 1, ..Path::default() };
    let sides = Sides { client: Some(path), backend: Some(Path { retransmitted: 0, ..path }) };
    let end = Ended { kernel: Some(sides), ..ended(17, CloseReason::BackendClosed) };
    assert_eq!(
        told(Some(decision(17)), Some(end)),
        "connection 17 from 192.0.2.7:4000 was accepted by the listener front, for the pool web
the pool web had 3 backends, of which 2 could be chosen: b with 3 connections and a with 5; excluded: c: down (3 failures in a row: connection refused)
least-connections: b had 3 connections, and none had fewer; connected in 0.31 ms
closed after 2.5 s: the backend closed first, cleanly (backend_closed); the first byte came 4.2 ms after the choice; 80 bytes went to b and 2 KiB to the client
client-side TCP statistics: a round trip of 0.31 ms (± 0.12 ms), 1 retransmit; backend-side TCP statistics: a round trip of 0.31 ms (± 0.12 ms), 0 retransmits"
    );
}

#[test]
fn failed_attempts_and_the_time_in_the_queue_are_shown() {
    let attempt = Attempt {
        backend: "a".into(),
        address: "10.0.0.1:80".parse().unwrap(),
        error: "connection refused".into(),
        took_ms: 1.04,
    };
    let mut decision = Decision { queued_ms: Some(120.0), attempts: 2, ..decision(1) };
    decision.excluded.failed.push(attempt.exclusion());
    decision.failed.push(attempt);
    let told = told(Some(decision), None);
    assert!(told.contains("excluded: c: down (3 failures in a row: connection refused)\n"), "{told}");
    assert!(told.contains("all were full, and it waited 120 ms in the queue"), "{told}");
    assert!(told.contains("the attempt at a failed after 1.04 ms: connection refused"), "{told}");
    assert!(told.ends_with("it is closed; its record is no longer kept"), "{told}");
}

#[test]
fn each_algorithm_has_its_reason() {
    for (algorithm, words) in [
        (Algorithm::RoundRobin, "b was next in rotation"),
        (Algorithm::Weighted, "b was next in rotation by weight"),
        (Algorithm::LeastConnections, "b had 3 connections, and none had fewer"),
        (Algorithm::RandomTwo, "of two drawn at random, b had fewer"),
        (Algorithm::Ewma, "of two drawn at random, b had less latency"),
        (Algorithm::RingHash, "its home is b"),
    ] {
        let decision = Decision { algorithm, ..decision(1) };
        let told = told(Some(decision), None);
        assert!(told.contains(&format!("{}: {words}", algorithm.name())), "{told}");
    }
    let away = Decision { algorithm: Algorithm::Maglev, home: Some("a".into()), ..decision(1) };
    assert!(told(Some(away), None).contains("its home is a, which had more than its share"));
    let alone = Decision { candidates: candidates(&[("b", 0)]), ..decision(1) };
    assert!(told(Some(alone), None).contains("b was the only one"));
}

#[test]
fn of_many_candidates_the_first_are_named_and_the_rest_counted() {
    let mut candidates =
        candidates(&[("b", 3), ("a", 5), ("c", 1), ("d", 1), ("e", 1), ("f", 1), ("g", 1), ("h", 1)]);
    candidates.total = 500;
    let told = told(Some(Decision { candidates, ..decision(1) }), None);
    assert!(
        told.contains("b with 3 connections, a with 5, c with 1, d with 1, e with 1, f with 1 and 494 more"),
        "{told}"
    );
}

#[test]
fn what_is_no_longer_kept_is_said_and_nothing_is_made_up() {
    let turned_away = Ended { backend: None, address: None, ..ended(1, CloseReason::Limited) };
    let told_of = told(None, Some(turned_away));
    assert!(told_of.contains("max_connections"), "{told_of}");
    let routed = told(None, Some(ended(1, CloseReason::ClientClosed)));
    assert!(routed.contains("it went to b; why to that one is no longer kept"), "{routed}");
    assert!(routed.contains("no TCP statistics"), "{routed}");
}

#[test]
fn the_newest_connection_comes_first() {
    let all = gather(
        vec![decision(1), decision(3), decision(2)],
        Vec::new(),
        vec![ended(2, CloseReason::Operator)],
    );
    assert_eq!(all.iter().map(|traces| traces.conn).collect::<Vec<_>>(), [3, 2, 1]);
    assert!(all[1].ended.is_some() && all[0].ended.is_none());
}

#[test]
fn a_full_queue_is_no_excluded_backend() {
    let rejected = |excluded: Excluded| {
        let decision = Decision { backend: None, excluded, ..decision(1) };
        told(Some(decision), Some(ended(1, CloseReason::Limited)))
    };
    let alone = rejected(Excluded { queue_full: Some(1), ..Excluded::default() });
    assert!(alone.contains("a with 5; the queue was full, with 1 client waiting\n"), "{alone}");
    let beside = rejected(Excluded { queue_full: Some(4), ..excluded("3 failures in a row") });
    assert!(
        beside.contains(
            "; excluded: c: down (3 failures in a row); the queue was full, with 4 clients waiting\n"
        ),
        "{beside}"
    );
}

#[test]
fn every_close_reason_has_a_text() {
    for reason in CloseReason::ALL {
        assert!(!ending(reason, None).is_empty());
    }
}
