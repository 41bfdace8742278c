//! Checks that the JSON Schema and the examples match the program.

use std::collections::BTreeSet;

use serde_json::Value;

use super::super::*;
use super::{EVERYTHING, read};

fn schema() -> Value {
    serde_json::from_str(&json_schema()).unwrap()
}

/// Calls `see` with every key below a part of the schema: its path, with `*` for a name, and its schema.
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
fn every_key_has_a_description() {
    let schema = schema();
    visit(&schema, &schema, "", &mut |path, node| {
        let named = node["$ref"].as_str().and_then(|name| schema.pointer(name.trim_start_matches('#')));
        let text = node["description"].as_str().or(named.and_then(|node| node["description"].as_str()));
        assert!(text.is_some_and(|text| text.ends_with('.')), "{path}: {text:?}");
    });
}

/// The files in `conf` that are written by the program.
#[test]
fn the_written_files_are_current() {
    for (file, wanted, argument) in
        [("schema.json", json_schema(), ""), ("full.yaml", example(), " --example")]
    {
        let path = crate::testing::repository().join("conf").join(file);
        let current = std::fs::read_to_string(path).unwrap() == wanted;
        assert!(current, "run: pointsman schema{argument} > conf/{file}");
    }
}

#[test]
fn a_printed_configuration_has_every_key() {
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

/// Whether an editor with the schema accepts a text, and whether the program does.
fn accepted(schema: &Validator, text: &str) -> (bool, bool) {
    // YAML 1.2, as editors read it: `off` is a word.
    let options = serde_yaml::options! { strict_booleans: true };
    let document: Value = serde_yaml::from_str_with_options(text, options).unwrap();
    (schema.schemas.validate(&document, schema.index).is_ok(), read(text).is_ok())
}

/// The schema as an editor uses it.
struct Validator {
    schemas: boon::Schemas,
    index: boon::SchemaIndex,
}

impl Validator {
    fn new() -> Self {
        let (mut schemas, mut compiler) = (boon::Schemas::new(), boon::Compiler::new());
        compiler.add_resource("schema.json", schema()).unwrap();
        let index = compiler.compile("schema.json", &mut schemas).unwrap();
        Self { schemas, index }
    }
}

#[test]
fn the_schema_accepts_what_the_program_accepts() {
    let validator = Validator::new();
    assert_eq!(accepted(&validator, EVERYTHING), (true, true));
    for path in super::examples() {
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(accepted(&validator, &text), (true, true), "{}", path.display());
    }
}

#[test]
fn the_schema_refuses_what_the_program_refuses() {
    let validator = Validator::new();
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
        ("sources: {10.1.0.0/16: one}", "sources: {office: one}"),
        ("alpn: {acme-tls/1: one}", "alpn: {'acme tls': one}"),
        ("'*.example.com'", "'*example.com'"),
        ("two: 5}", "two: -5}"),
        ("hello_timeout: 4s", "hello_timeout: 4"),
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
