//! The services behind a gateway, `compose/microservices.yaml`.

use serde_json::Value;

use super::*;

#[test]
fn the_services_survive_the_loss_of_any_container() {
    let Some(_engine) = engine_with(&["postgres:15", "redis:7", "rabbitmq:3-management"]) else { return };
    let project = Project::new("compose/microservices.yaml", 0);
    // The other services use the same image; Pointsman's exists already.
    project.compose(&["build", "users"]);
    let application = Application::start(project, &[]);
    let pools = [("users", 2), ("products", 2), ("orders", 2), ("redis", 1)];
    application.when_up(&pools);
    let orders = || application.customer("http://pointsman:8003", "0.15", "orders");
    // The customer is directly at the order service: its connections break with it.
    survives(&application, &["orders"], orders(), 1);
    survives(&application, &["users", "products", "worker", "redis", "rabbitmq"], orders(), 0);
    application.when_up(&pools);

    // The database of the users: the product service goes on. The order service asks the user service, so orders fail, and
    // succeed again afterwards.
    let products = application.project.published("pointsman", "8002");
    let users = application.project.published("pointsman", "8001");
    let customer = orders();
    let database = application.kill("users-db");
    eventually("users cannot be read", || (http_get(users, "/users/1").ok()?.0 == 503).then_some(()));
    assert_eq!(http_get(products, "/products").unwrap().0, 200);
    docker(&["start", &database]);
    eventually("users can be read", || (http_get(users, "/users/1").ok()?.0 == 200).then_some(()));
    customer.goes_on();
    let account = customer.account();
    let gap = account["longest_gap_seconds"].as_f64().unwrap();
    println!(
        "the services without the users' database: {gap} s without an order, {} failed",
        account["failed"]
    );
    // More than the pause after each order.
    assert!(gap > 0.3 && gap < 60.0, "{account:#}");
    assert_eq!(account["unconfirmed"], 0, "{account:#}");
    survives(&application, &[], orders(), 0);

    // Layer 4 limits connections, not requests.
    let limits = application.project.compose(&["run", "--rm", "-T", "limits"]);
    let limits: Value = serde_json::from_str(limits.lines().last().unwrap()).unwrap();
    let (each, one) = (&limits["a connection each"], &limits["one connection"]);
    assert!(each["200"].as_u64() >= Some(20) && each["reset"].as_u64() > Some(0), "{limits}");
    assert_eq!(one["200"], 40, "{limits}");
}
