//! Backends at Unix sockets, in threads of the test process.

use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use socket2::SockRef;

use super::{backend, join_within};

/// A server at a Unix socket, whose file stays when it is dropped, as after a killed process.
pub struct UnixBackend {
    listener: UnixListener,
    stop: Arc<AtomicBool>,
    open: Arc<Mutex<Vec<UnixStream>>>,
    thread: Option<JoinHandle<()>>,
}

impl UnixBackend {
    /// A server at a path that is free, or that a server which has ended leaves; it runs `serve` in a new thread for
    /// each connection.
    pub fn serving(path: &Path, serve: impl Fn(UnixStream) + Send + Sync + 'static) -> Self {
        let _ = std::fs::remove_file(path);
        let listener = UnixListener::bind(path).unwrap();
        let (stop, open) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Vec<UnixStream>>>::default());
        let (accepting, stopped, kept) =
            (listener.try_clone().unwrap(), Arc::clone(&stop), Arc::clone(&open));
        let serve = Arc::new(serve);
        let thread = std::thread::spawn(move || {
            for stream in accepting.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                kept.lock().unwrap().push(stream.try_clone().unwrap());
                let serve = Arc::clone(&serve);
                std::thread::spawn(move || {
                    let end = stream.try_clone().unwrap();
                    serve(stream);
                    // The kept copy must not hold the connection open.
                    let _ = end.shutdown(Shutdown::Both);
                });
            }
        });
        Self { listener, stop, open, thread: Some(thread) }
    }

    /// An HTTP server that responds to every request with `name`, and to /health with ok.
    pub fn http(path: &Path, name: &str) -> Self {
        let name = name.to_owned();
        Self::serving(path, move |stream| backend::http(stream, &name))
    }
}

impl Drop for UnixBackend {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = SockRef::from(&self.listener).shutdown(Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            join_within(thread, "a backend at a Unix socket accepts no more");
        }
        for stream in self.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}
