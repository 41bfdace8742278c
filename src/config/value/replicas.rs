//! What containers are started with.

use std::sync::Arc;

use litemap::LiteMap;
use serde_json::json;

use super::super::decode::FoundValue;
use super::super::kind::Kind;
use super::super::outline::Outline;
use super::super::scalar::{any_text, pattern, text_that};
use super::super::shape::ValueShape;
use super::super::yaml::{YamlNode, YamlValue};

/// A Docker network in which containers have addresses of their own.
pub(in crate::config) fn network() -> Kind<String> {
    let schema = || json!({"type": "string", "minLength": 1, "not": {"enum": ["host", "none"]}});
    let must = "must be a network in which containers have addresses";
    text_that(must, schema, |network| network != "host" && network != "none")
}

/// A group, which is a part of the names of containers and hosts.
pub(in crate::config) fn group() -> Kind<Arc<str>> {
    let good = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let must = "must be letters from a to z, digits, '-', '_' and '.', and begin with one of the first two";
    text_that(
        must,
        || pattern("^[A-Za-z0-9][A-Za-z0-9_.-]*$"),
        move |group| group.starts_with(|c: char| c.is_ascii_alphanumeric()) && group.chars().all(good),
    )
    .map(Arc::from, |group: &Arc<str>| group.to_string())
}

/// A name of containers, in which * stands for anything.
pub(in crate::config) fn container_name() -> Kind<String> {
    let good = |c: char| c.is_ascii_alphanumeric() || "-_.*".contains(c);
    let schema = || pattern("^[A-Za-z0-9_.*-]*[A-Za-z0-9_.-][A-Za-z0-9_.*-]*$");
    text_that("must be a name of containers, such as server_*", schema, move |name| {
        name.chars().all(good) && name.chars().any(|c| c != '*')
    })
}

/// A list of words, as for execve(2): nothing splits them, no shell reads them.
pub(in crate::config) fn command() -> Kind<Vec<String>> {
    let parse = |node: &YamlNode| {
        let words = match &node.value {
            YamlValue::List(words) if !words.is_empty() => {
                words.iter().map(|word| word.text().map(str::to_owned)).collect::<Option<Vec<_>>>()
            }
            _ => None,
        };
        words.ok_or_else(|| "must be a list of words, such as [gunicorn, \"app:app\"]".to_owned())
    };
    let print = |words: &Vec<String>| Outline::List(words.iter().map(Outline::text).collect());
    Kind::scalar(parse, print, || json!({"type": "array", "minItems": 1, "items": any_text()}))
}

/// Environment variables; the key is omitted if there are none.
pub(in crate::config) fn environment() -> Kind<LiteMap<String, String>> {
    let write = |all: &LiteMap<String, String>| {
        let entries = all.iter().map(|(name, value)| (name.clone(), Outline::text(value)));
        (!all.is_empty()).then(|| Outline::Map(entries.collect()))
    };
    let schema = json!({
        "type": "object",
        "patternProperties": {
            "^[^=]+$": {"description": "A value.", "type": ["string", "number", "boolean", "null"]},
        },
        "additionalProperties": false,
    });
    Kind::new(read_environment, write, move || ValueShape::Scalar {
        forms: vec![schema.clone()],
        range: String::new(),
    })
}

fn read_environment(found: &FoundValue<'_>) -> Option<LiteMap<String, String>> {
    let mut all = LiteMap::new();
    for (key, node) in found.pairs()? {
        if key.text.is_empty() || key.text.contains(['=', '\0']) {
            found
                .decoder
                .problem(key.at, format!("{:?} in {} is no name of a variable", key.text, found.what));
        }
        match &node.value {
            YamlValue::Scalar(text) => _ = all.insert(key.text.clone(), text.clone()),
            YamlValue::Null => _ = all.insert(key.text.clone(), String::new()),
            YamlValue::List(_) | YamlValue::Map(_) => {
                found.decoder.problem(node.at, format!("{:?} in {} must be text", key.text, found.what));
            }
        }
    }
    Some(all)
}
