//! The parsed file: a tree in which every key and every value has its position.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_yaml::{DuplicateKeyPolicy, MergeKeyPolicy, Spanned};

use super::not_yaml::explain;
use super::problem::{FilePosition, Problem};

/// A value and its position.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct YamlNode {
    pub(super) at: FilePosition,
    pub(super) value: YamlValue,
}

/// A value as it is written.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum YamlValue {
    /// Nothing at all, or `null`.
    Null,
    /// Anything that is neither a list nor a map, as text.
    Scalar(String),
    List(Vec<YamlNode>),
    Map(Vec<(YamlKey, YamlNode)>),
}

impl YamlNode {
    /// A single value that is not empty.
    pub(super) fn text(&self) -> Option<&str> {
        match &self.value {
            YamlValue::Scalar(text) if !text.is_empty() => Some(text),
            _ => None,
        }
    }

    /// The items of a list. Any other value is returned as the only item, for keys that take one value or a list.
    pub(super) fn items(&self) -> &[Self] {
        match &self.value {
            YamlValue::List(items) => items,
            _ => std::slice::from_ref(self),
        }
    }

    /// The value of a key of a map.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        self.pair(key).map(|(_, node)| node)
    }

    /// A key of a map.
    pub(super) fn key(&self, key: &str) -> Option<&YamlKey> {
        self.pair(key).map(|(key, _)| key)
    }

    fn pair(&self, key: &str) -> Option<&(YamlKey, Self)> {
        match &self.value {
            YamlValue::Map(pairs) => pairs.iter().find(|(k, _)| k.text == key),
            _ => None,
        }
    }
}

/// A key of a map and its position.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct YamlKey {
    pub(super) at: FilePosition,
    pub(super) text: String,
}

/// Reads YAML. A file that is not YAML has one problem: the text after it cannot be parsed.
pub(super) fn parse(text: &str) -> Result<YamlNode, Problem> {
    let options = serde_yaml::options! {
        duplicate_keys: DuplicateKeyPolicy::Error,
        merge_keys: MergeKeyPolicy::Error,
        strict_booleans: true,
        with_snippet: false,
    };
    serde_yaml::from_str_with_options::<YamlNode>(text, options).map_err(|error| {
        let at = error.location().map(FilePosition::from);
        let error = error.without_snippet().to_string();
        // The position is shown in front of the message.
        let message = error.split(" at line ").next().unwrap_or(&error);
        let message = message.strip_prefix("error: ").unwrap_or(message).trim_end_matches([':', '\n', ' ']);
        Problem { at, message: explain(message, text, at) }
    })
}

impl From<serde_yaml::Location> for FilePosition {
    fn from(location: serde_yaml::Location) -> Self {
        let number = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        Self { line: number(location.line()), column: number(location.column()) }
    }
}

impl<'de> Deserialize<'de> for YamlNode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<YamlValue>::deserialize(deserializer)?;
        Ok(Self { at: spanned.referenced.into(), value: spanned.value })
    }
}

impl<'de> Deserialize<'de> for YamlValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(YamlVisitor)
    }
}

struct YamlVisitor;

macro_rules! scalar {
    ($($visit:ident: $type:ty),*) => {
        $(fn $visit<E>(self, value: $type) -> Result<YamlValue, E> {
            Ok(YamlValue::Scalar(value.to_string()))
        })*
    };
}

impl<'de> Visitor<'de> for YamlVisitor {
    type Value = YamlValue;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    scalar!(visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_i128: i128, visit_u128: u128, visit_f64: f64, visit_str: &str);

    fn visit_unit<E>(self) -> Result<YamlValue, E> {
        Ok(YamlValue::Null)
    }

    fn visit_none<E>(self) -> Result<YamlValue, E> {
        Ok(YamlValue::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<YamlValue, D::Error> {
        YamlValue::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<YamlValue, A::Error> {
        let mut list = Vec::new();
        while let Some(node) = seq.next_element()? {
            list.push(node);
        }
        Ok(YamlValue::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<YamlValue, A::Error> {
        let mut pairs = Vec::new();
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            let key = YamlKey { at: key.referenced.into(), text: key.value };
            pairs.push((key, map.next_value()?));
        }
        Ok(YamlValue::Map(pairs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keys_and_values_have_their_positions() {
        let root = parse("pools:\n  web:\n    every: 2s\n    list: [1, {a: b}]\n").unwrap();
        let YamlValue::Map(pairs) = root.value else { panic!() };
        assert_eq!(pairs[0].0.at, FilePosition { line: 1, column: 1 });
        let YamlValue::Map(pools) = &pairs[0].1.value else { panic!() };
        assert_eq!(pools[0].0.at, FilePosition { line: 2, column: 3 });
        let YamlValue::Map(web) = &pools[0].1.value else { panic!() };
        assert_eq!(web[0].1.at, FilePosition { line: 3, column: 12 });
        assert_eq!(web[0].1.value, YamlValue::Scalar("2s".into()));
        let YamlValue::List(list) = &web[1].1.value else { panic!() };
        assert_eq!(list[0].at, FilePosition { line: 4, column: 12 });
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[ -~\n]{0,200}") {
            let _ = parse(&text);
        }
    }
}
