//! Unix sockets of listeners and the admin server: other files at the path stay, permitted users may connect, and only
//! the own socket is removed.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;

use crate::support::backend::Backend;
use crate::support::{Lb, TIME_LIMIT, eventually, static_list};

/// A listener at `l.sock` in the working directory, with more settings.
fn config(backend: &Backend, settings: &str) -> String {
    let discover = static_list(&[backend.address]);
    format!(
        "listeners: {{l: {{bind: \"unix:l.sock\", pool: p{settings}}}}}\npools: {{p: {{discover: {discover}}}}}\n"
    )
}

/// A backend that sends a greeting and waits for the client to close.
fn greeter() -> Backend {
    Backend::serving(|mut stream| {
        let _ = stream.write_all(b"hello").and_then(|()| stream.read(&mut [0]));
    })
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o777
}

/// The backend's greeting, through the socket.
fn greeting(path: &Path) -> String {
    let mut client = UnixStream::connect(path).unwrap();
    client.set_read_timeout(Some(TIME_LIMIT)).unwrap();
    let mut bytes = [0; 5];
    client.read_exact(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn another_file_at_the_path_is_reported_by_check_and_run_and_kept() {
    let folder = tempfile::tempdir().unwrap();
    let precious = folder.path().join("precious");
    fs::write(&precious, "precious").unwrap();
    let listener = "listeners: {l: {bind: 'unix:precious', pool: p}}";
    let pools = "pools: {p: {discover: [{static: [10.0.0.1:1]}]}}";
    let admin = "admin: {bind: 'unix:precious'}\nlisteners: {l: {bind: 127.0.0.1:0, pool: p}}";
    for (config, what) in [(listener, "listener \"l\""), (admin, "the admin server")] {
        fs::write(folder.path().join("pointsman.yaml"), format!("{config}\n{pools}\n")).unwrap();
        for (arguments, code) in
            [(&["check", "-c", "pointsman.yaml"][..], 1), (&["run", "-c", "pointsman.yaml"], 2)]
        {
            let mut command = Command::new(env!("CARGO_BIN_EXE_pointsman"));
            let out = command.args(arguments).current_dir(folder.path()).output().unwrap();
            // The log quotes the message.
            let error = String::from_utf8_lossy(&out.stderr).replace('\\', "");
            assert_eq!(out.status.code(), Some(code), "{error}");
            assert_eq!(error.matches("there is a file at this path").count(), 1, "once: {error}");
            assert!(
                error.contains(&format!("{what} cannot listen on unix:precious: there is a file")),
                "{error}"
            );
            assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
        }
    }
}

#[test]
fn a_socket_in_use_is_kept_and_a_leftover_one_is_replaced() {
    let backend = greeter();
    let mut lb = Lb::start(&config(&backend, ""));
    let path = lb.folder().join("l.sock");
    // Another instance in the same directory, with the same path.
    let mut command = Command::new(env!("CARGO_BIN_EXE_pointsman"));
    let out = command.args(["run", "-c", "pointsman.yaml"]).current_dir(lb.folder()).output().unwrap();
    assert_eq!(out.status.code(), Some(2));
    assert_eq!(greeting(&path), "hello");
    lb.signal("TERM");
    assert!(lb.when_ended().success());
    assert!(!path.exists());
    let lb = Lb::start_in(&config(&backend, ""), |folder| {
        drop(UnixListener::bind(folder.join("l.sock")).unwrap());
    });
    assert_eq!(greeting(&lb.folder().join("l.sock")), "hello");
}

#[test]
fn a_socket_has_its_mode_under_any_umask_and_a_reload_changes_it() {
    let backend = greeter();
    let admin = "admin: {bind: 'unix:admin.sock'}\n";
    for umask in ["000", "077", "777"] {
        let lb = Lb::start_after(
            &[],
            &format!("umask {umask}"),
            &format!("{admin}{}", config(&backend, "")),
            |_| (),
        );
        lb.when_logged("listening listener=l");
        for socket in ["l.sock", "admin.sock"] {
            assert_eq!(mode(&lb.folder().join(socket)), 0o660, "{socket}, umask {umask}");
        }
        assert_eq!(greeting(&lb.folder().join("l.sock")), "hello");
    }
    let lb = Lb::start(&config(&backend, ", socket_mode: '0606'"));
    let path = lb.folder().join("l.sock");
    assert_eq!(mode(&path), 0o606);
    assert!(lb.reload(&config(&backend, ", socket_mode: '0666'")).contains("reload applied"));
    eventually("the mode is changed", || (mode(&path) == 0o666).then_some(()));
    assert_eq!(greeting(&path), "hello");
}

#[test]
fn at_the_end_only_its_own_socket_is_removed() {
    let backend = greeter();
    let admin = "admin: {bind: 'unix:admin.sock'}\n";
    let mut lb = Lb::start_after(&[], ":", &format!("{admin}{}", config(&backend, "")), |_| ());
    lb.when_logged("listening listener=l");
    let (listener, admin) = (lb.folder().join("l.sock"), lb.folder().join("admin.sock"));
    fs::remove_file(&listener).unwrap();
    let _theirs = UnixListener::bind(&listener).unwrap();
    fs::remove_file(&admin).unwrap();
    fs::write(&admin, "precious").unwrap();
    fs::set_permissions(&admin, fs::Permissions::from_mode(0o640)).unwrap();
    lb.signal("TERM");
    assert!(lb.when_ended().success());
    UnixStream::connect(&listener).unwrap();
    assert_eq!((fs::read_to_string(&admin).unwrap().as_str(), mode(&admin)), ("precious", 0o640));
}
