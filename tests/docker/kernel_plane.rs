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
    let get = || http_get((lb, WEB).into(), "/");
    let mut hosts = BTreeSet::new();
    for _ in 0..6 {
        let (status, body) = get().unwrap();
        assert_eq!(status, 200);
        hosts.insert(body);
    }
    assert_eq!(hosts.len(), 3, "{hosts:?}");
    let rules = || project.compose(&["exec", "-T", "pointsman", "nft", "list", "table", "inet", "pointsman"]);
    assert_eq!(rules().matches(" . 5000").count(), 3, "{}", rules());
    docker(&["kill", &project.containers("backend")[0]]);
    when_up(lb, 2);
    assert_eq!(rules().matches(" . 5000").count(), 2, "{}", rules());
    for _ in 0..6 {
        assert_eq!(get().unwrap().0, 200);
    }
    let log = logs(&project.containers("pointsman")[0]);
    assert!(log.contains("reason=client_closed") || log.contains("reason=backend_closed"), "{log}");
}
