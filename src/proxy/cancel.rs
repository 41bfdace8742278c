//! PostgreSQL's cancel requests. A client sends one on a separate connection, with a key that only the server of its
//! session knows. The request does not say which backend that is, so every backend gets it; the others ignore it.

use std::collections::HashSet;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;

use tracing::debug;

use super::attempt::{Opening, attempt, send};
use super::context::WorkerContext;
use super::stream::{Push, Stream};
use crate::config;
use crate::domain::Client;
use crate::pool::{Backend, Pool};
use crate::protocol::postgres::CANCEL_REQUEST;

/// The maximum number of further backends that get a request.
const MOST: usize = 64;

/// Sends the `request` of `client` to the backends of `pools` except `to`, which gets it through the relay. `header`: the
/// PROXY header for a pool, if it sends one. Returns the number of backends; failures are only logged.
pub(super) fn send_to_others(
    context: &Rc<WorkerContext>,
    pools: &[&Arc<Pool>],
    to: &Backend,
    client: Client,
    request: [u8; CANCEL_REQUEST],
    header: impl Fn(&config::Pool) -> Option<Vec<u8>>,
) -> usize {
    let members = pools.iter().flat_map(|pool| {
        let settings = pool.settings();
        let backends: Vec<_> = pool.status().members.iter().map(|entry| Arc::clone(&entry.backend)).collect();
        backends.into_iter().map(move |backend| (backend, Arc::clone(&settings)))
    });
    // Each server gets it only once, even if several pools have the server: a second request could cancel the next query.
    let mut reached = HashSet::from([to.address.clone()]);
    let others = members.filter(|(backend, _)| reached.insert(backend.address.clone())).take(MOST);
    let mut sent = 0;
    for (backend, settings) in others {
        let (context, header) = (Rc::clone(context), header(&settings));
        tokio::task::spawn_local(async move {
            let opening = Opening { client, header, requests_tls: false, has_more: true };
            match attempt(&backend, &settings, &opening, &context).await {
                Ok((stream, _)) => deliver(&stream, request, &settings).await,
                Err(error) => debug!(backend = %backend.name, %error, "cancel request not sent"),
            }
        });
        sent += 1;
    }
    sent
}

/// Sends the request and waits until the server has read it, which it shows by closing.
async fn deliver(stream: &Stream, request: [u8; CANCEL_REQUEST], settings: &config::Pool) {
    if send(stream, &request, Push::Now).await.is_ok() {
        let closed = poll_fn(|cx| stream.poll_readable(cx));
        let _ = tokio::time::timeout(settings.connect.timeout, closed).await;
    }
}
