//! The harness of the integration tests: real processes, sockets and signals.

#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    missing_docs,
    reason = "each test file uses its own part of the harness"
)]

pub mod backend;
pub mod deadlines;
pub mod dns;
pub mod engine;
pub mod monitoring;
pub mod network;
pub mod peers;
pub mod postgres;
pub mod watchdog;

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub use deadlines::{
    Limited, SetAtTheEnd, TOOL, accept_within, connect_to, end_child, eventually, join_within, limited,
    output_of, within,
};
use socket2::{Domain, Socket, Type};
pub use watchdog::skip;

pub use crate::TIME_LIMIT;

/// A running Pointsman with a configuration of the test.
pub struct Lb {
    child: Child,
    log: Arc<Mutex<String>>,
    /// The thread that reads the log; `None` after its end.
    reader: Option<JoinHandle<()>>,
    file: tempfile::TempDir,
}

impl Lb {
    /// Starts `pointsman run` with the configuration, and waits until it is ready. Bind to port 0, and get the
    /// [`address`](Self::address); an admin section is added.
    pub fn start(config: &str) -> Self {
        Self::start_in(config, |_| ())
    }

    /// The same in a prepared folder.
    pub fn start_in(config: &str, prepare: impl FnOnce(&Path)) -> Self {
        let file = tempfile::tempdir().unwrap();
        prepare(file.path());
        let lb = Self::launch_in(file, config);
        lb.when_logged("admin listening");
        eventually("ready", || (lb.get("/ready").0 == 200).then_some(()));
        lb
    }

    /// Starts it without waiting.
    pub fn launch(config: &str) -> Self {
        Self::launch_in(tempfile::tempdir().unwrap(), config)
    }

    fn launch_in(file: tempfile::TempDir, config: &str) -> Self {
        std::fs::write(file.path().join("pointsman.yaml"), with_admin(config)).unwrap();
        Self::spawn(file, &["run", "-c", "pointsman.yaml"])
    }

    /// The same with a limit of open files.
    pub fn start_with_files(files: u32, config: &str) -> Self {
        let lb = Self::launch_with_files(files, config);
        lb.when_logged("admin listening");
        eventually("ready", || (lb.get("/ready").0 == 200).then_some(()));
        lb
    }

    /// The same without waiting.
    pub fn launch_with_files(files: u32, config: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("pointsman.yaml"), with_admin(config)).unwrap();
        let script = format!("ulimit -n {files} && exec \"$0\" \"$@\"");
        let pointsman = env!("CARGO_BIN_EXE_pointsman");
        let mut command = Command::new("sh");
        command.args(["-c", &script, pointsman, "run", "-c", "pointsman.yaml"]);
        Self::run(command, folder)
    }

    /// Starts `pointsman` with other arguments.
    pub fn with_arguments(arguments: &[&str]) -> Self {
        Self::spawn(tempfile::tempdir().unwrap(), arguments)
    }

    /// The same as [`start_in`](Self::start_in), by a shell that first runs `commands`, such as `umask 077`. `wrapper` runs
    /// the shell, in the same process: `unshare -m`, or nothing.
    pub fn start_after(wrapper: &[&str], commands: &str, config: &str, prepare: impl FnOnce(&Path)) -> Self {
        let file = tempfile::tempdir().unwrap();
        prepare(file.path());
        std::fs::write(file.path().join("pointsman.yaml"), with_admin(config)).unwrap();
        let script = format!("{commands} && exec {} run -c pointsman.yaml", env!("CARGO_BIN_EXE_pointsman"));
        let words = [wrapper, &["sh", "-c", &script]].concat();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        let lb = Self::run(command, file);
        lb.when_logged("admin listening");
        lb
    }

    #[track_caller]
    fn spawn(file: tempfile::TempDir, arguments: &[&str]) -> Self {
        watchdog::note("the start of Pointsman");
        let mut command = Command::new(env!("CARGO_BIN_EXE_pointsman"));
        command.args(arguments);
        Self::run(command, file)
    }

    fn run(mut command: Command, file: tempfile::TempDir) -> Self {
        let mut child = command
            .current_dir(file.path())
            .env_remove("POINTSMAN_LOG")
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::<Mutex<String>>::default();
        let (lines, theirs) = (BufReader::new(child.stderr.take().unwrap()), Arc::clone(&log));
        let reader = std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                let _ = writeln!(theirs.lock().unwrap(), "{line}");
            }
        });
        Self { child, log, reader: Some(reader), file }
    }

    /// The address that a listener has.
    pub fn address(&self, listener: &str) -> SocketAddr {
        let marker = format!("listening listener={listener} address=");
        after(&self.when_logged(&marker), &marker).parse().unwrap()
    }

    /// The admin server's address.
    pub fn admin(&self) -> SocketAddr {
        let marker = "admin listening address=";
        after(&self.when_logged(marker), marker).parse().unwrap()
    }

    /// Everything logged so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// The lines logged so far that contain all of `words`.
    pub fn logged(&self, words: &[&str]) -> Vec<String> {
        let has = |line: &&str| words.iter().all(|word| line.contains(word));
        self.log().lines().filter(has).map(str::to_owned).collect()
    }

    /// Waits until `count` lines contain all of `words`, and returns them. A line is written a moment after its event.
    #[track_caller]
    pub fn when_logged_times(&self, count: usize, words: &[&str]) -> Vec<String> {
        watchdog::note(&format!("{count} lines of the log with {words:?}"));
        let deadline = Instant::now() + TIME_LIMIT;
        loop {
            let lines = self.logged(words);
            if lines.len() >= count {
                assert_eq!(lines.len(), count, "{words:?}: {lines:#?}");
                return lines;
            }
            assert!(Instant::now() < deadline, "not {count} times: {words:?}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until `what` is logged, and returns its line.
    #[track_caller]
    pub fn when_logged(&self, what: &str) -> String {
        watchdog::note(&format!("a line of the log with {what:?}"));
        let deadline = Instant::now() + TIME_LIMIT;
        loop {
            if let Some(line) = self.log().lines().find(|line| line.contains(what)) {
                return line.to_owned();
            }
            assert!(Instant::now() < deadline, "never logged: {what}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Sends a GET request to the admin server; status and body.
    pub fn get(&self, path: &str) -> (u16, String) {
        self.request("GET", path, "")
    }

    /// Sends a request to the admin server, with a JSON body unless it is empty; status and body.
    #[track_caller]
    pub fn request(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let Ok(mut stream) = connect_to(self.admin()) else { return (0, String::new()) };
        let (host, length) = (self.admin(), body.len());
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        let mut answer = String::new();
        if stream.write_all(request.as_bytes()).and_then(|()| stream.read_to_string(&mut answer)).is_err() {
            return (0, String::new());
        }
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        (head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0), body.to_owned())
    }

    /// The admin server's status document.
    pub fn status(&self) -> serde_json::Value {
        serde_json::from_str(&self.get("/api/v1/status").1).unwrap()
    }

    /// The only pool's backends: name, state and cause of each.
    pub fn backends(&self) -> Vec<(String, String, String)> {
        let status = self.status();
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        let backends = status["pools"][0]["backends"].as_array().unwrap();
        backends.iter().map(|b| (text(&b["name"]), text(&b["state"]), text(&b["cause"]))).collect()
    }

    /// Waits until exactly these backends of the only pool are up.
    #[track_caller]
    pub fn when_up(&self, mut names: Vec<String>) {
        watchdog::note(&format!("{names:?} are up"));
        names.sort();
        let up = || {
            let backends = self.backends();
            let mut up: Vec<_> = backends.into_iter().filter(|b| b.1 == "up").map(|b| b.0).collect();
            up.sort();
            up
        };
        let deadline = Instant::now() + TIME_LIMIT;
        while up() != names {
            assert!(Instant::now() < deadline, "up are {:?}, not {names:?}\n{}", self.backends(), self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The value of a metric whose line begins with `series`; 0 if it is missing.
    pub fn metric(&self, series: &str) -> f64 {
        let text = self.get("/metrics").1;
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().unwrap())
    }

    /// Waits until the process counts no open connection.
    pub fn when_idle(&self) {
        eventually("no connection is open", || {
            let active = |line: &&str| line.starts_with("pointsman_connections_open{");
            let text = self.get("/metrics").1;
            text.lines().filter(active).all(|line| line.ends_with(" 0")).then_some(())
        });
    }

    /// Replaces the configuration file without a signal.
    pub fn rewrite(&self, config: &str) {
        // By a rename: a reload must never see half a file.
        let (new, path) = (self.file.path().join("new"), self.file.path().join("pointsman.yaml"));
        std::fs::write(&new, with_admin(config)).unwrap();
        std::fs::rename(new, path).unwrap();
    }

    /// Replaces the configuration, signals the process, and waits for the result in the log.
    pub fn reload(&self, config: &str) -> String {
        let words = || self.logged(&["reload "]).len();
        let before = words();
        self.rewrite(config);
        self.signal("HUP");
        eventually("the reload is answered", || (words() > before).then_some(()));
        self.logged(&["reload "]).pop().unwrap()
    }

    /// Its working directory.
    pub fn folder(&self) -> &Path {
        self.file.path()
    }

    /// Sends a signal.
    pub fn signal(&self, name: &str) {
        let pid = rustix::process::Pid::from_raw(self.pid() as i32).unwrap();
        let signal = match name {
            "TERM" => rustix::process::Signal::TERM,
            "INT" => rustix::process::Signal::INT,
            "HUP" => rustix::process::Signal::HUP,
            "STOP" => rustix::process::Signal::STOP,
            "CONT" => rustix::process::Signal::CONT,
            _ => unreachable!("{name}"),
        };
        rustix::process::kill_process(pid, signal).unwrap();
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether the process runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits until it has ended and its whole log is read.
    #[track_caller]
    pub fn when_ended(&mut self) -> ExitStatus {
        watchdog::note("the end of the process");
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                if let Some(reader) = self.reader.take() {
                    join_within(reader, "the one that reads the log");
                    self.keep_ports();
                }
                return status;
            }
            assert!(Instant::now() < deadline, "it does not end\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Its resident memory, in KiB (proc(5), `VmRSS`).
    pub fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Its CPU time (proc(5), `schedstat`).
    pub fn cpu_time(&self) -> Duration {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
        let nanos = tasks.map(|task| {
            let stat = std::fs::read_to_string(task.unwrap().path().join("schedstat")).unwrap();
            stat.split_ascii_whitespace().next().unwrap().parse::<u64>().unwrap()
        });
        Duration::from_nanos(nanos.sum())
    }

    /// Keeps the ports of the ended process from other tests: `top`, a check or a client of this test may still connect.
    fn keep_ports(&self) {
        let log = self.log();
        let addresses = log.lines().filter(|line| line.contains(" listening ")).filter_map(|line| {
            let (_, address) = line.split_once(" address=")?;
            address.split_ascii_whitespace().next()?.parse().ok()
        });
        addresses.filter_map(|address| hold(address).ok()).for_each(keep_for_a_while);
    }

    /// Its open files.
    pub fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().count()
    }
}

impl Drop for Lb {
    fn drop(&mut self) {
        end_child(&mut self.child);
        self.keep_ports();
        if std::thread::panicking() {
            eprintln!("--- the log of the balancer\n{}", self.log());
        }
    }
}

fn with_admin(config: &str) -> String {
    if config.contains("admin:") {
        config.to_owned()
    } else {
        format!("admin: {{bind: 127.0.0.1:0}}\n{config}")
    }
}

fn after<'a>(text: &'a str, marker: &str) -> &'a str {
    let rest =
        &text[text.find(marker).unwrap_or_else(|| panic!("no {marker:?} in\n{text}")) + marker.len()..];
    rest.split_ascii_whitespace().next().unwrap()
}

/// One request on its own connection; returns status and body.
pub fn http_get(address: SocketAddr, path: &str) -> Result<(u16, String), String> {
    let stream = connect_to(address).map_err(|error| format!("connect: {error}"))?;
    http_get_on(stream, path)
}

/// One request on an open connection; returns status and body.
pub fn http_get_on(mut stream: TcpStream, path: &str) -> Result<(u16, String), String> {
    let error = |what: &str, error: std::io::Error| format!("{what}: {error}");
    stream.set_read_timeout(Some(TIME_LIMIT)).map_err(|e| error("timeout", e))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(|e| error("send", e))?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).map_err(|e| error("read", e))?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| format!("half an answer: {answer:?}"))?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok((status.ok_or("no status")?, body.to_owned()))
}

/// A local address that refuses connections until this value is dropped.
pub struct ClosedPort {
    pub address: SocketAddr,
    _held: Socket,
}

impl ClosedPort {
    pub fn new() -> Self {
        let socket = hold("127.0.0.1:0".parse().unwrap()).unwrap();
        Self { address: socket.local_addr().unwrap().as_socket().unwrap(), _held: socket }
    }
}

/// Binds an address without listening: connections are refused, the kernel does not assign the port, and only a bind to
/// this port with the same option succeeds.
pub fn hold(address: SocketAddr) -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Keeps the port of something that has ended, so that what still connects to it does not reach another test's listener:
/// the kernel does not assign it again before many more have ended.
pub fn keep_for_a_while(held: Socket) {
    static RECENT: Mutex<VecDeque<Socket>> = Mutex::new(VecDeque::new());
    let mut recent = RECENT.lock().unwrap_or_else(PoisonError::into_inner);
    recent.push_back(held);
    if recent.len() > 300 {
        recent.pop_front();
    }
}

/// A free port for a listener whose address a reload must repeat. It stays free: it is below the range that the kernel
/// assigns from, and each test has its own.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const FIRST: u16 = 12_000;
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
    let end: u16 = range.split_ascii_whitespace().next().unwrap().parse().unwrap();
    assert!(end > FIRST, "there are no ports below those that the kernel gives away: {range}");
    // A concurrent run of the tests begins at another port.
    let begin = (std::process::id() % 1000) as u16 * 20;
    eventually("a free port", || {
        let port = FIRST + begin.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % (end - FIRST);
        TcpListener::bind(("127.0.0.1", port)).is_ok().then_some(port)
    })
}

/// A non-loopback address of this machine, found without a packet; without one the test is skipped. To the server, a
/// client that connects to it is remote.
pub fn address_of_this_machine() -> Option<IpAddr> {
    let address_towards = |other: &str| {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect(other)?;
        socket.local_addr()
    };
    let address =
        address_towards("192.0.2.1:9").ok().map(|address| address.ip()).filter(|ip| !ip.is_loopback());
    if address.is_none() {
        skip(
            "POINTSMAN_REQUIRE_TOOLS",
            "this machine has no address but loopback (give it a route to 192.0.2.1)",
        );
    }
    address
}

/// A static list of backends, as YAML.
pub fn static_list(addresses: &[SocketAddr]) -> String {
    let list: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    format!("[{{static: [{}]}}]", list.join(", "))
}
