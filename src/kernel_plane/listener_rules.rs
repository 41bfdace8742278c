//! What the table of nftables has for one listener: its rules, its maps and its time-outs.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::marks::{CONTINUED, MASQUERADED, OURS, REVERSED};
use crate::balance::hash::SEED;
use crate::balance::{self, SlotChoice};
use crate::config::{ConntrackEvents, HashKey};

/// The events of a connection: gone, answered, and its mark has changed (`enum ip_conntrack_events`). As a number, since
/// `nft` takes the word `mark` for something else.
const EVENTS: u32 = 1 << 2 | 1 << 3 | 1 << 7;
/// The events that tell its state of TCP: assured, and a change of the state.
const STATE_EVENTS: u32 = 1 << 4 | 1 << 5;
/// How long a connection that both sides have closed stays in conntrack, in seconds: a minute is the longest that a FIN
/// is sent again, but a connection for each request would fill the table.
const TIME_WAIT: u64 = 10;
/// The same after a reset.
const RESET: u64 = 5;
/// The maximum of a time-out of conntrack.
const MOST_SECONDS: u64 = u32::MAX as u64 / 1000;

/// What it forwards for one listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerRules {
    /// The name of the listener in the table ([`identifier`]).
    pub name: String,
    /// Its addresses; an unspecified one is every address of the machine.
    pub addresses: Vec<SocketAddr>,
    /// Whether the backends see the balancer's address instead of the client's.
    pub masquerade: bool,
    /// Which events conntrack reports.
    pub events: ConntrackEvents,
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
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The name of the protocol in nftables.
    pub(super) fn ip(self) -> &'static str {
        match self {
            Self::V4 => "ip",
            Self::V6 => "ip6",
        }
    }

    pub(super) fn suffix(self) -> &'static str {
        match self {
            Self::V4 => "v4",
            Self::V6 => "v6",
        }
    }

    /// The set of connections that were closed here.
    pub(super) fn closed(self) -> &'static str {
        match self {
            Self::V4 => "closed_v4",
            Self::V6 => "closed_v6",
        }
    }

    /// The rule that resets them: each side at its next packet. A new connection between the same ends is known to
    /// conntrack.
    pub(super) fn reset_closed(self) -> String {
        let (ip, set) = (self.ip(), self.closed());
        format!(
            "ct state new,invalid tcp flags & (syn | rst) == 0 {ip} saddr . tcp sport . {ip} daddr . tcp dport @{set} \
             reject with tcp reset"
        )
    }

    /// The conditions of packets to that address of a listener; `None`: it is of the other family.
    pub(super) fn packets_to(self, address: SocketAddr) -> Option<String> {
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

fn element(slot: usize, address: SocketAddr) -> String {
    format!("{slot} : {}", concatenated(address))
}

fn concatenated(address: SocketAddr) -> String {
    format!("{} . {}", address.ip().to_canonical(), address.port())
}

impl ListenerRules {
    /// The families that it forwards, each with the name of its map, which is also that of its time-outs.
    pub(super) fn maps(&self) -> impl Iterator<Item = (Family, String)> + '_ {
        let serves = |family: &Family| self.addresses.iter().any(|to| family.packets_to(*to).is_some());
        let named = |family: Family| (family, format!("{}_{}", self.name, family.suffix()));
        Family::ALL.into_iter().filter(serves).map(named)
    }

    /// The only address of a family, if connections of other machines can be continued: with the client's address kept, so
    /// that all machines have the same rules, and with one address, which the answers get.
    pub(super) fn continues(&self, family: Family) -> Option<SocketAddr> {
        let mut own = self.addresses.iter().filter(|to| family.packets_to(**to).is_some());
        let only = own.next().filter(|only| own.next().is_none() && !only.ip().is_unspecified());
        only.copied().filter(|_| !self.masquerade && self.choice == SlotChoice::Client)
    }

    /// The elements of its map: the slots with their backends.
    pub(super) fn elements(&self, family: Family) -> Vec<String> {
        let slots = self.slots[family as usize].iter().enumerate();
        slots.map(|(slot, address)| element(slot, *address)).collect()
    }

    /// The elements of its set of backends.
    pub(super) fn known(&self, family: Family) -> Vec<String> {
        self.backends_of(family).map(concatenated).collect()
    }

    pub(super) fn backends_of(&self, family: Family) -> impl Iterator<Item = SocketAddr> + '_ {
        let of_family =
            move |address: &&SocketAddr| address.ip().to_canonical().is_ipv4() == (family == Family::V4);
        self.backends.iter().filter(of_family).copied()
    }

    /// The rules for its families whose connections can be continued.
    pub(super) fn for_continued(&self, rule: impl Fn(Family, SocketAddr, &str) -> String) -> Vec<String> {
        let rules = |(family, map): (Family, String)| {
            let set = format!("{map}_backends");
            self.continues(family).map(|own| rule(family, own, &set))
        };
        self.maps().filter_map(rules).collect()
    }

    /// The rules for the answers of connections that began through another machine: they must come from the listener's
    /// address.
    pub(super) fn continuations(&self) -> Vec<String> {
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
    pub(super) fn stray_answers(&self) -> Vec<String> {
        self.for_continued(|family, _, set| {
            format!("{} saddr . tcp sport @{set} ct state invalid drop", family.ip())
        })
    }

    /// The rule for packets that were not translated: this machine would answer them with a reset.
    pub(super) fn stray_packets(&self) -> Vec<String> {
        self.for_continued(|family, own, _| {
            let packets = family.packets_to(own).unwrap_or_default();
            format!("{packets} tcp flags & (syn | rst) == 0 ct state new,invalid drop")
        })
    }

    /// The conditions of the packets to its addresses.
    pub(super) fn packets(&self, family: Family) -> impl Iterator<Item = String> + '_ {
        self.addresses.iter().filter_map(move |address| family.packets_to(*address))
    }

    pub(super) fn translations(&self) -> Vec<String> {
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
    pub(super) fn slot(&self, family: Family, count: usize) -> String {
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

    pub(super) fn set_timeouts(&self) -> Vec<String> {
        let rules = |(family, _): (Family, String)| {
            let name = self.timeout_name(family);
            let events = match self.events {
                ConntrackEvents::Few => EVENTS,
                ConntrackEvents::All => EVENTS | STATE_EVENTS,
            };
            self.packets(family).map(move |packets| {
                format!("{packets} ct state new ct timeout set \"{name}\" ct event set {events:#x}")
            })
        };
        self.maps().flat_map(rules).collect()
    }

    /// In seconds: for the handshake, when idle, and after a FIN.
    pub(super) fn timeout_seconds(&self) -> (u64, [Option<u64>; 2]) {
        let seconds =
            |time: Duration| (time.as_secs() + u64::from(time.subsec_nanos() > 0)).clamp(1, MOST_SECONDS);
        (seconds(self.connect), self.timeouts.map(|time| time.map(seconds)))
    }

    /// The name of its time-outs, which tells what they are: those of open connections stay when others are assigned.
    pub(super) fn timeout_name(&self, family: Family) -> String {
        let (connect, timeouts) = self.timeout_seconds();
        let [idle, half_closed] = timeouts.map(|time| time.map_or("off".to_owned(), |time| time.to_string()));
        format!("after_{connect}_{idle}_{half_closed}_{}", family.suffix())
    }

    pub(super) fn timeout_object(&self, family: Family) -> String {
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
