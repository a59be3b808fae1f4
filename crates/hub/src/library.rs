//! The models of a node: what is on its disk, what is on its way, and what it gives to its peers.
//!
//! A [`Library`] is the one place through which a process gets models, so that however many ask for a file it is fetched
//! once. [`Library::obtain`] brings the parts of a model that somebody needs; each model has at most one *download*, a task
//! that fetches the headers first, so that what cannot run is refused before gigabytes arrive, and then whatever is wanted,
//! file after file.
//!
//! - `names`: from what a user typed to the files of a model
//! - `transfers`: downloads under way and their progress
//! - `serving`: what peers ask for

mod names;
mod serving;
mod transfers;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use shoal_gguf::Gguf;
use shoal_proto::{
    ChunkSet,
    model::{FileId, ModelFiles},
};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use names::{NameError, Resolved};
pub use serving::Serving;
pub use transfers::{DownloadState, DownloadStatus, Select, Selection};

use crate::{
    Catalogue, FileState, HubClient, ModelState, PartialError, RemoveReport, Store, StoreConfig,
    StoreError, StoredModel,
    client::{HubConfig, HubError},
    download::{DownloadError, DownloadTiming, OpenFile, limiter::Limiter},
    partial::{self, Partial},
    peers::{NoPeers, Peers},
};

/// How often a removal is tried again while the model's files are still in use, and the pause between.
const REMOVE_ATTEMPTS: u32 = 40;
const REMOVE_PAUSE: Duration = Duration::from_millis(50);

/// How a library is set up.
#[derive(Debug, Clone)]
pub struct LibraryConfig {
    /// Where models are kept.
    pub store: StoreConfig,
    /// Where they come from.
    pub hub: HubConfig,
    /// How downloads wait.
    pub timing: DownloadTiming,
    /// Bytes per second that all downloads take together; `None` for as many as come.
    pub bytes_per_s: Option<u64>,
    /// The directory of the user's own cards.
    pub cards: Option<PathBuf>,
}

/// Why a model is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum LibraryError {
    /// The hub.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// The disk.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A partial file.
    #[error(transparent)]
    Partial(#[from] PartialError),
    /// The download failed.
    #[error("model {name} could not be downloaded")]
    Download {
        /// The model.
        name: String,
        /// Why.
        source: Box<DownloadError>,
    },
    /// The model's header cannot be read.
    #[error("model {name}: its header cannot be read")]
    Header {
        /// The model.
        name: String,
        /// Why.
        source: shoal_gguf::Error,
    },
    /// The model is not what can be used here.
    #[error("model {name}: {message}")]
    Unusable {
        /// The model.
        name: String,
        /// Why.
        message: String,
    },
    /// What made a download fail that several wait for.
    #[error(transparent)]
    Shared(Arc<LibraryError>),
    /// The download was paused or cancelled.
    #[error("the download of {name} was {how}")]
    Stopped {
        /// The model.
        name: String,
        /// `paused` or `cancelled`.
        how: &'static str,
    },
    /// There is no download of that name.
    #[error("model {name}: nothing of it is being downloaded")]
    NoDownload {
        /// The name as it was given.
        name: String,
    },
}

impl LibraryError {
    /// The error itself, if it is shared by several who wait.
    pub fn root(&self) -> &Self {
        match self {
            Self::Shared(error) => error.root(),
            error => error,
        }
    }
}

/// The models of a node. Clones are handles to the same one.
#[derive(Debug, Clone)]
pub struct Library {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Store,
    client: HubClient,
    catalogue: Catalogue,
    timing: DownloadTiming,
    limiter: Limiter,
    peers: OnceLock<Arc<dyn Peers>>,
    /// Partial files that are open, by content. They stay open while the process lives, since peers may ask for them.
    open: Mutex<HashMap<FileId, Arc<OpenFile>>>,
    serving: serving::Whole,
    downloads: Mutex<HashMap<String, Arc<transfers::Download>>>,
    /// Ticks whenever the list of downloads or their progress changed.
    changed: watch::Sender<u64>,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

/// Runs something that waits for the disk.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("work on the disk does not panic")
}

/// Runs something that takes much memory for a short time on a thread of its own. The allocators of several systems keep what
/// a thread has freed for that thread; what one that has ended had is used again by the next.
async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, result) = tokio::sync::oneshot::channel();
    let run = move || {
        // Nobody waits any more for a download that was stopped.
        let _ = sender.send(work());
    };
    let thread = std::thread::Builder::new().name("header".to_owned()).spawn(run);
    thread.expect("a thread can be started");
    result.await.expect("looking at a header does not panic")
}

/// An error and what caused it, as one line.
fn text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What these mutexes guard is changed by single insertions and removals.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Library {
    /// Opens the library.
    ///
    /// # Errors
    /// If the models' directory cannot be used, or no client be made.
    pub fn open(config: LibraryConfig) -> Result<Self, LibraryError> {
        let (catalogue, errors) = Catalogue::load(config.cards.as_deref());
        for error in errors {
            // The other cards are as good as before.
            tracing::warn!(error = text(&error), "card is left out");
        }
        let inner = Inner {
            catalogue,
            store: Store::open(config.store)?,
            client: HubClient::new(config.hub)?,
            timing: config.timing,
            limiter: Limiter::new(config.bytes_per_s),
            peers: OnceLock::new(),
            open: Mutex::default(),
            serving: serving::Whole::default(),
            downloads: Mutex::default(),
            changed: watch::Sender::new(0),
            tasks: TaskTracker::new(),
            cancel: CancellationToken::new(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Introduces the cluster. Until then, and for good if nobody is introduced, everything comes from outside.
    ///
    /// # Panics
    /// If it is called twice.
    pub fn join(&self, peers: Arc<dyn Peers>) {
        assert!(self.inner.peers.set(peers).is_ok(), "a library joins one cluster");
    }

    /// The models on this device.
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// The hub's client.
    pub fn client(&self) -> &HubClient {
        &self.inner.client
    }

    /// The cluster, as far as files are concerned.
    pub fn peers(&self) -> Arc<dyn Peers> {
        self.inner.peers()
    }

    /// Changes how many bytes per second all downloads take together, those under way included; `None` for as many as come.
    pub fn set_bytes_per_s(&self, bytes_per_s: Option<u64>) {
        self.inner.limiter.set(bytes_per_s);
    }

    /// Ticks whenever a download's state or progress changes, several times a second while one runs.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changed.subscribe()
    }

    /// Opens the files of a model on this device as they are. Parts of them may be missing: read only what was obtained.
    /// Blocks.
    ///
    /// # Errors
    /// If a header is not there or cannot be read.
    pub fn open_model(&self, model: &StoredModel) -> Result<Gguf, LibraryError> {
        let paths: Vec<PathBuf> = model.files.iter().map(|file| data_path(&file.path)).collect();
        Gguf::open_files(&paths)
            .map_err(|source| LibraryError::Header { name: model.name.clone(), source })
    }

    /// The chunks that this device has of each file of a model, in the manifest's order; nothing for a file that nobody
    /// described. Reads journals, not data.
    pub fn chunks_of(&self, model: &StoredModel) -> Vec<ChunkSet> {
        let refs = model.manifest.iter().flat_map(|manifest| &manifest.files);
        let chunks = refs.map(|file| {
            let local = model.files.iter().find(|local| local.name == file.name);
            match local.map(|local| &local.state) {
                Some(FileState::Whole) => ChunkSet::all(file.id.n_chunks()),
                Some(FileState::Partial { .. }) => partial::journalled(&model.dir, file),
                None => ChunkSet::default(),
            }
        });
        chunks.collect()
    }

    /// Removes a model from this device, and ends its download.
    ///
    /// # Errors
    /// If there is no such model of the store's own, or the disk refuses.
    pub async fn remove(&self, name: &str) -> Result<RemoveReport, LibraryError> {
        let model = self.inner.find(name).await;
        let name = model.as_ref().map_or(name, |model| &model.name);
        let download = lock(&self.inner.downloads).remove(name);
        if let Some(download) = download {
            download.stop("cancelled").await;
        }
        if let Some(manifest) = model.as_ref().and_then(|model| model.manifest.as_ref()) {
            self.inner.close(manifest);
        }
        let removed = self.inner.remove_files(name).await;
        self.inner.notify();
        Ok(removed?)
    }

    /// Ends every download; what was fetched stays.
    pub async fn shutdown(&self) {
        self.inner.cancel.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }
}

impl Inner {
    fn peers(&self) -> Arc<dyn Peers> {
        self.peers.get().map_or_else(|| Arc::new(NoPeers) as Arc<dyn Peers>, Arc::clone)
    }

    fn notify(&self) {
        self.changed.send_modify(|version| *version = version.wrapping_add(1));
    }

    /// Lets go of the files of a model.
    fn close(&self, model: &ModelFiles) {
        let mut open = lock(&self.open);
        for file in &model.files {
            open.remove(&file.id);
            self.serving.forget(&file.id);
        }
    }

    /// Removes a model from the disk.
    async fn remove_files(&self, name: &str) -> Result<RemoveReport, StoreError> {
        let mut n_left = REMOVE_ATTEMPTS;
        loop {
            let (store, name) = (self.store.clone(), name.to_owned());
            match blocking(move || store.remove(&name)).await {
                // A write or a transfer to a peer that is just ending still has the file open.
                Err(StoreError::Busy { .. }) if n_left > 0 => {
                    n_left -= 1;
                    tokio::time::sleep(REMOVE_PAUSE).await;
                }
                removed => return removed,
            }
        }
    }

    async fn find(&self, name: &str) -> Option<StoredModel> {
        let (store, name) = (self.store.clone(), name.to_owned());
        blocking(move || store.find(&name)).await
    }

    /// The model of that name, if every file of it is whole on this device, wherever it lies.
    async fn whole(&self, name: &str) -> Option<StoredModel> {
        self.find(name).await.filter(|model| model.state == ModelState::Whole)
    }

    /// The open partial file of one file of a model; opens it if nobody has. Blocks.
    fn open_partial(
        &self,
        dir: &Path,
        file: &shoal_proto::model::FileRef,
    ) -> Result<Arc<OpenFile>, PartialError> {
        if let Some(file) = lock(&self.open).get(&file.id) {
            return Ok(Arc::clone(file));
        }
        // Opening may read gigabytes. Only the model's download opens its files, so nobody else is doing it meanwhile.
        let opened = Arc::new(OpenFile::new(file.name.clone(), Partial::open(dir, file)?));
        lock(&self.open).insert(file.id, Arc::clone(&opened));
        Ok(opened)
    }
}

/// Where a file's bytes lie: under its name, or, as long as it is partial, beside it.
fn data_path(path: &Path) -> PathBuf {
    if path.exists() {
        return path.to_owned();
    }
    let mut part = path.as_os_str().to_owned();
    part.push(".");
    part.push(crate::partial::PART);
    part.into()
}
