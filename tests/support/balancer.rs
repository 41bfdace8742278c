//! A balancer as a process, with its log and its admin server.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::{TIME_LIMIT, connect_to, end_child, eventually, hold, join_within, keep_for_a_while, watchdog};

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
            let ended =
                text.ends_with("# EOF\n") && text.lines().filter(active).all(|line| line.ends_with(" 0"));
            // A place at a backend is freed after these counters.
            let free = |pool: &serde_json::Value| {
                pool["backends"].as_array().unwrap().iter().all(|backend| backend["active"] == 0)
            };
            (ended && self.status()["pools"].as_array().unwrap().iter().all(free)).then_some(())
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
        Self::signal_to(self.pid(), name);
    }

    /// Sends a signal to another process.
    pub fn signal_to(pid: u32, name: &str) {
        let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
        let signal = match name {
            "TERM" => rustix::process::Signal::TERM,
            "INT" => rustix::process::Signal::INT,
            "HUP" => rustix::process::Signal::HUP,
            "USR2" => rustix::process::Signal::USR2,
            "KILL" => rustix::process::Signal::KILL,
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

    /// Its resident memory, in KiB (proc(5), `RssAnon`): without the parts of the program that are loaded when they first
    /// run.
    pub fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
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
