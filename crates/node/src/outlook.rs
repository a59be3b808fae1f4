//! Whether instances that run would be better off elsewhere: since a device has joined, or since a stage has become slow.
//!
//! Every node works that out for what it knows and shows it. Only an instance's coordinator moves it, for a stage that is slow
//! always, for a device that has joined if its owner lets it (`Config::auto`). An instance that somebody placed by hand never
//! moves to fewer nodes than it has: over how many to spread it was a choice.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
    time::Duration,
};

use shoal_cluster::{Advice, Betterment, Straggler};
use shoal_proto::{
    Epoch, InstanceId, NodeId,
    control::{InstanceRecord, Phase, Placement, Request},
};
use tracing::{debug, info};

use crate::{Node, clock, node::Inner, trace::StepTrace};

/// How often instances are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How often the steps of answers under way are.
const PACE_EVERY: Duration = Duration::from_millis(500);
/// Steps older than this say nothing about now.
const STEPS_FOR: Duration = Duration::from_secs(3);
/// A stage that takes less than twice this for a token is not worth a move, in seconds: a link takes as long.
const COMPUTE_MIN_S: f64 = 2.5e-3;
/// Least share of its rates that a slow stage is planned with.
const PACE_MIN: f64 = 0.01;
/// Longest wait for a coordinator to hear of a slow stage.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Most stages that a peer may tell of.
const STAGES_MAX: usize = 64;

/// What was planned for an instance, and from what.
#[derive(Debug, Clone)]
pub(crate) struct Outlook {
    /// Tokens per second of the placement as it is.
    pub(crate) current_per_s: f64,
    /// Of the best.
    pub(crate) best_per_s: f64,
    /// The best.
    pub(crate) best: Placement,
    /// Seconds that each stage of the placement as it is computes for a token.
    pub(crate) compute_s: Vec<f64>,
}

/// Looks for better placements, until the node ends.
pub(crate) async fn watch(node: Node) {
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut known: HashMap<InstanceId, (u64, Outlook)> = HashMap::new();
    let mut epochs: HashMap<InstanceId, Epoch> = HashMap::new();
    loop {
        ticks.tick().await;
        let inner = node.inner();
        let settled = inner.settled();
        known.retain(|id, _| settled.iter().any(|record| record.id == *id));
        epochs.retain(|id, _| settled.iter().any(|record| record.id == *id));
        for record in settled {
            let before = epochs.insert(record.id, record.epoch);
            if before.is_some_and(|before| before != record.epoch) {
                // Whoever moved it: the next move is not to follow at once.
                let now = clock::since_start();
                inner.instances.with(record.id, |here| here.betterment.moved(now));
            }
            let old = known.remove(&record.id);
            if let Some(new) = node.look(&record, old).await {
                node.weigh(&record, &new.1);
                known.insert(record.id, new);
            }
        }
    }
}

impl Node {
    /// Plans an instance anew if anything has changed that plans depend on.
    async fn look(
        &self,
        record: &InstanceRecord,
        old: Option<(u64, Outlook)>,
    ) -> Option<(u64, Outlook)> {
        if self.inner().peers().alive().is_empty() {
            self.inner().instances.with(record.id, |here| here.suggestion = None);
            return None;
        }
        match self.outlook(record, old).await {
            Ok(outlook) => Some(outlook),
            Err(error) => {
                debug!(instance = %record.id, %error, "no outlook");
                None
            }
        }
    }

    /// Suggests the better placement if there is one, or moves there.
    fn weigh(&self, record: &InstanceRecord, outlook: &Outlook) {
        let inner = self.inner();
        let is_other = outlook.best != record.placement;
        let best = if is_other { outlook.best_per_s } else { 0.0 };
        let now = clock::since_start();
        let advice = inner
            .instances
            .with(record.id, |here| here.betterment.advise(outlook.current_per_s, best, now));
        let text = (advice != Advice::Stay).then(|| self.words(outlook));
        inner.instances.with(record.id, |here| here.suggestion.clone_from(&text));
        if advice == Advice::Move && inner.settings.get().auto && inner.coordinates(record.id) {
            let why = text.unwrap_or_default();
            inner.instances.with(record.id, |here| here.betterment.moved(now));
            let epoch = inner.peers().reserve_epoch(record.id);
            let (node, record, best) = (self.clone(), record.clone(), outlook.best.clone());
            inner.spawn(async move { node.relocate(record, epoch, best, why).await });
        }
    }

    fn words(&self, outlook: &Outlook) -> String {
        let names: Vec<String> =
            outlook.best.stages.iter().map(|stage| self.inner().name_of(stage.node)).collect();
        format!(
            "{:.1} instead of {:.1} tokens/s over {}",
            outlook.best_per_s,
            outlook.current_per_s,
            names.join(", ")
        )
    }

    /// A driver says what the stages of an instance take: this node, its coordinator, plans with that and moves it if it is
    /// better for it.
    pub(crate) async fn take_paces(&self, instance: InstanceId, epoch: Epoch, measured: Vec<f64>) {
        let inner = self.inner();
        let Some(record) = inner.ready(instance).filter(|it| it.epoch == epoch) else { return };
        let n_stages = record.placement.stages.len();
        if !inner.coordinates(instance) || measured.len() != n_stages || n_stages > STAGES_MAX {
            return;
        }
        let planned = match self.outlook(&record, None).await {
            Ok((_, outlook)) => outlook.compute_s,
            Err(_) => return,
        };
        let planned = together(&planned, &measured);
        let mut slowest = (1.0, 0);
        for (i, (measured, planned)) in measured.iter().zip(&planned).enumerate() {
            let node = record.placement.stages[i].node;
            // The plan knows how slow it was said to be before.
            let share = (inner.instances.pace(node) * planned / measured).clamp(PACE_MIN, 1.0);
            if share < slowest.0 {
                slowest = (share, i);
            }
            inner.instances.set_pace(node, share);
        }
        let (share, i) = slowest;
        let name = inner.name_of(record.placement.stages[i].node);
        let why = format!("{name} takes {:.1} times as long as planned", 1.0 / share);
        info!(model = %record.model.name, %instance, why, "a stage is slow");
        let Ok((_, outlook)) = self.outlook(&record, None).await else { return };
        let is_rested =
            inner.instances.with(instance, |here| here.betterment.is_rested(clock::since_start()));
        let is_worth = Betterment::is_worth(outlook.current_per_s, outlook.best_per_s);
        if is_worth && is_rested && outlook.best != record.placement {
            let epoch = inner.peers().reserve_epoch(instance);
            self.relocate(record, epoch, outlook.best, why).await;
        }
    }
}

/// Watches the stages of the answers that this node drives, until it ends.
pub(crate) async fn pace(node: Node) {
    let mut ticks = tokio::time::interval(PACE_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut watched: HashMap<(InstanceId, Epoch), (Vec<f64>, Vec<Straggler>)> = HashMap::new();
    loop {
        ticks.tick().await;
        let inner = node.inner();
        let running = inner.instruments.traces.recent(STEPS_FOR);
        watched.retain(|(id, _), _| running.iter().any(|(instance, ..)| instance == id));
        for (id, steps) in running {
            let Some(record) = inner.ready(id) else { continue };
            let n_stages = record.placement.stages.len();
            let Some(measured) = medians(&steps, n_stages) else { continue };
            if n_stages < 2 {
                continue;
            }
            let key = (id, record.epoch);
            let (planned, stages) = match watched.entry(key) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(unknown) => {
                    let Ok((_, outlook)) = node.outlook(&record, None).await else { continue };
                    let stages = vec![Straggler::default(); n_stages];
                    unknown.insert((outlook.compute_s, stages))
                }
            };
            let now = clock::since_start();
            let planned = together(planned, &measured);
            let each = stages.iter_mut().zip(planned.iter().zip(&measured));
            let is_slow = each.fold(false, |slow, (stage, (planned, measured))| {
                stage.observe(*measured, *planned, now) | slow
            });
            if is_slow {
                node.tell_paces(&record, measured).await;
            }
        }
    }
}

impl Node {
    /// Tells an instance's coordinator what its stages take.
    async fn tell_paces(&self, record: &InstanceRecord, measured: Vec<f64>) {
        let (instance, epoch) = (record.id, record.epoch);
        let coordinator = self.inner().peers().read(|state, now| state.coordinator(instance, now));
        let Some(coordinator) = coordinator else { return };
        if coordinator == self.id() {
            let node = self.clone();
            self.inner().spawn(async move { node.take_paces(instance, epoch, measured).await });
            return;
        }
        // At most an hour for a token, and not negative.
        let compute_us = measured.iter().map(|s| (s.clamp(0.0, 3600.0) * 1e6) as u32).collect();
        let request = Request::Slow { instance, epoch, compute_us };
        if let Err(error) = self.inner().peers().ask(coordinator, &request, ANSWER_TIMEOUT).await {
            debug!(%instance, %error, "coordinator was not told of a slow stage");
        }
    }
}

/// What was planned for each stage, made longer for all alike where even the best of them takes longer: a plan that was wrong as
/// a whole makes no stage a straggler. What is too short to matter is raised too.
fn together(planned: &[f64], measured: &[f64]) -> Vec<f64> {
    let ratios = planned.iter().zip(measured).map(|(planned, measured)| measured / planned);
    let least = ratios.fold(f64::INFINITY, f64::min);
    let factor = if least.is_finite() { least.max(1.0) } else { 1.0 };
    planned.iter().map(|planned| (factor * planned).max(COMPUTE_MIN_S)).collect()
}

/// What each stage takes for a token, in seconds: the median over some steps. `None` if they are too few to tell, or of another
/// placement.
fn medians(steps: &[StepTrace], n_stages: usize) -> Option<Vec<f64>> {
    /// One step may have met a hiccup, and so may two.
    const STEPS_MIN: usize = 3;
    let of_tokens = steps.iter().filter(|step| step.n_tokens == 1 && step.stages.len() == n_stages);
    let steps: Vec<&StepTrace> = of_tokens.collect();
    if steps.len() < STEPS_MIN {
        return None;
    }
    let median = |stage: usize| {
        let mut times: Vec<u32> = steps.iter().map(|step| step.stages[stage].compute_us).collect();
        let middle = times.len() / 2;
        f64::from(*times.select_nth_unstable(middle).1) * 1e-6
    };
    Some((0..n_stages).map(median).collect())
}

impl Inner {
    /// The instances of which every stage runs.
    fn settled(&self) -> Vec<InstanceRecord> {
        let records: Vec<InstanceRecord> =
            self.peers().read(|state, _| state.instances().cloned().collect());
        let is_settled = |record: &InstanceRecord| {
            record.phase == Phase::Ready && self.missing(record).is_none()
        };
        records.into_iter().filter(is_settled).collect()
    }

    fn coordinates(&self, instance: InstanceId) -> bool {
        let me = self.peers().id();
        self.peers().read(|state, now| state.coordinator(instance, now)) == Some(me)
    }

    /// The name of a node, for people.
    pub(crate) fn name_of(&self, node: NodeId) -> String {
        let own = self.peers().record();
        if node == own.id {
            return own.name;
        }
        let name = self.peers().read(|state, _| state.record(node).map(|it| it.name.clone()));
        name.filter(|name| !name.is_empty()).unwrap_or_else(|| node.short())
    }

    /// A peer drives answers of an instance and says what its stages take.
    pub(crate) fn hear_paces(self: &Arc<Self>, id: InstanceId, epoch: Epoch, us: &[u32]) {
        let measured = us.iter().take(STAGES_MAX + 1).map(|us| f64::from(*us).max(1.0) * 1e-6);
        let (node, measured) = (Node::of(self), measured.collect());
        self.spawn(async move { node.take_paces(id, epoch, measured).await });
    }
}

#[cfg(test)]
mod tests {
    use shoal_proto::frame::StageTiming;

    use super::*;

    fn step(n_tokens: u32, compute_us: &[u32]) -> StepTrace {
        let stage = |&compute_us: &u32| StageTiming { queued_us: 9, compute_us, n_rows: 1 };
        StepTrace {
            end: 1,
            n_tokens,
            has_token: true,
            sent: Duration::ZERO,
            took: Duration::ZERO,
            stages: compute_us.iter().map(stage).collect(),
        }
    }

    #[test]
    fn stages_that_are_slow_together_are_no_stragglers() {
        assert_eq!(together(&[0.01, 0.02], &[0.03, 0.06]), [0.03, 0.06]);
        assert_eq!(together(&[0.01, 0.02], &[0.01, 0.06]), [0.01, 0.02], "one is");
        assert_eq!(together(&[0.01, 0.02], &[0.001, 0.02]), [0.01, 0.02], "none is");
        assert_eq!(together(&[0.0, 1e-6], &[0.0, 1e-3]), [COMPUTE_MIN_S; 2], "too short");
    }

    #[test]
    fn the_median_of_single_tokens_tells_what_stages_take() {
        let steps = [
            step(64, &[9_000_000, 9_000_000]),
            step(1, &[1000, 5000]),
            step(1, &[2000, 900_000]),
            step(1, &[3000, 6000]),
            step(1, &[7]),
        ];
        let medians_ = medians(&steps, 2).expect("three steps");
        let us: Vec<f64> = medians_.iter().map(|s| (s * 1e6).round()).collect();
        assert_eq!(us, [2000.0, 6000.0]);
        assert_eq!(medians(&steps[..3], 2), None, "too few");
        assert_eq!(medians(&steps, 3), None, "of another placement");
    }
}
