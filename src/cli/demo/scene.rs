//! The scene: what each backend of the demo does, and the settings of the balancer and the clients. It is pure; the
//! environment, the supervisor and the traffic are made to match it.

use serde::Serialize;

use super::action::{CheckInterval, CheckPath, Clients, DemoAction, SLOTS, Slot};
use crate::domain::Algorithm;

/// The backends at the start; more can be added.
const AT_START: usize = 3;
/// Requests per second at the start.
const RATE: u32 = 30;
/// The most requests per second.
const HIGHEST_RATE: u32 = 500;

/// What a process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ProcessScene {
    Running,
    Killed,
    Paused,
}

/// One backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BackendScene {
    /// Whether it is in DNS. A removed backend still serves its open connections.
    pub(super) present: bool,
    pub(super) process: ProcessScene,
    /// Whether its response time is long.
    pub(super) slow: bool,
    /// Whether its answers are errors, except that of `/health`.
    pub(super) failing: bool,
    /// Whether its address vanishes from DNS and reappears, again and again.
    pub(super) flapping: bool,
    /// The index of its address.
    pub(super) address: usize,
}

/// The health checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct CheckScene {
    /// How often.
    pub(super) every: CheckInterval,
    /// What they request.
    pub(super) path: CheckPath,
}

/// The requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct TrafficScene {
    /// How many a second.
    pub(super) rate: u32,
    /// Which clients send them.
    pub(super) clients: Clients,
}

/// All of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Scene {
    pub(super) backends: [BackendScene; SLOTS],
    pub(super) balance: Algorithm,
    /// The algorithm of the second pool; `None`: there is none.
    pub(super) compare: Option<Algorithm>,
    pub(super) check: CheckScene,
    pub(super) traffic: TrafficScene,
}

/// Why an action is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    #[error("{} is not in the demo now", .0.name())]
    Absent(Slot),
    #[error("{} is {} already", .0.name(), .1)]
    Already(Slot, &'static str),
    #[error("{} is not {}", .0.name(), .1)]
    NotSo(Slot, &'static str),
    #[error("all {} backends are in the demo already", SLOTS)]
    Full,
    #[error("two backends are needed to swap their addresses")]
    NoTwo,
    #[error("the rate must be from 1 to {} requests per second", HIGHEST_RATE)]
    Rate,
    #[error("no script is playing")]
    NoScript,
    /// It was allowed, but failed.
    #[error("{0}")]
    NotDone(String),
}

impl BackendScene {
    fn new(place: usize) -> Self {
        Self {
            present: place < AT_START,
            process: ProcessScene::Running,
            slow: false,
            failing: false,
            flapping: false,
            address: place,
        }
    }
}

impl Scene {
    /// The scene at the start.
    pub(super) fn new(balance: Algorithm) -> Self {
        Self {
            backends: std::array::from_fn(BackendScene::new),
            balance,
            compare: None,
            check: CheckScene { every: CheckInterval::Fast, path: CheckPath::Health },
            traffic: TrafficScene { rate: RATE, clients: Clients::Many },
        }
    }

    /// The backends that are in the demo now.
    pub(super) fn present(&self) -> impl Iterator<Item = (Slot, &BackendScene)> {
        Slot::all().zip(&self.backends).filter(|(_, backend)| backend.present)
    }

    pub(super) fn backend(&self, slot: Slot) -> &BackendScene {
        &self.backends[slot.place()]
    }

    /// Resets the backends and checks; the rest stays.
    pub(super) fn reset(&self) -> Self {
        Self { compare: self.compare, traffic: self.traffic, ..Self::new(self.balance) }
    }

    /// Applies an action, or changes nothing. It does not handle scripts.
    pub(super) fn apply(&mut self, action: DemoAction) -> Result<(), Refused> {
        use ProcessScene::{Killed, Paused, Running};
        match action {
            DemoAction::Kill { backend } => {
                let scene = self.unlike(backend, "killed", |scene| scene.process == Killed)?;
                scene.process = Killed;
            }
            DemoAction::Restart { backend } => {
                self.like(backend, "killed", |scene| scene.process == Killed)?.process = Running;
            }
            DemoAction::Pause { backend } => {
                if self.here(backend)?.process == Killed {
                    return Err(Refused::Already(backend, "killed"));
                }
                self.unlike(backend, "paused", |scene| scene.process == Paused)?.process = Paused;
            }
            DemoAction::Resume { backend } => {
                self.like(backend, "paused", |scene| scene.process == Paused)?.process = Running;
            }
            DemoAction::SlowDown { backend } => self.unlike(backend, "slow", |scene| scene.slow)?.slow = true,
            DemoAction::Recover { backend } => self.like(backend, "slow", |scene| scene.slow)?.slow = false,
            DemoAction::Fail { backend } => {
                self.unlike(backend, "failing", |scene| scene.failing)?.failing = true;
            }
            DemoAction::Repair { backend } => {
                self.like(backend, "failing", |scene| scene.failing)?.failing = false;
            }
            DemoAction::Flap { backend } => {
                self.unlike(backend, "flapping", |scene| scene.flapping)?.flapping = true;
            }
            DemoAction::Settle { backend } => {
                self.like(backend, "flapping", |scene| scene.flapping)?.flapping = false;
            }
            DemoAction::Add => {
                let free = self.backends.iter_mut().enumerate().find(|(_, scene)| !scene.present);
                let (place, scene) = free.ok_or(Refused::Full)?;
                *scene = BackendScene { present: true, address: scene.address, ..BackendScene::new(place) };
            }
            DemoAction::Remove { backend } => {
                let scene = self.here(backend)?;
                (scene.present, scene.flapping) = (false, false);
            }
            DemoAction::SwapAddresses => {
                let mut present = self.backends.iter_mut().filter(|scene| scene.present);
                let (Some(first), Some(second)) = (present.next(), present.next()) else {
                    return Err(Refused::NoTwo);
                };
                std::mem::swap(&mut first.address, &mut second.address);
            }
            DemoAction::Balance { algorithm } => self.balance = algorithm,
            DemoAction::Compare { algorithm } => self.compare = algorithm,
            DemoAction::CheckEvery { every } => self.check.every = every,
            DemoAction::CheckPath { path } => self.check.path = path,
            DemoAction::Rate { per_second } => {
                if !(1..=HIGHEST_RATE).contains(&per_second) {
                    return Err(Refused::Rate);
                }
                self.traffic.rate = per_second;
            }
            DemoAction::Clients { kind } => self.traffic.clients = kind,
            DemoAction::Reset => {
                *self = Self { traffic: Self::new(self.balance).traffic, compare: None, ..self.reset() };
            }
            DemoAction::Play { .. } | DemoAction::Stop => {}
        }
        Ok(())
    }

    fn here(&mut self, slot: Slot) -> Result<&mut BackendScene, Refused> {
        let scene = &mut self.backends[slot.place()];
        if scene.present { Ok(scene) } else { Err(Refused::Absent(slot)) }
    }

    /// The backend, if it is in this state.
    fn like(
        &mut self,
        slot: Slot,
        word: &'static str,
        is_so: impl Fn(&BackendScene) -> bool,
    ) -> Result<&mut BackendScene, Refused> {
        let scene = self.here(slot)?;
        if is_so(scene) { Ok(scene) } else { Err(Refused::NotSo(slot, word)) }
    }

    /// The backend, if it is not in this state yet.
    fn unlike(
        &mut self,
        slot: Slot,
        word: &'static str,
        is_so: impl Fn(&BackendScene) -> bool,
    ) -> Result<&mut BackendScene, Refused> {
        let scene = self.here(slot)?;
        if is_so(scene) { Err(Refused::Already(slot, word)) } else { Ok(scene) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn scene() -> Scene {
        Scene::new(Algorithm::RoundRobin)
    }

    #[test]
    fn what_was_done_can_be_undone_and_not_done_twice() {
        let b = Slot::B;
        let pairs = [
            (DemoAction::Kill { backend: b }, DemoAction::Restart { backend: b }),
            (DemoAction::Pause { backend: b }, DemoAction::Resume { backend: b }),
            (DemoAction::SlowDown { backend: b }, DemoAction::Recover { backend: b }),
            (DemoAction::Fail { backend: b }, DemoAction::Repair { backend: b }),
            (DemoAction::Flap { backend: b }, DemoAction::Settle { backend: b }),
            (DemoAction::Remove { backend: b }, DemoAction::Add),
        ];
        for (done, undone) in pairs {
            let mut scene = scene();
            if undone != DemoAction::Add {
                assert!(scene.apply(undone).is_err(), "{undone:?}");
            }
            scene.apply(done).unwrap();
            assert_ne!(scene, self::scene(), "{done:?}");
            assert!(scene.apply(done).is_err(), "{done:?}");
            scene.apply(undone).unwrap();
            assert_eq!(scene, self::scene(), "{undone:?}");
        }
    }

    #[test]
    fn a_killed_backend_can_only_be_started_or_removed() {
        let mut scene = scene();
        scene.apply(DemoAction::Kill { backend: Slot::B }).unwrap();
        let refused = scene.apply(DemoAction::Pause { backend: Slot::B }).unwrap_err();
        assert_eq!(refused.to_string(), "b is killed already");
        scene.apply(DemoAction::Remove { backend: Slot::B }).unwrap();
        let refused = scene.apply(DemoAction::Restart { backend: Slot::B }).unwrap_err();
        assert_eq!(refused.to_string(), "b is not in the demo now");
        // A backend that is added again is a new process.
        scene.apply(DemoAction::Add).unwrap();
        assert_eq!(scene.backend(Slot::B).process, ProcessScene::Running);
    }

    #[test]
    fn eight_backends_are_the_most() {
        let mut scene = scene();
        for _ in AT_START..SLOTS {
            scene.apply(DemoAction::Add).unwrap();
        }
        assert_eq!(scene.present().count(), SLOTS);
        assert_eq!(scene.apply(DemoAction::Add), Err(Refused::Full));
    }

    #[test]
    fn the_first_two_backends_swap_their_addresses() {
        let mut scene = scene();
        scene.apply(DemoAction::SwapAddresses).unwrap();
        let places: Vec<_> = scene.present().map(|(_, backend)| backend.address).collect();
        assert_eq!(places, [1, 0, 2]);
        for backend in [Slot::A, Slot::B] {
            scene.apply(DemoAction::Remove { backend }).unwrap();
        }
        assert_eq!(scene.apply(DemoAction::SwapAddresses), Err(Refused::NoTwo));
        // The address stays with the backend, so that no two have the same.
        scene.apply(DemoAction::Add).unwrap();
        assert_eq!(scene.backend(Slot::A).address, 1);
    }

    #[test]
    fn a_rate_has_limits_and_a_reset_keeps_the_algorithm() {
        let mut scene = scene();
        for per_second in [0, HIGHEST_RATE + 1] {
            assert_eq!(scene.apply(DemoAction::Rate { per_second }), Err(Refused::Rate));
        }
        for action in [
            DemoAction::Rate { per_second: 100 },
            DemoAction::Clients { kind: Clients::Few },
            DemoAction::Balance { algorithm: Algorithm::Maglev },
            DemoAction::Compare { algorithm: Some(Algorithm::SourceHash) },
            DemoAction::CheckEvery { every: CheckInterval::Off },
            DemoAction::CheckPath { path: CheckPath::Root },
            DemoAction::Kill { backend: Slot::A },
            DemoAction::Reset,
        ] {
            scene.apply(action).unwrap();
        }
        assert_eq!(scene, Scene::new(Algorithm::Maglev));
    }

    fn action() -> impl Strategy<Value = DemoAction> {
        (0..10_usize, 0..SLOTS).prop_map(|(kind, place)| {
            let backend = Slot::at(place).unwrap();
            match kind {
                0 => DemoAction::Kill { backend },
                1 => DemoAction::Restart { backend },
                2 => DemoAction::Pause { backend },
                3 => DemoAction::Resume { backend },
                4 => DemoAction::Flap { backend },
                5 => DemoAction::Add,
                6 => DemoAction::Remove { backend },
                7 => DemoAction::SwapAddresses,
                8 => DemoAction::Reset,
                _ => DemoAction::Fail { backend },
            }
        })
    }

    proptest! {
        #[test]
        fn whatever_is_done_each_backend_has_an_address_of_its_own(
            actions in proptest::collection::vec(action(), 0..40),
        ) {
            let mut scene = scene();
            for action in actions {
                let before = scene.clone();
                if scene.apply(action).is_err() {
                    prop_assert_eq!(&scene, &before);
                }
                let mut places: Vec<_> = scene.backends.iter().map(|backend| backend.address).collect();
                places.sort_unstable();
                prop_assert_eq!(places, (0..SLOTS).collect::<Vec<_>>());
            }
        }
    }
}
