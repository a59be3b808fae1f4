//! Bodies of requests: JSON, bounded, and an error that names the field and the place.

use axum::{
    body::Bytes,
    extract::{FromRequest, Request},
    http::{HeaderMap, StatusCode, header},
};
use serde::de::DeserializeOwned;

use crate::{BODY_BYTES_MAX, chats::IMPORT_BYTES_MAX, error::ApiError};

/// A request's body, read as JSON.
#[derive(Debug)]
pub(crate) struct JsonBody<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        check_content_type(request.headers())?;
        let is_import = request.uri().path() == "/chats/import";
        let most = if is_import { IMPORT_BYTES_MAX } else { BODY_BYTES_MAX };
        let bytes =
            Bytes::from_request(request, state).await.map_err(|rejection| {
                match rejection.status() {
                    StatusCode::PAYLOAD_TOO_LARGE => ApiError::too_large(format!(
                        "the body is too large: expected at most {most} bytes"
                    )),
                    _ => ApiError::malformed(rejection.body_text()),
                }
            })?;
        parse(&bytes).map(Self)
    }
}

fn check_content_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let expected = "content type: expected application/json";
    let Some(value) = headers.get(header::CONTENT_TYPE) else {
        return Err(ApiError::wrong_content_type(format!("{expected}, got none")));
    };
    let value = value.to_str().unwrap_or_default();
    let essence = value.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(ApiError::wrong_content_type(format!("{expected}, got {value:?}")))
}

/// Reads JSON; what is wrong is told with the path of the field, the line and the column.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        let inner = error.into_inner();
        if !inner.is_data() {
            return ApiError::malformed(format!("the body is not JSON: {inner}"));
        }
        let message = inner.to_string();
        match field(&path, &message) {
            Some(param) => ApiError::invalid(param, message),
            None => ApiError::malformed(format!("the body does not fit: {message}")),
        }
    })?;
    deserializer
        .end()
        .map_err(|error| ApiError::malformed(format!("the body is not one JSON value: {error}")))?;
    Ok(value)
}

/// The field that an error of serde is about. Of a field that is missing or unknown serde gives the parent's path, and the
/// name in the message only.
fn field(path: &str, message: &str) -> Option<String> {
    let parent = if path == "." { "" } else { path };
    let named = ["missing field `", "unknown field `", "duplicate field `"]
        .iter()
        .find_map(|prefix| message.strip_prefix(prefix))
        .and_then(|rest| rest.split_once('`'))
        .map(|(name, _)| name);
    let at_parent = |name: &str| parent == name || parent.ends_with(&format!(".{name}"));
    match named {
        Some(name) if parent.is_empty() => Some(name.to_owned()),
        Some(name) if !at_parent(name) => Some(format!("{parent}.{name}")),
        _ if parent.is_empty() => None,
        _ => Some(parent.to_owned()),
    }
}
