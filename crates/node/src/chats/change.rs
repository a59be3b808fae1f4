//! What people, answers, files and peers do to a chat.

use std::collections::{BTreeMap, BTreeSet};

use shoal_proto::chat::{
    self, Chat, ChatId, Entry, Field, Head, Message, MessageId, Progress, Stamp,
};

use super::{
    CHAT_BYTES_MAX, CHATS_MAX, ChatChange, ChatsError, ImportedChat, MESSAGES_MAX, META_BYTES_MAX,
    NAME_BYTES_MAX, NewChat, NewMessage, PARAMETERS_BYTES_MAX, SYSTEM_BYTES_MAX, TEXT_BYTES_MAX,
    check_length, now_ms, random_id, store::Store,
};

impl Store {
    pub(super) fn get(&self, id: ChatId) -> Result<(Chat, u64), ChatsError> {
        let chat = self.read_live(id)?;
        let entry = Entry::Live(Box::new(chat));
        let version = chat::hash(&entry.encode());
        let Entry::Live(chat) = entry else { return Err(ChatsError::UnknownChat { id }) };
        Ok((*chat, version))
    }

    pub(super) fn create(&self, new: NewChat) -> Result<(ChatId, Chat, u64), ChatsError> {
        check_head(&new)?;
        let _alone = self.write();
        let id = self.free_id(new.id)?;
        if self.indexed(id).is_some() {
            let (chat, version) = self.get(id)?;
            return Ok((id, chat, version));
        }
        if self.summaries().len() >= CHATS_MAX {
            return Err(ChatsError::TooMany);
        }
        let now = now_ms();
        let chat = self.new_chat(new, now);
        let version = self.put(id, &Entry::Live(Box::new(chat.clone())))?;
        Ok((id, chat, version))
    }

    /// The id, unless a deleted chat had it, or a random one.
    fn free_id(&self, wanted: Option<ChatId>) -> Result<ChatId, ChatsError> {
        let was_deleted = |id| self.indexed(id).is_some_and(|it| it.summary.is_none());
        match wanted {
            Some(id) if !was_deleted(id) => Ok(id),
            _ => random_id().map(ChatId),
        }
    }

    fn new_chat(&self, new: NewChat, now: u64) -> Chat {
        let stamp = Stamp { counter: now, node: self.own };
        let field = |value| Field { stamp, value };
        let head = Head {
            created: (now, self.own),
            changed_ms: now,
            title: field(new.title),
            model: field(new.model),
            system: field(new.system),
            parameters: field(new.parameters),
            leaf: Field { stamp, value: None },
        };
        Chat { head, messages: BTreeMap::new() }
    }

    pub(super) fn change(&self, id: ChatId, change: ChatChange) -> Result<(Chat, u64), ChatsError> {
        let lengths = [
            ("title", &change.title, NAME_BYTES_MAX),
            ("model", &change.model, NAME_BYTES_MAX),
            ("system", &change.system, SYSTEM_BYTES_MAX),
            ("parameters", &change.parameters, PARAMETERS_BYTES_MAX),
        ];
        for (field, value, max) in lengths {
            check_length(field, value.as_ref().map_or(0, String::len), max)?;
        }
        let _alone = self.write();
        let mut chat = self.read_live(id)?;
        let before = chat.clone();
        let now = now_ms();
        let stamp = self.stamp(&chat.head, now);
        let head = &mut chat.head;
        set(&mut head.title, change.title, stamp);
        set(&mut head.model, change.model, stamp);
        set(&mut head.system, change.system, stamp);
        set(&mut head.parameters, change.parameters, stamp);
        if chat != before {
            chat.head.changed_ms = chat.head.changed_ms.max(now);
        }
        if let Some(leaf) = change.leaf {
            check_message(&chat, "leaf", leaf)?;
            // To look at another branch is no change that a list should be sorted by.
            set(&mut chat.head.leaf, Some(leaf), stamp);
        }
        if chat == before {
            return self.get(id);
        }
        let version = self.put(id, &Entry::Live(Box::new(chat.clone())))?;
        Ok((chat, version))
    }

    fn stamp(&self, head: &Head, now: u64) -> Stamp {
        Stamp { counter: now.max(head.counter().saturating_add(1)), node: self.own }
    }

    pub(super) fn append(
        &self,
        id: ChatId,
        new: NewMessage,
    ) -> Result<(MessageId, Message), ChatsError> {
        check_text(&new)?;
        let _alone = self.write();
        let mut chat = self.read_live(id)?;
        let message_id = new.id.map_or_else(|| random_id().map(MessageId), Ok)?;
        if let Some(known) = chat.messages.get(&message_id) {
            let is_same =
                (known.parent, known.role, &known.text) == (new.parent, new.role, &new.text);
            let known = known.clone();
            return if is_same {
                Ok((message_id, known))
            } else {
                Err(ChatsError::MessageExists { id: message_id })
            };
        }
        check_message(&chat, "parent", new.parent)?;
        let n_new = new.text.len() + new.meta.len();
        self.check_room(id, &chat, n_new)?;
        let now = now_ms();
        if new.is_selected {
            let stamp = self.stamp(&chat.head, now);
            set(&mut chat.head.leaf, Some(Some(message_id)), stamp);
        }
        chat.head.changed_ms = chat.head.changed_ms.max(now);
        let message = self.message(new, now);
        chat.messages.insert(message_id, message.clone());
        self.put(id, &Entry::Live(Box::new(chat)))?;
        Ok((message_id, message))
    }

    fn message(&self, new: NewMessage, created_ms: u64) -> Message {
        Message {
            revision: 0,
            progress: new.progress,
            parent: new.parent,
            role: new.role,
            text: new.text,
            created_ms,
            writer: self.own,
            meta: new.meta,
        }
    }

    fn check_room(&self, id: ChatId, chat: &Chat, n_new: usize) -> Result<(), ChatsError> {
        let n_bytes = self.indexed(id).and_then(|it| it.summary).map_or(0, |it| it.n_bytes);
        if chat.messages.len() >= MESSAGES_MAX || n_bytes.saturating_add(n_new) > CHAT_BYTES_MAX {
            return Err(ChatsError::ChatFull);
        }
        Ok(())
    }

    pub(super) fn check_answer(
        &self,
        id: ChatId,
        message: MessageId,
        parent: Option<MessageId>,
    ) -> Result<(), ChatsError> {
        let chat = self.read_live(id)?;
        if chat.messages.contains_key(&message) {
            return Err(ChatsError::MessageExists { id: message });
        }
        check_message(&chat, "parent", parent)?;
        self.check_room(id, &chat, 0)
    }

    pub(super) fn update_answer(
        &self,
        id: ChatId,
        message_id: MessageId,
        text: String,
        progress: Progress,
        meta: String,
    ) -> Result<(), ChatsError> {
        let _alone = self.write();
        let mut chat = match self.read_live(id) {
            Err(ChatsError::UnknownChat { .. }) => return Ok(()),
            chat => chat?,
        };
        let Some(message) = chat.messages.get_mut(&message_id) else {
            return Err(ChatsError::UnknownMessage { field: "message", id: message_id });
        };
        message.revision += 1;
        message.text = text;
        message.progress = progress;
        message.meta = meta;
        chat.head.changed_ms = chat.head.changed_ms.max(now_ms());
        // What has begun may be finished, even if the chat is full then.
        self.put(id, &Entry::Live(Box::new(chat))).map(drop)
    }

    pub(super) fn delete(&self, id: ChatId) -> Result<(), ChatsError> {
        let _alone = self.write();
        let Some(known) = self.indexed(id) else { return Err(ChatsError::UnknownChat { id }) };
        if known.summary.is_none() {
            return Ok(());
        }
        self.put(id, &Entry::Deleted { at_ms: now_ms(), origin: known.origin }).map(drop)
    }

    pub(super) fn import(&self, new: ImportedChat) -> Result<(ChatId, String, bool), ChatsError> {
        check_head(&new.chat)?;
        new.messages.values().try_for_each(|(_, message)| check_text(message))?;
        let _alone = self.write();
        let (now, wanted) = (now_ms(), new.chat.id);
        let known = match wanted.map(|id| self.read(id)).transpose()?.flatten() {
            Some(Entry::Live(chat)) => Some(*chat),
            _ => None,
        };
        let is_merged = known.is_some();
        let id = self.free_id(wanted)?;
        let mut chat = match known {
            Some(chat) => chat,
            None if self.summaries().len() >= CHATS_MAX => return Err(ChatsError::TooMany),
            None => {
                let mut chat = self.new_chat(new.chat, now);
                chat.head.created.0 = new.times_ms.0.min(now);
                chat.head.changed_ms = new.times_ms.1.min(now);
                chat.head.leaf.value = new.leaf;
                chat
            }
        };
        for (id, (created_ms, message)) in new.messages {
            let message = || self.message(message, created_ms.min(now));
            chat.messages.entry(id).or_insert_with(message);
        }
        check_tree(&chat)?;
        if chat.head.leaf.value.is_some_and(|leaf| !chat.messages.contains_key(&leaf)) {
            chat.head.leaf.value = None;
        }
        let entry = Entry::Live(Box::new(chat));
        let Entry::Live(chat) = &entry else { return Err(ChatsError::UnknownChat { id }) };
        if chat.messages.len() > MESSAGES_MAX || entry.encode().len() > CHAT_BYTES_MAX {
            return Err(ChatsError::ChatFull);
        }
        self.put(id, &entry)?;
        Ok((id, chat.head.title.value.clone(), is_merged))
    }

    /// Takes in a peer's copy, if this node is still in the cluster that it was in at `era`. Returns whether that changed
    /// anything.
    pub(super) fn merge(&self, era: u64, id: ChatId, entry: Entry) -> Result<bool, ChatsError> {
        let now_in = self.write();
        if *now_in != era {
            return Ok(false);
        }
        let merged = match self.read(id)? {
            Some(mut own) => {
                if !own.merge(entry) {
                    return Ok(false);
                }
                own
            }
            None if self.n_entries() >= chat::CHATS_MAX => return Err(ChatsError::TooMany),
            None => entry,
        };
        self.put(id, &merged)?;
        Ok(true)
    }
}

fn set<T: PartialEq>(field: &mut Field<T>, value: Option<T>, stamp: Stamp) {
    if let Some(value) = value
        && value != field.value
    {
        *field = Field { stamp, value };
    }
}

fn check_head(new: &NewChat) -> Result<(), ChatsError> {
    check_length("title", new.title.len(), NAME_BYTES_MAX)?;
    check_length("model", new.model.len(), NAME_BYTES_MAX)?;
    check_length("system", new.system.len(), SYSTEM_BYTES_MAX)?;
    check_length("parameters", new.parameters.len(), PARAMETERS_BYTES_MAX)
}

fn check_text(new: &NewMessage) -> Result<(), ChatsError> {
    check_length("text", new.text.len(), TEXT_BYTES_MAX)?;
    check_length("meta", new.meta.len(), META_BYTES_MAX)
}

fn check_message(
    chat: &Chat,
    field: &'static str,
    id: Option<MessageId>,
) -> Result<(), ChatsError> {
    match id {
        Some(id) if !chat.messages.contains_key(&id) => {
            Err(ChatsError::UnknownMessage { field, id })
        }
        _ => Ok(()),
    }
}

/// Checks that every message descends from one that follows none.
fn check_tree(chat: &Chat) -> Result<(), ChatsError> {
    let n_reached = in_order(chat).into_iter().filter(|(_, message)| {
        message.parent.is_none_or(|parent| chat.messages.contains_key(&parent))
    });
    let n_reached = n_reached.count();
    match chat.messages.len() - n_reached {
        0 => Ok(()),
        n => Err(ChatsError::NoTree { n }),
    }
}

/// The messages, parents before children and siblings by their times. A message whose parent is not there counts as a
/// beginning; those in a circle are left out.
pub fn in_order(chat: &Chat) -> Vec<(MessageId, &Message)> {
    let mut children: BTreeMap<Option<MessageId>, BTreeSet<(u64, MessageId)>> = BTreeMap::new();
    for (id, message) in &chat.messages {
        let parent = message.parent.filter(|parent| chat.messages.contains_key(parent));
        children.entry(parent).or_default().insert((message.created_ms, *id));
    }
    let mut ordered = Vec::with_capacity(chat.messages.len());
    let mut next: Vec<MessageId> =
        children.remove(&None).into_iter().flatten().rev().map(|(_, id)| id).collect();
    while let Some(id) = next.pop() {
        ordered.push((id, &chat.messages[&id]));
        next.extend(children.remove(&Some(id)).into_iter().flatten().rev().map(|(_, id)| id));
    }
    ordered
}

/// The messages from the beginning to the one that the shown conversation ends with.
pub fn shown(chat: &Chat) -> Vec<&Message> {
    let mut at = chat.head.leaf.value;
    let mut path: Vec<&Message> = Vec::new();
    while let Some(message) = at.and_then(|id| chat.messages.get(&id)) {
        if path.len() >= chat.messages.len() {
            break;
        }
        path.push(message);
        at = message.parent;
    }
    path.reverse();
    path
}
