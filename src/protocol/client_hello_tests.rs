//! Tests of the ClientHello's parser, with messages of real clients and with made-up ones.

use proptest::prelude::*;
use proptest::sample::Index;

use super::super::laws;
use super::*;

/// A message in records of at most `size` bytes each.
fn records(message: &[u8], size: usize) -> Vec<u8> {
    let record = |content: &[u8]| [&[22, 3, 1], &(content.len() as u16).to_be_bytes()[..], content].concat();
    message.chunks(size).flat_map(record).collect()
}

fn vector(content: &[u8]) -> Vec<u8> {
    [&(content.len() as u16).to_be_bytes()[..], content].concat()
}

fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &vector(data)].concat()
}

fn server_name(name: &[u8]) -> Vec<u8> {
    extension(SERVER_NAME, &vector(&[&[0][..], &vector(name)].concat()))
}

fn alpn(protocols: &[&[u8]]) -> Vec<u8> {
    let list = protocols.iter().flat_map(|name| [&[name.len() as u8][..], name].concat());
    extension(ALPN, &vector(&list.collect::<Vec<_>>()))
}

/// The message with these extensions.
fn message(extensions: &[Vec<u8>]) -> Vec<u8> {
    let start = [&[3, 3][..], &[7; 32], &[2, 1, 2], &vector(&[0x13, 0x01]), &[1, 0]].concat();
    handshake(&[start, vector(&extensions.concat())].concat())
}

fn handshake(body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u32).to_be_bytes();
    [&[CLIENT_HELLO], &length[1..], body].concat()
}

fn read(extensions: &[Vec<u8>]) -> Result<ClientHello, PrefaceError> {
    parse(&records(&message(extensions), LONGEST_RECORD)).map(|hello| hello.expect("a whole message"))
}

fn name_in(extensions: &[Vec<u8>]) -> Option<String> {
    read(extensions).unwrap().server_name
}

#[test]
fn the_messages_of_real_clients_are_read() {
    let of = |bytes: &[u8]| parse(bytes).unwrap().unwrap();
    let openssl = of(include_bytes!("client_hello_samples/openssl.bin"));
    assert_eq!(openssl.server_name.as_deref(), Some("api.example.com"));
    assert_eq!(Vec::from_iter(openssl.protocols.iter()), [&b"h2"[..], b"http/1.1"]);
    let without = of(include_bytes!("client_hello_samples/openssl-tls12-without-name.bin"));
    assert_eq!(without, ClientHello::default());
    let curl = of(include_bytes!("client_hello_samples/curl.bin"));
    assert_eq!(curl.server_name.as_deref(), Some("shop.example.com"));
    // With GREASE (RFC 8701) and a post-quantum key, in an order chosen at random. Its encrypted_client_hello extension is
    // most likely GREASE, too: it cannot be told from a real one, which needs a key that the server has published.
    let chromium = of(include_bytes!("client_hello_samples/chromium.bin"));
    assert_eq!(chromium.server_name.as_deref(), Some("www.example.com"));
    assert_eq!(Vec::from_iter(chromium.protocols.iter()), [&b"h2"[..], b"http/1.1"]);
}

/// The extension `encrypted_client_hello` of an outer ClientHello (RFC 9849, 5): the cipher suite, the identifier of the
/// server's key, an encapsulated key and the encrypted inner ClientHello.
fn encrypted_client_hello(inner: &[u8]) -> Vec<u8> {
    const OUTER: u8 = 0;
    let cipher_suite = [0, 1, 0, 1]; // HKDF-SHA256, AES-128-GCM
    extension(0xfe0d, &[&[OUTER][..], &cipher_suite, &[42], &vector(&[7; 32]), &vector(inner)].concat())
}

#[test]
fn the_outer_name_of_an_encrypted_client_hello_is_read() {
    let (outer, protocols) = (server_name(b"public.example"), alpn(&[b"h2"]));
    // What is encrypted is opaque, even bytes that look like a name.
    for inner in [vec![0x5a; 300], server_name(b"secret.example"), message(&[server_name(b"secret.example")])]
    {
        let encrypted = encrypted_client_hello(&inner);
        for extensions in [
            [outer.clone(), protocols.clone(), encrypted.clone()],
            [encrypted.clone(), outer.clone(), protocols.clone()],
        ] {
            let hello = read(&extensions).unwrap();
            assert_eq!(hello.server_name.as_deref(), Some("public.example"));
            assert_eq!(Vec::from_iter(hello.protocols.iter()), [&b"h2"[..]]);
        }
        assert_eq!(name_in(&[encrypted]), None);
    }
}

#[test]
fn a_name_is_compared_in_lower_case_and_without_a_final_dot() {
    for (sent, name) in [
        (&b"www.Example.COM"[..], Some("www.example.com")),
        (b"example.com.", Some("example.com")),
        (b"a_b-c.example", Some("a_b-c.example")),
        (b"localhost", Some("localhost")),
        (b"", None),
        (b".", None),
        (b"a..b", None),
        (b"2001:db8::1", None),
        (b"192.0.2.1", None),
        (b"b\xfccher.example", None),
        (b"a\x1b[31mb", None),
        (b"a\nb", None),
        (&[b'a'; 64], None),
        (&[b"a.".repeat(126), b"ab".to_vec()].concat(), None),
    ] {
        assert_eq!(name_in(&[server_name(sent)]).as_deref(), name, "{}", sent.escape_ascii());
    }
    // Another kind of name.
    let other = extension(SERVER_NAME, &vector(&[&[1][..], &vector(b"x")].concat()));
    assert_eq!(name_in(&[other]), None);
}

#[test]
fn a_message_without_extensions_is_read() {
    let body = [&[3, 1][..], &[7; 32], &[0], &vector(&[0, 47]), &[1, 0]].concat();
    assert_eq!(parse(&records(&handshake(&body), 100)), Ok(Some(ClientHello::default())));
}

#[test]
fn what_is_malformed_is_an_error() {
    let twice = [server_name(b"a.example"), server_name(b"b.example")];
    let protocols_twice = [alpn(&[b"h2"]), alpn(&[b"h2"])];
    let two_names = [&[0][..], &vector(b"a"), &[0], &vector(b"b")].concat();
    for extensions in [
        &twice[..],
        &protocols_twice,
        &[extension(SERVER_NAME, b"")],
        &[extension(SERVER_NAME, &vector(&two_names))],
        &[extension(SERVER_NAME, &[vector(&[&[0][..], &vector(b"a")].concat()), vec![0]].concat())],
        &[extension(ALPN, b"")],
        &[extension(ALPN, &vector(b""))],
        &[extension(ALPN, &vector(&[0]))],
        &[extension(ALPN, &vector(&[3, b'h', b'2']))],
        &[vec![0, 0, 0]],
        &[vec![0, 99, 0, 5, 1]],
    ] {
        assert_eq!(read(extensions), Err(PrefaceError::Malformed(Tls)), "{extensions:?}");
    }
    let mut after = message(&[]);
    after.push(0);
    let length = after.len() - 4;
    after[3] = length as u8;
    assert_eq!(parse(&records(&after, 1000)), Err(PrefaceError::Malformed(Tls)));
    // A record without content, and one that is longer than records are.
    assert_eq!(parse(&[22, 3, 1, 0, 0]), Err(PrefaceError::Malformed(Tls)));
    assert_eq!(parse(&[22, 3, 1, 0x40, 1]), Err(PrefaceError::Malformed(Tls)));
}

#[test]
fn what_is_not_tls_is_recognized_by_its_first_bytes() {
    let others = [
        &b"G"[..],
        b"GET / HTTP/1.1\r\n\r\n",
        b"SSH-2.0-x",
        &[22, 1],
        &[0x80, 0x2e],
        b"\0\0\0\x08\x04\xd2\x16/",
    ];
    // Other records, and another message.
    for other in others.into_iter().chain([&[23, 3, 3][..], &[21, 3, 1], &[22, 3, 3, 0, 4, 2]]) {
        assert_eq!(parse(other), Err(PrefaceError::Missing(Tls)), "{}", other.escape_ascii());
    }
    assert_eq!(parse(&[]), Ok(None));
}

#[test]
fn the_size_is_limited() {
    let padded = |length| message(&[extension(21, &vec![0; length])]);
    let fits = records(&padded(LONGEST - 70), LONGEST_RECORD);
    assert!(fits.len() <= LONGEST && matches!(parse(&fits), Ok(Some(_))));
    let long = records(&padded(LONGEST), LONGEST_RECORD);
    assert_eq!(parse(&long[..LONGEST]), Err(PrefaceError::TooLong(Tls)));
    // The length in the message is enough to know.
    assert_eq!(parse(&[22, 3, 1, 0, 100, 1, 1, 0, 0]), Ok(None));
    let announced = [&[22, 3, 1, 0, 4, 1, 1, 0, 0][..]].concat();
    assert_eq!(parse(&announced), Err(PrefaceError::TooLong(Tls)));
    // Short records do not evade the limit.
    let many = records(&padded(1000), 15);
    assert_eq!(parse(&many), Err(PrefaceError::TooLong(Tls)));
    assert!(matches!(parse(&records(&padded(900), 15)), Ok(Some(_))));
}

fn any_extensions() -> impl Strategy<Value = (Vec<Vec<u8>>, ClientHello)> {
    let name = proptest::option::of("[a-z0-9_-]{1,20}(\\.[a-z0-9-]{1,20}){0,3}");
    let protocols = proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..12), 0..4);
    let other = (17u16.., proptest::collection::vec(any::<u8>(), 0..40));
    let others = proptest::collection::vec(other.prop_map(|(kind, data)| extension(kind, &data)), 0..5);
    (name, protocols, others, any::<Index>(), any::<Index>()).prop_map(|(name, protocols, mut all, a, b)| {
        if let Some(name) = &name {
            all.insert(a.index(all.len() + 1), server_name(name.as_bytes()));
        }
        if !protocols.is_empty() {
            let names: Vec<_> = protocols.iter().map(Vec::as_slice).collect();
            all.insert(b.index(all.len() + 1), alpn(&names));
        }
        let protocols = protocols.iter().map(Vec::as_slice).collect();
        (all, ClientHello { server_name: name, protocols })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn a_message_is_read_whole_in_any_records_and_no_part_of_it_is_enough(
        (extensions, expected) in any_extensions(), size in 20..600_usize, after in proptest::collection::vec(any::<u8>(), 0..20),
    ) {
        let bytes = records(&message(&extensions), size);
        for part in 0..bytes.len() {
            prop_assert_eq!(parse(&bytes[..part]), Ok(None));
        }
        prop_assert_eq!(parse(&[&bytes[..], &after].concat()), Ok(Some(expected)));
    }

    #[test]
    fn changed_bytes_give_a_message_or_an_error(
        (extensions, _) in any_extensions(), size in 1..600_usize,
        changes in proptest::collection::vec((any::<Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = records(&message(&extensions), size);
        for (index, byte) in changes {
            let at = index.index(bytes.len());
            bytes[at] = byte;
        }
        laws::check(&bytes);
    }

    #[test]
    fn any_bytes_give_a_message_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let started = [&[22, 3, 1, 0, bytes.len() as u8][..], &bytes].concat();
        for bytes in [&bytes, &started] {
            laws::check(bytes);
        }
    }
}
