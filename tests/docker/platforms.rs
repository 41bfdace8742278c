//! The two platforms of services, `compose/ecommerce.yaml` and `compose/microservices.yaml`, with the customer that they
//! bring along.

use std::process::{Child, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::Value;

use super::*;
use crate::engine::{Engine, image};
use crate::support::{output_of, within};

/// Of the platforms, one runs at a time.
static PLATFORM: Mutex<()> = Mutex::new(());

/// The engine for a platform, if its images are there.
fn engine_with(images: &[&str]) -> Option<(MutexGuard<'static, ()>, Engine)> {
    let one = PLATFORM.lock().unwrap_or_else(PoisonError::into_inner);
    let engine = engine()?;
    images.iter().all(|name| image(name)).then_some((one, engine))
}

/// A platform that runs: its project, and Pointsman's admin server.
struct Platform {
    project: Project,
    admin: SocketAddr,
}

impl Platform {
    fn start(project: Project, services: &[&str]) -> Self {
        project.compose(&[&["up", "-d"], services].concat());
        let admin = project.published("pointsman", "9900");
        Self { project, admin }
    }

    /// Waits until this many backends of each pool are up.
    fn when_up(&self, pools: &[(&str, u64)]) {
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
    fn connections(&self, pool: &str) -> u64 {
        let status: Value = serde_json::from_str(&http_get(self.admin, "/api/v1/status").unwrap().1).unwrap();
        let pools = status["pools"].as_array().unwrap();
        pools.iter().find(|one| one["name"] == pool).unwrap()["connections"].as_u64().unwrap()
    }

    /// Starts the customer.
    fn customer(&self, url: &str, pause: &str, pool: &'static str) -> Customer<'_> {
        let name = unique("customer");
        let script = ["python", "customer.py", url, "--pause", pause, "--orders", "100000"];
        let mut command = self
            .project
            .command(&[&["run", "--rm", "-T", "--name", &name, "customer"], &script[..]].concat());
        let child =
            command.current_dir(engine::ROOT).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let customer = Customer { platform: self, child, name, pool };
        customer.goes_on();
        customer
    }

    /// Kills a container of the service.
    fn kill(&self, service: &str) -> String {
        let container = self.project.containers(service).remove(0);
        docker(&["kill", &container]);
        container
    }
}

/// A container of the customer, which places orders.
struct Customer<'a> {
    platform: &'a Platform,
    child: Child,
    /// The name of its container.
    name: String,
    /// A pool that each order uses.
    pool: &'static str,
}

impl Customer<'_> {
    /// Waits until it has placed some more orders.
    fn goes_on(&self) {
        let before = self.platform.connections(self.pool);
        within(3 * TIME_LIMIT, "the customer places orders", || {
            (self.platform.connections(self.pool) >= before + 8).then_some(())
        });
    }

    /// Ends it; its account.
    fn account(self) -> Value {
        docker(&["kill", "--signal", "TERM", &self.name]);
        let output = output_of(self.child, 5 * TIME_LIMIT, "the customer");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        let account = stdout.lines().last().and_then(|line| serde_json::from_str(line).ok());
        let mut account: Value = account.unwrap_or_else(|| panic!("{stdout}{stderr}"));
        account["problems"] = stderr.into();
        account
    }
}

/// Kills a container of each service in turn while orders are placed, and starts it again. Without an error for the
/// customer, and all orders are confirmed. `repeated`: how many orders may have been repeated.
fn survives(platform: &Platform, services: &[&str], customer: Customer<'_>, repeated: u64) {
    for service in services {
        let container = platform.kill(service);
        customer.goes_on();
        docker(&["start", &container]);
        customer.goes_on();
    }
    let account = customer.account();
    assert_eq!([&account["failed"], &account["unconfirmed"]], [0, 0], "{account:#}");
    assert!(account["repeated"].as_u64().unwrap() <= repeated, "{account:#}");
}

#[test]
fn the_shop_survives_the_loss_of_any_container() {
    let Some(_engine) = engine_with(&["nginx:1", "postgres:15", "redis:7", "rabbitmq:3-management"]) else {
        return;
    };
    let project = Project::new("compose/ecommerce.yaml", 3).with("SUBNET", "10.79");
    // All but Grafana.
    let services =
        ["pointsman", "frontend", "worker", "admin-panel", "postgres-2", "redis", "rabbitmq", "prometheus"];
    project.compose(&["build"]);
    let platform = Platform::start(project, &[&["--scale", "backend=3", "backend"][..], &services].concat());
    let pools = [
        ("frontend", 2),
        ("frontend-tls", 2),
        ("backend", 3),
        ("admin-panel", 2),
        ("postgres", 1),
        ("postgres-standby", 1),
        ("redis", 1),
        ("amqp", 1),
        ("rabbitmq-management", 1),
        ("prometheus", 1),
    ];
    platform.when_up(&pools);

    let shop = platform.project.published("pointsman", "8080");
    let (status, page) = http_get(shop, "/").unwrap();
    assert!(status == 200 && page.contains("<h1>Shop</h1>"), "{page}");
    let products = http_get(shop, "/api/products").unwrap().1;
    assert!(products.contains("Signal lamp"), "{products}");
    let panel = http_get(shop, "/admin").unwrap().1;
    assert!(panel.contains("<td>postgres-standby</td><td>1</td>"), "{panel}");

    let orders = |pause| platform.customer("http://pointsman:8080/api", pause, "backend");
    // The connections of a front end that is killed break, which only its client can repeat.
    survives(&platform, &["frontend"], orders("0.05"), 1);
    let others = ["backend", "worker", "admin-panel", "postgres-2", "redis", "rabbitmq", "prometheus"];
    survives(&platform, &others, orders("0.05"), 0);
    platform.when_up(&pools);

    // The primary: until the standby is promoted, orders fail.
    let customer = orders("0.2");
    platform.kill("postgres-1");
    platform.project.compose(&[
        "exec",
        "-T",
        "postgres-2",
        "psql",
        "-qU",
        "postgres",
        "-c",
        "SELECT pg_promote()",
    ]);
    platform.when_up(&[("postgres", 1), ("postgres-standby", 0)]);
    customer.goes_on();
    let account = customer.account();
    // The standby copies without the primary's waiting for it: the last order and the last confirmations may be lost.
    assert!(account["unconfirmed"].as_u64() <= Some(3), "{account:#}");
    // Before and after a failed order there is a pause.
    assert!(
        account["failed"].as_u64() > Some(0) && account["longest_gap_seconds"].as_f64() > Some(0.4),
        "{account:#}"
    );

    // By name over TLS, and for the network of operators only.
    let sh = |script: &str| platform.project.compose(&["exec", "-T", "frontend", "sh", "-c", script]);
    let by_name = "curl -skv --connect-to ::pointsman:8443";
    let subject = "2>&1 | grep -aE 'subject:|alert'";
    for name in ["shop.localhost", "admin.localhost"] {
        let answer = sh(&format!("{by_name} https://{name}/ {subject}"));
        assert!(answer.contains(&format!("CN={name}")), "{answer}");
    }
    let answer = sh(&format!("{by_name} https://example.net/ {subject}"));
    assert!(answer.contains("unrecognized name"), "{answer}");
    let inside = "import socket
for port in (5432, 6379, 5672, 15672, 9090):
    try:
        print(socket.create_connection(('pointsman', port), 10).recv(1))
    except ConnectionResetError:
        print('reset')";
    let refused = platform.project.compose(&["run", "--rm", "-T", "customer", "python", "-c", inside]);
    assert_eq!(refused.lines().filter(|line| line.trim() == "reset").count(), 5, "{refused}");
    let operators = format!("{}_admin", platform.project.name());
    let page = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "http://pointsman:15672/"];
    let status = docker(&[&["run", "--rm", "--network", &operators, "nginx:1"], &page[..]].concat());
    assert_eq!(status, "200");
}

#[test]
fn the_services_survive_the_loss_of_any_container() {
    let Some(_engine) = engine_with(&["postgres:15", "redis:7", "rabbitmq:3-management"]) else { return };
    let project = Project::new("compose/microservices.yaml", 0);
    project.compose(&["build"]);
    let platform = Platform::start(project, &[]);
    let pools = [("users", 2), ("products", 2), ("orders", 2), ("redis", 1)];
    platform.when_up(&pools);
    let orders = || platform.customer("http://pointsman:8003", "0.15", "orders");
    // The customer is directly at the order service: its connections break with it.
    survives(&platform, &["orders"], orders(), 1);
    survives(&platform, &["users", "products", "worker", "redis", "rabbitmq"], orders(), 0);
    platform.when_up(&pools);

    // A database of its own: the other services go on.
    let products = platform.project.published("pointsman", "8002");
    let users = platform.project.published("pointsman", "8001");
    let database = platform.kill("users-db");
    eventually("users cannot be read", || (http_get(users, "/users/1").ok()?.0 == 503).then_some(()));
    assert_eq!(http_get(products, "/products").unwrap().0, 200);
    docker(&["start", &database]);
    eventually("users can be read", || (http_get(users, "/users/1").ok()?.0 == 200).then_some(()));

    // Layer 4 limits connections, not requests.
    let limits = platform.project.compose(&["run", "--rm", "-T", "limits"]);
    let limits: Value = serde_json::from_str(limits.lines().last().unwrap()).unwrap();
    let (each, one) = (&limits["a connection each"], &limits["one connection"]);
    assert!(each["200"].as_u64() >= Some(20) && each["reset"].as_u64() > Some(0), "{limits}");
    assert_eq!(one["200"], 40, "{limits}");
}
