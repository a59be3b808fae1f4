//! The chats of the cluster, of which every device keeps a copy.
//!
//! [`Chats`] is a clonable handle. What a chat is and how two copies of it become one is [`shoal_proto::chat`]; here they are
//! kept and found, and exchanged with the peers. The text of a chat is never logged.
//!
//! - `store`: one file per chat, and an index of them in memory
//! - `change`: what people and answers do to a chat
//! - `find`: the list, and the search in it
//! - `exchange`: with the peers

mod change;
pub(crate) mod exchange;
mod find;
mod store;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    io,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use shoal_proto::{
    NodeId,
    chat::{Chat, ChatId, Entry, Message, MessageId, Progress, Role},
};
use tokio::sync::watch;

pub use change::{in_order, shown};
use store::Store;

/// Most bytes of a message's text.
pub const TEXT_BYTES_MAX: usize = 1 << 20;
/// Most bytes of a chat to which something is added.
pub const CHAT_BYTES_MAX: usize = 8 << 20;
/// Most messages of a chat to which one is added.
pub const MESSAGES_MAX: usize = 4096;
/// Most chats of a node that makes another one.
pub const CHATS_MAX: usize = 10_000;
/// Longest title and longest name of a model.
const NAME_BYTES_MAX: usize = 1024;
/// Longest system prompt.
const SYSTEM_BYTES_MAX: usize = 256 * 1024;
/// Most bytes of a chat's parameters.
const PARAMETERS_BYTES_MAX: usize = 16 * 1024;
/// Most bytes of what is known about a message.
const META_BYTES_MAX: usize = 64 * 1024;
/// How long it is remembered that a chat was deleted: who was away for longer brings it back.
const DELETED_FOR: Duration = Duration::from_secs(30 * 24 * 3600);

/// What can go wrong with chats.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ChatsError {
    /// There is no such chat, or no more.
    #[error("no chat {id} is kept here")]
    UnknownChat {
        /// The chat.
        id: ChatId,
    },
    /// The chat has no such message.
    #[error("{field}: the chat has no message {id}")]
    UnknownMessage {
        /// What names it.
        field: &'static str,
        /// The message.
        id: MessageId,
    },
    /// Another message has this id.
    #[error("the chat has another message {id}")]
    MessageExists {
        /// The message.
        id: MessageId,
    },
    /// Something of a chat is too long.
    #[error("{field}: expected at most {max} bytes, got {got}")]
    TooLong {
        /// What.
        field: &'static str,
        /// The longest that it may be.
        max: usize,
        /// Its length.
        got: usize,
    },
    /// The chat is as large as chats become.
    #[error("the chat is full: it may have {CHAT_BYTES_MAX} bytes and {MESSAGES_MAX} messages")]
    ChatFull,
    /// There are as many chats as may be.
    #[error("expected at most {CHATS_MAX} chats: delete some")]
    TooMany,
    /// Messages whose parents lead nowhere.
    #[error("messages: the parents of {n} of them lead to no beginning")]
    NoTree {
        /// How many.
        n: usize,
    },
    /// The disk does not do as it is told.
    #[error("chat {id}: not kept on disk")]
    Disk {
        /// The chat.
        id: ChatId,
        /// What the system says.
        source: Arc<io::Error>,
    },
    /// The file of a chat is damaged.
    #[error("chat {id}: its file cannot be read")]
    Damaged {
        /// The chat.
        id: ChatId,
        /// What is wrong with it.
        source: shoal_proto::chat::ChatError,
    },
    /// The system gives no random bits, or the node is ending.
    #[error("{message}")]
    System {
        /// What happened.
        message: String,
    },
}

/// A chat in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatSummary {
    /// The chat.
    pub id: ChatId,
    /// Its title; may be empty.
    pub title: String,
    /// How its first message of a person begins.
    pub preview: String,
    /// The model that it is held with.
    pub model: String,
    /// When it was created, in milliseconds since 1970.
    pub created_ms: u64,
    /// When it was changed last.
    pub changed_ms: u64,
    /// Its messages.
    pub n_messages: usize,
    /// Its size on disk.
    pub n_bytes: usize,
    /// The node where it was created.
    pub origin: NodeId,
    /// Changes with every change.
    pub version: u64,
}

/// Which chats are wanted.
#[derive(Debug, Clone, Default)]
pub struct ChatQuery {
    /// Words that all have to be in its title or its texts.
    pub words: String,
    /// Only those after this one: what [`ChatPage::next`] was.
    pub before: Option<(u64, ChatId)>,
    /// Most of them.
    pub limit: usize,
}

/// Some chats, those that were changed last first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChatPage {
    /// The chats, each with the text around what was searched for.
    pub chats: Vec<(ChatSummary, Option<String>)>,
    /// Where the next page begins, if there is one.
    pub next: Option<(u64, ChatId)>,
    /// All chats that are kept.
    pub n_total: usize,
}

/// A chat that is to be.
#[derive(Debug, Clone, Default)]
pub struct NewChat {
    /// Its id; `None` for a random one.
    pub id: Option<ChatId>,
    /// Its title.
    pub title: String,
    /// The model.
    pub model: String,
    /// The system prompt.
    pub system: String,
    /// A JSON object.
    pub parameters: String,
}

/// What is to change of a chat; `None` stays.
#[derive(Debug, Clone, Default)]
pub struct ChatChange {
    /// Its title.
    pub title: Option<String>,
    /// The model.
    pub model: Option<String>,
    /// The system prompt.
    pub system: Option<String>,
    /// A JSON object.
    pub parameters: Option<String>,
    /// The message that the shown conversation ends with.
    pub leaf: Option<Option<MessageId>>,
}

/// A message that is to be.
#[derive(Debug, Clone)]
pub struct NewMessage {
    /// Its id; `None` for a random one.
    pub id: Option<MessageId>,
    /// The message that it follows.
    pub parent: Option<MessageId>,
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub text: String,
    /// How far it is.
    pub progress: Progress,
    /// A JSON object.
    pub meta: String,
    /// Whether the shown conversation ends with it.
    pub is_selected: bool,
}

/// A chat that comes from a file.
#[derive(Debug, Clone, Default)]
pub struct ImportedChat {
    /// All but what follows.
    pub chat: NewChat,
    /// The message that the shown conversation ends with.
    pub leaf: Option<MessageId>,
    /// When it was created, in milliseconds since 1970, and when it was changed last.
    pub times_ms: (u64, u64),
    /// Its messages, each with the time when it was added.
    pub messages: BTreeMap<MessageId, (u64, NewMessage)>,
}

/// A chat that has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangedChat {
    /// The chat.
    pub id: ChatId,
    /// Its title.
    pub title: String,
    /// When it was changed last, in milliseconds since 1970.
    pub changed_ms: u64,
    /// Whether it is there no more.
    pub is_deleted: bool,
}

/// The chats that a node keeps.
#[derive(Debug, Clone)]
pub struct Chats {
    store: Arc<Store>,
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

impl Chats {
    /// Chats that end with the process.
    pub fn in_memory(own: NodeId) -> Self {
        Self { store: Arc::new(Store::in_memory(own)) }
    }

    /// Opens the chats in the directory of a node's data. What cannot be read is set aside. Blocks.
    pub(crate) fn open(dir: &Path, own: NodeId) -> Self {
        Self { store: Arc::new(Store::open(dir, own)) }
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, ChatsError> + Send + 'static,
    ) -> Result<T, ChatsError> {
        let store = Arc::clone(&self.store);
        let done = tokio::task::spawn_blocking(move || work(&store)).await;
        done.unwrap_or_else(|error| Err(ChatsError::System { message: error.to_string() }))
    }

    /// The chats, or those that have certain words in them.
    ///
    /// # Errors
    /// If the node is ending.
    pub async fn list(&self, query: ChatQuery) -> Result<ChatPage, ChatsError> {
        self.run(move |store| Ok(store.list(&query))).await
    }

    /// A chat.
    ///
    /// # Errors
    /// If there is no such chat, or it cannot be read.
    pub async fn get(&self, id: ChatId) -> Result<(Chat, u64), ChatsError> {
        self.run(move |store| store.get(id)).await
    }

    /// Makes a chat; where one of its id is, that one is returned as it is.
    ///
    /// # Errors
    /// If something of it is too long, there are too many, or the disk refuses.
    pub async fn create(&self, chat: NewChat) -> Result<(ChatId, Chat, u64), ChatsError> {
        self.run(move |store| store.create(chat)).await
    }

    /// Changes a chat.
    ///
    /// # Errors
    /// If there is no such chat or leaf, something is too long, or the disk refuses.
    pub async fn change(&self, id: ChatId, change: ChatChange) -> Result<(Chat, u64), ChatsError> {
        self.run(move |store| store.change(id, change)).await
    }

    /// Adds a message; where the same one is already, it is returned as it is.
    ///
    /// # Errors
    /// If there is no such chat or parent, another message has this id, the chat is full, or the disk refuses.
    pub async fn append(
        &self,
        id: ChatId,
        message: NewMessage,
    ) -> Result<(MessageId, Message), ChatsError> {
        self.run(move |store| store.append(id, message)).await
    }

    /// Whether an answer could be added, without adding it.
    ///
    /// # Errors
    /// As with [`append`](Self::append), and also where the same message is already.
    pub async fn check_answer(
        &self,
        id: ChatId,
        message: MessageId,
        parent: Option<MessageId>,
    ) -> Result<(), ChatsError> {
        self.run(move |store| store.check_answer(id, message, parent)).await
    }

    /// Writes what an answer, which this node has added, has become. One that is deleted meanwhile is no error.
    ///
    /// # Errors
    /// If there is no such message, or the disk refuses.
    pub async fn update_answer(
        &self,
        id: ChatId,
        message: MessageId,
        text: String,
        progress: Progress,
        meta: String,
    ) -> Result<(), ChatsError> {
        self.run(move |store| store.update_answer(id, message, text, progress, meta)).await
    }

    /// Deletes a chat everywhere. One that is deleted already is no error.
    ///
    /// # Errors
    /// If there was no such chat, or the disk refuses.
    pub async fn delete(&self, id: ChatId) -> Result<(), ChatsError> {
        self.run(move |store| store.delete(id)).await
    }

    /// Takes in a chat from a file: a new one, or what an old one lacks. Returns its id, which is another one if that was
    /// deleted here, its title, and whether it was here.
    ///
    /// # Errors
    /// If its messages are no tree, it is too large, there are too many, or the disk refuses.
    pub async fn import(&self, chat: ImportedChat) -> Result<(ChatId, String, bool), ChatsError> {
        self.run(move |store| store.import(chat)).await
    }

    /// All chats that are kept, in no particular order.
    pub fn ids(&self) -> Vec<ChatId> {
        self.store.ids()
    }

    /// Ticks whenever a chat changes.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.store.changes()
    }

    /// The number of the latest change, and the chats that have changed since the one of a number; `None` if there were too
    /// many to remember.
    pub fn changed_since(&self, number: u64) -> (u64, Option<Vec<ChangedChat>>) {
        self.store.changed_since(number)
    }

    /// Forgets the chats that were not created here: this node belongs to another cluster now.
    pub(crate) async fn part(&self) {
        let _ = self
            .run(|store| {
                store.part();
                Ok(())
            })
            .await;
    }
}

fn check_length(field: &'static str, got: usize, max: usize) -> Result<(), ChatsError> {
    if got > max { Err(ChatsError::TooLong { field, max, got }) } else { Ok(()) }
}

fn random_id() -> Result<[u8; 16], ChatsError> {
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(|error| ChatsError::System { message: error.to_string() })?;
    Ok(id)
}

/// Whether it was deleted so long ago that nobody need know.
fn is_expired(entry: &Entry, now_ms: u64) -> bool {
    let kept_ms = u64::try_from(DELETED_FOR.as_millis()).unwrap_or(u64::MAX);
    matches!(entry, Entry::Deleted { at_ms, .. } if at_ms.saturating_add(kept_ms) < now_ms)
}
