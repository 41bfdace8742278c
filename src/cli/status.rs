//! `pointsman status`: a running instance at a glance.

use std::io::{self, IsTerminal};

use ratatui::style::Color;

use super::instance::{RemoteArgs, block_on};
use super::{Exit, Failure, print, print_json, problem_lines, terminal};
use crate::api::{BackendInfo, ListenerInfo, PoolInfo, StatusReply, path};
use crate::domain::ListenerState;
use crate::humanize::count;
use crate::names::natural_order;

/// The most problems that are listed: more would push the status off the screen.
const PROBLEMS: usize = 8;

pub(super) fn run(args: &RemoteArgs) -> Result<Exit, Failure> {
    let remote = args.remote()?;
    let text = block_on(async { Ok(remote.text(path::STATUS).await?) })?;
    let status: StatusReply = remote.read(&text)?;
    if args.json {
        print_json(&text)?;
    } else {
        print(&in_words(&status, colors()))?;
    }
    Ok(if status.pools.iter().any(|pool| pool.is_unserved()) { Exit::Unserved } else { Exit::Done })
}

/// Whether standard output is a terminal and `NO_COLOR` is not set.
pub(super) fn colors() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn in_words(status: &StatusReply, colors: bool) -> String {
    let mut text = format!(
        "pointsman {}, {}{}, up {}, {} of {} connections open, {} workers\n",
        terminal::clean(&status.version),
        terminal::clean(&status.phase),
        if status.ready { ", ready" } else { ", not ready" },
        terminal::age(status.uptime_seconds),
        status.open,
        status.max_connections,
        status.workers,
    );
    write_problems(status, &mut text, colors);
    let mut table = TextTable::new(&["LISTENER", "ADDRESS", "POOL", "<OPEN", "<REJECTED"]);
    for listener in by_name(&status.listeners, |listener| &listener.name) {
        let mut addresses = listener.addresses.join(", ");
        if listener.state == ListenerState::Draining.name() {
            addresses.push_str(" (draining)");
        }
        let (open, pools) = (listener.active.to_string(), listener.pools.join(", "));
        table.row([&*listener.name, &addresses, &pools, &open, &rejected(listener)].map(plain));
    }
    text.push('\n');
    table.write(&mut text, colors);
    for listener in by_name(&status.listeners, |listener| &listener.name) {
        if let Some(obstacle) = &listener.kernel_obstacle {
            let (name, obstacle) = (terminal::clean(&listener.name), terminal::clean(obstacle));
            text.push_str(&format!("  {name}: the kernel does not forward its bytes: {obstacle}\n"));
        }
    }
    for pool in by_name(&status.pools, |pool| &pool.name) {
        let color = if pool.is_unserved() { Some(Color::Red) } else { None };
        let up = format!("{} of {} in use", pool.up, count(pool.backends.len() as u64, "backend"));
        let up = paint(&up, color, colors);
        text.push_str(&format!(
            "\npool {}: {}, {up}",
            terminal::clean(&pool.name),
            terminal::clean(&pool.algorithm)
        ));
        let mut note = |wanted: bool, words: String| {
            if wanted {
                text.push_str(", ");
                text.push_str(&words);
            }
        };
        note(!pool.settled, "still discovering its backends".to_owned());
        note(pool.panic, paint("panic: all are used", Some(Color::Red), colors));
        if let Some(zone) = &pool.zone {
            let (name, color) = (terminal::clean(&zone.name), zone.short.then_some(Color::Yellow));
            let more = if zone.short { ": other zones are used too" } else { "" };
            let words = format!("{} of {} up in zone {name}{more}", zone.up, zone.backends);
            note(true, paint(&words, color, colors));
        }
        note(pool.queue > 0, format!("{} in the queue", count(pool.queue, "client")));
        note(pool.failures_masked > 0, format!("{} retried", count(pool.failures_masked, "failed attempt")));
        note(pool.failures_seen > 0, count(pool.failures_seen, "client-visible failure"));
        note(pool.unserved > 0, format!("{} without a backend", count(pool.unserved, "connection")));
        text.push('\n');
        why_empty(pool).iter().for_each(|line| text.push_str(&format!("  {}\n", terminal::clean(line))));
        if pool.backends.is_empty() {
            continue;
        }
        let head = [
            "  BACKEND",
            "ADDRESS",
            "STATE",
            "<SINCE",
            "<WEIGHT",
            "<SHARE",
            "<OPEN",
            "<TOTAL",
            "<IN",
            "<OUT",
            "<FIRST BYTE",
            "CHECK",
            "CAUSE",
        ];
        let mut table = TextTable::new(&head);
        let total: u64 = pool.backends.iter().map(|backend| backend.connections).sum();
        for backend in by_name(&pool.backends, |backend| &backend.name) {
            table.row(row(backend, total, status.clock()));
        }
        table.write(&mut text, colors);
    }
    text
}

/// In the natural order of their names; those of the same name keep their order.
fn by_name<T>(all: &[T], name: impl Fn(&T) -> &str) -> Vec<&T> {
    let mut sorted: Vec<&T> = all.iter().collect();
    sorted.sort_by(|a, b| natural_order(name(a), name(b)));
    sorted
}

/// A line for each problem, the worst first.
fn write_problems(status: &StatusReply, text: &mut String, colors: bool) {
    if status.problems.is_empty() {
        return;
    }
    let summary = problem_lines::summary(&status.problems);
    text.push_str(&format!("\n{summary}; `pointsman doctor` shows what to do:\n"));
    for problem in status.problems.iter().take(PROBLEMS) {
        let line = problem_lines::line(problem, status.clock());
        text.push_str(&format!("  {}\n", paint(&line, Some(problem_lines::mark(problem).1), colors)));
    }
    if let Some(more @ 1..) = status.problems.len().checked_sub(PROBLEMS) {
        text.push_str(&format!("  and {more} more\n"));
    }
}

/// Why a pool has no backends, and which of its sources report none.
pub(super) fn why_empty(pool: &PoolInfo) -> Vec<String> {
    let troubles = pool.source_troubles();
    match (pool.backends.is_empty(), troubles.is_empty()) {
        (_, false) => troubles,
        (true, true) if !pool.settled => vec!["discovering its backends".to_owned()],
        (true, true) => vec!["no backends: its sources report none".to_owned()],
        (false, true) => Vec::new(),
    }
}

/// The connections that a listener has rejected before a backend was chosen, and those over limits that it only
/// counts.
fn rejected(listener: &ListenerInfo) -> String {
    let rejected = listener.denied + listener.preface_failed + listener.over_client_limits;
    match listener.over_client_limits_dry_run {
        0 => rejected.to_string(),
        counted => format!("{rejected} (dry run: {counted})"),
    }
}

/// The median and the 99th percentile of its recent times to the first byte, and how far out of line that is.
fn first_byte(backend: &BackendInfo) -> (String, Option<Color>) {
    let Some(latency) = backend.first_byte else { return plain("-") };
    let [median, most] = [latency.p50_ms, latency.p99_ms].map(terminal::millis);
    match backend.times_slower {
        None => plain(&format!("{median} / {most} ms")),
        Some(times) => (format!("{median} / {most} ms, {times}x the others"), Some(Color::Yellow)),
    }
}

fn row(backend: &BackendInfo, total: u64, now: f64) -> [(String, Option<Color>); 13] {
    let share = if total == 0 { 0.0 } else { backend.connections as f64 / total as f64 };
    let check = backend.last_check.as_ref();
    let backup = (backend.tier > 0).then(|| "backup".to_owned());
    let zone = backend.zone.as_ref().map(|zone| format!("zone {zone}"));
    let marks: Vec<String> = backup.into_iter().chain(zone).collect();
    let marks = if marks.is_empty() { String::new() } else { format!(" ({})", marks.join(", ")) };
    [
        plain(&format!("  {}{marks}", backend.name)),
        plain(&backend.address),
        (
            format!("{} {}", terminal::mark(backend.state), backend.state_name()),
            Some(terminal::color(backend.state)),
        ),
        plain(&terminal::age(now - backend.since.0)),
        plain(&backend.weight.to_string()),
        plain(&format!("{:.0}%", share * 100.0)),
        plain(&backend.active.to_string()),
        plain(&terminal::count(backend.connections as f64)),
        plain(&terminal::bytes(backend.bytes_in as f64)),
        plain(&terminal::bytes(backend.bytes_out as f64)),
        first_byte(backend),
        match check {
            None => plain("-"),
            Some(check) => {
                let word = if check.passed { "passed" } else { "failed" };
                let color = if check.passed { None } else { Some(Color::Red) };
                (format!("{word} {} ago", terminal::age(now - check.at.0)), color)
            }
        },
        plain(&backend.cause),
    ]
}

fn plain(text: &str) -> (String, Option<Color>) {
    (text.to_owned(), None)
}

/// A table whose columns are as wide as their widest cells. A heading that begins with `<` aligns its column right.
pub(super) struct TextTable {
    head: Vec<&'static str>,
    rows: Vec<Vec<(String, Option<Color>)>>,
}

impl TextTable {
    pub(super) fn new(head: &[&'static str]) -> Self {
        Self { head: head.to_vec(), rows: Vec::new() }
    }

    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = (String, Option<Color>)>) {
        self.rows.push(cells.into_iter().map(|(text, color)| (terminal::clean(&text), color)).collect());
    }

    pub(super) fn write(&self, to: &mut String, colors: bool) {
        let titles: Vec<_> = self.head.iter().map(|title| title.trim_start_matches('<')).collect();
        let widths: Vec<_> = titles
            .iter()
            .enumerate()
            .map(|(column, title)| {
                let cells =
                    self.rows.iter().filter_map(|row| row.get(column)).map(|cell| terminal::width(&cell.0));
                cells.chain([terminal::width(title)]).max().unwrap_or(0)
            })
            .collect();
        let head: Vec<_> = titles.iter().map(|title| ((*title).to_owned(), Some(Color::DarkGray))).collect();
        for row in std::iter::once(&head).chain(&self.rows) {
            let mut line = String::new();
            for (column, (text, color)) in row.iter().enumerate() {
                let padding = " ".repeat(widths[column] - terminal::width(text));
                let (before, after) =
                    if self.head[column].starts_with('<') { (&*padding, "") } else { ("", &*padding) };
                line.push_str(before);
                line.push_str(&paint(text, *color, colors));
                if column + 1 < row.len() {
                    line.push_str(after);
                    line.push_str("  ");
                }
            }
            to.push_str(line.trim_end());
            to.push('\n');
        }
    }
}

/// The text in a color (ECMA-48, 8.3.117).
pub(super) fn paint(text: &str, color: Option<Color>, colors: bool) -> String {
    let code = match color {
        Some(Color::Red) => 31,
        Some(Color::Green) => 32,
        Some(Color::Yellow) => 33,
        Some(Color::Cyan) => 36,
        Some(Color::Gray | Color::DarkGray) => 2,
        _ => return text.to_owned(),
    };
    if colors { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{ProblemInfo, SourceInfo, ZoneInfo};

    const STATUS: &str = r#"{"version": "0.1.0", "phase": "serving", "ready": true, "uptime_seconds": 3725.5, "now": 1000.0,
        "open": 12, "max_connections": 1000, "workers": 2, "later": 1,
        "listeners": [{"name": "web", "addresses": ["127.0.0.1:8080"], "pool": "web", "pools": ["web"], "active": 12,
            "denied": 4, "over_client_limits": 3, "over_client_limits_dry_run": 2}],
        "pools": [{"name": "web", "algorithm": "weighted", "settled": true, "up": 1, "failures_masked": 3, "backends": [
            {"name": "a", "address": "10.0.0.1:5000", "state": "up", "since": 940.0, "cause": "its check passed", "weight": 3,
             "active": 12, "connections": 1500, "bytes_in": 2048, "bytes_out": 5242880, "first_byte": {"count": 90, "p50_ms": 0.42, "p90_ms": 2.0, "p99_ms": 12.0},
             "last_check": {"kind": "http", "at": 999.0, "passed": true, "took_ms": 1.5}},
            {"name": "bö", "address": "10.0.0.2:5000", "state": "asleep", "since": 100.0, "cause": "x\u001b[2Jy", "weight": 1,
             "connections": 500, "first_byte": {"p50_ms": 250.0, "p99_ms": 400.0}, "times_slower": 595.2,
             "last_check": {"passed": false, "at": 998.0, "error": "refused"}}]}]}"#;

    #[test]
    fn the_columns_are_aligned() {
        let status: StatusReply = serde_json::from_str(STATUS).unwrap();
        let text = in_words(&status, false);
        let expected = "\
pointsman 0.1.0, serving, ready, up 1h, 12 of 1000 connections open, 2 workers

LISTENER  ADDRESS         POOL  OPEN        REJECTED
web       127.0.0.1:8080  web     12  7 (dry run: 2)

pool web: weighted, 1 of 2 backends in use, 3 failed attempts retried
  BACKEND  ADDRESS        STATE      SINCE  WEIGHT  SHARE  OPEN  TOTAL    IN   OUT                       FIRST BYTE  CHECK          CAUSE
  a        10.0.0.1:5000  ● up          1m       3    75%    12   1.5k  2.0K  5.0M                     0.42 / 12 ms  passed 1s ago  its check passed
  bö       10.0.0.2:5000  · unknown    15m       1    25%     0    500    0B    0B  250 / 400 ms, 595.2x the others  failed 2s ago  x [2Jy
";
        assert_eq!(text, expected);
        let mut troubled = status.clone();
        troubled.problems = (0..10)
            .map(|n| ProblemInfo {
                severity: if n == 0 { "critical" } else { "warning" }.into(),
                since: crate::api::Timestamp(990.0),
                sentence: format!("problem {n}"),
                ..ProblemInfo::default()
            })
            .collect();
        troubled.pools[0].backends.clear();
        troubled.pools[0].sources = vec![SourceInfo {
            name: "dns web:80".into(),
            result: Some("nxdomain".into()),
            trouble: Some("NXDOMAIN for web".into()),
            ..SourceInfo::default()
        }];
        let text = in_words(&troubled, false);
        let expected = "\n10 problems, 1 of them critical; `pointsman doctor` shows what to do:\n  ✖ 10s  problem 0\n  ▲ 10s  problem 1\n";
        assert!(text.contains(expected), "{text}");
        assert!(text.contains("problem 7\n  and 2 more\n"), "{text}");
        assert!(
            text.ends_with(
                "1 of 0 backends in use, 3 failed attempts retried\n  dns web:80: NXDOMAIN for web\n"
            ),
            "{text}"
        );
        let numbered =
            ["web-10", "web-9"].map(|name| BackendInfo { name: name.into(), ..BackendInfo::default() });
        troubled.pools[0].backends = numbered.into();
        let text = in_words(&troubled, false);
        assert!(text.find("web-9") < text.find("web-10"), "{text}");
        let colored = in_words(&status, true);
        assert!(colored.contains("\x1b[32m● up\x1b[0m") && colored.contains("\x1b[31mfailed 2s ago\x1b[0m"));
    }

    #[test]
    fn a_pool_that_prefers_a_zone_says_how_many_of_it_are_up() {
        let mut status: StatusReply = serde_json::from_str(STATUS).unwrap();
        let pool = &mut status.pools[0];
        pool.zone = Some(ZoneInfo { name: "eu-1a".into(), backends: 2, up: 2, short: false });
        pool.backends[1].zone = Some("eu-1b".into());
        let text = in_words(&status, false);
        assert!(text.contains("1 of 2 backends in use, 2 of 2 up in zone eu-1a, 3 failed"), "{text}");
        assert!(text.contains("\n  bö (zone eu-1b) "), "{text}");
        let pool = &mut status.pools[0];
        pool.zone = Some(ZoneInfo { name: "eu-1a".into(), backends: 2, up: 1, short: true });
        pool.backends[1].tier = 1;
        let text = in_words(&status, false);
        assert!(text.contains("1 of 2 up in zone eu-1a: other zones are used too, 3 failed"), "{text}");
        assert!(text.contains("\n  bö (backup, zone eu-1b) "), "{text}");
    }
}
