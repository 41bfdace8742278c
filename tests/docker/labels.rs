//! Finding backends among the engine's containers by a label. The balancer runs beside the engine, as a plain process:
//! the addresses of bridge networks can be reached from there.

use super::forwarder::Forwarder;
use super::support::Lb;
use super::*;

/// A container that runs and does nothing.
const IDLE: [&str; 3] = ["python:3.13-slim", "sleep", "1000"];
/// One that is well while it has a file /well.
const HEALTHCHECK: [&str; 6] = [
    "--health-cmd=test -f /well || (echo the disk is full; exit 1)",
    "--health-interval=1s",
    "--health-retries=1",
    "--health-timeout=10s",
    "--label=pointsman.port=5000",
    "--stop-signal=KILL",
];

/// The containers of one test: their label, which no other run uses.
struct Labelled(String);

impl Labelled {
    fn new(test: &str) -> Self {
        Self(unique(test))
    }

    /// Starts one with the label and these further arguments.
    fn run(&self, what: &str, arguments: &[&str], command: &[&str]) -> Container {
        let label = format!("--label=pointsman.pool={}", self.0);
        Container::run(what, &[&[label.as_str(), "--stop-signal=KILL"], arguments, command].concat())
    }

    /// A configuration with one pool of them; `more` for its source, and lines for the pool.
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

/// What the status says of a backend of the only pool.
fn backend(lb: &Lb, name: &str) -> Option<serde_json::Value> {
    let status = lb.status();
    let mut backends = status["pools"][0]["backends"].as_array().unwrap().iter();
    backends.find(|backend| backend["name"] == name).cloned()
}

#[test]
fn containers_with_the_label_are_followed_by_their_names_at_their_addresses() {
    let Some(_engine) = bare_engine() else { return };
    let labelled = Labelled::new("label");
    let server = ["python:3.13-slim", "python", "-c", SERVER];
    let (a, b) = (labelled.run("a", &[], &server), labelled.run("b", &[], &server));
    let other = Labelled::new("other").run("other", &[], &server);
    let lb = Lb::start(&labelled.config(", port: 5000", "    health: {http: /, every: 250ms}\n"));
    lb.when_up(names(&[&a, &b]));
    let hosts = |containers: &[&Container]| -> BTreeSet<String> {
        containers.iter().map(|container| inspect(&container.0, "{{.Config.Hostname}}")).collect()
    };
    let answers = || (0..6).map(|_| http_get(lb.address("l"), "/").unwrap().1).collect::<BTreeSet<_>>();
    assert_eq!(answers(), hosts(&[&a, &b]));
    docker(&["stop", "-t", "0", &a.0]);
    // By the event: the list is read only every half a minute.
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
fn labels_give_name_port_and_weight_and_those_that_make_no_sense_are_told() {
    let Some(_engine) = bare_engine() else { return };
    let labelled = Labelled::new("words");
    let big = unique("big");
    let name = format!("--label=pointsman.name={big}");
    let said =
        ["--label=pointsman.port=8080", "--label=pointsman.weight=7", "--label=pointsman.backup=false"];
    let a = labelled.run("a", &[&[name.as_str()][..], &said].concat(), &IDLE);
    let b = labelled.run("b", &["--expose=9000", "--label=pointsman.weight=many"], &IDLE);
    let c = labelled.run("c", &[], &IDLE);
    let lb = Lb::start(&labelled.config("", "    balance: weighted\n"));
    lb.when_up(vec![big.clone(), b.0.clone()]);
    let (first, second) = (backend(&lb, &big).unwrap(), backend(&lb, &b.0).unwrap());
    assert_eq!((&first["address"], &first["weight"]), (&format!("{}:8080", ip(&a.0)).into(), &7.into()));
    assert_eq!((&second["address"], &second["weight"]), (&format!("{}:9000", ip(&b.0)).into(), &1.into()));
    let told = lb.when_logged("container label ignored");
    assert!(told.contains(&format!("container={}", b.0)) && told.contains("pointsman.weight"), "{told}");
    let told = lb.when_logged("container skipped");
    assert!(told.contains(&format!("container={}", c.0)) && told.contains("pointsman.port"), "{told}");
    // Read many times more, it is not told again.
    let _d = labelled.run("d", &["--expose=9000"], &IDLE);
    eventually("the new one is there", || (lb.backends().len() == 3).then_some(()));
    assert_eq!(lb.logged(&["container skipped"]).len() + lb.logged(&["container label ignored"]).len(), 2);
}

#[test]
fn the_engines_healthcheck_decides_and_so_does_a_pause() {
    let Some(_engine) = bare_engine() else { return };
    let labelled = Labelled::new("health");
    let a = labelled.run("a", &HEALTHCHECK, &["python:3.13-slim", "sh", "-c", "touch /well; sleep 1000"]);
    let lb = Lb::start(&labelled.config("", ""));
    lb.when_up(names(&[&a]));
    docker(&["exec", &a.0, "rm", "/well"]);
    let down = lb.when_logged("backend down");
    assert!(down.contains("its HEALTHCHECK fails"), "{down}");
    assert_eq!(backend(&lb, &a.0).unwrap()["state"], "down");
    let why = "its HEALTHCHECK fails: the disk is full";
    lb.when_logged(&format!("reason=\"{why}\""));
    eventually("the status tells why", || (backend(&lb, &a.0)?["cause"] == why).then_some(()));
    docker(&["exec", &a.0, "touch", "/well"]);
    lb.when_up(names(&[&a]));
    docker(&["pause", &a.0]);
    lb.when_logged("it is paused");
    eventually("it is down", || (backend(&lb, &a.0)?["state"] == "down").then_some(()));
    docker(&["unpause", &a.0]);
    lb.when_up(names(&[&a]));
    // One that is just starting has to wait for its first check.
    let b = labelled.run("b", &HEALTHCHECK, &IDLE);
    lb.when_logged(&format!("backend joining pool=p backend={}", b.0));
    lb.when_logged(&format!("backend down pool=p backend={}", b.0));
    docker(&["exec", &b.0, "touch", "/well"]);
    lb.when_up(names(&[&a, &b]));
    // And who does not want it is not told.
    let without = Lb::start(&labelled.config(", healthcheck: false", ""));
    docker(&["exec", &b.0, "rm", "/well"]);
    eventually("down for one", || (backend(&lb, &b.0)?["state"] == "down").then_some(()));
    without.when_up(names(&[&a, &b]));
    assert!(without.logged(&["backend down"]).is_empty());
}

#[test]
fn after_the_engine_was_away_the_whole_state_is_read_again() {
    let Some(_engine) = bare_engine() else { return };
    let labelled = Labelled::new("away");
    let (a, b) = (labelled.run("a", &[], &IDLE), labelled.run("b", &[], &IDLE));
    let mut forwarder = Forwarder::start();
    let engine = format!(", port: 5000, engine: \"{}\"", forwarder.address());
    let lb = Lb::start(&labelled.config(&engine, ""));
    lb.when_up(names(&[&a, &b]));
    for _ in 0..2 {
        let before = lb.logged(&["resolved again"]).len();
        forwarder.cut();
        eventually("it is told", || (lb.logged(&["resolve failed"]).len() > before).then_some(()));
        // Nothing is known, so everybody stays; meanwhile one goes and one comes.
        docker(&["stop", "-t", "0", &a.0]);
        let c = labelled.run("c", &[], &IDLE);
        lb.when_up(names(&[&a, &b]));
        forwarder.mend();
        lb.when_up(names(&[&b, &c]));
        eventually("it is told", || (lb.logged(&["resolved again"]).len() > before).then_some(()));
        // And the events come again.
        docker(&["start", &a.0]);
        lb.when_up(names(&[&a, &b, &c]));
        drop(c);
        lb.when_up(names(&[&a, &b]));
    }
    let told = lb.when_logged("resolve failed");
    assert!(told.contains("there is no such socket") && told.contains("-v /var/run/docker.sock"), "{told}");
    assert_eq!(lb.logged(&["resolve failed"]).len(), 2, "each time once");
    assert_eq!(
        lb.logged(&["backend joining", &format!("backend={} ", b.0)]).len(),
        1,
        "b was never disturbed"
    );
}

#[test]
fn no_container_is_missed_that_comes_or_goes_while_it_begins_or_reconnects() {
    const EACH: usize = 6;
    let Some(_engine) = bare_engine() else { return };
    let labelled = Labelled::new("many");
    let mut forwarder = Forwarder::start();
    let engine = format!(", port: 5000, engine: \"{}\"", forwarder.address());
    let config = labelled.config(&engine, "");
    let run = |_| labelled.run("one", &[], &IDLE);
    // Two start containers, half of which end at once; the balancer starts and loses the engine in the midst of it.
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
            forwarder.cut();
            forwarder.mend();
            eventually("more are seen, or that was all", || {
                let more = lb.logged(&["backend joining"]).len() > seen;
                (more || threads.iter().all(|thread| thread.is_finished())).then_some(())
            });
        }
        (lb, threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect())
    });
    assert_eq!(kept.len(), EACH);
    lb.when_up(names(&kept.iter().collect::<Vec<_>>()));
}
