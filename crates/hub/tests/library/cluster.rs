//! Libraries that are each other's peers, without a network between them.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use futures_util::{StreamExt as _, future::BoxFuture, stream};
use shoal_hub::{
    Library,
    peers::{PeerError, Peers, Transfer},
};
use shoal_proto::{
    NodeId,
    control::{Holding, TransferRequest},
    model::{FileId, ModelFiles},
};

/// What a member does to the chunks that it gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Honesty {
    /// Nothing.
    Honest,
    /// It gives other bytes than the hash that it states.
    Corrupting,
    /// It gives other bytes, and states their hash.
    Lying,
    /// It breaks off half-way.
    Breaking,
}

#[derive(Debug)]
struct Member {
    id: NodeId,
    library: Library,
    honesty: Honesty,
    n_given: AtomicU64,
}

/// All members.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cluster {
    members: Arc<Mutex<Vec<Arc<Member>>>>,
}

impl Cluster {
    /// Adds a member, and makes the others its peers. Returns its id.
    pub(crate) fn join(&self, library: &Library, honesty: Honesty) -> NodeId {
        let mut members = self.members.lock().expect("nobody panicked");
        let id = NodeId([u8::try_from(members.len() + 1).expect("few"); 32]);
        let library_of = library.clone();
        members.push(Arc::new(Member {
            id,
            library: library_of,
            honesty,
            n_given: AtomicU64::new(0),
        }));
        library.join(Arc::new(View { me: id, cluster: self.clone() }));
        id
    }

    /// Chunks that a member was asked for.
    pub(crate) fn n_given(&self, id: NodeId) -> u64 {
        self.member(id).n_given.load(Ordering::Relaxed)
    }

    fn member(&self, id: NodeId) -> Arc<Member> {
        let members = self.members.lock().expect("nobody panicked");
        Arc::clone(members.iter().find(|member| member.id == id).expect("a member"))
    }

    fn others(&self, me: NodeId) -> Vec<Arc<Member>> {
        let members = self.members.lock().expect("nobody panicked");
        members.iter().filter(|member| member.id != me).cloned().collect()
    }
}

/// The cluster as one member sees it.
#[derive(Debug)]
struct View {
    me: NodeId,
    cluster: Cluster,
}

impl Peers for View {
    fn id(&self) -> NodeId {
        self.me
    }

    fn find<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Option<ModelFiles>> {
        Box::pin(async move {
            for member in self.cluster.others(self.me) {
                if let Some(files) = member.library.find_files(name).await {
                    return Some(files);
                }
            }
            None
        })
    }

    fn exchange(&self, file: FileId, own: Holding) -> BoxFuture<'_, Vec<(NodeId, Holding)>> {
        Box::pin(async move {
            let mut said = Vec::new();
            for member in self.cluster.others(self.me) {
                let holding = member.library.exchange(self.me, file, own.clone()).await;
                said.push((member.id, holding));
            }
            said
        })
    }

    fn hashes(
        &self,
        peer: NodeId,
        file: FileId,
        first: u32,
        count: u32,
    ) -> BoxFuture<'_, Result<Vec<[u8; 32]>, PeerError>> {
        Box::pin(async move {
            let member = self.cluster.member(peer);
            let hashes = member.library.hashes(file, first, count).await;
            hashes.ok_or_else(|| PeerError { message: "not here".into() })
        })
    }

    fn fetch(
        &self,
        peer: NodeId,
        request: TransferRequest,
    ) -> BoxFuture<'_, Result<Transfer, PeerError>> {
        Box::pin(async move {
            let member = self.cluster.member(peer);
            let serving =
                member.library.serve(request).await.map_err(|message| PeerError { message })?;
            let mut hashes = serving.hashes().to_vec();
            let mut pieces = Vec::new();
            for at in 0..serving.n_chunks() {
                member.n_given.fetch_add(1, Ordering::Relaxed);
                let mut chunk = serving.read(at).await.expect("it is there");
                match member.honesty {
                    Honesty::Honest => {}
                    Honesty::Corrupting => chunk[100] ^= 1,
                    Honesty::Lying => {
                        chunk[100] ^= 1;
                        hashes[at as usize] = *blake3::hash(&chunk).as_bytes();
                    }
                    Honesty::Breaking => {
                        chunk.truncate(100);
                        pieces.push(Ok(Bytes::from(chunk)));
                        pieces.push(Err(PeerError { message: "broken off".into() }));
                        break;
                    }
                }
                // Pieces do not end where chunks end.
                let rest = chunk.split_off(chunk.len() / 3);
                pieces.extend([Ok(Bytes::from(chunk)), Ok(Bytes::from(rest))]);
            }
            Ok(Transfer { hashes, bytes: stream::iter(pieces).boxed() })
        })
    }
}
