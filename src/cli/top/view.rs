//! The screen of `top`, for at least 80 columns and 24 lines; a smaller terminal shows its top left part.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Clear, Paragraph, Wrap};

use super::instance_view::{InstanceView, PoolGroup};
use super::table;
use super::ui::{Mode, Ui};
use crate::api::ProblemInfo;
use crate::cli::{problem_lines, terminal};

/// Draws the instance in the state of the user interface.
pub(super) fn draw(frame: &mut Frame<'_>, instance: &InstanceView, ui: &Ui) {
    let height = frame.area().height;
    let (events, decisions) = match height {
        ..14 => (0, 0),
        14..20 => (3, 0),
        20..36 => (3, 4),
        _ => (7, 9),
    };
    let problems = problems(instance, height);
    let [head, wrong, middle, detail, happened, decided, foot] = Layout::vertical([
        Constraint::Length(2),
        Constraint::Length(u16::try_from(problems.len()).unwrap_or(u16::MAX)),
        Constraint::Min(4),
        Constraint::Length(if height < 14 { 0 } else { 3 }),
        Constraint::Length(events),
        Constraint::Length(decisions),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(Paragraph::new(title(instance)), head);
    frame.render_widget(Paragraph::new(problems), wrong);
    let (lines, selected) = table::lines(instance, ui, usize::from(middle.width));
    frame.render_widget(Paragraph::new(table::scrolled(lines, selected, usize::from(middle.height))), middle);
    frame.render_widget(selected_backend(instance, ui), detail);
    frame.render_widget(list(" what happened ", &instance.events), happened);
    frame.render_widget(list(" routing decisions ", &instance.decisions), decided);
    frame.render_widget(Paragraph::new(footer(ui)), foot);
    if let Mode::Popup { title, lines, scroll } = &ui.mode {
        popup(frame, title, lines, *scroll);
    }
}

/// A line for each problem, the worst first, as many as a terminal of that height has room for.
fn problems(instance: &InstanceView, height: u16) -> Vec<Line<'static>> {
    let most = match height {
        ..14 => 1,
        14..36 => 3,
        _ => 8,
    };
    let Some(status) = &instance.status else { return Vec::new() };
    // The last line counts the problems without a line.
    let shown = if status.problems.len() > most { most - 1 } else { most };
    let line = |problem: &ProblemInfo| {
        Line::from(problem_lines::line(problem, status.clock())).fg(problem_lines::mark(problem).1)
    };
    let mut lines: Vec<_> = status.problems.iter().take(shown).map(line).collect();
    if status.problems.len() > shown {
        let more = if shown > 0 { "more " } else { "" };
        let text = format!("  {} {more}problems: p shows them", status.problems.len() - shown);
        lines.push(Line::from(text).fg(Color::Yellow));
    }
    lines
}

fn title(instance: &InstanceView) -> Vec<Line<'static>> {
    let mut first = vec![Span::from("pointsman ").bold()];
    let mut second = Vec::new();
    if let Some(status) = &instance.status {
        let (phase, color) = match (&instance.lost, status.ready) {
            // An instance that does not answer may have stopped.
            (Some(_), _) => ("phase unknown", Color::Gray),
            (None, true) => (&*status.phase, Color::Green),
            (None, false) => (&*status.phase, Color::Yellow),
        };
        let sum = |number: fn(&PoolGroup) -> f64| instance.groups.iter().map(number).sum::<f64>();
        let seen = sum(|group| group.pool.failures_seen as f64);
        first.push(Span::from(terminal::clean(&status.version)));
        first.push(Span::from("  "));
        first.push(Span::from(terminal::clean(phase)).fg(color));
        first.push(Span::from(format!(
            "  up {}  {}",
            terminal::age(status.uptime_seconds),
            instance.address
        )));
        second.extend([
            Span::from(format!("{} open", status.open)).bold(),
            Span::from(format!("  {} conn/s", terminal::count(sum(|group| group.rate)))),
            Span::from(format!("  {}/s", terminal::bytes(sum(|group| group.bytes)))),
            Span::from(format!("  {} retried", sum(|group| group.pool.failures_masked as f64))),
            Span::from(format!("  {seen} client-visible failures")).fg(
                // A total since the start: only failures within the window are a problem.
                if status.has_problem("client_failures", None) { Color::Red } else { Color::Reset },
            ),
        ]);
    } else if instance.lost.is_none() {
        second.push(Span::from(format!("asking {} …", instance.address)));
    }
    if let Some(why) = &instance.lost {
        let last = if instance.status.is_some() { "showing old data; " } else { "" };
        let words = format!("connection lost, {last}reconnecting: {}", terminal::clean(why));
        second = vec![Span::from(words).fg(Color::Red).bold()];
    }
    vec![Line::from(first), Line::from(second)]
}

/// The selected backend, as text.
fn selected_backend(instance: &InstanceView, ui: &Ui) -> Paragraph<'static> {
    let block = Block::new().borders(Borders::TOP);
    let Some(row) = ui.selected.as_ref().and_then(|key| instance.row(key)) else {
        return Paragraph::new("no backend is shown").block(block);
    };
    let backend = &row.backend;
    let (pool, name, address) = (&row.key.pool, &row.key.name, &row.key.address);
    let first = format!("{pool}/{name} at {address} is {}: {}", backend.state_name(), backend.cause);
    let check = match &backend.last_check {
        None => "never checked".to_owned(),
        Some(check) if check.passed => {
            format!("{} check passed in {} ms", check.kind, terminal::millis(check.took_ms))
        }
        Some(check) => {
            format!("{} check failed: {}", check.kind, check.error.as_deref().unwrap_or("no reason"))
        }
    };
    let second = format!(
        "{check}; {} connections, {} in, {} out, {} failed to connect",
        backend.connections,
        terminal::bytes(backend.bytes_in as f64),
        terminal::bytes(backend.bytes_out as f64),
        backend.connect_failures
    );
    let color = terminal::color(backend.state);
    let lines = vec![Line::from(terminal::clean(&first).fg(color)), Line::from(terminal::clean(&second))];
    Paragraph::new(lines).block(block)
}

fn list<'a>(title: &'static str, lines: impl IntoIterator<Item = &'a String>) -> Paragraph<'a> {
    let lines: Vec<_> = lines.into_iter().map(|line| Line::from(line.as_str())).collect();
    Paragraph::new(lines).block(Block::new().borders(Borders::TOP).title(title))
}

fn footer(ui: &Ui) -> Line<'static> {
    match (&ui.mode, &ui.message) {
        (Mode::Filter, _) => {
            Line::from(format!("show only: {}▏  (enter: keep, esc: all)", terminal::clean(&ui.filter)))
        }
        (Mode::Weight { of, text }, _) => {
            Line::from(format!("weight of {}, 0 to 256: {text}▏  (enter, esc)", terminal::clean(&of.text())))
        }
        (Mode::Confirm { question, change }, _) => {
            let keys = if change.is_forced() { "(Y, n)" } else { "(y, n)" };
            Line::from(terminal::clean(&format!("{keys}  {question}"))).bold()
        }
        (_, Some((text, bad))) => {
            Line::from(terminal::clean(text)).fg(if *bad { Color::Red } else { Color::Green }).bold()
        }
        (_, None) => {
            let filter = if ui.filter.is_empty() {
                String::new()
            } else {
                format!("  only {:?}", terminal::clean(&ui.filter))
            };
            let keys = "s sort  / filter  enter why  d drain  u up  + - w weight  ? keys  q quit";
            Line::from(format!("{keys}{filter}")).add_modifier(Modifier::DIM)
        }
    }
}

fn popup(frame: &mut Frame<'_>, title: &str, lines: &[String], scroll: usize) {
    let area = frame.area();
    let longest =
        lines.iter().map(|line| terminal::width(line)).max().unwrap_or(0).max(terminal::width(title) + 2);
    let width = u16::try_from(longest + 4).unwrap_or(u16::MAX).min(area.width.saturating_sub(4)).max(1);
    let inside = usize::from(width.saturating_sub(4)).max(1);
    let folded: usize = lines.iter().map(|line| terminal::width(line).div_ceil(inside).max(1)).sum();
    let height = u16::try_from(folded + 2).unwrap_or(u16::MAX).min(area.height.saturating_sub(2)).max(1);
    let popup_area = Rect {
        x: area.x + (area.width.saturating_sub(width)) / 2,
        y: area.y + (area.height.saturating_sub(height)) / 2,
        width,
        height,
    }
    .intersection(area);
    let text: Vec<_> = lines.iter().skip(scroll).map(|line| Line::from(format!(" {line}"))).collect();
    let block = Block::bordered().title(format!(" {title} ")).title_bottom(" esc ");
    frame.render_widget(Clear, popup_area);
    frame.render_widget(Paragraph::new(text).wrap(Wrap { trim: false }).block(block), popup_area);
}

#[cfg(test)]
mod tests {
    use super::super::instance_view::InstanceUpdate;
    use super::super::instance_view::tests::status;
    use super::*;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    fn instance() -> InstanceView {
        let mut instance = InstanceView::new("127.0.0.1:9900".into());
        let at = |second, a, b| {
            let web: &[_] =
                &[("a", "up", a, 10_240), ("bb", "down", b, 0), ("a-rather-long-name", "maintenance", 0, 0)];
            status(second, &[("api", &[("x", "joining", 0, 0)]), ("web", web)])
        };
        instance.apply(at(60, 1000, 500));
        instance.apply(at(61, 1030, 510));
        let event = serde_json::json!({"at": 65.0, "sentence": "web/a has weight 3"});
        instance.apply(InstanceUpdate::Event(serde_json::from_value(event).unwrap()));
        let decision = serde_json::json!({"at": 65.0, "sentence": "#9 127.0.0.1:4000 → a: next in rotation; excluded: bb: down"});
        instance.apply(InstanceUpdate::Decisions(vec![serde_json::from_value(decision).unwrap()]));
        instance
    }

    fn drawn(instance: &InstanceView, ui: &mut Ui, width: u16, height: u16) -> String {
        ui.settle(instance);
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, instance, ui)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn everything_fits_a_terminal_of_80_by_24() {
        let text = drawn(&instance(), &mut Ui::default(), 80, 24);
        for shown in [
            "pointsman 0.1.0  serving  up 1m  127.0.0.1:9900",
            "12 open  40 conn/s  0B/s  6 retried  2 client-visible failures",
            "backend▼    state         share",
            "api  round-robin  0/1 in use",
            "web  round-robin  1/3 in use  40 conn/s",
            "› x           ◌ joining".trim_start_matches("› "),
            " a           ● up          ████·  75%   1   103     30    0B  0.25  ✓ 1s     1m ",
            " bb          ✖ down        █····  25%   1    51     10    0B  0.25  ✗ 1s     1m ",
            " a-rat…-name ■ maintenance",
            "api/x at 10.0.0.1:5001 is joining: x has its reasons",
            "http check failed: refused; 0 connections",
            "00:01:05 web/a has weight 3",
            "00:01:05 #9 127.0.0.1:4000 → a: next in rotation; excluded: bb: down",
            "d drain",
        ] {
            assert!(text.contains(shown), "{shown:?} is missing:\n{text}");
        }
    }

    #[test]
    fn a_wide_terminal_shows_addresses_and_causes() {
        let text = drawn(&instance(), &mut Ui::default(), 160, 50);
        assert!(text.contains("a-rather-long-name") && text.contains("10.0.0.1:5018"), "{text}");
        assert!(
            text.contains("■ maintenance ·····   0%") && text.matches("bb has its reasons").count() == 1,
            "{text}"
        );
    }

    #[test]
    fn the_selected_one_of_two_hundred_backends_is_visible() {
        let names: Vec<_> = (0..200).map(|number| format!("backend-{number:03}")).collect();
        let backends: Vec<_> = names.iter().map(|name| (&**name, "up", 0, 0)).collect();
        let mut instance = InstanceView::new("here".into());
        instance.apply(status(1, &[("web", &backends)]));
        let mut ui = Ui::default();
        assert!(drawn(&instance, &mut ui, 80, 24).contains("›backend-000"));
        for (steps, name) in [(3, "003"), (60, "060"), (500, "199")] {
            ui.selected = None;
            ui.settle(&instance);
            for _ in 0..steps {
                ui.on(ratatui::crossterm::event::KeyCode::Down.into(), &instance);
            }
            let text = drawn(&instance, &mut ui, 80, 24);
            assert!(text.contains(&format!("›backend-{name}")) && text.contains("state"), "{text}");
        }
    }

    #[test]
    fn a_lost_connection_is_shown_and_the_last_data_stays() {
        let mut instance = instance();
        instance.apply(InstanceUpdate::Lost("connection refused".into()));
        let text = drawn(&instance, &mut Ui::default(), 80, 24);
        assert!(
            text.contains("connection lost, showing old data; reconnecting: connection refused"),
            "{text}"
        );
        assert!(text.contains("● up"), "{text}");
        assert!(text.contains("phase unknown") && !text.contains("serving"), "{text}");
        instance.apply(InstanceUpdate::Connected);
        assert!(!drawn(&instance, &mut Ui::default(), 80, 24).contains("connection lost"));
    }

    /// A status with that many problems.
    fn troubled(problems: usize) -> InstanceView {
        let mut instance = instance();
        let status = instance.status.as_mut().unwrap();
        let problem = |n| ProblemInfo {
            severity: if n == 0 { "critical" } else { "warning" }.into(),
            since: crate::api::Timestamp(940.0),
            sentence: format!("trouble {n}"),
            hint: format!("remedy {n}"),
            ..ProblemInfo::default()
        };
        status.problems = (0..problems).map(problem).collect();
        instance
    }

    #[test]
    fn problems_come_first_and_more_than_there_is_room_for_are_counted() {
        let three = drawn(&troubled(3), &mut Ui::default(), 80, 24);
        let lines: Vec<_> = three.lines().collect();
        assert!(lines[2].contains("✖  1m  trouble 0") && lines[4].contains("▲  1m  trouble 2"), "{three}");
        let twelve = drawn(&troubled(12), &mut Ui::default(), 80, 24);
        assert!(twelve.contains("trouble 1") && !twelve.contains("trouble 2"), "{twelve}");
        assert!(twelve.contains("10 more problems: p shows them"), "{twelve}");
        let low = drawn(&troubled(2), &mut Ui::default(), 80, 12);
        assert!(low.contains("2 problems: p shows them"), "{low}");
        let mut ui = Ui::default();
        ui.on(ratatui::crossterm::event::KeyCode::Char('p').into(), &troubled(2));
        let popup = drawn(&troubled(2), &mut ui, 80, 24);
        assert!(popup.contains("2 problems, 1 of them critical") && popup.contains("→ remedy 1"), "{popup}");
    }

    #[test]
    fn typed_text_and_the_result_are_shown() {
        let (instance, mut ui) = (instance(), Ui::default());
        let mut press = |c: char, wanted: &str| {
            ui.settle(&instance);
            ui.on(ratatui::crossterm::event::KeyCode::Char(c).into(), &instance);
            let text = drawn(&instance, &mut ui, 80, 24);
            assert!(text.contains(wanted), "{wanted:?} is missing:\n{text}");
        };
        press('d', "drain api/x?");
        press('n', "? keys");
        press('w', "weight of api/x, 0 to 256: ▏");
        press('7', "0 to 256: 7▏");
        ui.mode = Mode::Table;
        ui.message = Some(("round-robin ignores weights except 0".into(), true));
        assert!(drawn(&instance, &mut ui, 80, 24).contains("round-robin ignores weights except 0"));
        ui.on(ratatui::crossterm::event::KeyCode::Char('?').into(), &instance);
        assert!(drawn(&instance, &mut ui, 80, 24).contains("maintenance: no new connections, no checks"));
    }

    #[test]
    fn no_terminal_is_too_small_or_too_large_to_try() {
        let (instance, mut ui) = (instance(), Ui::default());
        for (width, height) in [(1, 1), (2, 2), (5, 3), (20, 5), (79, 13), (80, 19), (300, 100)] {
            for key in ['?', 'q', 'd', 'n', '/', 'a'] {
                ui.on(ratatui::crossterm::event::KeyCode::Char(key).into(), &instance);
                drawn(&instance, &mut ui, width, height);
            }
            ui = Ui::default();
            drawn(&InstanceView::default(), &mut Ui::default(), width, height);
        }
    }
}
