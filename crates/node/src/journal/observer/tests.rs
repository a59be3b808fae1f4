//! What is noticed, and what is no news.

use shoal_hub::Received;
use shoal_proto::{
    Epoch, LayerRange,
    control::{InstanceRecord, ModelRef, NodeRecord, Phase, Stage},
};

use super::*;

const OWN: NodeId = NodeId([1; 32]);
const PEER: NodeId = NodeId([2; 32]);

/// Things as a test has them.
struct Scene {
    observer: Observer,
    nodes: Vec<NodeStatus>,
    instances: Vec<InstanceStatus>,
    runners: Vec<RunnerStatus>,
    downloads: Vec<DownloadStatus>,
    now: Duration,
}

impl Scene {
    /// This node alone, after the first look.
    fn new() -> Self {
        let mut scene = Self {
            observer: Observer::default(),
            nodes: vec![node(OWN, "kitchen")],
            instances: Vec::new(),
            runners: Vec::new(),
            downloads: Vec::new(),
            now: Duration::ZERO,
        };
        scene.nodes[0].is_self = true;
        assert_eq!(scene.after(0, |_| ()), [""; 0]);
        scene
    }

    /// What is noticed when things are so, some milliseconds later.
    fn after(&mut self, ms: u64, change: impl FnOnce(&mut Self)) -> Vec<String> {
        change(self);
        self.now += Duration::from_millis(ms);
        let seen = Seen {
            nodes: &self.nodes,
            instances: &self.instances,
            runners: &self.runners,
            downloads: &self.downloads,
        };
        let notes = self.observer.look(&seen, self.now);
        notes.into_iter().map(|note| format!("{}: {}", note.kind, note.text)).collect()
    }

    fn peer(&mut self) -> &mut NodeStatus {
        &mut self.nodes[1]
    }
}

fn node(id: NodeId, name: &str) -> NodeStatus {
    NodeStatus {
        record: NodeRecord { name: name.into(), run: 1, ..NodeRecord::unknown(id) },
        is_self: false,
        liveness: "alive".into(),
        rtt: None,
        vitals: None,
    }
}

fn instance(state: &'static str, nodes: &[NodeId]) -> InstanceStatus {
    let stage = |(i, node): (usize, &NodeId)| {
        let at = u32::try_from(i).expect("few");
        Stage { node: *node, layers: LayerRange::new(at, at + 1).expect("not empty") }
    };
    InstanceStatus {
        record: InstanceRecord {
            id: InstanceId(7),
            epoch: Epoch::first(OWN),
            phase: Phase::Ready,
            model: ModelRef { name: "demo".into(), files: None, fingerprint: [0; 32], n_layer: 2 },
            placement: Placement { stages: nodes.iter().enumerate().map(stage).collect() },
            n_ctx: 8,
            unload_after_s: None,
        },
        state,
        why: None,
        progress: None,
        n_requests: 0,
        n_waiting: 0,
        predicted_per_s: None,
        suggestion: None,
        measured_per_s: None,
    }
}

fn download(state: DownloadState) -> DownloadStatus {
    DownloadStatus {
        model: "m".into(),
        state,
        n_bytes: 0,
        n_total: 10,
        bytes_per_s: 0.0,
        remaining: None,
        received: Received::default(),
        bad_peers: Vec::new(),
    }
}

#[test]
fn a_device_comes_falls_silent_goes_and_is_back() {
    let mut scene = Scene::new();
    let none = [""; 0];
    assert_eq!(
        scene.after(100, |it| it.nodes.push(node(PEER, "pixel"))),
        ["node_joined: pixel has joined."]
    );
    assert_eq!(scene.after(100, |_| ()), none);
    let suspect = scene.after(100, |it| it.peer().liveness = "suspect".into());
    assert_eq!(suspect, ["node_suspect: pixel is silent."]);
    let dead = scene.after(4000, |it| it.peer().liveness = "dead".into());
    assert_eq!(dead, ["node_dead: pixel is gone, after 4.0 s of silence."]);
    let back = scene.after(10_000, |it| it.peer().liveness = "alive".into());
    assert_eq!(back, ["node_back: pixel is back after 14 s."]);
    let again = scene.after(100, |it| it.peer().record.run = 2);
    assert_eq!(again, ["node_restarted: pixel was started again."]);
    let renamed = scene.after(100, |it| it.peer().record.name = "<b>".into());
    assert_eq!(renamed, ["node_renamed: pixel is called <b> now."]);
    let drains = scene.after(100, |it| it.peer().record.draining = Some(DrainCause::LowBattery));
    let text = "drain_began: <b> is low on battery: it gives its layers to the others.";
    assert_eq!(drains, [text]);
    let helps = scene.after(100, |it| it.peer().record.draining = None);
    assert_eq!(helps, ["drain_ended: <b> takes layers again."]);
    let left = scene.after(100, |it| it.nodes.truncate(1));
    assert_eq!(left, ["node_left: <b> belongs to the cluster no longer."]);
}

#[test]
fn who_is_only_heard_of_is_no_news_until_it_comes() {
    let mut scene = Scene::new();
    let unknown = NodeStatus { liveness: "dead".into(), ..node(PEER, "") };
    assert_eq!(scene.after(100, |it| it.nodes.push(unknown.clone())), [""; 0]);
    let come = scene.after(100, |it| *it.peer() = node(PEER, "pixel"));
    assert_eq!(come, ["node_joined: pixel has joined."]);
    let mut scene = Scene::new();
    scene.after(100, |it| it.nodes.push(unknown));
    assert_eq!(scene.after(100, |it| it.nodes.truncate(1)), [""; 0], "nor when it is forgotten");
    // Who is remembered from the last run is back, not new.
    let mut scene = Scene::new();
    scene.observer = Observer::default();
    let remembered = NodeStatus { liveness: "dead".into(), ..node(PEER, "pixel") };
    assert_eq!(scene.after(100, |it| it.nodes.push(remembered)), [""; 0]);
    let back = scene.after(100, |it| it.peer().liveness = "alive".into());
    assert_eq!(back, ["node_back: pixel is back."]);
}

#[test]
fn an_instance_is_placed_heals_moves_and_goes() {
    let mut scene = Scene::new();
    scene.after(100, |it| it.nodes.push(node(PEER, "pixel")));
    let placed = scene.after(100, |it| it.instances.push(instance("placing", &[OWN, PEER])));
    assert_eq!(placed, ["instance_placed: demo is placed on kitchen and pixel."]);
    assert_eq!(scene.after(100, |it| it.instances[0].state = "loading"), [""; 0]);
    let ready = scene.after(2000, |it| it.instances[0].state = "ready");
    assert_eq!(ready, ["instance_ready: demo is ready on kitchen and pixel, after 2.1 s."]);
    let healing = scene.after(100, |it| {
        it.instances[0] = instance("healing", &[OWN, PEER]);
        it.instances[0].why = Some("layers 1..2 are lost".into());
    });
    assert_eq!(healing, ["instance_healing: demo heals: layers 1..2 are lost."]);
    for state in ["fetching", "loading"] {
        assert_eq!(scene.after(400, |it| it.instances[0] = instance(state, &[OWN])), [""; 0]);
    }
    let healed = scene.after(1000, |it| it.instances[0].state = "ready");
    assert_eq!(healed, ["instance_healed: demo goes on after 1.8 s, on kitchen."]);
    // Faster than anybody looks.
    let moved = scene.after(100, |it| it.instances[0] = instance("ready", &[PEER]));
    assert_eq!(moved, ["instance_moved: demo is on pixel now."]);
    let better = "9.0 instead of 4.0 tokens/s over kitchen";
    let suggestion = scene.after(100, |it| it.instances[0].suggestion = Some(better.into()));
    assert_eq!(suggestion, [format!("suggestion: demo could be faster: {better}.")]);
    assert_eq!(scene.after(100, |it| it.instances[0].suggestion = Some("x".into())), [""; 0]);
    let failed = scene.after(100, |it| {
        (it.instances[0].state, it.instances[0].why) = ("failed", Some("no memory".into()));
    });
    assert_eq!(failed, ["instance_failed: demo cannot run: no memory."]);
    let dropped = scene.after(100, |it| it.instances.clear());
    assert_eq!(dropped, ["instance_dropped: demo was unloaded."]);
}

#[test]
fn a_runner_that_dies_is_told_of_once() {
    let mut scene = Scene::new();
    let runner = |n_restarts, state| RunnerStatus {
        instance: InstanceId(7),
        pid: None,
        state,
        n_restarts,
        why: Some("killed by SIGKILL".into()),
    };
    scene.after(100, |it| {
        it.instances.push(instance("ready", &[OWN]));
        it.runners.push(runner(0, "ready"));
    });
    let died = scene.after(100, |it| it.runners[0] = runner(1, "restarting"));
    let text = "The process that computes layers of demo was started again: killed by SIGKILL.";
    assert_eq!(died, [format!("runner_restarted: {text}")]);
    assert_eq!(scene.after(100, |it| it.runners[0] = runner(1, "ready")), [""; 0]);
    let given_up = scene.after(100, |it| it.runners[0] = runner(1, "given up"));
    let text = "The process that computes layers of demo is given up: killed by SIGKILL.";
    assert_eq!(given_up, [format!("runner_given_up: {text}")]);
}

#[test]
fn a_download_is_told_of_if_it_takes_a_while() {
    let mut scene = Scene::new();
    let mut say = |state: Option<DownloadState>| {
        scene.after(500, |it| it.downloads = state.map(download).into_iter().collect())
    };
    assert_eq!(say(Some(DownloadState::Running)), [""; 0]);
    assert_eq!(say(Some(DownloadState::Complete)), [""; 0], "only headers");
    assert_eq!(say(None), [""; 0]);
    assert_eq!(say(Some(DownloadState::Running)), [""; 0]);
    let began = ["download_began: The download of m has begun."];
    assert_eq!(say(Some(DownloadState::Running)), began);
    assert_eq!(say(Some(DownloadState::Paused)), ["download_paused: The download of m is paused."]);
    assert_eq!(say(Some(DownloadState::Running)), began);
    let failed = DownloadState::Failed { message: "no way".into() };
    assert_eq!(say(Some(failed.clone())), ["download_failed: The download of m failed: no way."]);
    assert_eq!(say(Some(failed)), [""; 0]);
    assert_eq!(say(Some(DownloadState::Running)), began);
    assert_eq!(say(Some(DownloadState::Complete)), ["download_done: m is on this device."]);
    assert_eq!(say(None), [""; 0]);
    say(Some(DownloadState::Running));
    say(Some(DownloadState::Running));
    assert_eq!(say(None), ["download_cancelled: The download of m was cancelled."]);
}

#[test]
fn what_is_there_at_the_start_is_no_news() {
    let mut scene = Scene::new();
    scene.observer = Observer::default();
    let all = scene.after(0, |it| {
        it.nodes.push(node(PEER, "pixel"));
        it.instances.push(instance("ready", &[PEER]));
        it.downloads.push(download(DownloadState::Failed { message: "old".into() }));
    });
    assert_eq!(all, [""; 0]);
}
