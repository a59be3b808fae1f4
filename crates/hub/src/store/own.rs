//! Finds the models in the store's own directory.

use std::{
    fs::{self, Metadata},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::SystemTime,
};

use shoal_proto::{
    ChunkSet,
    model::{CHUNK_BYTES, FileId, FileRef, ModelFiles},
};

use super::{
    FileState, LocalFile, ModelState, Place, StoreError, StoredModel,
    group::{self, Found, Group},
    hashes::Index,
    layout::{CHUNKS, unslug},
    manifest::Manifest,
};
use crate::partial::{JOURNAL, PART, Partial};

/// Most entries of a directory that are looked at.
pub(super) const ENTRIES_MAX: usize = 10_000;

/// All models under `dir`, by name.
pub(super) fn list(dir: &Path, index: &Index) -> Vec<StoredModel> {
    let mut models = Vec::new();
    let mut loose = Vec::new();
    for (name, path, metadata) in entries(dir) {
        if metadata.is_dir() {
            models.extend(in_directory(&name, &path, index));
        } else if group::is_model_file(&name) {
            loose.push(found(name, path, &metadata, index));
        }
    }
    let named = |group: Group| {
        let name = group.stem.clone();
        of_group(name, dir, group, Place::Own)
    };
    models.extend(group::group(loose).into_iter().map(named));
    models.sort_by(|a, b| a.name.cmp(&b.name));
    models
}

/// The entries of a directory that are not hidden; links are followed.
pub(super) fn entries(dir: &Path) -> Vec<(String, PathBuf, Metadata)> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let named = |entry: fs::DirEntry| {
        // Names that are no text cannot be typed either, and no manifest can name them.
        let name = entry.file_name().into_string().ok().filter(|name| !name.starts_with('.'))?;
        let path = entry.path();
        let metadata = fs::metadata(&path).ok()?;
        Some((name, path, metadata))
    };
    let mut entries: Vec<_> = entries.flatten().take(ENTRIES_MAX).filter_map(named).collect();
    entries.sort_by(|a, b| a.0.cmp(&b.0));
    entries
}

fn found(name: String, path: PathBuf, metadata: &Metadata, index: &Index) -> Found {
    let id = index.id(&path, metadata);
    Found { path, name, n_bytes: metadata.len(), id, origin: None }
}

/// The models of one directory: one if it has a manifest, else as many as it has files for.
fn in_directory(slug: &str, dir: &Path, index: &Index) -> Vec<StoredModel> {
    match Manifest::read(dir) {
        Ok(Some(manifest)) => vec![of_manifest(manifest, dir)],
        Ok(None) => by_hand(slug, dir, index),
        Err(error) => vec![damaged(unslug(slug), dir, error.to_string())],
    }
}

/// Models that somebody copied here: every file is taken to be whole, unless it or its neighbours say otherwise.
fn by_hand(slug: &str, dir: &Path, index: &Index) -> Vec<StoredModel> {
    let name = unslug(slug);
    let entries = entries(dir);
    let is_partial = |name: &str| {
        let suffix = name.rsplit_once('.').map(|(_, suffix)| suffix);
        suffix.is_some_and(|suffix| suffix == PART || suffix == JOURNAL)
    };
    if let Some((partial, ..)) = entries.iter().find(|(name, ..)| is_partial(name)) {
        let what = format!("{partial} is partial, and no manifest says of what");
        return vec![damaged(name, dir, what)];
    }
    let files = entries.into_iter().filter(|(_, _, metadata)| metadata.is_file());
    let files = files.map(|(name, path, metadata)| found(name, path, &metadata, index)).collect();
    let groups = group::group(files);
    if let [_] = groups.as_slice() {
        let only = |group| of_group(name.clone(), dir, group, Place::Own);
        return groups.into_iter().map(only).collect();
    }
    named(&name, groups).map(|(name, group)| of_group(name, dir, group, Place::Own)).collect()
}

/// Names models that lie together: `BASE:QUANT`, or `BASE:FILE` if that would name two.
pub(super) fn named(base: &str, groups: Vec<Group>) -> impl Iterator<Item = (String, Group)> {
    let labels: Vec<_> = groups.iter().map(|group| group::label(&group.stem)).collect();
    let base = base.to_owned();
    let name = move |(at, group): (usize, Group)| {
        let is_unique = labels.iter().filter(|label| **label == labels[at]).count() == 1;
        let tag = match &labels[at] {
            Some(label) if is_unique => label,
            _ => &group.stem,
        };
        (format!("{base}:{tag}"), group)
    };
    groups.into_iter().enumerate().map(name)
}

/// A model without a manifest.
pub(super) fn of_group(name: String, dir: &Path, group: Group, place: Place) -> StoredModel {
    let file = |found: &Found| LocalFile {
        name: found.name.clone(),
        path: found.path.clone(),
        id: found.id,
        n_bytes: found.n_bytes,
        state: FileState::Whole,
        place,
    };
    let reference = |found: &Found| {
        let (name, origin) = (found.name.clone(), found.origin.clone());
        Some(FileRef { name, id: found.id?, origin })
    };
    let files: Vec<_> = group.files.iter().map(file).collect();
    let known = group.files.iter().map(reference).collect::<Option<Vec<_>>>();
    let model = known.map(|files| ModelFiles { name: name.clone(), files });
    let state = match group.wrong {
        Some(what) => ModelState::Damaged { what },
        None => ModelState::Whole,
    };
    stored(name, dir, files, place, state, model)
}

fn of_manifest(manifest: Manifest, dir: &Path) -> StoredModel {
    let mut wrong = None;
    let mut files = Vec::new();
    for file in &manifest.model.files {
        match local_file(dir, file) {
            Ok(local) => files.push(local),
            Err(error) => wrong = wrong.or(Some(error.to_string())),
        }
    }
    let is_whole = files.iter().all(|file| matches!(file.state, FileState::Whole));
    let state = match wrong {
        Some(what) => ModelState::Damaged { what },
        None if is_whole => ModelState::Whole,
        None => ModelState::Partial {
            n_bytes: files.iter().map(LocalFile::n_bytes_held).sum(),
            n_total: manifest.model.n_bytes(),
        },
    };
    let name = manifest.model.name.clone();
    stored(name, dir, files, Place::Own, state, Some(manifest.model))
}

/// What is there of a file that the manifest names.
fn local_file(dir: &Path, file: &FileRef) -> Result<LocalFile, StoreError> {
    let path = dir.join(&file.name);
    let state = match fs::metadata(&path) {
        Ok(there) if !there.is_file() => {
            return Err(StoreError::damaged(path, "expected a file, got something else"));
        }
        Ok(there) if there.len() != file.id.n_bytes => {
            let what = format!("expected {} bytes, got {}", file.id.n_bytes, there.len());
            return Err(StoreError::damaged(path, what));
        }
        Ok(_) => FileState::Whole,
        Err(_) => {
            let held = Partial::inspect(dir, file)?;
            FileState::Partial { n_bytes: n_bytes_of(&held, &file.id) }
        }
    };
    let place = Place::Own;
    let (name, n_bytes) = (file.name.clone(), file.id.n_bytes);
    Ok(LocalFile { name, path, id: Some(file.id), n_bytes, state, place })
}

/// Bytes of a set of chunks.
fn n_bytes_of(chunks: &ChunkSet, id: &FileId) -> u64 {
    let last = id.n_chunks().saturating_sub(1);
    let n_bytes = u64::from(chunks.len()) * CHUNK_BYTES;
    let Some(range) = chunks.contains(last).then(|| id.chunk_range(last)) else { return n_bytes };
    n_bytes - (CHUNK_BYTES - (range.end - range.start))
}

/// A model of which nothing more can be said than what is wrong with it.
pub(super) fn damaged(name: String, dir: &Path, what: String) -> StoredModel {
    let mut model = stored(name, dir, Vec::new(), Place::Own, ModelState::Damaged { what }, None);
    let sizes = entries(dir).into_iter().filter(|(_, _, metadata)| metadata.is_file());
    model.n_bytes_on_disk = sizes.map(|(_, _, metadata)| metadata.blocks() * 512).sum();
    model
}

fn stored(
    name: String,
    dir: &Path,
    files: Vec<LocalFile>,
    place: Place,
    state: ModelState,
    manifest: Option<ModelFiles>,
) -> StoredModel {
    let mut n_bytes_on_disk = 0;
    let mut modified = None;
    for path in files.iter().flat_map(|file| companions(&file.path)) {
        let Ok(metadata) = fs::metadata(path) else { continue };
        // Sparse files take less than their length.
        n_bytes_on_disk += metadata.blocks() * 512;
        modified = modified.max(metadata.modified().ok());
    }
    let of_dir = || fs::metadata(dir).and_then(|metadata| metadata.modified()).ok();
    let modified = modified.or_else(of_dir).unwrap_or(SystemTime::UNIX_EPOCH);
    let dir = dir.to_owned();
    StoredModel { name, dir, files, place, state, manifest, n_bytes_on_disk, modified }
}

/// The names under which the content of a file, and what is known of it, may lie.
pub(super) fn companions(path: &Path) -> [PathBuf; 4] {
    let with = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(".");
        name.push(suffix);
        PathBuf::from(name)
    };
    [path.to_owned(), with(PART), with(JOURNAL), with(CHUNKS)]
}
