//! What a download asks of the cluster. The node answers over its connections; tests answer from memory.

use std::fmt::Debug;

use bytes::Bytes;
use futures_util::{future::BoxFuture, stream::BoxStream};
use shoal_proto::{
    NodeId,
    control::{Holding, TransferRequest},
    model::{FileId, ModelFiles},
};

/// Why a peer gave nothing, for the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct PeerError {
    /// What happened.
    pub message: String,
}

/// Chunks that are on their way from a peer.
pub struct Transfer {
    /// BLAKE3 of each chunk asked for, as the peer knows them.
    pub hashes: Vec<[u8; 32]>,
    /// The chunks' bytes, one after the other, in pieces of any length.
    pub bytes: BoxStream<'static, Result<Bytes, PeerError>>,
}

impl Debug for Transfer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transfer").field("n_chunks", &self.hashes.len()).finish_non_exhaustive()
    }
}

/// The other nodes of the cluster, as far as files are concerned.
pub trait Peers: Debug + Send + Sync + 'static {
    /// This node among them; ranks it when peers share out what to fetch.
    fn id(&self) -> NodeId;

    /// Asks every peer that is alive for a model's files by the model's name.
    fn find<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Option<ModelFiles>>;

    /// Tells every peer that is alive what this node holds of a file, and asks the same. Peers that do not answer in time are
    /// left out.
    fn exchange(&self, file: FileId, own: Holding) -> BoxFuture<'_, Vec<(NodeId, Holding)>>;

    /// Asks a peer for the hashes of the chunks `first..first + count`.
    fn hashes(
        &self,
        peer: NodeId,
        file: FileId,
        first: u32,
        count: u32,
    ) -> BoxFuture<'_, Result<Vec<[u8; 32]>, PeerError>>;

    /// Asks a peer for chunks.
    fn fetch(
        &self,
        peer: NodeId,
        request: TransferRequest,
    ) -> BoxFuture<'_, Result<Transfer, PeerError>>;
}

/// Nobody else.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoPeers;

impl Peers for NoPeers {
    fn id(&self) -> NodeId {
        NodeId([0; 32])
    }

    fn find<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Option<ModelFiles>> {
        Box::pin(async { None })
    }

    fn exchange(&self, _: FileId, _: Holding) -> BoxFuture<'_, Vec<(NodeId, Holding)>> {
        Box::pin(async { Vec::new() })
    }

    fn hashes(
        &self,
        _: NodeId,
        _: FileId,
        _: u32,
        _: u32,
    ) -> BoxFuture<'_, Result<Vec<[u8; 32]>, PeerError>> {
        Box::pin(async { Err(PeerError { message: "there are no peers".into() }) })
    }

    fn fetch(&self, _: NodeId, _: TransferRequest) -> BoxFuture<'_, Result<Transfer, PeerError>> {
        Box::pin(async { Err(PeerError { message: "there are no peers".into() }) })
    }
}
