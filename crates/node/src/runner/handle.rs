//! The way to a runner, whatever it runs in.

use std::{ffi::OsString, path::PathBuf, sync::Arc, time::Instant};

use shoal_engine::Model;
use shoal_proto::{InstanceId, NodeId, control::InstanceRecord};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::task::TaskTracker;

use super::{Arrived, Host, INBOX_MAX, Input, Observed, Outgoing, Route, Runner, StageSpec};
use crate::{Error, profile::Profiler};

/// How a runner's process is started: a program that calls [`crate::run_stage`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunnerCommand {
    /// The program. `/proc/self/exe` is the running one, even if its file has been replaced.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
}

/// How a runner of this node is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunnerStatus {
    /// The instance whose stage it runs.
    pub instance: InstanceId,
    /// Its process; `None` for a thread of the node, and while there is none.
    pub pid: Option<u32>,
    /// `starting`, `ready`, `restarting` or `given up`.
    pub state: &'static str,
    /// How often it was started anew.
    pub n_restarts: u32,
    /// Why it died last.
    pub why: Option<String>,
}

/// A stage whose runner was given up.
#[derive(Debug)]
pub(crate) struct LostStage {
    pub(crate) instance: InstanceId,
    /// Why, for people.
    pub(crate) message: String,
}

/// What a runner is to run, and what it works with.
#[derive(Debug, Clone)]
pub(crate) struct Spec {
    /// The node.
    pub(crate) node: NodeId,
    /// The instance.
    pub(crate) instance: InstanceRecord,
    /// What it computes.
    pub(crate) stage: StageSpec,
    /// The program of its process; `None` for a thread of this one.
    pub(crate) command: Option<RunnerCommand>,
    /// Learns from what batches take.
    pub(crate) profiler: Arc<Profiler>,
    /// Where its frames go.
    pub(crate) outbox: mpsc::Sender<Outgoing>,
    /// Who is told if it is given up.
    pub(crate) lost: mpsc::Sender<LostStage>,
    /// Keeps the node from ending before its processes have ended.
    pub(crate) tasks: TaskTracker,
}

/// The way to a runner. When the last clone is dropped the runner ends and frees everything.
#[derive(Debug, Clone)]
pub(crate) struct RunnerHandle {
    pub(super) inbox: mpsc::Sender<Arrived>,
    pub(super) status: watch::Receiver<RunnerStatus>,
}

impl RunnerHandle {
    /// Starts a runner and waits until its shard is loaded.
    pub(crate) async fn start(spec: Spec, model: Arc<Model>) -> Result<Self, Error> {
        #[cfg(unix)]
        if let Some(command) = spec.command.clone() {
            return super::supervise::start(spec, command, &model).await;
        }
        Self::start_thread(spec, model).await
    }

    /// Starts a runner as a thread of this process.
    async fn start_thread(spec: Spec, model: Arc<Model>) -> Result<Self, Error> {
        let (inbox, inputs) = mpsc::channel(INBOX_MAX);
        let (ready, loaded) = oneshot::channel();
        let status = RunnerStatus {
            instance: spec.instance.id,
            pid: None,
            state: "ready",
            n_restarts: 0,
            why: None,
        };
        let layers = spec.stage.layers;
        let host = ThreadHost { outbox: spec.outbox, profiler: spec.profiler };
        std::thread::Builder::new()
            .name(format!("stage {layers}"))
            .spawn(move || match Runner::load(&spec.stage, model, host) {
                Ok(runner) => {
                    let _ = ready.send(Ok(()));
                    runner.run(inputs);
                }
                Err(error) => {
                    let _ = ready.send(Err(error));
                }
            })
            .map_err(|error| Error::Thread { source: Arc::new(error) })?;
        match loaded.await {
            Ok(result) => {
                // The status of a thread never changes.
                let (_, status) = watch::channel(status);
                result.map(|()| Self { inbox, status })
            }
            Err(_) => Err(Error::StageFailed {
                message: format!("the runner of layers {layers} died while loading"),
            }),
        }
    }

    /// Hands an input over. `false` if the runner is dead.
    pub(crate) async fn send(&self, input: Input) -> bool {
        self.inbox.send((Instant::now(), input)).await.is_ok()
    }

    /// Whether it will never take anything again.
    pub(crate) fn is_over(&self) -> bool {
        self.inbox.is_closed()
    }

    /// How it is doing.
    pub(crate) fn status(&self) -> RunnerStatus {
        self.status.borrow().clone()
    }
}

impl StageSpec {
    /// What a node computes of an instance.
    pub(crate) fn of(
        instance: &InstanceRecord,
        stage_idx: usize,
        n_threads: Option<usize>,
        isa: Option<String>,
    ) -> Self {
        Self {
            layers: instance.placement.stages[stage_idx].layers,
            n_ctx: instance.n_ctx,
            route: Route::of(instance, stage_idx),
            n_threads: n_threads.map(|n_threads| u32::try_from(n_threads).unwrap_or(u32::MAX)),
            isa,
        }
    }
}

/// This node, as a runner in one of its threads sees it.
struct ThreadHost {
    outbox: mpsc::Sender<Outgoing>,
    profiler: Arc<Profiler>,
}

impl Host for ThreadHost {
    fn send(&self, outgoing: Outgoing) -> bool {
        self.outbox.blocking_send(outgoing).is_ok()
    }

    fn observe(&self, observed: Observed) {
        let Observed { n_bytes, n_macs, n_rows, took } = observed;
        self.profiler.observe(n_bytes, n_macs, n_rows, took);
    }

    fn at_work(&self, _n_taken: u64, _is_busy: bool) {}
}
