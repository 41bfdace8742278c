//! The time limits of a connection in simulated time: each tick receives its time.

use std::num::NonZeroUsize;
use std::time::Instant;

use proptest::prelude::*;

use super::super::listener::Settings;
use super::super::table::TICK;
use super::*;
use crate::config::{SocketOptions, Timeouts};
use crate::discovery::Found;
use crate::domain::Plane;
use crate::domain::SocketAddress;
use crate::health::Pace;
use crate::pool::Handle;
use crate::telemetry::journal::Journal;

const NEVER: Timeouts = Timeouts { idle: None, half_closed: None, lifetime: None };
/// All limits in these tests expire earlier.
const LONG: Duration = Duration::from_secs(60);
/// One tick detects an expired limit and queries the kernel; a later tick ends the connection.
const LATE: Duration = Duration::from_millis(300);

/// What happens to a connection between two ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sees {
    Nothing,
    /// The relay moves a byte.
    Byte,
    /// The relay moves nothing, but the kernel has forwarded bytes.
    KernelMoves,
    /// The client sends a FIN.
    Fin,
}

pub(crate) fn backend(name: &str) -> Arc<Backend> {
    Arc::new(Backend::new(1, &Found::new(name.into(), "127.0.0.1:1".parse().unwrap())))
}

/// A connection, accepted at `accepted` and relayed to `backend` at once, with its pool's limits.
pub(crate) fn relayed_to(
    backend: &Arc<Backend>,
    conn: u64,
    accepted: Moment,
    config: config::Pool,
    options: SocketOptions,
) -> Progress {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _entered = runtime.enter();
    let pace = Arc::new(Pace::new(NonZeroUsize::MIN));
    let pool = Handle::start("p".into(), &config, &Arc::default(), &pace, &Journal::default()).pool.clone();
    let bind: SocketAddress = "unix:l".parse().unwrap();
    let listener = config::Listener { options, ..config::Listener::new(bind, "p".into(), &config) };
    let settings = Settings::new(&listener, Plane::User, |_| Some(Arc::clone(&pool))).unwrap();
    let shared = Arc::new(Listener::new("l".into(), settings));
    let progress = Progress::new(conn, Client::Unix, shared, accepted);
    let assignment = Assignment { pool: Some(pool.clone()), matched: None };
    progress.assignment.set(Arc::new(assignment)).unwrap();
    let relayed = Relayed {
        backend: Arc::clone(backend),
        flow: backend.flows.of(&"l".into()),
        settings: Arc::new(config),
        at: accepted,
        connect: Duration::ZERO.into(),
        client_keepalive: listener.options.keepalive.map(WholeSeconds::from),
        shadows: None,
    };
    progress.relay(relayed, backend.directives(), KeptDecision::default());
    progress
}

fn relayed(timeouts: Timeouts, options: SocketOptions, keepalive: Option<Duration>) -> Progress {
    let mut config = config::Pool::new(Vec::new());
    (config.timeouts, config.keepalive) = (timeouts, keepalive);
    relayed_to(&backend("b"), 1, Moment::now(), config, options)
}

fn limited(timeouts: Timeouts) -> Progress {
    relayed(timeouts, SocketOptions::NONE, None)
}

/// The request to close, if the connection has one.
pub(crate) fn close_of(progress: &Progress) -> Option<CloseRequest> {
    match progress.poll_closing(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(request) => Some(request),
        Poll::Pending => None,
    }
}

/// Advances the time until a close is requested; returns the connection's age and the request.
fn until_closed(
    progress: &Progress,
    mut sees: impl FnMut(Duration) -> Sees,
) -> Option<(Duration, CloseRequest)> {
    let mut age = Duration::ZERO;
    while age < LONG {
        age += TICK;
        let now = sees(age);
        progress.moved.set(now == Sees::Byte);
        let _ = progress.tick(progress.accepted + age);
        if progress.take_probe() == Some(false) && now == Sees::KernelMoves {
            progress.moved.set(true);
            let _ = progress.tick(progress.accepted + age);
        }
        if let Some(end) = close_of(progress) {
            return Some((age, end));
        }
    }
    None
}

fn closed_by(reason: CloseReason) -> CloseRequest {
    CloseRequest { reason, how: Ending::Close }
}

fn reset_by(reason: CloseReason) -> CloseRequest {
    CloseRequest { reason, how: Ending::Reset }
}

/// What a connection did, by the number of the tick.
#[derive(Debug, Default, PartialEq)]
struct Life {
    probes: Vec<(u32, bool)>,
    keepalive: Option<u32>,
    closed: Option<(u32, CloseRequest)>,
}

/// The life of a connection, and how many ticks visited it: each, or those that it asks for.
fn life(timeouts: Timeouts, keepalive: Option<Duration>, sees: &[Sees], each: bool) -> (Life, u32) {
    let (progress, visits) = (relayed(timeouts, SocketOptions::NONE, keepalive), Visits::default());
    visits.set(progress.key(), Visit::Next);
    let (mut life, mut visited) = (Life::default(), 0);
    for (tick, now) in (1u32..).zip(sees) {
        match now {
            Sees::Byte => progress.note_moved(&visits),
            Sees::Fin => {
                progress.first_closed.set(Some(CloseReason::ClientClosed));
                visits.set(progress.key(), Visit::Next);
            }
            Sees::Nothing | Sees::KernelMoves => {}
        }
        let at = progress.accepted + TICK * tick;
        if each || !visits.due(at).is_empty() {
            visited += 1;
            let _ = progress.tick(at);
            visits.set(progress.key(), progress.next_visit());
        }
        if life.keepalive.is_none() && progress.keepalive_due().is_some() {
            life.keepalive = Some(tick);
        }
        if let Some(first) = progress.take_probe() {
            life.probes.push((tick, first));
            if !first && *now == Sees::KernelMoves {
                progress.note_moved(&visits);
            }
        }
        if let Some(request) = close_of(&progress) {
            life.closed = Some((tick, request));
            break;
        }
    }
    (life, visited)
}

/// Whether `age` is at or slightly after `limit`.
fn is_in_time(age: Duration, limit: Duration) -> bool {
    limit <= age && age <= limit + LATE
}

fn limit() -> impl Strategy<Value = Option<Duration>> {
    proptest::option::of((1u64..20_000).prop_map(Duration::from_millis))
}

proptest! {
    #[test]
    fn visits_at_the_moments_that_it_asks_for_do_what_a_visit_at_each_tick_does(
        (idle, half_closed, lifetime, keepalive) in (limit(), limit(), limit(), limit()),
        sees in proptest::collection::vec(
            prop_oneof![30 => Just(Sees::Nothing), 3 => Just(Sees::KernelMoves), 2 => Just(Sees::Byte), 1 => Just(Sees::Fin)],
            0..400,
        ),
    ) {
        let timeouts = Timeouts { idle, half_closed, lifetime };
        let [each, asked] = [true, false].map(|each| life(timeouts, keepalive, &sees, each).0);
        prop_assert_eq!(each, asked);
    }

    #[test]
    fn a_half_closed_connection_ends_at_the_shorter_limit(half_closed in 1u64..20_000, idle in 1u64..20_000) {
        let [half, idle] = [half_closed, idle].map(Duration::from_millis);
        let progress = limited(Timeouts { idle: Some(idle), half_closed: Some(half), lifetime: None });
        progress.first_closed.set(Some(CloseReason::ClientClosed));
        let (age, end) = until_closed(&progress, |_| Sees::Nothing).unwrap();
        prop_assert!(is_in_time(age, half.min(idle)), "{age:?}");
        let reason = if half <= idle { CloseReason::HalfClosedTimeout } else { CloseReason::IdleTimeout };
        prop_assert_eq!(end, reset_by(reason));
    }

    #[test]
    fn a_connection_ends_with_its_lifetime_even_if_bytes_move(lifetime in 1u64..20_000, busy: bool) {
        let lifetime = Duration::from_millis(lifetime);
        let progress = limited(Timeouts { lifetime: Some(lifetime), ..NEVER });
        let (age, end) = until_closed(&progress, |_| if busy { Sees::Byte } else { Sees::Nothing }).unwrap();
        prop_assert!(lifetime <= age && age < lifetime + TICK, "{age:?}");
        prop_assert_eq!(end, reset_by(CloseReason::Lifetime));
    }
}

#[test]
fn nothing_ends_a_connection_without_limits_or_one_that_moves() {
    let limit = Some(Duration::from_secs(1));
    let both = Timeouts { idle: limit, half_closed: limit, lifetime: None };
    assert_eq!(until_closed(&limited(NEVER), |_| Sees::Nothing), None);
    assert_eq!(until_closed(&limited(both), |_| Sees::Byte), None);
    // Bytes in the kernel still move, on their way to a slow reader.
    assert_eq!(until_closed(&limited(both), |_| Sees::KernelMoves), None);
    // The limit for half-closed connections applies only to them.
    assert_eq!(until_closed(&limited(Timeouts { half_closed: limit, ..NEVER }), |_| Sees::Nothing), None);
}

#[test]
fn an_idle_connection_is_seldom_visited() {
    let idle = |timeouts, keepalive| life(timeouts, keepalive, &[Sees::Nothing; 599], false).1;
    // At first, and when it has lasted a second.
    assert_eq!(idle(NEVER, None), 2);
    // For each probe once more, until it is taken.
    assert_eq!(idle(NEVER, Some(Duration::from_secs(20))), 2 + 2 * 2);
    assert_eq!(idle(Timeouts { idle: Some(Duration::from_secs(80)), ..NEVER }, None), 2 + 2 * 2);
}

#[test]
fn a_backend_gets_its_keepalive_when_the_connection_has_lasted_a_second() {
    let keepalive = Some(Duration::from_secs(7));
    let progress = relayed(NEVER, SocketOptions::NONE, keepalive);
    assert_eq!(progress.keepalives(), [None, keepalive]);
    let at = |millis| {
        let _ = progress.tick(progress.accepted + Duration::from_millis(millis));
        progress.keepalive_due()
    };
    assert_eq!([at(0), at(999), at(1000), at(1100)], [None, None, keepalive, keepalive]);
}

#[test]
fn a_directive_is_reported_once_closes_at_its_time_and_yields_to_a_newer_one() {
    let progress = limited(NEVER);
    let backend = Arc::clone(&progress.relayed().unwrap().backend);
    let directive = CloseDirective {
        how: Ending::Reset,
        at: Instant::now(),
        over: Duration::ZERO,
        reason: CloseReason::BackendDown,
    };
    let request = CloseRequest { reason: directive.reason, how: directive.how };
    let at = |tenths: u32| progress.accepted + TICK * tenths;
    let reported = |tenths| progress.tick(at(tenths)).map(|(of, directive)| (of.key, directive));
    assert_eq!(reported(1), None);

    backend.set_directive(Some(directive));
    assert_eq!(reported(2), Some((backend.key, directive)));
    progress.schedule_close(at(10), request);
    assert_eq!(reported(8), None);
    // Withdrawn before its time.
    backend.set_directive(None);
    assert_eq!(reported(9), None);
    assert_eq!((reported(20), close_of(&progress)), (None, None));

    backend.set_directive(Some(directive));
    assert_eq!(reported(21), Some((backend.key, directive)));
    progress.schedule_close(at(30), request);
    assert_eq!((reported(29), close_of(&progress)), (None, None));
    assert_eq!((reported(30), close_of(&progress)), (None, Some(request)));
}

#[test]
fn a_close_for_a_backend_does_not_follow_the_connection_to_the_next_one() {
    for (reason, stays) in [(CloseReason::BackendDown, false), (CloseReason::DrainTimeout, true)] {
        let progress = limited(NEVER);
        let at = progress.accepted + TICK * 10;
        progress.schedule_close(at, reset_by(reason));
        let relayed = progress.leave_backend().unwrap();
        let directives = relayed.backend.directives();
        progress.relay(relayed, directives, KeptDecision::default());
        let _ = progress.tick(at);
        assert_eq!(close_of(&progress).is_some(), stays, "{reason:?}");
    }
}

#[test]
fn moved_bytes_are_counted_once() {
    let progress = limited(NEVER);
    let flow = Arc::clone(&progress.relayed().unwrap().flow);
    let counted = || (flow.read().bytes_in, flow.read().bytes_out);
    progress.bytes_in.set(3);
    progress.bytes_out.set(5);
    let _ = progress.tick(progress.accepted);
    assert_eq!(counted(), (3, 5));
    progress.bytes_in.set(10);
    progress.bytes_out.set(6);
    let _ = progress.tick(progress.accepted);
    assert_eq!(counted(), (10, 6));
}

#[test]
fn the_first_request_to_close_a_connection_counts() {
    let progress = limited(NEVER);
    progress.close(closed_by(CloseReason::Lifetime));
    progress.close(closed_by(CloseReason::IdleTimeout));
    assert_eq!(close_of(&progress), Some(closed_by(CloseReason::Lifetime)));
}
