//! A forwarder to the engine that can be stopped and started, as if the engine restarted.

use std::io;
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use super::support::join_within;

/// A Unix socket whose connections are forwarded to the engine's.
pub(crate) struct Forwarder {
    folder: tempfile::TempDir,
    running: Option<ForwarderState>,
}

struct ForwarderState {
    thread: JoinHandle<()>,
    /// Both ends of each connection; `None`: stopped.
    open: Arc<Mutex<Option<Vec<UnixStream>>>>,
}

impl Forwarder {
    pub(crate) fn start() -> Self {
        let mut forwarder = Self { folder: tempfile::tempdir().unwrap(), running: None };
        forwarder.resume();
        forwarder
    }

    /// The value of `engine` in a configuration.
    pub(crate) fn address(&self) -> String {
        format!("unix://{}", self.path().display())
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("engine.sock")
    }

    /// Forwards to the engine again.
    pub(crate) fn resume(&mut self) {
        let listener = UnixListener::bind(self.path()).unwrap();
        let open = Arc::new(Mutex::new(Some(Vec::new())));
        let theirs = Arc::clone(&open);
        let thread = std::thread::spawn(move || {
            for client in listener.incoming() {
                let (client, engine) = (client.unwrap(), UnixStream::connect(engine_socket()).unwrap());
                let Some(open) = &mut *theirs.lock().unwrap() else { return };
                copy(&client, &engine);
                copy(&engine, &client);
                open.extend([client, engine]);
            }
        });
        self.running = Some(ForwarderState { thread, open });
    }

    /// Closes all connections, and accepts no more.
    pub(crate) fn stop(&mut self) {
        let Some(running) = self.running.take() else { return };
        // From now on there is no socket, instead of one that refuses.
        let aside = self.folder.path().join("stopped.sock");
        std::fs::rename(self.path(), &aside).unwrap();
        let open = running.open.lock().unwrap().take();
        let _ = UnixStream::connect(&aside); // wakes up accept
        join_within(running.thread, "the forwarder accepts no more");
        std::fs::remove_file(&aside).unwrap();
        for stream in open.into_iter().flatten() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Copies in a thread until one end closes.
fn copy(from: &UnixStream, to: &UnixStream) {
    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
    std::thread::spawn(move || {
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
}

/// The socket of the engine.
fn engine_socket() -> PathBuf {
    let address = std::env::var("DOCKER_HOST").unwrap_or_default();
    address.strip_prefix("unix://").unwrap_or("/var/run/docker.sock").into()
}
