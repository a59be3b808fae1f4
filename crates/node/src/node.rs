//! The node itself: it ties the parts together and carries out what the API and the command line ask for.

use std::{
    collections::HashMap,
    fs::File,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use shoal_cluster::{Candidate, Event as ClusterEvent};
use shoal_hub::{Library, LibraryConfig};
use shoal_net::{
    ClusterSecret, Connection, Endpoint, EndpointConfig, Identity, Interfaces, Plane, Ticket,
    Timing,
};
use shoal_proto::{
    Epoch, InstanceId, LayerRange, NodeId,
    control::{
        InstanceRecord, ModelRef, NodeRecord, Phase, Request, Response, StageRecord, Vitals,
    },
    model::ModelFiles,
};
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use crate::{
    data_dir,
    driver::{self, Job},
    error::Error,
    files::{self, ClusterFiles},
    generate::{self, GenerateRequest, Generation, Prompt},
    models::{self, Models, Opened},
    obtain::Obtaining,
    peers::{Handler, Peers},
    plan::{Finding, InviteOptions, PlaceRequest, PlanReport},
    router::Router,
    runner::{RunnerHandle, Spec},
    sequences::Sequences,
};

/// Positions of a sequence unless the user asks for another number: what a phone's memory bears with a 3B model.
pub(crate) const N_CTX_DEFAULT: u32 = 4096;
/// Longest wait until a peer has loaded its stage: it maps a file, which takes seconds even from slow flash.
const LOAD_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest wait for the tasks of a node that shuts down.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);
/// Memory that a node offers when the system does not tell how much is available.
const MEMORY_BYTES_DEFAULT: u64 = 2 << 30;
/// Most stop strings of one request.
const STOPS_MAX: usize = 16;

/// How a node is set up.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// The name that people see.
    pub name: String,
    /// Where identity, secret and peers are kept; `None` keeps nothing.
    pub data_dir: Option<PathBuf>,
    /// How it takes part in a cluster; `None` stays alone and opens no socket.
    pub network: Option<NetworkConfig>,
    /// Threads to compute with; `None` for all cores.
    pub n_threads: Option<usize>,
    /// Positions of every sequence; `None` for the smaller of 4096 and what the model was trained for.
    pub n_ctx: Option<u32>,
    /// The instruction set by name; `None` for the best that the CPU has.
    pub isa: Option<String>,
    /// Where models are kept and come from; `None` for a node with the demonstration model and paths only.
    pub library: Option<LibraryConfig>,
}

/// How a node takes part in a cluster.
#[derive(Debug, Clone, Default)]
pub struct NetworkConfig {
    /// Interfaces to bind and send on, by name; empty for all.
    pub interfaces: Vec<String>,
    /// UDP port to prefer; any other if it is taken. 0 for any.
    pub port: u16,
    /// A ticket of the cluster to join.
    pub join: Option<String>,
}

/// A model that requests may name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelEntry {
    /// Its name.
    pub id: String,
    /// When it was placed, in seconds since 1970.
    pub created_s: u64,
    /// Positions of a sequence.
    pub n_ctx: u32,
    /// Number of layers.
    pub n_layer: u32,
    /// The architecture's name.
    pub architecture: String,
    /// Size of its files.
    pub n_bytes: u64,
}

/// A node as this one sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeStatus {
    /// What it publishes.
    pub record: NodeRecord,
    /// Whether it is this node.
    pub is_self: bool,
    /// `alive`, `suspect` or `dead`.
    pub liveness: String,
    /// Round-trip time of the connection, if one stands.
    pub rtt: Option<Duration>,
    /// How it feels, as its last heartbeat said.
    pub vitals: Option<Vitals>,
}

/// An instance as this node sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct InstanceStatus {
    /// The shared record.
    pub record: InstanceRecord,
    /// `placing`, `fetching`, `loading`, `ready`, `healing` or `failed`.
    pub state: &'static str,
    /// Why it failed, or what it waits for.
    pub why: Option<String>,
    /// Bytes that its nodes have, and need, while they fetch.
    pub progress: Option<(u64, u64)>,
    /// Answers of it that this node drives.
    pub n_requests: usize,
    /// Speed of one conversation as the planner predicted it, in tokens per second.
    pub predicted_per_s: Option<f64>,
    /// The same as measured over the latest answers that this node drove.
    pub measured_per_s: Option<f64>,
}

/// What a user's text names.
#[derive(Debug)]
pub(crate) enum Named {
    /// Files that the library brings.
    Files(ModelFiles),
    /// The demonstration model, or a path.
    Here(String),
}

/// A running node. Clones are handles to the same one.
#[derive(Debug, Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    id: NodeId,
    config: Config,
    endpoint: Option<Endpoint>,
    library: Option<Library>,
    models: Models,
    obtaining: Obtaining,
    peers: Arc<Peers>,
    router: Arc<Router>,
    sequences: Arc<Sequences>,
    /// The stages that run here.
    stages: Mutex<HashMap<InstanceId, StageRecord>>,
    started_s: u64,
    tasks: TaskTracker,
    cancel: CancellationToken,
    /// Keeps other processes away from the data directory.
    _lock: Option<File>,
}

impl Node {
    /// Starts a node: alone, or with its endpoint bound and, given a ticket, its cluster joined.
    ///
    /// # Errors
    /// If the data directory cannot be used, the network not be bound, or the ticket not be redeemed.
    pub async fn start(config: Config) -> Result<Self, Error> {
        let tasks = TaskTracker::new();
        let cancel = CancellationToken::new();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let isa = crate::compute(Some(1), config.isa.as_deref())?.isa().to_string();
        let ticket = match config.network.as_ref().and_then(|network| network.join.as_deref()) {
            Some(text) => Some(text.parse::<Ticket>().map_err(Error::Ticket)?),
            None => None,
        };
        let lock = config.data_dir.as_deref().map(data_dir::claim).transpose()?;
        let (id, endpoint) = match &config.network {
            None => (NodeId([0; 32]), None),
            Some(network) => {
                let (identity, secret) = credentials(&config, ticket.as_ref())?;
                let endpoint = bind(network, identity, secret).await?;
                (endpoint.id(), Some(endpoint))
            }
        };
        let record = NodeRecord {
            id,
            version: u64::try_from(now.as_millis()).unwrap_or_default(),
            run: crate::random_u64()?,
            name: config.name.clone(),
            addrs: endpoint.as_ref().map(Endpoint::addrs).unwrap_or_default(),
            software: env!("CARGO_PKG_VERSION").to_owned(),
            isa,
            memory_bytes: crate::memory::available_bytes().unwrap_or(MEMORY_BYTES_DEFAULT),
            profile: None,
            models: Vec::new(),
            stages: Vec::new(),
            links: Vec::new(),
        };
        let remembered = config.data_dir.as_ref().map(|dir| dir.join("peers"));
        let peers = Peers::new(endpoint.clone(), record, remembered, &tasks, &cancel);
        let library = config.library.clone().map(Library::open).transpose()?;
        if let (Some(library), Some(endpoint)) = (&library, &endpoint) {
            library.join(ClusterFiles::new(id, endpoint.clone(), Arc::clone(&peers)));
        }
        let network = endpoint.clone().map(|endpoint| (endpoint, Arc::clone(&peers)));
        let router = Router::start(id, network, &tasks, &cancel);
        let inner = Arc::new(Inner {
            id,
            config,
            endpoint,
            library,
            models: Models::default(),
            obtaining: Obtaining::default(),
            peers: Arc::clone(&peers),
            router,
            sequences: Arc::new(Sequences::new(u64::try_from(now.as_nanos()).unwrap_or_default())),
            stages: Mutex::default(),
            started_s: now.as_secs(),
            tasks,
            cancel,
            _lock: lock,
        });
        peers.start(&inner);
        if let Some(ticket) = ticket {
            let joined = peers.dial(ticket.node(), ticket.addrs(), &inner).await;
            if let Err(error) = joined {
                Self { inner }.shutdown().await;
                return Err(Error::join(error));
            }
            info!(peer = %ticket.node().short(), "joined");
        }
        Ok(Self { inner })
    }

    /// The node's identity; all zero for a node without a network.
    pub fn id(&self) -> NodeId {
        self.inner.id
    }

    /// The node's name.
    pub fn name(&self) -> &str {
        &self.inner.config.name
    }

    /// Starts to answer a request. What is wrong with the request itself is an error here; what fails later is an event.
    ///
    /// # Errors
    /// If the model is unknown, a parameter is out of range, or the prompt does not fit.
    pub async fn generate(&self, request: GenerateRequest) -> Result<Generation, Error> {
        check(&request)?;
        let instance = self.instance_for(&request.model)?;
        let opened = self.inner.open(&instance.model).await?;
        let prompt = tokenize(&opened, &request.prompt)?;
        let n_ctx = instance.n_ctx;
        let n_prompt = u32::try_from(prompt.len()).unwrap_or(u32::MAX);
        if n_prompt >= n_ctx {
            return Err(Error::ContextFull { n_prompt, n_ctx });
        }
        let (sender, events) = mpsc::channel(generate::EVENTS_MAX);
        let ctx = driver::Context {
            id: self.inner.id,
            router: Arc::clone(&self.inner.router),
            peers: Arc::clone(&self.inner.peers),
            sequences: Arc::clone(&self.inner.sequences),
        };
        let job = Job { opened, instance, request, prompt };
        self.inner.tasks.spawn(driver::drive(ctx, job, sender));
        Ok(Generation { events })
    }

    /// The models that requests may name.
    pub async fn models(&self) -> Vec<ModelEntry> {
        let mut models: Vec<ModelEntry> = Vec::new();
        for instance in self.newest_instances() {
            if models.iter().any(|model| model.id == instance.model.name) {
                continue;
            }
            let Ok(opened) = self.inner.open(&instance.model).await else { continue };
            models.push(ModelEntry {
                id: instance.model.name.clone(),
                created_s: self.inner.started_s,
                n_ctx: instance.n_ctx,
                n_layer: instance.model.n_layer,
                architecture: opened.model.hparams().architecture.clone(),
                n_bytes: opened.source.gguf.n_bytes(),
            });
        }
        models.sort_by(|a, b| a.id.cmp(&b.id));
        models
    }

    /// This node, then its peers by name.
    pub fn nodes(&self) -> Vec<NodeStatus> {
        let peers = &self.inner.peers;
        let mut nodes: Vec<NodeStatus> = peers.read(|state, now| {
            let status = |record: &NodeRecord| NodeStatus {
                record: record.clone(),
                is_self: false,
                liveness: state.liveness(record.id, now).as_str().to_owned(),
                rtt: None,
                vitals: None,
            };
            state.members().map(|member| status(&member.record)).collect()
        });
        nodes.iter_mut().for_each(|node| node.rtt = peers.rtt(node.record.id));
        nodes.sort_by(|a, b| (&a.record.name, a.record.id).cmp(&(&b.record.name, b.record.id)));
        let record = peers.record();
        nodes.insert(
            0,
            NodeStatus { record, is_self: true, liveness: "alive".into(), rtt: None, vitals: None },
        );
        nodes
    }

    /// The instances that this node knows.
    pub fn instances(&self) -> Vec<InstanceStatus> {
        self.newest_instances().into_iter().map(|record| self.status(record)).collect()
    }

    /// Places a model over `n_nodes` nodes, this one first, and waits until every stage is ready.
    ///
    /// # Errors
    /// If the model cannot be opened here or there, does not fit, or there are too few nodes.
    pub async fn place(&self, request: PlaceRequest) -> Result<InstanceStatus, Error> {
        let PlaceRequest { model, min_nodes, n_ctx, .. } = request;
        let (model, n_nodes) = (model.as_str(), min_nodes.unwrap_or(1));
        let named = self.resolve(model).await?;
        let opened = match &named {
            Named::Files(files) => {
                self.inner.models.open_files(self.library(model)?, files).await?
            }
            Named::Here(name) => self.inner.models.open(name).await?,
        };
        let trained = opened.model.hparams().n_ctx_train;
        let n_ctx = n_ctx.or(self.inner.config.n_ctx).unwrap_or(N_CTX_DEFAULT.min(trained));
        if !(1..=trained).contains(&n_ctx) {
            return Err(Error::InvalidParameter {
                name: "context".into(),
                message: format!("expected 1 to {trained} positions, got {n_ctx}"),
            });
        }
        let mut candidates = self.inner.peers.alive();
        candidates.sort_by_key(|record| (std::cmp::Reverse(record.memory_bytes), record.id));
        candidates.insert(0, self.inner.peers.record());
        let candidates: Vec<Candidate> = candidates
            .iter()
            .map(|record| Candidate { node: record.id, memory_bytes: record.memory_bytes })
            .collect();
        let mut reference = opened.reference();
        if n_nodes > 1 && reference.files.is_none() && reference.name != shoal_hub::DEMO {
            // Other nodes need not have the file: they can get it from here.
            reference.files = self.identify(&reference.name).await?;
        }
        let weigh = |layers: LayerRange| opened.stage_bytes(layers, n_ctx);
        let placement = shoal_cluster::place(reference.n_layer, weigh, &candidates, n_nodes)?;
        let id = InstanceId(crate::random_u64()?);
        let (epoch, phase) = (Epoch::first(self.inner.id), Phase::Ready);
        let unload_after_s = None;
        let record =
            InstanceRecord { id, epoch, phase, model: reference, placement, n_ctx, unload_after_s };
        self.obtain_everywhere(&record).await?;
        if let Err(error) = self.load_everywhere(&record).await {
            self.unload_everywhere(&record).await;
            return Err(error);
        }
        self.inner.peers.apply(ClusterEvent::Instance(record.clone()));
        let peers = self.inner.records_of(&record);
        self.inner.peers.tell_all(&Request::Publish { instance: record.clone(), peers }).await;
        info!(model = %record.model.name, n_stages = record.placement.stages.len(), "placed");
        Ok(self.status(record))
    }

    /// Drops an instance everywhere.
    ///
    /// # Errors
    /// If this node does not know it.
    pub async fn unplace(&self, instance: InstanceId) -> Result<(), Error> {
        let record = self.inner.peers.read(|state, _| state.instance(instance).cloned());
        let record = record.ok_or(Error::UnknownInstance { id: instance })?;
        self.unload_everywhere(&record).await;
        Ok(())
    }

    /// Says how a model would be placed and how fast it would be, without placing it.
    ///
    /// # Errors
    /// As [`place`](Self::place).
    pub async fn plan(&self, request: PlaceRequest) -> Result<PlanReport, Error> {
        Err(Error::UnknownModel { name: request.model, known: Vec::new() })
    }

    /// Joins another cluster and leaves the present one.
    ///
    /// # Errors
    /// If the ticket is not good, or its node does not answer.
    pub async fn join(&self, ticket: &str) -> Result<(), Error> {
        ticket.parse::<Ticket>().map_err(Error::Ticket)?;
        Err(Error::Offline)
    }

    /// Leaves the cluster for good; the node is alone afterwards.
    ///
    /// # Errors
    /// If the node has no network.
    pub async fn leave(&self) -> Result<(), Error> {
        Err(Error::Offline)
    }

    /// Removes a node from the cluster for good: its key is refused from now on.
    ///
    /// # Errors
    /// If the node is unknown or this one.
    pub async fn forget(&self, node: NodeId) -> Result<(), Error> {
        Err(Error::UnknownNode { node })
    }

    /// What stands between this node and its peers.
    pub async fn doctor(&self) -> Vec<Finding> {
        Vec::new()
    }

    /// Returns a ticket that admits another device to this node's cluster.
    ///
    /// # Errors
    /// If the node has no network.
    pub fn invite(&self, _options: InviteOptions) -> Result<String, Error> {
        self.inner.endpoint.as_ref().map(|it| it.ticket().to_string()).ok_or(Error::Offline)
    }

    /// Ends the node: requests are cancelled, stages end, connections close.
    pub async fn shutdown(&self) {
        self.inner.cancel.cancel();
        self.inner.tasks.close();
        if let Some(library) = &self.inner.library {
            library.shutdown().await;
        }
        if let Some(endpoint) = &self.inner.endpoint {
            endpoint.close().await;
        }
        if tokio::time::timeout(SHUTDOWN_TIMEOUT, self.inner.tasks.wait()).await.is_err() {
            warn!("some tasks did not end in time");
        }
    }

    pub(crate) fn inner(&self) -> &Inner {
        &self.inner
    }

    /// The library, for a model that needs one.
    pub(crate) fn library(&self, model: &str) -> Result<&Library, Error> {
        self.inner.library.as_ref().ok_or_else(|| Error::NoLibrary { name: model.to_owned() })
    }

    /// Instances, the newest placement of each model first: those that this node can use at once before the others.
    fn newest_instances(&self) -> Vec<InstanceRecord> {
        let placed = self.inner.stages_here();
        let mut instances: Vec<InstanceRecord> =
            self.inner.peers.read(|state, _| state.instances().cloned().collect());
        instances.retain(|record| record.phase == Phase::Ready);
        instances.sort_by_key(|record| {
            let n_stages = record.placement.stages.len();
            (std::cmp::Reverse(n_stages), !placed.contains_key(&record.id), record.id)
        });
        instances
    }

    /// The instance that answers for a model: by its id, else the one whose every node lives and that was spread widest, since
    /// somebody asked for that by hand.
    fn instance_for(&self, model: &str) -> Result<InstanceRecord, Error> {
        let instances = self.newest_instances();
        let names =
            |record: &&InstanceRecord| record.model.name == model || record.id.to_string() == model;
        let ready = instances.iter().filter(names).find(|record| self.missing(record).is_none());
        match ready.or_else(|| instances.iter().find(names)) {
            Some(record) => match self.missing(record) {
                None => Ok(record.clone()),
                Some((node, layers)) => Err(Error::StageLost { node, layers }),
            },
            None => {
                let mut known: Vec<String> =
                    instances.into_iter().map(|record| record.model.name).collect();
                known.sort();
                known.dedup();
                Err(Error::UnknownModel { name: model.to_owned(), known })
            }
        }
    }

    /// A stage of an instance whose node is dead.
    fn missing(&self, record: &InstanceRecord) -> Option<(NodeId, LayerRange)> {
        self.inner.peers.read(|state, now| {
            let dead = shoal_cluster::Liveness::Dead;
            let mut stages = record.placement.stages.iter();
            stages
                .find(|stage| state.liveness(stage.node, now) == dead)
                .map(|stage| (stage.node, stage.layers))
        })
    }

    fn status(&self, record: InstanceRecord) -> InstanceStatus {
        let missing = self.missing(&record);
        let why = missing
            .map(|(node, layers)| format!("layers {layers} lost with node {}", node.short()));
        InstanceStatus {
            state: if why.is_some() { "healing" } else { record.phase.as_str() },
            record,
            why,
            progress: None,
            n_requests: 0,
            predicted_per_s: None,
            measured_per_s: None,
        }
    }

    /// Loads every stage, all nodes at once.
    async fn load_everywhere(&self, record: &InstanceRecord) -> Result<(), Error> {
        let loads = record.placement.stages.iter().map(|stage| async {
            if stage.node == self.inner.id {
                return self.inner.load(record).await;
            }
            let peers = self.inner.records_of(record);
            let request = Request::Load { instance: record.clone(), peers };
            match self.inner.peers.ask(stage.node, &request, LOAD_TIMEOUT).await? {
                Response::Ok => Ok(()),
                Response::Refused { message } => {
                    Err(Error::LoadRefused { node: stage.node, message })
                }
                other => Err(Error::LoadRefused {
                    node: stage.node,
                    message: format!("an answer that does not fit: {other:?}"),
                }),
            }
        });
        futures_util::future::try_join_all(loads).await.map(|_| ())
    }

    async fn unload_everywhere(&self, record: &InstanceRecord) {
        let dropped = InstanceRecord { phase: Phase::Dropped, ..record.clone() };
        self.inner.take_in(dropped.clone());
        let request = Request::Publish { instance: dropped, peers: Vec::new() };
        self.inner.peers.tell_all(&request).await;
    }
}

impl Inner {
    pub(crate) fn library(&self) -> Option<&Library> {
        self.library.as_ref()
    }

    pub(crate) fn obtaining(&self) -> &Obtaining {
        &self.obtaining
    }

    pub(crate) fn peers(&self) -> &Peers {
        &self.peers
    }

    pub(crate) fn models(&self) -> &Models {
        &self.models
    }

    /// Runs a task until the node ends.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let cancel = self.cancel.clone();
        self.tasks.spawn(async move { cancel.run_until_cancelled(task).await });
    }

    /// Runs this node's stage of an instance.
    async fn load(&self, record: &InstanceRecord) -> Result<(), Error> {
        let stages = &record.placement.stages;
        let stage_idx = stages
            .iter()
            .position(|stage| stage.node == self.id)
            .ok_or(Error::UnknownInstance { id: record.id })?;
        let opened = self.open(&record.model).await?;
        if opened.source.fingerprint != record.model.fingerprint {
            return Err(Error::DifferentModel { name: record.model.name.clone() });
        }
        if !record.placement.covers(opened.model.n_layer())
            || !(1..=opened.model.hparams().n_ctx_train).contains(&record.n_ctx)
        {
            return Err(Error::StageFailed {
                message: "the placement does not fit the model".into(),
            });
        }
        if let (Some(library), Some(files)) = (&self.library, &opened.files) {
            // It is there if it was obtained before; a hole in the file would be read as zeros.
            library.obtain(files, models::stage(stages[stage_idx].layers)).await?;
        }
        let spec = Spec {
            instance: record.clone(),
            stage_idx,
            n_threads: self.config.n_threads,
            isa: self.config.isa.clone(),
        };
        let model = Arc::clone(&opened.model);
        let runner = RunnerHandle::start(spec, model, self.router.outbox()).await?;
        self.router.add_runner(record.id, record.epoch, runner);
        let layers = stages[stage_idx].layers;
        let n_bytes = opened.stage_bytes(layers, record.n_ctx);
        let stage = StageRecord { instance: record.id, epoch: record.epoch, layers, n_bytes };
        self.stages_here().insert(record.id, stage);
        self.publish_stages();
        Ok(())
    }

    /// Opens the model that a record refers to.
    async fn open(&self, reference: &ModelRef) -> Result<Arc<Opened>, Error> {
        self.models.open_ref(self.library.as_ref(), reference).await
    }

    /// The records of the nodes that run an instance's stages.
    fn records_of(&self, instance: &InstanceRecord) -> Vec<NodeRecord> {
        let own = self.peers.record();
        self.peers.read(|state, _| {
            let record = |id| if id == own.id { Some(&own) } else { state.record(id) };
            let stages = instance.placement.stages.iter();
            stages.filter_map(|stage| record(stage.node).cloned()).collect()
        })
    }

    /// Takes in an instance as somebody says it is now, and ends the stage that it outdates.
    fn take_in(&self, instance: InstanceRecord) {
        let (id, epoch, is_dropped) =
            (instance.id, instance.epoch, instance.phase == Phase::Dropped);
        self.peers.apply(ClusterEvent::Instance(instance));
        if is_dropped {
            self.sequences.forget(id);
            if self.router.remove_runner(id, epoch) {
                self.stages_here().remove(&id);
                self.publish_stages();
            }
        }
    }

    fn publish_stages(&self) {
        let mut stages: Vec<StageRecord> = self.stages_here().values().cloned().collect();
        stages.sort_by_key(|stage| stage.instance);
        self.peers.set_stages(stages);
    }

    fn stages_here(&self) -> MutexGuard<'_, HashMap<InstanceId, StageRecord>> {
        self.stages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Handler for Inner {
    async fn handle(&self, peer: NodeId, request: Request) -> Response {
        match request {
            Request::Load { instance, peers } => {
                self.peers.meet(peers);
                match self.load(&instance).await {
                    Ok(()) => Response::Ok,
                    Err(error) => {
                        warn!(peer = %peer.short(), %error, "stage refused");
                        Response::Refused { message: crate::error::chain(&error) }
                    }
                }
            }
            Request::Publish { instance, peers } => {
                self.peers.meet(peers);
                self.take_in(instance);
                Response::Ok
            }
            Request::Obtain { model, layers } => self.answer_obtain(model, layers),
            Request::FindModel { .. } | Request::Holding { .. } | Request::Hashes { .. } => {
                self.answer_about_files(peer, request).await
            }
            Request::Hello { .. }
            | Request::Heartbeat { .. }
            | Request::Roll(_)
            | Request::Leave
            | Request::Echo { .. }
            | Request::Progress { .. }
            | Request::StageLost { .. } => {
                Response::Refused { message: "answered by the control plane itself".into() }
            }
        }
    }

    async fn peer_lost(&self, peer: NodeId) {
        self.router.drop_peer(peer).await;
    }

    fn connection(&self, connection: Connection) {
        match (connection.plane(), &self.library) {
            (Plane::Transfer, Some(library)) => {
                self.spawn(files::give(library.clone(), connection));
            }
            (Plane::Transfer, None) => connection.close("this node keeps no models"),
            _ => self.router.accept(connection),
        }
    }
}

/// Binds the endpoint, on the preferred port if it is free.
async fn bind(
    network: &NetworkConfig,
    identity: Identity,
    secret: ClusterSecret,
) -> Result<Endpoint, shoal_net::Error> {
    let interfaces = match network.interfaces.as_slice() {
        [] => Interfaces::All,
        names => Interfaces::Named(names.to_vec()),
    };
    let timing = Timing::default();
    let config = EndpointConfig { identity, secret, interfaces, port: network.port, timing };
    match Endpoint::bind(config.clone()).await {
        Err(shoal_net::Error::Bind { .. }) if network.port != 0 => {
            Endpoint::bind(EndpointConfig { port: 0, ..config }).await
        }
        bound => bound,
    }
}

/// The node's key and its cluster's secret: from the data directory, from a ticket, or new.
fn credentials(
    config: &Config,
    ticket: Option<&Ticket>,
) -> Result<(Identity, ClusterSecret), Error> {
    let dir = config.data_dir.as_deref();
    let identity = match dir {
        Some(dir) => Identity::load_or_create(&dir.join("identity"))?,
        None => Identity::generate()?,
    };
    let path = dir.map(|dir| dir.join("cluster-secret"));
    let secret = match (ticket, path) {
        (Some(ticket), Some(path)) => {
            ticket.secret().save(&path)?;
            ticket.secret().clone()
        }
        (Some(ticket), None) => ticket.secret().clone(),
        (None, Some(path)) => ClusterSecret::load_or_create(&path)?,
        (None, None) => ClusterSecret::generate()?,
    };
    Ok((identity, secret))
}

fn check(request: &GenerateRequest) -> Result<(), Error> {
    let invalid =
        |name: &str, message: String| Error::InvalidParameter { name: name.into(), message };
    request.sampling.validate().map_err(|error| invalid(error.name, error.to_string()))?;
    if request.max_tokens == Some(0) {
        return Err(invalid("max_tokens", "expected at least 1, got 0".into()));
    }
    if request.stop.len() > STOPS_MAX {
        let message = format!("expected at most {STOPS_MAX}, got {}", request.stop.len());
        return Err(invalid("stop", message));
    }
    if request.stop.iter().any(String::is_empty) {
        return Err(invalid("stop", "expected text, got an empty string".into()));
    }
    if matches!(&request.prompt, Prompt::Chat(messages) if messages.is_empty()) {
        return Err(invalid("messages", "expected at least one message, got none".into()));
    }
    Ok(())
}

fn tokenize(opened: &Opened, prompt: &Prompt) -> Result<Vec<u32>, Error> {
    let tokenizer = &opened.tokenizer;
    let tokens = match prompt {
        Prompt::Raw(text) => tokenizer.encode_prompt(text, false),
        Prompt::Chat(messages) => {
            let template = opened
                .template
                .as_ref()
                .map_err(|error| Error::Template { message: crate::error::chain(error) })?;
            let text = template
                .render(messages, true, None)
                .map_err(|error| Error::Template { message: crate::error::chain(&error) })?;
            tokenizer.encode_prompt(&text, true)
        }
    };
    if tokens.is_empty() {
        return Err(Error::InvalidParameter {
            name: "prompt".into(),
            message: "expected at least one token, got none".into(),
        });
    }
    Ok(tokens)
}
