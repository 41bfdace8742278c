//! What systemd learns of the process (sd_notify(3)).

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Instant;

use crate::support::backend::Backend;
use crate::support::{Lb, TIME_LIMIT, static_list};

fn config(backend: &Backend, drain: &str) -> String {
    format!(
        "runtime: {{drain: {{timeout: {drain}}}}}\nlisteners: {{l: {{bind: 127.0.0.1:0, pool: p}}}}\npools: {{p: {{discover: {}}}}}",
        static_list(&[backend.address])
    )
}

/// A service manager that watches one process.
struct ServiceManager {
    socket: UnixDatagram,
    folder: tempfile::TempDir,
}

impl ServiceManager {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(TIME_LIMIT)).unwrap();
        Self { socket, folder }
    }

    /// Starts a balancer with a watchdog of half a second.
    fn start(&self, config: &str) -> Lb {
        let socket = self.folder.path().join("notify");
        let environment = format!("export NOTIFY_SOCKET={} WATCHDOG_USEC=500000", socket.display());
        Lb::start_after(&[], &environment, config, |_: &Path| ())
    }

    /// The next message with this line. Others come at any time.
    fn when(&self, line: &str) -> String {
        let deadline = Instant::now() + TIME_LIMIT;
        let mut messages = Vec::new();
        loop {
            let mut message = [0; 4096];
            let length = self.socket.recv(&mut message).unwrap_or_default();
            let message = String::from_utf8_lossy(&message[..length]).into_owned();
            if message.lines().any(|one| one == line) {
                return message;
            }
            messages.push(message);
            assert!(Instant::now() < deadline, "{line} was not among {messages:?}");
        }
    }
}

#[test]
fn it_learns_of_the_start_of_reloads_and_of_the_drain() {
    let (manager, backend) = (ServiceManager::new(), Backend::http("a"));
    let mut lb = manager.start(&config(&backend, "21s"));
    let message = manager.when("READY=1");
    assert!(message.contains("STATUS=serving: 0 open connections"), "{message}");
    manager.when("STATUS=serving: 0 open connections, 1 of 1 backend up");
    lb.signal("HUP");
    let message = manager.when("RELOADING=1");
    // systemd before 253 ignores it; since then a reload without it is refused.
    assert!(message.contains("\nMONOTONIC_USEC="), "{message}");
    manager.when("READY=1");
    // A reload that is refused ends too.
    lb.rewrite("listeners: {");
    lb.signal("HUP");
    manager.when("RELOADING=1");
    manager.when("READY=1");
    lb.signal("TERM");
    let message = manager.when("STOPPING=1");
    assert!(message.contains("\nEXTEND_TIMEOUT_USEC=31000000\n"), "{message}");
    assert!(lb.when_ended().success());
}

#[test]
fn the_watchdog_is_fed_while_every_worker_answers() {
    let (manager, backend) = (ServiceManager::new(), Backend::http("a"));
    let _lb = manager.start(&config(&backend, "1s"));
    for _ in 0..3 {
        manager.when("WATCHDOG=1");
    }
}
