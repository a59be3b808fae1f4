//! Draining: a node gives its layers away before it goes, or because it suffers.
//!
//! A node that drains says so in its record. No plan gives it layers any more, and the coordinators of its instances place them
//! anew over the others: first those get what they need, and only when all of it is at hand the new epoch begins, so that an
//! answer under way waits no longer than a stage takes to load. Where the others cannot take the layers, the instance stays as
//! it is and says so.

use std::{sync::Arc, time::Duration};

use shoal_cluster::Strain;
use shoal_proto::{
    Epoch, InstanceId, NodeId,
    control::{DrainCause, InstanceRecord, NodeRecord, Phase, Placement, Request, Response},
};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::{Error, Node, clock, node::Inner};

/// How often a node looks how it feels.
const FEEL_EVERY: Duration = Duration::from_secs(1);
/// Longest wait for a peer's word that it drains.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// A stage that computed something within this time has an answer under way: the slowest phones take a second for a token.
const IN_USE_FOR: Duration = Duration::from_secs(2);
/// How often a node that ends looks whether it may.
const LOOK_EVERY: Duration = Duration::from_millis(50);

impl Node {
    /// Has a node, or this one, give its layers away; or takes that back.
    ///
    /// # Errors
    /// If the node is unknown, does not answer, or refuses.
    pub async fn drain(&self, node: Option<NodeId>, is_undone: bool) -> Result<(), Error> {
        let node = node.unwrap_or(self.id());
        if node == self.id() {
            self.inner().set_draining((!is_undone).then_some(DrainCause::Asked));
            return Ok(());
        }
        let is_known = self.inner().peers().read(|state, _| state.record(node).is_some());
        if !is_known {
            return Err(Error::UnknownNode { node });
        }
        let request = Request::Drain { is_undone };
        match self.inner().peers().ask(node, &request, ANSWER_TIMEOUT).await? {
            Response::Ok => Ok(()),
            other => Err(Error::PeerLost {
                node,
                reason: format!("an answer that does not fit: {other:?}"),
            }),
        }
    }

    /// Lets the answers of this node end, and gives away the stages that answers of others need, before it goes; for at most so
    /// long. Returns at once where there is nothing to wait for.
    pub async fn leave_politely(&self, at_most: Duration) {
        let inner = self.inner();
        if !inner.is_in_use() {
            return;
        }
        if !inner.peers().alive().is_empty() {
            inner.set_draining(Some(DrainCause::Ending));
        }
        let deadline = Instant::now() + at_most;
        while inner.is_in_use() {
            if Instant::now() >= deadline {
                warn!("answers under way do not end in time");
                return;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// As its coordinator, moves an instance away from nodes that drain.
    pub(crate) async fn move_away(&self, instance: InstanceId, epoch: Epoch, leaving: Vec<NodeId>) {
        let Some(old) = self.inner().ready(instance) else { return };
        let why = self.inner().why_leaving(&old).unwrap_or_else(|| "a node is drained".into());
        match self.plan_elsewhere(&old, &leaving).await {
            Ok(placement) => self.relocate(old, epoch, placement, why).await,
            Err(error) => {
                let error = crate::error::chain(&error);
                warn!(model = %old.model.name, %instance, why, error, "it stays where it is");
            }
        }
    }

    /// Moves an instance that runs to another placement: brings everything there, and only then raises the epoch.
    pub(crate) async fn relocate(
        &self,
        old: InstanceRecord,
        epoch: Epoch,
        placement: Placement,
        why: String,
    ) {
        let instance = old.id;
        if placement == old.placement || epoch <= old.epoch {
            return;
        }
        let Some(_alone) = Relocating::begin(self.share(), instance) else { return };
        info!(model = %old.model.name, %instance, why, "moves");
        let of = old.epoch;
        let record = InstanceRecord { epoch, phase: Phase::Healing, placement, ..old };
        if let Err(error) = self.make_ready(&record).await {
            let error = crate::error::chain(&error);
            warn!(model = %record.model.name, %instance, error, "it stays where it is");
            return;
        }
        let is_as_it_was = self.inner().ready(instance).is_some_and(|now| now.epoch == of);
        if is_as_it_was {
            self.inner().instances.with(instance, |here| {
                here.betterment.moved(clock::since_start());
                here.suggestion = None;
            });
            // It has logged what went wrong; the coordinator tries again.
            let _ = self.bring_up(record, Some(why)).await;
        }
    }
}

/// The one move of an instance that is under way.
struct Relocating {
    inner: Arc<Inner>,
    instance: InstanceId,
}

impl Relocating {
    fn begin(inner: Arc<Inner>, instance: InstanceId) -> Option<Self> {
        let was =
            inner.instances.with(instance, |here| std::mem::replace(&mut here.is_relocating, true));
        (!was).then_some(Self { inner, instance })
    }
}

impl Drop for Relocating {
    fn drop(&mut self) {
        self.inner.instances.with(self.instance, |here| here.is_relocating = false);
    }
}

impl Inner {
    /// Publishes why this node gives its layers away, or that it does not, and tells every peer at once.
    pub(crate) fn set_draining(&self, cause: Option<DrainCause>) {
        if self.peers().record().draining == cause {
            return;
        }
        info!(cause = cause.map_or("none", DrainCause::as_str), "draining");
        self.peers().change_record(|record| record.draining = cause);
        self.peers().pass_on();
    }

    /// An instance that runs, as far as its record says.
    pub(crate) fn ready(&self, instance: InstanceId) -> Option<InstanceRecord> {
        let known = self.peers().read(|state, _| state.instance(instance).cloned());
        known.filter(|known| known.phase == Phase::Ready)
    }

    /// Whether answers are under way that this node drives, or whose stages it runs; or a move that it carries out: its own stage
    /// has ended by then, and whoever took the move over would have to miss it first.
    fn is_in_use(&self) -> bool {
        let is_recent = |at: Instant| at.elapsed() < IN_USE_FOR;
        let stages = self.peers().record().stages;
        self.instruments.stats.n_running() > 0
            || self.instances.is_any_relocating()
            || stages.iter().any(|stage| {
                self.router().last_used(stage.instance).is_some_and(is_recent)
                    && self.is_shared(stage.instance)
            })
    }

    /// Whether other nodes have a part in an instance: what is on this node alone has no answers but this node's own.
    fn is_shared(&self, instance: InstanceId) -> bool {
        let me = self.peers().id();
        self.peers().read(|state, _| {
            let known = state.instance(instance);
            known.is_some_and(|it| it.placement.stages.iter().any(|stage| stage.node != me))
        })
    }

    /// Which layers are to leave which node, and why.
    pub(crate) fn why_leaving(&self, record: &InstanceRecord) -> Option<String> {
        let nodes = self.records_of(record);
        record.placement.stages.iter().find_map(|stage| {
            let node = nodes.iter().find(|node| node.id == stage.node)?;
            let cause = node.draining?;
            Some(format!("{} {}: its layers {} move", node.name, cause.sentence(), stage.layers))
        })
    }

    /// The nodes that drain: those that take nothing, and those that take what nobody else can.
    pub(crate) fn draining(&self) -> [Vec<NodeId>; 2] {
        let own = self.peers().record();
        let known = self.peers().known_records();
        let of = |is_firm: bool| {
            let records = known.iter().chain([&own]);
            let drains = |record: &&NodeRecord| {
                record.draining.is_some_and(|cause| cause.is_firm() == is_firm)
            };
            records.filter(drains).map(|record| record.id).collect()
        };
        [of(true), of(false)]
    }
}

/// Has this node give its layers away while it suffers, until it ends.
pub(crate) async fn feel(inner: Arc<Inner>) {
    let mut strain = Strain::default();
    let mut ticks = tokio::time::interval(FEEL_EVERY);
    loop {
        ticks.tick().await;
        let Some(vitals) = inner.peers().vitals(inner.peers().id()) else { continue };
        let cause = strain.feel(&vitals, &inner.settings.get().limits(), clock::since_start());
        // What somebody asked for stays.
        if !inner.peers().record().draining.is_some_and(DrainCause::is_firm) {
            inner.set_draining(cause);
        }
    }
}
