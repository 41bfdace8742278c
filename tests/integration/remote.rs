//! The commands for a running instance, as an operator types them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;

use crate::support::backend::Backend;
use crate::support::{
    ClosedPort, Lb, Limited, TIME_LIMIT, accept_within, connect_to, end_child, eventually, http_get,
    join_within,
};
use serde_json::Value;

/// Two backends, a and b, in the pool web.
fn start(settings: &str, top: &str) -> (Lb, [Backend; 2]) {
    let backends = ["a", "b"].map(Backend::http);
    (Lb::start(&config(&backends, settings, top)), backends)
}

fn config(backends: &[Backend; 2], settings: &str, top: &str) -> String {
    let [a, b] = backends.each_ref().map(|backend| backend.address);
    format!(
        "listeners: {{web: {{bind: 127.0.0.1:0, pool: web}}}}
pools: {{web: {{discover: [{{static: [{{address: {a}, name: a}}, {{address: {b}, name: b b}}]}}]{settings}}}}}
{top}"
    )
}

/// A command, in an empty environment.
fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pointsman"));
    command.args(arguments).env_clear().current_dir(std::env::temp_dir()).stdin(Stdio::null());
    command
}

/// Exit code, standard output and standard error.
fn outcome(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

/// Runs a command against an instance.
fn run(lb: &Lb, arguments: &[&str]) -> (i32, String, String) {
    outcome(&command(arguments).env("POINTSMAN_ADMIN", lb.admin().to_string()).output_in_time().unwrap())
}

/// A running command, and the lines that it prints.
struct Running(Child, mpsc::Receiver<String>);

impl Running {
    fn start(lb: &Lb, arguments: &[&str]) -> Self {
        let mut command = command(arguments);
        let mut child = command
            .env("POINTSMAN_ADMIN", lb.admin().to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (lines, printed) = mpsc::channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            stdout.lines().map_while(Result::ok).try_for_each(|line| lines.send(line))
        });
        Self(child, printed)
    }

    /// The next line that has all of `words`.
    fn when_printed(&self, words: &[&str]) -> String {
        eventually(&format!("it prints {words:?}"), || {
            let line = self.1.recv_timeout(TIME_LIMIT).unwrap_or_else(|_| panic!("never printed: {words:?}"));
            words.iter().all(|word| line.contains(word)).then_some(line)
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        end_child(&mut self.0);
    }
}

#[test]
fn status_shows_every_backend_with_its_state_and_cause() {
    let (lb, mut backends) = start(", health: {tcp: {}, every: 100ms, timeout: 100ms}", "");
    http_get(lb.address("web"), "/").unwrap();
    lb.when_idle();
    let (code, out, error) = run(&lb, &["status"]);
    assert_eq!((code, &*error), (0, ""), "{out}");
    let address = lb.address("web").to_string();
    for shown in [
        "serving, ready",
        "LISTENER",
        &address,
        "pool web: round-robin, 2 of 2 backends in use",
        "● up",
        "its first check passed",
    ] {
        assert!(out.contains(shown), "{shown:?} is not in\n{out}");
    }
    assert!(out.contains("  b b  ") && !out.contains('\x1b'), "{out}");
    let (code, json, _) = run(&lb, &["status", "--json"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((code, &json["pools"][0]["backends"][0]["connections"]), (0, &1.into()));
    // If a pool has no eligible backend, the exit code is 1.
    backends.iter_mut().for_each(Backend::kill);
    lb.when_up(vec![]);
    let (code, out, _) = run(&lb, &["status"]);
    assert!(code == 1 && out.contains("0 of 2 backends in use") && out.contains("✖ down"), "{code} {out}");
    assert_eq!(run(&lb, &["status", "--json"]).0, 1);
}

#[test]
fn a_drain_waits_until_the_last_connection_is_gone() {
    let (lb, _backends) = start("", "");
    let held = [(); 2].map(|()| connect_to(lb.address("web")).unwrap());
    eventually("both are routed", || (lb.logged(&["routed conn="]).len() == 2).then_some(()));
    let (code, _, error) = run(&lb, &["drain", "web/a", "--wait", "--timeout", "100ms"]);
    assert!(code == 1 && error.contains("web/a still has 1 connection open"), "{code} {error}");
    let waits = Running::start(&lb, &["drain", "web/a", "--wait"]);
    eventually("it drains", || (lb.backends()[0].1 == "draining").then_some(()));
    assert!(waits.1.try_recv().is_err(), "its connection is there");
    drop(held);
    waits.when_printed(&["web/a is drained"]);
    // Its name is enough, as no other pool has such a backend.
    let (code, out, error) = run(&lb, &["up", "a"]);
    assert!(code == 0 && out.starts_with("web/a is up, weight 1, 0 connections open: "), "{out}{error}");
    let (code, out, _) = run(&lb, &["maintenance", "web/b b", "--json"]);
    let now: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &now["name"], &now["state"]), (0, &"b b".into(), &"maintenance".into()));
}

#[test]
fn a_pool_is_drained_as_a_whole_with_force() {
    let (lb, _backends) = start("", "");
    let held = [(); 2].map(|()| connect_to(lb.address("web")).unwrap());
    eventually("both are routed", || (lb.logged(&["routed conn="]).len() == 2).then_some(()));
    let (code, out, error) = run(&lb, &["drain", "web", "--forecast"]);
    assert!(code == 0 && out.starts_with("2 open connections"), "{out}{error}");
    let (code, out, error) = run(&lb, &["drain", "web"]);
    assert!(
        code == 1 && out.is_empty() && error.contains("all backends of web") && error.contains("--force"),
        "{error}"
    );
    assert!(lb.backends().iter().all(|backend| backend.1 == "up"));
    let waits = Running::start(&lb, &["drain", "web", "--force", "--wait"]);
    eventually("both drain", || lb.backends().iter().all(|backend| backend.1 == "draining").then_some(()));
    assert!(waits.1.try_recv().is_err(), "connections are open");
    drop(held);
    waits.when_printed(&["web is drained"]);
}

#[test]
fn a_backend_that_leaves_with_open_connections_does_not_stop_the_drain_of_its_pool() {
    let (lb, backends) = start("", "");
    let [to_leaving, to_other] = ["backend=a ", "backend=\"b b\" "].map(|backend| {
        let held = connect_to(lb.address("web")).unwrap();
        eventually("it is routed", || lb.logged(&["routed conn=", backend]).pop());
        held
    });
    let leaving = format!("{{address: {}, name: a}}, ", backends[0].address);
    lb.reload(&config(&backends, "", "").replace(&leaving, ""));
    let (code, out, error) = run(&lb, &["drain", "web", "--force"]);
    assert!(code == 0 && out.starts_with("web/b b is draining") && error.is_empty(), "{out}{error}");
    // Its connection is one of the pool.
    drop(to_other);
    eventually("one is closed", || lb.logged(&["closed conn="]).pop());
    let wait = ["drain", "web", "--force", "--wait", "--timeout", "500ms"];
    let (code, _, error) = run(&lb, &wait);
    assert!(code == 1 && error.contains("web still has 1 connection open"), "{code} {error}");
    drop(to_leaving);
    let (code, out, error) = run(&lb, &["drain", "web", "--force", "--wait"]);
    assert_eq!((code, &*out), (0, "web is drained\n"), "{error}");
}

#[test]
fn a_listener_is_drained_with_force_and_put_back() {
    let (lb, _backends) = start("", "");
    let held = connect_to(lb.address("web")).unwrap();
    eventually("it is routed", || (lb.logged(&["routed conn="]).len() == 1).then_some(()));
    let (code, out, error) = run(&lb, &["drain", "--listener", "web", "--forecast"]);
    assert!(code == 0 && out.starts_with("1 open connection"), "{out}{error}");
    let (code, out, error) = run(&lb, &["drain", "--listener", "web"]);
    let refused = error.contains("closes the listener web") && error.contains("--force");
    assert!(code == 1 && out.is_empty() && refused, "{error}");
    let (code, _, error) =
        run(&lb, &["drain", "--listener", "web", "--force", "--wait", "--timeout", "100ms"]);
    assert!(code == 1 && error.contains("web still has 1 connection open"), "{code} {error}");
    assert!(connect_to(lb.address("web")).is_err());
    let (_, out, _) = run(&lb, &["status"]);
    assert!(out.contains(&format!("{} (draining)", lb.address("web"))), "{out}");
    let waits = Running::start(&lb, &["drain", "--listener", "web", "--force", "--wait"]);
    drop(held);
    waits.when_printed(&["web is drained"]);
    let (code, out, error) = run(&lb, &["up", "--listener", "web"]);
    assert!(code == 0 && out == "web is up, 0 connections open\n", "{out}{error}");
    connect_to(lb.address("web")).unwrap();
    let (code, _, error) = run(&lb, &["drain", "--listener", "wob", "--force"]);
    assert!(code == 1 && error.contains("there is web"), "{error}");
}

#[test]
fn a_refusal_of_the_instance_is_exit_code_1_with_its_message_and_hint() {
    let (lb, _backends) = start("", "");
    let (code, out, error) = run(&lb, &["weight", "web/a", "7"]);
    assert_eq!((code, &*out), (1, ""));
    assert!(error.contains("ignores weights except 0") && error.contains("balance: weighted"), "{error}");
    for (arguments, word) in [
        (&["weight", "web/a", "257"][..], "from 0 to 256"),
        (&["weight", "web/c", "1"], "it has a, b b"),
        (&["weight", "wob/a", "1"], "there is web"),
        (&["up", "nobody"], "there is web/a, web/b b"),
        (&["drain"], "--yes"),
        (&["status", "--token-file", "/no/such/file"], "/no/such/file"),
    ] {
        let (code, out, error) = run(&lb, arguments);
        assert_eq!((code, &*out), (1, ""), "{arguments:?}: {error}");
        assert!(error.contains(word), "{arguments:?}: {word} is not in\n{error}");
    }
    assert!(lb.backends().iter().all(|backend| backend.1 == "up"));
}

#[test]
fn the_last_eligible_backend_is_taken_out_with_force_only() {
    let (lb, _backends) = start("", "");
    let state = |n: usize| lb.backends()[n].1.clone();
    assert_eq!(run(&lb, &["drain", "a"]).0, 0);
    for arguments in [&["drain", "b b"][..], &["maintenance", "web/b b"], &["weight", "b b", "0"]] {
        let (code, out, error) = run(&lb, arguments);
        assert_eq!((code, &*out), (1, ""), "{arguments:?}: {error}");
        assert!(error.contains(r#""b b" is the last eligible backend of the pool "web""#), "{error}");
        assert!(error.contains("--force") && !error.contains("unless_last"), "{error}");
    }
    assert_eq!((state(0), state(1)), ("draining".into(), "up".into()));
    let (code, _, error) = run(&lb, &["maintenance", "a"]);
    assert_eq!(code, 0, "a gets no connections, so that nothing is lost: {error}");
    assert_eq!(run(&lb, &["drain", "b b", "--force"]).0, 0);
    assert_eq!((state(0), state(1)), ("maintenance".into(), "draining".into()));
}

#[test]
fn a_weight_takes_effect() {
    let (lb, _backends) = start(", balance: weighted", "");
    let (code, out, error) = run(&lb, &["weight", "web/b b", "3"]);
    assert!(code == 0 && out.contains("web/b b is up, weight 3"), "{out}{error}");
    let answers: Vec<_> = (0..4).map(|_| http_get(lb.address("web"), "/").unwrap().1).collect();
    assert_eq!(answers.iter().filter(|name| *name == "b").count(), 3, "{answers:?}");
}

#[test]
fn an_unreachable_instance_is_exit_code_2_with_its_address() {
    let closed = ClosedPort::new();
    let closed = closed.address.to_string();
    for arguments in
        [&["status"][..], &["drain", "a"], &["reload"], &["logs"], &["connections"], &["top", "--json"]]
    {
        let output = command(arguments).env("POINTSMAN_ADMIN", &closed).output_in_time().unwrap();
        let (code, out, error) = outcome(&output);
        assert_eq!((code, &*out), (2, ""), "{arguments:?}");
        for word in [&*closed, "connection refused", "--admin"] {
            assert!(error.contains(word), "{arguments:?}: {word} is not in\n{error}");
        }
    }
    // A server that is not Pointsman.
    let other = Backend::http("a");
    let output = command(&["status", "--admin", &other.address.to_string()]).output_in_time().unwrap();
    let (code, _, error) = outcome(&output);
    assert!(code == 2 && error.contains("is it a Pointsman"), "{code} {error}");
}

#[test]
fn the_admin_server_is_found_by_the_configuration_and_over_a_unix_socket() {
    let backends = ["a", "b"].map(Backend::http);
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("admin.sock");
    let config = config(&backends, "", &format!("admin: {{bind: 'unix:{}'}}", socket.display()));
    std::fs::write(folder.path().join("pointsman.yaml"), config).unwrap();
    let file = folder.path().join("pointsman.yaml");
    let lb = Lb::with_arguments(&["run", "-c", file.to_str().unwrap()]);
    lb.when_logged("admin listening");
    let inside = |arguments: &[&str]| {
        outcome(&command(arguments).current_dir(folder.path()).output_in_time().unwrap())
    };
    eventually("it is ready", || (inside(&["health"]) == (0, "ready\n".into(), String::new())).then_some(()));
    assert_eq!(inside(&["status"]).0, 0);
    let (code, out, error) = inside(&["drain", "web/a"]);
    assert!(code == 0 && out.contains("drained by an operator on this machine"), "{out}{error}");
    let there = format!("unix:{}", socket.display());
    assert_eq!(outcome(&command(&["up", "web/a", "--admin", &there]).output_in_time().unwrap()).0, 0);
}

#[test]
fn an_instance_is_asked_although_the_file_that_names_it_is_invalid() {
    let backends = ["a", "b"].map(Backend::http);
    let folder = tempfile::tempdir().unwrap();
    let (socket, file) = (folder.path().join("admin.sock"), folder.path().join("pointsman.yaml"));
    let admin = format!("admin: {{bind: 'unix:{}'}}", socket.display());
    std::fs::write(&file, config(&backends, "", &admin)).unwrap();
    let lb = Lb::with_arguments(&["run", "-c", file.to_str().unwrap()]);
    lb.when_logged("admin listening");
    let inside = |arguments: &[&str]| {
        outcome(&command(arguments).current_dir(folder.path()).output_in_time().unwrap())
    };
    std::fs::write(
        &file,
        format!("listeners: {{web: {{bind: nowhere, pol: web}}}}\nlog: ${{MISSING}}\n{admin}\n"),
    )
    .unwrap();
    for arguments in [
        &["status"][..],
        &["status", "-c", "pointsman.yaml"],
        &["connections"],
        &["doctor", "--window", "1s"],
    ] {
        let (code, out, error) = inside(arguments);
        assert!(code != 2 && !out.is_empty() && error.is_empty(), "{arguments:?}: {code} {out} {error}");
    }
    let (code, _, error) = inside(&["reload"]);
    assert!(code == 1 && error.contains("MISSING"), "{code} {error}");
    // Nothing can be read: the default address is asked, or the one that is named.
    std::fs::write(&file, "listeners: [\n").unwrap();
    let (_, _, error) = inside(&["status"]);
    let note = "pointsman.yaml is invalid (`pointsman check -c pointsman.yaml` shows why) and has no readable admin address: \
                asking 127.0.0.1:9900";
    assert!(error.contains(note), "{error}");
    let there = format!("unix:{}", socket.display());
    assert_eq!(inside(&["status", "--admin", &there]).0, 0);
    // With a file that is named, no other instance is asked.
    let (code, _, error) = inside(&["drain", "web/a", "-c", "pointsman.yaml"]);
    assert!(code == 1 && error.contains("pointsman.yaml:") && !error.contains("asking"), "{code} {error}");
    // A file that is named and does not exist is a mistake in the arguments.
    let (code, _, error) = inside(&["status", "-c", "other.yaml"]);
    assert!(code == 1 && error.contains("other.yaml: cannot be read"), "{code} {error}");
}

#[test]
fn a_reload_is_applied_or_refused_with_all_problems() {
    let (lb, backends) = start("", "");
    let (code, out, error) = run(&lb, &["reload"]);
    assert_eq!((code, &*out), (0, "the configuration is applied: 1 listener, 1 pool\n"), "{error}");
    lb.rewrite("listeners: {web: {bind: nowhere, pol: web}}\npools: {web: {}}\n");
    let (code, out, error) = run(&lb, &["reload"]);
    assert_eq!((code, &*out), (1, ""));
    for problem in ["bind", "pol", "discover", "pointsman check"] {
        assert!(error.contains(problem), "{problem} is not in\n{error}");
    }
    lb.rewrite(&config(&backends, ", balance: weighted", "runtime: {workers: 1}"));
    let (code, out, _) = run(&lb, &["reload"]);
    assert!(code == 0 && out.contains("after a restart only: runtime.workers"), "{code} {out}");
    let (code, out, _) = run(&lb, &["reload", "--json"]);
    let json: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &json["pools"]), (0, &1.into()));
}

#[test]
fn a_plan_tells_what_a_reload_would_change_and_an_undo_returns() {
    let (lb, backends) = start("", "");
    let (code, _, error) = run(&lb, &["reload", "--undo"]);
    assert!(code == 1 && error.contains("no reload has changed the configuration"), "{code} {error}");
    let held = [(); 2].map(|()| connect_to(lb.address("web")).unwrap());
    eventually("both are routed", || (lb.logged(&["routed conn="]).len() == 2).then_some(()));
    assert_eq!(run(&lb, &["reload", "--plan"]).1, "a reload would change nothing\n");
    let before = config(&backends, "", "");
    let leaving = format!(", {{address: {}, name: b b}}", backends[1].address);
    let after = config(&backends, ", balance: weighted, on_leave: {close: 10s}", "runtime: {workers: 1}");
    let after =
        after.replace(&leaving, "").replace("pools:", "  more: {bind: 127.0.0.1:0, pool: web}\npools:");
    let after = after.replace(
        "listeners: {web: {bind: 127.0.0.1:0, pool: web}}",
        "listeners:\n  web: {bind: 127.0.0.1:0, pool: web}",
    );
    assert_ne!(before, after);
    lb.rewrite(&after);
    let (code, out, error) = run(&lb, &["reload", "--plan"]);
    for words in [
        "listeners.more added: it begins to accept connections",
        "pools.web changed: b b leaves; its open connections (1) are closed over 10s; settings apply to new connections",
        "  balance: round-robin → weighted",
        "  on_leave.close: 5m → 10s",
        "takes effect after a restart only: runtime.workers",
    ] {
        assert!(code == 0 && out.contains(words), "{words} is not in\n{out}{error}");
    }
    let (_, json, _) = run(&lb, &["reload", "--plan", "--json"]);
    let plan: Value = serde_json::from_str(&json).unwrap();
    let pool =
        plan["changes"].as_array().unwrap().iter().find(|change| change["part"] == "pools.web").unwrap();
    assert_eq!((&pool["change"], &pool["open"]), (&"changed".into(), &2.into()));
    // A plan changes nothing.
    assert_eq!(lb.backends().len(), 2);
    assert!(lb.logged(&["reload applied"]).is_empty(), "{}", lb.log());
    drop(held);

    let of_pool = || lb.status()["pools"][0]["algorithm"].as_str().unwrap().to_owned();
    assert_eq!(run(&lb, &["reload"]).0, 0);
    eventually("b b has left", || (lb.backends().len() == 1).then_some(()));
    let (code, out, error) = run(&lb, &["reload", "--undo"]);
    assert!(
        code == 0 && out.starts_with("the configuration before the last reload is applied"),
        "{out}{error}"
    );
    assert_eq!((of_pool(), lb.backends().len()), ("round-robin".into(), 2));
    eventually("the file is not the configuration in effect", || {
        let (code, out, _) = run(&lb, &["doctor"]);
        (code == 1 && out.contains("returned to the configuration before the last reload")).then_some(())
    });
    // A second undo undoes the first, and a reload applies the file.
    assert_eq!((run(&lb, &["reload", "--undo"]).0, of_pool()), (0, "weighted".into()));
    assert_eq!((run(&lb, &["reload"]).0, of_pool()), (0, "weighted".into()));
    eventually("it is again", || (run(&lb, &["doctor"]).0 == 0).then_some(()));
    lb.rewrite("listeners: {web: {bind: nowhere}}\n");
    let (code, out, error) = run(&lb, &["reload", "--plan"]);
    assert!(code == 1 && out.is_empty() && error.contains("bind"), "{out}{error}");
}

#[test]
fn a_change_needs_the_token_of_the_instance() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    let token = "correct-horse-battery-staple-0123456789";
    std::fs::write(&file, format!("{token}\n")).unwrap();
    let top = format!("admin: {{bind: 127.0.0.1:0, token_file: '{}'}}", file.display());
    let (lb, _backends) = start(", balance: weighted", &top);
    let (code, _, error) = run(&lb, &["weight", "a", "2"]);
    assert!(code == 1 && error.contains("token") && error.contains("--token-file"), "{code} {error}");
    let file = file.to_str().unwrap();
    let (code, out, error) = run(&lb, &["weight", "a", "2", "--token-file", file]);
    assert!(code == 0 && out.contains("weight 2"), "{out}{error}");
    let mut command = command(&["weight", "a", "3", "--admin", &lb.admin().to_string()]);
    assert_eq!(outcome(&command.env("POINTSMAN_TOKEN", token).output_in_time().unwrap()).0, 0);
    // Reading needs no token.
    assert_eq!(run(&lb, &["status"]).0, 0);
}

#[test]
fn a_read_only_command_sends_no_token() {
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap().to_string();
    let heads = std::thread::spawn(move || {
        let head = |_| {
            let (mut stream, _) = accept_within(&server);
            let (mut head, mut byte) = (Vec::new(), [0]);
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() > 0 {
                head.push(byte[0]);
            }
            stream.write_all(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").unwrap();
            String::from_utf8(head).unwrap().to_lowercase()
        };
        [0, 1].map(head)
    });
    for arguments in [["status"], ["reload"]] {
        let mut command = command(&[&arguments[..], &["--admin", &address]].concat());
        command.env("POINTSMAN_TOKEN", "correct-horse-battery-staple").output_in_time().unwrap();
    }
    let [look, change] = join_within(heads, "both requests are read");
    assert!(look.starts_with("get ") && !look.contains("correct-horse"), "{look}");
    assert!(
        change.starts_with("post ") && change.contains("\r\nauthorization: bearer correct-horse"),
        "{change}"
    );
}

#[test]
fn open_connections_are_listed_and_one_is_closed() {
    let (lb, _backends) = start("", "");
    let mut held = [(); 2].map(|()| connect_to(lb.address("web")).unwrap());
    eventually("both are routed", || (lb.logged(&["routed conn="]).len() == 2).then_some(()));
    let (code, out, error) = run(&lb, &["connections", "--backend", "b b"]);
    let line = out.lines().nth(1).unwrap_or_default();
    assert!(code == 0 && out.lines().count() == 2 && line.contains("  b b  "), "{out}{error}");
    let conn = line.split_ascii_whitespace().next().unwrap();
    let (code, out, error) = run(&lb, &["close", conn]);
    assert!(code == 0 && out.starts_with(&format!("closed #{conn}: 127.0.0.1:")), "{out}{error}");
    let ended = |stream: &mut TcpStream| {
        stream.set_read_timeout(Some(std::time::Duration::from_millis(50))).unwrap();
        let reset = |error: std::io::Error| error.kind() == std::io::ErrorKind::ConnectionReset;
        // A reset that the kernel dropped is repeated in answer to a byte.
        std::io::Read::read(stream, &mut [0]).is_err_and(reset)
            || std::io::Write::write(stream, b"?").is_err_and(reset)
    };
    eventually("one of them is closed", || {
        (held.iter_mut().filter_map(|h| ended(h).then_some(())).count() == 1).then_some(())
    });
    let (code, _, error) = run(&lb, &["close", conn]);
    assert!(code == 1 && error.contains(conn), "{code} {error}");
}

#[test]
fn a_recheck_prints_its_result() {
    let (lb, mut backends) = start(", health: {http: /health, every: 1h, timeout: 30s}", "");
    backends[1].kill();
    let (code, out, error) = run(&lb, &["recheck", "web"]);
    assert_eq!(code, 0, "{error}");
    assert!(out.contains("a is up: http passed in ") && out.contains("b b is up: http failed: "), "{out}");
    let (code, out, error) = run(&lb, &["recheck", "web/a"]);
    assert!(code == 0 && out.lines().count() == 1, "{out}{error}");
}

#[test]
fn a_whole_instance_is_drained_on_confirmation() {
    let (mut lb, _backends) = start("", "runtime: {drain: {timeout: 30s}}");
    let held = connect_to(lb.address("web")).unwrap();
    lb.when_logged("routed conn=");
    let waits = Running::start(&lb, &["drain", "--yes", "--wait"]);
    waits.when_printed(&["draining: 1 connection open, with 30s to finish"]);
    lb.when_logged("drain started");
    drop(held);
    waits.when_printed(&["stopped"]);
    assert_eq!(lb.when_ended().code(), Some(0));
}

#[test]
fn logs_shows_the_last_lines_and_then_each_new_one() {
    let (lb, _backends) = start("", "");
    let (code, out, _) = run(&lb, &["logs", "-n", "1000"]);
    let (shown, logged) = (out.lines().count(), lb.log().lines().count());
    assert!(code == 0 && shown >= logged && out.contains("admin listening"), "{out}\n{}", lb.log());
    let follows = Running::start(&lb, &["logs", "-f", "-n", "1", "--pool", "web", "--client", "127.0.0.1"]);
    let json = Running::start(&lb, &["logs", "-f", "-n", "0", "--json", "--backend", "b b"]);
    // The stream may not be open yet; it does not show earlier lines.
    let deadline = std::time::Instant::now() + TIME_LIMIT;
    let mut line = None;
    while line.is_none() && std::time::Instant::now() < deadline {
        http_get(lb.address("web"), "/").unwrap();
        line = follows.1.recv_timeout(std::time::Duration::from_millis(200)).ok();
    }
    let line = line.unwrap();
    assert!(line.contains("client=127.0.0.1:") && line.contains("pool=web"), "{line}");
    lb.when_logged_times(1, &[&line]); // as it was written
    eventually("b's lines are shown", || {
        http_get(lb.address("web"), "/").unwrap();
        let line = json.1.recv_timeout(std::time::Duration::from_millis(100)).ok()?;
        let json: Value = serde_json::from_str(&line).unwrap();
        json["line"].as_str().unwrap().contains("backend=\"b b\"").then_some(())
    });
    follows.when_printed(&["closed", "client=127.0.0.1:"]);
}

#[test]
fn a_json_log_is_printed_unchanged() {
    let backends = ["a", "b"].map(Backend::http);
    let folder = tempfile::tempdir().unwrap();
    let there = format!("unix:{}", folder.path().join("admin.sock").display());
    let config = config(&backends, "", &format!("log: {{format: json}}\nadmin: {{bind: '{there}'}}"));
    let file = folder.path().join("pointsman.yaml");
    std::fs::write(&file, config).unwrap();
    let lb = Lb::with_arguments(&["run", "-c", file.to_str().unwrap()]);
    lb.when_logged("admin listening");
    let inside = |arguments: &[&str]| {
        outcome(&command(arguments).env("POINTSMAN_ADMIN", &there).output_in_time().unwrap())
    };
    let status: Value = serde_json::from_str(&inside(&["status", "--json"]).1).unwrap();
    let address = status["listeners"][0]["addresses"][0].as_str().unwrap().parse().unwrap();
    let line = eventually("it is logged", || {
        http_get(address, "/").unwrap();
        let (_, out, _) = inside(&["logs", "--json", "--backend", "b b"]);
        out.lines().find(|line| line.contains("routed")).map(str::to_owned)
    });
    let json: Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&json["message"], &json["pool"]), (&"routed".into(), &"web".into()));
}

#[test]
fn a_time_limit_too_long_for_the_clock_is_no_limit() {
    let (lb, _backends) = start("", "");
    let drained = run(&lb, &["drain", "web/a", "--wait", "--timeout", "18446744073709551615s"]);
    assert_eq!((drained.0, &*drained.1), (0, "web/a is drained\n"), "{}", drained.2);
}

#[test]
fn waiting_for_a_drain_ends_when_another_process_answers() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let admin = server.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        let mut uptimes = [100.0, 100.2, 0.1].into_iter().chain(std::iter::repeat(0.3));
        for stream in server.incoming() {
            let mut stream = stream.unwrap();
            let mut request = String::new();
            BufReader::new(&stream).read_line(&mut request).unwrap();
            let body = match request.starts_with("POST /api/v1/drain ") {
                true => r#"{"open": 1, "timeout_seconds": 30.0}"#.to_owned(),
                false => format!(r#"{{"open": 1, "uptime_seconds": {}}}"#, uptimes.next().unwrap()),
            };
            let length = body.len();
            let _ = write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
            );
        }
    });
    let drained = command(&["drain", "--yes", "--wait", "--timeout", "20s", "--admin", &admin])
        .output_in_time()
        .unwrap();
    let (code, out, error) = outcome(&drained);
    assert!(code == 0 && out.ends_with("stopped\n"), "{code} {out} {error}");
}
