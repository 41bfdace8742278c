//! Tests that change the engine or start very many containers: no others run beside these. By this module's name they are
//! the first, so that no other test has to end before them.

mod swarm;

use super::*;

#[test]
fn replicas_whose_addresses_need_an_answer_over_tcp_all_get_traffic() {
    /// Docker repeats the name in each record, so these are 4.4 kB; Pointsman accepts 4096 bytes by UDP.
    const REPLICAS: usize = 60;
    const NAME: &str = "a-name-so-long-that-few-records-of-it-fit-into-one-answer";
    let Some(_engine) = engine_for_heavy_use() else { return };
    let network = Network::create("many", &[]);
    let folder = configuration(&format!(
        "admin: {{bind: 0.0.0.0:9900}}
listeners: {{web: {{bind: 0.0.0.0:8080, pool: web}}}}
pools: {{web: {{discover: [{{dns: \"{NAME}:5000\", flap: 0s}}], health: {{http: /health}}}}}}"
    ));
    let run = |_| {
        let network = ["--network", &network.0, "--network-alias", NAME];
        let python = ["python:3.13-slim", "python", "-c", SERVER];
        Container::run("one", &[&network[..], &python].concat())
    };
    // The engine starts a few at a time.
    let backends: Vec<Container> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|part| scope.spawn(move || (part..REPLICAS).step_by(4).map(run).collect::<Vec<_>>()))
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(backends.len(), REPLICAS);
    let lb = pointsman(&network, &folder);
    let address = ip(&lb.0);
    when_up(address, REPLICAS);
    let answered: BTreeSet<String> =
        (0..REPLICAS).map(|_| http_get((address, WEB).into(), "/").unwrap().1).collect();
    assert_eq!(answered.len(), REPLICAS);
    remove(backends);
}
