//! `pointsman doctor` and `/api/v1/problems` on a process with planted troubles, and on one without.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};

use crate::support::backend::Backend;
use crate::support::{ClosedPort, Lb, Limited, accept_within, connect_to, eventually, http_get, static_list};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::Value;

/// Runs a command against an instance: exit code, standard output and standard error.
fn run(admin: &str, arguments: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pointsman"));
    command.args(arguments).env_clear().env("POINTSMAN_ADMIN", admin).stdin(Stdio::null());
    let output = command.current_dir(std::env::temp_dir()).output_in_time().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

/// The exit code of `doctor --json` and its reply.
fn doctor(lb: &Lb, arguments: &[&str]) -> (i32, Value) {
    let (code, out, error) = run(&lb.admin().to_string(), &[&["doctor", "--json"], arguments].concat());
    (code, serde_json::from_str(&out).unwrap_or_else(|_| panic!("{code} {out} {error}")))
}

fn problems(reply: &Value) -> &[Value] {
    reply["problems"].as_array().unwrap()
}

/// The problem of that kind, if it is present.
fn problem<'a>(reply: &'a Value, kind: &str) -> Option<&'a Value> {
    problems(reply).iter().find(|problem| problem["kind"] == kind)
}

/// Waits until `doctor` lists a problem of that kind, and returns it.
#[track_caller]
fn when_found(lb: &Lb, kind: &str) -> Value {
    eventually(&format!("doctor finds {kind}"), || {
        let (code, reply) = doctor(lb, &[]);
        let found = problem(&reply, kind)?;
        assert_eq!(code, 1);
        Some(found.clone())
    })
}

/// Lowers the limit of open files so that 90 % of them are in use (a problem from 80 % on; checks have files open for moments), or restores it.
fn limit_files(lb: &Lb, scarce: bool) {
    let pid = Pid::from_raw(lb.pid() as i32).unwrap();
    let maximum = rustix::process::getrlimit(Resource::Nofile).maximum;
    let current = if scarce { Some(lb.open_files() as u64 * 100 / 90) } else { maximum };
    prlimit(Some(pid), Resource::Nofile, Rlimit { current, maximum }).unwrap();
}

const HEALTHY: &str =
    "listeners: {well: {bind: 127.0.0.1:0, pool: well}}\npools: {well: {discover: [{static: [";

#[test]
fn doctor_finds_all_planted_troubles_and_none_after_they_are_removed() {
    let (well, limited) = (Backend::http("well"), Backend::echo());
    let mut flapping = Backend::http("flapping");
    let (dead, refusing) = (ClosedPort::new(), ClosedPort::new());
    // A DNS server that is there and answers nothing.
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let config = format!(
        "listeners:
  well: {{bind: 127.0.0.1:0, pool: well}}
  dead: {{bind: 127.0.0.1:0, pool: dead}}
  flapping: {{bind: 127.0.0.1:0, pool: flapping}}
  refusing: {{bind: 127.0.0.1:0, pool: refusing}}
  narrow: {{bind: 127.0.0.1:0, pool: limited, max_connections: 2}}
  named: {{bind: 127.0.0.1:0, pool: named}}
pools:
  well: {{discover: [{{static: [\"{}\"]}}]}}
  dead: {{discover: [{{static: [{{address: \"{}\", name: corpse}}]}}], health: {{tcp: {{}}, every: 100ms}}}}
  flapping:
    discover: [{{static: [{{address: \"{}\", name: swing}}, \"{}\"]}}]
    health: {{tcp: {{}}, every: 50ms, rise: 1, fall: 1}}
  refusing: {{discover: [{{static: [\"{}\"]}}]}}
  limited:
    discover: [{{static: [\"{}\"]}}]
    limits: {{connections: 1, queue: 1, queue_timeout: 1h}}
  named: {{discover: [{{dns: \"backend:80\", server: \"{}\", every: 100ms}}, {{static: [\"{}\"]}}]}}",
        well.address,
        dead.address,
        flapping.address,
        well.address,
        refusing.address,
        limited.address,
        silent.local_addr().unwrap(),
        well.address,
    );
    let lb = Lb::start(&config);

    // Each is found, with its beginning, what it concerns, and what to do.
    let no_backend = when_found(&lb, "no_backend");
    assert_eq!((&no_backend["severity"], &no_backend["pool"]), (&"critical".into(), &"dead".into()));
    let sentence = no_backend["sentence"].as_str().unwrap();
    assert!(sentence.contains("corpse is down") && sentence.contains("refused"), "{sentence}");
    assert!(no_backend["hint"].as_str().unwrap().contains("pointsman why dead/corpse"), "{no_backend}");

    for times in 1..=3 {
        flapping.kill();
        let down = || lb.logged(&["backend down", "backend=swing"]).len() >= times;
        eventually("it is down", || down().then_some(()));
        flapping.revive();
        let up = || lb.logged(&["backend up", "backend=swing"]).len() > times;
        eventually("it is up", || up().then_some(()));
    }
    let flaps = when_found(&lb, "flapping");
    assert!(flaps["sentence"].as_str().unwrap().contains("swing (3 times)"), "{flaps}");

    let _served = connect_to(lb.address("narrow")).unwrap();
    eventually("it is served", || (!lb.logged(&["routed", "listener=narrow"]).is_empty()).then_some(()));
    let _waiting = connect_to(lb.address("narrow")).unwrap();
    let queue = when_found(&lb, "queue");
    assert_eq!((&queue["pool"], &queue["severity"]), (&"limited".into(), &"critical".into()), "{queue}");
    let limit = when_found(&lb, "listener_connections");
    assert_eq!((&limit["listener"], &limit["figures"]["used"]), (&"narrow".into(), &2.0.into()));

    let source = when_found(&lb, "source_failing");
    assert_eq!((&source["pool"], &source["source"]), (&"named".into(), &"dns backend:80".into()));

    // A file that was open for a moment makes the limit too high: it is set again.
    let files = eventually("doctor finds open_files", || {
        limit_files(&lb, true);
        problem(&doctor(&lb, &[]).1, "open_files").cloned()
    });
    assert!(files["sentence"].as_str().unwrap().contains("files that the process may open"), "{files}");
    limit_files(&lb, false);

    assert!(lb.reload(&format!("{config}\nnonsense: 1")).contains("reload refused"));
    let rejected = when_found(&lb, "reload_rejected");
    assert!(rejected["sentence"].as_str().unwrap().contains("nonsense"), "{rejected}");

    // Failures leave the window, whose default is five minutes.
    assert_eq!(problem(&doctor(&lb, &[]).1, "client_failures"), None);
    let mut client = connect_to(lb.address("refusing")).unwrap();
    let _ = client.read(&mut [0]);
    let failures = when_found(&lb, "client_failures");
    assert_eq!(
        (&failures["pool"], &failures["figures"]["connect_failed"]),
        (&"refusing".into(), &1.0.into())
    );
    eventually("it leaves a window of one second", || {
        problem(&doctor(&lb, &["--window", "1s"]).1, "client_failures").is_none().then_some(())
    });
    let still = when_found(&lb, "client_failures");
    assert_eq!(still["since"], failures["since"], "it keeps its beginning");

    // The metric and the status have the same problems, with the same beginnings, the worst first.
    eventually("all agree", || {
        let (code, reply) = doctor(&lb, &[]);
        let critical = problems(&reply).iter().filter(|one| one["severity"] == "critical").count();
        assert!(code == 1 && critical >= 2, "{reply:#}");
        assert!(problems(&reply)[..critical].iter().all(|one| one["severity"] == "critical"), "{reply:#}");
        let exported = lb.metric("pointsman_problems{severity=\"critical\"}");
        (exported == critical as f64 && problems(&lb.status()) == problems(&reply)).then_some(())
    });
    let (code, out, _) = run(&lb.admin().to_string(), &["doctor"]);
    assert!(code == 1 && out.contains("→ ") && out.contains("CAPACITY"), "{out}");
    let line = out.lines().find(|line| line.contains("pool dead has no eligible backend")).unwrap();
    assert!(line.starts_with("✖ "), "{out}");
    let (_, out, _) = run(&lb.admin().to_string(), &["status"]);
    assert!(out.lines().nth(2).unwrap().ends_with("`pointsman doctor` shows what to do:"), "{out}");

    // When the causes are gone, so are the problems.
    assert!(lb.reload(&format!("{HEALTHY}\"{}\"]}}]}}}}", well.address)).contains("reload applied"));
    eventually("nothing is wrong", || {
        let (code, reply) = doctor(&lb, &[]);
        assert_eq!(code == 0, problems(&reply).is_empty(), "{reply:#}");
        (code == 0).then_some(())
    });
    let (code, out, _) = run(&lb.admin().to_string(), &["doctor"]);
    assert!(code == 0 && out.starts_with("no problems\n"), "{out}");
}

#[test]
fn capacity_is_shown_with_numbers() {
    let backend = Backend::echo();
    let lb =
        Lb::start(&format!("runtime: {{max_connections: 100}}\n{HEALTHY}\"{}\"]}}]}}}}", backend.address));
    let mut clients = [(); 5].map(|()| connect_to(lb.address("well")).unwrap());
    let mut round_trip = |client: &mut TcpStream| {
        client.write_all(b"x").unwrap();
        client.read_exact(&mut [0]).unwrap();
    };
    clients.iter_mut().for_each(&mut round_trip);
    let of = |reply: &Value, resource: &str| -> Option<Value> {
        let all = reply["capacity"].as_array()?;
        all.iter().find(|one| one["resource"] == resource).cloned()
    };
    let reply = eventually("the connections are counted", || {
        let (code, reply) = doctor(&lb, &[]);
        assert_eq!(code, 0, "{reply:#}");
        (of(&reply, "connections")?["used"] == 5).then_some(reply)
    });
    assert_eq!(of(&reply, "connections").unwrap()["limit"], 100);
    let ports = of(&reply, "source_ports").unwrap();
    assert_eq!((&ports["subject"], &ports["used"]), (&format!("well/{}", backend.address).into(), &5.into()));
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
    let ends: Vec<u64> = range.split_ascii_whitespace().map(|end| end.parse().unwrap()).collect();
    assert_eq!(ports["limit"], ends[1] - ends[0] + 1);
    assert_eq!(of(&reply, "accept_queue").unwrap()["subject"], "well");
    let files = of(&reply, "open_files").unwrap();
    assert!(files["used"].as_u64().unwrap() > 10 && files["unit"] == "files", "{files}");
    let memory = of(&reply, "memory").unwrap();
    assert!(
        memory["used"].as_u64().unwrap() > 1 << 20 && memory["share"].as_f64().unwrap() < 1.0,
        "{memory}"
    );
    drop(clients);
}

#[test]
fn clients_that_a_dying_backend_left_without_an_answer_are_counted() {
    let (healthy, dying) = (Backend::http("healthy"), TcpListener::bind("127.0.0.1:0").unwrap());
    let backends = static_list(&[healthy.address, dying.local_addr().unwrap()]);
    let lb = Lb::start(&format!(
        "listeners: {{web: {{bind: 127.0.0.1:0, pool: web}}}}\npools: {{web: {{discover: {backends}}}}}"
    ));
    // What was counted before the first look has no known age.
    eventually("the process was looked at", || {
        doctor(&lb, &[]).1["capacity"].as_array().is_some_and(|all| !all.is_empty()).then_some(())
    });
    // It reads the request, and is killed: the kernel closes its connection without a reset.
    let killed = std::thread::spawn(move || {
        let (mut stream, _) = accept_within(&dying);
        let _ = stream.read(&mut [0; 1000]).unwrap();
    });
    let answers: Vec<_> = (0..8).map(|_| http_get(lb.address("web"), "/").is_ok()).collect();
    killed.join().unwrap();
    assert_eq!(answers.iter().filter(|answered| !**answered).count(), 1, "{answers:?}");
    // It may have been found before the last of them ended.
    eventually("doctor finds it among all connections", || {
        let found = problem(&doctor(&lb, &[]).1, "without_answer")?["sentence"].as_str()?.to_owned();
        let all = "1 connection of pool web ended without an answer within 5m (12.5 % of its connections)";
        found.starts_with(all).then_some(())
    });
    let admin = lb.admin().to_string();
    let (_, why, _) = run(&admin, &["why", "127.0.0.1"]);
    assert!(why.contains("7 closed normally and 1 ended without an answer"), "{why}");
    assert_eq!(lb.metric("pointsman_connections_without_answer_total{pool=\"web\"}"), 1.0);
    let story = || run(&admin, &["story"]).1;
    eventually("the story counts it", || story().contains("without an answer").then_some(()));
    assert!(!story().contains("no client saw an error"), "{}", story());
}

#[test]
fn doctor_that_cannot_look_says_where_it_tried() {
    let nothing = ClosedPort::new();
    let admin = nothing.address.to_string();
    let (code, out, error) = run(&admin, &["doctor"]);
    assert_eq!((code, &*out), (2, ""), "{error}");
    assert!(error.contains(&admin) && error.contains("refused"), "{error}");
    // A server that is not Pointsman's admin server says nothing of it either.
    let other = Backend::http("other");
    let (code, _, error) = run(&other.address.to_string(), &["doctor", "--json"]);
    assert_eq!(code, 2, "{error}");
    let lb = Lb::start(&format!("{HEALTHY}\"{}\"]}}]}}}}", other.address));
    let (code, _, error) = run(&lb.admin().to_string(), &["doctor", "--window", "soon"]);
    assert_eq!(code, 1, "a wrong argument: {error}");
    assert_eq!(lb.get("/api/v1/problems?window=soon").0, 400);
    assert_eq!(lb.get("/api/v1/problems?window=1h").0, 200);
}

#[test]
fn a_pool_without_backends_says_in_the_status_which_source_reports_what() {
    let lb = Lb::start_in(
        "listeners: {web: {bind: 127.0.0.1:0, pool: web}}\npools: {web: {discover: [{file: backends.yaml, every: 50ms}]}}",
        |folder| std::fs::write(folder.join("backends.yaml"), "[]\n").unwrap(),
    );
    let (code, out, _) = run(&lb.admin().to_string(), &["status"]);
    assert_eq!(code, 1);
    let expected = "pool web: round-robin, 0 of 0 backends in use\n  file backends.yaml: the list is empty\n";
    assert!(out.contains(expected), "{out}");
    let source = &lb.status()["pools"][0]["sources"][0];
    assert_eq!((&source["name"], &source["result"]), (&"file backends.yaml".into(), &"empty".into()));
    let backend = Backend::http("a");
    std::fs::write(lb.folder().join("new"), format!("- \"{}\"\n", backend.address)).unwrap();
    std::fs::rename(lb.folder().join("new"), lb.folder().join("backends.yaml")).unwrap();
    eventually("the source reports it", || {
        let source = lb.status()["pools"][0]["sources"][0].take();
        (source["result"] == "ok" && source["backends"] == 1 && source["trouble"].is_null()).then_some(())
    });
    assert_eq!(http_get(lb.address("web"), "/").unwrap().1, "a");
    eventually("nothing is wrong", || (doctor(&lb, &[]).0 == 0).then_some(()));
}
