//! A balancer in front of two backends, clients that send requests all the time, and what the process held before the fault.

use std::net::SocketAddr;

use crate::support::load::{Seen, under_load};
use crate::support::{Lb, eventually};

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
    tasks: u64,
    memory_kib: u64,
}

impl Held {
    fn now(lb: &Lb) -> Self {
        let threads = std::fs::read_dir(format!("/proc/{}/task", lb.pid())).unwrap().count();
        let tasks =
            |line: &str| line.strip_prefix("pointsman_tasks{")?.rsplit_once(' ')?.1.parse::<u64>().ok();
        let tasks = lb.get("/metrics").1.lines().filter_map(tasks).sum();
        Self { files: lb.open_files(), threads, tasks, memory_kib: lb.resident_kib() }
    }
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
        scene.during(|| {}).without_errors();
        scene.lb.when_idle();
        scene.before = Held::now(&scene.lb);
        scene
    }

    /// Runs `fault` while clients send requests; they begin before it, and end after more answers.
    pub(super) fn during(&self, fault: impl FnOnce()) -> Seen {
        under_load(self.lb.address("web"), |clients| {
            clients.when_answered(ANSWERS);
            fault();
            clients.when_answered(ANSWERS);
        })
    }

    /// Waits until both backends are up and nothing is left of the fault: no connection, file, thread or task, no memory.
    pub(super) fn is_as_before(&self) {
        self.lb.when_up(vec!["a".to_owned(), "b".to_owned()]);
        self.lb.when_idle();
        let before = self.before;
        let now = eventually("its files, threads and tasks are as before", || {
            let now = Held::now(&self.lb);
            let is_as_before = now.files <= before.files + KEPT_FILES
                && now.threads <= before.threads
                && now.tasks <= before.tasks;
            is_as_before.then_some(now)
        });
        assert!(now.memory_kib < before.memory_kib + MORE_MEMORY_KIB, "{before:?} {now:?}");
        self.during(|| {}).without_errors();
    }
}
