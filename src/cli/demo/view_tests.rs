use super::super::action::{CheckInterval, CheckPath, Clients, Slot};
use super::super::scene::{CheckScene, TrafficScene};
use super::super::state::ScriptInfo;
use super::super::stats::{RecentFigures, TrafficTotals};
use super::*;
use crate::domain::{Algorithm, BackendState};
use ratatui::Terminal;
use ratatui::backend::TestBackend;

fn snapshot() -> DemoSnapshot {
    let row = |name: &str, address: &str, state, share| BackendRow {
        name: name.into(),
        address: address.to_owned(),
        state,
        share,
        open: 1,
        latency: Some(Duration::from_millis(15)),
        connections: 1234,
        cause: "3 failures in a row: connection refused".into(),
    };
    DemoSnapshot {
        time: Duration::from_secs(65),
        address: "127.0.0.1:8080".to_owned(),
        admin: "127.0.0.1:9900".to_owned(),
        backends: vec![
            row("a", "127.0.0.2:5000", BackendState::Up, 0.5),
            row("b", "127.0.0.3:5000", BackendState::Down, 0.0),
            row("c", "127.0.0.4:5000", BackendState::Up, 0.5),
        ],
        decisions: vec![
            "01:05 #9 127.0.0.1:4000 → a: next in rotation; excluded b: down (3 failures in a row: a client's \
             connection failed: connection refused) END"
                .to_owned(),
        ],
        changes: vec!["01:04 b is down: 3 failures in a row".to_owned()],
        totals: TrafficTotals { answered: 1000, broken: 1, ..TrafficTotals::default() },
        retried: 3,
    }
}

fn state(compare: Option<Algorithm>) -> DemoState {
    let backend = |name, address: &str, process| DemoBackendInfo {
        name,
        address: address.to_owned(),
        process,
        slow: false,
        failing: false,
        flapping: false,
        response_ms: 5,
    };
    let side = |pool, algorithm| {
        let by_backend = [("a".to_owned(), (1, Duration::ZERO)), ("c".to_owned(), (3, Duration::ZERO))];
        let recent = RecentFigures {
            by_backend: by_backend.into(),
            percentiles: Some([15, 90, 260].map(Duration::from_millis)),
        };
        SideInfo::new(pool, algorithm, &TrafficTotals::default(), 0, &recent, Vec::new())
    };
    let algorithms = [Some(Algorithm::RoundRobin), compare].into_iter().flatten();
    DemoState {
        caption:
            "b is killed: its connections are retried on another backend, and soon its checks take it out"
                .to_owned(),
        playing: Some(ScriptId::Story),
        backends: vec![
            backend(Slot::A, "127.0.0.2:5000", ProcessScene::Running),
            backend(Slot::B, "127.0.0.3:5000", ProcessScene::Killed),
        ],
        room: 5,
        balance: Algorithm::RoundRobin,
        compare,
        check: CheckScene { every: CheckInterval::Fast, path: CheckPath::Health },
        traffic: TrafficScene { rate: 30, clients: Clients::Many },
        sides: algorithms.map(|algorithm| side("web", algorithm)).collect(),
        scripts: ScriptInfo::all(),
        algorithms: Algorithm::ALL,
    }
}

fn drawn_with(width: u16, height: u16, state: &DemoState, keys: &DemoKeys) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, &snapshot(), state, keys)).unwrap();
    terminal.backend().to_string()
}

fn drawn(width: u16, height: u16) -> String {
    drawn_with(width, height, &state(None), &DemoKeys::default())
}

/// The words of a drawing, without its line breaks.
fn words(text: &str) -> String {
    text.lines().flat_map(|line| line.trim_matches('"').split_whitespace()).collect::<Vec<_>>().join(" ")
}

#[test]
fn everything_fits_a_terminal_of_80_by_24_and_of_60_columns() {
    for (width, height) in [(80, 24), (60, 30)] {
        let text = drawn(width, height);
        let words = words(&text);
        for shown in [
            "01:05",
            "curl http://127.0.0.1:8080/",
            "page http://127.0.0.1:9900/",
            "b is killed: its connections are retried on another backend, and soon its checks take it out",
            "▸ a",
            "● up",
            "✖ down",
            "50%",
            "15 ms",
            "killed · 3 fa",
            "→ a: next in rotation; excluded b: down (3 failures in a row: a client's connection failed: connection \
             refused) END",
            "01:04 b is down",
            "1000 answered",
            "0 failed",
            "3 retried",
            "q quits",
        ] {
            assert!(words.contains(shown), "{shown:?} is missing:\n{text}");
        }
    }
    assert!(drawn(80, 24).contains("█████····· "));
}

#[test]
fn a_wide_terminal_shows_addresses() {
    assert!(drawn(120, 24).contains("127.0.0.2:5000"));
}

#[test]
fn two_algorithms_are_compared_line_by_line() {
    let text = drawn_with(80, 30, &state(Some(Algorithm::LeastConnections)), &DemoKeys::default());
    for line in [
        "round-robin       15 ms   90 ms   260 ms",
        "least-connections 15 ms   90 ms   260 ms",
        "a 25% c 75%",
    ] {
        assert!(text.contains(line), "{line:?} is missing:\n{text}");
    }
}

#[test]
fn every_backend_has_its_row_beside_a_comparison() {
    let text = drawn_with(80, 24, &state(Some(Algorithm::Maglev)), &DemoKeys::default());
    for row in ["▸ a ● up", "b ✖ down", "c ● up", "a 25% c 75%", "→ a: next in rotation", "b is down"]
    {
        assert!(words(&text).contains(row), "{row:?} is missing:\n{text}");
    }
}

#[test]
fn popups_and_messages_are_shown() {
    let mut keys = DemoKeys { popup: DemoPopup::Keys, ..DemoKeys::default() };
    for width in [60, 80] {
        let text = drawn_with(width, 30, &state(None), &keys);
        // Of a text that is wrapped, the frame is between its lines.
        for (key, explained) in KEYS {
            assert!(
                text.contains(&format!("{key:7}{}", explained.split(',').next().unwrap())),
                "{key}:\n{text}"
            );
        }
    }
    keys.popup = DemoPopup::Experiments;
    assert!(drawn_with(80, 30, &state(None), &keys).contains("2  Sticky sessions"));
    keys.popup = DemoPopup::None;
    keys.message = Some("b is killed already".to_owned());
    assert!(drawn_with(60, 30, &state(None), &keys).contains("b is killed already"));
}

#[test]
fn drawing_works_at_any_size() {
    for popup in [DemoPopup::None, DemoPopup::Keys, DemoPopup::Experiments] {
        for (width, height) in [(1, 1), (20, 5), (300, 100)] {
            drawn_with(
                width,
                height,
                &state(Some(Algorithm::Maglev)),
                &DemoKeys { popup, ..DemoKeys::default() },
            );
        }
    }
}
