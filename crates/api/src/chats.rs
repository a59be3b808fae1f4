//! Routes about chats: `/chats`, `/chats/{id}`, their messages, export and import.
//!
//! A chat is kept by the node, and by every other device of the cluster. Ids are 32 hexadecimal digits that the client may
//! choose, so that a request which is sent again does nothing twice.

mod export;
mod view;

use axum::{
    Json,
    extract::{Path, Query, State, rejection::QueryRejection},
};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};
use shoal_node::{
    chats::{ChatChange, ChatQuery, ChatsError, NewChat, NewMessage},
    proto::chat::{ChatId, ParseIdError, Progress, Role},
};

use crate::{App, backend::Backend, body::JsonBody, error::ApiError};

pub(crate) use export::{IMPORT_BYTES_MAX, export_all, export_one, import};
use view::{Alive, chat_view, head_view, message_view, summary_view};

/// Chats of a page unless the client says how many.
const CHATS_DEFAULT: usize = 50;
/// Most chats of a page.
const CHATS_MAX: usize = 200;
/// Longest search.
const QUERY_BYTES_MAX: usize = 1024;

/// The query of `GET /chats`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListQuery {
    query: Option<String>,
    limit: Option<usize>,
    before: Option<String>,
}

pub(crate) async fn list<B: Backend>(
    State(app): State<App<B>>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<Value>, ApiError> {
    let Query(query) = query.map_err(|rejection| ApiError::malformed(rejection.body_text()))?;
    let limit = query.limit.unwrap_or(CHATS_DEFAULT);
    if !(1..=CHATS_MAX).contains(&limit) {
        let message = format!("expected 1 to {CHATS_MAX}, got {limit}");
        return Err(ApiError::invalid("limit", message));
    }
    let words = query.query.unwrap_or_default();
    if words.len() > QUERY_BYTES_MAX {
        let message = format!("expected at most {QUERY_BYTES_MAX} bytes, got {}", words.len());
        return Err(ApiError::invalid("query", message));
    }
    let before = query.before.as_deref().map(read_cursor).transpose()?;
    let page = app.backend.chats().list(ChatQuery { words, before, limit }).await?;
    let chats = page.chats.iter().map(|(chat, snippet)| summary_view(chat, snippet.as_deref()));
    let chats: Vec<Value> = chats.collect();
    let next = page.next.map(|(changed_ms, id)| format!("{changed_ms}-{id}"));
    Ok(Json(json!({"chats": chats, "next": next, "n_total": page.n_total})))
}

fn read_cursor(text: &str) -> Result<(u64, ChatId), ApiError> {
    let parts = text.split_once('-');
    let cursor = parts.and_then(|(ms, id)| Some((ms.parse().ok()?, id.parse().ok()?)));
    cursor.ok_or_else(|| ApiError::invalid("before", "expected what `next` was"))
}

/// The body of `POST /chats`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ChatBody {
    id: Option<String>,
    title: String,
    model: String,
    system: String,
    parameters: Map<String, Value>,
}

pub(crate) async fn create<B: Backend>(
    State(app): State<App<B>>,
    JsonBody(body): JsonBody<ChatBody>,
) -> Result<Json<Value>, ApiError> {
    let new = NewChat {
        id: body.id.map(|id| read_id("id", &id)).transpose()?,
        title: body.title,
        model: body.model,
        system: body.system,
        parameters: json!(body.parameters).to_string(),
    };
    let (id, chat, version) = app.backend.chats().create(new).await?;
    Ok(Json(chat_view(id, &chat, version, &Alive::of(&app.backend))))
}

pub(crate) async fn show<B: Backend>(
    State(app): State<App<B>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let id = chat_of(&id)?;
    let (chat, version) = app.backend.chats().get(id).await?;
    Ok(Json(chat_view(id, &chat, version, &Alive::of(&app.backend))))
}

/// The body of `PATCH /chats/{id}`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ChangeBody {
    title: Option<String>,
    model: Option<String>,
    system: Option<String>,
    parameters: Option<Map<String, Value>>,
    #[serde(deserialize_with = "some")]
    leaf: Option<Option<String>>,
}

/// Tells a `null` from a field that is not there.
fn some<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

pub(crate) async fn change<B: Backend>(
    State(app): State<App<B>>,
    Path(id): Path<String>,
    JsonBody(body): JsonBody<ChangeBody>,
) -> Result<Json<Value>, ApiError> {
    let id = chat_of(&id)?;
    let leaf = match body.leaf {
        Some(Some(leaf)) => Some(Some(read_id("leaf", &leaf)?)),
        Some(None) => Some(None),
        None => None,
    };
    let change = ChatChange {
        title: body.title,
        model: body.model,
        system: body.system,
        parameters: body.parameters.map(|parameters| json!(parameters).to_string()),
        leaf,
    };
    let (chat, version) = app.backend.chats().change(id, change).await?;
    Ok(Json(head_view(id, &chat, version)))
}

pub(crate) async fn remove<B: Backend>(
    State(app): State<App<B>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let id = chat_of(&id)?;
    app.backend.chats().delete(id).await?;
    Ok(Json(json!({"id": id.to_string(), "deleted": true})))
}

/// The body of `POST /chats/{id}/messages`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MessageBody {
    id: Option<String>,
    /// Has to be there, so that nobody begins a conversation anew by leaving it out.
    #[serde(deserialize_with = "Option::deserialize")]
    parent: Option<String>,
    role: RoleName,
    text: String,
    #[serde(default)]
    meta: Map<String, Value>,
    select: Option<bool>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RoleName {
    User,
    Assistant,
    System,
}

impl From<RoleName> for Role {
    fn from(role: RoleName) -> Self {
        match role {
            RoleName::User => Self::User,
            RoleName::Assistant => Self::Assistant,
            RoleName::System => Self::System,
        }
    }
}

pub(crate) async fn append<B: Backend>(
    State(app): State<App<B>>,
    Path(id): Path<String>,
    JsonBody(body): JsonBody<MessageBody>,
) -> Result<Json<Value>, ApiError> {
    let message = NewMessage {
        id: body.id.map(|id| read_id("id", &id)).transpose()?,
        parent: body.parent.map(|id| read_id("parent", &id)).transpose()?,
        role: body.role.into(),
        text: body.text,
        progress: Progress::Done,
        meta: json!(body.meta).to_string(),
        is_selected: body.select.unwrap_or(true),
    };
    let (id, message) = app.backend.chats().append(chat_of(&id)?, message).await?;
    Ok(Json(message_view(id, &message, &Alive::of(&app.backend))))
}

/// Reads the id of a field or of a path.
pub(crate) fn read_id<T: std::str::FromStr<Err = ParseIdError>>(
    param: &str,
    text: &str,
) -> Result<T, ApiError> {
    text.parse().map_err(|error: ParseIdError| ApiError::invalid(param, error))
}

fn chat_of(text: &str) -> Result<ChatId, ApiError> {
    text.parse().map_err(|_| {
        ApiError::not_found("chat_not_found", "no chat of that id is kept here".to_owned())
    })
}

impl From<ChatsError> for ApiError {
    fn from(error: ChatsError) -> Self {
        let message = shoal_node::chain(&error);
        match error {
            ChatsError::UnknownChat { .. } => Self::not_found("chat_not_found", message),
            ChatsError::UnknownMessage { field, id } => {
                Self::invalid(field, format!("the chat has no message {id}"))
            }
            ChatsError::MessageExists { .. } => Self::conflict("message_exists", message),
            ChatsError::TooLong { field: "text", .. } | ChatsError::ChatFull => {
                Self::full("chat_full", message)
            }
            ChatsError::TooLong { field, max, got } => {
                Self::invalid(field, format!("expected at most {max} bytes, got {got}"))
            }
            ChatsError::NoTree { .. } => Self::invalid("messages", message),
            ChatsError::TooMany => Self::no_room("chats_full", message),
            ChatsError::Disk { .. } => Self::no_room("chats_not_written", message),
            _ => Self::ours(message),
        }
    }
}
