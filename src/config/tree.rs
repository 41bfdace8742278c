//! What the user wrote, as a tree in which every key and every value knows its place in the file.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_yaml::{DuplicateKeyPolicy, MergeKeyPolicy, Spanned};

use super::report::{Place, Problem};

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    pub(super) at: Place,
    pub(super) value: Value,
}

/// A value as it is written.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    /// Nothing at all, or `null`.
    Null,
    /// Anything that is neither a list nor a map, as text.
    Scalar(String),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

impl Node {
    /// The items of a list; anything else is the only item, for what may be written as one or as a list.
    pub(super) fn items(&self) -> &[Self] {
        match &self.value {
            Value::List(items) => items,
            _ => std::slice::from_ref(self),
        }
    }
}

/// A key of a map and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Key {
    pub(super) at: Place,
    pub(super) text: String,
}

/// Reads YAML. A file that is not YAML has one problem: what follows it cannot be understood.
pub(super) fn parse(text: &str) -> Result<Node, Problem> {
    let options = serde_yaml::options! {
        duplicate_keys: DuplicateKeyPolicy::Error,
        merge_keys: MergeKeyPolicy::Error,
        strict_booleans: true,
        with_snippet: false,
    };
    serde_yaml::from_str_with_options::<Node>(text, options).map_err(|error| {
        let at = error.location().map(Place::from);
        let error = error.without_snippet().to_string();
        // The place is told in front of the message.
        let message = error.split(" at line ").next().unwrap_or(&error);
        let message = message.strip_prefix("error: ").unwrap_or(message).trim_end_matches([':', '\n', ' ']);
        let line = at.and_then(|at| text.lines().nth(at.line.checked_sub(1)?)).unwrap_or_default();
        Problem { at, message: explain(message, line) }
    })
}

/// What a reader of YAML says, in words that say what to do about it.
fn explain(message: &str, line: &str) -> String {
    if let Some((_, rest)) = message.split_once("duplicate mapping key: ") {
        let key = rest.split(", set ").next().unwrap_or(rest);
        return format!("the key {key:?} is there twice");
    }
    if message.starts_with("tabs ") {
        return "a tab, where YAML wants spaces".to_owned();
    }
    let hint = match message.contains("flow") {
        true if line.contains("${") => " (inside { } or [ ], put a ${…} in quotes)",
        true => " (is a { or [ before it not closed?)",
        false => "",
    };
    format!("{message}{hint}")
}

impl From<serde_yaml::Location> for Place {
    fn from(location: serde_yaml::Location) -> Self {
        let number = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        Self { line: number(location.line()), column: number(location.column()) }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Value>::deserialize(deserializer)?;
        Ok(Self { at: spanned.referenced.into(), value: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader)
    }
}

struct Reader;

macro_rules! scalar {
    ($($visit:ident: $type:ty),*) => {
        $(fn $visit<E>(self, value: $type) -> Result<Value, E> {
            Ok(Value::Scalar(value.to_string()))
        })*
    };
}

impl<'de> Visitor<'de> for Reader {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    scalar!(visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_i128: i128, visit_u128: u128, visit_f64: f64, visit_str: &str);

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        Value::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(node) = seq.next_element()? {
            list.push(node);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut pairs = Vec::new();
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            let key = Key { at: key.referenced.into(), text: key.value };
            pairs.push((key, map.next_value()?));
        }
        Ok(Value::Map(pairs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keys_and_values_know_their_places() {
        let root = parse("pools:\n  web:\n    every: 2s\n    list: [1, {a: b}]\n").unwrap();
        let Value::Map(pairs) = root.value else { panic!() };
        assert_eq!(pairs[0].0.at, Place { line: 1, column: 1 });
        let Value::Map(pools) = &pairs[0].1.value else { panic!() };
        assert_eq!(pools[0].0.at, Place { line: 2, column: 3 });
        let Value::Map(web) = &pools[0].1.value else { panic!() };
        assert_eq!(web[0].1.at, Place { line: 3, column: 12 });
        assert_eq!(web[0].1.value, Value::Scalar("2s".into()));
        let Value::List(list) = &web[1].1.value else { panic!() };
        assert_eq!(list[0].at, Place { line: 4, column: 12 });
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[ -~\n]{0,200}") {
            let _ = parse(&text);
        }
    }
}
