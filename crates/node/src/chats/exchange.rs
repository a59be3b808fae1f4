//! How the devices of a cluster come to hold the same chats.
//!
//! A node that meets another asks which chats it holds ([`ChatRequest::Digest`]), and fetches what it lacks of those that
//! differ; the other does the same. When a chat changes, its node says so to all peers, who fetch it. What is lost on the way
//! is made good by the next digest. Only members of the cluster have a control connection, so only they are asked and
//! answered.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use shoal_proto::{
    NodeId,
    chat::{
        self, ChatId, ChatRequest, ChatResponse, ENTRY_BYTES_MAX, Entry, MessageId, PART_BYTES_MAX,
    },
    control::{Request, Response},
};
use tokio::{sync::Notify, time};
use tracing::{debug, warn};

use super::{ChatsError, store::Store};
use crate::{Error, node::Inner};

/// Between a change and the news of it, so that several changes are one.
const SETTLE: Duration = Duration::from_millis(250);
/// Between two looks at what all peers hold: for news that got lost.
const LOOK_INTERVAL: Duration = Duration::from_secs(300);
/// Longest wait for an answer: half a megabyte over a bad link.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// How often a chat is fetched that changes under the fetch.
const ATTEMPTS: usize = 3;
/// Most messages of which a request says that they are here; beyond that some come twice.
const KNOWN_MAX: usize = 20_000;

/// What is to be fetched from whom.
#[derive(Debug, Default)]
pub(crate) struct Exchange {
    state: Mutex<State>,
    news: Notify,
}

#[derive(Debug, Default)]
struct State {
    wanted: HashMap<NodeId, Wanted>,
    /// Peers that are being asked.
    busy: HashSet<NodeId>,
}

#[derive(Debug, Default)]
struct Wanted {
    digest: bool,
    chats: BTreeSet<ChatId>,
}

/// What came of a fetch.
enum Fetched {
    Entry(Entry),
    Unknown,
    /// It changed meanwhile.
    Changed,
}

impl Exchange {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection to a peer stands: what it holds is to be looked at.
    pub(crate) fn meet(&self, peer: NodeId) {
        self.lock().wanted.entry(peer).or_default().digest = true;
        self.news.notify_one();
    }

    fn want(&self, peer: NodeId, chats: impl IntoIterator<Item = ChatId>) {
        let mut state = self.lock();
        let wanted = state.wanted.entry(peer).or_default();
        wanted.chats.extend(chats);
        drop(state);
        self.news.notify_one();
    }

    /// Peers that something is wanted of and that are not being asked; they are from now on.
    fn begin(&self) -> Vec<NodeId> {
        let mut state = self.lock();
        let idle = |peer: &&NodeId| !state.busy.contains(*peer);
        let peers: Vec<NodeId> = state.wanted.keys().filter(idle).copied().collect();
        state.busy.extend(&peers);
        peers
    }

    /// What is wanted of a peer; `None`, and the peer is not asked any more, if nothing is.
    fn next(&self, peer: NodeId) -> Option<Wanted> {
        let mut state = self.lock();
        let wanted = state.wanted.remove(&peer);
        if wanted.is_none() {
            state.busy.remove(&peer);
        }
        wanted
    }

    /// A peer does not answer: the next digest will tell.
    fn give_up(&self, peer: NodeId) {
        let mut state = self.lock();
        state.busy.remove(&peer);
        state.wanted.remove(&peer);
    }
}

/// Keeps this node's chats and those of its peers the same, until the node ends.
pub(crate) async fn run(inner: Arc<Inner>) {
    let mut changes = inner.chats().changes();
    let mut told = *changes.borrow_and_update();
    let mut looks = time::interval(LOOK_INTERVAL);
    loop {
        tokio::select! {
            () = inner.exchange().news.notified() => {}
            changed = changes.changed() => {
                if changed.is_err() {
                    return;
                }
                time::sleep(SETTLE).await;
                changes.mark_unchanged();
                told = tell(&inner, told);
            }
            _ = looks.tick() => {
                let _ = inner.chats().run(|store| { store.purge(); Ok(()) }).await;
                inner.peers().alive().iter().for_each(|peer| inner.exchange().meet(peer.id));
            }
        }
        for peer in inner.exchange().begin() {
            let asking = Arc::clone(&inner);
            inner.spawn(async move { ask(&asking, peer).await });
        }
    }
}

/// Tells all peers what has changed since the change of a number, and returns the number of the latest.
fn tell(inner: &Arc<Inner>, told: u64) -> u64 {
    let store = &inner.chats().store;
    let (now, changed) = store.changed_since(told);
    let chats: Vec<(ChatId, u64)> = match changed {
        Some(changed) => {
            let hash = |id: ChatId| store.indexed(id).map(|it| (id, it.hash));
            changed.into_iter().filter_map(|it| hash(it.id)).collect()
        }
        None => store.digest(),
    };
    if !chats.is_empty() {
        let telling = Arc::clone(inner);
        inner.spawn(async move {
            let request = Request::Chats(ChatRequest::Changed { chats });
            telling.peers().tell_all(&request).await;
        });
    }
    now
}

/// Asks a peer for all that is wanted of it.
async fn ask(inner: &Inner, peer: NodeId) {
    while let Some(wanted) = inner.exchange().next(peer) {
        if let Err(error) = ask_for(inner, peer, wanted).await {
            debug!(peer = %peer.short(), %error, "chats were not exchanged");
            inner.exchange().give_up(peer);
            return;
        }
    }
}

async fn ask_for(inner: &Inner, peer: NodeId, wanted: Wanted) -> Result<(), Error> {
    let chats = inner.chats();
    let era = chats.run(|store| Ok(store.era())).await.map_err(unfit(peer))?;
    let mut ids = wanted.chats;
    if wanted.digest {
        match request(inner, peer, ChatRequest::Digest).await? {
            ChatResponse::Digest { chats: held } => ids.extend(chats.store.differing(&held)),
            _ => return Err(misfit(peer)),
        }
    }
    for id in ids {
        let entry = fetch(inner, peer, id).await?;
        let Some(entry) = entry else { continue };
        match chats.run(move |store| store.merge(era, id, entry)).await {
            Ok(has_changed) => {
                debug!(peer = %peer.short(), chat = %id, has_changed, "chat fetched")
            }
            Err(error) => {
                let error = crate::error::chain(&error);
                warn!(peer = %peer.short(), chat = %id, error, "chat not taken over");
            }
        }
    }
    Ok(())
}

/// Fetches what this node lacks of a chat; `None` if the peer does not have it.
async fn fetch(inner: &Inner, peer: NodeId, id: ChatId) -> Result<Option<Entry>, Error> {
    for _ in 0..ATTEMPTS {
        let known = inner.chats().run(move |store| store.known(id)).await.unwrap_or_default();
        match fetch_once(inner, peer, id, known).await? {
            Fetched::Entry(entry) => return Ok(Some(entry)),
            Fetched::Unknown => return Ok(None),
            Fetched::Changed => {}
        }
    }
    debug!(peer = %peer.short(), chat = %id, "chat changes too often to be fetched");
    Ok(None)
}

async fn fetch_once(
    inner: &Inner,
    peer: NodeId,
    chat: ChatId,
    known: Vec<(MessageId, u64)>,
) -> Result<Fetched, Error> {
    let (mut all, mut first) = (Vec::new(), None);
    loop {
        let offset = u64::try_from(all.len()).unwrap_or(u64::MAX);
        let asked = ChatRequest::Fetch { chat, known: known.clone(), offset };
        let (hash, n_total, bytes) = match request(inner, peer, asked).await? {
            ChatResponse::Part { hash, n_total, bytes } => (hash, n_total, bytes),
            ChatResponse::Unknown => return Ok(Fetched::Unknown),
            _ => return Err(misfit(peer)),
        };
        if *first.get_or_insert((hash, n_total)) != (hash, n_total) {
            return Ok(Fetched::Changed);
        }
        all.extend_from_slice(&bytes);
        match usize::try_from(n_total) {
            Ok(n_total)
                if n_total <= ENTRY_BYTES_MAX && all.len() < n_total && !bytes.is_empty() => {}
            Ok(n_total) if n_total <= ENTRY_BYTES_MAX && all.len() == n_total => break,
            _ => return Err(misfit(peer)),
        }
    }
    Entry::decode(&all).map(Fetched::Entry).map_err(unfit(peer))
}

async fn request(inner: &Inner, peer: NodeId, asked: ChatRequest) -> Result<ChatResponse, Error> {
    match inner.peers().ask(peer, &Request::Chats(asked), ANSWER_TIMEOUT).await? {
        Response::Chats(response) => Ok(response),
        Response::Refused { message } => Err(Error::PeerLost { node: peer, reason: message }),
        _ => Err(misfit(peer)),
    }
}

fn misfit(peer: NodeId) -> Error {
    Error::PeerLost { node: peer, reason: "an answer about chats that does not fit".to_owned() }
}

fn unfit<E: std::error::Error + 'static>(peer: NodeId) -> impl Fn(E) -> Error {
    move |error| Error::PeerLost { node: peer, reason: crate::error::chain(&error) }
}

/// Answers a peer.
pub(crate) async fn answer(inner: &Inner, peer: NodeId, request: ChatRequest) -> Response {
    let chats = inner.chats();
    let answered = match request {
        ChatRequest::Digest => {
            chats.run(|store| Ok(ChatResponse::Digest { chats: store.digest() })).await
        }
        ChatRequest::Changed { chats: changed } => {
            let differing = chats.store.differing(&changed);
            if !differing.is_empty() {
                inner.exchange().want(peer, differing);
            }
            Ok(ChatResponse::Ok)
        }
        ChatRequest::Fetch { chat, known, offset } => {
            chats.run(move |store| store.part_of(chat, &known, offset)).await
        }
    };
    match answered {
        Ok(response) => Response::Chats(response),
        Err(error) => Response::Refused { message: crate::error::chain(&error) },
    }
}

impl Store {
    /// Which of these are not the same here.
    fn differing(&self, held: &[(ChatId, u64)]) -> Vec<ChatId> {
        let differs =
            |&&(id, hash): &&(ChatId, u64)| self.indexed(id).is_none_or(|own| own.hash != hash);
        held.iter().take(chat::CHATS_MAX).filter(differs).map(|(id, _)| *id).collect()
    }

    /// The messages that are here of a chat, with their hashes.
    fn known(&self, id: ChatId) -> Result<Vec<(MessageId, u64)>, ChatsError> {
        match self.read(id)? {
            Some(Entry::Live(chat)) => {
                let known = chat.messages.iter().take(KNOWN_MAX);
                Ok(known.map(|(id, message)| (*id, message.hash())).collect())
            }
            _ => Ok(Vec::new()),
        }
    }

    /// Some of what somebody lacks who knows these messages.
    fn part_of(
        &self,
        id: ChatId,
        known: &[(MessageId, u64)],
        offset: u64,
    ) -> Result<ChatResponse, ChatsError> {
        let entry = match self.read(id)? {
            None => return Ok(ChatResponse::Unknown),
            Some(Entry::Live(chat)) => Entry::Live(Box::new(chat.without(known))),
            Some(deleted) => deleted,
        };
        let bytes = entry.encode();
        let n_total = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        let part = &bytes[from..bytes.len().min(from.saturating_add(PART_BYTES_MAX))];
        Ok(ChatResponse::Part { hash: chat::hash(&bytes), n_total, bytes: part.to_vec() })
    }
}
