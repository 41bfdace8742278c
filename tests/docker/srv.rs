//! SRV records of dnsmasq in a container. Pointsman and the backends run on this machine.

use super::engine::bare_engine;
use super::support::Lb;
use super::support::backend::Backend;
use super::*;

/// dnsmasq with the records of the test.
struct Dnsmasq {
    container: Container,
    folder: tempfile::TempDir,
    // Removed after its container.
    _network: Network,
}

impl Dnsmasq {
    fn start(records: &str) -> Self {
        docker(&["build", "-q", "-t", "pointsman-dnsmasq", "tests/docker/dnsmasq"]);
        let network = Network::create("dns", &[]);
        let folder = tempfile::tempdir().unwrap();
        write(&folder, records);
        let mount = format!("{}:/etc/dnsmasq:ro", folder.path().display());
        let container =
            Container::run("dnsmasq", &["--network", &network.0, "-v", &mount, "pointsman-dnsmasq"]);
        Self { container, folder, _network: network }
    }

    /// Changes the records; a restart reads them.
    fn rewrite(&self, records: &str) {
        write(&self.folder, records);
        docker(&["exec", &self.container.0, "sh", "-c", "kill $(cat /run/dnsmasq.pid)"]);
    }

    /// A balancer that discovers `name` with this server.
    fn lb(&self, name: &str, source: &str, pool: &str) -> Lb {
        Lb::start(&format!(
            "listeners: {{l: {{bind: 127.0.0.1:0, pool: p}}}}\npools:\n  p:\n    balance: weighted\n    discover:\n      \
             - srv: {name}\n        server: {}\n{source}{pool}",
            ip(&self.container.0)
        ))
    }
}

fn write(folder: &tempfile::TempDir, records: &str) {
    // Unknown names of its domain do not exist; by default it would forward the query.
    let text = format!("local=/shop.test/\n{records}");
    std::fs::write(folder.path().join("dnsmasq.conf"), text).unwrap();
}

/// An SRV record for `host`, which is this machine.
fn record(host: &str, backend: &Backend, priority: u16, weight: u16) -> String {
    let port = backend.address.port();
    format!(
        "srv-host=_web._tcp.shop.test,{host}.shop.test,{port},{priority},{weight}\n\
         host-record={host}.shop.test,127.0.0.1\n"
    )
}

fn responses(lb: &Lb, times: usize) -> BTreeMap<String, usize> {
    let mut answers = BTreeMap::new();
    for _ in 0..times {
        *answers.entry(http_get(lb.address("l"), "/").unwrap().1).or_default() += 1;
    }
    answers
}

#[test]
fn records_of_dnsmasq_are_followed_through_changes_restarts_and_timeouts() {
    let Some(_engine) = bare_engine() else { return };
    let (mut a, b, c) = (Backend::http("a"), Backend::http("b"), Backend::http("c"));
    let names = |all: &[(&str, &Backend)]| -> Vec<String> {
        all.iter().map(|(host, backend)| format!("{host}.shop.test:{}", backend.address.port())).collect()
    };
    let counts = |counts: &[(&str, usize)]| -> BTreeMap<String, usize> {
        counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    };
    let dnsmasq =
        Dnsmasq::start(&[record("a", &a, 10, 1), record("b", &b, 10, 3), record("c", &c, 20, 5)].concat());
    let lb = dnsmasq.lb(
        "_web._tcp.shop.test",
        "        every: 200ms\n        flap: 500ms\n",
        "    health: {http: /health, every: 1s, timeout: 1s}\n",
    );
    lb.when_up(names(&[("a", &a), ("b", &b), ("c", &c)]));
    assert_eq!(responses(&lb, 40), counts(&[("a", 10), ("b", 30)]));

    docker(&["pause", &dnsmasq.container.0]);
    lb.when_logged("result=timeout");
    assert_eq!(responses(&lb, 4), counts(&[("a", 1), ("b", 3)]));
    docker(&["unpause", &dnsmasq.container.0]);
    lb.when_logged("resolved again");

    dnsmasq.rewrite(&[record("a", &a, 10, 9), record("b", &b, 10, 1), record("c", &c, 20, 5)].concat());
    eventually("the weight is changed", || {
        let status = lb.status();
        let backends = status["pools"][0]["backends"].as_array().unwrap();
        backends.iter().any(|backend| backend["weight"] == 9).then_some(())
    });
    assert_eq!(responses(&lb, 20), counts(&[("a", 18), ("b", 2)]));
    assert!(lb.logged(&["backend gone"]).is_empty(), "none of this took a backend out");

    dnsmasq.rewrite(&[record("a", &a, 10, 9), record("c", &c, 20, 5)].concat());
    lb.when_up(names(&[("a", &a), ("c", &c)]));
    assert!(lb.when_logged("backend gone").contains("b.shop.test"));
    assert_eq!(responses(&lb, 4), counts(&[("a", 4)]));
    a.kill();
    lb.when_up(names(&[("c", &c)]));
    assert_eq!(responses(&lb, 4), counts(&[("c", 4)]));
}

#[test]
fn two_hundred_records_of_dnsmasq_are_all_found() {
    let Some(_engine) = bare_engine() else { return };
    let record = |n| {
        format!(
            "srv-host=_many._tcp.shop.test,host{n}.shop.test,5000\nhost-record=host{n}.shop.test,127.0.1.{n}\n"
        )
    };
    let dnsmasq = Dnsmasq::start(&(1..=200).map(record).collect::<String>());
    let lb = dnsmasq.lb("_many._tcp.shop.test", "", "");
    eventually("all are found", || (lb.backends().len() == 200).then_some(()));
    let answers = || lb.metric("pointsman_resolutions_total{pool=\"p\",result=\"ok\"}");
    let before = answers();
    eventually("and again", || (answers() >= before + 3.0).then_some(()));
    assert!(lb.logged(&["backend gone"]).is_empty(), "none of them comes and goes");
}
