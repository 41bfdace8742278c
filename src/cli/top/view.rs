//! What `top` shows, from 80 columns and 24 lines up; on less, the top left of that.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Clear, Paragraph, Wrap};

use super::ui::{Column, Mode, Ui};
use super::world::{Group, Row, World};
use crate::cli::look;

/// Width of a share's bar, in characters.
const BAR: usize = 5;
/// All columns but the name, and the gaps between.
const FIXED: usize = 69;
/// A name's column: at least, and at most.
const NAME: [usize; 2] = [11, 30];
/// From this width on there is room for addresses.
const WIDE: usize = 132;
const ADDRESS: usize = 21;
/// A cause that has less room says nothing.
const CAUSE: usize = 12;

/// Draws what is known as it is looked at.
pub(super) fn draw(frame: &mut Frame<'_>, world: &World, ui: &Ui) {
    let height = frame.area().height;
    let (facts, decisions) = match height {
        ..14 => (0, 0),
        14..20 => (3, 0),
        20..36 => (3, 4),
        _ => (7, 9),
    };
    let [head, table, detail, happened, decided, foot] = Layout::vertical([
        Constraint::Length(2),
        Constraint::Min(4),
        Constraint::Length(if height < 14 { 0 } else { 3 }),
        Constraint::Length(facts),
        Constraint::Length(decisions),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(Paragraph::new(title(world)), head);
    let (lines, selected) = backends(world, ui, usize::from(table.width));
    frame.render_widget(Paragraph::new(scrolled(lines, selected, usize::from(table.height))), table);
    frame.render_widget(selected_one(world, ui), detail);
    frame.render_widget(list(" what happened ", &world.facts), happened);
    frame.render_widget(list(" why connections went where they went ", &world.decisions), decided);
    frame.render_widget(Paragraph::new(footer(ui)), foot);
    if let Mode::Popup { title, lines, scroll } = &ui.mode {
        popup(frame, title, lines, *scroll);
    }
}

fn title(world: &World) -> Vec<Line<'static>> {
    let mut first = vec![Span::from("pointsman ").bold()];
    let mut second = Vec::new();
    if let Some(status) = &world.status {
        let phase = if status.phase == "serving" { Color::Green } else { Color::Yellow };
        let sum = |number: fn(&Group) -> f64| world.groups.iter().map(number).sum::<f64>();
        let seen = sum(|group| (group.pool.failures_seen + group.pool.unserved) as f64);
        first.push(Span::from(look::clean(&status.version)));
        first.push(Span::from("  "));
        first.push(Span::from(look::clean(&status.phase)).fg(phase));
        first.push(Span::from(format!("  up {}  {}", look::age(status.uptime_seconds), world.address)));
        second.extend([
            Span::from(format!("{} open", status.open())).bold(),
            Span::from(format!("  {} conn/s", look::count(sum(|group| group.rate)))),
            Span::from(format!("  {}/s", look::bytes(sum(|group| group.bytes)))),
            Span::from(format!("  {} failures hidden", sum(|group| group.pool.failures_masked as f64))),
            Span::from(format!("  {seen} seen by clients")).fg(if seen > 0.0 {
                Color::Red
            } else {
                Color::Reset
            }),
        ]);
    } else if world.lost.is_none() {
        second.push(Span::from(format!("asking {} …", world.address)));
    }
    if let Some(why) = &world.lost {
        let last = if world.status.is_some() { "what is shown is old; " } else { "" };
        let words = format!("link lost, {last}trying again: {}", look::clean(why));
        second = vec![Span::from(words).fg(Color::Red).bold()];
    }
    vec![Line::from(first), Line::from(second)]
}

/// The table's lines, its heading the first, and which of them is the selected backend's.
fn backends(world: &World, ui: &Ui, width: usize) -> (Vec<Line<'static>>, usize) {
    let names = world.groups.iter().flat_map(|group| &group.rows).map(|row| look::width(&name(row)));
    let layout = Widths::of(width, names.max().unwrap_or(0));
    let mut lines = vec![heading(ui, &layout)];
    let mut selected = 0;
    let now = world.status.as_ref().map_or(0.0, crate::cli::reply::Status::clock);
    for (index, rows) in ui.shown(world) {
        lines.push(pool(&world.groups[index], world, width));
        for row in rows {
            let is_selected = ui.selected.as_ref() == Some(&row.key);
            if is_selected {
                selected = lines.len();
            }
            lines.push(backend(row, &layout, now, is_selected));
        }
    }
    (lines, selected)
}

/// The heading, and of the other lines as many as there is room for, with the selected one and, if it can be, the line
/// of its pool.
fn scrolled(mut lines: Vec<Line<'static>>, selected: usize, height: usize) -> Vec<Line<'static>> {
    let room = height.saturating_sub(1);
    let below = selected.saturating_sub(room);
    lines.drain(1..=below.min(lines.len() - 1));
    lines.truncate(height);
    lines
}

/// How wide the columns are whose width depends on the terminal's.
struct Widths {
    name: usize,
    address: usize,
    cause: usize,
}

impl Widths {
    /// In a terminal of that width, where the longest name is as long.
    fn of(width: usize, longest: usize) -> Self {
        let room = width.saturating_sub(FIXED);
        let address = if width >= WIDE { ADDRESS } else { 0 };
        let taken = if address > 0 { address + 1 } else { 0 };
        let name = room.saturating_sub(taken).min(longest).clamp(NAME[0], NAME[1]);
        let cause = room.saturating_sub(taken + name + 1);
        Self { name, address, cause: if cause < CAUSE { 0 } else { cause } }
    }
}

/// One cell: text, width, whether it is flush right, and its style.
type Cell = (String, usize, bool, Style);

fn line(mark: &'static str, cells: Vec<Cell>) -> Line<'static> {
    let mut spans = vec![Span::from(mark)];
    for (text, width, right, style) in cells.into_iter().filter(|cell| cell.1 > 0) {
        spans.push(Span::styled(look::fit(&text, width, right), style));
        spans.push(Span::from(" "));
    }
    Line::from(spans)
}

fn heading(ui: &Ui, layout: &Widths) -> Line<'static> {
    let cell = |title: &str, width: usize, right: bool, column: Option<Column>| {
        let sorted = column == Some(ui.sort);
        let arrow = if ui.reverse { "▲" } else { "▼" };
        let style = if sorted { Style::new().bold() } else { Style::new().add_modifier(Modifier::DIM) };
        (if sorted { format!("{title}{arrow}") } else { title.to_owned() }, width, right, style)
    };
    line(
        " ",
        vec![
            cell("backend", layout.name, false, Some(Column::Name)),
            cell("address", layout.address, false, None),
            cell("state", 13, false, Some(Column::State)),
            cell("share", BAR + 5, false, Some(Column::Share)),
            cell("wt", 3, true, None),
            cell("open", 5, true, Some(Column::Open)),
            cell("con/s", 6, true, Some(Column::Rate)),
            cell("B/s", 5, true, Some(Column::Bytes)),
            cell("ms", 5, true, Some(Column::Connect)),
            cell("check", 5, true, None),
            cell("since", 6, true, Some(Column::Since)),
            cell("why", layout.cause, false, None),
        ],
    )
}

fn pool(group: &Group, world: &World, width: usize) -> Line<'static> {
    let pool = &group.pool;
    let up = Span::from(format!("{}/{} up", pool.up, group.rows.len()));
    let up = if pool.is_unserved() { up.fg(Color::Red).bold() } else { up };
    let mut spans = vec![Span::from(look::clean(&pool.name)).bold().fg(Color::Cyan), Span::from("  ")];
    spans.extend([Span::from(look::clean(&pool.algorithm)), Span::from("  "), up]);
    spans.push(Span::from(format!("  {} conn/s  {}/s", look::count(group.rate), look::bytes(group.bytes))));
    let mut note = |wanted: bool, words: String, colour: Color| {
        if wanted {
            spans.push(Span::from(format!("  {words}")).fg(colour));
        }
    };
    note(pool.panic, "panic: all are used".to_owned(), Color::Red);
    note(!pool.settled, "looking for backends".to_owned(), Color::Cyan);
    note(pool.queue > 0, format!("{} wait", pool.queue), Color::Yellow);
    note(pool.failures_seen > 0, format!("{} failures seen", pool.failures_seen), Color::Red);
    spans.push(Span::from("  "));
    let taken: usize = spans.iter().map(Span::width).sum();
    let room = width.saturating_sub(taken).min(60);
    spans.push(Span::from(look::spark(world.history(&pool.name), room)).fg(Color::Green));
    Line::from(spans)
}

fn name(row: &Row) -> String {
    let backup = if row.backend.tier > 0 { " (backup)" } else { "" };
    look::clean(&format!("{}{backup}", row.key.name))
}

fn backend(row: &Row, layout: &Widths, now: f64, selected: bool) -> Line<'static> {
    let backend = &row.backend;
    let colour = Style::new().fg(look::colour(backend.state));
    let plain = Style::new();
    let share = format!("{} {:3.0}%", look::bar(row.share, BAR), row.share * 100.0);
    let connect = backend.connect_ms.map_or("-".to_owned(), look::millis);
    let check = match &backend.last_check {
        None => ("-".to_owned(), 5, true, plain),
        Some(check) => {
            let age = look::age(now - check.at);
            let (mark, style) = if check.passed { ("✓", plain) } else { ("✗", plain.fg(Color::Red)) };
            (format!("{mark} {age}"), 5, true, style)
        }
    };
    let rate = if row.rate < 9.95 { format!("{:.1}", row.rate) } else { look::count(row.rate) };
    let cells = vec![
        (name(row), layout.name, false, plain.bold()),
        (look::clean(&row.key.address), layout.address, false, plain),
        (format!("{} {}", look::mark(backend.state), backend.state_name()), 13, false, colour),
        (share, BAR + 5, false, colour),
        (backend.weight.to_string(), 3, true, plain),
        (look::count(backend.active as f64), 5, true, plain),
        (rate, 6, true, plain),
        (look::bytes(row.bytes), 5, true, plain),
        (connect, 5, true, plain),
        check,
        (look::age(now - backend.since), 6, true, plain),
        (look::clean(&backend.cause), layout.cause, false, plain),
    ];
    let line = line(if selected { "›" } else { " " }, cells);
    if selected { line.style(Style::new().add_modifier(Modifier::REVERSED)) } else { line }
}

/// The selected backend in words.
fn selected_one(world: &World, ui: &Ui) -> Paragraph<'static> {
    let block = Block::new().borders(Borders::TOP);
    let Some(row) = ui.selected.as_ref().and_then(|key| world.row(key)) else {
        return Paragraph::new("no backend is shown").block(block);
    };
    let backend = &row.backend;
    let (pool, name, address) = (&row.key.pool, &row.key.name, &row.key.address);
    let first = format!("{pool}/{name} at {address} is {}: {}", backend.state_name(), backend.cause);
    let check = match &backend.last_check {
        None => "never checked".to_owned(),
        Some(check) if check.passed => {
            format!("{} check passed in {} ms", check.kind, look::millis(check.took_ms))
        }
        Some(check) => {
            format!("{} check failed: {}", check.kind, check.error.as_deref().unwrap_or("no reason"))
        }
    };
    let second = format!(
        "{check}; {} connections, {} in, {} out, {} failed to connect",
        backend.connections,
        look::bytes(backend.bytes_in as f64),
        look::bytes(backend.bytes_out as f64),
        backend.connect_failures
    );
    let colour = look::colour(backend.state);
    let lines = vec![Line::from(look::clean(&first).fg(colour)), Line::from(look::clean(&second))];
    Paragraph::new(lines).block(block)
}

fn list<'a>(title: &'static str, lines: impl IntoIterator<Item = &'a String>) -> Paragraph<'a> {
    let lines: Vec<_> = lines.into_iter().map(|line| Line::from(line.as_str())).collect();
    Paragraph::new(lines).block(Block::new().borders(Borders::TOP).title(title))
}

fn footer(ui: &Ui) -> Line<'static> {
    let name = |of: &super::world::Key| look::clean(&format!("{}/{}", of.pool, of.name));
    match (&ui.mode, &ui.message) {
        (Mode::Filter, _) => {
            Line::from(format!("show only: {}▏  (enter: keep, esc: all)", look::clean(&ui.filter)))
        }
        (Mode::Weight { of, text }, _) => {
            Line::from(format!("weight of {}, 0 to 256: {text}▏  (enter, esc)", name(of)))
        }
        (Mode::Confirm { of, state: "draining" }, _) => {
            Line::from(format!("drain {}? nobody new is sent there  (y, n)", name(of))).bold()
        }
        (Mode::Confirm { of, .. }, _) => {
            Line::from(format!("take {} out, without checks? nobody new is sent there  (y, n)", name(of)))
                .bold()
        }
        (_, Some((text, bad))) => {
            Line::from(look::clean(text)).fg(if *bad { Color::Red } else { Color::Green }).bold()
        }
        (_, None) => {
            let filter = if ui.filter.is_empty() {
                String::new()
            } else {
                format!("  only {:?}", look::clean(&ui.filter))
            };
            let keys = "s sort  / filter  enter why  d drain  u up  + - w weight  ? keys  q quit";
            Line::from(format!("{keys}{filter}")).add_modifier(Modifier::DIM)
        }
    }
}

fn popup(frame: &mut Frame<'_>, title: &str, lines: &[String], scroll: usize) {
    let area = frame.area();
    let longest = lines.iter().map(|line| look::width(line)).max().unwrap_or(0).max(look::width(title) + 2);
    let width = u16::try_from(longest + 4).unwrap_or(u16::MAX).min(area.width.saturating_sub(4)).max(1);
    let inside = usize::from(width.saturating_sub(4)).max(1);
    let folded: usize = lines.iter().map(|line| look::width(line).div_ceil(inside).max(1)).sum();
    let height = u16::try_from(folded + 2).unwrap_or(u16::MAX).min(area.height.saturating_sub(2)).max(1);
    let place = Rect {
        x: area.x + (area.width.saturating_sub(width)) / 2,
        y: area.y + (area.height.saturating_sub(height)) / 2,
        width,
        height,
    }
    .intersection(area);
    let text: Vec<_> = lines.iter().skip(scroll).map(|line| Line::from(format!(" {line}"))).collect();
    let block = Block::bordered().title(format!(" {title} ")).title_bottom(" esc ");
    frame.render_widget(Clear, place);
    frame.render_widget(Paragraph::new(text).wrap(Wrap { trim: false }).block(block), place);
}

#[cfg(test)]
mod tests {
    use super::super::world::News;
    use super::super::world::tests::status;
    use super::*;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    fn world() -> World {
        let mut world = World::new("127.0.0.1:9900".into());
        let at = |second, a, b| {
            let web: &[_] =
                &[("a", "up", a, 10_240), ("bb", "down", b, 0), ("a-rather-long-name", "maintenance", 0, 0)];
            status(second, &[("api", &[("x", "joining", 0, 0)]), ("web", web)])
        };
        world.take(at(60, 1000, 500));
        world.take(at(61, 1030, 510));
        let fact =
            serde_json::json!({"at": 65.0, "kind": "weight", "pool": "web", "backend": "a", "weight": 3});
        world.take(News::Fact(fact));
        let decision = serde_json::json!({"conn": 9, "at": 65.0, "client": "127.0.0.1:4000", "backend": "a",
            "algorithm": "round-robin", "skipped": "bb: down"});
        world.take(News::Decisions(vec![serde_json::from_value(decision).unwrap()]));
        world
    }

    fn drawn(world: &World, ui: &mut Ui, width: u16, height: u16) -> String {
        ui.settle(world);
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, world, ui)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn everything_fits_a_usual_terminal() {
        let text = drawn(&world(), &mut Ui::default(), 80, 24);
        for shown in [
            "pointsman 0.1.0  serving  up 1m  127.0.0.1:9900",
            "12 open  40 conn/s  0B/s  6 failures hidden  2 seen by clients",
            "backend▼    state         share",
            "api  round-robin  0/1 up",
            "web  round-robin  1/3 up  40 conn/s",
            "› x           ◌ joining".trim_start_matches("› "),
            " a           ● up          ████·  75%   1   103     30    0B  0.25  ✓ 1s     1m ",
            " bb          ✖ down        █····  25%   1    51     10    0B  0.25  ✗ 1s     1m ",
            " a-rather-l… ■ maintenance",
            "api/x at 10.0.0.1:5001 is joining: x has its reasons",
            "http check failed: refused; 0 connections",
            "00:01:05 web/a has weight 3",
            "00:01:05 #9 127.0.0.1:4000 → a: its turn; passed over bb: down",
            "d drain",
        ] {
            assert!(text.contains(shown), "{shown:?} is missing:\n{text}");
        }
    }

    #[test]
    fn a_wide_terminal_shows_addresses_and_causes() {
        let text = drawn(&world(), &mut Ui::default(), 160, 50);
        assert!(text.contains("a-rather-long-name") && text.contains("10.0.0.1:5018"), "{text}");
        assert!(
            text.contains("■ maintenance ·····   0%") && text.matches("bb has its reasons").count() == 1,
            "{text}"
        );
    }

    #[test]
    fn whoever_is_selected_is_seen_among_two_hundred() {
        let names: Vec<_> = (0..200).map(|number| format!("backend-{number:03}")).collect();
        let backends: Vec<_> = names.iter().map(|name| (&**name, "up", 0, 0)).collect();
        let mut world = World::new("here".into());
        world.take(status(1, &[("web", &backends)]));
        let mut ui = Ui::default();
        assert!(drawn(&world, &mut ui, 80, 24).contains("›backend-000"));
        for (steps, name) in [(3, "003"), (60, "060"), (500, "199")] {
            ui.selected = None;
            ui.settle(&world);
            for _ in 0..steps {
                ui.on(ratatui::crossterm::event::KeyCode::Down.into(), &world);
            }
            let text = drawn(&world, &mut ui, 80, 24);
            assert!(text.contains(&format!("›backend-{name}")) && text.contains("state"), "{text}");
        }
    }

    #[test]
    fn a_lost_link_is_said_and_what_was_known_stays() {
        let mut world = world();
        world.take(News::Lost("connection refused".into()));
        let text = drawn(&world, &mut Ui::default(), 80, 24);
        assert!(text.contains("link lost, what is shown is old; trying again: connection refused"), "{text}");
        assert!(text.contains("● up"), "{text}");
        world.take(News::Connected);
        assert!(!drawn(&world, &mut Ui::default(), 80, 24).contains("link lost"));
    }

    #[test]
    fn what_is_typed_and_what_came_of_it_is_seen() {
        let (world, mut ui) = (world(), Ui::default());
        let mut press = |c: char, wanted: &str| {
            ui.settle(&world);
            ui.on(ratatui::crossterm::event::KeyCode::Char(c).into(), &world);
            let text = drawn(&world, &mut ui, 80, 24);
            assert!(text.contains(wanted), "{wanted:?} is missing:\n{text}");
        };
        press('d', "drain api/x?");
        press('n', "? keys");
        press('w', "weight of api/x, 0 to 256: ▏");
        press('7', "0 to 256: 7▏");
        ui.mode = Mode::Table;
        ui.message = Some(("the pool heeds no weight but 0".into(), true));
        assert!(drawn(&world, &mut ui, 80, 24).contains("the pool heeds no weight but 0"));
        ui.on(ratatui::crossterm::event::KeyCode::Char('?').into(), &world);
        assert!(drawn(&world, &mut ui, 80, 24).contains("maintenance: nobody new, no checks"));
    }

    #[test]
    fn no_terminal_is_too_small_or_too_large_to_try() {
        let (world, mut ui) = (world(), Ui::default());
        for (width, height) in [(1, 1), (2, 2), (5, 3), (20, 5), (79, 13), (80, 19), (300, 100)] {
            for key in ['?', 'q', 'd', 'n', '/', 'a'] {
                ui.on(ratatui::crossterm::event::KeyCode::Char(key).into(), &world);
                drawn(&world, &mut ui, width, height);
            }
            ui = Ui::default();
            drawn(&World::default(), &mut Ui::default(), width, height);
        }
    }
}
