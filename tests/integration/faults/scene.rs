//! A balancer in front of two backends, clients that send requests all the time, and what the process held before the fault.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::support::{Lb, eventually, http_get};

/// Concurrent clients, each with one request at a time.
const CLIENTS: usize = 4;
/// Answers before and after a fault.
const ANSWERS: usize = 40;
/// Pipes that two workers keep after bursts, two files each.
const KEPT_FILES: usize = 2 * 16 * 2;
/// How much more memory may stay in use after a fault: allocators keep some.
const MORE_MEMORY_KIB: u64 = 8 * 1024;

pub(super) struct Scene {
    pub(super) lb: Lb,
    before: Held,
}

/// What a process holds.
#[derive(Clone, Copy, Debug)]
struct Held {
    files: usize,
    threads: usize,
    memory_kib: u64,
}

impl Held {
    fn now(lb: &Lb) -> Self {
        let threads = std::fs::read_dir(format!("/proc/{}/task", lb.pid())).unwrap().count();
        Self { files: lb.open_files(), threads, memory_kib: lb.resident_kib() }
    }
}

/// What the clients saw.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) errors: Vec<String>,
    pub(super) slowest: Duration,
}

impl Scene {
    /// The listener `web` with `listener` added to it, and the pool `web` of two backends, which are up, with `pool` added.
    pub(super) fn start(backends: [SocketAddr; 2], listener: &str, pool: &str) -> Self {
        let [a, b] = backends;
        let lb = Lb::start(&format!(
            "listeners: {{web: {{bind: 127.0.0.1:0, pool: web}}{listener}}}
pools:
  web:
    discover: [{{static: [{{address: {a}, name: a}}, {{address: {b}, name: b}}]}}]
    health: {{http: /health, every: 1s, timeout: 1s, rise: 1, fall: 2}}
    {pool}
"
        ));
        lb.when_up(vec!["a".to_owned(), "b".to_owned()]);
        let mut scene = Self { before: Held::now(&lb), lb };
        // What is allocated once is there from now on.
        let seen = scene.during(|| {});
        assert!(seen.errors.is_empty(), "{seen:?}");
        scene.lb.when_idle();
        scene.before = Held::now(&scene.lb);
        scene
    }

    /// Runs `fault` while clients send requests; they begin before it, and end after more answers.
    pub(super) fn during(&self, fault: impl FnOnce()) -> Seen {
        let (ended, answers) = (AtomicBool::new(false), AtomicUsize::new(0));
        let (errors, slowest) = (Mutex::new(Vec::new()), Mutex::new(Duration::ZERO));
        let address = self.lb.address("web");
        std::thread::scope(|scope| {
            for _ in 0..CLIENTS {
                scope.spawn(|| {
                    while !ended.load(Ordering::SeqCst) {
                        let began = Instant::now();
                        match http_get(address, "/") {
                            Ok((200, _)) => {
                                answers.fetch_add(1, Ordering::SeqCst);
                                let mut slowest = slowest.lock().unwrap();
                                *slowest = slowest.max(began.elapsed());
                            }
                            other => errors.lock().unwrap().push(format!("{other:?}")),
                        }
                    }
                });
            }
            let more = |what: &str| {
                let before = answers.load(Ordering::SeqCst);
                eventually(what, || (answers.load(Ordering::SeqCst) >= before + ANSWERS).then_some(()));
            };
            let work = std::panic::AssertUnwindSafe(|| {
                more("requests before the fault are answered");
                fault();
                more("requests after the fault are answered");
            });
            let result = std::panic::catch_unwind(work);
            ended.store(true, Ordering::SeqCst);
            if let Err(panic) = result {
                std::panic::resume_unwind(panic);
            }
        });
        Seen { errors: errors.into_inner().unwrap(), slowest: slowest.into_inner().unwrap() }
    }

    /// Waits until both backends are up and nothing is left of the fault: no connection, no file, no thread, no memory.
    pub(super) fn is_as_before(&self) {
        self.lb.when_up(vec!["a".to_owned(), "b".to_owned()]);
        self.lb.when_idle();
        let before = self.before;
        let now = eventually("its files and threads are as before", || {
            let now = Held::now(&self.lb);
            let is_as_before = now.files <= before.files + KEPT_FILES && now.threads <= before.threads;
            is_as_before.then_some(now)
        });
        assert!(now.memory_kib < before.memory_kib + MORE_MEMORY_KIB, "{before:?} {now:?}");
        let seen = self.during(|| {});
        assert!(seen.errors.is_empty(), "{seen:?}");
    }
}
