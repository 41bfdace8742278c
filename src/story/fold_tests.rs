use super::super::samples::Failures;
use super::*;
use crate::domain::{
    AdminState, BackendState, CheckFailure, CheckStep, CloseReason, ConfigProblem, EjectionReason, Event,
    Failure, HealthFailure, Resolution, ServingTier, SocketAddress, StateReason, Trouble,
};
use proptest::prelude::*;

fn at(seconds: f64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000) + Duration::from_secs_f64(seconds)
}

fn state(name: &str, from: BackendState, to: BackendState, reason: StateReason) -> Event {
    let address = "10.0.0.1:80".parse().unwrap();
    Event::StateChanged { pool: "web".into(), backend: name.into(), address, from, to, reason }
}

/// Three failed checks in a row.
fn failures(error: &str) -> StateReason {
    StateReason::Failures { count: 3, failure: HealthFailure::Check(CheckFailure::new(error)) }
}

fn entries(events: Vec<(f64, Event)>) -> Vec<Entry> {
    let entry = |(id, (seconds, event)): (u64, (f64, Event))| Entry {
        id,
        at: at(seconds),
        sentence: "".into(),
        event: Arc::new(event),
    };
    (1..).zip(events).map(entry).collect()
}

fn refused(seconds: f64, name: &str, refused: u64, retried: u64) -> (SystemTime, Sample) {
    let failures = Failures { pool: "web".into(), backend: name.into(), kinds: [refused, 0, 0, 0, 0, 0] };
    let grown = Grown { routed: retried + 10, retried, seen: Vec::new(), unanswered: 0 };
    (at(seconds), Sample { pools: vec![("web".into(), grown)], failures: vec![failures] })
}

fn seen(seconds: f64, reason: CloseReason, n: u64) -> (SystemTime, Sample) {
    let grown = Grown { seen: vec![(reason, n)], ..Grown::default() };
    (at(seconds), Sample { pools: vec![("web".into(), grown)], failures: Vec::new() })
}

fn texts(events: Vec<(f64, Event)>, samples: &[(SystemTime, Sample)]) -> Vec<String> {
    texts_with_pools(events, samples, |_| true)
}

fn texts_with_pools(
    events: Vec<(f64, Event)>,
    samples: &[(SystemTime, Sample)],
    is_present: impl Fn(&str) -> bool,
) -> Vec<String> {
    let story = story(&entries(events), samples, is_present);
    story.sentences.into_iter().map(|one| one.sentence.text).collect()
}

#[test]
fn an_ejection_is_one_sentence_with_its_failures_and_retries() {
    let why = EjectionReason::Failures { count: 5, failure: Failure::Reset };
    let ejected = StateReason::Ejected { why, time: Duration::from_secs(30) };
    let events = vec![(10.0, state("web-3", BackendState::Up, BackendState::Ejected, ejected))];
    let samples = [refused(8.0, "web-3", 1, 1), refused(10.2, "web-3", 2, 40)];
    assert_eq!(
        texts(events, &samples),
        ["web-3 refused 3 connects and was ejected (5 failures in a row: \
          it reset a client's connection before any response; ejected for 30s); 41 connections were retried elsewhere, no client saw an error"]
    );
}

#[test]
fn a_restart_ends_what_has_no_end() {
    let trouble = Trouble { result: Resolution::NoSuchName, reason: "NXDOMAIN".into() };
    let resolver =
        |trouble| Event::ResolverStatusChanged { pool: "web".into(), source: "dns:x".into(), trouble };
    let tier =
        |tier| Event::ServingTierChanged { pool: "web".into(), tier, before: None, up: 0, used: 0, panic: 0 };
    let started = Event::Started { version: "0.1.0".into(), events: 3, skipped: 0 };
    let events = vec![
        (0.0, resolver(Some(trouble.clone()))),
        (1.0, tier(ServingTier::None)),
        (2.0, Event::ChecksLate { pool: "web".into(), waited_ms: 1000 }),
        (3.0, started),
        (4.0, resolver(Some(trouble))),
    ];
    assert_eq!(
        texts(events, &[]),
        [
            "dns:x found nothing for web (NXDOMAIN), until the restart",
            "in web, no backend was up (until the restart)",
            "the checks of web ran late (the first waited 1 s to start; runtime.max_checks limits them) (until the restart)",
            "Pointsman 0.1.0 started",
            "dns:x found nothing for web (NXDOMAIN), and still finds nothing",
        ]
    );
}

#[test]
fn going_down_and_coming_back_is_one_sentence_and_so_is_flapping() {
    let down = |at: f64| (at, state("a", BackendState::Up, BackendState::Down, failures("status 503")));
    let up = |at: f64| {
        (at, state("a", BackendState::Down, BackendState::Up, StateReason::ChecksPassed { count: 2 }))
    };
    assert_eq!(
        texts(vec![down(0.0), up(4.0)], &[]),
        [
            "a went down (3 failures in a row: status 503) and was up again 4 s later (2 checks passed in a row)"
        ]
    );
    let flapping = (0..5).flat_map(|n| [down(f64::from(n) * 20.0), up(f64::from(n) * 20.0 + 8.0)]).collect();
    assert_eq!(
        texts(flapping, &[]),
        [
            "a flapped 5 times in 1m 28s, the last time because of 3 failures in a row: status 503; then it stayed up"
        ]
    );
    let weight = Event::WeightChanged { pool: "web".into(), backend: "a".into(), weight: 3 };
    assert_eq!(
        texts(vec![down(0.0), up(4.0), (5.0, weight), down(6.0), up(9.0)], &[]),
        [
            "a flapped 2 times in 9 s, the last time because of 3 failures in a row: status 503; then it stayed up and got the weight 3"
        ]
    );
    // Changes that are far apart are two sentences.
    assert_eq!(texts(vec![down(0.0), up(100.0)], &[]).len(), 2);
}

fn operator(state: Option<AdminState>, weight: Option<u32>) -> Event {
    let (by, pool, backend) = ("an operator".into(), "web".into(), "a".into());
    Event::OperatorChange { by, pool, backend, address: "10.0.0.1:80".parse().unwrap(), state, weight }
}

#[test]
fn a_sentence_has_the_time_of_its_change_not_of_an_order_without_effect() {
    let weight = Event::WeightChanged { pool: "web".into(), backend: "a".into(), weight: 2 };
    let events = vec![(0.0, operator(None, Some(1))), (25.0, operator(None, Some(2))), (25.1, weight)];
    let sentences = story(&entries(events), &[], |_| true).sentences;
    assert_eq!(sentences.len(), 1);
    assert_eq!(
        (&*sentences[0].sentence.text, sentences[0].sentence.at),
        ("a got the weight 2", Some(at(25.1)))
    );
    let nothing = story(&entries(vec![(3.0, operator(Some(AdminState::Up), None))]), &[], |_| true).sentences;
    assert_eq!(nothing[0].sentence.at, Some(at(3.0)));
}

#[test]
fn names_of_backends_include_the_pool_if_there_are_several() {
    let down = state("a", BackendState::Up, BackendState::Down, failures("status 503"));
    let other = Event::WeightChanged { pool: "db".into(), backend: "a".into(), weight: 0 };
    assert_eq!(
        texts(vec![(0.0, down), (1.0, other)], &[]),
        ["web/a went down (3 failures in a row: status 503)", "db/a got the weight 0"]
    );
}

#[test]
fn failures_belong_to_the_nearest_change_not_to_a_later_one() {
    let serving = |tier, up| Event::ServingTierChanged {
        pool: "web".into(),
        tier,
        before: None,
        up,
        used: up,
        panic: 0,
    };
    let events = vec![
        (10.0, state("b", BackendState::Up, BackendState::Down, failures("status 503"))),
        (25.0, serving(ServingTier::None, 0)),
        (30.0, serving(ServingTier::Primaries, 1)),
    ];
    let samples = [
        seen(1.0, CloseReason::Limited, 5),
        seen(9.0, CloseReason::BackendReset, 1),
        seen(26.0, CloseReason::NoBackend, 2),
    ];
    assert_eq!(
        texts(events, &samples),
        [
            "in web, 5 clients saw an error (5 limited)",
            "b went down (3 failures in a row: status 503); 1 client saw an error (1 backend_reset)",
            "in web, no backend was up; after 5 s 1 backend served again; 2 clients saw an error (2 no_backend)",
        ]
    );
}

#[test]
fn a_scale_up_is_one_sentence() {
    let joined = |n: u32| {
        (
            f64::from(n) * 0.1,
            state(
                &format!("web-{n}"),
                BackendState::Gone,
                BackendState::Joining,
                StateReason::Found { source: "dns:backend:80".into() },
            ),
        )
    };
    let up = |n: u32| {
        (
            1.0 + f64::from(n) * 0.1,
            state(
                &format!("web-{n}"),
                BackendState::Joining,
                BackendState::Up,
                StateReason::FirstCheckPassed,
            ),
        )
    };
    let events = (4..7).map(joined).chain((4..7).map(up)).collect();
    assert_eq!(
        texts(events, &[]),
        [
            "web-4, web-5 and web-6 joined (found in dns:backend:80) and were up 1 s later (its first check passed)"
        ]
    );
}

#[test]
fn only_backends_with_the_same_reason_share_a_sentence_and_it_has_no_address() {
    let down = |at: f64, name: &str, address: &str, step: CheckStep| {
        let address: SocketAddress = address.parse().unwrap();
        let failure = HealthFailure::Check(CheckFailure::at(step, address.clone(), "refused"));
        let reason = StateReason::FirstCheckFailed(failure);
        let (from, to) = (BackendState::Up, BackendState::Down);
        (at, Event::StateChanged { pool: "web".into(), backend: name.into(), address, from, to, reason })
    };
    let events = vec![
        down(0.0, "a", "10.0.0.1:80", CheckStep::Connect),
        down(0.1, "b", "10.0.0.2:80", CheckStep::Get("/".into())),
        down(0.2, "c", "10.0.0.3:80", CheckStep::Connect),
    ];
    assert_eq!(
        texts(events, &[]),
        [
            "a and c went down (its first check failed: connect to its address: refused)",
            "b went down (its first check failed: GET / on 10.0.0.2:80: refused)"
        ]
    );
}

#[test]
fn an_address_in_the_text_of_a_server_is_kept() {
    let text = "the copy from 10.0.0.1:80 is running";
    let down = |at: f64, name: &str| {
        (at, state(name, BackendState::Up, BackendState::Down, StateReason::SourceUnhealthy(text.into())))
    };
    assert_eq!(texts(vec![down(0.0, "a"), down(0.1, "b")], &[]), [format!("a and b went down ({text})")]);
}

#[test]
fn a_dns_outage_is_one_sentence_from_beginning_to_end() {
    let status = |trouble: Option<&str>| Event::ResolverStatusChanged {
        pool: "web".into(),
        source: "dns:backend:80".into(),
        trouble: trouble.map(|reason| Trouble { result: Resolution::Timeout, reason: reason.into() }),
    };
    let events = || vec![(0.0, status(Some("no answer within 1s; the last good answer stands for now")))];
    let actual = texts(events(), &[]);
    assert_eq!(
        actual,
        [
            "dns:backend:80 found nothing for web (no answer within 1s; the last good answer stands for now), and still finds nothing"
        ]
    );
    let removed = texts_with_pools(events(), &[], |pool| pool != "web");
    assert!(removed[0].ends_with(", until the pool was removed"), "{removed:?}");
    let over = [events(), vec![(95.0, status(None))]].concat();
    assert!(texts(over, &[])[0].ends_with("and found backends again after 1m 35s"));
}

#[test]
fn late_checks_are_reported_from_beginning_to_end() {
    let late = || vec![(0.0, Event::ChecksLate { pool: "web".into(), waited_ms: 4200 })];
    let begins =
        "the checks of web ran late (the first waited 4.2 s to start; runtime.max_checks limits them)";
    assert_eq!(texts(late(), &[]), [format!("{begins} (ongoing)")]);
    let removed = texts_with_pools(late(), &[], |pool| pool != "web");
    assert_eq!(removed, [format!("{begins} (until the pool was removed)")]);
    let on_time = |at| (at, Event::ChecksOnTime { pool: "web".into(), after_ms: 95_000, checks: 12 });
    let over = [late(), vec![on_time(120.0)]].concat();
    assert_eq!(texts(over, &[]), [format!("{begins} for 1m 35s, 12 checks in all, and were on time again")]);
    // The beginning is no longer in the journal.
    let actual = texts(vec![on_time(0.0)], &[]);
    assert_eq!(actual, ["the checks of web ran late for 1m 35s, 12 checks in all, and were on time again"]);
}

#[test]
fn an_outage_of_all_backends_is_one_sentence_with_the_client_visible_failures() {
    let serving = |tier, before, used| Event::ServingTierChanged {
        pool: "web".into(),
        tier,
        before,
        up: 0,
        used,
        panic: 0,
    };
    let down = |at: f64, name: &str| {
        (at, state(name, BackendState::Up, BackendState::Down, failures("connection refused")))
    };
    let events = vec![
        down(0.0, "a"),
        down(0.5, "b"),
        (0.5, serving(ServingTier::None, Some(ServingTier::Primaries), 0)),
        (12.5, serving(ServingTier::Primaries, Some(ServingTier::None), 2)),
    ];
    let actual = texts(events, &[seen(3.0, CloseReason::NoBackend, 7)]);
    assert_eq!(
        actual,
        [
            "a and b went down (3 failures in a row: connection refused)",
            "in web, no backend was up; after 12 s 2 backends served again; 7 clients saw an error (7 no_backend)"
        ]
    );
    let panic = vec![(0.0, serving(ServingTier::All, Some(ServingTier::Primaries), 4))];
    assert_eq!(texts(panic, &[]), ["in web, too few were up (0), so all 4 were used (panic) (ongoing)"]);
}

#[test]
fn an_operators_change_is_described_by_its_effect() {
    let change = |state, weight| Event::OperatorChange {
        by: "an operator at 10.1.1.1".into(),
        pool: "web".into(),
        backend: "a".into(),
        address: "10.0.0.1:80".parse().unwrap(),
        state,
        weight,
    };
    let by = "an operator at 10.1.1.1".into();
    let drained = StateReason::SetByOperator { state: AdminState::Draining, by };
    let drained = vec![
        (0.0, change(Some(AdminState::Draining), None)),
        (0.1, state("a", BackendState::Up, BackendState::Draining, drained)),
    ];
    assert_eq!(
        texts(drained, &[]),
        ["a stopped receiving new connections (drained by an operator at 10.1.1.1)"]
    );
    let without_effect = vec![(0.0, change(Some(AdminState::Up), None))];
    assert_eq!(texts(without_effect, &[]), ["a was set to up by an operator at 10.1.1.1, as before"]);
    let weight = Event::WeightChanged { pool: "web".into(), backend: "a".into(), weight: 3 };
    assert_eq!(texts(vec![(0.0, change(None, Some(3))), (0.0, weight)], &[]), ["a got the weight 3"]);
}

#[test]
fn a_reload_is_described_as_applied_or_refused() {
    let (by, config): (Arc<str>, Arc<str>) = ("SIGHUP".into(), "p.yaml".into());
    let applied = Event::ReloadApplied {
        by: Arc::clone(&by),
        config: Arc::clone(&config),
        listeners: 1,
        pools: 2,
        restart: Vec::new(),
    };
    let wrong = ConfigProblem { line: Some(1), column: Some(1), message: "unknown key \"helth\"".into() };
    let events = vec![(0.0, applied), (1.0, Event::ReloadRefused { by, config, problems: vec![wrong] })];
    assert_eq!(
        texts(events, &[]),
        [
            "p.yaml was reloaded (SIGHUP) and is in effect: 1 listener, 2 pools",
            "p.yaml was reloaded (SIGHUP) and refused, so nothing changed: unknown key \"helth\""
        ]
    );
}

#[test]
fn failures_without_a_state_change_get_their_own_sentence() {
    let samples =
        [refused(1.0, "a", 2, 2), refused(3.0, "a", 1, 1), seen(200.0, CloseReason::BackendReset, 1)];
    assert_eq!(
        texts(Vec::new(), &samples),
        [
            "in web, a refused 3 connects; 3 connections were retried elsewhere, no client saw an error",
            "in web, 1 client saw an error (1 backend_reset)"
        ]
    );
    let story = story(&[], &samples, |_| true);
    assert_eq!(
        story.totals,
        StoryTotals {
            connections: 23,
            retried: 3,
            seen: 1,
            unanswered: 0,
            failed_connects: 3,
            state_changes: 0
        }
    );
    assert_eq!(
        summary(&story),
        "23 connections routed, 3 of them after another backend had failed, 1 failure seen by clients and no backend changed its state"
    );
}

prop_compose! {
    fn event()(later in 0.0..40.0f64, kind in 0..6u8, name in 0..4u8, from in 0..7usize, to in 0..7usize) -> (f64, Event) {
        let backend: Arc<str> = format!("web-{name}").into();
        let tiers = [ServingTier::None, ServingTier::Primaries, ServingTier::Backups, ServingTier::All];
        let event = match kind {
            0 => Event::ServingTierChanged { pool: "web".into(), tier: tiers[from % 4], before: None, up: 1, used: 2, panic: 50 },
            1 => Event::ResolverStatusChanged { pool: "web".into(), source: "dns:x:1".into(), trouble: (to > 3).then(|| Trouble { result: Resolution::Empty, reason: "none".into() }) },
            2 => Event::WeightChanged { pool: "web".into(), backend, weight: 2 },
            _ => state(&backend, BackendState::ALL[from], BackendState::ALL[to], StateReason::FoundUnchecked),
        };
        (later, event)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn each_state_change_is_in_one_sentence_and_no_failure_is_lost(
        events in proptest::collection::vec(event(), 0..60),
        failures in proptest::collection::vec((0.0..1000.0f64, 0..4u8, 1..5u64, 0..5u64, any::<bool>()), 0..20),
    ) {
        let mut now = 0.0;
        let events = events.into_iter().map(|(later, event)| { now += later; (now, event) }).collect();
        let events = entries(events);
        let mut samples: Vec<_> = failures.into_iter().map(|(at, name, failed, retried, error)| {
            if error { seen(at, CloseReason::ConnectFailed, failed) } else { refused(at, &format!("web-{name}"), failed, retried) }
        }).collect();
        samples.sort_by_key(|(at, _)| *at);
        let story = story(&events, &samples, |_| true);
        let mut mentioned: Vec<u64> = story.sentences.iter().flat_map(|one| one.events.clone()).collect();
        mentioned.sort_unstable();
        let before = mentioned.len();
        mentioned.dedup();
        prop_assert_eq!(mentioned.len(), before, "none is mentioned twice");
        for entry in &events {
            if let Event::StateChanged { to, .. } = &*entry.event {
                let of: Vec<_> = story.sentences.iter().filter(|one| one.events.contains(&entry.id)).collect();
                prop_assert_eq!(of.len(), 1, "{:?} is told once: {:?}", to, story);
            }
        }
        prop_assert!(story.sentences.iter().map(|one| one.sentence.at).is_sorted());
        // The numbers of the sentences add up to the totals.
        let all: String = story.sentences.iter().map(|one| one.sentence.text.clone() + "\n").collect();
        // ("no client saw an error" has none.)
        let numbers = |word: &str| -> u64 {
            let before: Vec<_> = all.split(word).collect();
            let before = before[..before.len() - 1].iter();
            before.map(|text| text.rsplit([' ', '(', '\n']).next().unwrap().parse::<u64>().unwrap_or(0)).sum()
        };
        let retried = numbers(" connections were retried") + numbers(" connection was retried");
        prop_assert_eq!(retried, story.totals.retried, "{}", all);
        let errors = numbers(" clients saw an error") + numbers(" client saw an error");
        prop_assert_eq!(errors, story.totals.seen, "{}", all);
    }
}

#[test]
fn an_hour_of_failures_of_thousands_of_backends_is_folded_quickly() {
    let down = |n: u32| {
        state(&format!("b{n}"), BackendState::Up, BackendState::Down, failures(&format!("cause {n}")))
    };
    let events = entries((0..4096).map(|n| (f64::from(n) * 0.87, down(n))).collect());
    let failed =
        |n: u32| Failures { pool: "web".into(), backend: format!("x{n}").into(), kinds: [1, 0, 0, 0, 0, 0] };
    let sample = |n: u32| {
        let grown = Grown { routed: 9, retried: 1, seen: Vec::new(), unanswered: 2 };
        let failures = (0..16).map(failed).collect();
        (at(n.into()), Sample { pools: vec![("web".into(), grown)], failures })
    };
    let samples: Vec<_> = (0..3600).map(sample).collect();
    let began = std::time::Instant::now();
    let story = story(&events, &samples, |_| true);
    // Comparing each sample with each group took a hundred times as long, and health requests waited meanwhile.
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert_eq!((story.totals.retried, story.totals.failed_connects), (3600, 3600 * 16));
}
