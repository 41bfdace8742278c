//! Faults of backends.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::scene::Scene;
use crate::support::backend::{Backend, http};
use crate::support::peers::reset;
use crate::support::{
    Lb, TIME_LIMIT, connect_to, end_child, eventually, http_get, limited, listen_alone, static_list,
};

/// A fault that is switched on and off.
#[derive(Clone, Copy)]
enum Fault {
    None,
    Silent,
    Resetting,
}

/// An HTTP server with a fault. It holds no second handle of its connections, so that it can reset them; it accepts for as long
/// as the tests run.
struct Faulty {
    address: SocketAddr,
    fault: Arc<Mutex<Fault>>,
}

impl Faulty {
    fn start() -> Self {
        let listener = listen_alone();
        let (address, fault) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(Fault::None)));
        let current = Arc::clone(&fault);
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let fault = *current.lock().unwrap();
                std::thread::spawn(move || match fault {
                    Fault::None => http(stream, "a"),
                    Fault::Silent => _ = stream.read_to_end(&mut Vec::new()),
                    Fault::Resetting => reset(stream),
                });
            }
        });
        Self { address, fault }
    }

    fn set(&self, fault: Fault) {
        *self.fault.lock().unwrap() = fault;
    }
}

/// The fault of one backend: it is taken out, the others serve, and it returns. Returns the errors that clients saw.
fn taken_out_and_back(scene: &Scene, begin: impl FnOnce(), end: impl FnOnce()) -> Vec<String> {
    let seen = scene.during(|| {
        begin();
        scene.lb.when_up(vec!["b".to_owned()]);
        // An ejection ends by itself, failed checks do not.
        eventually("its checks have failed", || (scene.lb.backends()[0].1 == "down").then_some(()));
        // Those that were routed to it are done.
        eventually("its connections have ended", || {
            let status = scene.lb.status();
            let backends = status["pools"][0]["backends"].as_array().unwrap();
            (backends.iter().find(|one| one["name"] == "a").unwrap()["active"] == 0).then_some(())
        });
        scene.during(|| {}).without_errors();
        end();
        scene.lb.when_up(vec!["a".to_owned(), "b".to_owned()]);
    });
    scene.is_as_before();
    seen.errors
}

#[test]
fn a_backend_that_accepts_and_never_answers_holds_its_clients_until_it_is_down() {
    let (a, b) = (Faulty::start(), Backend::http("b"));
    let scene = Scene::start([a.address, b.address], "", "on_down: reset");
    let errors = taken_out_and_back(&scene, || a.set(Fault::Silent), || a.set(Fault::None));
    // One request of each client at most.
    assert!(errors.len() <= 4 && errors.iter().all(|error| error.contains("reset")), "{errors:?}");
}

#[test]
fn a_backend_that_resets_at_once_fails_a_few_requests_until_it_is_ejected() {
    let (a, b) = (Faulty::start(), Backend::http("b"));
    // Long enough for its checks to fail meanwhile, also on a busy machine: nothing else keeps clients away afterwards.
    let scene = Scene::start([a.address, b.address], "", "eject: {failures: 3, for: 5s}");
    let errors = taken_out_and_back(&scene, || a.set(Fault::Resetting), || a.set(Fault::None));
    // Three in a row eject it, unless its checks take it out before; each client may have a request there meanwhile.
    assert!((1..=3 + 4).contains(&errors.len()), "{errors:?}");
    assert!(errors.iter().all(|error| error.contains("reset")), "{errors:?}");
}

#[test]
fn a_paused_process_is_taken_out_and_returns() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("health"), "ok").unwrap();
    // Its port is free: it has been one of this test.
    let address = Backend::http("probe").address;
    let mut server = Command::new("python3")
        .args(["-m", "http.server", &address.port().to_string(), "--bind", "127.0.0.1", "--directory"])
        .arg(folder.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    eventually("the server answers", || http_get(address, "/health").is_ok().then_some(()));
    let b = Backend::http("b");
    let scene = Scene::start([address, b.address], "", "on_down: reset");
    let pid = server.id();
    let errors = taken_out_and_back(&scene, || Lb::signal_to(pid, "STOP"), || Lb::signal_to(pid, "CONT"));
    assert!(errors.len() <= 4 && errors.iter().all(|error| error.contains("reset")), "{errors:?}");
    drop(scene);
    end_child(&mut server);
}

#[test]
fn a_backend_that_sends_a_byte_at_a_time_is_relayed_as_slowly() {
    let slow = Backend::serving(|mut stream: TcpStream| {
        for byte in b"slowly" {
            std::thread::sleep(Duration::from_millis(200));
            if stream.write_all(&[*byte]).is_err() {
                return;
            }
        }
    });
    let backends = [Backend::http("a"), Backend::http("b")];
    let scene = Scene::start(
        backends.each_ref().map(|one| one.address),
        ", slow: {bind: 127.0.0.1:0, pool: web-slow}",
        &format!("balance: round-robin\n  web-slow: {{discover: {}}}", static_list(&[slow.address])),
    );
    let seen = scene.during(|| {
        let mut client = limited(connect_to(scene.lb.address("slow")).unwrap()).unwrap();
        let mut bytes = Vec::new();
        // Each byte arrives before the next one is sent.
        for _ in 0..3 {
            let mut byte = [0];
            client.read_exact(&mut byte).unwrap();
            bytes.extend(byte);
        }
        client.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, b"slowly");
    });
    assert!(seen.errors.is_empty() && seen.slowest < TIME_LIMIT, "{seen:?}");
    scene.is_as_before();
}
