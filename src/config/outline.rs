//! A configuration as keys and values in an order that reads well, and as text: JSON or YAML.

use std::fmt::Write;

use serde::ser::{Serialize, SerializeMap, Serializer};

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Outline {
    Text(String),
    Number(u64),
    Decimal(f64),
    Bool(bool),
    List(Vec<Outline>),
    Map(Vec<(String, Outline)>),
}

impl Outline {
    /// Text. A dollar sign is doubled, as it would begin a variable.
    pub(super) fn text(text: impl AsRef<str>) -> Self {
        Self::Text(text.as_ref().replace('$', "$$"))
    }

    /// The keys of a map.
    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        let entries = if let Self::Map(entries) = self { &entries[..] } else { &[] };
        entries.iter().map(|(key, _)| &**key)
    }

    /// The value of a key of a map.
    pub(super) fn get(&self, wanted: &str) -> Option<&Self> {
        let Self::Map(entries) = self else { return None };
        entries.iter().find(|(key, _)| key == wanted).map(|(_, value)| value)
    }

    /// The value as YAML in block style.
    pub(super) fn to_yaml(&self) -> String {
        let mut text = String::new();
        self.block(0, &mut text);
        text
    }

    /// The value as YAML on one line.
    pub(super) fn flow(&self) -> String {
        match self {
            Self::Map(entries) => {
                let entry =
                    |(key, value): &(String, Self)| format!("{}: {}", plain_or_quoted(key), value.flow());
                format!("{{{}}}", entries.iter().map(entry).collect::<Vec<_>>().join(", "))
            }
            Self::List(items) => format!("[{}]", items.iter().map(Self::flow).collect::<Vec<_>>().join(", ")),
            Self::Text(text) => plain_or_quoted(text),
            Self::Number(number) => number.to_string(),
            Self::Decimal(number) => number.to_string(),
            Self::Bool(value) => value.to_string(),
        }
    }

    /// Writes a map or a list on separate lines.
    fn block(&self, indent: usize, text: &mut String) {
        match self {
            Self::Map(entries) => {
                for (key, value) in entries {
                    let _ = write!(text, "{:indent$}{}:", "", plain_or_quoted(key));
                    value.behind(indent, text);
                }
            }
            Self::List(items) => {
                for item in items {
                    let _ = write!(text, "{:indent$}-", "");
                    match item {
                        Self::Map(entries) if !entries.is_empty() => {
                            // The first key follows the dash.
                            let mut inner = String::new();
                            item.block(indent + 2, &mut inner);
                            text.push(' ');
                            text.push_str(inner.trim_start());
                        }
                        other => other.behind(indent, text),
                    }
                }
            }
            other => other.behind(indent, text),
        }
    }

    /// Writes a value after its key or dash.
    fn behind(&self, indent: usize, text: &mut String) {
        match self {
            Self::Map(entries) if !entries.is_empty() => {
                text.push('\n');
                self.block(indent + 2, text);
            }
            Self::List(items) if !items.is_empty() => {
                text.push('\n');
                self.block(indent + 2, text);
            }
            other => {
                let _ = writeln!(text, " {}", other.flow());
            }
        }
    }
}

/// The text without quotes if YAML reads it as text, otherwise in double quotes.
fn plain_or_quoted(text: &str) -> String {
    let mut chars = text.chars();
    let begins = chars.next().is_some_and(|first| first.is_ascii_alphanumeric() || "/_".contains(first));
    let plain = begins && chars.all(|c| c.is_ascii_alphanumeric() || "/_.-%".contains(c));
    let means_more = ["true", "false", "null", "yes", "no", "on", "y", "n"];
    let number = text.starts_with(|first: char| first.is_ascii_digit());
    let harmless = !number || text.ends_with(|last: char| "smh%".contains(last));
    if plain && harmless && !means_more.iter().any(|word| text.eq_ignore_ascii_case(word)) {
        return text.to_owned();
    }
    // JSON's escapes are YAML's.
    serde_json::to_string(text).unwrap_or_default()
}

impl Serialize for Outline {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Text(text) => serializer.serialize_str(text),
            Self::Number(number) => serializer.serialize_u64(*number),
            Self::Decimal(number) => serializer.serialize_f64(*number),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::List(items) => serializer.collect_seq(items),
            Self::Map(entries) => {
                let mut map = serializer.serialize_map(Some(entries.len()))?;
                for (key, value) in entries {
                    map.serialize_entry(key, value)?;
                }
                map.end()
            }
        }
    }
}

impl From<Map> for Outline {
    fn from(map: Map) -> Self {
        Self::Map(map.0)
    }
}

/// A map that is being written.
#[derive(Debug, Default)]
pub(super) struct Map(Vec<(String, Outline)>);

impl Map {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// Adds an entry, if there is a value.
    pub(super) fn put(&mut self, key: &str, value: Option<Outline>) {
        self.0.extend(value.map(|value| (key.to_owned(), value)));
    }

    /// Keeps the entries whose keys are wanted.
    pub(super) fn retain(&mut self, wanted: impl Fn(&str) -> bool) {
        self.0.retain(|(key, _)| wanted(key));
    }
}
