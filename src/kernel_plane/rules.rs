//! The table of nftables that forwards connections, as text for `nft -f` (nft(8)): pure.
//!
//! A connection is translated when its first packet is seen; conntrack translates the others. All packets of one listener
//! go through one rule, which finds the backend's address in a map of slots:
//!
//! ```text
//! ip daddr 192.0.2.1 tcp dport 80 ct mark set … dnat ip to numgen inc mod 2 map @web_v4
//! ```

use std::fmt::Write;

use super::conntrack::Tuple;
use super::listener_rules::{Family, ListenerRules};
use super::marks::{
    BACKEND_CLOSED, BACKEND_RESET, CLIENT_CLOSED, CLIENT_RESET, ENDING, MASQUERADED, OURS, PROBE,
};

/// The names of the table, of the family `inet`: a large one is made beside the one in use.
pub const TABLES: [&str; 2] = ["pointsman", "pointsman-2"];

/// The table of what concerns open connections. It is never made anew, as their time-outs would go with it.
pub const OPEN_TABLE: &str = "pointsman-open";

/// How many elements of maps a transaction adds or deletes. 200 KB (`net.core.wmem_max`) are enough for more.
const AT_ONCE: usize = 2000;

/// The rule for connections that this process relays, and of which conntrack did not know. A new one is none of them, even if a
/// socket still listens there.
const RELAYED: &str = "tcp flags & (fin | syn | rst | ack) != syn socket wildcard 0 accept";

/// Connections of this machine's own processes pass the second one.
const HOOKS: [&str; 2] = ["prerouting", "output"];

/// How long a side of a connection that was closed here gets a reset for its packets.
const CLOSED_MINUTES: u32 = 10;

/// What the table forwards.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// For each listener.
    pub listeners: Vec<ListenerRules>,
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
        chain(&mut text, "probes", Some("type filter hook output priority -300".to_owned()), &[]);
        // Its rules only.
        let _ = writeln!(text, "}}\nflush table inet {table}");
        add_rules(&mut text, table, "reset_closed", &Family::ALL.map(Family::reset_closed));
        add_rules(&mut text, table, "set_timeout", &self.timeouts());
        for hook in HOOKS {
            add_rules(&mut text, table, hook, &["jump reset_closed", "jump set_timeout"].map(str::to_owned));
        }
        // Otherwise conntrack would make an entry for the probe, and the answer would not be new.
        add_rules(&mut text, table, "probes", &[format!("meta mark {PROBE:#x} notrack")]);
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

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
