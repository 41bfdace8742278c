//! `pointsman demo`: small backends, the balancer, traffic and a live view in one process, controlled from the dashboard or
//! by keys. It is the same balancer that `run` starts, and it finds, checks and uses these backends like any others.
//!
//! An action ([`action`]) changes the scene ([`scene`]), which is pure; the stage ([`stage`]) makes the backends, the
//! balancer and the clients match it.

mod action;
mod backend;
mod caption;
mod configuration;
mod environment;
mod http;
mod keys;
mod scene;
mod script;
mod snapshot;
mod stage;
mod state;
mod stats;
mod traffic;
mod view;

use std::io::{self, IsTerminal};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::run::Signals;
use super::terminal::Screen;
use super::{DemoArgs, Exit, Failure, run};
use crate::admin;
use crate::admin::access::Access;
use crate::config::{Log, SocketMode};
use crate::domain::SocketAddress;
use crate::state_directory::StateDirectory;
use crate::supervisor::{self, Inherited, Supervisor};
use crate::task::spawn;
use crate::telemetry::log;
use environment::Environment;
use http::DemoLink;
use keys::{DemoKeys, KeyResult};
use scene::Scene;
use snapshot::Observer;
use stage::DemoStage;
use stats::TrafficTotals;

/// The interval between frames of the view.
const FRAME: Duration = Duration::from_millis(200);

pub(super) fn run(args: &DemoArgs) -> Result<Exit, Failure> {
    let live = io::stdout().is_terminal() && io::stdin().is_terminal();
    // Log lines on the same terminal would overwrite the view.
    let log = if live && io::stderr().is_terminal() { None } else { Some(log::init(&Log::default())?) };
    let runtime = run::control_plane()?;
    let result = runtime.block_on(play(args, live));
    runtime.shutdown_background();
    drop(log); // flushes the log before the summary
    let (totals, retried, time) = result?;
    super::print(&summary(&totals, retried, time))
}

/// Plays the demo until its time is over, a signal arrives or q is pressed.
async fn play(args: &DemoArgs, live: bool) -> Result<(TrafficTotals, u64, Duration), Failure> {
    let mut signals = Signals::new()?;
    let began = Instant::now();
    let until = args.exit_after.map(|time| began + time);
    let scene = Scene::new(args.balance);
    let environment = Environment::start(&scene)
        .await
        .map_err(|error| Failure::NotStarted(format!("the demo's backends cannot be started: {error}")))?;
    let bound = bind_admin(args.admin).await?;
    let mut stage = start(args, environment, scene, &bound.address).await?;
    let overview = Arc::clone(stage.supervisor.overview());
    let (link, mut requests) = DemoLink::new(stage.state());
    let stop = CancellationToken::new();
    let admin_address = bound.address.to_string();
    let router = admin::demo_router(&overview, &Access::default(), http::routes(link.clone()));
    let admin = spawn(bound.serve(router, stop.clone()));
    let address = stage.address().unwrap_or((Ipv4Addr::LOCALHOST, 0).into());
    info!("try `curl http://{address}/`, and open http://{admin_address}/ in a browser to control the demo");
    let stats = stage.traffic.stats[0].clone();
    let mut observer = Observer::new(overview, stats, address.to_string(), admin_address);
    let mut screen = if live { Some(Screen::open().map_err(|error| no_screen(&error))?) } else { None };
    let mut keys = DemoKeys::default();
    let mut tick = tokio::time::interval(FRAME);
    let (last, stopped_by) = loop {
        tokio::select! {
            signal = signals.end() => break (observer.snapshot(), signal),
            () = sleep_until(until) => break (observer.snapshot(), "--exit-after"),
            () = sleep_until(stage.due()) => stage.step().await,
            Some(request) = requests.recv() => {
                let done = stage.act(request.action).await;
                let state = Arc::new(stage.state());
                link.state.store(Arc::clone(&state));
                let _ = request.answer.send(done.map(|()| state)); // the client may have left
            }
            _ = tick.tick() => {
                stage.tick();
                let snapshot = observer.snapshot();
                if screen.is_some() && handle_keys(&mut stage, &mut keys).await? {
                    break (snapshot, "q");
                }
                let state = Arc::new(stage.state());
                link.state.store(Arc::clone(&state));
                if let Some(screen) = &mut screen {
                    let draw = screen.draw(|frame| view::draw(frame, &snapshot, &state, &keys));
                    draw.map_err(|error| no_screen(&error))?;
                }
            }
        }
    };
    drop(screen);
    let DemoStage { supervisor, traffic, .. } = stage;
    drop(traffic);
    supervisor.drain(stopped_by.into(), signals.end()).await;
    stop.cancel();
    let _ = admin.await;
    Ok((last.totals, last.retried, last.time))
}

/// Carries out the actions of the pressed keys. Returns whether to quit.
async fn handle_keys(stage: &mut DemoStage, keys: &mut DemoKeys) -> Result<bool, Failure> {
    for key in view::pressed().map_err(|error| no_screen(&error))? {
        match keys.on(key, &stage.scene, stage.is_playing()) {
            KeyResult::None => {}
            KeyResult::Quit => return Ok(true),
            KeyResult::Act(action) => {
                keys.message = stage.act(action).await.err().map(|refused| refused.to_string());
            }
        }
    }
    Ok(false)
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn no_screen(error: &io::Error) -> Failure {
    Failure::NotStarted(format!("the terminal cannot be used: {error}; try `pointsman demo | cat`"))
}

/// Starts the balancer on the given address; without one, on the default port, or on a free port if that is taken.
async fn start(
    args: &DemoArgs,
    environment: Environment,
    scene: Scene,
    admin: &SocketAddress,
) -> Result<DemoStage, Failure> {
    let usual = args.bind.unwrap_or((Ipv4Addr::LOCALHOST, 8080).into());
    let config = |bind| configuration::config(bind, &scene, &environment);
    let start = |config| {
        Supervisor::start(config, Some(admin.clone()), StateDirectory::default(), Inherited::default())
    };
    let (supervisor, bind) = match start(config(usual)).await {
        Err(supervisor::Error::Bind { error, .. })
            if args.bind.is_none() && error.kind() == io::ErrorKind::AddrInUse =>
        {
            let other = (Ipv4Addr::LOCALHOST, 0).into();
            (start(config(other)).await?, other)
        }
        started => (started?, usual),
    };
    Ok(DemoStage::new(supervisor, environment, scene, bind))
}

/// Binds the admin server by the same rule.
async fn bind_admin(wanted: Option<SocketAddr>) -> Result<admin::server::Bound, Failure> {
    let usual = wanted.unwrap_or((Ipv4Addr::LOCALHOST, 9900).into());
    let bound =
        match admin::server::Bound::bind(&SocketAddress::Tcp(usual), SocketMode::default(), None).await {
            Err(error) if wanted.is_none() && error.kind() == io::ErrorKind::AddrInUse => {
                admin::server::Bound::bind(
                    &SocketAddress::Tcp((Ipv4Addr::LOCALHOST, 0).into()),
                    SocketMode::default(),
                    None,
                )
                .await
            }
            bound => bound,
        };
    bound.map_err(|error| Failure::NotStarted(format!("the admin server cannot listen on {usual}: {error}")))
}

fn summary(totals: &TrafficTotals, retried: u64, time: Duration) -> String {
    let each: Vec<_> =
        totals.by_backend.iter().map(|(backend, times)| format!("{backend} {times}")).collect();
    let errors = match totals.errors {
        0 => String::new(),
        some => format!("{some} answers were errors from a backend.\n"),
    };
    format!(
        "{} requests answered in {:.0} s ({}), {} failed.\n\
         {} broke because their backend was killed; {} failed attempts were retried.\n{errors}",
        totals.answered,
        time.as_secs_f64(),
        each.join(", "),
        totals.failed,
        totals.broken,
        retried,
    )
}
