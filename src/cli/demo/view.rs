//! The live view in the terminal.

use std::io;
use std::time::Duration;

use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyEvent};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Cell, Clear, Padding, Paragraph, Row as TableRow, Table};

use super::keys::{DemoKeys, DemoPopup, KEYS};
use super::scene::ProcessScene;
use super::script::ScriptId;
use super::snapshot::{BackendRow, DemoSnapshot, clock};
use super::state::{DemoBackendInfo, DemoState, SideInfo};
use crate::cli::terminal;

/// The width of a share's bar, in characters.
const BAR: usize = 10;
/// The least widths for bars and totals, and for addresses, in characters.
const MEDIUM: u16 = 72;
const WIDE: u16 = 110;
/// The most lines of the caption.
const CAPTION: usize = 3;
/// The indentation of the second line of an event.
const INDENT: usize = 6;

/// The keys that were pressed since the last call. Never blocks.
pub(super) fn pressed() -> io::Result<Vec<KeyEvent>> {
    let mut keys = Vec::new();
    while event::poll(Duration::ZERO)? {
        if let Event::Key(key) = event::read()? {
            keys.push(key);
        }
    }
    Ok(keys)
}

/// Draws the view.
pub(super) fn draw(frame: &mut Frame<'_>, snapshot: &DemoSnapshot, state: &DemoState, keys: &DemoKeys) {
    let area = frame.area();
    let columns = usize::from(area.width);
    let head = title(snapshot, state, columns);
    let foot = foot(snapshot, state, keys, columns);
    let rows = snapshot.backends.len().max(state.backends.len()).max(3) as u16 + 2;
    let sides = if state.compare.is_some() { state.sides.len() as u16 + 2 } else { 0 };
    // Every backend has a row; decisions and changes get the remaining rows.
    let left = area.height.saturating_sub(head.len() as u16 + rows + sides + foot.len() as u16);
    let changes = left.saturating_sub(4).clamp(1, 6);
    let [top, backends, compared, decisions, changed, bottom] = Layout::vertical([
        Constraint::Length(head.len() as u16),
        Constraint::Length(rows),
        Constraint::Length(sides),
        Constraint::Min(3),
        Constraint::Length(changes + 1),
        Constraint::Length(foot.len() as u16),
    ])
    .areas(area);
    frame.render_widget(Paragraph::new(head), top);
    frame.render_widget(table(snapshot, state, keys, backends.width), backends);
    frame.render_widget(compared_table(&state.sides, compared.width), compared);
    frame.render_widget(
        lines(" why each connection went to its backend ", &snapshot.decisions, columns),
        decisions,
    );
    frame.render_widget(lines(" changes of backends ", &snapshot.changes, columns), changed);
    frame.render_widget(Paragraph::new(foot), bottom);
    popup(frame, keys.popup);
}

fn title(snapshot: &DemoSnapshot, state: &DemoState, columns: usize) -> Vec<Line<'static>> {
    let addresses = format!(
        "Pointsman demo {}  curl http://{}/  page http://{}/",
        clock(snapshot.time),
        snapshot.address,
        snapshot.admin
    );
    let settings = format!("{}  {} requests/s", state.balance.name(), state.traffic.rate);
    let mut lines: Vec<_> = terminal::wrap(&addresses, columns, INDENT)
        .into_iter()
        .map(|line| Line::from(line.fg(Color::Cyan)))
        .collect();
    lines.extend(terminal::wrap(&settings, columns, INDENT).into_iter().map(Line::from));
    let script = if state.playing.is_some() { "playing: " } else { "" };
    let mut caption = terminal::wrap(&format!("{script}{}", state.caption), columns, 2);
    if caption.len() > CAPTION {
        caption.truncate(CAPTION);
        if let Some(last) = caption.last_mut() {
            *last = terminal::fit(&format!("{last} …"), columns, false);
        }
    }
    lines.extend(caption.into_iter().map(|line| Line::from(line.bold())));
    lines
}

/// The widths of the table's columns and their titles, without that of the cause, which gets the rest.
fn columns(width: u16) -> Vec<(&'static str, u16)> {
    let mut columns = vec![("", 3), ("state", 13), ("share", 5), ("open", 4), ("latency", 7)];
    if width >= MEDIUM {
        columns[2].1 += BAR as u16 + 1;
        columns.push(("total", 6));
    }
    if width >= WIDE {
        columns.insert(1, ("address", 15));
    }
    columns
}

fn table(snapshot: &DemoSnapshot, state: &DemoState, keys: &DemoKeys, width: u16) -> Table<'static> {
    let columns = columns(width);
    let taken: u16 = columns.iter().map(|(_, width)| width + 1).sum();
    let room = usize::from(width.saturating_sub(taken));
    let widths = columns.iter().map(|(_, width)| Constraint::Length(*width));
    let head = columns.iter().map(|(title, _)| *title).chain(["action · cause"]);
    let rows = snapshot.backends.iter().map(|one| {
        let done =
            state.backends.iter().find(|done| done.name.name() == &*one.name && done.address == one.address);
        row(one, done, keys, width, room)
    });
    Table::new(rows, widths.chain([Constraint::Fill(1)]))
        .header(TableRow::new(head).style(Style::new().add_modifier(Modifier::DIM)))
        .block(Block::new().borders(Borders::TOP).title(" backends "))
}

fn row(
    row: &BackendRow,
    done: Option<&DemoBackendInfo>,
    keys: &DemoKeys,
    width: u16,
    room: usize,
) -> TableRow<'static> {
    let color = terminal::color(Some(row.state));
    let percent = format!("{:3.0}%", row.share * 100.0);
    let share = match width >= MEDIUM {
        true => format!("{} {percent}", terminal::bar(row.share, BAR)),
        false => percent,
    };
    let latency = row.latency.map_or("-".to_owned(), |time| format!("{:.0} ms", time.as_secs_f64() * 1e3));
    let selected = if keys.selected.name() == &*row.name { "▸" } else { " " };
    let about =
        done.map(what_was_done).into_iter().flatten().map(str::to_owned).chain([row.cause.to_string()]);
    let about = about.collect::<Vec<_>>().join(" · ");
    let mut cells = vec![
        Cell::from(format!("{selected} {}", row.name)).bold(),
        Cell::from(format!("{} {}", terminal::mark(Some(row.state)), row.state.name())).fg(color),
        Cell::from(share).fg(color),
        Cell::from(row.open.to_string()),
        Cell::from(latency),
    ];
    if width >= MEDIUM {
        cells.push(Cell::from(row.connections.to_string()));
    }
    if width >= WIDE {
        cells.insert(1, Cell::from(row.address.clone()));
    }
    cells.push(Cell::from(terminal::fit(&about, room, false)));
    TableRow::new(cells)
}

/// The actions on a backend, as text.
fn what_was_done(backend: &DemoBackendInfo) -> impl Iterator<Item = &'static str> {
    let process = match backend.process {
        ProcessScene::Running => None,
        ProcessScene::Killed => Some("killed"),
        ProcessScene::Paused => Some("paused"),
    };
    let others = [(backend.slow, "slow"), (backend.failing, "answers fail"), (backend.flapping, "DNS flaps")];
    process.into_iter().chain(others.into_iter().filter_map(|(so, word)| so.then_some(word)))
}

/// Two algorithms on the same requests.
fn compared_table(sides: &[SideInfo], width: u16) -> Table<'static> {
    let millis = |time: Option<f64>| time.map_or("-".to_owned(), |time| format!("{time:.0} ms"));
    let room = usize::from(width.saturating_sub(49));
    let rows = sides.iter().map(|side| {
        let shares: Vec<_> =
            side.shares.iter().map(|(backend, share)| format!("{backend} {:.0}%", share * 100.0)).collect();
        TableRow::new([
            side.algorithm.name().to_owned(),
            millis(side.p50_ms),
            millis(side.p90_ms),
            millis(side.p99_ms),
            (side.failed + side.errors + side.broken).to_string(),
            terminal::fit(&shares.join(" "), room, false),
        ])
    });
    let widths = [17, 7, 7, 7, 6].map(Constraint::Length);
    let head = ["algorithm", "p50", "p90", "p99", "failed", "shares"];
    Table::new(rows.collect::<Vec<_>>(), widths.into_iter().chain([Constraint::Fill(1)]))
        .header(TableRow::new(head).style(Style::new().add_modifier(Modifier::DIM)))
        .block(Block::new().borders(Borders::TOP).title(" on the same requests "))
}

fn lines(title: &'static str, lines: &[String], columns: usize) -> Paragraph<'static> {
    let wrapped = lines.iter().flat_map(|line| terminal::wrap(line, columns, INDENT));
    let text: Vec<_> = wrapped.map(Line::from).collect();
    Paragraph::new(text).block(Block::new().borders(Borders::TOP).title(title))
}

fn foot(snapshot: &DemoSnapshot, state: &DemoState, keys: &DemoKeys, columns: usize) -> Vec<Line<'static>> {
    let totals = &snapshot.totals;
    let color = if totals.failed == 0 { Color::Green } else { Color::Red };
    let mut text = format!(
        "{} answered  {} failed  {} broken by a kill  {} retried",
        totals.answered, totals.failed, totals.broken, snapshot.retried
    );
    if totals.errors > 0 {
        text = format!("{text}  {} answered with an error", totals.errors);
    }
    let mut lines: Vec<_> =
        terminal::wrap(&text, columns, 2).into_iter().map(|line| Line::from(line.bold().fg(color))).collect();
    let story = if state.playing.is_some() { "space stop script" } else { "space story" };
    let hint =
        format!("?  keys  1-8 select  k kill  p pause  s slow  b algorithm  e experiments  {story}  q quits");
    lines.extend(match &keys.message {
        Some(message) => terminal::wrap(message, columns, 2)
            .into_iter()
            .map(|line| Line::from(line.fg(Color::Red)))
            .collect::<Vec<_>>(),
        None => terminal::wrap(&hint, columns, 2)
            .into_iter()
            .map(|line| Line::from(Span::from(line).dim()))
            .collect(),
    });
    lines
}

fn popup(frame: &mut Frame<'_>, popup: DemoPopup) {
    let area = frame.area();
    let width = area.width.min(74);
    let inner = usize::from(width.saturating_sub(4));
    let (title, below, lines): (_, _, Vec<String>) = match popup {
        DemoPopup::None => return,
        DemoPopup::Keys => (
            " keys ",
            " esc closes ",
            KEYS.iter().flat_map(|(key, text)| item(key, text, 7, inner)).collect(),
        ),
        DemoPopup::Experiments => {
            let experiment = |(number, id): (usize, ScriptId)| {
                let script = id.script();
                item(&(number + 1).to_string(), &format!("{}: {}", script.title, script.text), 3, inner)
            };
            (
                " try this ",
                " a digit starts one, esc closes ",
                ScriptId::EXPERIMENTS.into_iter().enumerate().flat_map(experiment).collect(),
            )
        }
    };
    let lines: Vec<_> = lines.into_iter().map(Line::from).collect();
    let height = (lines.len() as u16 + 2).min(area.height);
    let (x, y) = ((area.width - width) / 2, (area.height - height) / 2);
    let place = Rect { x, y, width, height };
    frame.render_widget(Clear, place);
    let block = Block::bordered().title(title).title_bottom(below).padding(Padding::horizontal(1));
    frame.render_widget(Paragraph::new(lines).block(block), place);
}

/// The lines of an item: its mark in a column of that width, and its text.
fn item(mark: &str, text: &str, indent: usize, columns: usize) -> Vec<String> {
    let text = terminal::wrap(text, columns.saturating_sub(indent), 0);
    let marks = [mark].into_iter().chain(std::iter::repeat(""));
    text.into_iter().zip(marks).map(|(line, mark)| format!("{mark:indent$}{line}")).collect()
}

#[cfg(test)]
#[path = "view_tests.rs"]
mod tests;
