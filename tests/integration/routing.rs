//! Listeners that choose among pools: by the client's network, by the server name and the protocols in a ClientHello,
//! by shares. `interoperability.rs` has the same with the TLS of OpenSSL.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use crate::support::backend::Backend;
use crate::support::peers::is_reset;
use crate::support::{Lb, connect_to, eventually, http_get_on, static_list};

/// ClientHellos of real clients: OpenSSL for API.example.com with the protocols h2 and http/1.1, and Chromium for
/// www.example.com.
const OPENSSL: &[u8] = include_bytes!("../../src/protocol/client_hello_samples/openssl.bin");
const CHROMIUM: &[u8] = include_bytes!("../../src/protocol/client_hello_samples/chromium.bin");
const WITHOUT_NAME: &[u8] =
    include_bytes!("../../src/protocol/client_hello_samples/openssl-tls12-without-name.bin");
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// A server that answers with its name and the bytes that it has read until the client's end.
fn reader(name: &'static str) -> Backend {
    Backend::serving(move |mut stream: TcpStream| {
        let mut bytes = Vec::new();
        if stream.read_to_end(&mut bytes).is_ok() {
            let _ = stream.write_all(name.as_bytes()).and_then(|()| stream.write_all(&bytes));
        }
    })
}

/// A listener with these settings in front of pools, each with its backends.
fn config(listener: &str, pools: &[(&str, &[SocketAddr], &str)]) -> String {
    let pool = |(name, backends, settings): &(&str, &[SocketAddr], &str)| {
        format!("  {name}: {{discover: {}{settings}}}\n", static_list(backends))
    };
    let pools: String = pools.iter().map(pool).collect();
    format!("listeners: {{l: {{bind: 127.0.0.1:0, {listener}}}}}\npools:\n{pools}")
}

/// What the backend answers to a client that sends `parts`, each in a segment of its own, and half-closes.
fn answer(lb: &Lb, parts: &[&[u8]]) -> Vec<u8> {
    let mut client = connect_to(lb.address("l")).unwrap();
    client.set_nodelay(true).unwrap();
    for part in parts {
        client.write_all(part).unwrap();
    }
    client.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).unwrap();
    answer
}

#[test]
fn the_name_and_the_protocols_of_a_tls_client_choose_the_pool_and_its_bytes_are_unchanged() {
    let [api, web, h2, rest] = [reader("api:"), reader("web:"), reader("h2:"), reader("rest:")];
    let by_name = "sni: {api.example.com: api, '*.example.com': web}, default: rest";
    let pools = [
        ("api", &[api.address][..], ""),
        ("web", &[web.address], ""),
        ("h2", &[h2.address], ""),
        ("rest", &[rest.address], ""),
    ];
    let lb = Lb::start(&config(by_name, &pools[..]));
    let expected = |name: &str, bytes: &[u8]| [name.as_bytes(), bytes].concat();
    // Whole, byte by byte, and with what follows it at once.
    assert_eq!(answer(&lb, &[OPENSSL]), expected("api:", OPENSSL));
    let bytes: Vec<_> = OPENSSL.chunks(1).collect();
    assert_eq!(answer(&lb, &bytes), expected("api:", OPENSSL));
    let early = [CHROMIUM, b"early data"].concat();
    assert_eq!(answer(&lb, &[&early]), expected("web:", &early));
    let halves = [&CHROMIUM[..1000], &CHROMIUM[1000..], &b"more"[..]];
    assert_eq!(answer(&lb, &halves), expected("web:", &halves.concat()));
    // Without a name, and without TLS.
    assert_eq!(answer(&lb, &[WITHOUT_NAME]), expected("rest:", WITHOUT_NAME));
    assert_eq!(answer(&lb, &[b"GET / HTTP/1.0\r\n\r\n"]), b"rest:GET / HTTP/1.0\r\n\r\n");
    let line = lb.when_logged("server_name=api.example.com");
    assert!(line.contains("pool=api rule=\"sni api.example.com\""), "{line}");
    let why = lb.get("/api/v1/why?client=127.0.0.1").1;
    assert!(why.contains("by the rule \\\"sni *.example.com\\\" it was for the pool web"), "{why}");
    assert!(why.contains("no rule matched, so it was for the default pool, rest"), "{why}");
    let closed = |pool: &str, backend: SocketAddr| {
        lb.metric(&format!(
            "pointsman_connections_closed_total{{listener=\"l\",pool=\"{pool}\",backend=\"{backend}\",reason=\"client_closed\"}}"
        ))
    };
    lb.when_idle();
    assert_eq!(
        [closed("api", api.address), closed("web", web.address), closed("rest", rest.address)],
        [2., 2., 2.]
    );

    // A reload changes the rules.
    let by_protocol = "alpn: {h2: h2}, sni: {api.example.com: api}, default: rest";
    assert!(lb.reload(&config(by_protocol, &pools[..])).contains("applied"));
    assert_eq!(answer(&lb, &[CHROMIUM]), expected("h2:", CHROMIUM));
    assert_eq!(answer(&lb, &[WITHOUT_NAME]), expected("rest:", WITHOUT_NAME));
    let listener = &lb.status()["listeners"][0];
    assert_eq!(
        (&listener["pool"], &listener["pools"]),
        (&serde_json::Value::Null, &serde_json::json!(["api", "h2", "rest"]))
    );
}

#[test]
fn without_a_default_unknown_clients_are_refused_with_the_cause() {
    let api = reader("api:");
    let text = config("sni: {api.example.com: api}, hello_timeout: 1m", &[("api", &[api.address], "")]);
    let short = "  short: {bind: 127.0.0.1:0, sni: {api.example.com: api}, hello_timeout: 2s}\n";
    let text = text
        .replace("listeners: {l: {", "listeners:\n  l: {")
        .replace("}}\npools", &format!("}}\n{short}pools"));
    let lb = Lb::start(&text);
    // An unknown name: a TLS alert, and an orderly end.
    assert_eq!(answer(&lb, &[CHROMIUM]), [21, 3, 1, 0, 2, 2, 112]);
    let line = lb.when_logged("reason=denied");
    assert!(line.contains("server_name=www.example.com"), "{line}");
    assert!(line.contains("cause=\"no rule of the listener matches, and it has no default\""), "{line}");
    // Neither a name nor a protocol.
    assert_eq!(answer(&lb, &[WITHOUT_NAME]), [21, 3, 1, 0, 2, 2, 40]);
    // No TLS.
    let mut client = connect_to(lb.address("l")).unwrap();
    client.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    is_reset(&mut client);
    let line = lb.when_logged("reason=preface_invalid");
    assert!(line.contains("the first bytes are not a TLS ClientHello"), "{line}");
    // A part of it, then the end.
    let mut client = connect_to(lb.address("l")).unwrap();
    client.write_all(&CHROMIUM[..100]).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    is_reset(&mut client);
    lb.when_logged("the peer closed before the end of the ClientHello");
    // A part of it, then nothing; and nothing at all.
    for part in [&CHROMIUM[..100], &[]] {
        let mut client = connect_to(lb.address("short")).unwrap();
        client.write_all(part).unwrap();
        is_reset(&mut client);
    }
    let lines = lb.when_logged_times(2, &["reason=preface_timeout"]);
    assert!(lines[0].contains("no complete ClientHello came within hello_timeout"), "{lines:#?}");
    // The client ended it: no fault.
    drop(connect_to(lb.address("l")).unwrap());
    lb.when_logged("reason=client_closed");
    let closed = |(listener, reason): (&str, &str)| {
        lb.metric(&format!(
            "pointsman_connections_closed_total{{listener=\"{listener}\",pool=\"\",backend=\"\",reason=\"{reason}\"}}"
        ))
    };
    lb.when_idle();
    let reasons =
        [("l", "denied"), ("l", "preface_invalid"), ("short", "preface_timeout"), ("l", "client_closed")];
    assert_eq!(reasons.map(closed), [2., 2., 2., 1.]);
    let status = lb.status();
    let counts = |index: usize| {
        let listener = &status["listeners"][index];
        ["denied", "preface_failed", "connections"].map(|key| listener[key].as_u64().unwrap())
    };
    assert_eq!([counts(0), counts(1)], [[2, 2, 5], [0, 2, 2]]);
    let why = lb.get("/api/v1/why?client=127.0.0.1").1;
    assert!(why.contains("the client asked for www.example.com"), "{why}");
}

#[test]
fn the_network_of_a_client_chooses_the_pool() {
    let [inside, office, outside] = ["inside", "office", "outside"].map(Backend::http);
    let settings = "sources: {10.0.0.0/8: inside, 10.7.0.0/16: office}, default: outside, \
                    proxy_protocol: {trust: 127.0.0.1}";
    let pools = [
        ("inside", &[inside.address][..], ""),
        ("office", &[office.address], ""),
        ("outside", &[outside.address], ""),
    ];
    let lb = Lb::start(&config(settings, &pools));
    let served = |client: &str| {
        let mut stream = connect_to(lb.address("l")).unwrap();
        stream.write_all(format!("PROXY TCP4 {client} 198.51.100.1 7 80\r\n").as_bytes()).unwrap();
        http_get_on(stream, "/").unwrap().1
    };
    for (client, pool) in [("10.1.1.1", "inside"), ("10.7.1.1", "office"), ("192.0.2.1", "outside")] {
        assert!(served(client).contains(pool), "{client}");
        let line = lb.when_logged(&format!("client={client}:7 "));
        assert!(line.contains(&format!("pool={pool} rule=")), "{line}");
    }
}

#[test]
fn shares_divide_connections_among_pools() {
    let [web, canary] = [Backend::http("web"), Backend::http("canary")];
    // `next` has no backend, so it gets nothing.
    let gone = Backend::http("next").address;
    let pools = [
        ("web", &[web.address][..], ""),
        ("canary", &[canary.address], ""),
        ("next", &[gone], ", health: {tcp: {}, every: 100ms}"),
    ];
    let lb = Lb::start(&config("pool: {web: 19, canary: 1, next: 5}", &pools));
    let served = || http_get_on(connect_to(lb.address("l")).unwrap(), "/").unwrap().1;
    let answers: Vec<_> = (0..100).map(|_| served()).collect();
    let of_canary = answers.iter().filter(|answer| answer.contains("canary")).count();
    assert_eq!((answers.len(), of_canary), (100, 5));
    let routed = lb.logged(&["routed", "pool=canary"]).remove(0);
    let conn = routed.split_once("conn=").unwrap().1.split(' ').next().unwrap();
    let why = lb.get(&format!("/api/v1/why?conn={conn}")).1;
    assert!(why.contains("for the pool canary, whose share is 1 of 20"), "{why}");
    assert_eq!(lb.metric("pointsman_client_visible_failures_total{pool=\"next\",reason=\"no_backend\"}"), 0.);
    assert!(lb.reload(&config("pool: {web: 1, canary: 0}", &pools)).contains("applied"));
    assert!((0..20).all(|_| served().contains("web")));
}

#[test]
fn a_postgres_client_is_asked_for_its_name_and_its_server_for_tls() {
    // The first does not offer TLS, so each connection goes to the second one.
    let refuses = Backend::serving(|mut stream: TcpStream| {
        let mut request = [0; 8];
        let _ = stream.read_exact(&mut request).and_then(|()| stream.write_all(b"N"));
        let _ = stream.read(&mut request);
    });
    let offers = Backend::serving(|mut stream: TcpStream| {
        let mut request = [0; 8];
        if stream.read_exact(&mut request).is_err()
            || request != SSL_REQUEST
            || stream.write_all(b"S").is_err()
        {
            return;
        }
        let mut bytes = Vec::new();
        if stream.read_to_end(&mut bytes).is_ok() {
            let _ = stream.write_all(&bytes);
        }
    });
    let pools = [("db", &[refuses.address, offers.address][..], ""), ("rest", &[offers.address][..], "")];
    let lb = Lb::start(&config("sni: {'*.example.com': db}, default: rest, postgres: true", &pools));
    for (gss, at_once) in [(false, false), (true, false), (true, true)] {
        let mut client = connect_to(lb.address("l")).unwrap();
        let mut byte = [0];
        if gss {
            client.write_all(&[0, 0, 0, 8, 4, 210, 22, 48]).unwrap();
            client.read_exact(&mut byte).unwrap();
            assert_eq!(&byte, b"N");
        }
        // A client that does not wait for the answer.
        let (first, then) = if at_once { (CHROMIUM, &[][..]) } else { (&[][..], CHROMIUM) };
        client.write_all(&[&SSL_REQUEST, first].concat()).unwrap();
        client.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"S");
        client.write_all(then).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).unwrap();
        assert_eq!(answer, CHROMIUM);
    }
    let lines = lb.when_logged_times(3, &["routed", "pool=db"]);
    assert!(lines.iter().all(|line| line.contains(&format!("backend={}", offers.address))), "{lines:#?}");
    assert!(lb.log().contains("it does not offer TLS to PostgreSQL's clients"), "{}", lb.log());
    // After the request, only TLS may follow.
    let mut client = connect_to(lb.address("l")).unwrap();
    client.write_all(&SSL_REQUEST).unwrap();
    client.read_exact(&mut [0]).unwrap();
    client.write_all(b"plain").unwrap();
    is_reset(&mut client);
}

#[test]
fn clients_that_ask_for_the_same_name_go_to_the_same_backend() {
    let backends: Vec<_> = (0..4).map(|_| Backend::echo()).collect();
    let addresses: Vec<_> = backends.iter().map(|backend| backend.address).collect();
    let settings = ", balance: maglev, hash: {key: sni}";
    let lb = Lb::start(&config("pool: p", &[("p", &addresses, settings)]));
    let send = |hello: &[u8]| assert_eq!(answer(&lb, &[hello]), hello);
    (0..8).for_each(|_| send(CHROMIUM));
    let lines = lb.when_logged_times(8, &["routed", "server_name=www.example.com"]);
    let backend =
        |line: &String| line.split_once(" backend=").unwrap().1.split(' ').next().unwrap().to_owned();
    assert!(lines.iter().all(|line| backend(line) == backend(&lines[0])), "{lines:#?}");
    // Other names go to other backends.
    let mut used = std::collections::BTreeSet::from([backend(&lines[0])]);
    // So many that none of the four is left out by chance: where a name goes depends on the backends' ports.
    let at = CHROMIUM.windows(3).position(|bytes| bytes == b"www").unwrap();
    for n in 0..100 {
        let mut hello = CHROMIUM.to_vec();
        (hello[at], hello[at + 1]) = (b'a' + n % 26, b'a' + n / 26);
        send(&hello);
    }
    let lines = lb.when_logged_times(108, &["routed", "server_name="]);
    used.extend(lines.iter().map(backend));
    assert_eq!(used.len(), 4);
}

#[test]
fn a_waiting_client_counts_against_the_limit_and_ends_with_a_drain() {
    let api = reader("api:");
    let settings = "sni: {api.example.com: api}, hello_timeout: 1m, max_connections: 1";
    let mut lb = Lb::start(&config(settings, &[("api", &[api.address], "")]));
    let mut waiting = connect_to(lb.address("l")).unwrap();
    waiting.write_all(&CHROMIUM[..10]).unwrap();
    eventually("it is counted", || (lb.status()["listeners"][0]["active"] == 1).then_some(()));
    let connections = lb.get("/api/v1/connections").1;
    assert!(connections.contains("\"pool\":null"), "{connections}");
    let mut second = connect_to(lb.address("l")).unwrap();
    is_reset(&mut second);
    lb.signal("TERM");
    lb.when_logged("drain started");
    lb.signal("TERM");
    is_reset(&mut waiting);
    let _ = lb.when_ended();
}

#[test]
fn a_silent_client_belongs_to_the_default_and_one_of_a_known_network_is_not_asked() {
    // Servers that speak first.
    let greets = |name: &'static str| {
        Backend::serving(move |mut stream: TcpStream| drop(stream.write_all(name.as_bytes())))
    };
    let [inside, mail] = [greets("inside"), greets("mail")];
    let settings = "sources: {10.0.0.0/8: inside}, sni: {a.example: inside}, default: mail, hello_timeout: 200ms, \
                    proxy_protocol: {trust: 127.0.0.1}";
    let pools = [("inside", &[inside.address][..], ""), ("mail", &[mail.address], "")];
    let lb = Lb::start(&config(settings, &pools));
    for (client, pool) in [("10.1.1.1", "inside"), ("192.0.2.1", "mail")] {
        let mut stream = connect_to(lb.address("l")).unwrap();
        stream.write_all(format!("PROXY TCP4 {client} 198.51.100.1 7 80\r\n").as_bytes()).unwrap();
        let mut greeting = String::new();
        stream.read_to_string(&mut greeting).unwrap();
        assert_eq!(greeting, pool);
    }
}
