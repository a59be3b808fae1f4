//! What can go wrong at a node.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use shoal_cluster::planner::PlanError;
use shoal_net::TicketError;
use shoal_proto::{InstanceId, LayerRange, NodeId};

/// What can go wrong at a node.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No instance answers for the model.
    #[error("model {name:?} is not placed here: expected one of {known:?}")]
    UnknownModel {
        /// The model asked for.
        name: String,
        /// The models that are placed.
        known: Vec<String>,
    },
    /// A parameter of a request is out of range.
    #[error("{name}: {message}")]
    InvalidParameter {
        /// The parameter.
        name: String,
        /// What is wrong with it.
        message: String,
    },
    /// The prompt leaves no room for an answer.
    #[error("the prompt has {n_prompt} tokens, the context holds {n_ctx} including the answer")]
    ContextFull {
        /// Tokens of the prompt.
        n_prompt: u32,
        /// Positions of the context.
        n_ctx: u32,
    },
    /// The chat template is missing or fails on these messages.
    #[error("chat template: {message}")]
    Template {
        /// What it says.
        message: String,
    },
    /// A model file cannot be used.
    #[error("model {name} cannot be used")]
    Model {
        /// The model.
        name: String,
        /// Why.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// The library does not give the model.
    #[error(transparent)]
    Library(Arc<shoal_hub::LibraryError>),
    /// The text names no model that is known.
    #[error(transparent)]
    Name(Arc<shoal_hub::NameError>),
    /// The command line says how a setting is.
    #[error("{name}: it is set on the command line, and cannot be changed while the node runs")]
    SettingFixed {
        /// The setting.
        name: &'static str,
    },
    /// A file of the data directory cannot be written.
    #[error("{}: cannot be written, so that nothing was changed", path.display())]
    NotKept {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Arc<io::Error>,
    },
    /// The model runs.
    #[error("model {name} is in use by instance {instance}: drop that first")]
    InUse {
        /// The model.
        name: String,
        /// An instance of it.
        instance: InstanceId,
    },
    /// This process keeps no models.
    #[error("model {name}: this process has no directory for models")]
    NoLibrary {
        /// The model asked for.
        name: String,
    },
    /// This node's file of that name is another model than the one that is being placed.
    #[error("model {name}: the file on this node differs from the one on the node that places it")]
    DifferentModel {
        /// The model.
        name: String,
    },
    /// The model cannot be placed as asked.
    #[error(transparent)]
    Place(#[from] PlanError),
    /// A node refused to load its stage.
    #[error("node {} refused its stage: {message}", node.short())]
    LoadRefused {
        /// The node.
        node: NodeId,
        /// What it says.
        message: String,
    },
    /// No such instance.
    #[error("instance {id}: not known here")]
    UnknownInstance {
        /// The instance asked for.
        id: InstanceId,
    },
    /// No such node.
    #[error("node {node}: not known here")]
    UnknownNode {
        /// The node asked for.
        node: NodeId,
    },
    /// A node that holds layers of the model is gone.
    #[error("layers {layers} are lost with node {}", node.short())]
    StageLost {
        /// The node.
        node: NodeId,
        /// Its layers.
        layers: LayerRange,
    },
    /// A stage could not compute.
    #[error("a stage failed: {message}")]
    StageFailed {
        /// What it says.
        message: String,
    },
    /// No stage answered.
    #[error("no stage answered within {} s", after.as_secs())]
    StageSilent {
        /// How long the driver waited.
        after: Duration,
    },
    /// Too many requests wait for their turn.
    #[error("{n_waiting} requests wait already: ask again in {} s", retry_after.as_secs())]
    Overloaded {
        /// Requests that wait.
        n_waiting: usize,
        /// When there is likely to be room.
        retry_after: Duration,
    },
    /// A peer did not answer.
    #[error("node {} does not answer: {reason}", node.short())]
    PeerLost {
        /// The peer.
        node: NodeId,
        /// Why.
        reason: String,
    },
    /// The engine refused.
    #[error(transparent)]
    Engine(Arc<shoal_engine::Error>),
    /// The instruction set asked for is not there.
    #[error("instruction set {name:?}: expected one of {available:?}")]
    UnknownIsa {
        /// The name as it was given.
        name: String,
        /// What this CPU has.
        available: Vec<String>,
    },
    /// The ticket makes no sense.
    #[error("the ticket cannot be used")]
    Ticket(#[source] TicketError),
    /// What should be a relay is none.
    #[error(transparent)]
    Relay(shoal_net::RelayError),
    /// The cluster does not take this node, or its ticket.
    #[error("the cluster refused this node")]
    JoinRefused {
        /// Why.
        source: Arc<shoal_net::Error>,
    },
    /// The node that gave out the ticket does not answer.
    #[error("the node that gave out the ticket does not answer")]
    JoinFailed {
        /// Why.
        source: Arc<shoal_net::Error>,
    },
    /// The network refused.
    #[error(transparent)]
    Net(Arc<shoal_net::Error>),
    /// The node has no network.
    #[error("this node runs without a network, so nobody can be invited")]
    Offline,
    /// The data directory cannot be used.
    #[error("data directory {}", path.display())]
    DataDir {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: Arc<io::Error>,
    },
    /// Another process uses the data directory: two nodes with one key would be taken for one.
    #[error("data directory {} is in use by another node", path.display())]
    DataDirInUse {
        /// The directory.
        path: PathBuf,
    },
    /// No thread could be started.
    #[error("a thread could not be started")]
    Thread {
        /// Why.
        source: Arc<io::Error>,
    },
    /// The system gives no random numbers.
    #[error("the system gives no random numbers: {message}")]
    Random {
        /// What it says.
        message: String,
    },
}

impl From<shoal_engine::Error> for Error {
    fn from(error: shoal_engine::Error) -> Self {
        Self::Engine(Arc::new(error))
    }
}

impl From<shoal_hub::LibraryError> for Error {
    fn from(error: shoal_hub::LibraryError) -> Self {
        Self::Library(Arc::new(error))
    }
}

impl From<shoal_hub::NameError> for Error {
    fn from(error: shoal_hub::NameError) -> Self {
        Self::Name(Arc::new(error))
    }
}

impl From<shoal_net::Error> for Error {
    fn from(error: shoal_net::Error) -> Self {
        Self::Net(Arc::new(error))
    }
}

impl Error {
    /// What a failed first contact with a ticket's node means.
    pub(crate) fn join(error: shoal_net::Error) -> Self {
        use shoal_net::Error as Net;

        let refused = matches!(
            error,
            Net::WrongSecret { .. }
                | Net::OtherProtocol { .. }
                | Net::Removed { .. }
                | Net::Ticket(_)
                | Net::TicketRefused { .. }
        );
        let source = Arc::new(error);
        if refused { Self::JoinRefused { source } } else { Self::JoinFailed { source } }
    }
}

/// Returns an error and what caused it, as one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
