//! The JSON Schemas of types that are written as one value, for the descriptions of the API and of events.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::{Algorithm, Cause, CheckKind, Client, CloseReason, EjectionReason, Resolution, Timestamp};

macro_rules! schema {
    ($type:ty, $name:literal, $schema:tt) => {
        impl JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    };
}

schema!(Timestamp, "Timestamp", { "type": "number", "minimum": 0 });
schema!(Cause, "Cause", { "type": "string" });
schema!(CheckKind, "CheckKind", { "type": "string", "enum": CheckKind::ALL.map(CheckKind::name) });
schema!(Client, "Client", { "type": "string", "description": "The client's address and port, or `unix`." });
schema!(CloseReason, "CloseReason", { "type": "string", "enum": CloseReason::ALL.map(CloseReason::name) });
schema!(EjectionReason, "EjectionReason", { "type": "string" });
schema!(Resolution, "Resolution", { "type": "string", "enum": Resolution::ALL.map(Resolution::name) });
schema!(Algorithm, "Algorithm", { "type": "string", "enum": Algorithm::ALL.map(Algorithm::name) });
