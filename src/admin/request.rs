//! Extractors for the parts of a request, with errors in the format of the API.

use std::fmt;
use std::marker::PhantomData;

use axum::Json;
use axum::body::HttpBody;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, OptionalFromRequest, Path, Query, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, DeserializeOwned, Deserializer, MapAccess, Visitor};

use super::ApiError;

const DESCRIBED: &str = "/api/v1/openapi.json describes the requests";

/// The error for a malformed request.
pub(super) fn bad_request(message: impl Into<String>) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, "bad_request", message, DESCRIBED)
}

/// A JSON object. `serde` would also accept a list of the values in the order of the fields.
pub(super) struct Object<T>(pub(super) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(value: D) -> Result<Self, D::Error> {
        struct Fields<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(fields)).map(Object)
            }
        }
        value.deserialize_map(Fields(PhantomData))
    }
}

/// The parameters in the path.
pub(super) struct At<T>(pub(super) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for At<T> {
    type Rejection = ApiError;

    async fn from_request_parts(head: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let path = Path::from_request_parts(head, state).await;
        path.map(|Path(names)| Self(names)).map_err(|error: PathRejection| bad_request(error.body_text()))
    }
}

/// The query.
pub(super) struct QueryParams<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for QueryParams<T> {
    type Rejection = ApiError;

    async fn from_request_parts(head: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let query = Query::from_request_parts(head, state).await;
        query.map(|Query(query)| Self(query)).map_err(|error: QueryRejection| bad_request(error.body_text()))
    }
}

/// The body, as JSON.
pub(crate) struct Body<T>(pub(crate) T);

fn unreadable(error: &JsonRejection) -> ApiError {
    let code = match error.status() {
        StatusCode::UNSUPPORTED_MEDIA_TYPE => "unsupported_media_type",
        StatusCode::PAYLOAD_TOO_LARGE => "too_large",
        _ => "bad_request",
    };
    let hint = match code {
        "unsupported_media_type" => "send the header Content-Type: application/json",
        _ => DESCRIBED,
    };
    ApiError::new(error.status(), code, error.body_text(), hint)
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let body = <Json<Object<T>> as FromRequest<S>>::from_request(request, state).await;
        body.map(|Json(Object(body))| Self(body)).map_err(|error| unreadable(&error))
    }
}

impl<T: DeserializeOwned, S: Send + Sync> OptionalFromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Option<Self>, ApiError> {
        // Many clients send the content type of JSON even without a body.
        if request.body().is_end_stream() {
            return Ok(None);
        }
        let body = <Json<Object<T>> as OptionalFromRequest<S>>::from_request(request, state).await;
        body.map(|body| body.map(|Json(Object(body))| Self(body))).map_err(|error| unreadable(&error))
    }
}
