//! `pointsman demo`: three small backends, the balancer, traffic and a live view in one process. The balancer is the one
//! that `run` starts, and finds, checks and uses these backends like any others.

mod backend;
mod environment;
mod script;
mod snapshot;
mod traffic;
mod view;
pub(crate) mod zone;

use std::io::{self, IsTerminal};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use litemap::LiteMap;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::run::Signals;
use super::terminal::Screen;
use super::{DemoArgs, Exit, Failure, run};
use crate::admin;
use crate::admin::access::Access;
use crate::admin::control::Control;
use crate::config::{
    self, Check, Config, Dns, Health, HttpCheck, Listener, Log, NoBackend, Pool, Runtime, SocketMode, Source,
};
use crate::domain::SocketAddress;
use crate::supervisor::{self, Supervisor};
use crate::task::spawn;
use crate::telemetry::log;
use environment::Environment;
use snapshot::Observer;
use traffic::{TrafficStats, TrafficTotals};

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
    let mut environment = Environment::start()
        .await
        .map_err(|error| Failure::NotStarted(format!("the demo's backends cannot be started: {error}")))?;
    let admin = bind_admin(args.admin).await?;
    let supervisor = start(args, &environment, &admin.address).await?;
    let overview = Arc::clone(supervisor.overview());
    let stop = CancellationToken::new();
    let admin_address = admin.address.to_string();
    let admin =
        spawn(admin.serve(admin::router(&overview, &Control::none(), &Access::default()), stop.clone()));
    let address = listening(&supervisor);
    info!("try `curl http://{address}/`, and open http://{admin_address}/ in a browser");
    let stats = TrafficStats::default();
    let traffic = traffic::send(address, stats.clone());
    let mut observer = Observer::new(Arc::clone(&overview), stats, address.to_string(), admin_address);
    let mut screen = if live { Some(Screen::open().map_err(|error| no_screen(&error))?) } else { None };
    let mut steps = script::steps();
    let mut next = steps.next();
    let mut tick = tokio::time::interval(FRAME);
    let (last, stopped_by) = loop {
        let step_at = next.map(|(at, _)| began + at);
        tokio::select! {
            signal = signals.end() => break (observer.snapshot(), signal),
            () = sleep_until(until) => break (observer.snapshot(), "--exit-after"),
            () = sleep_until(step_at) => if let Some((_, step)) = next {
                info!(backend = step.backend, "demo: {}", step.text);
                observer.set_step(step.text);
                environment.apply(step.backend, step.change).await.map_err(|error| {
                    Failure::NotStarted(format!("the demo's backend {} cannot be started: {error}", step.backend))
                })?;
                next = steps.next();
            },
            _ = tick.tick() => {
                let snapshot = observer.snapshot();
                if let Some(screen) = &mut screen {
                    screen.draw(|frame| view::draw(frame, &snapshot)).map_err(|error| no_screen(&error))?;
                    if view::quit_pressed().map_err(|error| no_screen(&error))? {
                        break (snapshot, "q");
                    }
                }
            }
        }
    };
    drop(screen);
    drop(traffic);
    supervisor.drain(stopped_by.into(), signals.end()).await;
    stop.cancel();
    let _ = admin.await;
    Ok((last.totals, last.retried, last.time))
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
    environment: &Environment,
    admin: &SocketAddress,
) -> Result<Supervisor, Failure> {
    let usual = args.bind.unwrap_or((Ipv4Addr::LOCALHOST, 8080).into());
    match Supervisor::start(config(usual, args.balance, environment), Some(admin.clone())).await {
        Err(supervisor::Error::Bind { error, .. })
            if args.bind.is_none() && error.kind() == io::ErrorKind::AddrInUse =>
        {
            let other = (Ipv4Addr::LOCALHOST, 0).into();
            Ok(Supervisor::start(config(other, args.balance, environment), Some(admin.clone())).await?)
        }
        started => Ok(started?),
    }
}

/// Binds the admin server by the same rule.
async fn bind_admin(wanted: Option<SocketAddr>) -> Result<admin::server::Bound, Failure> {
    let usual = wanted.unwrap_or((Ipv4Addr::LOCALHOST, 9900).into());
    let bound = match admin::server::Bound::bind(&SocketAddress::Tcp(usual), SocketMode::default()).await {
        Err(error) if wanted.is_none() && error.kind() == io::ErrorKind::AddrInUse => {
            admin::server::Bound::bind(
                &SocketAddress::Tcp((Ipv4Addr::LOCALHOST, 0).into()),
                SocketMode::default(),
            )
            .await
        }
        bound => bound,
    };
    bound.map_err(|error| Failure::NotStarted(format!("the admin server cannot listen on {usual}: {error}")))
}

fn config(bind: SocketAddr, balance: config::Algorithm, environment: &Environment) -> Config {
    let query = config::Query {
        server: Some(environment.dns),
        every: Duration::from_millis(500),
        flap: Duration::from_secs(1),
        ..config::Query::default()
    };
    let dns = Dns { query, ..Dns::new(environment::SERVICE.to_owned(), environment.port) };
    let check = Check::Http(HttpCheck::new("/health".to_owned()));
    let health = Health {
        every: Duration::from_millis(500),
        timeout: Duration::from_millis(400),
        ..Health::new(check)
    };
    let pool = Pool { balance, health: vec![health], ..Pool::new(vec![Source::Dns(dns)]) };
    let name: Arc<str> = "web".into();
    let listener = Listener {
        no_backend: NoBackend::Http503,
        ..Listener::new(SocketAddress::Tcp(bind), Arc::clone(&name), &pool)
    };
    Config {
        runtime: Runtime::default(),
        log: Log::default(),
        admin: None, // bound separately, as its port may be taken
        listeners: LiteMap::from_iter([(Arc::clone(&name), listener)]),
        pools: LiteMap::from_iter([(name, pool)]),
    }
}

/// The address of the only listener.
fn listening(supervisor: &Supervisor) -> SocketAddr {
    let listeners = supervisor.overview().listeners.load();
    let address = listeners.iter().flat_map(|(_, addresses)| addresses).find_map(SocketAddress::tcp);
    address.unwrap_or((Ipv4Addr::LOCALHOST, 0).into())
}

fn summary(totals: &TrafficTotals, retried: u64, time: Duration) -> String {
    let each: Vec<_> =
        totals.by_backend.iter().map(|(backend, times)| format!("{backend} {times}")).collect();
    format!(
        "{} requests answered in {:.0} s ({}), {} failed.\n\
         {} broke off because their backend was killed; {} failed attempts were retried.\n",
        totals.answered,
        time.as_secs_f64(),
        each.join(", "),
        totals.failed,
        totals.broken,
        retried,
    )
}
