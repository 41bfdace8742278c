use super::*;
use crate::config::{self, Listener as ListenerConfig, Source, StaticBackend};
use crate::domain::{Ending, Plane};
use crate::health::Pace;
use crate::kernel_plane::forwarded::accepts;
use crate::kernel_plane::marks::{BACKEND_CLOSED, CLIENT_CLOSED};
use crate::pool::backend::CloseDirective;
use crate::pool::{Backend, Handle, Pool};
use crate::proxy::listener::{Listener, Settings};
use crate::telemetry::journal::Journal;
use std::num::NonZeroUsize;

const CLIENT: &str = "10.9.0.10:40000";
const LISTENER: &str = "10.9.0.100:80";
const BACKEND: &str = "10.8.0.21:5000";

/// The connections of a pool with one backend.
struct Scene {
    connections: Connections,
    listener: Arc<Listener>,
    pool: Arc<Pool>,
    backend: Arc<Backend>,
    began: Instant,
    _handle: Handle,
}

impl Scene {
    async fn new() -> Self {
        let source = Source::Static(vec![StaticBackend::new(BACKEND.parse().unwrap())]);
        let pace = Arc::new(Pace::new(NonZeroUsize::MIN));
        let config = config::Pool::new(vec![source]);
        let handle = Handle::start("p".into(), &config, &Arc::default(), &pace, &Journal::default());
        let pool = Arc::clone(&handle.pool);
        pool.when_settled().await;
        let config = ListenerConfig::new(LISTENER.parse().unwrap(), "p".into(), &config);
        let settings = Settings::new(&config, Plane::Kernel, |_| Some(Arc::clone(&pool))).unwrap();
        let backend = Arc::clone(pool.snapshot().backends().next().unwrap());
        Self {
            connections: Connections::new(Arc::default(), 3, 2),
            listener: Arc::new(Listener::new("l".into(), settings)),
            pool,
            backend,
            began: Instant::now(),
            _handle: handle,
        }
    }

    fn target(&self) -> Target {
        Target {
            listener: Arc::clone(&self.listener),
            pool: Arc::clone(&self.pool),
            backend: Arc::clone(&self.backend),
            snapshot: self.pool.snapshot(),
            can_continue: false,
        }
    }

    fn at(&self, millis: u64) -> Instant {
        self.began + Duration::from_millis(millis)
    }

    fn follow(&mut self, entry: ConntrackEntry, millis: u64) {
        let (target, at) = (self.target(), self.at(millis));
        self.connections.follow(&entry, at, |_| Some(target));
    }

    fn gone(&mut self, entry: ConntrackEntry, millis: u64) {
        let (target, at) = (self.target(), self.at(millis));
        self.connections.gone(&entry, at, |_| Some(target));
    }

    /// The records of ends, the last one first: number, reason, bytes and age in milliseconds.
    fn ended(&self) -> Vec<(u64, CloseReason, [u64; 2], u128)> {
        let records = crate::telemetry::records::Records::gather(
            self.connections.shared.records.ended(),
            usize::MAX,
            |_| true,
        );
        let one = |record: &ConnectionRecord| {
            let reason = record.end().unwrap().reason;
            (record.conn, reason, [record.bytes_in, record.bytes_out], record.age.as_millis())
        };
        records.iter().map(one).collect()
    }

    /// The open and the ended connections, as the counters of the backend have them, and its load.
    fn counted(&self) -> (u64, u64, u32) {
        let flow = self.backend.flows.of(&self.listener.name).read();
        (flow.active, flow.total() - flow.active, self.backend.load.open())
    }
}

/// An entry of the connection with that number that the backend has answered.
fn entry(id: u32, mark: u32) -> ConntrackEntry {
    let client = format!("10.9.0.10:{}", 40_000 + id);
    let tuple = |source: &str, destination: &str| Tuple {
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
    };
    ConntrackEntry {
        original: tuple(&client, LISTENER),
        reply: tuple(BACKEND, &client),
        mark: OURS | mark,
        answered: Some(true),
        state: Some(TcpState::Established),
        bytes: None,
    }
}

/// The same at its end.
fn over(id: u32, mark: u32) -> ConntrackEntry {
    ConntrackEntry { state: Some(TcpState::TimeWait), bytes: Some([100, 2000]), ..entry(id, mark) }
}

#[tokio::test]
async fn a_connection_is_counted_from_its_answer_to_the_end_of_both_sides() {
    let mut scene = Scene::new().await;
    scene.follow(ConntrackEntry { answered: Some(false), ..entry(7, 0) }, 0);
    assert_eq!(scene.counted(), (0, 0, 0), "it is not answered");
    scene.follow(entry(7, 0), 10);
    scene.follow(entry(7, 0), 11);
    assert_eq!((scene.counted(), scene.listener.active()), ((1, 0, 1), 1));
    scene.follow(entry(7, CLIENT_CLOSED), 500);
    let look = scene.connections.next_look().unwrap();
    assert_eq!(look, scene.at(500) + FIRST_LOOK);
    assert!(scene.connections.take_ending(scene.at(500)).is_empty(), "not yet");
    // The backend still sends: the next looks come later and later.
    assert_eq!(scene.connections.take_ending(look), [entry(7, 0).original]);
    scene.connections.look_at(&entry(7, CLIENT_CLOSED));
    assert_eq!(scene.connections.next_look(), Some(look + 2 * FIRST_LOOK));
    assert_eq!(scene.counted(), (1, 0, 1));
    scene.connections.take_ending(look + 2 * FIRST_LOOK);
    scene.connections.look_at(&over(7, CLIENT_CLOSED));
    assert_eq!((scene.counted(), scene.listener.active()), ((0, 1, 0), 0));
    assert_eq!(scene.ended(), [(3, CloseReason::ClientClosed, [100, 2000], 490)]);
    // The kernel reports and removes its entry later.
    scene.follow(over(7, CLIENT_CLOSED), 600);
    scene.gone(over(7, CLIENT_CLOSED), 10_000);
    assert_eq!((scene.counted(), scene.ended().len()), ((0, 1, 0), 1));
    // Another connection may get the number of the entry.
    scene.follow(entry(7, 0), 11_000);
    assert_eq!((scene.counted(), scene.listener.accepted()), ((1, 1, 1), 2));
}

#[tokio::test]
async fn the_mark_tells_who_has_ended_a_connection() {
    let mut scene = Scene::new().await;
    for (id, (mark, expected)) in [
        (CLIENT_CLOSED, CloseReason::ClientClosed),
        (BACKEND_CLOSED, CloseReason::BackendClosed),
        (CLIENT_CLOSED | BACKEND_RESET, CloseReason::BackendReset),
        (CLIENT_RESET, CloseReason::ClientReset),
        // Its first packet came from the backend: the directions are the other way round.
        (REVERSED | CLIENT_CLOSED, CloseReason::BackendClosed),
        (REVERSED | BACKEND_RESET, CloseReason::ClientReset),
        // Its entry has expired.
        (0, CloseReason::IdleTimeout),
    ]
    .into_iter()
    .enumerate()
    {
        let (id, reversed) = (id as u32, mark & REVERSED != 0);
        let turned = |one: ConntrackEntry| match reversed {
            true => ConntrackEntry { original: one.reply, reply: one.original, ..one },
            false => one,
        };
        scene.follow(turned(entry(id, mark & REVERSED)), 0);
        scene.follow(turned(entry(id, mark)), 1);
        scene.gone(turned(over(id, mark)), 2);
        let (_, reason, bytes, _) = scene.ended()[0];
        let expected_bytes = if reversed { [2000, 100] } else { [100, 2000] };
        assert_eq!((reason, bytes), (expected, expected_bytes), "{mark:#x}");
    }
    let reversed =
        ConntrackEntry { original: entry(0, 0).reply, reply: entry(0, 0).original, ..entry(0, REVERSED) };
    let Ends { client, listener, backend } = Ends::of(&reversed);
    assert_eq!([client, listener, backend].map(|end| end.to_string()), [CLIENT, LISTENER, BACKEND]);
}

#[tokio::test]
async fn a_connection_without_an_answer_fails_once() {
    let mut scene = Scene::new().await;
    for bytes in [[60, 0], [60, 40]] {
        let unanswered = ConntrackEntry { answered: Some(false), bytes: Some(bytes), ..entry(9, 0) };
        scene.gone(unanswered, 1000);
        assert_eq!(scene.ended()[0].1, CloseReason::ConnectFailed);
    }
    assert_eq!((scene.counted(), scene.listener.accepted()), ((0, 2, 0), 2));
    // The late end of a connection that was answered is none of these.
    scene.gone(over(9, 0), 2000);
    assert_eq!(scene.ended().len(), 2);
    let failures: Vec<_> = scene.backend.connect_failures().filter(|(_, n)| *n > 0).collect();
    assert_eq!(failures, [(ConnectError::Refused, 1), (ConnectError::Timeout, 1)]);
}

#[tokio::test]
async fn ends_that_do_not_know_that_the_kernel_has_forgotten_their_connection_are_told() {
    let mut scene = Scene::new().await;
    scene.follow(entry(7, 0), 10);
    scene.gone(entry(7, 0), 5000);
    assert_eq!(scene.connections.take_expired(), [[entry(7, 0).original, entry(7, 0).reply]]);
    assert!(scene.connections.take_expired().is_empty(), "once");
    // One that goes on without its entry.
    let target = Target { can_continue: true, ..scene.target() };
    scene.connections.follow(&entry(11, 0), scene.at(10), |_| Some(target));
    scene.gone(entry(11, 0), 5000);
    assert!(scene.connections.take_expired().is_empty());
    // A time limit after the end of one side; a client that uses its port again at once.
    for (id, after, told) in [(9, 2000, true), (10, 5, false)] {
        scene.follow(entry(id, 0), 10);
        scene.follow(entry(id, CLIENT_CLOSED), 20);
        scene.gone(entry(id, CLIENT_CLOSED), 20 + after);
        assert_eq!(!scene.connections.take_expired().is_empty(), told);
    }
    // Both sides have ended this one, and its entry expires.
    scene.follow(entry(8, 0), 10);
    scene.follow(entry(8, CLIENT_CLOSED), 20);
    scene.connections.look_at(&over(8, CLIENT_CLOSED));
    scene.gone(over(8, CLIENT_CLOSED), 9000);
    assert!(scene.connections.take_expired().is_empty());
}

#[tokio::test]
async fn ends_that_were_lost_are_found_by_comparison_with_the_table() {
    let mut scene = Scene::new().await;
    [1, 2, 3].into_iter().for_each(|id| scene.follow(entry(id, 0), 0));
    scene.connections.keep(|original| *original == entry(2, 0).original, scene.at(5));
    assert_eq!((scene.counted(), scene.ended().len()), ((1, 2, 1), 2));
}

#[tokio::test]
async fn a_directive_of_the_backend_ends_its_connections_over_time() {
    let mut scene = Scene::new().await;
    (0..4).for_each(|id| scene.follow(entry(id, 0), 0));
    let (at, over) = (scene.at(1000), Duration::from_secs(4));
    let directive = CloseDirective { how: Ending::Reset, at, over, reason: CloseReason::BackendDown };
    scene.backend.set_directive(Some(directive));
    scene.connections.schedule(scene.at(100));
    let due = |scene: &mut Scene, millis| scene.connections.due(scene.at(millis)).len();
    assert_eq!([1000, 2000, 2500, 4000, 5000].map(|millis| due(&mut scene, millis)), [0, 1, 0, 2, 1]);
    (0..4).for_each(|id| scene.gone(self::over(id, 0), 5000));
    assert!(scene.ended().iter().all(|(_, reason, ..)| *reason == CloseReason::BackendDown));
}

#[tokio::test]
async fn entries_of_others_are_none_of_ours() {
    let mut scene = Scene::new().await;
    scene.follow(ConntrackEntry { mark: 0, ..entry(1, 0) }, 0);
    let at = scene.at(0);
    scene.connections.follow(&entry(2, 0), at, |_| None);
    scene.connections.gone(&entry(2, 0), at, |_| None);
    assert_eq!((scene.connections.len(), scene.ended().len()), (0, 0));
}

#[test]
fn an_unspecified_address_accepts_each_address_of_its_family() {
    let accepts = |bound: &str, to: &str| accepts(&bound.parse().unwrap(), to.parse().unwrap());
    assert!(accepts("0.0.0.0:80", "192.0.2.1:80") && accepts("192.0.2.1:80", "192.0.2.1:80"));
    assert!(accepts("[::]:80", "192.0.2.1:80") && accepts("[::]:80", "[2001:db8::1]:80"));
    assert!(!accepts("0.0.0.0:80", "[2001:db8::1]:80") && !accepts("0.0.0.0:80", "192.0.2.1:81"));
    assert!(!accepts("192.0.2.1:80", "192.0.2.2:80") && !accepts("unix:/a", "192.0.2.2:80"));
}

#[tokio::test]
async fn a_backend_that_resets_a_connection_of_another_machine_has_not_failed() {
    let mut scene = Scene::new().await;
    let reset = |id, mark| ConntrackEntry {
        answered: Some(false),
        state: Some(TcpState::Reset),
        bytes: Some([52, 40]),
        ..entry(id, mark)
    };
    scene.gone(reset(1, CONTINUED), 5);
    // The packets were the backend's, and the reset the client's.
    let from_backend = reset(2, REVERSED);
    let (original, reply) = (from_backend.reply, from_backend.original);
    scene.gone(ConntrackEntry { original, reply, ..from_backend }, 5);
    // A late packet without an answer.
    scene.gone(ConntrackEntry { bytes: Some([52, 0]), ..reset(3, CONTINUED) }, 5);
    let reasons: Vec<_> = scene.ended().iter().map(|(_, reason, bytes, _)| (*reason, *bytes)).collect();
    assert_eq!(reasons, [(CloseReason::ClientReset, [40, 52]), (CloseReason::BackendReset, [52, 40])]);
    let backend = Arc::clone(&scene.backend);
    let failures = || backend.connect_failures().map(|(_, n)| n).sum::<u64>();
    assert_eq!((failures(), scene.counted()), (0, (0, 2, 0)));
    // A first packet that was refused is a failure.
    scene.gone(reset(4, 0), 5);
    assert_eq!((scene.ended()[0].1, failures()), (CloseReason::ConnectFailed, 1));
}
