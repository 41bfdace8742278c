//! Which containers of an engine are meant: by a label, or by how they are called.

use std::collections::HashMap;

use bollard::models::ContainerSummary;

use crate::config::Adopt;

/// The containers that have a label, and those that count as if they had it.
#[derive(Clone, Debug)]
pub(crate) struct Chosen {
    label: Label,
    adopted: Option<Adopted>,
}

#[derive(Clone, Debug)]
enum Adopted {
    Name(String),
    Label(Label),
}

impl Chosen {
    /// Those with the label, as `key` or `key=value`, and those that are adopted.
    pub(crate) fn new(label: &str, adopt: Option<&Adopt>) -> Self {
        let adopted = adopt.map(|adopt| match adopt {
            Adopt::Name(pattern) => Adopted::Name(pattern.clone()),
            Adopt::Label(label) => Adopted::Label(Label::new(label)),
        });
        Self { label: Label::new(label), adopted }
    }

    /// Whether a container is one of them.
    pub(crate) fn has(&self, container: &ContainerSummary) -> bool {
        let names = container.names.iter().flatten().map(|name| name.strip_prefix('/').unwrap_or(name));
        self.is_among(container.labels.as_ref(), names)
    }

    /// Whether the container is one of them of which these are the labels; among them `name`, as an event has it.
    pub(crate) fn tells_of(&self, attributes: &HashMap<String, String>) -> bool {
        self.is_among(Some(attributes), attributes.get("name").map(String::as_str).into_iter())
    }

    fn is_among<'a>(
        &self,
        labels: Option<&HashMap<String, String>>,
        mut names: impl Iterator<Item = &'a str>,
    ) -> bool {
        self.label.is_among(labels)
            || match &self.adopted {
                None => false,
                Some(Adopted::Label(label)) => label.is_among(labels),
                Some(Adopted::Name(pattern)) => names.any(|name| like(pattern, name)),
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

    fn is_among(&self, labels: Option<&HashMap<String, String>>) -> bool {
        let found = labels.and_then(|labels| labels.get(&self.key));
        found.is_some_and(|found| self.value.as_ref().is_none_or(|value| value == found))
    }
}

/// Whether a name is like a pattern, in which each `*` stands for anything.
fn like(pattern: &str, name: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut name) = name.strip_prefix(first) else { return false };
    let mut parts = rest.split('*').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return name.ends_with(part);
        }
        // The first place is the best one: it leaves the most for the parts that follow.
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
    fn a_star_stands_for_anything() {
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
            assert_eq!(like(pattern, name), is, "{pattern} {name}");
        }
    }

    /// The same by its definition.
    fn by_definition(pattern: &[u8], name: &[u8]) -> bool {
        match pattern {
            [] => name.is_empty(),
            [b'*', rest @ ..] => (0..=name.len()).any(|skip| by_definition(rest, &name[skip..])),
            [c, rest @ ..] => name.first() == Some(c) && by_definition(rest, &name[1..]),
        }
    }

    proptest! {
        #[test]
        fn a_pattern_means_what_it_says(pattern in "[ab*]{0,6}", name in "[ab]{0,8}") {
            prop_assert_eq!(like(&pattern, &name), by_definition(pattern.as_bytes(), name.as_bytes()));
        }
    }
}
