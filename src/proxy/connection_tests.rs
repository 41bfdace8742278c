use super::super::admit::Limit;
use super::super::files::Files;
use super::*;
use crate::balance::PickArgs;
use crate::config::{self, Algorithm, Source, StaticBackend};
use crate::domain::{Excluded, Plane, SocketAddress};
use crate::health::Pace;
use crate::pool::{Backend, Handle};
use crate::telemetry::journal::Journal;
use crate::testing::in_time;
use std::num::NonZeroUsize;
use std::pin::pin;
use std::sync::OnceLock;
use std::task::{Context, Wake, Waker};
use std::time::Duration;

/// Reads the counts of a backend's connections when it is woken.
struct Reader {
    backend: Arc<Backend>,
    seen: OnceLock<(u32, Vec<u64>)>,
}

impl Wake for Reader {
    fn wake(self: Arc<Self>) {
        let open = self.backend.flows.read().iter().map(|(_, flow)| flow.active).collect();
        let _ = self.seen.set((self.backend.load.open(), open));
    }
}

#[test]
fn the_end_of_a_connection_is_counted_before_its_lease_is_dropped() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let static_list = Source::Static(vec![StaticBackend::new("127.0.0.1:1".parse().unwrap())]);
        let pace = Arc::new(Pace::new(NonZeroUsize::MIN));
        let handle = Handle::start(
            "p".into(),
            &config::Pool::new(vec![static_list]),
            &Arc::default(),
            &pace,
            &Journal::default(),
        );
        let pool = Arc::clone(&handle.pool);
        in_time("the first list of backends", pool.when_settled()).await;
        let snapshot = pool.snapshot();
        let chosen = snapshot.choose(&PickArgs::default()).unwrap().clone();
        let reader = Arc::new(Reader { backend: Arc::clone(&chosen.backend), seen: OnceLock::new() });

        let bind: SocketAddress = "unix:l".parse().unwrap();
        let settings =
            Settings::new(&config::Listener::new(bind, "p".into(), &pool.settings()), Plane::User, |_| {
                Some(Arc::clone(&pool))
            })
            .unwrap();
        let context = Rc::new(WorkerContext::new(
            0,
            1,
            0,
            Arc::new(Limit::new(None, &Files::new(1024, 256, 1))),
            Arc::default(),
        ));
        let (client, _far) = tokio::net::UnixStream::pair().unwrap();
        let (stream, _server) = tokio::net::UnixStream::pair().unwrap();
        let listener = Arc::new(Listener::new("l".into(), settings));
        let connection = Connection::new(context, listener, Stream::Unix(client), Client::Unix, None);
        // Memory of every idle connection; what precedes the relay is freed when that begins.
        assert!(size_of_val(&connection.live()) <= 304, "{}", size_of_val(&connection.live()));
        connection.lease.set(chosen.backend.lease());
        let route = Route {
            source: None,
            proxy: None,
            proxy_header: false,
            cancel_request: false,
            after: Duration::ZERO,
            algorithm: Algorithm::RoundRobin,
            excluded: Excluded::default(),
            attempts: 1,
            queued: None,
            failed: Vec::new(),
            candidates: snapshot.candidates(Some(&chosen.backend)),
            tier: snapshot.kind(),
            home: None,
        };
        let settings = pool.settings();
        let stream = Stream::Unix(stream);
        let (at, took) = (Moment::now(), Duration::ZERO);
        connection.routed(&pool, Connected { chosen, stream, shadows: None, settings, at, took, route });

        // A waiting client is woken when a slot is free.
        let ticket = pool.queue.join(1).unwrap();
        in_time("its turn", ticket.turn()).await;
        let mut turn = pin!(ticket.turn());
        let waker = Waker::from(Arc::clone(&reader));
        assert!(turn.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        drop(connection);
        assert_eq!(reader.seen.get(), Some(&(0, vec![0])));
    });
}
