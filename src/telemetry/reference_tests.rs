//! The page `events.md` of the book: each kind of event with its fields, from its JSON Schema, and its log lines.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use schemars::generate::SchemaSettings;
use serde_json::Value;
use tracing::level_filters::LevelFilter;

use super::log_fields::TextFields;
use crate::domain::{
    AdminState, BackendState, CheckFailure, CheckKind, Client, ConfigProblem, DrainForecast, EjectionReason,
    Ending, Endpoint, Event, Failure, HealthFailure, IdleConnection, ListenerState, Resolution, ServingTier,
    SocketAddress, StateReason, Trouble,
};
use crate::testing::Written;
use crate::testing::reference::{assert_current, cell};

fn web() -> Arc<str> {
    "web".into()
}

fn a() -> Arc<str> {
    "a".into()
}

fn operator() -> Arc<str> {
    "an operator at 10.1.1.1".into()
}

fn address() -> SocketAddress {
    "10.0.0.1:5000".parse().unwrap()
}

fn changed(from: BackendState, to: BackendState, reason: StateReason) -> Event {
    Event::StateChanged { pool: web(), backend: a(), address: address(), from, to, reason }
}

fn forecast() -> DrainForecast {
    DrainForecast {
        open: 3,
        oldest_ms: Some(8_500),
        time_left_ms: Some(20_000),
        most_finished_ms: None,
        at_limit: 1,
        longest_idle: vec![IdleConnection {
            conn: 7,
            client: Client::Tcp("10.0.0.9:41234".parse().unwrap()),
            backend: Some(a()),
            age_ms: 8_500,
            idle_ms: 8_000,
        }],
        observed: 1_200,
    }
}

/// A backend's states, each entered once.
fn states() -> Vec<Event> {
    use BackendState::{Down, Draining, Ejected, Gone, Joining, Maintenance, Up};
    let source: Arc<str> = "dns backend:5000".into();
    let failure = || Failure::Connect("connection refused".into());
    let set = |state| StateReason::SetByOperator { state, by: operator() };
    let ejection = EjectionReason::Failures { count: 5, failure: failure() };
    let check = HealthFailure::Check(CheckFailure::new("status 503, not 2xx"));
    vec![
        changed(Gone, Joining, StateReason::Found { source: Arc::clone(&source) }),
        changed(Joining, Up, StateReason::FirstCheckPassed),
        changed(Up, Down, StateReason::Failures { count: 3, failure: check }),
        changed(Up, Ejected, StateReason::Ejected { why: ejection, time: Duration::from_secs(30) }),
        changed(Up, Draining, set(AdminState::Draining)),
        changed(Up, Maintenance, set(AdminState::Maintenance)),
        changed(Up, Gone, StateReason::LeftSource { source }),
    ]
}

fn tier(tier: ServingTier, before: ServingTier, up: usize, used: usize) -> Event {
    Event::ServingTierChanged { pool: web(), tier, before: Some(before), up, used, panic: 30 }
}

/// Events of pools and their sources.
fn of_pools() -> Vec<Event> {
    use ServingTier::{All, AllZones, Backups, None as NoTier, Primaries};
    let source: Arc<str> = "dns:backend:5000".into();
    let trouble =
        Trouble { result: Resolution::NoSuchName, reason: "127.0.0.11: NXDOMAIN for backend".into() };
    let resolver =
        |trouble| Event::ResolverStatusChanged { pool: web(), source: Arc::clone(&source), trouble };
    let failures = EjectionReason::Failures { count: 5, failure: Failure::Reset };
    let listener = |state| Event::ListenerChange { by: operator(), listener: web(), state, open: 12 };
    vec![
        Event::RebalanceStarted { pool: web(), surplus: 75, idle: 60, seconds: 75, dry_run: false },
        Event::RebalanceDone { pool: web(), closed: 75 },
        listener(ListenerState::Draining),
        listener(ListenerState::Up),
        Event::BackendNamed { pool: web(), backend: "web_1".into(), address: address() },
        Event::WeightChanged { pool: web(), backend: a(), weight: 3 },
        Event::EjectionSuppressed { pool: web(), backend: a(), reason: failures },
        tier(NoTier, Primaries, 0, 0),
        tier(All, Primaries, 1, 4),
        tier(AllZones, Primaries, 3, 3),
        tier(Backups, Primaries, 2, 2),
        tier(Primaries, All, 3, 3),
        tier(Primaries, AllZones, 4, 2),
        tier(Primaries, Backups, 3, 3),
        resolver(Some(trouble)),
        resolver(None),
        Event::EndpointsChanged {
            pool: web(),
            source: Arc::clone(&source),
            result: Resolution::Found,
            backends: 2,
            new: vec![Endpoint { name: a(), address: address() }],
            missing: Vec::new(),
        },
    ]
}

/// Events of checks.
fn of_checks() -> Vec<Event> {
    let check = |passed: bool, error: Option<&str>| Event::CheckResultChanged {
        pool: web(),
        backend: a(),
        address: address(),
        check: CheckKind::Http,
        passed,
        error: error.map(Into::into),
        took_ms: 1.5,
    };
    vec![
        check(false, Some("status 503, not 2xx")),
        check(true, None),
        Event::CheckInconclusive { pool: web(), backend: a(), error: "too many open files".into() },
        Event::ChecksLate { pool: web(), waited_ms: 1200 },
        Event::ChecksOnTime { pool: web(), after_ms: 60_000, checks: 42 },
    ]
}

/// Events by operators, and of the process.
fn of_operators() -> Vec<Event> {
    let (by, config) = (operator, || Arc::<str>::from("pointsman.yaml"));
    let problem = ConfigProblem {
        line: Some(6),
        column: Some(5),
        message: "unknown key \"helth\" in pool \"web\"".into(),
    };
    vec![
        Event::OperatorChange {
            by: by(),
            pool: web(),
            backend: a(),
            address: address(),
            state: Some(AdminState::Draining),
            weight: None,
        },
        Event::BackendAdded {
            by: by(),
            pool: web(),
            backend: "b".into(),
            address: address(),
            weight: 1,
            backup: false,
        },
        Event::BackendRemoved { by: by(), pool: web(), backend: "b".into(), address: address() },
        Event::ConnectionClosed {
            by: by(),
            conn: 17,
            client: Client::Tcp("10.0.0.7:51234".parse().unwrap()),
            pool: Some(web()),
            backend: Some(a()),
            how: Ending::Reset,
        },
        Event::CheckRequested { by: by(), pool: Some(web()), backend: None },
        Event::ReloadApplied {
            by: by(),
            config: config(),
            listeners: 1,
            pools: 2,
            restart: vec!["runtime".into()],
        },
        Event::ReloadRefused { by: by(), config: config(), problems: vec![problem] },
        Event::Started { version: "0.1.0".into(), events: 120, skipped: 0 },
        Event::HandOverStarted { by: "SIGUSR2".into() },
        Event::HandOverDone { process: 4711 },
        Event::HandOverFailed { error: "the new process ended before it accepted connections".into() },
        Event::TookOver { process: 4242, addresses: 2 },
        Event::DrainStarted { by: "SIGTERM".into(), open: 12, grace_ms: 0, timeout_ms: 30_000 },
        Event::DrainProgress { forecast: forecast() },
        Event::DrainDone { cut: None },
        Event::DrainDone { cut: Some(2) },
    ]
}

/// Events of every kind.
pub(super) fn one_of_each_kind() -> Vec<Event> {
    [states(), of_pools(), of_checks(), of_operators()].concat()
}

/// The lines that an event writes to the log, without their time.
fn lines(event: &Event) -> String {
    let written = Written::default();
    let subscriber = tracing_subscriber::fmt()
        .fmt_fields(TextFields)
        .with_max_level(LevelFilter::TRACE)
        .with_ansi(false)
        .without_time()
        .with_target(false)
        .with_writer(written.clone())
        .finish();
    tracing::subscriber::with_default(subscriber, || event.log());
    written.text()
}

/// The fields of a kind of event, as rows of a table.
fn fields(schema: &Value, definitions: &Value) -> String {
    let mut rows = String::new();
    for (field, schema) in schema["properties"].as_object().unwrap() {
        if field == "kind" {
            continue;
        }
        let text = schema["description"].as_str().or_else(|| {
            let name = schema["$ref"].as_str()?.rsplit('/').next()?;
            definitions[name]["description"].as_str()
        });
        rows += &format!("| `{field}` | {} |\n", cell(text.unwrap_or_else(|| panic!("{field}: {schema}"))));
    }
    rows
}

#[test]
fn the_reference_of_the_events_is_current() {
    let mut logged = BTreeMap::<String, String>::new();
    for event in &one_of_each_kind() {
        let kind = serde_json::to_value(event).unwrap()["kind"].as_str().unwrap().to_owned();
        *logged.entry(kind).or_default() += &lines(event);
    }
    let generator = SchemaSettings::draft2020_12().for_serialize().into_generator();
    let schema = serde_json::to_value(generator.into_root_schema_for::<Event>()).unwrap();
    let mut page = "# Events\n\nEach thing that happens is one event: one line of the log (or one for each part that it \
                    concerns), and one entry of the journal, which `/api/v1/journal`, `/api/v1/events`, the page and \
                    `pointsman story` read. `kind` and the fields are those of the API; the lines are examples. Tools \
                    may match the messages.\n"
        .to_owned();
    for kind in schema["oneOf"].as_array().unwrap() {
        let name = kind["properties"]["kind"]["const"].as_str().unwrap();
        let lines = logged.remove(name).unwrap_or_else(|| panic!("there is no example of {name}"));
        assert!(!lines.is_empty(), "{name} writes no line");
        let meaning = kind["description"].as_str().unwrap();
        let fields = fields(kind, &schema["$defs"]);
        page += &format!("\n## `{name}`\n\n{meaning}\n\n| field | meaning |\n| --- | --- |\n{fields}\n");
        page += &format!("```text generated\n{lines}```\n");
    }
    assert!(logged.is_empty(), "{logged:?}");
    assert_current("events.md", &page);
}
