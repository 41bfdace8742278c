//! The image itself.

use super::*;

/// A time limit that a backend keeps under the load of the clients, on a busy machine.
const ALONE: &str = "
admin: {bind: 0.0.0.0:9900}
listeners: {web: {bind: 0.0.0.0:8080, pool: web, no_backend: http-503}}
pools: {web: {discover: [{dns: backend:5000}], health: {http: /health, every: 5s, timeout: 5s, fast_every: 500ms}}}
";

#[test]
fn the_image_is_small_unprivileged_labelled_and_healthy() {
    let Some(_engine) = engine() else { return };
    assert_eq!(inspect("pointsman", "{{.Config.User}}"), "65532:65532");
    assert_eq!(inspect("pointsman", "{{.Config.StopSignal}}"), "SIGTERM");
    let size: u64 = inspect("pointsman", "{{.Size}}").parse().unwrap();
    assert!(size < 25_000_000, "{size} bytes");
    for label in ["title", "description", "licenses", "version", "revision", "created"] {
        let format = format!("{{{{index .Config.Labels \"org.opencontainers.image.{label}\"}}}}");
        assert_ne!(inspect("pointsman", &format), "", "{label}");
    }
    let network = Network::create("image", &[]);
    let folder = configuration(ALONE);
    let lb = pointsman(&network, &folder);
    eventually("healthy", || (inspect(&lb.0, "{{.State.Health.Status}}") == "healthy").then_some(()));
    // Process 1 has no default signal handlers: an unhandled signal is ignored.
    docker(&["stop", "-t", "30", &lb.0]);
    assert_eq!(inspect(&lb.0, "{{.State.ExitCode}}"), "0");
}

/// Connections that are not accepted by then are not the test's concern.
const CONNECT: Duration = Duration::from_secs(5);

#[test]
fn without_privileges_no_accepted_connection_is_lost_at_shutdown() {
    let Some(_engine) = engine() else { return };
    let network = Network::create("doors", &[]);
    let folder = configuration(ALONE);
    let _backend =
        Container::run("backend", &["--network", &network.0, "--network-alias", "backend", "backend-flask"]);
    let lb = pointsman(&network, &folder);
    let address = ip(&lb.0);
    when_up(address, 1);
    let clients = Clients::connecting_within(CONNECT, 20, Duration::ZERO, (address, WEB).into());
    let mut requests = clients.wait_for(300);
    docker(&["stop", "-t", "30", &lb.0]);
    requests.extend(clients.stop());
    let cut: Vec<_> = failures(&requests)
        .into_iter()
        // Late connections are refused, or time out when the container and its address are gone.
        .filter(|request| !matches!(&request.result, Err(error) if error.starts_with("connect: ")))
        .collect();
    assert!(cut.is_empty(), "{cut:?}\n{}", logs(&lb.0));
    let log = logs(&lb.0);
    let (_, draining) = log.split_once("drain started").unwrap();
    assert!(draining.contains("drain done") && !draining.contains("drain timed out"), "{draining}");
}

#[test]
fn a_hand_over_in_a_container_costs_no_connection_and_the_container_stays() {
    let Some(_engine) = engine() else { return };
    let network = Network::create("successors", &[]);
    let folder = configuration(ALONE);
    let _backend =
        Container::run("backend", &["--network", &network.0, "--network-alias", "backend", "backend-flask"]);
    let lb = pointsman(&network, &folder);
    let web = (ip(&lb.0), WEB).into();
    when_up(ip(&lb.0), 1);
    let started = inspect(&lb.0, "{{.State.StartedAt}}");
    let clients = Clients::start(10, Duration::from_millis(20), web);
    let mut requests = clients.wait_for(50);
    let mut readers = Vec::new();
    for n in 1..=3 {
        readers.push(StreamReader::start(web));
        if n > 1 {
            // Another process of the program, later than the one in charge: signals are not for it.
            docker(&["exec", "--detach", &lb.0, "/pointsman", "logs", "--follow"]);
            eventually("the log is followed", || docker(&["top", &lb.0]).contains("logs").then_some(()));
        }
        docker(&["kill", "--signal", "USR2", &lb.0]);
        eventually(&format!("hand-over {n}"), || {
            let log = logs(&lb.0);
            let times = |words: &str| log.matches(words).count();
            ([times("hand-over done"), times("took over")] == [n, n]).then_some(())
        });
        requests.extend(clients.wait_for(50));
    }
    readers.into_iter().for_each(StreamReader::when_whole);
    requests.extend(clients.stop());
    assert!(failures(&requests).is_empty(), "{:?}\n{}", failures(&requests), logs(&lb.0));
    assert_eq!(inspect(&lb.0, "{{.State.StartedAt}}"), started);
    docker(&["stop", "-t", "40", &lb.0]);
    assert_eq!(inspect(&lb.0, "{{.State.ExitCode}}"), "0");
}
