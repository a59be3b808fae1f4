//! A node around its state machine: it carries out what is planned and answers what is asked, as the real one does.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
};

use shoal_cluster::{Action, Event, Liveness, State, Time};
use shoal_proto::{
    Epoch, InstanceId, LayerRange, NodeId, SequenceId, TokenId,
    control::{InstanceRecord, ModelRef, NodeRecord, Phase, Placement, Stage, StageRecord, Vitals},
};

use crate::{
    data_plane::{Link, VOUCH_EVERY},
    model::N_LAYER,
    requests::N_CTX,
    stage::{Input, Route, Runner},
    world::{ANSWER_TIMEOUT, Hello, Message, Ms, What, World, duration, node_id},
};

/// Longest wait for the stages of a placement.
const LOAD_TIMEOUT: Ms = 15_000;
/// How often a placement is tried with other nodes before it is given up.
const TRIES_MAX: u32 = 4;
/// How often a node that sees somebody missing asks the network.
const DISCOVERY: Ms = 10_000;

/// What a node does later.
pub(crate) enum Job {
    /// The bytes are there: ask every stage to load.
    Load { instance: InstanceId, epoch: Epoch },
    /// The runner has loaded its layers.
    Loaded { record: Arc<InstanceRecord>, conn: Option<usize>, ok: bool },
    /// Not every stage answered in time.
    GiveUp { instance: InstanceId, epoch: Epoch },
}

/// A placement that a node is carrying out.
pub(crate) struct Work {
    pub(crate) record: InstanceRecord,
    waits_for: BTreeSet<usize>,
    n_tried: u32,
}

pub(crate) struct Node {
    pub(crate) state: State,
    pub(crate) record: NodeRecord,
    pub(crate) is_running: bool,
    pub(crate) has_left: bool,
    pub(crate) froze_at: Ms,
    pub(crate) frozen_until: Ms,
    /// How far its monotonic clock is behind: on some devices it stands still while they sleep.
    pub(crate) clock_lag: Ms,
    pub(crate) clock_pauses: bool,
    /// How far its wall clock is off.
    pub(crate) wall_ahead: i64,
    pub(crate) port: u16,
    /// Grows with every start and end of the process.
    pub(crate) life: u32,
    /// The newest connection to each node.
    pub(crate) current: Vec<Option<usize>>,
    pub(crate) open: Vec<usize>,
    pub(crate) silent_since: BTreeMap<usize, Ms>,
    pub(crate) left: BTreeSet<usize>,
    pub(crate) runners: BTreeMap<InstanceId, Runner>,
    /// The requests that it drives.
    pub(crate) drivers: BTreeMap<(InstanceId, SequenceId), usize>,
    /// Ended sequences with what the stages hold of them, the oldest first.
    pub(crate) idle: BTreeMap<InstanceId, Vec<(SequenceId, Vec<TokenId>)>>,
    /// When it last asked after them.
    vouched_at: Ms,
    pub(crate) next_sequence: u64,
    pub(crate) links: BTreeMap<usize, Link>,
    /// Who lived when it last looked, and which of their lives that was.
    known_lives: BTreeMap<usize, u64>,
    /// Until when it computes slowly, and how much so.
    pub(crate) slow_until: Ms,
    pub(crate) slowness: Ms,
    /// When a stage here last lost sequences.
    pub(crate) disturbed_at: Ms,
    /// Stages that were said to be lost: they are not loaded again under the same epoch.
    died: BTreeSet<(InstanceId, Epoch)>,
    pub(crate) works: BTreeMap<InstanceId, Work>,
    /// The highest epoch that it was told of or used in this life.
    pub(crate) seen: BTreeMap<InstanceId, Epoch>,
    /// When its address, its process or its sleep last changed.
    pub(crate) moved_at: Ms,
    pub(crate) started_at: Ms,
    pub(crate) last_tick: Ms,
    /// When it last believed in each other node's life, and since when it does not any more.
    pub(crate) believed: Vec<Option<Ms>>,
    looked_at: Ms,
}

fn record(node: usize, run: u64, version: u64, port: u16) -> NodeRecord {
    NodeRecord { version, run, addrs: vec![address(port)], ..NodeRecord::unknown(node_id(node)) }
}

fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

impl Node {
    pub(crate) fn new(node: usize) -> Self {
        let port = u16::try_from(1000 * (node + 1)).expect("at most 32 nodes");
        Self {
            state: World::new_state(node, 0),
            record: record(node, 0, 0, port),
            is_running: false,
            has_left: false,
            froze_at: 0,
            frozen_until: 0,
            clock_lag: 0,
            clock_pauses: node.is_multiple_of(2),
            wall_ahead: 0,
            port,
            life: 0,
            current: vec![None; 32],
            open: Vec::new(),
            silent_since: BTreeMap::new(),
            left: BTreeSet::new(),
            runners: BTreeMap::new(),
            drivers: BTreeMap::new(),
            idle: BTreeMap::new(),
            vouched_at: 0,
            next_sequence: 0,
            links: BTreeMap::new(),
            known_lives: BTreeMap::new(),
            slow_until: 0,
            slowness: 1,
            disturbed_at: 0,
            died: BTreeSet::new(),
            works: BTreeMap::new(),
            seen: BTreeMap::new(),
            moved_at: 0,
            started_at: 0,
            last_tick: 0,
            believed: vec![None; 32],
            looked_at: 0,
        }
    }

    pub(crate) fn clock(&self, now: Ms) -> Time {
        duration(now.saturating_sub(self.clock_lag))
    }
}

pub(crate) fn index(id: NodeId) -> usize {
    usize::from(id.0[1])
}

impl World {
    pub(crate) fn apply(&mut self, node: usize, event: Event) -> bool {
        let now = self.nodes[node].clock(self.now);
        let changed = self.nodes[node].state.apply(event, now);
        if changed {
            self.wake_drivers(node);
        }
        changed
    }

    /// Starts the process of a node, with what it remembers from before or with an introducer alone.
    pub(crate) fn start(&mut self, node: usize) {
        if self.nodes[node].is_running || self.nodes[node].has_left {
            return;
        }
        let remembers = self.random.chance(60);
        let (now, run) = (self.now, self.random.next());
        let it = &mut self.nodes[node];
        let peers: Vec<NodeRecord> =
            it.state.members().map(|member| member.record.clone()).collect();
        let instances: Vec<InstanceRecord> = it.state.instances_and_tombstones().cloned().collect();
        it.life += 1;
        it.is_running = true;
        (it.froze_at, it.frozen_until) = (0, 0);
        it.clock_lag = 0;
        it.moved_at = now;
        it.started_at = now;
        it.last_tick = now;
        it.believed.fill(None);
        it.seen.clear();
        it.died.clear();
        it.known_lives.clear();
        it.next_sequence = u64::from(it.life + 1) << 32;
        let wall = 1_000_000_000_i64 + i64::try_from(now).expect("hours") + it.wall_ahead;
        it.record = record(node, run, wall.unsigned_abs(), it.port);
        it.state = Self::new_state(node, run);
        let life = it.life;
        let own = it.record.clone();
        self.apply(node, Event::Record(own));
        self.trace(|| format!("{node}: starts, remembers: {remembers}"));
        if remembers && !peers.is_empty() {
            for peer in peers {
                self.apply(node, Event::Record(peer));
            }
            for instance in instances {
                self.learn(node, &instance);
            }
        } else {
            // The first device gave out the tickets. Later, the roll tells who belongs here, but not where.
            let awake: Vec<usize> =
                (0..self.nodes.len()).filter(|&other| self.is_awake(other)).collect();
            let introducer = if life == 1 { Some(0) } else { self.random.pick(&awake) };
            for peer in peers {
                self.apply(node, Event::Hint { node: peer.id, addrs: Vec::new() });
            }
            if let Some(introducer) = introducer {
                let addrs = vec![address(self.nodes[introducer].port)];
                self.apply(node, Event::Hint { node: node_id(introducer), addrs });
            }
        }
        let at = now + self.random.below(200);
        self.at(at, What::Tick { node, life });
    }

    pub(crate) fn tick(&mut self, node: usize) {
        let now = self.nodes[node].clock(self.now);
        let actions = self.nodes[node].state.plan(now);
        self.ledger.planned(actions.len(), self.nodes.len());
        for action in actions {
            self.carry_out(node, action);
        }
        self.mourn(node);
        if self.now >= self.nodes[node].vouched_at + VOUCH_EVERY {
            self.nodes[node].vouched_at = self.now;
            self.vouch(node);
        }
        if self.now >= self.nodes[node].looked_at + DISCOVERY
            && self.nodes[node].state.is_looking(now)
        {
            self.nodes[node].looked_at = self.now;
            self.look(node);
        }
    }

    /// Notices whose life has ended: of silence, because it left, or because a later one has begun.
    fn mourn(&mut self, node: usize) {
        let it = &self.nodes[node];
        let now = it.clock(self.now);
        let records = it.state.members().map(|member| &member.record);
        let is_alive = |record: &&NodeRecord| {
            record.run != 0 && it.state.liveness(record.id, now) != Liveness::Dead
        };
        let alive = records.filter(is_alive).map(|record| (index(record.id), record.run));
        let alive: BTreeMap<usize, u64> = alive.collect();
        if alive == it.known_lives {
            return;
        }
        let before = std::mem::replace(&mut self.nodes[node].known_lives, alive.clone());
        for (peer, run) in before {
            if alive.get(&peer) != Some(&run) {
                self.drop_peer(node, peer);
            }
        }
        self.wake_drivers(node);
    }

    /// Whoever the network reaches answers where it is.
    fn look(&mut self, node: usize) {
        for other in 0..self.nodes.len() {
            let is_member = !self.nodes[node].left.contains(&other);
            if other != node && is_member && self.reaches(node, other) {
                let addrs = vec![address(self.nodes[other].port)];
                self.apply(node, Event::Hint { node: node_id(other), addrs });
            }
        }
    }

    fn carry_out(&mut self, node: usize, action: Action) {
        match action {
            Action::Dial { node: to, addrs } => {
                let to = index(to);
                let addr_is_right = addrs.contains(&address(self.nodes[to].port));
                self.dial(node, to, addr_is_right);
            }
            Action::Heartbeat(to) => {
                let it = &self.nodes[node];
                let (version, instances) = (it.record.version, it.state.instances_digest());
                let load = u8::try_from(self.now % 100).expect("below 100");
                self.ask(node, index(to), Message::Heartbeat { version, instances, load });
            }
            Action::Sync(to) => {
                let hello = Message::Hello(self.hello(node));
                self.ask(node, index(to), hello);
            }
            Action::Heal { instance, epoch, lost } => {
                let lost: Vec<usize> = lost.into_iter().map(index).collect();
                self.trace(|| format!("{node}: heals {instance} as {epoch}, lost {lost:?}"));
                self.check_heal(node, instance, epoch, &lost);
                let it = &mut self.nodes[node];
                it.works.remove(&instance);
                let known = it.state.instance(instance).expect("it is planned for").clone();
                if !self.random.chance(10) {
                    self.place(node, known, epoch, &lost, 0);
                }
            }
            // No node of the simulation drains, and what is made ready changes nothing that is told.
            Action::Move { .. } | Action::Prepare { .. } => {}
            Action::TellLost { instance, epoch, coordinator } => {
                self.ask(node, index(coordinator), Message::StageLost { instance, epoch });
            }
        }
    }

    fn ask(&mut self, from: usize, to: usize, message: Message) {
        if let Some(conn) = self.nodes[from].current[to] {
            self.send(conn, from, message);
        }
    }

    pub(crate) fn tell_all(&mut self, from: usize, message: &Message) {
        for to in 0..self.nodes.len() {
            self.ask(from, to, message.clone());
        }
    }

    pub(crate) fn hello(&self, node: usize) -> Arc<Hello> {
        let it = &self.nodes[node];
        Arc::new(Hello {
            record: it.record.clone(),
            peers: it.state.members().map(|member| member.record.clone()).collect(),
            instances: it.state.instances_and_tombstones().cloned().collect(),
            left: it.left.iter().copied().collect(),
        })
    }

    /// Takes in all that another node knows. Returns whether it names anybody or anything of them that is new.
    fn meet(&mut self, node: usize, hello: &Hello) -> bool {
        for &left in &hello.left {
            self.see_off(node, left);
        }
        let mut is_new = false;
        for instance in &hello.instances {
            self.learn(node, instance);
        }
        for record in hello.peers.iter().chain([&hello.record]) {
            let known = self.nodes[node].state.record(record.id);
            let is_same =
                known.is_some_and(|it| (it.version, it.run) == (record.version, record.run));
            if !is_same && !self.nodes[node].left.contains(&index(record.id)) {
                is_new |= self.apply(node, Event::Record(record.clone()));
            }
        }
        self.outrank(node);
        is_new
    }

    /// Another node left for good.
    fn see_off(&mut self, node: usize, left: usize) {
        if left != node && self.nodes[node].left.insert(left) {
            self.apply(node, Event::Left(node_id(left)));
        }
    }

    /// Makes sure that this life's record outranks those of earlier lives.
    fn outrank(&mut self, node: usize) {
        let it = &mut self.nodes[node];
        let floor = it.state.own_version_floor();
        if floor > it.record.version {
            it.record.version = floor;
            let own = it.record.clone();
            self.apply(node, Event::Record(own));
        }
    }

    /// Takes in an instance as somebody says it is now, and ends what that outdates here.
    pub(crate) fn learn(&mut self, node: usize, record: &InstanceRecord) -> bool {
        let (id, it) = (record.id, &mut self.nodes[node]);
        let seen = it.seen.entry(id).or_default();
        *seen = (*seen).max(record.epoch);
        let known = it.state.instance(id);
        if known.is_some_and(|it| (it.epoch, &it.phase) == (record.epoch, &record.phase)) {
            return false;
        }
        let changed = self.apply(node, Event::Instance(record.clone()));
        let it = &mut self.nodes[node];
        if it.works.get(&id).is_some_and(|work| !it.state.is_current(id, work.record.epoch)) {
            it.works.remove(&id);
        }
        if changed {
            self.end_outdated(node);
        }
        changed
    }

    /// Ends the stages that something newer outdates, but for those that it leaves as they are: these wait for it.
    fn end_outdated(&mut self, node: usize) {
        let it = &mut self.nodes[node];
        let state = &it.state;
        let ended = it.runners.extract_if(.., |&id, runner| {
            let Some(known) = state.instance(id) else { return false };
            let is_kept = runner.is_kept(known, node_id(node));
            let is_newer = known.epoch > runner.epoch;
            runner.is_fenced |= is_newer && is_kept;
            match known.phase {
                Phase::Dropped => true,
                Phase::Failed(_) => known.epoch >= runner.epoch,
                _ => is_newer && !is_kept,
            }
        });
        let ended: Vec<Runner> = ended.map(|(_, runner)| runner).collect();
        if !ended.is_empty() {
            let it = &mut self.nodes[node];
            let known = &it.state;
            it.idle.retain(|&id, _| {
                known.instance(id).is_none_or(|record| record.phase != Phase::Dropped)
            });
            self.publish_stages(node);
        }
    }

    pub(crate) fn publish_stages(&mut self, node: usize) {
        let it = &mut self.nodes[node];
        let stage = |(&instance, runner): (&InstanceId, &Runner)| StageRecord {
            instance,
            epoch: runner.epoch,
            layers: runner.layers,
            n_bytes: 0,
        };
        it.record.stages = it.runners.iter().map(stage).collect();
        it.record.version += 1;
        let own = it.record.clone();
        self.apply(node, Event::Record(own));
    }

    /// Makes a record public: everybody who can be reached is told at once.
    fn publish(&mut self, node: usize, record: &InstanceRecord) {
        self.check_publish(node, record);
        self.trace(|| format!("{node}: {} is {:?} as {}", record.id, record.phase, record.epoch));
        self.learn(node, record);
        self.tell_all(node, &Message::Publish(Arc::new(record.clone())));
    }

    /// A person asks a node to place a model.
    pub(crate) fn place_new(&mut self, node: usize) {
        let id = InstanceId(self.random.next());
        let epoch = self.nodes[node].state.reserve_epoch(id);
        let model =
            ModelRef { name: String::new(), files: None, fingerprint: [0; 32], n_layer: N_LAYER };
        let placement = Placement { stages: Vec::new() };
        let (n_ctx, phase, unload_after_s) = (N_CTX, Phase::Placing, None);
        let record = InstanceRecord { id, epoch, phase, model, placement, n_ctx, unload_after_s };
        self.place(node, record, epoch, &[], 0);
    }

    /// A person asks a node to drop an instance.
    pub(crate) fn unplace(&mut self, node: usize) {
        let known: Vec<InstanceId> =
            self.nodes[node].state.instances().map(|record| record.id).collect();
        if let Some(id) = self.random.pick(&known) {
            let known = self.nodes[node].state.instance(id).expect("just listed");
            let dropped = InstanceRecord { phase: Phase::Dropped, ..known.clone() };
            self.publish(node, &dropped);
        }
    }

    /// A person, or a plan that has become better, moves an instance that is well.
    pub(crate) fn move_instance(&mut self, node: usize) {
        let ready = self.nodes[node].state.instances().filter(|it| it.phase == Phase::Ready);
        let ready: Vec<InstanceId> = ready.map(|it| it.id).collect();
        if let Some(id) = self.random.pick(&ready) {
            let it = &mut self.nodes[node];
            let record = it.state.instance(id).expect("just listed").clone();
            let epoch = it.state.reserve_epoch(id);
            it.works.remove(&id);
            let moved = record.placement.stages.last().map(|stage| index(stage.node));
            self.place(node, record, epoch, &[moved.expect("a placement has stages")], 0);
        }
    }

    /// Chooses among the nodes that live, by this node's view, and begins. What is there already often stays where it is.
    fn place(
        &mut self,
        node: usize,
        record: InstanceRecord,
        epoch: Epoch,
        lost: &[usize],
        n_tried: u32,
    ) {
        let is_new = record.placement.stages.is_empty();
        let phase = if is_new { Phase::Placing } else { Phase::Healing };
        let now = self.nodes[node].clock(self.now);
        let state = &self.nodes[node].state;
        let mut alive: Vec<NodeId> = state.members().map(|member| member.record.id).collect();
        alive.retain(|&id| state.liveness(id, now) == Liveness::Alive);
        alive.push(node_id(node));
        let kept = (!is_new && self.random.chance(60)).then(|| self.mend(&record, &alive, lost));
        let stages = match kept.flatten() {
            Some(stages) => stages,
            None => self.split(alive),
        };
        let (id, placement) = (record.id, Placement { stages });
        let record = InstanceRecord { epoch, phase, placement, ..record };
        self.publish(node, &record);
        let waits_for = record.placement.stages.iter().map(|stage| index(stage.node)).collect();
        self.nodes[node].works.insert(id, Work { record, waits_for, n_tried });
        let (life, now) = (self.nodes[node].life, self.now);
        let at = now + self.random.between(10, 2_000);
        self.at(at, What::Job { node, life, job: Job::Load { instance: id, epoch } });
        let job = Job::GiveUp { instance: id, epoch };
        self.at(now + LOAD_TIMEOUT, What::Job { node, life, job });
    }

    /// The placement as it is, with other nodes for what is lost; nothing if there are none.
    fn mend(
        &mut self,
        record: &InstanceRecord,
        alive: &[NodeId],
        lost: &[usize],
    ) -> Option<Vec<Stage>> {
        let mut stages = record.placement.stages.clone();
        let is_well =
            |stage: &Stage| alive.contains(&stage.node) && !lost.contains(&index(stage.node));
        let mut free = alive.to_vec();
        free.retain(|&id| !stages.iter().any(|stage| stage.node == id));
        for stage in stages.iter_mut().filter(|stage| !is_well(stage)) {
            stage.node = self.random.pick(&free)?;
            free.retain(|&id| id != stage.node);
        }
        Some(stages)
    }

    /// A new placement.
    fn split(&mut self, mut alive: Vec<NodeId>) -> Vec<Stage> {
        let n_stages = self.random.between(1, 4).min(alive.len() as u64);
        let n_stages = u32::try_from(n_stages).expect("at most 4");
        let mut stages = Vec::new();
        for i in 0..n_stages {
            let node = alive.swap_remove(self.random.index(alive.len()));
            let (start, end) = (N_LAYER * i / n_stages, N_LAYER * (i + 1) / n_stages);
            let layers = LayerRange::new(start, end).expect("at most 4 of 8 layers");
            stages.push(Stage { node, layers });
        }
        stages
    }

    pub(crate) fn work(&mut self, node: usize, job: Job) {
        let is_current = |world: &Self, instance, epoch| {
            world.nodes[node].works.get(&instance).is_some_and(|work| work.record.epoch == epoch)
        };
        match job {
            Job::Load { instance, epoch } if is_current(self, instance, epoch) => {
                let work = self.nodes[node].works.get_mut(&instance).expect("it is current");
                work.record.phase = Phase::Loading;
                let record = work.record.clone();
                self.publish(node, &record);
                let record = Arc::new(record);
                for stage in &record.placement.stages {
                    if stage.node == node_id(node) {
                        self.load(node, &record, None);
                    } else {
                        self.ask(node, index(stage.node), Message::Load(Arc::clone(&record)));
                    }
                }
            }
            Job::GiveUp { instance, epoch } if is_current(self, instance, epoch) => {
                self.try_again(node, instance);
            }
            Job::Loaded { record, conn, ok } => self.loaded_here(node, &record, conn, ok),
            Job::Load { .. } | Job::GiveUp { .. } => {}
        }
    }

    /// A placement came to nothing: others are chosen, with an epoch of their own, or it is given up.
    fn try_again(&mut self, node: usize, instance: InstanceId) {
        let work = self.nodes[node].works.remove(&instance).expect("it is current");
        if work.n_tried >= TRIES_MAX {
            let phase = Phase::Failed("no node could load it".into());
            self.publish(node, &InstanceRecord { phase, ..work.record });
        } else {
            let epoch = self.nodes[node].state.reserve_epoch(instance);
            self.place(node, work.record, epoch, &[], work.n_tried + 1);
        }
    }

    /// Begins to load a stage, unless a newer placement is known.
    fn load(&mut self, node: usize, record: &Arc<InstanceRecord>, conn: Option<usize>) {
        self.learn(node, record);
        let ok =
            self.nodes[node].state.is_current(record.id, record.epoch) && !self.random.chance(5);
        let runner = self.nodes[node].runners.get(&record.id);
        let is_kept = runner.is_some_and(|it| it.is_kept(record, node_id(node)));
        let takes = match (ok, is_kept) {
            (true, false) => self.random.between(100, 5_000),
            (true, true) => self.random.between(1, 20),
            (false, _) => 1,
        };
        let (life, at) = (self.nodes[node].life, self.now + takes);
        let job = Job::Loaded { record: Arc::clone(record), conn, ok };
        self.at(at, What::Job { node, life, job });
    }

    fn loaded_here(&mut self, node: usize, record: &InstanceRecord, conn: Option<usize>, ok: bool) {
        let (instance, epoch) = (record.id, record.epoch);
        let it = &self.nodes[node];
        let ok =
            ok && it.state.is_current(instance, epoch) && !it.died.contains(&(instance, epoch));
        if ok {
            self.check_runs(node, instance, epoch);
            self.run_here(node, record);
            self.publish_stages(node);
        }
        match conn {
            Some(conn) => self.send(conn, node, Message::Loaded { instance, epoch, ok }),
            None => self.loaded(node, node, instance, epoch, ok),
        }
    }

    /// Runs a stage: the one that is there, with all that it holds, if the placement leaves it as it is.
    fn run_here(&mut self, node: usize, record: &InstanceRecord) {
        let runner = self.nodes[node].runners.get_mut(&record.id);
        if let Some(runner) = runner.filter(|it| it.is_kept(record, node_id(node))) {
            (runner.epoch, runner.is_fenced) = (record.epoch, false);
            let route = Route::of(record, node_id(node)).expect("it is kept");
            self.hand_over(node, record.id, Input::Move(route));
            return;
        }
        self.n_numbers += 1;
        let runner = Runner::new(self.n_numbers, record, node_id(node));
        let runner = runner.expect("only who is in a placement is asked");
        self.nodes[node].runners.insert(record.id, runner);
    }

    /// A stage answers to whoever places the instance.
    fn loaded(&mut self, node: usize, from: usize, instance: InstanceId, epoch: Epoch, ok: bool) {
        let Some(work) = self.nodes[node].works.get_mut(&instance) else { return };
        if work.record.epoch != epoch {
            return;
        }
        if !ok {
            self.try_again(node, instance);
            return;
        }
        work.waits_for.remove(&from);
        if work.waits_for.is_empty() {
            let work = self.nodes[node].works.remove(&instance).expect("just found");
            self.publish(node, &InstanceRecord { phase: Phase::Ready, ..work.record });
        }
    }

    /// A runner dies; the node notices, and mostly manages to tell the coordinator.
    pub(crate) fn crash_runner(&mut self, node: usize) {
        let runners: Vec<InstanceId> = self.nodes[node].runners.keys().copied().collect();
        let Some(instance) = self.random.pick(&runners) else { return };
        let runner = self.nodes[node].runners.remove(&instance).expect("just listed");
        let epoch = runner.epoch;
        self.crashed_runners.insert(runner.number);
        self.nodes[node].disturbed_at = self.now;
        self.trace(|| format!("{node}: the runner of {instance} as {epoch} died"));
        self.nodes[node].died.insert((instance, epoch));
        let before = self.believes(node);
        self.apply(node, Event::StageLost { instance, epoch, node: node_id(node) });
        assert_eq!(before, self.believes(node), "a runner's crash changes no membership");
        self.publish_stages(node);
        let now = self.nodes[node].clock(self.now);
        if let Some(coordinator) = self.nodes[node].state.coordinator(instance, now)
            && coordinator != node_id(node)
            && !self.random.chance(20)
        {
            self.ask(node, index(coordinator), Message::StageLost { instance, epoch });
        }
    }

    pub(crate) fn receive(&mut self, conn: usize, node: usize, message: Message) {
        let from = self.conns[conn].other(node);
        if self.nodes[node].left.contains(&from) {
            return;
        }
        let peer = node_id(from);
        match message {
            Message::HelloAnswer { hello, asked_at } => {
                if self.now > asked_at + ANSWER_TIMEOUT {
                    return;
                }
                self.meet(node, &hello);
                if !self.conns[conn].is_introduced && self.conns[conn].nodes[0] == node {
                    self.conns[conn].is_introduced = true;
                    self.serve(conn, node);
                }
                self.apply(node, Event::Heard(peer));
            }
            Message::Ok { asked_at } => {
                if self.now <= asked_at + ANSWER_TIMEOUT {
                    self.apply(node, Event::Heard(peer));
                }
            }
            Message::Loaded { instance, epoch, ok } => self.loaded(node, from, instance, epoch, ok),
            Message::Closed | Message::Forgotten => {}
            request => {
                self.apply(node, Event::Heard(peer));
                self.answer(conn, node, request);
                // A peer that dialled is not a member before its record came.
                if self.nodes[node].current[from].is_some() {
                    self.apply(node, Event::Connected(peer));
                }
            }
        }
    }

    fn answer(&mut self, conn: usize, node: usize, request: Message) {
        let from = self.conns[conn].other(node);
        let asked_at = self.now;
        match request {
            Message::Hello(hello) => {
                let is_new = self.meet(node, &hello);
                let answer = Message::HelloAnswer { hello: self.hello(node), asked_at };
                self.send(conn, node, answer);
                if is_new {
                    let hello = Message::Hello(self.hello(node));
                    self.tell_all(node, &hello);
                }
            }
            Message::Heartbeat { version, instances, load } => {
                let vitals = Vitals { load_percent: Some(load), ..Vitals::default() };
                let (node_of, record_version) = (node_id(from), version);
                let event = Event::Heartbeat { node: node_of, record_version, instances, vitals };
                self.apply(node, event);
                self.send(conn, node, Message::Ok { asked_at });
            }
            Message::Publish(record) => {
                self.learn(node, &record);
            }
            Message::Load(record) => self.load(node, &record, Some(conn)),
            Message::StageLost { instance, epoch } => {
                let before = self.believes(node);
                self.apply(node, Event::StageLost { instance, epoch, node: node_id(from) });
                assert_eq!(before, self.believes(node), "a runner's crash changes no membership");
            }
            Message::Leave => self.see_off(node, from),
            _ => unreachable!("answers are taken in elsewhere"),
        }
    }
}
