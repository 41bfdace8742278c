//! `plane: kernel` in a container, as in `compose/kernel.yaml`.

use super::*;

#[test]
fn the_kernel_forwards_in_a_container() {
    let Some(_engine) = engine() else { return };
    let project = Project::new("compose/kernel.yaml", 3);
    project.compose(&["build", "pointsman"]);
    project.compose(&["up", "-d"]);
    let lb = ip(&project.containers("pointsman")[0]);
    when_up(lb, 3);
    let rules = || project.exec("pointsman", &["nft", "list", "ruleset"]);
    // A backend is up a moment before it is in the rules, and down a moment before it has left them.
    let when_listed = |count: usize| {
        eventually(&format!("{count} backends in the rules"), || {
            (rules().matches(" . 5000").count() == count).then_some(())
        });
    };
    when_listed(3);
    let get = || http_get((lb, WEB).into(), "/");
    let mut hosts = BTreeSet::new();
    for _ in 0..6 {
        let (status, body) = get().unwrap();
        assert_eq!(status, 200);
        hosts.insert(body);
    }
    assert_eq!(hosts.len(), 3, "{hosts:?}");
    docker(&["kill", &project.containers("backend")[0]]);
    when_up(lb, 2);
    when_listed(2);
    for _ in 0..6 {
        assert_eq!(get().unwrap().0, 200);
    }
    eventually("a closed connection in the log", || {
        let log = logs(&project.containers("pointsman")[0]);
        (log.contains("reason=client_closed") || log.contains("reason=backend_closed")).then_some(())
    });
}
