//! Open files: each permitted client has the files it needs, and impossible limits are reported.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output};
use std::time::Duration;

use crate::support::backend::Backend;
use crate::support::dns::Dns;
use crate::support::{Lb, TIME_LIMIT, eventually};

/// The output of `pointsman check` for a configuration under that limit of open files.
fn check(files: u32, config: &str) -> Output {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("pointsman.yaml"), config).unwrap();
    Command::new("sh")
        .args(["-c", &format!("ulimit -n {files} && exec \"$0\" check -c pointsman.yaml")])
        .arg(env!("CARGO_BIN_EXE_pointsman"))
        .current_dir(folder.path())
        .output()
        .unwrap()
}

/// The limit that a warning recommends.
fn raise_to(warning: &str) -> u32 {
    let (_, hint) = warning.split_once("LimitNOFILE=").unwrap_or_else(|| panic!("{warning}"));
    hint.split_whitespace().next().unwrap().parse().unwrap()
}

fn with_limits(process: &str, listener: &str) -> String {
    format!(
        "runtime: {{workers: 2, max_connections: {process}}}\nadmin: {{bind: 127.0.0.1:0}}\n\
         listeners: {{l: {{bind: 127.0.0.1:0, pool: p{listener}}}}}\n\
         pools: {{p: {{discover: [{{static: [192.0.2.1:1]}}]}}}}\n"
    )
}

#[test]
fn a_connection_limit_above_the_open_files_is_reported_with_the_needed_number() {
    for (config, setting) in [
        (with_limits("2000", ""), "runtime.max_connections"),
        (with_limits("auto", ", max_connections: 2000"), "listeners.l.max_connections"),
    ] {
        let output = check(1200, &config);
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{error}");
        let line = error.trim_end();
        assert!(line.starts_with(&format!("pointsman.yaml: warning: {setting} is 2000, but")), "{error}");
        assert!(!line.contains('\n') && line.contains("1200 open files"), "{error}");
        let enough = check(raise_to(line), &config);
        assert_eq!(String::from_utf8(enough.stderr).unwrap(), "", "{line}");

        let lb = Lb::start_with_files(1200, &config);
        let logged = lb.when_logged("WARN the limit of open files lowers");
        assert!(logged.contains(setting) && logged.contains("configured=2000"), "{logged}");
        assert_eq!(raise_to(&logged), raise_to(line));
        let allowed = lb.metric("pointsman_instance_connections_max");
        assert!(logged.contains(&format!("allowed={allowed} ")), "{logged}");
        assert!(line.contains(&format!("allows {allowed}:")), "{line}");
        let enough = Lb::start_with_files(raise_to(line), &config);
        assert!(enough.metric("pointsman_instance_connections_max") >= 2000.0);
        assert!(enough.logged(&["the limit of open files lowers"]).is_empty());
    }
    let config = with_limits("auto", "");
    assert!(check(1200, &config).stderr.is_empty());
    let lb = Lb::start_with_files(1200, &config);
    assert!(lb.logged(&["the limit of open files"]).is_empty());
    // A reload may exceed the limit as well.
    lb.reload(&with_limits("auto", ", max_connections: 3000"));
    lb.when_logged_times(1, &["the limit of open files lowers", "configured=3000"]);
}

#[test]
fn a_limit_that_may_leave_no_files_for_clients_is_reported_with_the_needed_number() {
    let config = with_limits("auto", "");
    let lb = Lb::start_with_files(256, &config);
    let line = lb.when_logged("open files may leave none for clients");
    assert!(lb.metric("pointsman_instance_connections_max") >= 1.0);
    let checked = check(256, &config);
    let warning = String::from_utf8(checked.stderr).unwrap();
    assert!(checked.status.success() && warning.contains("may leave none for clients"), "{warning}");
    assert_eq!(raise_to(&line), raise_to(&warning));
    let lb = Lb::start_with_files(raise_to(&line), &config);
    assert!(lb.logged(&["open files may leave none"]).is_empty());
}

#[test]
fn each_source_that_sends_queries_reserves_files_for_them() {
    let permitted = |sources: &str| {
        let config = with_limits("auto", "").replace("discover: [", &format!("discover: [{sources}"));
        let lb = Lb::launch_with_files(1200, &config);
        lb.when_logged("admin listening");
        lb.metric("pointsman_instance_connections_max")
    };
    let dns = Dns::start();
    dns.containers(&[]);
    let server = dns.server.address;
    let without = permitted("");
    for source in [
        format!("{{dns: 'backend:1', server: '{server}'}}, "),
        format!("{{srv: _web._tcp.test, server: '{server}'}}, "),
        "{docker: {label: a=b, engine: 'tcp://127.0.0.1:1'}}, ".to_owned(),
    ] {
        let with = permitted(&source);
        assert!(with + 8.0 <= without, "{source}: {with} of {without}");
    }
}

/// A server at every address of 127.0.0.0/8 that accepts connections and sends nothing.
fn silent() -> u16 {
    let server = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = server.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let held: Vec<_> = server.incoming().collect();
        drop(held);
    });
    port
}

#[test]
fn checks_and_requests_do_not_use_the_files_of_permitted_clients() {
    const CHECKS: usize = 64;
    let (echo, dns, port) = (Backend::echo(), Dns::start(), silent());
    dns.containers(&[]);
    let silent: Vec<_> = (1..=CHECKS + 10).map(|n| format!("127.0.88.{n}:{port}")).collect();
    // It is ready only after each check has had a result.
    let lb = Lb::launch_with_files(
        1200,
        &format!(
            "runtime: {{workers: 2, max_checks: {CHECKS}}}\nlisteners: {{l: {{bind: 127.0.0.1:0, pool: p}}}}\n\
             pools:\n  p: {{discover: [{{static: ['{}']}}, {{dns: 'backend:1', server: '{}', every: 50ms}}]}}\n  \
             silent:\n    discover: [{{static: [{}]}}]\n    \
             health: {{exchange: {{expect: never}}, every: 1m, timeout: 1m}}\n",
            echo.address,
            dns.server.address,
            silent.join(", ")
        ),
    );
    lb.when_logged("admin listening");
    let permitted = lb.metric("pointsman_instance_connections_max") as usize;
    assert!(permitted > 50, "{permitted}");
    let admin = lb.admin();
    let mut requests = Vec::new();
    // More than the number of slots: waiting clients use no file.
    for _ in 0..300 {
        let mut stream = TcpStream::connect(admin).unwrap();
        let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: ");
        requests.push(stream);
    }
    eventually("checks and admin connections are open", || (lb.open_files() > CHECKS + 100).then_some(()));
    let exchange = |client: &mut TcpStream| client.write_all(b"x").and_then(|()| client.read_exact(&mut [0]));
    let connect = || {
        let client = TcpStream::connect(lb.address("l")).unwrap();
        client.set_read_timeout(Some(TIME_LIMIT)).unwrap();
        client
    };
    let mut clients: Vec<_> = (0..permitted).map(|_| connect()).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        exchange(client).unwrap_or_else(|error| panic!("client {n} of {permitted}: {error}\n{}", lb.log()));
    }
    // One more client waits, and gets the slot of the first that disconnects.
    let mut next = connect();
    next.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    assert!(exchange(&mut next).is_err());
    next.set_read_timeout(Some(TIME_LIMIT)).unwrap();
    clients.pop();
    next.read_exact(&mut [0]).unwrap();
    clients.iter_mut().for_each(|client| exchange(client).unwrap());
    for trouble in
        ["for want of local resources", "accept failed", "check without result", "Too many open files"]
    {
        assert!(lb.logged(&[trouble]).is_empty(), "{trouble}");
    }
    drop(requests);
    eventually("the admin server answers again", || (lb.get("/heartbeat").0 == 200).then_some(()));
}

#[test]
fn a_reload_that_may_need_more_files_than_reserved_is_reported_once() {
    let config = |checks: usize| {
        format!(
            "runtime: {{max_checks: {checks}}}\nlisteners: {{l: {{bind: 127.0.0.1:0, pool: p}}}}\n\
             pools: {{p: {{discover: [{{static: [127.0.0.1:9]}}]}}}}\n"
        )
    };
    let lb = Lb::start(&config(64));
    let warning = "more open files may be needed";
    for checks in [64, 32] {
        assert!(lb.reload(&config(checks)).contains("reload applied"));
    }
    assert!(lb.logged(&[warning]).is_empty(), "{}", lb.log());
    assert!(lb.reload(&config(200)).contains("reload applied"));
    let lines = lb.logged(&[warning]);
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("needed=") && lines[0].contains("reserved="), "{lines:?}");
}
