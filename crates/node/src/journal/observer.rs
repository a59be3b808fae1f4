//! Finds what happened by comparing how things are with how they were at the last look. Pure: the caller says what is so and
//! what time it is.

use std::{collections::BTreeMap, time::Duration};

use shoal_hub::{DownloadState, DownloadStatus};
use shoal_proto::{
    InstanceId, NodeId,
    control::{DrainCause, Placement},
};

use super::{Note, words};
use crate::{InstanceStatus, NodeStatus, RunnerStatus};

/// How things are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen<'a> {
    pub(super) nodes: &'a [NodeStatus],
    pub(super) instances: &'a [InstanceStatus],
    pub(super) runners: &'a [RunnerStatus],
    pub(super) downloads: &'a [DownloadStatus],
}

/// How things were at the last look.
#[derive(Debug, Default)]
pub(super) struct Observer {
    /// Whether there was a look: what is there at the first is no news.
    has_looked: bool,
    nodes: BTreeMap<NodeId, KnownNode>,
    instances: BTreeMap<InstanceId, KnownInstance>,
    /// How often the runners of this node's stages were started anew.
    runners: BTreeMap<InstanceId, (u32, bool)>,
    downloads: BTreeMap<String, KnownDownload>,
}

#[derive(Debug)]
struct KnownNode {
    name: String,
    run: u64,
    liveness: String,
    /// Since when it is not alive, if that was seen.
    silent_since: Option<Duration>,
    /// Whether it has ever been alive.
    was_here: bool,
    draining: Option<DrainCause>,
}

#[derive(Debug)]
struct KnownInstance {
    model: String,
    state: &'static str,
    placement: Placement,
    /// When it was seen first.
    since: Option<Duration>,
    /// Since when it has not been ready, if it was before.
    waits_since: Option<Duration>,
    has_been_ready: bool,
    suggests: bool,
}

#[derive(Debug)]
struct KnownDownload {
    state: DownloadState,
    /// Whether it was said that it has begun.
    is_told: bool,
}

impl Observer {
    /// Takes in how things are. Returns what happened since the last look.
    pub(super) fn look(&mut self, seen: &Seen<'_>, now: Duration) -> Vec<Note> {
        let mut notes = Vec::new();
        let is_first = !std::mem::replace(&mut self.has_looked, true);
        let own = seen.nodes.iter().find(|node| node.is_self).map(|node| node.record.id);
        self.look_at_nodes(seen.nodes, now, is_first, &mut notes);
        self.look_at_instances(seen, now, is_first, &mut notes);
        if let Some(own) = own {
            self.look_at_runners(seen.runners, own, &mut notes);
        }
        self.look_at_downloads(seen.downloads, is_first, &mut notes);
        notes
    }

    fn look_at_nodes(
        &mut self,
        nodes: &[NodeStatus],
        now: Duration,
        is_first: bool,
        notes: &mut Vec<Note>,
    ) {
        self.nodes.retain(|id, known| {
            let is_here = nodes.iter().any(|node| node.record.id == *id);
            if !is_here && known.was_here {
                notes.push(words::left(*id, &known.name));
            }
            is_here
        });
        for NodeStatus { record, liveness, .. } in nodes {
            let (id, name) = (record.id, record.name.as_str());
            let is_alive = liveness == "alive";
            match self.nodes.get_mut(&id) {
                Some(known) => known.follow(record, liveness, now, notes),
                None => {
                    if is_alive && !is_first {
                        notes.push(words::joined(id, name));
                    }
                    let known = KnownNode {
                        name: name.to_owned(),
                        run: record.run,
                        liveness: liveness.clone(),
                        silent_since: None,
                        // Who is remembered at the start has been here in an earlier life.
                        was_here: is_alive || is_first,
                        draining: record.draining,
                    };
                    self.nodes.insert(id, known);
                }
            }
        }
    }

    fn look_at_instances(
        &mut self,
        seen: &Seen<'_>,
        now: Duration,
        is_first: bool,
        notes: &mut Vec<Note>,
    ) {
        self.instances.retain(|id, known| {
            let is_here = seen.instances.iter().any(|it| it.record.id == *id);
            if !is_here {
                notes.push(words::dropped((*id, &known.model)));
            }
            is_here
        });
        for status in seen.instances {
            let (id, model) = (status.record.id, status.record.model.name.as_str());
            let names = names_of(seen.nodes, &status.record.placement);
            if let Some(known) = self.instances.get_mut(&id) {
                known.follow(status, &names, now, notes);
                continue;
            }
            if !is_first {
                notes.push(words::placed((id, model), &names));
                match status.state {
                    "ready" => notes.push(words::ready((id, model), &names, None)),
                    "failed" => notes.push(words::failed((id, model), status.why.as_deref())),
                    _ => {}
                }
            }
            let known = KnownInstance {
                model: model.to_owned(),
                state: status.state,
                placement: status.record.placement.clone(),
                since: (!is_first).then_some(now),
                waits_since: None,
                has_been_ready: status.state == "ready",
                suggests: status.suggestion.is_some(),
            };
            self.instances.insert(id, known);
        }
    }

    fn look_at_runners(&mut self, runners: &[RunnerStatus], own: NodeId, notes: &mut Vec<Note>) {
        self.runners.retain(|id, _| runners.iter().any(|runner| runner.instance == *id));
        for runner in runners {
            let is_given_up = runner.state == "given up";
            let new = (runner.n_restarts, is_given_up);
            let (n_before, was_given_up) =
                self.runners.insert(runner.instance, new).unwrap_or_default();
            let model = self.instances.get(&runner.instance).map_or("a model", |it| &it.model);
            let of = (runner.instance, model);
            if runner.n_restarts > n_before {
                notes.push(words::runner_restarted(of, own, runner.why.as_deref()));
            }
            if is_given_up && !was_given_up {
                notes.push(words::runner_given_up(of, own, runner.why.as_deref()));
            }
        }
    }

    fn look_at_downloads(
        &mut self,
        downloads: &[DownloadStatus],
        is_first: bool,
        notes: &mut Vec<Note>,
    ) {
        self.downloads.retain(|model, known| {
            let is_here = downloads.iter().any(|download| download.model == *model);
            if !is_here && known.is_told && known.state != DownloadState::Complete {
                notes.push(words::download_cancelled(model));
            }
            is_here
        });
        for DownloadStatus { model, state, .. } in downloads {
            let Some(known) = self.downloads.get_mut(model) else {
                let is_failed = matches!(state, DownloadState::Failed { .. });
                if let (DownloadState::Failed { message }, false) = (state, is_first) {
                    notes.push(words::download_failed(model, message));
                }
                // What is over at the next look was the headers, or a layer: too small to speak of.
                let known = KnownDownload { state: state.clone(), is_told: is_first || is_failed };
                self.downloads.insert(model.clone(), known);
                continue;
            };
            let before = std::mem::replace(&mut known.state, state.clone());
            let has_changed = before != *state;
            match state {
                DownloadState::Running if has_changed || !known.is_told => {
                    notes.push(words::download_began(model));
                    known.is_told = true;
                }
                DownloadState::Paused if has_changed => notes.push(words::download_paused(model)),
                DownloadState::Failed { message } if has_changed => {
                    notes.push(words::download_failed(model, message));
                    known.is_told = true;
                }
                DownloadState::Complete if has_changed && known.is_told => {
                    notes.push(words::download_done(model));
                    known.is_told = false;
                }
                _ => {}
            }
        }
    }
}

impl KnownNode {
    fn follow(
        &mut self,
        record: &shoal_proto::control::NodeRecord,
        liveness: &str,
        now: Duration,
        notes: &mut Vec<Note>,
    ) {
        let (id, name) = (record.id, record.name.as_str());
        if self.name != name {
            // A record that is still to come has no name.
            if !self.name.is_empty() && self.was_here {
                notes.push(words::renamed(id, &self.name, name));
            }
            name.clone_into(&mut self.name);
        }
        let before = std::mem::replace(&mut self.liveness, liveness.to_owned());
        let silent = self.silent_since.map(|since| now.saturating_sub(since));
        match (before.as_str(), liveness) {
            (before, after) if before == after => {}
            (_, "alive") if !self.was_here => notes.push(words::joined(id, name)),
            (_, "alive") => notes.push(words::back(id, name, silent)),
            (_, "suspect") => notes.push(words::suspect(id, name)),
            // Who has never been here is not missed.
            (_, "dead") if self.was_here => notes.push(words::dead(id, name, silent)),
            _ => {}
        }
        let is_alive = liveness == "alive";
        if is_alive && before == "alive" && self.run != record.run && self.run != 0 {
            notes.push(words::restarted(id, name));
        }
        (self.run, self.was_here) = (record.run, self.was_here || is_alive);
        self.silent_since = match (is_alive, before == "alive") {
            (true, _) => None,
            (false, true) => Some(now),
            (false, false) => self.silent_since,
        };
        match (std::mem::replace(&mut self.draining, record.draining), record.draining) {
            (before, after) if before == after => {}
            (_, Some(cause)) => notes.push(words::drain_began(id, name, cause)),
            (_, None) => notes.push(words::drain_ended(id, name)),
        }
    }
}

impl KnownInstance {
    fn follow(
        &mut self,
        status: &InstanceStatus,
        names: &[String],
        now: Duration,
        notes: &mut Vec<Note>,
    ) {
        let InstanceStatus { record, state, suggestion, .. } = status;
        let (of, why) = ((record.id, record.model.name.as_str()), status.why.as_deref());
        let before = std::mem::replace(&mut self.state, state);
        match (before, *state) {
            ("ready", "ready") if self.placement != record.placement => {
                notes.push(words::moved(of, names, why));
            }
            (before, after) if before == after => {}
            (_, "ready") => {
                let waited = self.waits_since.take().map(|since| now.saturating_sub(since));
                let loaded = self.since.map(|since| now.saturating_sub(since));
                notes.push(match (self.has_been_ready, waited) {
                    (true, Some(pause)) => words::healed(of, names, pause),
                    _ => words::ready(of, names, loaded),
                });
                self.has_been_ready = true;
            }
            (_, "failed") => notes.push(words::failed(of, why)),
            // Then it fetches and loads, which is part of it.
            ("ready", _) => {
                notes.push(words::healing(of, why));
                self.waits_since = Some(now);
            }
            _ => {}
        }
        match suggestion {
            Some(what) if !self.suggests => notes.push(words::suggestion(of, what)),
            _ => {}
        }
        self.suggests = suggestion.is_some();
        self.placement.clone_from(&record.placement);
    }
}

fn names_of(nodes: &[NodeStatus], placement: &Placement) -> Vec<String> {
    let name = |id: NodeId| {
        let node = nodes.iter().find(|node| node.record.id == id);
        let name = node.map(|node| node.record.name.clone()).filter(|name| !name.is_empty());
        name.unwrap_or_else(|| id.short())
    };
    placement.stages.iter().map(|stage| name(stage.node)).collect()
}

#[cfg(test)]
mod tests;
