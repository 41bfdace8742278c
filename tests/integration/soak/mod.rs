//! Everything at once, for a while: clients of many kinds, while backends die and come back, are drained, added and
//! removed, replicas are started and stopped, configurations are reloaded and processes hand over. Then the account must
//! be right: every connection ended once, for a reason that fits, with as many bytes as its client sent and received; and
//! neither open files nor memory have grown.
//!
//! `POINTSMAN_SOAK` is the number of seconds; `tests/soak.sh` runs it for 20 minutes.

mod account;
mod clients;
mod disturbances;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::support::backend::{self, Backend};
use crate::support::engine::FakeEngine;
use crate::support::watchdog;
use crate::support::{Lb, SetAtTheEnd, within};

use account::Account;
use clients::{Kind, Visit};
use disturbances::Disturbances;

/// The length as a part of all tests.
const BRIEF: Duration = Duration::from_secs(10);
/// How backends are checked. On a busy machine no check of a running one may time out twice: it would go down, and its
/// connections with it. That one was killed is known from the connections that fail.
const CHECKS: &str = "every: 1s, fast_every: 200ms, fall: 2, rise: 1";
/// Time for what is open at the end to finish.
const REST: Duration = Duration::from_secs(60);

/// What clients and disturbances report.
#[derive(Default)]
struct Reports {
    visits: Mutex<Vec<Visit>>,
    kills: Mutex<Vec<Kill>>,
}

/// A backend of that pool was killed between these times.
#[derive(Clone, Copy)]
struct Kill {
    pool: &'static str,
    after: Instant,
    before: Instant,
}

impl Reports {
    fn visits(&self) -> MutexGuard<'_, Vec<Visit>> {
        self.visits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kills(&self) -> MutexGuard<'_, Vec<Kill>> {
        self.kills.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that a backend was killed, after that time and until now.
    fn kill(&self, pool: &'static str, after: Instant) {
        self.kills().push(Kill { pool, after, before: Instant::now() });
    }

    /// Whether a visit ended as it should: completely, unless it ends otherwise by its kind or was open when a backend of
    /// its pool was killed.
    fn explains(&self, visit: &Visit) -> bool {
        let cut = |kill: &Kill| {
            kill.pool == visit.kind.pool() && visit.began <= kill.before && visit.ended >= kill.after
        };
        match visit.kind {
            _ if visit.client.is_none() => false,
            Kind::Idle => visit.end == Err("the idle limit".to_owned()),
            Kind::Aborted => visit.end == Err("its own reset".to_owned()),
            _ => visit.end.is_ok() || self.kills().iter().any(cut),
        }
    }
}

/// The servers behind the balancer.
struct Servers {
    web: Vec<Backend>,
    /// A backend of the pool `web` that operators add and remove.
    added: Backend,
    echo: Vec<Backend>,
    bulk: Vec<Backend>,
    /// Serves all replicas, at any local address.
    replicas: Backend,
    engine: FakeEngine,
}

impl Servers {
    fn start() -> Self {
        let several = |start: fn() -> Backend| (0..3).map(|_| start()).collect();
        let anywhere = "0.0.0.0:0".parse().unwrap();
        Self {
            web: several(|| Backend::http("web")),
            added: Backend::http("web"),
            echo: several(Backend::echo),
            bulk: several(|| Backend::serving(clients::serve_bulk)),
            replicas: Backend::serving_at(anywhere, |stream| backend::http(stream, "web")).unwrap(),
            engine: FakeEngine::start(),
        }
    }

    /// The configuration with the algorithms of that number.
    fn configuration(&self, number: usize) -> String {
        let list = |name: &str, backends: &[Backend]| {
            let each = backends.iter().enumerate();
            let each = each.map(|(n, backend)| format!("{{address: {}, name: {name}{n}}}", backend.address));
            format!("[{{static: [{}]}}]", each.collect::<Vec<_>>().join(", "))
        };
        let algorithm =
            |more: usize| ["round-robin", "least-connections", "random-two", "maglev"][(number + more) % 4];
        format!(
            "runtime: {{workers: 2, drain: {{timeout: 60s}}}}
log: {{directory: logs, rotation: never, max_size: off}}
admin: {{bind: 127.0.0.1:0}}
listeners:
  web: {{bind: 127.0.0.1:0, pool: web}}
  echo: {{bind: 127.0.0.1:0, pool: echo}}
  bulk: {{bind: 127.0.0.1:0, pool: bulk}}
  idle: {{bind: 127.0.0.1:0, pool: idle}}
  scaled: {{bind: 127.0.0.1:0, pool: scaled}}
pools:
  web: {{balance: {}, discover: {}, health: {{http: /health, {CHECKS}}}}}
  echo: {{balance: {}, discover: {}, health: {{tcp: {{}}, {CHECKS}}}, on_down: {{reset: 1s}}}}
  bulk: {{balance: weighted, discover: {}}}
  idle: {{balance: {}, discover: {}, timeouts: {{idle: 3s}}}}
  scaled:
    balance: {}
    health: {{http: /health, {CHECKS}}}
    replicas: {{image: web, port: {}, min: 1, max: 4, stop_timeout: 0s, engine: '{}'}}
",
            algorithm(0),
            list("w", &self.web),
            algorithm(1),
            list("e", &self.echo),
            list("b", &self.bulk),
            algorithm(2),
            list("b", &self.bulk),
            algorithm(3),
            self.replicas.address.port(),
            self.engine.address(),
        )
    }
}

fn length() -> Duration {
    let seconds = std::env::var("POINTSMAN_SOAK")
        .ok()
        .map(|text| text.parse().expect("POINTSMAN_SOAK is a number of seconds"));
    seconds.map_or(BRIEF, Duration::from_secs)
}

#[test]
fn everything_adds_up_after_everything_at_once() {
    let length = length();
    watchdog::allow(length + 2 * REST);
    let mut servers = Servers::start();
    let lb = Lb::start(&servers.configuration(0));
    within(REST, "each pool has backends, and all are up", || {
        let status = lb.status();
        let pools = ["web", "echo", "bulk", "idle", "scaled"];
        pools.iter().all(|pool| are_up(&status, pool)).then_some(())
    });
    let addresses = clients::Addresses::of(&lb);
    let (reports, account, done) = (Reports::default(), Account::of(&lb), AtomicBool::new(false));
    let in_charge = EndAtTheEnd(&account);
    let began = Instant::now();
    std::thread::scope(|scope| {
        let _done = SetAtTheEnd(&done);
        scope.spawn(|| account.follow(&done));
        for (number, kind) in Kind::CLIENTS.into_iter().enumerate() {
            let (reports, done) = (&reports, &done);
            scope.spawn(move || {
                let mut random = seeded(number as u64);
                while !done.load(Ordering::SeqCst) {
                    let visit = clients::visit(kind, addresses, &mut random);
                    reports.visits().push(visit);
                }
            });
        }
        let mut disturbances = Disturbances::new(&lb, &mut servers, &reports, &account);
        while began.elapsed() < length {
            // Memory can only be compared within one process.
            disturbances.next(began.elapsed() < length / 2);
        }
        disturbances.end();
    });
    account.settle(&lb, &reports, REST);
    in_charge.stop();
    account.check(&reports);
    eprintln!("{}", account.summary(began.elapsed(), &reports));
}

/// Whether a pool has backends, and all are up.
fn are_up(status: &serde_json::Value, pool: &str) -> bool {
    let pool = status["pools"].as_array().unwrap().iter().find(|one| one["name"] == pool);
    let backends =
        pool.and_then(|pool| pool["backends"].as_array()).map_or(&[][..], |backends| &backends[..]);
    !backends.is_empty() && backends.iter().all(|backend| backend["state"] == "up")
}

/// Ends the process in charge, also when the test fails.
struct EndAtTheEnd<'a>(&'a Account);

impl EndAtTheEnd<'_> {
    /// Ends it as an operator does; nothing is open any more.
    fn stop(&self) {
        let process = self.0.in_charge();
        Lb::signal_to(process, "TERM");
        within(REST, "the process in charge stops", || (!is_running(process)).then_some(()));
    }
}

impl Drop for EndAtTheEnd<'_> {
    fn drop(&mut self) {
        if is_running(self.0.in_charge()) {
            Lb::signal_to(self.0.in_charge(), "KILL");
        }
    }
}

/// Whether a process is there and has not ended: one that nothing waits for stays as a zombie.
fn is_running(process: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.starts_with(" Z"))
}

/// Random numbers that are the same in each run.
fn seeded(seed: u64) -> rand::rngs::SmallRng {
    rand::SeedableRng::seed_from_u64(seed)
}
