//! The example configurations, as their users run them. Each test replaces only the addresses, name server, Docker
//! engine and files.

mod containers;
mod databases;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::support::backend::{self, Backend};
use crate::support::dns::Dns;
use crate::support::engine::FakeEngine;
use crate::support::network::is_inside;
use crate::support::unix_backend::UnixBackend;
use crate::support::{Lb, connect_to, eventually, http_get, http_get_on};
use pointsman_core::zone::ServiceRecord;
use regex_lite::Regex;
use serde_json::{Value, json};

/// The files; each has a test of its name.
const FILES: [&str; 17] = [
    "containers",
    "docker",
    "full",
    "labels",
    "patroni",
    "pointsman",
    "postgres",
    "postgres-tls",
    "protected",
    "proxy-protocol",
    "redis",
    "replicas",
    "routing",
    "static",
    "sticky",
    "tls-passthrough",
    "transparent",
];

#[test]
fn each_file_has_a_test() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf");
    let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    let names: BTreeSet<String> =
        names.map(|name| name.into_string().unwrap()).filter(|name| name.ends_with(".yaml")).collect();
    assert_eq!(names, FILES.map(|name| format!("{name}.yaml")).into());
}

/// An example whose parts are being replaced.
struct Example {
    text: String,
    files: Vec<(String, String)>,
}

impl Example {
    fn new(name: &str) -> Self {
        assert!(FILES.contains(&name));
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("conf/{name}.yaml"));
        let example = Self { text: std::fs::read_to_string(path).unwrap(), files: Vec::new() };
        // All but Unix sockets.
        example.with(r#"bind: [^,}\n "]+"#, "bind: 127.0.0.1:0")
    }

    /// Replaces the pattern, which must occur.
    fn with(mut self, pattern: &str, by: &str) -> Self {
        let pattern = Regex::new(pattern).unwrap();
        assert!(pattern.is_match(&self.text), "no {pattern} in\n{}", self.text);
        self.text = pattern.replace_all(&self.text, by).into_owned();
        self
    }

    /// Sends name lookups to this server; the addresses that it returns use this port.
    fn with_dns(self, dns: &Dns, port: u16) -> Self {
        let server = dns.server.address;
        let mut example = self.with(r"(dns: [^\s,#]*:)\d+", &format!("${{1}}{port}"));
        if example.text.contains("server: 127.0.0.11") {
            example = example.with(r"server: 127\.0\.0\.11", &format!("server: {server}"));
        }
        let in_one_line = r#"\{(dns: (?:"[^"]*"|[^\s{}"]*))\}"#;
        if Regex::new(in_one_line).unwrap().is_match(&example.text) {
            example = example.with(in_one_line, &format!("{{$1, server: {server}}}"));
        }
        example
    }

    /// Creates a file in the working directory.
    fn with_file(mut self, name: &str, text: &str) -> Self {
        self.files.push((name.to_owned(), text.to_owned()));
        self
    }

    /// Creates a secret's file.
    fn with_secret(self, name: &str, text: &str) -> Self {
        self.with(&format!(r"/run/secrets/{name}\b"), name).with_file(name, text)
    }

    fn start(&self) -> Lb {
        Lb::start_in(&self.text, |folder| {
            for (name, text) in &self.files {
                std::fs::write(folder.join(name), text).unwrap();
            }
        })
    }
}

/// A server on one port of every address of this machine.
fn everywhere(serve: impl Fn(TcpStream, IpAddr) + Send + Sync + 'static) -> Backend {
    let serve = move |stream: TcpStream| {
        let ip = stream.local_addr().unwrap().ip();
        serve(stream, ip);
    };
    Backend::serving_at("0.0.0.0:0".parse().unwrap(), serve).unwrap()
}

/// The same; it answers each HTTP request with the address at which it was reached, and is healthy.
fn http_everywhere() -> Backend {
    everywhere(|stream, ip| backend::http(stream, &ip.to_string()))
}

fn ip(n: u8) -> IpAddr {
    [127, 0, 78, n].into()
}

/// A DNS server with a name for these addresses.
fn dns(name: &str, addresses: impl IntoIterator<Item = u8>) -> Dns {
    let dns = Dns::start();
    dns.zone.set(name, addresses.into_iter().map(ip));
    dns
}

/// Sends this many requests; returns the number of responses of each backend.
fn answers(lb: &Lb, listener: &str, times: usize) -> BTreeMap<String, usize> {
    answers_at(lb.address(listener), times)
}

fn answers_at(address: SocketAddr, times: usize) -> BTreeMap<String, usize> {
    let mut answers = BTreeMap::new();
    for _ in 0..times {
        let (status, body) = http_get(address, "/").unwrap();
        assert_eq!(status, 200, "{body}");
        *answers.entry(body).or_default() += 1;
    }
    answers
}

fn counts<T: ToString>(counts: impl IntoIterator<Item = (T, usize)>) -> BTreeMap<String, usize> {
    counts.into_iter().map(|(name, count)| (name.to_string(), count)).collect()
}

fn pool(lb: &Lb, name: &str) -> Value {
    let status = lb.status();
    let mut pools = status["pools"].as_array().unwrap().iter();
    pools.find(|pool| pool["name"] == name).unwrap().clone()
}

/// Waits until that many backends of the pool are up, all by checks of these kinds; returns the pool.
fn when_up(lb: &Lb, name: &str, count: usize, kinds: &[&str]) -> Value {
    let settled = || {
        let pool = pool(lb, name);
        let backends = pool["backends"].as_array().unwrap();
        let up = |backend: &&Value| {
            let checks = backend["checks"].as_array().unwrap();
            let passed = checks.iter().filter(|check| check["passed"] == true).map(|check| &check["kind"]);
            backend["state"] == "up" && passed.eq(kinds)
        };
        (backends.iter().filter(up).count() == count).then(|| pool.clone())
    };
    eventually(&format!("{count} backends of {name} are up by {kinds:?}"), settled)
}

/// Sends a request to an admin server, with its address as the Host; returns status and body.
fn admin_request(admin: SocketAddr, request: &str, headers: &str, body: &str) -> (u16, String) {
    let mut stream = connect_to(admin).unwrap();
    let request = format!(
        "{request} HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\nContent-Type: application/json\r\n\
         {headers}Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// Stops it as an operator does.
fn end(mut lb: Lb) {
    lb.signal("TERM");
    assert_eq!(lb.when_ended().code(), Some(0), "{}", lb.log());
}

#[test]
fn pointsman_takes_turns_among_the_containers_that_dns_names() {
    let (server, dns) = (http_everywhere(), dns("backend", [1, 2]));
    let lb = Example::new("pointsman").with_dns(&dns, server.address.port()).start();
    assert_eq!(when_up(&lb, "web", 2, &["http"])["algorithm"], "round-robin");
    assert_eq!(answers(&lb, "web", 6), counts([(ip(1), 3), (ip(2), 3)]));
    end(lb);
}

#[test]
fn docker_serves_two_services_and_logs_json() {
    let (server, dns) = (http_everywhere(), dns("web", [1, 2]));
    dns.zone.set("api", [ip(3)]);
    let example = Example::new("docker").with_dns(&dns, server.address.port());
    let lb = Lb::launch(&example.text);
    let logged = |message: &str, with: (&str, &str)| -> SocketAddr {
        eventually(message, || {
            let log = lb.log();
            let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
            let mut found = lines.filter(|line| line["message"] == message && line[with.0] == with.1);
            Some(found.next()?["address"].as_str().unwrap().parse().unwrap())
        })
    };
    let admin = logged("admin listening", ("level", "INFO"));
    let [web, api] = ["web", "api"].map(|name| logged("listening", ("listener", name)));
    let status = eventually("all three are up", || {
        let (_, status) = admin_request(admin, "GET /api/v1/status", "", "");
        let status: Value = serde_json::from_str(&status).unwrap();
        let up = |pool: usize| status["pools"][pool]["up"].as_u64();
        (up(0) == Some(1) && up(1) == Some(2)).then_some(status)
    });
    let is = |pool: usize| {
        let pool = &status["pools"][pool];
        (pool["name"].clone(), pool["algorithm"].clone(), pool["backends"][0]["checks"][0]["kind"].clone())
    };
    assert_eq!(is(0), (json!("api"), json!("least-connections"), json!("tcp")));
    assert_eq!(is(1), (json!("web"), json!("round-robin"), json!("http")));
    assert_eq!(answers_at(web, 4), counts([(ip(1), 2), (ip(2), 2)]));
    assert_eq!(answers_at(api, 2), counts([(ip(3), 2)]));
    // Without a running service the client gets a response, not a reset.
    dns.zone.set("web", []);
    drop(server);
    eventually("clients of web learn that no backend is up", || {
        (http_get(web, "/").ok()?.0 == 503).then_some(())
    });
    end(lb);
}

#[test]
fn static_sends_the_big_backend_three_times_as_much_and_responds_503_without_any() {
    let [mut big, mut small] = ["big", "small"].map(Backend::http);
    let state = tempfile::tempdir().unwrap();
    let example = Example::new("static")
        .with("/var/lib/pointsman", &state.path().display().to_string())
        .with(r"10\.0\.0\.1:5000", &big.address.to_string())
        .with(r"10\.0\.0\.2:5000", &small.address.to_string());
    let lb = example.start();
    when_up(&lb, "web", 2, &["http"]);
    assert_eq!(lb.request("PATCH", "/api/v1/pools/web/backends/big", r#"{"state": "draining"}"#).0, 200);
    end(lb);
    let lb = example.start();
    eventually("the backend is drained after the restart, too", || {
        let big = &pool(&lb, "web")["backends"][0];
        (big["state"] == "draining").then_some(())
    });
    assert_eq!(lb.request("PATCH", "/api/v1/pools/web/backends/big", r#"{"state": "up"}"#).0, 200);
    let pool = when_up(&lb, "web", 2, &["http"]);
    assert_eq!(pool["algorithm"], "weighted");
    let named: Vec<_> =
        (0..2).map(|n| (&pool["backends"][n]["name"], &pool["backends"][n]["weight"])).collect();
    assert_eq!(named, [(&json!("big"), &json!(3)), (&json!("small"), &json!(1))]);
    assert_eq!(answers(&lb, "web", 8), counts([("big", 6), ("small", 2)]));
    big.kill();
    small.kill();
    eventually("clients learn that no backend is up", || {
        (http_get(lb.address("web"), "/").ok()?.0 == 503).then_some(())
    });
    end(lb);
}

#[test]
fn sticky_keeps_each_client_on_its_backend() {
    let (server, dns) = (http_everywhere(), dns("backend", 1..=4));
    let example = Example::new("sticky").with_dns(&dns, server.address.port());
    let lb = example.start();
    assert_eq!(when_up(&lb, "web", 4, &["http"])["algorithm"], "ring-hash");
    // One connection at a time: with two open connections and four backends, the load factor would send the second one to
    // another backend.
    let home_at = |lb: &Lb| {
        let responder = |_| {
            lb.when_idle();
            http_get(lb.address("web"), "/").unwrap().1
        };
        (0..6).map(responder).collect::<BTreeSet<_>>()
    };
    let home = home_at(&lb);
    assert_eq!(home.len(), 1, "{home:?}");
    // Another instance with this configuration chooses the same.
    let other = example.start();
    when_up(&other, "web", 4, &["http"]);
    assert_eq!(home_at(&other), home);
    // A backend that other clients use leaves.
    let home_ip: IpAddr = home.first().unwrap().parse().unwrap();
    let leaving = (1..=4).map(ip).find(|ip| *ip != home_ip).unwrap();
    dns.zone.set("backend", (1..=4).map(ip).filter(|ip| *ip != leaving));
    when_up(&lb, "web", 3, &["http"]);
    assert_eq!(home_at(&lb), home);
    end(lb);
}

#[test]
fn protected_limits_each_backend_and_has_a_backup() {
    let [mut one, mut two, backup] = ["one", "two", "spare"].map(Backend::http);
    let lb = Example::new("protected")
        .with(r"10\.0\.0\.1:5000", &one.address.to_string())
        .with(r"10\.0\.0\.2:5000", &two.address.to_string())
        .with(r"10\.0\.0\.9:5000", &backup.address.to_string())
        .start();
    let pool = when_up(&lb, "web", 3, &["http"]);
    assert_eq!(pool["algorithm"], "least-connections");
    let limits: BTreeMap<_, _> = pool["backends"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["name"].as_str().unwrap(), (one["limit"].as_u64(), one["tier"].as_u64())))
        .collect();
    let limited = |limit, tier| (Some(limit), Some(tier));
    assert_eq!(
        limits,
        [("one", limited(200, 0)), ("spare", limited(200, 1)), ("two", limited(100, 0))].into()
    );
    let answered = answers(&lb, "web", 10);
    assert_eq!(answered.into_keys().collect::<Vec<_>>(), ["one", "two"]);
    one.kill();
    two.kill();
    eventually("the spare one stands in", || {
        (http_get(lb.address("web"), "/").ok()? == (200, "spare".to_owned())).then_some(())
    });
    // A backend that has just come up gets its share gradually.
    one.revive();
    let ramp = eventually("it is up again", || {
        let pool = self::pool(&lb, "web");
        let one = pool["backends"].as_array().unwrap().iter().find(|one| one["name"] == "one").cloned()?;
        (one["state"] == "up").then(|| one["ramp"].as_u64().unwrap())
    });
    assert!(ramp < 100, "{ramp}");
    end(lb);
}

#[test]
fn proxy_protocol_tells_the_clients_address_through_two_proxies() {
    let dns = dns("backend", [1]);
    dns.zone.set("tls", [ip(2)]);
    let server = everywhere(|mut stream, at| {
        if at == ip(2) {
            // It answers with all that it got.
            let mut bytes = Vec::new();
            if stream.read_to_end(&mut bytes).is_ok() {
                let _ = stream.write_all(&bytes);
            }
            return;
        }
        // It answers with the header that it got.
        let mut header = String::new();
        let mut byte = [0];
        while !header.ends_with("\r\n") {
            if stream.read_exact(&mut byte).is_err() {
                return;
            }
            header.push(byte[0].into());
        }
        backend::http(stream, &header);
    });
    let example = Example::new("proxy-protocol").with_dns(&dns, server.address.port());
    let lb = example
        .with("send_proxy_protocol: v2", "send_proxy_protocol: v1")
        .with("10.0.0.0/8", "127.0.0.1")
        .start();
    let mut client = connect_to(lb.address("web")).unwrap();
    client.write_all(b"PROXY TCP4 192.0.2.1 192.0.2.2 3 4\r\nGET / HTTP/1.1\r\n\r\n").unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("PROXY TCP4 192.0.2.1 192.0.2.2 3 4"), "{answer}");
    drop(client);
    let hello = include_bytes!("../../src/protocol/client_hello_samples/curl.bin");
    let mut client = connect_to(lb.address("tls")).unwrap();
    client.write_all(&[b"PROXY TCP4 192.0.2.1 192.0.2.2 3 4\r\n", &hello[..]].concat()).unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).unwrap();
    let header = answer.strip_suffix(hello).unwrap();
    // The addresses, the authority, and the identifier, which ends in the connection's number.
    let name = [&[192, 0, 2, 1, 192, 0, 2, 2, 0, 3, 0, 4, 2, 0, 16][..], b"shop.example.com"].concat();
    assert_eq!(header[16..][..name.len()], name, "{header:?}");
    let routed = lb.when_logged("listener=tls pool=tls");
    let conn = routed.split_once(" conn=").unwrap().1.split(' ').next().unwrap();
    let identifier = header[16 + name.len() + 3..].to_vec();
    assert_eq!(header[16 + name.len()..][..3], [5, 0, identifier.len() as u8], "{header:?}");
    assert!(String::from_utf8(identifier).unwrap().ends_with(&format!("-{conn}")), "{header:?}: {routed}");
    end(lb);
}

#[test]
fn tls_passthrough_chooses_by_the_name_and_the_protocol() {
    // Each service answers with its number and what it read.
    let services: Vec<_> = (1..=5)
        .map(|number: u8| {
            let serve = move |mut stream: TcpStream| {
                let mut bytes = Vec::new();
                if stream.read_to_end(&mut bytes).is_ok() {
                    let _ = stream.write_all(&[&[number], &bytes[..]].concat());
                }
            };
            Backend::serving(serve)
        })
        .collect();
    let mut example = Example::new("tls-passthrough");
    for (name, service) in ["SHOP", "SHOP_NEXT", "SITES", "ACME"].iter().zip(&services) {
        let of = format!(r#"dns: "\$\{{{name}:-[a-z-]+\}}:443""#);
        let also = if *name == "SITES" { format!(", \"{}\"", services[4].address) } else { String::new() };
        example = example.with(&of, &format!("static: [\"{}\"{also}]", service.address));
    }
    let lb = example.start();
    when_up(&lb, "sites", 2, &["tcp"]);
    let hello = include_bytes!("../../src/protocol/client_hello_samples/curl.bin");
    let answer = |from: &[u8], to: &[u8]| {
        let mut hello = hello.to_vec();
        if let Some(at) = hello.windows(from.len()).position(|bytes| bytes == from) {
            hello[at..at + to.len()].copy_from_slice(to);
        }
        let mut client = connect_to(lb.address("tls")).unwrap();
        client.write_all(&hello).unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).unwrap();
        assert!(answer.ends_with(&hello) || answer == [21, 3, 1, 0, 2, 2, 112], "{answer:?}");
        answer[0]
    };
    let shop: Vec<_> = (0..20).map(|_| answer(b"shop.", b"shop.")).collect();
    assert_eq!([1, 2].map(|service| shop.iter().filter(|one| **one == service).count()), [19, 1]);
    // Each site has one of the two servers; of so many sites, either has some.
    let mut of_sites = BTreeSet::new();
    for n in 0..60 {
        let site = [b's', b'a' + n % 26, b'a' + n / 26, b'x', b'.'];
        let of_site: BTreeSet<_> = (0..3).map(|_| answer(b"shop.", &site)).collect();
        assert_eq!(of_site.len(), 1, "{of_site:?}");
        of_sites.extend(of_site);
    }
    assert_eq!(of_sites, [3, 5].into());
    assert_eq!(answer(b"shop.example.com", b"shop.example.org"), 21);
    end(lb);
}

#[test]
fn routing_divides_clients_by_network_and_share_and_uses_unix_sockets() {
    // Each answers with its name and the address that the connection comes from.
    let named = |name: &'static str| {
        Backend::serving(move |stream| {
            let ip = stream.peer_addr().unwrap().ip();
            backend::http(stream, &format!("{name} {ip}"));
        })
    };
    let [web, canary] = ["web", "canary"].map(named);
    let mut preview = None;
    let mut example = Example::new("routing")
        .with(r"10\.0\.0\.0/8", "127.0.81.0/24")
        .with(r"10\.0\.0\.5, 10\.0\.0\.6", "127.0.82.5, 127.0.82.6")
        .with("/run/pointsman/web.sock", "local.sock")
        .with("/run/preview/web.sock", "web.sock");
    for (name, backend) in [("WEB", &web), ("CANARY", &canary)] {
        let of = format!(r#"dns: "\$\{{{name}:-[a-z]+\}}:5000""#);
        example = example.with(&of, &format!("static: [\"{}\"]", backend.address));
    }
    let lb = Lb::start_in(&example.text, |folder| {
        preview = Some(UnixBackend::http(&folder.join("web.sock"), "preview"));
    });
    for name in ["web", "canary", "preview"] {
        when_up(&lb, name, 1, &["http"]);
    }
    let answered = answers(&lb, "web", 40);
    assert_eq!(answered["canary 127.0.0.1"], 2, "{answered:?}");
    let sources = [5, 6].map(|n| answered.get(&format!("web 127.0.82.{n}")).copied().unwrap_or_default());
    assert!(sources.iter().sum::<usize>() == 38 && sources.iter().all(|n| *n > 0), "{answered:?}");
    let mut near = crate::access_lists::connect_from("127.0.81.7", lb.address("web"));
    near.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let mut answer = String::new();
    near.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("preview"), "{answer}");
    let mut local = UnixStream::connect(lb.folder().join("local.sock")).unwrap();
    local.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    answer.clear();
    local.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("web 127.0.82."), "{answer}");
    drop((near, local));
    end(lb);
}

#[test]
fn transparent_lets_backends_see_their_clients_and_needs_a_capability() {
    // As root of the namespace, the process has the capability, or can drop it.
    let test = "conf::transparent_lets_backends_see_their_clients_and_needs_a_capability";
    if !is_inside(test, "the tools unshare and ip", "true") {
        return;
    }
    let server =
        || Backend::serving(|stream| backend::http(&stream, &stream.peer_addr().unwrap().ip().to_string()));
    let [one, two] = [server(), server()];
    let example = Example::new("transparent")
        .with(r"10\.0\.0\.1:5000", &one.address.to_string())
        .with(r"10\.0\.0\.2:5000", &two.address.to_string());
    let lb = example.start();
    when_up(&lb, "web", 2, &["http"]);
    for client in ["127.0.81.7", "127.0.81.8"] {
        let stream = crate::access_lists::connect_from(client, lb.address("web"));
        assert_eq!(http_get_on(stream, "/").unwrap(), (200, client.to_owned()));
    }
    end(lb);
    let without = ["setpriv", "--bounding-set=-net_admin,-net_raw"];
    let lb = Lb::start_after(&without, ":", &example.text, |_| ());
    when_up(&lb, "web", 2, &["http"]);
    http_get(lb.address("web"), "/").unwrap_err();
    let line = lb.when_logged("(connect.transparent)");
    assert!(line.contains("give Pointsman the capability CAP_NET_ADMIN"), "{line}");
    // No failure of the backends.
    when_up(&lb, "web", 2, &["http"]);
    end(lb);
}

#[test]
fn full_has_every_source_every_check_a_log_and_a_token() {
    let (engine, server) = (FakeEngine::start(), http_everywhere());
    let port = server.address.port();
    let dns = dns("backend", [1]);
    dns.zone.set("srv.test", [ip(2)]);
    let service = ServiceRecord { priority: 0, weight: 1, port, target: "srv.test".to_owned() };
    dns.zone.set_services("_web._tcp.example.com", [service]);
    engine.run("labelled", json!({"pointsman.pool": "web"}));
    const TOKEN: &str = "0123456789abcdef";
    let lb = Example::new("full")
        .with_dns(&dns, port)
        .with("/var/lib/pointsman", "state")
        .with("unix:///var/run/docker.sock", &format!("\"{}\"", engine.address()))
        .with("network: web", "network: n")
        .with("port: 5000", &format!("port: {port}"))
        .with(r"10\.0\.0\.(\d):5000", &format!("127.0.78.10$1:{port}"))
        .with_secret("pointsman_token", &format!("{TOKEN}\n"))
        .with_secret("postgres", "secret\n")
        .with_secret("redis", "secret\n")
        .with_file("backends.yaml", &format!("- {}:{port}\n", ip(3)))
        .start();
    let sources = ["dns:", "docker:", "file:", "srv:", "static"];
    eventually("each source has found something, and each kind of check was made", || {
        let pool = pool(&lb, "web");
        let backends = pool["backends"].as_array().unwrap();
        let found = |source: &&str| {
            let of = |backend: &Value| backend["sources"].to_string().contains(&format!("\"{source}"));
            backends.iter().any(of)
        };
        let kinds = |backend: &Value| {
            let checks = backend["checks"].as_array().unwrap();
            checks.iter().map(|check| &check["kind"]).eq(["http", "tcp", "exchange", "postgres", "redis"])
        };
        (sources.iter().all(found) && backends.iter().all(kinds)).then_some(())
    });
    let web = pool(&lb, "web");
    assert_eq!((&web["algorithm"], &web["shadow"]), (&json!("round-robin"), &json!(false)));
    assert_eq!((&web["replicas"]["min"], &web["replicas"]["max"]), (&json!(1), &json!(10)));
    eventually("its replica runs", || (engine.names("running").len() == 2).then_some(()));
    let logs = lb.folder().join("logs");
    let logged = eventually("the log is written to a file too", || {
        let file = std::fs::read_dir(&logs).ok()?.next()?.unwrap().path();
        std::fs::read_to_string(file).ok().filter(|text| text.contains("listening listener=web"))
    });
    assert!(!logged.contains('\u{1b}'), "{logged}");
    // Changes need the token.
    let request = format!("PATCH /api/v1/pools/web/backends/{}:{port}", ip(1));
    let change = |headers: &str| admin_request(lb.admin(), &request, headers, r#"{"state": "draining"}"#).0;
    assert_eq!(change(""), 401);
    assert_eq!(change(&format!("Authorization: Bearer {TOKEN}\r\n")), 200);
    end(lb);
}
