use super::super::admit::Limit;
use super::super::files::Files;
use super::*;
use crate::config::{Source, StaticBackend};
use crate::health::Pace;
use crate::pool::{Handle, NAMED};
use crate::telemetry::journal::Journal;
use crate::testing::in_time;
use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};

/// A snapshot of thousands of backends, each with one slot.
async fn thousands(balance: Algorithm) -> Arc<PoolSnapshot> {
    let one = |port: u16| StaticBackend::new(SocketAddr::from(([10, 0, 0, 1], port)).into());
    let mut config = config::Pool::new(vec![Source::Static((1..=3000).map(one).collect())]);
    config.balance = balance;
    config.limits.connections = NonZeroU32::new(1);
    let handle = Handle::start(
        "p".into(),
        &config,
        &Arc::default(),
        &Arc::new(Pace::new(NonZeroUsize::MIN)),
        &Journal::default(),
    );
    in_time("the first list of backends", handle.pool.when_settled()).await;
    handle.pool.snapshot()
}

#[test]
fn one_choice_and_one_scan_find_that_thousands_of_backends_are_full() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for algorithm in Algorithm::ALL {
        let snapshot = runtime.block_on(thousands(algorithm));
        let mut leases: Vec<_> = snapshot.backends().map(|backend| backend.lease().unwrap()).collect();
        assert_eq!(leases.len(), 3000);
        let tried = Vec::from_iter(snapshot.backends().map(|backend| backend.key).take(2));
        let choices = Cell::new(0);
        let look = |tried: &[u64]| {
            choices.set(0);
            let random = || {
                choices.set(choices.get() + 1);
                choices.get()
            };
            let (full, taken) = take_lease(&snapshot, tried, 7, Duration::ZERO, random);
            (full.count, full.named.len(), taken.map(|(chosen, _)| chosen.backend.key))
        };
        assert_eq!(look(&[]), (3000, NAMED, None), "{algorithm:?}");
        assert_eq!(choices.get(), 1, "{algorithm:?}");
        assert_eq!(look(&tried), (2998, NAMED, None), "{algorithm:?}");
        assert_eq!(choices.get(), 1, "{algorithm:?}");
        leases.pop();
        let last = snapshot.backends().last().map(|backend| backend.key);
        assert_eq!(look(&tried).2, last, "{algorithm:?}");
    }
}

#[test]
fn an_empty_pool_rejects_a_client_at_once_even_if_others_wait() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let handle = Handle::start(
            "p".into(),
            &config::Pool::new(Vec::new()),
            &Arc::default(),
            &Arc::new(Pace::new(NonZeroUsize::MIN)),
            &Journal::default(),
        );
        let pool = &handle.pool;
        let _waiting = pool.queue.join(1).unwrap();
        let (client, _far) = tokio::net::UnixStream::pair().unwrap();
        let caller = Caller {
            conn: 1,
            accepted: Moment::now(),
            pool,
            peer: Client::Unix,
            stream: &Stream::Unix(client),
            has_sent: false,
            header: None,
            hello: None,
            unanswered: &[],
            lease: &Cell::new(None),
            context: &WorkerContext::new(
                0,
                1,
                0,
                Arc::new(Limit::new(None, &Files::new(1024, 256, 1))),
                Arc::default(),
            ),
        };
        assert_eq!(in_time("a refusal", connect(&caller)).await.unwrap_err().reason, CloseReason::NoBackend);
    });
}
