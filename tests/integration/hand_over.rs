//! Hand-over to a new process: SIGUSR2 and `run --take-over`.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;

use crate::support::backend::Backend;
use crate::support::load::under_load;
use crate::support::peers::{reset, serving_one_at_a_time};
use crate::support::{Lb, TIME_LIMIT, connect_to, eventually, free_port, http_get, static_list};

/// The processes that have taken over from a balancer; the last one is ended at the end of the test.
pub(crate) struct Successors<'l> {
    lb: &'l Lb,
    pid: u32,
    count: usize,
}

impl<'l> Successors<'l> {
    pub(crate) fn of(lb: &'l Lb) -> Self {
        Self { lb, pid: lb.pid(), count: 0 }
    }

    /// Sends SIGUSR2 to the process in charge, and waits until another one has taken over.
    #[track_caller]
    pub(crate) fn hand_over(&mut self) {
        Lb::signal_to(self.pid, "USR2");
        self.count += 1;
        let line = self.lb.when_logged_times(self.count, &["hand-over done"]).pop().unwrap();
        let (_, process) = line.split_once("process=").unwrap();
        self.pid = process.split_ascii_whitespace().next().unwrap().parse().unwrap();
        let words = ["took over", "process="];
        eventually("it confirms", || (self.lb.logged(&words).len() == self.count).then_some(()));
    }

    /// Waits until all processes but the last one have stopped.
    #[track_caller]
    pub(crate) fn when_others_stopped(&self) {
        self.lb.when_logged_times(self.count, &[" INFO stopped"]);
    }
}

impl Drop for Successors<'_> {
    fn drop(&mut self) {
        if self.pid != self.lb.pid() {
            Lb::signal_to(self.pid, "TERM");
            Lb::signal_to(self.pid, "INT");
        }
    }
}

fn echo(mut stream: &TcpStream, word: &str) -> bool {
    stream.set_read_timeout(Some(TIME_LIMIT)).unwrap();
    let mut answer = vec![0; word.len()];
    stream.write_all(word.as_bytes()).and_then(|()| stream.read_exact(&mut answer)).is_ok()
        && answer == word.as_bytes()
}

#[test]
fn ten_hand_overs_under_load_cost_no_connection() {
    let (a, b, long) = (Backend::http("a"), Backend::http("b"), Backend::echo());
    let lb = Lb::start(&format!(
        "runtime: {{drain: {{timeout: 60s}}}}
listeners: {{web: {{bind: 127.0.0.1:0, pool: web}}, long: {{bind: 127.0.0.1:0, pool: long}}}}
pools:
  web: {{discover: [{{static: [{}, {}]}}], health: {{http: /health}}}}
  long: {{discover: [{{static: [{}]}}]}}",
        a.address, b.address, long.address
    ));
    let mut successors = Successors::of(&lb);
    let mut open = Vec::new();
    let seen = under_load(lb.address("web"), |_| {
        for n in 0..10 {
            let stream = connect_to(lb.address("long")).unwrap();
            assert!(echo(&stream, "before"), "{n}");
            open.push(stream);
            successors.hand_over();
        }
    });
    assert!(seen.without_errors() > 0);
    // Each of the connections is with another process, and lasts.
    assert!(open.iter().all(|stream| echo(stream, "after")));
    drop(open);
    successors.when_others_stopped();
    let finished = lb.logged(&["drain done"]).len();
    assert_eq!((finished, lb.logged(&["drain timed out"])), (10, Vec::new()), "{}", lb.log());
    // A number means one connection, in whichever process.
    let routed = lb.logged(&["routed conn="]);
    let number = |line: &String| line.split("conn=").nth(1).unwrap().split(' ').next().unwrap().to_owned();
    let numbers: BTreeSet<_> = routed.iter().map(number).collect();
    assert_eq!(numbers.len(), routed.len());
    // The last one is the only one, and its admin server has the same address.
    assert_eq!(lb.get("/ready").0, 200);
    assert_eq!(http_get(lb.address("web"), "/").unwrap().0, 200);
}

#[test]
fn a_process_that_cannot_start_leaves_everything_as_it_was() {
    let a = Backend::http("a");
    let config = |extra: &str| {
        format!(
            "listeners: {{web: {{bind: 127.0.0.1:0, pool: web}}}}\npools: {{web: {{discover: [{{static: [{}]}}]{extra}}}}}",
            a.address
        )
    };
    let lb = Lb::start(&config(""));
    let mut successors = Successors::of(&lb);
    lb.rewrite(&config(", balnce: weighted"));
    let seen = under_load(lb.address("web"), |_| {
        lb.signal("USR2");
        let line = lb.when_logged("hand-over failed");
        assert!(line.contains("the new process cannot start") && line.contains("balnce"), "{line}");
    });
    assert!(seen.without_errors() > 0);
    assert_eq!(lb.get("/ready").0, 200);
    // Changes are accepted again, and the next hand-over succeeds.
    let (status, body) = lb.request("PATCH", "/api/v1/pools/web/backends/a", r#"{"weight": 0}"#);
    assert_eq!(status, 404, "{body}");
    lb.rewrite(&config(", balance: weighted"));
    successors.hand_over();
    assert_eq!(http_get(lb.address("web"), "/").unwrap().1, "a");
}

#[test]
fn states_and_added_backends_are_taken_over() {
    for state in ["", "runtime: {state: state}\n"] {
        let (a, b, added) = (Backend::http("a"), Backend::http("b"), Backend::http("added"));
        let mut c = Backend::http("c");
        let lb = Lb::start(&format!(
            "{state}listeners: {{web: {{bind: 127.0.0.1:0, pool: web}}}}
pools:
  web:
    discover: [{{static: [{{address: {}, name: a}}, {{address: {}, name: b}}, {{address: {}, name: c}}]}}]
    health: {{http: /health, every: 1s, fall: 1}}",
            a.address, b.address, c.address
        ));
        lb.when_up(vec!["a".into(), "b".into(), "c".into()]);
        c.kill();
        lb.when_logged("backend down pool=web backend=c");
        assert_eq!(lb.request("PATCH", "/api/v1/pools/web/backends/b", r#"{"state": "draining"}"#).0, 200);
        let body = format!(r#"{{"address": "{}", "name": "added"}}"#, added.address);
        assert_eq!(lb.request("POST", "/api/v1/pools/web/backends", &body).0, 201);
        lb.when_up(vec!["a".into(), "added".into()]);
        let mut successors = Successors::of(&lb);
        successors.hand_over();
        successors.when_others_stopped();
        let mut backends = lb.backends();
        backends.sort();
        let [a, added, b, c] = &backends[..] else { panic!("{backends:?}") };
        let up = "taken over from the process before: its first check passed";
        assert_eq!((&*a.1, &*a.2), ("up", up));
        assert_eq!((&*added.1, &*added.2), ("up", up));
        assert!(b.1 == "draining" && b.2.starts_with("drained by an operator at 127.0.0.1"), "{b:?}");
        assert!(c.1 == "down" && c.2.starts_with("taken over from the process before: a failure"), "{c:?}");
        let (status, journal) = lb.get("/api/v1/journal");
        assert_eq!((status, journal.contains("drained by an operator")), (200, true), "{journal}");
        // Changes are accepted by the new process.
        assert_eq!(lb.request("PATCH", "/api/v1/pools/web/backends/b", r#"{"state": "up"}"#).0, 200);
        lb.when_up(vec!["a".into(), "added".into(), "b".into()]);
    }
}

#[test]
fn an_ejected_backend_gets_no_client_after_a_hand_over() {
    // It passes its checks, which only connect.
    let broken = serving_one_at_a_time(|mut stream| {
        let _ = stream.read(&mut [0; 512]);
        reset(stream);
    });
    let sound = Backend::http("sound");
    let lb = Lb::start(&format!(
        "listeners: {{web: {{bind: 127.0.0.1:0, pool: web}}}}
pools: {{web: {{discover: {}, health: {{tcp: {{}}, every: 1s, timeout: 1s}}, eject: {{failures: 1, for: 10m}}}}}}",
        static_list(&[broken, sound.address])
    ));
    lb.when_up(vec![broken.to_string(), sound.address.to_string()]);
    eventually("it is ejected", || {
        let _ = http_get(lb.address("web"), "/");
        (!lb.logged(&["backend ejected"]).is_empty()).then_some(())
    });
    let mut successors = Successors::of(&lb);
    for _ in 0..2 {
        successors.hand_over();
        eventually("it has passed a check", || {
            let status = lb.status();
            let backends = status["pools"][0]["backends"].as_array().unwrap();
            let of = backends.iter().find(|one| one["address"] == broken.to_string()).unwrap();
            (of["last_check"]["passed"] == true).then_some(())
        });
        for _ in 0..4 {
            assert_eq!(http_get(lb.address("web"), "/").unwrap().1, "sound");
        }
        let backends = lb.backends();
        let ejected = backends.iter().find(|backend| backend.0 == broken.to_string()).unwrap();
        assert_eq!(ejected.1, "ejected", "{backends:?}");
        let first = "taken over from the process before: a failure: it reset a client's connection";
        assert!(ejected.2.starts_with(first) && ejected.2.ends_with("ejected for 10m"), "{ejected:?}");
    }
}

#[test]
fn a_drained_listener_is_taken_over_closed() {
    let echo_server = Backend::echo();
    let lb = Lb::start(&format!(
        "listeners: {{web: {{bind: 127.0.0.1:0, pool: web}}}}\npools: {{web: {{discover: [{{static: [{}]}}]}}}}",
        echo_server.address
    ));
    let address = lb.address("web");
    let set =
        |state: &str| lb.request("PATCH", "/api/v1/listeners/web", &format!(r#"{{"state": "{state}"}}"#)).0;
    assert_eq!(set("draining"), 200);
    let mut successors = Successors::of(&lb);
    successors.hand_over();
    successors.when_others_stopped();
    assert!(connect_to(address).is_err());
    assert_eq!(lb.status()["listeners"][0]["state"], "draining");
    assert_eq!(set("up"), 200);
    assert!(echo(&connect_to(address).unwrap(), "served"));
}

#[test]
fn addresses_that_the_new_configuration_lacks_are_closed_and_new_ones_are_opened() {
    let a = Backend::http("a");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("front.sock");
    let config = |listeners: &str| {
        format!("listeners: {{{listeners}}}\npools: {{web: {{discover: [{{static: [{}]}}]}}}}", a.address)
    };
    let unix = format!("unix: {{bind: 'unix:{}', pool: web}}", path.display());
    let (old, new) = ("old: {bind: 127.0.0.1:0, pool: web}", "new: {bind: 127.0.0.1:0, pool: web}");
    let lb = Lb::start(&config(&format!("{unix}, {old}")));
    let mut successors = Successors::of(&lb);
    let old = lb.address("old");
    let mut waiting = UnixStream::connect(&path).unwrap();
    lb.rewrite(&config(&format!("{unix}, {new}")));
    successors.hand_over();
    assert_eq!(http_get(lb.address("new"), "/").unwrap().1, "a");
    eventually("the old address is closed", || connect_to(old).is_err().then_some(()));
    // The path leads to the new process, and the old one did not remove it.
    waiting.write_all(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    waiting.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    drop(waiting);
    successors.when_others_stopped();
    let mut stream = UnixStream::connect(&path).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[test]
fn another_number_of_workers_serves_every_socket() {
    let a = Backend::http("a");
    let config = |workers: u8| {
        format!(
            "runtime: {{workers: {workers}}}
listeners: {{web: {{bind: 127.0.0.1:0, pool: web}}}}
pools: {{web: {{discover: [{{static: [{}]}}]}}}}",
            a.address
        )
    };
    let lb = Lb::start(&config(2));
    let mut successors = Successors::of(&lb);
    for workers in [1, 4, 3] {
        lb.rewrite(&config(workers));
        let seen = under_load(lb.address("web"), |_| successors.hand_over());
        assert!(seen.without_errors() > 0);
        // The kernel spreads connections over all sockets, those without a worker of their own included.
        for _ in 0..50 {
            assert_eq!(http_get(lb.address("web"), "/").unwrap().0, 200);
        }
    }
}

#[test]
fn an_address_that_refuses_while_no_backend_is_up_is_taken_over_closed() {
    let mut a = Backend::http("a");
    let lb = Lb::start(&format!(
        "listeners: {{web: {{bind: 127.0.0.1:0, pool: web, no_backend: refuse}}}}
pools: {{web: {{discover: [{{static: [{}]}}], health: {{http: /health, every: 100ms, fall: 1, rise: 1}}}}}}",
        a.address
    ));
    let address = lb.address("web");
    let mut successors = Successors::of(&lb);
    a.kill();
    eventually("it refuses", || connect_to(address).is_err().then_some(()));
    successors.hand_over();
    successors.when_others_stopped();
    assert!(connect_to(address).is_err());
    a.revive();
    eventually("it accepts", || http_get(address, "/").ok());
    // The next process gets an open address, and closes it when it finds that no backend is up.
    a.kill();
    successors.hand_over();
    eventually("it refuses again", || connect_to(address).is_err().then_some(()));
}

#[test]
fn a_signal_to_stop_ends_a_hand_over() {
    let a = Backend::http("a");
    // The new process waits for a source that does not answer.
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut lb = Lb::start(&format!(
        "listeners: {{web: {{bind: 127.0.0.1:0, pool: web}}}}
pools:
  web: {{discover: [{{static: [{}]}}]}}
  silent: {{discover: [{{dns: backend:80, server: \"{}\"}}]}}",
        a.address,
        silent.local_addr().unwrap()
    ));
    let address = lb.address("web");
    lb.signal("USR2");
    lb.when_logged("hand-over started");
    lb.signal("TERM");
    assert_eq!(lb.when_ended().code(), Some(0));
    let log = lb.log();
    assert!(log.contains("hand-over failed") && log.contains("this process was told to stop"), "{log}");
    assert!(log.contains(r#"by="SIGTERM""#), "{log}");
    assert!(connect_to(address).is_err(), "the new process has ended, too");
}

#[test]
fn a_new_process_takes_over_on_request() {
    let (a, port) = (Backend::http("a"), free_port());
    let config = format!(
        "admin: {{bind: 127.0.0.1:{port}}}
listeners: {{web: {{bind: 127.0.0.1:0, pool: web}}}}
pools: {{web: {{discover: [{{static: [{}]}}]}}}}",
        a.address
    );
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pointsman.yaml");
    std::fs::write(&path, config).unwrap();
    let arguments = ["run", "-c", path.to_str().unwrap(), "--take-over"];
    // The first one finds none.
    let mut first = Lb::with_arguments(&arguments);
    first.when_logged("nothing is taken over");
    let address = first.address("web");
    let seen = under_load(address, |_| {
        let second = Lb::with_arguments(&arguments);
        second.when_logged("took over");
        assert_eq!(second.address("web"), address);
        assert_eq!(first.when_ended().code(), Some(0));
        assert!(first.log().contains("hand-over started by=\"an operator at 127.0.0.1\""), "{}", first.log());
        first = second;
    });
    assert!(seen.without_errors() > 0);
    assert_eq!(first.get("/ready").0, 200);
}

#[test]
fn the_first_process_of_a_container_stays_until_the_last_one_has_ended() {
    let a = Backend::http("a");
    let config = format!(
        "listeners: {{web: {{bind: 127.0.0.1:0, pool: web}}}}\npools: {{web: {{discover: [{{static: [{}]}}]}}}}",
        a.address
    );
    let lb = Lb::start_after(&["unshare", "--pid", "--fork", "--mount-proc"], "true", &config, |_| ());
    eventually("ready", || (lb.get("/ready").0 == 200).then_some(()));
    // The process that runs in the namespace is the child of unshare.
    let children = format!("/proc/{0}/task/{0}/children", lb.pid());
    let first: u32 = std::fs::read_to_string(children).unwrap().trim().parse().unwrap();
    for count in 1..=2 {
        // The first process passes the second signal on.
        Lb::signal_to(first, "USR2");
        lb.when_logged_times(count, &["took over"]);
        lb.when_logged_times(count, &[" INFO stopped"]);
        lb.when_logged_times(1, &["staying as the first process"]);
        assert_eq!(http_get(lb.address("web"), "/").unwrap().0, 200);
    }
    let mut lb = lb;
    assert!(lb.is_running());
    Lb::signal_to(first, "TERM");
    assert_eq!(lb.when_ended().code(), Some(0), "{}", lb.log());
    assert_eq!(lb.logged(&["drain done"]).len(), 3, "{}", lb.log());
}
