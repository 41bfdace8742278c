//! Databases by role.

use std::io::BufRead;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned,
};

use super::*;
use crate::support::peers::is_reset;
use crate::support::postgres::{AuthMethod, in_recovery, primary, serve_after_startup};
use crate::tls_checks::{authority, issue};

/// The request for TLS by which PostgreSQL's clients begin.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

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
fn serve_role<S: Read + Write>(mut stream: S, ip: IpAddr, check: impl Fn(&mut S, &[u8])) {
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
fn postgres_tls_leads_to_the_server_that_a_client_names_and_checks_its_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let names = "DNS:orders.example.com,DNS:users.example.com";
    if !(authority(folder.path(), "ca") && issue(folder.path(), "server", names)) {
        return;
    }
    let [ca, certificate, key] = ["ca.pem", "server.pem", "server.key"].map(|name| folder.path().join(name));
    let provider = || Arc::new(ring::default_provider());
    let of_server = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_file(certificate).unwrap()],
            PrivateKeyDer::from_pem_file(key).unwrap(),
        );
    let of_server = Arc::new(of_server.unwrap());
    let server = everywhere(move |mut stream, ip| {
        let mut request = [0; 8];
        if stream.read_exact(&mut request).is_err() {
            return;
        }
        assert_eq!(request, SSL_REQUEST);
        let _ = stream.write_all(b"S");
        let tls = StreamOwned::new(ServerConnection::new(Arc::clone(&of_server)).unwrap(), stream);
        serve_role(tls, ip, |tls, _| {
            let _ = serve_after_startup(tls, AuthMethod::Scram("secret"), &primary());
        });
    });
    let dns = dns("orders", [1]);
    dns.zone.set("users", [ip(2)]);
    let lb = Example::new("postgres-tls")
        .with_dns(&dns, server.address.port())
        .with_secret("postgres_check", "secret\n")
        .with(r"/etc/pointsman/ca\.pem", "ca.pem")
        .with_file("ca.pem", &std::fs::read_to_string(&ca).unwrap())
        .start();
    for name in ["orders", "users"] {
        when_up(&lb, name, 1, &["postgres"]);
    }
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca).unwrap()).unwrap();
    let of_client = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let of_client = Arc::new(of_client);
    let reached = |name: &'static str| {
        let mut stream = connect_to(lb.address("databases")).unwrap();
        stream.write_all(&SSL_REQUEST).unwrap();
        let mut answer = [0];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"S");
        let name = ServerName::try_from(name).unwrap();
        let tls = ClientConnection::new(Arc::clone(&of_client), name).unwrap();
        let mut tls = StreamOwned::new(tls, stream);
        tls.write_all(b"name\n")?;
        let mut line = String::new();
        std::io::BufReader::new(tls).read_line(&mut line)?;
        std::io::Result::Ok(line.trim().to_owned())
    };
    assert_eq!(reached("orders.example.com").unwrap(), ip(1).to_string());
    assert_eq!(reached("users.example.com").unwrap(), ip(2).to_string());
    assert!(reached("other.example.com").unwrap_err().to_string().contains("UnrecognisedName"));
    // Without TLS.
    let mut stream = connect_to(lb.address("databases")).unwrap();
    stream.write_all(&[0, 0, 0, 9, 0, 3, 0, 0, 0]).unwrap();
    is_reset(&mut stream);
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
