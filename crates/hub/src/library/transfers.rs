//! Downloads under way.

use std::{
    collections::VecDeque,
    fmt,
    fs::File,
    io::Read as _,
    ops::Range,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use shoal_gguf::{Directory, Gguf, MAX_DIRECTORY_BYTES};
use shoal_proto::{
    ChunkSet,
    model::{FileRef, ModelFiles},
};
use tokio::{
    sync::{Notify, watch},
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::{Inner, Library, LibraryError, data_path, lock, text};
use crate::{
    PartialError,
    download::{BadPeer, DownloadError, Fetch, OpenFile, Received},
};

/// First bytes of a file that are fetched to see its header; doubled until it is all there. Most headers are 2 to 10 MB,
/// nearly all of it vocabulary.
const HEADER_BYTES_FIRST: u64 = 2 << 20;
/// How often progress is sampled.
const SAMPLE: Duration = Duration::from_millis(250);
/// Samples that the rate is taken from: the last ten seconds.
const SAMPLES_MAX: usize = 40;

/// What is wanted of a model whose headers are there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// Everything.
    Whole,
    /// These bytes of each file, beside the headers.
    Ranges(Vec<Vec<Range<u64>>>),
}

/// Looks at a model's headers and says what is wanted of it, or why it is of no use.
pub type Select = Arc<dyn Fn(&Arc<Gguf>) -> Result<Selection, String> + Send + Sync>;

/// How a download stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DownloadState {
    /// Under way.
    Running,
    /// Stopped by the user, to be resumed.
    Paused,
    /// Ended before it was complete; what was fetched is kept.
    Failed {
        /// Why.
        message: String,
    },
    /// Everything that was wanted is there.
    Complete,
}

/// A download, for people.
#[derive(Debug, Clone, PartialEq)]
pub struct DownloadStatus {
    /// The model.
    pub model: String,
    /// How it stands.
    pub state: DownloadState,
    /// Bytes of what is wanted that are there.
    pub n_bytes: u64,
    /// Bytes that are wanted.
    pub n_total: u64,
    /// Bytes per second, over the last seconds.
    pub bytes_per_s: f64,
    /// Time until it is complete, if that goes on.
    pub remaining: Option<Duration>,
    /// Where the bytes came from since the process started.
    pub received: Received,
    /// Peers that served wrong bytes.
    pub bad_peers: Vec<BadPeer>,
}

/// The download of one model.
pub(super) struct Download {
    model: ModelFiles,
    /// What those who asked want, to be asked again when it is resumed.
    selects: Mutex<Vec<Select>>,
    state: watch::Sender<Phase>,
    files: Mutex<Vec<Arc<OpenFile>>>,
    samples: Mutex<VecDeque<(Instant, u64)>>,
    /// How many are looking at the headers to say what they want. The download does not end before they have.
    n_deciding: AtomicUsize,
    /// One of them has.
    decided: Notify,
    /// Whether something of it was here before, or somebody has found it of use.
    is_kept: AtomicBool,
    cancel: CancellationToken,
}

/// Keeps a download from ending while somebody decides what is wanted.
struct Deciding<'a>(&'a Download);

impl<'a> Deciding<'a> {
    /// `None` if the download has ended.
    fn begin(download: &'a Download) -> Option<Self> {
        let _files = lock(&download.files);
        download.is_live().then(|| {
            download.n_deciding.fetch_add(1, Ordering::Relaxed);
            Self(download)
        })
    }
}

impl Drop for Deciding<'_> {
    fn drop(&mut self) {
        self.0.n_deciding.fetch_sub(1, Ordering::Relaxed);
        self.0.decided.notify_one();
    }
}

#[derive(Debug, Clone)]
enum Phase {
    /// The headers are on their way.
    Headers,
    /// They are there, and so is whoever fetches the rest.
    Running,
    Stopped(&'static str),
    Failed(Arc<LibraryError>),
    Complete,
}

impl fmt::Debug for Download {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let phase = self.state.borrow();
        f.debug_struct("Download")
            .field("model", &self.model.name)
            .field("phase", &*phase)
            .finish_non_exhaustive()
    }
}

impl Library {
    /// Brings what `select` wants of a model to this device, and returns when it is there.
    ///
    /// # Errors
    /// If the model cannot be had or used, the disk is too small, or the download is stopped.
    pub async fn obtain(&self, model: &ModelFiles, select: Select) -> Result<(), LibraryError> {
        let inner = &self.inner;
        if inner.whole(&model.name).await.is_some() {
            return Ok(());
        }
        loop {
            let download = self.download_of(model);
            lock(&download.selects).push(Arc::clone(&select));
            let Some(deciding) = Deciding::begin(&download) else { continue };
            download.headers().await?;
            let selection = match self.select(&download, &select).await {
                Ok(selection) => selection,
                Err(error) => {
                    let error = download.fail(error).await;
                    // The headers of a model that is of no use are not left lying about.
                    if download.has_only_headers() {
                        download.let_go();
                        inner.close(model);
                        let _ = inner.remove_files(&model.name).await;
                    }
                    return Err(error);
                }
            };
            let wanted = download.chunks_of(&selection);
            let missing = wanted.iter().map(|(file, chunks)| file.missing_bytes(chunks)).sum();
            let store = inner.store.clone();
            if let Err(error) = super::blocking(move || store.check_space(missing)).await {
                return Err(download.fail(error.into()).await);
            }
            download.is_kept.store(true, Ordering::Relaxed);
            wanted.iter().for_each(|(file, chunks)| file.want(chunks));
            drop(deciding);
            return download.wait_for(&wanted, selection == Selection::Whole, inner).await;
        }
    }

    /// Starts to bring something to this device; how it goes is in [`downloads`](Self::downloads).
    pub fn start(&self, model: ModelFiles, select: Select) {
        let library = self.clone();
        self.inner.tasks.spawn(async move {
            // The download's status tells how it ended.
            let _ = library.obtain(&model, select).await;
        });
    }

    /// The downloads of this process, by model.
    pub fn downloads(&self) -> Vec<DownloadStatus> {
        let mut list: Vec<DownloadStatus> =
            lock(&self.inner.downloads).values().map(|download| download.status()).collect();
        list.sort_by(|a, b| a.model.cmp(&b.model));
        list
    }

    /// Stops a download, to be resumed.
    ///
    /// # Errors
    /// If none of that name is running.
    pub async fn pause(&self, name: &str) -> Result<(), LibraryError> {
        let download = self.running(name)?;
        download.stop("paused").await;
        self.inner.notify();
        // It may have been complete before it heard.
        let is_paused = download.has_stopped();
        is_paused.then_some(()).ok_or_else(|| LibraryError::NoDownload { name: name.to_owned() })
    }

    /// Goes on with a download that was paused or has failed.
    ///
    /// # Errors
    /// If none of that name was.
    pub fn resume(&self, name: &str) -> Result<(), LibraryError> {
        let download = lock(&self.inner.downloads).get(name).cloned();
        let download = download
            .filter(|download| download.has_stopped())
            .ok_or_else(|| LibraryError::NoDownload { name: name.to_owned() })?;
        for select in lock(&download.selects).drain(..) {
            self.start(download.model.clone(), select);
        }
        Ok(())
    }

    fn running(&self, name: &str) -> Result<Arc<Download>, LibraryError> {
        let download = lock(&self.inner.downloads).get(name).cloned();
        download
            .filter(|download| download.is_live())
            .ok_or_else(|| LibraryError::NoDownload { name: name.to_owned() })
    }

    /// The model's download; begins one if none is under way.
    fn download_of(&self, model: &ModelFiles) -> Arc<Download> {
        let mut downloads = lock(&self.inner.downloads);
        if let Some(download) = downloads.get(&model.name).filter(|download| download.is_live()) {
            return Arc::clone(download);
        }
        let download = Arc::new(Download {
            model: model.clone(),
            selects: Mutex::default(),
            state: watch::Sender::new(Phase::Headers),
            files: Mutex::default(),
            samples: Mutex::default(),
            n_deciding: AtomicUsize::new(0),
            decided: Notify::new(),
            is_kept: AtomicBool::new(false),
            cancel: self.inner.cancel.child_token(),
        });
        downloads.insert(model.name.clone(), Arc::clone(&download));
        drop(downloads);
        let (inner, driven) = (Arc::clone(&self.inner), Arc::clone(&download));
        self.inner.tasks.spawn(async move { driven.run(&inner).await });
        download
    }

    /// Looks at the headers that a download has fetched.
    async fn select(
        &self,
        download: &Download,
        select: &Select,
    ) -> Result<Selection, LibraryError> {
        let dir = self.inner.store.dir_of(&download.model.name);
        let (model, select) = (download.model.clone(), Arc::clone(select));
        super::apart(move || {
            let files = model.files.iter();
            let paths: Vec<_> = files.map(|file| data_path(&dir.join(&file.name))).collect();
            let gguf = Gguf::open_files(&paths)
                .map_err(|source| LibraryError::Header { name: model.name.clone(), source })?;
            select(&Arc::new(gguf)).map_err(|message| unusable(&model.name, message))
        })
        .await
    }
}

fn unusable(name: &str, message: String) -> LibraryError {
    LibraryError::Unusable { name: name.to_owned(), message }
}

impl Download {
    fn is_live(&self) -> bool {
        matches!(*self.state.borrow(), Phase::Headers | Phase::Running)
    }

    fn has_stopped(&self) -> bool {
        matches!(*self.state.borrow(), Phase::Stopped(_) | Phase::Failed(_))
    }

    /// Ends the download and waits until nothing of it runs any more.
    pub(super) async fn stop(&self, how: &'static str) {
        self.cancel.cancel();
        let mut state = self.state.subscribe();
        // The task ends at once; if it is gone already, so is the sender's last word.
        let _ = state.wait_for(|phase| !matches!(phase, Phase::Headers | Phase::Running)).await;
        self.state.send_if_modified(|phase| match phase {
            Phase::Stopped(said) => {
                *said = how;
                true
            }
            _ => false,
        });
    }

    /// Waits until the headers are there.
    async fn headers(&self) -> Result<(), LibraryError> {
        let mut state = self.state.subscribe();
        let phase = state.wait_for(|phase| !matches!(phase, Phase::Headers)).await;
        let phase = phase.expect("the sender is in self").clone();
        match phase {
            Phase::Headers | Phase::Running | Phase::Complete => Ok(()),
            phase => Err(self.ended(&phase)),
        }
    }

    fn ended(&self, phase: &Phase) -> LibraryError {
        match phase {
            Phase::Failed(error) => LibraryError::Shared(Arc::clone(error)),
            Phase::Stopped(how) => LibraryError::Stopped { name: self.model.name.clone(), how },
            _ => LibraryError::Stopped { name: self.model.name.clone(), how: "ended" },
        }
    }

    /// Ends the download with an error that is not its own, and returns it.
    async fn fail(&self, error: LibraryError) -> LibraryError {
        let error = Arc::new(error);
        self.stop("ended").await;
        self.state.send_replace(Phase::Failed(Arc::clone(&error)));
        LibraryError::Shared(error)
    }

    /// Whether nothing is there but what this download fetched to look at it.
    fn has_only_headers(&self) -> bool {
        let files = lock(&self.files);
        files.len() == self.model.files.len() && !self.is_kept.load(Ordering::Relaxed)
    }

    /// Drops the files, so that they can be removed.
    fn let_go(&self) {
        lock(&self.files).clear();
    }

    /// The chunks of each file that a selection is about.
    fn chunks_of(&self, selection: &Selection) -> Vec<(Arc<OpenFile>, ChunkSet)> {
        let files = lock(&self.files);
        let of_file = |file: &Arc<OpenFile>| {
            let id = file.id();
            let chunks = match selection {
                Selection::Whole => ChunkSet::all(id.n_chunks()),
                Selection::Ranges(ranges) => {
                    let no = self.model.files.iter().position(|known| known.id == id);
                    let ranges = no.and_then(|no| ranges.get(no)).map_or(&[][..], Vec::as_slice);
                    ranges.iter().flat_map(|range| id.chunks_of(range.clone())).collect()
                }
            };
            (Arc::clone(file), chunks)
        };
        files.iter().map(of_file).collect()
    }

    /// Waits until these chunks are there and, if they are everything, all is checked.
    async fn wait_for(
        &self,
        wanted: &[(Arc<OpenFile>, ChunkSet)],
        is_whole: bool,
        inner: &Inner,
    ) -> Result<(), LibraryError> {
        let mut changes = inner.changed.subscribe();
        loop {
            let phase = self.state.borrow().clone();
            let is_there = |(file, chunks): &(Arc<OpenFile>, ChunkSet)| {
                let mut missing = chunks.clone();
                missing.subtract(&file.partial.held());
                missing.is_empty()
            };
            match &phase {
                Phase::Complete => return Ok(()),
                Phase::Failed(_) | Phase::Stopped(_) => return Err(self.ended(&phase)),
                _ if !is_whole && wanted.iter().all(is_there) => return Ok(()),
                _ => {}
            }
            if changes.changed().await.is_err() {
                return Err(self.ended(&Phase::Stopped("ended")));
            }
        }
    }

    /// Runs the download to its end.
    async fn run(&self, inner: &Arc<Inner>) {
        let sampling = async {
            loop {
                time::sleep(SAMPLE).await;
                self.sample();
                inner.notify();
            }
        };
        let ended = tokio::select! {
            biased;
            () = self.cancel.cancelled() => Some(Phase::Stopped("ended")),
            result = self.fetch(inner) => result.err().map(|error| Phase::Failed(Arc::new(error))),
            () = sampling => unreachable!("sampling never ends"),
        };
        if let Some(phase) = ended {
            let _files = lock(&self.files);
            self.state.send_replace(phase);
        }
        self.sample();
        inner.notify();
    }

    async fn fetch(&self, inner: &Arc<Inner>) -> Result<(), LibraryError> {
        let (store, model) = (inner.store.clone(), self.model.clone());
        let dir = super::blocking(move || store.create(&model)).await?;
        for file in &self.model.files {
            if dir.join(&file.name).exists() {
                continue;
            }
            let (opener, there, known) = (Arc::clone(inner), dir.clone(), file.clone());
            let open = super::blocking(move || opener.open_partial(&there, &known)).await?;
            if !open.partial.held().is_empty() {
                self.is_kept.store(true, Ordering::Relaxed);
            }
            lock(&self.files).push(Arc::clone(&open));
            self.fetch_header(&open, file, inner).await?;
        }
        self.state.send_replace(Phase::Running);
        inner.notify();
        loop {
            let files = lock(&self.files).clone();
            for open in files.iter().filter(|file| file.needs_work()) {
                let known = self.model.files.iter().find(|file| file.id == open.id());
                let known = known.expect("opened from this list");
                self.fetch_file(open, known, inner).await?;
                if open.is_whole() {
                    self.finish(open, known, &dir, inner).await?;
                }
                inner.notify();
            }
            if self.is_complete() {
                return Ok(());
            }
            // Somebody is about to want more.
            self.decided.notified().await;
        }
    }

    /// Fetches the beginning of a file until its header is all there.
    async fn fetch_header(
        &self,
        open: &Arc<OpenFile>,
        file: &FileRef,
        inner: &Arc<Inner>,
    ) -> Result<(), LibraryError> {
        let mut n_bytes = HEADER_BYTES_FIRST;
        loop {
            open.want(&file.id.chunks_of(0..n_bytes).collect());
            if !open.missing().is_empty() {
                self.fetch_file(open, file, inner).await?;
            }
            let (path, file_len) = (open.partial.data_path().to_owned(), file.id.n_bytes);
            let there = n_bytes.min(file_len);
            match super::apart(move || check_header(&path, there, file_len)).await? {
                Ok(()) => return Ok(()),
                Err(shoal_gguf::Error::NeedMore { .. })
                    if n_bytes < file_len.min(MAX_DIRECTORY_BYTES) =>
                {
                    n_bytes *= 2;
                }
                // Nonsense that came from peers may be their fault; from the server it is the model's.
                Err(_) if file.origin.is_some() && open.distrust_peers()? => {}
                Err(source) => {
                    return Err(LibraryError::Header { name: self.model.name.clone(), source });
                }
            }
        }
    }

    async fn fetch_file(
        &self,
        open: &Arc<OpenFile>,
        file: &FileRef,
        inner: &Arc<Inner>,
    ) -> Result<(), LibraryError> {
        let fetch = Fetch::new(
            Arc::clone(open),
            file.origin.as_ref(),
            &inner.client,
            inner.peers(),
            inner.timing,
            inner.limiter.clone(),
        );
        let failed = |source: DownloadError| LibraryError::Download {
            name: self.model.name.clone(),
            source: Box::new(source),
        };
        fetch.run().await.map_err(failed)
    }

    /// Gives a file that is all there its name.
    async fn finish(
        &self,
        open: &Arc<OpenFile>,
        file: &FileRef,
        dir: &Path,
        inner: &Arc<Inner>,
    ) -> Result<(), LibraryError> {
        let (store, model) = (inner.store.clone(), self.model.clone());
        let (open_file, known) = (Arc::clone(open), file.clone());
        super::blocking(move || {
            let hashes = open_file.partial.hashes().expect("every chunk is held");
            store.finish_file(&model, &known, &hashes, open_file.is_verified())
        })
        .await?;
        open.finished();
        lock(&inner.open).remove(&file.id);
        info!(model = self.model.name, path = %dir.join(&file.name).display(), "file is whole");
        Ok(())
    }

    /// Ends the download if nothing is left to do. Whoever is about to want more has taken this lock before.
    fn is_complete(&self) -> bool {
        let files = lock(&self.files);
        let is_complete = self.n_deciding.load(Ordering::Relaxed) == 0
            && !files.iter().any(|file| file.needs_work());
        if is_complete {
            self.state.send_replace(Phase::Complete);
        }
        is_complete
    }

    fn sample(&self) {
        let n_bytes = lock(&self.files).iter().map(|file| file.progress().0).sum();
        let mut samples = lock(&self.samples);
        samples.push_back((Instant::now(), n_bytes));
        if samples.len() > SAMPLES_MAX {
            samples.pop_front();
        }
    }

    fn status(&self) -> DownloadStatus {
        let (mut n_bytes, mut n_total) = (0, 0);
        let mut received = Received::default();
        let mut bad_peers = Vec::new();
        for file in lock(&self.files).iter() {
            let (there, wanted) = file.progress();
            n_bytes += there;
            n_total += wanted;
            received.from_hub += file.received().from_hub;
            received.from_peers += file.received().from_peers;
            bad_peers.extend(file.bad_peers());
        }
        // As long as nobody knows what will be wanted it may be everything.
        if matches!(*self.state.borrow(), Phase::Headers) {
            n_total = self.model.n_bytes();
        }
        let state = match &*self.state.borrow() {
            Phase::Headers | Phase::Running => DownloadState::Running,
            Phase::Stopped(_) => DownloadState::Paused,
            Phase::Failed(error) => DownloadState::Failed { message: text(&**error) },
            Phase::Complete => DownloadState::Complete,
        };
        let bytes_per_s = match state {
            DownloadState::Running => self.bytes_per_s(),
            _ => 0.0,
        };
        let left = (n_total - n_bytes) as f64;
        let remaining = (bytes_per_s > 0.0).then(|| Duration::from_secs_f64(left / bytes_per_s));
        let model = self.model.name.clone();
        DownloadStatus {
            model,
            state,
            n_bytes,
            n_total,
            bytes_per_s,
            remaining,
            received,
            bad_peers,
        }
    }

    fn bytes_per_s(&self) -> f64 {
        let samples = lock(&self.samples);
        let (Some((start, before)), Some((end, after))) = (samples.front(), samples.back()) else {
            return 0.0;
        };
        let seconds = end.duration_since(*start).as_secs_f64();
        if seconds > 0.0 { after.saturating_sub(*before) as f64 / seconds } else { 0.0 }
    }
}

/// Whether the header and directory of a file are all there, and make sense. Parsed only once it is complete: the vocabulary of
/// a model takes tens of megabytes.
fn check_header(
    path: &Path,
    there: u64,
    file_len: u64,
) -> Result<Result<(), shoal_gguf::Error>, LibraryError> {
    let read = || {
        let mut bytes = Vec::new();
        File::open(path)?.take(there).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().map_err(|source| PartialError::Io { path: path.to_owned(), source })?;
    Ok(Directory::check_length(&bytes, file_len)
        .and_then(|()| Directory::parse(&bytes, file_len).map(drop)))
}
