use super::*;
use crate::balance::SlotChoice;
use crate::config::{ConntrackEvents, HashKey};
use crate::kernel_plane::listener_rules::identifier;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

fn addresses(list: &[&str]) -> Vec<SocketAddr> {
    list.iter().map(|address| address.parse().unwrap()).collect()
}

fn listener() -> ListenerRules {
    ListenerRules {
        name: identifier("web"),
        addresses: addresses(&["192.0.2.1:80"]),
        masquerade: true,
        events: ConntrackEvents::Few,
        choice: SlotChoice::Rotation,
        key: HashKey::SourceIp,
        slots: [addresses(&["10.0.0.1:5000", "10.0.0.2:5000"]), Vec::new()],
        backends: addresses(&["10.0.0.1:5000", "10.0.0.2:5000", "10.0.0.3:5000"]),
        connect: Duration::from_secs(1),
        timeouts: [Some(Duration::from_secs(3600)), Some(Duration::from_millis(1500))],
    }
}

fn rules(listener: ListenerRules) -> Ruleset {
    Ruleset { listeners: vec![listener] }
}

#[test]
fn the_whole_table_replaces_the_one_before() {
    let expected = "\
add table inet pointsman
delete table inet pointsman
table inet pointsman {
\tmap to_web_v4 {
\t\ttypeof numgen inc mod 65537 : ip daddr . tcp dport
\t}
}
add element inet pointsman to_web_v4 { 0 : 10.0.0.1 . 5000, 1 : 10.0.0.2 . 5000 }
table inet pointsman-open {
\tct timeout after_1_3600_2_v4 {
\t\tprotocol tcp
\t\tl3proto ip
\t\tpolicy = { syn_sent : 1, time_wait : 10, close : 5, established : 3600, fin_wait : 2, close_wait : 2 }
\t}
\tset closed_v4 {
\t\ttypeof ip saddr . tcp sport . ip daddr . tcp dport
\t\ttimeout 10m
\t}
\tset closed_v6 {
\t\ttypeof ip6 saddr . tcp sport . ip6 daddr . tcp dport
\t\ttimeout 10m
\t}
\tchain reset_closed {
\t}
\tchain set_timeout {
\t}
\tchain prerouting {
\t\ttype filter hook prerouting priority -150; policy accept;
\t}
\tchain output {
\t\ttype filter hook output priority -150; policy accept;
\t}
\tchain probes {
\t\ttype filter hook output priority -300; policy accept;
\t}
}
flush table inet pointsman-open
add rule inet pointsman-open reset_closed ct state new,invalid tcp flags & (syn | rst) == 0 ip saddr . tcp sport . ip daddr . tcp dport @closed_v4 reject with tcp reset
add rule inet pointsman-open reset_closed ct state new,invalid tcp flags & (syn | rst) == 0 ip6 saddr . tcp sport . ip6 daddr . tcp dport @closed_v6 reject with tcp reset
add rule inet pointsman-open set_timeout ip daddr 192.0.2.1 tcp dport 80 ct state new ct timeout set \"after_1_3600_2_v4\" ct event set 0x8c
add rule inet pointsman-open prerouting jump reset_closed
add rule inet pointsman-open prerouting jump set_timeout
add rule inet pointsman-open output jump reset_closed
add rule inet pointsman-open output jump set_timeout
add rule inet pointsman-open probes meta mark 0x504d0001 notrack
table inet pointsman {
\tchain translate {
\t\tip daddr 192.0.2.1 tcp dport 80 tcp flags & (fin | syn | rst | ack) == syn ct mark set ct mark | 0x30000000 dnat ip to numgen inc mod 2 map @to_web_v4
\t}
\tchain note_end {
\t\ttcp flags & (fin | rst) == 0 return
\t\tct mark & 0x10000000 == 0 return
\t\ttcp flags & rst == rst ct direction reply ct mark set ct mark | 0x8000000 return
\t\ttcp flags & rst == rst ct mark set ct mark | 0x4000000 return
\t\tct mark & 0xf000000 != 0 return
\t\tct direction reply ct mark set ct mark | 0x2000000 return
\t\tct mark set ct mark | 0x1000000 return
\t}
\tchain prerouting_translate {
\t\ttype nat hook prerouting priority -101; policy accept;
\t\tjump translate
\t}
\tchain prerouting_after {
\t\ttype filter hook prerouting priority 0; policy accept;
\t\tjump note_end
\t}
\tchain output_translate {
\t\ttype nat hook output priority -101; policy accept;
\t\tjump translate
\t}
\tchain output_after {
\t\ttype filter hook output priority 0; policy accept;
\t\tjump note_end
\t}
\tchain postrouting {
\t\ttype nat hook postrouting priority 99; policy accept;
\t\tct mark & 0x20000000 != 0 masquerade
\t}
\tchain forward {
\t\ttype filter hook forward priority 0; policy accept;
\t}
\tchain input {
\t\ttype filter hook input priority 0; policy accept;
\t}
}
add table inet pointsman-2
delete table inet pointsman-2
";
    assert_eq!(rules(listener()).scripts("pointsman"), (vec![expected.to_owned()], "pointsman"));
}

#[test]
fn a_change_of_backends_writes_only_the_slots_that_differ() {
    let before = rules(listener());
    let changed =
        |slots: &[&str]| rules(ListenerRules { slots: [addresses(slots), Vec::new()], ..listener() });
    let only = |now: &Ruleset| match &now.scripts_from(&before, "pointsman").unwrap()[..] {
        [script] => script.clone(),
        more => panic!("{more:?}"),
    };
    let script = only(&changed(&["10.0.0.1:5000", "10.0.0.3:5000", "10.0.0.4:5000"]));
    assert!(script.contains("delete element inet pointsman to_web_v4 { 1 }\n"), "{script}");
    let add = "add element inet pointsman to_web_v4 { 1 : 10.0.0.3 . 5000, 2 : 10.0.0.4 . 5000 }\n";
    assert!(script.contains(add) && script.contains("numgen inc mod 3 map"), "{script}");
    let none = only(&changed(&[]));
    assert!(none.contains("delete element inet pointsman to_web_v4 { 0, 1 }\n"), "{none}");
    assert!(!none.contains("dnat"), "{none}");
}

#[test]
fn another_listener_makes_the_table_anew() {
    let before = rules(listener());
    let mut after = before.clone();
    after.listeners.push(ListenerRules { name: identifier("other"), ..listener() });
    assert_eq!(after.scripts_from(&before, "pointsman"), None);
    let more =
        rules(ListenerRules { addresses: addresses(&["192.0.2.1:80", "[2001:db8::1]:80"]), ..listener() });
    assert_eq!(more.scripts_from(&before, "pointsman"), None);
}

#[test]
fn other_time_outs_are_added_to_those_of_open_connections() {
    let before = rules(listener());
    let slower = rules(ListenerRules { timeouts: [None, None], ..listener() });
    let script = slower.scripts_from(&before, "pointsman").unwrap().concat();
    assert!(script.contains("ct timeout after_1_off_off_v4 {") && !script.contains("delete"), "{script}");
}

#[test]
fn each_key_is_hashed_as_in_user_space() {
    let of = |key, choice| {
        let addresses = addresses(&["[2001:db8::1]:80", "192.0.2.1:80"]);
        let slots = [addresses.clone(), addresses.clone()];
        ListenerRules { key, choice, addresses, slots, ..listener() }.translations().join("\n")
    };
    let hashed = |key| of(key, SlotChoice::Client);
    assert!(hashed(HashKey::SourceIp).contains("to jhash ip6 saddr mod 2 seed 0x504d map @to_web_v6"));
    assert!(hashed(HashKey::SourceIpPort).contains("jhash ip saddr . tcp sport mod 2 seed 0x504d"));
    assert!(hashed(HashKey::SourceNet).contains("jhash ip saddr & 255.255.255.0 mod 2"));
    assert!(hashed(HashKey::SourceNet).contains("jhash ip6 saddr & ffff:ffff:ffff:ffff:: mod 2"));
    assert!(of(HashKey::SourceIp, SlotChoice::Rotation).contains("dnat ip6 to numgen inc mod 2"));
}

#[test]
fn an_unspecified_address_is_every_address_but_loopback() {
    let of = |address: &str| {
        let slots = [addresses(&["10.0.0.1:1"]), addresses(&["[2001:db8::5]:1"])];
        ListenerRules { addresses: addresses(&[address]), slots, ..listener() }.translations()
    };
    let v4 = "fib daddr type local ip daddr != 127.0.0.0/8 tcp dport 80 tcp flags";
    assert!(of("0.0.0.0:80").len() == 1 && of("0.0.0.0:80")[0].starts_with(v4));
    let both = of("[::]:80");
    let v6 = "fib daddr type local ip6 daddr != ::1 tcp dport 80 tcp flags";
    assert!(both.len() == 2 && both[0].starts_with(v4) && both[1].starts_with(v6), "{both:?}");
}

#[test]
fn a_name_that_nftables_would_not_take_is_changed() {
    assert_eq!(identifier("web"), "to_web");
    assert!(identifier("fwd; flush ruleset").starts_with("to_fwd__flush_ruleset_"));
    assert_ne!(identifier("a.b"), identifier("a_b"));
    let long = "a".repeat(65);
    assert_ne!(identifier(&long), identifier(&format!("{long}b")));
}

#[test]
fn all_events_are_reported_on_demand() {
    let events = |events| {
        let scripts = rules(ListenerRules { events, ..listener() }).scripts("pointsman").0.concat();
        let (_, after) = scripts.split_once("ct event set ").unwrap();
        after.split_whitespace().next().unwrap().to_owned()
    };
    assert_eq!(events(ConntrackEvents::Few), "0x8c");
    assert_eq!(events(ConntrackEvents::All), "0xbc");
}

#[test]
fn connections_of_another_machine_are_continued_if_both_would_choose_alike() {
    let kept = |choice, addresses: &[&str]| {
        let addresses = self::addresses(addresses);
        rules(ListenerRules { masquerade: false, choice, addresses, ..listener() })
    };
    let continued = kept(SlotChoice::Client, &["192.0.2.1:80"]);
    let whole = |rules: &Ruleset| rules.scripts("pointsman").0.concat();
    let script = whole(&continued);
    assert!(script.contains("!= syn socket wildcard 0 accept\n"), "{script}");
    let answers = "ip saddr . tcp sport @to_web_v4_backends tcp flags & (syn | rst) == 0 ct mark set ct mark | 0x50000000 \
                   snat ip to 192.0.2.1:80";
    assert!(script.contains(answers), "{script}");
    assert!(script.contains("ip saddr . tcp sport @to_web_v4_backends ct state invalid drop"), "{script}");
    let stray = "ip daddr 192.0.2.1 tcp dport 80 tcp flags & (syn | rst) == 0 ct state new,invalid drop";
    assert!(script.contains(stray), "{script}");
    let mut fewer = continued.clone();
    fewer.listeners[0].backends.pop();
    let delete = "delete element inet pointsman to_web_v4_backends { 10.0.0.3 . 5000 }\n";
    let change = fewer.scripts_from(&continued, "pointsman").unwrap().concat();
    assert!(change.contains(delete), "{change}");
    // Another machine would choose another backend, or the answers may have several addresses.
    for other in [
        kept(SlotChoice::Rotation, &["192.0.2.1:80"]),
        kept(SlotChoice::Client, &["192.0.2.1:80", "192.0.2.2:80"]),
        kept(SlotChoice::Client, &["0.0.0.0:80"]),
        rules(listener()),
    ] {
        assert!(!whole(&other).contains("_backends"), "{}", whole(&other));
    }
}

/// What `nft` would make of the scripts: the elements of a map. Each script must leave it with every slot that the rules choose.
fn carry_out(scripts: &[String], table: &str, mut map: BTreeMap<usize, String>) -> BTreeMap<usize, String> {
    let mut slots = None;
    for script in scripts {
        for line in script.lines() {
            let elements = |verb: &str| {
                let rest = line.strip_prefix(&format!("{verb} element inet {table} to_web_v4 {{ "))?;
                Some(rest.strip_suffix(" }").unwrap().split(", ").map(str::to_owned).collect::<Vec<_>>())
            };
            for slot in elements("delete").unwrap_or_default() {
                assert!(map.remove(&slot.parse().unwrap()).is_some(), "{slot} is not there");
            }
            for element in elements("add").unwrap_or_default() {
                let (slot, backend) = element.split_once(" : ").unwrap();
                assert_eq!(map.insert(slot.parse().unwrap(), backend.to_owned()), None, "{slot} is there");
            }
            if let Some((_, rest)) = line.split_once(" to numgen inc mod ") {
                slots = rest.split(' ').next().map(|count| count.parse::<usize>().unwrap()).or(slots);
            }
        }
        if let Some(slots) = slots {
            assert!(
                (0..slots).all(|slot| map.contains_key(&slot)),
                "a slot is missing between two transactions"
            );
        }
    }
    map
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn transactions_of_limited_size_lead_from_any_slots_to_any_others(
        before in proptest::collection::vec(0u8..4, 0..6000),
        after in proptest::collection::vec(0u8..4, 0..6000),
    ) {
        let slots = |owners: &[u8]| {
            let addresses = owners.iter().map(|owner| SocketAddr::from(([10, 0, 0, *owner], 5000))).collect();
            rules(ListenerRules { slots: [addresses, Vec::new()], ..listener() })
        };
        let expected = |owners: &[u8]| -> BTreeMap<usize, String> {
            owners.iter().enumerate().map(|(slot, owner)| (slot, format!("10.0.0.{owner} . 5000"))).collect()
        };
        let (old, new) = (slots(&before), slots(&after));
        let (scripts, table) = old.scripts("pointsman");
        let map = carry_out(&scripts, table, BTreeMap::new());
        prop_assert_eq!(&map, &expected(&before));
        let changes = new.scripts_from(&old, table).unwrap();
        prop_assert!(scripts.iter().chain(&changes).all(|script| script.len() < 120_000));
        prop_assert_eq!(carry_out(&changes, table, map), expected(&after));
    }
}

#[test]
fn many_connections_are_closed_in_transactions_of_limited_size() {
    let tuple = |port: u16| Tuple {
        source: SocketAddr::from(([10, 0, 0, 1], port)),
        destination: "192.0.2.1:80".parse().unwrap(),
    };
    let all: Vec<_> = (1..=5000).map(tuple).collect();
    let scripts = close_scripts(&all);
    assert_eq!(scripts.len(), 3);
    assert!(scripts.iter().all(|script| script.starts_with("add element inet pointsman-open closed_v4 {")));
    let elements: usize = scripts.iter().map(|script| script.matches("10.0.0.1 . ").count()).sum();
    assert_eq!((elements, close_scripts(&[])), (5000, Vec::new()));
}
