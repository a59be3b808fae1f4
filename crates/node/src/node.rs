//! The node itself: it ties the parts together and carries out what the API and the command line ask for.

use std::{
    collections::HashMap,
    fs::File,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use shoal_cluster::{Event as ClusterEvent, timeline::Patience};
use shoal_hub::{Library, LibraryConfig};
use shoal_net::{
    Connection, Discovery, Endpoint, EndpointConfig, Identity, Interfaces, Membership, Plane,
    Ticket, Timing,
};
use shoal_proto::{
    Epoch, InstanceId, NodeId,
    control::{DrainCause, ModelRef, NodeRecord, Request, Response, Vitals},
    model::ModelFiles,
};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use crate::{
    InstanceStatus, RunnerCommand, RunnerStatus,
    chats::{Chats, exchange},
    data_dir, drain,
    driver::{self, Job},
    error::Error,
    files::{self, ClusterFiles},
    generate::{self, GenerateRequest, Generation, Prompt},
    history,
    instances::{self, Instances, LostStages},
    instruments::{self, Instruments},
    inventory, journal, kept,
    models::{Models, Opened},
    network,
    obtain::Obtaining,
    outlook,
    peers::{Handler, Peers},
    queue::Queues,
    requests::Caller,
    router::Router,
    sequences::Sequences,
    settings::SettingsCell,
    totals::Totals,
    trace::Trace,
    vouch,
};

/// Positions of a sequence unless the user asks for another number: what a phone's memory bears with a 3B model.
pub(crate) const N_CTX_DEFAULT: u32 = 4096;
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
    /// What the device's maker calls it, for people; empty if that is not known.
    pub device: String,
    /// Whether that name holds whatever the settings say.
    pub is_name_fixed: bool,
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
    /// Answers of an instance that this node drives at once, later requests wait; `None` for eight.
    pub parallel: Option<usize>,
    /// How long a model that a request placed stays without another request; `None` for ten minutes.
    pub unload_after: Option<Duration>,
    /// Whether instances move by themselves to placements that are much better, since a device has joined. Without it that is
    /// only suggested.
    pub auto: bool,
    /// How long an answer waits for stages that are silent or lost.
    pub patience: Patience,
    /// How the processes of runners are started, on Unix; `None` runs every stage in a thread of this process.
    pub runner: Option<RunnerCommand>,
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
    /// Whether to look for members in the local network, and to answer those who look. Without it, members find each other by
    /// tickets, by `peers`, and where they were last.
    pub discovery: bool,
    /// Where members may be: addresses to look at first.
    pub peers: Vec<SocketAddr>,
    /// A relay of the user's own, for networks whose devices cannot reach each other.
    pub relay: Option<String>,
    /// The version of Termux, where the node runs in it: the one from the Play Store cannot reach the local network.
    pub termux_version: Option<String>,
    /// Whether the data directory is known to be this device's own, although its key looks copied.
    pub adopt_identity: bool,
}

impl NetworkConfig {
    /// The interfaces to use.
    pub(crate) fn chosen(&self) -> Interfaces {
        match self.interfaces.as_slice() {
            [] => Interfaces::All,
            names => Interfaces::Named(names.to_vec()),
        }
    }
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
    membership: Option<Membership>,
    library: Option<Library>,
    models: Models,
    obtaining: Obtaining,
    peers: Arc<Peers>,
    router: Arc<Router>,
    sequences: Arc<Sequences>,
    queues: Arc<Queues>,
    pub(crate) instruments: Instruments,
    pub(crate) instances: Arc<Instances>,
    pub(crate) settings: SettingsCell,
    chats: Chats,
    exchange: exchange::Exchange,
    /// Finds members, and knows what it saw of the network.
    discovery: OnceLock<Discovery>,
    /// When the bandwidth of the link to a peer was measured last.
    bandwidths: Mutex<HashMap<NodeId, Instant>>,
    started_s: u64,
    tasks: TaskTracker,
    cancel: CancellationToken,
    /// Keeps other processes away from the data directory, as long as the node runs.
    lock: Mutex<Option<File>>,
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
        let compute = crate::compute(Some(1), config.isa.as_deref())?;
        let ticket = config.network.as_ref().and_then(|network| network.join.as_deref());
        let ticket = ticket.map(str::parse::<Ticket>).transpose().map_err(Error::Ticket)?;
        let lock = config.data_dir.as_deref().map(data_dir::claim).transpose()?;
        let online = match &config.network {
            None => None,
            Some(network) => Some(go_online(&config, network).await?),
        };
        let endpoint = online.as_ref().map(|online| online.endpoint.clone());
        let membership = online.as_ref().map(|online| online.membership.clone());
        let id = endpoint.as_ref().map_or(NodeId([0; 32]), Endpoint::id);
        let run = crate::random_u64()?;
        let memory_bytes = crate::memory::available_bytes().unwrap_or(MEMORY_BYTES_DEFAULT);
        let settings = SettingsCell::load(&config, memory_bytes);
        let mut record = own_record(&settings, id, run, endpoint.as_ref(), now);
        (record.isa, record.device) = (compute.isa().to_string(), config.device.clone());
        // What is alone for one answer has nothing to keep.
        let kept_in = config.data_dir.clone().filter(|_| online.is_some());
        let remembered = kept_in.as_ref().map(|dir| dir.join(kept::PEERS));
        let kept = kept_in.as_deref().map(kept::load_instances).unwrap_or_default();
        let peers =
            Peers::new(endpoint.clone(), membership.clone(), record, remembered, &tasks, &cancel);
        let library = config.library.clone().map(Library::open).transpose()?;
        if let (Some(library), Some(endpoint)) = (&library, &endpoint) {
            library.join(ClusterFiles::new(id, endpoint.clone(), Arc::clone(&peers)));
        }
        let network = endpoint.clone().map(|endpoint| (endpoint, Arc::clone(&peers)));
        let router = Router::start(id, network, &tasks, &cancel);
        let queues = Queues::new(settings.get().parallel);
        let (instances, lost) = Instances::new();
        let chats = open_chats(kept_in.clone(), id).await?;
        let inner = Arc::new(Inner {
            id,
            config,
            endpoint,
            membership,
            library,
            models: Models::default(),
            obtaining: Obtaining::default(),
            peers: Arc::clone(&peers),
            router,
            sequences: Arc::new(Sequences::new(u64::try_from(now.as_millis()).unwrap_or_default())),
            queues,
            instances,
            chats,
            exchange: exchange::Exchange::default(),
            instruments: Instruments::default(),
            settings,
            discovery: OnceLock::new(),
            bandwidths: Mutex::default(),
            started_s: now.as_secs(),
            tasks,
            cancel,
            lock: Mutex::new(lock),
        });
        inner.obey_settings();
        // Before anybody is met: who asks for the instances of a node that has just started gets all that it knew.
        kept::say(&kept);
        peers.restore(kept.clone());
        peers.start(&inner);
        let node = Self { inner };
        node.resume_stages(kept);
        if let Err(error) = node.start_tasks(online, ticket, run, lost).await {
            node.shutdown().await;
            return Err(error);
        }
        Ok(node)
    }

    /// Starts what goes on beside requests: discovery, measuring, tidying up; and joins the cluster of a ticket.
    async fn start_tasks(
        &self,
        online: Option<Online>,
        ticket: Option<Ticket>,
        run: u64,
        lost: LostStages,
    ) -> Result<(), Error> {
        let inner = &self.inner;
        inner.spawn(instances::watch_stages(Arc::clone(inner), lost));
        inner.spawn(inventory::publish(Arc::clone(inner)));
        inner.spawn(instruments::watch(Arc::clone(inner)));
        instruments::calibrate(inner);
        if let Some(dir) = inner.config.data_dir.clone().filter(|_| online.is_some()) {
            // It ends by itself, with the last word on disk.
            inner.tasks.spawn(kept::keep(Arc::clone(inner), dir));
        }
        let node = self.clone();
        inner.spawn(async move {
            let mut checks = tokio::time::interval(instances::IDLE_CHECK);
            loop {
                checks.tick().await;
                node.drop_idle().await;
            }
        });
        inner.spawn(vouch::keep(Arc::clone(inner)));
        let Some(Online { endpoint, membership }) = online else { return Ok(()) };
        // The first of its events, whatever the tasks do first.
        inner.instruments.journal.note(journal::words::started(inner.id, &self.name()));
        let discovery = network::start_discovery(inner, run)?;
        inner.spawn(network::follow_addrs(Arc::clone(inner), endpoint, discovery.clone()));
        inner.spawn(network::pass_on_rolls(Arc::clone(inner), membership.clone()));
        inner.spawn(network::publish_links(Arc::clone(inner)));
        inner.spawn(drain::feel(Arc::clone(inner)));
        inner.spawn(journal::watch(self.clone()));
        inner.spawn(history::keep(Arc::clone(inner)));
        inner.spawn(exchange::run(Arc::clone(inner)));
        inner.spawn(outlook::watch(self.clone()));
        inner.spawn(outlook::pace(self.clone()));
        if let Some(discovery) = discovery {
            let _ = inner.discovery.set(discovery.clone());
            inner.spawn(network::discover(Arc::clone(inner), discovery, membership.clone()));
        }
        let Some(ticket) = ticket else { return Ok(()) };
        if !membership.is_member(ticket.node()) {
            return self.join_by(&ticket).await;
        }
        // The ticket of a cluster that this node has joined before: a start script keeps it for ever.
        let (node, addrs) = (ticket.node(), ticket.addrs().to_vec());
        inner.peers.apply(ClusterEvent::Hint { node, addrs });
        Ok(())
    }

    /// The node's identity; all zero for a node without a network.
    pub fn id(&self) -> NodeId {
        self.inner.id
    }

    /// The node's name.
    pub fn name(&self) -> String {
        self.inner.settings.get().name
    }

    /// The chats of the cluster.
    pub fn chats(&self) -> &Chats {
        &self.inner.chats
    }

    /// Where this node can be reached by its peers; nowhere without a network.
    pub fn addrs(&self) -> Vec<SocketAddr> {
        self.inner.endpoint.as_ref().map(Endpoint::addrs).unwrap_or_default()
    }

    /// Starts to answer a request. What is wrong with the request itself is an error here; what fails later is an event.
    ///
    /// # Errors
    /// If the model is unknown, a parameter is out of range, the prompt does not fit, or too many requests wait.
    pub async fn generate(&self, request: GenerateRequest) -> Result<Generation, Error> {
        self.generate_for(request, Caller::default()).await
    }

    /// The same for somebody of whom something is known.
    ///
    /// # Errors
    /// As [`generate`](Self::generate).
    pub async fn generate_for(
        &self,
        request: GenerateRequest,
        caller: Caller,
    ) -> Result<Generation, Error> {
        let received = std::time::Instant::now();
        check(&request)?;
        let instance = self.instance_for(&request.model).await?;
        let opened = self.inner.open(&instance.model).await?;
        let prompt = tokenize(&opened, &request.prompt)?;
        let n_ctx = instance.n_ctx;
        let n_prompt = u32::try_from(prompt.len()).unwrap_or(u32::MAX);
        if n_prompt >= n_ctx {
            return Err(Error::ContextFull { n_prompt, n_ctx });
        }
        let mut turn = self.inner.queues.enter(instance.id, self.n_fitting(&instance, &opened))?;
        let witness = self.witness(caller, &instance, n_prompt, received);
        let (sender, events) = mpsc::channel(generate::EVENTS_MAX);
        let ctx = driver::Context {
            id: self.inner.id,
            router: Arc::clone(&self.inner.router),
            peers: Arc::clone(&self.inner.peers),
            sequences: Arc::clone(&self.inner.sequences),
            instances: Arc::clone(&self.inner.instances),
            instruments: self.inner.instruments.clone(),
            patience: self.inner.config.patience,
        };
        let prepared = received.elapsed();
        let job = Job { opened, instance, request, prompt, received, prepared };
        let cancel = self.inner.cancel.clone();
        self.inner.tasks.spawn(async move {
            if cancel.run_until_cancelled(turn.come(&sender)).await == Some(true) {
                driver::drive(ctx, job, sender).await;
            }
        });
        Ok(Generation { events, witness })
    }

    /// How the runners of this node's stages are doing.
    pub fn runners(&self) -> Vec<RunnerStatus> {
        self.inner.router.runners()
    }

    /// What this node has done since its start.
    pub fn totals(&self) -> Totals {
        self.inner.instruments.traces.totals()
    }

    /// Resident memory of this process at its most, in bytes, if the system tells; and the time since the node's start.
    pub fn process(&self) -> (Option<u64>, Duration) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let uptime = now.saturating_sub(Duration::from_secs(self.inner.started_s));
        (crate::memory::peak_rss_bytes(), uptime)
    }

    /// The latest requests that this node drove, the newest first, without their steps.
    pub fn traces(&self) -> Vec<Trace> {
        self.inner.instruments.traces.list()
    }

    /// Where the time of a request went, if it is one of the latest.
    pub fn trace(&self, id: u64) -> Option<Trace> {
        self.inner.instruments.traces.get(id)
    }

    /// The models that requests may name.
    pub async fn models(&self) -> Vec<ModelEntry> {
        let mut models: Vec<ModelEntry> = Vec::new();
        for InstanceStatus { record: instance, .. } in self.instances() {
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
                vitals: state.vitals(record.id).copied(),
            };
            state.members().map(|member| status(&member.record)).collect()
        });
        nodes.iter_mut().for_each(|node| node.rtt = peers.rtt(node.record.id));
        nodes.sort_by(|a, b| (&a.record.name, a.record.id).cmp(&(&b.record.name, b.record.id)));
        let (record, vitals) = (peers.record(), peers.vitals(self.inner.id));
        let own = NodeStatus { record, is_self: true, liveness: "alive".into(), rtt: None, vitals };
        nodes.insert(0, own);
        nodes
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
        *self.inner.lock.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    pub(crate) fn inner(&self) -> &Inner {
        &self.inner
    }

    /// A handle for a task of its own.
    pub(crate) fn share(&self) -> Arc<Inner> {
        Arc::clone(&self.inner)
    }

    pub(crate) fn of(inner: &Arc<Inner>) -> Self {
        Self { inner: Arc::clone(inner) }
    }

    /// The library, for a model that needs one.
    pub(crate) fn library(&self, model: &str) -> Result<&Library, Error> {
        self.inner.library.as_ref().ok_or_else(|| Error::NoLibrary { name: model.to_owned() })
    }
}

impl Inner {
    pub(crate) fn library(&self) -> Option<&Library> {
        self.library.as_ref()
    }

    pub(crate) fn endpoint(&self) -> Option<&Endpoint> {
        self.endpoint.as_ref()
    }

    pub(crate) fn membership(&self) -> Option<&Membership> {
        self.membership.as_ref()
    }

    pub(crate) fn discovery(&self) -> Option<&Discovery> {
        self.discovery.get()
    }

    pub(crate) fn bandwidths(&self) -> MutexGuard<'_, HashMap<NodeId, Instant>> {
        self.bandwidths.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    pub(crate) fn router(&self) -> &Arc<Router> {
        &self.router
    }

    pub(crate) fn queues(&self) -> &Queues {
        &self.queues
    }

    pub(crate) fn sequences(&self) -> &Sequences {
        &self.sequences
    }

    pub(crate) fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    pub(crate) fn cancel(&self) -> &CancellationToken {
        &self.cancel
    }

    pub(crate) fn obtaining(&self) -> &Obtaining {
        &self.obtaining
    }

    pub(crate) fn peers(&self) -> &Arc<Peers> {
        &self.peers
    }

    pub(crate) fn models(&self) -> &Models {
        &self.models
    }

    pub(crate) fn chats(&self) -> &Chats {
        &self.chats
    }

    pub(crate) fn exchange(&self) -> &exchange::Exchange {
        &self.exchange
    }

    /// Runs a task until the node ends.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let cancel = self.cancel.clone();
        self.tasks.spawn(async move { cancel.run_until_cancelled(task).await });
    }

    /// Opens the model that a record refers to.
    pub(crate) async fn open(&self, reference: &ModelRef) -> Result<Arc<Opened>, Error> {
        self.models.open_ref(self.library.as_ref(), reference).await
    }
}

impl Handler for Inner {
    async fn handle(self: &Arc<Self>, peer: NodeId, request: Request) -> Response {
        match request {
            Request::Load { instance, peers } => {
                self.peers.meet(peers, self);
                match self.load(&instance).await {
                    Ok(()) => Response::Ok,
                    Err(error) => {
                        warn!(peer = %peer.short(), %error, "stage refused");
                        Response::Refused { message: crate::error::chain(&error) }
                    }
                }
            }
            Request::Progress { instance, epoch, n_bytes, n_total } => {
                self.instances.set_progress(instance, epoch, n_bytes, n_total);
                Response::Ok
            }
            Request::Publish { instance, peers, why } => {
                self.peers.meet(peers, self);
                self.instances.set_why(instance.id, instance.epoch, why);
                self.take_in(instance);
                Response::Ok
            }
            Request::Drain { is_undone } => {
                info!(peer = %peer.short(), is_undone, "drain asked for");
                self.set_draining((!is_undone).then_some(DrainCause::Asked));
                Response::Ok
            }
            Request::Warm { model, layers } => {
                self.start_warming(&model, layers);
                Response::Ok
            }
            Request::Slow { instance, epoch, compute_us } => {
                self.hear_paces(instance, epoch, &compute_us);
                Response::Ok
            }
            Request::Obtain { model, layers } => self.answer_obtain(model, layers),
            Request::Chats(request) => exchange::answer(self, peer, request).await,
            Request::FindModel { .. } | Request::Holding { .. } | Request::Hashes { .. } => {
                self.answer_about_files(peer, request).await
            }
            Request::Hello { .. }
            | Request::Heartbeat { .. }
            | Request::Roll(_)
            | Request::Leave
            | Request::Echo { .. }
            | Request::StageLost { .. }
            | Request::Doubt { .. }
            | Request::Dial => {
                Response::Refused { message: "answered by the control plane itself".into() }
            }
        }
    }

    async fn peer_lost(&self, peer: NodeId) {
        self.router.drop_peer(peer).await;
    }

    fn peer_connected(&self, peer: NodeId) {
        self.router.renew_link(peer);
        self.exchange.meet(peer);
    }

    fn records_changed(&self) {
        self.end_outdated();
    }

    fn heal(self: &Arc<Self>, instance: InstanceId, epoch: Epoch, lost: Vec<NodeId>) {
        let node = Node::of(self);
        self.spawn(async move { node.heal(instance, epoch, lost).await });
    }

    fn move_away(self: &Arc<Self>, instance: InstanceId, epoch: Epoch, leaving: Vec<NodeId>) {
        let node = Node::of(self);
        self.spawn(async move { node.move_away(instance, epoch, leaving).await });
    }

    fn prepare(self: &Arc<Self>, instance: InstanceId, without: Vec<NodeId>) {
        let node = Node::of(self);
        self.spawn(async move { node.prepare(instance, without).await });
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

/// Reads the chats, which may take a while where there are many; none where nothing is kept.
async fn open_chats(dir: Option<PathBuf>, id: NodeId) -> Result<Chats, Error> {
    let Some(dir) = dir else { return Ok(Chats::in_memory(id)) };
    let opened = tokio::task::spawn_blocking(move || Chats::open(&dir, id)).await;
    opened.map_err(|error| Error::StageFailed { message: error.to_string() })
}

/// The network's parts of a node.
struct Online {
    endpoint: Endpoint,
    membership: Membership,
}

/// Reads the node's key and its cluster, or makes them, and binds the endpoint, on the preferred port if it is free.
async fn go_online(config: &Config, network: &NetworkConfig) -> Result<Online, Error> {
    let dir = config.data_dir.as_deref();
    let identity = match dir {
        Some(dir) => {
            let path = dir.join("identity");
            if network.adopt_identity {
                Identity::adopt(&path)?;
            }
            Identity::load_or_create(&path)?
        }
        None => Identity::generate()?,
    };
    let path = dir.map(|dir| dir.join("membership"));
    let membership = Membership::load_or_create(path.as_deref(), identity.id())?;
    let interfaces = network.chosen();
    let relay = network.relay.as_deref().map(str::parse).transpose().map_err(Error::Relay)?;
    let config = EndpointConfig {
        identity,
        membership: membership.clone(),
        interfaces,
        relay,
        port: network.port,
        timing: Timing::default(),
    };
    let endpoint = match Endpoint::bind(config.clone()).await {
        Err(shoal_net::Error::Bind { .. }) if network.port != 0 => {
            Endpoint::bind(EndpointConfig { port: 0, ..config }).await?
        }
        bound => bound?,
    };
    Ok(Online { endpoint, membership })
}

/// What a node that has just started says about itself.
fn own_record(
    settings: &SettingsCell,
    id: NodeId,
    run: u64,
    endpoint: Option<&Endpoint>,
    now: Duration,
) -> NodeRecord {
    NodeRecord {
        version: u64::try_from(now.as_millis()).unwrap_or_default(),
        run,
        name: settings.get().name,
        addrs: endpoint.map(Endpoint::addrs).unwrap_or_default(),
        software: env!("CARGO_PKG_VERSION").to_owned(),
        memory_bytes: settings.memory_share(),
        ..NodeRecord::unknown(id)
    }
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
