//! A node that follows a script.

mod board;

use std::{
    collections::VecDeque,
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, UNIX_EPOCH},
};

use shoal_node::{
    Caller, Error, Event, FinishReason, Fit, GenerateRequest, Help, InstanceStatus, LeftOut,
    ModelEntry, NodeStatus, Offer, PlaceRequest, PlanCandidate, PlanReport, PlanStage,
    RunnerStatus, StepTrace, Timings, Totals, Trace, Usage,
    chats::Chats,
    hub::{
        BadPeer, Catalogue, DownloadState, DownloadStatus, LibraryError, ModelState, Place,
        Received, ReferenceError, RemoveReport, RepoFormat, SearchHit, Space, StoreError,
        StoredModel,
    },
};
use shoal_proto::{
    Epoch, InstanceId, LayerRange, NodeId,
    control::{
        Battery, HeldModel, InstanceRecord, LinkRecord, ModelRef, NodeRecord, Phase, Placement,
        Profile, Stage, StageRecord, Vitals,
    },
    frame::StageTiming,
};
use tokio::sync::{mpsc, watch};

use crate::backend::{Answer, Backend};

pub(super) use board::INVITE;

/// What an answer does after its last event.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Afterwards {
    Ends,
    Hangs,
}

pub(super) type Answers = fn() -> Result<Vec<Event>, Error>;

/// Clones are handles to the same script.
#[derive(Debug, Clone)]
pub(super) struct Script {
    answers: Answers,
    afterwards: Afterwards,
    asked: Arc<Mutex<Vec<GenerateRequest>>>,
    /// What the next answer goes on with after its events.
    feed: Arc<Mutex<Option<mpsc::Receiver<Event>>>>,
    /// How long the node takes to take a request in.
    takes_in: Duration,
    /// Answers that are not dropped.
    n_running: watch::Sender<usize>,
    downloads: Arc<Mutex<Vec<DownloadStatus>>>,
    downloads_changed: watch::Sender<u64>,
    /// What the page is told.
    pub(super) told: board::Told,
    chats: Chats,
}

#[derive(Debug)]
pub(super) struct ScriptedAnswer {
    events: VecDeque<Event>,
    /// Events that a test gives in later.
    fed: Option<mpsc::Receiver<Event>>,
    afterwards: Afterwards,
    n_running: watch::Sender<usize>,
}

pub(super) const USAGE: Usage = Usage { n_prompt: 12, n_cached: 8, n_generated: 3 };

pub(super) fn text(text: &str) -> Event {
    Event::Text(text.to_owned())
}

pub(super) fn finished(reason: FinishReason) -> Event {
    Event::Finished { reason, usage: USAGE, timings: Timings::default() }
}

/// "Hello, wörld", finished by the model.
pub(super) fn hello() -> Result<Vec<Event>, Error> {
    Ok(vec![
        Event::Started { n_prompt: 12 },
        text("Hello,"),
        text(" wörld"),
        finished(FinishReason::Stop),
    ])
}

/// Events that a test may be ahead of the answer that it feeds.
const FEED_MAX: usize = 8;

impl Script {
    pub(super) fn new(answers: Answers) -> Self {
        let (asked, n_running) = (Arc::default(), watch::Sender::new(0));
        Self {
            answers,
            afterwards: Afterwards::Ends,
            asked,
            feed: Arc::default(),
            takes_in: Duration::ZERO,
            n_running,
            downloads: Arc::default(),
            downloads_changed: watch::Sender::new(0),
            told: board::Told::default(),
            chats: Chats::in_memory(OWN_ID),
        }
    }

    pub(super) fn hanging(answers: Answers) -> Self {
        Self { afterwards: Afterwards::Hangs, ..Self::new(answers) }
    }

    /// A node whose one answer goes on with what the sender is given.
    pub(super) fn fed(answers: Answers) -> (Self, mpsc::Sender<Event>) {
        let (sender, feed) = mpsc::channel(FEED_MAX);
        (Self { feed: Arc::new(Mutex::new(Some(feed))), ..Self::new(answers) }, sender)
    }

    /// A node that takes a request in only after a while.
    pub(super) fn slow(answers: Answers, takes_in: Duration) -> Self {
        Self { takes_in, ..Self::new(answers) }
    }

    /// The requests that came so far.
    pub(super) fn asked(&self) -> Vec<GenerateRequest> {
        self.asked.lock().expect("no test panics with the lock").clone()
    }

    pub(super) async fn wait_until_running(&self, n: usize) {
        let mut n_running = self.n_running.subscribe();
        let waited = n_running.wait_for(|&running| running == n);
        let patience = Duration::from_secs(60);
        let came = tokio::time::timeout(patience, waited).await.is_ok();
        assert!(came, "expected {n} answers under way, got {}", *self.n_running.borrow());
    }

    /// Lets the node say that a download is so.
    pub(super) fn set_download(&self, model: &str, n_bytes: u64, state: DownloadState) {
        let mut downloads = self.downloads.lock().expect("no test panics with the lock");
        downloads.retain(|download| download.model != model);
        downloads.push(DownloadStatus {
            model: model.to_owned(),
            state,
            n_bytes,
            n_total: 1000,
            bytes_per_s: 50.0,
            remaining: Some(Duration::from_millis(1500)),
            received: Received { from_hub: 1, from_peers: n_bytes },
            bad_peers: vec![BadPeer { node: PEER_ID, chunk: 7 }],
        });
        drop(downloads);
        self.downloads_changed.send_modify(|n| *n += 1);
    }

    fn state_of(&self, model: &str) -> Option<DownloadState> {
        let downloads = self.downloads.lock().expect("no test panics with the lock");
        downloads.iter().find(|it| it.model == model).map(|download| download.state.clone())
    }

    fn instance() -> InstanceStatus {
        let layers = |start, end| LayerRange::new(start, end).expect("not empty");
        let stage = |node, start, end| Stage { node, layers: layers(start, end) };
        let record = InstanceRecord {
            id: InstanceId(0x1f),
            epoch: Epoch::first(OWN_ID).next(OWN_ID),
            phase: Phase::Ready,
            model: ModelRef { name: "demo".into(), files: None, fingerprint: [0; 32], n_layer: 6 },
            placement: Placement { stages: vec![stage(OWN_ID, 0, 2), stage(PEER_ID, 2, 6)] },
            n_ctx: 512,
            unload_after_s: None,
        };
        InstanceStatus {
            record,
            state: "ready",
            why: None,
            progress: None,
            n_requests: 1,
            n_waiting: 3,
            predicted_per_s: Some(12.5),
            measured_per_s: None,
            suggestion: None,
        }
    }
}

pub(super) const OWN_ID: NodeId = NodeId([0xab; 32]);
pub(super) const PEER_ID: NodeId = NodeId([0xcd; 32]);

impl Answer for ScriptedAnswer {
    async fn next(&mut self) -> Option<Event> {
        if let (true, Some(fed)) = (self.events.is_empty(), &mut self.fed) {
            return fed.recv().await;
        }
        match (self.events.pop_front(), self.afterwards) {
            (Some(event), _) => Some(event),
            (None, Afterwards::Ends) => None,
            (None, Afterwards::Hangs) => std::future::pending().await,
        }
    }
}

impl Drop for ScriptedAnswer {
    fn drop(&mut self) {
        self.n_running.send_modify(|n| *n -= 1);
    }
}

impl Backend for Script {
    type Answer = ScriptedAnswer;

    fn id(&self) -> NodeId {
        OWN_ID
    }

    fn name(&self) -> String {
        "kitchen".to_owned()
    }

    async fn generate_for(
        &self,
        request: GenerateRequest,
        caller: Caller,
    ) -> Result<ScriptedAnswer, Error> {
        self.told.called(caller);
        self.asked.lock().expect("no test panics with the lock").push(request);
        tokio::time::sleep(self.takes_in).await;
        let events = (self.answers)()?.into();
        self.n_running.send_modify(|n| *n += 1);
        Ok(ScriptedAnswer {
            events,
            fed: self.feed.lock().expect("no test panics with the lock").take(),
            afterwards: self.afterwards,
            n_running: self.n_running.clone(),
        })
    }

    async fn models(&self) -> Vec<ModelEntry> {
        let model = |id: &str| ModelEntry {
            id: id.to_owned(),
            created_s: 1_700_000_000,
            n_ctx: 512,
            n_layer: 6,
            architecture: "llama".to_owned(),
            n_bytes: 7_000_000,
        };
        vec![model("/models/a b.gguf"), model("Qwen/Qwen2.5-0.5B"), model("demo")]
    }

    fn nodes(&self) -> Vec<NodeStatus> {
        let node = |id, name: &str, rtt: Option<Duration>| NodeStatus {
            record: NodeRecord {
                id,
                version: 1,
                name: name.to_owned(),
                addrs: vec!["127.0.0.1:4242".parse().expect("an address")],
                software: "0.1.0".to_owned(),
                isa: "avx2".to_owned(),
                device: "Pixel 7".to_owned(),
                memory_bytes: 1 << 30,
                run: 7,
                profile: Some(Profile {
                    decode_bytes_per_s: 9_000_000_000,
                    prefill_macs_per_s: 50_000_000_000,
                    step_us: 20,
                }),
                models: vec![HeldModel {
                    name: "owner/m:Q4_K_M".to_owned(),
                    is_whole: false,
                    layers: vec![LayerRange::new(0, 2).expect("not empty")],
                }],
                stages: vec![StageRecord {
                    instance: InstanceId(0x1f),
                    epoch: Epoch::first(OWN_ID).next(OWN_ID),
                    layers: LayerRange::new(0, 2).expect("not empty"),
                    n_bytes: 1 << 20,
                }],
                links: vec![LinkRecord { node: OWN_ID, rtt_us: 1500, bytes_per_s: 0 }],
                draining: None,
            },
            is_self: rtt.is_none(),
            liveness: "alive".to_owned(),
            rtt,
            vitals: rtt.is_some().then_some(Vitals {
                load_percent: Some(40),
                free_bytes: 1 << 29,
                temperature_dc: Some(385),
                battery: Some(Battery { percent: 81, is_charging: false }),
                n_requests: 0,
            }),
        };
        vec![
            node(OWN_ID, "kitchen", None),
            node(PEER_ID, "old-pixel", Some(Duration::from_micros(2500))),
        ]
    }

    fn instances(&self) -> Vec<InstanceStatus> {
        vec![Self::instance()]
    }

    fn runners(&self) -> Vec<RunnerStatus> {
        Vec::new()
    }

    async fn place(&self, request: PlaceRequest) -> Result<InstanceStatus, Error> {
        match (request.model.as_str(), request.min_nodes) {
            ("demo", Some(2)) => {
                let mut instance = Self::instance();
                instance.record.n_ctx = request.n_ctx.unwrap_or(512);
                Ok(instance)
            }
            ("demo", _) => {
                Err(Error::LoadRefused { node: PEER_ID, message: "no memory left".to_owned() })
            }
            (name, _) => Err(Error::Model {
                name: name.to_owned(),
                source: Arc::new(std::io::Error::other("no such file")),
            }),
        }
    }

    async fn plan(&self, request: PlaceRequest) -> Result<PlanReport, Error> {
        let stage = PlanStage {
            node: OWN_ID,
            name: "kitchen".to_owned(),
            layers: LayerRange::new(0, 6).expect("not empty"),
            weight_bytes: 1000,
            memory_bytes: 1500,
            fetch_bytes: 0,
            compute: Duration::from_millis(40),
            hop: Duration::ZERO,
        };
        let candidate = PlanCandidate {
            stages: vec![stage],
            tokens_per_s: 25.0,
            first_token: Duration::from_millis(900),
            aggregate_tokens_per_s: 25.0,
            fetch: Duration::ZERO,
        };
        let why = format!("{} excluded", request.exclude.len());
        let left_out = LeftOut { node: PEER_ID, name: "old-pixel".to_owned(), why };
        Ok(PlanReport {
            model: request.model,
            n_ctx: request.n_ctx.unwrap_or(512),
            n_prompt: 512,
            sentence: "one is enough".to_owned(),
            candidates: vec![candidate],
            left_out: vec![left_out],
            each_further: vec![Help {
                n_nodes: 1,
                tokens_per_s: Some(25.0),
                first_token: Some(Duration::from_millis(900)),
                aggregate_tokens_per_s: None,
            }],
        })
    }

    async fn join(&self, ticket: &str) -> Result<(), Error> {
        if ticket == "shoal2good" { Ok(()) } else { Err(Error::Offline) }
    }

    async fn leave(&self) -> Result<(), Error> {
        Ok(())
    }

    async fn forget(&self, node: NodeId) -> Result<(), Error> {
        if node == PEER_ID { Ok(()) } else { Err(Error::UnknownNode { node }) }
    }

    async fn drain(&self, node: Option<NodeId>, _is_undone: bool) -> Result<(), Error> {
        match node {
            Some(node) if node != PEER_ID => Err(Error::UnknownNode { node }),
            _ => Ok(()),
        }
    }

    fn chats(&self) -> &Chats {
        &self.chats
    }

    fn totals(&self) -> Totals {
        let mut totals = Totals { generated_tokens: 7, compute_s: 1.5, ..Totals::default() };
        totals.requests.insert("stop", 3);
        totals.token.count = 4;
        totals.token.buckets[1] = 3;
        totals
    }

    fn process(&self) -> (Option<u64>, Duration) {
        (Some(40_000_000), Duration::from_secs(12))
    }

    fn traces(&self) -> Vec<Trace> {
        self.trace(5).into_iter().collect()
    }

    fn trace(&self, id: u64) -> Option<Trace> {
        let ms = Duration::from_millis;
        let stage = |queued_us, compute_us| StageTiming { queued_us, compute_us, n_rows: 1 };
        (id == 5).then(|| Trace {
            id,
            model: "demo".to_owned(),
            instance: InstanceId(0x1f),
            driver: OWN_ID,
            stages: vec![OWN_ID, PEER_ID],
            received: UNIX_EPOCH + ms(1000),
            prepared: ms(1),
            started: ms(2),
            n_prompt: 12,
            n_cached: 0,
            n_generated: 1,
            first_token: Some(ms(32)),
            ended: Some(ms(33)),
            outcome: "stop",
            steps: vec![StepTrace {
                end: 12,
                n_tokens: 12,
                has_token: true,
                sent: ms(2),
                took: ms(30),
                stages: vec![stage(1000, 8000), stage(0, 12_000)],
            }],
            n_steps: 1,
        })
    }

    async fn unplace(&self, instance: InstanceId) -> Result<(), Error> {
        if instance == InstanceId(0x1f) {
            Ok(())
        } else {
            Err(Error::UnknownInstance { id: instance })
        }
    }

    async fn offers(&self, every_quant: bool) -> Result<Vec<Offer>, Error> {
        let cards = Catalogue::builtin().cards();
        let offer = |i: usize, here: Fit, stored: Option<&str>| Offer {
            card: cards[i].clone(),
            quant: cards[i].quants.first().map(|listed| listed.quant.clone()),
            n_bytes: 400,
            memory_bytes: 500,
            n_ctx: 4096,
            cluster: Fit::RunsOn { n_nodes: 2 },
            here,
            stored: stored.map(str::to_owned),
        };
        let mut offers = vec![
            offer(0, Fit::Runs, Some("there")),
            offer(1, Fit::TooLarge { missing_bytes: 5 }, None),
        ];
        if every_quant {
            offers.push(offer(1, Fit::Unsupported { what: "quantisation Q2_K".into() }, None));
        }
        Ok(offers)
    }

    async fn stored(&self) -> Result<Vec<StoredModel>, Error> {
        let model = |name: &str, place, state| StoredModel {
            name: name.to_owned(),
            dir: "/models/m".into(),
            files: Vec::new(),
            place,
            state,
            manifest: None,
            n_bytes_on_disk: 700,
            modified: UNIX_EPOCH + Duration::from_secs(1_700_000_000),
        };
        let partial = ModelState::Partial { n_bytes: 600, n_total: 1000 };
        let damaged = ModelState::Damaged { what: "the header ends early".to_owned() };
        Ok(vec![
            model("owner/name:Q4_0", Place::Own, partial),
            model("old", Place::Ollama, ModelState::Whole),
            model("bad", Place::HfCache, damaged),
        ])
    }

    fn models_dir(&self) -> Option<&Path> {
        Some(Path::new("/models"))
    }

    async fn space(&self) -> Result<Space, Error> {
        Ok(Space { total: 1000, available: 650 })
    }

    async fn search(&self, words: &str, limit: usize) -> Result<Vec<SearchHit>, Error> {
        let hit = |format| SearchHit {
            repo: words.to_owned(),
            n_downloads: 9,
            n_likes: 1,
            last_modified: None,
            tags: Vec::new(),
            gated: true,
            format,
        };
        Ok(vec![hit(RepoFormat::Gguf), hit(RepoFormat::Mlx)].into_iter().take(limit).collect())
    }

    async fn pull(&self, model: &str, update: bool) -> Result<String, Error> {
        if model == "nonsense" {
            let suggestions = vec!["sense:1b".to_owned()];
            let unknown = ReferenceError::Unknown { text: model.to_owned(), suggestions };
            return Err(shoal_node::hub::NameError::from(unknown).into());
        }
        let name = format!("{model}:{}", if update { "newest" } else { "Q4_0" });
        self.set_download(&name, 0, DownloadState::Running);
        Ok(name)
    }

    fn downloads(&self) -> Vec<DownloadStatus> {
        self.downloads.lock().expect("no test panics with the lock").clone()
    }

    fn download_changes(&self) -> watch::Receiver<u64> {
        self.downloads_changed.subscribe()
    }

    async fn pause(&self, model: &str) -> Result<(), Error> {
        if self.state_of(model) != Some(DownloadState::Running) {
            return Err(LibraryError::NoDownload { name: model.to_owned() }.into());
        }
        self.set_download(model, 1, DownloadState::Paused);
        Ok(())
    }

    fn resume(&self, model: &str) -> Result<(), Error> {
        if self.state_of(model) != Some(DownloadState::Paused) {
            return Err(LibraryError::NoDownload { name: model.to_owned() }.into());
        }
        self.set_download(model, 1, DownloadState::Running);
        Ok(())
    }

    async fn remove(&self, model: &str) -> Result<RemoveReport, Error> {
        if model == "running" {
            return Err(Error::InUse { name: model.to_owned(), instance: InstanceId(0x1f) });
        }
        let mut downloads = self.downloads.lock().expect("no test panics with the lock");
        let n_before = downloads.len();
        downloads.retain(|download| download.model != model);
        if downloads.len() == n_before && model != "owner/name:Q4_0" {
            let unknown = StoreError::Unknown { name: model.to_owned() };
            return Err(LibraryError::from(unknown).into());
        }
        Ok(RemoveReport { name: model.to_owned(), n_bytes: 700, left: Vec::new() })
    }
}
