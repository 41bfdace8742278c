//! Selects containers of an engine by label or by name.

use std::collections::HashMap;

use bollard::models::ContainerSummary;

use crate::config::Adopt;

/// Matches the containers that have a label, and adopted ones.
#[derive(Clone, Debug)]
pub struct ContainerFilter {
    label: Label,
    adopted: Option<Adopted>,
}

#[derive(Clone, Debug)]
enum Adopted {
    Name(String),
    Label(Label),
}

impl ContainerFilter {
    /// `label` is `key` or `key=value`.
    pub fn new(label: &str, adopt: Option<&Adopt>) -> Self {
        let adopted = adopt.map(|adopt| match adopt {
            Adopt::Name(pattern) => Adopted::Name(pattern.clone()),
            Adopt::Label(label) => Adopted::Label(Label::new(label)),
        });
        Self { label: Label::new(label), adopted }
    }

    /// Whether the filter matches a container of the list.
    pub fn matches(&self, container: &ContainerSummary) -> bool {
        let names = container.names.iter().flatten().map(|name| name.strip_prefix('/').unwrap_or(name));
        self.matches_any(container.labels.as_ref(), names)
    }

    /// Whether the filter matches the container of an event; `attributes` are its labels and its `name`.
    pub fn matches_event(&self, attributes: &HashMap<String, String>) -> bool {
        self.matches_any(Some(attributes), attributes.get("name").map(String::as_str).into_iter())
    }

    fn matches_any<'a>(
        &self,
        labels: Option<&HashMap<String, String>>,
        mut names: impl Iterator<Item = &'a str>,
    ) -> bool {
        self.label.is_in(labels)
            || match &self.adopted {
                None => false,
                Some(Adopted::Label(label)) => label.is_in(labels),
                Some(Adopted::Name(pattern)) => names.any(|name| matches(pattern, name)),
            }
    }
}

/// `key`, whatever its value, or `key=value`.
#[derive(Clone, Debug)]
struct Label {
    key: String,
    value: Option<String>,
}

impl Label {
    fn new(text: &str) -> Self {
        match text.split_once('=') {
            Some((key, value)) => Self { key: key.to_owned(), value: Some(value.to_owned()) },
            None => Self { key: text.to_owned(), value: None },
        }
    }

    fn is_in(&self, labels: Option<&HashMap<String, String>>) -> bool {
        let found = labels.and_then(|labels| labels.get(&self.key));
        found.is_some_and(|found| self.value.as_ref().is_none_or(|value| value == found))
    }
}

/// Whether a name matches a pattern, in which each `*` stands for any text.
fn matches(pattern: &str, name: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut name) = name.strip_prefix(first) else { return false };
    let mut parts = rest.split('*').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return name.ends_with(part);
        }
        // The first occurrence leaves the most text for the remaining parts.
        let Some(at) = name.find(part) else { return false };
        name = &name[at + part.len()..];
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_star_matches_any_text() {
        for (pattern, name, is) in [
            ("server_*", "server_1", true),
            ("server_*", "server_", true),
            ("server_*", "my_server_1", false),
            ("*_1", "server_1", true),
            ("*_1", "server_11", false),
            ("*_1", "server_12", false),
            ("s*r*1", "server_1", true),
            ("s*r*1", "ser1", true),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("a**b", "ab", true),
            ("server", "server", true),
            ("server", "server1", false),
        ] {
            assert_eq!(matches(pattern, name), is, "{pattern} {name}");
        }
    }

    /// The definition, as slow as it is simple.
    fn by_definition(pattern: &[u8], name: &[u8]) -> bool {
        match pattern {
            [] => name.is_empty(),
            [b'*', rest @ ..] => (0..=name.len()).any(|skip| by_definition(rest, &name[skip..])),
            [c, rest @ ..] => name.first() == Some(c) && by_definition(rest, &name[1..]),
        }
    }

    proptest! {
        #[test]
        fn a_pattern_matches_by_definition(pattern in "[ab*]{0,6}", name in "[ab]{0,8}") {
            prop_assert_eq!(matches(&pattern, &name), by_definition(pattern.as_bytes(), name.as_bytes()));
        }
    }
}
