//! Model files between nodes: what this one asks of its peers, and the chunks that it gives them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, future::BoxFuture, stream};
use shoal_hub::{
    Library,
    peers::{PeerError, Peers as FilePeers, Transfer},
};
use shoal_net::{Connection, Endpoint, Plane, TransferReader, TransferWriter};
use shoal_proto::{
    NodeId,
    control::{Holding, Request, Response, TransferRequest},
    model::{FileId, ModelFiles},
};
use tokio_util::task::TaskTracker;
use tracing::debug;

use crate::peers::Peers;

/// Longest wait for a peer's word about a file: it looks at its disk.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest wait for the first byte of a transfer: flash that sleeps, behind a busy WiFi.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of a hash.
const HASH_BYTES: usize = 32;

/// The cluster, as a download sees it.
#[derive(Debug)]
pub(crate) struct ClusterFiles {
    id: NodeId,
    endpoint: Endpoint,
    peers: Arc<Peers>,
    connections: Mutex<HashMap<NodeId, Connection>>,
}

impl ClusterFiles {
    pub(crate) fn new(id: NodeId, endpoint: Endpoint, peers: Arc<Peers>) -> Arc<Self> {
        Arc::new(Self { id, endpoint, peers, connections: Mutex::default() })
    }

    /// Asks every peer that is alive, all at once, and returns the answers that come in time.
    async fn ask_all(&self, request: &Request) -> Vec<(NodeId, Response)> {
        let alive = self.peers.alive();
        let asks = alive.iter().map(|record| async move {
            let answer = self.peers.ask(record.id, request, ANSWER_TIMEOUT).await;
            answer.ok().map(|answer| (record.id, answer))
        });
        futures_util::future::join_all(asks).await.into_iter().flatten().collect()
    }

    /// The connection for transfers from a peer; dials if there is none that lives.
    async fn connection(&self, peer: NodeId) -> Result<Connection, PeerError> {
        let known = self.lock().get(&peer).cloned();
        if let Some(connection) = known.filter(|connection| connection.close_reason().is_none()) {
            return Ok(connection);
        }
        let addrs = self.peers.addrs(peer);
        let dialled = self.endpoint.connect(peer, &addrs, Plane::Transfer).await;
        let connection = dialled.map_err(peer_error)?;
        self.lock().insert(peer, connection.clone());
        Ok(connection)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<NodeId, Connection>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn peer_error(error: impl std::fmt::Display) -> PeerError {
    PeerError { message: error.to_string() }
}

impl FilePeers for ClusterFiles {
    fn id(&self) -> NodeId {
        self.id
    }

    fn find<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Option<ModelFiles>> {
        Box::pin(async move {
            let answers = self.ask_all(&Request::FindModel { name: name.to_owned() }).await;
            let mut found = answers.into_iter().filter_map(|(peer, answer)| match answer {
                Response::Model(Some(model)) => match model.check() {
                    Ok(()) if model.name == name => Some(model),
                    Ok(()) => None,
                    Err(what) => {
                        debug!(peer = %peer.short(), what, "model of a peer is not understood");
                        None
                    }
                },
                _ => None,
            });
            found.next()
        })
    }

    fn exchange(&self, file: FileId, own: Holding) -> BoxFuture<'_, Vec<(NodeId, Holding)>> {
        Box::pin(async move {
            let answers = self.ask_all(&Request::Holding { file, own }).await;
            let holding = |(peer, answer)| match answer {
                Response::Holding(holding) => Some((peer, holding)),
                _ => None,
            };
            answers.into_iter().filter_map(holding).collect()
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
            let request = Request::Hashes { file, first, count };
            // The peer may have to read the whole file first.
            let answer = self.peers.ask(peer, &request, TRANSFER_TIMEOUT).await;
            match answer.map_err(peer_error)? {
                Response::Hashes(hashes) => Ok(hashes),
                Response::Refused { message } => Err(PeerError { message }),
                other => Err(peer_error(format!("an answer that does not fit: {other:?}"))),
            }
        })
    }

    fn fetch(
        &self,
        peer: NodeId,
        request: TransferRequest,
    ) -> BoxFuture<'_, Result<Transfer, PeerError>> {
        Box::pin(async move {
            let connection = self.connection(peer).await?;
            let mut reader =
                connection.transfer(&request, TRANSFER_TIMEOUT).await.map_err(peer_error)?;
            let n_bytes = request.count as usize * HASH_BYTES;
            let mut head = BytesMut::with_capacity(n_bytes);
            while head.len() < n_bytes {
                let Some(bytes) = reader.read().await.map_err(peer_error)? else {
                    let message = format!("expected {n_bytes} bytes of hashes, got {}", head.len());
                    return Err(PeerError { message });
                };
                head.extend_from_slice(&bytes);
            }
            let rest = head.split_off(n_bytes).freeze();
            let (hashes, _) = head.as_chunks::<HASH_BYTES>();
            let first = stream::iter((!rest.is_empty()).then_some(Ok(rest)));
            let bytes = first.chain(stream::try_unfold(reader, next_piece)).boxed();
            Ok(Transfer { hashes: hashes.to_vec(), bytes })
        })
    }
}

async fn next_piece(
    mut reader: TransferReader,
) -> Result<Option<(Bytes, TransferReader)>, PeerError> {
    let piece = reader.read().await.map_err(peer_error)?;
    Ok(piece.map(|bytes| (bytes, reader)))
}

/// Gives a peer the chunks that it asks for, until the connection ends.
pub(crate) async fn give(library: Library, connection: Connection) {
    let transfers = TaskTracker::new();
    loop {
        match connection.next_transfer().await {
            Ok((request, writer)) => {
                // The transport bounds how many are open at once.
                transfers.spawn(give_chunks(library.clone(), request, writer, connection.peer()));
            }
            Err(error) => {
                debug!(peer = %connection.peer().short(), %error, "transfer connection ended");
                break;
            }
        }
    }
    transfers.close();
    transfers.wait().await;
}

async fn give_chunks(
    library: Library,
    request: TransferRequest,
    writer: TransferWriter,
    peer: NodeId,
) {
    let given = async {
        let serving = match library.serve(request).await {
            Ok(serving) => serving,
            Err(message) => {
                return writer.refuse(&message).await.map_err(|error| error.to_string());
            }
        };
        let mut writer = writer.accept().await.map_err(|error| error.to_string())?;
        let hashes = Bytes::from(serving.hashes().concat());
        writer.write(hashes).await.map_err(|error| error.to_string())?;
        for at in 0..serving.n_chunks() {
            let chunk = serving.read(at).await.map_err(|error| error.to_string())?;
            writer.write(Bytes::from(chunk)).await.map_err(|error| error.to_string())?;
        }
        writer.finish().await.map_err(|error| error.to_string())
    };
    // A transfer that is dropped unfinished is reset, so that the peer never takes a part for the whole.
    if let Err(reason) = given.await {
        debug!(peer = %peer.short(), reason, "transfer to a peer ended early");
    }
}
