//! Where frames go: to a runner or a driver on this node, or over the link to another one.
//!
//! ```text
//!   driver ──► router ──► runner (this node)          runner ──► router ──► link ──► peer's router
//!                └──────► link ──► peer's router                   └──────► driver (this node)
//! ```
//!
//! A frame that cannot be delivered is never dropped silently: the driver of its sequence is told.

use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use shoal_net::{Connection, Endpoint, Plane};
use shoal_proto::{
    Epoch, InstanceId, LayerRange, NodeId, SequenceId,
    control::InstanceRecord,
    frame::{Body, Frame, FrameKey},
};
use tokio::{
    sync::{Notify, mpsc},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, warn};

use crate::{
    peers::Peers,
    runner::{Input, Outgoing, Route, RunnerHandle, RunnerStatus},
};

/// Frames that may wait for a link. A sequence has few steps under way; what is full makes the sender wait.
const LINK_QUEUE_MAX: usize = 256;
/// Frames of one sequence that may wait for its driver.
const DRIVER_QUEUE_MAX: usize = 64;
/// Frames that runners may have given out before the router has taken them.
const OUTBOX_MAX: usize = 256;
/// A peer that does not take a frame within this is as good as gone: three times the longest stall of a healthy phone.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// Frames that a link sends again over a new connection, since the old one may have taken them with it: more than a sequence
/// has under way.
const RESENT_MAX: usize = 16;
/// How long a link to a peer that lives is tried to be mended: several dials that fail.
const GIVE_UP_AFTER: Duration = Duration::from_secs(30);
/// Pause before a link that has failed is dialled again.
const RETRY_PAUSE: Duration = Duration::from_millis(250);
/// How long a dial may take before the peer is asked to dial too: a handshake over a slow WiFi. Doubles with every time that it
/// is asked.
const ASK_AFTER: Duration = Duration::from_millis(500);
/// How old they may be: older ones have arrived, or their driver has noticed.
const RESENT_AGE: Duration = Duration::from_secs(10);

#[derive(Debug)]
struct Placed {
    epoch: Epoch,
    /// What it runs, and for how many positions.
    layers: LayerRange,
    n_ctx: u32,
    /// A newer placement is being made that leaves it as it is: until that, or one after it, is ready nothing reaches it.
    fenced_for: Option<Epoch>,
    /// Held while it is moved, so that what the runner is told last is what holds.
    moving: Arc<tokio::sync::Mutex<()>>,
    runner: RunnerHandle,
    last_used: Instant,
}

/// The way to a link.
#[derive(Debug, Clone)]
struct LinkHandle {
    queue: mpsc::Sender<Frame>,
    /// Tells the link to take a new connection.
    renew: Arc<Notify>,
}

impl Placed {
    /// The epoch that it serves or waits for.
    fn newest(&self) -> Epoch {
        self.fenced_for.unwrap_or(self.epoch)
    }
}

type DriverKey = (InstanceId, SequenceId);

#[derive(Debug, Default)]
struct Tables {
    runners: HashMap<InstanceId, Placed>,
    drivers: HashMap<DriverKey, mpsc::Sender<Frame>>,
    links: HashMap<NodeId, LinkHandle>,
}

/// The router of one node.
#[derive(Debug)]
pub(crate) struct Router {
    id: NodeId,
    tables: Mutex<Tables>,
    outbox: mpsc::Sender<Outgoing>,
    tasks: TaskTracker,
    cancel: CancellationToken,
    /// How peers are reached; none on a node without a network.
    network: Option<(Endpoint, Arc<Peers>)>,
}

/// A driver's place in the router; frees it when dropped.
#[derive(Debug)]
pub(crate) struct Registration {
    router: Arc<Router>,
    key: DriverKey,
    pub(crate) frames: mpsc::Receiver<Frame>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.router.tables().drivers.remove(&self.key);
    }
}

impl Router {
    /// Starts the router of node `id`.
    pub(crate) fn start(
        id: NodeId,
        network: Option<(Endpoint, Arc<Peers>)>,
        tasks: &TaskTracker,
        cancel: &CancellationToken,
    ) -> Arc<Self> {
        let (outbox, mut outgoing) = mpsc::channel::<Outgoing>(OUTBOX_MAX);
        let router = Arc::new(Self {
            id,
            tables: Mutex::default(),
            outbox,
            tasks: tasks.clone(),
            cancel: cancel.clone(),
            network,
        });
        let (pump, cancel) = (Arc::clone(&router), cancel.clone());
        tasks.spawn(async move {
            loop {
                tokio::select! {
                    biased;
                    () = cancel.cancelled() => break,
                    out = outgoing.recv() => match out {
                        Some(Outgoing { to, frame }) => pump.send(to, frame).await,
                        None => break,
                    },
                }
            }
            pump.clear();
        });
        router
    }

    /// Where runners give out their frames.
    pub(crate) fn outbox(&self) -> mpsc::Sender<Outgoing> {
        self.outbox.clone()
    }

    /// Makes the runner of a stage of an instance reachable. A runner of an older epoch ends. `false` if one of a newer epoch is
    /// here, or is waited for: then it is this one that ends.
    pub(crate) fn add_runner(
        &self,
        instance: &InstanceRecord,
        layers: LayerRange,
        runner: RunnerHandle,
    ) -> bool {
        let (epoch, n_ctx) = (instance.epoch, instance.n_ctx);
        let mut tables = self.tables();
        if tables.runners.get(&instance.id).is_some_and(|placed| placed.newest() > epoch) {
            return false;
        }
        let (moving, last_used) = (Arc::default(), Instant::now());
        let placed = Placed { epoch, layers, n_ctx, fenced_for: None, moving, runner, last_used };
        tables.runners.insert(instance.id, placed);
        true
    }

    /// Keeps what reaches the runner of an instance away from it, since a newer placement is being made, if that leaves its
    /// stage as it is. Otherwise the runner has to end.
    pub(crate) fn fence(&self, instance: &InstanceRecord) -> bool {
        let mut tables = self.tables();
        let Some(placed) = tables.runners.get_mut(&instance.id) else { return false };
        let is_kept = is_kept(placed, instance, self.id);
        // What waits for the newest placement is not let go by the end of an older one.
        if is_kept && placed.epoch < instance.epoch {
            placed.fenced_for = placed.fenced_for.max(Some(instance.epoch));
        }
        is_kept
    }

    /// Moves the runner of an instance to a newer placement that leaves its stage as it is, with every sequence that it holds.
    /// `false` if there is none, its stage is another, or a newer placement than this has taken it or waits for it.
    pub(crate) async fn move_runner(&self, instance: &InstanceRecord, stage_idx: usize) -> bool {
        let movable = || {
            let tables = self.tables();
            let placed = tables.runners.get(&instance.id);
            let placed = placed.filter(|placed| is_movable(placed, instance, self.id));
            placed.map(|placed| (placed.runner.clone(), Arc::clone(&placed.moving)))
        };
        let Some((_, moving)) = movable() else { return false };
        let _one_at_a_time = moving.lock().await;
        // Another may have moved it, or taken its place, meanwhile.
        let Some((runner, _)) = movable() else { return false };
        if !runner.send(Input::Move(Route::of(instance, stage_idx))).await {
            return false;
        }
        let mut tables = self.tables();
        let placed = tables.runners.get_mut(&instance.id);
        let Some(placed) = placed.filter(|placed| is_movable(placed, instance, self.id)) else {
            return false;
        };
        placed.epoch = instance.epoch;
        placed.fenced_for = None;
        true
    }

    /// Ends the runner of an instance up to `epoch`. Returns whether there was one.
    pub(crate) fn remove_runner(&self, instance: InstanceId, epoch: Epoch) -> bool {
        let mut tables = self.tables();
        let due = tables.runners.get(&instance).is_some_and(|placed| placed.epoch <= epoch);
        due && tables.runners.remove(&instance).is_some()
    }

    /// Forgets the runner of an instance if it was given up. Returns the epoch that it served.
    pub(crate) fn remove_given_up(&self, instance: InstanceId) -> Option<Epoch> {
        let mut tables = self.tables();
        let is_over = tables.runners.get(&instance).is_some_and(|placed| placed.runner.is_over());
        let placed = if is_over { tables.runners.remove(&instance) } else { None };
        placed.map(|placed| placed.epoch)
    }

    /// How the runners of this node are doing, by instance.
    pub(crate) fn runners(&self) -> Vec<RunnerStatus> {
        let mut all: Vec<RunnerStatus> =
            self.tables().runners.values().map(|placed| placed.runner.status()).collect();
        all.sort_by_key(|status| status.instance);
        all
    }

    /// When the stage of an instance that runs here last had something to do.
    pub(crate) fn last_used(&self, instance: InstanceId) -> Option<Instant> {
        self.tables().runners.get(&instance).map(|placed| placed.last_used)
    }

    /// Answers of an instance that are driven here.
    pub(crate) fn n_drivers(&self, instance: InstanceId) -> usize {
        self.tables().drivers.keys().filter(|(of, _)| *of == instance).count()
    }

    /// The way to a peer has changed: its link, if there is one, takes a new connection.
    pub(crate) fn renew_link(&self, peer: NodeId) {
        if let Some(link) = self.tables().links.get(&peer) {
            link.renew.notify_one();
        }
    }

    /// Registers the driver of a sequence, so that the stages' answers reach it.
    pub(crate) fn register(
        self: &Arc<Self>,
        instance: InstanceId,
        sequence: SequenceId,
    ) -> Registration {
        let (sender, frames) = mpsc::channel(DRIVER_QUEUE_MAX);
        let key = (instance, sequence);
        self.tables().drivers.insert(key, sender);
        Registration { router: Arc::clone(self), key, frames }
    }

    /// Sends a frame to a node, this one included.
    pub(crate) async fn send(&self, to: NodeId, frame: Frame) {
        if to == self.id {
            return Box::pin(self.deliver(frame)).await;
        }
        let Some(link) = self.link(to) else {
            return Box::pin(self.undeliverable(&frame, "this node has no network")).await;
        };
        let key = frame.key;
        if let Err(error) = link.send_timeout(frame, SEND_TIMEOUT).await {
            debug!(%key.instance, "link does not take a frame");
            Box::pin(self.undeliverable(&error.into_inner(), "the link is stuck")).await;
        }
    }

    /// Delivers a frame to a runner or driver of this node.
    pub(crate) async fn deliver(&self, frame: Frame) {
        match &frame.body {
            Body::Step(_) | Body::Probe { .. } | Body::Close => {
                self.deliver_to_runner(frame).await;
            }
            Body::Done { .. } | Body::Have { .. } | Body::Lost { .. } | Body::Failed { .. } => {
                let key = (frame.key.instance, frame.key.sequence);
                let driver = self.tables().drivers.get(&key).cloned();
                // A driver that is gone has cancelled; what is still on its way to it means nothing.
                if let Some(driver) = driver {
                    let _ = driver.send(frame).await;
                }
            }
        }
    }

    async fn deliver_to_runner(&self, frame: Frame) {
        let FrameKey { instance, epoch, .. } = frame.key;
        let found = {
            let mut tables = self.tables();
            tables.runners.get_mut(&instance).map(|placed| {
                // To ask after a sequence is not to use it.
                if matches!(frame.body, Body::Step(_)) {
                    placed.last_used = Instant::now();
                }
                (placed.epoch, placed.fenced_for.is_some(), placed.runner.clone())
            })
        };
        let reason = match found {
            Some((current, true, _)) if current == epoch => "it is being placed anew".to_owned(),
            Some((current, _, runner)) if current == epoch => {
                if runner.send(Input::Frame(frame.clone())).await {
                    return;
                }
                "its runner is dead".to_owned()
            }
            Some((current, ..)) => format!("it is of epoch {epoch}, the stage is of {current}"),
            None => "no stage of this instance runs here".to_owned(),
        };
        self.undeliverable(&frame, &reason).await;
    }

    /// Tells the driver of a frame's sequence that the frame was lost. Answers to a driver are not answered in turn.
    async fn undeliverable(&self, frame: &Frame, reason: &str) {
        if let Some(lost) = lost(self.id, frame, reason) {
            debug!(instance = %frame.key.instance, reason, "frame lost");
            Box::pin(self.send(frame.key.driver, lost)).await;
        }
    }

    /// A data connection of a peer stands: takes its frames until it ends.
    pub(crate) fn accept(self: &Arc<Self>, connection: Connection) {
        let (router, cancel) = (Arc::clone(self), self.cancel.clone());
        self.tasks.spawn(async move {
            let peer = connection.peer();
            let receive = async {
                let mut receiver = connection.frame_receiver()?;
                while let Some(frame) = receiver.recv().await? {
                    router.deliver(frame).await;
                }
                Ok::<(), shoal_net::Error>(())
            };
            tokio::select! {
                biased;
                () = cancel.cancelled() => {}
                result = receive => match result {
                    Ok(()) => debug!(peer = %peer.short(), "data link ended"),
                    Err(error) => debug!(peer = %peer.short(), %error, "data link ended"),
                },
            }
            connection.close("data link ended");
        });
    }

    /// A peer is gone: its sequences are forgotten.
    pub(crate) async fn drop_peer(&self, peer: NodeId) {
        let runners: Vec<RunnerHandle> = {
            let mut tables = self.tables();
            tables.links.remove(&peer);
            tables.runners.values().map(|placed| placed.runner.clone()).collect()
        };
        for runner in runners {
            let _ = runner.send(Input::DropDriver(peer)).await;
        }
    }

    /// Ends the sequences of this node's stages that nobody has used or asked after for `age`.
    pub(crate) async fn expire(&self, age: Duration) {
        let runners: Vec<RunnerHandle> =
            self.tables().runners.values().map(|placed| placed.runner.clone()).collect();
        for runner in runners {
            let _ = runner.send(Input::Expire(age)).await;
        }
    }

    /// Forgets everything; runners end.
    fn clear(&self) {
        *self.tables() = Tables::default();
    }

    /// Returns the queue of the link to a peer; starts the link if there is none.
    fn link(&self, peer: NodeId) -> Option<mpsc::Sender<Frame>> {
        let (endpoint, peers) = self.network.clone()?;
        let mut tables = self.tables();
        if let Some(link) = tables.links.get(&peer).filter(|link| !link.queue.is_closed()) {
            return Some(link.queue.clone());
        }
        let (sender, queue) = mpsc::channel(LINK_QUEUE_MAX);
        let renew = Arc::new(Notify::new());
        let handle = LinkHandle { queue: sender.clone(), renew: Arc::clone(&renew) };
        tables.links.insert(peer, handle);
        let (cancel, outbox, id) = (self.cancel.clone(), self.outbox.clone(), self.id);
        self.tasks.spawn(async move {
            let recent = VecDeque::new();
            let link = Link { id, peer, queue, renew, recent, outbox };
            tokio::select! {
                biased;
                () = cancel.cancelled() => {}
                () = link.run(&endpoint, &peers) => {}
            }
        });
        Some(sender)
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        // The tables are only ever changed by single insertions and removals: they are whole even after a panic.
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The sending half of the data plane to one peer: one ordered stream, over one connection at a time.
///
/// When the way to the peer changes, what was sent last is sent again over the new connection. What arrives twice does no
/// harm: a step says where it begins, and its tokens are always the same.
struct Link {
    id: NodeId,
    peer: NodeId,
    queue: mpsc::Receiver<Frame>,
    renew: Arc<Notify>,
    /// What was sent last, the oldest first.
    recent: VecDeque<(Instant, Frame)>,
    outbox: mpsc::Sender<Outgoing>,
}

impl Link {
    async fn run(mut self, endpoint: &Endpoint, peers: &Peers) {
        let Some(first) = self.queue.recv().await else { return };
        let mut unsent = VecDeque::from([first]);
        let mut given_up_at = Instant::now() + GIVE_UP_AFTER;
        let error = loop {
            let pumped = self.pump(endpoint, peers, &mut unsent).await;
            if !self.recent.is_empty() {
                given_up_at = Instant::now() + GIVE_UP_AFTER;
            }
            self.recent.retain(|(at, _)| at.elapsed() < RESENT_AGE);
            let again = self.recent.drain(..).map(|(_, frame)| frame);
            unsent = again.chain(unsent).collect();
            match pumped {
                Ok(Pumped::Ended) => return,
                Ok(Pumped::Renew) => debug!(peer = %self.peer.short(), "link is renewed"),
                Err(error) if peers.is_dead(self.peer) || Instant::now() > given_up_at => {
                    break error;
                }
                // Silence is not death: a phone that hands over from one WiFi to another is back in a moment.
                Err(error) => {
                    debug!(peer = %self.peer.short(), %error, "link is tried again");
                    tokio::select! {
                        () = tokio::time::sleep(RETRY_PAUSE) => {}
                        () = self.renew.notified() => {}
                    }
                }
            }
        };
        let reason = format!("the link to node {} failed: {error}", self.peer.short());
        warn!(peer = %self.peer.short(), reason, "data link lost");
        self.queue.close();
        for frame in unsent {
            self.fail(&frame, &reason).await;
        }
        while let Some(frame) = self.queue.recv().await {
            self.fail(&frame, &reason).await;
        }
    }

    /// Sends `unsent` and then what comes, over one connection, until that fails or there is a better way.
    async fn pump(
        &mut self,
        endpoint: &Endpoint,
        peers: &Peers,
        unsent: &mut VecDeque<Frame>,
    ) -> Result<Pumped, shoal_net::Error> {
        let addrs = peers.addrs(self.peer);
        let connection = tokio::select! {
            biased;
            dialled = endpoint.connect(self.peer, &addrs, Plane::Data) => dialled?,
            () = self.renew.notified() => return Ok(Pumped::Renew),
            never = self.ask_for_dials(peers) => match never {},
        };
        let mut sender = connection.frame_sender().await?;
        loop {
            while let Some(frame) = unsent.front() {
                tokio::select! {
                    biased;
                    sent = sender.send(frame) => sent?,
                    () = self.renew.notified() => return Ok(Pumped::Renew),
                }
                if self.recent.len() >= RESENT_MAX {
                    self.recent.pop_front();
                }
                self.recent.extend(unsent.pop_front().map(|frame| (Instant::now(), frame)));
            }
            tokio::select! {
                biased;
                () = self.renew.notified() => return Ok(Pumped::Renew),
                frame = self.queue.recv() => match frame {
                    Some(frame) => unsent.push_back(frame),
                    None => return Ok(Pumped::Ended),
                },
                reason = connection.closed() => {
                    return Err(shoal_net::Error::Closed { peer: self.peer, reason });
                }
            }
        }
    }

    /// Asks the peer to dial, again and again: where this node dials, it may not be any more, and it knows where this node is.
    /// Its connection renews the link.
    async fn ask_for_dials(&self, peers: &Peers) -> Infallible {
        let mut pause = ASK_AFTER;
        loop {
            tokio::time::sleep(pause).await;
            // A control connection that is dead must not hold up what the next one could carry.
            let _ = tokio::time::timeout(pause, peers.ask_to_dial(self.peer)).await;
            pause *= 2;
        }
    }

    /// Tells the driver of a lost step.
    async fn fail(&self, frame: &Frame, reason: &str) {
        if let Some(lost) = lost(self.id, frame, reason) {
            let _ = self.outbox.send(Outgoing { to: frame.key.driver, frame: lost }).await;
        }
    }
}

/// Whether a runner's stage is the same in a newer placement of its instance.
fn is_kept(placed: &Placed, instance: &InstanceRecord, id: NodeId) -> bool {
    let mut stages = instance.placement.stages.iter();
    placed.epoch <= instance.epoch
        && placed.n_ctx == instance.n_ctx
        && stages.any(|stage| stage.node == id && stage.layers == placed.layers)
}

/// Whether a runner may be moved to a placement of its instance: its stage is the same there, and nothing newer is known.
fn is_movable(placed: &Placed, instance: &InstanceRecord, id: NodeId) -> bool {
    placed.newest() <= instance.epoch && is_kept(placed, instance, id)
}

/// What the driver is told of a frame that did not arrive; nothing if it was not meant for a stage, or only said goodbye.
fn lost(id: NodeId, frame: &Frame, reason: &str) -> Option<Frame> {
    let reason = format!("node {}: {reason}", id.short());
    matches!(frame.body, Body::Step(_) | Body::Probe { .. })
        .then_some(Frame { key: frame.key, body: Body::Lost { reason } })
}

/// Why a link stopped to use a connection.
enum Pumped {
    /// There is nothing to send any more.
    Ended,
    /// The way to the peer has changed.
    Renew,
}
