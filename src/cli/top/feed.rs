//! The stream of events behind `top`, which reconnects after it is lost.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::sleep;

use super::instance_view::InstanceUpdate;
use crate::api::{DecisionsReply, Hello, HistoryReply, JournalEntry, JournalReply, PoolTrack, path};
use crate::cli::{Exit, Failure, print_on, terminal};
use crate::remote::{Error, Event, Remote};
use crate::sanitize;

/// Time without data after which the connection is closed; a status comes each second.
const IDLE_TIMEOUT: Duration = Duration::from_secs(8);
/// Pause before a reconnect.
const RECONNECT_DELAY: Duration = Duration::from_secs(1);
/// Earlier events that are shown at the start.
const EVENTS_BEFORE: u64 = 30;

/// The receiver was dropped.
struct ReceiverDropped;

/// Sends the updates of an instance until the receiver is dropped.
pub(super) async fn feed(remote: Remote, sender: mpsc::Sender<InstanceUpdate>) {
    let mut seen = None;
    loop {
        let why = match follow(&remote, &mut seen, &sender).await {
            Ok(Ok(())) => "the instance has stopped".to_owned(),
            Ok(Err(ReceiverDropped)) => return,
            Err(error) => error.why(),
        };
        if sender.send(InstanceUpdate::Lost(why)).await.is_err() {
            return;
        }
        sleep(RECONNECT_DELAY).await;
    }
}

/// Sends updates until the connection is lost.
async fn follow(
    remote: &Remote,
    seen: &mut Option<String>,
    sender: &mpsc::Sender<InstanceUpdate>,
) -> Result<Result<(), ReceiverDropped>, Error> {
    let mut events = remote.follow(path::EVENTS, seen.as_deref(), IDLE_TIMEOUT).await?;
    let mut updates = vec![InstanceUpdate::Connected];
    if seen.is_none() {
        updates.extend(history(remote).await);
    }
    loop {
        for update in updates {
            if sender.send(update).await.is_err() {
                return Ok(Err(ReceiverDropped));
            }
        }
        let Some(event) = events.next().await? else { return Ok(Ok(())) };
        updates = read(remote, &event)?.into_iter().collect();
        if event.kind == "hello" && seen.is_none() {
            let hello: Hello = remote.read(&event.data)?;
            *seen = Some(hello.latest.to_string());
            updates.extend(journal(remote, hello.latest).await);
        }
        *seen = event.id.or_else(|| seen.take());
    }
}

fn read(remote: &Remote, event: &Event) -> Result<Option<InstanceUpdate>, Error> {
    Ok(match &*event.kind {
        "status" => Some(InstanceUpdate::Status(Box::new(remote.read(&event.data)?))),
        "decisions" => Some(InstanceUpdate::Decisions(remote.read::<DecisionsReply>(&event.data)?.decisions)),
        "event" => Some(InstanceUpdate::Event(remote.read(&event.data)?)),
        _ => None,
    })
}

/// Earlier journal entries; empty if the instance is too old to have a journal.
async fn journal(remote: &Remote, latest: u64) -> Vec<InstanceUpdate> {
    let after = latest.saturating_sub(EVENTS_BEFORE);
    let journal =
        remote.get::<JournalReply>(&format!("{}?after={after}&limit={EVENTS_BEFORE}", path::JOURNAL)).await;
    let old = |entry: &JournalEntry| entry.id <= latest;
    journal
        .map(|journal| journal.events.into_iter().filter(old).map(InstanceUpdate::Event).collect())
        .unwrap_or_default()
}

/// Earlier rates; `None` if the instance is too old to record them.
async fn history(remote: &Remote) -> Option<InstanceUpdate> {
    let history: HistoryReply = remote.get(path::HISTORY).await.ok()?;
    let rates = |pool: PoolTrack| {
        pool.track.connections.into_iter().map(|new| new.unwrap_or_default() as f64).collect()
    };
    let pools = history.pools.into_iter();
    Some(InstanceUpdate::History(pools.map(|(name, pool)| (name.to_string(), rates(pool))).collect()))
}

/// Prints each status as a line until the reader closes standard output. Fails only if the first connect does.
pub(super) async fn as_lines(remote: &Remote) -> Result<Exit, Failure> {
    let mut events = remote.follow(path::EVENTS, None, IDLE_TIMEOUT).await?;
    loop {
        let why = loop {
            match events.next().await {
                Ok(Some(event)) if event.kind == "status" => {
                    if !print_on(&format!("{}\n", sanitize::json(&event.data)))? {
                        return Ok(Exit::Done);
                    }
                }
                Ok(Some(_)) => {}
                Ok(None) => break "the instance has stopped".to_owned(),
                Err(error) => break error.to_string(),
            }
        };
        eprintln!("({})", terminal::clean(&why));
        // Closed before the reconnect: the instance must not keep writing to a stream without a reader.
        drop(events);
        events = loop {
            sleep(RECONNECT_DELAY).await;
            if let Ok(events) = remote.follow(path::EVENTS, None, IDLE_TIMEOUT).await {
                break events;
            }
        };
    }
}
