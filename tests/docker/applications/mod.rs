//! Whole applications: the services of a Compose file, with the customer that it brings along.
//!
//! The engine is given to tests in the order of their names, and these two take longest: they come among the first.

mod microservices;
mod shop;

use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::Value;

use super::*;
use crate::engine::{Engine, image};
use crate::support::{Limited, TOOL, output_of, within};

/// Of the applications, one runs at a time.
static APPLICATION: Mutex<()> = Mutex::new(());

/// The engine for an application, if its images are there.
pub(crate) fn engine_with(images: &[&str]) -> Option<(MutexGuard<'static, ()>, Engine)> {
    let one = APPLICATION.lock().unwrap_or_else(PoisonError::into_inner);
    let engine = engine()?;
    images.iter().all(|name| image(name)).then_some((one, engine))
}

/// An application that runs: its project, and Pointsman's admin server.
pub(crate) struct Application {
    pub(crate) project: Project,
    admin: SocketAddr,
}

impl Application {
    pub(crate) fn start(project: Project, services: &[&str]) -> Self {
        project.compose(&[&["up", "-d"], services].concat());
        let admin = project.published("pointsman", "9900");
        Self { project, admin }
    }

    /// Waits until this many backends of each pool are up.
    pub(crate) fn when_up(&self, pools: &[(&str, u64)]) {
        // Databases and brokers start slowly.
        within(3 * TIME_LIMIT, &format!("these are up: {pools:?}"), || {
            let (_, status) = http_get(self.admin, "/api/v1/status").ok()?;
            let status: Value = serde_json::from_str(&status).ok()?;
            let up = |name: &str| {
                let pools = status["pools"].as_array().unwrap();
                pools.iter().find(|pool| pool["name"] == name).unwrap()["up"].as_u64().unwrap()
            };
            pools.iter().all(|(pool, wanted)| up(pool) == *wanted).then_some(())
        });
    }

    /// The connections that a pool has had.
    pub(crate) fn connections(&self, pool: &str) -> u64 {
        let status: Value = serde_json::from_str(&http_get(self.admin, "/api/v1/status").unwrap().1).unwrap();
        let pools = status["pools"].as_array().unwrap();
        pools.iter().find(|one| one["name"] == pool).unwrap()["connections"].as_u64().unwrap()
    }

    /// Starts the customer.
    pub(crate) fn customer(&self, url: &str, pause: &str, pool: &'static str) -> Customer<'_> {
        let name = unique("customer");
        let script = ["python", "customer.py", url, "--pause", pause, "--orders", "100000"];
        let run = ["run", "--rm", "-T", "--name", &name, "customer"];
        let mut command = self.project.command(&[&run[..], &script].concat());
        let child =
            command.current_dir(engine::ROOT).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let customer = Customer { application: self, child: Some(child), name, pool };
        customer.goes_on();
        customer
    }

    /// Kills a container of the service.
    pub(crate) fn kill(&self, service: &str) -> String {
        let container = self.project.container(service);
        docker(&["kill", &container]);
        container
    }
}

/// A container of the customer, which places orders.
pub(crate) struct Customer<'a> {
    application: &'a Application,
    /// What runs its container, until the account is read.
    child: Option<Child>,
    /// The name of its container.
    name: String,
    /// A pool that each order uses.
    pool: &'static str,
}

impl Customer<'_> {
    /// Waits until it has placed some more orders.
    pub(crate) fn goes_on(&self) {
        let before = self.application.connections(self.pool);
        within(3 * TIME_LIMIT, "the customer places orders", || {
            (self.application.connections(self.pool) >= before + 8).then_some(())
        });
    }

    /// Ends it; its account.
    pub(crate) fn account(mut self) -> Value {
        docker(&["kill", "--signal", "TERM", &self.name]);
        let output = output_of(self.child.take().unwrap(), 5 * TIME_LIMIT, "the customer");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        let account = stdout.lines().last().and_then(|line| serde_json::from_str(line).ok());
        let mut account: Value = account.unwrap_or_else(|| panic!("{stdout}{stderr}"));
        account["problems"] = stderr.into();
        account
    }
}

impl Drop for Customer<'_> {
    fn drop(&mut self) {
        // In a test that failed.
        if let Some(mut child) = self.child.take() {
            let _ = Command::new("docker").args(["rm", "-f", &self.name]).output_within(TOOL);
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Kills a container of each service in turn while orders are placed, and starts it again. Without an error for the
/// customer, and all orders are confirmed. `repeated`: how many orders may have been repeated.
pub(crate) fn survives(application: &Application, lost: &[&str], customer: Customer<'_>, repeated: u64) {
    for service in lost {
        let container = application.kill(service);
        customer.goes_on();
        docker(&["start", &container]);
        customer.goes_on();
    }
    let places_orders = customer.pool;
    let account = customer.account();
    let as_promised = account["unconfirmed"] == 0
        && account["failed"] == 0
        && account["repeated"].as_u64().unwrap() <= repeated;
    if !as_promised {
        let log = |service: &str, lines: &str| {
            application.project.compose(&["logs", "--no-color", "--tail", lines, service])
        };
        let services = [places_orders, "worker", "rabbitmq"].map(|service| log(service, "40"));
        // Of each order there are some lines.
        panic!(
            "after the loss of {lost:?}: {account:#}\n{}\n{}",
            services.join("\n"),
            log("pointsman", "2000")
        );
    }
}
