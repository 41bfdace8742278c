//! Active checks, against servers in the test. Checks of Redis and PostgreSQL are in `database_checks.rs`.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::support::backend::{Backend, read_request};
use crate::support::peers::in_front_of;
use crate::support::{Lb, TIME_LIMIT, connect_to, eventually, static_list};

/// A short interval; each result changes the state.
const QUICK: &str = "every: 400ms, timeout: 400ms, rise: 1, fall: 1";

/// A balancer with one backend and this check, at a short interval.
fn checked(backend: &Backend, how: &str) -> Lb {
    in_front_of(
        backend.address,
        &format!("    health: {{{how}, every: 400ms, timeout: 400ms, rise: 1, fall: 1}}\n"),
    )
}

/// Waits until the only backend has this state, and its cause or a check's last error contains `words`.
pub(crate) fn when(lb: &Lb, state: &str, words: &str) {
    let deadline = Instant::now() + TIME_LIMIT;
    loop {
        let status = lb.status();
        let backend = &status["pools"][0]["backends"][0];
        let errors = backend["checks"].as_array().unwrap().iter().map(|check| &check["error"]);
        // On a busy machine the first failure may be a timeout.
        let reported =
            errors.chain([&backend["cause"]]).any(|text| text.as_str().is_some_and(|t| t.contains(words)));
        if backend["state"] == state && reported {
            return;
        }
        assert!(Instant::now() < deadline, "it is {backend}, not {state} ({words})\n{}", lb.log());
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A value that the test changes while a backend serves it.
pub(crate) fn shared<T: Clone + Send + 'static>(value: T) -> (Arc<Mutex<T>>, impl Fn() -> T + Send + Sync) {
    let shared = Arc::new(Mutex::new(value));
    let served = Arc::clone(&shared);
    (shared, move || served.lock().unwrap().clone())
}

/// An HTTP server that responds with the given status and an empty body.
fn with_status(status: &Arc<AtomicU16>) -> Backend {
    let status = Arc::clone(status);
    Backend::serving(move |mut stream| {
        let Some(_) = read_request(&mut stream) else { return };
        let status = status.load(Ordering::SeqCst);
        let _ = write!(stream, "HTTP/1.1 {status} So\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    })
}

#[test]
fn a_status_matches_a_set_of_codes_and_ranges() {
    let status = Arc::new(AtomicU16::new(200));
    let backend = with_status(&status);
    let lb = checked(&backend, "http: {path: /health, status: [204, 3xx, 500-501, 429-431]}");
    when(&lb, "down", "status 200, not 204 or 3xx or 500-501 or 429-431");
    for (code, state) in [
        (204, "up"),
        (299, "down"),
        (300, "up"),
        (428, "down"),
        (430, "up"),
        (432, "down"),
        (399, "up"),
        (503, "down"),
    ] {
        status.store(code, Ordering::SeqCst);
        let error = if state == "up" { String::new() } else { format!("status {code}, not") };
        when(&lb, state, &error);
    }
}

#[test]
fn the_text_is_found_in_a_body_in_chunks_and_without_an_end() {
    let (body, current) = shared("status: starting");
    let backend = Backend::serving(move |mut stream| {
        let Some(_) = read_request(&mut stream) else { return };
        if stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").is_err() {
            return;
        }
        // One byte at a time, then endless: the check must not wait for the rest.
        let mut chunk = current().bytes().map(|byte| vec![byte]).chain(std::iter::repeat(vec![b'.'; 1024]));
        let write = |chunk: Vec<u8>| {
            stream.write_all(&[format!("{:x}\r\n", chunk.len()).as_bytes(), &chunk, b"\r\n"].concat())
        };
        let _ = chunk.try_for_each(write);
    });
    let lb = checked(&backend, "http: {path: /, body: 'status: ok'}");
    when(&lb, "down", r#"the body does not contain "status: ok"; it is "status: starting......"#);
    *body.lock().unwrap() = "status: ok";
    when(&lb, "up", "");
}

#[test]
fn the_host_header_is_the_configured_one_or_the_address() {
    let (paths, hosts) = (Arc::<Mutex<Vec<String>>>::default(), Arc::<Mutex<Vec<String>>>::default());
    let (path, host) = (Arc::clone(&paths), Arc::clone(&hosts));
    let backend = Backend::serving(move |mut stream| {
        let Some(request) = read_request(&mut stream) else { return };
        let line = |name: &str| request.lines().find_map(|line| line.strip_prefix(name)).unwrap().to_owned();
        path.lock().unwrap().push(line("GET "));
        host.lock().unwrap().push(line("host: "));
        let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    });
    let lb = checked(&backend, "http: {path: '/health?deep=1', host: api.example.com}");
    when(&lb, "up", "");
    assert_eq!(paths.lock().unwrap()[0], "/health?deep=1 HTTP/1.1");
    assert_eq!(hosts.lock().unwrap()[0], "api.example.com");
    hosts.lock().unwrap().clear();
    drop(lb);
    let lb = checked(&backend, "http: /health");
    when(&lb, "up", "");
    eventually("a check of the second one", || {
        hosts.lock().unwrap().last().filter(|host| **host == backend.address.to_string()).map(|_| ())
    });
}

/// A node of a replicated database: one port responds with its name, another one with its role.
struct Node {
    data: Backend,
    _role_port: Backend,
    role: Arc<AtomicU16>,
}

/// Two nodes with the same two ports on two addresses, like the servers of a cluster.
fn cluster() -> [Node; 2] {
    let node = |ip: [u8; 4], ports: [u16; 2]| {
        let role = Arc::new(AtomicU16::new(0));
        let is = Arc::clone(&role);
        let data = Backend::serving_at((ip, ports[0]).into(), move |mut stream: TcpStream| {
            let _ = stream.write_all(&ip[3..]);
            let _ = stream.read(&mut [0]); // until the client or the balancer closes it
        })?;
        let role_server = Backend::serving_at((ip, ports[1]).into(), move |mut stream| {
            let Some(request) = read_request(&mut stream) else { return };
            let wanted = if request.starts_with("GET /primary ") { 1 } else { 2 };
            let status = if is.load(Ordering::SeqCst) == wanted { "200 Yes" } else { "503 No" };
            let _ = write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        })?;
        std::io::Result::Ok(Node { data, _role_port: role_server, role })
    };
    eventually("two ports that are free on both addresses", || {
        let first = node([127, 0, 0, 1], [0, 0]).unwrap();
        let ports = [first.data.address.port(), first._role_port.address.port()];
        match node([127, 0, 0, 2], ports) {
            Ok(second) => Some([first, second]),
            Err(error) if error.kind() == ErrorKind::AddrInUse => None,
            Err(error) => panic!("{error}"),
        }
    })
}

#[test]
fn a_check_on_another_port_selects_the_primary_as_with_patroni() {
    const PRIMARY: u16 = 1;
    const REPLICA: u16 = 2;
    let [a, b] = cluster();
    a.role.store(PRIMARY, Ordering::SeqCst);
    b.role.store(REPLICA, Ordering::SeqCst);
    let discover = static_list(&[a.data.address, b.data.address]);
    let port = a._role_port.address.port();
    let pool = |path: &str| {
        format!(
            "{{discover: {discover}, on_down: close, health: {{http: {path}, port: {port}, every: 400ms, timeout: 400ms, rise: 1}}}}"
        )
    };
    let lb = Lb::start(&format!(
        "listeners:\n  primary: {{bind: 127.0.0.1:0, pool: primary}}\n  replica: {{bind: 127.0.0.1:0, pool: replica}}\n\
         pools:\n  primary: {}\n  replica: {}\n",
        pool("/primary"),
        pool("/replica"),
    ));
    let session = |listener: &str| {
        let mut stream = connect_to(lb.address(listener)).ok()?;
        stream.set_read_timeout(Some(TIME_LIMIT)).unwrap();
        let mut name = [0];
        stream.read_exact(&mut name).ok()?;
        Some((stream, name[0]))
    };
    let on = |listener: &str, wanted: u8| {
        eventually("a session with the right server", || {
            session(listener).filter(|(_, name)| *name == wanted).map(|(stream, _)| stream)
        })
    };
    let mut writes = on("primary", 1);
    let mut reads = on("replica", 2);
    a.role.store(REPLICA, Ordering::SeqCst);
    b.role.store(PRIMARY, Ordering::SeqCst);
    assert_eq!(writes.read(&mut [0]).unwrap(), 0, "the writing client is disconnected from the old primary");
    assert_eq!(reads.read(&mut [0]).unwrap(), 0);
    on("primary", 2);
    on("replica", 1);
    eventually("the log has the cause", || {
        lb.logged(&["backend down", "pool=primary", "status 503, not"]).pop()
    });
}

#[test]
fn an_exchange_passes_if_the_response_contains_the_expected_bytes() {
    let (answer, current) = shared(&b"-NOAUTH Authentication required.\r\n"[..]);
    let backend = Backend::serving(move |mut stream| {
        let mut request = [0; 6];
        if stream.read_exact(&mut request).is_ok() && request == *b"PING\r\n" {
            let _ = stream.write_all(current());
            let _ = stream.read(&mut [0]);
        }
    });
    let lb = checked(&backend, r#"exchange: {send: "PING\r\n", expect: "+PONG"}"#);
    when(
        &lb,
        "down",
        r#"answered "-NOAUTH Authentication required.\r\n" within the time limit, not "+PONG""#,
    );
    *answer.lock().unwrap() = b"and \x00 before +PONG\r\n";
    when(&lb, "up", "");
    *answer.lock().unwrap() = b"";
    when(&lb, "down", r#"answered nothing within the time limit, not "+PONG""#);
}

#[test]
fn an_exchange_that_sends_nothing_waits_for_the_server() {
    let (banner, current) = shared(&b"554 go away\r\n"[..]);
    let backend = Backend::serving(move |mut stream| {
        for byte in current().chunks(1) {
            let _ = stream.write_all(byte);
        }
    });
    let lb = checked(&backend, r#"exchange: {expect: "220 "}"#);
    when(&lb, "down", r#"answered "554 go away\r\n" and closed the connection, not "220 ""#);
    *banner.lock().unwrap() = b"220 mail.example.com ESMTP\r\n";
    when(&lb, "up", "");
}

#[test]
fn of_several_checks_all_must_pass_and_the_status_has_each() {
    let mut other = Backend::echo();
    let status = Arc::new(AtomicU16::new(200));
    let backend = with_status(&status);
    let lb = in_front_of(
        backend.address,
        &format!(
            "    health: [{{http: /, {QUICK}}}, {{tcp: {{}}, port: {}, {QUICK}}}]\n",
            other.address.port()
        ),
    );
    when(&lb, "up", "");
    let checks = || {
        let status = lb.status();
        let checks = status["pools"][0]["backends"][0]["checks"].as_array().unwrap().clone();
        checks
            .iter()
            .map(|check| (check["kind"].as_str().unwrap().to_owned(), check["passed"] == true))
            .collect::<Vec<_>>()
    };
    let all = |http, tcp| vec![("http".to_owned(), http), ("tcp".to_owned(), tcp)];
    let seen = |wanted: &Vec<_>| eventually("the last results", || (checks() == *wanted).then_some(()));
    seen(&all(true, true));
    other.kill();
    when(&lb, "down", "connection refused");
    seen(&all(true, false));
    other.revive();
    when(&lb, "up", "");
    status.store(500, Ordering::SeqCst);
    when(&lb, "down", "status 500");
    seen(&all(false, true));
}

#[test]
fn checks_are_fast_while_a_backend_is_in_transition() {
    const FALL: usize = 20;
    let times = Arc::<Mutex<Vec<Instant>>>::default();
    let status = Arc::new(AtomicU16::new(200));
    let (seen, served_status) = (Arc::clone(&times), Arc::clone(&status));
    let backend = Backend::serving(move |mut stream| {
        let Some(_) = read_request(&mut stream) else { return };
        let status = served_status.load(Ordering::SeqCst);
        if status != 200 {
            seen.lock().unwrap().push(Instant::now());
        }
        let _ = write!(stream, "HTTP/1.1 {status} So\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    });
    let settings =
        format!("    health: {{http: /, every: 3s, fast_every: 50ms, timeout: 3s, fall: {FALL}}}\n");
    let lb = in_front_of(backend.address, &settings);
    when(&lb, "up", "");
    status.store(500, Ordering::SeqCst);
    when(&lb, "down", "20 failures in a row");
    let times = times.lock().unwrap();
    // At the regular interval it would take 57 s.
    let took = times[FALL - 1] - times[0];
    assert!(took < TIME_LIMIT, "{took:?}");
}

#[test]
fn the_limit_of_checks_in_progress_holds() {
    const AT_ONCE: usize = 2;
    let (now, most) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let backends: Vec<_> = (0..8)
        .map(|_| {
            let (now, most) = (Arc::clone(&now), Arc::clone(&most));
            Backend::serving(move |mut stream| {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                let request = read_request(&mut stream);
                std::thread::sleep(Duration::from_millis(20)); // a slow check
                // The check ends with the response, so it is counted first.
                now.fetch_sub(1, Ordering::SeqCst);
                if request.is_some() {
                    let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
                }
            })
        })
        .collect();
    let addresses: Vec<SocketAddr> = backends.iter().map(|backend| backend.address).collect();
    let lb = Lb::start(&format!(
        "runtime: {{max_checks: {AT_ONCE}}}\nlisteners: {{l: {{bind: 127.0.0.1:0, pool: p}}}}\npools:\n  p:\n    \
         discover: {}\n    health: {{http: /, every: 10s, timeout: 10s}}\n",
        static_list(&addresses)
    ));
    lb.when_up(addresses.iter().map(ToString::to_string).collect());
    assert_eq!(most.load(Ordering::SeqCst), AT_ONCE);
}

#[test]
fn a_pool_of_silent_backends_does_not_delay_the_checks_of_another_pool() {
    const SILENT: usize = 60;
    const AT_ONCE: usize = 8;
    // The kernel accepts connections, but no byte arrives: each check takes its whole timeout.
    let silent: Vec<_> = (0..SILENT).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let addresses: Vec<_> = silent.iter().map(|listener| listener.local_addr().unwrap()).collect();
    let mut lively = Backend::http("a");
    let alive = lively.address;
    let config = |health: &str| {
        format!(
            "runtime: {{max_checks: {AT_ONCE}}}\nlisteners: {{l: {{bind: 127.0.0.1:0, pool: lively}}}}\npools:\n  \
             lively: {{discover: {}, health: {{http: /, every: 1s, fast_every: 200ms, timeout: 1s, fall: 3}}}}\n  \
             silent: {{discover: {}{health}}}\n",
            static_list(&[alive]),
            static_list(&addresses),
        )
    };
    let lb = Lb::start(&config(", health: {http: /, every: 1s, timeout: 1s}"));
    let checks =
        |pool: &str| lb.metric(&format!("pointsman_health_check_duration_seconds_count{{pool=\"{pool}\"}}"));
    let late = |pool: &str| lb.metric(&format!("pointsman_health_checks_late_total{{pool=\"{pool}\"}}"));
    let state = || {
        let status = lb.status();
        let pools = status["pools"].as_array().unwrap();
        let pool = pools.iter().find(|pool| pool["name"] == "lively").unwrap();
        pool["backends"][0]["state"].as_str().unwrap().to_owned()
    };
    eventually("each of the silent ones was checked", || (checks("silent") > SILENT as f64).then_some(()));
    eventually("the lively one is up", || (state() == "up").then_some(()));
    let (before, late_before) = (checks("silent"), late("lively"));
    lively.kill();
    eventually("the dead one is down", || (state() == "down").then_some(()));
    // Behind all silent backends, its three checks would take three of their rounds.
    let meanwhile = checks("silent") - before;
    assert!(meanwhile < SILENT as f64, "{meanwhile} checks of silent backends came first");
    assert_eq!(late("lively"), late_before, "{}", lb.log());

    // The log reports once that the silent pool's checks run late, and once that they are on time again.
    assert!(late("silent") > 0.0);
    let delayed = "pointsman_health_check_delay_seconds_bucket{le=\"0.5\",pool=\"silent\"}";
    assert!(lb.metric(delayed) < checks("silent"), "{}", lb.get("/metrics").1);
    lb.when_logged_times(1, &["checks run late", "pool=silent", "runtime.max_checks"]);
    let story = lb.get("/api/v1/story").1;
    assert!(story.contains("the checks of silent ran late (the first waited"), "{story}");
    lb.reload(&config(""));
    lb.when_logged_times(1, &["checks are on time again", "pool=silent"]);
}
