//! Bringing the parts of a model to the nodes that will run it, before they load their stages.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use shoal_hub::{Library, LibraryError};
use shoal_proto::{
    LayerRange, NodeId,
    control::{InstanceRecord, Request, Response},
    model::ModelFiles,
};
use tokio::time::{self, Instant};
use tracing::debug;

use crate::{Error, Node, models, node::Inner};

/// How often a peer is asked whether it has what it needs.
const POLL: Duration = Duration::from_millis(250);
/// Longest wait for one answer of a peer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest time in which a peer may get nothing at all: above what a download takes to give up by itself is of no use, and a
/// walk from one WiFi to another should be survived.
const STANDSTILL_MAX: Duration = Duration::from_secs(300);

/// How often peers are told how far a placement is.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);
/// How long a result waits for the peer that asked: some of its polls.
const RESULT_KEPT: Duration = Duration::from_secs(10);

/// What peers have asked this node to get: the last word about each.
#[derive(Debug, Clone, Default)]
pub(crate) struct Obtaining {
    jobs: Arc<Mutex<Jobs>>,
}

/// By model and layers; no layers for the header alone.
type Jobs = HashMap<(String, Option<LayerRange>), Job>;

#[derive(Debug, Clone)]
enum Job {
    Running,
    /// How it ended, and when.
    Done(Result<(), String>, Instant),
}

impl Obtaining {
    fn lock(&self) -> MutexGuard<'_, Jobs> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the peers of a placement have of their shares, and need, in bytes.
#[derive(Debug, Default)]
struct Shares(Mutex<HashMap<NodeId, (u64, u64)>>);

impl Shares {
    fn lock(&self) -> MutexGuard<'_, HashMap<NodeId, (u64, u64)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Answers a peer that wants this node to have its share of a model; the first such request starts the download.
    pub(crate) fn answer_obtain(&self, model: ModelFiles, layers: Option<LayerRange>) -> Response {
        let Some(library) = self.library().cloned() else {
            return Response::Refused { message: "this node keeps no models".into() };
        };
        if let Err(message) = model.check() {
            return Response::Refused { message };
        }
        let key = (model.name.clone(), layers);
        let mut jobs = self.obtaining().lock();
        match jobs.get(&key) {
            Some(Job::Done(result, at)) if at.elapsed() < RESULT_KEPT => {
                let result = result.clone();
                jobs.remove(&key);
                match result {
                    Ok(()) => Response::Ok,
                    Err(message) => Response::Refused { message },
                }
            }
            Some(Job::Running) => progress(&library, &model.name),
            // An older result was for somebody who went away.
            Some(Job::Done(..)) | None => {
                jobs.insert(key.clone(), Job::Running);
                drop(jobs);
                let obtaining = self.obtaining().clone();
                let n_total = model.n_bytes();
                self.spawn(async move {
                    let select = layers.map_or_else(models::headers, models::stage);
                    let obtained = library.obtain(&model, select).await;
                    let result = obtained.map_err(|error| crate::error::chain(&error));
                    obtaining.lock().insert(key, Job::Done(result, Instant::now()));
                });
                Response::Obtaining { n_bytes: 0, n_total }
            }
        }
    }

    /// Answers a peer's question about the files of this node.
    pub(crate) async fn answer_about_files(&self, peer: NodeId, request: Request) -> Response {
        let Some(library) = self.library() else {
            return Response::Refused { message: "this node keeps no models".into() };
        };
        match request {
            Request::FindModel { name } => Response::Model(library.find_files(&name).await),
            Request::Holding { file, own } => {
                Response::Holding(library.exchange(peer, file, own).await)
            }
            Request::Hashes { file, first, count } => {
                match library.hashes(file, first, count).await {
                    Some(hashes) => Response::Hashes(hashes),
                    None => Response::Refused { message: "some of these are not here".into() },
                }
            }
            other => Response::Refused { message: format!("not about files: {other:?}") },
        }
    }
}

fn progress(library: &Library, model: &str) -> Response {
    let downloads = library.downloads();
    let download = downloads.iter().find(|download| download.model == model);
    let (n_bytes, n_total) = download.map_or((0, 0), |it| (it.n_bytes, it.n_total));
    Response::Obtaining { n_bytes, n_total }
}

impl Node {
    /// Sees that every node of a placement has what its stage needs, and tells all peers how far they are. Returns when all
    /// have it.
    pub(crate) async fn obtain_everywhere(&self, record: &InstanceRecord) -> Result<(), Error> {
        let Some(files) = &record.model.files else { return Ok(()) };
        let shares = Shares::default();
        let obtain = record.placement.stages.iter().map(|stage| async {
            if stage.node == self.id() {
                self.obtain_here(record, files, stage.layers).await
            } else {
                self.obtain_at(stage.node, files, stage.layers, &shares).await
            }
        });
        let obtained = futures_util::future::try_join_all(obtain);
        tokio::select! {
            obtained = obtained => obtained.map(drop),
            () = self.tell_progress(record, &files.name, &shares) => unreachable!("it has no end"),
        }
    }

    async fn obtain_here(
        &self,
        record: &InstanceRecord,
        files: &ModelFiles,
        layers: LayerRange,
    ) -> Result<(), Error> {
        // What came from a path of this device needs no library.
        let library = self.inner().library().filter(|_| record.model.name == files.name);
        let Some(library) = library else { return Ok(()) };
        // Whoever runs all of a model keeps all of it, checked as a whole.
        let is_alone = record.placement.stages.len() == 1;
        let select = if is_alone { models::whole() } else { models::stage(layers) };
        Ok(library.obtain(files, select).await?)
    }

    /// Tells every peer, again and again, how much of what the placement needs is there.
    async fn tell_progress(&self, record: &InstanceRecord, model: &str, shares: &Shares) {
        let (instance, epoch) = (record.id, record.epoch);
        loop {
            time::sleep(PROGRESS_INTERVAL).await;
            let own = self.inner().library().map(Library::downloads).unwrap_or_default();
            let own = own.iter().find(|download| download.model == model);
            let own = own.map_or((0, 0), |it| (it.n_bytes, it.n_total));
            let sum = |a: (u64, u64), b: &(u64, u64)| (a.0 + b.0, a.1 + b.1);
            let (n_bytes, n_total) = shares.lock().values().fold(own, sum);
            self.inner().instances.set_progress(instance, epoch, n_bytes, n_total);
            let request = Request::Progress { instance, epoch, n_bytes, n_total };
            self.inner().peers().tell_all(&request).await;
        }
    }

    /// Has a peer get its share, however long it takes as long as something arrives.
    async fn obtain_at(
        &self,
        node: NodeId,
        model: &ModelFiles,
        layers: LayerRange,
        shares: &Shares,
    ) -> Result<(), Error> {
        let request = Request::Obtain { model: model.clone(), layers: Some(layers) };
        let mut best = (0, Instant::now());
        loop {
            match self.inner().peers().ask(node, &request, ANSWER_TIMEOUT).await? {
                Response::Ok => return Ok(()),
                Response::Obtaining { n_bytes, n_total } => {
                    debug!(node = %node.short(), n_bytes, n_total, "node is getting its share");
                    shares.lock().insert(node, (n_bytes, n_total));
                    if n_bytes > best.0 {
                        best = (n_bytes, Instant::now());
                    }
                    if best.1.elapsed() > STANDSTILL_MAX {
                        let message =
                            format!("nothing of the model arrived there for {STANDSTILL_MAX:?}");
                        return Err(Error::LoadRefused { node, message });
                    }
                }
                Response::Refused { message } => return Err(Error::LoadRefused { node, message }),
                other => {
                    let message = format!("an answer that does not fit: {other:?}");
                    return Err(Error::LoadRefused { node, message });
                }
            }
            time::sleep(POLL).await;
        }
    }

    /// The files of a model that lies under a path of this device, so that other nodes can get them from here. `None` if this
    /// process keeps no models and so gives none.
    pub(crate) async fn identify(&self, path: &str) -> Result<Option<ModelFiles>, Error> {
        let Some(library) = self.inner().library() else { return Ok(None) };
        let identified: Result<ModelFiles, LibraryError> = library.identify(path.as_ref()).await;
        Ok(Some(identified?))
    }
}
