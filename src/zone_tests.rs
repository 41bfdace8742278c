use super::*;
use crate::testing::in_time;
use hickory_resolver::proto::op::Query;

fn query(zone: &Zone, name: &str, kind: RecordType, payload: Option<u16>) -> Option<Message> {
    let mut query = Message::query();
    query.add_query(Query::query(Name::from_str_relaxed(name).unwrap(), kind));
    query.edns = payload.map(|bytes| {
        let mut edns = Edns::new();
        edns.set_max_payload(bytes);
        edns
    });
    let answer = Message::from_vec(&zone.over_udp(&query.to_vec().unwrap())?).unwrap();
    assert_eq!(answer.metadata.id, query.metadata.id);
    Some(answer)
}

fn code(zone: &Zone, name: &str, kind: RecordType) -> (ResponseCode, usize) {
    let answer = query(zone, name, kind, None).unwrap();
    (answer.metadata.response_code, answer.answers.len())
}

#[test]
fn missing_names_and_missing_types_differ_as_with_docker() {
    let zone = Zone::new();
    let ip: IpAddr = "127.0.0.2".parse().unwrap();
    zone.add("backend", ip);
    zone.name_owner(ip, "demo_backend_1.demo_default.");
    assert_eq!(code(&zone, "Backend.", RecordType::A), (ResponseCode::NoError, 1));
    assert_eq!(code(&zone, "backend.", RecordType::AAAA), (ResponseCode::NoError, 0));
    assert_eq!(code(&zone, "other.", RecordType::A), (ResponseCode::NXDomain, 0));
    let owner = query(&zone, "2.0.0.127.in-addr.arpa.", RecordType::PTR, None).unwrap();
    assert_eq!(owner.answers[0].data.to_string(), "demo_backend_1.demo_default.");
    assert_eq!(owner.answers[0].ttl, TTL);
    assert_eq!(code(&zone, "3.0.0.127.in-addr.arpa.", RecordType::PTR), (ResponseCode::NXDomain, 0));
    zone.remove("backend", ip);
    assert_eq!(code(&zone, "backend.", RecordType::A), (ResponseCode::NXDomain, 0));
}

#[test]
fn srv_records_have_additionals_if_configured() {
    let zone = Zone::new();
    let name = "_web._tcp.test.";
    assert_eq!(code(&zone, name, RecordType::SRV), (ResponseCode::NXDomain, 0));
    zone.set("host.test", ["127.0.0.2".parse().unwrap(), "::1".parse().unwrap()]);
    zone.set_services(name, [ServiceRecord { priority: 1, weight: 2, port: 3, target: "host.test".into() }]);
    assert_eq!(code(&zone, name, RecordType::A), (ResponseCode::NoError, 0));
    assert_eq!(code(&zone, "host.test.", RecordType::SRV), (ResponseCode::NoError, 0));
    let alone = query(&zone, name, RecordType::SRV, None).unwrap();
    assert_eq!(alone.answers[0].data.to_string(), "1 2 3 host.test.");
    assert!(alone.additionals.is_empty());
    zone.set_additionals(true);
    let more = query(&zone, name, RecordType::SRV, None).unwrap();
    assert_eq!((more.answers.len(), more.additionals.len()), (1, 2));
    // Additionals that do not fit are left out, and the answer is still complete.
    zone.limit_udp(Some(80));
    let less = query(&zone, name, RecordType::SRV, None).unwrap();
    assert_eq!((less.answers.len(), less.additionals.len(), less.metadata.truncation), (1, 0, false));
    zone.set_mode_of("host.test", AnswerMode::ServFail);
    assert_eq!(code(&zone, "host.test.", RecordType::A).0, ResponseCode::ServFail);
    assert_eq!(code(&zone, name, RecordType::SRV).0, ResponseCode::NoError);
}

#[test]
fn an_answer_that_is_too_long_is_truncated() {
    let zone = Zone::new();
    zone.set("backend", (1..=100).map(|n| IpAddr::from([10, 0, 0, n])));
    let plain = query(&zone, "backend.", RecordType::A, None).unwrap();
    assert!(plain.metadata.truncation && plain.answers.len() < 100);
    assert!(plain.to_vec().unwrap().len() <= 512);
    let edns = query(&zone, "backend.", RecordType::A, Some(4096)).unwrap();
    assert!(!edns.metadata.truncation && edns.answers.len() == 100);
    zone.limit_udp(Some(100));
    let capped = query(&zone, "backend.", RecordType::A, Some(4096)).unwrap();
    assert!(capped.metadata.truncation && capped.answers.len() < 10);
}

#[test]
fn the_mode_sets_the_failure() {
    let zone = Zone::new();
    zone.set("backend", ["10.0.0.1".parse().unwrap()]);
    zone.set_mode(AnswerMode::ServFail);
    assert_eq!(code(&zone, "backend.", RecordType::A), (ResponseCode::ServFail, 0));
    zone.set_mode(AnswerMode::Refused);
    assert_eq!(code(&zone, "backend.", RecordType::A), (ResponseCode::Refused, 0));
    zone.set_mode(AnswerMode::Silent);
    assert_eq!(query(&zone, "backend.", RecordType::A, None), None);
    assert_eq!(zone.queries(), Queries { udp: 3, tcp: 0 });
}

#[tokio::test]
async fn an_answer_over_tcp_is_complete() {
    let zone = Zone::new();
    zone.set("backend", (1..=100).map(|n| IpAddr::from([10, 0, 0, n])));
    let server = DnsServer::start("127.0.0.1:0".parse().unwrap(), zone.clone()).await.unwrap();
    let mut query = Message::query();
    query.add_query(Query::query(Name::from_str_relaxed("backend.").unwrap(), RecordType::A));
    let bytes = query.to_vec().unwrap();
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_u16(bytes.len().try_into().unwrap()).await.unwrap();
    stream.write_all(&bytes).await.unwrap();
    let length = in_time("the length of the answer", stream.read_u16()).await.unwrap();
    let mut answer = vec![0; usize::from(length)];
    in_time("the answer", stream.read_exact(&mut answer)).await.unwrap();
    assert_eq!(Message::from_vec(&answer).unwrap().answers.len(), 100);
    assert_eq!(zone.queries(), Queries { udp: 0, tcp: 1 });
}
