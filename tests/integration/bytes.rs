//! The byte counters count the bytes written to the receiver.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::support::peers::pair;
use crate::support::{Lb, TIME_LIMIT, eventually};

/// Longer than the kernel takes to forward its buffered data (its first window probe comes after 200 ms).
const SILENCE: Duration = Duration::from_millis(600);

fn counted(lb: &Lb, key: &str) -> u64 {
    let text = lb.get("/api/v1/connections").1;
    let list: serde_json::Value = serde_json::from_str(&text).unwrap();
    list["connections"][0][key].as_u64().unwrap()
}

/// Fills every buffer between `sender` and a receiver that does not read; returns the counter.
fn fill(lb: &Lb, sender: &mut TcpStream, key: &str) -> u64 {
    sender.set_nonblocking(true).unwrap();
    let block = vec![0; 1 << 16];
    let mut before = None;
    eventually("all buffers are full", || {
        let mut taken = false;
        while sender.write(&block).is_ok() {
            taken = true;
        }
        let now = (!taken).then(|| counted(lb, key));
        let full = now.is_some() && now == before;
        before = now;
        if full { now } else { None }
    })
}

/// Reads while the balancer is stopped: the receiver gets exactly the bytes written to it.
fn read_all(receiver: &mut TcpStream, expected: u64) -> u64 {
    let (mut total, mut buffer, began) = (0, vec![0; 1 << 16], Instant::now());
    receiver.set_read_timeout(Some(SILENCE)).unwrap();
    while began.elapsed() < TIME_LIMIT {
        match receiver.read(&mut buffer) {
            Ok(n) => total += n as u64,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                if total >= expected {
                    break;
                }
            }
        }
    }
    total
}

#[test]
fn bytes_are_counted_when_they_are_written_to_the_receiver_in_both_directions() {
    for key in ["bytes_out", "bytes_in"] {
        let (lb, mut client, mut server) = pair("");
        let (sender, receiver) =
            if key == "bytes_out" { (&mut server, &mut client) } else { (&mut client, &mut server) };
        let counted = fill(&lb, sender, key);
        lb.signal("STOP");
        let state = || std::fs::read_to_string(format!("/proc/{}/stat", lb.pid())).unwrap();
        eventually("the balancer stands still", || state().contains(") T ").then_some(()));
        assert_eq!(read_all(receiver, counted), counted, "{key}");
    }
}
