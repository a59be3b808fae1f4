//! Planning for what runs: after a loss, away from nodes that drain, and whether it would be better off elsewhere.

use std::hash::{DefaultHasher, Hash, Hasher};

use shoal_cluster::planner::Plan;

use super::{
    Arc, Candidate, Error, InstanceRecord, Node, NodeId, PlaceRequest, Placement, PlanRequest,
    Resources, plan,
};
use crate::outlook::Outlook;

/// Share of the best speed for which survivors keep exactly their layers, and with them what they hold of every answer under
/// way: computing a long conversation anew costs more than a slightly slower pipeline.
const KEPT_SHARE: f64 = 0.85;
/// Up to this many survivors it is tried to let all but one of them keep their layers.
const KEEPERS_MAX: usize = 6;

impl Node {
    /// Chooses new nodes for an instance that has lost some, or is about to.
    pub(crate) async fn plan_again(
        &self,
        record: &InstanceRecord,
        lost: &[NodeId],
    ) -> Result<Placement, Error> {
        // Those whose process came back have lost what they ran, and may run it again if nobody else can.
        let dead: Vec<NodeId> =
            lost.iter().copied().filter(|&node| self.inner().peers().is_dead(node)).collect();
        let mut failed = None;
        for without in [lost.to_vec(), dead] {
            for exclude in self.exclusions(&without) {
                match self.plan_keeping(record, exclude).await {
                    Ok(placement) => return Ok(placement),
                    Err(error) => failed = failed.or(Some(error)),
                }
            }
        }
        Err(failed.expect("at least one plan was tried"))
    }

    /// Chooses nodes for an instance that runs, none of those that leave.
    pub(crate) async fn plan_elsewhere(
        &self,
        record: &InstanceRecord,
        leaving: &[NodeId],
    ) -> Result<Placement, Error> {
        let [firm, soft] = self.inner().draining();
        self.plan_keeping(record, [leaving, &firm, &soft].concat()).await
    }

    /// The nodes to leave out: all that drain, or else those that must.
    pub(super) fn exclusions(&self, without: &[NodeId]) -> Vec<Vec<NodeId>> {
        let [firm, soft] = self.inner().draining();
        let mut exclusions = vec![[without, &firm, &soft].concat()];
        if !soft.is_empty() {
            exclusions.push([without, &firm].concat());
        }
        exclusions
    }

    /// Plans without some nodes; of plans of about the same speed, the one in which most nodes keep their layers.
    async fn plan_keeping(
        &self,
        record: &InstanceRecord,
        exclude: Vec<NodeId>,
    ) -> Result<Placement, Error> {
        let opened = self.inner().open(&record.model).await?;
        let resources = self.resources(&opened, Some(record));
        let request = PlaceRequest { exclude, ..PlaceRequest::default() };
        let asked = self.plan_request(&request, record.n_ctx);
        let best = plan(&resources, asked.clone()).await?.candidates.swap_remove(0);
        let keepers: Vec<_> = record
            .placement
            .stages
            .iter()
            .filter(|stage| !asked.exclude.contains(&stage.node))
            .filter(|stage| resources.nodes.iter().any(|node| node.node == stage.node))
            .map(|stage| (stage.node, stage.layers))
            .collect();
        let mut sets = vec![keepers.clone()];
        if keepers.len() <= KEEPERS_MAX {
            sets.extend((0..keepers.len()).map(|i| {
                let others = keepers.iter().enumerate().filter(|(j, _)| *j != i);
                others.map(|(_, keeper)| *keeper).collect()
            }));
        }
        for n_kept in (1..=keepers.len()).rev() {
            let mut kept: Option<Candidate> = None;
            for pinned in sets.iter().filter(|set| set.len() == n_kept) {
                let asked = PlanRequest { pinned: pinned.clone(), ..asked.clone() };
                // Their layers alone may leave a gap that nobody can take.
                let Ok(mut plan) = plan(&resources, asked).await else { continue };
                let found = plan.candidates.swap_remove(0);
                let is_faster =
                    kept.as_ref().is_none_or(|kept| found.tokens_per_s > kept.tokens_per_s);
                if is_faster && found.tokens_per_s >= KEPT_SHARE * best.tokens_per_s {
                    kept = Some(found);
                }
            }
            if let Some(kept) = kept {
                return Ok(kept.placement());
            }
        }
        Ok(best.placement())
    }

    /// What is predicted for an instance as it is, and for the best placement at this moment. What was worked out before is
    /// returned again as long as nothing has changed that plans depend on.
    pub(crate) async fn outlook(
        &self,
        record: &InstanceRecord,
        old: Option<(u64, Outlook)>,
    ) -> Result<(u64, Outlook), Error> {
        let opened = self.inner().open(&record.model).await?;
        let resources = self.resources(&opened, Some(record));
        let exclude = self.exclusions(&[]).swap_remove(0);
        let key = key(record, &resources, &exclude);
        if let Some(old) = old.filter(|old| old.0 == key) {
            return Ok(old);
        }
        // Nobody measured what is as it should be.
        let unpaced = Arc::new(Resources {
            model: resources.model.clone(),
            nodes: self.plan_nodes(&opened, Some(record)),
            links: resources.links.clone(),
        });
        let as_planned = self.predict(&unpaced, record).await?;
        let current = self.predict(&resources, record).await?;
        let n_stages = record.placement.stages.len();
        // How wide something was spread by hand was somebody's choice.
        let min_nodes = if record.unload_after_s.is_none() { n_stages } else { 1 };
        let request =
            PlaceRequest { exclude, min_nodes: Some(min_nodes), ..PlaceRequest::default() };
        let best = plan(&resources, self.plan_request(&request, record.n_ctx)).await;
        let best = best.map_or_else(|_| current.clone(), |plan| plan.best().clone());
        let outlook = Outlook {
            current_per_s: current.tokens_per_s,
            best_per_s: best.tokens_per_s,
            best: best.placement(),
            compute_s: as_planned.stages.iter().map(|stage| stage.compute_s).collect(),
        };
        Ok((key, outlook))
    }

    /// Predicts what a placement does as it is.
    async fn predict(
        &self,
        resources: &Arc<Resources>,
        record: &InstanceRecord,
    ) -> Result<Candidate, Error> {
        let stages = &record.placement.stages;
        let request = PlaceRequest {
            min_nodes: Some(stages.len()),
            max_nodes: Some(stages.len()),
            pinned: stages.iter().map(|stage| (stage.node, stage.layers)).collect(),
            ..PlaceRequest::default()
        };
        let plan: Plan = plan(resources, self.plan_request(&request, record.n_ctx)).await?;
        Ok(plan.best().clone())
    }
}

/// Names what a plan depends on, as coarsely as a plan is worth making anew.
fn key(record: &InstanceRecord, resources: &Resources, exclude: &[NodeId]) -> u64 {
    /// An eighth of a doubling: a tenth more or less.
    fn coarse(x: f64) -> i64 {
        // Saturates, and is 0 for what is no number.
        (x.max(f64::MIN_POSITIVE).log2() * 8.0).round() as i64
    }
    let mut hash = DefaultHasher::new();
    (record.epoch, exclude).hash(&mut hash);
    for node in &resources.nodes {
        (node.node, coarse(node.decode_bytes_per_s * node.derate)).hash(&mut hash);
        // Whether it fits matters, and that in steps of a quarter of a gigabyte.
        (node.memory_bytes >> 28).hash(&mut hash);
    }
    hash.finish()
}
