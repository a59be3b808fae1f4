//! How chats are shown.

use std::collections::HashSet;

use serde_json::{Map, Value, json};
use shoal_node::{
    chats::{ChatSummary, in_order},
    proto::{
        NodeId,
        chat::{Chat, ChatId, Message, MessageId, Progress, Role},
    },
};

use crate::backend::Backend;

/// The nodes that may still write what they have begun.
pub(super) struct Alive(HashSet<NodeId>);

impl Alive {
    pub(super) fn of<B: Backend>(backend: &B) -> Self {
        let nodes = backend.nodes().into_iter().filter(|node| node.liveness != "dead");
        Self(nodes.map(|node| node.record.id).chain([backend.id()]).collect())
    }

    /// How far a message is. What a node that is gone has begun does not go on.
    fn progress(&self, message: &Message) -> Progress {
        match message.progress {
            Progress::Running if !self.0.contains(&message.writer) => Progress::Interrupted,
            progress => progress,
        }
    }
}

/// An object that was kept as text.
fn object(text: &str) -> Map<String, Value> {
    serde_json::from_str(text).unwrap_or_default()
}

pub(super) fn summary_view(chat: &ChatSummary, snippet: Option<&str>) -> Value {
    json!({
        "id": chat.id.to_string(),
        "title": chat.title,
        "preview": chat.preview,
        "model": chat.model,
        "created_ms": chat.created_ms,
        "changed_ms": chat.changed_ms,
        "n_messages": chat.n_messages,
        "n_bytes": chat.n_bytes,
        "origin": chat.origin.to_string(),
        "version": format!("{:016x}", chat.version),
        "snippet": snippet,
    })
}

/// A chat without its messages.
pub(super) fn head_view(id: ChatId, chat: &Chat, version: u64) -> Value {
    let head = &chat.head;
    json!({
        "id": id.to_string(),
        "title": head.title.value,
        "model": head.model.value,
        "system": head.system.value,
        "parameters": object(&head.parameters.value),
        "leaf": head.leaf.value.map(|leaf| leaf.to_string()),
        "created_ms": head.created.0,
        "changed_ms": head.changed_ms,
        "origin": head.created.1.to_string(),
        "version": format!("{version:016x}"),
    })
}

pub(super) fn chat_view(id: ChatId, chat: &Chat, version: u64, alive: &Alive) -> Value {
    let mut view = head_view(id, chat, version);
    let messages = in_order(chat).into_iter();
    let messages = messages.map(|(id, message)| message_view(id, message, alive));
    view["messages"] = messages.collect();
    view
}

pub(super) fn message_view(id: MessageId, message: &Message, alive: &Alive) -> Value {
    let mut meta = object(&message.meta);
    meta.insert("state".to_owned(), json!(alive.progress(message).as_str()));
    json!({
        "id": id.to_string(),
        "parent": message.parent.map(|parent| parent.to_string()),
        "role": message.role.as_str(),
        "text": message.text,
        "created_ms": message.created_ms,
        "meta": meta,
    })
}

/// The shown conversation as Markdown.
pub(super) fn markdown(chat: &Chat) -> String {
    let title = chat.head.title.value.replace(['\n', '\r'], " ");
    let title = if title.trim().is_empty() { "Chat" } else { title.trim() };
    let mut text = format!("# {title}\n");
    let mut section = |heading: &str, body: &str| {
        text.push_str(&format!("\n## {heading}\n\n{}\n", body.trim_end()));
    };
    if !chat.head.system.value.trim().is_empty() {
        section("System", &chat.head.system.value);
    }
    for message in shoal_node::chats::shown(chat) {
        let heading = match message.role {
            Role::User => "User",
            Role::Assistant => "Assistant",
            Role::System => "System",
        };
        section(heading, &message.text);
    }
    text
}
