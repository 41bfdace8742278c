//! The parts of the description that the signature of a handler contains: its parameters, its body and its reply.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Value, json};

use super::Operation;
use crate::admin::access::Operator;
use crate::admin::replicas::{ReplicaError, ReplicaOrder};
use crate::admin::request::{At, Body, QueryParams};
use crate::admin::{ApiError, App};
use crate::api::ReplicaChange;

/// A handler of arguments `A`.
pub(super) trait Handler<A> {
    type Reply: HandlerReply;

    /// Describes its arguments.
    fn describe(operation: &mut Operation<'_>);
}

macro_rules! handler {
    ($($argument:ident),*) => {
        impl<F, W, $($argument: Argument),*> Handler<($($argument,)*)> for F
        where
            F: Fn($($argument),*) -> W,
            W: Future<Output: HandlerReply>,
        {
            type Reply = W::Output;

            fn describe(_operation: &mut Operation<'_>) {
                $($argument::describe(_operation);)*
            }
        }
    };
}

handler!();
handler!(A);
handler!(A, B);
handler!(A, B, C);
handler!(A, B, C, D);
handler!(A, B, C, D, E);

/// An argument of a handler.
pub(super) trait Argument {
    fn describe(operation: &mut Operation<'_>);
}

macro_rules! no_description {
    ($($argument:ty),*) => {
        $(impl Argument for $argument {
            fn describe(_: &mut Operation<'_>) {}
        })*
    };
}

no_description!(State<App>, HeaderMap);

impl<T> Argument for Extension<T> {
    fn describe(_: &mut Operation<'_>) {}
}

impl<T> Argument for Option<Extension<T>> {
    fn describe(_: &mut Operation<'_>) {}
}

impl Argument for Operator {
    fn describe(operation: &mut Operation<'_>) {
        operation.insert("security", json!([{"token": []}])).errors(&[401, 403]);
    }
}

fn request<T: JsonSchema>(operation: &mut Operation<'_>) -> Value {
    let mut schema = Value::from(T::json_schema(&mut operation.document.requests));
    super::schemas::bound_numbers(&mut schema);
    schema
}

fn body<T: JsonSchema>(operation: &mut Operation<'_>, required: bool) {
    let schema = request::<T>(operation);
    let content = json!({"application/json": {"schema": schema}});
    operation.insert("requestBody", json!({"required": required, "content": content})).errors(&[413, 415]);
}

impl<T: JsonSchema> Argument for Body<T> {
    fn describe(operation: &mut Operation<'_>) {
        body::<T>(operation, true);
        operation.errors(&[422]);
    }
}

impl<T: JsonSchema> Argument for Option<Body<T>> {
    fn describe(operation: &mut Operation<'_>) {
        body::<T>(operation, false);
        operation.errors(&[422]);
    }
}

impl Argument for ReplicaOrder {
    fn describe(operation: &mut Operation<'_>) {
        Operator::describe(operation);
        body::<ReplicaChange>(operation, true);
    }
}

impl<T: JsonSchema> Argument for QueryParams<T> {
    fn describe(operation: &mut Operation<'_>) {
        let schema = request::<T>(operation);
        let properties = schema["properties"].as_object().cloned().unwrap_or_default();
        for (name, mut schema) in properties {
            let description = schema.as_object_mut().and_then(|schema| schema.remove("description"));
            let parameter =
                json!({"name": name, "in": "query", "description": description, "schema": schema});
            operation.push("parameters", parameter);
        }
    }
}

impl<T: JsonSchema> Argument for Result<Query<T>, QueryRejection> {
    fn describe(operation: &mut Operation<'_>) {
        QueryParams::<T>::describe(operation);
    }
}

/// Names in a path.
trait PathNames {
    fn schemas() -> Vec<Value>;
}

impl PathNames for String {
    fn schemas() -> Vec<Value> {
        vec![json!({"type": "string", "minLength": 1})]
    }
}

impl PathNames for u64 {
    fn schemas() -> Vec<Value> {
        vec![json!({"type": "integer", "minimum": 0, "maximum": u64::MAX})]
    }
}

impl<A: PathNames, B: PathNames> PathNames for (A, B) {
    fn schemas() -> Vec<Value> {
        [A::schemas(), B::schemas()].concat()
    }
}

impl<T: PathNames> Argument for At<T> {
    fn describe(operation: &mut Operation<'_>) {
        let names = operation.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
        for (name, schema) in names.zip(T::schemas()) {
            let description = match name {
                "pool" => "The pool's name.",
                "backend" => "The backend's name or address.",
                _ => "The connection's number.",
            };
            let parameter = json!({"name": name, "in": "path", "required": true, "description": description, "schema": schema});
            operation.push("parameters", parameter);
        }
    }
}

/// What a handler replies with.
pub(super) trait HandlerReply {
    /// The prefix of its errors' names.
    const ERRORS: &'static str = "";

    /// The schema of a good reply, if its type has one.
    fn schema(schemas: &mut SchemaGenerator) -> Option<Value>;
}

impl<T: JsonSchema> HandlerReply for Json<T> {
    fn schema(schemas: &mut SchemaGenerator) -> Option<Value> {
        Some(schemas.subschema_for::<T>().into())
    }
}

impl<T: JsonSchema> HandlerReply for (StatusCode, Json<T>) {
    fn schema(schemas: &mut SchemaGenerator) -> Option<Value> {
        Json::<T>::schema(schemas)
    }
}

impl HandlerReply for Response {
    fn schema(_: &mut SchemaGenerator) -> Option<Value> {
        None
    }
}

impl<R: HandlerReply> HandlerReply for Result<R, ApiError> {
    fn schema(schemas: &mut SchemaGenerator) -> Option<Value> {
        R::schema(schemas)
    }
}

impl<R: HandlerReply> HandlerReply for Result<R, ReplicaError> {
    const ERRORS: &'static str = "Replicas";

    fn schema(schemas: &mut SchemaGenerator) -> Option<Value> {
        R::schema(schemas)
    }
}
