//! The JSON Schema of the configuration, for editors.

use serde_json::{Map, Value, json};

use super::kind::table;
use super::model::Config;
use super::shape::{KeyShape, Presence, ValueShape};

/// The schema of a whole configuration.
pub(super) fn schema() -> Value {
    let mut schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Pointsman",
        "description": "The configuration of Pointsman, a layer-4 TCP load balancer. In every value ${NAME}, \
            ${NAME:-default} and ${NAME:?message} are replaced from the environment; $$ is a dollar sign.",
        "patternProperties": {"^x-": {"description": "Anything: a place for YAML anchors and notes."}},
    });
    merge(&mut schema, of(&table::<Config>().shape()));
    merge(
        &mut schema,
        json!({"$defs": {
            "variable": {"description": "A value from the environment.", "type": "string", "pattern": r"\$\{"},
            "duration": {"type": "string", "pattern": r"^\s*([0-9]+(\s*[a-zµ]+)\s*)+$"},
            "name": {
                "description": "A name: letters, digits, '-', '_' and '.', and not dots alone.",
                "pattern": r"^[\p{L}\p{N}_.-]*[\p{L}\p{N}_-][\p{L}\p{N}_.-]*$",
            },
        }}),
    );
    schema
}

fn of(shape: &ValueShape) -> Value {
    match shape {
        ValueShape::Scalar { forms, .. } => {
            // Free text may hold a variable anyway.
            let free = |form: &Value| form["type"] == "string" && form.get("pattern").is_none();
            let mut forms = forms.clone();
            if !forms.iter().any(free) {
                forms.push(json!({"$ref": "#/$defs/variable"}));
            }
            any_of(forms)
        }
        ValueShape::List(item, least) => json!({"type": "array", "minItems": least, "items": of(item)}),
        ValueShape::Named(item, _) => json!({
            "type": "object",
            "minProperties": 1,
            "propertyNames": {"$ref": "#/$defs/name"},
            "additionalProperties": of(item),
        }),
        ValueShape::Keyed(item, pattern) => json!({
            "type": "object",
            "minProperties": 1,
            "propertyNames": {"pattern": pattern},
            "additionalProperties": of(item),
        }),
        ValueShape::Any(shapes) => any_of(shapes.iter().map(of).collect()),
        ValueShape::Table { keys, needs } => {
            let properties: Map<_, _> = keys.iter().map(|key| (key.name.to_owned(), property(key))).collect();
            let required = keys.iter().filter(|key| key.presence == Presence::Required);
            let required: Vec<_> = required.map(|key| key.name).collect();
            let mut table = json!({
                "type": if required.is_empty() && needs.is_none() { json!(["object", "null"]) } else { json!("object") },
                "additionalProperties": false,
                "properties": properties,
            });
            if !required.is_empty() {
                table["required"] = required.into();
            }
            if let Some((keyword, keys)) = needs {
                table[keyword] = keys.iter().map(|key| json!({"required": [key]})).collect();
            }
            for key in keys {
                if let Some(with) = key.with {
                    table["dependentRequired"][key.name] = json!([with]);
                }
            }
            table
        }
    }
}

fn property(key: &KeyShape) -> Value {
    let mut property = json!({"description": key.text()});
    merge(&mut property, of(&key.shape));
    if let Presence::Default(default) = &key.presence {
        property["default"] = serde_json::to_value(default).unwrap_or_default();
    }
    property
}

/// A value that has one of these forms.
fn any_of(mut forms: Vec<Value>) -> Value {
    match forms.len() {
        1 => forms.remove(0),
        _ => json!({"anyOf": forms}),
    }
}

/// Adds the entries of one object to another.
fn merge(to: &mut Value, from: Value) {
    if let (Value::Object(to), Value::Object(from)) = (to, from) {
        to.extend(from);
    }
}
