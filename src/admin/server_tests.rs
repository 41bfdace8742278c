use super::*;
use crate::domain::SocketAddress;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn started() -> (TcpStream, CancellationToken, tokio::task::JoinHandle<()>) {
    serving(router()).await
}

async fn bound(address: &str) -> Bound {
    let address = SocketAddress::Tcp(address.parse().unwrap());
    Bound::bind(&address, SocketMode::default(), None).await.unwrap()
}

async fn serving(router: Router) -> (TcpStream, CancellationToken, tokio::task::JoinHandle<()>) {
    let mut bound = bound("127.0.0.1:0").await;
    bound.header_time = Duration::from_millis(200);
    bound.request_time = Duration::from_millis(200);
    bound.slow_time = Duration::from_millis(300);
    bound.write_time = Duration::from_millis(200);
    start(bound, router).await
}

/// Serves, with a first connection, and what stops it.
async fn start(bound: Bound, router: Router) -> (TcpStream, CancellationToken, tokio::task::JoinHandle<()>) {
    let SocketAddress::Tcp(address) = bound.address else { unreachable!() };
    let stop = CancellationToken::new();
    let server = tokio::spawn(bound.serve(router, stop.clone()));
    (TcpStream::connect(address).await.unwrap(), stop, server)
}

fn router() -> Router {
    let stream = || async {
        let late = futures_util::stream::once(async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            Ok::<_, io::Error>("late")
        });
        axum::body::Body::from_stream(late)
    };
    let route = axum::routing::get(|| async { "hello" }).post(|body: String| async { body });
    let never = axum::routing::post(std::future::pending::<()>);
    Router::new().route("/", route).route("/stream", axum::routing::get(stream)).route("/add", never)
}

/// Reads until the peer closes the connection.
async fn rest(client: &mut TcpStream) -> String {
    let mut rest = String::new();
    client.read_to_string(&mut rest).await.unwrap();
    rest
}

#[tokio::test]
async fn an_incomplete_body_times_out() {
    let (mut client, _stop, _server) = started().await;
    client.write_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf").await.unwrap();
    let answer = rest(&mut client).await;
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("within 200ms"), "{answer}");
}

#[tokio::test]
async fn a_request_to_the_engine_times_out_later() {
    let (mut client, _stop, _server) = started().await;
    client.write_all(b"POST /add HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    let answer = rest(&mut client).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 504 "), "{answer}");
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(body["status"], "failure");
    assert!(body["message"].as_str().unwrap().contains("within 300ms"), "{answer}");
}

#[tokio::test]
async fn an_answer_that_is_a_stream_may_take_longer() {
    let (mut client, _stop, _server) = started().await;
    client.write_all(b"GET /stream HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    let answer = rest(&mut client).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("late"), "{answer}");
}

/// A server that has accepted a connection, without time limits but the one for the first request after its stop.
async fn stoppable(
    first_request_time: Duration,
) -> (TcpStream, CancellationToken, tokio::task::JoinHandle<()>) {
    let mut bound = bound("127.0.0.1:0").await;
    bound.header_time = NEVER;
    bound.first_request_time = first_request_time;
    let (client, stop, server) = start(bound, router()).await;
    // It answers a later connection, so it has accepted the first.
    let at = client.peer_addr().unwrap();
    assert!(get((at.ip(), at.port()), "/").await.contains("200 OK"));
    (client, stop, server)
}

#[tokio::test]
async fn the_first_request_of_a_connection_is_answered_although_the_server_stops() {
    let (mut client, stop, server) = stoppable(NEVER).await;
    stop.cancel();
    server.await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    // It ends with the answer.
    let answer = rest(&mut client).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("hello"), "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");
}

#[tokio::test]
async fn a_connection_without_a_request_ends_soon_after_the_server_stops() {
    let (mut client, stop, server) = stoppable(Duration::from_millis(100)).await;
    stop.cancel();
    assert_eq!(rest(&mut client).await, "");
    server.await.unwrap();
}

/// A route whose answer never ends, and a channel that closes when the answer is dropped.
fn endless() -> (Router, tokio::sync::mpsc::Receiver<()>) {
    let (guard, dropped) = tokio::sync::mpsc::channel(1);
    let guard = Arc::new(std::sync::Mutex::new(Some(guard)));
    let endless = move || {
        let guard = guard.lock().unwrap().take();
        async move {
            let block = axum::body::Bytes::from(vec![b'x'; 64 * 1024]);
            let next = move |guard| {
                let block = block.clone();
                async move { Some((Ok::<_, io::Error>(block), guard)) }
            };
            axum::body::Body::from_stream(futures_util::stream::unfold(guard, next))
        }
    };
    (Router::new().route("/endless", axum::routing::get(endless)), dropped)
}

#[tokio::test]
async fn the_connection_of_a_client_that_does_not_read_its_answer_is_closed() {
    let (router, mut dropped) = endless();
    let (mut client, _stop, _server) = serving(router).await;
    client.write_all(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    // The client is slow, and is served while it reads anything.
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        client.read_exact(&mut vec![0; 4 << 20]).await.unwrap();
    }
    assert!(dropped.try_recv().is_err_and(|end| end == tokio::sync::mpsc::error::TryRecvError::Empty));
    let end = tokio::time::timeout(Duration::from_secs(20), dropped.recv()).await;
    assert_eq!(end, Ok(None), "its answer is still kept for it");
}

/// A server at every address, whose incomplete requests never time out; returns its port.
async fn without_time_limits(router: Router) -> u16 {
    let mut bound = bound("0.0.0.0:0").await;
    bound.header_time = NEVER;
    bound.request_time = NEVER;
    bound.write_time = NEVER;
    let SocketAddress::Tcp(address) = bound.address else { unreachable!() };
    tokio::spawn(bound.serve(router, CancellationToken::new()));
    address.port()
}

const NEVER: Duration = Duration::from_secs(24 * 3600);

/// Sends the same bytes on many connections, from that address of this machine to itself.
async fn hold(count: usize, at: (IpAddr, u16), sent: &str) -> Vec<TcpStream> {
    let mut held = Vec::new();
    for _ in 0..count {
        let mut stream = TcpStream::connect(at).await.unwrap();
        let _ = stream.write_all(sent.as_bytes()).await;
        held.push(stream);
    }
    held
}

/// The answer to a request, before any time limit of the server expires.
async fn get(at: (IpAddr, u16), path: &str) -> String {
    let exchange = async {
        let mut stream = TcpStream::connect(at).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        rest(&mut stream).await
    };
    tokio::time::timeout(Duration::from_secs(20), exchange).await.expect("no answer")
}

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const HALF: [&str; 3] =
    ["", "GET / HTTP/1.1\r\nHost:", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf"];

#[tokio::test]
async fn a_connection_with_an_incomplete_request_is_evicted_for_a_new_one() {
    for half in HALF {
        let at = (LOCAL, without_time_limits(router()).await);
        let mut held = hold(700, at, half).await;
        for _ in 0..10 {
            assert!(get(at, "/").await.ends_with("hello"), "{half:?}");
        }
        // The oldest connection was evicted, and the newest still has its slot.
        let mut byte = [0];
        assert!(!matches!(held[0].read(&mut byte).await, Ok(1..)), "{half:?}");
        let newest = held.last_mut().unwrap();
        assert_eq!(newest.try_read(&mut byte).unwrap_err().kind(), io::ErrorKind::WouldBlock, "{half:?}");
    }
}

#[tokio::test]
async fn a_connection_that_is_being_answered_is_never_evicted() {
    let at = (LOCAL, without_time_limits(router()).await);
    let answered = hold(1, at, "POST /add HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(get(at, "/").await.ends_with("hello")); // the previous request was read by then
    let held = hold(700, at, HALF[1]).await;
    assert!(get(at, "/").await.ends_with("hello"));
    let kind = answered[0].try_read(&mut [0]).unwrap_err().kind();
    assert_eq!(kind, io::ErrorKind::WouldBlock);
    drop(held);
}

#[tokio::test]
async fn a_health_check_is_answered_however_many_clients_do_not_read() {
    let block = axum::body::Bytes::from(vec![b'x'; 8 << 20]);
    let large = axum::routing::get(move || std::future::ready(block));
    let heartbeat = axum::routing::get(|| async { "alive" });
    let router = Router::new().route("/large", large).route("/heartbeat", heartbeat);
    let at = (LOCAL, without_time_limits(router).await);
    let held = hold(300, at, "GET /large HTTP/1.1\r\nHost: x\r\n\r\n").await;
    for _ in 0..10 {
        let answer = get(at, "/heartbeat").await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("alive"), "{answer}");
    }
    let answer = get(at, "/large").await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("\"busy\""), "{answer:.200}");
    drop(held);
}

/// A non-loopback address of this machine; finding it sends no packet.
fn from_outside() -> Option<IpAddr> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    socket.local_addr().ok().map(|address| address.ip()).filter(|ip| !ip.is_loopback())
}

#[tokio::test]
async fn local_and_remote_requests_are_answered_however_many_remote_connections_are_open() {
    let Some(outside) = from_outside() else {
        return crate::testing::skip(
            "this machine has no address but loopback (give it a route to 192.0.2.1)",
        );
    };
    // Incomplete requests, and answers that never end.
    for held in [HALF[1], "POST /add HTTP/1.1\r\nHost: x\r\n\r\n"] {
        let port = without_time_limits(router()).await;
        let connections = hold(700, (outside, port), held).await;
        assert!(get((LOCAL, port), "/").await.ends_with("hello"));
        let answer = get((outside, port), "/heartbeat").await;
        assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}"); // the router has no such path
        drop(connections);
    }
}

#[tokio::test]
async fn unread_answers_are_bounded_and_leave_room_for_other_origins() {
    let size = 4 << 20;
    let large = axum::routing::get(move || std::future::ready(vec![b'x'; size]));
    let count = middleware::from_fn_with_state(PerOrigin::default(), super::super::pending::count);
    let port = without_time_limits(Router::new().route("/large", large).layer(count)).await;
    let local = (LOCAL, port);
    let mut held = hold(64, local, "GET /large HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let refused = get(local, "/large").await;
    assert!(refused.starts_with("HTTP/1.1 503 ") && refused.contains("64 MiB"), "{refused:.200}");
    let mut given = 0;
    for stream in &mut held {
        let mut beginning = [0; 13];
        stream.read_exact(&mut beginning).await.unwrap();
        given += usize::from(&beginning == b"HTTP/1.1 200 ");
    }
    assert_eq!(given, super::super::pending::LIMIT / size);
    if let Some(outside) = from_outside() {
        assert!(get((outside, port), "/large").await.starts_with("HTTP/1.1 200 "));
    }
    drop(held);
    let again = async { while !get(local, "/large").await.starts_with("HTTP/1.1 200 ") {} };
    tokio::time::timeout(Duration::from_secs(20), again).await.expect("there is no room again");
}

#[tokio::test]
async fn an_incomplete_header_times_out() {
    let (mut client, _stop, _server) = started().await;
    client.write_all(b"GET / HTTP/1.1\r\nHost:").await.unwrap();
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).await.unwrap(); // ends
}

#[tokio::test]
async fn an_idle_connection_does_not_delay_the_shutdown() {
    let (mut client, stop, server) = started().await;
    client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut byte = [0];
    client.read_exact(&mut byte).await.unwrap();
    let began = Instant::now();
    stop.cancel();
    server.await.unwrap();
    assert!(began.elapsed() < SHUTDOWN_TIME);
}
