//! The polling that the DNS sources share: when a round is due, and how its queries are bounded.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::resolve::Resolver;
use super::{Observation, Outcome, Sink};
use crate::config::Query;

/// The longest timeout of a query. Docker's server forwards unknown names to outside servers and waits up to 12 s for
/// them; a round must not hang on that.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(1);
/// The least interval between extra rounds, so that many failed connects do not cause as many queries.
const BETWEEN_ROUNDS: Duration = Duration::from_millis(100);

/// The limit of concurrent queries in a round.
pub(super) const AT_ONCE: usize = 16;

/// A source that is polled.
pub(super) trait PolledSource {
    /// How to poll it.
    fn query(&self) -> &Query;

    /// Polls once; it limits its time itself.
    fn round(&mut self, resolver: &Arc<Resolver>) -> impl Future<Output = Observation> + Send;
}

/// Polls every `query().every`, and on demand when notified, until dropped. The first round is at once.
pub(super) async fn watch(mut source: impl PolledSource, query_now: Arc<Notify>, sink: Sink) {
    // `None` until the system's configuration can be read.
    let mut resolver = None;
    loop {
        let began = Instant::now();
        let observation = match initialize(&mut resolver, source.query()) {
            Ok(resolver) => in_zone(source.round(&resolver).await, source.query()),
            Err(reason) => {
                Observation { outcome: Outcome::ServerFailure(reason.into()), owners: HashMap::new() }
            }
        };
        let concluded = observation.outcome.seen().is_some();
        sink(observation);
        // Up to a fifth early, so that pools do not poll in step, and never late.
        let early = rand::rng().random_range(0.8..=1.0);
        let regular = began + source.query().every.mul_f64(early);
        tokio::select! {
            () = sleep_until(regular.max(Instant::now() + Duration::from_millis(1))) => {}
            // A failing server gets regular rounds only: more queries would not help it.
            () = query_now.notified(), if concluded => sleep_until(regular.min(Instant::now() + BETWEEN_ROUNDS)).await,
        }
    }
}

/// What was observed, with the zone of the settings, as the records name none.
fn in_zone(mut observation: Observation, query: &Query) -> Observation {
    if let Outcome::Backends(found) = &mut observation.outcome {
        found.iter_mut().for_each(|one| one.zone.clone_from(&query.zone));
    }
    observation
}

fn initialize(resolver: &mut Option<Arc<Resolver>>, query: &Query) -> Result<Arc<Resolver>, String> {
    if let Some(resolver) = resolver {
        return Ok(Arc::clone(resolver));
    }
    let timeout = query.every.clamp(Duration::from_millis(100), LONGEST_TIMEOUT);
    Ok(Arc::clone(resolver.insert(Arc::new(Resolver::new(query.server, timeout)?))))
}

/// Queries each of `items` in order, [`AT_ONCE`] at a time, until `deadline`. Returns those that were queried, with the
/// answer or `None` if it was late.
pub(super) async fn query_each<I, O, F>(
    items: impl IntoIterator<Item = I>,
    query: impl Fn(&I) -> F,
    deadline: Instant,
) -> Vec<(I, Option<O>)>
where
    O: Send + 'static,
    F: Future<Output = O> + Send + 'static,
{
    let mut items = items.into_iter();
    let mut queried = Vec::new();
    let mut in_flight = JoinSet::new();
    loop {
        while in_flight.len() < AT_ONCE
            && let Some(item) = items.next()
        {
            let (index, answer) = (queried.len(), query(&item));
            in_flight.spawn(async move { (index, answer.await) });
            queried.push((item, None));
        }
        let Ok(Some(done)) = timeout_at(deadline, in_flight.join_next()).await else {
            return queried;
        };
        if let Ok((index, answer)) = done {
            queried[index].1 = Some(answer);
        }
    }
}
