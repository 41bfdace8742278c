//! The demo, as a user starts it.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;

use crate::support::{TIME_LIMIT, eventually, http_get, output_of};

fn demo(arguments: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pointsman"));
    command.arg("demo").args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.env_remove("POINTSMAN_LOG").env_remove("RUST_LOG").spawn().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The number in front of `word` in the summary.
fn number(summary: &str, word: &str) -> u64 {
    let before = summary.split(word).next().unwrap().trim_end();
    before.rsplit(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
}

#[test]
fn one_run_of_the_script_breaks_only_requests_at_a_killed_backend() {
    let child = demo(&["--exit-after", "31s", "--bind", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    // The script takes half a minute.
    let Output { status, stdout, stderr } = output_of(child, 6 * TIME_LIMIT, "the demo");
    let (summary, log) = (text(&stdout), text(&stderr));
    assert!(status.success(), "{status}\n{summary}\n{log}");
    assert!(number(&summary, "requests answered") > 300, "{summary}");
    assert_eq!(number(&summary, "failed."), 0, "{summary}\n{log}");
    // At 30 requests a second of 15 ms each, the killed backend hardly ever has more than one open.
    assert!(number(&summary, "broke off") <= 3, "{summary}");
    for backend in ["a", "b", "c", "d"] {
        assert!(summary.contains(&format!("{backend} ")), "{backend} answered no request: {summary}");
    }
    for (backend, words) in [("b", "backend down"), ("d", "backend joining"), ("d", "backend gone")] {
        let logged =
            log.lines().any(|line| line.contains(words) && line.contains(&format!("backend={backend} ")));
        assert!(logged, "{words} of {backend} is missing\n{log}");
    }
    let returned = log.lines().any(|line| line.contains("backend=b") && line.contains("from=down to=up"));
    assert!(returned, "{log}");
    assert!(log.lines().any(|line| line.contains("routed") && line.contains("b: down")), "{log}");
}

#[test]
fn taken_ports_are_replaced_and_a_signal_stops_the_demo() {
    // This test or another program has the default ports.
    let _taken = ["127.0.0.1:8080", "127.0.0.1:9900", "127.0.0.2:5000"].map(TcpListener::bind);
    let mut child = demo(&["--balance", "least-connections", "--exit-after", "60s"]);
    let (lines, received) = mpsc::channel();
    let stderr = BufReader::new(child.stderr.take().unwrap());
    std::thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| lines.send(line)));
    let address = eventually("it prints its address", || {
        let line = received.recv_timeout(TIME_LIMIT).unwrap();
        let (_, after) = line.split_once("try `curl http://")?;
        Some(after.split('/').next().unwrap().parse().unwrap())
    });
    let (status, body) = http_get(address, "/").unwrap();
    assert_eq!(status, 200);
    assert!(body.starts_with("Response from "), "{body}");
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::TERM)
        .unwrap();
    let output = output_of(child, TIME_LIMIT, "the demo ends by a signal");
    assert!(output.status.success());
    assert!(text(&output.stdout).contains(" 0 failed."), "{}", text(&output.stdout));
}

#[test]
fn a_given_address_that_is_taken_is_an_error() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for flag in ["--bind", "--admin"] {
        let output = output_of(demo(&[flag, &address]), TIME_LIMIT, flag);
        assert_eq!(output.status.code(), Some(2), "{flag}: {}", text(&output.stderr));
        assert!(text(&output.stderr).contains(&address), "{}", text(&output.stderr));
    }
}
