//! Checks over TLS, of servers of OpenSSL. Checks of real databases over TLS are in `docker/databases.rs`.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::health::when;
use crate::interoperability::{Server, local_port, make_certificate};
use crate::support::backend::Backend;
use crate::support::{Lb, TIME_LIMIT, eventually, static_list};

/// An authority `NAME.pem`, `NAME.key`.
pub(crate) fn authority(folder: &Path, name: &str) -> bool {
    make_certificate(folder, &format!("-subj /CN={name} -keyout {name}.key -out {name}.pem"))
}

/// A certificate `NAME.pem`, `NAME.key` that the authority `ca` has issued for these names.
pub(crate) fn issue(folder: &Path, name: &str, names: &str) -> bool {
    let files = format!("-keyout {name}.key -out {name}.pem -CA ca.pem -CAkey ca.key");
    let extensions = format!("-addext subjectAltName={names} -addext basicConstraints=CA:FALSE");
    make_certificate(folder, &format!("-subj /CN={name} {files} {extensions}"))
}

/// A server at that address that answers requests of HTTP with a page.
fn server(folder: &Path, address: SocketAddr, more: &[&str]) -> Option<Server> {
    let [cert, key] = ["server.pem", "server.key"].map(|file| folder.join(file).display().to_string());
    let at = address.to_string();
    let arguments = ["s_server", "-accept", &at, "-cert", &cert, "-key", &key, "-www", "-quiet"];
    Server::start("openssl", "openssl", &[&arguments, more].concat(), "", address)
}

/// A folder with the authorities `ca` and `other`, and the server's certificate; `None` without OpenSSL.
fn certificates() -> Option<tempfile::TempDir> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let names = "DNS:db.example.com,IP:127.0.0.1";
    (authority(path, "ca") && authority(path, "other") && issue(path, "server", names)).then_some(folder)
}

/// One pool with one backend for each check.
fn config(checks: &[(SocketAddr, String)]) -> String {
    let mut text = "listeners: {l: {bind: 127.0.0.1:0, pool: p0}}\npools:\n".to_owned();
    for (index, (address, check)) in checks.iter().enumerate() {
        let discover = static_list(&[*address]);
        text += &format!(
            "  p{index}: {{discover: {discover}, health: {{{check}, every: 1s, timeout: 1s, fast_every: 100ms, rise: 1}}}}\n"
        );
    }
    text
}

/// Waits until each pool's backend is in this state, with a check's error that contains the text.
fn expect(lb: &Lb, wanted: &[(&str, &str)]) {
    let seen = || {
        let status = lb.status();
        let pools = status["pools"].as_array().unwrap().iter();
        let backend = |pool: &serde_json::Value| pool["backends"][0].clone();
        pools.map(backend).collect::<Vec<_>>()
    };
    let fits = |backend: &serde_json::Value, (state, error): &(&str, &str)| {
        backend["state"] == *state
            && backend["checks"][0]["error"].as_str().unwrap_or_default().contains(error)
    };
    let mut last = Vec::new();
    let deadline = Instant::now() + TIME_LIMIT;
    while Instant::now() < deadline {
        last = seen();
        if last.iter().zip(wanted).all(|(backend, wanted)| fits(backend, wanted)) {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    for (index, (backend, wanted)) in last.iter().zip(wanted).enumerate() {
        assert!(fits(backend, wanted), "pool p{index} is not {wanted:?}: {backend:#}");
    }
}

#[test]
fn the_certificate_of_a_backend_is_verified() {
    let Some(folder) = certificates() else { return };
    let file = |name: &str| folder.path().join(name).display().to_string();
    let [ca, other] = [file("ca.pem"), file("other.pem")];
    let address = local_port();
    let Some(_server) = server(folder.path(), address, &[]) else { return };
    let plain = Backend::serving(|mut stream| {
        let _ = stream.write_all(b"220 mail\r\n");
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let exchange = "exchange: {send: \"GET / HTTP/1.0\\r\\n\\r\\n\", expect: \"200 ok\"}";
    let cases = [
        // The address, by default.
        (address, format!("http: /, tls: {{ca_file: {ca}}}"), ("up", "")),
        (address, format!("http: /, tls: {{ca_file: {ca}, name: db.example.com}}"), ("up", "")),
        (address, format!("tcp: {{}}, tls: {{ca_file: {ca}}}"), ("up", "")),
        (address, format!("{exchange}, tls: {{ca_file: {ca}}}"), ("up", "")),
        (address, "http: /, tls: {verify: false, name: other.example.com}".to_owned(), ("up", "")),
        (
            address,
            format!("http: /, tls: {{ca_file: {ca}, name: other.example.com}}"),
            ("down", "not valid for name \"other.example.com\""),
        ),
        (address, format!("tcp: {{}}, tls: {{ca_file: {other}}}"), ("down", "no authority in")),
        (address, "http: /".to_owned(), ("down", "GET / on")),
        (
            plain.address,
            "http: /, tls: {verify: false}".to_owned(),
            ("down", "the server does not speak TLS at this port"),
        ),
    ];
    let (checks, wanted): (Vec<_>, Vec<_>) =
        cases.into_iter().map(|(address, check, wanted)| ((address, check), wanted)).unzip();
    let lb = Lb::start(&config(&checks));
    expect(&lb, &wanted);
}

#[test]
fn a_check_identifies_itself_if_the_backend_asks() {
    let Some(folder) = certificates() else { return };
    issue(folder.path(), "check", "DNS:pointsman");
    let file = |name: &str| folder.path().join(name).display().to_string();
    let [ca, cert, key, wrong] = ["ca.pem", "check.pem", "check.key", "server.key"].map(file);
    let address = local_port();
    let asks = ["-Verify", "1", "-verify_return_error", "-CAfile", &ca];
    let Some(_server) = server(folder.path(), address, &asks) else { return };
    let with = |more: &str| (address, format!("http: /, tls: {{ca_file: {ca}{more}}}"));
    let lb = Lb::start(&config(&[
        with(&format!(", cert_file: {cert}, key_file: {key}")),
        with(""),
        with(&format!(", cert_file: {cert}, key_file: {wrong}")),
    ]));
    // With TLS 1.3 the server refuses after the client's part of the handshake.
    expect(&lb, &[("up", ""), ("down", "CertificateRequired"), ("joining", "do not fit")]);
}

#[test]
fn the_files_are_read_for_each_check_and_a_missing_one_is_a_local_error() {
    let Some(folder) = certificates() else { return };
    let file = |name: &str| folder.path().join(name);
    let address = local_port();
    let Some(_server) = server(folder.path(), address, &[]) else { return };
    let trusted = file("trusted.pem");
    let lb = Lb::start(&config(&[(address, format!("http: /, tls: {{ca_file: {}}}", trusted.display()))]));
    let put = |name: &str| {
        std::fs::copy(file(name), file("new")).unwrap();
        std::fs::rename(file("new"), &trusted).unwrap();
    };
    lb.when_logged("trusted.pem cannot be read: No such file");
    assert_eq!(lb.backends()[0].1, "joining");
    put("ca.pem");
    when(&lb, "up", "");
    put("other.pem");
    when(&lb, "down", "no authority in");
    put("ca.pem");
    when(&lb, "up", "");
    // No evidence against the backend.
    put("ca.key");
    let local =
        format!("pointsman_health_checks_total{{pool=\"p0\",backend=\"{address}\",result=\"local\"}}");
    let before = lb.metric(&local);
    eventually("more checks without a result", || (lb.metric(&local) > before + 5.0).then_some(()));
    lb.when_logged("has no certificate in PEM");
    assert_eq!(lb.backends()[0].1, "up");
}
