//! What the API asks of a node. [`Node`] does it; tests put a script in its place.

use shoal_node::{
    Error, Event, GenerateRequest, Generation, InstanceStatus, ModelEntry, Node, NodeStatus,
};
use shoal_proto::{InstanceId, NodeId};

/// An answer in the making. Dropping it cancels the request.
pub(crate) trait Answer: Send + 'static {
    /// Waits for the next event; `None` after the last.
    fn next(&mut self) -> impl Future<Output = Option<Event>> + Send;
}

/// A node, as the API sees it. The methods are those of [`Node`], where they are documented.
pub(crate) trait Backend: Clone + Send + Sync + 'static {
    type Answer: Answer;

    fn id(&self) -> NodeId;
    fn name(&self) -> String;
    fn generate(
        &self,
        request: GenerateRequest,
    ) -> impl Future<Output = Result<Self::Answer, Error>> + Send;
    fn models(&self) -> impl Future<Output = Vec<ModelEntry>> + Send;
    fn nodes(&self) -> Vec<NodeStatus>;
    fn instances(&self) -> Vec<InstanceStatus>;
    fn place(
        &self,
        model: &str,
        n_nodes: usize,
        n_ctx: Option<u32>,
    ) -> impl Future<Output = Result<InstanceStatus, Error>> + Send;
    fn unplace(&self, instance: InstanceId) -> impl Future<Output = Result<(), Error>> + Send;
    fn invite(&self) -> Result<String, Error>;
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
        Node::name(self).to_owned()
    }

    async fn generate(&self, request: GenerateRequest) -> Result<Generation, Error> {
        Node::generate(self, request).await
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

    async fn place(
        &self,
        model: &str,
        n_nodes: usize,
        n_ctx: Option<u32>,
    ) -> Result<InstanceStatus, Error> {
        Node::place(self, model, n_nodes, n_ctx).await
    }

    async fn unplace(&self, instance: InstanceId) -> Result<(), Error> {
        Node::unplace(self, instance).await
    }

    fn invite(&self) -> Result<String, Error> {
        Node::invite(self)
    }
}
