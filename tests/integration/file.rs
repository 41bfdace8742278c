//! Discovery by a file: edits are followed; an invalid file is reported and changes nothing.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;

use crate::support::backend::Backend;
use crate::support::{Lb, eventually, http_get};

const CONFIG: &str = "
listeners: {l: {bind: 127.0.0.1:0, pool: p, no_backend: http-503}}
pools: {p: {discover: [{file: backends.yaml, every: 50ms}]}}
";

/// A balancer with this file.
fn lb(text: &str) -> Lb {
    Lb::start_in(CONFIG, |folder| fs::write(folder.join("backends.yaml"), text).unwrap())
}

/// Replaces the file by a rename.
fn replace(lb: &Lb, text: &str) {
    fs::write(lb.folder().join("new"), text).unwrap();
    fs::rename(lb.folder().join("new"), lb.folder().join("backends.yaml")).unwrap();
}

/// A list of backends, each with its name.
fn list(backends: &[(&str, &Backend)]) -> String {
    backends.iter().map(|(name, at)| format!("- {{address: \"{}\", name: {name}}}\n", at.address)).collect()
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn responder(lb: &Lb) -> String {
    http_get(lb.address("l"), "/").unwrap().1
}

#[test]
fn backends_follow_an_overwritten_and_a_replaced_file() {
    let [a, b, c] = ["a", "b", "c"].map(Backend::http);
    let lb = lb(&list(&[("one", &a), ("two", &b)]));
    lb.when_up(names(&["one", "two"]));
    assert_eq!((0..4).map(|_| responder(&lb)).collect::<BTreeSet<_>>().len(), 2);
    replace(&lb, &list(&[("two", &b), ("three", &c)]));
    lb.when_up(names(&["two", "three"]));
    let gone = lb.when_logged("backend gone");
    assert!(gone.contains("backend=one") && gone.contains("no longer in file backends.yaml"), "{gone}");
    fs::write(lb.folder().join("backends.yaml"), list(&[("three", &c)])).unwrap();
    lb.when_up(names(&["three"]));
    assert_eq!(responder(&lb), "c");
    // A backend that stays in the list is not affected.
    assert_eq!(lb.logged(&["backend joining", "backend=three"]).len(), 1);
    lb.when_logged_times(1, &["backend=two", "from=up"]);
}

#[test]
fn weights_and_backups_are_followed_too() {
    let [a, b] = ["a", "b"].map(Backend::http);
    let text = |weight: u32, backup: bool| {
        format!(
            "backends:\n- {{address: \"{}\", name: one, weight: {weight}}}\n\
             - {{address: \"{}\", name: two, backup: {backup}}}\n",
            a.address, b.address
        )
    };
    let config = CONFIG.replace("{p: {", "{p: {balance: weighted, ");
    let lb = Lb::start_in(&config, |folder| fs::write(folder.join("backends.yaml"), text(1, true)).unwrap());
    lb.when_up(names(&["one", "two"]));
    assert_eq!((0..6).map(|_| responder(&lb)).collect::<BTreeSet<_>>(), BTreeSet::from(["a".to_owned()]));
    replace(&lb, &text(3, false));
    lb.when_logged("backend weight pool=p backend=one weight=3");
    let b_among_eight = || (0..8).filter(|_| responder(&lb) == "b").count();
    eventually("one in four goes to the other one", || (b_among_eight() == 2).then_some(()));
}

#[test]
fn an_invalid_edit_keeps_the_last_valid_list_and_is_logged_once() {
    let a = Backend::http("a");
    let good = list(&[("one", &a)]);
    let lb = lb(&good);
    lb.when_up(names(&["one"]));
    let errors = || lb.logged(&["resolve failed", "result=invalid"]);
    replace(&lb, &format!("{good}- {{adress: 10.0.0.1:80}}\n"));
    let first = lb.when_logged("result=invalid");
    assert!(
        first.contains("backends.yaml:2:4: ") && first.contains("the last valid list stays in use"),
        "{first}"
    );
    assert!(first.contains("did you mean"), "{first}");
    replace(&lb, &format!("{good}- nonsense\n"));
    eventually("the other mistake is logged", || (errors().len() == 2).then_some(()));
    assert!(errors()[1].contains("backends.yaml:2:3: "), "{:?}", errors());
    // It is read many more times, and not logged again.
    let reads = || lb.metric("pointsman_resolutions_total{pool=\"p\",result=\"invalid\"}");
    let before = reads();
    eventually("it is read again", || (reads() > before + 5.0).then_some(()));
    assert_eq!(errors().len(), 2);
    assert_eq!(responder(&lb), "a");
    assert_eq!(lb.logged(&["backend=one", "from=up"]).len(), 0);
    replace(&lb, &good);
    lb.when_logged("resolved again");
    assert_eq!(responder(&lb), "a");
}

#[test]
fn a_missing_file_changes_nothing_and_a_new_one_is_read() {
    let [a, b] = ["a", "b"].map(Backend::http);
    let lb = Lb::start(CONFIG);
    let line = lb.when_logged("result=invalid");
    assert!(line.contains("backends.yaml: it cannot be read"), "{line}");
    assert_eq!(http_get(lb.address("l"), "/").unwrap().0, 503);
    replace(&lb, &list(&[("one", &a)]));
    lb.when_up(names(&["one"]));
    lb.when_logged("resolved again");
    fs::remove_file(lb.folder().join("backends.yaml")).unwrap();
    eventually("it is logged", || (lb.logged(&["result=invalid"]).len() == 2).then_some(()));
    assert_eq!(responder(&lb), "a");
    replace(&lb, &list(&[("two", &b)]));
    lb.when_up(names(&["two"]));
}

#[test]
fn an_empty_list_is_valid_and_an_empty_file_is_not() {
    let a = Backend::http("a");
    let lb = lb(&list(&[("one", &a)]));
    lb.when_up(names(&["one"]));
    replace(&lb, "");
    lb.when_logged("result=invalid");
    assert_eq!(responder(&lb), "a");
    replace(&lb, "[]\n");
    assert!(lb.when_logged("result=empty").contains("the list is empty"));
    lb.when_up(vec![]);
    assert_eq!(http_get(lb.address("l"), "/").unwrap().0, 503);
}

#[test]
fn a_replaced_symbolic_link_two_folders_up_is_followed() {
    // As Kubernetes mounts a ConfigMap: backends.yaml -> ..data/backends.yaml, ..data -> ..1.
    let [a, b] = ["a", "b"].map(Backend::http);
    let lb = Lb::start_in(CONFIG, |folder| {
        for (version, text) in [("..1", list(&[("one", &a)])), ("..2", list(&[("two", &b)]))] {
            fs::create_dir(folder.join(version)).unwrap();
            fs::write(folder.join(version).join("backends.yaml"), text).unwrap();
        }
        symlink("..1", folder.join("..data")).unwrap();
        symlink("..data/backends.yaml", folder.join("backends.yaml")).unwrap();
    });
    lb.when_up(names(&["one"]));
    symlink("..2", lb.folder().join("..new")).unwrap();
    fs::rename(lb.folder().join("..new"), lb.folder().join("..data")).unwrap();
    lb.when_up(names(&["two"]));
    assert_eq!(responder(&lb), "b");
}
