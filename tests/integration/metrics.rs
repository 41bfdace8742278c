//! `/metrics` after each kind of change.

use crate::support::backend::Backend;
use crate::support::{Lb, connect_to, eventually, http_get};

#[test]
fn the_series_of_removed_backends_end() {
    const AT_ONCE: usize = 20;
    const ROUNDS: usize = 20;
    let write = |lb: &std::path::Path, round: usize| {
        let one = |n: usize| format!("- {{address: \"127.0.0.1:{}\", name: r{round}-{n}}}\n", 1 + n);
        std::fs::write(lb.join("new"), (0..AT_ONCE).map(one).collect::<String>()).unwrap();
        std::fs::rename(lb.join("new"), lb.join("backends.yaml")).unwrap();
    };
    let lb = Lb::start_in(
        "listeners: {l: {bind: 127.0.0.1:0, pool: p, no_backend: close}}
pools: {p: {discover: [{file: backends.yaml, every: 50ms}], connect: {attempts: 3}}}",
        |folder| write(folder, 0),
    );
    let lines = |text: &str| text.lines().filter(|line| line.contains("backend=\"r")).count();
    let mut first = 0;
    for round in 0..ROUNDS {
        write(lb.folder(), round);
        let here = format!("backend=\"r{round}-");
        let text = eventually("only those of this round are there", || {
            let text = lb.get("/metrics").1;
            let state = |line: &&str| line.starts_with("pointsman_backend_state{");
            let states: Vec<_> = text.lines().filter(state).collect();
            let all = states.len() == 6 * AT_ONCE && states.iter().all(|line| line.contains(&here));
            all.then_some(text)
        });
        assert!(!text.lines().any(|line| line.contains("backend=\"r") && !line.contains(&here)), "{text}");
        // No connection is counted yet: each round has the same series.
        first = if round == 0 { lines(&text) } else { first };
        assert_eq!(lines(&text), first, "{text}");
        let _ = http_get(lb.address("l"), "/"); // they all refuse: their failures are counted, and forgotten too
    }
    let left = AT_ONCE * (ROUNDS - 1);
    assert_eq!(lb.metric("pointsman_backends_left_total{pool=\"p\"}"), left as f64);
    assert_eq!(lb.metric("pointsman_backends_joined_total{pool=\"p\"}"), (left + AT_ONCE) as f64);
}

#[test]
fn the_series_of_a_pool_end_with_it() {
    let backend = Backend::http("a");
    let pool = |name: &str| format!("{name}: {{discover: [{{static: [\"{}\"]}}]}}", backend.address);
    let config = |pools: &[&str]| {
        let listener = |name: &&str| format!("l-{name}: {{bind: 127.0.0.1:0, pool: {name}}}");
        let listeners: Vec<_> = pools.iter().map(listener).collect();
        let pools: Vec<_> = pools.iter().map(|name| pool(name)).collect();
        format!("listeners: {{{}}}\npools: {{{}}}", listeners.join(", "), pools.join(", "))
    };
    let lb = Lb::start(&config(&["stays", "goes"]));
    http_get(lb.address("l-goes"), "/").unwrap();
    assert!(lb.get("/metrics").1.contains("pool=\"goes\""));
    lb.reload(&config(&["stays"]));
    let text = lb.get("/metrics").1;
    assert!(!text.contains("goes") && text.contains("pool=\"stays\""), "{text}");
}

#[test]
fn the_state_changes_of_a_flapping_backend_are_counted() {
    let mut backend = Backend::http("a");
    let lb = Lb::start(&format!(
        "listeners: {{l: {{bind: 127.0.0.1:0, pool: p}}}}
pools: {{p: {{discover: [{{static: [{{address: \"{}\", name: a}}]}}], health: {{tcp: {{}}, every: 50ms, rise: 1, fall: 1}}}}}}",
        backend.address
    ));
    let entered = |state: &str| {
        lb.metric(&format!(
            "pointsman_backend_state_changes_total{{pool=\"p\",backend=\"a\",to=\"{state}\"}}"
        ))
    };
    lb.when_up(vec!["a".to_owned()]);
    assert_eq!([entered("joining"), entered("up"), entered("down")], [1.0, 1.0, 0.0]);
    for times in [1.0, 2.0] {
        backend.kill();
        eventually("it is down", || (entered("down") == times).then_some(()));
        backend.revive();
        eventually("it is up", || (entered("up") == times + 1.0).then_some(()));
    }
    assert_eq!(entered("joining"), 1.0);
    assert_eq!(lb.metric("pointsman_backend_weight{pool=\"p\",backend=\"a\"}"), 1.0);
}

#[test]
fn reloads_are_counted_and_a_refused_one_is_exported_until_the_next_success() {
    let backend = Backend::http("a");
    let config = |more: &str| {
        format!(
            "listeners: {{l: {{bind: 127.0.0.1:0, pool: p}}}}\npools: {{p: {{discover: [{{static: [\"{}\"]}}]{more}}}}}",
            backend.address
        )
    };
    let lb = Lb::start(&config(""));
    let reloads = || {
        let count =
            |result: &str| lb.metric(&format!("pointsman_config_reloads_total{{result=\"{result}\"}}"));
        (count("applied"), count("refused"), lb.metric("pointsman_config_last_reload_successful"))
    };
    let last_success = || lb.metric("pointsman_config_last_reload_success_timestamp_seconds");
    let start = last_success();
    assert_eq!(reloads(), (0.0, 0.0, 1.0));
    lb.reload(&config(", nonsense: 1"));
    eventually("it is refused", || (reloads() == (0.0, 1.0, 0.0)).then_some(()));
    assert_eq!(last_success(), start);
    lb.reload(&config(", connect: {timeout: 2s}"));
    eventually("it is applied", || (reloads() == (1.0, 1.0, 1.0)).then_some(()));
    assert!(last_success() > start);
}

#[test]
fn open_connections_are_exported_with_their_limits() {
    let backend = Backend::echo();
    let lb = Lb::start(&format!(
        "runtime: {{max_connections: 50}}
listeners:
  narrow: {{bind: 127.0.0.1:0, pool: p, max_connections: 7}}
  wide: {{bind: 127.0.0.1:0, pool: p}}
pools: {{p: {{discover: [{{static: [\"{}\"]}}]}}}}",
        backend.address
    ));
    let open = |listener: &str| connect_to(lb.address(listener)).unwrap();
    let held = [open("narrow"), open("narrow"), open("wide")];
    let gauges = || {
        ["pointsman_instance_connections_open", "pointsman_listener_connections_open{listener=\"narrow\"}"]
            .map(|one| lb.metric(one))
    };
    eventually("they are open", || (gauges() == [3.0, 2.0]).then_some(()));
    assert_eq!(lb.metric("pointsman_instance_connections_max"), 50.0);
    assert_eq!(lb.metric("pointsman_listener_connections_max{listener=\"narrow\"}"), 7.0);
    assert!(!lb.get("/metrics").1.contains("pointsman_listener_connections_max{listener=\"wide\"}"));
    drop(held);
    eventually("they are closed", || (gauges() == [0.0, 0.0]).then_some(()));
}

#[test]
fn an_unreachable_source_is_exported_until_it_recovers() {
    let backend = Backend::http("a");
    let good = format!("- \"{}\"\n", backend.address);
    let write = |lb: &std::path::Path, text: &str| {
        std::fs::write(lb.join("new"), text).unwrap();
        std::fs::rename(lb.join("new"), lb.join("backends.yaml")).unwrap();
    };
    let lb = Lb::start_in(
        "listeners: {l: {bind: 127.0.0.1:0, pool: p}}
pools: {p: {discover: [{static: [127.0.0.1:1]}, {file: backends.yaml, every: 50ms}]}}",
        |folder| write(folder, &good),
    );
    let failing = || lb.metric("pointsman_sources_failing{pool=\"p\"}");
    let invalid = || lb.metric("pointsman_resolutions_total{pool=\"p\",result=\"invalid\"}");
    assert_eq!((failing(), invalid()), (0.0, 0.0));
    write(lb.folder(), "nonsense: {");
    eventually("it is told", || (failing() == 1.0 && invalid() > 0.0).then_some(()));
    write(lb.folder(), &good);
    eventually("it is over", || (failing() == 0.0).then_some(()));
    // A removed one does not count any more.
    write(lb.folder(), "nonsense: {");
    eventually("it is told again", || (failing() == 1.0).then_some(()));
    lb.reload(
        "listeners: {l: {bind: 127.0.0.1:0, pool: p}}\npools: {p: {discover: [{static: [127.0.0.1:1]}]}}",
    );
    eventually("it is forgotten", || (failing() == 0.0).then_some(()));
}

#[test]
fn the_serving_tier_of_a_pool_is_exported() {
    let (mut primary, mut backup) = (Backend::http("a"), Backend::http("b"));
    let config = |panic: &str| {
        format!(
            "listeners: {{l: {{bind: 127.0.0.1:0, pool: p}}}}
pools:
  p:
    discover: [{{static: [\"{}\", {{address: \"{}\", backup: true}}]}}]
    health: {{tcp: {{}}, every: 50ms, rise: 1, fall: 1}}
    panic: {panic}",
            primary.address, backup.address
        )
    };
    let (calm, anxious) = (config("0%"), config("100%"));
    let lb = Lb::start(&calm);
    let serve = |mode: &str| {
        eventually(&format!("{mode} serve"), || {
            let modes = ["none", "primaries", "all_zones", "backups", "all"];
            let value =
                |one: &str| lb.metric(&format!("pointsman_pool_serving_tier{{pool=\"p\",tier=\"{one}\"}}"));
            let now: Vec<_> = modes.into_iter().filter(|one| value(one) == 1.0).collect();
            (now == [mode]).then_some(())
        });
    };
    serve("primaries");
    primary.kill();
    serve("backups");
    backup.kill();
    serve("none");
    lb.reload(&anxious);
    serve("all");
}

#[test]
fn two_backends_of_one_name_have_series_and_a_history_of_their_own() {
    let backends = ["a", "b"].map(Backend::http);
    let [first, second] = backends.each_ref().map(|backend| backend.address);
    let lb = Lb::start_in(
        "listeners: {l: {bind: 127.0.0.1:0, pool: p}}
pools: {p: {discover: [{file: one.yaml}, {file: other.yaml}]}}",
        |folder| {
            for (file, address) in [("one.yaml", first), ("other.yaml", second)] {
                std::fs::write(folder.join(file), format!("- {{address: \"{address}\", name: same}}\n"))
                    .unwrap();
            }
        },
    );
    lb.when_up(vec!["same".to_owned(); 2]);
    for _ in 0..6 {
        assert_eq!(http_get(lb.address("l"), "/").unwrap().0, 200);
    }
    lb.when_idle();
    let text = lb.get("/metrics").1;
    let opened: Vec<_> =
        text.lines().filter(|line| line.starts_with("pointsman_connections_opened_total{")).collect();
    let of = |backend: &str| format!("backend=\"{backend}\"}} 3");
    let with_address = [first, second].map(|address| of(&format!("same@{address}")));
    assert!(opened.iter().any(|line| line.ends_with(&of("same"))), "{opened:#?}");
    // Which of the two was found first is not certain.
    assert!(opened.iter().any(|line| with_address.iter().any(|end| line.ends_with(end))), "{opened:#?}");
    eventually("the history has both", || {
        let history: serde_json::Value = serde_json::from_str(&lb.get("/api/v1/history").1).unwrap();
        let names: Vec<_> = history["backends"]["p"].as_object()?.keys().cloned().collect();
        (names.len() == 2 && names[0] == "same" && names[1].starts_with("same@127.0.0.1:")).then_some(())
    });
}
