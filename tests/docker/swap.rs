//! Identity: containers that swap addresses, and a container with two addresses.

use super::*;

/// The polling interval in the configuration below.
const INTERVAL: Duration = Duration::from_secs(1);
/// The jitter of queries, an answer and a busy machine.
const SLACK: Duration = Duration::from_secs(3);

const TWO_SERVICES: &str = "
admin: {bind: 0.0.0.0:9900}
listeners:
  alpha: {bind: 0.0.0.0:8081, pool: alpha, no_backend: http-503}
  beta: {bind: 0.0.0.0:8082, pool: beta, no_backend: http-503}
pools:
  alpha: {discover: [{dns: alpha:5000, every: 1s}], health: {http: /health, every: 500ms, timeout: 400ms}}
  beta: {discover: [{dns: beta:5000, every: 1s}], health: {http: /health, every: 500ms, timeout: 400ms}}
";

#[test]
fn services_that_swap_addresses_keep_their_own_clients() {
    let Some(_engine) = engine() else { return };
    let network = Network::create("swap", &[]);
    let folder = configuration(TWO_SERVICES);
    let service = |name: &str| {
        let network = ["--network", &network.0, "--network-alias", name];
        Container::run(name, &[&network[..], &["-e", &format!("NAME={name}"), "backend-flask"]].concat())
    };
    let (alpha, beta) = (service("alpha"), service("beta"));
    let lb = pointsman(&network, &folder);
    let address = ip(&lb.0);
    let listeners = [("alpha", 8081), ("beta", 8082)];
    for (name, port) in listeners {
        eventually("the service responds", || {
            (Request::make((address, port).into(), "/").result == Ok((200, format!("Response from {name}"))))
                .then_some(())
        });
    }
    // A reverse lookup that fails leaves a backend without a name for ten seconds.
    eventually("both are known by name", || {
        let (_, status) = http_get((address, ADMIN).into(), "/api/v1/status").ok()?;
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        // The pools are sorted.
        let known = |(pool, container): (usize, &Container)| {
            let name = status["pools"][pool]["backends"][0]["name"].as_str();
            name.is_some_and(|name| name.starts_with(&container.0))
        };
        [(0, &alpha), (1, &beta)].into_iter().all(known).then_some(())
    });
    let clients =
        listeners.map(|(_, port)| Clients::start(4, Duration::from_millis(5), (address, port).into()));
    let before = (ip(&alpha.0), ip(&beta.0));
    docker(&["kill", &alpha.0, &beta.0]);
    // Docker assigns addresses in the order of starts.
    docker(&["start", &beta.0]);
    docker(&["start", &alpha.0]);
    let swapped = Instant::now();
    assert_eq!((ip(&beta.0), ip(&alpha.0)), before, "they have swapped addresses");
    for (_, port) in listeners {
        eventually("the service responds again", || {
            let request = Request::make((address, port).into(), "/");
            (request.served() && request.at > swapped + INTERVAL + SLACK).then_some(())
        });
    }
    for ((name, _), clients) in listeners.into_iter().zip(clients) {
        let requests = clients.stop();
        let right = format!("Response from {name}");
        let wrong: Vec<_> = requests
            .iter()
            .filter(|request| request.served() && request.result != Ok((200, right.clone())))
            .filter(|request| request.at > swapped + INTERVAL + SLACK)
            .collect();
        assert!(wrong.is_empty(), "{name} was taken for another service: {wrong:?}\n{}", logs(&lb.0));
        assert!(requests.iter().any(|request| request.served() && request.at > swapped), "{name}");
    }
    // Each address belonged to the other one: the log has the backend that left and the one that joined.
    for (pool, container, old, new) in
        [("alpha", &alpha, before.0, before.1), ("beta", &beta, before.1, before.0)]
    {
        let assert_logged = |what: &str, address: IpAddr| {
            let words = [
                what.to_owned(),
                format!("pool={pool} "),
                format!("backend={}.", container.0),
                format!("address={address}:"),
            ];
            eventually(&format!("{words:?} is logged"), || {
                logs(&lb.0).lines().any(|line| words.iter().all(|word| line.contains(word))).then_some(())
            });
        };
        assert_logged("backend gone", old);
        assert_logged("backend joining", new);
    }
}

#[test]
fn a_container_with_two_addresses_is_one_backend() {
    let Some(_engine) = engine() else { return };
    // A unique local address (RFC 4193).
    let subnet = format!("fd00:9057:{:x}::/64", std::process::id() & 0xffff);
    let network = Network::create("both", &["--ipv6", "--subnet", &subnet]);
    let folder = configuration(
        "admin: {bind: 0.0.0.0:9900}
listeners: {web: {bind: 0.0.0.0:8080, pool: web}}
pools: {web: {discover: [{dns: backend:5000}], health: {http: /health}}}",
    );
    let arguments = ["--network", &network.0, "--network-alias", "backend", "backend-flask"];
    let backend = Container::run("both", &arguments);
    let sixth = inspect(&backend.0, "{{range .NetworkSettings.Networks}}{{.GlobalIPv6Address}}{{end}}");
    assert!(!sixth.is_empty(), "the container has an IPv6 address");
    let lb = pointsman(&network, &folder);
    let address = ip(&lb.0);
    let backends = eventually("it is one backend with two addresses", || {
        let (_, status) = http_get((address, ADMIN).into(), "/api/v1/status").ok()?;
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        let backends = status["pools"][0]["backends"].as_array()?.clone();
        (backends.len() == 1 && backends[0]["also"][0].is_string()).then_some(backends)
    });
    let addresses = format!("{} {}", backends[0]["address"], backends[0]["also"]);
    for one in [sixth, ip(&backend.0).to_string()] {
        assert!(addresses.contains(&one), "{one} in {addresses}");
    }
}
