//! Runs a test: threads of clients, until all requests are done, the time is over or the test is interrupted.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::admin::BackendCounts;
use super::attribution::By;
use super::client::{Addresses, Client, ClientConfig};
use super::pacing::{Pacer, Until};
use super::progress::BenchProgress;
use super::report::{BenchReport, FinishedRun};
use super::stats::ThreadStats;
use super::{BenchPlan, BenchTarget};
use crate::discovery;
use crate::proxy::sockets::raise_file_limit;

/// The interval of progress reports.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);
/// Open files that the process needs besides its connections.
const RESERVED_FILES: u64 = 64;

/// Why there was no test.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The name of the target does not resolve.
    #[error("cannot reach {target}: {reason}")]
    Name {
        /// The target.
        target: String,
        /// Why not.
        reason: String,
    },
    /// The admin server does not return its counters.
    #[error("{0}")]
    Admin(String),
    /// The clients exceed the open-file limit.
    #[error("{clients} clients exceed the open-file limit ({limit}): raise it (ulimit -n), or lower -c")]
    Files {
        /// Their number.
        clients: usize,
        /// The limit of open files.
        limit: u64,
    },
    /// A thread could not be started.
    #[error("the test cannot be started: {0}")]
    Start(#[from] std::io::Error),
}

/// The state that all threads share.
#[derive(Debug)]
struct SharedState {
    pacer: Pacer,
    done: AtomicU64,
    failed: AtomicU64,
    /// Aborts requests in flight.
    stop: CancellationToken,
}

/// Runs a test, reports its progress to `watch`, and ends early when `interrupted` completes; needs a tokio runtime.
pub async fn run(
    plan: &BenchPlan,
    mut watch: impl FnMut(&BenchProgress),
    interrupted: impl Future<Output = ()>,
) -> Result<BenchReport, Error> {
    let addresses = resolve(&plan.target).await?;
    let limit = raise_file_limit();
    if (plan.concurrent.get() as u64).saturating_add(RESERVED_FILES) > limit {
        return Err(Error::Files { clients: plan.concurrent.get(), limit });
    }
    let before = match &plan.by {
        By::Admin(admin) => Some((admin, admin.query().await.map_err(Error::Admin)?)),
        _ => None,
    };
    let cpu = cpu_time();
    let mut threads = ClientThreads::start(plan, &addresses)?;
    let mut interrupted = std::pin::pin!(interrupted);
    let mut early = false;
    let mut tick = tokio::time::interval(PROGRESS_INTERVAL);
    let mut stats = ThreadStats::new(&plan.by);
    loop {
        tokio::select! {
            result = threads.results.recv() => match result {
                Some(result) => stats.merge(result?),
                None => break,
            },
            () = &mut interrupted, if !early => {
                early = true;
                threads.shared.stop.cancel();
                threads.shared.pacer.stop();
            }
            _ = tick.tick() => watch(&threads.progress(plan)),
        }
    }
    let (ended, cpu) = (Instant::now(), cpu_time().saturating_sub(cpu));
    let progress = threads.progress(plan);
    let shared = threads.stop();
    watch(&progress);
    let counts = match before {
        Some((admin, before)) => {
            let after = BackendCounts::grown(&**admin, &before, stats.connections).await;
            Some(after.and_then(|after| before.until(&after)))
        }
        None => None,
    };
    // The close of the last connection does not count.
    let last = stats.last.filter(|_| !early).unwrap_or(ended);
    let elapsed = last.saturating_duration_since(shared.pacer.started());
    let least = match plan.until {
        Until::Time(time) if !early => time,
        _ => Duration::ZERO,
    };
    let pacer = &shared.pacer;
    Ok(BenchReport::new(FinishedRun {
        plan,
        elapsed: elapsed.max(least),
        cpu,
        total: pacer.total(),
        taken: pacer.taken(),
        not_sent: pacer.left(ended),
        interrupted: early,
        counts,
        stats,
    }))
}

async fn resolve(target: &BenchTarget) -> Result<Vec<SocketAddr>, Error> {
    let host_port = target.host_port();
    let found = discovery::addresses(&host_port.host).await;
    let ips = found.map_err(|reason| Error::Name { target: target.to_string(), reason })?;
    Ok(ips.into_iter().map(|ip| SocketAddr::new(ip, host_port.port)).collect())
}

/// The CPU time of this process.
fn cpu_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default()
}

/// The running threads.
struct ClientThreads {
    shared: Arc<SharedState>,
    results: mpsc::UnboundedReceiver<Result<ThreadStats, std::io::Error>>,
    pacing: JoinHandle<()>,
}

impl ClientThreads {
    fn start(plan: &BenchPlan, addresses: &[SocketAddr]) -> Result<Self, Error> {
        let clients = plan.concurrent.get();
        let threads = thread::available_parallelism().map_or(1, usize::from).min(clients);
        let shared = Arc::new(SharedState {
            pacer: Pacer::new(plan.until, plan.rate),
            done: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            stop: CancellationToken::new(),
        });
        let (sender, results) = mpsc::unbounded_channel();
        for nth in 0..threads {
            // Evenly, the remainder to the first threads.
            let clients = clients / threads + usize::from(nth < clients % threads);
            let (plan, addresses, shared, sender) =
                (plan.clone(), addresses.to_vec(), Arc::clone(&shared), sender.clone());
            thread::Builder::new().name(format!("clients-{nth}")).spawn(move || {
                // It fails only if the test was dropped.
                let _ = sender.send(run_clients(plan, addresses, clients, &shared));
            })?;
        }
        let theirs = Arc::clone(&shared);
        let pacing =
            thread::Builder::new().name("pacer".to_owned()).spawn(move || theirs.pacer.pace(clients))?;
        Ok(Self { shared, results, pacing })
    }

    fn progress(&self, plan: &BenchPlan) -> BenchProgress {
        let pacer = &self.shared.pacer;
        BenchProgress {
            elapsed: pacer.started().elapsed(),
            done: self.shared.done.load(Ordering::Relaxed),
            failed: self.shared.failed.load(Ordering::Relaxed),
            total: pacer.total(),
            time: match plan.until {
                Until::Time(time) => Some(time),
                Until::Number(number) => plan.rate.map(|rate| Duration::from_secs_f64(number as f64 / rate)),
            },
        }
    }

    /// Stops the pacer; all clients are done.
    fn stop(self) -> Arc<SharedState> {
        self.shared.pacer.stop();
        self.pacing.thread().unpark();
        let _ = self.pacing.join();
        self.shared
    }
}

/// Runs the clients of one thread.
fn run_clients(
    plan: BenchPlan,
    addresses: Vec<SocketAddr>,
    clients: usize,
    shared: &Arc<SharedState>,
) -> std::io::Result<ThreadStats> {
    let runtime =
        Builder::new_current_thread().enable_io().enable_time().build_local(LocalOptions::default())?;
    let stats = Rc::new(RefCell::new(ThreadStats::new(&plan.by)));
    let config = Rc::new(ClientConfig {
        target: plan.target,
        timeout: plan.timeout,
        keep_alive: plan.keep_alive,
        by: plan.by,
        addresses: Addresses::new(addresses),
    });
    runtime.block_on(async {
        let mut all = JoinSet::new();
        for _ in 0..clients {
            all.spawn_local(run_client(
                Client::new(Rc::clone(&config)),
                Arc::clone(shared),
                Rc::clone(&stats),
            ));
        }
        tokio::select! {
            () = async { while all.join_next().await.is_some() {} } => {}
            () = shared.stop.cancelled() => {}
        }
    });
    let empty = ThreadStats::new(&config.by);
    Ok(stats.replace(empty))
}

/// Runs one client.
async fn run_client(mut client: Client, shared: Arc<SharedState>, stats: Rc<RefCell<ThreadStats>>) {
    while let Some(permit) = shared.pacer.next().await {
        let sent = Instant::now();
        let result = client.request().await;
        let failed = match &result {
            Ok(response) => response.status.is_some_and(|status| status >= 400),
            Err(_) => true,
        };
        {
            let mut stats = stats.borrow_mut();
            stats.connections += client.opened();
            stats.record(permit, sent, result);
        }
        shared.done.fetch_add(1, Ordering::Relaxed);
        if failed {
            shared.failed.fetch_add(1, Ordering::Relaxed);
            // A request that fails at once never awaits: let other clients run.
            tokio::task::yield_now().await;
        }
        client.finish().await;
    }
}
