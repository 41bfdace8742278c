//! Connecting to backends in the order in which the clients were accepted.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};

use tokio::net::TcpStream;

use super::sockets;
use crate::config::SourceAddress;

/// A worker's handshakes whose final ACK waits for the client's first bytes (see [`sockets::begin_connect`]). A backend
/// accepts a connection only with that ACK, so that a later connection without first bytes would overtake them: their
/// ACKs are sent before it starts.
#[derive(Debug, Default)]
pub(super) struct Handshakes {
    /// By backend, oldest first.
    delayed: RefCell<BTreeMap<Key, Weak<TcpStream>>>,
    begun: Cell<u64>,
}

/// A backend's address, and a number that grows with each handshake.
type Key = (SocketAddr, u64);

impl Handshakes {
    /// Connects to a backend, from `source` or an address that the kernel chooses. `first_bytes`: whether there are bytes
    /// to send at once.
    pub(super) async fn connect(
        &self,
        address: SocketAddr,
        source: Option<SourceAddress>,
        first_bytes: bool,
    ) -> io::Result<TcpStream> {
        if !first_bytes {
            self.acknowledge(address);
            let stream = sockets::begin_connect(address, source, false)?;
            sockets::connected(&stream, address).await?;
            return Ok(stream);
        }
        let stream = Rc::new(sockets::begin_connect(address, source, true)?);
        let entry = DelayedHandshake::new(self, address, &stream);
        let connected = sockets::connected(&stream, address).await;
        drop(entry);
        connected?;
        // Only `acknowledge` shares it, and never across an await.
        Rc::into_inner(stream).ok_or_else(|| io::Error::other("the connection is shared"))
    }

    /// Sends the delayed ACKs to a backend, oldest first.
    fn acknowledge(&self, address: SocketAddr) {
        let mut delayed = self.delayed.borrow_mut();
        while let Some((&key, _)) = delayed.range((address, 0)..=(address, u64::MAX)).next() {
            if let Some(stream) = delayed.remove(&key).and_then(|stream| stream.upgrade()) {
                sockets::acknowledge(&stream);
            }
        }
    }
}

/// A handshake's entry, removed on drop.
struct DelayedHandshake<'a> {
    handshakes: &'a Handshakes,
    key: Key,
}

impl<'a> DelayedHandshake<'a> {
    fn new(handshakes: &'a Handshakes, address: SocketAddr, stream: &Rc<TcpStream>) -> Self {
        let number = handshakes.begun.get();
        handshakes.begun.set(number.wrapping_add(1));
        handshakes.delayed.borrow_mut().insert((address, number), Rc::downgrade(stream));
        Self { handshakes, key: (address, number) }
    }
}

impl Drop for DelayedHandshake<'_> {
    fn drop(&mut self) {
        self.handshakes.delayed.borrow_mut().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::TcpListener;

    use tokio::io::AsyncWriteExt;
    use tokio::runtime::{Builder, LocalOptions, LocalRuntime};

    use crate::testing::{TEST_TIMEOUT, in_time};

    /// A runtime, and a server whose `accept` does not wait forever (SO_RCVTIMEO in socket(7)).
    fn runtime_and_server() -> (LocalRuntime, TcpListener, SocketAddr) {
        let runtime =
            Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        socket2::SockRef::from(&listener).set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
        let address = listener.local_addr().unwrap();
        (runtime, listener, address)
    }

    /// Polls a future once, which makes its system calls, and leaves it pending.
    async fn begin<F: Future>(mut future: std::pin::Pin<&mut F>) {
        std::future::poll_fn(|cx| {
            assert!(future.as_mut().poll(cx).is_pending());
            std::task::Poll::Ready(())
        })
        .await;
    }

    #[test]
    fn a_connection_without_first_bytes_does_not_overtake_earlier_ones_with_them() {
        let (runtime, listener, address) = runtime_and_server();
        runtime.block_on(async {
            let handshakes = Handshakes::default();
            let mut first = std::pin::pin!(handshakes.connect(address, None, true));
            let mut second = std::pin::pin!(handshakes.connect(address, None, true));
            let mut third = std::pin::pin!(handshakes.connect(address, None, false));
            begin(first.as_mut()).await;
            begin(second.as_mut()).await;
            begin(third.as_mut()).await;
            // The bytes are sent in reverse order, but the backend accepts the connections in the original order.
            let streams = in_time("all are connected", async {
                [third.await.unwrap(), second.await.unwrap(), first.await.unwrap()]
            });
            let streams = streams.await;
            for (mut stream, byte) in streams.into_iter().zip([b'3', b'2', b'1']) {
                stream.write_all(&[byte]).await.unwrap();
            }
            assert!(handshakes.delayed.borrow().is_empty());
        });
        let accepted = (0..3).map(|_| {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            byte[0]
        });
        assert_eq!(accepted.collect::<Vec<_>>(), b"123");
    }

    #[test]
    fn an_abandoned_handshake_leaves_no_entry() {
        let (runtime, _listener, address) = runtime_and_server();
        runtime.block_on(async {
            let handshakes = Handshakes::default();
            {
                let mut connecting = std::pin::pin!(handshakes.connect(address, None, true));
                begin(connecting.as_mut()).await;
                assert_eq!(handshakes.delayed.borrow().len(), 1);
            }
            assert!(handshakes.delayed.borrow().is_empty());
        });
    }
}
