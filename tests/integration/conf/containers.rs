//! Containers of a Docker engine, found and started.

use super::*;

#[test]
fn containers_follows_the_containers_with_the_label() {
    let (engine, server) = (FakeEngine::start(), http_everywhere());
    let labelled = || json!({"pointsman.pool": "web"});
    engine.run("one", labelled());
    engine.run("other", json!({}));
    engine.run("two", labelled());
    let lb = Example::new("containers")
        .with(r"(label: pointsman.pool=web), port: 5000", &format!("$1, {}", at(&engine, &server)))
        .start();
    assert_eq!(when_up(&lb, "web", 2, &["http"])["algorithm"], "least-connections");
    let [one, two] = ["one", "two"].map(|name| engine.address_of(name));
    assert_eq!(answers(&lb, "web", 10).into_keys().collect::<Vec<_>>(), [one, two.clone()]);
    engine.kill("one");
    when_up(&lb, "web", 1, &["http"]);
    assert_eq!(answers(&lb, "web", 4), counts([(two, 4)]));
    end(lb);
}

/// The keys with the address of the fake engine and the port of its containers.
fn at(engine: &FakeEngine, server: &Backend) -> String {
    format!("engine: \"{}\", port: {}", engine.address(), server.address.port())
}

#[test]
fn labels_finds_containers_and_the_backends_of_a_file() {
    let (engine, server) = (FakeEngine::start(), http_everywhere());
    engine.run("one", json!({"pointsman.pool": "web", "pointsman.weight": "3"}));
    let port = server.address.port();
    let listed = |n: u8| format!("- {{address: \"{}:{port}\", name: listed-{n}}}\n", ip(n));
    let lb = Example::new("labels")
        .with(r"(label: pointsman.pool=web), port: 5000", &format!("$1, {}", at(&engine, &server)))
        .with_file("backends.yaml", &listed(1))
        .start();
    assert_eq!(when_up(&lb, "web", 2, &["http"])["algorithm"], "weighted");
    let one = engine.address_of("one");
    assert_eq!(answers(&lb, "web", 8), counts([(one.clone(), 6), (ip(1).to_string(), 2)]));
    let new = lb.folder().join("new.yaml");
    std::fs::write(&new, listed(1) + &listed(2)).unwrap();
    std::fs::rename(new, lb.folder().join("backends.yaml")).unwrap();
    when_up(&lb, "web", 3, &["http"]);
    let expected = [(one, 6), (ip(1).to_string(), 2), (ip(2).to_string(), 2)];
    assert_eq!(answers(&lb, "web", 10), counts(expected));
    end(lb);
}

#[test]
fn replicas_starts_two_and_more_by_hand() {
    let (engine, server) = (FakeEngine::start(), http_everywhere());
    let lb = Example::new("replicas")
        .with("engine: unix:///var/run/docker.sock", &format!("engine: \"{}\"", engine.address()))
        .with("port: 5000", &format!("port: {}", server.address.port()))
        .start();
    assert_eq!(when_up(&lb, "web", 2, &["http"])["algorithm"], "least-connections");
    assert_eq!(engine.state().created[0]["Image"], "backend-flask");
    let replicas = pool(&lb, "web")["replicas"].take();
    assert_eq!(
        (&replicas["min"], &replicas["max"], &replicas["autoscale"]),
        (&json!(2), &json!(10), &json!(true))
    );
    // As in the comment at the top of the file.
    let names = |(status, body): (u16, String)| {
        assert_eq!(status, 200, "{body}");
        serde_json::from_str::<Value>(&body).unwrap()["message"]["replicas"].take()
    };
    let two = json!(["Server 1", "Server 2"]);
    assert_eq!(names(lb.get("/rep")), two);
    let added = names(lb.request("POST", "/add", r#"{"n": 2, "hostnames": ["Server 9"]}"#));
    assert_eq!(added, json!(["Server 1", "Server 2", "Server 9", "Server 3"]));
    when_up(&lb, "web", 4, &["http"]);
    assert_eq!(answers(&lb, "web", 12).len(), 4);
    let left = names(lb.request("DELETE", "/rm", r#"{"n": 1, "hostnames": ["Server 9"]}"#));
    assert_eq!(left, json!(["Server 1", "Server 2", "Server 3"]));
    end(lb);
}
