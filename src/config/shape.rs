//! What the keys look like, for the JSON Schema (`schema.rs`) and `conf/full.yaml` (`example.rs`).

use serde_json::Value;

use super::outline::Outline;

/// One key of a map.
#[derive(Clone, Debug)]
pub(super) struct KeyShape {
    pub(super) name: &'static str,
    /// Its meaning, in sentences.
    pub(super) doc: String,
    pub(super) presence: Presence,
    pub(super) shape: ValueShape,
    /// A value in YAML.
    pub(super) example: Option<&'static str>,
    /// When it has an effect, as in "for unix: addresses".
    pub(super) only: Option<&'static str>,
    /// Another key that must be present as well.
    pub(super) with: Option<&'static str>,
}

/// Whether a key must be present.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Presence {
    Required,
    Optional,
    /// Optional, with this default.
    Default(Outline),
}

/// What a value may be.
#[derive(Clone, Debug)]
pub(super) enum ValueShape {
    /// A single value.
    Scalar {
        /// As a JSON Schema, any of these.
        forms: Vec<Value>,
        /// Its range, if a JSON Schema cannot express it: "From 1s to 9h."
        range: String,
    },
    Table {
        keys: Vec<KeyShape>,
        needs: Option<(&'static str, &'static [&'static str])>,
    },
    /// A list with a minimum number of items.
    List(Box<ValueShape>, usize),
    /// A map whose keys are names like this one.
    Named(Box<ValueShape>, &'static str),
    /// A map whose keys match this regular expression.
    Keyed(Box<ValueShape>, &'static str),
    /// Any of these; the last one is the most detailed.
    Any(Vec<ValueShape>),
}

impl KeyShape {
    pub(super) fn new(name: &'static str, doc: &[&str]) -> Self {
        Self {
            name,
            doc: doc.concat().trim().to_owned(),
            presence: Presence::Optional,
            shape: ValueShape::Any(Vec::new()),
            example: None,
            only: None,
            with: None,
        }
    }

    /// Makes the key required; `example` is a value for it.
    pub(super) fn require(&mut self, example: &'static str) {
        self.presence = Presence::Required;
        self.example = Some(example);
    }

    /// With the shape and the default of its value.
    pub(super) fn with_value(mut self, shape: ValueShape, default: Option<Outline>) -> Self {
        self.shape = shape;
        if let Some(default) = default {
            self.presence = Presence::Default(default);
        }
        self
    }

    /// The complete description: meaning, range and condition.
    pub(super) fn text(&self) -> String {
        let mut text = self.doc.clone();
        if let ValueShape::Scalar { range, .. } = &self.shape
            && !range.is_empty()
        {
            text = format!("{text} {range}");
        }
        if let Some(only) = self.only {
            text = format!("{text} Only {only}.");
        }
        text
    }
}
