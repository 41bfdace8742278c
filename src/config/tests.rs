//! The configuration as a whole: what stands in the schema, in the examples and in the code must be one truth.

use std::collections::BTreeSet;
use std::path::Path;

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;

/// Every key that can be written, each at least once.
const EVERYTHING: &str = r"
runtime: {workers: 1, max_connections: 1, busy_poll: 50us, max_checks: 9, drain: {grace: 0s, timeout: 1s}}
log: {level: info, format: text, directory: logs, rotation: daily, max_size: 100MiB, keep: 7, connections: true}
admin: {bind: 127.0.0.1:9900, token_file: /run/token, hosts: [lb.example.com]}
listeners:
  one:
    {bind: ['127.0.0.1:1', 'unix:/l'], pool: one, no_backend: reset, max_connections: 1,
    keepalive: 30s, defer_accept: 10s, fast_open: 256, user_timeout: 20s, socket_mode: '0600'}
pools:
  one:
    balance: weighted
    shadow: [least-connections, random-two]
    discover:
      - static: [{address: 10.0.0.1:1, name: a, weight: 3, backup: true, connections: 5}]
      - {dns: backend:1, every: 1s, server: 127.0.0.11, hold: 1s, flap: 1s, family: any}
    health: {http: {path: /health, host: h, status: 200, body: ok}, every: 2s, timeout: 1s, rise: 1, fall: 1, port: 1}
    connect: {timeout: 1s, attempts: 1}
    timeouts: {idle: 1h, half_closed: 1m, lifetime: off}
    keepalive: 60s
    user_timeout: 30s
    on_down: {close: 1s, after: 1s}
    on_leave: {reset: 1s}
    on_drain: {close: 2s}
    eject: {failures: 4, for: 20s, at_most: 40%, slow: {factor: 2.5, floor: 50ms, answers: 10, every: 8s}}
    panic: 30%
    limits: {connections: 100, queue: 50, queue_timeout: 3s}
    slow_start: 15s
  two:
    balance: ring-hash
    hash: {key: source-net, slots: 512, virtual_nodes: 9, load_factor: 1.25}
    discover:
      - {srv: _web._tcp.example.com, every: 1s, server: 127.0.0.11, hold: 1s, flap: 1s, family: any}
      - {file: backends.yaml, every: 2s}
      - {docker: {label: a=b, port: 2, network: n, engine: 'unix:///run/d', healthcheck: false}, hold: 1s}
      - {docker: c}
    health:
      - {http: {path: /, status: [201, 2xx, 300-399]}, fast_every: 500ms, grace: 7s}
      - {exchange: {send: 'PING\r\n', expect: '+PONG'}}
      - {postgres: {role: standby, user: u, database: d, password_file: /p, require_auth: [scram-sha-256, md5]}}
      - {redis: {role: replica, user: u, password_file: /p}}
      - {postgres: primary}
      - {redis: master}
    replicas:
      {image: i, port: 3, min: 2, max: 9, respawn: false, group: g, network: n, engine: 'unix:///run/d', env: {A: b},
      command: [a, b], adopt: {label: c=d}, healthcheck: false, drain: 9s, stop_timeout: 8s,
      autoscale: {connections_per_backend: 50, up_after: 6s, down_after: 2m, cooldown: 11s, step: 3, dry_run: true}}
  three:
    replicas: {image: i, port: 3, adopt: {name: server_*}}
";

fn schema() -> Value {
    serde_json::from_str(json_schema()).unwrap()
}

fn read(text: &str) -> Result<Config, Report> {
    parse("pointsman.yaml", text, &|_| None)
}

/// Shows `see` every key below a part of the schema: its path, where `*` stands for a name, and what is said of it.
fn visit(schema: &Value, node: &Value, path: &str, see: &mut dyn FnMut(&str, &Value)) {
    let node = match node["$ref"].as_str() {
        Some(reference) => schema.pointer(reference.trim_start_matches('#')).unwrap(),
        None => node,
    };
    for (key, value) in node["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{key}");
        see(&path, value);
        visit(schema, value, &path, see);
    }
    let alternatives = ["anyOf", "oneOf"].into_iter().flat_map(|key| node[key].as_array()).flatten();
    for node in alternatives.chain(node.get("items")) {
        visit(schema, node, path, see);
    }
    if node["additionalProperties"].is_object() {
        visit(schema, &node["additionalProperties"], &format!("{path}.*"), see);
    }
}

#[test]
fn the_schema_has_the_keys_that_are_read_and_no_others() {
    let root = tree::parse(EVERYTHING).unwrap();
    let decoder = decode::Decoder::new(EVERYTHING);
    read::config(&root, &decoder).unwrap();
    let asked = decoder.asked.take();
    assert_eq!(decoder.into_problems(), []);
    let mut known = BTreeSet::new();
    visit(&schema(), &schema(), "", &mut |path, _| _ = known.insert(path.to_owned()));
    assert_eq!(asked, known);
}

#[test]
fn the_schema_says_what_every_key_means() {
    let schema = schema();
    visit(&schema, &schema, "", &mut |path, node| {
        let named = node["$ref"].as_str().and_then(|name| schema.pointer(name.trim_start_matches('#')));
        let text = node["description"].as_str().or(named.and_then(|node| node["description"].as_str()));
        assert!(text.is_some_and(|text| text.ends_with('.')), "{path}: {text:?}");
    });
}

/// Where a key of the schema stands in the configuration of the next test, as JSON pointers.
fn places(path: &str) -> Vec<String> {
    let pointer = path.replace('.', "/");
    let in_pool = |pool: &str| pointer.replacen("/*", &format!("/{pool}"), 1);
    let sources = |indices: &[usize]| {
        indices
            .iter()
            .map(|index| in_pool("one").replace("/discover/", &format!("/discover/{index}/")))
            .collect()
    };
    match pointer.rsplit_once('/').unwrap() {
        (within, _) if within.ends_with("/hash") => vec![in_pool("ring")],
        (within, _) if within.ends_with("/postgres") => vec![in_pool("database")],
        (within, _) if within.contains("/replicas") => vec![in_pool("grown")],
        (within, _) if within.ends_with("/static") => {
            vec![in_pool("one").replace("/static/", "/0/static/0/")]
        }
        (within, _) if within.ends_with("/docker") => sources(&[4]),
        (within, key) if within.ends_with("/discover") => match key {
            "every" => sources(&[1, 2, 3]),
            "hold" => sources(&[1, 2, 4]),
            _ => sources(&[1, 2]),
        },
        _ => vec![in_pool("one")],
    }
}

/// A short configuration, and the same with every default of the schema written out.
#[test]
fn the_defaults_of_the_schema_are_those_that_hold() {
    let short = json!({
        "listeners": {"one": {"bind": "127.0.0.1:1", "pool": "one"}},
        "pools": {
            "one": {
                "discover": [
                    {"static": [{"address": "10.0.0.1:1"}]},
                    {"dns": "backend:1"},
                    {"srv": "_web._tcp.example.com"},
                    {"file": "backends.yaml"},
                    {"docker": {"label": "a"}},
                ],
                "health": {"tcp": {}},
                "eject": {"slow": {}},
            },
            "ring": {"balance": "ring-hash", "discover": [{"dns": "backend:1"}]},
            "grown": {"replicas": {"image": "i", "port": 1, "autoscale": {"connections_per_backend": 1}}},
            "database": {"discover": [{"dns": "backend:1"}], "health": {"postgres": {"role": "any"}}},
        },
    });
    let mut full = short.clone();
    let schema = schema();
    let mut defaults = BTreeSet::new();
    visit(&schema, &schema, "", &mut |path, node| {
        let Some(default) = node.get("default") else { return };
        for place in places(path) {
            let mut value = &mut full;
            for key in place.split('/').skip(1) {
                value = match key.parse::<usize>() {
                    Ok(index) => &mut value[index],
                    Err(_) => &mut value[key],
                };
            }
            *value = default.clone();
            defaults.insert(place);
        }
    });
    assert!(defaults.len() > 50, "{defaults:?}");
    // JSON is YAML.
    assert_eq!(read(&full.to_string()), read(&short.to_string()), "{full:#}");
    assert!(read(&full.to_string()).is_ok());
}

#[test]
fn clients_are_probed_as_their_listener_says_or_else_as_the_pool_does() {
    let config = read(
        r"
listeners:
  silent: {bind: 127.0.0.1:1, pool: p}
  other: {bind: 127.0.0.1:2, pool: p, keepalive: 10s}
  none: {bind: 127.0.0.1:3, pool: p, keepalive: off}
  shortest: {bind: 127.0.0.1:4, pool: q}
pools:
  p: {discover: [{dns: a:1}], keepalive: 30s}
  q: {discover: [{dns: b:1}]}
",
    )
    .unwrap();
    let keepalive = |name| config.listeners[name].options.keepalive.map(|time| time.as_secs());
    assert_eq!(keepalive("silent"), Some(30));
    assert_eq!(keepalive("other"), Some(10));
    assert_eq!(keepalive("none"), None);
    assert_eq!(keepalive("shortest"), Some(60));
}

fn reads_back(config: &Config) {
    let json = serde_json::to_string(&to_json(config)).unwrap();
    assert_eq!(read(&json).as_ref(), Ok(config), "{json}");
    let yaml = to_yaml(config);
    assert_eq!(read(&yaml).as_ref(), Ok(config), "{yaml}");
}

#[test]
fn what_is_written_down_of_a_configuration_reads_back() {
    reads_back(&read(EVERYTHING).unwrap());
    for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("conf")).unwrap() {
        let path = entry.unwrap().path();
        reads_back(&read(&std::fs::read_to_string(&path).unwrap()).unwrap());
    }
    // What could be taken for something else.
    let odd = r"
listeners: {on: {bind: ['unix:/tmp/$$x: y', 'unix:#'], pool: '1', keepalive: off}, no: {bind: unix:/y, pool: '1'}}
pools:
  '1':
    discover: [{static: [{address: '[::1]:1', name: '${DIR:-$}: #1 - x'}, {address: 1.2.3.4:5, name: 'null'},
      {address: 1.2.3.4:6, name: '1e3'}, {address: 1.2.3.4:7, name: '~'}, {address: 1.2.3.4:8, name: off}]}]
    health: [{exchange: {expect: '\xff$ {}'}, timeout: 1ms, every: 1h 1ms}, {http: {path: '/?a=$$b', status: 5xx}}]
";
    reads_back(&read(odd).unwrap());
}

#[test]
fn a_mode_without_quotes_is_refused_whatever_yaml_makes_of_it() {
    let told = |mode: &str| {
        let text = format!(
            "{{listeners: {{l: {{bind: 'unix:/l', pool: p, socket_mode: {mode}}}}}, pools: {{p: {{discover: [{{static: [1.2.3.4:5]}}]}}}}}}"
        );
        read(&text).map(|config| config.listeners["l"].socket_mode).map_err(|report| report.to_string())
    };
    for (mode, wanted) in [("'0660'", 0o660), ("\"0o600\"", 0o600)] {
        assert_eq!(told(mode), Ok(SocketMode(wanted)));
    }
    for mode in ["0660", "660", "0o660", "432", "0x1b0"] {
        assert!(told(mode).unwrap_err().contains("must be a mode in quotes"), "{mode}");
    }
}

#[test]
fn a_mode_of_what_has_no_unix_path_is_a_problem() {
    let pools = "pools: {p: {discover: [{static: [1.2.3.4:5]}]}}";
    for (admin, listener) in [("", ", socket_mode: '0660'"), (", socket_mode: '0660'", "")] {
        let text = format!(
            "{{admin: {{bind: 127.0.0.1:1{admin}}}, listeners: {{l: {{bind: 127.0.0.1:2, pool: p{listener}}}}}, {pools}}}"
        );
        assert!(read(&text).unwrap_err().to_string().contains("it has no Unix path"), "{text}");
    }
}

#[test]
fn what_is_written_down_of_a_configuration_has_every_key() {
    let json = serde_json::to_value(to_json(&read(EVERYTHING).unwrap())).unwrap();
    let mut missing = Vec::new();
    let mut keys = BTreeSet::new();
    fn collect(value: &Value, keys: &mut BTreeSet<String>) {
        match value {
            Value::Object(map) => map.iter().for_each(|(key, value)| {
                keys.insert(key.clone());
                collect(value, keys);
            }),
            Value::Array(items) => items.iter().for_each(|item| collect(item, keys)),
            _ => {}
        }
    }
    collect(&json, &mut keys);
    visit(&schema(), &schema(), "", &mut |path, _| {
        let key = path.rsplit('.').next().unwrap();
        // EVERYTHING has checks by HTTP, but none by TCP alone.
        if !keys.contains(key) && key != "tcp" {
            missing.push(path.to_owned());
        }
    });
    assert_eq!(missing, Vec::<String>::new());
}

#[test]
fn what_replicas_are_given_is_shown_to_nobody_who_only_looks() {
    let text = "{pools: {p: {replicas: {image: i, port: 1, env: {PASSWORD: hunter2}, command: [serve, hunter2]}, health: {exchange: {send: 'AUTH hunter2', expect: OK}}}}, listeners: {l: {bind: 127.0.0.1:1, pool: p}}}";
    let config = read(text).unwrap();
    let shown = serde_json::to_value(to_json_without_secrets(&config)).unwrap();
    assert_eq!(shown["pools"]["p"]["replicas"]["env"]["PASSWORD"], "***");
    assert!(!shown.to_string().contains("hunter2"));
}

/// What an editor says with the schema, and what the program says.
fn accepted(validator: &jsonschema::Validator, text: &str) -> (bool, bool) {
    // YAML 1.2, as editors read it: `off` is a word.
    let options = serde_yaml::options! { strict_booleans: true };
    let document: Value = serde_yaml::from_str_with_options(text, options).unwrap();
    (validator.is_valid(&document), read(text).is_ok())
}

#[test]
fn the_schema_accepts_what_the_program_accepts() {
    let validator = jsonschema::validator_for(&schema()).unwrap();
    assert_eq!(accepted(&validator, EVERYTHING), (true, true));
    for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("conf")).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(accepted(&validator, &text), (true, true), "{}", path.display());
    }
}

#[test]
fn the_schema_refuses_what_the_program_refuses() {
    let validator = jsonschema::validator_for(&schema()).unwrap();
    for (from, to) in [
        ("workers: 1", "workers: 0"),
        ("workers: 1", "workres: 1"),
        ("grace: 0s", "grace: soon"),
        ("level: info", "level: loud"),
        ("keep: 7", "keep: 0"),
        ("max_size: 100MiB", "max_size: 100"),
        ("socket_mode: '0600'", "socket_mode: '600'"),
        ("socket_mode: '0600'", "socket_mode: '0800'"),
        ("connections: true", "connections: maybe"),
        ("{bind: 127.0.0.1:9900, token_file: /run/token, hosts: [lb.example.com]}", "{}"),
        ("token_file: /run/token", "token_file: [a]"),
        ("token_file: /run/token", "token: secret"),
        ("hosts: [lb.example.com]", "hosts: lb.example.com"),
        ("hosts: [lb.example.com]", "hosts: ['lb.example.com:80']"),
        ("bind: ['127.0.0.1:1', 'unix:/l'], ", ""),
        ("bind: ['127.0.0.1:1', 'unix:/l'], ", "bind: [], "),
        ("pool: one, ", ""),
        ("  one:\n    {bind", "  \"o/e\":\n    {bind"),
        ("balance: weighted", "balance: fair"),
        ("address: 10.0.0.1:1, ", ""),
        ("weight: 3", "weight: 1000"),
        ("family: any", "family: 5"),
        ("path: /health", "path: health"),
        ("status: 200", "status: 20"),
        ("every: 2s, timeout: 1s", "every: 2s, tcp: {}"),
        ("attempts: 1", "attempts: 0"),
        ("{close: 1s, after: 1s}", "{close: 1s, reset: 1s}"),
        ("{close: 1s, after: 1s}", "later"),
        ("keepalive: 30s", "keepalive: 30"),
        ("defer_accept: 10s", "defer_accept: on"),
        ("fast_open: 256", "fast_open: 0"),
        ("fast_open: 256", "fast_open: 65536"),
        ("fast_open: 256", "fast_open: on"),
        ("user_timeout: 20s", "user_timeout: 20"),
        ("keepalive: 60s", "keepalive: on"),
        ("user_timeout: 30s", "user_timeout: never"),
        ("max_checks: 9", "max_checks: 0"),
        ("backup: true", "backup: 1"),
        ("connections: 5", "connections: 0"),
        ("{close: 2s}", "wait"),
        ("failures: 4", "failures: 0"),
        ("for: 20s", "for: 20"),
        ("at_most: 40%", "at_most: 40"),
        ("factor: 2.5", "factor: 1"),
        ("answers: 10", "answers: 0"),
        ("slow: {", "slow: {faktor: 2, "),
        ("panic: 30%", "panic: 101%"),
        ("connections: 100", "connections: -1"),
        ("queue_timeout: 3s", "queue_timeout: off"),
        ("slow_start: 15s", "slow_start: off"),
        ("key: source-net", "key: source"),
        ("slots: 512", "slots: 0"),
        ("slots: 512", "slots: 2000000"),
        ("virtual_nodes: 9", "virtual_nodes: 9.5"),
        ("load_factor: 1.25", "load_factor: 1"),
        ("load_factor: 1.25", "load_factor: 100.5"),
        ("_web._tcp.example.com", "web.example.com"),
        ("_web._tcp.example.com", "_web._udp.example.com"),
        ("label: a=b", "label: =b"),
        ("label: a=b, ", ""),
        ("port: 2", "port: 0"),
        ("'unix:///run/d'", "/run/d"),
        ("docker: c", "docker: ' c'"),
        ("file: backends.yaml", "file: []"),
        ("file: backends.yaml", "file: backends.yaml, hold: 1s"),
        ("201, 2xx", "201, 6xx"),
        ("201, 2xx, 300-399", ""),
        ("fast_every: 500ms", "fast_every: never"),
        ("grace: 7s", "grace: 7"),
        (", expect: '+PONG'", ""),
        ("role: standby", "role: replica"),
        ("role: standby, ", ""),
        ("[scram-sha-256, md5]", "scram"),
        ("[scram-sha-256, md5]", "[]"),
        ("[scram-sha-256, md5]", "[md5, gss]"),
        ("role: replica", "role: standby"),
        ("postgres: primary", "postgres: master"),
        ("redis: master", "redis: primary"),
        ("redis: master", "redis: master, tcp: {}"),
        ("image: i, ", ""),
        ("port: 3, ", ""),
        ("max: 9", "max: 0"),
        ("max: 9", "max: 501"),
        ("respawn: false", "respawn: never"),
        ("group: g", "group: -g"),
        ("group: g", "group: 'a b'"),
        ("group: g, network: n", "group: g, network: host"),
        ("env: {A: b}", "env: [A]"),
        ("env: {A: b}", "env: {A=B: b}"),
        ("env: {A: b}", "env: {A: [b]}"),
        ("command: [a, b]", "command: a b"),
        ("command: [a, b]", "command: []"),
        ("adopt: {label: c=d}", "adopt: '*'"),
        ("adopt: {label: c=d}", "adopt: {}"),
        ("adopt: {label: c=d}", "adopt: {label: =d}"),
        ("drain: 9s", "drain: off"),
        ("stop_timeout: 8s", "stop_timeout: 8"),
        ("connections_per_backend: 50, ", ""),
        ("connections_per_backend: 50", "connections_per_backend: 0"),
        ("cooldown: 11s", "cooldown: never"),
        ("step: 3", "step: 0"),
        ("dry_run: true", "dry_run: 1"),
        ("user: u, password_file: /p}}\n      - {postgres: primary", "user: u}}\n      - {postgres: primary"),
    ] {
        let text = EVERYTHING.replacen(from, to, 1);
        assert_ne!(text, EVERYTHING, "{from:?} is not there");
        assert_eq!(accepted(&validator, &text), (false, false), "{to:?} instead of {from:?}");
    }
}

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
    fn nothing_makes_it_panic_and_every_problem_has_its_place(tree in tree()) {
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
    fn every_misspelled_key_is_told_at_its_place(wrong in prop::collection::btree_set(0..12_usize, 1..12)) {
        // A key on a line of its own is misspelled by a letter more.
        let lines = ["runtime:", "  workers: 1", "log:", "  level: info", "  keep: 3", "listeners:", "  web:",
            "    bind: 127.0.0.1:1", "    pool: web", "pools:", "  web:", "    discover: [{dns: a:1}]",
            "    keepalive: 1m", "    connect:", "      attempts: 2"];
        let optional = [0, 1, 2, 3, 4, 12, 13, 14];
        let wrong: BTreeSet<usize> = wrong.into_iter().map(|index| optional[index % optional.len()]).collect();
        // What stands below a key that is not known is not read.
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
        let told: BTreeSet<usize> = report.problems().iter().map(|problem| problem.at.unwrap().line - 1).collect();
        prop_assert_eq!(told, wrong.iter().copied().filter(read_at_all).collect::<BTreeSet<_>>());
        prop_assert!(report.problems().iter().all(|problem| problem.message.contains("did you mean")), "{}", report);
    }
}
