use super::*;

fn addresses(list: &[&str]) -> Vec<SocketAddr> {
    list.iter().map(|address| address.parse().unwrap()).collect()
}

fn listener() -> ListenerRules {
    ListenerRules {
        name: identifier("web"),
        addresses: addresses(&["192.0.2.1:80"]),
        masquerade: true,
        choice: SlotChoice::Rotation,
        key: HashKey::SourceIp,
        slots: [addresses(&["10.0.0.1:5000", "10.0.0.2:5000"]), Vec::new()],
        connect: Duration::from_secs(1),
        timeouts: [Some(Duration::from_secs(3600)), Some(Duration::from_millis(1500))],
    }
}

fn rules(listener: ListenerRules) -> Rules {
    Rules { listeners: vec![listener] }
}

#[test]
fn the_whole_table_replaces_the_one_before() {
    let expected = "\
add table inet pointsman
delete table inet pointsman
table inet pointsman {
\tct timeout to_web_v4 {
\t\tprotocol tcp
\t\tl3proto ip
\t\tpolicy = { syn_sent : 1, time_wait : 10, close : 5, established : 3600, fin_wait : 2, close_wait : 2 }
\t}
\tmap to_web_v4 {
\t\ttypeof numgen inc mod 65537 : ip daddr . tcp dport
\t\telements = { 0 : 10.0.0.1 . 5000, 1 : 10.0.0.2 . 5000 }
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
\t\tct state new,invalid tcp flags & (syn | rst) == 0 ip saddr . tcp sport . ip daddr . tcp dport @closed_v4 reject with tcp reset
\t\tct state new,invalid tcp flags & (syn | rst) == 0 ip6 saddr . tcp sport . ip6 daddr . tcp dport @closed_v6 reject with tcp reset
\t}
\tchain translate {
\t\tip daddr 192.0.2.1 tcp dport 80 tcp flags & (fin | syn | rst | ack) == syn ct mark set ct mark | 0x30000000 dnat ip to numgen inc mod 2 map @to_web_v4
\t}
\tchain set_timeout {
\t\tip daddr 192.0.2.1 tcp dport 80 ct state new ct timeout set \"to_web_v4\" ct event set 0x8c
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
\tchain prerouting_before {
\t\ttype filter hook prerouting priority -150; policy accept;
\t\tjump reset_closed
\t\tjump set_timeout
\t}
\tchain prerouting_translate {
\t\ttype nat hook prerouting priority -101; policy accept;
\t\tjump translate
\t}
\tchain prerouting_after {
\t\ttype filter hook prerouting priority 0; policy accept;
\t\tjump note_end
\t}
\tchain output_before {
\t\ttype filter hook output priority -150; policy accept;
\t\tjump reset_closed
\t\tjump set_timeout
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
}
";
    assert_eq!(rules(listener()).script(), expected);
}

#[test]
fn a_change_of_backends_writes_only_the_slots_that_differ() {
    let before = rules(listener());
    let changed =
        |slots: &[&str]| rules(ListenerRules { slots: [addresses(slots), Vec::new()], ..listener() });
    let script = changed(&["10.0.0.1:5000", "10.0.0.3:5000", "10.0.0.4:5000"]).script_from(&before);
    assert!(script.contains("delete element inet pointsman to_web_v4 { 1 }\n"), "{script}");
    let add = "add element inet pointsman to_web_v4 { 1 : 10.0.0.3 . 5000, 2 : 10.0.0.4 . 5000 }\n";
    assert!(script.contains(add) && script.contains("numgen inc mod 3 map"), "{script}");
    let none = changed(&[]).script_from(&before);
    assert!(none.contains("delete element inet pointsman to_web_v4 { 0, 1 }\n"), "{none}");
    assert!(!none.contains("dnat"), "{none}");
}

#[test]
fn another_listener_makes_the_table_anew() {
    let before = rules(listener());
    let mut after = before.clone();
    after.listeners.push(ListenerRules { name: identifier("other"), ..listener() });
    assert_eq!(after.script_from(&before), after.script());
    let more =
        rules(ListenerRules { addresses: addresses(&["192.0.2.1:80", "[2001:db8::1]:80"]), ..listener() });
    assert_eq!(more.script_from(&before), more.script());
    let slower = rules(ListenerRules { timeouts: [None, None], ..listener() });
    assert_eq!(slower.script_from(&before), slower.script());
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
    assert_eq!(identifier("fwd; flush ruleset"), "to_fwd__flush_ruleset");
}
