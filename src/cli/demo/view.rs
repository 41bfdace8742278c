//! The live view in the terminal.

use std::io;
use std::time::Duration;

use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Cell, Paragraph, Row as TableRow, Table, Wrap};

use super::snapshot::{BackendRow, DemoSnapshot, clock};
use crate::cli::terminal;

/// The width of a share's bar, in characters.
const BAR: usize = 10;
/// The least width for addresses, in characters.
const WIDE: u16 = 100;
/// Rows of the table: four backends, and one that joins before its predecessor is gone.
const ROWS: u16 = 5;

/// Whether q, Esc or Ctrl-C was pressed. Never blocks.
pub(super) fn quit_pressed() -> io::Result<bool> {
    while event::poll(Duration::ZERO)? {
        let Event::Key(key) = event::read()? else { continue };
        let control_c = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
        let quit = matches!(key.code, KeyCode::Char('q') | KeyCode::Esc) || control_c;
        if key.kind == KeyEventKind::Press && quit {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Draws the view.
pub(super) fn draw(frame: &mut Frame<'_>, snapshot: &DemoSnapshot) {
    let changes = if frame.area().height < 20 { 3 } else { 6 };
    let [head, backends, decisions, changed, foot] = Layout::vertical([
        Constraint::Length(3),
        Constraint::Length(ROWS + 2),
        Constraint::Min(4),
        Constraint::Length(changes + 1),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(Paragraph::new(title(snapshot)).wrap(Wrap { trim: false }), head);
    frame.render_widget(table(&snapshot.backends, backends.width), backends);
    frame.render_widget(lines(" why each connection went to its backend ", &snapshot.decisions), decisions);
    frame.render_widget(lines(" changes of backends ", &snapshot.changes), changed);
    frame.render_widget(Paragraph::new(totals(snapshot)), foot);
}

fn title(snapshot: &DemoSnapshot) -> Vec<Line<'static>> {
    let address = format!("curl http://{}/", snapshot.address);
    let first = vec![
        Span::from("Pointsman demo ").bold(),
        Span::from(clock(snapshot.time)),
        Span::from("  "),
        Span::from(address).fg(Color::Cyan),
        Span::from(format!("  admin http://{}  q quits", snapshot.admin)),
    ];
    vec![
        Line::from(first),
        Line::from(vec!["▶ ".fg(Color::Yellow), Span::from(snapshot.step.clone()).bold()]),
    ]
}

fn table(rows: &[BackendRow], width: u16) -> Table<'static> {
    let wide = width >= WIDE;
    let mut head = vec!["backend", "state", "share", "open", "latency", "total", "cause"];
    let mut widths = [7, 8, BAR as u16 + 5, 4, 7, 6].map(Constraint::Length).to_vec();
    if wide {
        head.insert(1, "address");
        widths.insert(1, Constraint::Length(21));
    }
    widths.push(Constraint::Fill(1));
    Table::new(rows.iter().map(|one| row(one, wide)), widths)
        .header(TableRow::new(head).style(Style::new().add_modifier(Modifier::DIM)))
        .block(Block::new().borders(Borders::TOP).title(" backends "))
}

fn row(row: &BackendRow, wide: bool) -> TableRow<'static> {
    let color = terminal::color(Some(row.state));
    let bar = terminal::bar(row.share, BAR);
    let latency = row.latency.map_or("-".to_owned(), |time| format!("{:.0} ms", time.as_secs_f64() * 1e3));
    let mut cells = vec![
        Cell::from(row.name.to_string()).bold(),
        Cell::from(row.state.name()).fg(color),
        Cell::from(format!("{bar} {:3.0}%", row.share * 100.0)).fg(color),
        Cell::from(row.open.to_string()),
        Cell::from(latency),
        Cell::from(row.connections.to_string()),
        Cell::from(row.cause.to_string()),
    ];
    if wide {
        cells.insert(1, Cell::from(row.address.clone()));
    }
    TableRow::new(cells)
}

fn lines(title: &'static str, lines: &[String]) -> Paragraph<'static> {
    let text: Vec<_> = lines.iter().cloned().map(Line::from).collect();
    Paragraph::new(text).block(Block::new().borders(Borders::TOP).title(title))
}

fn totals(snapshot: &DemoSnapshot) -> Line<'static> {
    let totals = &snapshot.totals;
    let color = if totals.failed == 0 { Color::Green } else { Color::Red };
    Line::from(vec![
        Span::from(format!("{} answered", totals.answered)).bold(),
        Span::from("   "),
        Span::from(format!("{} failed", totals.failed)).bold().fg(color),
        Span::from(format!("   {} broken by a killed backend   {} retried", totals.broken, snapshot.retried)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::demo::traffic::TrafficTotals;
    use crate::domain::BackendState;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    fn snapshot() -> DemoSnapshot {
        let row = |name: &str, state, share| BackendRow {
            name: name.into(),
            address: "127.0.0.2:5000".to_owned(),
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
            step: "b is killed".to_owned(),
            backends: vec![
                row("a", BackendState::Up, 0.5),
                row("b", BackendState::Down, 0.0),
                row("c", BackendState::Up, 0.5),
            ],
            decisions: vec!["01:05 #9 127.0.0.1:4000 → a: next in rotation; excluded b: down".to_owned()],
            changes: vec!["01:04 b is down: 3 failures in a row".to_owned()],
            totals: TrafficTotals { answered: 1000, broken: 1, ..TrafficTotals::default() },
            retried: 3,
        }
    }

    fn drawn(width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, &snapshot())).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn everything_fits_a_terminal_of_80_by_24() {
        let text = drawn(80, 24);
        for shown in [
            "01:05",
            "curl http://127.0.0.1:8080/",
            "q quits",
            "b is killed",
            "█████····· ",
            " 50%",
            "15 ms",
            "down",
            "3 failures in a row",
            "→ a: next in rotation",
            "01:04 b is down",
            "1000 answered",
            "0 failed",
            "3 retried",
        ] {
            assert!(text.contains(shown), "{shown:?} is missing:\n{text}");
        }
    }

    #[test]
    fn a_wide_terminal_shows_addresses() {
        assert!(drawn(120, 24).contains("127.0.0.2:5000"));
    }

    #[test]
    fn drawing_works_at_any_size() {
        for (width, height) in [(1, 1), (20, 5), (300, 100)] {
            drawn(width, height);
        }
    }
}
