//! `top`, in a pseudo-terminal.

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use crate::support::backend::{Backend, read_request};
use crate::support::{Lb, Limited, TIME_LIMIT, accept_within, end_child, eventually, http_get, static_list};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use serde_json::Value;

/// A terminal that runs `top`, and its screen.
struct Terminal {
    child: Child,
    keys: File,
    screen: Arc<Mutex<vt100::Parser>>,
}

impl Terminal {
    fn start(lb: &Lb) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
        resize(&File::from(master.try_clone().unwrap()), 24, 80);
        let slave = File::options().read(true).write(true).open(name).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_pointsman"));
        command.args(["top", "--admin", &lb.admin().to_string()]).env_clear().env("TERM", "xterm-256color");
        command.stdin(slave.try_clone().unwrap()).stdout(slave).stderr(Stdio::inherit());
        let child = command.spawn().unwrap();
        drop(command); // closes this process's copies of the program's files
        let screen = Arc::new(Mutex::new(vt100::Parser::new(24, 80, 0)));
        let (mut drawn, theirs) = (File::from(master.try_clone().unwrap()), Arc::clone(&screen));
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(read @ 1..) = drawn.read(&mut bytes) {
                theirs.lock().unwrap().process(&bytes[..read]);
            }
        });
        Self { child, keys: File::from(master), screen }
    }

    fn text(&self) -> String {
        self.screen.lock().unwrap().screen().contents()
    }

    /// Waits until it shows all of these.
    fn when_shown(&self, words: &[&str]) -> String {
        let deadline = Instant::now() + TIME_LIMIT;
        loop {
            let text = self.text();
            if words.iter().all(|word| text.contains(word)) {
                return text;
            }
            assert!(Instant::now() < deadline, "{words:?} is never shown:\n{text}");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    fn resize(&mut self, rows: u16, columns: u16) {
        self.screen.lock().unwrap().screen_mut().set_size(rows, columns);
        resize(&self.keys, rows, columns);
        // It has no controlling terminal, so the kernel does not signal it.
        self.signal(rustix::process::Signal::WINCH);
    }

    fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for its end; it must restore the terminal.
    fn when_ended(&mut self) -> ExitStatus {
        let status = eventually("top ends", || self.child.try_wait().unwrap());
        eventually("the terminal is put back in order", || {
            let parser = self.screen.lock().unwrap();
            (!parser.screen().alternate_screen() && !parser.screen().hide_cursor()).then_some(())
        });
        status
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        end_child(&mut self.child);
    }
}

fn resize(terminal: &File, rows: u16, columns: u16) {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(terminal, size).unwrap();
}

fn web(backends: &[&Backend]) -> Lb {
    let list = static_list(&backends.iter().map(|backend| backend.address).collect::<Vec<_>>());
    Lb::start(&format!(
        "listeners: {{web: {{bind: 127.0.0.1:0, pool: web}}}}
pools: {{web: {{discover: {list}, balance: weighted}}}}"
    ))
}

#[test]
fn top_shows_each_change_and_its_keys_work() {
    let backends = ["a", "b"].map(Backend::http);
    let lb = web(&[&backends[0], &backends[1]]);
    let mut top = Terminal::start(&lb);
    top.when_shown(&["serving", "weighted  2/2 in use", "● up", "? keys"]);
    http_get(lb.address("web"), "/").unwrap();
    let text = top.when_shown(&["→ 127.0.0.1:", "next in rotation by weight"]);
    eprintln!("{text}");
    top.press("+");
    top.when_shown(&["weight 2"]);
    eventually("the weight is another", || {
        let backends = lb.status()["pools"][0]["backends"].take();
        backends.as_array().unwrap().iter().any(|backend| backend["weight"] == 2).then_some(())
    });
    top.press("d");
    top.when_shown(&["drain web/127.0.0.1:", "(y, n)"]);
    top.press("y");
    top.when_shown(&["◐ draining", "1/2 in use"]);
    top.press("u");
    top.when_shown(&["2/2 in use"]);
    top.press("/nobody\r");
    top.when_shown(&["no backend is shown"]);
    top.press("\x1b");
    top.when_shown(&["● up"]);
    top.press("?");
    top.when_shown(&["Ctrl-C"]);
    top.press("q");
    top.resize(40, 140);
    top.when_shown(&["address", "found, and the pool has no checks"]);
    top.resize(3, 10);
    top.resize(24, 80);
    top.when_shown(&["? keys"]);
    top.press("q");
    assert!(top.when_ended().success());
}

#[test]
fn top_asks_again_before_the_last_eligible_backend_is_taken_out() {
    let backend = Backend::http("a");
    let lb = web(&[&backend]);
    let mut top = Terminal::start(&lb);
    top.when_shown(&["1/1 in use"]);
    for keys in ["dy", "-"] {
        top.press(keys);
        top.when_shown(&["(Y, n)", "the last eligible backend of its pool?"]);
        top.press("y");
        top.when_shown(&["1/1 in use", "? keys"]);
    }
    top.press("my");
    top.when_shown(&["the last eligible backend of its pool?"]);
    top.press("Y");
    top.when_shown(&["■ maintenance", "0/1 in use"]);
}

#[test]
fn top_shows_a_lost_connection_and_a_signal_ends_it_cleanly() {
    let backend = Backend::http("a");
    let mut lb = web(&[&backend]);
    let mut top = Terminal::start(&lb);
    top.when_shown(&["1/1 in use"]);
    lb.signal("TERM");
    lb.when_ended();
    top.when_shown(&["connection lost, showing old data", "● up"]);
    top.signal(rustix::process::Signal::TERM);
    assert!(top.when_ended().success());
}

#[test]
fn without_a_terminal_top_suggests_json_which_needs_none() {
    let backend = Backend::http("a");
    let lb = web(&[&backend]);
    let top = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pointsman"));
        command
            .arg("top")
            .args(arguments)
            .env("POINTSMAN_ADMIN", lb.admin().to_string())
            .stdin(Stdio::null());
        command
    };
    let output = top(&[]).output_in_time().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && error.contains("pointsman status"), "{error}");
    let mut child = top(&["--json"]).stdout(Stdio::piped()).spawn().unwrap();
    let lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    for line in lines.take(2) {
        let status: Value = serde_json::from_str(&line.unwrap()).unwrap();
        assert_eq!(status["pools"][0]["name"], "web");
    }
    // The third is not read.
    eventually("it ends", || child.try_wait().unwrap());
}

/// A child that is killed with the test.
struct TopProcess(Child);

impl Drop for TopProcess {
    fn drop(&mut self) {
        end_child(&mut self.0);
    }
}

#[test]
fn a_silent_stream_is_closed_before_a_reconnect() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let admin = server.local_addr().unwrap().to_string();
    let top = Command::new(env!("CARGO_BIN_EXE_pointsman"))
        .args(["top", "--json", "--admin", &admin])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let _top = TopProcess(top);
    let (mut stream, _) = accept_within(&server);
    // All later connections are refused.
    drop(server);
    read_request(&mut stream).unwrap();
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n: hello\n\n").unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0, "it closes the stream");
}
