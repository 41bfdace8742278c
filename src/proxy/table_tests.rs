//! What the worker's tick does to many connections, in simulated time.

use super::super::progress::simulated::{backend, close_of, relayed_to};
use std::time::Instant;

use super::*;
use crate::config::{self, SocketOptions};
use crate::domain::{CloseReason, Ending};

fn table_of<const N: usize>(backends: [(&Arc<Backend>, usize); N]) -> (Table, Vec<Rc<Progress>>, Instant) {
    // No moment is earlier than the first use of this clock.
    let _ = Moment::now();
    let (table, began) = (Table::default(), Instant::now());
    let backends = backends.iter().flat_map(|(backend, n)| std::iter::repeat_n(backend, *n));
    let open: Vec<_> = (1u32..)
        .zip(backends)
        .map(|(conn, backend)| {
            let started = began + Duration::from_millis(1) * conn;
            let pool = config::Pool::new(Vec::new());
            Rc::new(relayed_to(backend, conn.into(), started.into(), pool, SocketOptions::NONE))
        })
        .collect();
    for progress in &open {
        table.enter(progress);
    }
    (table, open, began)
}

/// Runs one tick; returns how many connections have a request to close.
fn ended_by(table: &Table, open: &[Rc<Progress>], now: Instant) -> usize {
    table.tick(now.into());
    open.iter().filter(|progress| close_of(progress).is_some()).count()
}

fn directive(at: Instant, over: Duration) -> CloseDirective {
    CloseDirective { how: Ending::Reset, at, over, reason: CloseReason::BackendLeft }
}

#[test]
fn the_connections_of_a_backend_end_one_by_one_over_the_time_of_its_directive() {
    let leaving = backend("leaving");
    let (table, open, began) = table_of([(&leaving, 4)]);
    let second = Duration::from_secs(1);
    leaving.set_directive(Some(directive(began + second * 2, second * 8)));
    // The first tick only spreads the end times.
    assert_eq!(ended_by(&table, &open, began + second), 0);
    for (after, ended) in [(2, 0), (3, 0), (4, 1), (5, 1), (6, 2), (8, 3), (9, 3), (10, 4)] {
        assert_eq!(ended_by(&table, &open, began + second * after), ended, "after {after} s");
    }
    let end = CloseRequest { reason: CloseReason::BackendLeft, how: Ending::Reset };
    assert!(open.iter().all(|progress| close_of(progress) == Some(end)));
}

#[test]
fn a_directive_without_a_spread_ends_exactly_its_backends_connections() {
    // The backends of two pools have the same numbers.
    let (leaving, staying) = (backend("leaving"), backend("staying"));
    let (table, open, began) = table_of([(&leaving, 3), (&staying, 2)]);
    let at = began + Duration::from_secs(1);
    leaving.set_directive(Some(directive(at, Duration::ZERO)));
    assert_eq!(ended_by(&table, &open, at - TICK), 0);
    assert_eq!(ended_by(&table, &open, at), 3);
    assert!(open[3..].iter().all(|progress| close_of(progress).is_none()));
    staying.set_directive(Some(directive(at, Duration::ZERO)));
    assert_eq!(ended_by(&table, &open, at + TICK), 5, "the connection that is already due");
}

#[test]
fn open_connections_are_listed_oldest_first_and_counted_beyond_the_limit() {
    let (one, other) = (backend("one"), backend("other"));
    let (table, open, began) = table_of([(&one, 3), (&other, 3)]);
    table.leave(&open[0]);
    table.enter(&open[0]);
    assert_eq!(table.open(), 6);
    let now = began + Duration::from_millis(10);
    assert_eq!(table.ages(&ConnectionFilter::default(), now.into()).oldest, Some(Duration::from_millis(9)));
    let listed = |filter: &ConnectionFilter, limit| {
        let (list, total) = table.list(filter, limit);
        (list.iter().map(|record| record.conn).collect::<Vec<_>>(), total)
    };
    let all = ConnectionFilter::default();
    assert_eq!(listed(&all, 100), (vec![1, 2, 3, 4, 5, 6], 6));
    assert_eq!(listed(&all, 6), (vec![1, 2, 3, 4, 5, 6], 6));
    assert_eq!(listed(&all, 2), (vec![1, 2], 6));
    assert_eq!(listed(&all, 0), (vec![], 6));
    let of_other =
        ConnectionFilter { backend: Some("other".to_owned().into()), ..ConnectionFilter::default() };
    assert_eq!(listed(&of_other, 2), (vec![4, 5], 3));
    table.leave(&open[0]);
    assert_eq!(listed(&all, 100), (vec![2, 3, 4, 5, 6], 5));
}

#[test]
fn one_connection_is_found_and_closed_by_its_number() {
    let one = backend("one");
    let (table, open, _) = table_of([(&one, 3)]);
    let end = CloseRequest { reason: CloseReason::Operator, how: Ending::Close };
    assert_eq!(table.close(2, end).map(|was| was.conn), Some(2));
    assert!(table.close(9, end).is_none());
    assert_eq!(open.iter().map(|progress| close_of(progress)).collect::<Vec<_>>(), [None, Some(end), None]);
    table.close_all(CloseRequest { how: Ending::Reset, ..end });
    let how: Vec<_> = open.iter().map(|progress| close_of(progress).unwrap().how).collect();
    assert_eq!(how, [Ending::Reset, Ending::Close, Ending::Reset]);
}

#[test]
fn the_connections_of_a_drain_end_one_by_one_and_the_longest_idle_first() {
    let some = backend("some");
    let (table, open, began) = table_of([(&some, 4)]);
    let second = Duration::from_secs(1);
    // The first one moves a byte after the others.
    open[0].moved.set(true);
    table.tick((began + second).into());
    let request = CloseRequest { reason: CloseReason::DrainTimeout, how: Ending::Reset };
    table.close_over(request, second * 4, (began + second).into());
    for (after, ended) in [(1, 0), (2, 1), (3, 2), (4, 3), (5, 4)] {
        assert_eq!(ended_by(&table, &open, began + second * after), ended, "after {after} s");
        assert_eq!(close_of(&open[0]).is_some(), ended == 4);
    }
}

#[test]
fn ages_are_counted_by_pool_and_the_longest_idle_are_listed() {
    let some = backend("some");
    let (table, open, began) = table_of([(&some, 20)]);
    let ages = table.ages(&ConnectionFilter::default(), (began + Duration::from_secs(9)).into());
    // Each connection here has a pool of its own.
    let [all, selected] = [|pool: &PoolAges| pool.all.total(), |pool: &PoolAges| pool.selected.total()]
        .map(|total| ages.pools.iter().map(total).sum::<u64>());
    assert_eq!((all, selected, ages.without_pool), (20, 20, 0));
    assert!(ages.oldest.is_some_and(|oldest| oldest > Duration::from_secs(8)));
    let conns: Vec<_> = ages.longest_idle.iter().map(|(_, idle)| idle.conn).collect();
    assert_eq!(conns, (1..=16).collect::<Vec<_>>());
    let other = ConnectionFilter { pool: Some("q".to_owned()), ..ConnectionFilter::default() };
    let ages = table.ages(&other, Moment::now());
    assert_eq!((ages.oldest, ages.longest_idle.len()), (None, 0));
    drop(open);
}

#[test]
fn only_idle_connections_of_the_backend_are_closed_and_the_longest_idle_first() {
    let (one, other) = (backend("one"), backend("other"));
    let (table, open, began) = table_of([(&one, 5), (&other, 2)]);
    let second = Duration::from_secs(1);
    open[0].moved.set(true);
    table.tick((began + second * 9).into());
    let request = CloseRequest { reason: CloseReason::Rebalanced, how: Ending::Close };
    let close = |backend: &Backend, idle, most| {
        table.close_idle(("p", backend.key), idle, most, request, (began + second * 10).into())
    };
    // Those of the other backend have the same key here, and the one that moved a byte is not idle for long.
    assert_eq!(close(&one, second * 5, 0), IdleOf { idle: 6, closed: 0 });
    assert_eq!(close(&one, second, 0).idle, 7);
    assert_eq!(close(&one, second * 5, 2), IdleOf { idle: 6, closed: 2 });
    let closed: Vec<_> =
        open.iter().filter(|progress| close_of(progress).is_some()).map(|p| p.conn).collect();
    assert_eq!(closed, [2, 3]);
    open[4].first_closed.set(Some(CloseReason::ClientClosed));
    assert_eq!(close(&one, second * 5, 0).idle, 5, "a half-closed connection waits for an answer");
    let elsewhere = table.close_idle(("q", one.key), second, 9, request, (began + second * 10).into());
    assert_eq!(elsewhere, IdleOf::default());
}
