//! The page `configuration.md` of the book: every key with its meaning, its values and its default.

use serde_json::Value;

use super::super::model::Config;
use super::super::shape::{KeyShape, Presence, ValueShape};
use super::*;
use crate::testing::reference::{assert_current, cell};

const HEAD: &str = "# Configuration keys

Every key, in the order of `conf/full.yaml`, which `pointsman schema --example` prints; a JSON Schema for editors
comes from `pointsman schema`. [The configuration file](../configuration.md) explains them in context. Durations have units: `500ms`, `2s`, `1m30s`, `1h`. Sizes are like
`64KiB`, rates like `10MiB/s` and `10/s`. NAME stands for a name of your own, and `[]` for an item of a list.
";

/// Writes the section of a map: a table of its keys, and then the sections of those that have keys themselves.
fn section(title: &str, path: &str, keys: &[KeyShape], page: &mut String) {
    *page += &format!("\n## {title}\n\n| key | meaning | values | default |\n| --- | --- | --- | --- |\n");
    for key in keys {
        let default = match &key.presence {
            Presence::Required => "**required**".to_owned(),
            Presence::Optional => String::new(),
            Presence::Default(default) => format!("`{}`", default.flow()),
        };
        let values = values(&key.shape).join(", ");
        let (text, default) = (cell(&key.text()), cell(&default));
        *page += &format!("| `{}` | {text} | {} | {default} |\n", key.name, cell(&values));
    }
    for key in keys {
        let path = if path.is_empty() { key.name.to_owned() } else { format!("{path}.{}", key.name) };
        sections(&path, &key.shape, page);
    }
}

/// Writes the sections of the maps in a value.
fn sections(path: &str, shape: &ValueShape, page: &mut String) {
    match shape {
        ValueShape::Scalar { .. } | ValueShape::Keyed(..) => {}
        ValueShape::Table { keys, .. } if keys.is_empty() => {}
        ValueShape::Table { keys, .. } => section(&format!("`{path}`"), path, keys, page),
        ValueShape::Named(item, _) => sections(&format!("{path}.NAME"), item, page),
        ValueShape::List(item, _) => sections(&format!("{path}[]"), item, page),
        ValueShape::Any(shapes) => {
            // Where a single item may stand for a list, the list says the same.
            let list = shapes.iter().any(|shape| matches!(shape, ValueShape::List(..)));
            let shapes = shapes.iter().filter(|shape| !list || matches!(shape, ValueShape::List(..)));
            let shapes: Vec<_> = shapes.collect();
            let maps = shapes.iter().filter(|shape| matches!(shape, ValueShape::Table { .. })).count();
            for shape in shapes {
                match shape {
                    // Of several maps, each is known by its first key.
                    ValueShape::Table { keys, .. } if maps > 1 => {
                        section(&format!("`{path}` with `{}`", keys[0].name), path, keys, page);
                    }
                    shape => sections(path, shape, page),
                }
            }
        }
    }
}

/// What a value may be.
fn values(shape: &ValueShape) -> Vec<String> {
    let mut texts = Vec::new();
    match shape {
        ValueShape::Scalar { forms, .. } => forms.iter().for_each(|form| texts.extend(form_values(form))),
        ValueShape::Table { .. } | ValueShape::Named(..) => texts.push("a map".to_owned()),
        ValueShape::Keyed(item, _) => texts.push(format!("a map to: {}", values(item).join(" or "))),
        ValueShape::List(item, _) => texts.push(format!("a list of: {}", values(item).join(" or "))),
        ValueShape::Any(shapes) => shapes.iter().for_each(|shape| texts.extend(values(shape))),
    }
    let mut unique = Vec::new();
    for text in texts {
        if !unique.contains(&text) {
            unique.push(text);
        }
    }
    unique
}

/// What a form of a single value is, from its JSON Schema.
fn form_values(form: &Value) -> Vec<String> {
    let limits = [&form["minimum"], &form["maximum"]].map(Value::as_f64);
    let one = match (form["type"].as_str(), form["$ref"].as_str()) {
        (_, Some("#/$defs/duration")) => "a duration".to_owned(),
        (_, Some("#/$defs/name")) => "a name".to_owned(),
        (_, Some(other)) => panic!("{other} has no words"),
        (Some("boolean"), _) => "`true`, `false`".to_owned(),
        (Some("integer" | "number"), _) => match limits {
            [Some(least), Some(most)] => format!("{least} to {most}"),
            [Some(least), None] => format!("{least} and up"),
            _ => "a number".to_owned(),
        },
        (Some("array"), _) => match form_values(&form["items"]) {
            items if items.is_empty() => "a list".to_owned(),
            items => format!("a list of: {}", items.join(" or ")),
        },
        (Some("object"), _) => "a map".to_owned(),
        (Some("string"), _) => "text".to_owned(),
        (Some(other), _) => panic!("{other} has no words"),
        (None, None) => {
            let words = form["enum"].as_array().cloned().unwrap_or_default();
            let word = Some(form["const"].clone()).filter(|word| !word.is_null());
            // A word of digits is also a number.
            let words =
                words.into_iter().chain(word).filter_map(|word| Some(format!("`{}`", word.as_str()?)));
            let any = form["anyOf"].as_array().cloned().unwrap_or_default();
            return words.chain(any.iter().flat_map(form_values)).collect();
        }
    };
    vec![one]
}

#[test]
fn the_reference_of_the_configuration_is_current() {
    let mut page = HEAD.to_owned();
    let ValueShape::Table { keys, .. } = table::<Config>().shape() else {
        panic!("a configuration is a map")
    };
    section("At the top", "", &keys, &mut page);
    assert_current("configuration.md", &page);
}
