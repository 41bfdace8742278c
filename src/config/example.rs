//! `conf/full.yaml`: every key with its meaning, its range, and its default or an example.

use serde_json::Value;

use super::kind::table;
use super::model::Config;
use super::shape::{KeyShape, Presence, ValueShape};

/// The maximum length of a comment line.
const WIDTH: usize = 110;

const HEADER: &str = "\
# yaml-language-server: $schema=schema.json
# Every key, with its default or an example; `pointsman schema --example` writes this file.
# Durations have units: 500ms, 2s, 1m30s, 1h. In every value ${NAME:-default} is replaced from the environment.
";

/// The file.
pub(super) fn example() -> String {
    let mut text = HEADER.to_owned();
    if let ValueShape::Table { keys, .. } = table::<Config>().shape() {
        map(&keys, 0, &mut text);
    }
    text
}

/// Writes the keys of a map.
fn map<'a>(keys: impl IntoIterator<Item = &'a KeyShape>, indent: usize, text: &mut String) {
    for key in keys {
        let mut lines = if indent == 0 { "\n".to_owned() } else { String::new() };
        lines += &comment(&key.text(), indent);
        lines += &format!("{:indent$}{}:", "", key.name);
        let default = match &key.presence {
            Presence::Default(default) => Some(default.flow()),
            Presence::Required | Presence::Optional => None,
        };
        let short = key.presence != Presence::Required || !has_map(&key.shape);
        match key.example.map(str::to_owned).filter(|_| short).or(default) {
            Some(value) => lines += &format!(" {value}{}\n", choices(&key.shape)),
            None => value(&key.shape, indent, &mut lines),
        }
        // A key that has no effect beside the other keys is commented out.
        let aside = key.only.is_some() && !matches!(key.presence, Presence::Default(_));
        for line in lines.lines() {
            *text +=
                &if aside { format!("{:indent$}# {}\n", "", &line[indent..]) } else { format!("{line}\n") };
        }
    }
}

/// Writes a value that has keys, after its key.
fn value(shape: &ValueShape, indent: usize, text: &mut String) {
    match shape {
        // Their keys have an example.
        ValueShape::Scalar { .. } | ValueShape::Keyed(..) => text.push('\n'),
        ValueShape::Table { keys, .. } if keys.is_empty() => *text += " {}\n",
        ValueShape::Table { keys, .. } => {
            text.push('\n');
            map(keys, indent + 2, text);
        }
        ValueShape::Named(item, name) => {
            *text += &format!("\n{:1$}{name}:", "", indent + 2);
            value(item, indent + 2, text);
        }
        ValueShape::List(shape, _) => {
            text.push('\n');
            items(shape, indent + 2, text);
        }
        ValueShape::Any(shapes) => shapes.last().into_iter().for_each(|shape| value(shape, indent, text)),
    }
}

/// Writes a list with an item of each kind.
fn items(shape: &ValueShape, indent: usize, text: &mut String) {
    match shape {
        ValueShape::Any(shapes) => shapes.iter().for_each(|shape| items(shape, indent, text)),
        ValueShape::Table { keys, needs: Some(("oneOf", kinds)) } => {
            // The first item has the keys that all kinds share.
            for (index, kind) in kinds.iter().enumerate() {
                let wanted = |key: &&KeyShape| key.name == *kind || index == 0 && !kinds.contains(&key.name);
                item(keys.iter().filter(wanted), indent, text);
            }
        }
        ValueShape::Table { keys, .. } => item(keys, indent, text),
        ValueShape::Scalar { .. } | ValueShape::List(..) | ValueShape::Named(..) | ValueShape::Keyed(..) => {}
    }
}

fn item<'a>(keys: impl IntoIterator<Item = &'a KeyShape>, indent: usize, text: &mut String) {
    let mut lines = String::new();
    map(keys, indent + 2, &mut lines);
    let mut begun = false;
    for line in lines.lines() {
        let first = !begun && !line.trim_start().starts_with('#');
        *text += &match begun {
            true => format!("{line}\n"),
            false => format!("{:indent$}{}{}\n", "", if first { "- " } else { "" }, line.trim_start()),
        };
        begun |= first;
    }
}

fn has_map(shape: &ValueShape) -> bool {
    match shape {
        ValueShape::Scalar { .. } => false,
        ValueShape::Table { .. } | ValueShape::Named(..) | ValueShape::Keyed(..) => true,
        ValueShape::List(shape, _) => has_map(shape),
        ValueShape::Any(shapes) => shapes.iter().any(has_map),
    }
}

/// The alternatives, if they are short.
fn choices(shape: &ValueShape) -> String {
    let forms = match shape {
        ValueShape::Scalar { forms, .. } => &forms[..],
        ValueShape::Any(shapes) => match shapes.first() {
            Some(ValueShape::Scalar { forms, .. }) => &forms[..],
            _ => &[],
        },
        _ => &[],
    };
    let mut choices = Vec::new();
    for form in forms {
        if let Some(words) = form["enum"].as_array() {
            choices.extend(words.iter().filter_map(Value::as_str).map(str::to_owned));
        } else if let Some(word) = form["const"].as_str() {
            choices.push(if choices.is_empty() { format!("or {word}") } else { word.to_owned() });
        } else if let Some(least) = form["minimum"].as_f64() {
            choices.push(match form["maximum"].as_f64() {
                Some(most) => format!("{least} to {most}"),
                None => format!("{least} up"),
            });
        } else if form["type"] == "boolean" {
            choices.push("true | false".to_owned());
        }
    }
    if choices.is_empty() { String::new() } else { format!(" # {}", choices.join(" | ")) }
}

/// A comment on separate lines.
fn comment(text: &str, indent: usize) -> String {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let last = lines.len() - 1;
        if indent + 2 + lines[last].chars().count() + word.chars().count() > WIDTH {
            lines.push(String::new());
        }
        let last = lines.len() - 1;
        let space = if lines[last].is_empty() { "" } else { " " };
        lines[last] += &format!("{space}{word}");
    }
    lines.iter().map(|line| format!("{:indent$}# {line}\n", "")).collect()
}
