//! Whole clusters in virtual time, from a seed: messages are lost and late, links break, nodes freeze, die and come back. A
//! failure prints its seed; `SEED=n cargo test -p shoal-cluster --test simulation` replays it.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use shoal_cluster::{Action, Event, Liveness, State, Time, Timing};
use shoal_proto::{
    Epoch, InstanceId, LayerRange, NodeId,
    control::{InstanceRecord, ModelRef, NodeRecord, Phase, Placement, Stage},
};

/// Step of virtual time: that of a node's control plane.
const STEP: Duration = Duration::from_millis(200);
/// Virtual time of one run.
const LENGTH: Duration = Duration::from_secs(300);
/// Silence after which a connection is given up, as the endpoint's setting.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// Trouble ends here; what follows must heal.
const TROUBLE_ENDS: Duration = Duration::from_secs(240);

/// A small generator (SplitMix64; Steele et al., OOPSLA 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// A record, and all that its node knows.
struct Hello {
    record: NodeRecord,
    peers: Vec<NodeRecord>,
    instances: Vec<InstanceRecord>,
    is_answer: bool,
}

enum Message {
    Hello(Box<Hello>),
    Heartbeat,
    Answer,
}

/// A message on its way, over a connection between two lives of two nodes.
struct Packet {
    at: Time,
    from: NodeId,
    to: NodeId,
    /// Record versions of both ends when it was sent: a process that restarted shares no connection with its past.
    lives: [u64; 2],
    message: Message,
}

struct SimNode {
    record: NodeRecord,
    state: State,
    running: bool,
    frozen_until: Time,
}

struct Cluster {
    random: Random,
    nodes: BTreeMap<NodeId, SimNode>,
    in_flight: Vec<Packet>,
    /// Pairs whose packets all vanish until then.
    cut_until: BTreeMap<(NodeId, NodeId), Time>,
    loss_percent: u64,
    now: Time,
}

fn record(i: u8, version: u64) -> NodeRecord {
    NodeRecord {
        id: NodeId([i; 32]),
        version,
        run: version,
        name: format!("node-{i}"),
        addrs: vec![SocketAddr::from(([127, 0, 0, 1], u16::from(i)))],
        software: String::new(),
        isa: String::new(),
        memory_bytes: 1 << 30,
        profile: None,
        models: Vec::new(),
        stages: Vec::new(),
        links: Vec::new(),
    }
}

impl Cluster {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let n = u8::try_from(random.below(11) + 2).expect("small");
        let loss_percent = random.below(11);
        let nodes = (1..=n).map(|i| {
            let record = record(i, 1);
            let mut state = State::new(record.id, 1, Timing::default());
            // Everyone knows the first node: it gave out the tickets.
            state.apply(Event::Record(self::record(1, 0)), Duration::ZERO);
            (record.id, SimNode { record, state, running: true, frozen_until: Duration::ZERO })
        });
        let nodes = nodes.collect();
        let (in_flight, cut_until) = (Vec::new(), BTreeMap::new());
        Self { random, nodes, in_flight, cut_until, loss_percent, now: Duration::ZERO }
    }

    fn cut(&self, a: NodeId, b: NodeId) -> bool {
        let pair = (a.min(b), a.max(b));
        self.cut_until.get(&pair).is_some_and(|&until| self.now < until)
    }

    fn send(&mut self, from: NodeId, to: NodeId, message: Message) {
        // QUIC repeats what is lost; a loss costs a delay.
        let late =
            if self.random.chance(self.loss_percent) { 200 + self.random.below(600) } else { 0 };
        let delay = Duration::from_millis(2 + self.random.below(50) + late);
        let lives = self.lives(from, to);
        self.in_flight.push(Packet { at: self.now + delay, from, to, lives, message });
    }

    fn lives(&self, from: NodeId, to: NodeId) -> [u64; 2] {
        [from, to].map(|id| self.nodes[&id].record.version)
    }

    fn deliver_due(&mut self) {
        let now = self.now;
        let due: Vec<Packet> = self.in_flight.extract_if(.., |packet| packet.at <= now).collect();
        due.into_iter().for_each(|packet| self.deliver(packet));
    }

    fn make_trouble(&mut self) {
        if self.now >= TROUBLE_ENDS || !self.random.chance(3) {
            return;
        }
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        let pick = |random: &mut Random| {
            ids[usize::try_from(random.below(ids.len() as u64)).expect("small")]
        };
        let (a, b) = (pick(&mut self.random), pick(&mut self.random));
        let until = self.now + Duration::from_millis(500 + self.random.below(20_000));
        match self.random.below(4) {
            0 if a != b => {
                self.cut_until.insert((a.min(b), a.max(b)), until);
            }
            1 => self.nodes.get_mut(&a).expect("picked from them").frozen_until = until,
            2 => self.stop(a),
            _ => self.restart(a),
        }
    }

    /// The process dies: its sockets are reset, which live peers that can reach it notice.
    fn stop(&mut self, id: NodeId) {
        self.nodes.get_mut(&id).expect("known").running = false;
        let now = self.now;
        let reached: Vec<NodeId> = self
            .nodes
            .keys()
            .copied()
            .filter(|&other| other != id && !self.cut(id, other))
            .collect();
        for other in reached {
            let node = self.nodes.get_mut(&other).expect("known");
            if node.running {
                node.state.apply(Event::Disconnected { node: id, certain: true }, now);
            }
        }
    }

    fn restart(&mut self, id: NodeId) {
        let now = self.now;
        let first = record(1, 0);
        let node = self.nodes.get_mut(&id).expect("known");
        if node.running {
            return;
        }
        node.running = true;
        node.frozen_until = now;
        node.record.version += 1_000_000;
        node.state = State::new(id, 2, Timing::default());
        node.state.apply(Event::Record(first), now);
    }

    fn step(&mut self) {
        self.make_trouble();
        self.deliver_due();
        let now = self.now;
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        for id in ids {
            let node = self.nodes.get_mut(&id).expect("known");
            if !node.running || now < node.frozen_until {
                continue;
            }
            let actions = node.state.plan(now);
            assert!(actions.len() <= 2 * 12, "a step asks for a bounded number of actions");
            for action in actions {
                self.carry_out(id, &action);
            }
        }
        self.now += STEP;
    }

    fn carry_out(&mut self, id: NodeId, action: &Action) {
        match *action {
            Action::Dial { node, .. } => {
                let reachable = !self.cut(id, node)
                    && self
                        .nodes
                        .get(&node)
                        .is_some_and(|peer| peer.running && self.now >= peer.frozen_until);
                let now = self.now;
                if !reachable {
                    self.nodes
                        .get_mut(&id)
                        .expect("known")
                        .state
                        .apply(Event::DialFailed(node), now);
                    return;
                }
                for (a, b) in [(id, node), (node, id)] {
                    let record = self.nodes[&b].record.clone();
                    let state = &mut self.nodes.get_mut(&a).expect("known").state;
                    state.apply(Event::Record(record), now);
                    state.apply(Event::Connected(b), now);
                }
                let hello = self.hello(id, false);
                self.send(id, node, hello);
            }
            Action::Heartbeat(node) => self.send(id, node, Message::Heartbeat),
            Action::Sync(_) | Action::Heal { .. } => {}
        }
    }

    fn hello(&self, id: NodeId, is_answer: bool) -> Message {
        let node = &self.nodes[&id];
        Message::Hello(Box::new(Hello {
            record: node.record.clone(),
            peers: node.state.members().map(|member| member.record.clone()).collect(),
            instances: node.state.instances().cloned().collect(),
            is_answer,
        }))
    }

    fn deliver(&mut self, packet: Packet) {
        let Packet { from, to, lives, .. } = packet;
        let now = self.now;
        let is_late = now > packet.at + IDLE_TIMEOUT;
        let other_life = lives != self.lives(from, to);
        let receives = !self.cut(from, to) && now >= self.nodes[&to].frozen_until;
        if !receives && !is_late {
            // It is sent again until the connection gives up.
            self.in_flight.push(packet);
            return;
        }
        if is_late || other_life || !self.nodes[&to].running {
            // The sender learns that its connection is gone: by silence, or by a reset of the process that is there now.
            let sender = self.nodes.get_mut(&from).expect("known");
            if sender.running && sender.record.version == lives[0] {
                sender.state.apply(Event::Disconnected { node: to, certain: !is_late }, now);
            }
            return;
        }
        let message = packet.message;
        let node = self.nodes.get_mut(&to).expect("known");
        node.state.apply(Event::Heard(from), now);
        match message {
            Message::Hello(hello) => {
                let Hello { record, peers, instances, is_answer } = *hello;
                for record in peers.into_iter().chain([record]) {
                    node.state.apply(Event::Record(record), now);
                }
                node.state.apply(Event::Connected(from), now);
                for instance in instances {
                    node.state.apply(Event::Instance(instance), now);
                }
                if !is_answer {
                    let answer = self.hello(to, true);
                    self.send(to, from, answer);
                }
            }
            Message::Heartbeat => self.send(to, from, Message::Answer),
            Message::Answer => {}
        }
    }

    /// What must hold at every moment.
    fn check_always(&self) {
        for (&id, node) in self.nodes.iter().filter(|(_, node)| node.running) {
            assert_eq!(
                node.state.liveness(id, self.now),
                Liveness::Alive,
                "a node never doubts itself"
            );
            assert!(
                node.state.members().count() < self.nodes.len(),
                "only nodes that exist are known"
            );
        }
        assert!(self.in_flight.len() < 4000, "messages do not pile up");
    }

    /// What must hold once the trouble is over: everyone knows everyone, and agrees who lives.
    fn check_healed(&self) {
        let running: Vec<NodeId> =
            self.nodes.iter().filter(|(_, node)| node.running).map(|(&id, _)| id).collect();
        for &id in &running {
            let state = &self.nodes[&id].state;
            for &other in &running {
                let liveness = state.liveness(other, self.now);
                assert_eq!(liveness, Liveness::Alive, "{id:?} of {other:?}");
                if other != id {
                    let known = state.record(other).expect("alive, so known");
                    assert_eq!(known.version, self.nodes[&other].record.version, "newest record");
                }
            }
            for (&other, node) in self.nodes.iter().filter(|(_, node)| !node.running) {
                assert_eq!(state.liveness(other, self.now), Liveness::Dead, "{}", node.record.name);
            }
        }
    }
}

fn seeds() -> Vec<u64> {
    match std::env::var("SEED") {
        Ok(seed) => vec![seed.parse().expect("SEED is a number")],
        Err(_) => (0..200).collect(),
    }
}

/// Runs `test` for every seed and names the seed of a failure.
fn for_each_seed(test: impl Fn(u64) + std::panic::RefUnwindSafe) {
    for seed in seeds() {
        // The test has said what failed; this says for which seed.
        assert!(std::panic::catch_unwind(|| test(seed)).is_ok(), "failing seed: {seed}");
    }
}

#[test]
fn clusters_heal_from_loss_cuts_freezes_and_restarts() {
    for_each_seed(|seed| {
        let mut cluster = Cluster::new(seed);
        // The first node holds the cluster together until everyone has met; afterwards it may fail like any other.
        while cluster.now < LENGTH {
            cluster.step();
            cluster.check_always();
            if cluster.now == TROUBLE_ENDS {
                let ids: Vec<NodeId> = cluster.nodes.keys().copied().collect();
                cluster.restart(ids[0]);
            }
        }
        cluster.check_healed();
    });
}

#[test]
fn a_live_connected_node_is_not_declared_dead() {
    for_each_seed(|seed| {
        let mut cluster = Cluster::new(seed);
        let settled = Duration::from_secs(30);
        // Loss and delay, but no cuts, freezes or deaths.
        cluster.now = Duration::ZERO;
        let trouble_free = |cluster: &mut Cluster| {
            cluster.deliver_due();
            let now = cluster.now;
            let ids: Vec<NodeId> = cluster.nodes.keys().copied().collect();
            for id in ids {
                let actions = cluster.nodes.get_mut(&id).expect("known").state.plan(now);
                actions.into_iter().for_each(|action| cluster.carry_out(id, &action));
            }
            cluster.now += STEP;
        };
        while cluster.now < LENGTH {
            trouble_free(&mut cluster);
            if cluster.now < settled {
                continue;
            }
            for node in cluster.nodes.values() {
                for &other in cluster.nodes.keys() {
                    let liveness = node.state.liveness(other, cluster.now);
                    assert_ne!(liveness, Liveness::Dead, "{} of {other:?}", node.record.name);
                }
            }
        }
    });
}

#[test]
fn nodes_agree_on_instances_that_were_placed_on_both_sides_of_a_cut() {
    for_each_seed(|seed| {
        let mut cluster = Cluster::new(seed);
        let placed_at = Duration::from_secs(60);
        while cluster.now < LENGTH {
            cluster.step();
            if cluster.now == placed_at {
                let ids: Vec<NodeId> = cluster.nodes.keys().copied().collect();
                for (i, &id) in ids.iter().enumerate() {
                    let now = cluster.now;
                    let record = InstanceRecord {
                        id: InstanceId(1),
                        epoch: Epoch::default().next(NodeId([u8::try_from(i).expect("few"); 32])),
                        phase: Phase::Ready,
                        model: ModelRef {
                            name: "demo".into(),
                            files: None,
                            fingerprint: [0; 32],
                            n_layer: 2,
                        },
                        placement: Placement {
                            stages: vec![Stage {
                                node: id,
                                layers: LayerRange::new(0, 2).expect("two"),
                            }],
                        },
                        n_ctx: 8,
                        unload_after_s: None,
                    };
                    cluster
                        .nodes
                        .get_mut(&id)
                        .expect("known")
                        .state
                        .apply(Event::Instance(record), now);
                }
                // Everyone says hello to everyone, as when a cut heals.
                for &from in &ids {
                    for &to in ids.iter().filter(|&&to| to != from) {
                        let hello = cluster.hello(from, false);
                        cluster.send(from, to, hello);
                    }
                }
            }
        }
        let mut seen = cluster
            .nodes
            .values()
            .filter(|node| node.running && node.record.version < 1_000_000)
            .filter_map(|node| node.state.instance(InstanceId(1)));
        if let Some(first) = seen.next() {
            assert!(seen.all(|other| other == first), "every node settles on one placement");
        }
    });
}
