//! The stream of events behind `top`, which reconnects after it is lost.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::sleep;

use super::world::InstanceNews;
use crate::api::{DecisionsReply, Hello, HistoryReply, JournalEntry, JournalReply, PoolTrack, path};
use crate::cli::{Exit, Failure, print_on, terminal};
use crate::remote::{Error, Event, Remote};
use crate::sanitize;

/// A status comes each second.
const SILENCE: Duration = Duration::from_secs(8);
/// Pause before another attempt to reach an instance that was lost.
const AGAIN: Duration = Duration::from_secs(1);
/// So many events from before are told.
const EVENTS_BEFORE: u64 = 30;

/// The receiver is gone.
struct Left;

/// Sends the news of an instance until the receiver is dropped.
pub(super) async fn feed(remote: Remote, told: mpsc::Sender<InstanceNews>) {
    let mut seen = None;
    loop {
        let why = match follow(&remote, &mut seen, &told).await {
            Ok(Ok(())) => "the instance has stopped".to_owned(),
            Ok(Err(Left)) => return,
            Err(error) => error.why(),
        };
        if told.send(InstanceNews::Lost(why)).await.is_err() {
            return;
        }
        sleep(AGAIN).await;
    }
}

/// The same until the instance is lost.
async fn follow(
    remote: &Remote,
    seen: &mut Option<String>,
    told: &mpsc::Sender<InstanceNews>,
) -> Result<Result<(), Left>, Error> {
    let mut events = remote.follow(path::EVENTS, seen.as_deref(), SILENCE).await?;
    let mut news = vec![InstanceNews::Connected];
    if seen.is_none() {
        news.extend(history(remote).await);
    }
    loop {
        for one in news {
            if told.send(one).await.is_err() {
                return Ok(Err(Left));
            }
        }
        let Some(event) = events.next().await? else { return Ok(Ok(())) };
        news = read(remote, &event)?.into_iter().collect();
        if event.kind == "hello" && seen.is_none() {
            let hello: Hello = remote.read(&event.data)?;
            *seen = Some(hello.latest.to_string());
            news.extend(journal(remote, hello.latest).await);
        }
        *seen = event.id.or_else(|| seen.take());
    }
}

fn read(remote: &Remote, event: &Event) -> Result<Option<InstanceNews>, Error> {
    Ok(match &*event.kind {
        "status" => Some(InstanceNews::Status(Box::new(remote.read(&event.data)?))),
        "decisions" => Some(InstanceNews::Decisions(remote.read::<DecisionsReply>(&event.data)?.decisions)),
        "event" => Some(InstanceNews::Event(remote.read(&event.data)?)),
        _ => None,
    })
}

/// What happened before; an older instance does not tell.
async fn journal(remote: &Remote, latest: u64) -> Vec<InstanceNews> {
    let after = latest.saturating_sub(EVENTS_BEFORE);
    let journal =
        remote.get::<JournalReply>(&format!("{}?after={after}&limit={EVENTS_BEFORE}", path::JOURNAL)).await;
    let old = |entry: &JournalEntry| entry.id <= latest;
    journal
        .map(|journal| journal.events.into_iter().filter(old).map(InstanceNews::Event).collect())
        .unwrap_or_default()
}

/// The rates before; an older instance does not tell.
async fn history(remote: &Remote) -> Option<InstanceNews> {
    let history: HistoryReply = remote.get(path::HISTORY).await.ok()?;
    let rates = |pool: PoolTrack| {
        pool.track.connections.into_iter().map(|new| new.unwrap_or_default() as f64).collect()
    };
    let pools = history.pools.into_iter();
    Some(InstanceNews::History(pools.map(|(name, pool)| (name.to_string(), rates(pool))).collect()))
}

/// Prints each status as a line, until the reader is gone. Only the first attempt has to succeed.
pub(super) async fn as_lines(remote: &Remote) -> Result<Exit, Failure> {
    let mut events = remote.follow(path::EVENTS, None, SILENCE).await?;
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
        // A silent instance may come back and write to this stream, which has no reader any more.
        drop(events);
        events = loop {
            sleep(AGAIN).await;
            if let Ok(events) = remote.follow(path::EVENTS, None, SILENCE).await {
                break events;
            }
        };
    }
}
