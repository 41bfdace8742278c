use super::*;
use proptest::prelude::*;

const CLIENT: &str = "10.9.0.10:40000";
const LISTENER: &str = "10.9.0.100:80";
const BACKEND: &str = "10.8.0.21:5000";

fn tuple(source: &str, destination: &str) -> Tuple {
    Tuple { source: source.parse().unwrap(), destination: destination.parse().unwrap() }
}

/// The body of a message about an entry, as the kernel writes it.
fn body(original: Tuple, reply: Tuple, state: u8, bytes: Option<[u64; 2]>) -> Vec<u8> {
    let mut request = Request::new(0, 0, 0);
    request.put(&[libc::AF_INET as u8, 0, 0, 0]);
    original.put(&mut request);
    // The reply has the same form under another type.
    let mut reply_request = Request::new(0, 0, 0);
    reply.put(&mut reply_request);
    let mut reply_bytes = reply_request.finish()[netlink::HEADER..].to_vec();
    reply_bytes[2..4].copy_from_slice(&(TUPLE_REPLY | 0x8000).to_ne_bytes());
    request.put(&reply_bytes);
    request.attribute(MARK, &0x3000_0000u32.to_be_bytes());
    request.attribute(STATUS, &SEEN_REPLY.to_be_bytes());
    request.nested(PROTOCOL_STATE, |state_of| {
        state_of.nested(TCP, |tcp| {
            tcp.attribute(TCP_STATE, &[state]);
        });
    });
    for (kind, bytes) in [COUNTERS_ORIGINAL, COUNTERS_REPLY].into_iter().zip(bytes.iter().flatten()) {
        request.nested(kind, |counters| counters.attribute(BYTES, &bytes.to_be_bytes()));
    }
    request.finish()[netlink::HEADER..].to_vec()
}

#[test]
fn an_entry_is_read_with_its_ends_its_state_and_its_bytes() {
    let (original, reply) = (tuple(CLIENT, LISTENER), tuple(BACKEND, "10.8.0.1:40000"));
    let read = |state, bytes| ConntrackEntry::read(&body(original, reply, state, bytes)).unwrap();
    let expected = ConntrackEntry {
        original,
        reply,
        mark: 0x3000_0000,
        answered: Some(true),
        state: Some(TcpState::Established),
        bytes: None,
    };
    assert_eq!(read(3, None), expected);
    let ended = read(7, Some([54, 1000]));
    assert_eq!((ended.state, ended.bytes), (Some(TcpState::TimeWait), Some([54, 1000])));
}

#[test]
fn ipv6_ends_are_read_as_they_are_asked_for() {
    let v6 = tuple("[2001:db8::1]:40000", "[2001:db8::2]:80");
    let request = v6.request(GET, 0, 3);
    let (message, _) = netlink::split(&request).unwrap();
    assert_eq!((message.sequence, message.body[0]), (3, libc::AF_INET6 as u8));
    let original = attribute(&message.body[FAMILY_HEADER..], TUPLE_ORIGINAL).unwrap();
    assert_eq!(Tuple::read(original), Some(v6));
}

#[test]
fn the_kind_of_an_event_follows_from_its_type_and_its_flags() {
    let body = body(tuple(CLIENT, LISTENER), tuple(BACKEND, CLIENT), 1, None);
    let event = |kind, flags: i32| {
        let message =
            netlink::NetlinkMessage { kind: SUBSYSTEM | kind, flags: flags as u16, sequence: 0, body: &body };
        ConntrackEvent::read(&message)
    };
    assert!(matches!(event(NEW, libc::NLM_F_CREATE | libc::NLM_F_EXCL), Some(ConntrackEvent::New(_))));
    assert!(matches!(event(NEW, 0), Some(ConntrackEvent::Changed(_))));
    assert!(matches!(event(DELETE, 0), Some(ConntrackEvent::Gone(_))));
    assert_eq!(event(9, 0), None);
}

proptest! {
    #[test]
    fn an_entry_that_is_cut_or_wrong_is_not_read_beyond_its_end(
        end in 0usize..400,
        at in 0usize..400,
        value in any::<u8>(),
    ) {
        let mut body = body(tuple(CLIENT, LISTENER), tuple(BACKEND, CLIENT), 3, Some([1, 2]));
        if let Some(byte) = body.get_mut(at) {
            *byte = value;
        }
        body.truncate(end);
        // It must not panic.
        let _ = ConntrackEntry::read(&body);
    }
}
