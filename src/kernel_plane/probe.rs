//! A side of a connection that the kernel no longer forwards gets a reset for its next packet. A silent one would send none: a
//! probe, a packet of the connection with an invalid sequence number, is answered with an acknowledgment in any case (RFC 9293,
//! section 3.10.7.4), and that with the reset.

use std::io;
use std::net::IpAddr;

use socket2::{Domain, Socket, Type};
use tracing::debug;

use super::conntrack::Tuple;
use super::marks::PROBE;
use crate::socket_option::set_option;

/// Probes both ends of a connection. The rules must already reset its packets: otherwise the probe's own socket would receive
/// the answer. An end that cannot be probed gets the reset for its next packet.
pub(super) fn probe_both(directions: &[Tuple; 2]) {
    for direction in directions {
        if let Err(error) = send_probe(*direction) {
            debug!(%error, to = %direction.source, "cannot probe an end of a closed connection");
        }
    }
}

/// Sends a probe to the source of these packets, as if from their destination. Needs CAP_NET_ADMIN.
///
/// A socket in repair mode (`TCP_REPAIR`) is connected without a handshake; the kernel sends a window probe when that mode
/// ends, and nothing when the socket is closed in it. So no raw socket is needed, which would take another capability.
fn send_probe(Tuple { source: to, destination: from }: Tuple) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    // The address may be another machine's.
    match from.ip() {
        IpAddr::V4(_) => socket.set_ip_transparent_v4(true)?,
        IpAddr::V6(_) => set_option(&socket, libc::SOL_IPV6, libc::IPV6_TRANSPARENT, 1)?,
    }
    socket.set_mark(PROBE)?;
    let repair = |is_on: bool| set_option(&socket, libc::IPPROTO_TCP, libc::TCP_REPAIR, is_on.into());
    repair(true)?;
    socket.bind(&from.into())?;
    socket.connect(&to.into())?;
    repair(false)?;
    repair(true)
}
