//! The stage: it makes the backends, the balancer and the clients match the scene, and plays the scripts.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant as StdInstant;

use tokio::time::Instant;
use tracing::{info, warn};

use super::action::{Clients, DemoAction, SLOTS};
use super::caption::caption;
use super::configuration::{POOLS, config};
use super::environment::{Environment, SIDES, response_time};
use super::scene::{Refused, Scene};
use super::script::{Player, ScriptId};
use super::state::{ClientInfo, DemoBackendInfo, DemoState, ScriptInfo, SideInfo};
use super::stats::TrafficTotals;
use super::traffic::{Traffic, TrafficPlan};
use crate::config::Config;
use crate::domain::{Algorithm, SocketAddress};
use crate::overview::Overview;
use crate::supervisor::Supervisor;

/// The running demo.
#[derive(Debug)]
pub(super) struct DemoStage {
    pub(super) supervisor: Supervisor,
    environment: Environment,
    pub(super) traffic: Traffic,
    /// What is in effect.
    pub(super) scene: Scene,
    player: Player,
    caption: String,
    /// Where the first listener is configured to listen.
    bind: SocketAddr,
    /// What each pool had counted when its algorithm or the comparison was set.
    before: [Counted; SIDES],
}

/// The counters of a pool at one moment.
#[derive(Clone, Debug, Default)]
struct Counted {
    totals: TrafficTotals,
    retried: u64,
}

impl DemoStage {
    /// Starts the traffic to a running balancer, and the story.
    pub(super) fn new(
        supervisor: Supervisor,
        environment: Environment,
        scene: Scene,
        bind: SocketAddr,
    ) -> Self {
        let traffic = Traffic::start(plan(&scene, supervisor.overview()));
        let mut player = Player::default();
        player.start(ScriptId::Story, Instant::now());
        let caption = ScriptId::Story.script().text.to_owned();
        let before = Default::default();
        Self { supervisor, environment, traffic, scene, player, caption, bind, before }
    }

    /// Carries out an action of the user.
    pub(super) async fn act(&mut self, action: DemoAction) -> Result<(), Refused> {
        let done = self.carry_out(action).await;
        match &done {
            Ok(()) => info!("demo: {}", self.caption),
            Err(refused) => info!("demo: not done: {refused}"),
        }
        done
    }

    async fn carry_out(&mut self, action: DemoAction) -> Result<(), Refused> {
        match action {
            DemoAction::Play { script } => {
                let mut scene = match script {
                    ScriptId::Story => self.scene.reset(),
                    _ => Scene::new(self.scene.balance),
                };
                for action in script.script().scene {
                    scene.apply(*action)?;
                }
                self.show(scene).await?;
                self.player.start(script, Instant::now());
            }
            DemoAction::Stop if self.player.playing().is_none() => return Err(Refused::NoScript),
            DemoAction::Stop => self.player.stop(),
            _ => {
                let mut scene = self.scene.clone();
                scene.apply(action)?;
                self.show(scene).await?;
                // The script would undo or repeat the user's action.
                if action.is_about_backends() {
                    self.player.stop();
                }
            }
        }
        self.caption = caption(action, &self.scene);
        Ok(())
    }

    pub(super) fn is_playing(&self) -> bool {
        self.player.playing().is_some()
    }

    /// When the next step of the script is due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.player.due()
    }

    /// Carries out the next step of the script. A step that is not possible is skipped.
    pub(super) async fn step(&mut self) {
        let Some(step) = self.player.advance() else { return };
        let mut scene = self.scene.clone();
        let done = match scene.apply(step.action) {
            Ok(()) => self.show(scene).await,
            Err(refused) => Err(refused),
        };
        match done {
            Ok(()) => info!("demo: {}", step.text),
            Err(refused) => warn!("demo: not done: {refused}"),
        }
        step.text.clone_into(&mut self.caption);
    }

    /// Lets flapping addresses vanish and reappear; to be called several times a second.
    pub(super) fn tick(&mut self) {
        self.environment.tick(&self.scene);
    }

    /// Makes everything match `scene`.
    async fn show(&mut self, scene: Scene) -> Result<(), Refused> {
        // From now on, clients move because of this change.
        self.traffic.stats.iter().for_each(super::stats::TrafficStats::mark);
        self.environment.show(&scene).await.map_err(|error| {
            Refused::NotDone(format!("a backend cannot be started at its address: {error}"))
        })?;
        let wanted = config(self.bind, &scene, &self.environment);
        if wanted != *self.supervisor.config() {
            self.reload(wanted).await?;
        }
        if scene.traffic.clients != self.scene.traffic.clients {
            self.traffic.stats.iter().for_each(super::stats::TrafficStats::forget_clients);
        }
        let algorithms = |scene: &Scene| (scene.balance, scene.compare);
        let counted_anew = algorithms(&scene) != algorithms(&self.scene);
        self.scene = scene;
        self.traffic.set(plan(&self.scene, self.supervisor.overview()));
        if counted_anew {
            self.before = std::array::from_fn(|side| self.counted(side));
        }
        Ok(())
    }

    /// Applies a configuration like a reload: open connections stay open.
    async fn reload(&mut self, wanted: Config) -> Result<(), Refused> {
        let result = self.supervisor.reload(wanted).await;
        self.supervisor.overview().reloads.note(result.is_ok());
        result.map_err(|error| Refused::NotDone(error.to_string()))
    }

    fn counted(&self, side: usize) -> Counted {
        let pools = self.supervisor.overview().pools.load();
        let retried = pools.get(POOLS[side]).map_or(0, |pool| pool.counters.failures_masked());
        Counted { totals: self.traffic.stats[side].totals(), retried }
    }

    /// The state, for the page and the terminal.
    pub(super) fn state(&self) -> DemoState {
        let scene = &self.scene;
        let backends = scene.present().map(|(slot, backend)| DemoBackendInfo {
            name: slot,
            address: self.environment.address(scene, slot).to_string(),
            process: backend.process,
            slow: backend.slow,
            failing: backend.failing,
            flapping: backend.flapping,
            response_ms: u64::try_from(response_time(slot, backend.slow).as_millis()).unwrap_or(u64::MAX),
        });
        let backends: Vec<_> = backends.collect();
        let algorithms = [Some(scene.balance), scene.compare];
        let sides = algorithms.into_iter().enumerate();
        DemoState {
            caption: self.caption.clone(),
            playing: self.player.playing(),
            room: SLOTS - backends.len(),
            backends,
            balance: scene.balance,
            compare: scene.compare,
            check: scene.check,
            traffic: scene.traffic,
            sides: sides.filter_map(|(side, algorithm)| Some(self.side(side, algorithm?))).collect(),
            scripts: ScriptInfo::all(),
            algorithms: Algorithm::ALL,
        }
    }

    fn side(&self, side: usize, algorithm: Algorithm) -> SideInfo {
        let (stats, before) = (&self.traffic.stats[side], &self.before[side]);
        let now = self.counted(side);
        // An answer to one of them may come later than the change to many.
        let few = if self.scene.traffic.clients == Clients::Few { stats.clients() } else { BTreeMap::new() };
        let clients = few.into_iter().map(|(address, track)| ClientInfo {
            address,
            moved_from: track.before.filter(|before| Some(before) != track.backend.as_ref()),
            backend: track.backend,
        });
        SideInfo::new(
            POOLS[side],
            algorithm,
            &now.totals.since(&before.totals),
            now.retried.saturating_sub(before.retried),
            &stats.recent(StdInstant::now()),
            clients.collect(),
        )
    }

    /// The address of the first listener.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        listening(self.supervisor.overview(), POOLS[0])
    }
}

fn plan(scene: &Scene, overview: &Arc<Overview>) -> TrafficPlan {
    TrafficPlan { traffic: scene.traffic, listeners: POOLS.map(|pool| listening(overview, pool)) }
}

/// The address of a listener.
fn listening(overview: &Overview, name: &str) -> Option<SocketAddr> {
    let listeners = overview.listeners.load();
    let found = listeners.iter().find(|(listener, _)| *listener.name == *name)?;
    found.1.iter().find_map(SocketAddress::tcp)
}
