//! What the keys do: which backend is selected, how they are sorted, what is being typed. A state machine, which knows
//! nothing of terminals but the names of keys.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::column::Column;
use super::world::{BackendKey, BackendRow, InstanceView};
use crate::domain::AdminState;

/// Lines that a page is.
const PAGE: isize = 10;
/// The largest weight.
const HEAVIEST: u32 = 256;

/// What the keys are for at the moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Mode {
    /// For the table.
    #[default]
    Table,
    /// For a filter that is being typed.
    Filter,
    /// For a weight that is being typed.
    Weight { of: BackendKey, text: String },
    /// For a yes or no.
    Confirm { of: BackendKey, state: AdminState },
    /// For lines that lie over the table, shown from `scroll` on.
    Popup { title: String, lines: Vec<String>, scroll: usize },
}

/// What a key leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// It is done already.
    None,
    /// The end.
    Quit,
    /// This backend is to have that state.
    SetState { of: BackendKey, state: AdminState },
    /// This backend is to have that weight.
    SetWeight { of: BackendKey, weight: u32 },
    /// It is asked why this backend is in its state.
    Why(BackendKey),
    /// Its connections are asked for.
    Connections(BackendKey),
}

/// How the world is looked at.
#[derive(Debug, Default)]
pub(super) struct Ui {
    pub(super) mode: Mode,
    pub(super) sort: Column,
    pub(super) reverse: bool,
    /// Only what has this in its name, address, pool or state.
    pub(super) filter: String,
    pub(super) selected: Option<BackendKey>,
    /// What came of the last action, and whether that is bad.
    pub(super) message: Option<(String, bool)>,
}

impl Ui {
    /// The backends of each pool as they are shown; a pool of which nothing is shown is left out while there is a filter.
    pub(super) fn shown<'a>(&self, world: &'a InstanceView) -> Vec<(usize, Vec<&'a BackendRow>)> {
        let mut shown = Vec::new();
        for (index, group) in world.groups.iter().enumerate() {
            let mut rows: Vec<_> = group.rows.iter().filter(|row| self.wants(row)).collect();
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

    fn wants(&self, row: &BackendRow) -> bool {
        let wanted = self.filter.to_lowercase();
        let state = row.backend.state_name();
        [&*row.key.name, &*row.key.address, &*row.key.pool, state]
            .iter()
            .any(|text| text.to_lowercase().contains(&wanted))
    }

    /// Selects a backend that is shown, if there is one.
    pub(super) fn settle(&mut self, world: &InstanceView) {
        let keys = self.keys(world);
        if self.selected.as_ref().is_none_or(|selected| !keys.contains(selected)) {
            self.selected = keys.into_iter().next();
        }
    }

    fn keys(&self, world: &InstanceView) -> Vec<BackendKey> {
        self.shown(world).into_iter().flat_map(|(_, rows)| rows).map(|row| row.key.clone()).collect()
    }

    /// What a key does.
    pub(super) fn on(&mut self, key: KeyEvent, world: &InstanceView) -> Action {
        if key.kind == KeyEventKind::Release {
            return Action::None;
        }
        if key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL) {
            return Action::Quit;
        }
        if key.modifiers.intersects(KeyModifiers::CONTROL | KeyModifiers::ALT) {
            return Action::None; // what other programs do by it is not what the letter does here
        }
        self.message = None;
        let action = match std::mem::take(&mut self.mode) {
            Mode::Table => self.on_table(key.code, world),
            Mode::Filter => {
                self.on_filter(key.code);
                Action::None
            }
            Mode::Weight { of, text } => self.on_weight(key.code, of, text),
            Mode::Confirm { of, state } => match key.code {
                KeyCode::Char('y' | 'Y') | KeyCode::Enter => Action::SetState { of, state },
                _ => Action::None,
            },
            Mode::Popup { title, lines, scroll } => {
                self.on_popup(key.code, title, lines, scroll);
                Action::None
            }
        };
        self.settle(world);
        action
    }

    fn on_table(&mut self, code: KeyCode, world: &InstanceView) -> Action {
        match code {
            KeyCode::Char('q') => return Action::Quit,
            KeyCode::Up | KeyCode::Char('k') => self.step(-1, world),
            KeyCode::Down | KeyCode::Char('j') => self.step(1, world),
            KeyCode::PageUp => self.step(-PAGE, world),
            KeyCode::PageDown => self.step(PAGE, world),
            KeyCode::Home | KeyCode::Char('g') => self.step(isize::MIN / 2, world),
            KeyCode::End | KeyCode::Char('G') => self.step(isize::MAX / 2, world),
            KeyCode::Char('s') => self.sort = self.sort.next(),
            KeyCode::Char('r') => self.reverse = !self.reverse,
            KeyCode::Char('/') => self.mode = Mode::Filter,
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Char('?' | 'h') => self.mode = help(),
            code => {
                let Some(of) = self.selected.clone() else { return Action::None };
                return self.on_backend(code, of, world);
            }
        }
        Action::None
    }

    fn on_backend(&mut self, code: KeyCode, of: BackendKey, world: &InstanceView) -> Action {
        let weight = world.row(&of).map_or(1, |row| row.backend.weight);
        match code {
            KeyCode::Char('d') => self.mode = Mode::Confirm { of, state: AdminState::Draining },
            KeyCode::Char('m') => self.mode = Mode::Confirm { of, state: AdminState::Maintenance },
            KeyCode::Char('u') => return Action::SetState { of, state: AdminState::Up },
            KeyCode::Char('w') => self.mode = Mode::Weight { of, text: String::new() },
            KeyCode::Char('+' | '=') if weight < HEAVIEST => {
                return Action::SetWeight { of, weight: weight + 1 };
            }
            KeyCode::Char('-') if weight > 0 => return Action::SetWeight { of, weight: weight - 1 },
            KeyCode::Enter => return Action::Why(of),
            KeyCode::Char('c') => return Action::Connections(of),
            _ => {}
        }
        Action::None
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
                Ok(weight) if weight <= HEAVIEST => return Action::SetWeight { of, weight },
                _ if text.is_empty() => {}
                _ => self.message = Some((format!("a weight is a number from 0 to {HEAVIEST}"), true)),
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

    fn step(&mut self, by: isize, world: &InstanceView) {
        let keys = self.keys(world);
        let Some(last) = keys.len().checked_sub(1) else { return };
        let at = keys.iter().position(|key| Some(key) == self.selected.as_ref()).unwrap_or(0);
        self.selected = keys.into_iter().nth(at.saturating_add_signed(by).min(last));
    }
}

/// What the keys do, for people.
fn help() -> Mode {
    let lines = [
        "up, down, j, k     select a backend; PgUp, PgDn, Home, End too",
        "s, r               sort by the next column; reverse",
        "/                  show only what has this in its name, address, pool or state; Esc ends it",
        "enter              why is it in its state?",
        "c                  its open connections",
        "d                  drain it: no new connections; existing ones finish",
        "m                  maintenance: no new connections, no checks",
        "u                  return it",
        "+, -, w            one more weight, one less, type one",
        "q, Ctrl-C          quit",
        "",
        "share: its part of its pool's new connections in the last 5 s",
        "● up  ◌ joining  ✖ down  ▲ ejected  ◐ draining  ■ maintenance",
    ];
    Mode::Popup { title: "keys".to_owned(), lines: lines.map(str::to_owned).to_vec(), scroll: 0 }
}

#[cfg(test)]
mod tests {
    use super::super::world::tests::status;
    use super::*;
    use proptest::prelude::*;

    fn world() -> InstanceView {
        let mut world = InstanceView::new("here".into());
        let at = |second, a, c| {
            status(
                second,
                &[
                    ("api", &[("x", "down", 0, 0)]),
                    ("web", &[("a", "up", a, 0), ("bb", "draining", 0, 0), ("ccc", "up", c, 9)]),
                ],
            )
        };
        world.take(at(1, 10, 20));
        world.take(at(2, 20, 200));
        world
    }

    fn press(ui: &mut Ui, world: &InstanceView, keys: &str) -> Vec<Action> {
        let key = |c: char| match c {
            '\n' => KeyCode::Enter,
            '\x1b' => KeyCode::Esc,
            '\x08' => KeyCode::Backspace,
            '^' => KeyCode::Up,
            'v' => KeyCode::Down,
            c => KeyCode::Char(c),
        };
        keys.chars().map(|c| ui.on(key(c).into(), world)).filter(|action| *action != Action::None).collect()
    }

    fn names(ui: &Ui, world: &InstanceView) -> String {
        ui.keys(world).iter().map(|key| key.name.clone()).collect::<Vec<_>>().join(" ")
    }

    fn selected(ui: &Ui) -> &str {
        ui.selected.as_ref().map_or("nobody", |key| &key.name)
    }

    #[test]
    fn the_arrows_select_and_stay_within_the_list() {
        let (mut ui, world) = (Ui::default(), world());
        ui.settle(&world);
        assert_eq!(selected(&ui), "x");
        press(&mut ui, &world, "vvj");
        assert_eq!(selected(&ui), "ccc");
        press(&mut ui, &world, "vv^");
        assert_eq!(selected(&ui), "bb");
        press(&mut ui, &world, "kkkkk");
        assert_eq!(selected(&ui), "x");
        press(&mut ui, &world, "G");
        assert_eq!(selected(&ui), "ccc");
        press(&mut ui, &world, "g");
        assert_eq!(selected(&ui), "x");
    }

    #[test]
    fn columns_sort_within_each_pool() {
        let (mut ui, world) = (Ui::default(), world());
        assert_eq!(names(&ui, &world), "x a bb ccc");
        press(&mut ui, &world, "r");
        assert_eq!(names(&ui, &world), "x ccc bb a");
        press(&mut ui, &world, "rs");
        assert_eq!((ui.sort, names(&ui, &world)), (Column::State, "x bb a ccc".into()));
        press(&mut ui, &world, "sss");
        assert_eq!((ui.sort, names(&ui, &world)), (Column::Rate, "x ccc a bb".into()));
        press(&mut ui, &world, "ssss");
        assert_eq!(ui.sort, Column::Name);
    }

    #[test]
    fn a_drain_is_asked_about_and_a_return_is_not() {
        let (mut ui, world) = (Ui::default(), world());
        ui.settle(&world);
        assert_eq!(press(&mut ui, &world, "vdn"), []);
        assert_eq!(ui.mode, Mode::Table);
        let of = ui.selected.clone().unwrap();
        assert_eq!((&*of.pool, &*of.name), ("web", "a"));
        assert_eq!(
            press(&mut ui, &world, "dy"),
            [Action::SetState { of: of.clone(), state: AdminState::Draining }]
        );
        assert_eq!(
            press(&mut ui, &world, "m\n"),
            [Action::SetState { of: of.clone(), state: AdminState::Maintenance }]
        );
        assert_eq!(press(&mut ui, &world, "u"), [Action::SetState { of, state: AdminState::Up }]);
    }

    #[test]
    fn a_weight_is_stepped_or_typed() {
        let (mut ui, world) = (Ui::default(), world());
        ui.settle(&world);
        let of = ui.selected.clone().unwrap();
        let weigh = |weight| Action::SetWeight { of: of.clone(), weight };
        assert_eq!(press(&mut ui, &world, "+-"), [weigh(2), weigh(0)]);
        assert_eq!(press(&mut ui, &world, "w1x7\x085\n"), [weigh(15)]);
        assert_eq!(press(&mut ui, &world, "w300\n"), []);
        assert!(ui.message.as_ref().is_some_and(|(text, bad)| text.contains("0 to 256") && *bad));
        assert_eq!(press(&mut ui, &world, "w12\x1bw\n"), []);
        assert_eq!((&ui.mode, &ui.message), (&Mode::Table, &None));
    }

    #[test]
    fn a_filter_is_typed_and_keeps_somebody_selected() {
        let (mut ui, world) = (Ui::default(), world());
        ui.settle(&world);
        assert_eq!(press(&mut ui, &world, "/drainq\x08\n"), []);
        assert_eq!((names(&ui, &world), selected(&ui)), ("bb".into(), "bb"));
        press(&mut ui, &world, "\x1b");
        assert_eq!((names(&ui, &world).len(), selected(&ui)), (10, "bb"));
        press(&mut ui, &world, "/nobody has this\n");
        assert_eq!((&*names(&ui, &world), selected(&ui)), ("", "nobody"));
        assert_eq!(press(&mut ui, &world, "dyvw1\n+\nc"), []);
    }

    #[test]
    fn what_lies_over_the_table_scrolls_and_closes() {
        let (mut ui, world) = (Ui::default(), world());
        press(&mut ui, &world, "?vv");
        assert!(matches!(&ui.mode, Mode::Popup { scroll: 2, .. }));
        press(&mut ui, &world, "Gvg^");
        assert!(matches!(&ui.mode, Mode::Popup { scroll: 0, .. }));
        press(&mut ui, &world, "q");
        assert_eq!(ui.mode, Mode::Table);
        assert_eq!(press(&mut ui, &world, "q"), [Action::Quit]);
    }

    proptest! {
        #[test]
        fn no_keys_lead_to_a_panic(keys in "[a-zA-Z0-9/?+\n\x1b\x08^-]{0,60}", known: bool) {
            let (mut ui, world) = (Ui::default(), if known { world() } else { InstanceView::default() });
            press(&mut ui, &world, &keys);
        }
    }
}
