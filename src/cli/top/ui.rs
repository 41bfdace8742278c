//! The keys: the selected backend, the sort order, the text that is being typed. A state machine without a terminal; it
//! uses only the types of keys.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::column::Column;
use super::instance_view::{BackendKey, BackendRow, InstanceView};
use crate::api::{BackendChange, StatusReply};
use crate::cli::problem_lines;
use crate::domain::AdminState;

/// Lines per page.
const PAGE: isize = 10;
/// The largest weight.
const HEAVIEST: u32 = 256;

/// What the keys act on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Mode {
    /// The table.
    #[default]
    Table,
    /// A filter that is being typed.
    Filter,
    /// A weight that is being typed.
    Weight { of: BackendKey, text: String },
    /// A change that waits for a yes, and why it needs one.
    Confirm { change: Change, question: String },
    /// A popup over the table, which shows its lines from `scroll` on.
    Popup { title: String, lines: Vec<String>, scroll: usize },
}

/// A change of a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Change {
    /// The backend.
    pub(super) of: BackendKey,
    /// What to change.
    pub(super) to: BackendChange,
}

impl Change {
    /// A change that the server refuses if it takes out the last eligible backend of the pool.
    fn careful(of: BackendKey, to: BackendChange) -> Self {
        Self { of, to: to.careful() }
    }

    /// Whether it takes out a backend although that is the last eligible one: a reflexive y must not confirm it.
    pub(super) fn is_forced(&self) -> bool {
        self.to.takes_out() && !self.to.unless_last
    }

    /// The same change without that condition.
    pub(super) fn forced(self) -> Self {
        Self { to: BackendChange { unless_last: false, ..self.to }, ..self }
    }
}

/// What the caller must do after a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Nothing.
    None,
    /// Quit.
    Quit,
    /// Change a backend.
    Change(Change),
    /// Show why this backend is in its state.
    Why(BackendKey),
    /// Show the connections of this backend.
    Connections(BackendKey),
}

/// The state of the user interface.
#[derive(Debug, Default)]
pub(super) struct Ui {
    pub(super) mode: Mode,
    pub(super) sort: Column,
    pub(super) reverse: bool,
    /// Show only backends with this text in their name, address, pool or state.
    pub(super) filter: String,
    pub(super) selected: Option<BackendKey>,
    /// The message of the last action, and whether it is an error.
    pub(super) message: Option<(String, bool)>,
}

impl Ui {
    /// The backends of each pool that match the filter, sorted. With a filter, pools without a match are left out.
    pub(super) fn shown<'a>(&self, instance: &'a InstanceView) -> Vec<(usize, Vec<&'a BackendRow>)> {
        let mut shown = Vec::new();
        for (index, group) in instance.groups.iter().enumerate() {
            let mut rows: Vec<_> = group.rows.iter().filter(|row| self.matches(row)).collect();
            rows.sort_by(|a, b| {
                let order = self.sort.compare(a, b);
                if self.reverse { order.reverse() } else { order }
            });
            if !rows.is_empty() || self.filter.is_empty() {
                shown.push((index, rows));
            }
        }
        shown
    }

    fn matches(&self, row: &BackendRow) -> bool {
        let wanted = self.filter.to_lowercase();
        let state = row.backend.state_name();
        [&*row.key.name, &*row.key.address, &*row.key.pool, state]
            .iter()
            .any(|text| text.to_lowercase().contains(&wanted))
    }

    /// Keeps the selection if its backend is shown, otherwise selects the first shown backend.
    pub(super) fn settle(&mut self, instance: &InstanceView) {
        let keys = self.keys(instance);
        if self.selected.as_ref().is_none_or(|selected| !keys.contains(selected)) {
            self.selected = keys.into_iter().next();
        }
    }

    fn keys(&self, instance: &InstanceView) -> Vec<BackendKey> {
        self.shown(instance).into_iter().flat_map(|(_, rows)| rows).map(|row| row.key.clone()).collect()
    }

    /// Handles a key.
    pub(super) fn on(&mut self, key: KeyEvent, instance: &InstanceView) -> Action {
        if key.kind == KeyEventKind::Release {
            return Action::None;
        }
        if key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL) {
            return Action::Quit;
        }
        if key.modifiers.intersects(KeyModifiers::CONTROL | KeyModifiers::ALT) {
            return Action::None; // Ctrl-D, for example, must not drain
        }
        self.message = None;
        let action = match std::mem::take(&mut self.mode) {
            Mode::Table => self.on_table(key.code, instance),
            Mode::Filter => {
                self.on_filter(key.code);
                Action::None
            }
            Mode::Weight { of, text } => self.on_weight(key.code, of, text),
            Mode::Confirm { change, .. } => match key.code {
                KeyCode::Char('Y') => Action::Change(change),
                KeyCode::Char('y') | KeyCode::Enter if !change.is_forced() => Action::Change(change),
                _ => Action::None,
            },
            Mode::Popup { title, lines, scroll } => {
                self.on_popup(key.code, title, lines, scroll);
                Action::None
            }
        };
        self.settle(instance);
        action
    }

    fn on_table(&mut self, code: KeyCode, instance: &InstanceView) -> Action {
        match code {
            KeyCode::Char('q') => return Action::Quit,
            KeyCode::Up | KeyCode::Char('k') => self.step(-1, instance),
            KeyCode::Down | KeyCode::Char('j') => self.step(1, instance),
            KeyCode::PageUp => self.step(-PAGE, instance),
            KeyCode::PageDown => self.step(PAGE, instance),
            KeyCode::Home | KeyCode::Char('g') => self.step(isize::MIN / 2, instance),
            KeyCode::End | KeyCode::Char('G') => self.step(isize::MAX / 2, instance),
            KeyCode::Char('s') => self.sort = self.sort.next(),
            KeyCode::Char('r') => self.reverse = !self.reverse,
            KeyCode::Char('/') => self.mode = Mode::Filter,
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Char('?' | 'h') => self.mode = help(),
            KeyCode::Char('p') => self.mode = problems(instance),
            code => {
                let Some(of) = self.selected.clone() else { return Action::None };
                return self.on_backend(code, of, instance);
            }
        }
        Action::None
    }

    fn on_backend(&mut self, code: KeyCode, of: BackendKey, instance: &InstanceView) -> Action {
        let weight = instance.row(&of).map_or(1, |row| row.backend.weight);
        let set_weight = |of, weight| Action::Change(Change::careful(of, BackendChange::to_weight(weight)));
        match code {
            KeyCode::Char('d') => {
                let question = format!("drain {}? no new connections; existing ones finish", of.text());
                self.confirm(of, AdminState::Draining, question);
            }
            KeyCode::Char('m') => {
                let question = format!("put {} into maintenance? no new connections, no checks", of.text());
                self.confirm(of, AdminState::Maintenance, question);
            }
            KeyCode::Char('u') => {
                return Action::Change(Change::careful(of, BackendChange::to_state(AdminState::Up)));
            }
            KeyCode::Char('w') => self.mode = Mode::Weight { of, text: String::new() },
            KeyCode::Char('+' | '=') if weight < HEAVIEST => return set_weight(of, weight + 1),
            KeyCode::Char('-') if weight > 0 => return set_weight(of, weight - 1),
            KeyCode::Enter => return Action::Why(of),
            KeyCode::Char('c') => return Action::Connections(of),
            _ => {}
        }
        Action::None
    }

    fn confirm(&mut self, of: BackendKey, state: AdminState, question: String) {
        self.mode = Mode::Confirm { change: Change::careful(of, BackendChange::to_state(state)), question };
    }

    fn on_filter(&mut self, code: KeyCode) {
        self.mode = Mode::Filter;
        match code {
            KeyCode::Enter => self.mode = Mode::Table,
            KeyCode::Esc => {
                self.filter.clear();
                self.mode = Mode::Table;
            }
            KeyCode::Backspace => {
                self.filter.pop();
            }
            KeyCode::Char(c) => self.filter.push(c),
            _ => {}
        }
    }

    fn on_weight(&mut self, code: KeyCode, of: BackendKey, mut text: String) -> Action {
        match code {
            KeyCode::Enter => match text.parse() {
                Ok(weight) if weight <= HEAVIEST => {
                    return Action::Change(Change::careful(of, BackendChange::to_weight(weight)));
                }
                _ if text.is_empty() => {}
                _ => self.message = Some((format!("the weight must be a number from 0 to {HEAVIEST}"), true)),
            },
            KeyCode::Esc => {}
            code => {
                match code {
                    KeyCode::Backspace => {
                        text.pop();
                    }
                    KeyCode::Char(digit @ '0'..='9') if text.len() < 4 => text.push(digit),
                    _ => {}
                }
                self.mode = Mode::Weight { of, text };
            }
        }
        Action::None
    }

    fn on_popup(&mut self, code: KeyCode, title: String, lines: Vec<String>, scroll: usize) {
        let most = lines.len().saturating_sub(1);
        let scroll = match code {
            KeyCode::Esc | KeyCode::Enter | KeyCode::Char('q' | '?') => return,
            KeyCode::Up | KeyCode::Char('k') => scroll.saturating_sub(1),
            KeyCode::Down | KeyCode::Char('j') => (scroll + 1).min(most),
            KeyCode::PageUp => scroll.saturating_sub(PAGE.unsigned_abs()),
            KeyCode::PageDown => (scroll + PAGE.unsigned_abs()).min(most),
            KeyCode::Home | KeyCode::Char('g') => 0,
            KeyCode::End | KeyCode::Char('G') => most,
            _ => scroll,
        };
        self.mode = Mode::Popup { title, lines, scroll };
    }

    fn step(&mut self, by: isize, instance: &InstanceView) {
        let keys = self.keys(instance);
        let Some(last) = keys.len().checked_sub(1) else { return };
        let at = keys.iter().position(|key| Some(key) == self.selected.as_ref()).unwrap_or(0);
        self.selected = keys.into_iter().nth(at.saturating_add_signed(by).min(last));
    }
}

/// The popup with all problems and what to do about each.
fn problems(instance: &InstanceView) -> Mode {
    let status = instance.status.as_ref();
    let all = status.map_or(&[][..], |status| &status.problems[..]);
    let lines = problem_lines::explained(all, status.map_or(0.0, StatusReply::clock));
    Mode::Popup { title: problem_lines::summary(all), lines, scroll: 0 }
}

/// The popup that explains the keys.
fn help() -> Mode {
    let lines = [
        "up, down, j, k     select a backend; PgUp, PgDn, Home, End too",
        "s, r               sort by the next column; reverse",
        "/                  filter by a text in name, address, pool or state; Esc clears it",
        "enter              why it is in its state",
        "c                  its open connections",
        "p                  all problems, and what to do about each",
        "d                  drain it: no new connections; existing ones finish",
        "m                  maintenance: no new connections, no checks",
        "u                  enable it: put it back in service",
        "+, -, w            increase, decrease, or type its weight",
        "q, Ctrl-C          quit",
        "",
        "share: its share of the pool's new connections in the last 5 s",
        "● up  ◌ joining  ✖ down  ▲ ejected  ◐ draining  ■ maintenance",
    ];
    Mode::Popup { title: "keys".to_owned(), lines: lines.map(str::to_owned).to_vec(), scroll: 0 }
}

#[cfg(test)]
mod tests {
    use super::super::instance_view::tests::status;
    use super::*;
    use proptest::prelude::*;

    fn instance() -> InstanceView {
        let mut instance = InstanceView::new("here".into());
        let at = |second, a, c| {
            status(
                second,
                &[
                    ("api", &[("x", "down", 0, 0)]),
                    ("web", &[("a", "up", a, 0), ("bb", "draining", 0, 0), ("ccc", "up", c, 9)]),
                ],
            )
        };
        instance.apply(at(1, 10, 20));
        instance.apply(at(2, 20, 200));
        instance
    }

    fn press(ui: &mut Ui, instance: &InstanceView, keys: &str) -> Vec<Action> {
        let key = |c: char| match c {
            '\n' => KeyCode::Enter,
            '\x1b' => KeyCode::Esc,
            '\x08' => KeyCode::Backspace,
            '^' => KeyCode::Up,
            'v' => KeyCode::Down,
            c => KeyCode::Char(c),
        };
        keys.chars()
            .map(|c| ui.on(key(c).into(), instance))
            .filter(|action| *action != Action::None)
            .collect()
    }

    fn names(ui: &Ui, instance: &InstanceView) -> String {
        ui.keys(instance).iter().map(|key| key.name.clone()).collect::<Vec<_>>().join(" ")
    }

    fn selected(ui: &Ui) -> &str {
        ui.selected.as_ref().map_or("none", |key| &key.name)
    }

    #[test]
    fn the_arrows_select_and_stay_within_the_list() {
        let (mut ui, instance) = (Ui::default(), instance());
        ui.settle(&instance);
        assert_eq!(selected(&ui), "x");
        press(&mut ui, &instance, "vvj");
        assert_eq!(selected(&ui), "ccc");
        press(&mut ui, &instance, "vv^");
        assert_eq!(selected(&ui), "bb");
        press(&mut ui, &instance, "kkkkk");
        assert_eq!(selected(&ui), "x");
        press(&mut ui, &instance, "G");
        assert_eq!(selected(&ui), "ccc");
        press(&mut ui, &instance, "g");
        assert_eq!(selected(&ui), "x");
    }

    #[test]
    fn columns_sort_within_each_pool() {
        let (mut ui, instance) = (Ui::default(), instance());
        assert_eq!(names(&ui, &instance), "x a bb ccc");
        press(&mut ui, &instance, "r");
        assert_eq!(names(&ui, &instance), "x ccc bb a");
        press(&mut ui, &instance, "rs");
        assert_eq!((ui.sort, names(&ui, &instance)), (Column::State, "x bb a ccc".into()));
        press(&mut ui, &instance, "sss");
        assert_eq!((ui.sort, names(&ui, &instance)), (Column::Rate, "x ccc a bb".into()));
        press(&mut ui, &instance, "ssss");
        assert_eq!(ui.sort, Column::Name);
    }

    #[test]
    fn a_drain_needs_confirmation_and_up_does_not() {
        let (mut ui, instance) = (Ui::default(), instance());
        ui.settle(&instance);
        assert_eq!(press(&mut ui, &instance, "vdn"), []);
        assert_eq!(ui.mode, Mode::Table);
        let of = ui.selected.clone().unwrap();
        assert_eq!((&*of.pool, &*of.name), ("web", "a"));
        let change = |state, unless_last| {
            let to = BackendChange { unless_last, ..BackendChange::to_state(state) };
            [Action::Change(Change { of: of.clone(), to })]
        };
        assert_eq!(press(&mut ui, &instance, "dy"), change(AdminState::Draining, true));
        assert_eq!(press(&mut ui, &instance, "m\n"), change(AdminState::Maintenance, true));
        assert_eq!(press(&mut ui, &instance, "u"), change(AdminState::Up, false));
    }

    #[test]
    fn a_weight_is_stepped_or_typed() {
        let (mut ui, instance) = (Ui::default(), instance());
        ui.settle(&instance);
        let of = ui.selected.clone().unwrap();
        let set_weight = |weight| {
            let to = BackendChange { unless_last: weight == 0, ..BackendChange::to_weight(weight) };
            Action::Change(Change { of: of.clone(), to })
        };
        assert_eq!(press(&mut ui, &instance, "+-"), [set_weight(2), set_weight(0)]);
        assert_eq!(press(&mut ui, &instance, "w1x7\x085\n"), [set_weight(15)]);
        assert_eq!(press(&mut ui, &instance, "w300\n"), []);
        assert!(ui.message.as_ref().is_some_and(|(text, bad)| text.contains("0 to 256") && *bad));
        assert_eq!(press(&mut ui, &instance, "w12\x1bw\n"), []);
        assert_eq!((&ui.mode, &ui.message), (&Mode::Table, &None));
    }

    #[test]
    fn a_filter_is_typed_and_a_shown_backend_stays_selected() {
        let (mut ui, instance) = (Ui::default(), instance());
        ui.settle(&instance);
        assert_eq!(press(&mut ui, &instance, "/drainq\x08\n"), []);
        assert_eq!((names(&ui, &instance), selected(&ui)), ("bb".into(), "bb"));
        press(&mut ui, &instance, "\x1b");
        assert_eq!((names(&ui, &instance).len(), selected(&ui)), (10, "bb"));
        press(&mut ui, &instance, "/no such name\n");
        assert_eq!((&*names(&ui, &instance), selected(&ui)), ("", "none"));
        assert_eq!(press(&mut ui, &instance, "dyvw1\n+\nc"), []);
    }

    #[test]
    fn a_popup_scrolls_and_closes() {
        let (mut ui, instance) = (Ui::default(), instance());
        press(&mut ui, &instance, "?vv");
        assert!(matches!(&ui.mode, Mode::Popup { scroll: 2, .. }));
        press(&mut ui, &instance, "Gvg^");
        assert!(matches!(&ui.mode, Mode::Popup { scroll: 0, .. }));
        press(&mut ui, &instance, "q");
        assert_eq!(ui.mode, Mode::Table);
        assert_eq!(press(&mut ui, &instance, "q"), [Action::Quit]);
    }

    proptest! {
        #[test]
        fn no_keys_cause_a_panic(keys in "[a-zA-Z0-9/?+\n\x1b\x08^-]{0,60}", known: bool) {
            let (mut ui, instance) = (Ui::default(), if known { instance() } else { InstanceView::default() });
            press(&mut ui, &instance, &keys);
        }
    }
}
