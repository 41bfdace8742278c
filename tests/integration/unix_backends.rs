//! Backends at Unix sockets: served, checked, retried and refused like those at TCP ports.

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use crate::support::backend::{self, Backend};
use crate::support::unix_backend::UnixBackend;
use crate::support::{Lb, connect_to, eventually, http_get, output_of};

/// A listener `l` and its pool with these sources and settings.
fn config(discover: &str, settings: &str) -> String {
    format!(
        "listeners: {{l: {{bind: 127.0.0.1:0, pool: p}}}}\npools: {{p: {{discover: {discover}{settings}}}}}\n"
    )
}

/// The body of the response to a request through the balancer.
fn answer(lb: &Lb) -> String {
    http_get(lb.address("l"), "/").unwrap().1
}

#[test]
fn a_backend_at_a_unix_socket_is_checked_and_serves() {
    let checked = Arc::new(Mutex::new(String::new()));
    let request = Arc::clone(&checked);
    let serve = move |mut stream: UnixStream| {
        let text = backend::read_request(&mut stream).unwrap_or_default();
        let is_check = text.starts_with("GET /health");
        if is_check {
            *request.lock().unwrap() = text;
        }
        let body = if is_check { "ok" } else { "web" };
        let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    };
    // A port for checks, and options of TCP, are for other backends.
    let settings = ", health: {http: /health, every: 1s, fast_every: 100ms, port: 9}, keepalive: 5s, user_timeout: 5s, \
                    connect: {source: 127.0.0.1}";
    let mut server = None;
    let lb = Lb::start_in(&config("[{static: ['unix:web.sock']}]", settings), |folder| {
        server = Some(UnixBackend::serving(&folder.join("web.sock"), serve.clone()));
    });
    lb.when_up(vec!["web.sock".to_owned()]);
    assert_eq!(answer(&lb), "web");
    let line = lb.when_logged("routed conn=");
    assert!(line.contains(" backend=web.sock address=unix:web.sock "), "{line}");
    assert!(checked.lock().unwrap().contains("\r\nhost: localhost\r\n"), "{checked:?}");
    let status = lb.status();
    assert_eq!(status["pools"][0]["backends"][0]["address"], "unix:web.sock");

    // The process ends and leaves its file; then the file is gone too.
    drop(server.take());
    let cause = "connect to unix:web.sock: connection refused";
    eventually(cause, || lb.backends()[0].2.contains(cause).then_some(()));
    let path = lb.folder().join("web.sock");
    fs::remove_file(&path).unwrap();
    eventually("the missing file is noticed", || {
        let backend = lb.status()["pools"][0]["backends"][0].clone();
        backend["checks"][0]["error"].as_str()?.contains("there is no file at the path").then_some(())
    });
    http_get(lb.address("l"), "/").unwrap_err();
    let _server = UnixBackend::serving(&path, serve);
    lb.when_up(vec!["web.sock".to_owned()]);
    assert_eq!(answer(&lb), "web");
}

#[test]
fn bytes_and_ends_pass_through_a_unix_socket_in_both_directions() {
    let mut server = None;
    let lb = Lb::start_in(&config("[{static: ['unix:echo.sock']}]", ""), |folder| {
        let echo = |mut stream: UnixStream| {
            let mut reader = stream.try_clone().unwrap();
            let _ = std::io::copy(&mut reader, &mut stream);
        };
        server = Some(UnixBackend::serving(&folder.join("echo.sock"), echo));
    });
    // More than the buffers of all sockets take.
    let sent: Vec<u8> = (0..32 << 20_u32).map(|n| (n ^ (n >> 11)) as u8).collect();
    let mut client = connect_to(lb.address("l")).unwrap();
    let mut writer = client.try_clone().unwrap();
    let bytes = sent.clone();
    let writing = std::thread::spawn(move || {
        writer.write_all(&bytes).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut received = Vec::new();
    client.read_to_end(&mut received).unwrap();
    writing.join().unwrap();
    assert!(received == sent, "{} of {} bytes", received.len(), sent.len());
    let line = lb.when_logged("closed conn=");
    assert!(line.contains(&format!("bytes_in={0} bytes_out={0} ", sent.len())), "{line}");
}

#[test]
fn a_connection_that_a_unix_socket_refuses_is_retried_elsewhere() {
    let other = Backend::http("other");
    let discover = format!("[{{static: ['unix:gone.sock', '{}']}}]", other.address);
    let lb = Lb::start(&config(&discover, ""));
    for _ in 0..4 {
        assert_eq!(answer(&lb), "other");
    }
    let line = lb.when_logged("attempts=2");
    assert!(line.contains("backend=127.0.0.1:"), "{line}");
}

#[test]
fn a_unix_socket_gets_the_clients_address_in_a_proxy_header() {
    let first_lines = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&first_lines);
    let serve = move |mut stream: UnixStream| {
        let (mut line, mut byte) = (Vec::new(), [0]);
        while !line.ends_with(b"\r\n") && stream.read(&mut byte).is_ok_and(|n| n == 1) {
            line.push(byte[0]);
        }
        seen.lock().unwrap().push(String::from_utf8(line).unwrap());
        let _ = stream.write_all(b"x");
    };
    let mut server = None;
    let settings = ", send_proxy_protocol: v1, health: {tcp: {}, every: 1s, fast_every: 100ms}";
    let lb = Lb::start_in(&config("[{static: ['unix:web.sock']}]", settings), |folder| {
        server = Some(UnixBackend::serving(&folder.join("web.sock"), serve));
    });
    lb.when_up(vec!["web.sock".to_owned()]);
    let mut client = connect_to(lb.address("l")).unwrap();
    client.read_exact(&mut [0]).unwrap();
    let (own, to) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
    let of_client = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\n", own.port(), to.port());
    let lines = first_lines.lock().unwrap();
    assert!(lines.contains(&of_client) && lines.contains(&"PROXY UNKNOWN\r\n".to_owned()), "{lines:?}");
}

#[test]
fn unix_sockets_come_from_files_the_api_and_the_command_line() {
    let file = "[{file: backends.yaml}]";
    let mut servers = Vec::new();
    let lb = Lb::start_in(&config(file, ""), |folder| {
        for name in ["a", "b"] {
            servers.push(UnixBackend::http(&folder.join(name), name));
        }
        fs::write(folder.join("backends.yaml"), "[{address: 'unix:a', name: first}]\n").unwrap();
    });
    lb.when_up(vec!["first".to_owned()]);
    let (code, reply) = lb.request("POST", "/api/v1/pools/p/backends", r#"{"address": "unix:b"}"#);
    assert!(code == 201 && reply.contains(r#""name":"b""#), "{code} {reply}");
    lb.when_up(vec!["first".to_owned(), "b".to_owned()]);
    let mut answers = [answer(&lb), answer(&lb)];
    answers.sort();
    assert_eq!(answers, ["a", "b"]);
    let pointsman = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pointsman"));
        let admin = lb.admin().to_string();
        let out = command.args(arguments).args(["--admin", &admin]).output().unwrap();
        (out.status.code(), String::from_utf8(out.stdout).unwrap())
    };
    let (code, why) = pointsman(&["why", "unix:a"]);
    assert!(code == Some(0) && why.contains("found in file backends.yaml"), "{why}");
    let (code, connections) = lb.get("/api/v1/decisions?backend=unix:b");
    assert!(code == 200 && connections.contains(r#""address":"unix:b""#), "{connections}");
    assert_eq!(lb.request("DELETE", "/api/v1/pools/p/backends/unix:b", "").0, 200);
    lb.when_up(vec!["first".to_owned()]);
    for wrong in ["unix:", "unix:/run/..", "/run/web.sock"] {
        let (code, reply) =
            lb.request("POST", "/api/v1/pools/p/backends", &format!(r#"{{"address": "{wrong}"}}"#));
        assert!(code == 400 && reply.contains("unix:"), "{wrong}: {code} {reply}");
    }

    let path = lb.folder().join("a");
    let forward = Lb::with_arguments(&["forward", "127.0.0.1:0", &format!("unix:{}", path.display())]);
    assert_eq!(http_get(forward.address("forward"), "/").unwrap().1, "a");
}

#[test]
fn its_own_unix_sockets_are_never_backends() {
    let other = Backend::http("other");
    let settings = |discover: &str| {
        format!(
            "admin: {{bind: 'unix:admin.sock'}}\nlisteners: {{l: {{bind: [127.0.0.1:0, 'unix:l.sock'], pool: p}}}}\n\
             pools: {{p: {{discover: {discover}}}}}\n"
        )
    };
    let refused = settings("[{static: ['unix:l.sock']}]");
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("pointsman.yaml"), refused).unwrap();
    let mut check = Command::new(env!("CARGO_BIN_EXE_pointsman"));
    check.args(["check", "-c", "pointsman.yaml"]).current_dir(folder.path());
    let child = check.stderr(std::process::Stdio::piped()).spawn().unwrap();
    let out = output_of(child, crate::TIME_LIMIT, "check");
    let error = String::from_utf8_lossy(&out.stderr);
    assert!(error.contains("the backend unix:l.sock: listener \"l\" listens there"), "{error}");

    // A file that leads to one, through a link.
    let lb = Lb::start_after(&[], ":", &settings("[{file: backends.yaml}]"), |folder| {
        let list = format!("['unix:link.sock', 'unix:operator.sock', '{}']\n", other.address);
        fs::write(folder.join("backends.yaml"), list).unwrap();
        symlink("l.sock", folder.join("link.sock")).unwrap();
        symlink("admin.sock", folder.join("operator.sock")).unwrap();
    });
    let admin = lb.folder().join("admin.sock");
    for (name, own) in [("link.sock", "listener \"l\""), ("operator.sock", "admin server")] {
        let cause = format!("unix:{name} is this balancer's own {own}");
        eventually(&cause, || {
            let (state, text) = state_of(&admin, name)?;
            (state == "down" && text.contains(&cause)).then_some(())
        });
    }
    assert_eq!(answer(&lb), "other");
}

/// State and cause of a backend, from an admin server at a Unix socket.
fn state_of(admin: &Path, name: &str) -> Option<(String, String)> {
    let mut stream = UnixStream::connect(admin).ok()?;
    stream.write_all(b"GET /api/v1/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let status: serde_json::Value = serde_json::from_str(text.split_once("\r\n\r\n")?.1).ok()?;
    let backends = status["pools"][0]["backends"].as_array()?;
    let backend = backends.iter().find(|backend| backend["name"] == name)?;
    Some((backend["state"].as_str()?.to_owned(), backend["cause"].as_str()?.to_owned()))
}
