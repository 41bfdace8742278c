//! The table of nftables that forwards connections, as text for `nft -f` (nft(8)): pure.
//!
//! A connection is translated when its first packet is seen; conntrack translates the others. All packets of one listener
//! go through one rule, which finds the backend's address in a map of slots:
//!
//! ```text
//! ip daddr 192.0.2.1 tcp dport 80 ct mark set … dnat ip to numgen inc mod 2 map @web_v4
//! ```

use std::fmt::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::conntrack::Tuple;
use crate::balance::SlotChoice;
use crate::balance::hash::SEED;
use crate::config::HashKey;

/// The name of the table, of the family `inet`.
pub const TABLE: &str = "pointsman";

/// Bits of conntrack's mark (`ct mark`): the connection is translated by this table …
pub const OURS: u32 = 0x1000_0000;
/// … its source address, too …
const MASQUERADED: u32 = 0x2000_0000;
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
pub struct Rules {
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

/// The name of a listener in the table: nftables allows fewer characters, and has words of its own.
pub fn identifier(listener: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
    format!("to_{}", listener.chars().map(safe).take(64).collect::<String>())
}

/// The script after which the packets of these directions get a reset.
pub fn close_script(directions: &[Tuple]) -> String {
    let mut script = String::new();
    for family in Family::ALL {
        let of_family = |one: &&Tuple| one.source.is_ipv4() == (family == Family::V4);
        let element = |Tuple { source, destination }: &Tuple| {
            format!("{} . {} . {} . {}", source.ip(), source.port(), destination.ip(), destination.port())
        };
        let elements: Vec<_> = directions.iter().filter(of_family).map(element).collect();
        if !elements.is_empty() {
            let (set, elements) = (family.closed(), elements.join(", "));
            let _ = writeln!(script, "add element inet {TABLE} {set} {{ {elements} }}");
        }
    }
    script
}

impl Rules {
    /// The script that makes the table, whatever it was before, in one transaction.
    pub fn script(&self) -> String {
        // Deleting what does not exist is an error.
        let mut script = format!("add table inet {TABLE}\ndelete table inet {TABLE}\n");
        let _ = write!(script, "{self}");
        script
    }

    /// The script that changes the table from `before` in one transaction: the new rules, and only the slots that differ.
    pub fn script_from(&self, before: &Self) -> String {
        let alike = |(now, before): (&ListenerRules, &ListenerRules)| {
            now.maps().eq(before.maps()) && (now.connect, now.timeouts) == (before.connect, before.timeouts)
        };
        let both = || self.listeners.iter().zip(&before.listeners);
        if self.listeners.len() != before.listeners.len() || !both().all(alike) {
            return self.script();
        }
        let mut script = String::new();
        for chain in ["translate", "set_timeout"] {
            let _ = writeln!(script, "flush chain inet {TABLE} {chain}");
        }
        for (now, before) in both() {
            for (family, map) in now.maps() {
                let (now, before) = (&now.slots[family as usize], &before.slots[family as usize]);
                let differ = |(slot, address): &(usize, &SocketAddr)| now.get(*slot) != Some(*address);
                let gone = before.iter().enumerate().filter(differ).map(|(slot, _)| slot.to_string());
                let new =
                    now.iter().enumerate().filter(|(slot, address)| before.get(*slot) != Some(*address));
                let new = new.map(|(slot, address)| element(slot, *address));
                for (verb, elements) in [("delete", gone.collect::<Vec<_>>()), ("add", new.collect())] {
                    if !elements.is_empty() {
                        let _ = writeln!(
                            script,
                            "{verb} element inet {TABLE} {map} {{ {} }}",
                            elements.join(", ")
                        );
                    }
                }
            }
        }
        for (chain, rules) in [("translate", self.translations()), ("set_timeout", self.timeouts())] {
            for rule in rules {
                let _ = writeln!(script, "add rule inet {TABLE} {chain} {rule}");
            }
        }
        script
    }

    /// The rules that translate new connections.
    fn translations(&self) -> Vec<String> {
        // Connections that this process relays, and of which conntrack did not know.
        let relayed = "socket wildcard 0 accept".to_owned();
        let keeps = self.listeners.iter().any(|listener| !listener.masquerade);
        let rules = self.listeners.iter().flat_map(ListenerRules::translations);
        keeps.then_some(relayed).into_iter().chain(rules).collect()
    }

    /// The rules that set their time-outs.
    fn timeouts(&self) -> Vec<String> {
        self.listeners.iter().flat_map(ListenerRules::set_timeouts).collect()
    }
}

/// The table.
impl fmt::Display for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "table inet {TABLE} {{")?;
        for listener in &self.listeners {
            for (family, map) in listener.maps() {
                write!(f, "{}", listener.timeout_object(family, &map))?;
                let (ip, slots) = (family.ip(), &listener.slots[family as usize]);
                writeln!(f, "\tmap {map} {{\n\t\ttypeof numgen inc mod 65537 : {ip} daddr . tcp dport")?;
                if !slots.is_empty() {
                    let elements: Vec<_> =
                        slots.iter().enumerate().map(|(slot, address)| element(slot, *address)).collect();
                    writeln!(f, "\t\telements = {{ {} }}", elements.join(", "))?;
                }
                writeln!(f, "\t}}")?;
            }
        }
        for family in Family::ALL {
            let (ip, set) = (family.ip(), family.closed());
            let key = format!("{ip} saddr . tcp sport . {ip} daddr . tcp dport");
            writeln!(f, "\tset {set} {{\n\t\ttypeof {key}\n\t\ttimeout {CLOSED_MINUTES}m\n\t}}")?;
        }
        chain(f, "reset_closed", None, &Family::ALL.map(Family::reset_closed))?;
        chain(f, "translate", None, &self.translations())?;
        chain(f, "set_timeout", None, &self.timeouts())?;
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
        chain(f, "note_end", None, &ends)?;
        // Connections of this machine's own processes pass the hook `output`.
        for hook in ["prerouting", "output"] {
            let jump = |target: &str| [format!("jump {target}")];
            let at = |kind: &str, priority: i32| Some(format!("type {kind} hook {hook} priority {priority}"));
            let before = ["jump reset_closed", "jump set_timeout"].map(str::to_owned);
            chain(f, &format!("{hook}_before"), at("filter", -150), &before)?;
            // Before the translations of others, such as Docker's published ports.
            chain(f, &format!("{hook}_translate"), at("nat", -101), &jump("translate"))?;
            chain(f, &format!("{hook}_after"), at("filter", 0), &jump("note_end"))?;
        }
        let masquerade = [format!("ct mark & {MASQUERADED:#x} != 0 masquerade")];
        chain(f, "postrouting", Some("type nat hook postrouting priority 99".to_owned()), &masquerade)?;
        writeln!(f, "}}")
    }
}

fn chain(f: &mut fmt::Formatter<'_>, name: &str, hook: Option<String>, rules: &[String]) -> fmt::Result {
    writeln!(f, "\tchain {name} {{")?;
    if let Some(hook) = hook {
        writeln!(f, "\t\t{hook}; policy accept;")?;
    }
    for rule in rules {
        writeln!(f, "\t\t{rule}")?;
    }
    writeln!(f, "\t}}")
}

fn element(slot: usize, address: SocketAddr) -> String {
    format!("{slot} : {} . {}", address.ip().to_canonical(), address.port())
}

impl ListenerRules {
    /// The families that it forwards, each with the name of its map, which is also that of its time-outs.
    fn maps(&self) -> impl Iterator<Item = (Family, String)> + '_ {
        let serves = |family: &Family| self.addresses.iter().any(|to| family.packets_to(*to).is_some());
        let named = |family: Family| (family, format!("{}_{}", self.name, family.suffix()));
        Family::ALL.into_iter().filter(serves).map(named)
    }

    /// The conditions of the packets to its addresses.
    fn packets(&self, family: Family) -> impl Iterator<Item = String> + '_ {
        self.addresses.iter().filter_map(move |address| family.packets_to(*address))
    }

    fn translations(&self) -> Vec<String> {
        // With the client's address, another machine can continue a connection, whichever packet comes first; with that of
        // this machine, a packet in the middle belongs to a connection that is over.
        let (mark, first) = match self.masquerade {
            true => (OURS | MASQUERADED, "tcp flags & (fin | syn | rst | ack) == syn "),
            false => (OURS, ""),
        };
        let rules = |(family, map): (Family, String)| {
            let (ip, count) = (family.ip(), self.slots[family as usize].len());
            // Without a slot nothing is translated, and the machine itself answers: nothing listens, so with a reset.
            let slot = (count > 0).then(|| self.slot(family, count));
            let packets = slot.map(|slot| self.packets(family).map(move |packets| (packets, slot.clone())));
            packets.into_iter().flatten().map(move |(packets, slot)| {
                format!("{packets} {first}ct mark set ct mark | {mark:#x} dnat {ip} to {slot} map @{map}")
            })
        };
        self.maps().flat_map(rules).collect()
    }

    /// The expression for the slot of a connection, of `count`.
    fn slot(&self, family: Family, count: usize) -> String {
        if self.choice == SlotChoice::Rotation {
            return format!("numgen inc mod {count}");
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
        let rules = |(family, name): (Family, String)| {
            let events = format!("ct event set {EVENTS:#x}");
            self.packets(family)
                .map(move |packets| format!("{packets} ct state new ct timeout set \"{name}\" {events}"))
        };
        self.maps().flat_map(rules).collect()
    }

    fn timeout_object(&self, family: Family, name: &str) -> String {
        let seconds =
            |time: Duration| (time.as_secs() + u64::from(time.subsec_nanos() > 0)).clamp(1, MOST_SECONDS);
        let [idle, half_closed] = self.timeouts.map(|time| time.map(seconds));
        let connect = seconds(self.connect);
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
