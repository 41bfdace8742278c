//! Moving bytes from socket to socket within the kernel, through a pipe (splice(2)): for bursts, where copying
//! them to user space and back would cost more than the extra system calls.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

/// The requested capacity of a pipe, in bytes. The kernel may allow less (fs.pipe-user-pages-soft in proc(5)).
const CAPACITY: usize = 1024 * 1024;

/// How many idle pipes a worker keeps: enough for the bursts of one moment. All that were ever needed at once would hold open
/// files, and count in fs.pipe-user-pages-soft, forever.
const KEPT: usize = 16;

/// A pipe that a burst flows through.
#[derive(Debug)]
pub(super) struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    held: usize,
    /// Its slot among the worker's pipes, free when it is closed.
    _slot: Rc<()>,
}

impl Pipe {
    fn new(slot: Rc<()>) -> io::Result<Self> {
        let (read, write) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC)?;
        // The kernel refuses this to a user with many large pipes; a small pipe works too, only slower.
        let _ = fcntl_setpipe_size(&write, CAPACITY);
        Ok(Self { read, write, held: 0, _slot: slot })
    }

    /// Bytes that are in it.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// Moves at most `most` bytes of `from` into the pipe, 0 at its end. The pipe must be empty: a full pipe returns
    /// `WouldBlock` just as an empty socket does, and the caller could not know which of them to wait for.
    pub(super) fn fill(&mut self, from: impl AsFd, most: usize) -> io::Result<usize> {
        debug_assert_eq!(self.held, 0, "only an empty pipe can be filled");
        // The kernel takes what fits.
        self.held = splice(from, None, &self.write, None, most.min(CAPACITY), FLAGS)?;
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

/// A worker's pipes. They are made when they are needed, and some are kept.
#[derive(Debug)]
pub struct Pipes {
    idle: RefCell<Vec<Pipe>>,
    /// Shared by all open pipes, and so counts them.
    slots: Rc<()>,
    limit: usize,
    /// How often none was free.
    unavailable: Arc<AtomicU64>,
}

impl Pipes {
    /// At most `limit` pipes; each takes two open files. `unavailable` counts how often none was free.
    pub fn new(limit: usize, unavailable: Arc<AtomicU64>) -> Self {
        Self { idle: RefCell::default(), slots: Rc::new(()), limit, unavailable }
    }

    /// An empty pipe; `None` if all are in use or the system cannot create one.
    pub(super) fn take(&self) -> Option<Pipe> {
        let pipe = self.idle.borrow_mut().pop().or_else(|| {
            let open = Rc::strong_count(&self.slots) - 1;
            if open < self.limit { Pipe::new(Rc::clone(&self.slots)).ok() } else { None }
        });
        if pipe.is_none() {
            self.unavailable.fetch_add(1, Ordering::Relaxed);
        }
        pipe
    }

    /// Takes a pipe back for reuse. A pipe whose burst was cut off still holds bytes of that connection, and is closed.
    pub(super) fn give_back(&self, pipe: Pipe) {
        let mut idle = self.idle.borrow_mut();
        if pipe.held == 0 && idle.len() < KEPT {
            idle.push(pipe);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TEST_TIMEOUT;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    #[test]
    fn bytes_pass_through_a_pipe() {
        let pipes = Pipes::new(1, Arc::default());
        let (mut sender, from) = UnixStream::pair().unwrap();
        let (to, mut receiver) = UnixStream::pair().unwrap();
        from.set_nonblocking(true).unwrap();
        receiver.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
        let mut pipe = pipes.take().unwrap();
        assert_eq!(pipe.fill(&from, usize::MAX).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        sender.write_all(b"a burst").unwrap();
        assert_eq!(pipe.fill(&from, usize::MAX).unwrap(), 7);
        assert_eq!((pipe.empty(&to).unwrap(), pipe.held()), (7, 0));
        let mut bytes = [0; 7];
        receiver.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"a burst");
        drop(sender);
        assert_eq!(pipe.fill(&from, usize::MAX).unwrap(), 0);
    }

    #[test]
    fn a_limited_number_is_kept() {
        let pipes = Pipes::new(100, Arc::default());
        let taken: Vec<_> = (0..50).map(|_| pipes.take().unwrap()).collect();
        taken.into_iter().for_each(|pipe| pipes.give_back(pipe));
        assert_eq!((pipes.idle.borrow().len(), Rc::strong_count(&pipes.slots) - 1), (KEPT, KEPT));
    }

    #[test]
    fn pipes_are_limited_and_one_with_left_over_bytes_is_not_reused() {
        let pipes = Pipes::new(1, Arc::default());
        let (mut sender, from) = UnixStream::pair().unwrap();
        from.set_nonblocking(true).unwrap();
        let mut pipe = pipes.take().unwrap();
        assert!(pipes.take().is_none());
        assert_eq!(pipes.unavailable.load(Ordering::Relaxed), 1);
        sender.write_all(b"left over").unwrap();
        pipe.fill(&from, usize::MAX).unwrap();
        pipes.give_back(pipe);
        assert_eq!(pipes.take().unwrap().held(), 0);
    }
}
