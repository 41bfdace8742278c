//! The relay's inner loop: a message to the backend and back, over Unix sockets, which cost less than TCP.

use std::future::poll_fn;
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::sync::Arc;

use divan::Bencher;
use divan::counter::BytesCount;
use pointsman_core::config::{Listener as ListenerConfig, Pool};
use pointsman_core::domain::{Client, Plane, SocketAddress};
use pointsman_core::health::Pace;
use pointsman_core::pool::Handle;
use pointsman_core::proxy::clock::Moment;
use pointsman_core::proxy::listener::{Listener, Settings};
use pointsman_core::proxy::progress::Progress;
use pointsman_core::proxy::relay::{Relay, RelayBuffers};
use pointsman_core::proxy::splice::Pipes;
use pointsman_core::proxy::stream::Stream;
use pointsman_core::telemetry::journal::Journal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};

/// The listener that a connection needs; it does not listen.
fn listener() -> Arc<Listener> {
    let pace = Arc::new(Pace::new(NonZeroUsize::MIN));
    let pool = Pool::new(Vec::new());
    let handle = Handle::start("web".into(), &pool, &Arc::default(), &pace, &Journal::default());
    let address: SocketAddress = "unix:web".parse().expect("an address");
    let config = ListenerConfig::new(address, "web".into(), &pool);
    let settings = Settings::new(&config, Plane::User, |_| Some(Arc::clone(&handle.pool)));
    Arc::new(Listener::new("web".into(), settings.expect("the pool exists")))
}

/// A peer that exchanges messages with another one, which echoes them, through a relay or directly.
fn exchange(bencher: Bencher<'_, '_>, size: usize, relayed: bool) {
    let runtime: LocalRuntime =
        Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).expect("a runtime");
    let mut client = runtime.block_on(async {
        let (client, client_side) = UnixStream::pair().expect("sockets");
        let mut echo = client_side;
        if relayed {
            let (backend_side, backend) = UnixStream::pair().expect("sockets");
            let client_side = std::mem::replace(&mut echo, backend);
            tokio::task::spawn_local(async move {
                let progress = Rc::new(Progress::new(1, Client::Unix, listener(), Moment::now()));
                let buffers = RelayBuffers::new(Pipes::new(16, Arc::default()));
                let (client, backend) = (Stream::Unix(client_side), Stream::Unix(backend_side));
                let mut relay = Relay::new(&client, &backend, &progress, &buffers, Vec::new());
                poll_fn(|cx| relay.poll(cx)).await
            });
        }
        tokio::task::spawn_local(async move {
            let mut buffer = vec![0; size];
            while echo.read_exact(&mut buffer).await.is_ok() && echo.write_all(&buffer).await.is_ok() {}
        });
        client
    });
    let (message, mut buffer) = (vec![1; size], vec![0; size]);
    bencher.counter(BytesCount::new(size)).bench_local(|| {
        runtime.block_on(async {
            let (mut reader, mut writer) = client.split();
            let (sent, received) = tokio::join!(writer.write_all(&message), reader.read_exact(&mut buffer));
            sent.and(received.map(drop)).expect("an exchange");
        });
    });
}

const SIZES: [usize; 3] = [64, 16 * 1024, 1024 * 1024];

#[divan::bench(args = SIZES)]
fn directly(bencher: Bencher<'_, '_>, size: usize) {
    exchange(bencher, size, false);
}

#[divan::bench(args = SIZES)]
fn relayed(bencher: Bencher<'_, '_>, size: usize) {
    exchange(bencher, size, true);
}
