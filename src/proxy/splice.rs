//! Moving bytes from socket to socket within the kernel, through a pipe (splice(2)): for bursts, where copying
//! them into our memory and out again would cost more than the extra system calls.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

/// What a pipe is asked to hold, in bytes. The kernel may allow less (fs.pipe-user-pages-soft in proc(5)).
const CAPACITY: usize = 1024 * 1024;

/// A pipe that a burst flows through.
#[derive(Debug)]
pub(super) struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    held: usize,
    /// Its place among the worker's pipes, given back when it is closed.
    _place: Rc<()>,
}

impl Pipe {
    fn new(place: Rc<()>) -> io::Result<Self> {
        let (read, write) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC)?;
        // The kernel refuses it to a user with many large pipes; a small pipe works too, only slower.
        let _ = fcntl_setpipe_size(&write, CAPACITY);
        Ok(Self { read, write, held: 0, _place: place })
    }

    /// Bytes that are in it.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// Moves the bytes of `from` into the pipe, 0 at its end. The pipe must be empty: a full pipe returns `WouldBlock`
    /// just as an empty socket does, and the caller could not tell which of them to wait for.
    pub(super) fn fill(&mut self, from: impl AsFd) -> io::Result<usize> {
        debug_assert_eq!(self.held, 0, "only an empty pipe can be filled");
        // The kernel takes what fits.
        self.held = splice(from, None, &self.write, None, CAPACITY, FLAGS)?;
        Ok(self.held)
    }

    /// Moves the pipe's bytes to `to`, as many as that takes.
    pub(super) fn empty(&mut self, to: impl AsFd) -> io::Result<usize> {
        let taken = splice(&self.read, None, to, None, self.held, FLAGS)?;
        self.held -= taken;
        Ok(taken)
    }
}

const FLAGS: SpliceFlags = SpliceFlags::NONBLOCK.union(SpliceFlags::MOVE);

/// A worker's pipes. They are made when they are first needed and then kept.
#[derive(Debug)]
pub struct Pipes {
    idle: RefCell<Vec<Pipe>>,
    /// Shared by all that are open.
    places: Rc<()>,
    limit: usize,
    /// How often none was free.
    wanting: Arc<AtomicU64>,
}

impl Pipes {
    /// At most `limit` pipes; each takes two open files. `wanting` counts how often none was free.
    pub fn new(limit: usize, wanting: Arc<AtomicU64>) -> Self {
        Self { idle: RefCell::default(), places: Rc::new(()), limit, wanting }
    }

    /// An empty pipe; `None` if all are in use or the system gives no more.
    pub(super) fn take(&self) -> Option<Pipe> {
        let pipe = self.idle.borrow_mut().pop().or_else(|| {
            let open = Rc::strong_count(&self.places) - 1;
            if open < self.limit { Pipe::new(Rc::clone(&self.places)).ok() } else { None }
        });
        if pipe.is_none() {
            self.wanting.fetch_add(1, Ordering::Relaxed);
        }
        pipe
    }

    /// Takes a pipe back. One that was cut off in the middle of a burst holds another connection's bytes: it is
    /// closed.
    pub(super) fn give_back(&self, pipe: Pipe) {
        if pipe.held == 0 {
            self.idle.borrow_mut().push(pipe);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::PATIENCE;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    #[test]
    fn what_flows_in_flows_out() {
        let pipes = Pipes::new(1, Arc::default());
        let (mut sender, from) = UnixStream::pair().unwrap();
        let (to, mut receiver) = UnixStream::pair().unwrap();
        from.set_nonblocking(true).unwrap();
        receiver.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut pipe = pipes.take().unwrap();
        assert_eq!(pipe.fill(&from).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        sender.write_all(b"a burst").unwrap();
        assert_eq!(pipe.fill(&from).unwrap(), 7);
        assert_eq!((pipe.empty(&to).unwrap(), pipe.held()), (7, 0));
        let mut bytes = [0; 7];
        receiver.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"a burst");
        drop(sender);
        assert_eq!(pipe.fill(&from).unwrap(), 0);
    }

    #[test]
    fn there_are_only_so_many_and_a_soiled_one_never_comes_back() {
        let pipes = Pipes::new(1, Arc::default());
        let (mut sender, from) = UnixStream::pair().unwrap();
        from.set_nonblocking(true).unwrap();
        let mut pipe = pipes.take().unwrap();
        assert!(pipes.take().is_none());
        assert_eq!(pipes.wanting.load(Ordering::Relaxed), 1);
        sender.write_all(b"left over").unwrap();
        pipe.fill(&from).unwrap();
        pipes.give_back(pipe);
        assert_eq!(pipes.take().unwrap().held(), 0);
    }
}
