//! Discovery by a label of containers, with a real engine. The balancer is a process on the host, which reaches the
//! addresses of bridge networks.

use super::forwarder::Forwarder;
use super::support::Lb;
use super::*;

/// The command of an idle container.
const IDLE: [&str; 3] = ["python:3.13-slim", "sleep", "1000"];
/// A HEALTHCHECK that passes while the file /well exists.
const HEALTHCHECK: [&str; 6] = [
    "--health-cmd=test -f /well || (echo the disk is full; exit 1)",
    "--health-interval=1s",
    "--health-retries=1",
    "--health-timeout=10s",
    "--label=pointsman.port=5000",
    "--stop-signal=KILL",
];

/// The unique label of a test's containers.
struct Labelled(String);

impl Labelled {
    fn new(test: &str) -> Self {
        Self(unique(test))
    }

    /// Starts a container with the label and further arguments.
    fn run(&self, what: &str, arguments: &[&str], command: &[&str]) -> Container {
        let label = format!("--label=pointsman.pool={}", self.0);
        Container::run(what, &[&[label.as_str(), "--stop-signal=KILL"], arguments, command].concat())
    }

    /// A configuration with one pool of these containers; `more` for its source, and lines for the pool.
    fn config(&self, more: &str, pool: &str) -> String {
        format!(
            "listeners: {{l: {{bind: 127.0.0.1:0, pool: p, no_backend: http-503}}}}\npools:\n  p:\n    discover:\n      \
             - docker: {{label: pointsman.pool={}{more}}}\n{pool}",
            self.0
        )
    }
}

fn names(containers: &[&Container]) -> Vec<String> {
    containers.iter().map(|container| container.0.clone()).collect()
}

/// The status of a backend of the only pool.
fn backend(lb: &Lb, name: &str) -> Option<serde_json::Value> {
    let status = lb.status();
    let mut backends = status["pools"][0]["backends"].as_array().unwrap().iter();
    backends.find(|backend| backend["name"] == name).cloned()
}

/// A timeout of one second for a busy machine, and a fast interval for a new container.
const CHECKS: &str = "    health: {http: /, every: 1s, timeout: 1s, fast_every: 250ms, rise: 1, fall: 5}\n";

#[test]
fn labelled_containers_are_backends_with_their_names_and_addresses() {
    let Some(_engine) = bare_engine() else { return };
    let labelled = Labelled::new("label");
    let server = ["python:3.13-slim", "python", "-c", SERVER];
    let (a, b) = (labelled.run("a", &[], &server), labelled.run("b", &[], &server));
    let other = Labelled::new("other").run("other", &[], &server);
    let lb = Lb::start(&labelled.config(", port: 5000", CHECKS));
    lb.when_up(names(&[&a, &b]));
    let hosts = |containers: &[&Container]| -> BTreeSet<String> {
        containers.iter().map(|container| inspect(&container.0, "{{.Config.Hostname}}")).collect()
    };
    let answers = || (0..6).map(|_| http_get(lb.address("l"), "/").unwrap().1).collect::<BTreeSet<_>>();
    assert_eq!(answers(), hosts(&[&a, &b]));
    docker(&["stop", "-t", "0", &a.0]);
    // By an event: the regular interval is half a minute.
    lb.when_up(names(&[&b]));
    let c = labelled.run("c", &[], &server);
    lb.when_up(names(&[&b, &c]));
    docker(&["start", &a.0]);
    lb.when_up(names(&[&a, &b, &c]));
    assert_eq!(answers(), hosts(&[&a, &b, &c]));
    docker(&["restart", "-t", "0", &b.0]);
    lb.when_logged(&format!("backend gone pool=p backend={}", b.0));
    lb.when_up(names(&[&a, &b, &c]));
    drop(c);
    lb.when_up(names(&[&a, &b]));
    let renamed = Container(unique("renamed"));
    docker(&["rename", &b.0, &renamed.0]);
    lb.when_up(names(&[&a, &renamed]));
    assert!(!lb.log().contains(&other.0));
}

#[test]
fn labels_set_name_port_and_weight_and_invalid_ones_are_logged() {
    let Some(_engine) = bare_engine() else { return };
    let labelled = Labelled::new("words");
    let big = unique("big");
    let name = format!("--label=pointsman.name={big}");
    let labels =
        ["--label=pointsman.port=8080", "--label=pointsman.weight=7", "--label=pointsman.backup=false"];
    let a = labelled.run("a", &[&[name.as_str()][..], &labels].concat(), &IDLE);
    let b = labelled.run("b", &["--expose=9000", "--label=pointsman.weight=many"], &IDLE);
    let c = labelled.run("c", &[], &IDLE);
    let lb = Lb::start(&labelled.config("", "    balance: weighted\n"));
    lb.when_up(vec![big.clone(), b.0.clone()]);
    let (first, second) = (backend(&lb, &big).unwrap(), backend(&lb, &b.0).unwrap());
    assert_eq!((&first["address"], &first["weight"]), (&format!("{}:8080", ip(&a.0)).into(), &7.into()));
    assert_eq!((&second["address"], &second["weight"]), (&format!("{}:9000", ip(&b.0)).into(), &1.into()));
    let line = lb.when_logged("container label ignored");
    assert!(line.contains(&format!("container={}", b.0)) && line.contains("pointsman.weight"), "{line}");
    let line = lb.when_logged("container skipped");
    assert!(line.contains(&format!("container={}", c.0)) && line.contains("pointsman.port"), "{line}");
    // It is listed many more times, and not logged again.
    let _d = labelled.run("d", &["--expose=9000"], &IDLE);
    eventually("the new one is found", || (lb.backends().len() == 3).then_some(()));
    assert_eq!(lb.logged(&["container skipped"]).len() + lb.logged(&["container label ignored"]).len(), 2);
}

#[test]
fn a_failing_healthcheck_and_a_pause_take_a_backend_out_of_service() {
    let Some(_engine) = bare_engine() else { return };
    let labelled = Labelled::new("health");
    let a = labelled.run("a", &HEALTHCHECK, &["python:3.13-slim", "sh", "-c", "touch /well; sleep 1000"]);
    let lb = Lb::start(&labelled.config("", ""));
    lb.when_up(names(&[&a]));
    docker(&["exec", &a.0, "rm", "/well"]);
    let down = |why: &str| {
        eventually(&format!("it is down: {why}"), || {
            let backend = backend(&lb, &a.0)?;
            (backend["state"] == "down" && backend["cause"].as_str()?.starts_with(why)).then_some(())
        });
    };
    down("its HEALTHCHECK fails");
    let why = "its HEALTHCHECK fails: the disk is full";
    lb.when_logged(&format!("reason=\"{why}\""));
    eventually("the status has the cause", || (backend(&lb, &a.0)?["cause"] == why).then_some(()));
    docker(&["exec", &a.0, "touch", "/well"]);
    lb.when_up(names(&[&a]));
    docker(&["pause", &a.0]);
    down("it is paused");
    docker(&["unpause", &a.0]);
    lb.when_up(names(&[&a]));
    // A starting container waits for its first check.
    let b = labelled.run("b", &HEALTHCHECK, &IDLE);
    lb.when_logged(&format!("backend joining pool=p backend={}", b.0));
    lb.when_logged(&format!("backend down pool=p backend={}", b.0));
    docker(&["exec", &b.0, "touch", "/well"]);
    lb.when_up(names(&[&a, &b]));
    // The HEALTHCHECK can be ignored.
    let without = Lb::start(&labelled.config(", healthcheck: false", ""));
    docker(&["exec", &b.0, "rm", "/well"]);
    eventually("down for one", || (backend(&lb, &b.0)?["state"] == "down").then_some(()));
    without.when_up(names(&[&a, &b]));
    assert!(without.logged(&["backend down"]).is_empty());
}

#[test]
fn after_the_engine_was_unreachable_the_whole_state_is_read_again() {
    let Some(_engine) = bare_engine() else { return };
    let labelled = Labelled::new("away");
    let (a, b) = (labelled.run("a", &[], &IDLE), labelled.run("b", &[], &IDLE));
    let mut forwarder = Forwarder::start();
    let engine = format!(", port: 5000, engine: \"{}\"", forwarder.address());
    let lb = Lb::start(&labelled.config(&engine, ""));
    lb.when_up(names(&[&a, &b]));
    for _ in 0..2 {
        let before = lb.logged(&["resolved again"]).len();
        forwarder.stop();
        eventually("it is logged", || (lb.logged(&["resolve failed"]).len() > before).then_some(()));
        // While the engine is unreachable, all backends stay; one container stops and another one starts.
        docker(&["stop", "-t", "0", &a.0]);
        let c = labelled.run("c", &[], &IDLE);
        lb.when_up(names(&[&a, &b]));
        forwarder.resume();
        lb.when_up(names(&[&b, &c]));
        eventually("it is logged", || (lb.logged(&["resolved again"]).len() > before).then_some(()));
        // Events arrive again.
        docker(&["start", &a.0]);
        lb.when_up(names(&[&a, &b, &c]));
        drop(c);
        lb.when_up(names(&[&a, &b]));
    }
    let line = lb.when_logged("resolve failed");
    assert!(line.contains("there is no such socket") && line.contains("-v /var/run/docker.sock"), "{line}");
    assert_eq!(lb.logged(&["resolve failed"]).len(), 2, "each time once");
    assert_eq!(
        lb.logged(&["backend joining", &format!("backend={} ", b.0)]).len(),
        1,
        "b was never disturbed"
    );
}

#[test]
fn no_start_or_exit_is_missed_during_start_and_reconnect() {
    const EACH: usize = 6;
    let Some(_engine) = bare_engine() else { return };
    let labelled = Labelled::new("many");
    let mut forwarder = Forwarder::start();
    let engine = format!(", port: 5000, engine: \"{}\"", forwarder.address());
    let config = labelled.config(&engine, "");
    let run = |_| labelled.run("one", &[], &IDLE);
    // Two threads start containers, half of which exit at once; meanwhile the balancer starts and loses its
    // connection to the engine.
    let (lb, kept): (Lb, Vec<Container>) = std::thread::scope(|scope| {
        let churn = || {
            (0..EACH)
                .map(run)
                .enumerate()
                .filter_map(|(n, one)| (n % 2 == 0).then_some(one))
                .collect::<Vec<_>>()
        };
        let threads = [scope.spawn(churn), scope.spawn(churn)];
        let lb = Lb::start(&config);
        while !threads.iter().all(|thread| thread.is_finished()) {
            let seen = lb.logged(&["backend joining"]).len();
            forwarder.stop();
            forwarder.resume();
            eventually("more are found, or all were started", || {
                let more = lb.logged(&["backend joining"]).len() > seen;
                (more || threads.iter().all(|thread| thread.is_finished())).then_some(())
            });
        }
        (lb, threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect())
    });
    assert_eq!(kept.len(), EACH);
    lb.when_up(names(&kept.iter().collect::<Vec<_>>()));
}
