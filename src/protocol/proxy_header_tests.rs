//! The laws of the PROXY protocol's parser, and its comparison with another one.

use std::net::{IpAddr, SocketAddr};

use proptest::prelude::*;

use super::super::laws;
use super::*;

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn endpoints(source: &str, destination: &str) -> Option<Endpoints> {
    Some(Endpoints::new(address(source), address(destination)))
}

/// Reads bytes that are a whole header, and nothing else.
fn header(bytes: &[u8]) -> Result<ProxyHeader, PrefaceError> {
    parse(bytes).map(|parsed| {
        let (header, length) = parsed.expect("a whole header");
        assert_eq!(length, bytes.len());
        header
    })
}

/// A header of version 2 with that command, family and rest.
fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [proxy_v2::SIGNATURE, &[command, family], &length, rest].concat()
}

const IPV4: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 2, 0xdc, 0x04, 0x01, 0xbb];

#[test]
fn the_examples_of_the_specification_are_read() {
    for (line, expected) in [
        (
            "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
            endpoints("255.255.255.255:65535", "255.255.255.255:65535"),
        ),
        (
            "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
            endpoints(
                "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535",
                "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535",
            ),
        ),
        ("PROXY UNKNOWN\r\n", None),
        (
            "PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
            None,
        ),
        (
            "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n",
            endpoints("192.168.0.1:56324", "192.168.0.11:443"),
        ),
    ] {
        assert_eq!(header(line.as_bytes()), Ok(ProxyHeader { endpoints: expected, tlvs: vec![] }), "{line}");
    }
    let sent = v2(0x21, 0x11, &IPV4);
    assert_eq!(header(&sent).unwrap().endpoints, endpoints("192.0.2.1:56324", "198.51.100.2:443"));
}

#[test]
fn invalid_lines_of_version_1_are_refused() {
    for line in [
        "PROXY \r\n",
        "PROXY TCP4\r\n",
        "PROXY TCP5 1.2.3.4 1.2.3.4 1 2\r\n",
        "PROXY  TCP4 1.2.3.4 1.2.3.4 1 2\r\n",
        "PROXY TCP4 1.2.3.4  1.2.3.4 1 2\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1 2 \r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 +1 2\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 -1 2\r\n",
        "PROXY TCP4 01.2.3.4 1.2.3.4 1 2\r\n",
        "PROXY TCP4 1.2.3 1.2.3.4 1 2\r\n",
        "PROXY TCP4 ::1 ::1 1 2\r\n",
        "PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n",
        "PROXY TCP6 [::1] [::1] 1 2\r\n",
        "PROXY tcp4 1.2.3.4 1.2.3.4 1 2\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n\r\n",
    ] {
        assert_eq!(header(line.as_bytes()), Err(PrefaceError::Malformed(Proxy)), "{line:?}");
    }
    assert_eq!(parse(b"PROXY TCP4 \xff\xff\r\n"), Err(PrefaceError::Malformed(Proxy)));
    // 107 bytes without an end; one fewer may still get it.
    let line = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 93]].concat();
    assert_eq!(parse(&line), Err(PrefaceError::TooLong(Proxy)));
    assert_eq!(parse(&line[..106]), Ok(None));
}

#[test]
fn bytes_that_begin_otherwise_are_not_a_header() {
    for bytes in
        ["GET / HTTP/1.1\r\n", "PROXX", "proxy TCP4", "\r\n\r\n\0\r\nQUIX", "\x16\x03\x01", "PROXY\r\n"]
    {
        assert_eq!(parse(bytes.as_bytes()), Err(PrefaceError::Missing(Proxy)), "{bytes:?}");
    }
    assert_eq!(parse(b""), Ok(None));
}

#[test]
fn headers_of_version_2_without_tcp_addresses_are_read_to_their_end() {
    let unix = [0; 216];
    for (command, family, rest) in [
        (0x20, 0x00, &[][..]),
        // Whatever LOCAL has is ignored: an unknown family, half an address.
        (0x20, 0x77, &[1, 2, 3][..]),
        (0x21, 0x00, &[][..]),
        (0x21, 0x00, &[9; 40][..]),
        (0x21, 0x12, &IPV4[..]),
        (0x21, 0x22, &[1; 36][..]),
        (0x21, 0x31, &unix[..]),
        (0x21, 0x32, &unix[..]),
    ] {
        assert_eq!(
            header(&v2(command, family, rest)),
            Ok(ProxyHeader::default()),
            "{command:#x} {family:#x}"
        );
    }
}

#[test]
fn invalid_headers_of_version_2_are_refused() {
    for (what, command, family, rest) in [
        ("another version", 0x11, 0x11, &IPV4[..]),
        ("an unknown command", 0x22, 0x11, &IPV4[..]),
        ("an unknown family", 0x21, 0x41, &IPV4[..]),
        ("an unknown transport", 0x21, 0x13, &IPV4[..]),
        ("no transport", 0x21, 0x10, &IPV4[..]),
        ("half an IPv4 address", 0x21, 0x11, &IPV4[..11]),
        ("half an IPv6 address", 0x21, 0x21, &[0; 35][..]),
        ("half a Unix address", 0x21, 0x31, &[0; 215][..]),
        ("half a TLV", 0x21, 0x11, &[&IPV4[..], &[1, 0]].concat()[..]),
        ("a TLV beyond the end", 0x21, 0x11, &[&IPV4[..], &[1, 0, 2, b'h']].concat()[..]),
        ("a short checksum", 0x21, 0x11, &[&IPV4[..], &[3, 0, 2, 0, 0]].concat()[..]),
    ] {
        assert_eq!(header(&v2(command, family, rest)), Err(PrefaceError::Malformed(Proxy)), "{what}");
    }
    // Refused before the rest arrives.
    let fixed = [proxy_v2::SIGNATURE, &[0x21, 0x11, 0xff, 0xff]].concat();
    assert_eq!(parse(&fixed), Err(PrefaceError::TooLong(Proxy)));
    let longest = v2(0x21, 0x00, &vec![0; LONGEST - 16]);
    assert_eq!(header(&longest), Ok(ProxyHeader::default()));
}

#[test]
fn the_checksum_is_verified_and_not_passed_on() {
    // Computed with another implementation (the Python package crc32c).
    let tlvs = [2, 0, 1, b'a', 3, 0, 4, 0, 0, 0, 0, 4, 0, 2, 0, 0, 5, 0, 1, 7];
    let mut sent = v2(0x21, 0x11, &[&IPV4[..], &tlvs].concat());
    let at = 16 + IPV4.len() + 7;
    assert_eq!(header(&sent), Err(PrefaceError::Checksum));
    sent[at..at + 4].copy_from_slice(&0xc5e7_9959_u32.to_be_bytes());
    assert_eq!(header(&sent).unwrap().tlvs, [2, 0, 1, b'a', 5, 0, 1, 7]);
    sent[20] ^= 1;
    assert_eq!(header(&sent), Err(PrefaceError::Checksum));
}

#[test]
fn ipv4_mapped_addresses_are_ipv4_also_beside_an_ipv6_address() {
    let line = b"PROXY TCP6 ::ffff:192.0.2.1 ::ffff:192.0.2.2 1 2\r\n";
    assert_eq!(header(line).unwrap().endpoints, endpoints("192.0.2.1:1", "192.0.2.2:2"));
    // As HAProxy sends it when only the client's address was replaced.
    let line = b"PROXY TCP6 2001:db8::1 ::ffff:192.0.2.2 1 2\r\n";
    let mixed = header(line).unwrap();
    assert_eq!(mixed.endpoints, endpoints("[2001:db8::1]:1", "192.0.2.2:2"));
    assert_eq!(write(ProxyVersion::V1, &mixed), line);
    assert_eq!(header(&write(ProxyVersion::V2, &mixed)), Ok(mixed));
}

#[test]
fn headers_without_a_relayed_connection_are_written() {
    let none = ProxyHeader::default();
    assert_eq!(write(ProxyVersion::V1, &none), b"PROXY UNKNOWN\r\n");
    assert_eq!(write(ProxyVersion::V2, &none), v2(0x20, 0x00, &[]));
    let own = Some(Endpoints::new(address("10.0.0.1:5"), address("10.0.0.2:6")));
    assert_eq!(write_local(ProxyVersion::V1, own), b"PROXY TCP4 10.0.0.1 10.0.0.2 5 6\r\n");
    assert_eq!(write_local(ProxyVersion::V2, own), v2(0x20, 0x00, &[]));
    assert_eq!(write_local(ProxyVersion::V1, None), b"PROXY UNKNOWN\r\n");
}

#[test]
fn tlvs_that_would_make_a_header_too_long_are_left_out() {
    let endpoints = endpoints("10.0.0.1:5", "10.0.0.2:6");
    let field = |length: u16| [&[0xe0][..], &length.to_be_bytes(), &vec![0; length.into()]].concat();
    for (length, kept) in [(LONGEST - 16 - 12 - 3, true), (LONGEST - 16 - 12 - 2, false)] {
        let tlvs = field(u16::try_from(length).unwrap());
        let written = write(ProxyVersion::V2, &ProxyHeader { endpoints, tlvs: tlvs.clone() });
        let read = header(&written).unwrap();
        assert_eq!((read.endpoints, read.tlvs == tlvs), (endpoints, kept));
    }
}

#[test]
fn tlvs_are_added_unless_the_header_has_them_or_has_no_room() {
    let endpoints = endpoints("10.0.0.1:5", "[2001:db8::1]:6");
    let mut added = ProxyHeader { endpoints, tlvs: vec![2, 0, 1, b'a'] };
    added.add(Tlv::Authority, b"not this");
    added.add(Tlv::UniqueId, b"id");
    assert_eq!(added.tlvs, [2, 0, 1, b'a', 5, 0, 2, b'i', b'd']);
    assert_eq!(header(&write(ProxyVersion::V2, &added)), Ok(added));
    for (room, fits) in [(5, true), (4, false)] {
        let length = proxy_v2::MOST_TLVS - 3 - room;
        let full = [&[0xe0][..], &u16::try_from(length).unwrap().to_be_bytes(), &vec![0; length]].concat();
        let mut added = ProxyHeader { endpoints, tlvs: full.clone() };
        added.add(Tlv::UniqueId, b"id");
        assert_eq!(added.tlvs.len(), full.len() + if fits { 5 } else { 0 });
        assert_eq!(header(&write(ProxyVersion::V2, &added)), Ok(added), "it is written whole");
    }
}

fn any_address() -> impl Strategy<Value = SocketAddr> {
    let ip = prop_oneof![
        any::<u32>().prop_map(|n| IpAddr::V4(n.into())),
        any::<u128>().prop_map(|n| IpAddr::V6(n.into()))
    ];
    (ip, any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip, port))
}

fn any_header() -> impl Strategy<Value = ProxyHeader> {
    let endpoints = prop_oneof![
        Just(None),
        (any_address(), any_address())
            .prop_map(|(source, destination)| Some(Endpoints::new(source, destination))),
    ];
    let field = (5u8.., proptest::collection::vec(any::<u8>(), 0..40))
        .prop_map(|(kind, value)| [&[kind][..], &(value.len() as u16).to_be_bytes(), &value].concat());
    (endpoints, proptest::collection::vec(field, 0..5)).prop_map(|(endpoints, tlvs)| {
        let tlvs = if endpoints.is_some() { tlvs.concat() } else { Vec::new() };
        ProxyHeader { endpoints, tlvs }
    })
}

fn any_version() -> impl Strategy<Value = ProxyVersion> {
    prop_oneof![Just(ProxyVersion::V1), Just(ProxyVersion::V2)]
}

/// The addresses and the length that the other parser finds; `None`: it accepts less.
fn by_the_other_parser(bytes: &[u8]) -> Option<(Option<Endpoints>, usize)> {
    use proxy_header::{ParseConfig, Protocol, ProxyHeader};
    let (header, length) = ProxyHeader::parse(bytes, ParseConfig::default()).ok()?;
    let stream = header.proxied_address().filter(|address| address.protocol == Protocol::Stream);
    Some((stream.map(|address| Endpoints::new(address.source, address.destination)), length))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn what_is_written_is_read_and_no_part_of_it_is_enough(
        sent in any_header(), version in any_version(), after in proptest::collection::vec(any::<u8>(), 0..20),
    ) {
        let written = write(version, &sent);
        let tlvs = if version == ProxyVersion::V2 { sent.tlvs.clone() } else { Vec::new() };
        let expected = ProxyHeader { tlvs, ..sent };
        let bytes = [&written[..], &after].concat();
        prop_assert_eq!(parse(&bytes), Ok(Some((expected.clone(), written.len()))));
        for part in 0..written.len() {
            prop_assert_eq!(parse(&written[..part]), Ok(None));
        }
        prop_assert_eq!(by_the_other_parser(&bytes), Some((expected.endpoints, written.len())));
    }

    /// Headers with a few bytes changed, removed or added.
    #[test]
    fn what_is_accepted_is_read_as_by_the_other_parser(
        sent in any_header(), version in any_version(), changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>(), 0..3), 0..4),
    ) {
        let mut bytes = write(version, &sent);
        for (index, byte, change) in changes {
            let at = index.index(bytes.len().max(1));
            match change {
                0 if at < bytes.len() => bytes[at] = byte,
                1 if at < bytes.len() => drop(bytes.remove(at)),
                _ => bytes.insert(at, byte),
            }
        }
        if let Ok(Some((header, length))) = parse(&bytes) {
            prop_assert!(length <= bytes.len().min(LONGEST));
            // The other parser reads the family of LOCAL, which is to be ignored.
            if bytes.get(12) != Some(&0x20) {
                prop_assert_eq!(Some((header.endpoints, length)), by_the_other_parser(&bytes), "{:?}", bytes);
            }
        }
    }

    #[test]
    fn the_laws_hold_for_random_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..300), version in 0..3) {
        let begin: &[u8] = match version { 0 => b"", 1 => b"PROXY TCP4 ", _ => proxy_v2::SIGNATURE };
        laws::check(&[begin, &bytes].concat());
    }
}
