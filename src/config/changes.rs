//! What differs between two configurations, part by part and key by key.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::outline::Outline;
use super::{Check, Config, MASKED, Pool, outline, without_secrets};

/// A part of the configuration that is changed as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigPart {
    /// `runtime`, `log` or `admin`.
    Section(&'static str),
    /// A listener.
    Listener(Arc<str>),
    /// A pool.
    Pool(Arc<str>),
}

impl fmt::Display for ConfigPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Section(name) => f.write_str(name),
            Self::Listener(name) => write!(f, "listeners.{name}"),
            Self::Pool(name) => write!(f, "pools.{name}"),
        }
    }
}

/// How a part differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PartChange {
    /// Only the second configuration has it.
    Added,
    /// Only the first configuration has it.
    Removed,
    /// These keys differ.
    Changed(Vec<ChangedKey>),
}

/// A key with another value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(any(test, feature = "testing"), derive(schemars::JsonSchema))]
pub struct ChangedKey {
    /// Its path within the part, such as `health.0.every`.
    pub key: String,
    /// Its value before, as in the file; null: it was absent.
    pub before: Option<String>,
    /// Its value after; null: it is absent.
    pub after: Option<String>,
}

/// The parts that differ, in the order of the file. Possible secrets are masked.
pub fn changes(before: &Config, after: &Config) -> Vec<(ConfigPart, PartChange)> {
    let [old, new] = [before, after].map(|config| outline(without_secrets(config)));
    let section = |outline: &Outline, name: &str| outline.get(name).cloned();
    let mut all = Vec::new();
    for name in ["runtime", "log", "admin"] {
        let change = part_change(section(&old, name).as_ref(), section(&new, name).as_ref());
        all.extend(change.map(|change| (ConfigPart::Section(name), change)));
    }
    let empty = Outline::Map(Vec::new());
    let named =
        |name: &str| [&old, &new].map(|outline| section(outline, name).unwrap_or_else(|| empty.clone()));
    let [old, new] = named("listeners");
    for name in names(&old, &new) {
        let change = part_change(old.get(name), new.get(name));
        all.extend(change.map(|change| (ConfigPart::Listener(name.into()), change)));
    }
    let [old, new] = named("pools");
    for name in names(&old, &new) {
        let mut change = part_change(old.get(name), new.get(name));
        if let (Some(old), Some(new)) = (before.pools.get(name), after.pools.get(name)) {
            let secrets = changed_secrets(old, new);
            match &mut change {
                Some(PartChange::Changed(keys)) => keys.extend(secrets),
                None if !secrets.is_empty() => change = Some(PartChange::Changed(secrets)),
                _ => {}
            }
        }
        all.extend(change.map(|change| (ConfigPart::Pool(name.into()), change)));
    }
    all
}

/// The keys of both maps, those of `after` first.
fn names<'a>(before: &'a Outline, after: &'a Outline) -> Vec<&'a str> {
    let mut names: Vec<_> = after.keys().collect();
    names.extend(before.keys().filter(|name| after.get(name).is_none()));
    names
}

fn part_change(before: Option<&Outline>, after: Option<&Outline>) -> Option<PartChange> {
    match (before, after) {
        (None, None) => None,
        (None, Some(_)) => Some(PartChange::Added),
        (Some(_), None) => Some(PartChange::Removed),
        (Some(before), Some(after)) => {
            let mut keys = Vec::new();
            compare(String::new(), Some(before), Some(after), &mut keys);
            (!keys.is_empty()).then_some(PartChange::Changed(keys))
        }
    }
}

/// Adds the keys at and below `path` whose values differ.
fn compare(path: String, before: Option<&Outline>, after: Option<&Outline>, keys: &mut Vec<ChangedKey>) {
    let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    match (before, after) {
        (Some(before), Some(after)) if before == after => {}
        (Some(before @ Outline::Map(_)), Some(after @ Outline::Map(_))) => {
            for key in names(before, after) {
                compare(below(key), before.get(key), after.get(key), keys);
            }
        }
        (Some(Outline::List(before)), Some(Outline::List(after)))
            if before.len() == after.len() && after.iter().all(|item| matches!(item, Outline::Map(_))) =>
        {
            for (index, (before, after)) in before.iter().zip(after).enumerate() {
                compare(below(&index.to_string()), Some(before), Some(after), keys);
            }
        }
        _ => {
            let [before, after] = [before, after].map(|value| value.map(Outline::flow));
            keys.push(ChangedKey { key: path, before, after });
        }
    }
}

/// The keys with secrets that differ.
fn changed_secrets(before: &Pool, after: &Pool) -> Vec<ChangedKey> {
    let replicas = |pool: &Pool| pool.replicas.clone();
    let env = |pool: &Pool| replicas(pool).map(|replicas| replicas.env);
    let command = |pool: &Pool| replicas(pool).map(|replicas| replicas.command);
    let sent = |pool: &Pool| -> Vec<_> {
        let exchange = pool.health.iter().filter_map(|health| match &health.check {
            Check::Exchange(exchange) => Some(exchange.send.clone()),
            _ => None,
        });
        exchange.collect()
    };
    let both = before.replicas.is_some() && after.replicas.is_some();
    [
        (both && env(before) != env(after), "replicas.env"),
        (both && command(before) != command(after), "replicas.command"),
        (
            sent(before).len() == sent(after).len() && sent(before) != sent(after),
            "health: what an exchange check sends",
        ),
    ]
    .into_iter()
    .filter(|(changed, _)| *changed)
    .map(|(_, key)| {
        let masked = Some(MASKED.to_owned());
        ChangedKey { key: key.to_owned(), before: masked.clone(), after: masked }
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    const BEFORE: &str = "
runtime: {drain: {timeout: 10s}}
listeners:
  web: {bind: 127.0.0.1:80, pool: web}
  old: {bind: 127.0.0.1:81, pool: old}
pools:
  web:
    discover: [{static: [10.0.0.1:80, 10.0.0.2:80]}]
    health: {http: /health, every: 2s}
  old: {discover: [{static: [10.0.0.3:80]}]}
";

    fn of(before: &str, after: &str) -> Vec<String> {
        let [before, after] = [before, after].map(|text| parse("test", text, &|_| None).unwrap());
        let key = |ChangedKey { key, before, after }: &ChangedKey| {
            let [before, after] = [before, after].map(|value| value.as_deref().unwrap_or("-").to_owned());
            format!("{key} {before} > {after}")
        };
        let line = |(part, change): (ConfigPart, PartChange)| match change {
            PartChange::Added => format!("{part} added"),
            PartChange::Removed => format!("{part} removed"),
            PartChange::Changed(keys) => {
                format!("{part}: {}", keys.iter().map(key).collect::<Vec<_>>().join("; "))
            }
        };
        changes(&before, &after).into_iter().map(line).collect()
    }

    #[test]
    fn each_part_that_differs_is_told_with_its_keys() {
        assert_eq!(of(BEFORE, BEFORE), Vec::<String>::new());
        let after = BEFORE
            .replace("timeout: 10s", "timeout: 20s")
            .replace("  old: {bind: 127.0.0.1:81, pool: old}", "  new: {bind: 127.0.0.1:81, pool: new}")
            .replace("  old: {discover", "  new: {discover")
            .replace("every: 2s", "every: 3s")
            .replace("    health:", "    balance: least-connections\n    health:");
        assert_eq!(
            of(BEFORE, &after),
            [
                "runtime: drain.timeout 10s > 20s",
                "listeners.new added",
                "listeners.old removed",
                "pools.new added",
                "pools.web: balance round-robin > least-connections; health.0.every 2s > 3s",
                "pools.old removed",
            ]
        );
        let reversed = of(&after, BEFORE);
        assert!(reversed.contains(&"pools.new removed".to_owned()), "{reversed:?}");
    }

    #[test]
    fn a_list_of_another_length_and_a_section_that_appears_are_told_whole() {
        let after = BEFORE.replace("[10.0.0.1:80, 10.0.0.2:80]", "[10.0.0.1:80]");
        let told = of(BEFORE, &after);
        assert!(told.len() == 1 && told[0].starts_with("pools.web: discover.0.static ["), "{told:?}");
        let after = format!("{BEFORE}admin: {{bind: 127.0.0.1:9900}}\n");
        assert_eq!(of(BEFORE, &after), ["admin added"]);
    }

    #[test]
    fn a_changed_secret_is_told_and_not_shown() {
        let with = |secret: &str| {
            BEFORE.replace("http: /health", &format!("exchange: {{send: \"{secret}\", expect: ok}}"))
        };
        let told = of(&with("one"), &with("two"));
        assert!(told.len() == 1 && told[0].contains("what an exchange check sends *** > ***"), "{told:?}");
        assert!(!told[0].contains("one") && !told[0].contains("two"), "{told:?}");
        assert_eq!(of(&with("one"), &with("one")), Vec::<String>::new());
    }
}
