//! What waits in the kernel for receivers that do not read.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::channel;

use crate::support::backend::Backend;
use crate::support::peers::{connect, queues};
use crate::support::{Lb, TIME_LIMIT, accept_within, eventually, join_within, listen_alone, static_list};

/// More than all buffers between the two ends hold.
const SIZE: usize = 32 << 20;
/// More than waits at the sender while the balancer reads.
const STALLED: u32 = 256 << 10;
/// More than the limit by default, with the last write that exceeds it and the bytes in flight.
const LIMIT: u32 = 1 << 20;

fn start(backend: SocketAddr, listener: &str, pool: &str) -> Lb {
    let discover = static_list(&[backend]);
    Lb::start(&format!(
        "listeners: {{l: {{bind: 127.0.0.1:0, pool: p, {listener}}}}}\npools: {{p: {{discover: {discover}, {pool}}}}}\n"
    ))
}

fn read_all(mut stream: TcpStream) {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    assert_eq!(all.len(), SIZE);
}

/// A download in parts of that size, which the client does not read. Returns what waits for the client once `enough` of it
/// and of what waits at the sender; then the client reads everything.
fn download(part: usize, listener: &str, enough: impl Fn(u32, u32) -> bool) -> u32 {
    let (sender, peers) = channel();
    let backend = Backend::serving(move |mut stream| {
        sender.send(stream.peer_addr().unwrap()).unwrap();
        let _ = vec![7; SIZE].chunks(part).try_for_each(|part| stream.write_all(part));
    });
    let lb = start(backend.address, listener, "");
    let client = connect(&lb);
    let to_backend = peers.recv_timeout(TIME_LIMIT).unwrap();
    let waits = eventually("the client is waited for", || {
        let [at_sender, _] = queues(backend.address, to_backend)?;
        let [waits, _] = queues(client.peer_addr().unwrap(), client.local_addr().unwrap())?;
        enough(waits, at_sender).then_some(waits)
    });
    read_all(client);
    waits
}

/// The same for an upload that the backend does not read.
fn upload(pool: &str, enough: impl Fn(u32, u32) -> bool) -> u32 {
    let backend = listen_alone();
    let lb = start(backend.local_addr().unwrap(), "", pool);
    let mut client = connect(&lb);
    let ends = [client.peer_addr().unwrap(), client.local_addr().unwrap()];
    let (server, to_server) = accept_within(&backend);
    let writer = std::thread::spawn(move || client.write_all(&vec![7; SIZE]).unwrap());
    let waits = eventually("the backend is waited for", || {
        let [at_sender, _] = queues(ends[1], ends[0])?;
        let [waits, _] = queues(to_server, server.local_addr().unwrap())?;
        enough(waits, at_sender).then_some(waits)
    });
    let reader = std::thread::spawn(move || read_all(server));
    join_within(writer, "the client");
    join_within(reader, "the backend");
    waits
}

#[test]
fn little_waits_for_a_client_that_does_not_read() {
    // A burst, and parts that do not fill the balancer's buffer.
    for part in [SIZE, 10_000] {
        let waits = download(part, "", |_, at_sender| at_sender > STALLED);
        assert!(waits <= LIMIT, "{waits} bytes");
    }
    download(SIZE, "buffers: {unsent: off}", |waits, _| waits > 2 * LIMIT);
}

#[test]
fn little_waits_for_a_backend_that_does_not_read() {
    let waits = upload("", |_, at_sender| at_sender > STALLED);
    assert!(waits <= LIMIT, "{waits} bytes");
    upload("buffers: {unsent: off}", |waits, _| waits > 2 * LIMIT);
}
