use std::io;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;

use super::*;

/// A listening socket and another handle of it to hand over.
fn listening() -> (TcpListener, HandedSocket) {
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = crate::domain::SocketAddress::Tcp(socket.local_addr().unwrap());
    let place =
        SocketPlace { owner: SocketOwner::Listener("web".into()), configured: address.clone(), address };
    let handed = HandedSocket::share(place, SocketRole::Listening, &socket).unwrap();
    (socket, handed)
}

#[test]
fn connections_that_wait_are_accepted_by_the_process_that_takes_over() {
    let (socket, handed) = listening();
    let address = socket.local_addr().unwrap();
    let clients: Vec<_> = (0..5).map(|_| TcpStream::connect(address).unwrap()).collect();
    let sockets = vec![handed].into_iter().chain((0..100).map(|_| listening().1)).collect();
    let pools = vec![("web".into(), PoolHandOver::default())];
    let draining = vec!["web".into()];

    let invitation = Invitation::new().unwrap();
    let mut successor = Successor::connect(invitation.path()).unwrap();
    let folder = invitation.path().parent().unwrap().to_owned();
    let mut predecessor = invitation.accept().unwrap();
    assert!(!folder.exists());
    let taking = std::thread::spawn(move || {
        let received = predecessor.receive().unwrap();
        let known = (predecessor.pid, received.pools.len(), received.draining.len(), received.next_conn);
        assert_eq!(known, (std::process::id(), 1, 1, 7));
        assert_eq!(received.sockets.len(), 101);
        let places = vec![received.sockets[0].place.clone()];
        let socket = received.sockets.into_iter().next().unwrap().socket;
        predecessor.ready(Taken { pid: 7, places }).unwrap();
        TcpListener::from(socket)
    });
    let taken =
        successor.hand_over(HandOver { sockets, pools, state: None, draining, next_conn: 7 }).unwrap();
    assert_eq!((taken.pid, taken.places.len(), taken.has_admin()), (7, 1, false));
    successor.confirm().unwrap();
    let theirs = taking.join().unwrap();
    drop(socket);
    for client in clients {
        let (_, peer) = theirs.accept().unwrap();
        assert_eq!(peer, client.local_addr().unwrap());
    }
}

#[test]
fn a_process_that_fails_or_ends_is_reported() {
    let attempt = |new: fn(Predecessor)| {
        let invitation = Invitation::new().unwrap();
        let mut successor = Successor::connect(invitation.path()).unwrap();
        let predecessor = invitation.accept().unwrap();
        let new = std::thread::spawn(move || new(predecessor));
        let error = successor.hand_over(HandOver::default()).unwrap_err().to_string();
        new.join().unwrap();
        error
    };
    let failing = |mut predecessor: Predecessor| {
        predecessor.receive().unwrap();
        predecessor.failed("port 80 is taken".to_owned());
    };
    assert_eq!(attempt(failing), "the new process cannot start: port 80 is taken");
    // It fails before it has received anything.
    assert_eq!(
        attempt(|predecessor| predecessor.failed("no such file".to_owned())),
        "the new process cannot start: no such file"
    );
    assert_eq!(attempt(drop), "the new process ended before it accepted connections");
}

#[test]
fn a_running_process_that_refuses_or_ends_is_reported() {
    let attempt = |old: fn(Successor)| {
        let invitation = Invitation::new().unwrap();
        let successor = Successor::connect(invitation.path()).unwrap();
        let mut predecessor = invitation.accept().unwrap();
        old(successor);
        predecessor.receive().unwrap_err().to_string()
    };
    assert_eq!(
        attempt(|successor| successor.refuse(&HandOverError::Cancelled)),
        "it reports: this process was told to stop"
    );
    assert_eq!(attempt(drop), "it has ended the hand-over; its log has the reason");
}

#[test]
fn a_process_that_cannot_be_started_or_reached_is_reported() {
    let missing = Path::new("/nonexistent/pointsman");
    let error = Successor::start(missing, &[]).unwrap_err().to_string();
    assert!(error.starts_with("/nonexistent/pointsman cannot be started: No such file"), "{error}");
    let error = Successor::connect(missing).unwrap_err().to_string();
    assert!(error.contains("cannot be reached at /nonexistent/pointsman"), "{error}");
    let error = Successor::start(Path::new("/bin/false"), &[]).unwrap().hand_over(HandOver::default());
    assert!(matches!(error, Err(HandOverError::Ended)), "{error:?}");
}

#[test]
fn a_hand_over_can_be_cancelled() {
    let invitation = Invitation::new().unwrap();
    let mut successor = Successor::connect(invitation.path()).unwrap();
    let canceller = successor.canceller().unwrap();
    let mut predecessor = invitation.accept().unwrap();
    std::thread::scope(|scope| {
        let handing = scope.spawn(|| successor.hand_over(HandOver::default()));
        predecessor.receive().unwrap();
        canceller.cancel();
        assert!(matches!(handing.join().unwrap(), Err(HandOverError::Ended)));
    });
    let error = predecessor.ready(Taken::default()).unwrap_err();
    assert!(matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof), "{error}");
}
