//! Databases by role.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use super::*;
use crate::support::postgres::{AuthMethod, in_recovery, serve_after_startup};

/// The addresses that have the first role.
struct Roles(Arc<AtomicU8>);

impl Roles {
    fn new() -> (Self, impl Fn(IpAddr) -> bool + Send + Sync + 'static) {
        let first = Arc::new(AtomicU8::new(1));
        let theirs = Arc::clone(&first);
        (Self(first), move |candidate| candidate == ip(theirs.load(Ordering::SeqCst)))
    }

    /// Asserts that each listener connects to the server of its role. When the roles change, the clients of the old
    /// first server are disconnected at once, and new clients reach the new server.
    fn are_followed(&self, lb: &Lb, first: &str, second: &str, kind: &str) {
        for name in [first, second] {
            when_up(lb, name, 1, &[kind]);
        }
        assert_eq!(pool(lb, first)["algorithm"], "round-robin");
        assert_eq!(pool(lb, second)["algorithm"], "least-connections");
        let (mut old, at) = self.open(lb, first).unwrap();
        assert_eq!((at, self.open(lb, second).unwrap().1), (ip(1), ip(2)));
        self.0.store(2, Ordering::SeqCst);
        assert_eq!(old.read(&mut [0]).unwrap(), 0, "the client of the old one is sent away");
        for (name, now) in [(first, 2), (second, 1)] {
            eventually(&format!("{name} leads to the other one"), || {
                (self.open(lb, name)?.1 == ip(now)).then_some(())
            });
        }
    }

    /// Connects to a listener; returns the connection and the address of its server.
    fn open(&self, lb: &Lb, listener: &str) -> Option<(TcpStream, IpAddr)> {
        let mut stream = connect_to(lb.address(listener)).ok()?;
        stream.write_all(b"name\n").ok()?;
        let mut line = Vec::new();
        let mut byte = [0];
        while byte != *b"\n" {
            stream.read_exact(&mut byte).ok()?;
            line.extend(byte);
        }
        Some((stream, String::from_utf8(line).unwrap().trim().parse().unwrap()))
    }
}

/// Sends the server's address to a client that requests its name; passes the first bytes of other clients to `check`.
fn serve_role(mut stream: TcpStream, ip: IpAddr, check: impl Fn(&mut TcpStream, &[u8])) {
    let mut bytes = [0; 4096];
    let Ok(n @ 1..) = stream.read(&mut bytes) else { return };
    if !bytes.starts_with(b"name\n") {
        return check(&mut stream, &bytes[..n]);
    }
    let _ = writeln!(stream, "{ip}");
    let _ = stream.read(&mut [0]);
}

#[test]
fn redis_leads_to_the_master_and_to_the_replicas() {
    let (roles, is_master) = Roles::new();
    let server = everywhere(move |stream, ip| {
        serve_role(stream, ip, |stream, bytes| {
            assert!(bytes.ends_with(b"ROLE\r\n"), "{bytes:?}");
            let role = if is_master(ip) { "$6\r\nmaster" } else { "$5\r\nslave" };
            let _ = stream.write_all(format!("+PONG\r\n*1\r\n{role}\r\n").as_bytes());
        });
    });
    let dns = dns("redis", [1, 2]);
    let lb = Example::new("redis").with_dns(&dns, server.address.port()).start();
    roles.are_followed(&lb, "master", "replicas", "redis");
    end(lb);
}

#[test]
fn postgres_leads_to_the_primary_and_to_the_standbys() {
    let (roles, is_primary) = Roles::new();
    let server = everywhere(move |stream, ip| {
        serve_role(stream, ip, |stream, bytes| {
            let startup = String::from_utf8_lossy(&bytes[8..]);
            assert!(startup.contains("user\0pointsman\0"), "{startup:?}");
            let answer = in_recovery(if is_primary(ip) { b"f" } else { b"t" });
            let _ = serve_after_startup(stream, AuthMethod::Scram("secret"), &answer);
        });
    });
    let dns = dns("postgres", [1, 2]);
    let example = Example::new("postgres").with_dns(&dns, server.address.port());
    let lb = example.with_secret("postgres_check", "secret\n").start();
    roles.are_followed(&lb, "primary", "standbys", "postgres");
    end(lb);
}

#[test]
fn patroni_leads_to_the_primary_and_to_the_replicas() {
    let (roles, is_primary) = Roles::new();
    let patroni = everywhere(move |mut stream, ip| {
        let Some(request) = backend::read_request(&mut stream) else { return };
        let path = request.split(' ').nth(1).unwrap_or_default();
        let status = match (path, is_primary(ip)) {
            ("/primary", true) | ("/replica?lag=16MB", false) => 200,
            _ => 503,
        };
        let _ = write!(stream, "HTTP/1.1 {status} So\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    });
    let server = everywhere(|stream, ip| serve_role(stream, ip, |_, bytes| panic!("{bytes:?}")));
    let dns = dns("patroni", [1, 2]);
    let example = Example::new("patroni").with_dns(&dns, server.address.port());
    let lb = example.with("port: 8008", &format!("port: {}", patroni.address.port())).start();
    roles.are_followed(&lb, "primary", "replicas", "http");
    end(lb);
}
