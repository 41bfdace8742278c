//! The scripts of the demo: a story that repeats, and experiments. A script sets up a scene and then acts at fixed times.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::action::{CheckInterval, CheckPath, Clients, DemoAction, Slot};
use crate::domain::Algorithm;

/// Which script.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ScriptId {
    Story,
    RoundRobin,
    Sticky,
    Interval,
    Health,
    Addresses,
}

/// One step of a script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ScriptStep {
    /// Seconds since the start of the script.
    pub(super) at: u64,
    pub(super) action: DemoAction,
    /// A sentence or two: what happens and what to watch.
    pub(super) text: &'static str,
}

/// A script.
#[derive(Debug)]
pub(super) struct Script {
    pub(super) title: &'static str,
    /// What to watch during the script.
    pub(super) text: &'static str,
    /// The actions at its start, after a reset.
    pub(super) scene: &'static [DemoAction],
    pub(super) steps: &'static [ScriptStep],
    /// The seconds after which it starts over; `None`: it is played once.
    pub(super) repeats: Option<u64>,
}

const fn step(at: u64, action: DemoAction, text: &'static str) -> ScriptStep {
    ScriptStep { at, action, text }
}

/// Round robin, the same for each scene.
const ROTATION: DemoAction = DemoAction::Balance { algorithm: Algorithm::RoundRobin };

static STORY: Script = Script {
    title: "The story",
    text: "Three backends in rotation; watch what happens to them.",
    scene: &[],
    steps: &[
        step(
            4,
            DemoAction::Kill { backend: Slot::B },
            "b is killed: its connections are retried on another backend, and soon its checks take it out",
        ),
        step(
            10,
            DemoAction::Restart { backend: Slot::B },
            "b is started again: after two passed checks it is back in rotation",
        ),
        step(
            14,
            DemoAction::SlowDown { backend: Slot::C },
            "c slows down: round-robin ignores that, least-connections does not",
        ),
        step(19, DemoAction::Recover { backend: Slot::C }, "c is as fast as before"),
        step(
            21,
            DemoAction::Add,
            "d is started and appears in DNS: after one passed check it is in rotation",
        ),
        step(
            25,
            DemoAction::Remove { backend: Slot::D },
            "d vanishes from DNS: no new connections; existing ones finish. Then the story starts over",
        ),
    ],
    repeats: Some(30),
};

static ROUND_ROBIN: Script = Script {
    title: "Round-robin's weakness",
    text: "c is slow. Round-robin still sends it a third of the connections; least-connections, which gets the same \
           requests, sends it few. Compare the shares and p90.",
    scene: &[
        ROTATION,
        DemoAction::Compare { algorithm: Some(Algorithm::LeastConnections) },
        DemoAction::Rate { per_second: 60 },
        DemoAction::SlowDown { backend: Slot::C },
    ],
    steps: &[],
    repeats: None,
};

static STICKY: Script = Script {
    title: "Sticky sessions",
    text: "Eight clients connect again and again, and each keeps its backend. c is removed after 12 s: source-hash \
           then moves most of them, maglev few besides those of c. Watch which backend each client has.",
    scene: &[
        DemoAction::Balance { algorithm: Algorithm::SourceHash },
        DemoAction::Compare { algorithm: Some(Algorithm::Maglev) },
        DemoAction::Clients { kind: Clients::Few },
        DemoAction::Add,
    ],
    steps: &[step(
        12,
        DemoAction::Remove { backend: Slot::C },
        "c is removed. With source-hash most clients move to another backend, with maglev few besides those of c: watch \
         which clients have moved",
    )],
    repeats: None,
};

static INTERVAL: Script = Script {
    title: "What a check interval costs",
    text: "Backends are checked every 5 s only. A killed backend refuses connections, so they are retried. A paused one \
           accepts them and never answers: only a check detects that, and clients wait until then.",
    scene: &[ROTATION, DemoAction::CheckEvery { every: CheckInterval::Slow }],
    steps: &[
        step(
            3,
            DemoAction::Kill { backend: Slot::B },
            "b is killed. Connections to it are refused and retried at once: “retried” grows, but no client fails",
        ),
        step(
            9,
            DemoAction::Restart { backend: Slot::B },
            "b is started again, but two checks must pass first: it stays down for up to 10 s",
        ),
        step(
            22,
            DemoAction::Pause { backend: Slot::A },
            "a is paused: it accepts connections and never answers. Until three checks have failed, its clients wait and \
             give up: watch “failed”",
        ),
        step(
            42,
            DemoAction::Resume { backend: Slot::A },
            "a resumes. With checks every 0.5 s it would have been down after two seconds: set the interval and pause a again",
        ),
    ],
    repeats: None,
};

static HEALTH: Script = Script {
    title: "Health is not availability",
    text: "b answers every request with an error, but its /health still passes. So it stays up, and a third of the clients \
           get errors, until the checks request what clients request.",
    scene: &[ROTATION, DemoAction::Fail { backend: Slot::B }],
    steps: &[step(
        14,
        DemoAction::CheckPath { path: CheckPath::Root },
        "now the checks request / as clients do: they get the errors, b goes down, and “answered with an error” stops \
         growing",
    )],
    repeats: None,
};

static ADDRESSES: Script = Script {
    title: "Reused addresses",
    text: "a and b restart, each with the other's address, as can happen with Docker. The addresses in DNS are the same, but \
           their names are not: both old backends leave at once, and two new ones are checked before they get \
           connections.",
    scene: &[ROTATION],
    steps: &[step(
        3,
        DemoAction::SwapAddresses,
        "a and b swap their addresses. DNS has the same addresses as before, but with other names: watch both leave and \
         join again, each with the other's address",
    )],
    repeats: None,
};

impl ScriptId {
    /// All of them.
    pub(super) const ALL: [Self; 6] =
        [Self::Story, Self::RoundRobin, Self::Sticky, Self::Interval, Self::Health, Self::Addresses];
    /// The scripts that are played once.
    pub(super) const EXPERIMENTS: [Self; 5] =
        [Self::RoundRobin, Self::Sticky, Self::Interval, Self::Health, Self::Addresses];

    pub(super) fn script(self) -> &'static Script {
        match self {
            Self::Story => &STORY,
            Self::RoundRobin => &ROUND_ROBIN,
            Self::Sticky => &STICKY,
            Self::Interval => &INTERVAL,
            Self::Health => &HEALTH,
            Self::Addresses => &ADDRESSES,
        }
    }
}

/// Plays one script at a time. The caller waits until the next step is due and carries it out.
#[derive(Debug, Default)]
pub(super) struct Player(Option<Playing>);

#[derive(Debug)]
struct Playing {
    id: ScriptId,
    began: Instant,
    next: usize,
}

impl Player {
    /// Starts a script from its beginning.
    pub(super) fn start(&mut self, id: ScriptId, now: Instant) {
        self.0 = (!id.script().steps.is_empty()).then_some(Playing { id, began: now, next: 0 });
    }

    pub(super) fn stop(&mut self) {
        self.0 = None;
    }

    /// The script that is playing.
    pub(super) fn playing(&self) -> Option<ScriptId> {
        self.0.as_ref().map(|playing| playing.id)
    }

    /// When the next step is due.
    pub(super) fn due(&self) -> Option<Instant> {
        let playing = self.0.as_ref()?;
        let step = playing.id.script().steps.get(playing.next)?;
        Some(playing.began + Duration::from_secs(step.at))
    }

    /// The next step, which the caller carries out. After the last one the script starts over or has ended.
    pub(super) fn advance(&mut self) -> Option<ScriptStep> {
        let playing = self.0.as_mut()?;
        let script = playing.id.script();
        let step = *script.steps.get(playing.next)?;
        playing.next += 1;
        if playing.next == script.steps.len() {
            match script.repeats {
                Some(length) => {
                    (playing.began, playing.next) = (playing.began + Duration::from_secs(length), 0);
                }
                None => self.0 = None,
            }
        }
        Some(step)
    }
}

#[cfg(test)]
mod tests {
    use super::super::scene::Scene;
    use super::*;

    #[test]
    fn every_script_can_be_played_from_its_scene_on() {
        for id in ScriptId::ALL {
            let script = id.script();
            let mut scene = Scene::new(Algorithm::RoundRobin);
            for action in script.scene.iter().copied().chain(script.steps.iter().map(|step| step.action)) {
                scene.apply(action).unwrap_or_else(|refused| panic!("{id:?}: {action:?}: {refused}"));
            }
            assert!(script.steps.is_sorted_by_key(|step| step.at), "{id:?}");
            assert!(script.repeats.is_none_or(|length| script.steps.iter().all(|step| step.at < length)));
        }
    }

    #[test]
    fn the_story_ends_as_it_began_and_repeats() {
        let mut scene = Scene::new(Algorithm::RoundRobin);
        let mut player = Player::default();
        player.start(ScriptId::Story, Instant::now());
        let mut due = Vec::new();
        for _ in 0..2 * STORY.steps.len() {
            due.push(player.due().unwrap());
            scene.apply(player.advance().unwrap().action).unwrap();
        }
        assert_eq!(scene, Scene::new(Algorithm::RoundRobin));
        assert!(due.is_sorted());
        assert_eq!(due[STORY.steps.len()] - due[0], Duration::from_secs(30));
        assert_eq!(player.playing(), Some(ScriptId::Story));
        player.stop();
        assert_eq!((player.playing(), player.due()), (None, None));
    }

    #[test]
    fn an_experiment_is_played_once() {
        let mut player = Player::default();
        player.start(ScriptId::Interval, Instant::now());
        for _ in INTERVAL.steps {
            assert_eq!(player.playing(), Some(ScriptId::Interval));
            player.advance().unwrap();
        }
        assert_eq!((player.playing(), player.advance()), (None, None));
        player.start(ScriptId::RoundRobin, Instant::now());
        assert_eq!(player.playing(), None);
    }
}
