//! A page followed by a shell, as a reader follows it.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use regex_lite::{Captures, Regex};
use rustix::process::{Pid, Signal, kill_process_group};

use super::page::{self, Part, Step, Test};
use crate::support::{TIME_LIMIT, end_child, eventually, free_port};

/// The last line of a command's output, followed by its exit code.
const END: &str = "--end-of-command--";

/// The ports in the book, for each of which a session has a free one.
const PORTS: &str = r"\b(5432|6379|8080|8081|8443|9001|9002|9003|9004|9900)\b";

/// The programs that pages use, besides the shell's usual ones.
const TOOLS: [&str; 4] = ["curl", "python3", "haproxy", "nginx"];

/// The configurations of nginx in the book are those of its module.
const NGINX: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

/// What is missing on this machine to follow the page.
pub(super) fn missing_tools(parts: &[Part]) -> Option<String> {
    let used = |tool: &str| {
        parts.iter().any(|part| match part {
            Part::Until { command, .. } => command.contains(tool),
            Part::Block { test: Test::Run { .. }, text, .. } => text.contains(tool),
            Part::Block { test: Test::Haproxy, .. } => tool == "haproxy",
            Part::Block { test: Test::Nginx, .. } => tool == "nginx",
            Part::Block { .. } => false,
        })
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let present = |tool: &str| {
        std::env::split_paths(&path).any(|folder| folder.join(tool).exists())
            && (tool != "nginx" || std::path::Path::new(NGINX).exists())
    };
    TOOLS.into_iter().find(|tool| used(tool) && !present(tool)).map(str::to_owned)
}

/// A shell in a folder of its own. All that it has started ends with it.
pub(super) struct Session {
    shell: Child,
    input: ChildStdin,
    lines: Receiver<String>,
    folder: tempfile::TempDir,
    ports: BTreeMap<String, u16>,
}

impl Session {
    pub(super) fn new(page: &str) -> Self {
        let folder = tempfile::Builder::new().prefix(page).tempdir().unwrap();
        let programs = folder.path().join(".programs");
        std::fs::create_dir(&programs).unwrap();
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_pointsman"), programs.join("pointsman")).unwrap();
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths([programs].into_iter().chain(std::env::split_paths(&path))).unwrap();
        let mut shell = Command::new("bash");
        for variable in ["POINTSMAN_LOG", "RUST_LOG", "POINTSMAN_ADMIN", "POINTSMAN_CONFIG", "LANG"] {
            shell.env_remove(variable);
        }
        shell
            .args(["--noprofile", "--norc"])
            .current_dir(folder.path())
            .env("PATH", path)
            .env("LC_ALL", "C.UTF-8");
        shell.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        let mut shell = shell.spawn().unwrap();
        let (sender, lines) = channel();
        let output = BufReader::new(shell.stdout.take().unwrap());
        std::thread::spawn(move || {
            output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        let mut input = shell.stdin.take().unwrap();
        input.write_all(b"exec 2>&1\n").unwrap();
        Self { shell, input, lines, folder, ports: BTreeMap::new() }
    }

    /// Does what a part of the page says, and asserts that it is as the page says.
    pub(super) fn follow(&mut self, part: &Part) {
        match part {
            Part::Until { at, command } => {
                eventually(&format!("{at}: {command}"), || (self.run(at, command).0 == 0).then_some(()));
            }
            Part::Block { at, test, text } => self.block(at, test, text),
        }
    }

    fn block(&mut self, at: &str, test: &Test, text: &str) {
        match test {
            Test::Illustration => {}
            Test::Run { exact } => {
                for step in page::steps(at, text) {
                    self.step(at, &step, *exact);
                }
            }
            Test::Config(file) => {
                let text = self.with_ports(text);
                std::fs::write(self.folder.path().join(file), text).unwrap();
                self.succeed(at, &format!("pointsman check -c {file}"));
            }
            Test::Pool => self.fragment(
                at,
                "listeners: {web: {bind: \"127.0.0.1:8080\", pool: web}}\npools:\n  web:\n",
                "discover",
                text,
            ),
            Test::Listener => {
                let pools = "pools: {web: {discover: [{static: [\"192.0.2.1:1\"]}]}, api: {discover: [{static: [\"192.0.2.2:1\"]}]}}\n";
                self.fragment(at, &format!("{pools}listeners:\n  web:\n"), "bind", text);
            }
            Test::Haproxy => {
                let text = self.with_ports(text);
                std::fs::write(self.folder.path().join("haproxy.cfg"), text).unwrap();
                self.succeed(at, "haproxy -c -f haproxy.cfg");
            }
            Test::Nginx => {
                let head = format!("load_module {NGINX};\npid nginx.pid;\nerror_log stderr;\nevents {{}}\n");
                let text = head + &self.with_ports(text);
                std::fs::write(self.folder.path().join("nginx.conf"), text).unwrap();
                self.succeed(at, "nginx -t -p . -c nginx.conf");
            }
        }
    }

    /// Checks the keys of a pool or a listener, with the one key that each needs.
    fn fragment(&mut self, at: &str, head: &str, needed: &str, text: &str) {
        let mut config = head.to_owned();
        if !text.lines().any(|line| line.starts_with(needed)) {
            config += match needed {
                "bind" => "    bind: 127.0.0.1:8080\n",
                _ => "    discover: [{static: [\"192.0.2.1:1\", \"192.0.2.2:1\"]}]\n",
            };
        }
        let keys = ["pool:", "sni:", "alpn:", "sources:"];
        if needed == "bind" && !text.lines().any(|line| keys.iter().any(|key| line.starts_with(key))) {
            config += "    pool: web\n";
        }
        config.extend(text.lines().map(|line| format!("    {line}\n")));
        std::fs::write(self.folder.path().join("fragment.yaml"), config).unwrap();
        self.succeed(at, "pointsman check -c fragment.yaml");
    }

    fn succeed(&mut self, at: &str, command: &str) {
        let (code, printed) = self.run(at, command);
        assert_eq!(code, 0, "{at}: {command}\n{}", printed.join("\n"));
    }

    fn step(&mut self, at: &str, step: &Step, exact: bool) {
        let command = self.with_ports(&step.command);
        let (_, mut printed) = self.run(at, &command);
        let mut expected: Vec<String> = step.expected.iter().map(|line| self.with_ports(line)).collect();
        if !exact {
            for lines in [&mut expected, &mut printed] {
                lines.iter_mut().for_each(|line| *line = page::without_numbers(line));
            }
        }
        assert!(
            page::matches(&expected, &printed),
            "{at}: {command}\nthe book shows:\n{}\n\nit printed:\n{}",
            expected.join("\n"),
            printed.join("\n")
        );
    }

    /// Runs a command; returns its exit code and what it printed.
    fn run(&mut self, at: &str, command: &str) -> (i32, Vec<String>) {
        let command = self.with_ports(command);
        writeln!(self.input, "{{ {command}\n}} </dev/null; printf '\\n%s %s\\n' {END} $?").unwrap();
        let mut printed = Vec::new();
        loop {
            let Ok(line) = self.lines.recv_timeout(6 * TIME_LIMIT) else {
                panic!("{at}: {command} did not end; it printed:\n{}", printed.join("\n"));
            };
            if let Some(code) = line.strip_prefix(END) {
                // The line break before the mark.
                if printed.last().is_some_and(String::is_empty) {
                    printed.pop();
                }
                return (code.trim().parse().unwrap(), printed);
            }
            printed.push(line);
        }
    }

    /// The text with a free port instead of each of the book's.
    fn with_ports(&mut self, text: &str) -> String {
        let ports = &mut self.ports;
        let of_the_book = Regex::new(PORTS).unwrap();
        let replaced = of_the_book.replace_all(text, |found: &Captures<'_>| {
            ports.entry(found[1].to_owned()).or_insert_with(free_port).to_string()
        });
        replaced.into_owned()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Also what the page has started in the background.
        let _ = kill_process_group(Pid::from_child(&self.shell), Signal::KILL);
        end_child(&mut self.shell);
    }
}
