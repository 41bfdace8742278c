//! The table of `top`: a line for each pool and each backend that is shown, and its columns.

use ratatui::style::{Color, Modifier, Style, Stylize};
use ratatui::text::{Line, Span};

use super::column::Column;
use super::instance_view::{BackendRow, InstanceView, PoolGroup};
use super::ui::Ui;
use crate::api::StatusReply;
use crate::cli::status::why_empty;
use crate::cli::terminal;
use crate::names;

/// Width of a share's bar, in characters.
const BAR: usize = 5;
/// The width of all columns except name, address and cause, with the gaps between them.
const FIXED: usize = 69;
/// The least and the greatest width of the name's column.
const NAME: [usize; 2] = [11, 30];
/// The least width of a terminal for the column of addresses.
const WIDE: usize = 132;
const ADDRESS: usize = 21;
/// The least width of the cause's column; with less room it is left out.
const CAUSE: usize = 12;

/// The table's lines, with the heading first, and the index of the selected backend's line.
pub(super) fn lines(instance: &InstanceView, ui: &Ui, width: usize) -> (Vec<Line<'static>>, usize) {
    let names = instance
        .groups
        .iter()
        .flat_map(|group| &group.rows)
        .map(|row| terminal::width(&name(row, usize::MAX)));
    let layout = Widths::of(width, names.max().unwrap_or(0));
    let mut lines = vec![heading(ui, &layout)];
    let mut selected = 0;
    let now = instance.status.as_ref().map_or(0.0, StatusReply::clock);
    for (index, rows) in ui.shown(instance) {
        let group = &instance.groups[index];
        lines.push(pool(group, instance, width));
        if group.rows.is_empty() {
            let why = why_empty(&group.pool).into_iter();
            lines.extend(why.map(|line| Line::from(terminal::clean(&format!("  {line}")).fg(Color::Red))));
        }
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

/// The heading, and as many other lines as fit, scrolled so that the selected one is visible.
pub(super) fn scrolled(mut lines: Vec<Line<'static>>, selected: usize, height: usize) -> Vec<Line<'static>> {
    let room = height.saturating_sub(1);
    let below = selected.saturating_sub(room);
    lines.drain(1..=below.min(lines.len() - 1));
    lines.truncate(height);
    lines
}

/// The column widths that depend on the terminal's width.
struct Widths {
    name: usize,
    address: usize,
    cause: usize,
}

impl Widths {
    /// For a terminal of this width and a longest name of `longest` columns.
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
        spans.push(Span::styled(terminal::fit(&text, width, right), style));
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
            cell("p50ms", 5, true, Some(Column::FirstByte)),
            cell("check", 5, true, None),
            cell("since", 6, true, Some(Column::Since)),
            cell("why", layout.cause, false, None),
        ],
    )
}

fn pool(group: &PoolGroup, instance: &InstanceView, width: usize) -> Line<'static> {
    let pool = &group.pool;
    let up = Span::from(format!("{}/{} in use", pool.up, group.rows.len()));
    let up = if pool.is_unserved() { up.fg(Color::Red).bold() } else { up };
    let mut spans = vec![Span::from(terminal::clean(&pool.name)).bold().fg(Color::Cyan), Span::from("  ")];
    spans.extend([Span::from(terminal::clean(&pool.algorithm)), Span::from("  "), up]);
    spans.push(Span::from(format!(
        "  {} conn/s  {}/s",
        terminal::count(group.rate),
        terminal::bytes(group.bytes)
    )));
    if let Some(latency) = pool.first_byte {
        let [median, most] = [latency.p50_ms, latency.p99_ms].map(terminal::millis);
        spans.push(Span::from(format!("  first byte {median}/{most} ms (p50/p99)")));
    }
    let mut note = |wanted: bool, words: String, color: Color| {
        if wanted {
            spans.push(Span::from(format!("  {words}")).fg(color));
        }
    };
    note(pool.panic, "panic: all are used".to_owned(), Color::Red);
    if let Some(zone) = pool.zone.as_ref().filter(|zone| zone.short) {
        let name = terminal::clean(&zone.name);
        let words = format!("{} of {} up in zone {name}: other zones are used too", zone.up, zone.backends);
        note(true, words, Color::Yellow);
    }
    note(!pool.settled, "discovering backends".to_owned(), Color::Cyan);
    note(pool.queue > 0, format!("{} wait", pool.queue), Color::Yellow);
    let failing = instance.status.as_ref();
    let failing = failing.is_some_and(|status| status.has_problem("client_failures", Some(&pool.name)));
    let color = if failing { Color::Red } else { Color::Reset };
    note(pool.failures_seen > 0, format!("{} client-visible failures", pool.failures_seen), color);
    spans.push(Span::from("  "));
    let taken: usize = spans.iter().map(Span::width).sum();
    let room = width.saturating_sub(taken).min(60);
    spans.push(Span::from(terminal::spark(instance.history(&pool.name), room)).fg(Color::Green));
    Line::from(spans)
}

/// The name in at most this many columns, with a mark if it is a backup.
fn name(row: &BackendRow, columns: usize) -> String {
    let name = terminal::clean(&row.key.name);
    let [long, short] = if row.backend.tier > 0 { [" (backup)", " (b)"] } else { ["", ""] };
    let mark = if terminal::width(&name) + long.len() <= columns { long } else { short };
    names::shortened(&name, columns.saturating_sub(mark.len())).into_owned() + mark
}

fn backend(row: &BackendRow, layout: &Widths, now: f64, selected: bool) -> Line<'static> {
    let backend = &row.backend;
    let color = Style::new().fg(terminal::color(backend.state));
    let plain = Style::new();
    let share = format!("{} {:3.0}%", terminal::bar(row.share, BAR), row.share * 100.0);
    let median = backend.first_byte.map_or("-".to_owned(), |latency| terminal::millis(latency.p50_ms));
    let slow = if backend.times_slower.is_some() { plain.fg(Color::Yellow).bold() } else { plain };
    let check = match &backend.last_check {
        None => ("-".to_owned(), 5, true, plain),
        Some(check) => {
            let age = terminal::age(now - check.at.0);
            let (mark, style) = if check.passed { ("✓", plain) } else { ("✗", plain.fg(Color::Red)) };
            (format!("{mark} {age}"), 5, true, style)
        }
    };
    let rate = if row.rate < 9.95 { format!("{:.1}", row.rate) } else { terminal::count(row.rate) };
    let cells = vec![
        (name(row, layout.name), layout.name, false, plain.bold()),
        (
            names::shortened(&terminal::clean(&row.key.address), layout.address).into_owned(),
            layout.address,
            false,
            plain,
        ),
        (format!("{} {}", terminal::mark(backend.state), backend.state_name()), 13, false, color),
        (share, BAR + 5, false, color),
        (backend.weight.to_string(), 3, true, plain),
        (terminal::count(backend.active as f64), 5, true, plain),
        (rate, 6, true, plain),
        (terminal::bytes(row.bytes), 5, true, plain),
        (median, 5, true, slow),
        check,
        (terminal::age(now - backend.since.0), 6, true, plain),
        (terminal::clean(&backend.cause), layout.cause, false, plain),
    ];
    let line = line(if selected { "›" } else { " " }, cells);
    if selected { line.style(Style::new().add_modifier(Modifier::REVERSED)) } else { line }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_cut_in_the_middle_and_a_backup_keeps_its_mark() {
        let mut row = BackendRow {
            key: super::super::instance_view::BackendKey {
                name: "demo-backend-12".into(),
                ..Default::default()
            },
            backend: crate::api::BackendInfo::default(),
            rate: 0.0,
            bytes: 0.0,
            share: 0.0,
        };
        assert_eq!([name(&row, 15), name(&row, 11)], ["demo-backend-12", "demo-…nd-12"]);
        row.backend.tier = 1;
        assert_eq!([name(&row, 24), name(&row, 11)], ["demo-backend-12 (backup)", "dem…-12 (b)"]);
    }
}
