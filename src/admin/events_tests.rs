use super::*;
use crate::domain::Event;

/// The limit of bytes that wait for the readers of one origin. The latest snapshot, for future readers, is not counted.
const LIMIT: usize = 64 << 20;
const SIZE: usize = 4 << 20;

const LOCAL: Option<Peer> = Some(Peer::Unix);

fn remote() -> Option<Peer> {
    Some(Peer::Tcp("192.0.2.1:1".parse().unwrap()))
}

fn snapshot(number: usize) -> String {
    format!("{number}{}", " ".repeat(SIZE))
}

#[tokio::test(start_paused = true)]
async fn however_many_readers_are_slow_the_bytes_of_their_snapshots_are_bounded() {
    let (snapshots, pending) = (Snapshots::default(), PerOrigin::default());
    let mut untaken = Vec::new();
    for number in 0..100 {
        untaken.extend(snapshots.latest(remote(), &pending, || snapshot(number)));
        tokio::time::advance(STATUS).await;
    }
    let bytes: usize = untaken.iter().map(Bytes::len).sum();
    assert!((LIMIT - 2 * SIZE..=LIMIT).contains(&bytes), "{bytes} bytes");
    // The readers on this machine still get the latest snapshot.
    let latest = snapshots.latest(LOCAL, &pending, || snapshot(100)).unwrap();
    assert!(latest.starts_with(b"event: status\ndata: 100 "));
    // When the slow readers have read something, the other readers get snapshots again.
    assert!(snapshots.latest(remote(), &pending, || snapshot(100)).is_none());
    untaken.truncate(5);
    assert!(snapshots.latest(remote(), &pending, || snapshot(100)).is_some());
}

#[tokio::test(start_paused = true)]
async fn readers_share_a_snapshot_and_a_slow_one_gets_the_latest_only() {
    let (snapshots, pending) = (Snapshots::default(), PerOrigin::default());
    let fast = snapshots.latest(LOCAL, &pending, || snapshot(1)).unwrap();
    let slow = snapshots.latest(LOCAL, &pending, || snapshot(2)).unwrap();
    assert_eq!(fast.as_ptr(), slow.as_ptr());
    for number in 3..10 {
        tokio::time::advance(STATUS).await;
        let event = snapshots.latest(LOCAL, &pending, || snapshot(number)).unwrap();
        assert!(event.starts_with(format!("event: status\ndata: {number} ").as_bytes()));
    }
    let next = snapshots.latest(LOCAL, &pending, || snapshot(10)).unwrap();
    assert!(next.starts_with(b"event: status\ndata: 9 "));
}

#[test]
fn a_reader_that_reads_no_events_holds_none_and_gets_the_number_of_missed_ones() {
    let journal = Journal::default();
    let mut entries = JournalReader { journal: journal.clone(), sent: 0 };
    let backend: std::sync::Arc<str> = "b".repeat(1000).into();
    for weight in 0..10_000 {
        journal.record(Event::WeightChanged { pool: "web".into(), backend: backend.clone(), weight });
    }
    let mut ids = Vec::new();
    let mut first = None;
    while let Some(batch) = entries.next() {
        assert!(batch.len() < BATCH + 2 * backend.len(), "{} bytes", batch.len());
        let text = String::from_utf8(batch.to_vec()).unwrap();
        ids.extend(text.lines().filter_map(|line| line.strip_prefix("id: ")?.parse::<u64>().ok()));
        first.get_or_insert(text);
    }
    let missed = 10_000 - ids.len();
    assert!(
        missed > 0
            && first.unwrap().starts_with(&format!("event: lagged\ndata: {{\"missed\":{missed}}}\n\n"))
    );
    assert_eq!(ids, (missed as u64 + 1..=10_000).collect::<Vec<_>>());
}
