//! Reads back what is on the disk, and says which chunks of it are not what they should be.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use shoal_proto::{
    ChunkSet,
    model::{Digest, FileId, FileRef},
};

use super::{
    ChunkHashes, FileState, ModelState, Place, Store, StoreError, StoredModel,
    hashes::{self, FileHashes},
    layout::{self, DirLock, UNFINISHED},
    manifest::Manifest,
    now, own,
};
use crate::partial::Partial;

/// What reading a file back has shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// All of it is what it should be.
    Good,
    /// Nothing says what it should be. From now on its content is known.
    Unknown {
        /// What it is.
        id: FileId,
    },
    /// It is not what it should be.
    Damaged {
        /// The chunks that are wrong; all of them if only the file's hash as a whole is known.
        chunks: ChunkSet,
        /// Whether the wrong chunks were given up, so that the next download fetches them, and only them.
        repaired: bool,
    },
    /// Not all of it was ever there; what is there is what it should be.
    Partial,
}

/// What became of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileReport {
    /// The file's name.
    pub name: String,
    /// Its size when whole, in bytes.
    pub n_bytes: u64,
    /// What was found.
    pub verdict: Verdict,
}

/// What reading a model back has shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifyReport {
    /// The model's name.
    pub name: String,
    /// Its files.
    pub files: Vec<FileReport>,
}

impl VerifyReport {
    /// Whether nothing was wrong.
    pub fn is_good(&self) -> bool {
        !self.files.iter().any(|file| matches!(file.verdict, Verdict::Damaged { .. }))
    }
}

/// A file that is to be read back.
struct Target {
    name: String,
    path: PathBuf,
    n_bytes: u64,
    id: Option<FileId>,
    /// What the manifest says of it, if there is one.
    described: Option<FileRef>,
    place: Place,
}

impl Store {
    /// Reads every byte of a model and compares it with its SHA-256 and with the hashes of its chunks.
    ///
    /// - `repair`: whether damaged files of the store's own become partial ones that lack the damaged chunks
    /// - `progress`: gets the bytes done and their total
    ///
    /// # Errors
    /// If there is no such model, its manifest cannot be read, a file cannot be read, or a download of it is running.
    pub fn verify(
        &self,
        name: &str,
        repair: bool,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<VerifyReport, StoreError> {
        let model = self.find(name).ok_or_else(|| StoreError::Unknown { name: name.to_owned() })?;
        let targets = targets(&model)?;
        let n_total = targets.iter().map(|target| target.n_bytes).sum();
        let mut n_done = 0;
        let mut step = |n_bytes: u64| {
            // A file may be longer than it should be.
            n_done = (n_done + n_bytes).min(n_total);
            progress(n_done, n_total);
        };
        let mut files = Vec::new();
        for target in &targets {
            let verdict = match &target.described {
                Some(file) if !target.path.exists() => {
                    verify_partial(&model.dir, file, repair, &mut step)?
                }
                _ => self.verify_whole(&model, target, repair, &mut step)?,
            };
            let (name, n_bytes) = (target.name.clone(), target.n_bytes);
            files.push(FileReport { name, n_bytes, verdict });
        }
        Ok(VerifyReport { name: model.name, files })
    }

    fn verify_whole(
        &self,
        model: &StoredModel,
        target: &Target,
        repair: bool,
        step: &mut dyn FnMut(u64),
    ) -> Result<Verdict, StoreError> {
        let path = &target.path;
        let metadata = fs::metadata(path).map_err(StoreError::at(path))?;
        let read = hashes::hash_file(path, step)?;
        let list = self.known_hashes(target, &metadata);
        let Some(id) = target.id else {
            let list = ChunkHashes { id: read.id(), hashes: read.chunks };
            self.inner.index.put(path, &metadata, &list)?;
            return Ok(Verdict::Unknown { id: list.id });
        };
        let Some(wrong) = wrong_chunks(&id, &read, list.as_ref()) else {
            let is_compared = matches!(id.digest, Digest::Sha256(_)) || list.is_some();
            self.note_good(model, target, &metadata, &ChunkHashes { id, hashes: read.chunks })?;
            return Ok(if is_compared { Verdict::Good } else { Verdict::Unknown { id } });
        };
        let file = target.described.as_ref().filter(|_| repair && target.place == Place::Own);
        let Some(file) = file else {
            return Ok(Verdict::Damaged { chunks: wrong, repaired: false });
        };
        let _changes = self.changes();
        let _lock = DirLock::take(&model.dir, &model.name)?;
        let mut good = ChunkSet::all(id.n_chunks());
        good.subtract(&wrong);
        // Missing chunks will be written in place, and a second name of the file may be somebody else's.
        if metadata.nlink() > 1 {
            self.check_space(metadata.len())?;
            detach(path)?;
        }
        let hashes = list.map(|list| list.hashes).unwrap_or_default();
        Partial::from_whole(&model.dir, file, &hashes, &good)?;
        layout::sync_dir(&model.dir)?;
        Ok(Verdict::Damaged { chunks: wrong, repaired: true })
    }

    fn known_hashes(&self, target: &Target, metadata: &fs::Metadata) -> Option<ChunkHashes> {
        let id = target.id?;
        if target.described.is_some() {
            let beside = hashes::read_beside(&target.path, &id);
            return beside.unwrap_or_else(|error| {
                tracing::warn!(%error, "list of chunks is left out");
                None
            });
        }
        self.inner.index.get(&target.path, metadata).filter(|list| list.id == id)
    }

    /// Keeps what was learnt from a file that is as it should be.
    fn note_good(
        &self,
        model: &StoredModel,
        target: &Target,
        metadata: &fs::Metadata,
        list: &ChunkHashes,
    ) -> Result<(), StoreError> {
        if target.described.is_none() {
            return self.inner.index.put(&target.path, metadata, list);
        }
        let _changes = self.changes();
        let _lock = DirLock::take(&model.dir, &model.name)?;
        if !matches!(hashes::read_beside(&target.path, &list.id), Ok(Some(known)) if known == *list)
        {
            hashes::write_beside(&target.path, list)?;
        }
        if let (Some(mut manifest), Digest::Sha256(_)) =
            (Manifest::read(&model.dir)?, list.id.digest)
        {
            manifest.checked.insert(target.name.clone(), now());
            manifest.write(&model.dir)?;
        }
        Ok(())
    }
}

fn targets(model: &StoredModel) -> Result<Vec<Target>, StoreError> {
    let place = model.place;
    // Also files whose length is wrong, which the listing leaves out.
    let manifest = match place {
        Place::Own => Manifest::read(&model.dir)?.filter(|read| read.model.name == model.name),
        Place::HfCache | Place::Ollama => None,
    };
    if let Some(manifest) = manifest {
        let target = |file: FileRef| Target {
            name: file.name.clone(),
            path: model.dir.join(&file.name),
            n_bytes: file.id.n_bytes,
            id: Some(file.id),
            described: Some(file),
            place,
        };
        return Ok(manifest.model.files.into_iter().map(target).collect());
    }
    if let (ModelState::Damaged { what }, []) = (&model.state, model.files.as_slice()) {
        return Err(StoreError::damaged(&model.dir, what));
    }
    let whole = model.files.iter().filter(|file| file.state == FileState::Whole);
    let target = |file: &super::LocalFile| Target {
        name: file.name.clone(),
        path: file.path.clone(),
        n_bytes: file.n_bytes,
        id: file.id,
        described: None,
        place,
    };
    Ok(whole.map(target).collect())
}

/// The chunks that are not what they should be; `None` if the file is.
fn wrong_chunks(id: &FileId, read: &FileHashes, list: Option<&ChunkHashes>) -> Option<ChunkSet> {
    let is_right = match id.digest {
        Digest::Sha256(expected) => expected == read.sha256,
        // Only the chunks can tell.
        Digest::Origin(_) => list.is_none_or(|list| list.hashes == read.chunks),
    };
    if is_right && id.n_bytes == read.n_bytes {
        return None;
    }
    let all = ChunkSet::all(id.n_chunks());
    let Some(list) = list else { return Some(all) };
    let differs = |chunk: &u32| {
        let at = *chunk as usize;
        read.chunks.get(at) != list.hashes.get(at)
    };
    let wrong: ChunkSet = all.iter().filter(differs).collect();
    Some(match id.n_chunks().checked_sub(1) {
        _ if !wrong.is_empty() => wrong,
        // The chunks are right, and something follows them.
        Some(last) if read.n_bytes > id.n_bytes => ChunkSet::from_iter([last]),
        // A list with which everything agrees though the file is wrong is itself wrong.
        _ => all,
    })
}

/// Reads back what is there of a partial file.
fn verify_partial(
    dir: &Path,
    file: &FileRef,
    repair: bool,
    step: &mut dyn FnMut(u64),
) -> Result<Verdict, StoreError> {
    let [_, part, ..] = own::companions(&dir.join(&file.name));
    if !part.exists() {
        return Ok(Verdict::Partial);
    }
    let before = Partial::inspect(dir, file)?;
    // Opening reads back what may not have reached the disk, and forgets what did not.
    let partial = Partial::open(dir, file)?;
    let mut wrong = before;
    wrong.subtract(&partial.held());
    let mut forgotten = ChunkSet::default();
    let mut bytes = Vec::new();
    for chunk in partial.held().iter() {
        partial.read(chunk, &mut bytes)?;
        if partial.hash(chunk) != Some(*blake3::hash(&bytes).as_bytes()) {
            forgotten.insert(chunk);
        }
        step(bytes.len() as u64);
    }
    if repair {
        partial.forget(&forgotten)?;
    }
    let repaired = repair || forgotten.is_empty();
    wrong.extend(&forgotten);
    if wrong.is_empty() {
        return Ok(Verdict::Partial);
    }
    Ok(Verdict::Damaged { chunks: wrong, repaired })
}

/// Replaces a file by a copy that has no other name.
fn detach(path: &Path) -> Result<(), StoreError> {
    let dir = path.parent().expect("the store writes into directories");
    let new = dir.join(format!("{UNFINISHED}{}-copy", std::process::id()));
    let copy = || {
        let mut to = File::create(&new)?;
        io::copy(&mut File::open(path)?, &mut to)?;
        to.sync_all()?;
        fs::rename(&new, path)
    };
    copy().map_err(|source| {
        // Whatever it is that failed, half a copy is of no use.
        let _ = fs::remove_file(&new);
        StoreError::Io { path: path.to_owned(), source }
    })
}
