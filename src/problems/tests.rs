//! Each kind of problem with pictures made by hand: it begins with its cause, keeps its beginning, and ends with its cause.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::SystemTime;

use super::picture::{BackendPicture, ListenerPicture, PoolPicture};
use super::*;
use crate::domain::{BackendState, Cause, CloseReason, ProblemKind, Resolution, ServingTier, Trouble};
use crate::pool::{LocalZone, SlowBackend, SourceStatus};

/// A process with a listener `web` and pools, each with the states of its backends: `a up, b down`.
pub(super) fn picture(pools: &[(&str, &str)]) -> Picture {
    let at = Instant::now();
    let backend = |text: &str| {
        let (name, state) = text.split_once(' ').unwrap();
        let state = BackendState::ALL.into_iter().find(|known| known.name() == state).unwrap();
        BackendPicture {
            name: name.into(),
            address: None,
            state,
            since: at,
            cause: Cause::from(if state == BackendState::Up { "" } else { "refused" }),
            weight: 1,
            open: 0,
            local_check_error: None,
            slow: None,
        }
    };
    let pool = |(name, backends): &(&str, &str)| {
        let backends: Vec<_> = backends.split(", ").filter(|text| !text.is_empty()).map(backend).collect();
        let eligible = backends.iter().filter(|one| one.state == BackendState::Up).count();
        let pool = PoolPicture {
            used: true,
            settled: true,
            eligible,
            tier: if eligible == 0 { ServingTier::None } else { ServingTier::Primaries },
            local_zone: None,
            backends,
            sources: Vec::new(),
            queue: 0,
            queue_room: 10,
            source_addresses: 1,
            replicas_trouble: None,
        };
        (Arc::from(*name), pool)
    };
    Picture {
        at,
        clock: SystemTime::UNIX_EPOCH + Duration::from_secs(10_000),
        pools: pools.iter().map(pool).collect(),
        listeners: vec![ListenerPicture {
            name: "web".into(),
            addresses: Vec::new(),
            open: 1,
            limit: None,
            kernel_obstacle: None,
            forwarded_without_idle_timeout: false,
        }],
        connections: [1, 1000],
        log_failures: Vec::new(),
        state_failure: None,
        reload_rejected: None,
        counters: BTreeMap::new(),
    }
}

/// A process that is looked at every second.
struct WatchedProcess {
    watch: ProblemWatch,
    picture: Picture,
    began: Instant,
}

impl WatchedProcess {
    /// The process at its first look.
    fn new(pools: &[(&str, &str)]) -> Self {
        let picture = picture(pools);
        let mut process = Self { watch: ProblemWatch::default(), began: picture.at, picture };
        process.look();
        process
    }

    fn look(&mut self) -> Vec<ProblemInfo> {
        self.watch.look(self.picture.clone(), None);
        self.watch.present.to_vec()
    }

    /// Looks again after some seconds, with another picture.
    fn after(&mut self, seconds: u64, change: impl FnOnce(&mut Picture)) -> Vec<ProblemInfo> {
        let time = Duration::from_secs(seconds);
        self.picture.at += time;
        self.picture.clock += time;
        change(&mut self.picture);
        self.look()
    }

    fn seconds(&self) -> f64 {
        10_000.0 + (self.picture.at - self.began).as_secs_f64()
    }
}

fn kinds(problems: &[ProblemInfo]) -> Vec<&str> {
    problems.iter().map(|problem| &*problem.kind).collect()
}

fn sentence(problems: &[ProblemInfo]) -> &str {
    assert_eq!(problems.len(), 1, "{problems:#?}");
    &problems[0].sentence
}

/// Replaces the states of the backends of a pool.
fn states<'a>(name: &'a str, backends: &'a str, tier: ServingTier) -> impl FnOnce(&mut Picture) + 'a {
    move |picture: &mut Picture| {
        let mut pool = self::picture(&[(name, backends)]).pools.remove(name).unwrap();
        pool.tier = tier;
        pool.backends.iter_mut().for_each(|backend| backend.since = picture.at);
        picture.pools.insert(name.into(), pool);
    }
}

fn count(picture: &mut Picture, counter: Counter, n: u64) {
    *picture.counters.entry(counter).or_default() += n;
}

#[test]
fn a_healthy_process_has_no_problems() {
    let mut process =
        WatchedProcess::new(&[("web", "a up, b up, c draining"), ("api", "x up, y maintenance")]);
    assert_eq!(process.after(1, |_| ()), []);
}

#[test]
fn backends_that_are_down_are_one_problem_that_begins_with_the_first() {
    let mut process = WatchedProcess::new(&[("web", "a up, b up, c up, d up, e up")]);
    let found = process.after(1, states("web", "a down, b up, c up, d up, e up", ServingTier::Primaries));
    assert_eq!(sentence(&found), "4 of 5 backends of pool web are eligible: a is down (refused)");
    let since = process.seconds();
    assert_eq!((found[0].since.0, &*found[0].kind), (since, "backends_down"));
    let found =
        process.after(1, states("web", "a down, b ejected, c up, d up, e up", ServingTier::Primaries));
    assert_eq!(
        sentence(&found),
        "3 of 5 backends of pool web are eligible: a is down (refused), b is ejected (refused)"
    );
    assert_eq!(found[0].since.0, since);
    let found = process.after(1, states("web", "a up, b ejected, c up, d up, e up", ServingTier::Primaries));
    assert_eq!(found[0].since.0, since, "it lasts as long as one is down");
    assert_eq!(process.after(1, states("web", "a up, b up, c up, d up, e up", ServingTier::Primaries)), []);
    let found = process.after(9, states("web", "a up, b down, c up, d up, e up", ServingTier::Primaries));
    assert_eq!(found[0].since.0, process.seconds(), "another one");
}

#[test]
fn fewer_than_half_of_the_backends_is_another_problem() {
    let mut process = WatchedProcess::new(&[("web", "a up, b down, c down, d maintenance")]);
    let found = process.after(1, |_| ());
    assert_eq!(kinds(&found), ["few_backends"]);
    assert_eq!(sentence(&found), "only 1 of 3 backends of pool web are eligible: b and c are down (refused)");
    assert!(found[0].hint.contains("pointsman why web/b"), "{}", found[0].hint);
    let found = process.after(1, states("web", "a up, b down", ServingTier::Primaries));
    assert_eq!(kinds(&found), ["backends_down"], "one of two is half");
}

#[test]
fn a_backend_that_an_operator_took_out_is_named_beside_one_that_is_down() {
    let mut process = WatchedProcess::new(&[("web", "a up, b down, c draining")]);
    let found = process.after(1, |_| ());
    let expected = "1 of 3 backends of pool web is eligible: b is down (refused), c is draining (refused)";
    assert_eq!(sentence(&found), expected);
}

#[test]
fn connections_without_an_answer_are_a_problem_unless_most_end_so() {
    let mut process = WatchedProcess::new(&[("web", "a up")]);
    let ended = |served, unanswered| {
        move |picture: &mut Picture| {
            count(picture, Counter::Served("web".into()), served);
            count(picture, Counter::WithoutAnswer("web".into()), unanswered);
        }
    };
    let found = process.after(1, ended(100, 21));
    let expected = "21 connections of pool web ended without an answer within 5m (21.0 % of its connections): closed \
                    after the client had sent bytes, and before any came back";
    assert_eq!((sentence(&found), &*found[0].kind), (expected, "without_answer"));
    assert_eq!(process.after(1, ended(50_000, 0)), [], "few of many");
    assert_eq!(process.after(400, ended(100, 90)), [], "its servers do not answer");
}

#[test]
fn a_backend_that_answers_much_later_than_the_others_is_a_problem() {
    let mut process = WatchedProcess::new(&[("web", "a up, b up, c up")]);
    let slow = |median| {
        let slow =
            SlowBackend { median: Duration::from_millis(median), others: Duration::from_micros(11_400) };
        move |picture: &mut Picture| picture.pools.get_mut("web").unwrap().backends[1].slow = Some(slow)
    };
    let found = process.after(1, slow(275));
    let expected = "b of pool web answers much later than the others: half of the first bytes of b take longer than \
                    275 ms, 11 ms with the others";
    assert_eq!((sentence(&found), &*found[0].kind), (expected, "slow_backends"));
    assert!(found[0].hint.contains("`pointsman drain web/b`"), "{}", found[0].hint);
    let quick = |picture: &mut Picture| picture.pools.get_mut("web").unwrap().backends[1].slow = None;
    assert_eq!(process.after(1, quick), []);
}

#[test]
fn a_pool_without_an_eligible_backend_is_critical_if_a_listener_uses_it() {
    let mut process = WatchedProcess::new(&[("web", "a up")]);
    let found = process.after(1, states("web", "a down, b maintenance", ServingTier::None));
    assert_eq!(
        sentence(&found),
        "pool web has no eligible backend: a is down (refused), b is in maintenance (refused)"
    );
    let since = process.seconds();
    assert!(found[0].is_critical() && found[0].since.0 == since);
    let found = process.after(5, |picture| picture.pools.get_mut("web").unwrap().used = false);
    assert!(
        !found[0].is_critical()
            && found[0].since.0 == since
            && sentence(&found).contains("(no listener uses it)")
    );
    assert_eq!(process.after(1, states("web", "a up, b maintenance", ServingTier::Primaries)), []);
}

#[test]
fn a_pool_that_has_not_settled_is_no_problem_yet() {
    let mut process = WatchedProcess::new(&[("web", "")]);
    let unsettled = |picture: &mut Picture| picture.pools.get_mut("web").unwrap().settled = false;
    assert_eq!(process.after(1, unsettled), []);
}

#[test]
fn a_pool_without_backends_says_what_each_source_reports() {
    let mut process = WatchedProcess::new(&[("web", "")]);
    let source = |name: &str, trouble: Option<&str>, answered| SourceStatus {
        name: name.into(),
        answered,
        trouble: trouble.map(|reason| Trouble { result: Resolution::NoSuchName, reason: reason.into() }),
        since: None,
        failing: None,
        hold: None,
        found: 0,
    };
    let found = process.after(1, |picture| {
        picture.pools.get_mut("web").unwrap().sources =
            vec![source("dns web:80", Some("NXDOMAIN for web"), true), source("file x", None, false)];
    });
    let expected = "pool web has no backends: dns web:80: NXDOMAIN for web; file x: no answer yet";
    assert_eq!((sentence(&found), kinds(&found)), (expected, vec!["no_backend"]));
    assert!(found[0].hint.contains("discover"));
}

#[test]
fn service_by_other_zones_begins_and_ends() {
    let mut process = WatchedProcess::new(&[("web", "a up, b up, c up")]);
    let zone = |backends, up| {
        move |picture: &mut Picture| {
            states("web", "a down, b up, c up", ServingTier::AllZones)(picture);
            let zone = LocalZone { name: "eu-1a".into(), backends, up, short: true };
            picture.pools.get_mut("web").unwrap().local_zone = Some(zone);
        }
    };
    let found = process.after(1, zone(2, 1));
    assert_eq!((kinds(&found), found[0].is_critical()), (vec!["zone_short"], false));
    assert_eq!(
        sentence(&found),
        "pool web uses backends of other zones too: 1 of 2 up in zone eu-1a; a is down (refused)"
    );
    let found = process.after(1, zone(0, 0));
    assert!(sentence(&found).contains("no backend in zone eu-1a"), "{found:?}");
    assert!(found[0].hint.contains("the zones of its backends"), "{found:?}");
    assert_eq!(process.after(1, states("web", "a up, b up, c up", ServingTier::Primaries)), []);
}

#[test]
fn panic_and_service_by_backups_begin_and_end() {
    let mut process = WatchedProcess::new(&[("web", "a up, b up, c up")]);
    let found = process.after(1, states("web", "a up, b down, c down", ServingTier::All));
    assert_eq!((kinds(&found), found[0].is_critical()), (vec!["panic"], true));
    let found = process.after(1, states("web", "a down, b down, c up", ServingTier::Backups));
    assert_eq!((kinds(&found), found[0].is_critical()), (vec!["backups_serve"], false));
    assert_eq!(sentence(&found), "pool web is served by its backups: a and b are down (refused)");
    assert_eq!(process.after(1, states("web", "a up, b up, c up", ServingTier::Primaries)), []);
}

#[test]
fn a_backend_that_joins_for_long_counts_as_down_and_one_without_weight_is_named() {
    let mut process = WatchedProcess::new(&[("web", "a up, b joining")]);
    assert_eq!(process.after(59, |_| ()), []);
    let found = process.after(1, |_| ());
    assert_eq!(sentence(&found), "1 of 2 backends of pool web is eligible: b is joining (refused)");
    let found = process.after(1, |picture| {
        states("web", "a up", ServingTier::None)(picture);
        picture.pools.get_mut("web").unwrap().backends[0].weight = 0;
    });
    assert_eq!(sentence(&found), "pool web has no eligible backend: a is at weight 0");
}

#[test]
fn a_backend_that_an_operator_has_taken_out_is_not_missing_when_it_is_down_too() {
    let mut process = WatchedProcess::new(&[("web", "a up, b down")]);
    let found = process.after(1, |picture| picture.pools.get_mut("web").unwrap().backends[1].weight = 0);
    assert_eq!(found, []);
}

#[test]
fn a_backend_flaps_when_it_goes_down_three_times_within_five_minutes() {
    let fell = |n| move |picture: &mut Picture| count(picture, Counter::Fell("web".into(), 1, "b".into()), n);
    let mut process = WatchedProcess::new(&[("web", "a up, b up")]);
    assert_eq!(process.after(1, fell(1)), []);
    assert_eq!(process.after(100, fell(1)), []);
    let found = process.after(100, fell(1));
    assert_eq!(sentence(&found), "backends of pool web flap: b (3 times) went down within 5m");
    let since = process.seconds();
    let found = process.after(90, fell(1));
    assert_eq!((&*found[0].kind, found[0].since.0, found[0].figures["most"]), ("flapping", since, 4.0));
    assert_eq!(process.after(200, |_| ()), [], "two falls are left in the window");
}

#[test]
fn a_backend_that_falls_under_new_addresses_flaps_too() {
    let mut process = WatchedProcess::new(&[("web", "a up, b up")]);
    let found = process.after(1, |picture| {
        (1..=3).for_each(|key| count(picture, Counter::Fell("web".into(), key, "b".into()), 1));
    });
    assert_eq!(kinds(&found), ["flapping"]);
}

#[test]
fn backends_come_and_go_when_many_more_leave_than_there_are() {
    let mut process = WatchedProcess::new(&[("web", "a up, b up")]);
    let left = |n| move |picture: &mut Picture| count(picture, Counter::Left("web".into()), n);
    assert_eq!(process.after(1, left(6)), []);
    let found = process.after(1, left(1));
    assert_eq!(sentence(&found), "7 backends have left pool web within 5m");
    assert_eq!(process.after(300, |_| ()), []);
}

/// Counts failures and connections of the pool `web`.
fn served(failed: u64, connections: u64) -> impl FnOnce(&mut Picture) {
    move |picture: &mut Picture| {
        count(picture, Counter::Served("web".into()), connections);
        count(picture, Counter::Failed("web".into(), CloseReason::ConnectFailed.index()), failed);
        count(picture, Counter::Failed("web".into(), CloseReason::BackendReset.index()), failed.min(1));
    }
}

#[test]
fn client_visible_failures_count_within_the_window_only() {
    let mut process = WatchedProcess::new(&[("web", "a up")]);
    let found = process.after(1, served(4, 100));
    assert_eq!(
        sentence(&found),
        "5 client-visible failures of pool web within 5m: 5.0 % of its connections, most of them connect_failed"
    );
    let since = process.seconds();
    assert_eq!((found[0].figures["failures"], found[0].figures["connect_failed"]), (5.0, 4.0));
    let found = process.after(299, served(0, 100));
    assert_eq!((&*found[0].kind, found[0].since.0), ("client_failures", since));
    assert!(sentence(&found).ends_with("connect_failed, the last one 4 min ago"), "{}", sentence(&found));
    assert_eq!(process.after(1, served(0, 100)), [], "a total since the start stays, but is no problem");
    let found = process.after(1, served(1, 1));
    assert_eq!(found[0].since.0, process.seconds(), "another one");
}

#[test]
fn few_failures_of_many_connections_are_no_problem_and_many_are_critical() {
    let mut process = WatchedProcess::new(&[("web", "a up")]);
    assert_eq!(process.after(1, served(1, 3000)), []);
    let mut process = WatchedProcess::new(&[("web", "a up")]);
    assert!(process.after(1, served(20, 100))[0].is_critical());
    let mut process = WatchedProcess::new(&[("web", "a up")]);
    let found = process.after(1, served(4, 5));
    assert!(!found[0].is_critical(), "a handful is too few to judge");
    assert!(sentence(&found).contains("100.0 %"));
}

#[test]
fn failures_that_the_process_had_before_the_first_look_do_not_count() {
    let mut first = picture(&[("web", "a up")]);
    served(1000, 1000)(&mut first);
    let mut process = WatchedProcess { watch: ProblemWatch::default(), began: first.at, picture: first };
    assert_eq!(process.look(), []);
    assert_eq!(process.after(1, |_| ()), []);
}

#[test]
fn failures_before_the_pool_was_known_are_the_listeners() {
    let mut process = WatchedProcess::new(&[("web", "a up")]);
    let found = process.after(1, |picture| {
        count(picture, Counter::Accepted("web".into()), 10);
        count(picture, Counter::FailedWithoutPool("web".into(), CloseReason::Limited.index()), 2);
    });
    assert_eq!((found[0].listener.as_deref(), found[0].pool.as_deref()), (Some("web"), None));
    assert!(sentence(&found).starts_with("2 client-visible failures of listener web within 5m: 20.0 %"));
}

#[test]
fn a_shorter_window_shows_whether_failures_go_on() {
    let mut process = WatchedProcess::new(&[("web", "a up")]);
    process.after(1, served(4, 10));
    let since = process.seconds();
    process.after(20, |_| ());
    let kinds = |seconds| {
        let reply = process.watch.reply(Duration::from_secs(seconds));
        let kinds: Vec<_> = reply.problems.iter().map(|one| (one.kind.clone(), one.since.0)).collect();
        (reply.window_seconds, kinds)
    };
    assert_eq!(kinds(20), (20, vec![]));
    assert_eq!(kinds(21), (21, vec![("client_failures".into(), since)]));
    assert_eq!(kinds(100_000), (300, vec![("client_failures".into(), since)]));
}

#[test]
fn a_queue_that_stays_is_a_warning_and_a_full_one_is_critical() {
    let mut process = WatchedProcess::new(&[("web", "a up")]);
    let queue = |n| move |picture: &mut Picture| picture.pools.get_mut("web").unwrap().queue = n;
    assert_eq!(process.after(1, queue(1)), []);
    let since = process.seconds();
    let found = process.after(3, queue(4));
    assert_eq!(
        sentence(&found),
        "4 clients wait in the queue of pool web: all its backends are at their limit"
    );
    assert_eq!((found[0].since.0, found[0].is_critical()), (since, false));
    let found = process.after(1, queue(10));
    assert_eq!((found[0].since.0, found[0].is_critical()), (since, true));
    assert_eq!(process.after(1, queue(0)), []);
}

#[test]
fn a_failing_source_is_a_problem_since_its_first_failure_and_says_when_its_answer_has_expired() {
    let mut process = WatchedProcess::new(&[("web", "a up")]);
    let since = process.seconds();
    let began = process.picture.at;
    let failing = |failing: Option<Instant>| {
        move |picture: &mut Picture| {
            let reason = "no answer; the last conclusive answer stays in use".into();
            picture.pools.get_mut("web").unwrap().sources = vec![SourceStatus {
                name: "dns web:80".into(),
                answered: true,
                trouble: failing.map(|_| Trouble { result: Resolution::Timeout, reason }),
                since: failing,
                failing,
                hold: Some(Duration::from_secs(10)),
                found: 1,
            }];
        }
    };
    let found = process.after(3, failing(Some(began)));
    assert_eq!(
        sentence(&found),
        "dns web:80 of pool web fails: no answer; the last conclusive answer stays in use"
    );
    assert_eq!((found[0].source.as_deref(), found[0].since.0), (Some("dns web:80"), since));
    let found = process.after(7, |_| ());
    assert!(sentence(&found).ends_with("that answer has expired, so backends whose checks fail leave"));
    assert_eq!(found[0].since.0, since);
    assert_eq!(process.after(1, failing(None)), []);
}

#[test]
fn late_checks_and_checks_without_a_result_begin_and_end() {
    let mut process = WatchedProcess::new(&[("web", "a up, b up")]);
    let late = |n| move |picture: &mut Picture| count(picture, Counter::ChecksLate("web".into()), n);
    assert_eq!(process.after(1, late(2)), []);
    let found = process.after(100, late(1));
    assert_eq!(sentence(&found), "checks of pool web run late: 3 within 5m");
    assert_eq!(process.after(60, |_| ()), []);
    let local = |error: Option<&'static str>| {
        move |picture: &mut Picture| {
            picture.pools.get_mut("web").unwrap().backends[1].local_check_error = error.map(Cause::from);
        }
    };
    let found = process.after(1, local(Some("no password file")));
    assert_eq!(
        sentence(&found),
        "checks of b in pool web have no result because of a local error: no password file"
    );
    assert_eq!(process.after(1, local(None)), []);
}

#[test]
fn replicas_without_an_engine_are_a_problem() {
    let mut process = WatchedProcess::new(&[("web", "a up")]);
    let trouble = |text: Option<&'static str>| {
        move |picture: &mut Picture| {
            picture.pools.get_mut("web").unwrap().replicas_trouble = text.map(str::to_owned);
        }
    };
    assert_eq!(kinds(&process.after(1, trouble(Some("no socket")))), ["replicas_failing"]);
    assert_eq!(process.after(1, trouble(None)), []);
}

#[test]
fn a_lack_of_local_resources_is_critical_for_a_minute_after_it_was_seen() {
    for (counter, kind) in
        [(Counter::AcceptsFailed, "accept_failing"), (Counter::ConnectsFailed, "connect_failing")]
    {
        let mut process = WatchedProcess::new(&[("web", "a up")]);
        let found = process.after(1, |picture| count(picture, counter, 2));
        assert_eq!((kinds(&found), found[0].is_critical()), (vec![kind], true));
        assert_eq!(process.after(60, |_| ()), []);
    }
}

#[test]
fn a_state_directory_that_cannot_be_written_is_a_problem() {
    let mut process = WatchedProcess::new(&[("web", "a up")]);
    let failure = Some("operators.json: No space left on device".to_owned());
    let found = process.after(1, |picture| picture.state_failure = failure);
    assert!(sentence(&found).contains("(operators.json: No space left on device)"));
    assert_eq!(process.after(1, |picture| picture.state_failure = None), []);
}

#[test]
fn connections_that_the_kernel_dropped_are_a_problem() {
    let mut process = WatchedProcess::new(&[("web", "a up")]);
    let [own, other] = [8080, 9999].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    process.picture.listeners[0].addresses = vec![own];
    let mut look = |dropped, seconds| {
        process.picture.at += Duration::from_secs(seconds);
        let queue = |address, dropped| AcceptQueue { address, waiting: 0, limit: 100, dropped };
        let accept_queues = vec![queue(own, dropped), queue(other, 1000 * seconds as u32)];
        let kernel = KernelPicture { accept_queues, ..KernelPicture::default() };
        process.watch.look(process.picture.clone(), Some(kernel));
        process.watch.present.to_vec()
    };
    assert_eq!(look(0, 1), [], "of another program's socket");
    let found = look(3, 5);
    assert!(sentence(&found).starts_with("the kernel dropped 3 connections within a minute"));
    assert_eq!(found[0].kind, "accept_queue");
    assert_eq!(look(3, 60), []);
}

#[test]
fn a_rejected_reload_is_a_problem_until_the_next_one_is_applied() {
    let mut process = WatchedProcess::new(&[("web", "a up")]);
    let since = process.picture.clock;
    let why = Cause::from("x.yaml:1:1: unknown key");
    let found = process.after(7, |picture| picture.reload_rejected = Some((since, why)));
    assert!(sentence(&found).ends_with("is not the one in effect: x.yaml:1:1: unknown key"));
    assert_eq!(found[0].since.0, 10_000.0);
    assert_eq!(process.after(1, |picture| picture.reload_rejected = None), []);
}

#[test]
fn a_log_that_cannot_be_written_and_lost_lines_are_problems() {
    let mut process = WatchedProcess::new(&[("web", "a up")]);
    let found = process.after(1, |picture| {
        picture.log_failures = vec![("logs".to_owned(), "no space".to_owned())];
        count(picture, Counter::LogLinesDropped, 1);
    });
    assert_eq!(kinds(&found), ["log_failing", "log_lines_dropped"]);
    assert!(found[0].sentence.contains("logs (no space)"), "{}", found[0].sentence);
    assert_eq!(found[1].sentence, "1 log line was lost within 5m");
    let found = process.after(1, |picture| picture.log_failures.clear());
    assert_eq!(kinds(&found), ["log_lines_dropped"]);
    assert_eq!(process.after(299, |_| ()), []);
}

#[test]
fn a_listener_and_a_process_at_their_limits_are_critical() {
    let mut process = WatchedProcess::new(&[("web", "a up")]);
    let open = |n| {
        move |picture: &mut Picture| {
            picture.listeners[0] =
                ListenerPicture { open: n, limit: Some(10), ..picture.listeners[0].clone() };
        }
    };
    assert_eq!(process.after(1, open(7)), []);
    let found = process.after(1, open(8));
    assert_eq!((kinds(&found), found[0].is_critical()), (vec!["listener_connections"], false));
    let since = process.seconds();
    let found = process.after(1, open(10));
    assert!(
        found[0].is_critical() && found[0].since.0 == since && found[0].listener.as_deref() == Some("web")
    );
    assert_eq!(process.after(1, open(1)), []);
    let found = process.after(1, |picture| picture.connections = [1000, 1000]);
    assert_eq!((kinds(&found), found[0].is_critical()), (vec!["connections"], true));
}

#[test]
fn a_listener_that_the_kernel_is_to_forward_and_does_not_is_a_problem() {
    let mut process = WatchedProcess::new(&[("web", "a up")]);
    let found = process.after(1, |picture| picture.listeners[0].kernel_obstacle = Some("nft: busy".into()));
    assert_eq!(
        sentence(&found),
        "the kernel does not forward the connections of listener web: nft: busy. This process forwards them"
    );
    assert_eq!((&*found[0].kind, found[0].listener.as_deref()), ("not_forwarded", Some("web")));
    assert_eq!(process.after(1, |picture| picture.listeners[0].kernel_obstacle = None), []);
}

#[test]
fn idle_connections_that_the_kernel_forgets_are_a_problem() {
    let mut process = WatchedProcess::new(&[("web", "a up")]);
    let after = |seconds| KernelPicture {
        conntrack_timeout: Some(Duration::from_secs(seconds)),
        ..Default::default()
    };
    process.watch.kernel = after(600);
    assert_eq!(process.after(1, |_| ()), [], "a time limit of the pool replaces the kernel's");
    let found = process.after(1, |picture| picture.listeners[0].forwarded_without_idle_timeout = true);
    assert_eq!(
        sentence(&found),
        "the kernel forgets connections of listener web that are idle for 10m: a pool has no `timeouts.idle`, so \
         net.netfilter.nf_conntrack_tcp_timeout_established applies"
    );
    assert_eq!((&*found[0].kind, found[0].listener.as_deref()), ("idle_forgotten", Some("web")));
    process.watch.kernel = after(7200);
    assert_eq!(process.after(1, |_| ()), []);
}

#[test]
fn packets_that_conntrack_drops_are_a_problem_for_a_minute() {
    let mut process = WatchedProcess::new(&[("web", "a up")]);
    process.watch.kernel.conntrack_drops = Some(7);
    assert_eq!(process.after(1, |_| ()), [], "they are from before the start");
    process.watch.kernel.conntrack_drops = Some(10);
    let found = process.after(1, |_| ());
    assert_eq!(
        sentence(&found),
        "conntrack dropped 3 packets within a minute: its table was full, or packets collided that make the same entry"
    );
    assert_eq!((&*found[0].kind, found[0].is_critical()), ("conntrack", false));
    assert_eq!(process.after(61, |_| ()), []);
}

#[test]
fn every_kind_has_its_own_name() {
    let names: std::collections::BTreeSet<_> = ProblemKind::ALL.iter().map(|kind| kind.name()).collect();
    assert_eq!(names.len(), ProblemKind::ALL.len());
}
