//! What the types' own schemas lack.

use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

/// Writes numbers and descriptions as readers of OpenAPI expect them.
pub(super) fn tidy(value: &mut Value) {
    if let Some(Value::String(description)) = value.get_mut("description") {
        *description = description.replace('\n', " ");
    }
    match value {
        Value::Object(object) => {
            if object.get("format").and_then(Value::as_str).is_some_and(|format| FORMATS.contains(&format)) {
                object.remove("format");
            }
            object.values_mut().for_each(tidy);
        }
        Value::Array(list) => list.iter_mut().for_each(tidy),
        _ => {}
    }
}

/// The formats of Rust's numbers, which say nothing to readers in other languages.
const FORMATS: [&str; 5] = ["uint", "uint16", "uint32", "uint64", "double"];

/// Bounds the numbers of a request: the server refuses what does not fit their types.
pub(super) fn bound_numbers(schema: &mut Value) {
    let max = match schema.get("format").and_then(Value::as_str) {
        Some("uint32") => Some(u64::from(u32::MAX)),
        Some("uint" | "uint64") => Some(u64::MAX),
        _ => None,
    };
    if let (Some(max), Some(object)) = (max, schema.as_object_mut()) {
        object.entry("maximum").or_insert_with(|| json!(max));
    }
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        properties.values_mut().for_each(bound_numbers);
    }
}

/// Makes the schema of a reply as strict as the server is: it sends no other fields, no negative numbers, and no defaults.
pub(super) fn make_strict(schema: &mut Value) {
    strict(schema, false);
}

fn strict(schema: &mut Value, is_part: bool) {
    let Some(object) = schema.as_object_mut() else { return };
    object.remove("default");
    if object.get("type").is_some_and(|kind| kind.to_string().contains("\"number\"")) {
        object.entry("minimum").or_insert_with(|| json!(0));
    }
    let variants = ["oneOf", "anyOf"].into_iter().find(|key| object.contains_key(*key));
    let has_fields = object.contains_key("properties");
    if has_fields && !is_part {
        let key = if variants.is_some() { "unevaluatedProperties" } else { "additionalProperties" };
        object.entry(key).or_insert_with(|| json!(false));
    }
    for list in ["properties", "$defs"] {
        let Some(parts) = object.get_mut(list).and_then(Value::as_object_mut) else { continue };
        parts.values_mut().for_each(|part| strict(part, false));
    }
    for one in ["items", "additionalProperties"] {
        if let Some(part) = object.get_mut(one) {
            strict(part, false);
        }
    }
    if let Some(variants) = variants.and_then(|key| object.get_mut(key)).and_then(Value::as_array_mut) {
        // The fields of a flattened enum belong to the object around it.
        variants.iter_mut().for_each(|variant| strict(variant, has_fields));
    }
}

/// A client in a query: an IP address, with or without a port, or `unix`.
pub(in crate::admin) fn client(_: &mut SchemaGenerator) -> Schema {
    let port = "([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])";
    let byte = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])";
    json_schema!({
        "anyOf": [
            {"type": "string", "format": "ipv4"},
            {"type": "string", "format": "ipv6"},
            {"type": "string", "pattern": format!("^{byte}(\\.{byte}){{3}}:{port}$")},
            {"type": "string", "pattern": format!("^\\[[0-9a-fA-F:.]{{2,45}}\\]:{port}$")},
            {"const": "unix"},
        ],
    })
}
