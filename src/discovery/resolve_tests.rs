use super::*;
use hickory_resolver::proto::rr::rdata::{CNAME, SRV};

fn addresses(text: &str) -> DnsAnswer<BTreeSet<IpAddr>> {
    DnsAnswer::Records([text.parse().unwrap()].into())
}

fn name(text: &str) -> Name {
    Name::from_str_relaxed(text).unwrap()
}

fn record(owner: &str, data: RData) -> Record {
    Record::from_rdata(name(owner), 1, data)
}

fn resolver(search: &[&str], ndots: usize) -> Resolver {
    let mut resolver = Resolver::new(Some("127.0.0.1:53".parse().unwrap()), Duration::from_secs(1)).unwrap();
    resolver.absolute = false;
    (resolver.search, resolver.ndots) = (search.iter().map(|suffix| name(suffix)).collect(), ndots);
    resolver
}

#[test]
fn a_failed_family_is_not_mistaken_for_an_absent_one() {
    assert_eq!(both(addresses("10.0.0.1"), DnsAnswer::Timeout), DnsAnswer::Timeout);
    assert_eq!(
        both(DnsAnswer::ServerFailure("SERVFAIL".into()), addresses("fd00::1")),
        DnsAnswer::ServerFailure("SERVFAIL".into())
    );
    assert_eq!(both(addresses("10.0.0.1"), DnsAnswer::Empty), addresses("10.0.0.1"));
    assert_eq!(both(DnsAnswer::NoSuchName, DnsAnswer::Empty), DnsAnswer::NoSuchName);
    assert_eq!(both(DnsAnswer::Empty, DnsAnswer::Empty), DnsAnswer::Empty);
}

#[test]
fn an_alias_has_the_records_of_its_end() {
    let answers = [
        record("_web._tcp.alias.test.", RData::CNAME(CNAME(name("_web._tcp.test.")))),
        record("_web._tcp.test.", RData::SRV(SRV::new(1, 2, 3, name("Host.Test.")))),
        record("_web._tcp.test.", RData::SRV(SRV::new(0, 0, 0, Name::root()))),
    ];
    let DnsAnswer::Records(found) = srv_records(&answers, &[], ResponseCode::NoError) else { panic!() };
    assert_eq!(
        found.records,
        [
            SrvRecord { target: "host.test".into(), port: 3, priority: 1, weight: 2 },
            SrvRecord { target: "".into(), port: 0, priority: 0, weight: 0 },
        ]
    );
    let none = srv_records(&answers[..1], &[], ResponseCode::NoError);
    assert!(matches!(none, DnsAnswer::Empty));
}

#[test]
fn additional_addresses_are_found_by_name_and_family() {
    let answers = [record("_web._tcp.test.", RData::SRV(SRV::new(1, 2, 3, name("host.test."))))];
    let additionals = [
        record("HOST.test.", RData::A("10.0.0.1".parse().unwrap())),
        record("host.test.", RData::A("10.0.0.2".parse().unwrap())),
        record("other.test.", RData::AAAA("fd00::1".parse().unwrap())),
    ];
    let DnsAnswer::Records(found) = srv_records(&answers, &additionals, ResponseCode::NoError) else {
        panic!()
    };
    let of = |host: &str, kind| found.additional.get(&(name(host), kind)).map_or(0, BTreeSet::len);
    assert_eq!(of("host.test.", RecordType::A), 2);
    assert_eq!(of("host.test.", RecordType::AAAA), 0);
    assert_eq!(of("other.test.", RecordType::AAAA), 1);
}

#[test]
fn a_relative_name_is_tried_with_the_search_list_by_the_rules_of_resolv_conf() {
    let candidates = |resolver: &Resolver, text: &str| -> Vec<String> {
        let name = resolver.name(text).unwrap();
        resolver.candidates(name).iter().map(ToString::to_string).collect()
    };
    let kubernetes = resolver(&["shop.svc.cluster.local.", "svc.cluster.local."], 5);
    assert_eq!(
        candidates(&kubernetes, "_web._tcp.web"),
        ["_web._tcp.web.shop.svc.cluster.local.", "_web._tcp.web.svc.cluster.local.", "_web._tcp.web."]
    );
    assert_eq!(candidates(&kubernetes, "_web._tcp.web."), ["_web._tcp.web."]);
    assert_eq!(
        candidates(&resolver(&["corp.test."], 1), "_web._tcp.shop.test"),
        ["_web._tcp.shop.test.", "_web._tcp.shop.test.corp.test."]
    );
}
