//! Finds models in the cache that Hugging Face's programs share (`https://huggingface.co/docs/hub/local-cache`).
//!
//! ```text
//! models--<owner>--<repo>/refs/main                  the commit that was asked for last
//! models--<owner>--<repo>/snapshots/<commit>/<path>  a link to ../../blobs/<etag>; a copy where there are no links
//! models--<owner>--<repo>/blobs/<etag>               for large files the SHA-256; `….incomplete` while it is fetched
//! ```

use std::{
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use shoal_proto::model::{Digest, FileId, FileOrigin};

use crate::store::{
    Place, StoredModel,
    group::{self, Found},
    hashes::Index,
    layout::read_bounded,
    own::{entries, named, of_group},
};

/// How deep files lie in a repository: some keep each quantisation in a directory of its own.
const DEPTH_MAX: usize = 3;
/// Most bytes of a reference, which is a commit in hexadecimal.
const REF_BYTES_MAX: u64 = 256;

/// All models of the cache. What cannot be read is not a model.
pub(super) fn list(root: &Path, index: &Index) -> Vec<StoredModel> {
    let Ok(root) = root.canonicalize() else { return Vec::new() };
    let mut models = Vec::new();
    for (name, path, metadata) in entries(&root) {
        if let Some(repo) = repo_of(&name).filter(|_| metadata.is_dir()) {
            models.extend(in_repo(&repo, &path, &root, index));
        }
    }
    models
}

/// `owner/repo` of `models--owner--repo`; repositories' names have no double hyphen.
fn repo_of(directory: &str) -> Option<String> {
    let name = directory.strip_prefix("models--")?;
    let parts: Vec<_> = name.split("--").collect();
    ((1..=2).contains(&parts.len()) && parts.iter().all(|part| !part.is_empty()))
        .then(|| parts.join("/"))
}

/// The models of one repository. A file is taken from the newest snapshot that has it: each holds only what was fetched of it.
fn in_repo(repo: &str, dir: &Path, root: &Path, index: &Index) -> Vec<StoredModel> {
    let mut models = Vec::<StoredModel>::new();
    for commit in commits(dir) {
        let snapshot = dir.join("snapshots").join(&commit);
        let mut files = Vec::new();
        let origin = |path: &str| FileOrigin::Hub {
            repo: repo.to_owned(),
            commit: commit.clone(),
            path: path.to_owned(),
        };
        collect(&snapshot, "", &mut |path, at| {
            if let Some(file) = found(path, &at, root, index, &origin) {
                files.push(file);
            }
        });
        for (name, group) in named(repo, group::group(files)) {
            if models.iter().all(|model| model.name != name) {
                models.push(of_group(name, &snapshot, group, Place::HfCache));
            }
        }
    }
    models
}

/// The commits that have a snapshot: the one of `main` first, then the newest.
fn commits(dir: &Path) -> Vec<String> {
    let main = read_bounded(&dir.join("refs/main"), REF_BYTES_MAX).ok().flatten();
    let main = main.and_then(|bytes| String::from_utf8(bytes).ok());
    let main = main.as_deref().map(str::trim);
    let snapshots = entries(&dir.join("snapshots")).into_iter();
    let snapshots = snapshots.filter(|(_, _, metadata)| metadata.is_dir());
    let mut commits: Vec<(bool, SystemTime, String)> = snapshots
        .map(|(name, _, metadata)| {
            let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            (Some(name.as_str()) == main, modified, name)
        })
        .collect();
    commits.sort_by(|a, b| b.cmp(a));
    commits.into_iter().map(|(_, _, commit)| commit).collect()
}

/// Calls `visit` with each file under a snapshot: its path in the repository, and where it is.
fn collect(snapshot: &Path, prefix: &str, visit: &mut dyn FnMut(&str, PathBuf)) {
    for (name, path, metadata) in entries(&snapshot.join(prefix)) {
        let inner = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
        // A directory that is a link could lead anywhere, also in circles.
        let is_link = fs::symlink_metadata(&path).is_ok_and(|there| there.is_symlink());
        if metadata.is_file() {
            visit(&inner, path);
        } else if !is_link && inner.split('/').count() < DEPTH_MAX {
            collect(snapshot, &inner, visit);
        }
    }
}

fn found(
    path: &str,
    at: &Path,
    root: &Path,
    index: &Index,
    origin: &dyn Fn(&str) -> FileOrigin,
) -> Option<Found> {
    let name = path.rsplit('/').next()?.to_owned();
    if !group::is_model_file(&name) {
        return None;
    }
    let blob = at.canonicalize().ok().filter(|blob| blob.starts_with(root))?;
    let metadata = fs::metadata(&blob).ok().filter(fs::Metadata::is_file)?;
    let n_bytes = metadata.len();
    let of_name = || {
        let digits = blob.file_name()?.to_str()?;
        let digest: Digest = format!("sha256:{digits}").parse().ok()?;
        Some(FileId { digest, n_bytes })
    };
    let id = of_name().or_else(|| index.id(&blob, &metadata));
    Some(Found { path: blob, name, n_bytes, id, origin: Some(origin(path)) })
}
