//! What systemd learns of the process (sd_notify(3)).

use std::fmt::Write as _;
use std::io::{ErrorKind, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Instant;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use crate::support::backend::Backend;
use crate::support::{Lb, TIME_LIMIT, connect_to, eventually, free_port, http_get, http_get_on, static_list};

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
        Lb::start_after(&[], &self.environment(), config, |_: &Path| ())
    }

    /// The command that sets the balancer's environment.
    fn environment(&self) -> String {
        let socket = self.folder.path().join("notify");
        format!("export NOTIFY_SOCKET={} WATCHDOG_USEC=500000", socket.display())
    }

    /// The sockets in the next message that asks to keep some.
    fn kept(&self) -> Vec<OwnedFd> {
        let deadline = Instant::now() + TIME_LIMIT;
        loop {
            let (mut bytes, mut space) = ([0; 4096], [MaybeUninit::uninit(); 4096]);
            let mut rights = RecvAncillaryBuffer::new(&mut space);
            let received = recvmsg(
                &self.socket,
                &mut [IoSliceMut::new(&mut bytes)],
                &mut rights,
                RecvFlags::CMSG_CLOEXEC,
            );
            let files: Vec<OwnedFd> = rights
                .drain()
                .filter_map(
                    |one| if let RecvAncillaryMessage::ScmRights(files) = one { Some(files) } else { None },
                )
                .flatten()
                .collect();
            let length = received.map_or(0, |received| received.bytes);
            if String::from_utf8_lossy(&bytes[..length]).lines().any(|line| line == "FDSTORE=1") {
                return files;
            }
            assert!(Instant::now() < deadline, "nothing is kept");
        }
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

/// Passes sockets to the process that a shell becomes, as the service manager does (sd_listen_fds(3)): a wrapper and the
/// commands of the shell.
fn passing(sockets: &[OwnedFd]) -> (Vec<String>, String) {
    let mut redirects = String::new();
    for (number, socket) in (3..).zip(sockets) {
        rustix::io::fcntl_setfd(socket, rustix::io::FdFlags::empty()).unwrap();
        write!(redirects, " {number}<&{}", socket.as_raw_fd()).unwrap();
    }
    let wrapper = ["bash", "-c", &format!("exec \"$@\"{redirects}"), "bash"].map(str::to_owned).to_vec();
    (wrapper, format!("export LISTEN_PID=$$ LISTEN_FDS={}", sockets.len()))
}

#[test]
fn a_crash_loses_no_listening_socket_and_no_connection_that_waits() {
    let (manager, backend) = (ServiceManager::new(), Backend::http("a"));
    let port = free_port();
    let config = format!(
        "admin: {{bind: 127.0.0.1:{}}}\nruntime: {{workers: 2}}\nlisteners: {{l: {{bind: 127.0.0.1:{port}, pool: p}}}}
pools: {{p: {{discover: {}}}}}",
        free_port(),
        static_list(&[backend.address])
    );
    let mut lb = manager.start(&config);
    let kept = manager.kept();
    assert_eq!(kept.len(), 3, "one for each worker, and the admin server's");
    let address = lb.address("l");
    lb.signal("KILL");
    lb.when_ended();
    // Clients wait where a restart without the sockets would refuse them.
    let clients: Vec<_> = (0..8).map(|_| connect_to(address).unwrap()).collect();
    let (wrapper, commands) = passing(&kept);
    let wrapper: Vec<_> = wrapper.iter().map(String::as_str).collect();
    let commands = format!("{commands} && {}", manager.environment());
    let again = Lb::start_after(&wrapper, &commands, &config, |_: &Path| ());
    for client in clients {
        assert_eq!(http_get_on(client, "/").unwrap().0, 200, "{}", again.log());
    }
    assert_eq!(manager.kept().len(), 3, "they are kept again");
    assert_eq!(again.get("/ready").0, 200);
    drop(kept);
    again.signal("TERM");
    // While it drains, connects are refused: the service manager no longer keeps the sockets.
    manager.when("FDSTOREREMOVE=1");
    manager.when("STOPPING=1");
    eventually("connects are refused", || {
        connect_to(address).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused).then_some(())
    });
}

#[test]
fn sockets_that_the_service_manager_opened_are_used() {
    let (listening, other) =
        (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
    let (address, backend) = (listening.local_addr().unwrap(), Backend::http("a"));
    let early = connect_to(address).unwrap();
    let config = format!(
        "runtime: {{workers: 3}}\nlisteners: {{l: {{bind: {address}, pool: p}}}}\npools: {{p: {{discover: {}}}}}",
        static_list(&[backend.address])
    );
    let file = tempfile::tempfile().unwrap();
    let unused = other.local_addr().unwrap();
    let sockets = [listening.into(), other.into(), file.into()];
    let (wrapper, commands) = passing(&sockets);
    let wrapper: Vec<_> = wrapper.iter().map(String::as_str).collect();
    let lb = Lb::start_after(&wrapper, &commands, &config, |_: &Path| ());
    drop(sockets);
    assert_eq!(http_get_on(early, "/").unwrap().0, 200);
    for _ in 0..20 {
        assert_eq!(http_get(address, "/").unwrap().0, 200);
    }
    lb.when_logged(&format!("address={unused}"));
    assert_eq!(lb.logged(&["no listening socket: ignored"]).len(), 1, "{}", lb.log());
    // A reload keeps them.
    lb.reload(&config.replace("workers: 3", "workers: 3, records: 100"));
    assert_eq!(http_get(address, "/").unwrap().0, 200);
}
