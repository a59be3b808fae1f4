//! The chats on disk: a file for each, and an index of them in memory.
//!
//! A file is replaced whole ([`durable::replace`]), so that a power cut at any moment leaves the old chat or the new one. What
//! cannot be read is set aside with a warning; a peer that has the chat gives it again. One writer changes files at a time,
//! and readers never wait for the disk on its account.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use shoal_proto::{
    NodeId,
    chat::{self, Chat, ChatError, ChatId, ENTRY_BYTES_MAX, Entry, MessageId, Progress, Role},
};
use tokio::sync::watch;
use tracing::{info, warn};

use super::{ChangedChat, ChatSummary, ChatsError, is_expired, now_ms};
use crate::durable;

/// The directory of the chats, in the data directory.
pub(super) const DIR: &str = "chats";
/// What the name of a chat's file ends with.
const EXTENSION: &str = "chat";
/// Changes that are remembered: those of a few busy seconds.
const CHANGES_MAX: usize = 64;
/// Characters of a preview.
const PREVIEW_CHARS: usize = 120;

/// The chats that a node keeps.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) own: NodeId,
    place: Place,
    /// Held while files change. Counts the clusters that this node has belonged to.
    writing: Mutex<u64>,
    index: Mutex<Index>,
    changed: watch::Sender<u64>,
}

#[derive(Debug)]
enum Place {
    Disk(PathBuf),
    Memory(Mutex<HashMap<ChatId, Vec<u8>>>),
}

#[derive(Debug, Default)]
struct Index {
    entries: BTreeMap<ChatId, Indexed>,
    /// The latest changes, numbered one after the other up to `n_changes`; the oldest first.
    changes: VecDeque<ChatId>,
    n_changes: u64,
}

/// What is known of an entry without its file.
#[derive(Debug, Clone)]
pub(super) struct Indexed {
    pub(super) hash: u64,
    pub(super) origin: NodeId,
    /// `None` if it is deleted.
    pub(super) summary: Option<ChatSummary>,
    /// The entry itself, if it is deleted.
    deleted: Option<Entry>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What these mutexes guard is changed by calls that either complete or leave it as it was.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Store {
    pub(super) fn in_memory(own: NodeId) -> Self {
        Self::at(Place::Memory(Mutex::default()), own)
    }

    fn at(place: Place, own: NodeId) -> Self {
        let (writing, index) = (Mutex::new(0), Mutex::default());
        Self { own, place, writing, index, changed: watch::Sender::new(0) }
    }

    /// Opens the chats below a data directory. What cannot be read is set aside.
    pub(super) fn open(data_dir: &Path, own: NodeId) -> Self {
        let dir = data_dir.join(DIR);
        let store = Self::at(Place::Disk(dir.clone()), own);
        if let Err(error) = fs::create_dir_all(&dir) {
            warn!(dir = %dir.display(), %error, "no directory for chats: none will be kept");
            return store;
        }
        let files = match fs::read_dir(&dir) {
            Ok(files) => files,
            Err(error) => {
                warn!(dir = %dir.display(), %error, "chats cannot be read");
                return store;
            }
        };
        for file in files.filter_map(Result::ok) {
            store.open_file(&file.path());
        }
        let n_chats = store.ids().len();
        if n_chats > 0 {
            info!(n_chats, "chats of the last run");
        }
        store
    }

    fn open_file(&self, path: &Path) {
        let extension = path.extension().and_then(|it| it.to_str());
        let stem = path.file_stem().and_then(|it| it.to_str());
        let id = stem.and_then(|stem| stem.parse::<ChatId>().ok());
        let (Some(id), Some(extension)) = (id, extension) else { return };
        if extension == "new" {
            // A power cut came before it was whole.
            let _ = fs::remove_file(path);
        }
        if extension != EXTENSION {
            return;
        }
        let entry = match read_file(path).map(|bytes| Entry::decode(&bytes)) {
            Ok(Ok(entry)) => entry,
            Ok(Err(error)) => return set_aside(path, &error.to_string()),
            Err(error) => return set_aside(path, &error.to_string()),
        };
        if is_expired(&entry, now_ms()) {
            let _ = fs::remove_file(path);
            return;
        }
        let bytes = entry.encode();
        lock(&self.index).entries.insert(id, Indexed::new(id, &entry, &bytes));
        self.end_running(id, entry);
    }

    /// Answers that this node was writing when it ended will not go on.
    fn end_running(&self, id: ChatId, mut entry: Entry) {
        let Entry::Live(chat) = &mut entry else { return };
        let mut has_any = false;
        for message in chat.messages.values_mut() {
            if message.progress == Progress::Running && message.writer == self.own {
                message.progress = Progress::Interrupted;
                message.revision += 1;
                has_any = true;
            }
        }
        if has_any && let Err(error) = self.put(id, &entry) {
            warn!(chat = %id, %error, "an answer that was cut off is not marked");
        }
    }

    /// Keeps others from writing. The number is that of the cluster that this node is in.
    pub(super) fn write(&self) -> MutexGuard<'_, u64> {
        lock(&self.writing)
    }

    /// The number of the cluster that this node is in.
    pub(super) fn era(&self) -> u64 {
        *self.write()
    }

    /// Reads an entry. `None` if there is none.
    pub(super) fn read(&self, id: ChatId) -> Result<Option<Entry>, ChatsError> {
        let disk = |source: io::Error| ChatsError::Disk { id, source: Arc::new(source) };
        let bytes = match &self.place {
            Place::Memory(files) => lock(files).get(&id).cloned(),
            Place::Disk(dir) => match read_file(&file_of(dir, id)) {
                Ok(bytes) => Some(bytes),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(disk(error)),
            },
        };
        let decoded = bytes.map(|bytes| Entry::decode(&bytes)).transpose();
        decoded.map_err(|source| ChatsError::Damaged { id, source })
    }

    /// Reads a chat that is there.
    pub(super) fn read_live(&self, id: ChatId) -> Result<Chat, ChatsError> {
        match self.read(id)? {
            Some(Entry::Live(chat)) => Ok(*chat),
            Some(Entry::Deleted { .. }) | None => Err(ChatsError::UnknownChat { id }),
        }
    }

    /// Writes an entry and says so. The caller holds [`write`](Self::write).
    pub(super) fn put(&self, id: ChatId, entry: &Entry) -> Result<u64, ChatsError> {
        let bytes = entry.encode();
        let indexed = Indexed::new(id, entry, &bytes);
        if bytes.len() > ENTRY_BYTES_MAX {
            return Err(ChatsError::ChatFull);
        }
        match &self.place {
            Place::Memory(files) => drop(lock(files).insert(id, bytes)),
            Place::Disk(dir) => durable::replace(&file_of(dir, id), &bytes)
                .map_err(|source| ChatsError::Disk { id, source: Arc::new(source) })?,
        }
        let hash = indexed.hash;
        let mut index = lock(&self.index);
        index.entries.insert(id, indexed);
        index.note(id);
        drop(index);
        self.tell();
        Ok(hash)
    }

    fn tell(&self) {
        let number = lock(&self.index).n_changes;
        self.changed.send_replace(number);
    }

    fn remove(&self, id: ChatId) {
        match &self.place {
            Place::Memory(files) => drop(lock(files).remove(&id)),
            Place::Disk(dir) => {
                if let Err(error) = fs::remove_file(file_of(dir, id)) {
                    warn!(chat = %id, %error, "its file was not removed");
                }
            }
        }
        lock(&self.index).entries.remove(&id);
    }

    /// Forgets what was not created here.
    pub(super) fn part(&self) {
        let mut era = self.write();
        *era += 1;
        let foreign: Vec<ChatId> = {
            let index = lock(&self.index);
            let is_foreign = |it: &(&ChatId, &Indexed)| it.1.origin != self.own;
            index.entries.iter().filter(is_foreign).map(|(id, _)| *id).collect()
        };
        if foreign.is_empty() {
            return;
        }
        foreign.iter().for_each(|id| self.remove(*id));
        if let Place::Disk(dir) = &self.place
            && let Err(error) = File::open(dir).and_then(|dir| dir.sync_all())
        {
            warn!(%error, "removed chats may come back after a power cut");
        }
        info!(n_chats = foreign.len(), "chats of the cluster that was left are forgotten");
        let mut index = lock(&self.index);
        // Nobody can be told what they were: all is read again.
        index.changes.clear();
        index.n_changes += 1;
        drop(index);
        self.tell();
    }

    /// Forgets that chats were deleted long ago.
    pub(super) fn purge(&self) {
        let _alone = self.write();
        let now = now_ms();
        let expired: Vec<ChatId> = {
            let index = lock(&self.index);
            let expired = index.entries.iter().filter(|(_, it)| it.is_expired(now));
            expired.map(|(id, _)| *id).collect()
        };
        expired.into_iter().for_each(|id| self.remove(id));
    }

    pub(super) fn ids(&self) -> Vec<ChatId> {
        let index = lock(&self.index);
        index.entries.iter().filter(|(_, it)| it.summary.is_some()).map(|(id, _)| *id).collect()
    }

    /// What is known of an entry.
    pub(super) fn indexed(&self, id: ChatId) -> Option<Indexed> {
        lock(&self.index).entries.get(&id).cloned()
    }

    /// Chats, and those that were deleted.
    pub(super) fn n_entries(&self) -> usize {
        lock(&self.index).entries.len()
    }

    pub(super) fn summaries(&self) -> Vec<ChatSummary> {
        lock(&self.index).entries.values().filter_map(|it| it.summary.clone()).collect()
    }

    /// What this node holds, with the hash of each.
    pub(super) fn digest(&self) -> Vec<(ChatId, u64)> {
        let now = now_ms();
        let index = lock(&self.index);
        let entries = index.entries.iter().filter(|(_, it)| !it.is_expired(now));
        entries.map(|(id, it)| (*id, it.hash)).take(chat::CHATS_MAX).collect()
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    pub(super) fn changed_since(&self, number: u64) -> (u64, Option<Vec<ChangedChat>>) {
        let index = lock(&self.index);
        let now = index.n_changes;
        let n_new = usize::try_from(now.saturating_sub(number)).unwrap_or(usize::MAX);
        if n_new > index.changes.len() {
            return (now, None);
        }
        let mut changed: Vec<ChangedChat> = Vec::new();
        for id in index.changes.iter().rev().take(n_new) {
            if changed.iter().any(|it| it.id == *id) {
                continue;
            }
            let summary = index.entries.get(id).and_then(|it| it.summary.as_ref());
            changed.push(ChangedChat {
                id: *id,
                title: summary.map(|it| it.title.clone()).unwrap_or_default(),
                changed_ms: summary.map(|it| it.changed_ms).unwrap_or_default(),
                is_deleted: summary.is_none(),
            });
        }
        (now, Some(changed))
    }
}

impl Index {
    fn note(&mut self, id: ChatId) {
        if self.changes.len() >= CHANGES_MAX {
            self.changes.pop_front();
        }
        self.changes.push_back(id);
        self.n_changes += 1;
    }
}

impl Indexed {
    fn new(id: ChatId, entry: &Entry, bytes: &[u8]) -> Self {
        let hash = chat::hash(bytes);
        let summary = match entry {
            Entry::Live(chat) => Some(summarise(id, chat, hash, bytes.len())),
            Entry::Deleted { .. } => None,
        };
        let deleted = summary.is_none().then(|| entry.clone());
        Self { hash, origin: entry.origin(), summary, deleted }
    }

    fn is_expired(&self, now_ms: u64) -> bool {
        self.deleted.as_ref().is_some_and(|entry| is_expired(entry, now_ms))
    }
}

fn summarise(id: ChatId, chat: &Chat, version: u64, n_bytes: usize) -> ChatSummary {
    let said = chat.messages.iter().filter(|(_, message)| message.role == Role::User);
    let first = said.min_by_key(|(id, message): &(&MessageId, _)| (message.created_ms, **id));
    let preview = first.map(|(_, message)| {
        let shown = message.text.trim().chars().take(PREVIEW_CHARS);
        shown.map(|c| if c.is_control() { ' ' } else { c }).collect()
    });
    ChatSummary {
        id,
        title: chat.head.title.value.clone(),
        preview: preview.unwrap_or_default(),
        model: chat.head.model.value.clone(),
        created_ms: chat.head.created.0,
        changed_ms: chat.head.changed_ms,
        n_messages: chat.messages.len(),
        n_bytes,
        origin: chat.head.created.1,
        version,
    }
}

fn file_of(dir: &Path, id: ChatId) -> PathBuf {
    dir.join(format!("{id}.{EXTENSION}"))
}

fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let most = u64::try_from(ENTRY_BYTES_MAX).unwrap_or(u64::MAX);
    File::open(path)?.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() > ENTRY_BYTES_MAX {
        let error = ChatError::TooLarge { got: bytes.len() };
        return Err(io::Error::new(io::ErrorKind::InvalidData, error));
    }
    Ok(bytes)
}

/// Moves a file that cannot be used out of the way, for whoever wants to know what happened to it.
fn set_aside(path: &Path, reason: &str) {
    let aside = path.with_extension("damaged");
    let kept = match fs::rename(path, &aside) {
        Ok(()) => aside.display().to_string(),
        Err(error) => format!("not even moved: {error}"),
    };
    warn!(path = %path.display(), reason, kept, "a chat cannot be read");
}
