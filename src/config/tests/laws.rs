//! Properties of any text that looks like a configuration.

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::read;

/// Something that looks like a configuration: known keys in wrong places, with values of every kind.
fn tree() -> impl Strategy<Value = Value> {
    let key = prop::sample::select(vec![
        "runtime",
        "drain",
        "grace",
        "listeners",
        "web",
        "bind",
        "pool",
        "pools",
        "discover",
        "static",
        "dns",
        "health",
        "http",
        "path",
        "every",
        "timeout",
        "on_down",
        "close",
        "admin",
        "log",
        "weight",
        "address",
        "backup",
        "zone",
        "min_up",
        "srv",
        "file",
        "docker",
        "label",
        "hash",
        "load_factor",
        "balance",
        "eject",
        "slow",
        "limits",
        "queue",
        "panic",
        "status",
        "exchange",
        "send",
        "expect",
        "postgres",
        "role",
        "replicas",
        "image",
        "min",
        "autoscale",
        "adopt",
        "etcd",
        "prefix",
        "endpoints",
        "consul",
        "kubernetes",
        "service",
        "tags",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        prop::sample::select(vec![
            "0.0.0.0:80",
            "web",
            "2s",
            "/health",
            "backend:5000",
            "off",
            "${X:-1}",
            "${",
            "ring-hash",
            "50%",
            "1.25",
            "_web._tcp.example.com",
            "2xx",
            "PING\\r\\n",
            "primary",
            "http://10.0.0.1:2379",
        ])
        .prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 64, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(key.clone(), inner, 0..6)
                .prop_map(|map| map
                    .into_iter()
                    .map(|(key, value)| (key.to_owned(), value))
                    .collect::<Map<_, _>>())
                .prop_map(Value::from),
        ]
    })
}

proptest! {
    #[test]
    fn no_text_panics_and_every_problem_has_its_position(tree in tree()) {
        let pool = json!({"listeners": {"web": {"bind": ":1", "pool": "web"}}, "pools": {"web": tree}});
        let within = |key: &str| json!({"pools": {"web": {key: tree}}});
        for text in [&tree, &pool, &within("discover"), &within("health")].map(ToString::to_string) {
            if let Err(report) = read(&text) {
                prop_assert!(!report.problems().is_empty());
                for problem in report.problems() {
                    prop_assert!(problem.at.is_some(), "{problem:?}");
                }
            }
        }
    }

    #[test]
    fn every_misspelled_key_is_reported_at_its_position(wrong in prop::collection::btree_set(0..12_usize, 1..12)) {
        // A misspelled key has one letter more.
        let lines = ["runtime:", "  workers: 1", "log:", "  level: info", "  keep: 3", "listeners:", "  web:",
            "    bind: 127.0.0.1:1", "    pool: web", "pools:", "  web:", "    discover: [{dns: a:1}]",
            "    keepalive: 1m", "    connect:", "      attempts: 2"];
        let optional = [0, 1, 2, 3, 4, 12, 13, 14];
        let wrong: BTreeSet<usize> = wrong.into_iter().map(|index| optional[index % optional.len()]).collect();
        // Values below an unknown key are not read.
        let read_at_all = |line: &usize| match line {
            1 => !wrong.contains(&0),
            3 | 4 => !wrong.contains(&2),
            14 => !wrong.contains(&13),
            _ => true,
        };
        let text: Vec<_> = lines
            .iter()
            .enumerate()
            .map(|(index, line)| if wrong.contains(&index) { line.replacen(':', "x:", 1) } else { (*line).to_owned() })
            .collect();
        let report = read(&text.join("\n")).unwrap_err();
        let reported: BTreeSet<usize> = report.problems().iter().map(|problem| problem.at.unwrap().line - 1).collect();
        prop_assert_eq!(reported, wrong.iter().copied().filter(read_at_all).collect::<BTreeSet<_>>());
        prop_assert!(report.problems().iter().all(|problem| problem.message.contains("did you mean")), "{}", report);
    }
}
