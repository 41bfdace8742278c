//! The online shop, `compose/ecommerce.yaml`.

use serde_json::Value;

use super::*;
use crate::engine::try_docker;
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
    // The other services use the same image; Pointsman's exists already.
    project.compose(&["build", "backend"]);
    let application =
        Application::start(project, &[&["--scale", "backend=3", "backend"][..], &services].concat());
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
    application.when_up(&pools);

    let shop = application.project.published("pointsman", "8080");
    let (status, page) = http_get(shop, "/").unwrap();
    assert!(status == 200 && page.contains("<h1>Shop</h1>"), "{page}");
    // Redis keeps the products for five seconds.
    let products = eventually("the products come from the cache", || {
        let products: Value = serde_json::from_str(&http_get(shop, "/api/products").ok()?.1).ok()?;
        (products["cached"] == true).then_some(products)
    });
    assert_eq!(products["products"][0]["name"], "Signal lamp", "{products}");
    // Before, they came from the standby.
    assert!(application.connections("postgres-standby") > 0);
    let panel = http_get(shop, "/admin").unwrap().1;
    assert!(panel.contains("<td>postgres-standby</td><td>1</td>"), "{panel}");

    // The health of the API, through the listener for the network `front`.
    let sh = |script: &str| application.project.exec("frontend", &["sh", "-c", script]);
    let health: Value = serde_json::from_str(&sh("curl -fsS http://pointsman:5000/health")).unwrap();
    assert_eq!(health["status"], "healthy", "{health}");
    assert_eq!(health["service"], "ecommerce-backend", "{health}");
    let timestamp = health["timestamp"].as_str().unwrap().replace("+00:00", "Z");
    assert!(humantime::parse_rfc3339(&timestamp).is_ok(), "{health}");
    assert_eq!(health.as_object().unwrap().len(), 3, "{health}");

    // The checks of the containers. Pointsman's is not among them: it may wait for the address of Grafana, which does not
    // run here.
    for service in ["frontend", "backend", "admin-panel", "postgres-2", "redis", "rabbitmq", "prometheus"] {
        let containers = application.project.containers(service);
        let healthy = |container: &String| inspect(container, "{{.State.Health.Status}}") == "healthy";
        eventually(&format!("{service} is healthy"), || containers.iter().all(healthy).then_some(()));
    }

    let prometheus = application.project.container("prometheus");
    let query = ["promtool", "query", "instant", "http://127.0.0.1:9090", "up{job=\"pointsman\"}"];
    eventually("Prometheus has scraped Pointsman", || {
        let answer = try_docker(&[&["exec", &prometheus], &query[..]].concat()).ok()?;
        answer.contains("=> 1 @").then_some(())
    });

    let orders = |pause| application.customer("http://pointsman:8080/api", pause, "backend");
    // The connections of a front end that is killed break, which only its client can repeat.
    survives(&application, &["frontend"], orders("0.1"), 1);
    let order = eventually("an order of the customer is listed", || {
        let listed: Value = serde_json::from_str(&http_get(shop, "/api/orders").ok()?.1).ok()?;
        listed["orders"].as_array()?.iter().find(|order| order["customer"] == "1").cloned()
    });
    assert!(order["id"].is_u64() && order["placed"].is_string(), "{order}");
    let others = ["backend", "worker", "admin-panel", "postgres-2", "redis", "rabbitmq", "prometheus"];
    survives(&application, &others, orders("0.1"), 0);
    application.when_up(&pools);

    // The primary: until the standby is promoted, orders fail, or wait until the backend's connects succeed again.
    let customer = orders("0.2");
    application.kill("postgres-1");
    application.project.exec("postgres-2", &["psql", "-qU", "postgres", "-c", "SELECT pg_promote()"]);
    application.when_up(&[("postgres", 1), ("postgres-standby", 0)]);
    customer.goes_on();
    let account = customer.account();
    // The standby copies without the primary's waiting for it: the last order and the last confirmations may be lost.
    assert!(account["unconfirmed"].as_u64() <= Some(3), "{account:#}");
    let gap = account["longest_gap_seconds"].as_f64().unwrap();
    println!("the shop without its primary: {gap} s without an order");
    // More than the pause after each order.
    assert!(gap > 0.4 && gap < 60.0, "{account:#}");

    // By name over TLS, and for the network of operators only.
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
    let refused = application.project.compose(&["run", "--rm", "-T", "customer", "python", "-c", inside]);
    assert_eq!(refused.lines().filter(|line| line.trim() == "reset").count(), 5, "{refused}");
    let operators = format!("{}_admin", application.project.name());
    let page = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "http://pointsman:15672/"];
    let status = docker(&[&["run", "--rm", "--network", &operators, "nginx:1"], &page[..]].concat());
    assert_eq!(status, "200");
}
