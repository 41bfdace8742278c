//! The online shop, `compose/ecommerce.yaml`.

use super::*;
use crate::platforms::{Platform, engine_with, survives};
use crate::subnet::free_subnet;

#[test]
fn the_shop_survives_the_loss_of_any_container() {
    let Some(_engine) = engine_with(&["nginx:1", "postgres:15", "redis:7", "rabbitmq:3-management"]) else {
        return;
    };
    let project = Project::new("compose/ecommerce.yaml", 3).with("SUBNET", &free_subnet());
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

    // The primary: until the standby is promoted, orders fail, or wait until the backend's connects succeed again.
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
    // More than the pause after each order.
    assert!(account["longest_gap_seconds"].as_f64() > Some(0.4), "{account:#}");

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
