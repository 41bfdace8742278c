//! The admin server and the log, as operators and their tools use them.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;

use crate::support::backend::Backend;
use crate::support::{
    Lb, TIME_LIMIT, address_of_this_machine, connect_to, eventually, http_get, static_list,
};

/// A raw request to the admin server; the whole answer.
fn raw(lb: &Lb, request: &str) -> String {
    let mut stream = connect_to(lb.admin()).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn web(backends: &str, extra: &str) -> String {
    format!(
        "listeners: {{web: {{bind: 127.0.0.1:0, pool: web, no_backend: close}}}}
pools: {{web: {{discover: {backends}{extra}}}}}"
    )
}

#[test]
fn the_metric_names_are_stable() {
    let backend = Backend::http("a");
    let lb = Lb::start(&web(
        &static_list(&[backend.address]),
        ", health: {http: /health, every: 1s, timeout: 1s}",
    ));
    lb.when_up(vec![backend.address.to_string()]);
    http_get(lb.address("web"), "/").unwrap();
    lb.when_idle();
    let answer = raw(&lb, "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    assert!(answer.to_lowercase().contains("content-type: application/openmetrics-text"), "{answer}");
    let text = lb.get("/metrics").1;
    assert!(text.ends_with("# EOF\n"), "{text}");
    let backend = format!("backend=\"{}\"", backend.address);
    for series in [
        format!(
            "pointsman_connections_closed_total{{listener=\"web\",pool=\"web\",{backend},reason=\"backend_closed\"}} 1"
        ),
        format!("pointsman_connections_open{{listener=\"web\",pool=\"web\",{backend}}} 0"),
        format!("pointsman_backend_state{{pool=\"web\",{backend},state=\"up\"}} 1"),
        format!("pointsman_backend_state{{pool=\"web\",{backend},state=\"down\"}} 0"),
        "pointsman_backends{pool=\"web\",state=\"up\"} 1".to_owned(),
        "pointsman_listener_connections_accepted_total{listener=\"web\"} 1".to_owned(),
        format!("pointsman_connections_opened_total{{listener=\"web\",pool=\"web\",{backend}}} 1"),
        format!("pointsman_connect_duration_seconds_count{{pool=\"web\",{backend}}} 1"),
        format!("pointsman_first_byte_duration_seconds_count{{pool=\"web\",{backend}}} 1"),
        "# UNIT pointsman_relayed_bytes bytes".to_owned(),
        "# UNIT pointsman_first_byte_duration_seconds seconds".to_owned(),
        "pointsman_connection_duration_seconds_count{pool=\"web\"} 1".to_owned(),
        "pointsman_failures_retried_total{pool=\"web\"} 0".to_owned(),
        "pointsman_log_lines_dropped_total 0".to_owned(),
        "pointsman_ready 1".to_owned(),
        format!("pointsman_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION")),
    ] {
        assert!(text.lines().any(|line| line == series), "{series} is not in\n{text}");
    }
    for family in [
        "pointsman_relayed_bytes",
        "pointsman_health_checks",
        "pointsman_health_check_duration_seconds",
        "pointsman_resolutions",
        "pointsman_connect_failures",
        "pointsman_client_visible_failures",
        "process_open_fds",
        "process_resident_memory_bytes",
    ] {
        assert!(text.contains(&format!("# HELP {family} ")), "{family} is not in\n{text}");
    }
    // A scraper refuses the whole text if a series appears twice.
    let series: Vec<_> =
        text.lines().filter(|line| !line.starts_with('#')).map(|l| l.rsplit_once(' ').unwrap().0).collect();
    assert_eq!(series.len(), series.iter().collect::<BTreeSet<_>>().len(), "{text}");
}

#[test]
fn every_close_reason_is_counted_once_and_leaves_no_open_connection() {
    let backend = Backend::http("a");
    let silent = Backend::serving(|mut stream| {
        let _ = stream.read(&mut [0; 1]); // until the client disconnects
    });
    let lb = Lb::start(&format!(
        "listeners:
  web: {{bind: 127.0.0.1:0, pool: web, max_connections: 1}}
  silent: {{bind: 127.0.0.1:0, pool: silent}}
  nobody: {{bind: 127.0.0.1:0, pool: nobody, no_backend: close}}
pools:
  web: {{discover: {}}}
  silent: {{discover: {}, timeouts: {{idle: 100ms}}}}
  nobody: {{discover: [{{static: [127.0.0.1:1]}}]}}",
        static_list(&[backend.address]),
        static_list(&[silent.address]),
    ));
    let count = |listener: &str, reason: &str| {
        let text = lb.get("/metrics").1;
        let mine = |line: &&str| {
            line.starts_with("pointsman_connections_closed_total{")
                && line.contains(&format!("listener=\"{listener}\""))
                && line.contains(&format!("reason=\"{reason}\""))
        };
        let value = |line: &str| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap();
        text.lines().filter(mine).map(value).sum::<u64>()
    };
    let counted = |listener: &str, reason: &str| {
        eventually(&format!("{listener} {reason}"), || (count(listener, reason) == 1).then_some(()));
    };
    // backend_closed, limited, idle_timeout, no_backend.
    let holder = connect_to(lb.address("web")).unwrap();
    eventually("it is open", || {
        let status = lb.status();
        let mut listeners = status["listeners"].as_array().unwrap().iter();
        listeners.any(|listener| listener["name"] == "web" && listener["active"] == 1).then_some(())
    });
    assert!(http_get(lb.address("web"), "/").is_err());
    counted("web", "limited");
    drop(holder);
    counted("web", "client_closed");
    http_get(lb.address("web"), "/").unwrap();
    counted("web", "backend_closed");
    let _idle = connect_to(lb.address("silent")).unwrap();
    counted("silent", "idle_timeout");
    let _ = connect_to(lb.address("nobody")).unwrap().read(&mut [0; 1]);
    counted("nobody", "connect_failed");
    lb.when_idle();
    let status = lb.status();
    for pool in status["pools"].as_array().unwrap() {
        for backend in pool["backends"].as_array().unwrap() {
            assert_eq!(backend["active"], 0, "{status}");
        }
    }
    assert!(
        status["listeners"].as_array().unwrap().iter().all(|listener| listener["active"] == 0),
        "{status}"
    );
}

#[test]
fn errors_are_json_with_the_right_status() {
    let backend = Backend::http("a");
    let lb = Lb::start(&web(&static_list(&[backend.address]), ""));
    let (status, body) = lb.get("/nothing");
    let error: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &error["error"]["code"]), (404, &serde_json::json!("not_found")));
    assert!(error["error"]["message"].as_str().unwrap().contains("/nothing"));
    let answer = raw(&lb, "DELETE /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
    assert!(answer.to_lowercase().contains("\r\nallow: get"), "{answer}");
    let answer = raw(&lb, &format!("GET / HTTP/1.1\r\nHost: t\r\n{}\r\n", "X: y\r\n".repeat(1000)));
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    let answer = raw(&lb, "what is this\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert_eq!(lb.get("/heartbeat"), (200, "{\"status\":\"alive\"}".to_owned()));
}

#[test]
fn the_page_and_its_files_are_served_with_their_types_and_its_policy() {
    let lb = Lb::start(&web("[{static: [127.0.0.1:1]}]", ""));
    for (path, kind, part) in [
        ("/", "text/html; charset=utf-8", "<title>"),
        ("/dashboard/style.css", "text/css; charset=utf-8", "{"),
        ("/dashboard/main.js", "text/javascript; charset=utf-8", "import "),
        ("/dashboard/icon.svg", "image/svg+xml", "<svg"),
    ] {
        let answer =
            raw(&lb, &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"));
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let head = head.to_lowercase();
        assert!(head.starts_with("http/1.1 200 ") && body.contains(part), "{path}: {head}");
        assert!(head.contains(&format!("content-type: {kind}")), "{path}: {head}");
        assert!(
            head.contains("content-security-policy: default-src 'self'; base-uri 'none'"),
            "{path}: {head}"
        );
        assert!(head.contains("x-content-type-options: nosniff"), "{path}: {head}");
    }
}

#[test]
fn dns_rebinding_is_refused() {
    let backend = Backend::http("a");
    let admin = "admin: {bind: 127.0.0.1:0, token_file: token, hosts: [lb.example.com]}";
    let lb = Lb::start_in(&format!("{admin}\n{}", web(&static_list(&[backend.address]), "")), |folder| {
        std::fs::write(folder.join("token"), "a-token-for-the-tests").unwrap();
    });
    let send =
        |path: &str, head: &str| raw(&lb, &format!("GET {path} HTTP/1.1\r\nConnection: close\r\n{head}\r\n"));
    let pages =
        ["/", "/metrics", "/api/v1/status", "/api/v1/events", "/api/v1/config", "/nothing", "/rep", "/add"];
    for path in pages {
        let answer = send(path, "Host: evil.example:9900\r\n");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 421 "), "{path}: {answer}");
        assert!(head.to_lowercase().contains("\r\ncache-control: no-store"), "{path}: {head}");
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        let message = match path {
            "/rep" | "/add" => body["message"].as_str().filter(|_| body["status"] == "failure"),
            _ => body["error"]["message"].as_str().filter(|_| body["error"]["code"] == "misdirected"),
        };
        assert!(message.unwrap().contains("evil.example:9900"), "{path}: {body}");
    }
    // Allowed: with the token, by its own names, and paths without secrets.
    let with = |token: &str| format!("Host: evil.example\r\nAuthorization: Bearer {token}\r\n");
    assert!(send("/api/v1/status", &with("a-token-for-the-tests")).starts_with("HTTP/1.1 200 "));
    assert!(send("/api/v1/status", &with("a-token-for-nobody")).starts_with("HTTP/1.1 421 "));
    lb.when_logged("a wrong token");
    for host in ["localhost", "lb.localhost:9900", "127.0.0.1", "[::1]:9900", "LB.example.com:443"] {
        let answer = send("/api/v1/status", &format!("Host: {host}\r\n"));
        assert!(answer.starts_with("HTTP/1.1 200 "), "{host}: {answer}");
    }
    for path in ["/heartbeat", "/ready"] {
        assert!(send(path, "Host: pointsman:9900\r\n").starts_with("HTTP/1.1 200 "), "{path}");
    }
    assert!(raw(&lb, "GET /api/v1/status HTTP/1.0\r\n\r\n").starts_with("HTTP/1.0 200 "));
}

#[test]
fn a_remote_request_under_an_unlisted_name_with_a_dot_is_refused() {
    let Some(outside) = address_of_this_machine() else { return };
    let backend = Backend::http("a");
    let admin = "admin: {bind: 0.0.0.0:0, token_file: token, hosts: [lb.example.com]}";
    let lb = Lb::start_in(&format!("{admin}\n{}", web(&static_list(&[backend.address]), "")), |folder| {
        std::fs::write(folder.join("token"), "a-token-for-the-tests").unwrap();
    });
    let send = |path: &str, head: &str| {
        let mut stream = TcpStream::connect((outside, lb.admin().port())).unwrap();
        stream.set_read_timeout(Some(TIME_LIMIT)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nConnection: close\r\nHost: {head}\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    for path in ["/", "/metrics", "/api/v1/config", "/api/v1/connections", "/api/v1/events"] {
        let answer = send(path, "evil.example:9900");
        assert!(answer.starts_with("HTTP/1.1 421 ") && answer.contains("admin.hosts"), "{path}: {answer}");
    }
    for host in ["pointsman:9900", "LB.example.com", "localhost", &outside.to_string()] {
        let answer = send("/api/v1/status", host);
        assert!(answer.starts_with("HTTP/1.1 200 "), "{host}: {answer}");
    }
    let token = "evil.example\r\nAuthorization: Bearer a-token-for-the-tests";
    assert!(send("/api/v1/status", token).starts_with("HTTP/1.1 200 "));
    for path in ["/heartbeat", "/ready"] {
        assert!(send(path, "evil.example").starts_with("HTTP/1.1 200 "), "{path}");
    }
}

#[test]
fn an_ambiguously_framed_request_is_refused_and_ends_its_connection() {
    let backend = Backend::http("a");
    let lb = Lb::start(&web(&static_list(&[backend.address]), ""));
    let host = "Host: localhost\r\n";
    let both = [
        format!("{host}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        format!("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n{host}\r\n0\r\n\r\n"),
    ];
    let gzip = format!("{host}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n");
    let hosts = [String::from("\r\n"), format!("{host}Host: other\r\n\r\n"), "Host: a b\r\n\r\n".into()];
    let cases = both.iter().chain(&hosts).map(|rest| (rest, 400)).chain([(&gzip, 501)]);
    for (rest, status) in cases {
        for path in ["/api/v1/status", "/heartbeat", "/rep"] {
            let answer = raw(&lb, &format!("GET {path} HTTP/1.1\r\n{rest}GET / HTTP/1.1\r\n{host}\r\n"));
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{rest:?}: {answer}");
            assert!(head.to_lowercase().contains("\r\nconnection: close"), "{rest:?}: {answer}");
            let body: serde_json::Value = serde_json::from_str(body).unwrap();
            let shape = if path == "/rep" { &body["message"] } else { &body["error"]["message"] };
            assert!(shape.is_string(), "{rest:?}: {answer}");
        }
    }
    // hyper itself refuses these.
    for rest in ["Content-Length: 5\r\nContent-Length: 6", "Content-Length: -1", "Transfer-Encoding: gzip"] {
        let answer = raw(&lb, &format!("GET /heartbeat HTTP/1.1\r\n{host}{rest}\r\n\r\n"));
        assert!(answer.starts_with("HTTP/1.1 400 "), "{rest:?}: {answer}");
    }
    // An HTTP/1.0 client may omit the host, and an absolute target contains it.
    assert!(raw(&lb, "GET /api/v1/status HTTP/1.0\r\n\r\n").starts_with("HTTP/1.0 200 "));
    let target = |uri: &str, host: &str| {
        raw(&lb, &format!("GET {uri}/api/v1/status HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"))
    };
    assert!(target("http://localhost", "evil.example").starts_with("HTTP/1.1 200 "));
    assert!(target("http://evil.example", "localhost").starts_with("HTTP/1.1 421 "));
}

#[test]
fn bodies_are_read_to_their_end_and_no_further() {
    let backend = Backend::http("a");
    let lb = Lb::start(&web(&static_list(&[backend.address]), ", balance: weighted"));
    let change = |framing: &str, body: &str| {
        let (host, path) = (lb.admin(), format!("/api/v1/pools/web/backends/{}", backend.address));
        let head = format!("PATCH {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n");
        format!("{head}{framing}\r\n\r\n{body}")
    };
    let one = change("Content-Length: 12", r#"{"weight":1}"#);
    // Its length is unknown, so it is the last one of its connection.
    let last = change("Transfer-Encoding: chunked", "5\r\n{\"wei\r\n7;x=y\r\nght\":2}\r\n0\r\n\r\n");
    let answer = raw(&lb, &format!("{one}{one}\r\n{one}{last}{one}"));
    assert_eq!(answer.matches("HTTP/1.1 200 ").count(), 4, "{answer}");
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 4, "{answer}");
    assert!(answer.ends_with('}') && answer.contains("\"weight\":2"), "{answer}");
}

#[test]
fn silent_admin_clients_do_not_block_other_ones() {
    let backend = Backend::http("a");
    let lb = Lb::start(&web(&static_list(&[backend.address]), ""));
    let silent: Vec<_> = (0..200).map(|_| connect_to(lb.admin()).unwrap()).collect();
    assert_eq!(lb.get("/ready").0, 200);
    assert_eq!(http_get(lb.address("web"), "/").unwrap(), (200, "a".to_owned()));
    drop(silent);
}

#[test]
fn incomplete_requests_without_permission_do_not_block_other_ones() {
    let backend = Backend::http("a");
    let lb = Lb::start(&web(&static_list(&[backend.address]), ""));
    let half = "PATCH /api/v1/pools/web/backends/a HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.example\r\n\
                Content-Type: application/json\r\nContent-Length: 50\r\n\r\n{";
    // More than the number of connection slots.
    let mut held: Vec<_> = (0..300)
        .map(|_| {
            let mut stream = connect_to(lb.admin()).unwrap();
            stream.write_all(half.as_bytes()).unwrap();
            stream
        })
        .collect();
    assert_eq!(lb.get("/heartbeat").0, 200);
    // The response does not wait for the body, and closes the connection.
    for stream in &mut held {
        stream.set_read_timeout(Some(TIME_LIMIT)).unwrap();
        let mut answer = [0; 13];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"HTTP/1.1 403 ");
    }
}

#[test]
fn the_admin_server_can_be_a_unix_socket() {
    let backend = Backend::http("a");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    let lb = Lb::launch(&format!(
        "admin: {{bind: \"unix:{}\"}}\n{}",
        path.display(),
        web(&static_list(&[backend.address]), "")
    ));
    lb.when_logged("admin listening");
    let check_ready = || {
        let mut stream = UnixStream::connect(&path).ok()?;
        stream.write_all(b"GET /ready HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        answer.starts_with("HTTP/1.1 200 ").then_some(())
    };
    eventually("it is ready", check_ready);
    for (host, status) in [("t", 200), ("lb.example.com", 421)] {
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.set_read_timeout(Some(TIME_LIMIT)).unwrap();
        let head = format!("Host: {host}\r\nConnection: close");
        write!(stream, "GET /api/v1/status HTTP/1.1\r\n{head}\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    }
}

#[test]
fn the_log_goes_to_files_and_old_ones_are_removed() {
    let backend = Backend::http("a");
    // Relative to the working directory.
    let config = format!("log: {{directory: logs, keep: 3}}\n{}", web(&static_list(&[backend.address]), ""));
    let lb = Lb::start_in(&config, |folder| {
        std::fs::create_dir(folder.join("logs")).unwrap();
        // Log files of earlier days.
        for day in 1..=5 {
            std::fs::write(folder.join(format!("logs/pointsman.2020-01-0{day}.log")), "old\n").unwrap();
        }
    });
    http_get(lb.address("web"), "/").unwrap();
    let folder = lb.folder().join("logs");
    let text = eventually("the connection is in the latest file", || {
        let text = std::fs::read_to_string(folder.join("pointsman.log"));
        text.ok().filter(|text| text.contains("closed"))
    });
    lb.when_logged(" closed ");
    let routed = |text: &str| text.lines().find(|line| line.contains(" routed ")).unwrap().to_owned();
    assert_eq!(routed(&text), routed(&lb.log()));
    assert!(!text.contains('\u{1b}'), "no colours in a file: {text:?}");
    let files = std::fs::read_dir(&folder).unwrap().count() - 1; // without the link to the latest
    assert_eq!(files, 3);
}
