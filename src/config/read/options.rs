//! Options of TCP sockets: those of a listener, and those that listeners and pools have in common.

use std::num::NonZeroU16;
use std::time::Duration;

use super::super::decode::Table;
use super::super::model::{BindAddress, Pool, SocketOptions};
use super::super::scalar::{duration_within, number, or_off};

/// The kernel counts it in whole seconds and takes no more than 32767 of them (tcp(7), `TCP_KEEPIDLE`).
const KEEPALIVE: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(9 * 3600)];
/// The kernel counts it in whole seconds, and in SYN-ACKs: seven make two minutes, after which no client waits.
const DEFER_ACCEPT: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(120)];
/// In less, one lost segment and its repetition (RFC 6298) would end a sound connection. In a day, nobody waits.
const USER_TIMEOUT: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(24 * 3600)];

/// The options of a listener that listens at `bind`, in front of `pool` if that is known.
pub(super) fn options(table: &Table<'_>, bind: &[BindAddress], pool: Option<&Pool>) -> SocketOptions {
    let default = pool.map_or(SocketOptions::NONE, SocketOptions::new);
    let keepalive = keepalive(table);
    let defer_accept = time(table, "defer_accept", DEFER_ACCEPT);
    let fast_open = table.read("fast_open", or_off(number(1..=u16::MAX.into())));
    let user_timeout = user_timeout(table);
    let wanted = [
        ("keepalive", keepalive.flatten().is_some()),
        ("defer_accept", defer_accept.flatten().is_some()),
        ("fast_open", fast_open.flatten().is_some()),
        ("user_timeout", user_timeout.flatten().is_some()),
    ];
    let unix = |address: &BindAddress| matches!(address, BindAddress::Unix(_));
    if !bind.is_empty() && bind.iter().all(unix) {
        for (key, _) in wanted.into_iter().filter(|(_, wanted)| *wanted) {
            let message = format!("{key:?} in {} does nothing: it has no TCP address", table.what);
            table.decoder.problem(table.place(key), message);
        }
    }
    SocketOptions {
        keepalive: keepalive.unwrap_or(default.keepalive),
        defer_accept: defer_accept.unwrap_or(default.defer_accept),
        fast_open: fast_open.map_or(default.fast_open, |n| NonZeroU16::new(n?)),
        user_timeout: user_timeout.unwrap_or(default.user_timeout),
    }
}

/// `keepalive`; the outer `None`: it is not there.
pub(super) fn keepalive(table: &Table<'_>) -> Option<Option<Duration>> {
    time(table, "keepalive", KEEPALIVE)
}

/// `user_timeout`; the outer `None`: it is not there.
pub(super) fn user_timeout(table: &Table<'_>) -> Option<Option<Duration>> {
    time(table, "user_timeout", USER_TIMEOUT)
}

fn time(table: &Table<'_>, key: &'static str, [least, most]: [Duration; 2]) -> Option<Option<Duration>> {
    table.read(key, or_off(duration_within(least..=most)))
}
