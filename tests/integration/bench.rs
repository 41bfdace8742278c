//! `pointsman bench`: counts, measurements, output and refused arguments.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::backend::{Backend, read_request};
use crate::support::peers::reset;
use crate::support::{ClosedPort, Lb, Limited, TIME_LIMIT, eventually, output_of, static_list};
use serde_json::Value;

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pointsman"));
    command.arg("bench").args(arguments).env_clear().stdin(Stdio::null());
    command
}

fn bench(arguments: &[&str]) -> Output {
    command(arguments).output_in_time().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The report of a test that must succeed.
fn figures(arguments: &[&str]) -> Value {
    let output = bench(&[arguments, &["--json"]].concat());
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    assert_eq!(text(&output.stderr), "", "with --json, standard error is empty");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// The requests of each backend.
fn shares(report: &Value) -> Vec<(String, u64)> {
    let all = report["backends"]["all"].as_array().unwrap();
    all.iter().map(|b| (b["name"].as_str().unwrap().to_owned(), b["requests"].as_u64().unwrap())).collect()
}

fn of(shares: &[(&str, u64)]) -> Vec<(String, u64)> {
    shares.iter().map(|(name, requests)| ((*name).to_owned(), *requests)).collect()
}

fn kinds(report: &Value) -> Vec<(String, u64)> {
    let all = report["failures"].as_array().unwrap();
    all.iter().map(|f| (f["kind"].as_str().unwrap().to_owned(), f["count"].as_u64().unwrap())).collect()
}

/// A round-robin balancer in front of these, and its URL.
fn balanced(backends: &[Backend]) -> (Lb, String) {
    let addresses: Vec<_> = backends.iter().map(|backend| backend.address).collect();
    let discover = static_list(&addresses);
    let lb = Lb::start(&format!(
        "listeners: {{l: {{bind: 127.0.0.1:0, pool: p}}}}\npools: {{p: {{discover: {discover}}}}}"
    ));
    let url = format!("http://{}/", lb.address("l"));
    (lb, url)
}

/// A server that sends this to each request and closes.
fn answering(head: &'static str, body: &'static str) -> Backend {
    Backend::serving(move |mut stream| {
        if read_request(&mut stream).is_some() {
            let length = body.len();
            let _ = write!(
                stream,
                "HTTP/1.1 {head}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
            );
        }
    })
}

fn url(backend: &Backend) -> String {
    format!("http://{}/", backend.address)
}

#[test]
fn round_robin_over_three_backends_is_exactly_even() {
    let backends = ["a", "b", "c"].map(Backend::http);
    let (lb, url) = balanced(&backends);
    let report = figures(&[&url, "-n", "300", "-c", "8"]);
    assert_eq!(shares(&report), of(&[("a", 100), ("b", 100), ("c", 100)]));
    assert_eq!(
        (&report["succeeded"], &report["failed"], &report["connections"]),
        (&Value::from(300), &Value::from(0), &Value::from(300))
    );
    assert_eq!(report["backends"]["by"], "body");
    // The balancer's own counters, for the next requests.
    let admin = lb.admin().to_string();
    let report = figures(&[&url, "-n", "300", "--by", "admin", "--admin", &admin]);
    let names: Vec<_> = backends.iter().map(|backend| backend.address.to_string()).collect();
    let even: Vec<_> = names.iter().map(|name| (name.as_str(), 100)).collect();
    let mut counted = shares(&report);
    counted.sort();
    let mut even = of(&even);
    even.sort();
    assert_eq!(counted, even);
}

#[test]
fn the_table_shows_totals_latencies_and_backends() {
    let backends = ["a", "b"].map(Backend::http);
    let (_lb, url) = balanced(&backends);
    let output = bench(&["-u", &url, "-n", "100", "-c", "4"]);
    let table = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    for words in [
        "100 requests, 4 concurrent",
        "100.0 %",
        "p99.9",
        "50.0 %",
        "████████████████████",
        "Closed loop",
        "of CPU",
    ] {
        assert!(table.contains(words), "{words} is not in\n{table}");
    }
    assert!(table.lines().all(|line| line.chars().count() <= 80), "{table}");
    let output = bench(&[&url, "-n", "10", "--by", "header:x-missing"]);
    let table = text(&output.stdout);
    assert!(table.contains("no response has a header x-missing"), "{table}");
    assert!(table.contains("10 requests, 10 concurrent"), "{table}");
}

#[test]
fn responses_are_attributed_by_header_and_by_expression() {
    let a = answering("200 OK\r\nX-Backend: one", "served by number 1");
    let report = figures(&[&url(&a), "-n", "20", "-c", "2"]);
    assert_eq!(
        (report["backends"]["by"].as_str(), shares(&report)),
        (Some("header x-backend"), of(&[("one", 20)]))
    );
    let report = figures(&[&url(&a), "-n", "20", "-c", "2", "--by", r"body:number (\d)"]);
    assert_eq!(shares(&report), of(&[("1", 20)]));
    let b = answering("503 Service Unavailable\r\nX-Other: two", "");
    let report = figures(&[&url(&b), "-n", "20", "-c", "2", "--by", "header:X-Other"]);
    assert_eq!(
        (shares(&report), report["backends"]["all"][0]["failed"].as_u64()),
        (of(&[("two", 20)]), Some(20))
    );
}

#[test]
fn failures_are_counted_by_kind() {
    for (server, kind) in [
        (answering("503 Service Unavailable", "no"), "status_503"),
        (answering("404 Not Found", "no"), "status_404"),
    ] {
        let report = figures(&[&url(&server), "-n", "30", "-c", "3"]);
        assert_eq!((kinds(&report), report["succeeded"].as_u64()), (of(&[(kind, 30)]), Some(0)));
    }
    let resetting = TcpListener::bind("127.0.0.1:0").unwrap();
    let reset_at = format!("http://{}/", resetting.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut stream in resetting.incoming().map_while(Result::ok) {
            read_request(&mut stream);
            reset(stream);
        }
    });
    let half = Backend::serving(|mut stream| {
        read_request(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
    });
    let silent = Backend::serving(|mut stream| {
        read_request(&mut stream);
        read_request(&mut stream);
    });
    let closed = ClosedPort::new();
    for (url, timeout, kind, words) in [
        (format!("http://{}/", closed.address), "20s", "refused", "connection refused"),
        (reset_at, "20s", "reset", "connection reset"),
        (url(&half), "20s", "closed_early", "closed before the response was complete"),
        (url(&silent), "200ms", "timeout", "timed out after 200ms"),
    ] {
        let output = bench(&[&url, "-n", "12", "-c", "3", "--timeout", timeout, "--json"]);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(kinds(&report), of(&[(kind, 12)]), "{url}");
        assert_eq!((report["done"].as_u64(), report["failed"].as_u64()), (Some(12), Some(12)));
        // Exit code 1: no request got a response.
        let error = text(&output.stderr);
        assert!(output.status.code() == Some(1) && error.contains(words) && error.contains(&url), "{error}");
    }
}

#[test]
fn the_no_backend_policy_of_a_balancer_shows_in_the_failures() {
    let closed = ClosedPort::new();
    let lb = Lb::start(&format!(
        "listeners:
  polite: {{bind: 127.0.0.1:0, pool: p, no_backend: http-503}}
  curt: {{bind: 127.0.0.1:0, pool: p, no_backend: reset}}
pools: {{p: {{discover: {}}}}}",
        static_list(&[closed.address])
    ));
    for (listener, kind) in [("polite", "status_503"), ("curt", "reset")] {
        let output = bench(&[&format!("http://{}/", lb.address(listener)), "-n", "50", "-c", "5", "--json"]);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(kinds(&report), of(&[(kind, 50)]), "{listener}");
    }
}

#[test]
fn failures_are_counted_and_successes_measured() {
    let count = AtomicUsize::new(0);
    let every_fourth = Backend::serving(move |mut stream| {
        if read_request(&mut stream).is_none() {
            return;
        }
        let status = if count.fetch_add(1, Ordering::SeqCst).is_multiple_of(4) { "500 Oh" } else { "200 OK" };
        let _ = write!(
            stream,
            "HTTP/1.1 {status}\r\nX-Server: s\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
    });
    let report = figures(&[&url(&every_fourth), "-n", "40", "-c", "5"]);
    assert_eq!((kinds(&report), report["succeeded"].as_u64()), (of(&[("status_500", 10)]), Some(30)));
    let backend = &report["backends"]["all"][0];
    assert_eq!((backend["requests"].as_u64(), backend["failed"].as_u64()), (Some(40), Some(10)));
    let output = bench(&[&url(&every_fourth), "-n", "40"]);
    assert!(output.status.success());
    assert!(
        text(&output.stdout).contains("10  status 500 Internal Server Error"),
        "{}",
        text(&output.stdout)
    );
}

/// A server that stalls for a second after twenty responses.
fn stalling() -> Backend {
    let (count, gate) = (AtomicUsize::new(0), Mutex::new(()));
    Backend::serving(move |mut stream| {
        if read_request(&mut stream).is_none() {
            return;
        }
        let one_at_a_time = gate.lock().unwrap();
        if count.fetch_add(1, Ordering::SeqCst) == 20 {
            std::thread::sleep(Duration::from_secs(1));
        }
        drop(one_at_a_time);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    })
}

#[test]
fn a_stall_shows_in_the_latencies_only_with_a_rate() {
    let open = figures(&[&url(&stalling()), "-n", "200", "-c", "2", "--rate", "200/s"]);
    let closed = figures(&[&url(&stalling()), "-n", "200", "-c", "2"]);
    let (from_due, from_sent) = (&open["latency_ms"], &open["service_ms"]);
    assert_eq!((open["loop"].as_str(), closed["loop"].as_str()), (Some("open"), Some("closed")));
    // Nine of ten came during the stall or while its backlog was served.
    assert!(number(&from_due["p50"]) > 200.0, "{open}");
    for hidden in [from_sent, &closed["latency_ms"]] {
        assert!(number(&hidden["p90"]) < number(&from_due["p50"]) / 2.0, "{open}\n{closed}");
        assert!(number(&hidden["max"]) > 900.0, "{hidden}");
    }
    assert!(number(&open["late"]["count"]) > 50.0 && number(&open["late"]["most_ms"]) > 500.0, "{open}");
    assert!(closed["late"].is_null() && closed["service_ms"].is_null());
}

#[test]
fn a_rate_is_kept_and_requests_never_sent_are_counted() {
    let quick = Backend::http("a");
    let report = figures(&[&url(&quick), "-n", "100", "--rate", "200/s"]);
    assert_eq!(report["done"], 100);
    // The last one is due after 99/200 s.
    assert!(number(&report["elapsed_s"]) >= 0.495, "{report}");
    assert!(number(&report["requests_per_second"]) <= 100.0 / 0.495 + 0.1, "{report}");
    // On a busy machine some may never be sent.
    eventually("all are sent in time", || {
        let report = figures(&[&url(&quick), "--duration", "500ms", "--rate", "100/s"]);
        let (done, not_sent) = (number(&report["done"]), number(&report["not_sent"]));
        assert!(report["requests"] == 50 && done + not_sent == 50.0, "{report}");
        (done == 50.0).then_some(())
    });
    let slow = Backend::serving(|mut stream| {
        read_request(&mut stream);
        std::thread::sleep(Duration::from_millis(200));
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    });
    let arguments = [&*url(&slow), "-c", "1", "--duration", "500ms", "--rate", "100/s"];
    let report = figures(&arguments);
    let (done, not_sent) = (number(&report["done"]), number(&report["not_sent"]));
    assert!((1.0..=4.0).contains(&done) && done + not_sent == 50.0, "{report}");
    assert!(text(&bench(&arguments).stdout).contains("never sent"));
}

#[test]
fn a_duration_ends_a_closed_loop_and_requests_in_flight_finish() {
    let backend = Backend::http("a");
    let report = figures(&[&url(&backend), "-c", "4", "--duration", "300ms"]);
    let done = report["done"].as_u64().unwrap();
    assert!(done > 0 && report["requests"].is_null(), "{report}");
    assert_eq!((report["failed"].as_u64(), report["given_up"].as_u64()), (Some(0), Some(0)));
    assert_eq!(backend.accepted.load(Ordering::SeqCst) as u64, done);
    assert!(number(&report["elapsed_s"]) >= 0.3, "{report}");
}

#[test]
fn kept_alive_connections_serve_many_requests_and_a_closed_one_is_replaced() {
    // Each connection serves five requests.
    let backend = Backend::serving(|mut stream| {
        for nth in 1..=5 {
            if read_request(&mut stream).is_none() {
                return;
            }
            let connection = if nth == 5 { "close" } else { "keep-alive" };
            let _ =
                write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: {connection}\r\n\r\n");
        }
    });
    let report = figures(&[&url(&backend), "-n", "100", "-c", "1", "--keep-alive"]);
    assert_eq!((report["succeeded"].as_u64(), report["connections"].as_u64()), (Some(100), Some(20)));
    assert_eq!(backend.accepted.load(Ordering::SeqCst), 20);
}

#[test]
fn method_headers_and_body_are_sent_as_given() {
    let received = Arc::<Mutex<String>>::default();
    let theirs = Arc::clone(&received);
    let backend = Backend::serving(move |mut stream| {
        let Some(request) = read_request(&mut stream) else { return };
        *theirs.lock().unwrap() = request;
        let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n");
    });
    let url = format!("http://localhost:{}/path?q=1", backend.address.port());
    let once = ["-n", "1", "-c", "1"];
    figures(&[&[&*url, "-H", "X-Test: yes", "-H", "Host: other", "--body", "hello"][..], &once].concat());
    let request = received.lock().unwrap().clone();
    for words in [
        "POST /path?q=1 HTTP/1.1\r\n",
        "x-test: yes\r\n",
        "host: other\r\n",
        "content-length: 5\r\n",
        "connection: close\r\n",
    ] {
        assert!(request.contains(words), "{words} is not in\n{request}");
    }
    figures(&[&[&*url, "-X", "PUT"][..], &once].concat());
    let request = received.lock().unwrap().clone();
    assert!(
        request.starts_with("PUT ")
            && request.contains(&format!("host: localhost:{}\r\n", backend.address.port())),
        "{request}"
    );
}

#[test]
fn a_tcp_service_gets_the_given_bytes() {
    let backend = Backend::serving(|mut stream| {
        let mut words = [0; 64];
        while let Ok(1..) = std::io::Read::read(&mut stream, &mut words) {
            let _ = stream.write_all(if words.starts_with(b"PING\r\n\x07") {
                b"+PONG one\r\n"
            } else {
                b"-ERR\r\n"
            });
        }
    });
    let target = format!("tcp://{}", backend.address);
    let report =
        figures(&[&target, "-n", "50", "-c", "5", "--send", r"PING\r\n\x07", "--by", r"body:PONG (\w+)"]);
    assert_eq!((report["succeeded"].as_u64(), shares(&report)), (Some(50), of(&[("one", 50)])));
    // Without --send, an open connection is a success.
    let report = figures(&[&target, "-n", "50", "-c", "5"]);
    assert_eq!((report["succeeded"].as_u64(), report["bytes"].as_u64()), (Some(50), Some(0)));
}

#[test]
fn a_chart_is_drawn_as_png_and_as_svg() {
    let backends = ["first", "second"].map(Backend::http);
    let (_lb, url) = balanced(&backends);
    let folder = tempfile::tempdir().unwrap();
    let draw = |name: &str| {
        let output = command(&[&url, "-n", "20", "--chart", name])
            .current_dir(folder.path())
            .output_in_time()
            .unwrap();
        assert!(output.status.success() && !output.stdout.is_empty(), "{}", text(&output.stderr));
        std::fs::read(folder.path().join(name)).unwrap()
    };
    let svg = text(&draw("out.svg"));
    assert!(svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>"), "{svg}");
    for words in ["first", "second", "10 (50.0 %)", "20 succeeded, 0 failed", "p99.9"] {
        assert!(svg.contains(words), "{words} is not in the chart");
    }
    let png = draw("out.png");
    assert!(png.starts_with(b"\x89PNG\r\n\x1a\n") && png.ends_with(b"IEND\xaeB`\x82"));
    let output = bench(&[&url, "-n", "1", "--chart", "/nowhere/out.svg"]);
    assert!(
        output.status.code() == Some(2) && text(&output.stderr).contains("/nowhere/out.svg"),
        "{output:?}"
    );
}

/// Starts a test, waits until its server has accepted this many connections, and interrupts it.
fn interrupted(backend: &Backend, connections: usize, arguments: &[&str]) -> Value {
    let child =
        command(arguments).arg("--json").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    eventually("the test is running", || {
        (backend.accepted.load(Ordering::SeqCst) >= connections).then_some(())
    });
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let output = output_of(child, TIME_LIMIT, "an interrupted test");
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn an_interrupt_ends_the_test_with_a_report() {
    let backend = Backend::http("a");
    for more in [&["--duration", "1h"][..], &["-n", "100000000", "--rate", "500/s"]] {
        let seen = backend.accepted.load(Ordering::SeqCst);
        let report = interrupted(&backend, seen + 20, &[&[&*url(&backend), "-c", "2"][..], more].concat());
        assert_eq!(report["interrupted"], true);
        let (done, given_up) = (number(&report["done"]), number(&report["given_up"]));
        assert!(done >= 10.0 && given_up <= 2.0 && number(&report["elapsed_s"]) < 60.0, "{report}");
    }
    let silent = Backend::serving(|mut stream: TcpStream| {
        read_request(&mut stream);
        read_request(&mut stream);
    });
    let report = interrupted(&silent, 3, &[&url(&silent), "-c", "3", "--timeout", "1h"]);
    assert_eq!((report["done"].as_u64(), report["given_up"].as_u64()), (Some(0), Some(3)));
}

#[test]
fn the_json_field_names_are_stable() {
    let backend = Backend::http("a");
    let report = figures(&[&url(&backend), "-n", "10", "--rate", "1000"]);
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ");
    assert_eq!(
        keys(&report),
        "backends backends_error bytes concurrent connections cores cpu_s done duration_s elapsed_s failed failures \
         given_up interrupted keep_alive late latency_ms loop not_sent rate requests requests_per_second service_ms \
         succeeded target timeout_s"
    );
    assert_eq!(keys(&report["latency_ms"]), "max mean min p50 p90 p99 p999");
    assert_eq!(keys(&report["late"]), "after_ms count most_ms");
    assert_eq!(keys(&report["backends"]), "all by unknown");
    assert_eq!(keys(&report["backends"]["all"][0]), "failed mean_ms name requests share");
    let report = figures(&[&url(&answering("500 Oh", "")), "-n", "1"]);
    assert_eq!(keys(&report["failures"][0]), "count kind what");
}

#[test]
fn wrong_arguments_are_refused_with_advice_before_any_request() {
    let backend = Backend::http("a");
    let http = url(&backend);
    let tcp = format!("tcp://{}", backend.address);
    for (arguments, word) in [
        (&[][..], "TARGET"),
        (&[&*http, "-u", &http], "--url"),
        (&["127.0.0.1:8080"], "did you mean http://127.0.0.1:8080?"),
        (&["https://localhost/"], "https:// is not supported"),
        (&["http://name.invalid/"], "name.invalid"),
        (&[&http, "-n", "0"], "0 is not in"),
        (&[&http, "-c", "0"], "-c"),
        (&[&http, "-n", "10", "-d", "1s"], "--duration"),
        (&[&http, "--rate", "fast"], "1000/s"),
        (&[&http, "-d", "soon"], "10ms"),
        (&[&http, "-H", "no colon"], "'Name: value'"),
        (&[&http, "-H", "Connection: close"], "--keep-alive"),
        (&[&http, "--body", "@none.txt"], "none.txt"),
        (&[&http, "--by", "cookie:x"], "header:NAME, body:REGEX or admin"),
        (&[&http, "--by", "body:("], "regular expression"),
        (&[&http, "--by", "admin"], "--admin 127.0.0.1:9900"),
        (&[&http, "--by", "admin", "--admin", "127.0.0.1:1"], "the admin server 127.0.0.1:1"),
        (&[&http, "--send", "x"], "--send is only for tcp://"),
        (&[&tcp, "--keep-alive"], "--keep-alive is only for http://"),
        (&[&tcp, "--by", "header:x"], "--by header is only for http://"),
        (&[&tcp, "--send", r"\q"], r"\r \n \t"),
        (&[&http, "--chart", "a.gif"], "a.svg"),
    ] {
        let output = bench(arguments);
        let error = text(&output.stderr);
        assert_eq!((output.status.code(), &*text(&output.stdout)), (Some(1), ""), "{arguments:?}: {error}");
        assert!(error.contains(word), "{arguments:?}: {word} is not in\n{error}");
    }
    assert_eq!(backend.accepted.load(Ordering::SeqCst), 0);
    let output = bench(&[&http, "-n", "100000000", "-c", "100000000"]);
    assert!(output.status.code() == Some(2) && text(&output.stderr).contains("ulimit -n"), "{output:?}");
}

#[test]
fn the_admin_address_may_be_a_name_or_a_url() {
    let backends = [Backend::http("a")];
    let (lb, url) = balanced(&backends);
    for admin in [format!("localhost:{}", lb.admin().port()), format!("http://{}/", lb.admin())] {
        let report = figures(&[&url, "-n", "10", "--by", "admin", "--admin", &admin]);
        assert_eq!(shares(&report), of(&[(&backends[0].address.to_string(), 10)]), "{admin}");
    }
    // A server that is not a balancer.
    let admin = backends[0].address.to_string();
    let output = bench(&[&url, "-n", "10", "--by", "admin", "--admin", &admin]);
    let error = text(&output.stderr);
    assert!(
        output.status.code() == Some(1) && error.contains("does not report the connections of each backend"),
        "{error}"
    );
}

#[test]
fn a_body_can_come_from_a_file_and_the_admin_address_from_the_environment() {
    let backends = [Backend::http("a")];
    let (lb, url) = balanced(&backends);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("body"), "x").unwrap();
    let run = |arguments: &[&str], folder: &Path| {
        let mut command = command(arguments);
        let output =
            command.env("POINTSMAN_ADMIN", lb.admin().to_string()).current_dir(folder).output_in_time();
        let output = output.unwrap();
        serde_json::from_slice::<Value>(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
    };
    let report = run(&[&url, "-n", "10", "--by", "admin", "--body", "@body", "--json"], folder.path());
    assert_eq!(shares(&report)[0].1, 10);
    // A target that bypasses the balancer.
    let beside = backends[0].address;
    let report = run(&[&format!("tcp://{beside}"), "-n", "1", "--by", "admin", "--json"], folder.path());
    assert!(report["backends_error"].as_str().unwrap().contains("is it in front of the target?"), "{report}");
}
