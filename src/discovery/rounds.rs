//! The asking that the sources of DNS share: when a round is due, and how its smaller questions are bounded.

use std::collections::BTreeMap;
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

/// A question unanswered after this long has failed. Docker's server itself waits up to 12 s for the outside
/// servers that it passes unknown names on to; no round of ours may hang on that.
const LONGEST_QUESTION: Duration = Duration::from_secs(1);
/// Rounds out of turn are at least this far apart, so that a storm of failed connects is not a storm of queries.
const BETWEEN_ROUNDS: Duration = Duration::from_millis(100);

/// Questions about single items in flight at once.
pub(super) const AT_ONCE: usize = 16;

/// A source that is asked round after round.
pub(super) trait Rounds {
    /// How it is asked.
    fn query(&self) -> &Query;

    /// Asks once; bounded in time by itself.
    fn round(&mut self, resolver: &Arc<Resolver>) -> impl Future<Output = Observation> + Send;
}

/// Asks every `query().every`, and out of turn when notified, for ever. The first round is at once.
pub(super) async fn watch(mut source: impl Rounds, ask_now: Arc<Notify>, sink: Sink) {
    // `None` until the system's configuration could be read.
    let mut resolver = None;
    loop {
        let began = Instant::now();
        let observation = match ready(&mut resolver, source.query()) {
            Ok(resolver) => source.round(&resolver).await,
            Err(reason) => {
                Observation { outcome: Outcome::ServerFailure(reason.into()), owners: BTreeMap::new() }
            }
        };
        let concluded = observation.outcome.seen().is_some();
        sink(observation);
        // Up to a fifth early, so that pools do not ask in step, and never late.
        let early = rand::rng().random_range(0.8..=1.0);
        let regular = began + source.query().every.mul_f64(early);
        tokio::select! {
            () = sleep_until(regular.max(Instant::now() + Duration::from_millis(1))) => {}
            // A server that fails is left to the regular rounds: asking more often would not help it.
            () = ask_now.notified(), if concluded => sleep_until(regular.min(Instant::now() + BETWEEN_ROUNDS)).await,
        }
    }
}

fn ready(resolver: &mut Option<Arc<Resolver>>, query: &Query) -> Result<Arc<Resolver>, String> {
    if let Some(resolver) = resolver {
        return Ok(Arc::clone(resolver));
    }
    let timeout = query.every.clamp(Duration::from_millis(100), LONGEST_QUESTION);
    Ok(Arc::clone(resolver.insert(Arc::new(Resolver::new(query.server, timeout)?))))
}

/// Asks about each of `items` in turn, a few at once, until `deadline`. Those that were asked about by then come back
/// with their answer, or with `None` if it was not there in time.
pub(super) async fn ask_each<I, O, F>(
    items: impl IntoIterator<Item = I>,
    ask: impl Fn(&I) -> F,
    deadline: Instant,
) -> Vec<(I, Option<O>)>
where
    O: Send + 'static,
    F: Future<Output = O> + Send + 'static,
{
    let mut items = items.into_iter();
    let mut asked = Vec::new();
    let mut under_way = JoinSet::new();
    loop {
        while under_way.len() < AT_ONCE
            && let Some(item) = items.next()
        {
            let (index, question) = (asked.len(), ask(&item));
            under_way.spawn(async move { (index, question.await) });
            asked.push((item, None));
        }
        let Ok(Some(done)) = timeout_at(deadline, under_way.join_next()).await else {
            return asked;
        };
        if let Ok((index, answer)) = done {
            asked[index].1 = Some(answer);
        }
    }
}
