//! The keys of the demo in the terminal. A state machine without a terminal; it uses only the types of keys.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::action::{CheckInterval, CheckPath, Clients, DemoAction, Slot};
use super::scene::{ProcessScene, Scene};
use super::script::ScriptId;
use crate::domain::Algorithm;

/// The rates that a key steps through, in requests per second.
const RATES: [u32; 4] = [10, 30, 100, 300];

/// The popup over the view.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum DemoPopup {
    /// Nothing.
    #[default]
    None,
    /// The keys.
    Keys,
    /// The experiments, of which a digit starts one.
    Experiments,
}

/// What the caller does after a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyResult {
    None,
    Quit,
    Act(DemoAction),
}

/// The state of the keys.
#[derive(Debug)]
pub(super) struct DemoKeys {
    pub(super) popup: DemoPopup,
    /// The backend that keys act on.
    pub(super) selected: Slot,
    /// Why the last action was refused.
    pub(super) message: Option<String>,
}

impl Default for DemoKeys {
    fn default() -> Self {
        Self { popup: DemoPopup::None, selected: Slot::A, message: None }
    }
}

impl DemoKeys {
    /// Handles a key. `scene` is in effect now; `playing`: whether a script is.
    pub(super) fn on(&mut self, key: KeyEvent, scene: &Scene, playing: bool) -> KeyResult {
        if key.kind == KeyEventKind::Release {
            return KeyResult::None;
        }
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        if control && key.code == KeyCode::Char('c') {
            return KeyResult::Quit;
        }
        if key.modifiers.intersects(KeyModifiers::CONTROL | KeyModifiers::ALT) {
            return KeyResult::None;
        }
        self.message = None;
        let digit = match key.code {
            KeyCode::Char(c) => c.to_digit(10).map(|digit| digit as usize),
            _ => None,
        };
        match (std::mem::take(&mut self.popup), digit) {
            (DemoPopup::Experiments, Some(digit)) => {
                let script = digit.checked_sub(1).and_then(|place| ScriptId::EXPERIMENTS.get(place));
                return script
                    .map_or(KeyResult::None, |script| KeyResult::Act(DemoAction::Play { script: *script }));
            }
            (DemoPopup::None, _) => {}
            // Any key closes the popup; q does nothing else.
            (DemoPopup::Keys | DemoPopup::Experiments, _) => return KeyResult::None,
        }
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => KeyResult::Quit,
            KeyCode::Char('?') => self.open(DemoPopup::Keys),
            KeyCode::Char('e') => self.open(DemoPopup::Experiments),
            KeyCode::Char(c) => {
                if let Some(slot) = digit.and_then(|digit| digit.checked_sub(1)).and_then(Slot::at) {
                    self.selected = slot;
                    return KeyResult::None;
                }
                self.action(c, scene, playing).map_or(KeyResult::None, KeyResult::Act)
            }
            _ => KeyResult::None,
        }
    }

    fn open(&mut self, popup: DemoPopup) -> KeyResult {
        self.popup = popup;
        KeyResult::None
    }

    fn action(&self, key: char, scene: &Scene, playing: bool) -> Option<DemoAction> {
        let backend = self.selected;
        let now = scene.backend(backend);
        Some(match key {
            'k' if now.process == ProcessScene::Killed => DemoAction::Restart { backend },
            'k' => DemoAction::Kill { backend },
            'p' if now.process == ProcessScene::Paused => DemoAction::Resume { backend },
            'p' => DemoAction::Pause { backend },
            's' if now.slow => DemoAction::Recover { backend },
            's' => DemoAction::SlowDown { backend },
            'f' if now.failing => DemoAction::Repair { backend },
            'f' => DemoAction::Fail { backend },
            'n' if now.flapping => DemoAction::Settle { backend },
            'n' => DemoAction::Flap { backend },
            'a' => DemoAction::Add,
            'r' => DemoAction::Remove { backend },
            'x' => DemoAction::SwapAddresses,
            'b' => DemoAction::Balance { algorithm: after(&Algorithm::ALL, scene.balance) },
            'c' => DemoAction::Compare { algorithm: compared_next(scene) },
            'i' => DemoAction::CheckEvery {
                every: after(
                    &[CheckInterval::Fast, CheckInterval::Slow, CheckInterval::Off],
                    scene.check.every,
                ),
            },
            'h' => {
                DemoAction::CheckPath { path: after(&[CheckPath::Health, CheckPath::Root], scene.check.path) }
            }
            't' => DemoAction::Rate { per_second: after(&RATES, scene.traffic.rate) },
            'l' => DemoAction::Clients { kind: after(&[Clients::Many, Clients::Few], scene.traffic.clients) },
            '0' => DemoAction::Reset,
            ' ' if playing => DemoAction::Stop,
            ' ' => DemoAction::Play { script: ScriptId::Story },
            _ => return None,
        })
    }
}

/// The value after `now`, in a cycle; the first one if `now` is not in the list.
fn after<T: Copy + PartialEq>(all: &[T], now: T) -> T {
    let next = all.iter().position(|value| *value == now).map_or(0, |place| (place + 1) % all.len());
    all[next]
}

/// The algorithm to compare with next: each of the others in turn, then none.
fn compared_next(scene: &Scene) -> Option<Algorithm> {
    let mut others = Algorithm::ALL.into_iter().filter(|algorithm| *algorithm != scene.balance);
    match scene.compare {
        None => others.next(),
        Some(now) => others.skip_while(|algorithm| *algorithm != now).nth(1),
    }
}

/// The keys and what they do.
pub(super) const KEYS: [(&str, &str); 15] = [
    ("1-8", "select a backend"),
    ("k", "kill it, or start it again"),
    ("p", "pause it (it accepts but never answers), or resume it"),
    ("s", "slow it down, or make it fast again"),
    ("f", "make it answer with errors (not /health), or stop that"),
    ("n", "make its address in DNS flap, or stop that"),
    ("a, r", "add a backend; remove the selected one"),
    ("x", "swap the addresses of the first two backends"),
    ("b, c", "next algorithm; next one to compare with"),
    ("i, h", "check interval; what is checked: /health or /"),
    ("t, l", "rate of requests; few clients or many"),
    ("e", "experiments"),
    ("0", "reset backends, checks and traffic"),
    ("space", "stop the script, or play the story"),
    ("q", "quit"),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// Presses keys, applying each action, and returns the last result.
    fn press(keys: &mut DemoKeys, scene: &mut Scene, typed: &str) -> KeyResult {
        let mut last = KeyResult::None;
        for c in typed.chars() {
            let code = if c == '\x1b' { KeyCode::Esc } else { KeyCode::Char(c) };
            last = keys.on(code.into(), scene, false);
            if let KeyResult::Act(action) = last {
                scene.apply(action).unwrap();
            }
        }
        last
    }

    fn start() -> (DemoKeys, Scene) {
        (DemoKeys::default(), Scene::new(Algorithm::RoundRobin))
    }

    #[test]
    fn a_digit_selects_a_backend_and_a_key_does_and_undoes_something_to_it() {
        let (mut keys, mut scene) = start();
        let before = scene.clone();
        press(&mut keys, &mut scene, "2");
        for (key, done) in [
            ("k", DemoAction::Kill { backend: Slot::B }),
            ("p", DemoAction::Pause { backend: Slot::B }),
            ("s", DemoAction::SlowDown { backend: Slot::B }),
            ("f", DemoAction::Fail { backend: Slot::B }),
            ("n", DemoAction::Flap { backend: Slot::B }),
        ] {
            assert_eq!(press(&mut keys, &mut scene, key), KeyResult::Act(done));
            assert!(matches!(press(&mut keys, &mut scene, key), KeyResult::Act(_)));
            assert_eq!(scene, before, "{key}");
        }
        press(&mut keys, &mut scene, "9");
        assert_eq!(keys.selected, Slot::B);
    }

    #[test]
    fn settings_go_round() {
        let (mut keys, mut scene) = start();
        let before = scene.clone();
        for (key, times) in [("b", 9), ("c", 9), ("i", 3), ("h", 2), ("t", 4), ("l", 2)] {
            press(&mut keys, &mut scene, key);
            assert_ne!(scene, before, "{key}");
            press(&mut keys, &mut scene, &key.repeat(times - 1));
            assert_eq!(scene, before, "{key}");
        }
        // The second algorithm is never the first one.
        for _ in 0..20 {
            press(&mut keys, &mut scene, "c");
            assert_ne!(scene.compare, Some(scene.balance));
        }
    }

    #[test]
    fn space_stops_a_script_or_starts_the_story() {
        let (mut keys, scene) = start();
        let mut space = |playing| keys.on(KeyCode::Char(' ').into(), &scene, playing);
        assert_eq!(space(true), KeyResult::Act(DemoAction::Stop));
        assert_eq!(space(false), KeyResult::Act(DemoAction::Play { script: ScriptId::Story }));
    }

    #[test]
    fn popups_take_the_next_key() {
        let (mut keys, mut scene) = start();
        press(&mut keys, &mut scene, "?");
        assert_eq!(keys.popup, DemoPopup::Keys);
        assert_eq!(press(&mut keys, &mut scene, "q"), KeyResult::None);
        assert_eq!(keys.popup, DemoPopup::None);
        let played = press(&mut keys, &mut scene, "e2");
        assert_eq!(played, KeyResult::Act(DemoAction::Play { script: ScriptId::Sticky }));
        assert_eq!(press(&mut keys, &mut scene, "e9"), KeyResult::None);
        assert_eq!(keys.popup, DemoPopup::None);
        for quit in ["q", "\x1b"] {
            assert_eq!(press(&mut keys, &mut scene, quit), KeyResult::Quit);
        }
    }

    #[test]
    fn control_keys_do_nothing_except_control_c() {
        let (mut keys, scene) = start();
        let mut control = |c| keys.on(KeyEvent::new(KeyCode::Char(c), KeyModifiers::CONTROL), &scene, false);
        assert_eq!((control('k'), control('c')), (KeyResult::None, KeyResult::Quit));
    }
}
