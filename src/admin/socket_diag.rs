//! One question to the kernel about one TCP socket (sock_diag(7)). Unlike a read of `/proc/self/net/tcp`, its cost does not
//! grow with the number of open sockets.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};

/// `SOCK_DIAG_BY_FAMILY` of `linux/sock_diag.h`: the type of the request and of its reply.
const BY_FAMILY: u16 = 20;
/// The length of `struct nlmsghdr` (netlink(7)).
const HEADER: usize = 16;
/// The lengths of `struct inet_diag_req_v2` and `struct inet_diag_msg`.
const REQUEST: usize = 56;
const REPLY: usize = 72;
/// `INET_DIAG_NOCOOKIE`: any socket with these ends.
const NO_COOKIE: [u8; 8] = [0xff; 8];

/// The inode of the TCP socket in this network namespace that has these two ends; `None` if there is none, no process holds
/// it, or the kernel has no such interface.
pub(super) fn inode(local: SocketAddr, remote: SocketAddr) -> io::Result<Option<u64>> {
    let mut socket = Socket::new(
        Domain::from(libc::AF_NETLINK),
        Type::DGRAM,
        Some(Protocol::from(libc::NETLINK_SOCK_DIAG)),
    )?;
    socket.write_all(&request(local, remote))?;
    // The kernel has replied when the write returns.
    socket.set_nonblocking(true)?;
    let mut reply = [0; 1024];
    let length = socket.read(&mut reply)?;
    Ok(inode_in(&reply[..length], [local.port(), remote.port()]))
}

fn request(local: SocketAddr, remote: SocketAddr) -> Vec<u8> {
    let family = if local.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let mut message = Vec::with_capacity(HEADER + REQUEST);
    message.extend(((HEADER + REQUEST) as u32).to_ne_bytes());
    message.extend(BY_FAMILY.to_ne_bytes());
    message.extend((libc::NLM_F_REQUEST as u16).to_ne_bytes());
    message.extend([0; 8]); // sequence number and port: there is one request, and the kernel fills in the port
    message.extend([family as u8, libc::IPPROTO_TCP as u8, 0, 0]);
    message.extend([0xff; 4]); // in any state
    message.extend(local.port().to_be_bytes());
    message.extend(remote.port().to_be_bytes());
    message.extend(address(local.ip()));
    message.extend(address(remote.ip()));
    message.extend([0; 4]); // on any interface
    message.extend(NO_COOKIE);
    message
}

fn address(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => {
            let mut padded = [0; 16];
            padded[..4].copy_from_slice(&ip.octets());
            padded
        }
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// The inode is the last field of the reply. An error has another type. Without a connection between the two ends the
/// kernel replies with the socket that listens at the local one, whose remote port is 0.
fn inode_in(reply: &[u8], ports: [u16; 2]) -> Option<u64> {
    let is_socket = reply.get(4..6)? == BY_FAMILY.to_ne_bytes();
    let is_this_one = reply.get(HEADER + 4..HEADER + 8)? == ports.map(u16::to_be_bytes).as_flattened();
    let inode = reply.get(HEADER + REPLY - 4..HEADER + REPLY)?;
    let inode = u32::from_ne_bytes(inode.try_into().ok()?);
    (is_socket && is_this_one && inode != 0).then_some(inode.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;

    fn inode_of(stream: &TcpStream) -> u64 {
        let link = std::fs::read_link(format!("/proc/self/fd/{}", stream.as_raw_fd())).unwrap();
        let text = link.to_str().unwrap();
        text.strip_prefix("socket:[").unwrap().strip_suffix(']').unwrap().parse().unwrap()
    }

    #[test]
    fn the_kernel_finds_each_end_of_a_connection() {
        for bind in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(bind).unwrap();
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (server, peer) = listener.accept().unwrap();
            let local = server.local_addr().unwrap();
            assert_eq!(inode(peer, local).unwrap(), Some(inode_of(&client)), "{bind}");
            assert_eq!(inode(local, peer).unwrap(), Some(inode_of(&server)), "{bind}");
        }
    }

    #[test]
    fn a_socket_that_does_not_exist_has_no_inode() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (bound, unused) = (listener.local_addr().unwrap(), "127.0.0.9:9".parse().unwrap());
        assert_eq!(inode(unused, bound).unwrap(), None);
        // A listening socket at the local address is another one.
        assert_eq!(inode(bound, unused).unwrap(), None);
        for garbage in [&[][..], &[0; 5], &[0; 200]] {
            assert_eq!(inode_in(garbage, [0, 0]), None);
        }
    }
}
