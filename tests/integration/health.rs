//! Active checks of every kind, against servers in the test. Checks of real databases are in `docker/databases.rs`.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::support::backend::{Backend, read_request};
use crate::support::peers::in_front_of;
use crate::support::postgres::{AuthMethod, in_recovery, message, primary, row, serve};
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
fn when(lb: &Lb, state: &str, words: &str) {
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
fn shared<T: Clone + Send + 'static>(value: T) -> (Arc<Mutex<T>>, impl Fn() -> T + Send + Sync) {
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
    let lb = checked(&backend, "http: {path: /health, status: [204, 3xx, 429-431]}");
    when(&lb, "down", "status 200, not 204 or 3xx or 429-431");
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
        let mut who = [0];
        stream.read_exact(&mut who).ok()?;
        Some((stream, who[0]))
    };
    let on = |listener: &str, wanted: u8| {
        eventually("a session with the right server", || {
            session(listener).filter(|(_, who)| *who == wanted).map(|(stream, _)| stream)
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

/// A Redis master with a password (ACL, AUTH).
fn redis(password: impl Fn() -> String + Send + Sync + 'static) -> Backend {
    Backend::serving(move |mut stream| {
        let password = password();
        let right = format!("*3\r\n$4\r\nAUTH\r\n$5\r\ncheck\r\n${}\r\n{password}\r\n", password.len());
        let mut request = vec![0; right.len()];
        if stream.read_exact(&mut request).is_err() {
            return;
        }
        let answer: &[u8] = if request == right.as_bytes() {
            b"+OK\r\n+PONG\r\n*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n"
        } else {
            b"-WRONGPASS invalid username-password pair or user is disabled.\r\n"
        };
        let _ = stream.write_all(answer);
        let _ = stream.read_to_end(&mut Vec::new());
    })
}

#[test]
fn a_password_is_never_shown_even_if_the_server_repeats_it() {
    // Servers that do not know the command or the protocol.
    let answers: [&[u8]; 3] = [
        b"-ERR unknown command 'AUTH', with args beginning with: 'check' 's3cret!' \r\n",
        b"+OK\r\n-ERR you said s3cret!\r\n",
        b"s3cret!",
    ];
    let (answer, current) = shared(answers[0]);
    let backend = Backend::serving(move |mut stream| {
        let _ = stream.write_all(current());
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let redis = "redis: {role: any, user: check, password_file: secret}, every: 400ms, timeout: 400ms";
    // PostgreSQL's request for the password in clear, and an error that repeats it.
    let postgres = Backend::serving(|mut stream| {
        let _ = stream.write_all(b"R\0\0\0\x08\0\0\0\x03");
        let mut buffer = [0; 1024];
        let mut received = Vec::new();
        while !received.windows(7).any(|part| part == b"s3cret!") {
            match stream.read(&mut buffer) {
                Ok(0) | Err(_) => return,
                Ok(n) => received.extend_from_slice(&buffer[..n]),
            }
        }
        let fields = b"SFATAL\0C28P01\0Mwho is s3cret!?\0\0";
        let length = (fields.len() as u32 + 4).to_be_bytes();
        let _ = stream.write_all(&[b"E", &length[..], fields].concat());
    });
    let lb = Lb::start_in(
        &format!(
            "listeners: {{l: {{bind: 127.0.0.1:0, pool: p}}}}\npools:\n  p: {{discover: {}, health: {{{redis}}}}}\n  \
             q: {{discover: {}, health: {{postgres: {{role: any, password_file: secret, require_auth: password}}, every: 400ms, timeout: 400ms}}}}\n",
            static_list(&[backend.address]),
            static_list(&[postgres.address]),
        ),
        |folder| std::fs::write(folder.join("secret"), "s3cret!\n").unwrap(),
    );
    for (reply, error) in answers.into_iter().zip([
        "AUTH is refused: ERR;",
        "PING is refused: \"ERR you said ***\"",
        "the reply to AUTH is not in the Redis protocol",
    ]) {
        *answer.lock().unwrap() = reply;
        when(&lb, "down", error);
    }
    eventually("the password is asked for in clear", || {
        lb.status().to_string().contains("who is ***?").then_some(())
    });
    assert!(!lb.log().contains("s3cret!"), "{}", lb.log());
    assert!(!lb.status().to_string().contains("s3cret!"));
}

#[test]
fn a_password_is_read_for_each_check_and_a_missing_one_is_a_local_error() {
    let (wanted, current) = shared("first".to_owned());
    let backend = redis(current);
    let health =
        "{redis: {role: master, user: check, password_file: secret}, every: 400ms, timeout: 400ms, rise: 1}";
    let secret = |folder: &std::path::Path, text: &str| {
        std::fs::write(folder.join("new"), text).unwrap();
        std::fs::rename(folder.join("new"), folder.join("secret")).unwrap();
    };
    let config = format!(
        "listeners: {{l: {{bind: 127.0.0.1:0, pool: p}}}}\npools:\n  p: {{discover: {}, health: {health}}}\n",
        static_list(&[backend.address])
    );
    // The balancer is ready without the file, which may be created later.
    let lb = Lb::start(&config);
    assert_eq!(lb.backends()[0].1, "joining");
    secret(lb.folder(), "first\n");
    when(&lb, "up", "");
    *wanted.lock().unwrap() = "other".to_owned();
    when(&lb, "down", "AUTH is refused: WRONGPASS;");
    secret(lb.folder(), "other\n");
    when(&lb, "up", "");
    std::fs::remove_file(lb.folder().join("secret")).unwrap();
    let logged =
        || lb.logged(&["check without result", "the password file secret cannot be read: No such file"]);
    eventually("it is logged again", || (logged().len() > 1).then_some(()));
    let mut checks = BTreeSet::new();
    eventually("ten more checks", || {
        checks.insert(lb.status()["pools"][0]["backends"][0]["last_check"]["at"].to_string());
        (checks.len() > 10).then_some(())
    });
    // On a busy machine a check may time out, after which the error is logged again.
    assert!(logged().len() < 6, "not for every check");
    let series = format!(
        "pointsman_health_checks_total{{pool=\"p\",backend=\"{}\",result=\"local\"}}",
        backend.address
    );
    assert!(lb.metric(&series) > 10.0);
    assert_eq!(lb.backends()[0].1, "up");
}

/// A PostgreSQL primary.
struct Postgres {
    /// The authentication method that it requests; can be changed.
    auth: Arc<Mutex<AuthMethod>>,
    /// The last message of an authenticated client.
    sent: Arc<Mutex<Vec<u8>>>,
    backend: Backend,
}

fn postgres() -> Postgres {
    let (auth, current) = shared(AuthMethod::Nothing);
    let sent = Arc::<Mutex<Vec<u8>>>::default();
    let recorded = Arc::clone(&sent);
    let backend = Backend::serving(move |mut stream| {
        if let Ok(sent) = serve(&mut stream, current(), &primary()) {
            *recorded.lock().unwrap() = sent;
        }
    });
    Postgres { auth, sent, backend }
}

/// A balancer with this PostgreSQL check and the password `s3cret!`.
fn with_postgres(backend: &Backend, check: &str) -> Lb {
    Lb::start_in(
        &format!(
            "listeners: {{l: {{bind: 127.0.0.1:0, pool: p}}}}\npools:\n  p: {{discover: {}, health: {{postgres: {{role: \
             primary, password_file: secret{check}}}, every: 1s, timeout: 1s, rise: 1, fall: 1, fast_every: 100ms}}}}\n",
            static_list(&[backend.address]),
        ),
        |folder| std::fs::write(folder.join("secret"), "s3cret!\n").unwrap(),
    )
}

#[test]
fn a_postgres_server_passes_only_the_checks_of_its_role() {
    for (answer, fails, cause) in [
        (b"f", "standby", "it is the primary, not a standby"),
        (b"t", "primary", "it is a standby, not the primary"),
    ] {
        let server = Backend::serving(move |mut stream| {
            let _ = serve(&mut stream, AuthMethod::Nothing, &in_recovery(answer));
        });
        let discover = static_list(&[server.address]);
        let pool = |role: &str| {
            format!(
                "  {role}: {{discover: {discover}, health: {{postgres: {{role: {role}}}, every: 1s, fast_every: 100ms, rise: 1, fall: 1}}}}\n"
            )
        };
        let pools = ["primary", "standby", "any"].map(pool).concat();
        let lb = Lb::start(&format!("listeners: {{l: {{bind: 127.0.0.1:0, pool: any}}}}\npools:\n{pools}"));
        eventually("each pool has checked the role", || {
            let status = lb.status();
            let pools = status["pools"].as_array().unwrap();
            let settled = pools.iter().all(|pool| {
                let backend = &pool["backends"][0];
                match pool["name"] == fails {
                    true => backend["state"] == "down" && backend["cause"].as_str().unwrap().contains(cause),
                    false => backend["state"] == "up",
                }
            });
            settled.then_some(())
        });
    }
}

#[test]
fn a_postgres_server_and_its_check_authenticate_each_other() {
    let Postgres { auth, sent, backend } = postgres();
    let lb = with_postgres(&backend, "");
    when(&lb, "down", "it requires no password");
    *auth.lock().unwrap() = AuthMethod::Scram("s3cret!");
    when(&lb, "up", "");
    let sent_text = |sent: &Mutex<Vec<u8>>| String::from_utf8_lossy(&sent.lock().unwrap()).into_owned();
    eventually("the whole session up to Terminate", || sent_text(&sent).ends_with('X').then_some(()));
    assert!(
        sent_text(&sent).starts_with("SCRAM-SHA-256") && !sent_text(&sent).contains("s3cret!"),
        "{}",
        sent_text(&sent)
    );
    for (method, error) in [
        (AuthMethod::Scram("guess"), "it did not prove that it knows the password"),
        (AuthMethod::Md5, "add md5 to the check's require_auth"),
        (AuthMethod::Clear, "add password to the check's require_auth"),
    ] {
        sent.lock().unwrap().clear();
        *auth.lock().unwrap() = method;
        when(&lb, "down", error);
        assert_eq!(sent_text(&sent), "", "{method:?}: it received something");
        *auth.lock().unwrap() = AuthMethod::Scram("s3cret!");
        when(&lb, "up", "");
    }
}

#[test]
fn weaker_authentication_methods_can_be_allowed() {
    let Postgres { auth, sent, backend } = postgres();
    let lb = with_postgres(&backend, ", require_auth: [md5, password, none]");
    when(&lb, "up", "");
    *auth.lock().unwrap() = AuthMethod::Scram("s3cret!");
    when(&lb, "down", "add scram-sha-256 to the check's require_auth");
    *auth.lock().unwrap() = AuthMethod::Md5;
    when(&lb, "up", "");
    eventually("the hash", || {
        let sent = String::from_utf8_lossy(&sent.lock().unwrap()).into_owned();
        (sent.starts_with("md5") && !sent.contains("s3cret!")).then_some(())
    });
    *auth.lock().unwrap() = AuthMethod::Clear;
    eventually("the password", || sent.lock().unwrap().starts_with(b"s3cret!\0").then_some(()));
    assert_eq!(lb.backends()[0].1, "up");
}

/// Servers that send endlessly, or announce more than they send: their behavior on a connection, and the reported error.
#[test]
fn an_endless_response_takes_little_memory_and_gives_a_short_error() {
    const MIB: usize = 1 << 20;
    /// The limit of memory for all checks, including the usual growth of the process.
    const MOST_KIB: u64 = 32 << 10;
    let endless = |mut stream: TcpStream, begin: Vec<u8>, again: Vec<u8>| {
        let _ = stream.set_write_timeout(Some(TIME_LIMIT));
        let mut sent = stream.write_all(&begin);
        while sent.is_ok() {
            sent = stream.write_all(&again);
        }
    };
    let backend = |begin: Vec<u8>, again: Vec<u8>| {
        Backend::serving(move |stream| endless(stream, begin.clone(), again.clone()))
    };
    let rows = Backend::serving(|mut stream| {
        let many = row(b"t").repeat(MIB / 12);
        let _ = serve(&mut stream, AuthMethod::Nothing, &[message(b'T', b"\0\0"), many].concat());
    });
    let postgres = "postgres: any";
    let filler = || vec![b'x'; MIB];
    let error = [b"SFATAL\0C57P03\0M", &b"\x1b[31mno\n"[..], &filler()[..20_000], b"\0\0"].concat();
    let cases = [
        ("rows", rows, postgres, "more than one row"),
        (
            "length",
            backend(b"E\x7f\xff\xff\xff".to_vec(), filler()),
            postgres,
            "announces a message of 2147483647 bytes",
        ),
        ("notices", backend(Vec::new(), message(b'N', &filler()[..1000])), postgres, "it sent more than"),
        ("error", backend(message(b'E', &error), message(b'N', b"\0")), postgres, "FATAL:  [31mno xxx"),
        ("head", backend(b"HTTP/1.1 200 OK\r\nx: ".to_vec(), filler()), "http: /", "GET /"),
        (
            "interim",
            backend(Vec::new(), b"HTTP/1.1 103 Early\r\n\r\n".repeat(1000)),
            "http: /",
            "it sent more than",
        ),
        (
            "body",
            backend(b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), filler()),
            "http: {path: /, body: wanted}",
            "does not contain",
        ),
        ("line", backend(b"+".to_vec(), filler()), "redis: any", "it sent more than"),
        (
            "bulk",
            backend(b"+PONG\r\n*1\r\n$2147483647\r\n".to_vec(), filler()),
            "redis: any",
            "it sent more than",
        ),
        ("exchange", backend(Vec::new(), filler()), "exchange: {expect: wanted}", "answered \"xxx"),
    ];
    let pool = |(name, backend, check, _): &(&str, Backend, &str, &str)| {
        let discover = static_list(&[backend.address]);
        format!("  {name}: {{discover: {discover}, health: {{{check}, every: 500ms, timeout: 500ms}}}}\n")
    };
    let pools: String = cases.iter().map(pool).collect();
    let lb = Lb::start(&format!("listeners: {{l: {{bind: 127.0.0.1:0, pool: rows}}}}\npools:\n{pools}"));
    let last_error = |pool: &str| {
        let status = lb.status();
        let pools = status["pools"].as_array().unwrap();
        let backend = pools.iter().find(|one| one["name"] == pool).unwrap()["backends"][0].clone();
        backend["last_check"]["error"].as_str().unwrap_or_default().to_owned()
    };
    let mut most = 0;
    for (name, _, _, words) in &cases {
        let deadline = Instant::now() + TIME_LIMIT;
        loop {
            let error = last_error(name);
            most = most.max(lb.resident_kib());
            // Its first check may not have ended yet.
            if error.contains(words) {
                assert!(error.chars().count() <= 1024, "{name}: {error}");
                assert!(!error.contains(['\n', '\x1b']), "{name}: {error}");
                break;
            }
            assert!(Instant::now() < deadline, "{name}: {error}, not {words}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    // More rounds of all checks.
    let checks = || lb.metric("pointsman_health_check_duration_seconds_count{pool=\"length\"}");
    let wanted = checks() + 8.0;
    eventually("eight more checks", || {
        most = most.max(lb.resident_kib());
        (checks() >= wanted).then_some(())
    });
    let idle = {
        let backend = Backend::http("a");
        let lb = in_front_of(backend.address, "");
        lb.resident_kib()
    };
    assert!(most < idle + MOST_KIB, "{most} KiB with these checks, {idle} KiB without");
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
             lively: {{discover: {}, health: {{http: /, every: 200ms, timeout: 200ms, fall: 3}}}}\n  \
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
    assert_eq!(state(), "up");
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
