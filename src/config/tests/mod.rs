//! The configuration as a whole.

mod laws;
mod reference;
mod schema;

use std::path::PathBuf;

use super::*;

/// Every key that can be written, each at least once.
const EVERYTHING: &str = r"
runtime: {state: s, workers: 1, max_connections: 1, busy_poll: 50us, max_checks: 9, records: 9, drain: {grace: 0s, timeout: 1s, spread: 1s}}
log: {level: info, format: text, directory: logs, rotation: daily, max_size: 100MiB, keep: 7, connections: true}
admin: {bind: 127.0.0.1:9900, token_file: /run/token, hosts: [lb.example.com]}
listeners:
  one:
    {bind: ['127.0.0.1:1', 'unix:/l'], pool: one, no_backend: reset, max_connections: 1,
    allow: [10.0.0.0/8, '::1'], deny: 10.6.6.0/24,
    per_client: {connections: 9, rate: 600/m, burst: 30, dry_run: true}, bandwidth: {per_connection: 2MiB/s, total: 3GB/s}, buffers: {unsent: off},
    proxy_protocol: {trust: [10.0.0.1], timeout: 3s}, keepalive: 30s, defer_accept: 10s, fast_open: 256, user_timeout: 20s, socket_mode: '0600'}
  two: {bind: '127.0.0.1:2', sources: {10.1.0.0/16: one}, alpn: {acme-tls/1: one},
    sni: {api.example.com: one, '*.example.com': {one: 95, two: 5}}, default: two, postgres: true, hello_timeout: 4s}
  three: {bind: '127.0.0.1:3', pool: {one: 19, two: 1}}
pools:
  one:
    balance: weighted
    shadow: [least-connections, random-two]
    discover:
      - static: [{address: 10.0.0.1:1, name: a, weight: 3, backup: true, connections: 5, zone: eu-1a}]
      - {dns: backend:1, every: 1s, server: 127.0.0.11, hold: 1s, flap: 1s, family: any, zone: eu-1a}
    health: {http: {path: /health, host: h, status: 200, body: ok}, every: 2s, timeout: 1s, rise: 1, fall: 1, port: 1}
    connect: {timeout: 1s, attempts: 1, source: [10.0.0.5, '::1'], transparent: true}
    timeouts: {idle: 1h, half_closed: 1m, lifetime: off}
    keepalive: 60s
    user_timeout: 30s
    buffers: {unsent: 1MiB}
    on_down: {close: 1s, after: 1s}
    on_leave: {reset: 1s}
    on_drain: {close: 2s}
    eject: {failures: 4, for: 20s, at_most: 40%, slow: {factor: 2.5, floor: 50ms, answers: 10, every: 8s}}
    panic: 30%
    limits: {connections: 100, queue: 50, queue_timeout: 3s}
    backup: {when: down}
    zone: {name: eu-1a, min_up: 60%, min_backends: 2}
    slow_start: 15s
    send_proxy_protocol: {version: v2, authority: true, unique_id: true}
    replay: always
    rebalance: {idle: 2m, rate: 5/m, tolerance: 5%, dry_run: true}
  two:
    balance: ring-hash
    hash: {key: source-net, slots: 512, virtual_nodes: 9, load_factor: 1.25}
    discover:
      - {srv: _web._tcp.example.com, every: 1s, server: 127.0.0.11, hold: 1s, flap: 1s, family: any, zone: eu-1b}
      - {file: backends.yaml, every: 2s}
      - {docker: {label: a=b, port: 2, network: n, engine: 'unix:///run/d', healthcheck: false}, hold: 1s}
      - {docker: c}
      - {etcd: /a/}
      - {etcd: {prefix: /b/, endpoints: ['http://10.0.0.1:2379', 'https://[::1]:2379'], user: u, password_file: /p, tls: {ca_file: /c}}, every: 5s, hold: 1s}
      - {consul: web}
      - {consul: {service: web, endpoints: 'https://consul.test:8501', tags: [a, b], datacenter: d, token_file: /t, wait: 1m, healthcheck: false, tls: {verify: false}}, hold: 1s}
      - {kubernetes: web}
      - {kubernetes: {service: web, namespace: n, port: http, endpoints: 'https://k.test:6443', token_file: /t, wait: 1m, healthcheck: false, tls: {ca_file: /c}}, hold: 1s}
      - {kubernetes: {service: web, port: 8080, endpoints: 'http://127.0.0.1:8001'}}
    health:
      - {http: {path: /, status: [201, 2xx, 300-399]}, fast_every: 500ms, grace: 7s, tls: {ca_file: /c, name: n.test, cert_file: /p, key_file: /k}}
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

fn read(text: &str) -> Result<Config, ConfigErrors> {
    parse("pointsman.yaml", text, &|_| None)
}

#[test]
fn a_listener_without_keepalive_has_that_of_its_pool() {
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
    let keepalive = |name: &str| config.listeners[&name.into()].options.keepalive.map(|time| time.as_secs());
    assert_eq!(keepalive("silent"), Some(30));
    assert_eq!(keepalive("other"), Some(10));
    assert_eq!(keepalive("none"), None);
    assert_eq!(keepalive("shortest"), Some(60));
}

/// The configurations in `conf`.
fn examples() -> Vec<PathBuf> {
    let folder = crate::testing::repository().join("conf");
    let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "yaml")).collect()
}

fn reads_back(config: &Config) {
    let json = serde_json::to_string(&to_json(config)).unwrap();
    assert_eq!(read(&json).as_ref(), Ok(config), "{json}");
    let yaml = to_yaml(config);
    assert_eq!(read(&yaml).as_ref(), Ok(config), "{yaml}");
}

#[test]
fn a_printed_configuration_reads_back() {
    reads_back(&read(EVERYTHING).unwrap());
    for path in examples() {
        reads_back(&read(&std::fs::read_to_string(&path).unwrap()).unwrap());
    }
    // Text that YAML could read as something else.
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
fn a_mode_without_quotes_is_an_error() {
    let mode_of = |mode: &str| {
        let text = format!(
            "{{listeners: {{l: {{bind: 'unix:/l', pool: p, socket_mode: {mode}}}}}, pools: {{p: {{discover: [{{static: [1.2.3.4:5]}}]}}}}}}"
        );
        read(&text)
            .map(|config| config.listeners[&"l".into()].socket_mode)
            .map_err(|report| report.to_string())
    };
    for (mode, wanted) in [("'0660'", 0o660), ("\"0o600\"", 0o600)] {
        assert_eq!(mode_of(mode), Ok(SocketMode(wanted)));
    }
    for mode in ["0660", "660", "0o660", "432", "0x1b0"] {
        assert!(mode_of(mode).unwrap_err().contains("must be a mode in quotes"), "{mode}");
    }
}

#[test]
fn a_mode_without_a_unix_path_is_an_error() {
    let pools = "pools: {p: {discover: [{static: [1.2.3.4:5]}]}}";
    for (admin, listener) in [("", ", socket_mode: '0660'"), (", socket_mode: '0660'", "")] {
        let text = format!(
            "{{admin: {{bind: 127.0.0.1:1{admin}}}, listeners: {{l: {{bind: 127.0.0.1:2, pool: p{listener}}}}}, {pools}}}"
        );
        assert!(read(&text).unwrap_err().to_string().contains("it has no Unix path"), "{text}");
    }
}

#[test]
fn secrets_are_masked_in_what_the_api_shows() {
    let text = "{pools: {p: {replicas: {image: i, port: 1, env: {PASSWORD: hunter2}, command: [serve, hunter2]}, health: {exchange: {send: 'AUTH hunter2', expect: OK}}}}, listeners: {l: {bind: 127.0.0.1:1, pool: p}}}";
    let config = read(text).unwrap();
    let shown = serde_json::to_value(to_json_without_secrets(&config)).unwrap();
    assert_eq!(shown["pools"]["p"]["replicas"]["env"]["PASSWORD"], "***");
    assert!(!shown.to_string().contains("hunter2"));
}

#[test]
fn a_listener_has_one_way_to_a_pool() {
    let errors = |listener: &str, pool: &str| {
        let backends = "discover: [{static: [10.0.0.1:1]}]";
        let pools = format!("pools: {{p: {{{backends}{pool}}}, q: {{{backends}}}}}");
        let text = format!("{{listeners: {{l: {{bind: 127.0.0.1:1{listener}}}}}, {pools}}}");
        match read(&text) {
            Ok(_) => String::new(),
            Err(errors) => errors.to_string(),
        }
    };
    let hashed = ", balance: maglev, hash: {key: sni}";
    for (listener, pool, error) in [
        ("", "", "listener \"l\" needs a \"pool\", such as web"),
        (", default: p", "", "listener \"l\" needs a \"pool\", such as web"),
        (", pool: p, default: q", "", "\"default\" in listener \"l\" does nothing"),
        (
            ", pool: p, sni: {a: q}",
            "",
            "with \"sni\", call the pool of the remaining connections \"default\"",
        ),
        (
            ", pool: [p, q]",
            "",
            "must be a pool, or pools with the share of each, such as {web: 95, canary: 5}",
        ),
        (", pool: {p: 0}", "", "\"pool\" in listener \"l\" needs a pool with a share of at least 1"),
        (
            ", pool: {p: 1, q: 257}",
            "",
            "the share of \"q\" in \"pool\" in listener \"l\" must be a whole number from 0",
        ),
        (", pool: {p: 1, r: 2}", "", "names the pool \"r\", which does not exist"),
        (", sni: {a: r}", "", "names the pool \"r\", which does not exist"),
        (", sni: {a: p}, default: r", "", "names the pool \"r\", which does not exist"),
        (", sni: {}", "", "\"sni\" in listener \"l\" is empty: a key must be a name such as"),
        (", sni: {'a:1': p}", "", "the key \"a:1\" in \"sni\" in listener \"l\" must be a name such as"),
        (", sni: {a.example: p, A.example: q}", "", "\"sni\" in listener \"l\" has \"a.example\" twice"),
        (", sources: {10.1.2.3/8: p}", "", "must be 10.0.0.0/8 for the whole network"),
        (", alpn: {'a b': p}", "", "must be the name of a protocol, such as h2"),
        (", pool: {p: 1, q: 1}, no_backend: refuse", "", "\"no_backend: refuse\" needs a single pool"),
        (", sni: {a: p}, no_backend: refuse", "", "\"no_backend: refuse\" needs a single pool"),
        (", pool: p, hello_timeout: 1s", "", "\"hello_timeout\" in listener \"l\" does nothing"),
        (
            ", sources: {10.0.0.0/8: p}, hello_timeout: 1s",
            "",
            "\"hello_timeout\" in listener \"l\" does nothing",
        ),
    ] {
        let found = errors(listener, pool);
        assert!(found.contains(error), "{listener}: {found:?}");
    }
    for (listener, pool) in [
        (", pool: p, no_backend: refuse", ""),
        (", pool: {p: 1}, no_backend: refuse", ""),
        (", pool: p, hello_timeout: 1s", hashed),
        (", sni: {a: {p: 1, q: 0}}, hello_timeout: 1s", ""),
        (", sources: {10.0.0.0/8: p, 10.1.1.1: q}", ""),
    ] {
        assert_eq!(errors(listener, pool), "", "{listener}");
    }
}

#[test]
fn the_clienthello_is_read_where_it_is_needed() {
    let reads = |listener: &str, pool: &str| {
        let pools = format!("pools: {{p: {{discover: [{{static: [10.0.0.1:1]}}]{pool}}}}}");
        let text = format!("{{listeners: {{l: {{bind: 127.0.0.1:1, {listener}}}}}, {pools}}}");
        read(&text).unwrap().listeners[&"l".into()].reads_hello
    };
    let hashed = ", balance: maglev, hash: {key: sni}";
    assert!(!reads("pool: p", "") && !reads("sources: {10.0.0.0/8: p}", ""));
    assert!(reads("sni: {a: p}", "") && reads("alpn: {h2: p}", "") && reads("pool: p", hashed));
}

#[test]
fn the_admin_address_of_an_invalid_configuration_is_read() {
    let admin = |text: &str| {
        let variables = |name: &str| (name == "PORT").then(|| "9911".to_owned());
        let admin = admin_of(text, &variables)?;
        Some((admin.bind.to_string(), admin.token_file))
    };
    let invalid = "listeners: {web: {bind: nonsense, pool: no}}\nhost: ${MISSING}\n";
    let section = "admin: {bind: '127.0.0.1:${PORT}', token_file: /run/token, hsots: []}\n";
    let expected = ("127.0.0.1:9911".to_owned(), Some(PathBuf::from("/run/token")));
    assert_eq!(admin(&format!("{invalid}{section}")), Some(expected));
    let unix = admin("admin: {bind: 'unix:/run/a.sock', token_file: []}\n");
    assert_eq!(unix, Some(("unix:/run/a.sock".to_owned(), None)));
    for hopeless in [
        "",
        invalid,
        "admin: {bind: nonsense}",
        "admin: {bind: '${MISSING}'}",
        "admin: {bind: 1",
        "admin: []",
    ] {
        assert_eq!(admin(hopeless), None, "{hopeless:?}");
    }
}
