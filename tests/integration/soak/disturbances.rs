//! What happens to the balancer and its backends meanwhile.

use std::time::{Duration, Instant};

use rand::RngExt;
use rand::rngs::SmallRng;

use super::account::Account;
use super::{Reports, Servers, are_up, seeded};
use crate::support::backend::Backend;
use crate::support::{Lb, within};

/// The time limit of a reload and a hand-over.
const LIMIT: Duration = Duration::from_secs(60);

pub(super) struct Disturbances<'a> {
    lb: &'a Lb,
    servers: &'a mut Servers,
    reports: &'a Reports,
    account: &'a Account,
    random: SmallRng,
    /// The backend of `web` and of `echo` that does not run.
    dead: [Option<usize>; 2],
    /// The backend of `bulk` that an operator drains.
    drained: Option<usize>,
    is_added: bool,
    configuration: usize,
}

impl<'a> Disturbances<'a> {
    pub(super) fn new(
        lb: &'a Lb,
        servers: &'a mut Servers,
        reports: &'a Reports,
        account: &'a Account,
    ) -> Self {
        let (random, drained) = (seeded(1000), None);
        Self {
            lb,
            servers,
            reports,
            account,
            random,
            dead: [None; 2],
            drained,
            is_added: false,
            configuration: 0,
        }
    }

    /// Waits a little, and disturbs.
    pub(super) fn next(&mut self, may_hand_over: bool) {
        std::thread::sleep(Duration::from_millis(self.random.random_range(50..300)));
        match self.random.random_range(0..10) {
            0 | 1 => self.kill_or_start("web"),
            2 | 3 => self.kill_or_start("echo"),
            4 => self.drain_or_not(),
            5 => self.weigh(),
            6 => self.add_or_remove(),
            7 => self.scale(),
            8 => self.reload(),
            _ if may_hand_over => self.hand_over(),
            _ => {}
        }
    }

    /// Starts the backends that do not run.
    pub(super) fn end(&mut self) {
        for pool in ["web", "echo"] {
            let (dead, backends) = self.backends(pool);
            if let Some(number) = dead.take() {
                backends[number].revive();
            }
        }
    }

    fn backends(&mut self, pool: &str) -> (&mut Option<usize>, &mut Vec<Backend>) {
        let [web, echo] = &mut self.dead;
        if pool == "web" { (web, &mut self.servers.web) } else { (echo, &mut self.servers.echo) }
    }

    /// At most one at a time does not run, and the next one is killed only when the pool knows that the others do.
    fn kill_or_start(&mut self, pool: &'static str) {
        let number = self.random.random_range(0..3);
        let all_up = are_up(&self.lb.status(), pool);
        let (dead, backends) = self.backends(pool);
        match dead.take() {
            Some(number) => backends[number].revive(),
            None if !all_up => {}
            None => {
                let before = Instant::now();
                backends[number].kill();
                *dead = Some(number);
                self.reports.kill(pool, before);
            }
        }
    }

    fn drain_or_not(&mut self) {
        let (number, state) = match self.drained.take() {
            Some(number) => (number, "up"),
            None => {
                let number = self.random.random_range(0..3);
                self.drained = Some(number);
                (number, "draining")
            }
        };
        self.change(number, &format!(r#"{{"state": "{state}"}}"#));
    }

    fn weigh(&mut self) {
        let (number, weight) = (self.random.random_range(0..3), self.random.random_range(1..9));
        self.change(number, &format!(r#"{{"weight": {weight}}}"#));
    }

    fn change(&self, number: usize, change: &str) {
        self.request("PATCH", &format!("/api/v1/pools/bulk/backends/b{number}"), change, &[200]);
    }

    fn add_or_remove(&mut self) {
        let address = self.servers.added.address;
        if self.is_added {
            self.request("DELETE", &format!("/api/v1/pools/web/backends/{address}"), "", &[200]);
            self.is_added = false;
        } else {
            let body = format!(r#"{{"address": "{address}"}}"#);
            // While the connections of the one that was removed finish, it may be refused.
            self.is_added = self.request("POST", "/api/v1/pools/web/backends", &body, &[201, 409]) == 201;
        }
    }

    fn scale(&mut self) {
        let (method, path) = if self.random.random_bool(0.5) { ("POST", "/add") } else { ("DELETE", "/rm") };
        // There are as many as there may be, or as few; or a process that has just taken over does not know them yet.
        self.request(method, path, r#"{"n": 1}"#, &[200, 409, 503]);
    }

    fn reload(&mut self) {
        self.configuration += 1;
        self.lb.rewrite(&self.servers.configuration(self.configuration));
        let (before, _) = self.account.changes();
        Lb::signal_to(self.account.in_charge(), "HUP");
        within(LIMIT, "the reload is applied", || (self.account.changes().0 > before).then_some(()));
    }

    fn hand_over(&mut self) {
        let (_, before) = self.account.changes();
        Lb::signal_to(self.account.in_charge(), "USR2");
        within(LIMIT, "another process takes over", || (self.account.changes().1 > before).then_some(()));
    }

    fn request(&self, method: &str, path: &str, body: &str, allowed: &[u16]) -> u16 {
        let (status, answer) = self.lb.request(method, path, body);
        assert!(allowed.contains(&status), "{method} {path}: {status} {answer}");
        status
    }
}
