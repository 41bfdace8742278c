//! The Debian package, in a container with systemd: installed, started, reloaded, watched, upgraded and removed.

use std::path::Path;
use std::process::Command;

use super::*;
use crate::engine::ROOT;
use crate::support::{Limited, TOOL};

/// The name of the image. It is kept, as what an image consists of is removed with it, and would be built again for each run.
const IMAGE: &str = "pointsman-package";

/// Builds the image of a Debian with systemd and two versions of the package. The context is a folder of its own, as that of
/// the repository contains only what the program is built from.
fn build_image() {
    let context = tempfile::tempdir().unwrap();
    let copied = ["Cargo.toml", "README.md", "LICENSE-MIT", "LICENSE-APACHE", "packaging"];
    let from = |path: &&str| Path::new(ROOT).join(path);
    let mut copy = Command::new("cp");
    copy.arg("-r").args(copied.iter().map(from)).arg(context.path());
    assert!(copy.output_within(TOOL).unwrap().status.success());
    let file = format!("{ROOT}/tests/docker/package/Dockerfile");
    let context = context.path().to_str().unwrap();
    // Without a name, the machine would be removed with an outdated image, and installed again.
    docker(&["build", "-q", "-t", "pointsman-machine", "--target", "machine", "-f", &file, context]);
    docker(&["build", "-q", "-t", IMAGE, "-f", &file, context]);
}

/// A container with systemd.
struct Machine(Container);

impl Machine {
    fn boot() -> Self {
        let rights =
            ["--cap-add", "SYS_ADMIN", "--cap-add", "NET_ADMIN", "--security-opt", "seccomp=unconfined"];
        let folders = ["--tmpfs", "/run", "--tmpfs", "/run/lock", "-v", "/sys/fs/cgroup:/sys/fs/cgroup:rw"];
        let rest = ["--cgroupns=host", "-e", "container=docker", IMAGE];
        let machine = Self(Container::run("systemd", &[&rights[..], &folders, &rest].concat()));
        machine
            .eventually("systemd has started", "systemctl is-system-running | grep -qxE 'running|degraded'");
        machine
    }

    /// Runs a command in a shell: whether it succeeded, and its output.
    fn output(&self, command: &str) -> (bool, String) {
        self.output_within(TOOL, command)
    }

    fn output_within(&self, limit: Duration, command: &str) -> (bool, String) {
        let mut docker = Command::new("docker");
        docker.args(["exec", &self.0.0, "sh", "-c", &format!("{{ {command}; }} 2>&1")]);
        let output = docker.output_within(limit).unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The output of a command that must succeed.
    fn run(&self, command: &str) -> String {
        let (success, text) = self.output(command);
        assert!(success, "{command}: {text}\n{}", self.journal());
        text.trim().to_owned()
    }

    /// Waits until a command succeeds. The loop runs in the container: `docker exec` for each attempt would keep the engine
    /// busy.
    fn eventually(&self, what: &str, command: &str) {
        let attempts = format!(
            "end=$(($(date +%s) + {})); \
             until {{ {command}; }}; do [ $(date +%s) -lt $end ] || exit 1; sleep 0.2; done",
            TIME_LIMIT.as_secs()
        );
        // The last attempt may hang.
        let (success, output) = self.output_within(TIME_LIMIT * 2, &attempts);
        assert!(success, "it never came true within {TIME_LIMIT:?}: {what}: {output}\n{}", self.journal());
    }

    fn journal(&self) -> String {
        self.output("journalctl -u pointsman --no-pager").1
    }

    /// A property of the service.
    fn property(&self, name: &str) -> String {
        self.run(&format!("systemctl show -p {name} --value pointsman"))
    }

    fn install(&self, version: &str) {
        self.run(&format!("dpkg -i /src/target/packages/pointsman_{version}_*.deb"));
    }

    /// Waits until the line of status contains `words`.
    fn when_status(&self, words: &str) {
        let status = "systemctl show -p StatusText --value pointsman";
        self.eventually(words, &format!("{status} | grep -qF '{words}'"));
    }

    /// Waits until the service runs with another main process than `before`.
    fn when_replaced(&self, what: &str, before: &str) {
        let property = |name: &str| format!("\"$(systemctl show -p {name} --value pointsman)\"");
        let (process, state) = (property("MainPID"), property("SubState"));
        let replaced =
            format!("now={process}; [ $now != {before} ] && [ $now != 0 ] && [ {state} = running ]");
        self.eventually(what, &replaced);
    }
}

#[test]
fn the_debian_package_is_installed_reloaded_watched_upgraded_and_removed() {
    let Some(_engine) = engine() else { return };
    build_image();
    let machine = Machine::boot();

    machine.install("1.0.0");
    assert_eq!(
        machine.run("systemctl is-enabled pointsman; systemctl is-active pointsman"),
        "enabled\nactive"
    );
    assert_eq!(machine.run("ps -o user= -p $(systemctl show -p MainPID --value pointsman)"), "pointsman");
    machine.when_status("0 of 1 backend up");
    docker(&["exec", "-d", &machine.0.0, "python3", "-m", "http.server", "-b", "127.0.0.1", "8000"]);
    machine.when_status("1 of 1 backend up");
    let get = "python3 -c \"import urllib.request as u; print(u.urlopen('http://127.0.0.1:8080/').status)\"";
    assert_eq!(machine.run(get), "200");
    assert!(machine.run("pointsman status").contains("pool web: round-robin, 1 of 1 backend in use"));
    let exposure = machine.run("systemd-analyze security --no-pager pointsman | tail -n 1");
    let level = exposure.split(' ').find_map(|word| word.parse::<f64>().ok());
    assert!(level.is_some_and(|level| level <= 2.0), "{exposure}");
    machine.run("man -w pointsman pointsman-run && test -e /usr/share/bash-completion/completions/pointsman");

    // A reload applies a changed file, and a wrong one changes nothing and fails.
    let file = "/etc/pointsman/pointsman.yaml";
    machine.run(&format!("sed -i 's/tcp: {{}}/http: \\//' {file} && systemctl reload pointsman"));
    machine.eventually(
        "the reload was applied",
        "journalctl -u pointsman --no-pager | grep -q 'reload applied'",
    );
    machine.run(&format!("cp {file} /root && echo 'listeners: {{web: {{bnd: 1}}}}' >{file}"));
    assert!(!machine.output("systemctl reload pointsman").0);
    assert!(machine.journal().contains("unknown key \"bnd\" in listener \"web\""), "{}", machine.journal());
    machine.run(&format!("cp /root/pointsman.yaml {file}"));
    assert_eq!(machine.run("systemctl is-active pointsman"), "active");

    // After a hand-over another process is the service's main process; the watchdog and reloads go to it.
    let before = machine.property("MainPID");
    machine.run("systemctl kill -s USR2 --kill-whom=main pointsman");
    machine.when_replaced("another process is the main one", &before);
    machine.eventually("the old one has ended", &format!("! kill -0 {before}"));
    assert_eq!((&*machine.run("systemctl is-active pointsman"), &*machine.run(get)), ("active", "200"));
    machine.run("systemctl reload pointsman");
    machine.when_status("1 of 1 backend up");

    // After a crash, connections wait in the listening sockets that systemd has kept.
    let before = machine.property("MainPID");
    assert_eq!(machine.property("NFileDescriptorStore"), "3", "two workers' and the admin server's");
    let crash = format!("kill -9 {before} && {get}");
    assert_eq!(machine.run(&crash), "200");
    machine.when_replaced("another process runs", &before);

    // An upgrade starts the new binary and keeps the changed file.
    let before = machine.property("MainPID");
    machine.install("1.0.1");
    assert_eq!(machine.run("systemctl is-active pointsman"), "active");
    assert_ne!(machine.property("MainPID"), before);
    assert!(machine.run(&format!("cat {file}")).contains("http: /"));
    assert!(machine.journal().contains("drain done"), "it was stopped in order");

    // A process that hangs is replaced.
    let hanging = machine.property("MainPID");
    machine.run(&format!("kill -STOP {hanging}"));
    machine.when_replaced("the watchdog has replaced it", &hanging);
    assert!(machine.journal().contains("Watchdog timeout"));

    machine.run("dpkg --purge pointsman");
    assert!(!machine.output("systemctl cat pointsman").0);
    assert!(!machine.output("test -e /etc/pointsman || test -e /usr/bin/pointsman").0);
}
