//! The test as it runs: threads of clients, until all is done, the time is over or somebody interrupts it.

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
use super::client::{Addresses, Client, Job};
use super::progress::Progress;
use super::report::{Report, Run};
use super::tally::Tally;
use super::tickets::{Tickets, Until};
use super::who::By;
use super::{Plan, Target};
use crate::discovery;
use crate::proxy::sockets::raise_file_limit;

/// How often the one who watches is told.
const WATCH: Duration = Duration::from_millis(100);
/// Files that the process needs beside its connections.
const RESERVED_FILES: u64 = 64;

/// Why there was no test.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody knows where the target is.
    #[error("{target} cannot be asked: {reason}")]
    Name {
        /// The target.
        target: String,
        /// What is wrong with its name.
        reason: String,
    },
    /// The balancer does not say which backend served.
    #[error("{0}")]
    Admin(String),
    /// More clients than files that may be open.
    #[error(
        "{clients} clients need more files than may be open ({limit}): raise the limit (ulimit -n), or lower -c"
    )]
    Files {
        /// How many.
        clients: usize,
        /// The limit of open files.
        limit: u64,
    },
    /// The system gives no threads.
    #[error("the test cannot be started: {0}")]
    Start(#[from] std::io::Error),
}

/// What all threads share.
#[derive(Debug)]
struct Shared {
    tickets: Tickets,
    done: AtomicU64,
    failed: AtomicU64,
    /// What is under way is given up.
    stop: CancellationToken,
}

/// Runs a test, tells `watch` how it goes, and ends early when `interrupted` does; needs a tokio runtime.
pub async fn run(
    plan: &Plan,
    mut watch: impl FnMut(&Progress),
    interrupted: impl Future<Output = ()>,
) -> Result<Report, Error> {
    let addresses = resolve(&plan.target).await?;
    let limit = raise_file_limit();
    if (plan.concurrent.get() as u64).saturating_add(RESERVED_FILES) > limit {
        return Err(Error::Files { clients: plan.concurrent.get(), limit });
    }
    let before = match &plan.by {
        By::Admin(admin) => Some((admin, BackendCounts::ask(admin).await.map_err(Error::Admin)?)),
        _ => None,
    };
    let cpu = cpu_time();
    let mut crew = Crew::start(plan, &addresses)?;
    let mut interrupted = std::pin::pin!(interrupted);
    let mut early = false;
    let mut tick = tokio::time::interval(WATCH);
    let mut tally = Tally::new(&plan.by);
    loop {
        tokio::select! {
            book = crew.books.recv() => match book {
                Some(book) => tally.merge(book?),
                None => break,
            },
            () = &mut interrupted, if !early => {
                early = true;
                crew.shared.stop.cancel();
                crew.shared.tickets.stop();
            }
            _ = tick.tick() => watch(&crew.progress(plan)),
        }
    }
    let (ended, cpu) = (Instant::now(), cpu_time().saturating_sub(cpu));
    let progress = crew.progress(plan);
    let shared = crew.end();
    watch(&progress);
    let counts = match before {
        Some((admin, before)) => {
            let after = BackendCounts::grown(admin, &before, tally.connections).await;
            Some(after.and_then(|after| before.until(&after)))
        }
        None => None,
    };
    // Who parts from a server last does not make the test longer.
    let last = tally.last.filter(|_| !early).unwrap_or(ended);
    let elapsed = last.saturating_duration_since(shared.tickets.begun());
    let least = match plan.until {
        Until::Time(time) if !early => time,
        _ => Duration::ZERO,
    };
    let tickets = &shared.tickets;
    Ok(Report::new(Run {
        plan,
        elapsed: elapsed.max(least),
        cpu,
        total: tickets.total(),
        taken: tickets.taken(),
        not_sent: tickets.left(ended),
        interrupted: early,
        counts,
        tally,
    }))
}

async fn resolve(target: &Target) -> Result<Vec<SocketAddr>, Error> {
    let place = target.place();
    let found = discovery::addresses(&place.host).await;
    let ips = found.map_err(|reason| Error::Name { target: target.to_string(), reason })?;
    Ok(ips.into_iter().map(|ip| SocketAddr::new(ip, place.port)).collect())
}

/// Of all threads of this process.
fn cpu_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default()
}

/// The threads.
struct Crew {
    shared: Arc<Shared>,
    books: mpsc::UnboundedReceiver<Result<Tally, std::io::Error>>,
    pacer: JoinHandle<()>,
}

impl Crew {
    fn start(plan: &Plan, addresses: &[SocketAddr]) -> Result<Self, Error> {
        let clients = plan.concurrent.get();
        let threads = thread::available_parallelism().map_or(1, usize::from).min(clients);
        let shared = Arc::new(Shared {
            tickets: Tickets::new(plan.until, plan.rate),
            done: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            stop: CancellationToken::new(),
        });
        let (give, books) = mpsc::unbounded_channel();
        for nth in 0..threads {
            // As many for each, and the first ones have one more if they do not come out even.
            let clients = clients / threads + usize::from(nth < clients % threads);
            let (plan, addresses, shared, give) =
                (plan.clone(), addresses.to_vec(), Arc::clone(&shared), give.clone());
            thread::Builder::new().name(format!("clients-{nth}")).spawn(move || {
                // Nobody listens any more only if the test was given up.
                let _ = give.send(work(plan, addresses, clients, &shared));
            })?;
        }
        let theirs = Arc::clone(&shared);
        let pacer =
            thread::Builder::new().name("pacer".to_owned()).spawn(move || theirs.tickets.pace(clients))?;
        Ok(Self { shared, books, pacer })
    }

    fn progress(&self, plan: &Plan) -> Progress {
        let tickets = &self.shared.tickets;
        Progress {
            elapsed: tickets.begun().elapsed(),
            done: self.shared.done.load(Ordering::Relaxed),
            failed: self.shared.failed.load(Ordering::Relaxed),
            total: tickets.total(),
            time: match plan.until {
                Until::Time(time) => Some(time),
                Until::Number(number) => plan.rate.map(|rate| Duration::from_secs_f64(number as f64 / rate)),
            },
        }
    }

    /// All clients are done.
    fn end(self) -> Arc<Shared> {
        self.shared.tickets.stop();
        self.pacer.thread().unpark();
        let _ = self.pacer.join();
        self.shared
    }
}

/// The life of one thread.
fn work(
    plan: Plan,
    addresses: Vec<SocketAddr>,
    clients: usize,
    shared: &Arc<Shared>,
) -> std::io::Result<Tally> {
    let runtime =
        Builder::new_current_thread().enable_io().enable_time().build_local(LocalOptions::default())?;
    let tally = Rc::new(RefCell::new(Tally::new(&plan.by)));
    let job = Rc::new(Job {
        target: plan.target,
        timeout: plan.timeout,
        keep_alive: plan.keep_alive,
        by: plan.by,
        addresses: Addresses::new(addresses),
    });
    runtime.block_on(async {
        let mut all = JoinSet::new();
        for _ in 0..clients {
            all.spawn_local(send(Client::new(Rc::clone(&job)), Arc::clone(shared), Rc::clone(&tally)));
        }
        tokio::select! {
            () = async { while all.join_next().await.is_some() {} } => {}
            () = shared.stop.cancelled() => {}
        }
    });
    let empty = Tally::new(&job.by);
    Ok(tally.replace(empty))
}

/// The life of one client.
async fn send(mut client: Client, shared: Arc<Shared>, tally: Rc<RefCell<Tally>>) {
    while let Some(ticket) = shared.tickets.next().await {
        let sent = Instant::now();
        let result = client.request().await;
        let failed = match &result {
            Ok(answer) => answer.status.is_some_and(|status| status >= 400),
            Err(_) => true,
        };
        {
            let mut tally = tally.borrow_mut();
            tally.connections += client.opened();
            tally.note(ticket, sent, result);
        }
        shared.done.fetch_add(1, Ordering::Relaxed);
        if failed {
            shared.failed.fetch_add(1, Ordering::Relaxed);
            // What fails at once never waits, and would let nobody else have a turn.
            tokio::task::yield_now().await;
        }
        client.settle().await;
    }
}
