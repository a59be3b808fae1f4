//! The models on this device's disk.
//!
//! ```text
//! <models>/
//!   Qwen--Qwen2.5-0.5B-Instruct-GGUF--Q4_K_M/   one directory for each model, named by `slug`
//!     shoal.json                                 the manifest: which files, and what identifies them
//!     qwen2.5-0.5b-instruct-q4_k_m.gguf          a file that is whole
//!     qwen2.5-0.5b-instruct-q4_k_m.gguf.chunks   BLAKE3 of its chunks, for other nodes
//!     other.gguf.part, other.gguf.journal        a file that is not: see `partial`
//!   my-own/anything.gguf                         copied by hand: a model named `my-own`
//!   anything.gguf                                copied by hand: a model named `anything`
//!   .index/                                      chunk hashes of files that the store did not write
//! ```
//!
//! A directory without partial files is a model, with or without a manifest, so that copying it is all that it takes to
//! bring a model to another device. Models that the caches of Hugging Face's and Ollama's programs hold are listed too, and
//! used where they lie; nothing is ever written there.
//!
//! Invariants: a file under its own name is whole. A crash at any moment leaves a state that `list` understands, and from which
//! the interrupted work can be done again. What is damaged is listed with what is wrong, never hidden. Nothing that a manifest,
//! a directory or another program's file says leads out of the directory it speaks of.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use shoal_proto::model::{Digest, FileId, FileRef, ModelFiles};

mod caches;
mod error;
mod group;
mod hashes;
mod import;
mod layout;
mod manifest;
mod model;
mod own;
mod space;
mod verify;

pub use error::StoreError;
pub use hashes::ChunkHashes;
pub use import::{ImportWay, Imported};
pub(crate) use layout::slug;
pub use model::{FileState, LocalFile, ModelState, Place, StoreConfig, StoredModel};
pub use space::Space;
pub use verify::{FileReport, Verdict, VerifyReport};

use hashes::Index;
use layout::{DirLock, MANIFEST, UNFINISHED};
use manifest::Manifest;
use space::Measure;

/// Directory of what is known about files that the store did not write.
const INDEX: &str = ".index";

impl StoreConfig {
    /// A store that looks at no other program's models.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), hf_cache: None, ollama: None }
    }
}

/// The models on this device. Cheap to clone; every method may take as long as the disk does.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: StoreConfig,
    index: Index,
    measure: Measure,
    /// Held while this process changes a model's directory; against other processes there is [`DirLock`].
    changes: Mutex<()>,
}

/// What was removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoveReport {
    /// The model's name.
    pub name: String,
    /// Bytes that are free now. Files that have another name elsewhere free nothing.
    pub n_bytes: u64,
    /// Files of the directory that belong to nobody that the store knows; they were left alone.
    pub left: Vec<PathBuf>,
}

impl Store {
    /// Opens the store, and creates its directory.
    ///
    /// # Errors
    /// If the directory cannot be created.
    pub fn open(config: StoreConfig) -> Result<Self, StoreError> {
        Self::open_with(config, Measure::default())
    }

    fn open_with(mut config: StoreConfig, measure: Measure) -> Result<Self, StoreError> {
        fs::create_dir_all(&config.dir).map_err(StoreError::at(&config.dir))?;
        // Paths are keys of the index, and are given to other processes.
        config.dir = config.dir.canonicalize().map_err(StoreError::at(&config.dir))?;
        let index = Index { dir: config.dir.join(INDEX) };
        remove_unfinished_imports(&config.dir);
        let inner = Inner { config, index, measure, changes: Mutex::default() };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The store's own directory.
    pub fn dir(&self) -> &Path {
        &self.inner.config.dir
    }

    /// Every model: the store's own by name, then those of the caches.
    pub fn list(&self) -> Vec<StoredModel> {
        let Inner { config, index, .. } = &*self.inner;
        let mut models = own::list(&config.dir, index);
        models.extend(caches::list(config, index));
        models
    }

    /// The model of that name; upper and lower case are one unless that would name two models. The store's own comes before
    /// those of the caches.
    pub fn find(&self, name: &str) -> Option<StoredModel> {
        let mut models = self.list();
        if let Some(at) = models.iter().position(|model| model.name == name) {
            return Some(models.swap_remove(at));
        }
        models.retain(|model| model.name.eq_ignore_ascii_case(name));
        let is_one = models.iter().all(|model| model.name == models[0].name);
        models.into_iter().next().filter(|_| is_one)
    }

    /// A whole file of this content, wherever it lies.
    pub fn find_file(&self, id: &FileId) -> Option<LocalFile> {
        let files = self.list().into_iter().flat_map(|model| model.files);
        files.into_iter().find(|file| file.id == Some(*id) && file.state == FileState::Whole)
    }

    /// Makes the model's directory with its manifest, ready for a download, and returns it. One that is there already is left
    /// as it is.
    ///
    /// # Errors
    /// If it is there with other files ([`StoreError::OtherVersion`]), or the description is none that a model can have.
    pub fn create(&self, model: &ModelFiles) -> Result<PathBuf, StoreError> {
        let invalid = |what| StoreError::Invalid { name: model.name.clone(), what };
        manifest::check_model(model).map_err(invalid)?;
        let dir = self.dir_of(&model.name);
        let _changes = self.changes();
        fs::create_dir_all(&dir).map_err(StoreError::at(&dir))?;
        let _lock = DirLock::take(&dir, &model.name)?;
        let other = || StoreError::OtherVersion { name: model.name.clone(), dir: dir.clone() };
        if let Some(there) = Manifest::read(&dir)? {
            return if is_same(&there.model, model) { Ok(dir) } else { Err(other()) };
        }
        // Somebody's own files under the same name are nobody's to overwrite. Of the same content they are welcome.
        for file in &model.files {
            let path = dir.join(&file.name);
            if path.exists() && hashes::hash_file(&path, &mut |_| {})?.id() != file.id {
                return Err(other());
            }
        }
        remove_unfinished(&dir);
        Manifest::new(model.clone()).write(&dir)?;
        layout::sync_dir(self.dir())?;
        Ok(dir)
    }

    /// Declares a file whole, once all of `NAME.part` is written and flushed: it gets its own name.
    ///
    /// - `hashes`: BLAKE3 of each chunk
    /// - `checked`: whether the content was compared with the SHA-256 of `file.id`
    ///
    /// After a crash on the way the file is either partial, with nothing missing, or whole: doing this again completes it.
    ///
    /// # Errors
    /// If the file is not there with its full length, or the disk does not take the change.
    pub fn finish_file(
        &self,
        model: &ModelFiles,
        file: &FileRef,
        hashes: &[[u8; 32]],
        checked: bool,
    ) -> Result<(), StoreError> {
        let dir = self.dir_of(&model.name);
        let path = dir.join(&file.name);
        let [whole, part, journal, _] = own::companions(&path);
        let _changes = self.changes();
        let _lock = DirLock::take(&dir, &model.name)?;
        let mut manifest = Manifest::read(&dir)?
            .filter(|manifest| {
                manifest
                    .model
                    .files
                    .iter()
                    .any(|known| known.name == file.name && known.id == file.id)
            })
            .ok_or_else(|| StoreError::OtherVersion {
                name: model.name.clone(),
                dir: dir.clone(),
            })?;
        if hashes.len() as u64 != u64::from(file.id.n_chunks()) {
            let what = format!("expected {} hashes, got {}", file.id.n_chunks(), hashes.len());
            return Err(StoreError::damaged(path, what));
        }
        let source = if part.exists() { &part } else { &whole };
        let there = fs::metadata(source).map_err(StoreError::at(source))?;
        if there.len() != file.id.n_bytes {
            let what = format!("expected {} bytes, got {}", file.id.n_bytes, there.len());
            return Err(StoreError::damaged(source, what));
        }
        // What is said of the file comes first: it harms nobody while the file is still partial.
        let list = ChunkHashes { id: file.id, hashes: hashes.to_vec() };
        hashes::write_beside(&whole, &list)?;
        manifest.checked.remove(&file.name);
        if checked {
            manifest.checked.insert(file.name.clone(), now());
        }
        manifest.write(&dir)?;
        if *source == part {
            fs::rename(&part, &whole).map_err(StoreError::at(&part))?;
            layout::sync_dir(&dir)?;
        }
        layout::remove_file(&journal)?;
        Ok(())
    }

    /// Removes a model of the store's own from the disk.
    ///
    /// # Errors
    /// If there is none, it is a cache's, a download of it is running, or the disk refuses.
    pub fn remove(&self, name: &str) -> Result<RemoveReport, StoreError> {
        let model = self.find(name).ok_or_else(|| StoreError::Unknown { name: name.to_owned() })?;
        if let Some(owner) = model.place.owner() {
            return Err(StoreError::Foreign { name: model.name, owner });
        }
        let _changes = self.changes();
        let mut report = RemoveReport { name: model.name.clone(), n_bytes: 0, left: Vec::new() };
        if fs::symlink_metadata(&model.dir).is_ok_and(|there| there.is_symlink()) {
            // The model lies elsewhere, and whoever put the link here only wanted it to be found.
            layout::remove_file(&model.dir)?;
        } else if model.dir == self.dir() {
            remove_files(&model, &mut report)?;
        } else {
            let _lock = DirLock::take(&model.dir, &model.name)?;
            for file in &model.files {
                refuse_open_part(&own::companions(&file.path)[1], &model.name)?;
            }
            remove_files(&model, &mut report)?;
            self.remove_dir(&model, &mut report)?;
        }
        for file in &model.files {
            self.inner.index.forget(&file.path)?;
        }
        layout::sync_dir(self.dir())?;
        Ok(report)
    }

    /// The hashes of a whole file's chunks. Those of a file that the store did not write are computed by reading all of it,
    /// once.
    ///
    /// # Errors
    /// If the file cannot be read, or is not what its identity says.
    pub fn hashes(&self, file: &LocalFile) -> Result<ChunkHashes, StoreError> {
        let metadata = fs::metadata(&file.path).map_err(StoreError::at(&file.path))?;
        let is_wanted = |hashes: &ChunkHashes| file.id.is_none_or(|id| id == hashes.id);
        if file.place == Place::Own
            && let Some(id) = &file.id
        {
            match hashes::read_beside(&file.path, id) {
                Ok(Some(hashes)) if id.n_bytes == metadata.len() => return Ok(hashes),
                Ok(_) => {}
                // It is only a copy of what the file says itself.
                Err(error) => tracing::warn!(%error, "list of chunks is computed anew"),
            }
        }
        if let Some(hashes) = self.inner.index.get(&file.path, &metadata).filter(is_wanted) {
            return Ok(hashes);
        }
        let read = hashes::hash_file(&file.path, &mut |_| {})?;
        let id = match file.id {
            // There is nothing to compare it with.
            Some(id @ FileId { digest: Digest::Origin(_), n_bytes }) if n_bytes == read.n_bytes => {
                id
            }
            _ => read.id(),
        };
        let hashes = ChunkHashes { id, hashes: read.chunks };
        if !is_wanted(&hashes) {
            let expected = file.id.map(|id| id.digest.to_string()).unwrap_or_default();
            let what = format!("expected {expected}, got {}", hashes.id.digest);
            return Err(StoreError::damaged(&file.path, what));
        }
        if let Err(error) = self.inner.index.put(&file.path, &metadata, &hashes) {
            tracing::warn!(%error, "hashes are not kept");
        }
        Ok(hashes)
    }

    /// How much of the disk models may still take.
    ///
    /// # Errors
    /// If the file system does not answer.
    pub fn space(&self) -> Result<Space, StoreError> {
        (self.inner.measure.0)(self.dir()).map_err(StoreError::at(self.dir()))
    }

    /// Checks that so many bytes can be written without filling the disk.
    ///
    /// # Errors
    /// If they cannot: [`StoreError::Full`].
    pub fn check_space(&self, needed: u64) -> Result<(), StoreError> {
        let space = self.space()?;
        let (free, reserve) = (space.free(), space.reserve());
        if needed <= free {
            return Ok(());
        }
        Err(StoreError::Full { needed, free, reserve, dir: self.dir().to_owned() })
    }

    /// Where the model of that name is, or would be.
    pub(crate) fn dir_of(&self, name: &str) -> PathBuf {
        let dir = self.dir().join(slug(name));
        let is_its = |dir: &Path| matches!(Manifest::read(dir), Ok(Some(manifest)) if manifest.model.name == name);
        if is_its(&dir) {
            return dir;
        }
        // Somebody may have renamed the directory.
        let dirs = own::entries(self.dir()).into_iter().filter(|(_, _, there)| there.is_dir());
        dirs.map(|(_, path, _)| path).find(|path| is_its(path)).unwrap_or(dir)
    }

    fn changes(&self) -> MutexGuard<'_, ()> {
        // It guards nothing that a panic could leave in disorder: the disk is in order at every moment.
        self.inner.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remove_dir(&self, model: &StoredModel, report: &mut RemoveReport) -> Result<(), StoreError> {
        debug_assert_ne!(model.dir, self.dir());
        remove_unfinished(&model.dir);
        let others = own::entries(&model.dir);
        if others.iter().any(|(name, ..)| group::is_model_file(name)) {
            return Ok(()); // Another model lies in the same directory.
        }
        report.left.extend(others.into_iter().map(|(_, path, _)| path));
        report.left.retain(|path| path.file_name().is_some_and(|name| name != MANIFEST));
        layout::remove_file(&model.dir.join(MANIFEST))?;
        layout::remove_file(&model.dir.join(DirLock::file_name()))?;
        if !report.left.is_empty() {
            return Ok(());
        }
        fs::remove_dir(&model.dir).map_err(StoreError::at(&model.dir))
    }
}

/// Whether two descriptions are of the same content; where it can be had may differ.
fn is_same(a: &ModelFiles, b: &ModelFiles) -> bool {
    let same = |(a, b): (&FileRef, &FileRef)| a.name == b.name && a.id == b.id;
    a.files.len() == b.files.len() && a.files.iter().zip(&b.files).all(same)
}

/// Removes what crashes left of files that were being written.
fn remove_unfinished(dir: &Path) {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    for entry in entries
        .filter(|entry| entry.file_name().as_encoded_bytes().starts_with(UNFINISHED.as_bytes()))
    {
        // What cannot be removed is no worse than before.
        let _ = fs::remove_file(entry.path());
    }
}

/// Removes what crashes left of imports, unless they are running.
fn remove_unfinished_imports(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let is_unfinished = entry.file_name().as_encoded_bytes().starts_with(UNFINISHED.as_bytes());
        if is_unfinished && DirLock::take(&entry.path(), "").is_ok() {
            // What cannot be removed is no worse than before.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Removes a model's files and what is known of them. The manifest goes last, so that a crash on the way leaves a model of which
/// something is missing, not one that looks like another.
fn remove_files(model: &StoredModel, report: &mut RemoveReport) -> Result<(), StoreError> {
    use std::os::unix::fs::MetadataExt as _;
    let described = model.manifest.iter().flat_map(|manifest| &manifest.files);
    let described = described.map(|file| model.dir.join(&file.name));
    let mut paths: Vec<_> =
        model.files.iter().map(|file| file.path.clone()).chain(described).collect();
    // A damaged manifest leaves only the suffixes to go by.
    if model.files.is_empty() && model.manifest.is_none() {
        let names = own::entries(&model.dir).into_iter();
        let names = names.filter(|(name, ..)| is_ours(name));
        paths.extend(names.map(|(_, path, _)| path));
    }
    for path in paths.iter().flat_map(|path| own::companions(path)) {
        let Ok(there) = fs::symlink_metadata(&path) else { continue };
        if layout::remove_file(&path)? && there.nlink() == 1 {
            report.n_bytes += there.blocks() * 512;
        }
    }
    Ok(())
}

/// Whether a file's name says that the store wrote it, or that it is a model's.
fn is_ours(name: &str) -> bool {
    let name = name.strip_suffix(".part").unwrap_or(name);
    group::is_model_file(name) || layout::check_file_name(name).is_err()
}

/// A download that is running would go on writing to a file that has no name any more.
fn refuse_open_part(part: &Path, name: &str) -> Result<(), StoreError> {
    let Ok(file) = fs::File::open(part) else { return Ok(()) };
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Err(rustix::io::Errno::WOULDBLOCK) => Err(StoreError::Busy { name: name.to_owned() }),
        _ => Ok(()),
    }
}

fn now() -> u64 {
    // A clock before 1970 is a phone that has lost the time: the date is for people only.
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests;
