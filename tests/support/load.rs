//! Clients that send requests all the time, while a test does something to the balancer.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::{eventually, http_get};

/// Concurrent clients, each with one request at a time.
const CLIENTS: usize = 4;

/// What the clients saw.
#[derive(Debug)]
pub struct Seen {
    pub answers: usize,
    pub errors: Vec<String>,
    /// The time of the slowest answer.
    pub slowest: Duration,
}

impl Seen {
    /// The number of answers; any error fails the test.
    #[track_caller]
    pub fn without_errors(&self) -> usize {
        let (errors, answers) = (&self.errors, self.answers);
        assert!(errors.is_empty(), "{} failed beside {answers} answers: {:?}", errors.len(), errors[0]);
        answers
    }
}

/// The clients while they run.
pub struct Clients<'s>(&'s AtomicUsize);

impl Clients<'_> {
    /// Waits for so many more answers.
    #[track_caller]
    pub fn when_answered(&self, more: usize) {
        let before = self.0.load(Ordering::SeqCst);
        eventually("requests are answered", || {
            (self.0.load(Ordering::SeqCst) >= before + more).then_some(())
        });
    }
}

/// Runs `work` while four clients send requests to `address`.
pub fn under_load(address: SocketAddr, work: impl FnOnce(&Clients<'_>)) -> Seen {
    let (ended, answers) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (errors, slowest) = (Mutex::new(Vec::new()), Mutex::new(Duration::ZERO));
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                while !ended.load(Ordering::SeqCst) {
                    let began = Instant::now();
                    match http_get(address, "/") {
                        Ok((200, _)) => {
                            answers.fetch_add(1, Ordering::SeqCst);
                            let mut slowest = slowest.lock().unwrap();
                            *slowest = slowest.max(began.elapsed());
                        }
                        other => errors.lock().unwrap().push(format!("{other:?}")),
                    }
                }
            });
        }
        let work = std::panic::AssertUnwindSafe(|| work(&Clients(&answers)));
        let result = std::panic::catch_unwind(work);
        ended.store(true, Ordering::SeqCst);
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    });
    Seen {
        answers: answers.into_inner(),
        errors: errors.into_inner().unwrap(),
        slowest: slowest.into_inner().unwrap(),
    }
}
