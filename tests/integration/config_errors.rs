//! The errors of `pointsman check` for invalid configurations.
//!
//! The snapshots are in `tests/integration/snapshots`; `cargo insta review` shows how a change affects them.

use std::process::Command;

use crate::support::Limited;

/// The error output for a configuration.
fn errors_of(text: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("pointsman.yaml"), text).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_pointsman"))
        .args(["check", "-c", "pointsman.yaml"])
        .current_dir(folder.path())
        .env_clear()
        .env("PORT", "8080")
        .output_in_time()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

macro_rules! errors {
    ($($name:ident: $text:expr;)*) => {
        $(#[test]
        fn $name() {
            insta::with_settings!({omit_expression => true}, { insta::assert_snapshot!(errors_of($text)) });
        })*
    };
}

errors! {
    an_unknown_key: "\
listeners:
  web: {bind: 0.0.0.0:8080, pool: web}
pools:
  web:
    discover: [{dns: backend:5000}]
    helth: {http: /health}
    nonsense: 1
runtime:
  drian: {timeout: 30s}
";
    backends_at_addresses_of_the_balancer: "\
admin: {bind: 127.0.0.1:9900}
listeners:
  web: {bind: ['0.0.0.0:8080', '[::1]:8081'], pool: web}
pools:
  web:
    balance: weighted
    discover:
      - static: [127.0.0.1:8080, '[::1]:8080', 127.0.0.1:8081, 192.0.2.1:8080]
      - static: [{address: '[::1]:8081', weight: 2}]
  other: {discover: [{static: [127.0.0.1:9900]}]}
";
    what_the_kernel_cannot_do: "\
listeners:
  web: {bind: 127.0.0.1:8080, pool: web, plane: kernel, max_connections: 5, no_backend: http-503}
  other: {bind: 0.0.0.0:8081, pool: web, client_address: keep, conntrack_events: all}
pools:
  web:
    balance: least-connections
    discover: [{dns: backend:5000}]
    send_proxy_protocol: v2
    limits: {connections: 10}
";
    invalid_limits_of_clients: "\
listeners:
  none: {bind: 0.0.0.0:8080, pool: web, per_client: {dry_run: true}}
  rate: {bind: 0.0.0.0:8081, pool: web, per_client: {rate: 10, burst: 5}}
  zero: {bind: 0.0.0.0:8082, pool: web, per_client: {connections: 0}}
  burst: {bind: 0.0.0.0:8083, pool: web, per_client: {connections: 5, burst: 5}}
  local: {bind: 'unix:/run/web.sock', pool: web, per_client: {connections: 5}}
pools:
  web: {discover: [{dns: backend:5000}]}
";
    invalid_source_addresses: "\
listeners:
  web: {bind: 0.0.0.0:8080, pool: web}
pools:
  web: {discover: [{dns: backend:5000}], connect: {source: [10.0.0.5:80, lan]}}
  two: {discover: [{dns: backend:5000}], connect: {source: []}}
";
    invalid_settings_of_the_proxy_protocol: "\
listeners:
  web: {bind: 0.0.0.0:8080, pool: web, proxy_protocol: {}}
  two: {bind: 0.0.0.0:8081, pool: web, proxy_protocol: {trust: [], timeout: 0s}}
  all: {bind: 0.0.0.0:8082, pool: web, proxy_protocol: true}
pools:
  web: {discover: [{dns: backend:5000}], send_proxy_protocol: v3}
";
    invalid_networks_of_clients: "\
listeners:
  web: {bind: 0.0.0.0:8080, pool: web, allow: [10.1.2.3/8, lan, 10.0.0.0/33, '::ffff:10.0.0.0/104'], deny: []}
  local: {bind: 'unix:/run/web.sock', pool: web, allow: 10.0.0.0/8}
pools:
  web: {discover: [{dns: backend:5000}]}
";
    invalid_replicas: "\
listeners:
  web: {bind: 0.0.0.0:8080, pool: a}
pools:
  a: {replicas: {image: backend-flask}}
  b: {replicas: {image: backend-flask, port: 5000, min: 9, max: 3, group: my web, network: host}}
  c: {replicas: {image: backend-flask, port: 5000, min: 0, autoscale: {up_after: 5}}}
  d: {replicas: {image: backend-flask, port: 5000, adopt: '*', command: sleep 5, engine: docker, replica: 3}}
";
    values_of_the_wrong_kind: "\
runtime: {workers: many, max_connections: 0, drain: soon}
log: {level: loud, format: xml, rotation: weekly, keep: 0, connections: perhaps}
admin: {bind: localhost:9900}
listeners:
  web: {bind: 8080, pool: [web], no_backend: http503, max_connections: -1}
pools:
  web:
    balance: roundrobin
    discover: {dns: backend:5000}
    health: {http: health, every: 2, rise: 0, port: 70000}
    connect: {timeout: 0s, attempts: none}
    timeouts: {idle: never}
    keepalive: 60
    on_down: wait
    on_leave: {close: 5m, reset: 5m}
";
    invalid_backends: "\
listeners:
  web: {bind: 0.0.0.0:8080, pool: web}
pools:
  web:
    discover:
      - static: [backend:5000, 10.0.0.1, 10.0.0.1:99999, {name: a}, {address: 10.0.0.2:1, wieght: 3}]
      - static: []
      - dns: backend
      - dns: 10.0.0.1:5000
      - {dns: \"bad name:5000\", server: dns.example.com, family: 5}
      - {}
      - {dns: backend:5000, static: [10.0.0.3:1]}
";
    the_same_backend_twice: "\
listeners:
  web: {bind: 0.0.0.0:8080, pool: web}
pools:
  web:
    discover:
      - static: [10.0.0.1:5000, 10.0.0.1:5000]
      - static: [{address: 10.0.0.2:5000, name: a}, {address: 10.0.0.3:5000, name: a}]
      - dns: backend:5000
      - dns: backend:5000
";
    weights_without_effect: "\
listeners:
  web: {bind: 0.0.0.0:8080, pool: web}
  api: {bind: 0.0.0.0:8081, pool: api}
pools:
  web:
    balance: weighted
    discover: [{static: [{address: 10.0.0.1:1, weight: 0}, {address: 10.0.0.2:1, weight: 0}]}]
  api:
    discover: [{static: [{address: 10.0.0.1:1, weight: 3}, 10.0.0.2:1]}]
";
    invalid_sources: "\
listeners:
  web: {bind: 0.0.0.0:8080, pool: web}
pools:
  web:
    discover:
      - srv: backend
      - srv: _web._tcp.example.com:8080
      - {srv: _web._udp.example.com, every: 1ms, port: 80}
      - {dsn: backend:5000, every: 1s}
      - file: [10.0.0.1:5000]
      - {file: backends.yaml, hold: 10s}
      - docker: {port: 5000}
      - docker: {label: =web, port: 0, engine: /var/run/docker.sock, healthcheck: maybe, hold: 10s}
      - docker: [web]
";
    the_same_source_twice: "\
listeners:
  web: {bind: 0.0.0.0:8080, pool: web}
pools:
  web:
    discover:
      - {dns: backend:5000, family: 4}
      - {dns: backend:5001}
      - {dns: backend:5000, family: 6}
      - srv: _web._tcp.example.com
      - srv: _web._tcp.example.com
      - file: backends.yaml
      - file: backends.yaml
      - docker: {label: pointsman.pool=web, port: 5000}
      - docker: {label: pointsman.pool=web, port: 5000, healthcheck: false}
";
    backups_without_another_backend: "\
listeners:
  web: {bind: 0.0.0.0:8080, pool: web}
  api: {bind: 0.0.0.0:8081, pool: api}
pools:
  web: {discover: [{static: [{address: 10.0.0.1:1, backup: true}, {address: 10.0.0.2:1, backup: true}]}]}
  api: {discover: [{static: [{address: 10.0.0.1:1, backup: yes, connections: 0}]}]}
";
    hashes_without_effect: "\
listeners:
  web: {bind: 0.0.0.0:8080, pool: web}
pools:
  web: {discover: [{dns: a:1}], hash: {key: source-ip}}
  least: {discover: [{dns: a:1}], balance: least-connections, hash: {}}
  table: {discover: [{dns: a:1}], balance: maglev, hash: {slots: 512, virtual_nodes: 9}, slow_start: 10s}
  unknown: {discover: [{dns: a:1}], balance: ringhash, hash: {slots: 512}, slow_start: 10s}
";
    invalid_hashes: "\
listeners:
  web: {bind: 0.0.0.0:8080, pool: web}
pools:
  web:
    balance: ring-hash
    hash: {key: source_ip, slots: 10000000, virtual_nodes: 0, load_factor: 1}
    discover: [{dns: a:1}]
  api: {discover: [{dns: a:1}], balance: maglev, hash: {load_factor: 1.255, salt: x}}
  full:
    balance: ring-hash
    hash: {slots: 16, virtual_nodes: 9}
    discover: [{static: [10.0.0.1:1, 10.0.0.2:1]}]
";
    invalid_limits: "\
listeners:
  web: {bind: 0.0.0.0:8080, pool: web}
pools:
  web:
    discover: [{dns: a:1}]
    eject: {failures: 0, for: 0s, at_most: 50, slow: {factor: 1, floor: 100, answers: none, evry: 1s}}
    panic: 101%
    limits: {connections: many, queue: 10, queue_timeout: off}
    slow_start: 10
    on_drain: {wait: 30s}
  api:
    discover: [{static: [10.0.0.1:1]}]
    eject: {failures: off}
    limits: {queue: 10}
";
    a_listener_without_its_pool: "\
listeners:
  web: {bind: 0.0.0.0:8080, pool: wep}
  api: {bind: 0.0.0.0:8081, pool: other}
  raw: {}
pools:
  web: {discover: [{dns: backend:5000}]}
  db: {discover: [{dns: db:5432}]}
";
    two_listeners_on_one_address: "\
admin: {bind: 127.0.0.1:9900}
listeners:
  web: {bind: 0.0.0.0:8080, pool: web}
  api: {bind: [127.0.0.1:8080, \"[::]:9900\"], pool: web}
  one: {bind: unix:/run/one.sock, pool: web}
  two: {bind: unix:/run/one.sock, pool: web}
pools:
  web: {discover: [{dns: backend:5000}]}
";
    options_out_of_range: "\
listeners:
  web: {bind: 0.0.0.0:8080, pool: web, keepalive: 10h, defer_accept: 500ms, fast_open: 70000, user_timeout: 25h}
  api: {bind: 0.0.0.0:8081, pool: web, keepalive: 30, defer_accept: on, fast_open: 1s, user_timout: 30s}
pools:
  web: {discover: [{dns: backend:5000}], keepalive: 10h, user_timeout: 100ms, fast_open: 256}
";
    invalid_shadows: "\
listeners:
  web: {bind: 0.0.0.0:8080, pool: web}
  api: {bind: 0.0.0.0:8081, pool: api}
pools:
  web: {discover: [{dns: backend:5000}], shadow: [least-connection, ewma, random-two]}
  api: {discover: [{dns: backend:5000}], shadow: least-connections}
";
    tcp_options_without_a_tcp_address: "\
listeners:
  one: {bind: unix:/run/one.sock, pool: web, keepalive: 30s, defer_accept: 10s, fast_open: 256, user_timeout: 30s}
  two: {bind: unix:/run/two.sock, pool: web, keepalive: off, defer_accept: off}
  three: {bind: [unix:/run/three.sock, 0.0.0.0:8080], pool: web, defer_accept: 10s}
pools:
  web: {discover: [{dns: backend:5000}]}
";
    a_timeout_longer_than_its_interval: "\
listeners:
  web: {bind: 0.0.0.0:8080, pool: web}
pools:
  web:
    discover: [{dns: backend:5000}]
    health: {http: /health, every: 1s, timeout: 2s}
";
    checks_of_no_kind_and_of_two_kinds: "\
listeners:
  web: {bind: 0.0.0.0:8080, pool: web}
  api: {bind: 0.0.0.0:8081, pool: api}
pools:
  web: {discover: [{dns: a:1}], health: {every: 1s}}
  api: {discover: [{dns: b:1}], health: {http: /, tcp: {}}}
";
    invalid_checks: "\
runtime: {max_checks: 0}
listeners:
  web: {bind: 0.0.0.0:8080, pool: web}
pools:
  web:
    discover: [{dns: a:1}]
    health:
      - {http: {path: /, status: [200, 6xx, 299-200, ok]}, fast_every: 2s, grace: 1}
      - {http: {host: a}, tcp: {}}
      - {http: {path: /primary, port: 8008}}
      - {htpp: /health}
      - {exchange: {send: 'PING\\q', expct: PONG}}
      - {exchange: {send: \"\\xff\\xfb\", expect: '\\xf'}}
      - {postgres: master}
      - {postgres: {user: pointsman, databse: app}}
      - {postgres: {role: any, password_file: /p, require_auth: [scram, md5]}}
      - {redis: primary}
      - {redis: {role: any, user: pointsman}}
      - tcp
      - {tcp: {}, tls: {}}
      - {tcp: {}, tls: {verify: true, name: 127.0.0.1}}
      - {tcp: {}, tls: {verify: false, ca_file: /c, cert_file: /d}}
  none: {discover: [{dns: a:1}], health: []}
";
    invalid_sources_in_registries: "\
listeners:
  web: {bind: 0.0.0.0:8080, pool: web}
pools:
  web:
    discover:
      - {etcd: {}}
      - {etcd: ''}
      - {etcd: {prefix: /a/, endpoints: [10.0.0.1:2379, 'http://etcd:2379/v3', 'http://root:hunter2@etcd:2379', 'http://etcd']}}
      - {etcd: {prefix: /b/, endpoints: 'https://etcd:2379'}}
      - {etcd: {prefix: /c/, tls: {verify: false}, user: root}}
      - {etcd: {prefix: /d/, endpoints: []}, every: 1ms, wait: 1s}
      - {etcd: /e/}
      - {etcd: {prefix: /e/}}
      - {consul: 'web app'}
      - {consul: {service: web, tags: [], wait: 1h, datacenter: '', tokenfile: /t}}
      - {consul: {service: web, endpoints: 'unix:///run/consul'}, every: 1s}
      - {kubernetes: Web}
      - {kubernetes: {service: web, namespace: 'a/b', port: 0, wait: 0s}, every: 1s}
      - {kubernetes: {service: web, port: HTTP, endpoints: 'http://127.0.0.1:8001', tls: {ca_file: /c}}}
";
    an_empty_file: "";
    empty_maps: "listeners: {}\npools: {}\n";
    a_list_instead_of_a_map: "- listeners\n- pools\n";
    invalid_names: "\
listeners:
  \"web/1\": {bind: 0.0.0.0:8080, pool: web}
pools:
  web: {discover: [{dns: a:1}]}
  \"\": {discover: [{dns: a:1}]}
  ..: {discover: [{dns: a:1}]}
";
    not_yaml: "listeners:\n  web: {bind: 0.0.0.0:8080, pool: web\npools:\n  web: 1\n";
    a_tab: "listeners:\n\tweb: {bind: 0.0.0.0:8080, pool: web}\n";
    the_same_key_twice: "\
listeners:
  web: {bind: 0.0.0.0:8080, pool: web}
pools:
  web: {discover: [{dns: a:1}]}
  web: {discover: [{dns: b:1}]}
";
    variables: "\
listeners:
  web: {bind: \"0.0.0.0:${PORT}\", pool: \"${POOL}\"}
pools:
  web:
    discover: [{dns: \"${BACKEND:?the service to balance}:5000\"}]
    keepalive: ${KEEPALIVE-60s}
    balance: ${
";
    a_variable_in_braces_without_quotes: "\
listeners:
  web: {bind: 0.0.0.0:${PORT}, pool: web}
";
}
