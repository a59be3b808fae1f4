//! A node that follows a script.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use shoal_node::{
    Error, Event, FinishReason, GenerateRequest, InstanceStatus, ModelEntry, NodeStatus, Timings,
    Usage,
};
use shoal_proto::{
    Epoch, InstanceId, LayerRange, NodeId,
    control::{InstanceRecord, ModelRef, NodeRecord, Placement, Stage, StageRecord},
};
use tokio::sync::watch;

use crate::backend::{Answer, Backend};

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
    /// Answers that are not dropped.
    n_running: watch::Sender<usize>,
}

#[derive(Debug)]
pub(super) struct ScriptedAnswer {
    events: VecDeque<Event>,
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

impl Script {
    pub(super) fn new(answers: Answers) -> Self {
        let (asked, n_running) = (Arc::default(), watch::Sender::new(0));
        Self { answers, afterwards: Afterwards::Ends, asked, n_running }
    }

    pub(super) fn hanging(answers: Answers) -> Self {
        Self { afterwards: Afterwards::Hangs, ..Self::new(answers) }
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

    fn instance() -> InstanceStatus {
        let layers = |start, end| LayerRange::new(start, end).expect("not empty");
        let stage = |node, start, end| Stage { node, layers: layers(start, end) };
        let record = InstanceRecord {
            id: InstanceId(0x1f),
            epoch: Epoch(2),
            model: ModelRef { name: "demo".into(), files: None, fingerprint: [0; 32], n_layer: 6 },
            placement: Placement { stages: vec![stage(OWN_ID, 0, 2), stage(PEER_ID, 2, 6)] },
            n_ctx: 512,
        };
        InstanceStatus { record, state: "ready".into() }
    }
}

pub(super) const OWN_ID: NodeId = NodeId([0xab; 32]);
pub(super) const PEER_ID: NodeId = NodeId([0xcd; 32]);

impl Answer for ScriptedAnswer {
    async fn next(&mut self) -> Option<Event> {
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

    async fn generate(&self, request: GenerateRequest) -> Result<ScriptedAnswer, Error> {
        self.asked.lock().expect("no test panics with the lock").push(request);
        let events = (self.answers)()?.into();
        self.n_running.send_modify(|n| *n += 1);
        Ok(ScriptedAnswer {
            events,
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
                memory_bytes: 1 << 30,
                stages: vec![StageRecord {
                    instance: InstanceId(0x1f),
                    epoch: Epoch(2),
                    layers: LayerRange::new(0, 2).expect("not empty"),
                }],
            },
            is_self: rtt.is_none(),
            liveness: "alive".to_owned(),
            rtt,
        };
        vec![
            node(OWN_ID, "kitchen", None),
            node(PEER_ID, "old-pixel", Some(Duration::from_micros(2500))),
        ]
    }

    fn instances(&self) -> Vec<InstanceStatus> {
        vec![Self::instance()]
    }

    async fn place(
        &self,
        model: &str,
        n_nodes: usize,
        n_ctx: Option<u32>,
    ) -> Result<InstanceStatus, Error> {
        match (model, n_nodes) {
            ("demo", 2) => {
                let mut instance = Self::instance();
                instance.record.n_ctx = n_ctx.unwrap_or(512);
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

    async fn unplace(&self, instance: InstanceId) -> Result<(), Error> {
        if instance == InstanceId(0x1f) {
            Ok(())
        } else {
            Err(Error::UnknownInstance { id: instance })
        }
    }

    fn invite(&self) -> Result<String, Error> {
        Ok("shoal1ticket".to_owned())
    }
}
