//! Chats as files: `GET /chats/export`, `GET /chats/{id}/export`, `POST /chats/import`.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    time::{SystemTime, UNIX_EPOCH},
};

use axum::{
    Json,
    body::Body,
    extract::{Path, Query, State, rejection::QueryRejection},
    http::{HeaderName, HeaderValue, header},
    response::{IntoResponse, Response},
};
use futures_util::stream;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use shoal_node::{
    chats::{Chats, ImportedChat, NewChat, NewMessage},
    proto::chat::{ChatId, MessageId, Progress},
};

use super::{
    RoleName, chat_of, read_id,
    view::{Alive, chat_view, markdown},
};
use crate::{App, backend::Backend, body::JsonBody, error::ApiError};

/// Largest file that is taken in.
pub(crate) const IMPORT_BYTES_MAX: usize = 32 << 20;

fn begin() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{{\"shoal_chats\":1,\"exported_ms\":{},\"chats\":[", now.as_millis())
}

fn attachment(content_type: &'static str, name: &str, body: Body) -> Response {
    let disposition = HeaderValue::from_str(&format!("attachment; filename=\"{name}\""));
    let headers: [(HeaderName, HeaderValue); 2] = [
        (header::CONTENT_TYPE, HeaderValue::from_static(content_type)),
        (
            header::CONTENT_DISPOSITION,
            disposition.unwrap_or(HeaderValue::from_static("attachment")),
        ),
    ];
    (headers, body).into_response()
}

/// A file of all chats, made as it is read: they may be more than a device has memory for.
pub(crate) async fn export_all<B: Backend>(State(app): State<App<B>>) -> Response {
    let alive = Alive::of(&app.backend);
    let chats = app.backend.chats().clone();
    let ids = chats.ids().into_iter();
    let parts = stream::unfold(Some((ids, chats, alive, true)), |state| async move {
        let (mut ids, chats, alive, is_first) = state?;
        let begin = if is_first { begin() } else { String::new() };
        // One that is deleted meanwhile is left out.
        while let Some(id) = ids.next() {
            if let Some(chat) = view_of(&chats, id, &alive).await {
                let comma = if is_first { "" } else { "," };
                let text = format!("{begin}{comma}{chat}");
                return Some((Ok::<_, Infallible>(text), Some((ids, chats, alive, false))));
            }
        }
        Some((Ok(format!("{begin}]}}")), None))
    });
    attachment("application/json", "shoal-chats.json", Body::from_stream(parts))
}

async fn view_of(chats: &Chats, id: ChatId, alive: &Alive) -> Option<Value> {
    let (chat, version) = chats.get(id).await.ok()?;
    Some(chat_view(id, &chat, version, alive))
}

/// The query of `GET /chats/{id}/export`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExportQuery {
    #[serde(default)]
    format: Format,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Format {
    #[default]
    Json,
    Md,
}

pub(crate) async fn export_one<B: Backend>(
    State(app): State<App<B>>,
    Path(id): Path<String>,
    query: Result<Query<ExportQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(query) = query.map_err(|rejection| ApiError::malformed(rejection.body_text()))?;
    let id = chat_of(&id)?;
    let (chat, version) = app.backend.chats().get(id).await?;
    Ok(match query.format {
        Format::Json => {
            let chat = chat_view(id, &chat, version, &Alive::of(&app.backend));
            let text = format!("{}{chat}]}}", begin());
            attachment("application/json", &format!("{id}.json"), text.into())
        }
        Format::Md => {
            let text = markdown(&chat);
            attachment("text/markdown; charset=utf-8", &format!("{id}.md"), text.into())
        }
    })
}

/// A chat of a file. What this version does not know of it is left.
#[derive(Debug, Deserialize)]
struct ChatFile {
    id: Option<String>,
    #[serde(default)]
    title: String,
    #[serde(default)]
    model: String,
    #[serde(default)]
    system: String,
    #[serde(default)]
    parameters: Map<String, Value>,
    leaf: Option<String>,
    #[serde(default)]
    created_ms: u64,
    #[serde(default)]
    changed_ms: u64,
    messages: Vec<MessageFile>,
}

#[derive(Debug, Deserialize)]
struct MessageFile {
    id: String,
    parent: Option<String>,
    role: RoleName,
    text: String,
    #[serde(default)]
    created_ms: u64,
    #[serde(default)]
    meta: Map<String, Value>,
}

pub(crate) async fn import<B: Backend>(
    State(app): State<App<B>>,
    JsonBody(mut file): JsonBody<Map<String, Value>>,
) -> Result<Json<Value>, ApiError> {
    let chats = match file.remove("chats") {
        Some(Value::Array(chats)) => chats,
        Some(_) => return Err(ApiError::invalid("chats", "expected a list")),
        None if file.contains_key("messages") => vec![Value::Object(file)],
        None => return Err(ApiError::malformed("expected a file of chats, or one chat")),
    };
    let (mut imported, mut refused) = (Vec::new(), Vec::new());
    for (index, chat) in chats.into_iter().enumerate() {
        match import_one(app.backend.chats(), chat).await {
            Ok(chat) => imported.push(chat),
            Err(error) => {
                let message = error.to_json()["error"]["message"].take();
                refused.push(json!({"index": index, "message": message}));
            }
        }
    }
    Ok(Json(json!({"imported": imported, "refused": refused})))
}

async fn import_one(chats: &Chats, chat: Value) -> Result<Value, ApiError> {
    let file: ChatFile = serde_json::from_value(chat)
        .map_err(|error| ApiError::malformed(format!("the chat does not fit: {error}")))?;
    let mut messages = BTreeMap::new();
    for message in file.messages {
        let id: MessageId = read_id("messages.id", &message.id)?;
        messages.insert(id, (message.created_ms, read_message(message)?));
    }
    let imported = ImportedChat {
        chat: NewChat {
            id: file.id.map(|id| read_id("id", &id)).transpose()?,
            title: file.title,
            model: file.model,
            system: file.system,
            parameters: json!(file.parameters).to_string(),
        },
        leaf: file.leaf.map(|leaf| read_id("leaf", &leaf)).transpose()?,
        times_ms: (file.created_ms, file.changed_ms),
        messages,
    };
    let (id, title, is_merged) = chats.import(imported).await?;
    Ok(json!({"id": id.to_string(), "title": title, "is_merged": is_merged}))
}

fn read_message(mut message: MessageFile) -> Result<NewMessage, ApiError> {
    let state = message.meta.remove("state");
    Ok(NewMessage {
        id: None,
        parent: message.parent.map(|id| read_id("messages.parent", &id)).transpose()?,
        role: message.role.into(),
        text: message.text,
        progress: match state.as_ref().and_then(Value::as_str) {
            Some("stopped") => Progress::Stopped,
            Some("failed") => Progress::Failed,
            // Nobody goes on with what a file holds the beginning of.
            Some("running" | "interrupted") => Progress::Interrupted,
            _ => Progress::Done,
        },
        meta: json!(message.meta).to_string(),
        is_selected: false,
    })
}
