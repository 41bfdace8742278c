use std::sync::Arc;
use std::time::SystemTime;

use super::*;
use crate::domain::{
    BackendState, CheckFailure, Excluded, Exclusion, ExclusionReason, HealthFailure, Ineligible,
    LimitReached, PoolMatch, PoolShare, PrefaceError, PrefaceKind, Rejection, SHOWN, SocketAddress,
    StateReason, TcpSides,
};

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn candidates(loads: &[(&str, u32)]) -> CandidateSet {
    let mut busy = [0; SHOWN];
    busy.iter_mut().zip(loads).for_each(|(to, (_, load))| *to = *load);
    CandidateSet {
        shown: loads.iter().map(|(name, _)| RouteCandidate { name: (*name).into(), share: 1 }).collect(),
        loads: busy,
        total: loads.len() as u32,
        known: loads.len() as u32 + 1,
        chosen: loads.first().map(|(_, load)| *load),
    }
}

/// The backend `c`, which is down after `count` failed checks.
fn excluded(count: u32) -> Excluded {
    let failure = HealthFailure::Check(CheckFailure::new("connection refused"));
    let reason = ExclusionReason::State(BackendState::Down, StateReason::Failures { count, failure });
    let ineligible = Ineligible::new(vec![Exclusion { backend: "c".into(), reason }], 0, None);
    Excluded { ineligible: Arc::new(ineligible), ..Excluded::default() }
}

fn route() -> Route {
    Route {
        after: Duration::from_millis(1),
        algorithm: Algorithm::LeastConnections,
        excluded: excluded(3),
        candidates: candidates(&[("b", 3), ("a", 5)]),
        ..Route::to_only_backend()
    }
}

/// A connection to `b` with that route and stage.
fn record(route: Option<Route>, stage: Stage) -> ConnectionRecord {
    let address: SocketAddress = "10.0.0.2:80".parse().unwrap();
    ConnectionRecord {
        conn: 17,
        client: Client::Tcp("192.0.2.7:4000".parse().unwrap()),
        listener: "front".into(),
        pool: Some("web".into()),
        pool_match: None,
        accepted: at(100),
        backend: Some(ConnectedBackend {
            name: "b".into(),
            address,
            connect: Some(Duration::from_micros(310)),
        }),
        route,
        age: Duration::from_millis(2500),
        bytes_in: 80,
        bytes_out: 2048,
        throttled: false,
        first_byte: Some(Duration::from_micros(4200)),
        stage,
    }
}

fn ended(reason: CloseReason) -> Stage {
    Stage::Ended(ConnectionEnd { reason, first_closed: None, rejection: None, kernel: None })
}

fn text(record: &ConnectionRecord) -> String {
    let story = story(record);
    let times: Vec<_> = story.iter().filter_map(|sentence| sentence.at).collect();
    assert!(times.is_sorted(), "{story:?}");
    story.into_iter().map(|sentence| sentence.text).collect::<Vec<_>>().join("\n")
}

fn route_text(route: Route) -> String {
    text(&record(Some(route), Stage::Routed))
}

#[test]
fn the_story_covers_a_connection_from_accept_to_end() {
    let info = TcpInfo { rtt_us: 310, rttvar_us: 120, retransmitted: 1, ..TcpInfo::default() };
    let sides = TcpSides { client: Some(info), backend: Some(TcpInfo { retransmitted: 0, ..info }) };
    let (reason, kernel) = (CloseReason::BackendClosed, Some(sides));
    let end = ConnectionEnd { reason, first_closed: None, rejection: None, kernel };
    assert_eq!(
        text(&record(Some(route()), Stage::Ended(end))),
        "connection 17 from 192.0.2.7:4000 was accepted by the listener front, for the pool web
the pool web had 3 backends, of which 2 could be chosen: b with 3 connections and a with 5; excluded: c: down (3 failures in a row: connection refused)
least-connections: b had 3 connections, and none had fewer; connected in 0.31 ms
closed after 2.5 s: the backend closed first, cleanly (backend_closed); the first byte came 4.2 ms after the choice; 80 bytes went to b and 2 KiB to the client
client-side TCP statistics: a round trip of 0.31 ms (± 0.12 ms), 1 retransmit; backend-side TCP statistics: a round trip of 0.31 ms (± 0.12 ms), 0 retransmits"
    );
}

#[test]
fn failed_attempts_and_the_time_in_the_queue_are_shown() {
    let attempt = FailedAttempt {
        backend: "a".into(),
        address: "10.0.0.1:80".parse().unwrap(),
        error: "connection refused".into(),
        took: Duration::from_micros(1040),
    };
    let queued = Some(Duration::from_millis(120));
    let text = route_text(Route { queued, attempts: 2, failed: vec![attempt], ..route() });
    assert!(text.contains("excluded: c: down (3 failures in a row: connection refused)\n"), "{text}");
    assert!(text.contains("all were full, and it waited 120 ms in the queue"), "{text}");
    assert!(text.contains("the attempt at a failed after 1.04 ms: connection refused"), "{text}");
    assert!(text.ends_with("it is closed; its record is no longer kept"), "{text}");
}

#[test]
fn each_algorithm_has_its_reason() {
    for (algorithm, reason) in [
        (Algorithm::RoundRobin, "b was next in rotation"),
        (Algorithm::Weighted, "b was next in rotation by weight"),
        (Algorithm::LeastConnections, "b had 3 connections, and none had fewer"),
        (Algorithm::RandomTwo, "of two drawn at random, b had fewer"),
        (Algorithm::Ewma, "of two drawn at random, b had less latency"),
        (Algorithm::RingHash, "its home is b"),
    ] {
        let text = route_text(Route { algorithm, ..route() });
        assert!(text.contains(&format!("{}: {reason}", algorithm.name())), "{text}");
    }
    let away = Route { algorithm: Algorithm::Maglev, home: Some("a".into()), ..route() };
    assert!(route_text(away).contains("its home is a, which had more than its share"));
    let alone = Route { candidates: candidates(&[("b", 0)]), ..route() };
    assert!(route_text(alone).contains("b was the only one"));
}

#[test]
fn the_first_of_many_candidates_are_named_and_the_rest_counted() {
    let mut candidates =
        candidates(&[("b", 3), ("a", 5), ("c", 1), ("d", 1), ("e", 1), ("f", 1), ("g", 1), ("h", 1)]);
    candidates.total = 500;
    let text = route_text(Route { candidates, ..route() });
    assert!(
        text.contains("b with 3 connections, a with 5, c with 1, d with 1, e with 1, f with 1 and 494 more"),
        "{text}"
    );
}

#[test]
fn a_route_that_is_no_longer_kept_is_reported_as_such() {
    let routed = text(&record(None, ended(CloseReason::ClientClosed)));
    assert!(routed.contains("it went to b; the reason is no longer kept"), "{routed}");
    assert!(routed.contains("no TCP statistics"), "{routed}");
}

#[test]
fn a_rejected_connection_has_the_cause() {
    for (reason, rejection, cause) in [
        (CloseReason::Limited, Some(Rejection::Limit(LimitReached::Listener)), "max_connections allows"),
        (CloseReason::Limited, Some(Rejection::Limit(LimitReached::ClientRate)), "per_client.rate allows"),
        (
            CloseReason::PrefaceInvalid,
            Some(Rejection::Preface(PrefaceError::Missing(PrefaceKind::Proxy))),
            "not a PROXY header",
        ),
        (
            CloseReason::PrefaceTimeout,
            Some(Rejection::Timeout(PrefaceKind::Proxy)),
            "no complete PROXY header came",
        ),
        (
            CloseReason::PrefaceTimeout,
            Some(Rejection::Timeout(PrefaceKind::Tls)),
            "no complete ClientHello came",
        ),
        (CloseReason::Denied, Some(Rejection::Address), "(allow, deny)"),
        (CloseReason::Denied, Some(Rejection::NoRule), "no rule of the listener matches"),
    ] {
        let end = Stage::Ended(ConnectionEnd { reason, first_closed: None, rejection, kernel: None });
        let rejected = text(&ConnectionRecord { backend: None, ..record(None, end) });
        assert!(rejected.contains("its listener rejected it before a backend was chosen"), "{rejected}");
        assert!(rejected.contains(cause), "{rejected}");
    }
}

#[test]
fn a_full_queue_is_not_an_excluded_backend() {
    let rejected = |excluded: Excluded| {
        let record = record(Some(Route { excluded, ..route() }), ended(CloseReason::Limited));
        text(&ConnectionRecord { backend: None, ..record })
    };
    let alone = rejected(Excluded { queue_full: Some(1), ..Excluded::default() });
    assert!(alone.contains("a with 5; the queue was full, with 1 client waiting\n"), "{alone}");
    let beside = rejected(Excluded { queue_full: Some(4), ..excluded(3) });
    assert!(
        beside.contains(
            "; excluded: c: down (3 failures in a row: connection refused); the queue was full, \
             with 4 clients waiting\n"
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

#[test]
fn the_rule_that_chose_the_pool_is_named() {
    let by = |rule: Option<RoutingRule>, name: Option<&str>| {
        let pool_match = Some(Arc::new(PoolMatch { rule, share: None, server_name: name.map(Into::into) }));
        text(&ConnectionRecord { pool_match, ..record(Some(route()), Stage::Open) })
    };
    let named = by(Some(RoutingRule::ServerName("*.example.com".into())), Some("www.example.com"));
    let words =
        "the client asked for www.example.com; by the rule \"sni *.example.com\" it was for the pool web";
    assert!(named.contains(words), "{named}");
    let default = by(Some(RoutingRule::Default), None);
    assert!(default.contains("; no rule matched, so it was for the default pool, web"), "{default}");
    let hashed = by(None, Some("www.example.com"));
    assert!(hashed.contains(", for the pool web; the client asked for www.example.com"), "{hashed}");
    let share = Some(PoolShare { share: 5, total: 100 });
    let pool_match = Some(Arc::new(PoolMatch { share, ..PoolMatch::default() }));
    let shared = text(&ConnectionRecord { pool_match, ..record(Some(route()), Stage::Open) });
    assert!(shared.contains(", for the pool web, whose share is 5 of 100\n"), "{shared}");
}

#[test]
fn a_configured_source_address_is_named() {
    let text = route_text(Route { source: Some([10, 0, 0, 5].into()), ..route() });
    assert!(text.contains("; connected in 0.31 ms from 10.0.0.5\n"), "{text}");
    let text = route_text(Route { source: Some([192, 0, 2, 7].into()), ..route() });
    assert!(
        text.contains("; connected in 0.31 ms from the client's address (connect.transparent)\n"),
        "{text}"
    );
}

#[test]
fn headers_and_copies_of_cancel_requests_are_named() {
    let text = route_text(Route { proxy_header: true, cancel_request: true, ..route() });
    let expected = "; connected in 0.31 ms; a PROXY header with the client's address was sent\n\
                    it is a request to cancel a query, which the other backends got too (PostgreSQL)\n";
    assert!(text.contains(expected), "{text}");
    let proxy = Some(Client::Tcp("10.0.0.1:55".parse().unwrap()));
    let text = super::story(&record(Some(Route { proxy, ..route() }), Stage::Routed));
    let expected = "connection 17 from 192.0.2.7:4000, as the PROXY header of 10.0.0.1:55 says, was accepted by the listener";
    assert!(text[0].text.starts_with(expected), "{text:?}");
}
