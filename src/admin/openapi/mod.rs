//! The description of the admin API (OpenAPI 3.1), made from the table of operations, the signatures of the handlers and
//! the types that they read and reply with. Only tests compile it: a test compares the result with `openapi.json`, which
//! the server serves, so that describing the API costs a build nothing.
//!
//! `POINTSMAN_WRITE_OPENAPI=1 cargo test --lib openapi` writes the file again.

#![expect(clippy::needless_pass_by_value, reason = "the descriptions read better without borrows")]

mod handler;
mod operations;
mod schemas;

use std::collections::BTreeMap;

use axum::http::Method;
use schemars::generate::{SchemaGenerator, SchemaSettings};
use serde_json::{Map, Value, json};

use super::routes::operations;
use super::{
    backends, checks, connections, drain, events, host, listeners, logs, pools, problems, process, replicas,
    shadow, story, why,
};
use crate::api::path;
use handler::{Handler, HandlerReply};
pub(super) use schemas::client;

/// The description while it is made.
struct Document {
    paths: BTreeMap<&'static str, Map<String, Value>>,
    requests: SchemaGenerator,
    replies: SchemaGenerator,
}

/// The errors that have a description of their own; `/rep`, `/add` and `/rm` have a shape of their own too.
const ERRORS: [(u16, &str); 14] = [
    (400, "The request is malformed."),
    (401, "The token is missing or wrong."),
    (403, "Changes are not allowed from there."),
    (404, "Not found."),
    (408, "The request did not arrive whole in time."),
    (409, "The request conflicts with the current state."),
    (413, "The body is too long."),
    (415, "The body is not declared as JSON."),
    (421, "The server does not accept this host name."),
    (422, "The body has the wrong content."),
    (501, "The body has a Transfer-Encoding other than chunked."),
    (502, "The engine failed; what was begun was undone."),
    (503, "Not now: starting or draining (`/ready`), too many requests, or no answer from the engine."),
    (504, "The engine has not answered in time, and may still do it."),
];

impl Document {
    fn new() -> Self {
        let settings =
            || SchemaSettings::draft2020_12().with(|s| s.definitions_path = "/components/schemas".into());
        Self {
            paths: BTreeMap::new(),
            requests: settings().for_deserialize().into_generator(),
            replies: settings().for_serialize().into_generator(),
        }
    }

    /// Describes what the handler reads and replies with at that path.
    fn operation<H: Handler<A>, A>(
        &mut self,
        name: &str,
        method: Method,
        path: &'static str,
        _handler: H,
    ) -> Operation<'_> {
        let mut json = Map::new();
        json.insert("operationId".into(), camel_case(name).into());
        json.insert("responses".into(), json!({}));
        let own_shape = H::Reply::ERRORS;
        let mut operation = Operation { document: self, path, method, json, success: None, own_shape };
        operation.errors(&[400, 408, 501]);
        if !host::FOR_ALL.contains(&path) {
            operation.errors(&[421, 503]);
        }
        H::describe(&mut operation);
        operation.success = H::Reply::schema(&mut operation.document.replies);
        operation
    }

    fn finish(mut self) -> Value {
        let mut schemas = Map::new();
        let error = self.replies.subschema_for::<crate::api::ErrorReply>();
        let failure = self.replies.subschema_for::<crate::api::ReplicaFailure>();
        for (name, schema) in self.replies.take_definitions(true) {
            schemas.insert(name, schema);
        }
        for schema in schemas.values_mut() {
            schemas::make_strict(schema);
        }
        for (name, schema) in self.requests.take_definitions(true) {
            schemas.entry(name).or_insert(schema);
        }
        let response = |description: &str, schema: &schemars::Schema| json!({"description": description, "content": {"application/json": {"schema": schema}}});
        let mut responses = Map::new();
        for (status, description) in ERRORS {
            responses.insert(status.to_string(), response(description, &error));
            responses.insert(format!("Replicas{status}"), response(description, &failure));
        }
        let mut document = json!({
            "openapi": "3.1.0",
            "info": {"title": "Pointsman", "version": "1", "summary": "The admin API of a layer-4 load balancer.",
                "description": operations::DESCRIPTION},
            "tags": operations::TAGS.map(|(name, description)| json!({"name": name, "description": description})),
            "paths": self.paths,
            "components": {
                "securitySchemes": {"token": {"type": "http", "scheme": "bearer",
                    "description": "The content of `admin.token_file`."}},
                "responses": responses,
                "schemas": schemas,
            },
        });
        schemas::tidy(&mut document);
        document
    }
}

/// One operation while it is described.
struct Operation<'d> {
    document: &'d mut Document,
    path: &'static str,
    method: Method,
    json: Map<String, Value>,
    /// The schema of the handler's reply, if its type has one.
    success: Option<Value>,
    /// The prefix of its errors' names.
    own_shape: &'static str,
}

impl Operation<'_> {
    fn insert(&mut self, key: &str, value: Value) -> &mut Self {
        self.json.insert(key.into(), value);
        self
    }

    fn push(&mut self, key: &str, value: Value) {
        let list = self.json.entry(key).or_insert_with(|| json!([]));
        list.as_array_mut().unwrap().push(value);
    }

    fn respond(&mut self, status: u16, response: Value) -> &mut Self {
        self.json["responses"][status.to_string()] = response;
        self
    }

    /// Its tag, and one sentence.
    fn about(&mut self, tag: &str, summary: &str) -> &mut Self {
        self.insert("tags", json!([tag])).insert("summary", summary.into())
    }

    /// What the summary leaves out.
    fn description(&mut self, text: &str) -> &mut Self {
        self.insert("description", text.into())
    }

    /// A good reply in the handler's own type.
    fn reply(&mut self, status: u16, description: &str) -> &mut Self {
        self.reply_where(status, description, json!({}))
    }

    /// The same, of which more is known.
    fn reply_where(&mut self, status: u16, description: &str, more: Value) -> &mut Self {
        let mut schema = self.success.clone().expect("the handler's type has a schema of its reply");
        schema.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.content(status, description, "application/json", schema)
    }

    /// A good reply that the handler's type does not describe.
    fn content(&mut self, status: u16, description: &str, media: &str, schema: Value) -> &mut Self {
        self.respond(status, json!({"description": description, "content": {media: {"schema": schema}}}))
    }

    /// A good reply of a handler that writes it itself.
    fn reply_of<T: schemars::JsonSchema>(&mut self, status: u16, description: &str) -> &mut Self {
        let schema = self.document.replies.subschema_for::<T>().into();
        self.content(status, description, "application/json", schema)
    }

    fn errors(&mut self, statuses: &[u16]) -> &mut Self {
        for status in statuses {
            let name = format!("#/components/responses/{}{status}", self.own_shape);
            self.respond(*status, json!({"$ref": name}));
        }
        self
    }

    /// A header that the handler reads.
    fn header(&mut self, name: &str, description: &str) -> &mut Self {
        let schema = json!({"type": "string"});
        self.push(
            "parameters",
            json!({"name": name, "in": "header", "description": description, "schema": schema}),
        );
        self
    }

    /// An example of a body.
    fn example(&mut self, name: &str, value: Value) -> &mut Self {
        self.json["requestBody"]["content"]["application/json"]["examples"][name] = json!({"value": value});
        self
    }
}

impl Drop for Operation<'_> {
    fn drop(&mut self) {
        let json = Value::Object(std::mem::take(&mut self.json));
        let operations = self.document.paths.entry(self.path).or_default();
        operations.insert(self.method.as_str().to_lowercase(), json);
    }
}

/// `add_backend` as `addBackend`.
fn camel_case(name: &str) -> String {
    let mut words = name.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |name, word| name + &word[..1].to_uppercase() + &word[1..])
}

macro_rules! describe {
    ($($name:ident: $method:ident $path:expr => $handler:path,)*) => {{
        let mut document = Document::new();
        $(operations::$name(&mut document.operation(stringify!($name), Method::$method, $path, $handler));)*
        document.finish()
    }};
}

#[test]
fn the_description_that_is_served_is_that_of_the_handlers() {
    let made = operations!(describe);
    if std::env::var_os("POINTSMAN_WRITE_OPENAPI").is_some() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/src/admin/openapi.json");
        std::fs::write(file, serde_json::to_string_pretty(&made).unwrap() + "\n").unwrap();
        return;
    }
    let served: Value = serde_json::from_str(process::OPENAPI).unwrap();
    assert!(served == made, "openapi.json is stale: POINTSMAN_WRITE_OPENAPI=1 cargo test --lib openapi");
}
