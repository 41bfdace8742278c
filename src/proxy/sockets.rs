//! Sockets with their options, and the kernel behavior that the rest of the proxy relies on.

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::net::sockopt;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::config::{SocketOptions, SourceAddress};
use crate::domain::TcpInfo;
use crate::outgoing::{bind_source, not_with_itself};
use crate::socket_option::set_option;

/// The backlog of a Unix socket (listen(2)).
pub(super) const BACKLOG: i32 = SocketOptions::NONE.backlog as i32;
/// Time between keepalive probes, and the number of unanswered ones after which the peer counts as dead.
const PROBE_EVERY: Duration = Duration::from_secs(10);
const PROBES: u32 = 3;

/// Binds a TCP address for this process without listening on it: a client's connect is refused, and another program
/// cannot bind it. `shared`: other sockets of this process may already be bound to it.
///
/// The socket is bound *before* SO_REUSEPORT is set, so that the kernel's check for a taken address is the
/// strict one: with the option set first, two programs of one user would share the address without an error.
/// `anywhere`: even if the machine does not have the address (IP_FREEBIND in ip(7)).
pub fn reserve(address: SocketAddr, shared: bool, anywhere: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?; // connections of an earlier run in TIME_WAIT do not matter
    if shared {
        socket.set_reuse_port(true)?;
    }
    match address {
        _ if !anywhere => {}
        SocketAddr::V4(_) => socket.set_freebind_v4(true)?,
        SocketAddr::V6(_) => socket.set_freebind_v6(true)?,
    }
    socket.bind(&address.into())?;
    socket.set_reuse_port(true)?;
    Ok(socket)
}

/// A socket that listens on a reserved address. Each worker has one of its own, and the kernel spreads the
/// connections over them (socket(7), SO_REUSEPORT).
pub fn listen(address: SocketAddr, options: &SocketOptions) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    // Accepted sockets inherit both. Urgent data stays in its place among the other bytes (RFC 6093, 3.1): otherwise the
    // urgent byte would be lost.
    socket.set_tcp_nodelay(true)?;
    socket.set_out_of_band_inline(true)?;
    // A socket that listens before it is bound would get a port of the kernel's choice.
    change_options(&socket, &SocketOptions { backlog: options.backlog, ..SocketOptions::NONE }, options)?;
    socket.bind(&address.into())?;
    socket.listen(options.backlog.into())?;
    Ok(socket)
}

/// Continues a socket that listens already, in the process before, with these options.
pub fn inherit(socket: OwnedFd, options: &SocketOptions) -> io::Result<Socket> {
    let socket = Socket::from(socket);
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_out_of_band_inline(true)?;
    // The process before may have closed it, and the service manager has kept it.
    restore_min_ttl(&socket)?;
    // The options that it has are unknown, so that each is set, even to the kernel's default.
    set_keepalive(&socket, options.keepalive)?;
    socket.set_tcp_user_timeout(options.user_timeout)?;
    set_defer_accept(&socket, options.defer_accept)?;
    set_fast_open(&socket, options.fast_open)?;
    socket.listen(options.backlog.into())?;
    Ok(socket)
}

/// Changes the options of a listening socket. Connections accepted from now on inherit them; earlier ones keep theirs.
/// An unchanged option costs no system call.
pub fn change_options(socket: &Socket, old: &SocketOptions, new: &SocketOptions) -> io::Result<()> {
    if new.keepalive != old.keepalive {
        set_keepalive(socket, new.keepalive)?;
    }
    if new.user_timeout != old.user_timeout {
        socket.set_tcp_user_timeout(new.user_timeout)?;
    }
    if new.defer_accept != old.defer_accept {
        set_defer_accept(socket, new.defer_accept)?;
    }
    if new.fast_open != old.fast_open {
        set_fast_open(socket, new.fast_open)?;
    }
    if new.backlog != old.backlog {
        socket.listen(new.backlog.into())?; // changes the backlog of a listening socket
    }
    Ok(())
}

/// `None` is off: a deferred connection is then accepted when the next SYN-ACK is due, or with its first bytes.
fn set_defer_accept(socket: &Socket, time: Option<Duration>) -> io::Result<()> {
    let seconds = time.map_or(0, |time| time.as_millis().div_ceil(1000));
    let seconds = libc::c_int::try_from(seconds).unwrap_or(libc::c_int::MAX);
    set_option(socket.as_fd(), libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, seconds)
}

fn set_fast_open(socket: &Socket, queue: Option<NonZeroU16>) -> io::Result<()> {
    let queue = queue.map_or(0, |queue| queue.get().into());
    set_option(socket.as_fd(), libc::IPPROTO_TCP, libc::TCP_FASTOPEN, queue)
}

/// Whether the kernel supports fast open for servers (`net.ipv4.tcp_fastopen` in ip-sysctl, its bit 2); without it, the
/// socket option does nothing. `true` if the setting cannot be read, so that no warning is logged without a reason.
pub fn fast_open_served() -> bool {
    let setting = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_fastopen");
    setting.ok().and_then(|text| text.trim().parse::<u32>().ok()).is_none_or(|bits| bits & 2 != 0)
}

/// Makes the kernel drop new SYNs, so that a listening socket can be emptied and then closed without losing a
/// connection in between: close resets every connection that the kernel has completed and the process has not
/// accepted. A client whose SYN was dropped retransmits it after a second (RFC 6298, 2.1) and is then refused.
///
/// It requires a time to live that packets do not have if they crossed a router or came from a usual system (they start
/// at 64 or 128). The kernel checks it for the first segment of a handshake, but not for the last one, so that
/// handshakes in progress complete (`IP_MINTTL` in ip(7), RFC 5082). Unlike a socket filter, this needs no privilege.
/// Sockets accepted from now on inherit it: see [`restore_min_ttl`].
pub fn drop_new_syns(socket: impl AsFd) -> io::Result<()> {
    set_least_ttl(socket.as_fd(), 255)
}

/// Undoes [`drop_new_syns`] for a socket that was accepted afterwards. The client's TCP retransmits the segments that
/// were dropped in between.
pub fn restore_min_ttl(socket: impl AsFd) -> io::Result<()> {
    set_least_ttl(socket.as_fd(), 0)
}

fn set_least_ttl(socket: BorrowedFd<'_>, ttl: libc::c_int) -> io::Result<()> {
    // A socket on an IPv6 address may serve IPv4 clients too, and each family has its own option.
    if SockRef::from(&socket).domain()? == Domain::IPV6 {
        set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_MINHOPCOUNT, ttl)?;
    }
    set_option(socket, libc::IPPROTO_IP, libc::IP_MINTTL, ttl)
}

/// Begins to connect to a backend, from `source` or an address that the kernel chooses. `delay_ack`: the ACK that
/// completes the handshake waits for the first bytes and travels with them, which saves a packet and wakes the backend
/// once instead of twice (TCP_QUICKACK in tcp(7)). Keepalive is set only on connections that last: short ones save five
/// system calls.
pub fn begin_connect(
    address: SocketAddr,
    source: Option<SourceAddress>,
    delay_ack: bool,
) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?; // the relay decides when bytes leave
    socket.set_out_of_band_inline(true)?; // as in `listen`
    if delay_ack {
        sockopt::set_tcp_quickack(&socket, false)?;
    }
    if let Some(source) = source {
        bind_source(&socket, source)?;
    }
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
        _ => {}
    }
    TcpStream::from_std(socket.into())
}

/// Returns when a connection from [`begin_connect`] is established or has failed.
pub async fn connected(stream: &TcpStream, address: SocketAddr) -> io::Result<()> {
    // The error is queried only if the kernel reports that there is one.
    let ready = stream.ready(Interest::WRITABLE | Interest::ERROR).await?;
    if ready.is_error()
        && let Some(error) = stream.take_error()?
    {
        return Err(error);
    }
    not_with_itself(address, || stream.local_addr())
}

/// Sends the ACK that [`begin_connect`] has delayed, if it is still pending, or as soon as it is due.
pub fn acknowledge(stream: &TcpStream) {
    // It fails only on a closed socket.
    let _ = sockopt::set_tcp_quickack(stream, true);
}

/// Sets the time without a byte after which the kernel probes the peer; `None`: never.
pub fn set_keepalive(socket: &Socket, keepalive: Option<Duration>) -> io::Result<()> {
    let Some(idle) = keepalive else { return socket.set_keepalive(false) };
    let probes = TcpKeepalive::new().with_time(idle).with_interval(PROBE_EVERY).with_retries(PROBES);
    socket.set_tcp_keepalive(&probes)
}

/// Bytes that were written to a socket and that its peer has not acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unacknowledged {
    /// Bytes, including those not sent yet.
    pub bytes: u32,
    /// Segments sent and not acknowledged.
    pub segments: u32,
    /// Time since the peer acknowledged anything.
    pub silence: Duration,
}

impl Unacknowledged {
    /// Whether the peer has vanished: it has not acknowledged retransmitted segments for as long as keepalive would take
    /// to detect a dead idle peer. A live peer that does not read acknowledges what it receives, so that no segment is
    /// outstanding.
    pub fn vanished(&self, keepalive: Duration) -> bool {
        self.segments > 0 && self.silence >= keepalive + PROBE_EVERY * PROBES
    }
}

/// Queries how much of what was written to `socket` is not acknowledged (SIOCOUTQ and TCP_INFO in tcp(7)).
pub fn unacknowledged(socket: impl AsFd) -> Unacknowledged {
    let socket = socket.as_fd();
    // It fails only on a socket that is gone already.
    let bytes = out_queue(socket).unwrap_or(0);
    // An empty queue needs no TCP_INFO, and a Unix socket has none.
    match if bytes > 0 { tcp_info(socket).ok() } else { None } {
        None => Unacknowledged { bytes, ..Unacknowledged::default() },
        Some(info) => Unacknowledged {
            bytes,
            segments: info.tcpi_unacked,
            silence: Duration::from_millis(info.tcpi_last_ack_recv.into()),
        },
    }
}

/// The kernel's statistics of a TCP connection (TCP_INFO in tcp(7)); `None`: it is a Unix socket.
pub fn tcp_statistics(socket: impl AsFd) -> Option<TcpInfo> {
    let info = tcp_info(socket.as_fd()).ok()?;
    Some(TcpInfo {
        rtt_us: info.tcpi_rtt,
        rttvar_us: info.tcpi_rttvar,
        retransmitted: info.tcpi_total_retrans,
        unacknowledged: info.tcpi_unacked,
        lost: info.tcpi_lost,
        silent_ms: info.tcpi_last_ack_recv.min(info.tcpi_last_data_recv),
        window: info.tcpi_snd_cwnd,
    })
}

#[allow(unsafe_code)]
fn out_queue(socket: BorrowedFd<'_>) -> io::Result<u32> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the descriptor is open for as long as it is borrowed, and this request writes one integer through the
    // pointer.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if result == 0 { Ok(u32::try_from(bytes).unwrap_or(0)) } else { Err(io::Error::last_os_error()) }
}

#[allow(unsafe_code)]
fn tcp_info(socket: BorrowedFd<'_>) -> io::Result<libc::tcp_info> {
    let mut info = std::mem::MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the descriptor is open for as long as it is borrowed; the kernel writes at most `length` bytes.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is integers throughout, and what the kernel did not write is zero.
    Ok(unsafe { info.assume_init() })
}

/// Makes the next close of this socket a reset.
pub fn reset_on_close(socket: impl AsFd) {
    // It fails only on a socket that is gone already.
    let _ = sockopt::set_socket_linger(socket, Some(Duration::ZERO));
}

/// Raises the soft limit of open files as far as possible, and returns it.
pub fn file_limit() -> u64 {
    use rustix::process::{Resource, getrlimit};
    getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX)
}

/// Raises the limit of open files as far as possible, and returns it.
pub fn raise_file_limit() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if setrlimit(Resource::Nofile, raised).is_ok() {
        return limit.maximum.unwrap_or(u64::MAX);
    }
    limit.current.unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TEST_TIMEOUT;
    use std::io::{ErrorKind, Read, Write};
    use std::net::TcpStream;
    use std::num::NonZeroU16;

    fn loopback() -> (Socket, SocketAddr) {
        let socket = reserve("127.0.0.1:0".parse().unwrap(), false, false).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        (socket, address)
    }

    #[test]
    fn a_reserved_address_refuses_clients_and_cannot_be_taken() {
        let (_reserved, address) = loopback();
        assert_eq!(TcpStream::connect(address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        let _listening = listen(address, &SocketOptions::NONE).unwrap();
        assert_eq!(reserve(address, false, false).unwrap_err().kind(), ErrorKind::AddrInUse);
        TcpStream::connect(address).unwrap();
    }

    #[test]
    fn a_client_that_connected_before_new_syns_were_dropped_is_served() {
        for (bound, clients) in [
            ("127.0.0.1:0", &["127.0.0.1"][..]),
            ("[::1]:0", &["::1"]),
            ("[::]:0", &["::1", "127.0.0.1"]), // an address of both families
        ] {
            for client in clients {
                serves_the_early_and_drops_the_late(bound, client);
            }
        }
    }

    fn serves_the_early_and_drops_the_late(bound: &str, client: &str) {
        let reserved = reserve(bound.parse().unwrap(), false, false).unwrap();
        let port = reserved.local_addr().unwrap().as_socket().unwrap().port();
        let listening =
            listen(reserved.local_addr().unwrap().as_socket().unwrap(), &SocketOptions::NONE).unwrap();
        listening.set_nonblocking(false).unwrap();
        listening.set_read_timeout(Some(TEST_TIMEOUT)).unwrap(); // also for accept(2)
        let address = SocketAddr::new(client.parse().unwrap(), port);
        let mut early = TcpStream::connect(address).unwrap();
        drop_new_syns(&listening).unwrap();
        let late = TcpStream::connect_timeout(&address, Duration::from_millis(200));
        assert_eq!(late.unwrap_err().kind(), ErrorKind::TimedOut, "{client} at {bound}");
        let (accepted, _) = listening.accept().unwrap();
        restore_min_ttl(&accepted).unwrap();
        drop(listening);
        early.write_all(b"hello").unwrap();
        let mut bytes = [0; 5];
        accepted.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
        TcpStream::from(accepted).read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"hello");
        assert_eq!(TcpStream::connect(address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    }

    /// getsockopt(2), for the options that no safe wrapper reads.
    #[allow(unsafe_code)]
    fn option(socket: &Socket, name: libc::c_int) -> libc::c_int {
        let (mut value, mut length) = (-1, size_of::<libc::c_int>() as libc::socklen_t);
        // SAFETY: the socket is open, and the kernel writes at most `length` bytes: one integer.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::IPPROTO_TCP,
                name,
                (&raw mut value).cast(),
                &raw mut length,
            )
        };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
        value
    }

    #[test]
    fn an_accepted_connection_has_the_options_of_that_time() {
        let (_reserved, address) = loopback();
        let options = SocketOptions {
            keepalive: Some(Duration::from_secs(77)),
            defer_accept: Some(Duration::from_millis(1500)),
            fast_open: NonZeroU16::new(5),
            user_timeout: Some(Duration::from_millis(12_345)),
            ..SocketOptions::NONE
        };
        let listening = listen(address, &options).unwrap();
        listening.set_nonblocking(false).unwrap();
        listening.set_read_timeout(Some(TEST_TIMEOUT)).unwrap(); // also for accept(2)
        let accept = || {
            let mut client = TcpStream::connect(address).unwrap();
            client.write_all(b"x").unwrap(); // otherwise the kernel would defer the connection
            (listening.accept().unwrap().0, client)
        };
        assert_eq!(option(&listening, libc::TCP_DEFER_ACCEPT), 3, "what the kernel makes of 2 s");
        assert_eq!(option(&listening, libc::TCP_FASTOPEN), 5);
        let (before, _client) = accept();
        change_options(&listening, &options, &SocketOptions::NONE).unwrap();
        assert_eq!(option(&listening, libc::TCP_DEFER_ACCEPT), 0);
        assert_eq!(option(&listening, libc::TCP_FASTOPEN), 0);
        let (after, _client) = accept();
        change_options(&listening, &SocketOptions::NONE, &options).unwrap();
        let (again, _client) = accept();
        for with in [&before, &again] {
            assert!(with.keepalive().unwrap());
            assert_eq!(with.tcp_keepalive_time().unwrap(), Duration::from_secs(77));
            assert_eq!(with.tcp_keepalive_interval().unwrap(), PROBE_EVERY);
            assert_eq!(with.tcp_keepalive_retries().unwrap(), PROBES);
            assert_eq!(with.tcp_user_timeout().unwrap(), Some(Duration::from_millis(12_345)));
        }
        assert!(!after.keepalive().unwrap());
        assert_eq!(after.tcp_user_timeout().unwrap(), None);
    }

    #[test]
    fn the_kernel_holds_no_more_connections_than_the_backlog() {
        let (_reserved, address) = loopback();
        let options = SocketOptions { backlog: 1, ..SocketOptions::NONE };
        let listening = listen(address, &options).unwrap();
        // The kernel counts one more (sk_acceptq_is_full).
        let _held = [(); 2].map(|()| TcpStream::connect(address).unwrap());
        let connect = |time| TcpStream::connect_timeout(&address, Duration::from_millis(time));
        assert_eq!(connect(300).unwrap_err().kind(), io::ErrorKind::TimedOut);
        change_options(&listening, &options, &SocketOptions::NONE).unwrap();
        connect(10_000).unwrap();
    }

    #[test]
    fn the_kernel_accepts_every_option_that_a_configuration_may_have() {
        let seconds = |n| Some(Duration::from_secs(n));
        for (keepalive, defer_accept, fast_open, user_timeout) in [
            (seconds(1), seconds(1), 1, seconds(1)),
            (seconds(9 * 3600), seconds(120), u16::MAX, seconds(24 * 3600)),
        ] {
            let fast_open = NonZeroU16::new(fast_open);
            let options =
                SocketOptions { keepalive, defer_accept, fast_open, user_timeout, backlog: u16::MAX };
            for address in ["127.0.0.1:0", "[::1]:0"] {
                listen(address.parse().unwrap(), &options).unwrap();
            }
        }
    }
}
