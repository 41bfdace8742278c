//! The start: a listener opens after the first checks of its pool.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::support::backend::{self, Backend};
use crate::support::{Lb, eventually, http_get, listen_alone, static_list};

fn config(backend: SocketAddr, timeout: &str) -> String {
    format!(
        "listeners: {{l: {{bind: 127.0.0.1:0, pool: p, no_backend: http-503}}}}\npools:\n  p:\n    discover: {}\n    \
         health: {{http: /health, every: 1m, timeout: {timeout}, rise: 1}}\n",
        static_list(&[backend])
    )
}

#[test]
fn the_first_client_is_served_even_if_the_first_check_is_slow() {
    let slow = Backend::serving(|mut stream| {
        if backend::read_request(&mut stream).is_some_and(|request| request.starts_with("GET /health")) {
            std::thread::sleep(Duration::from_millis(300));
        }
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
    });
    let lb = Lb::start(&config(slow.address, "30s"));
    assert_eq!(http_get(lb.address("l"), "/").unwrap(), (200, "ok".to_owned()));
    assert!(lb.logged(&["no backend"]).is_empty(), "{}", lb.log());
}

#[test]
fn a_check_that_never_ends_does_not_keep_a_listener_closed() {
    // The kernel completes the handshakes; the server sends nothing.
    let silent = listen_alone();
    // The check takes ten times as long as the time limit of the tests.
    let lb = Lb::launch(&config(silent.local_addr().unwrap(), "200s").replace("every: 1m", "every: 200s"));
    assert_eq!(http_get(lb.address("l"), "/").unwrap().0, 503);
    lb.when_logged("no backend is up yet");
}

#[test]
fn a_listener_that_refuses_without_backends_logs_each_close() {
    const CLOSES: &str = "no backend is up: refusing connections";
    let mut backend = Backend::http("a");
    backend.kill();
    let lb = Lb::launch(&format!(
        "listeners: {{l: {{bind: 127.0.0.1:0, pool: p, no_backend: refuse}}}}\npools:\n  p:\n    discover: {}\n    \
         health: {{tcp: {{}}, every: 300ms, timeout: 300ms, rise: 1, fall: 1}}\n",
        static_list(&[backend.address])
    ));
    lb.when_logged("no backend is up yet");
    backend.revive();
    let address = lb.address("l");
    eventually("it is served", || http_get(address, "/").ok());
    assert!(lb.logged(&[CLOSES]).is_empty(), "it was not open before");
    backend.kill();
    lb.when_logged(CLOSES);
    eventually("connections are refused", || TcpStream::connect(address).is_err().then_some(()));
    backend.revive();
    eventually("it is served again", || http_get(address, "/").ok());
    assert_eq!(lb.logged(&[CLOSES]).len(), 1);
}

#[test]
fn there_is_a_worker_for_each_core_unless_the_configuration_gives_their_number() {
    let cores = std::thread::available_parallelism().unwrap().get();
    let backend = Backend::http("a");
    let config = config(backend.address, "30s");
    for (setting, expected) in [("auto", cores), ("3", 3)] {
        let lb = Lb::start(&format!("runtime: {{workers: {setting}}}\n{config}"));
        lb.when_logged(&format!("starting workers={expected} "));
        let tasks = std::fs::read_dir(format!("/proc/{}/task", lb.pid())).unwrap();
        let names = tasks.map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).unwrap());
        assert_eq!(names.filter(|name| name.starts_with("worker-")).count(), expected, "workers: {setting}");
    }
}
