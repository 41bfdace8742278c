//! The worker's next turn: after its runtime has polled the kernel for events once more.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use tokio::sync::Notify;

/// The connections that wait for the worker's next turn. They resume in the order in which they began to wait, so that
/// the connection accepted first also reaches its backend first. [`tokio::task::yield_now`] does not keep that order:
/// the runtime resumes the last task that yielded first.
#[derive(Debug, Default)]
pub(super) struct NextTurn {
    number: Cell<u64>,
    waiting: RefCell<Vec<Waker>>,
    wanted: Notify,
}

impl NextTurn {
    /// Returns in the worker's next turn.
    pub(super) async fn wait(&self) {
        let now = self.number.get();
        poll_fn(|cx| {
            if self.number.get() != now {
                return Poll::Ready(());
            }
            self.waiting.borrow_mut().push(cx.waker().clone());
            self.wanted.notify_one();
            Poll::Pending
        })
        .await;
    }

    /// Resumes the waiting connections, turn by turn. Runs for the lifetime of the worker.
    pub(super) async fn run(self: Rc<Self>) {
        loop {
            self.wanted.notified().await;
            // This is the only task of the worker that yields, so the order is kept.
            tokio::task::yield_now().await;
            self.number.set(self.number.get().wrapping_add(1));
            for waker in self.waiting.take() {
                waker.wake();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::runtime::{Builder, LocalOptions};

    #[test]
    fn tasks_are_resumed_in_the_order_in_which_they_began_to_wait() {
        let runtime =
            Builder::new_current_thread().enable_time().build_local(LocalOptions::default()).unwrap();
        let order = Rc::new(RefCell::new(Vec::new()));
        runtime.block_on(async {
            let turn = Rc::<NextTurn>::default();
            tokio::task::spawn_local(Rc::clone(&turn).run());
            let tasks = Vec::from_iter((0..100).map(|number| {
                let (turn, order) = (Rc::clone(&turn), Rc::clone(&order));
                tokio::task::spawn_local(async move {
                    turn.wait().await;
                    order.borrow_mut().push(number);
                })
            }));
            for task in tasks {
                crate::testing::in_time("the task is resumed", task).await.unwrap();
            }
        });
        assert_eq!(*order.borrow(), Vec::from_iter(0..100));
    }

    #[test]
    fn a_task_that_is_woken_early_still_waits_for_the_next_turn() {
        let runtime = Builder::new_current_thread().build_local(LocalOptions::default()).unwrap();
        runtime.block_on(async {
            let turn = NextTurn::default();
            let mut wait = std::pin::pin!(turn.wait());
            for _ in 0..3 {
                assert!(poll_fn(|cx| Poll::Ready(wait.as_mut().poll(cx))).await.is_pending());
            }
            turn.number.set(1);
            assert!(poll_fn(|cx| Poll::Ready(wait.as_mut().poll(cx))).await.is_ready());
        });
    }
}
