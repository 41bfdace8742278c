use super::*;
use crate::balance::{Lease, Load};
use proptest::prelude::*;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::pin::pin;
use std::sync::atomic::AtomicU32;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

fn has_turn(ticket: &Ticket<'_>) -> bool {
    pin!(ticket.turn()).poll(&mut Context::from_waker(Waker::noop())) == Poll::Ready(())
}

#[test]
fn one_client_at_a_time_is_notified_in_the_order_of_arrival() {
    let queue = Queue::default();
    let [a, b, c] = [(); 3].map(|()| queue.join(3).unwrap());
    assert_eq!(queue.len(), 3);
    assert!(queue.join(3).is_none());
    assert!(has_turn(&a), "the first client tries at once");
    assert!(![&a, &b, &c].into_iter().any(has_turn));
    queue.notify_first();
    queue.notify_first();
    assert_eq!([&a, &b, &c].map(has_turn), [true, false, false]);
    drop(a); // served
    assert_eq!([&b, &c].map(has_turn), [true, false]);
    b.notify_next();
    assert_eq!([&b, &c].map(has_turn), [false, true]);
    drop(b); // gave up
    assert_eq!((queue.len(), has_turn(&c)), (1, true));
    drop(c);
    assert!(queue.is_empty());
}

#[test]
fn a_notification_is_not_lost_when_its_client_leaves() {
    let queue = Queue::default();
    let (a, b) = (queue.join(2).unwrap(), queue.join(2).unwrap());
    queue.notify_first();
    drop(a); // before it tried
    assert!(has_turn(&b));
}

/// What a client or a backend does next.
#[derive(Clone, Debug)]
enum Step {
    Come,
    GiveUp(prop::sample::Index),
    Free,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => Just(Step::Come),
        1 => any::<prop::sample::Index>().prop_map(Step::GiveUp),
        2 => Just(Step::Free),
    ];
    proptest::collection::vec(step, 0..200)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// Compared with a plain list: first come, first served, and at once while a slot is free.
    #[test]
    fn clients_are_served_in_the_order_of_a_plain_list(steps in steps(), limit in 1u32..5, room in 0usize..10) {
        let (queue, load, limit) = (Queue::default(), Arc::new(Load::default()), NonZeroU32::new(limit).unwrap());
        let held = RefCell::new(VecDeque::<(usize, Lease)>::new());
        let mut waiting: Vec<(usize, Ticket<'_>)> = Vec::new();
        let (mut served, mut slots, mut expected) = (Vec::new(), limit.get(), VecDeque::new());
        let mut should_be_served = Vec::new();
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Come if queue.is_empty() && slots > 0 => {
                    held.borrow_mut().push_back((number, load.lease_within(limit).unwrap()));
                    slots -= 1;
                }
                Step::Come => match queue.join(room) {
                    Some(ticket) => {
                        waiting.push((number, ticket));
                        expected.push_back(number);
                    }
                    None => prop_assert_eq!(waiting.len(), room),
                },
                Step::GiveUp(which) if !waiting.is_empty() => {
                    let gone = waiting.remove(which.index(waiting.len())).0;
                    expected.retain(|number| *number != gone);
                }
                Step::Free if !held.borrow().is_empty() => {
                    held.borrow_mut().pop_front();
                    slots += 1;
                    queue.notify_first();
                }
                Step::GiveUp(_) | Step::Free => {}
            }
            while let Some(index) = waiting.iter().position(|(_, ticket)| has_turn(ticket)) {
                if let Some(lease) = load.lease_within(limit) {
                    let (number, _ticket) = waiting.remove(index);
                    held.borrow_mut().push_back((number, lease));
                    served.push(number);
                }
            }
            while slots > 0 && let Some(number) = expected.pop_front() {
                should_be_served.push(number);
                slots -= 1;
            }
            prop_assert_eq!(&served, &should_be_served);
            prop_assert_eq!(queue.len(), waiting.len());
        }
    }
}

/// Threads like the workers, each with hundreds of clients for few slots; a third of the clients give up early.
#[test]
fn no_client_waits_forever_and_no_slot_is_given_twice() {
    const THREADS: u64 = 4;
    const CLIENTS: u64 = 200;
    let limit = NonZeroU32::new(3).unwrap();
    let (queue, load) = (Arc::new(Queue::default()), Arc::new(Load::default()));
    let (served, gave_up, busiest) = (AtomicU32::new(0), AtomicU32::new(0), AtomicU32::new(0));
    let client = async |number: u64| {
        let waiting = async {
            let ticket = queue.join(usize::MAX).unwrap();
            loop {
                ticket.turn().await;
                if let Some(lease) = load.lease_within(limit) {
                    return lease;
                }
            }
        };
        let time_limit = if number.is_multiple_of(3) {
            Duration::from_micros(number * 7)
        } else {
            Duration::from_secs(60)
        };
        let Ok(lease) = tokio::time::timeout(time_limit, waiting).await else {
            gave_up.fetch_add(1, SeqCst);
            return;
        };
        busiest.fetch_max(load.open(), SeqCst);
        for _ in 0..number % 4 {
            tokio::task::yield_now().await;
        }
        served.fetch_add(1, SeqCst);
        drop(lease);
        queue.notify_first();
    };
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let client = &client;
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
                let mut clients: Vec<_> =
                    (0..CLIENTS).map(|n| Some(Box::pin(client(thread * CLIENTS + n)))).collect();
                runtime.block_on(std::future::poll_fn(|cx| {
                    for slot in &mut clients {
                        if slot.as_mut().is_some_and(|client| client.as_mut().poll(cx).is_ready()) {
                            *slot = None;
                        }
                    }
                    if clients.iter().all(Option::is_none) { Poll::Ready(()) } else { Poll::Pending }
                }));
            });
        }
    });
    let (served, gave_up) = (served.into_inner(), gave_up.into_inner());
    assert_eq!(u64::from(served + gave_up), THREADS * CLIENTS);
    // The clients with the long time limit were all served, long before it.
    assert!(u64::from(gave_up) <= (THREADS * CLIENTS).div_ceil(3), "{gave_up} gave up");
    assert!(busiest.into_inner() <= limit.get());
    assert_eq!((queue.len(), load.open()), (0, 0));
}
