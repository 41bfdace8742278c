//! PostgreSQL's cancel requests, which every backend gets. `tests/docker/databases.rs` has the same with real servers.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};

use crate::support::backend::Backend;
use crate::support::postgres::{AuthMethod, primary, serve_after_startup};
use crate::support::unix_backend::UnixBackend;
use crate::support::{Lb, TIME_LIMIT, connect_to, static_list};

const REQUEST: [u8; 16] = [0, 0, 0, 16, 4, 210, 22, 46, 0, 0, 0, 7, 1, 2, 3, 4];

/// PostgreSQL servers, and their numbers as they get the request.
fn servers(count: usize) -> (Vec<Backend>, Receiver<usize>) {
    let (got, requests) = channel();
    let server = |number| {
        let got = Mutex::new(got.clone());
        Backend::serving(move |mut stream: TcpStream| serve(&mut stream, number, &got))
    };
    ((0..count).map(server).collect(), requests)
}

/// Serves a connection as a PostgreSQL server does; sends the number if it is a cancel request.
fn serve(stream: &mut (impl Read + Write), number: usize, got: &Mutex<Sender<usize>>) {
    let mut length = [0; 4];
    if stream.read_exact(&mut length).is_err() {
        return;
    }
    let mut rest = vec![0; u32::from_be_bytes(length) as usize - 4];
    if stream.read_exact(&mut rest).is_err() {
        return;
    }
    if rest == REQUEST[4..] {
        let _ = got.lock().unwrap().send(number);
    } else {
        let _ = serve_after_startup(stream, AuthMethod::Nothing, &primary());
    }
}

/// Sends the request, waits until the connection is closed, and returns which servers got it.
fn cancel(lb: &Lb, servers: usize, requests: &Receiver<usize>) -> Vec<usize> {
    let mut client = connect_to(lb.address("l")).unwrap();
    client.write_all(&REQUEST).unwrap();
    assert_eq!(client.read_to_end(&mut Vec::new()).unwrap(), 0);
    let mut got: Vec<_> = (0..servers).map(|_| requests.recv_timeout(TIME_LIMIT).unwrap()).collect();
    got.sort_unstable();
    got
}

#[test]
fn a_cancel_request_reaches_every_backend_once() {
    let (servers, requests) = servers(3);
    let addresses: Vec<_> = servers.iter().map(|server| server.address).collect();
    let lb = Lb::start(&format!(
        "listeners: {{l: {{bind: 127.0.0.1:0, pool: p}}}}\npools: {{p: {{discover: {}, health: {{postgres: {{role: any, \
         require_auth: none}}, every: 20s, timeout: 20s}}}}}}\n",
        static_list(&addresses)
    ));
    lb.when_up(addresses.iter().map(ToString::to_string).collect());
    for _ in 0..3 {
        assert_eq!(cancel(&lb, 3, &requests), [0, 1, 2]);
    }
    lb.when_idle();
    assert!(requests.try_recv().is_err(), "a second request could cancel the next query");
    // One connection each, in the log as everywhere.
    assert_eq!(lb.when_logged_times(3, &[" routed "]).len(), 3);
}

#[test]
fn a_pool_with_checks_of_another_kind_declares_postgres_by_a_key() {
    let (servers, requests) = servers(2);
    let addresses: Vec<_> = servers.iter().map(|server| server.address).collect();
    let lb = Lb::start(&format!(
        "listeners: {{l: {{bind: 127.0.0.1:0, pool: p}}}}\npools: {{p: {{discover: {}, postgres: true}}}}\n",
        static_list(&addresses)
    ));
    assert_eq!(cancel(&lb, 2, &requests), [0, 1]);
    lb.when_idle();
    assert!(requests.try_recv().is_err(), "a second request could cancel the next query");
    let copied = lb.when_logged(" cancel request copied ");
    assert!(copied.contains(" listener=l pool=p others=1"), "{copied}");
    assert_eq!(lb.metric("pointsman_listener_cancel_requests_total{listener=\"l\"}"), 1.0);
    let conn = copied.split(' ').find_map(|field| field.strip_prefix("conn=")).unwrap();
    let why = lb.get(&format!("/api/v1/why?conn={conn}")).1;
    assert!(why.contains("a request to cancel a query, which the other backends got too"), "{why}");
}

#[test]
fn a_cancel_request_reaches_servers_at_unix_sockets() {
    let (got, requests) = channel();
    let mut servers = Vec::new();
    let config = "listeners: {l: {bind: 127.0.0.1:0, pool: p}}\npools: {p: {discover: [{static: ['unix:a', 'unix:b']}], \
                  health: {postgres: {role: any, require_auth: none}, every: 20s, timeout: 20s}}}\n";
    let lb = Lb::start_in(config, |folder| {
        for (number, name) in ["a", "b"].into_iter().enumerate() {
            let got = Mutex::new(got.clone());
            let path = folder.join(name);
            servers.push(UnixBackend::serving(&path, move |mut stream| serve(&mut stream, number, &got)));
        }
    });
    lb.when_up(vec!["a".to_owned(), "b".to_owned()]);
    assert_eq!(cancel(&lb, 2, &requests), [0, 1]);
}

#[test]
fn where_servers_have_names_a_cancel_request_reaches_all_of_them() {
    let (servers, requests) = servers(3);
    let [a, b] = [&servers[..2], &servers[2..]]
        .map(|servers| static_list(&servers.iter().map(|server| server.address).collect::<Vec<_>>()));
    let lb = Lb::start(&format!(
        "listeners: {{l: {{bind: 127.0.0.1:0, sni: {{a.example: a, b.example: b}}, postgres: true}}}}\n\
         pools: {{a: {{discover: {a}}}, b: {{discover: {b}}}}}\n"
    ));
    assert_eq!(cancel(&lb, 3, &requests), [0, 1, 2]);
    lb.when_idle();
    assert!(requests.try_recv().is_err(), "a second request could cancel the next query");
}

#[test]
fn without_postgres_the_same_bytes_reach_one_backend() {
    let (servers, requests) = servers(3);
    let addresses: Vec<_> = servers.iter().map(|server| server.address).collect();
    let lb = Lb::start(&format!(
        "listeners: {{l: {{bind: 127.0.0.1:0, pool: p}}}}\npools: {{p: {{discover: {}}}}}\n",
        static_list(&addresses)
    ));
    assert_eq!(cancel(&lb, 1, &requests).len(), 1);
    lb.when_idle();
    assert!(requests.try_recv().is_err());
}
