//! The table of nftables that forwards connections, as text for `nft -f` (nft(8)): pure.
//!
//! A connection is translated when its first packet is seen; conntrack translates the others. All packets of one listener
//! go through one rule, which finds the backend's address in a map of slots:
//!
//! ```text
//! ip daddr 192.0.2.1 tcp dport 80 ct mark set … dnat ip to numgen inc mod 2 map @web_v4
//! ```

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::conntrack::Tuple;
use crate::balance::hash::SEED;
use crate::balance::{self, SlotChoice};
use crate::config::HashKey;

/// The names of the table, of the family `inet`: a large one is made beside the one in use.
pub const TABLES: [&str; 2] = ["pointsman", "pointsman-2"];

/// The table of what concerns open connections. It is never made anew, as their time-outs would go with it.
pub const OPEN_TABLE: &str = "pointsman-open";

/// How many elements of maps a transaction adds or deletes. 200 KB (`net.core.wmem_max`) are enough for more.
const AT_ONCE: usize = 2000;

/// Bits of conntrack's mark (`ct mark`): the connection is translated by this table …
pub const OURS: u32 = 0x1000_0000;
/// … its source address, too …
const MASQUERADED: u32 = 0x2000_0000;
/// … its first packet that was seen came from the backend, as it began through another machine …
pub const REVERSED: u32 = 0x4000_0000;
/// … it began through another machine, and its first packet that was seen came from the client …
pub const CONTINUED: u32 = 0x8000_0000;
/// … and this was the first to end it: the FIN or reset of one side.
pub const CLIENT_CLOSED: u32 = 0x0100_0000;
/// The backend's FIN.
pub const BACKEND_CLOSED: u32 = 0x0200_0000;
/// A reset of the client, first or not.
pub const CLIENT_RESET: u32 = 0x0400_0000;
/// A reset of the backend.
pub const BACKEND_RESET: u32 = 0x0800_0000;
/// Any of these.
pub const ENDING: u32 = CLIENT_CLOSED | BACKEND_CLOSED | CLIENT_RESET | BACKEND_RESET;

/// The events of a connection: gone, answered, and its mark has changed (`enum ip_conntrack_events`). As a number, since
/// `nft` takes the word `mark` for something else.
const EVENTS: u32 = 1 << 2 | 1 << 3 | 1 << 7;

/// The rule for connections that this process relays, and of which conntrack did not know. A new one is none of them, even if a
/// socket still listens there.
const RELAYED: &str = "tcp flags & (fin | syn | rst | ack) != syn socket wildcard 0 accept";

/// Connections of this machine's own processes pass the second one.
const HOOKS: [&str; 2] = ["prerouting", "output"];

/// How long a side of a connection that was closed here gets a reset for its packets.
const CLOSED_MINUTES: u32 = 10;

/// How long a connection that both sides have closed stays in conntrack, in seconds: a minute is the longest that a FIN
/// is sent again, but a connection for each request would fill the table.
const TIME_WAIT: u64 = 10;
/// The same after a reset.
const RESET: u64 = 5;
/// The maximum of a time-out of conntrack.
const MOST_SECONDS: u64 = u32::MAX as u64 / 1000;

/// What the table forwards.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// For each listener.
    pub listeners: Vec<ListenerRules>,
}

/// What it forwards for one listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerRules {
    /// The name of the listener in the table ([`identifier`]).
    pub name: String,
    /// Its addresses; an unspecified one is every address of the machine.
    pub addresses: Vec<SocketAddr>,
    /// Whether the backends see the balancer's address instead of the client's.
    pub masquerade: bool,
    /// How the slot of a connection is chosen.
    pub choice: SlotChoice,
    /// What of the client is hashed, if it is chosen by that.
    pub key: HashKey,
    /// The backends' addresses by slot, for IPv4 and for IPv6.
    pub slots: [Vec<SocketAddr>; 2],
    /// All backends that may have connections, in order.
    pub backends: Vec<SocketAddr>,
    /// How long the handshake may take: after that the kernel forgets the connection, and the client's next SYN may reach
    /// another backend.
    pub connect: Duration,
    /// How long a connection may be silent, and how long it may after a FIN; `None`: as the kernel is configured.
    pub timeouts: [Option<Duration>; 2],
}

/// A version of IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

impl Family {
    const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The name of the protocol in nftables.
    fn ip(self) -> &'static str {
        match self {
            Self::V4 => "ip",
            Self::V6 => "ip6",
        }
    }

    fn suffix(self) -> &'static str {
        match self {
            Self::V4 => "v4",
            Self::V6 => "v6",
        }
    }

    /// The set of connections that were closed here.
    fn closed(self) -> &'static str {
        match self {
            Self::V4 => "closed_v4",
            Self::V6 => "closed_v6",
        }
    }

    /// The rule that resets them: each side at its next packet. A new connection between the same ends is known to
    /// conntrack.
    fn reset_closed(self) -> String {
        let (ip, set) = (self.ip(), self.closed());
        format!(
            "ct state new,invalid tcp flags & (syn | rst) == 0 {ip} saddr . tcp sport . {ip} daddr . tcp dport @{set} \
             reject with tcp reset"
        )
    }

    /// The conditions of packets to that address of a listener; `None`: it is of the other family.
    fn packets_to(self, address: SocketAddr) -> Option<String> {
        let port = address.port();
        let local = |ip: &str| Some(format!("fib daddr type local {ip} tcp dport {port}"));
        match (self, address.ip().to_canonical()) {
            (Self::V4, IpAddr::V4(ip)) if ip.is_unspecified() => local("ip daddr != 127.0.0.0/8"),
            // It accepts IPv4, too.
            (Self::V4, IpAddr::V6(ip)) if ip.is_unspecified() => local("ip daddr != 127.0.0.0/8"),
            (Self::V6, IpAddr::V6(ip)) if ip.is_unspecified() => local("ip6 daddr != ::1"),
            (Self::V4, IpAddr::V4(ip)) => Some(format!("ip daddr {ip} tcp dport {port}")),
            (Self::V6, IpAddr::V6(ip)) => Some(format!("ip6 daddr {ip} tcp dport {port}")),
            _ => None,
        }
    }
}

/// The name of a listener in the table: nftables allows fewer characters, and has words of its own. Two listeners never have
/// the same one.
pub fn identifier(listener: &str) -> String {
    let safe = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if listener.len() <= 64 && listener.chars().all(safe) {
        return format!("to_{listener}");
    }
    let changed: String = listener.chars().map(|c| if safe(c) { c } else { '_' }).take(64).collect();
    format!("to_{changed}_{:016x}", balance::hash::server_name(listener))
}

/// The scripts after which the packets of these directions get a reset.
pub fn close_scripts(directions: &[Tuple]) -> Vec<String> {
    let elements = |family: Family| -> Vec<String> {
        let of_family = |one: &&Tuple| one.source.is_ipv4() == (family == Family::V4);
        let element = |Tuple { source, destination }: &Tuple| {
            format!("{} . {} . {} . {}", source.ip(), source.port(), destination.ip(), destination.port())
        };
        directions.iter().filter(of_family).map(element).collect()
    };
    let elements = Family::ALL.map(|family| (family.closed(), elements(family)));
    transactions(elements.iter().flat_map(|(set, all)| Step::elements("add", OPEN_TABLE, set, all)))
}

/// Lines for `nft` that belong into one transaction.
struct Step {
    lines: String,
    /// How many elements of maps and sets they add or delete.
    elements: usize,
}

impl Step {
    fn lines(lines: String) -> Self {
        Self { lines, elements: 0 }
    }

    /// Adds or deletes elements, some at a time.
    fn elements<'a>(
        verb: &'a str,
        table: &'a str,
        set: &'a str,
        all: &'a [String],
    ) -> impl Iterator<Item = Self> + 'a {
        all.chunks(AT_ONCE).map(move |some| Self {
            lines: format!("{verb} element inet {table} {set} {{ {} }}\n", some.join(", ")),
            elements: some.len(),
        })
    }
}

/// Puts steps together to as few transactions as possible. A process that is not root of the machine, as in a container without
/// privileges, cannot send the kernel more at once.
fn transactions(steps: impl IntoIterator<Item = Step>) -> Vec<String> {
    let (mut scripts, mut elements) = (Vec::<String>::new(), 0);
    for step in steps {
        match scripts.last_mut() {
            Some(script) if elements + step.elements <= AT_ONCE => {
                script.push_str(&step.lines);
                elements += step.elements;
            }
            _ => {
                elements = step.elements;
                scripts.push(step.lines);
            }
        }
    }
    scripts
}

impl Ruleset {
    /// The scripts that make a table and remove the one before, whatever it was, and the name of the new one. Each is one
    /// transaction, and only with the last one the rules of the old table give way to those of the new one.
    pub fn scripts(&self, current: &'static str) -> (Vec<String>, &'static str) {
        let is_small =
            self.listeners.iter().flat_map(|one| &one.slots).map(Vec::len).sum::<usize>() <= AT_ONCE / 2;
        let [first, second] = TABLES;
        let other = if current == first { second } else { first };
        let (table, old) = if is_small { (current, other) } else { (other, current) };
        // Deleting what does not exist is an error.
        let anew = |name: &str| format!("add table inet {name}\ndelete table inet {name}\n");
        let mut steps = vec![Step::lines(format!("{}{}", anew(table), self.sets(table)))];
        for listener in &self.listeners {
            for (family, map) in listener.maps() {
                let slots = listener.elements(family);
                steps.extend(Step::elements("add", table, &map, &slots));
            }
        }
        steps.push(Step::lines(format!("{}{}{}", self.open_table(), self.chains(table), anew(old))));
        (transactions(steps), table)
    }

    /// The scripts that change the table from `before`: the new rules, and only the slots that differ. `None`: it has to be
    /// made anew.
    pub fn scripts_from(&self, before: &Self, table: &str) -> Option<Vec<String>> {
        let alike = |(now, before): (&ListenerRules, &ListenerRules)| {
            now.maps().eq(before.maps())
                && Family::ALL.iter().all(|family| now.continues(*family) == before.continues(*family))
        };
        let both = || self.listeners.iter().zip(&before.listeners);
        if self.listeners.len() != before.listeners.len() || !both().all(alike) {
            return None;
        }
        // The rules count on all slots that they may choose: these come first, and slots that are left over go last.
        let (mut steps, mut last) = (Vec::new(), Vec::new());
        for (now, before) in both() {
            for (family, map) in now.maps() {
                if now.continues(family).is_some() {
                    let [known, known_before] = [now, before].map(|of| of.known(family));
                    let missing = |of: &[String], from: &[String]| -> Vec<String> {
                        of.iter().filter(|one| !from.contains(one)).cloned().collect()
                    };
                    let set = format!("{map}_backends");
                    last.extend(Step::elements("delete", table, &set, &missing(&known_before, &known)));
                    steps.extend(Step::elements("add", table, &set, &missing(&known, &known_before)));
                }
                let [now, before] = [now, before].map(|of| of.elements(family));
                let differ = |slot: &usize| before.get(*slot) != Some(&now[*slot]);
                let changed: Vec<usize> = (0..now.len()).filter(differ).collect();
                for some in changed.chunks(AT_ONCE / 2) {
                    let old: Vec<_> =
                        some.iter().filter(|slot| **slot < before.len()).map(usize::to_string).collect();
                    let new: Vec<_> = some.iter().map(|slot| now[*slot].clone()).collect();
                    let mut lines = String::new();
                    for (verb, elements) in [("delete", old), ("add", new)] {
                        Step::elements(verb, table, &map, &elements)
                            .for_each(|step| lines.push_str(&step.lines));
                    }
                    steps.push(Step { lines, elements: 2 * some.len() });
                }
                let left_over: Vec<_> = (now.len()..before.len()).map(|slot| slot.to_string()).collect();
                last.extend(Step::elements("delete", table, &map, &left_over));
            }
        }
        let mut lines = format!("{}flush chain inet {table} translate\n", self.open_table());
        add_rules(&mut lines, table, "translate", &self.translations());
        Some(transactions(steps.into_iter().chain([Step::lines(lines)]).chain(last)))
    }

    /// The rules that translate new connections.
    fn translations(&self) -> Vec<String> {
        let keeps = self.listeners.iter().any(|listener| !listener.masquerade);
        let rules = self.listeners.iter().flat_map(ListenerRules::translations);
        keeps.then(|| RELAYED.to_owned()).into_iter().chain(rules).collect()
    }

    /// The rules that set their time-outs.
    fn timeouts(&self) -> Vec<String> {
        self.listeners.iter().flat_map(ListenerRules::set_timeouts).collect()
    }
}

impl Ruleset {
    /// The table's time-outs, maps and sets; the maps are empty.
    fn sets(&self, table: &str) -> String {
        let mut text = format!("table inet {table} {{\n");
        for listener in &self.listeners {
            for (family, map) in listener.maps() {
                let ip = family.ip();
                let kind = format!("typeof numgen inc mod 65537 : {ip} daddr . tcp dport");
                let _ = writeln!(text, "\tmap {map} {{\n\t\t{kind}\n\t}}");
                if listener.continues(family).is_some() {
                    let _ = writeln!(text, "\tset {map}_backends {{\n\t\ttypeof {ip} saddr . tcp sport");
                    let elements = listener.known(family).join(", ");
                    if !elements.is_empty() {
                        let _ = writeln!(text, "\t\telements = {{ {elements} }}");
                    }
                    text.push_str("\t}\n");
                }
            }
        }
        text.push_str("}\n");
        text
    }

    /// The lines that make or change the table of open connections. Time-outs that are no longer assigned stay, as
    /// connections may have them.
    fn open_table(&self) -> String {
        let table = OPEN_TABLE;
        let mut text = format!("table inet {table} {{\n");
        for listener in &self.listeners {
            for (family, _) in listener.maps() {
                text.push_str(&listener.timeout_object(family));
            }
        }
        for family in Family::ALL {
            let (ip, set) = (family.ip(), family.closed());
            let key = format!("{ip} saddr . tcp sport . {ip} daddr . tcp dport");
            let _ = writeln!(text, "\tset {set} {{\n\t\ttypeof {key}\n\t\ttimeout {CLOSED_MINUTES}m\n\t}}");
        }
        chain(&mut text, "reset_closed", None, &[]);
        chain(&mut text, "set_timeout", None, &[]);
        for hook in HOOKS {
            chain(&mut text, hook, Some(format!("type filter hook {hook} priority -150")), &[]);
        }
        // Its rules only.
        let _ = writeln!(text, "}}\nflush table inet {table}");
        add_rules(&mut text, table, "reset_closed", &Family::ALL.map(Family::reset_closed));
        add_rules(&mut text, table, "set_timeout", &self.timeouts());
        for hook in HOOKS {
            add_rules(&mut text, table, hook, &["jump reset_closed", "jump set_timeout"].map(str::to_owned));
        }
        text
    }

    /// The table's rules.
    fn chains(&self, table: &str) -> String {
        let mut text = format!("table inet {table} {{\n");
        let f = &mut text;
        chain(f, "translate", None, &self.translations());
        // Each change of the mark is an event.
        let note = |mark: u32| format!("ct mark set ct mark | {mark:#x} return");
        let ends = [
            "tcp flags & (fin | rst) == 0 return".to_owned(),
            format!("ct mark & {OURS:#x} == 0 return"),
            format!("tcp flags & rst == rst ct direction reply {}", note(BACKEND_RESET)),
            format!("tcp flags & rst == rst {}", note(CLIENT_RESET)),
            format!("ct mark & {ENDING:#x} != 0 return"),
            format!("ct direction reply {}", note(BACKEND_CLOSED)),
            note(CLIENT_CLOSED),
        ];
        chain(f, "note_end", None, &ends);
        for hook in HOOKS {
            let jump = |target: &str| [format!("jump {target}")];
            let at = |kind: &str, priority: i32| Some(format!("type {kind} hook {hook} priority {priority}"));
            // Before the translations of others, such as Docker's published ports.
            chain(f, &format!("{hook}_translate"), at("nat", -101), &jump("translate"));
            chain(f, &format!("{hook}_after"), at("filter", 0), &jump("note_end"));
        }
        let continued = |rules: fn(&ListenerRules) -> Vec<String>| self.listeners.iter().flat_map(rules);
        let masquerade = format!("ct mark & {MASQUERADED:#x} != 0 masquerade");
        let postrouting = [masquerade].into_iter().chain(continued(ListenerRules::continuations));
        let postrouting: Vec<_> = postrouting.collect();
        chain(f, "postrouting", Some("type nat hook postrouting priority 99".to_owned()), &postrouting);
        let stray: Vec<_> = continued(ListenerRules::stray_answers).collect();
        chain(f, "forward", Some("type filter hook forward priority 0".to_owned()), &stray);
        let mut stray: Vec<_> = continued(ListenerRules::stray_packets).collect();
        if !stray.is_empty() {
            stray.insert(0, RELAYED.to_owned());
        }
        chain(f, "input", Some("type filter hook input priority 0".to_owned()), &stray);
        text.push_str("}\n");
        text
    }
}

fn chain(text: &mut String, name: &str, hook: Option<String>, rules: &[String]) {
    let hook = hook.map(|hook| format!("\t\t{hook}; policy accept;\n")).unwrap_or_default();
    let rules: String = rules.iter().map(|rule| format!("\t\t{rule}\n")).collect();
    let _ = write!(text, "\tchain {name} {{\n{hook}{rules}\t}}\n");
}

fn add_rules(text: &mut String, table: &str, chain: &str, rules: &[String]) {
    for rule in rules {
        let _ = writeln!(text, "add rule inet {table} {chain} {rule}");
    }
}

fn element(slot: usize, address: SocketAddr) -> String {
    format!("{slot} : {}", concatenated(address))
}

fn concatenated(address: SocketAddr) -> String {
    format!("{} . {}", address.ip().to_canonical(), address.port())
}

impl ListenerRules {
    /// The families that it forwards, each with the name of its map, which is also that of its time-outs.
    fn maps(&self) -> impl Iterator<Item = (Family, String)> + '_ {
        let serves = |family: &Family| self.addresses.iter().any(|to| family.packets_to(*to).is_some());
        let named = |family: Family| (family, format!("{}_{}", self.name, family.suffix()));
        Family::ALL.into_iter().filter(serves).map(named)
    }

    /// The only address of a family, if connections of other machines can be continued: with the client's address kept, so
    /// that all machines have the same rules, and with one address, which the answers get.
    fn continues(&self, family: Family) -> Option<SocketAddr> {
        let mut own = self.addresses.iter().filter(|to| family.packets_to(**to).is_some());
        let only = own.next().filter(|only| own.next().is_none() && !only.ip().is_unspecified());
        only.copied().filter(|_| !self.masquerade && self.choice == SlotChoice::Client)
    }

    /// The elements of its map: the slots with their backends.
    fn elements(&self, family: Family) -> Vec<String> {
        let slots = self.slots[family as usize].iter().enumerate();
        slots.map(|(slot, address)| element(slot, *address)).collect()
    }

    /// The elements of its set of backends.
    fn known(&self, family: Family) -> Vec<String> {
        self.backends_of(family).map(concatenated).collect()
    }

    fn backends_of(&self, family: Family) -> impl Iterator<Item = SocketAddr> + '_ {
        let of_family =
            move |address: &&SocketAddr| address.ip().to_canonical().is_ipv4() == (family == Family::V4);
        self.backends.iter().filter(of_family).copied()
    }

    /// The rules for its families whose connections can be continued.
    fn for_continued(&self, rule: impl Fn(Family, SocketAddr, &str) -> String) -> Vec<String> {
        let rules = |(family, map): (Family, String)| {
            let set = format!("{map}_backends");
            self.continues(family).map(|own| rule(family, own, &set))
        };
        self.maps().filter_map(rules).collect()
    }

    /// The rules for the answers of connections that began through another machine: they must come from the listener's
    /// address.
    fn continuations(&self) -> Vec<String> {
        let mark = OURS | REVERSED;
        self.for_continued(|family, own, set| {
            let (ip, port) = (family.ip(), own.port());
            let to = match family {
                Family::V4 => format!("{}:{port}", own.ip().to_canonical()),
                Family::V6 => format!("[{}]:{port}", own.ip()),
            };
            format!(
                "{ip} saddr . tcp sport @{set} tcp flags & (syn | rst) == 0 ct mark set ct mark | {mark:#x} \
                 snat {ip} to {to}"
            )
        })
    }

    /// The rules for answers that conntrack cannot place: untranslated, the client would reset the connection.
    fn stray_answers(&self) -> Vec<String> {
        self.for_continued(|family, _, set| {
            format!("{} saddr . tcp sport @{set} ct state invalid drop", family.ip())
        })
    }

    /// The rule for packets that were not translated: this machine would answer them with a reset.
    fn stray_packets(&self) -> Vec<String> {
        self.for_continued(|family, own, _| {
            let packets = family.packets_to(own).unwrap_or_default();
            format!("{packets} tcp flags & (syn | rst) == 0 ct state new,invalid drop")
        })
    }

    /// The conditions of the packets to its addresses.
    fn packets(&self, family: Family) -> impl Iterator<Item = String> + '_ {
        self.addresses.iter().filter_map(move |address| family.packets_to(*address))
    }

    fn translations(&self) -> Vec<String> {
        let mark = if self.masquerade { OURS | MASQUERADED } else { OURS };
        let rules = |(family, map): (Family, String)| {
            let (ip, count) = (family.ip(), self.slots[family as usize].len());
            // A packet in the middle belongs to a connection of another machine, or to one that is over.
            let mut kinds = vec![("tcp flags & (fin | syn | rst | ack) == syn ", mark)];
            kinds.extend(self.continues(family).map(|_| ("", mark | CONTINUED)));
            // Without a slot nothing is translated, and the machine itself answers: nothing listens, so with a reset.
            let slot = (count > 0).then(|| self.slot(family, count));
            let packets = slot.map(|slot| self.packets(family).map(move |packets| (packets, slot.clone())));
            packets.into_iter().flatten().flat_map(move |(packets, slot)| {
                let rule = |(kind, mark)| {
                    format!("{packets} {kind}ct mark set ct mark | {mark:#x} dnat {ip} to {slot} map @{map}")
                };
                kinds.clone().into_iter().map(rule).collect::<Vec<_>>()
            })
        };
        self.maps().flat_map(rules).collect()
    }

    /// The expression for the slot of a connection, of `count`.
    fn slot(&self, family: Family, count: usize) -> String {
        match self.choice {
            SlotChoice::Rotation => return format!("numgen inc mod {count}"),
            SlotChoice::Random => return format!("numgen random mod {count}"),
            SlotChoice::Client => {}
        }
        let source = format!("{} saddr", family.ip());
        let hashed = match (self.key, family) {
            (HashKey::SourceIp | HashKey::Sni, _) => source,
            (HashKey::SourceIpPort, _) => format!("{source} . tcp sport"),
            (HashKey::SourceNet, Family::V4) => format!("{source} & 255.255.255.0"),
            (HashKey::SourceNet, Family::V6) => format!("{source} & ffff:ffff:ffff:ffff::"),
        };
        format!("jhash {hashed} mod {count} seed {SEED:#x}")
    }

    fn set_timeouts(&self) -> Vec<String> {
        let rules = |(family, _): (Family, String)| {
            let (name, events) = (self.timeout_name(family), format!("ct event set {EVENTS:#x}"));
            self.packets(family)
                .map(move |packets| format!("{packets} ct state new ct timeout set \"{name}\" {events}"))
        };
        self.maps().flat_map(rules).collect()
    }

    /// In seconds: for the handshake, when idle, and after a FIN.
    fn timeout_seconds(&self) -> (u64, [Option<u64>; 2]) {
        let seconds =
            |time: Duration| (time.as_secs() + u64::from(time.subsec_nanos() > 0)).clamp(1, MOST_SECONDS);
        (seconds(self.connect), self.timeouts.map(|time| time.map(seconds)))
    }

    /// The name of its time-outs, which tells what they are: those of open connections stay when others are assigned.
    fn timeout_name(&self, family: Family) -> String {
        let (connect, timeouts) = self.timeout_seconds();
        let [idle, half_closed] = timeouts.map(|time| time.map_or("off".to_owned(), |time| time.to_string()));
        format!("after_{connect}_{idle}_{half_closed}_{}", family.suffix())
    }

    fn timeout_object(&self, family: Family) -> String {
        let (connect, [idle, half_closed]) = self.timeout_seconds();
        let name = self.timeout_name(family);
        let mut policy = vec![
            format!("syn_sent : {connect}"),
            format!("time_wait : {TIME_WAIT}"),
            format!("close : {RESET}"),
        ];
        policy.extend(idle.map(|idle| format!("established : {idle}")));
        for state in ["fin_wait", "close_wait"] {
            policy.extend(half_closed.map(|time| format!("{state} : {time}")));
        }
        let (ip, policy) = (family.ip(), policy.join(", "));
        format!(
            "\tct timeout {name} {{\n\t\tprotocol tcp\n\t\tl3proto {ip}\n\t\tpolicy = {{ {policy} }}\n\t}}\n"
        )
    }
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
