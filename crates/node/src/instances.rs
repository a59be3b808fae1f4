//! Instances as this node takes part in them: it places models and brings them up, runs its own stages, ends what is outdated,
//! and, as an instance's coordinator, finds new nodes for layers that are lost.
//!
//! ```text
//! Placing ─► Fetching ─► Loading ─► Ready ──(a stage is lost)──► Healing, next epoch ─► Fetching ─► …
//!                └──────────┴──► Failed
//! ```
//!
//! Every phase is published to all peers. Who hears of a newer epoch, or that the instance was dropped, ends its stage of the
//! older one: a stale epoch never acts.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use shoal_cluster::{Betterment, Event as ClusterEvent, Liveness};
use shoal_hub::ModelState;
use shoal_proto::{
    Epoch, InstanceId, LayerRange, NodeId,
    control::{InstanceRecord, NodeRecord, Phase, Request, Response, StageRecord},
};
use tokio::{sync::mpsc, time::Instant};
use tracing::{info, warn};

use crate::{
    Error, Node, PlaceRequest, models,
    node::Inner,
    planning::Planned,
    runner::{LostStage, RunnerHandle, Spec, StageSpec},
};

/// Longest wait until a peer has loaded its stage: it maps a file, which takes seconds even from slow flash.
const LOAD_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest wait of a request for its model to be ready: loading takes seconds, and what must be fetched first is better placed
/// by hand, where progress is seen.
const READY_TIMEOUT: Duration = Duration::from_secs(120);
/// How long a model that was placed by a request stays without another one.
const UNLOAD_AFTER: Duration = Duration::from_secs(600);
/// How long it is believed that a node is slower than it says: it says so itself by then, or is well again.
const PACE_FOR: Duration = Duration::from_secs(120);
/// Longest wait for a coordinator that is told of a lost stage.
const TELL_TIMEOUT: Duration = Duration::from_secs(5);
/// Lost stages that may wait to be told of.
const LOST_MAX: usize = 16;
/// How long a demonstration model stays unused that a lost device had placed on itself.
const ORPHANED_FOR: Duration = Duration::from_secs(60);
/// How often idle instances are looked for.
pub(crate) const IDLE_CHECK: Duration = Duration::from_secs(1);

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
    /// Requests that wait for their turn at this node.
    pub n_waiting: usize,
    /// Speed of one conversation as the planner predicted it, in tokens per second.
    pub predicted_per_s: Option<f64>,
    /// A placement that would be much better, in words.
    pub suggestion: Option<String>,
    /// The same as measured over the latest answers that this node drove.
    pub measured_per_s: Option<f64>,
}

/// What this node knows of instances beside their shared records.
#[derive(Debug)]
pub(crate) struct Instances {
    /// Where runners that are given up are told of.
    lost: mpsc::Sender<LostStage>,
    here: Mutex<HashMap<InstanceId, Here>>,
    /// Share of their planned speed that nodes were seen to have of late, and when.
    paces: Mutex<HashMap<NodeId, (f64, Instant)>>,
    /// Held while a request places a model, so that two requests do not place it twice.
    automatic: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
pub(crate) struct Here {
    /// The stage that runs here.
    stage: Option<StageRecord>,
    /// How far its nodes are with fetching, and under which epoch.
    progress: Option<(Epoch, u64, u64)>,
    predicted_per_s: Option<f64>,
    /// Whether its stage of an earlier life is being loaded again.
    is_resuming: bool,
    /// Whether it is being moved while it runs.
    pub(crate) is_relocating: bool,
    /// Why its nodes changed, and to which epoch.
    why: Option<(Epoch, String)>,
    /// A placement that would be better, in words.
    pub(crate) suggestion: Option<String>,
    /// Whether and when it was better elsewhere.
    pub(crate) betterment: Betterment,
    /// When it last had something to do, as far as this node knows.
    last_used: Option<Instant>,
}

/// Stages whose runners were given up, as they come.
pub(crate) type LostStages = mpsc::Receiver<LostStage>;

/// Carries on without the stages whose runners are given up, until the node ends.
pub(crate) async fn watch_stages(inner: Arc<Inner>, mut lost: LostStages) {
    while let Some(stage) = lost.recv().await {
        inner.give_up_stage(stage).await;
    }
}

impl Instances {
    /// Knows nothing yet.
    pub(crate) fn new() -> (Arc<Self>, LostStages) {
        let (lost, stages) = mpsc::channel(LOST_MAX);
        let instances = Self {
            lost,
            here: Mutex::default(),
            paces: Mutex::default(),
            automatic: tokio::sync::Mutex::default(),
        };
        (Arc::new(instances), stages)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<InstanceId, Here>> {
        self.here.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that an instance has something to do.
    pub(crate) fn touch(&self, instance: InstanceId) {
        self.lock().entry(instance).or_default().last_used = Some(Instant::now());
    }

    /// Notes how far an instance's nodes are with fetching.
    pub(crate) fn set_progress(
        &self,
        instance: InstanceId,
        epoch: Epoch,
        n_bytes: u64,
        n_total: u64,
    ) {
        self.lock().entry(instance).or_default().progress = Some((epoch, n_bytes, n_total));
    }

    /// Changes what is known of an instance.
    pub(crate) fn with<T>(&self, id: InstanceId, change: impl FnOnce(&mut Here) -> T) -> T {
        change(self.lock().entry(id).or_default())
    }

    /// Whether this node moves an instance.
    pub(crate) fn is_any_relocating(&self) -> bool {
        self.lock().values().any(|here| here.is_relocating)
    }

    /// Notes why an instance's nodes changed.
    pub(crate) fn set_why(&self, instance: InstanceId, epoch: Epoch, why: Option<String>) {
        if let Some(why) = why {
            self.with(instance, |here| here.why = Some((epoch, why)));
        }
    }

    /// Why an instance's nodes changed to those of an epoch, as far as this node was told.
    pub(crate) fn why(&self, instance: InstanceId, epoch: Epoch) -> Option<String> {
        let here = self.lock();
        let (of, why) = here.get(&instance)?.why.as_ref()?;
        (*of == epoch).then(|| why.clone())
    }

    /// Notes which share of its planned speed a node was seen to have.
    pub(crate) fn set_pace(&self, node: NodeId, share: f64) {
        let mut paces = self.paces.lock().unwrap_or_else(PoisonError::into_inner);
        paces.retain(|_, (_, at)| at.elapsed() < PACE_FOR);
        paces.insert(node, (share, Instant::now()));
    }

    /// Share of its planned speed that a node was seen to have of late.
    pub(crate) fn pace(&self, node: NodeId) -> f64 {
        let paces = self.paces.lock().unwrap_or_else(PoisonError::into_inner);
        paces.get(&node).filter(|(_, at)| at.elapsed() < PACE_FOR).map_or(1.0, |pace| pace.0)
    }

    /// Notes a stage that runs here, unless one of a newer epoch does, or that none does any more.
    pub(crate) fn set_stage(&self, instance: InstanceId, stage: Option<StageRecord>) {
        self.with(instance, |here| match (&here.stage, &stage) {
            (Some(known), Some(new)) if known.epoch > new.epoch => {}
            _ => here.stage = stage,
        });
    }

    /// Takes away a stage if it is still that of this epoch. Returns whether it was.
    pub(crate) fn clear_stage(&self, instance: InstanceId, epoch: Epoch) -> bool {
        let mut here = self.lock();
        let Some(here) = here.get_mut(&instance) else { return false };
        here.stage.take_if(|stage| stage.epoch == epoch).is_some()
    }

    /// Notes whether a stage of an earlier life is being loaded again.
    pub(crate) fn set_resuming(&self, instance: InstanceId, is_resuming: bool) {
        self.lock().entry(instance).or_default().is_resuming = is_resuming;
    }

    fn is_resuming(&self, instance: InstanceId) -> bool {
        self.lock().get(&instance).is_some_and(|here| here.is_resuming)
    }

    /// The stages that run here.
    fn stages(&self) -> Vec<StageRecord> {
        let mut stages: Vec<StageRecord> =
            self.lock().values().filter_map(|here| here.stage.clone()).collect();
        stages.sort_by_key(|stage| stage.instance);
        stages
    }
}

impl Node {
    /// Places a model over nodes that the planner chooses, and waits until every stage is ready. Of several copies the first
    /// is returned.
    ///
    /// # Errors
    /// If the model cannot be opened here or there, does not fit, or there are too few nodes.
    pub async fn place(&self, request: PlaceRequest) -> Result<InstanceStatus, Error> {
        self.place_for(&request, None).await
    }

    async fn place_for(
        &self,
        request: &PlaceRequest,
        unload_after: Option<Duration>,
    ) -> Result<InstanceStatus, Error> {
        let copies = self.plan_copies(request).await?;
        let unload_after_s = unload_after.map(whole_s);
        let mut brought_up = Vec::with_capacity(copies.len());
        for Planned { model, n_ctx, candidate } in copies {
            let id = InstanceId(crate::random_u64()?);
            let record = InstanceRecord {
                id,
                epoch: self.inner().peers().reserve_epoch(id),
                phase: Phase::Placing,
                model,
                placement: candidate.placement(),
                n_ctx,
                unload_after_s,
            };
            let mut here = self.inner().instances.lock();
            here.entry(record.id).or_default().predicted_per_s = Some(candidate.tokens_per_s);
            drop(here);
            brought_up.push(self.bring_up(record, None));
        }
        let mut records = futures_util::future::try_join_all(brought_up).await?;
        Ok(self.status(records.swap_remove(0)))
    }

    /// Drops an instance everywhere.
    ///
    /// # Errors
    /// If this node does not know it.
    pub async fn unplace(&self, instance: InstanceId) -> Result<(), Error> {
        let record = self.inner().peers().read(|state, _| state.instance(instance).cloned());
        let record = record.filter(|record| record.phase != Phase::Dropped);
        let record = record.ok_or(Error::UnknownInstance { id: instance })?;
        info!(model = %record.model.name, %instance, "dropped");
        let dropped = InstanceRecord { phase: Phase::Dropped, ..record };
        self.inner().take_in(dropped.clone());
        let request = Request::Publish { instance: dropped, peers: Vec::new(), why: None };
        self.inner().peers().tell_all(&request).await;
        Ok(())
    }

    /// The instances that this node knows.
    pub fn instances(&self) -> Vec<InstanceStatus> {
        let records: Vec<InstanceRecord> =
            self.inner().peers().read(|state, _| state.instances().cloned().collect());
        let live = records.into_iter().filter(|record| record.phase != Phase::Dropped);
        let mut statuses: Vec<InstanceStatus> = live.map(|record| self.status(record)).collect();
        statuses.sort_by(|a, b| {
            (&a.record.model.name, a.record.id).cmp(&(&b.record.model.name, b.record.id))
        });
        statuses
    }

    fn status(&self, record: InstanceRecord) -> InstanceStatus {
        let missing = self.inner().missing(&record);
        let is_healing = record.phase == Phase::Ready && missing.is_some();
        let state = if is_healing { "healing" } else { record.phase.as_str() };
        let leaving = self.inner().why_leaving(&record);
        let moved = self.inner().instances.why(record.id, record.epoch);
        let here = self.inner().instances.lock();
        let here = here.get(&record.id);
        let lost = missing
            .map(|(node, layers)| format!("layers {layers} are lost with node {}", node.short()));
        let why = match &record.phase {
            Phase::Failed(why) => Some(why.clone()),
            Phase::Ready => lost.or(leaving),
            Phase::Healing => lost.or(moved),
            Phase::Fetching | Phase::Loading => moved,
            Phase::Placing | Phase::Dropped => None,
        };
        let is_fetching = record.phase == Phase::Fetching;
        let progress = here.and_then(|here| here.progress).filter(|_| is_fetching);
        let of_this_epoch = progress.filter(|(epoch, ..)| *epoch == record.epoch);
        let measured = self.inner().instruments.stats.of(record.id);
        InstanceStatus {
            state,
            why,
            progress: of_this_epoch.map(|(_, n_bytes, n_total)| (n_bytes, n_total)),
            n_waiting: self.inner().queues().n_waiting(record.id),
            n_requests: usize::try_from(measured.n_running).unwrap_or(usize::MAX),
            predicted_per_s: here.and_then(|here| here.predicted_per_s),
            suggestion: here.and_then(|here| here.suggestion.clone()),
            measured_per_s: measured.measured_per_s,
            record,
        }
    }

    /// The instance that answers for a model or has this id; a model that is on a disk of the cluster is placed first if need
    /// be.
    ///
    /// # Errors
    /// If nobody here knows the model, it cannot be placed, or it is not ready in time.
    pub(crate) async fn instance_for(&self, model: &str) -> Result<InstanceRecord, Error> {
        let deadline = Instant::now() + READY_TIMEOUT;
        let mut changes = self.inner().peers().changes();
        let mut has_placed = false;
        loop {
            changes.mark_unchanged();
            let named = self.named(model);
            if let Some(ready) = self.inner().best(&named) {
                self.inner().instances.touch(ready.id);
                return Ok(ready.clone());
            }
            let is_coming = |record: &InstanceRecord| !matches!(record.phase, Phase::Failed(_));
            if !named.iter().any(is_coming) {
                if has_placed {
                    return Err(self.why_not(model, &named));
                }
                has_placed = true;
                self.place_automatically(model).await?;
                continue;
            }
            // The clock moves on without events: what is lost for long enough is told then.
            let changed = tokio::time::timeout(Duration::from_secs(1), changes.changed());
            let _ = changed.await;
            if Instant::now() > deadline {
                return Err(self.why_not(model, &named));
            }
        }
    }

    /// Why none of these instances answers.
    fn why_not(&self, model: &str, named: &[InstanceRecord]) -> Error {
        let lost = named.iter().find_map(|record| self.inner().missing(record));
        if let Some((node, layers)) = lost {
            return Error::StageLost { node, layers };
        }
        let failed = named.iter().find_map(|record| match &record.phase {
            Phase::Failed(why) => Some(why.clone()),
            _ => None,
        });
        let message = failed.unwrap_or_else(|| {
            format!("model {model} was not ready within {} s", READY_TIMEOUT.as_secs())
        });
        Error::StageFailed { message }
    }

    /// Places a model that a request names, if it is on a disk of the cluster: no request makes the cluster download.
    async fn place_automatically(&self, model: &str) -> Result<(), Error> {
        let _one_at_a_time = self.inner().instances.automatic.lock().await;
        if !self.named(model).is_empty() {
            return Ok(());
        }
        let unknown = || {
            let mut known: Vec<String> =
                self.instances().into_iter().map(|status| status.record.model.name).collect();
            known.dedup();
            Error::UnknownModel { name: model.to_owned(), known }
        };
        let name = self.name_on_disk(model).await.ok_or_else(unknown)?;
        info!(model = %name, "placed for a request");
        let request = PlaceRequest { model: name, ..PlaceRequest::default() };
        let unload_after = self.inner().config().unload_after.unwrap_or(UNLOAD_AFTER);
        self.place_for(&request, Some(unload_after)).await.map(drop)
    }

    /// The name of a model that a text leads to and that the nodes which live hold among them, every layer of it.
    async fn name_on_disk(&self, model: &str) -> Option<String> {
        if model == shoal_hub::DEMO {
            return Some(model.to_owned());
        }
        let library = self.inner().library()?;
        let stored = library.list().await;
        let is_whole = |name: &String| {
            stored.iter().any(|it| it.name == *name && it.state == ModelState::Whole)
        };
        let nearby = self.inner().peers().alive();
        let is_nearby = |name: &String| {
            let mut held = nearby.iter().flat_map(|record| &record.models);
            held.any(|held| held.name == *name && held.is_whole)
        };
        let mut names = library.names_of(model).into_iter();
        names.find(|name| is_whole(name) || is_nearby(name))
    }

    /// The instances that a text names, by id or by model.
    fn named(&self, model: &str) -> Vec<InstanceRecord> {
        let names =
            |record: &InstanceRecord| record.model.name == model || record.id.to_string() == model;
        self.inner().peers().read(|state, _| {
            let live = state.instances().filter(|record| record.phase != Phase::Dropped);
            live.filter(|record| names(record)).cloned().collect()
        })
    }

    /// Brings an instance up, as a task of its own: whoever asked for it may go away.
    pub(crate) async fn bring_up(
        &self,
        record: InstanceRecord,
        why: Option<String>,
    ) -> Result<InstanceRecord, Error> {
        let node = self.clone();
        let task = self.inner().tasks().spawn(async move {
            let cancel = node.inner().cancel().clone();
            cancel.run_until_cancelled(node.bring_up_now(record, why)).await
        });
        match task.await {
            Ok(Some(result)) => result,
            Ok(None) => Err(Error::StageFailed { message: "the node is ending".into() }),
            Err(error) => Err(Error::StageFailed { message: format!("placing: {error}") }),
        }
    }

    async fn bring_up_now(
        &self,
        mut record: InstanceRecord,
        why: Option<String>,
    ) -> Result<InstanceRecord, Error> {
        let is_healing = record.phase == Phase::Healing;
        let started = Instant::now();
        self.inner().instances.set_why(record.id, record.epoch, why.clone());
        self.announce(&record, why);
        let result = async {
            record.phase = Phase::Fetching;
            self.announce(&record, None);
            self.obtain_everywhere(&record).await?;
            record.phase = Phase::Loading;
            self.announce(&record, None);
            self.load_everywhere(&record).await
        }
        .await;
        record.phase = match &result {
            Ok(()) => Phase::Ready,
            Err(error) => Phase::Failed(crate::error::chain(error)),
        };
        if let Err(error) = &result {
            warn!(model = %record.model.name, instance = %record.id, %error, "not placed");
        }
        // What could not be healed stays as it is: its coordinator tries again, with what is there by then.
        if result.is_ok() || !is_healing {
            self.announce(&record, None);
        } else {
            let (instance, epoch) = (record.id, record.epoch);
            self.inner().peers().apply(ClusterEvent::GivenUp { instance, epoch });
        }
        result?;
        let (n_stages, ms) = (record.placement.stages.len(), started.elapsed().as_millis());
        info!(model = %record.model.name, n_stages, ms, "ready");
        Ok(record)
    }

    /// Takes in an instance's record and tells every peer, without waiting for their answers: newer records outrank older
    /// ones in whatever order they arrive.
    fn announce(&self, record: &InstanceRecord, why: Option<String>) {
        self.inner().take_in(record.clone());
        let peers = self.inner().records_of(record);
        let request = Request::Publish { instance: record.clone(), peers, why };
        let inner = self.share();
        self.inner().spawn(async move { inner.peers().tell_all(&request).await });
    }

    /// Loads every stage, all nodes at once.
    async fn load_everywhere(&self, record: &InstanceRecord) -> Result<(), Error> {
        let loads = record.placement.stages.iter().map(|stage| async {
            if stage.node == self.id() {
                return self.inner().load(record).await;
            }
            let peers = self.inner().records_of(record);
            let request = Request::Load { instance: record.clone(), peers };
            match self.inner().peers().ask_soon(stage.node, &request, LOAD_TIMEOUT).await? {
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

    /// As its coordinator, places an instance anew, under an epoch of this node's own.
    pub(crate) async fn heal(&self, instance: InstanceId, epoch: Epoch, lost: Vec<NodeId>) {
        let known = self.inner().peers().read(|state, _| state.instance(instance).cloned());
        let Some(old) = known.filter(|known| known.epoch < epoch) else { return };
        let names: Vec<String> = lost.iter().map(NodeId::short).collect();
        warn!(model = %old.model.name, %instance, lost = ?names, "healing");
        let placement = match self.plan_again(&old, &lost).await {
            Ok(placement) => placement,
            Err(error) => {
                let error = crate::error::chain(&error);
                warn!(model = %old.model.name, %instance, error, "cannot be healed yet");
                return;
            }
        };
        // Every device has a demonstration model of its own: that of a lost one stays for answers under way, and no longer.
        let is_own = old.model.name == shoal_hub::DEMO && old.placement.stages.len() == 1;
        let unload_after = self.inner().config().unload_after.unwrap_or(ORPHANED_FOR);
        let unload_after_s = old.unload_after_s.or_else(|| is_own.then(|| whole_s(unload_after)));
        let record =
            InstanceRecord { epoch, phase: Phase::Healing, placement, unload_after_s, ..old };
        let names: Vec<String> = lost.iter().map(|node| self.inner().name_of(*node)).collect();
        let why = (!lost.is_empty()).then(|| format!("lost: {}", names.join(", ")));
        // It has logged what went wrong; the coordinator tries again.
        let _ = self.bring_up(record, why).await;
    }

    /// Drops the instances that this node coordinates and that nobody has used for long enough.
    pub(crate) async fn drop_idle(&self) {
        let me = self.id();
        let mine: Vec<InstanceRecord> = self.inner().peers().read(|state, now| {
            let is_mine = |record: &&InstanceRecord| state.coordinator(record.id, now) == Some(me);
            state.instances().filter(is_mine).cloned().collect()
        });
        for record in mine {
            let Some(after_s) = record.unload_after_s else { continue };
            let after = Duration::from_secs(u64::from(after_s));
            let last_used = {
                let mut here = self.inner().instances.lock();
                *here.entry(record.id).or_default().last_used.get_or_insert_with(Instant::now)
            };
            let last_used = self.inner().router().last_used(record.id).max(Some(last_used));
            if record.phase == Phase::Ready && last_used.is_some_and(|at| at.elapsed() > after) {
                info!(model = %record.model.name, instance = %record.id, "idle");
                // Somebody else may have dropped it in this moment, which is as good.
                let _ = self.unplace(record.id).await;
            }
        }
    }
}

fn whole_s(time: Duration) -> u32 {
    u32::try_from(time.as_secs()).unwrap_or(u32::MAX)
}

/// What is said of an order that something newer has outrun.
fn outrun() -> Error {
    Error::StageFailed { message: "a newer placement has come".into() }
}

impl Inner {
    /// Of instances that answer for one model: one whose every node lives, with the fewest answers under way, and of those the
    /// one that was spread widest, since somebody asked for that by hand.
    fn best<'a>(&self, named: &'a [InstanceRecord]) -> Option<&'a InstanceRecord> {
        let is_ready = |record: &&InstanceRecord| {
            record.phase == Phase::Ready
                && self.missing(record).is_none()
                && !self.instances.is_resuming(record.id)
        };
        named.iter().filter(is_ready).min_by_key(|record| {
            let n_stages = record.placement.stages.len();
            let is_automatic = record.unload_after_s.is_some();
            let is_elsewhere = record.placement.stages[0].node != self.peers().id();
            let n_running = self.n_running(record.id);
            (is_automatic, n_running, std::cmp::Reverse(n_stages), is_elsewhere, record.id)
        })
    }

    /// Answers of an instance that this node drives.
    fn n_running(&self, instance: InstanceId) -> usize {
        self.router().n_drivers(instance)
    }

    /// A stage of an instance whose node is dead.
    pub(crate) fn missing(&self, record: &InstanceRecord) -> Option<(NodeId, LayerRange)> {
        self.peers().read(|state, now| {
            let mut stages = record.placement.stages.iter();
            stages
                .find(|stage| state.liveness(stage.node, now) == Liveness::Dead)
                .map(|stage| (stage.node, stage.layers))
        })
    }

    /// Runs this node's stage of an instance.
    pub(crate) async fn load(&self, record: &InstanceRecord) -> Result<(), Error> {
        self.take_in(record.clone());
        let stages = &record.placement.stages;
        let stage_idx = stages
            .iter()
            .position(|stage| stage.node == self.peers().id())
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
        // An order that was long under way must not call back what a newer placement keeps silent.
        self.check_is_newest(record)?;
        let layers = stages[stage_idx].layers;
        let n_bytes = opened.stage_bytes(layers, record.n_ctx);
        let stage = StageRecord { instance: record.id, epoch: record.epoch, layers, n_bytes };
        if self.router().move_runner(record, stage_idx).await {
            info!(%layers, epoch = %record.epoch, "stage kept");
            self.instances.set_stage(record.id, Some(stage));
            self.publish_stages();
            self.end_outdated();
            return self.check_is_newest(record);
        }
        self.check_is_newest(record)?;
        if let (Some(library), Some(files)) = (self.library(), &opened.files) {
            // It is there if it was obtained before; a hole in the file would be read as zeros.
            library.obtain(files, models::stage(layers)).await?;
        }
        let config = self.config();
        let stage_spec = StageSpec::of(record, stage_idx, config.n_threads, config.isa.clone());
        let spec = Spec {
            node: self.peers().id(),
            instance: record.clone(),
            stage: stage_spec,
            command: config.runner.clone(),
            profiler: Arc::clone(&self.instruments.profiler),
            outbox: self.router().outbox(),
            lost: self.instances.lost.clone(),
            tasks: self.tasks().clone(),
        };
        let runner = RunnerHandle::start(spec, Arc::clone(&opened.model)).await?;
        self.check_is_newest(record)?;
        if !self.router().add_runner(record, layers, runner) {
            return Err(outrun());
        }
        self.instances.set_stage(record.id, Some(stage));
        self.publish_stages();
        // Something newer may have come between the look and the entry, and found nothing to end.
        self.end_outdated();
        self.check_is_newest(record)
    }

    /// Fails if something newer is known of an instance than this placement.
    fn check_is_newest(&self, record: &InstanceRecord) -> Result<(), Error> {
        let is_newest = self.peers().read(|state, _| state.is_current(record.id, record.epoch));
        if is_newest { Ok(()) } else { Err(outrun()) }
    }

    /// The records of the nodes that run an instance's stages.
    pub(crate) fn records_of(&self, instance: &InstanceRecord) -> Vec<NodeRecord> {
        let own = self.peers().record();
        self.peers().read(|state, _| {
            let record = |id| if id == own.id { Some(&own) } else { state.record(id) };
            let stages = instance.placement.stages.iter();
            stages.filter_map(|stage| record(stage.node).cloned()).collect()
        })
    }

    /// Takes in an instance as somebody says it is now, and ends the stage that it outdates.
    pub(crate) fn take_in(&self, instance: InstanceRecord) {
        if self.peers().apply(ClusterEvent::Instance(instance)) {
            self.end_outdated();
        }
    }

    /// Ends the stages of this node that are of an older epoch than the newest known, or of an instance that is no more. A stage
    /// that the newest placement leaves as it is only waits for it.
    pub(crate) fn end_outdated(&self) {
        let known: Vec<(StageRecord, InstanceRecord)> = self.peers().read(|state, _| {
            let newest =
                |stage: StageRecord| Some((stage.clone(), state.instance(stage.instance)?.clone()));
            self.instances.stages().into_iter().filter_map(newest).collect()
        });
        let is_outdated = |(stage, known): &(StageRecord, InstanceRecord)| match known.phase {
            // Final, even for a placement that somebody who had not heard of it made after it.
            Phase::Dropped => true,
            Phase::Failed(_) => known.epoch >= stage.epoch,
            _ => known.epoch > stage.epoch && !self.router().fence(known),
        };
        let outdated: Vec<_> = known.into_iter().filter(is_outdated).collect();
        for (StageRecord { instance, epoch, .. }, newest) in &outdated {
            let (instance, epoch) = (*instance, *epoch);
            if newest.phase == Phase::Dropped {
                self.sequences().forget(instance);
                self.queues().forget(instance);
                self.instruments.stats.forget(instance);
            }
            self.router().remove_runner(instance, epoch);
            self.instances.set_stage(instance, None);
            info!(%instance, %epoch, "stage ended");
        }
        if !outdated.is_empty() {
            self.publish_stages();
        }
    }

    /// The runner of this node's stage of an instance was given up: whoever coordinates the instance is told, and finds another
    /// place for its layers. This node is as well as before.
    async fn give_up_stage(&self, LostStage { instance, message }: LostStage) {
        // Something newer may have taken its place.
        let Some(epoch) = self.router().remove_given_up(instance) else { return };
        self.instances.set_stage(instance, None);
        self.publish_stages();
        let node = self.peers().id();
        let coordinator = self.peers().read(|state, now| state.coordinator(instance, now));
        self.peers().apply(ClusterEvent::StageLost { instance, epoch, node });
        let Some(coordinator) = coordinator.filter(|it| *it != node) else { return };
        let request = Request::StageLost { instance, epoch, message };
        if let Err(error) = self.peers().ask(coordinator, &request, TELL_TIMEOUT).await {
            // It will see in this node's record that the stage is gone.
            warn!(coordinator = %coordinator.short(), %error, "the coordinator was not told");
        }
    }

    pub(crate) fn publish_stages(&self) {
        self.peers().set_stages(self.instances.stages());
    }
}

#[cfg(test)]
mod tests {
    use shoal_proto::SamplingParams;

    use super::*;
    use crate::{Config, Event, GenerateRequest, Prompt};

    /// The demonstration model on one node without a network, and two placements after it that leave its stage as it is.
    async fn placed() -> (Node, InstanceRecord, [InstanceRecord; 2]) {
        let config = Config { name: "one".into(), n_threads: Some(1), ..Config::default() };
        let node = Node::start(config).await.expect("it needs nothing");
        let request = PlaceRequest { model: "demo".into(), ..PlaceRequest::default() };
        let first = node.place(request).await.expect("it fits").record;
        let later = |record: &InstanceRecord| InstanceRecord {
            epoch: record.epoch.next(node.id()),
            phase: Phase::Healing,
            ..record.clone()
        };
        let second = later(&first);
        let third = later(&second);
        (node, first, [second, third])
    }

    fn epochs(node: &Node) -> Vec<Epoch> {
        node.inner().instances.stages().iter().map(|stage| stage.epoch).collect()
    }

    #[tokio::test]
    async fn an_order_to_load_that_was_outrun_moves_nothing() {
        let (node, first, [second, third]) = placed().await;
        let inner = node.inner();
        inner.take_in(second.clone());
        inner.take_in(third.clone());
        inner.load(&second).await.expect_err("it comes after the third was heard of");
        assert_eq!(epochs(&node), [first.epoch], "it waits for the third");
        inner.load(&third).await.expect("the newest");
        assert_eq!(epochs(&node), [third.epoch]);
        inner.load(&second).await.expect_err("it comes after the third was loaded");
        assert_eq!(epochs(&node), [third.epoch]);
        node.shutdown().await;
    }

    #[tokio::test]
    async fn an_answer_that_waits_says_why_its_model_is_placed_anew() {
        let (node, first, [second, third]) = placed().await;
        let request = GenerateRequest {
            model: first.id.to_string(),
            prompt: Prompt::Raw("The fish".into()),
            sampling: SamplingParams { temperature: 1.0, seed: 7, ..Default::default() },
            breakers: Vec::new(),
            max_tokens: Some(200),
            stop: Vec::new(),
        };
        let mut answer = node.generate(request).await.expect("it is placed");
        while !matches!(answer.next().await.expect("it has not ended"), Event::Text(_)) {}
        let inner = node.inner();
        let whys = [(second, Some("phone takes 2.5 times as long as planned")), (third, None)];
        for (record, why) in whys {
            inner.instances.set_why(record.id, record.epoch, why.map(str::to_owned));
            inner.take_in(record.clone());
            let told = loop {
                match answer.next().await.expect("it has not ended") {
                    Event::Healing { why } => break why,
                    event => assert!(!matches!(event, Event::Finished { .. }), "too early"),
                }
            };
            let reason = why.map_or_else(String::new, |why| format!(": {why}"));
            assert_eq!(told, format!("the model is being placed anew{reason}"));
            inner.load(&record).await.expect("the newest");
            inner.take_in(InstanceRecord { phase: Phase::Ready, ..record });
            while !matches!(answer.next().await.expect("it goes on"), Event::Resumed { .. }) {}
        }
        while !matches!(answer.next().await.expect("it ends"), Event::Finished { .. }) {}
        node.shutdown().await;
    }

    #[tokio::test]
    async fn a_stage_that_waits_for_the_newest_placement_is_not_let_go_by_an_older_one() {
        let (node, _, [second, third]) = placed().await;
        let router = node.inner().router();
        assert!(router.fence(&second) && router.fence(&third) && router.fence(&second));
        assert!(!router.move_runner(&second, 0).await, "heard of after the order was checked");
        assert!(router.move_runner(&third, 0).await);
        assert!(!router.move_runner(&second, 0).await, "it is not moved back");
        node.shutdown().await;
    }
}
