//! The control plane: keeps a connection to every peer, exchanges records and heartbeats, and carries out what the cluster's
//! state machine plans.
//!
//! Either side may dial; when both do, both connections stand and the newer one is used. Nothing here depends on inference: a
//! busy runner delays no heartbeat, and a crashed one ends no connection.

use std::{
    collections::HashMap,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use shoal_cluster::{Action, Event, Liveness, State, Timing};
use shoal_net::{CloseReason, Connection, Endpoint, Membership, Plane};
use shoal_proto::{
    Epoch, InstanceId, NodeId,
    control::{
        HeldModel, InstanceRecord, LinkRecord, NodeRecord, Profile, Request, Response, StageRecord,
        Vitals,
    },
    roll::Roll,
};
use tokio::sync::{Notify, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, info, warn};

use crate::{Error, clock, remembered};

/// How often the state machine is asked what to do: fine enough that a heartbeat is never late by more than a fifth.
const TICK: Duration = Duration::from_millis(200);
/// How long a system may take to say that a port is closed, which it says at once if at all.
const KNOCK_TIMEOUT: Duration = Duration::from_millis(500);
/// Shortest time between two looks after one peer.
const DOUBT_AGAIN: Duration = Duration::from_millis(500);
/// Most nodes that are remembered to have left.
const PARTED_MAX: usize = 256;
/// Longest wait for a sign of an older connection's peer, when another device claims its key: several round trips.
const OTHER_LIFE_TIMEOUT: Duration = Duration::from_secs(1);
/// Longest wait for an answer about records and heartbeats: as long as silence may last before it means death.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for a connection to a peer that lives: a dial and another.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(3);

/// What a node does beside talking: the control plane tells it what happens.
pub(crate) trait Handler: Send + Sync + 'static {
    /// Answers a request of a peer.
    fn handle(
        self: &Arc<Self>,
        peer: NodeId,
        request: Request,
    ) -> impl Future<Output = Response> + Send;
    /// A life of a peer is over: it said so, has been silent for too long, or a later one has begun.
    fn peer_lost(&self, peer: NodeId) -> impl Future<Output = ()> + Send;
    /// A new control connection to a peer stands, the first one or another.
    fn peer_connected(&self, peer: NodeId);
    /// A connection of a peer that is not of the control plane stands.
    fn connection(&self, connection: Connection);
    /// The records of nodes or instances have changed.
    fn records_changed(&self);
    /// This node coordinates an instance that has lost stages: place it anew under this epoch.
    fn heal(self: &Arc<Self>, instance: InstanceId, epoch: Epoch, lost: Vec<NodeId>);
    /// This node coordinates an instance of which some nodes drain: place it elsewhere under this epoch.
    fn move_away(self: &Arc<Self>, instance: InstanceId, epoch: Epoch, leaving: Vec<NodeId>);
    /// Nodes of an instance are suspects: have others get ready.
    fn prepare(self: &Arc<Self>, instance: InstanceId, without: Vec<NodeId>);
}

/// The control plane of one node.
#[derive(Debug)]
pub(crate) struct Peers {
    endpoint: Option<Endpoint>,
    state: Mutex<State>,
    record: Mutex<NodeRecord>,
    vitals: Mutex<Vitals>,
    membership: Option<Membership>,
    /// Nodes that have left, with the version of their last record: what others still tell of them is old.
    parted: Mutex<HashMap<NodeId, u64>>,
    /// The newest connection to each peer, numbered.
    connections: Mutex<HashMap<NodeId, (u64, Connection)>>,
    /// Ticks whenever something changed that a waiting request may depend on.
    changed: watch::Sender<u64>,
    remembered: Option<PathBuf>,
    tasks: TaskTracker,
    cancel: CancellationToken,
    started_once: OnceLock<()>,
    n_connections: AtomicU64,
    /// When each peer was last looked after because somebody doubted that it lives.
    doubted: Mutex<HashMap<NodeId, Instant>>,
    /// Makes the plan be carried out at once.
    hurry: Notify,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What these mutexes guard is changed by calls that either complete or leave it as it was.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Peers {
    /// Returns the control plane of the node that publishes `record`. It does nothing before [`start`](Self::start).
    pub(crate) fn new(
        endpoint: Option<Endpoint>,
        membership: Option<Membership>,
        record: NodeRecord,
        remembered: Option<PathBuf>,
        tasks: &TaskTracker,
        cancel: &CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Self {
            endpoint,
            state: Mutex::new(State::new(record.id, record.run, Timing::default())),
            record: Mutex::new(record),
            vitals: Mutex::default(),
            membership,
            parted: Mutex::default(),
            connections: Mutex::default(),
            changed: watch::Sender::new(0),
            remembered,
            tasks: tasks.clone(),
            cancel: cancel.clone(),
            started_once: OnceLock::new(),
            n_connections: AtomicU64::new(0),
            doubted: Mutex::default(),
            hurry: Notify::new(),
        })
    }

    /// Starts to accept, dial and beat. Once.
    pub(crate) fn start<H: Handler>(self: &Arc<Self>, handler: &Arc<H>) {
        let Some(endpoint) = self.endpoint.clone() else { return };
        assert!(self.started_once.set(()).is_ok(), "the control plane starts once");
        self.apply(Event::Record(self.record()));
        for record in self.remembered.as_deref().map(remembered::load).unwrap_or_default() {
            self.apply(Event::Record(record));
        }
        let (peers, accepting) = (Arc::clone(self), Arc::clone(handler));
        self.spawn(async move {
            while let Some(connection) = endpoint.accept().await {
                match connection.plane() {
                    Plane::Control => peers.serve(connection, &accepting),
                    _ => accepting.connection(connection),
                }
            }
        });
        let (peers, ticking) = (Arc::clone(self), Arc::clone(handler));
        self.spawn(async move { peers.tick(&ticking).await });
    }

    /// This node.
    pub(crate) fn id(&self) -> NodeId {
        lock(&self.record).id
    }

    /// What this node publishes about itself.
    pub(crate) fn record(&self) -> NodeRecord {
        lock(&self.record).clone()
    }

    /// Changes what this node publishes about itself. Peers ask for it when the next heartbeat tells them.
    pub(crate) fn change_record(&self, change: impl FnOnce(&mut NodeRecord)) {
        let floor = self.read(|state, _| state.own_version_floor());
        let mut record = lock(&self.record);
        let before = record.clone();
        change(&mut record);
        if *record != before || record.version < floor {
            record.version = record.version.max(floor) + 1;
            let own = record.clone();
            drop(record);
            self.apply(Event::Record(own));
            self.notify();
        }
    }

    /// Publishes the stages that this node runs now.
    pub(crate) fn set_stages(&self, stages: Vec<StageRecord>) {
        self.change_record(|record| record.stages = stages);
    }

    /// Publishes how fast this node computes.
    pub(crate) fn set_profile(&self, profile: Profile) {
        self.change_record(|record| record.profile = Some(profile));
    }

    /// Publishes the models on this node's disk.
    pub(crate) fn set_models(&self, models: Vec<HeldModel>) {
        self.change_record(|record| record.models = models);
    }

    /// Publishes this node's links.
    pub(crate) fn set_links(&self, links: Vec<LinkRecord>) {
        self.change_record(|record| record.links = links);
    }

    /// What the heartbeats say about how this node feels.
    pub(crate) fn set_vitals(&self, vitals: Vitals) {
        *lock(&self.vitals) = vitals;
    }

    /// How a node feels, this one included; `None` as long as nothing was heard.
    pub(crate) fn vitals(&self, node: NodeId) -> Option<Vitals> {
        let vitals = if node == self.id() {
            Some(*lock(&self.vitals))
        } else {
            self.read(|state, _| state.vitals(node).copied())
        };
        // A node that has not looked yet says nothing.
        vitals.filter(|vitals| *vitals != Vitals::default())
    }

    /// This node's addresses have changed: peers learn the new ones, and every one of them is dialled at once.
    pub(crate) fn set_addrs(self: &Arc<Self>, addrs: Vec<SocketAddr>) {
        self.change_record(|record| record.addrs = addrs);
        self.apply(Event::AddressesChanged);
    }

    /// Takes in an event now. Returns whether it changed anything.
    pub(crate) fn apply(&self, event: Event) -> bool {
        let changed = lock(&self.state).apply(event, clock::since_start());
        if changed {
            self.notify();
        }
        changed
    }

    /// Takes in the instances of an earlier life of this node.
    pub(crate) fn restore(&self, instances: Vec<InstanceRecord>) {
        lock(&self.state).restore(instances, clock::since_start());
        self.notify();
    }

    /// Returns the epoch of a placement that this node makes now.
    pub(crate) fn reserve_epoch(&self, instance: InstanceId) -> Epoch {
        lock(&self.state).reserve_epoch(instance)
    }

    /// Reads the state as it is now.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&State, shoal_cluster::Time) -> T) -> T {
        read(&lock(&self.state), clock::since_start())
    }

    /// Ticks when something changed.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Where a peer may be: first where it is heard from, which may be newer than what it has said.
    pub(crate) fn addrs(&self, peer: NodeId) -> Vec<SocketAddr> {
        let heard = self.connection(peer).and_then(|connection| connection.remote_addr());
        let told = self.read(|state, _| state.record(peer).map(|record| record.addrs.clone()));
        let told = told.unwrap_or_default().into_iter().filter(|addr| Some(*addr) != heard);
        heard.into_iter().chain(told).collect()
    }

    /// Round-trip time of the connection to a peer.
    pub(crate) fn rtt(&self, peer: NodeId) -> Option<Duration> {
        self.connection(peer)?.rtt()
    }

    /// Whether a peer is dead, or unknown.
    pub(crate) fn is_dead(&self, peer: NodeId) -> bool {
        self.read(|state, now| state.liveness(peer, now) == Liveness::Dead)
    }

    /// The peers that are alive.
    pub(crate) fn alive(&self) -> Vec<NodeRecord> {
        self.read(|state, now| {
            let alive = |id| state.liveness(id, now) == Liveness::Alive;
            let members = state.members().filter(|member| alive(member.record.id));
            members.map(|member| member.record.clone()).collect()
        })
    }

    /// Asks a peer, over the connection that stands.
    pub(crate) async fn ask(
        &self,
        peer: NodeId,
        request: &Request,
        timeout: Duration,
    ) -> Result<Response, Error> {
        let Some(connection) = self.connection(peer) else {
            return Err(Error::PeerLost { node: peer, reason: "no connection stands".into() });
        };
        let answer = connection.request(request, timeout).await;
        answer.map_err(|error| Error::PeerLost { node: peer, reason: error.to_string() })
    }

    /// Waits until a connection to a peer stands, which may be on its way, and then asks.
    pub(crate) async fn ask_soon(
        &self,
        peer: NodeId,
        request: &Request,
        timeout: Duration,
    ) -> Result<Response, Error> {
        let mut changes = self.changes();
        let connected =
            async { while self.connection(peer).is_none() && changes.changed().await.is_ok() {} };
        let _ = tokio::time::timeout(CONNECTION_TIMEOUT, connected).await;
        self.ask(peer, request, timeout).await
    }

    /// Tells every connected peer something; a peer that does not answer is only logged.
    pub(crate) async fn tell_all(&self, request: &Request) {
        let peers: Vec<NodeId> = lock(&self.connections).keys().copied().collect();
        let asks = peers.iter().map(|&peer| async move {
            if let Err(error) = self.ask(peer, request, ANSWER_TIMEOUT).await {
                debug!(peer = %peer.short(), %error, "peer was not told");
            }
        });
        futures_util::future::join_all(asks).await;
    }

    /// Connects to a peer by hand: the first contact of a join.
    pub(crate) async fn dial<H: Handler>(
        self: &Arc<Self>,
        peer: NodeId,
        addrs: &[SocketAddr],
        handler: &Arc<H>,
    ) -> Result<(), shoal_net::Error> {
        let endpoint = self.endpoint.as_ref().expect("only a node with a network dials");
        let connection = endpoint.connect(peer, addrs, Plane::Control).await?;
        self.hello(&connection, handler).await?;
        self.serve(connection, handler);
        Ok(())
    }

    fn connection(&self, peer: NodeId) -> Option<Connection> {
        lock(&self.connections).get(&peer).map(|(_, connection)| connection.clone())
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let cancel = self.cancel.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                biased;
                () = cancel.cancelled() => {}
                () = task => {}
            }
        });
    }

    /// Makes whoever waits for a change look again.
    pub(crate) fn notify(&self) {
        self.changed.send_modify(|version| *version += 1);
    }

    /// Introduces this node on a connection and takes in what the other side knows.
    async fn hello<H: Handler>(
        self: &Arc<Self>,
        connection: &Connection,
        handler: &Arc<H>,
    ) -> Result<(), shoal_net::Error> {
        let peer = connection.peer();
        if let Some(membership) = &self.membership {
            let request = Request::Roll(membership.roll());
            if let Response::Roll(roll) = connection.request(&request, ANSWER_TIMEOUT).await? {
                self.take_roll(membership, &roll);
            }
        }
        match connection.request(&self.own_hello(), ANSWER_TIMEOUT).await? {
            Response::Hello { record, peers, instances } => {
                self.meet(peers.into_iter().chain([*record]), handler);
                self.take_instances(instances, handler);
                Ok(())
            }
            Response::Refused { message } => Err(shoal_net::Error::Refused { peer, message }),
            other => Err(shoal_net::Error::Refused {
                peer,
                message: format!("an answer that does not fit: {other:?}"),
            }),
        }
    }

    /// Takes in who belongs to the cluster; whoever was removed is forgotten.
    fn take_roll(&self, membership: &Membership, roll: &Roll) {
        if membership.merge(roll) {
            let gone: Vec<NodeId> = self.read(|state, _| {
                let ids = state.members().map(|member| member.record.id);
                ids.filter(|id| membership.is_revoked(*id)).collect()
            });
            for node in gone {
                self.part_from(node, "removed from the cluster");
            }
        }
    }

    fn take_instances<H: Handler>(&self, instances: Vec<InstanceRecord>, handler: &Arc<H>) {
        let changed = instances
            .into_iter()
            .fold(false, |changed, instance| self.apply(Event::Instance(instance)) | changed);
        if changed {
            handler.records_changed();
        }
    }

    /// Forgets a node that does not belong any more.
    pub(crate) fn part_from(&self, node: NodeId, reason: &str) {
        let connection = lock(&self.connections).remove(&node);
        if let Some((_, connection)) = connection {
            connection.close(reason);
        }
        if let Some(version) = self.read(|state, _| state.record(node).map(|it| it.version)) {
            let mut parted = lock(&self.parted);
            if parted.len() >= PARTED_MAX {
                parted.clear();
            }
            parted.insert(node, version);
        }
        self.apply(Event::Left(node));
    }

    /// Forgets everybody: this node belongs to another cluster now.
    pub(crate) fn part_from_all(&self, reason: &str) {
        let nodes: Vec<NodeId> =
            self.read(|state, _| state.members().map(|member| member.record.id).collect());
        nodes.into_iter().for_each(|node| self.part_from(node, reason));
        // Those of the next cluster may be the same ones.
        lock(&self.parted).clear();
        lock(&self.record).version += 1;
        self.apply(Event::Record(self.record()));
    }

    pub(crate) fn known_records(&self) -> Vec<NodeRecord> {
        self.read(|state, _| state.members().map(|member| member.record.clone()).collect())
    }

    /// The instances that this node knows, and those that were dropped of late.
    pub(crate) fn known_instances(&self) -> Vec<InstanceRecord> {
        self.read(|state, _| state.instances_and_tombstones().cloned().collect())
    }

    fn own_heartbeat(&self) -> Request {
        let (instances, epoch) =
            self.read(|state, _| (state.instances_digest(), state.highest_epoch()));
        let (record_version, vitals) = (self.record().version, *lock(&self.vitals));
        Request::Heartbeat { record_version, instances, epoch, vitals }
    }

    fn own_hello(&self) -> Request {
        Request::Hello {
            record: self.record(),
            peers: self.known_records(),
            instances: self.known_instances(),
        }
    }

    /// Takes in records, and remembers their nodes. Returns whether any was new.
    pub(crate) fn meet<H: Handler>(
        &self,
        records: impl IntoIterator<Item = NodeRecord>,
        handler: &Arc<H>,
    ) -> bool {
        let parted = lock(&self.parted).clone();
        let belongs = |record: &NodeRecord| {
            let membership = self.membership.as_ref();
            let is_revoked = membership.is_some_and(|it| it.is_revoked(record.id));
            let has_left = parted.get(&record.id).is_some_and(|&left| record.version <= left);
            !is_revoked && !has_left
        };
        let new = records
            .into_iter()
            .filter(belongs)
            .fold(false, |new, record| self.apply(Event::Record(record)) | new);
        if new {
            handler.records_changed();
        }
        // A former life may have published a higher version, by a clock that was ahead.
        self.change_record(|_| ());
        new
    }

    /// Serves a control connection until it ends.
    fn serve<H: Handler>(self: &Arc<Self>, connection: Connection, handler: &Arc<H>) {
        let (peers, handler) = (Arc::clone(self), Arc::clone(handler));
        self.spawn(async move {
            let peer = connection.peer();
            let number = peers.n_connections.fetch_add(1, Ordering::Relaxed);
            let older = lock(&peers.connections).insert(peer, (number, connection.clone()));
            let mut older = older.map(|(_, connection)| connection);
            if let Some(older) = older.clone() {
                let (of, newer) = (Arc::clone(&peers), connection.clone());
                peers.spawn(async move { of.replace(&older, &newer).await });
            }
            peers.apply(Event::Connected(peer));
            handler.peer_connected(peer);
            let reason = loop {
                match connection.next_request().await {
                    Ok((request, responder)) => {
                        // A peer that dialled is not a member before its record came.
                        let response = match peers.other_life(&request, older.take()).await {
                            Some(refused) => refused,
                            None => peers.answer(peer, request, &handler).await,
                        };
                        if peers.apply(Event::Connected(peer)) {
                            info!(peer = %peer.short(), "peer joined");
                        }
                        if let Err(error) = responder.respond(&response).await {
                            debug!(peer = %peer.short(), %error, "answer was not taken");
                        }
                    }
                    Err(error) => break error,
                }
            };
            peers.connection_ended(peer, number, &reason, &handler).await;
        });
    }

    /// Ends a connection that was replaced, and all others that go where it goes, if nobody answers there any more: they would
    /// keep the transport on a way that leads nowhere. Even without them it leaves that way only when the peer connects once
    /// more: iroh 1.4.1 chooses among the ways to a peer when a connection or a way comes, and not when one of several ends.
    async fn replace(&self, older: &Connection, newer: &Connection) {
        let (peer, addr) = (newer.peer(), older.remote_addr());
        let is_closed = async {
            // A process that was started again has another port: then nobody need wait for an echo.
            match addr {
                Some(addr) => shoal_net::is_port_closed(addr, KNOCK_TIMEOUT).await,
                None => true,
            }
        };
        let echo = Request::Echo { bytes: Vec::new() };
        let answered = older.request(&echo, OTHER_LIFE_TIMEOUT);
        tokio::pin!(answered, is_closed);
        let is_dead = tokio::select! {
            biased;
            answer = &mut answered => answer.is_err(),
            is_closed = &mut is_closed => is_closed || answered.await.is_err(),
        };
        if !is_dead {
            return;
        }
        older.close("replaced");
        let elsewhere = addr.filter(|_| newer.remote_addr() != addr);
        if let (Some(endpoint), Some(addr)) = (&self.endpoint, elsewhere) {
            endpoint.give_up(peer, addr);
        }
        self.ask_to_dial(peer).await;
    }

    /// Asks a peer that lives to connect to this node, since dials in the other direction are lost.
    pub(crate) async fn ask_to_dial(&self, peer: NodeId) {
        if let Err(error) = self.ask(peer, &Request::Dial, ANSWER_TIMEOUT).await {
            debug!(peer = %peer.short(), %error, "peer was not asked to dial");
        }
    }

    async fn connection_ended<H: Handler>(
        &self,
        peer: NodeId,
        number: u64,
        reason: &shoal_net::Error,
        handler: &Arc<H>,
    ) {
        {
            let mut connections = lock(&self.connections);
            match connections.get(&peer) {
                Some((current, _)) if *current == number => connections.remove(&peer),
                // A newer one has taken its place.
                _ => return,
            };
        }
        // A reset says that the peer's endpoint lives and has forgotten this one connection.
        let certain =
            matches!(reason, shoal_net::Error::Closed { reason: CloseReason::Goodbye(_), .. });
        debug!(peer = %peer.short(), %reason, certain, "control connection ended");
        self.apply(Event::Disconnected { node: peer, certain });
        if certain {
            warn!(peer = %peer.short(), "peer left");
            handler.peer_lost(peer).await;
        }
    }

    /// Tells every peer whom this node knows: who has just come should be known to all at once.
    pub(crate) fn pass_on(self: &Arc<Self>) {
        let peers = Arc::clone(self);
        self.spawn(async move {
            peers.tell_all(&peers.own_hello()).await;
        });
    }

    async fn answer<H: Handler>(
        self: &Arc<Self>,
        peer: NodeId,
        request: Request,
        handler: &Arc<H>,
    ) -> Response {
        self.apply(Event::Heard(peer));
        match request {
            Request::Hello { record, .. } if record.id != peer => Response::Refused {
                message: format!("a record of node {}, from node {peer}", record.id),
            },
            Request::Hello { record, peers, instances } => {
                self.take_instances(instances, handler);
                if self.meet(peers.into_iter().chain([record]), handler) {
                    self.pass_on();
                }
                Response::Hello {
                    record: Box::new(self.record()),
                    peers: self.known_records(),
                    instances: self.known_instances(),
                }
            }
            Request::Heartbeat { record_version, instances, epoch: _, vitals } => {
                let known = self.read(|state, _| state.record(peer).map(|record| record.version));
                self.apply(Event::Heartbeat { node: peer, record_version, instances, vitals });
                if known.is_some_and(|known| known >= record_version) {
                    Response::Ok
                } else {
                    Response::SendRecord
                }
            }
            Request::Roll(roll) => match &self.membership {
                Some(membership) => {
                    self.take_roll(membership, &roll);
                    Response::Roll(membership.roll())
                }
                None => Response::Refused { message: "this node has no cluster".into() },
            },
            Request::Leave => {
                info!(peer = %peer.short(), "peer leaves the cluster");
                self.part_from(peer, "left");
                handler.records_changed();
                Response::Ok
            }
            Request::Echo { bytes } => Response::Echo { bytes },
            Request::StageLost { instance, epoch, message } => {
                warn!(peer = %peer.short(), %instance, message, "a stage's runner is lost");
                self.apply(Event::StageLost { instance, epoch, node: peer });
                Response::Ok
            }
            Request::Doubt { node } => {
                self.doubt(node);
                Response::Ok
            }
            Request::Dial => {
                let (peers, handler) = (Arc::clone(self), Arc::clone(handler));
                self.spawn(async move {
                    if let Err(error) = peers.dial(peer, &peers.addrs(peer), &handler).await {
                        debug!(peer = %peer.short(), %error, "dial failed");
                    }
                });
                Response::Ok
            }
            request => handler.handle(peer, request).await,
        }
    }

    /// Refuses a `Hello` of another life of a node whose present one still answers on its older connection: two devices have
    /// one key.
    async fn other_life(&self, request: &Request, older: Option<Connection>) -> Option<Response> {
        let Request::Hello { record, .. } = request else { return None };
        let older = older?;
        let known_run = self.read(|state, _| state.record(record.id).map(|known| known.run))?;
        if known_run == record.run || known_run == 0 {
            return None;
        }
        let echo = Request::Echo { bytes: Vec::new() };
        older.request(&echo, OTHER_LIFE_TIMEOUT).await.ok()?;
        warn!(node = %record.id.short(), "two devices have the key of one node");
        Some(Response::Refused {
            message: format!(
                "node {} is here already, as another device: was its data directory copied?",
                record.id.short()
            ),
        })
    }

    /// Looks whether a peer lives that keeps somebody waiting: its process may have been killed, which nobody says. If it was,
    /// the others are told to look for themselves.
    pub(crate) fn doubt(self: &Arc<Self>, peer: NodeId) {
        let now = Instant::now();
        let last = lock(&self.doubted).insert(peer, now);
        if last.is_some_and(|last| now < last + DOUBT_AGAIN) {
            lock(&self.doubted).extend(last.map(|last| (peer, last)));
            return;
        }
        // Who has said goodbye has no connection any more, but may take a while to be believed.
        let addr = match self.connection(peer) {
            Some(connection) => connection.remote_addr(),
            None => self.addrs(peer).first().copied(),
        };
        let Some(addr) = addr else { return };
        let peers = Arc::clone(self);
        self.spawn(async move {
            let is_gone = shoal_net::is_port_closed(addr, KNOCK_TIMEOUT).await;
            // It may have been heard from elsewhere meanwhile.
            let has_moved = peers.addrs(peer).first() != Some(&addr);
            if !is_gone || has_moved || peers.read(|state, _| state.is_gone(peer)) {
                return;
            }
            warn!(peer = %peer.short(), "peer's process is gone");
            lock(&peers.connections).remove(&peer);
            if let Some(endpoint) = &peers.endpoint {
                endpoint.give_up(peer, addr);
            }
            peers.apply(Event::Gone(peer));
            peers.hurry.notify_one();
            peers.tell_all(&Request::Doubt { node: peer }).await;
        });
    }

    /// Carries out the plan, again and again, and notices whose life has ended.
    async fn tick<H: Handler>(self: &Arc<Self>, handler: &Arc<H>) {
        let mut alive = HashMap::new();
        let mut ticks = tokio::time::interval(TICK);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = self.hurry.notified() => {}
            }
            let actions = lock(&self.state).plan(clock::since_start());
            for action in actions {
                let (peers, handler) = (Arc::clone(self), Arc::clone(handler));
                self.spawn(async move { peers.carry_out(action, &handler).await });
            }
            let suspects: Vec<NodeId> = self.read(|state, now| {
                let is_suspect = |id: &NodeId| state.liveness(*id, now) == Liveness::Suspect;
                state.members().map(|member| member.record.id).filter(is_suspect).collect()
            });
            suspects.into_iter().for_each(|peer| self.doubt(peer));
            // The present life of each: who died, left, or came back as another life has lost what it drove.
            let now_alive: HashMap<NodeId, u64> = self.read(|state, now| {
                let alive = |record: &&NodeRecord| {
                    record.run != 0 && state.liveness(record.id, now) != Liveness::Dead
                };
                let records = state.members().map(|member| &member.record).filter(alive);
                records.map(|record| (record.id, record.run)).collect()
            });
            for (&peer, run) in &alive {
                if now_alive.get(&peer) != Some(run) {
                    handler.peer_lost(peer).await;
                }
            }
            if now_alive != alive {
                self.notify();
            }
            alive = now_alive;
        }
    }

    async fn sync<H: Handler>(self: &Arc<Self>, node: NodeId, handler: &Arc<H>) {
        let Some(connection) = self.connection(node) else { return };
        if let Err(error) = self.hello(&connection, handler).await {
            debug!(peer = %node.short(), %error, "records were not exchanged");
        }
    }

    async fn carry_out<H: Handler>(self: &Arc<Self>, action: Action, handler: &Arc<H>) {
        match action {
            Action::Dial { node, addrs } => {
                if let Err(error) = self.dial(node, &addrs, handler).await {
                    debug!(peer = %node.short(), %error, "dial failed");
                    self.apply(Event::DialFailed(node));
                }
            }
            Action::Heartbeat(node) => {
                let beat = self.own_heartbeat();
                let answer = self.ask(node, &beat, ANSWER_TIMEOUT).await;
                if answer.is_ok() {
                    self.apply(Event::Heard(node));
                }
                if let Ok(Response::SendRecord) = answer {
                    self.sync(node, handler).await;
                }
            }
            Action::Sync(node) => self.sync(node, handler).await,
            Action::Heal { instance, epoch, lost } => handler.heal(instance, epoch, lost),
            Action::Move { instance, epoch, leaving } => {
                handler.move_away(instance, epoch, leaving);
            }
            Action::Prepare { instance, without } => handler.prepare(instance, without),
            Action::TellLost { instance, epoch, coordinator } => {
                let message = "an earlier life of this node ran it".to_owned();
                let request = Request::StageLost { instance, epoch, message };
                if let Err(error) = self.ask(coordinator, &request, ANSWER_TIMEOUT).await {
                    debug!(peer = %coordinator.short(), %error, "the coordinator was not told");
                }
            }
        }
    }
}
