//! The bodies of requests.

use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize};

use crate::domain::{AdminState, ListenerState};

/// A backend to add.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct NewBackend {
    /// An IP address and a port, or a Unix socket: `10.0.0.1:5000`, `[fd00::1]:5000`, `unix:/run/web.sock`.
    #[cfg_attr(test, schemars(length(min = 3, max = 112)))]
    pub address: String,
    /// Its name: visible characters, spaces only between them, no slash, not only dots, at most 259 bytes; absent: its
    /// address, or the file name of its socket.
    #[serde(default, deserialize_with = "not_null", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(schema_with = "name_schema"))]
    pub name: Option<String>,
    /// Its weight; 0: no new connections.
    #[serde(default = "weight_1", deserialize_with = "whole")]
    #[cfg_attr(test, schemars(range(max = 256)))]
    pub weight: u32,
    /// Whether it is a backup, used only while the other backends are down or full.
    #[serde(default)]
    pub backup: bool,
    /// The zone in which it runs, with the same rule as its name; absent: unknown, which counts as that of the pool.
    #[serde(default, deserialize_with = "not_null", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(schema_with = "name_schema"))]
    pub zone: Option<String>,
}

fn weight_1() -> u32 {
    1
}

/// The schema of a name, in ASCII: a part of what the rule allows.
#[cfg(test)]
fn name_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "string", "minLength": 1, "maxLength": 259, "pattern": "^[!-.0-~]*[!--0-~][!-.0-~]*$",
    })
}

/// A process that takes over.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct HandOverRequest {
    /// The Unix socket at which it waits for the listening sockets.
    #[cfg_attr(test, schemars(with = "String", length(min = 1, max = 107)))]
    pub socket: PathBuf,
}

/// What to change of a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, schemars(extend("anyOf" = [{"required": ["state"]}, {"required": ["weight"]}])))]
pub(crate) struct BackendChange {
    /// Its new administrative state.
    #[serde(default, deserialize_with = "not_null", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "AdminState"))]
    pub state: Option<AdminState>,
    /// Its new weight; 0: no new connections. Above 1 the pool's algorithm must use weights.
    #[serde(default, deserialize_with = "some_whole", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "u32", range(max = 256)))]
    pub weight: Option<u32>,
    /// Refuse the change, with the code `last_eligible`, if it would take out the last eligible backend of its pool.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unless_last: bool,
}

impl BackendChange {
    /// Another administrative state.
    pub(crate) fn to_state(state: AdminState) -> Self {
        Self { state: Some(state), ..Self::default() }
    }

    /// Another weight.
    pub(crate) fn to_weight(weight: u32) -> Self {
        Self { weight: Some(weight), ..Self::default() }
    }

    /// The same change, which the server refuses if it takes out the last eligible backend of its pool.
    pub(crate) fn careful(self) -> Self {
        Self { unless_last: self.takes_out(), ..self }
    }

    /// Whether the backend gets no new connections afterwards.
    pub(crate) fn takes_out(&self) -> bool {
        matches!(self.state, Some(AdminState::Draining | AdminState::Maintenance)) || self.weight == Some(0)
    }
}

/// What to change of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct ListenerChange {
    /// Its new state.
    pub state: ListenerState,
}

/// What to check: all backends, those of a pool, or one.
#[derive(Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, schemars(extend("dependentRequired" = {"backend": ["pool"]})))]
pub(crate) struct CheckRequest {
    /// Only this pool.
    #[serde(default, deserialize_with = "not_null", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "String"))]
    pub pool: Option<String>,
    /// Only this backend of the pool, by name or address.
    #[serde(default, deserialize_with = "not_null", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "String"))]
    pub backend: Option<String>,
}

/// Reads a value that may be absent, but is not null.
fn not_null<'de, D: Deserializer<'de>, T: Deserialize<'de>>(value: D) -> Result<Option<T>, D::Error> {
    T::deserialize(value).map(Some)
}

/// The number, if it is whole and fits. In JSON 3.0 is whole too (JSON Schema, 6.1.1).
pub(crate) fn whole_number(number: &serde_json::Number) -> Option<u32> {
    let whole = |number: f64| {
        (number.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&number)).then_some(number as u32)
    };
    number.as_u64().map_or_else(|| number.as_f64().and_then(whole), |n| u32::try_from(n).ok())
}

fn whole<'de, D: Deserializer<'de>>(value: D) -> Result<u32, D::Error> {
    let number = serde_json::Number::deserialize(value)?;
    whole_number(&number).ok_or_else(|| serde::de::Error::custom("a whole number is wanted"))
}

fn some_whole<'de, D: Deserializer<'de>>(value: D) -> Result<Option<u32>, D::Error> {
    whole(value).map(Some)
}
