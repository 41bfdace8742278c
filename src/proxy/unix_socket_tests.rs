//! Which files at a path are replaced, kept and removed.

use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixDatagram, UnixStream};

use super::*;

const MODE: SocketMode = SocketMode(0o660);

fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("l.sock");
    (folder, path)
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn a_socket_listens_with_its_mode_and_is_removed_at_the_end() {
    let (_folder, path) = folder();
    for wanted in [0o600, 0o660, 0o666, 0o777] {
        let socket = UnixSocket::bind(&path, SocketMode(wanted)).unwrap();
        assert_eq!(mode(&path), wanted);
        let _client = UnixStream::connect(&path).unwrap();
        socket.set_mode(SocketMode(0o606)).unwrap();
        assert_eq!(mode(&path), 0o606);
        socket.remove();
        assert!(!path.exists());
    }
}

#[test]
fn a_socket_that_refuses_connections_is_replaced() {
    let (_folder, path) = folder();
    drop(UnixListener::bind(&path).unwrap());
    let _socket = UnixSocket::bind(&path, MODE).unwrap();
    UnixStream::connect(&path).unwrap();
    let (_folder, path) = folder();
    drop(UnixDatagram::bind(&path).unwrap());
    UnixSocket::bind(&path, MODE).unwrap();
}

#[test]
fn any_other_file_is_kept_and_reported() {
    let (folder, path) = folder();
    let other = folder.path().join("other");
    fs::write(&other, "precious").unwrap();
    let make: [(&str, &dyn Fn()); 4] = [
        ("a file", &|| fs::write(&path, "precious").unwrap()),
        ("a directory", &|| fs::create_dir(&path).unwrap()),
        ("a symbolic link", &|| symlink(&other, &path).unwrap()),
        ("a symbolic link", &|| symlink(folder.path().join("nowhere"), &path).unwrap()),
    ];
    for (what, make) in make {
        make();
        let before = Inode::from(&fs::symlink_metadata(&path).unwrap());
        let error = UnixSocket::bind(&path, MODE).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        assert!(error.to_string().contains(what), "{error}");
        assert_eq!(Inode::from(&fs::symlink_metadata(&path).unwrap()), before);
        let removed = fs::remove_file(&path).or_else(|_| fs::remove_dir(&path));
        removed.unwrap();
    }
    assert_eq!(fs::read_to_string(&other).unwrap(), "precious");
    // A link to a socket is kept, too.
    let socket = folder.path().join("socket");
    drop(UnixListener::bind(&socket).unwrap());
    symlink(&socket, &path).unwrap();
    assert!(UnixSocket::bind(&path, MODE).is_err() && socket.exists());
}

#[test]
fn a_socket_in_use_is_kept_even_if_its_queue_is_full() {
    let (_folder, path) = folder();
    let in_use = || UnixSocket::bind(&path, MODE).unwrap_err().kind();
    let socket = UnixSocket::bind(&path, MODE).unwrap();
    assert_eq!(in_use(), ErrorKind::AddrInUse);
    rustix::net::listen(&socket.listener, 0).unwrap();
    let connect = || {
        let client = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None).unwrap();
        client.connect(&SockAddr::unix(&path).unwrap()).map(|()| client)
    };
    let clients: Vec<_> = (0..10).map_while(|_| connect().ok()).collect();
    assert!(clients.len() < 10, "its queue is not full");
    assert_eq!(in_use(), ErrorKind::AddrInUse);
    socket.remove();
    let _datagrams = UnixDatagram::bind(&path).unwrap();
    assert_eq!(in_use(), ErrorKind::AddrInUse);
}

#[test]
fn a_file_that_has_taken_the_path_is_neither_removed_nor_changed() {
    let (_folder, path) = folder();
    let socket = UnixSocket::bind(&path, MODE).unwrap();
    fs::remove_file(&path).unwrap();
    fs::write(&path, "precious").unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    assert!(socket.set_mode(SocketMode(0o666)).is_err());
    socket.remove();
    assert_eq!((fs::read_to_string(&path).unwrap().as_str(), mode(&path)), ("precious", 0o600));
}
