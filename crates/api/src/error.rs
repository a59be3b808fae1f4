//! Errors as OpenAI's clients know them, and what the node's errors become.
//!
//! The status says who has to act: 4xx is wrong until the request changes, 503 may work in a while (and says when to ask
//! again), 500 is ours. `param` names the field, `code` is for programs, `message` for people.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use shoal_node::{
    Error, chain,
    hub::{DownloadError, HubError, LibraryError, NameError, PartialError, StoreError},
};
use tracing::error;

/// Seconds after which a refused client may ask again: a heartbeat or two, so that a lost node is known to be lost.
const RETRY_AFTER_S: u64 = 5;

/// How to prove that one may.
const BEARER: HeaderValue = HeaderValue::from_static("Bearer");

/// An error, ready to be sent.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ApiError {
    status: StatusCode,
    message: String,
    param: Option<String>,
    code: Option<&'static str>,
    /// Layers that are missing, and the node that is gone with them.
    missing: Option<Box<Value>>,
    /// When to ask again, in seconds.
    retry_after_s: u64,
}

impl ApiError {
    fn new(status: StatusCode, code: Option<&'static str>, message: impl Into<String>) -> Self {
        let (message, retry_after_s) = (message.into(), RETRY_AFTER_S);
        Self { status, message, param: None, code, missing: None, retry_after_s }
    }

    /// 400, and the field that is wrong.
    pub(crate) fn invalid(param: impl Into<String>, message: impl std::fmt::Display) -> Self {
        let param = param.into();
        Self::new(StatusCode::BAD_REQUEST, None, format!("{param}: {message}")).about(param)
    }

    /// 400 for a body that is no JSON object at all.
    pub(crate) fn malformed(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, None, message)
    }

    pub(crate) fn not_found(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, Some(code), message)
    }

    pub(crate) fn wrong_method(message: impl Into<String>) -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, Some("method_not_allowed"), message)
    }

    pub(crate) fn forbidden(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, Some(code), message)
    }

    pub(crate) fn too_large(message: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, Some("body_too_large"), message)
    }

    pub(crate) fn wrong_content_type(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, Some("unsupported_content_type"), message)
    }

    /// 503: too many answers are under way.
    pub(crate) fn overloaded(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, Some("overloaded"), message)
    }

    /// 401: who asks has to know the token.
    pub(crate) fn unauthorized(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, Some(code), message)
    }

    /// 429: too many wrong tokens.
    pub(crate) fn too_many_guesses() -> Self {
        let message = "too many wrong tokens: try again in a minute";
        Self::new(StatusCode::TOO_MANY_REQUESTS, Some("too_many_guesses"), message)
    }

    /// Somebody asked for the answer's end.
    pub(crate) fn cancelled() -> Self {
        Self::new(StatusCode::CONFLICT, Some("cancelled"), "the answer was cancelled")
    }

    /// 409: it contradicts what is there.
    pub(crate) fn conflict(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, Some(code), message)
    }

    /// 413: more than one thing may hold.
    pub(crate) fn full(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, Some(code), message)
    }

    /// 507: the device has no room for more.
    pub(crate) fn no_room(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::INSUFFICIENT_STORAGE, Some(code), message)
    }

    /// 500: it is our fault.
    pub(crate) fn ours(message: impl Into<String>) -> Self {
        let message = message.into();
        error!(error = %message, "request failed");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, Some("internal_error"), message)
    }

    /// 410: it was here, and is no more.
    pub(crate) fn gone(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::GONE, Some(code), message)
    }

    /// The answer ended without a reason: its node is shutting down.
    pub(crate) fn cut_off() -> Self {
        let message = "the answer was cut off: the node is shutting down";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, Some("shutting_down"), message)
    }

    fn about(self, param: impl Into<String>) -> Self {
        Self { param: Some(param.into()), ..self }
    }

    /// The body: `{"error": …}`.
    pub(crate) fn to_json(&self) -> Value {
        let kind =
            if self.status.is_server_error() { "server_error" } else { "invalid_request_error" };
        let mut error = json!({
            "message": self.message,
            "type": kind,
            "param": self.param,
            "code": self.code,
        });
        if let Some(missing) = &self.missing {
            error["missing"] = Value::clone(missing);
        }
        json!({"error": error})
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.to_json())).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, BEARER);
        }
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, self.retry_after_s.into());
        }
        response
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        use StatusCode as S;

        let message = chain(&error);
        let (status, code, param) = match &error {
            Error::UnknownModel { .. } => (S::NOT_FOUND, Some("model_not_found"), Some("model")),
            Error::InvalidParameter { name, .. } => {
                return Self::new(S::BAD_REQUEST, None, message).about(name.as_str());
            }
            Error::ContextFull { .. } => {
                (S::BAD_REQUEST, Some("context_length_exceeded"), Some("messages"))
            }
            Error::Template { .. } => (S::BAD_REQUEST, Some("template_failed"), Some("messages")),
            Error::Model { .. } => (S::BAD_REQUEST, Some("model_unusable"), Some("model")),
            Error::UnknownInstance { .. } => (S::NOT_FOUND, Some("instance_not_found"), Some("id")),
            Error::UnknownNode { .. } => (S::NOT_FOUND, Some("node_not_found"), Some("node")),
            Error::Ticket(_) => (S::BAD_REQUEST, Some("bad_ticket"), Some("ticket")),
            Error::JoinRefused { .. } => (S::FORBIDDEN, Some("cluster_refused"), Some("ticket")),
            Error::JoinFailed { .. } => (S::BAD_GATEWAY, Some("cluster_unreachable"), None),
            Error::Place(_) | Error::DifferentModel { .. } | Error::LoadRefused { .. } => {
                (S::CONFLICT, Some("cluster_refused"), None)
            }
            Error::Library(error) => of_library(error),
            Error::Name(error) => of_name(error),
            Error::InUse { .. } => (S::CONFLICT, Some("model_in_use"), Some("model")),
            Error::NoLibrary { .. } => (S::CONFLICT, Some("no_models_dir"), None),
            Error::SettingFixed { name } => (S::CONFLICT, Some("setting_fixed"), Some(*name)),
            Error::Offline => (S::CONFLICT, Some("offline"), None),
            Error::Overloaded { .. } => (S::SERVICE_UNAVAILABLE, Some("overloaded"), None),
            Error::StageLost { .. } | Error::StageSilent { .. } | Error::PeerLost { .. } => {
                (S::SERVICE_UNAVAILABLE, Some("node_lost"), None)
            }
            _ => (S::INTERNAL_SERVER_ERROR, Some("internal_error"), None),
        };
        if status == S::INTERNAL_SERVER_ERROR {
            error!(error = %message, "request failed");
        }
        let missing = match &error {
            Error::StageLost { node, layers } => Some(Box::new(json!({
                "node": node.to_string(),
                "layers": [layers.start(), layers.end()],
            }))),
            _ => None,
        };
        let retry_after_s = match &error {
            Error::Overloaded { retry_after, .. } => retry_after.as_secs(),
            _ => RETRY_AFTER_S,
        };
        let param = param.map(str::to_owned);
        Self { status, message, param, code, missing, retry_after_s }
    }
}

type Meaning = (StatusCode, Option<&'static str>, Option<&'static str>);

const NOT_FOUND: Meaning = (StatusCode::NOT_FOUND, Some("model_not_found"), Some("model"));
const UNUSABLE: Meaning = (StatusCode::BAD_REQUEST, Some("model_unusable"), Some("model"));
const BUSY: Meaning = (StatusCode::CONFLICT, Some("model_in_use"), Some("model"));
const DISK_FULL: Meaning = (StatusCode::INSUFFICIENT_STORAGE, Some("disk_full"), None);
const OURS: Meaning = (StatusCode::INTERNAL_SERVER_ERROR, Some("internal_error"), None);

fn of_name(error: &NameError) -> Meaning {
    match error {
        NameError::Reference(_) | NameError::NoFile { .. } => NOT_FOUND,
        NameError::Hub { source, .. } => of_hub(source),
        NameError::Pick { .. } => UNUSABLE,
        NameError::Damaged { .. } => (StatusCode::CONFLICT, Some("model_damaged"), Some("model")),
    }
}

fn of_library(error: &LibraryError) -> Meaning {
    match error {
        LibraryError::Hub(error) => of_hub(error),
        LibraryError::Store(error) => of_store(error),
        LibraryError::Partial(error) => of_partial(error),
        LibraryError::Shared(error) => of_library(error),
        LibraryError::Download { source, .. } => match &**source {
            DownloadError::Hub { source, .. } => of_hub(source),
            DownloadError::Disk(error) => of_partial(error),
            DownloadError::NoSource { .. } | DownloadError::Corrupt { .. } => {
                (StatusCode::BAD_GATEWAY, Some("hub_failed"), None)
            }
        },
        LibraryError::Header { .. } | LibraryError::Unusable { .. } => UNUSABLE,
        LibraryError::Stopped { .. } => (StatusCode::CONFLICT, Some("download_stopped"), None),
        LibraryError::NoDownload { .. } => {
            (StatusCode::NOT_FOUND, Some("download_not_found"), Some("model"))
        }
    }
}

fn of_hub(error: &HubError) -> Meaning {
    match error {
        HubError::Gated { .. } | HubError::TokenRefused { .. } => {
            (StatusCode::FORBIDDEN, Some("model_gated"), Some("model"))
        }
        HubError::RepoNotFound { .. }
        | HubError::RevisionNotFound { .. }
        | HubError::FileNotFound { .. }
        | HubError::BadName { .. }
        | HubError::BadUrl { .. } => NOT_FOUND,
        _ => (StatusCode::BAD_GATEWAY, Some("hub_failed"), None),
    }
}

fn of_store(error: &StoreError) -> Meaning {
    match error {
        StoreError::Full { .. } => DISK_FULL,
        StoreError::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
            DISK_FULL
        }
        StoreError::Io { .. } => OURS,
        StoreError::Busy { .. } => BUSY,
        StoreError::Unknown { .. } => NOT_FOUND,
        StoreError::OtherVersion { .. } => {
            (StatusCode::CONFLICT, Some("model_other_version"), Some("model"))
        }
        StoreError::Foreign { .. } => (StatusCode::CONFLICT, Some("model_foreign"), Some("model")),
        StoreError::Invalid { .. } | StoreError::NoModel { .. } => UNUSABLE,
        StoreError::Damaged { .. } => (StatusCode::CONFLICT, Some("model_damaged"), Some("model")),
        StoreError::Partial(error) => of_partial(error),
    }
}

fn of_partial(error: &PartialError) -> Meaning {
    match error {
        PartialError::Full { .. } => DISK_FULL,
        PartialError::Busy { .. } => BUSY,
        PartialError::Io { .. } => OURS,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use shoal_proto::{InstanceId, LayerRange, NodeId};

    use super::*;

    #[track_caller]
    fn check(error: Error, status: u16, code: Option<&str>, param: Option<&str>) {
        let shown = error.to_string();
        let got = ApiError::from(error);
        assert_eq!(got.status.as_u16(), status, "{shown}");
        assert_eq!(got.code, code, "{shown}");
        assert_eq!(got.param.as_deref(), param, "{shown}");
        assert!(got.message.starts_with(&shown), "{} in {shown}", got.message);
    }

    #[test]
    fn each_failure_of_the_node_has_its_status() {
        let node = NodeId([7; 32]);
        let layers = LayerRange::new(2, 4).expect("not empty");
        let unknown = Error::UnknownModel { name: "gpt-4".into(), known: vec!["demo".into()] };
        check(unknown, 404, Some("model_not_found"), Some("model"));
        let parameter = Error::InvalidParameter { name: "top_p".into(), message: "no".into() };
        check(parameter, 400, None, Some("top_p"));
        let full = Error::ContextFull { n_prompt: 9, n_ctx: 8 };
        check(full, 400, Some("context_length_exceeded"), Some("messages"));
        let lost = Error::StageLost { node, layers };
        check(lost, 503, Some("node_lost"), None);
        let silent = Error::StageSilent { after: Duration::from_secs(9) };
        check(silent, 503, Some("node_lost"), None);
        let refused = Error::LoadRefused { node, message: "no memory".into() };
        check(refused, 409, Some("cluster_refused"), None);
        let instance = Error::UnknownInstance { id: InstanceId(10) };
        check(instance, 404, Some("instance_not_found"), Some("id"));
        check(Error::Offline, 409, Some("offline"), None);
        check(Error::SettingFixed { name: "auto" }, 409, Some("setting_fixed"), Some("auto"));
        let in_use = Error::InUse { name: "m".into(), instance: InstanceId(10) };
        check(in_use, 409, Some("model_in_use"), Some("model"));
        check(Error::NoLibrary { name: "m".into() }, 409, Some("no_models_dir"), None);
        let failed = Error::StageFailed { message: "it broke".into() };
        check(failed, 500, Some("internal_error"), None);
    }

    #[test]
    fn each_failure_of_the_library_has_its_status() {
        use shoal_node::hub::{ReferenceError, Unreachable};

        let about = Some("model");
        let library = |error: LibraryError| Error::from(error);
        let (repo, endpoint) = ("owner/name".to_owned(), "https://hub.example".to_owned());
        let gated = HubError::Gated { repo, endpoint, token_sent: false };
        check(library(gated.into()), 403, Some("model_gated"), about);
        let (host, why) = ("hub.example".to_owned(), Unreachable::Refused);
        let unreachable = HubError::Unreachable { host, why, source: None };
        let source = DownloadError::Hub { file: "m.gguf".into(), source: unreachable };
        let download = LibraryError::Download { name: "m".into(), source: source.into() };
        check(library(download), 502, Some("hub_failed"), None);
        let full = StoreError::Full { needed: 2, free: 1, reserve: 0, dir: "models".into() };
        check(library(full.into()), 507, Some("disk_full"), None);
        let shared = LibraryError::Shared(std::sync::Arc::new(
            PartialError::Full { path: "m.part".into() }.into(),
        ));
        check(library(shared), 507, Some("disk_full"), None);
        let unknown = StoreError::Unknown { name: "m".into() };
        check(library(unknown.into()), 404, Some("model_not_found"), about);
        let foreign = StoreError::Foreign { name: "m".into(), owner: "Ollama" };
        check(library(foreign.into()), 409, Some("model_foreign"), about);
        let none = LibraryError::NoDownload { name: "m".into() };
        check(library(none), 404, Some("download_not_found"), about);
        let unusable = LibraryError::Unusable { name: "m".into(), message: "qwen9".into() };
        check(library(unusable), 400, Some("model_unusable"), about);
        let suggestions = vec!["qwen2.5:0.5b".to_owned()];
        let name = ReferenceError::Unknown { text: "qwen2.5:0.5".into(), suggestions };
        check(NameError::from(name).into(), 404, Some("model_not_found"), about);
    }

    #[test]
    fn causes_are_told() {
        let source = std::sync::Arc::new(std::io::Error::other("the disk is gone"));
        let error = ApiError::from(Error::Model { name: "x.gguf".into(), source });
        assert_eq!(error.message, "model x.gguf cannot be used: the disk is gone");
    }
}
