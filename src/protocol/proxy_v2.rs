//! Version 2 of the PROXY protocol: binary (section 2.2 of `proxy-protocol.txt`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crc::{CRC_32_ISCSI, Crc};

use super::proxy_header::{Endpoints, LONGEST, ProxyHeader, SameFamily};
use crate::domain::PrefaceError;
use crate::domain::PrefaceKind::Proxy;

pub(super) const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// The signature, the version and command, the family and transport, and the length of the rest.
const FIXED: usize = 16;

/// Bytes of TLVs for which every header has room: with IPv6 addresses, 36 bytes precede them.
pub(super) const MOST_TLVS: usize = LONGEST - FIXED - 36;

/// Version 2 in the upper half, the command in the lower one.
const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;

/// The family in the upper half, the transport in the lower one.
const UNSPEC: u8 = 0x00;
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;

/// The types of the TLVs that concern the header itself: its checksum, and padding (sections 2.2.3 and 2.2.4).
const CRC32C: u8 = 0x03;
const NOOP: u8 = 0x04;

/// CRC-32C (RFC 4960, appendix B).
const CHECKSUM: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

/// Reads a header at the beginning of `bytes`, which begin like the signature.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<(ProxyHeader, usize)>, PrefaceError> {
    let Some(&[version_and_command, family, high, low]) = bytes.get(SIGNATURE.len()..FIXED) else {
        return Ok(None);
    };
    let length = FIXED + usize::from(u16::from_be_bytes([high, low]));
    if ![LOCAL, PROXY].contains(&version_and_command) {
        return Err(PrefaceError::Malformed(Proxy));
    }
    if length > LONGEST {
        return Err(PrefaceError::TooLong(Proxy));
    }
    let Some(header) = bytes.get(..length) else { return Ok(None) };
    if version_and_command == LOCAL {
        return Ok(Some((ProxyHeader::default(), length))); // "the receiver must … discard the protocol block"
    }
    let mut rest = &header[FIXED..];
    let endpoints = match family {
        TCP4 => {
            let (source, destination) = (take::<4>(&mut rest)?, take::<4>(&mut rest)?);
            ports(Ipv4Addr::from(source).into(), Ipv4Addr::from(destination).into(), &mut rest)?
        }
        TCP6 => {
            let (source, destination) = (take::<16>(&mut rest)?, take::<16>(&mut rest)?);
            ports(Ipv6Addr::from(source).into(), Ipv6Addr::from(destination).into(), &mut rest)?
        }
        // Datagrams, and Unix sockets of both kinds: not the addresses of a TCP connection.
        0x12 => skip::<12>(&mut rest)?,
        0x22 => skip::<36>(&mut rest)?,
        0x31 | 0x32 => skip::<216>(&mut rest)?,
        // Without a family, the rest has no known structure (section 2.2).
        UNSPEC => return Ok(Some((ProxyHeader::default(), length))),
        _ => return Err(PrefaceError::Malformed(Proxy)),
    };
    let tlvs = tlvs(header, rest)?;
    Ok(Some((ProxyHeader { endpoints, tlvs }, length)))
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], PrefaceError> {
    let (taken, left) = rest.split_first_chunk::<N>().ok_or(PrefaceError::Malformed(Proxy))?;
    *rest = left;
    Ok(*taken)
}

fn skip<const N: usize>(rest: &mut &[u8]) -> Result<Option<Endpoints>, PrefaceError> {
    take::<N>(rest).map(|_| None)
}

fn ports(source: IpAddr, destination: IpAddr, rest: &mut &[u8]) -> Result<Option<Endpoints>, PrefaceError> {
    let (from, to) = (u16::from_be_bytes(take(rest)?), u16::from_be_bytes(take(rest)?));
    Ok(Some(Endpoints::new(SocketAddr::new(source, from), SocketAddr::new(destination, to))))
}

/// The TLVs in `rest`, the end of `header`, without those that concern only this header. Checks the
/// checksum, if there is one.
fn tlvs(header: &[u8], rest: &[u8]) -> Result<Vec<u8>, PrefaceError> {
    let (mut left, mut kept) = (rest, Vec::new());
    while !left.is_empty() {
        let before = left;
        let [kind] = take::<1>(&mut left)?;
        let length = usize::from(u16::from_be_bytes(take(&mut left)?));
        let (value, after) = left.split_at_checked(length).ok_or(PrefaceError::Malformed(Proxy))?;
        left = after;
        match kind {
            NOOP => {}
            CRC32C => {
                let expected =
                    u32::from_be_bytes(value.try_into().map_err(|_| PrefaceError::Malformed(Proxy))?);
                if checksum(header, header.len() - after.len() - value.len()) != expected {
                    return Err(PrefaceError::Checksum);
                }
            }
            _ => kept.extend_from_slice(&before[..before.len() - after.len()]),
        }
    }
    Ok(kept)
}

/// The types and values of well-formed TLVs.
pub(super) fn split(mut tlvs: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let (&[kind, high, low], rest) = tlvs.split_first_chunk()?;
        let (value, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes([high, low])))?;
        tlvs = rest;
        Some((kind, value))
    })
}

/// The checksum of a header whose own value of it, four bytes at `at`, counts as zero.
fn checksum(header: &[u8], at: usize) -> u32 {
    let mut digest = CHECKSUM.digest();
    digest.update(&header[..at]);
    digest.update(&[0; 4]);
    digest.update(&header[at + 4..]);
    digest.finalize()
}

/// A header; without addresses it is LOCAL, which a receiver must accept. TLVs that would make it too long are left out.
pub(super) fn write(header: &ProxyHeader) -> Vec<u8> {
    let Some(endpoints) = header.endpoints else { return framed(LOCAL, UNSPEC, &[]) };
    let (family, mut rest) = match endpoints.ips() {
        SameFamily::V4(ips) => (TCP4, ips.map(|ip| ip.octets()).concat()),
        SameFamily::V6(ips) => (TCP6, ips.map(|ip| ip.octets()).concat()),
    };
    let ports = [endpoints.source.port(), endpoints.destination.port()];
    rest.extend(ports.into_iter().flat_map(u16::to_be_bytes));
    if FIXED + rest.len() + header.tlvs.len() <= LONGEST {
        rest.extend_from_slice(&header.tlvs);
    }
    framed(PROXY, family, &rest)
}

fn framed(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    // At most LONGEST, which a u16 can hold.
    let [high, low] = u16::try_from(rest.len()).unwrap_or(u16::MAX).to_be_bytes();
    [SIGNATURE, &[command, family, high, low], rest].concat()
}
