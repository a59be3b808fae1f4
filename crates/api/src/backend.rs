//! What the API asks of a node. [`Node`] does it; tests put a script in its place.

use std::{path::Path, time::Duration};

use shoal_node::{
    Caller, Error, Event, GenerateRequest, Generation, InstanceStatus, ModelEntry, Node,
    NodeStatus, Offer, PlaceRequest, PlanReport, RunnerStatus, Totals, Trace,
    chats::Chats,
    hub::{DownloadStatus, RemoveReport, SearchHit, Space, StoredModel},
};
use shoal_proto::{InstanceId, NodeId};
use tokio::sync::watch;

use crate::board::Board;

/// An answer in the making. Dropping it cancels the request.
pub(crate) trait Answer: Send + 'static {
    /// Waits for the next event; `None` after the last.
    fn next(&mut self) -> impl Future<Output = Option<Event>> + Send;
}

/// A node, as the API sees it. The methods are those of [`Node`], where they are documented.
pub(crate) trait Backend: Board {
    type Answer: Answer;

    fn id(&self) -> NodeId;
    fn name(&self) -> String;
    fn generate_for(
        &self,
        request: GenerateRequest,
        caller: Caller,
    ) -> impl Future<Output = Result<Self::Answer, Error>> + Send;
    fn models(&self) -> impl Future<Output = Vec<ModelEntry>> + Send;
    fn nodes(&self) -> Vec<NodeStatus>;
    fn instances(&self) -> Vec<InstanceStatus>;
    fn runners(&self) -> Vec<RunnerStatus>;
    fn place(
        &self,
        request: PlaceRequest,
    ) -> impl Future<Output = Result<InstanceStatus, Error>> + Send;
    fn unplace(&self, instance: InstanceId) -> impl Future<Output = Result<(), Error>> + Send;
    fn plan(&self, request: PlaceRequest)
    -> impl Future<Output = Result<PlanReport, Error>> + Send;
    fn join(&self, ticket: &str) -> impl Future<Output = Result<(), Error>> + Send;
    fn leave(&self) -> impl Future<Output = Result<(), Error>> + Send;
    fn forget(&self, node: NodeId) -> impl Future<Output = Result<(), Error>> + Send;
    /// Has a node, or this one, give its layers away, or take that back.
    fn drain(
        &self,
        node: Option<NodeId>,
        is_undone: bool,
    ) -> impl Future<Output = Result<(), Error>> + Send;
    fn chats(&self) -> &Chats;
    fn totals(&self) -> Totals;
    /// Peak resident memory in bytes, and uptime.
    fn process(&self) -> (Option<u64>, Duration);
    fn traces(&self) -> Vec<Trace>;
    fn trace(&self, id: u64) -> Option<Trace>;
    /// The catalogue: each model once, or each quantisation of it.
    fn offers(&self, every_quant: bool) -> impl Future<Output = Result<Vec<Offer>, Error>> + Send;
    fn stored(&self) -> impl Future<Output = Result<Vec<StoredModel>, Error>> + Send;
    fn models_dir(&self) -> Option<&Path>;
    fn space(&self) -> impl Future<Output = Result<Space, Error>> + Send;
    fn search(
        &self,
        words: &str,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<SearchHit>, Error>> + Send;
    /// Starts a download: of what is known, or of the newest version.
    fn pull(&self, model: &str, update: bool)
    -> impl Future<Output = Result<String, Error>> + Send;
    fn downloads(&self) -> Vec<DownloadStatus>;
    fn download_changes(&self) -> watch::Receiver<u64>;
    fn pause(&self, model: &str) -> impl Future<Output = Result<(), Error>> + Send;
    fn resume(&self, model: &str) -> Result<(), Error>;
    fn remove(&self, model: &str) -> impl Future<Output = Result<RemoveReport, Error>> + Send;
}

impl Answer for Generation {
    async fn next(&mut self) -> Option<Event> {
        Generation::next(self).await
    }
}

impl Backend for Node {
    type Answer = Generation;

    fn id(&self) -> NodeId {
        Node::id(self)
    }

    fn name(&self) -> String {
        Node::name(self)
    }

    async fn generate_for(
        &self,
        request: GenerateRequest,
        caller: Caller,
    ) -> Result<Generation, Error> {
        Node::generate_for(self, request, caller).await
    }

    async fn models(&self) -> Vec<ModelEntry> {
        Node::models(self).await
    }

    fn nodes(&self) -> Vec<NodeStatus> {
        Node::nodes(self)
    }

    fn instances(&self) -> Vec<InstanceStatus> {
        Node::instances(self)
    }

    fn runners(&self) -> Vec<RunnerStatus> {
        Node::runners(self)
    }

    async fn place(&self, request: PlaceRequest) -> Result<InstanceStatus, Error> {
        Node::place(self, request).await
    }

    async fn unplace(&self, instance: InstanceId) -> Result<(), Error> {
        Node::unplace(self, instance).await
    }

    async fn plan(&self, request: PlaceRequest) -> Result<PlanReport, Error> {
        Node::plan(self, request).await
    }

    async fn join(&self, ticket: &str) -> Result<(), Error> {
        Node::join(self, ticket).await
    }

    async fn leave(&self) -> Result<(), Error> {
        Node::leave(self).await
    }

    async fn forget(&self, node: NodeId) -> Result<(), Error> {
        Node::forget(self, node).await
    }

    async fn drain(&self, node: Option<NodeId>, is_undone: bool) -> Result<(), Error> {
        Node::drain(self, node, is_undone).await
    }

    fn chats(&self) -> &Chats {
        Node::chats(self)
    }

    fn totals(&self) -> Totals {
        Node::totals(self)
    }

    fn process(&self) -> (Option<u64>, Duration) {
        Node::process(self)
    }

    fn traces(&self) -> Vec<Trace> {
        Node::traces(self)
    }

    fn trace(&self, id: u64) -> Option<Trace> {
        Node::trace(self, id)
    }

    async fn offers(&self, every_quant: bool) -> Result<Vec<Offer>, Error> {
        if every_quant { Node::all_offers(self).await } else { Node::offers(self).await }
    }

    async fn stored(&self) -> Result<Vec<StoredModel>, Error> {
        Node::stored(self).await
    }

    fn models_dir(&self) -> Option<&Path> {
        Node::models_dir(self).ok()
    }

    async fn space(&self) -> Result<Space, Error> {
        Node::space(self).await
    }

    async fn search(&self, words: &str, limit: usize) -> Result<Vec<SearchHit>, Error> {
        Node::search(self, words, limit).await
    }

    async fn pull(&self, model: &str, update: bool) -> Result<String, Error> {
        if update { Node::pull_newest(self, model).await } else { Node::pull(self, model).await }
    }

    fn downloads(&self) -> Vec<DownloadStatus> {
        Node::downloads(self)
    }

    fn download_changes(&self) -> watch::Receiver<u64> {
        Node::download_changes(self)
    }

    async fn pause(&self, model: &str) -> Result<(), Error> {
        Node::pause(self, model).await
    }

    fn resume(&self, model: &str) -> Result<(), Error> {
        Node::resume(self, model)
    }

    async fn remove(&self, model: &str) -> Result<RemoveReport, Error> {
        Node::remove(self, model).await
    }
}
