//! The task that carries out what a [`Supervisor`] says: between a runner's process and the node.

use std::{collections::VecDeque, time::Instant};

use shoal_engine::Model;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{debug, warn};

use super::{
    Arrived, INBOX_MAX, Observed, Outgoing, RunnerCommand, RunnerHandle, RunnerStatus, Spec,
    handle::LostStage,
    process::{Happening, Process},
    supervisor::{Order, Supervisor, TICK},
    wire::{Start, ToRunner},
};
use crate::Error;

/// Frames of a process that may wait for the router. As long as there are as many, the process is not listened to.
const OUT_MAX: usize = 64;

/// Starts the process of a runner, and a task that watches over it; waits until its shard is loaded.
pub(super) async fn start(
    spec: Spec,
    command: RunnerCommand,
    model: &Model,
) -> Result<RunnerHandle, Error> {
    let (inbox, inputs) = mpsc::channel(INBOX_MAX);
    let (loaded, loading) = oneshot::channel();
    let name = format!("the runner of layers {} on node {}", spec.stage.layers, spec.node.short());
    let instance = spec.instance.id;
    let supervisor = Supervisor::new(name, instance, spec.stage.route, Instant::now());
    let state = supervisor.state();
    let status = RunnerStatus { instance, pid: None, state, n_restarts: 0, why: None };
    let (status, watched) = watch::channel(status);
    let start = Start {
        model: spec.instance.model.name.clone(),
        fingerprint: spec.instance.model.fingerprint,
        paths: paths(model, &spec.instance.model.name),
        stage: spec.stage.clone(),
    };
    let tasks = spec.tasks.clone();
    let watcher = Watcher {
        spec,
        command,
        start,
        supervisor,
        process: None,
        outgoing: VecDeque::new(),
        loaded: Some(loaded),
        status,
    };
    tasks.spawn(watcher.run(inputs));
    match loading.await {
        Ok(result) => result.map(|()| RunnerHandle { inbox, status: watched }),
        Err(_) => Err(Error::StageFailed { message: "the node is ending".to_owned() }),
    }
}

/// The files of a model, as the system writes their paths; none for the demonstration model.
fn paths(model: &Model, name: &str) -> Vec<Vec<u8>> {
    use std::os::unix::ffi::OsStrExt as _;

    if name == shoal_hub::DEMO {
        return Vec::new();
    }
    model.gguf().paths().map(|path| path.as_os_str().as_bytes().to_vec()).collect()
}

struct Watcher {
    spec: Spec,
    command: RunnerCommand,
    start: Start,
    supervisor: Supervisor,
    process: Option<Process>,
    /// Frames that wait for the router.
    outgoing: VecDeque<Outgoing>,
    /// Who waits for the first load.
    loaded: Option<oneshot::Sender<Result<(), Error>>>,
    status: watch::Sender<RunnerStatus>,
}

/// Why a watcher ends.
enum End {
    /// Nobody has anything to say to the runner any more.
    Unused,
    GivenUp(String),
}

impl Watcher {
    async fn run(mut self, mut inputs: mpsc::Receiver<Arrived>) {
        let end = self.watch(&mut inputs).await;
        drop(inputs);
        self.publish();
        if let Some(process) = self.process.take() {
            process.end().await;
        }
        let End::GivenUp(message) = end else {
            return debug!(layers = %self.spec.stage.layers, "runner ends");
        };
        warn!(reason = message, "a runner is given up");
        for outgoing in self.outgoing.drain(..) {
            let _ = self.spec.outbox.send(outgoing).await;
        }
        match self.loaded.take() {
            Some(loaded) => drop(loaded.send(Err(Error::StageFailed { message }))),
            None => {
                let instance = self.spec.instance.id;
                let _ = self.spec.lost.send(LostStage { instance, message }).await;
            }
        }
    }

    async fn watch(&mut self, inputs: &mut mpsc::Receiver<Arrived>) -> End {
        let outbox = self.spec.outbox.clone();
        let mut ticks = tokio::time::interval(TICK);
        // A device that slept makes up for nothing.
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            if let Some(end) = self.carry_out().await {
                return end;
            }
            self.publish();
            let listens = self.outgoing.len() < OUT_MAX;
            let start_at = self.supervisor.start_at();
            tokio::select! {
                input = inputs.recv() => match input {
                    Some((_, input)) => self.supervisor.take(input),
                    None => return End::Unused,
                },
                permit = outbox.reserve(), if !self.outgoing.is_empty() => {
                    let Ok(permit) = permit else { return End::Unused };
                    if let Some(outgoing) = self.outgoing.pop_front() {
                        permit.send(outgoing);
                    }
                }
                happening = next(self.process.as_mut(), listens) => self.note(happening),
                () = until(start_at) => self.supervisor.start(),
                // A process that is not listened to cannot show that it lives.
                _ = ticks.tick() => {
                    if listens {
                        self.supervisor.tick();
                    }
                    if let Some(process) = &mut self.process {
                        process.look_at_memory();
                    }
                }
            }
        }
    }

    fn note(&mut self, happening: Happening) {
        match happening {
            Happening::Said(message) => self.supervisor.hear(message),
            Happening::Garbled(error) => self.supervisor.hear_garbage(&error),
            Happening::Ended(exit) => {
                self.process = None;
                self.supervisor.died(&exit, Instant::now());
                warn!(why = self.supervisor.why(), "a runner died");
            }
        }
    }

    /// Does what there is to do. Returns why the watcher ends, if it does.
    async fn carry_out(&mut self) -> Option<End> {
        while let Some(order) = self.supervisor.next_order() {
            match order {
                Order::Start => self.start_process().await,
                Order::Give(input) => {
                    if let Some(process) = &mut self.process {
                        process.give(&ToRunner::Input(input));
                    }
                }
                Order::Kill => {
                    if let Some(process) = &mut self.process {
                        process.kill();
                    }
                }
                Order::Send(outgoing) => self.outgoing.push_back(outgoing),
                Order::Observe(Observed { n_bytes, n_macs, n_rows, took }) => {
                    self.spec.profiler.observe(n_bytes, n_macs, n_rows, took);
                }
                Order::Loaded => {
                    if let Some(loaded) = self.loaded.take() {
                        let _ = loaded.send(Ok(()));
                    }
                }
                Order::GiveUp(why) => return Some(End::GivenUp(why)),
            }
        }
        None
    }

    async fn start_process(&mut self) {
        let name = format!("stage {}", self.spec.stage.layers);
        match Process::start(&self.command, &name).await {
            Ok(mut process) => {
                self.start.stage.route = self.supervisor.route();
                process.give(&ToRunner::Start(Box::new(self.start.clone())));
                self.process = Some(process);
            }
            Err(error) => {
                let program = self.command.program.display();
                self.supervisor.not_started(format!("{program}: {error}"), Instant::now());
            }
        }
    }

    /// Lets everybody see how the runner is doing.
    fn publish(&self) {
        let now = RunnerStatus {
            instance: self.spec.instance.id,
            pid: self.process.as_ref().map(Process::pid),
            state: self.supervisor.state(),
            n_restarts: self.supervisor.n_restarts(),
            why: self.supervisor.why().map(str::to_owned),
        };
        self.status.send_if_modified(|status| {
            let is_new = *status != now;
            *status = now;
            is_new
        });
    }
}

/// What a process does next; nothing as long as there is none.
async fn next(process: Option<&mut Process>, listens: bool) -> Happening {
    match process {
        Some(process) => process.next(listens).await,
        None => std::future::pending().await,
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
