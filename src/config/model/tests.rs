//! The keys of a pool, read into their types.

use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use proptest::prelude::*;

use super::super::{
    Algorithm, AuthMethod, BackupWhen, Check, ConfigErrors, Consul, Docker, Eject, Etcd, Exchange, Factor,
    File, Hash, HashKey, Health, HttpCheck, Kubernetes, Limits, Percent, Policy, Pool, PostgresCheck, Query,
    RedisCheck, Role, ServicePort, Slow, Source, SourceKey, Srv, StaticBackend, ZonePreference, parse,
    read_backends,
};
use crate::domain::Ending;

/// A pool of one backend with these settings.
fn pool(settings: &str) -> Pool {
    read(&format!("discover: [{{static: [10.0.0.1:1]}}], {settings}"))
}

fn read(pool: &str) -> Pool {
    try_read(pool).unwrap_or_else(|report| panic!("{report}"))
}

fn try_read(pool: &str) -> Result<Pool, ConfigErrors> {
    let text = format!("listeners: {{l: {{bind: '127.0.0.1:2', pool: p}}}}\npools: {{p: {{{pool}}}}}\n");
    parse("pointsman.yaml", &text, &|_| None).map(|config| config.pools[&"p".into()].clone())
}

fn checks(health: &str) -> Vec<Check> {
    pool(&format!("health: {health}")).health.into_iter().map(|health| health.check).collect()
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn every_algorithm_has_its_name() {
    for algorithm in Algorithm::ALL {
        assert_eq!(pool(&format!("balance: {}", algorithm.name())).balance, algorithm);
    }
}

#[test]
fn hash_keys_are_read() {
    assert_eq!(pool("balance: maglev").hash, Hash::default());
    assert_eq!(
        pool("balance: ring-hash, hash: {key: source-net, slots: 512, virtual_nodes: 9, load_factor: 1.25}")
            .hash,
        Hash {
            key: HashKey::SourceNet,
            slots: NonZeroUsize::new(512),
            virtual_nodes: NonZeroUsize::new(9),
            load_factor: Some(Factor(125)),
        }
    );
}

#[test]
fn sources_with_all_their_settings() {
    let sources = read(
        "discover: [
            {srv: _web._tcp.example.com, every: 5s, hold: 1m},
            {file: a/backends.yaml, every: 3s},
            {docker: pointsman.pool=web},
            {docker: {label: b, port: 5000, network: n, engine: 'tcp://engine:2375', healthcheck: false}, hold: 1s},
            {static: [{address: 10.0.0.1:1, name: a, backup: true, connections: 3}, 10.0.0.2:1]}]",
    )
    .discover;
    let query = Query { every: seconds(5), hold: seconds(60), ..Query::default() };
    let mut backup = StaticBackend::new("10.0.0.1:1".parse().unwrap());
    backup.name = "a".into();
    backup.backup = true;
    backup.connections = NonZeroU32::new(3);
    let other = StaticBackend::new("10.0.0.2:1".parse().unwrap());
    assert_eq!(
        sources,
        [
            Source::Srv(Srv { name: "_web._tcp.example.com".into(), query }),
            Source::File(File { path: "a/backends.yaml".into(), every: seconds(3) }),
            Source::Docker(Docker::new("pointsman.pool=web".into())),
            Source::Docker(Docker {
                label: "b".into(),
                port: Some(5000),
                network: Some("n".into()),
                engine: Some("tcp://engine:2375".into()),
                healthcheck: false,
                hold: seconds(1),
                adopt: None,
            }),
            Source::Static(vec![backup, other]),
        ]
    );
}

#[test]
fn sources_keep_their_order_and_static_backends_are_one_source() {
    let sources =
        read("discover: [{dns: a:1}, {static: [10.0.0.1:1]}, {dns: b:1}, {static: [10.0.0.2:1]}]").discover;
    let keys: Vec<_> = sources.iter().map(|source| SourceKey::from(source).to_string()).collect();
    assert_eq!(keys, ["dns a:1", "the configuration", "dns b:1"]);
    let Source::Static(backends) = &sources[1] else { panic!() };
    assert_eq!(backends.len(), 2);
}

#[test]
fn a_label_in_two_networks_or_with_two_ports_is_two_sources() {
    let items = ["{label: a, network: n}", "{label: a, network: m}", "{label: a, port: 1}", "a"];
    let list: Vec<_> = items.iter().map(|item| format!("{{docker: {item}}}")).collect();
    let sources = read(&format!("discover: [{}]", list.join(", "))).discover;
    let keys: Vec<_> = sources.iter().map(|source| SourceKey::from(source).to_string()).collect();
    assert_eq!(keys, ["docker a in n", "docker a in m", "docker a port 1", "docker a"]);
}

#[test]
fn health_is_a_check_or_a_list() {
    let one = pool("health: {tcp: {}, every: 4s, fast_every: 1s, grace: 20s}").health;
    let wanted = Health {
        every: seconds(4),
        fast_every: Some(seconds(1)),
        grace: seconds(20),
        ..Health::new(Check::Tcp)
    };
    assert_eq!(one, [wanted]);
    assert_eq!(
        checks("[{tcp: {}}, {http: /health, port: 8008}]"),
        [Check::Tcp, Check::Http(HttpCheck::new("/health".into()))]
    );
}

#[test]
fn statuses_are_codes_classes_and_ranges() {
    let statuses = |status: &str| match &checks(&format!("{{http: {{path: /, status: {status}}}}}"))[..] {
        [Check::Http(check)] => check.status.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(statuses("204"), [204..=204]);
    assert_eq!(statuses("2xx"), [200..=299]);
    assert_eq!(statuses("200-302"), [200..=302]);
    assert_eq!(statuses("[\"2xx\", 301, 401-403]"), [200..=299, 301..=301, 401..=403]);
}

proptest! {
    #[test]
    fn a_status_range_is_within_100_to_599(first in 0..700_u16, last in 0..700_u16) {
        let check = format!("discover: [{{dns: a:1}}], health: {{http: {{path: /, status: {first}-{last}}}}}");
        let wanted = (100..=599).contains(&first) && (first..=599).contains(&last);
        match try_read(&check) {
            Ok(pool) => {
                let Check::Http(check) = &pool.health[0].check else { panic!() };
                prop_assert_eq!(&check.status, &[first..=last]);
                prop_assert!(wanted);
            }
            Err(_) => prop_assert!(!wanted),
        }
    }

    #[test]
    fn an_srv_name_is_read_as_written(service in "_[a-z0-9-]{1,62}", name in "([a-z0-9_-]{1,20}\\.){1,5}") {
        let srv = format!("{service}._tcp.{name}");
        prop_assert_eq!(
            read(&format!("discover: [{{srv: '{srv}'}}]")).discover,
            [Source::Srv(Srv { name: srv, query: Query::default() })]
        );
    }
}

#[test]
fn an_exchange_is_the_same_bytes_in_any_quotes() {
    let exchange = |send: &str, expect: &str| {
        vec![Check::Exchange(Exchange { send: send.into(), expect: expect.into() })]
    };
    for quote in ["", "'", "\""] {
        let text = format!(r"{{exchange: {{send: {quote}PING\r\n{quote}, expect: {quote}+PONG{quote}}}}}");
        assert_eq!(checks(&text), exchange("PING\r\n", "+PONG"), "{text}");
    }
    assert_eq!(checks("{exchange: {expect: 220}}"), exchange("", "220"));
    // PostgreSQL's SSLRequest, and its answer.
    assert_eq!(
        checks(r"{exchange: {send: '\0\0\0\x08\x04\xd2\x16\x2f', expect: '\x4E'}}"),
        [Check::Exchange(Exchange { send: vec![0, 0, 0, 8, 4, 0xd2, 0x16, 0x2f], expect: b"N".to_vec() })]
    );
}

#[test]
fn databases_have_roles() {
    assert_eq!(
        checks("[{postgres: primary}, {postgres: standby}, {redis: master}, {redis: replica}, {redis: any}]"),
        [
            Check::Postgres(PostgresCheck::new(Role::Primary)),
            Check::Postgres(PostgresCheck::new(Role::Replica)),
            Check::Redis(RedisCheck::new(Role::Primary)),
            Check::Redis(RedisCheck::new(Role::Replica)),
            Check::Redis(RedisCheck::new(Role::Any)),
        ]
    );
    assert_eq!(
        checks(
            "[{postgres: {role: any, user: u, database: d, password_file: /p, require_auth: [none, md5]}}, {postgres: {role: any, require_auth: password}}, {redis: {role: any, user: u, password_file: /p}}]"
        ),
        [
            Check::Postgres(PostgresCheck {
                role: Role::Any,
                user: "u".into(),
                database: "d".into(),
                password_file: Some("/p".into()),
                require_auth: vec![AuthMethod::None, AuthMethod::Md5],
            }),
            Check::Postgres(PostgresCheck {
                require_auth: vec![AuthMethod::Password],
                ..PostgresCheck::new(Role::Any)
            }),
            Check::Redis(RedisCheck {
                role: Role::Any,
                user: Some("u".into()),
                password_file: Some("/p".into()),
            }),
        ]
    );
}

#[test]
fn ejection_is_off_by_default() {
    assert_eq!(pool("panic: 0%").eject, None);
    assert_eq!(pool("eject: {}").eject, Some(Eject::default()));
    assert_eq!(pool("eject:").eject, Some(Eject::default()));
    let slow = Slow { factor: Factor(250), ..Slow::default() };
    let wanted = Eject { failures: None, period: seconds(60), at_most: Percent(20), slow: Some(slow) };
    assert_eq!(
        pool("eject: {failures: off, for: 1m, at_most: 20%, slow: {factor: 2.5}}").eject,
        Some(wanted)
    );
}

#[test]
fn limits_of_zero_are_none() {
    let limits = |connections, queue| Limits {
        connections: NonZeroU32::new(connections),
        queue,
        queue_timeout: seconds(5),
    };
    assert_eq!(pool("limits: {}").limits, limits(0, 0));
    assert_eq!(pool("limits: {connections: 0, queue: 0}").limits, limits(0, 0));
    assert_eq!(pool("limits: {connections: 9, queue: 4}").limits, limits(9, 4));
    // A file's backends may have limits of their own.
    assert_eq!(read("discover: [{file: f}], limits: {queue: 4}").limits, limits(0, 4));
    assert_eq!(
        read("discover: [{static: [{address: 10.0.0.1:1, connections: 1}]}], limits: {queue: 4}").limits,
        limits(0, 4)
    );
}

#[test]
fn backups_take_the_overflow_unless_the_pool_excludes_it() {
    assert_eq!(pool("backup: {}").backup.when, BackupWhen::Full);
    assert_eq!(pool("backup: {when: down}").backup.when, BackupWhen::Down);
}

#[test]
fn a_zone_is_a_name_or_a_name_with_thresholds() {
    assert_eq!(pool("panic: 0%").zone, None);
    let zone = ZonePreference::new("eu-1a".into());
    assert_eq!((zone.min_up, zone.min_backends.get()), (Percent(70), 1));
    assert_eq!(pool("zone: eu-1a").zone, Some(zone.clone()));
    assert_eq!(pool("zone: {name: eu-1a}").zone, Some(zone.clone()));
    let with = ZonePreference { min_up: Percent(50), min_backends: NonZeroU32::new(2).unwrap(), ..zone };
    assert_eq!(pool("zone: {name: eu-1a, min_up: 50%, min_backends: 2}").zone, Some(with.clone()));
    // The zone of a backend must be the same text; none is unknown.
    let is_local = |zone: &str| with.is_local(Some(&zone.into()));
    assert_eq!([is_local("eu-1a"), is_local("EU-1A"), with.is_local(None)], [true, false, true]);
}

#[test]
fn panic_slow_start_and_policies_are_read() {
    let pool = pool("panic: 30%, slow_start: 10s, on_drain: {close: 1m}");
    assert_eq!(pool.panic, Percent(30));
    assert_eq!(pool.slow_start, seconds(10));
    assert_eq!(pool.on_drain, Policy::End { how: Ending::Close, after: Duration::ZERO, over: seconds(60) });
}

#[test]
fn sources_that_a_server_has_have_short_forms() {
    let sources = read(
        "discover: [
            {etcd: /services/web/},
            {etcd: {prefix: /b/, endpoints: 'http://etcd:2379'}, every: 1m},
            {consul: web},
            {consul: {service: web, endpoints: ['http://a:1', 'http://[::1]:2'], tags: [v1, v2], datacenter: d}, hold: 1m},
            {kubernetes: web},
            {kubernetes: {service: web, namespace: shop, port: http, endpoints: 'https://10.0.0.1:6443'}}]",
    )
    .discover;
    assert_eq!(sources[0], Source::Etcd(Etcd::new("/services/web/".into())));
    let Source::Etcd(etcd) = &sources[1] else { panic!() };
    assert_eq!((&*etcd.prefix, etcd.every), ("/b/", seconds(60)));
    assert_eq!(sources[2], Source::Consul(Consul::new("web".into())));
    let Source::Consul(consul) = &sources[3] else { panic!() };
    assert_eq!((&consul.tags[..], consul.hold), (&["v1".to_owned(), "v2".to_owned()][..], seconds(60)));
    let keys: Vec<_> = sources.iter().map(|source| SourceKey::from(source).to_string()).collect();
    assert_eq!(
        keys,
        [
            "etcd /services/web/ at http://127.0.0.1:2379",
            "etcd /b/ at http://etcd:2379",
            "consul web at http://127.0.0.1:8500",
            "consul web tagged v1 tagged v2 in d at http://a:1, http://[::1]:2",
            "kubernetes web at https://kubernetes.default.svc:443",
            "kubernetes web port http in shop at https://10.0.0.1:6443",
        ]
    );
}

#[test]
fn a_pod_needs_only_the_name_of_a_service_of_kubernetes() {
    let kubernetes = |source: &str| match &read(&format!("discover: [{{kubernetes: {source}}}]")).discover[..]
    {
        [Source::Kubernetes(kubernetes)] => kubernetes.clone(),
        other => panic!("{other:?}"),
    };
    let authorities = |kubernetes: &Kubernetes| kubernetes.tls.clone().and_then(|tls| tls.ca_file);
    let own =
        |file: &str| Some(PathBuf::from(format!("/var/run/secrets/kubernetes.io/serviceaccount/{file}")));
    for short in ["web", "{service: web}"] {
        let kubernetes = kubernetes(short);
        assert_eq!(kubernetes, Kubernetes::new("web".into()));
        assert_eq!((authorities(&kubernetes), kubernetes.token_file), (own("ca.crt"), own("token")));
    }
    // The token of the Pod is sent only to a server that is verified.
    let proxy = kubernetes("{service: web, port: 8080, endpoints: 'http://127.0.0.1:8001'}");
    assert_eq!((authorities(&proxy), proxy.token_file), (None, None));
    assert_eq!(proxy.port, Some(ServicePort::Number(8080)));
    let certificate = kubernetes("{service: web, tls: {ca_file: /a, cert_file: /c, key_file: /k}}");
    assert_eq!((authorities(&certificate), certificate.token_file), (Some("/a".into()), None));
    let token = kubernetes("{service: web, tls: {ca_file: /a}, token_file: /t}");
    assert_eq!(token.token_file, Some("/t".into()));
}

fn written(text: &str) -> Result<Vec<StaticBackend>, ConfigErrors> {
    read_backends("backends.yaml", text)
}

#[test]
fn a_file_has_the_same_list_as_static() {
    let two = written("- 10.0.0.1:1\n- {address: 10.0.0.2:1, name: big, weight: 3}\n").unwrap();
    assert_eq!(two.iter().map(|backend| &*backend.name).collect::<Vec<_>>(), ["10.0.0.1:1", "big"]);
    assert_eq!(two[1].weight, 3);
    assert_eq!(
        written("backends:\n  - 10.0.0.1:1\n  - {address: 10.0.0.2:1, name: big, weight: 3}\n"),
        Ok(two)
    );
    assert_eq!(written("[]"), Ok(Vec::new()));
    assert_eq!(written("backends: [] # for now\n"), Ok(Vec::new()));
}

#[test]
fn a_file_cannot_read_the_environment() {
    for list in ["- {address: 10.0.0.1:1, name: \"${PATH}\"}", "- 10.0.0.1:${POINTSMAN_TEST_NONE:-7}"] {
        let errors = written(list).unwrap_err().to_string();
        assert!(errors.contains("variables are replaced in the configuration only"), "{errors}");
        assert!(!errors.contains(&std::env::var("PATH").unwrap()), "{errors}");
    }
    assert_eq!(&*written("- {address: 10.0.0.1:1, name: $PATH}").unwrap()[0].name, "$PATH");
}

#[test]
fn a_file_has_errors_with_positions() {
    let errors = |text: &str| written(text).unwrap_err().to_string();
    for empty in ["", "\n", "# nothing yet\n", "---\n"] {
        assert!(
            errors(empty).contains(": the file is empty; for no backends at all write []"),
            "{}",
            errors(empty)
        );
    }
    let broken = "\
- 10.0.0.1:5000
- backend:5000
- {address: 10.0.0.2:5000, wieght: 3}
- 10.0.0.1:5000
- {address: 10.0.0.3:5000, name: a, weight: 300}
- {address: 10.0.0.4:5000, name: a}
- {name: b}
";
    let others = ["backend: [10.0.0.1:5000]", "backends: 10.0.0.1:5000", "10.0.0.1:5000", "- [10.0.0.1:5000"];
    let all: Vec<_> = [broken].into_iter().chain(others).map(errors).collect();
    insta::assert_snapshot!(all.join("\n"));
}
