//! Checks of Redis and PostgreSQL, and that no server's reply takes much memory, against servers in the test. Checks of
//! real databases are in `docker/databases.rs`.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::health::{shared, when};
use crate::support::backend::Backend;
use crate::support::peers::in_front_of;
use crate::support::postgres::{AuthMethod, in_recovery, message, primary, row, serve};
use crate::support::{Lb, TIME_LIMIT, eventually, static_list};

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
    /// What authenticated clients sent in whole sessions, each with the method.
    sent: Arc<Mutex<Vec<(AuthMethod, String)>>>,
    backend: Backend,
}

fn postgres() -> Postgres {
    let (auth, current) = shared(AuthMethod::Nothing);
    let sent = Arc::<Mutex<Vec<(AuthMethod, String)>>>::default();
    let recorded = Arc::clone(&sent);
    let backend = Backend::serving(move |mut stream| {
        let method = current();
        if let Ok(sent) = serve(&mut stream, method, &primary()) {
            recorded.lock().unwrap().push((method, String::from_utf8_lossy(&sent).into_owned()));
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
                // The state's cause stays that of the first check that failed, which may have timed out.
                let mut errors = backend["checks"].as_array().unwrap().iter().map(|check| &check["error"]);
                match pool["name"] == fails {
                    true => {
                        backend["state"] == "down"
                            && errors.any(|error| error.as_str().is_some_and(|text| text.contains(cause)))
                    }
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
    let (_, session) =
        eventually("the whole session up to Terminate", || sent.lock().unwrap().first().cloned());
    assert!(
        session.starts_with("SCRAM-SHA-256") && session.ends_with('X') && !session.contains("s3cret!"),
        "{session}"
    );
    for (method, error) in [
        (AuthMethod::Scram("guess"), "it did not prove that it knows the password"),
        (AuthMethod::Md5, "add md5 to the check's require_auth"),
        (AuthMethod::Clear, "add password to the check's require_auth"),
    ] {
        *auth.lock().unwrap() = method;
        when(&lb, "down", error);
        // A session by the former method may end only now.
        let received = sent.lock().unwrap().iter().any(|(by, _)| *by == method);
        assert!(!received, "{method:?}: it received something");
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
    let by = |method: AuthMethod| {
        let sent = sent.lock().unwrap();
        sent.iter().find(|(by, _)| *by == method).map(|(_, session)| session.clone())
    };
    let hash = eventually("the hash", || by(AuthMethod::Md5));
    assert!(hash.starts_with("md5") && !hash.contains("s3cret!"), "{hash}");
    *auth.lock().unwrap() = AuthMethod::Clear;
    let password = eventually("the password", || by(AuthMethod::Clear));
    assert!(password.starts_with("s3cret!\0"), "{password}");
    when(&lb, "up", "");
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
