//! How a placement goes, on standard error: the phases of the instances that it makes, and what is downloaded for them.

use std::collections::{BTreeMap, BTreeSet};

use shoal_api::view::{DownloadView, InstanceView};

use crate::{
    args::NodeArgs,
    client::{self, words_of_state},
    progress::{Progress, Step},
    pull::{POLL, blocking},
};

/// The instances that are new since the first look, and what was last said of them.
#[derive(Debug, Default)]
pub(crate) struct Phases {
    /// What was placed before.
    old: BTreeSet<String>,
    said: BTreeMap<String, String>,
}

impl Phases {
    pub(crate) fn new(placed_before: &[InstanceView]) -> Self {
        Self { old: placed_before.iter().map(|it| it.id.clone()).collect(), ..Self::default() }
    }

    /// A line for each instance that is in another phase than it was last said to be.
    pub(crate) fn news(&mut self, instances: &[InstanceView]) -> Vec<String> {
        let mut lines = Vec::new();
        for instance in instances.iter().filter(|it| !self.old.contains(&it.id)) {
            let said = self.said.insert(instance.id.clone(), instance.state.clone());
            if said.as_ref() != Some(&instance.state) {
                lines.push(line(instance));
            }
        }
        lines
    }

    /// A line of all that is new, as it is now.
    fn now(&self, instances: &[InstanceView]) -> String {
        let new = instances.iter().filter(|it| !self.old.contains(&it.id));
        new.map(line).collect::<Vec<_>>().join(", ")
    }
}

fn line(instance: &InstanceView) -> String {
    format!("{} ({}): {}", instance.model, instance.id, words_of_state(instance))
}

/// Shows how a placement goes, until it is dropped.
pub(crate) async fn watch(node: &NodeArgs, phases: &mut Phases) {
    let mut progress = Progress::new();
    let mut ticks = tokio::time::interval(POLL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        // Whoever asks for the placement will hear what is wrong.
        let Ok(state) = blocking(|| client::state(node)) else { continue };
        let news = phases.news(&state.instances);
        progress.phases(&news, &phases.now(&state.instances));
        let running = |it: &&DownloadView| it.state == "running" && it.n_total > 0;
        if let Some(download) = state.downloads.iter().find(running) {
            progress.show(&Step::from(download));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(id: &str, state: &str, progress: Option<[u64; 2]>) -> InstanceView {
        InstanceView {
            id: id.to_owned(),
            model: "owner/m:Q4_0".to_owned(),
            state: state.to_owned(),
            why: (state == "failed").then(|| "no memory".to_owned()),
            progress,
            n_requests: 0,
            n_waiting: 0,
            suggestion: None,
            predicted_tokens_per_s: None,
            measured_tokens_per_s: None,
            is_automatic: false,
            n_ctx: 512,
            n_layer: 6,
            epoch: 1,
            placement: Vec::new(),
        }
    }

    #[test]
    fn each_phase_of_what_is_new_is_told_once() {
        let old = instance("a", "ready", None);
        let mut phases = Phases::new(std::slice::from_ref(&old));
        let mut news = |new: &InstanceView| phases.news(&[old.clone(), new.clone()]);
        assert_eq!(news(&old), [""; 0]);
        let fetching = |n_bytes| instance("b", "fetching", Some([n_bytes, 100]));
        assert_eq!(news(&instance("b", "placing", None)), ["owner/m:Q4_0 (b): placing"]);
        assert_eq!(news(&fetching(5)), ["owner/m:Q4_0 (b): fetching 5 %"]);
        assert_eq!(news(&fetching(50)), [""; 0]);
        assert_eq!(news(&instance("b", "loading", None)), ["owner/m:Q4_0 (b): loading"]);
        assert_eq!(news(&instance("c", "failed", None)), ["owner/m:Q4_0 (c): failed (no memory)"]);
        assert_eq!(phases.now(&[old.clone(), fetching(50)]), "owner/m:Q4_0 (b): fetching 50 %");
    }
}
