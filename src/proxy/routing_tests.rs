//! Tests of the rules that choose a pool.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;

use super::*;
use crate::config::{Source, StaticBackend};
use crate::domain::SocketAddress;
use crate::health::Pace;
use crate::pool::Handle;
use crate::telemetry::journal::Journal;
use crate::testing::in_time;

/// Pools that are made when they are first needed: with a backend, unless their name begins with "empty".
#[derive(Default)]
struct Pools(std::cell::RefCell<BTreeMap<String, Handle>>);

impl Pools {
    fn get(&self, name: &str) -> Option<Arc<Pool>> {
        let mut pools = self.0.borrow_mut();
        let start = || {
            let backend = StaticBackend::new("127.0.0.1:1".parse().unwrap());
            let backends = if name.starts_with("empty") { Vec::new() } else { vec![backend] };
            let config = config::Pool::new(vec![Source::Static(backends)]);
            let pace = Arc::new(Pace::new(NonZeroUsize::MIN));
            Handle::start(name.into(), &config, &Arc::default(), &pace, &Journal::default())
        };
        Some(Arc::clone(&pools.entry(name.to_owned()).or_insert_with(start).pool))
    }

    async fn settle(&self) {
        let pools: Vec<_> = self.0.borrow().values().map(|handle| Arc::clone(&handle.pool)).collect();
        for pool in pools {
            in_time("its backends", pool.when_settled()).await;
        }
    }
}

/// The listener in `yaml`, without its pools.
fn listener(yaml: &str) -> config::Listener {
    let names = ["a", "b", "c", "d", "e", "empty", "empty2"];
    let pools: String =
        names.iter().map(|name| format!("{name}: {{discover: [{{static: [10.0.0.1:1]}}]}}, ")).collect();
    let text = format!("listeners: {{l: {{bind: 'unix:/l', {yaml}}}}}\npools: {{{pools}}}");
    let config = config::parse("test.yaml", &text, &|_| None).unwrap_or_else(|error| panic!("{error}"));
    let listener = config.listeners.into_iter().next().unwrap().1;
    assert_eq!(listener.bind, ["unix:/l".parse::<SocketAddress>().unwrap()]);
    listener
}

fn client(ip: &str) -> Client {
    Client::Tcp((ip.parse::<IpAddr>().unwrap(), 40_000).into())
}

fn hello(server_name: &str, protocols: &[&str]) -> Hello {
    Hello {
        server_name: (!server_name.is_empty()).then(|| server_name.into()),
        protocols: protocols.iter().map(|name| name.as_bytes()).collect(),
        ..Hello::default()
    }
}

/// The pool of a connection and the rule that chose it.
fn chosen(routing: &Routing, client: Client, hello: Option<&Hello>) -> Option<(String, String)> {
    let Assignment { pool, matched } = &*routing.assign(client, hello);
    let rule = matched.as_ref().and_then(|matched| matched.rule.as_ref());
    Some((pool.as_ref()?.name.to_string(), rule.map(ToString::to_string).unwrap_or_default()))
}

#[tokio::test]
async fn the_first_kind_of_rule_that_matches_counts() {
    let pools = Pools::default();
    let yaml = "sources: {10.0.0.0/8: a}, alpn: {acme-tls/1: b}, sni: {www.example.com: c}, default: d";
    let routing = Routing::new(&listener(yaml), |name| pools.get(name)).unwrap();
    let of = |ip: &str, name: &str, protocols: &[&str]| {
        chosen(&routing, client(ip), Some(&hello(name, protocols))).unwrap()
    };
    let is = |pool: &str, rule: &str| (pool.to_owned(), rule.to_owned());
    assert_eq!(of("10.1.1.1", "www.example.com", &["acme-tls/1"]), is("a", "sources 10.0.0.0/8"));
    assert_eq!(of("11.1.1.1", "www.example.com", &["h2", "acme-tls/1"]), is("b", "alpn acme-tls/1"));
    assert_eq!(of("11.1.1.1", "www.example.com", &["h2"]), is("c", "sni www.example.com"));
    assert_eq!(of("11.1.1.1", "example.com", &[]), is("d", "default"));
    assert_eq!(chosen(&routing, Client::Unix, None), Some(is("d", "default")));
    let names: Vec<_> = routing.pools().into_iter().map(|pool| pool.name.to_string()).collect();
    assert_eq!(names, ["a", "b", "c", "d"]);
    assert!(routing.only().is_none());
}

#[tokio::test]
async fn without_a_default_what_matches_no_rule_has_no_pool() {
    let pools = Pools::default();
    let routing = Routing::new(&listener("sni: {a.example: a}"), |name| pools.get(name)).unwrap();
    assert_eq!(chosen(&routing, client("10.1.1.1"), Some(&hello("b.example", &[]))), None);
    assert_eq!(chosen(&routing, client("10.1.1.1"), Some(&hello("", &["h2"]))), None);
    assert!(Routing::new(&listener("sni: {a.example: a}"), |_| None).is_none());
}

#[tokio::test]
async fn the_most_specific_network_counts() {
    let pools = Pools::default();
    let yaml = "sources: {0.0.0.0/0: a, 10.0.0.0/8: b, 10.1.2.3: c, '2001:db8::/32': d, '2001:db8::/48': e}";
    let routing = Routing::new(&listener(yaml), |name| pools.get(name)).unwrap();
    for (ip, pool) in [
        ("192.0.2.1", Some("a")),
        ("10.9.9.9", Some("b")),
        ("10.1.2.3", Some("c")),
        ("2001:db8:1::1", Some("d")),
        ("2001:db8::1", Some("e")),
        ("::1", None),
    ] {
        let chosen = chosen(&routing, client(ip), None).map(|(pool, _)| pool);
        assert_eq!(chosen.as_deref(), pool, "{ip}");
    }
}

#[tokio::test]
async fn a_name_precedes_patterns_and_a_longer_pattern_a_shorter_one() {
    let pools = Pools::default();
    let yaml = "sni: {'*.com': a, '*.example.com': b, Api.Example.com: c, '*.api.example.com': d}";
    let routing = Routing::new(&listener(yaml), |name| pools.get(name)).unwrap();
    for (name, pool) in [
        ("other.com", Some("a")),
        ("example.com", Some("a")),
        ("www.example.com", Some("b")),
        ("x.www.example.com", Some("b")),
        ("api.example.com", Some("c")),
        ("v1.api.example.com", Some("d")),
        ("xapi.example.com", Some("b")),
        ("com", None),
        ("example.org", None),
    ] {
        let chosen = chosen(&routing, Client::Unix, Some(&hello(name, &[]))).map(|(pool, _)| pool);
        assert_eq!(chosen.as_deref(), pool, "{name}");
    }
}

#[tokio::test]
async fn shares_divide_connections_among_pools_that_have_a_backend() {
    let pools = Pools::default();
    let config = listener("pool: {a: 3, b: 1, c: 0, empty: 4}");
    let routing = Routing::new(&config, |name| pools.get(name)).unwrap();
    pools.settle().await;
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for _ in 0..400 {
        let (pool, rule) = chosen(&routing, Client::Unix, None).unwrap();
        assert_eq!(rule, "");
        *counts.entry(pool).or_default() += 1;
    }
    assert_eq!(counts, BTreeMap::from([("a".to_owned(), 300), ("b".to_owned(), 100)]));
    let none = Routing::new(&listener("pool: {empty: 1, empty2: 1}"), |name| pools.get(name)).unwrap();
    assert!(chosen(&none, Client::Unix, None).is_some());
}

#[tokio::test]
async fn a_reload_continues_the_shares() {
    let pools = Pools::default();
    let config = listener("pool: {a: 3, b: 1}");
    let mut routing = Routing::new(&config, |name| pools.get(name)).unwrap();
    pools.settle().await;
    let mut of_b = 0;
    for _ in 0..40 {
        let reloaded = Routing::new(&config, |name| pools.get(name)).unwrap();
        reloaded.continue_shares(&routing);
        routing = reloaded;
        of_b += usize::from(chosen(&routing, Client::Unix, None).unwrap().0 == "b");
    }
    assert_eq!(of_b, 10);
}
