//! Finds models that Ollama keeps.
//!
//! ```text
//! manifests/<host>/<namespace>/<model>/<tag>  JSON: layers with media type, digest and size
//! blobs/sha256-<hexadecimal>                  a layer's content; `…-partial` while it is fetched
//! ```

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use shoal_proto::model::{Digest, FileId};

use crate::store::{
    Place, StoreError, StoredModel,
    group::{Found, Group},
    layout::{check_name, read_bounded},
    own::{entries, of_group},
};

/// Layer that is a GGUF file.
const MODEL: &str = "application/vnd.ollama.image.model";
/// Most bytes of a manifest; real ones have less than two thousand.
const MANIFEST_BYTES_MAX: u64 = 1 << 20;

#[derive(Deserialize)]
struct Manifest {
    layers: Vec<Layer>,
}

#[derive(Deserialize)]
struct Layer {
    #[serde(rename = "mediaType")]
    media_type: String,
    digest: String,
    size: u64,
}

/// All models that Ollama has a manifest for. One whose file is missing is listed as damaged; one that is no GGUF is not.
pub(super) fn list(root: &Path) -> Vec<StoredModel> {
    let Ok(root) = root.canonicalize() else { return Vec::new() };
    let mut models = Vec::new();
    for (host, path, _) in directories(&root.join("manifests")) {
        for (namespace, path, _) in directories(&path) {
            for (model, path, _) in directories(&path) {
                let tags = entries(&path).into_iter().filter(|(_, _, there)| there.is_file());
                models.extend(tags.filter_map(|(tag, path, _)| {
                    let name = name_of(&host, &namespace, &model, &tag);
                    one(&root, name, &path, format!("{model}-{tag}.gguf"))
                }));
            }
        }
    }
    models
}

fn directories(dir: &Path) -> impl Iterator<Item = (String, PathBuf, fs::Metadata)> {
    entries(dir).into_iter().filter(|(_, path, metadata)| {
        // A link could lead anywhere.
        metadata.is_dir() && fs::symlink_metadata(path).is_ok_and(|there| there.is_dir())
    })
}

/// The name that users type for it, without what everybody leaves out.
fn name_of(host: &str, namespace: &str, model: &str, tag: &str) -> String {
    match (host, namespace) {
        ("registry.ollama.ai", "library") => format!("{model}:{tag}"),
        ("registry.ollama.ai" | "hf.co" | "huggingface.co", _) => {
            format!("{namespace}/{model}:{tag}")
        }
        _ => format!("{host}/{namespace}/{model}:{tag}"),
    }
}

fn one(root: &Path, name: String, manifest: &Path, file_name: String) -> Option<StoredModel> {
    check_name(&name).ok()?;
    let blobs = root.join("blobs");
    match layer(manifest) {
        Ok(None) => None,
        Ok(Some(id)) => {
            let Digest::Sha256(digest) = id.digest else { return None };
            let path = blobs.join(format!("sha256-{}", hex(&digest)));
            let wrong = wrong_with(&path, root, id.n_bytes);
            let found =
                Found { path, name: file_name, n_bytes: id.n_bytes, id: Some(id), origin: None };
            let files = if wrong.is_none() { vec![found] } else { Vec::new() };
            let group = Group { stem: name.clone(), files, wrong };
            Some(of_group(name, &blobs, group, Place::Ollama))
        }
        Err(error) => {
            let wrong = Some(error.to_string());
            let group = Group { stem: name.clone(), files: Vec::new(), wrong };
            Some(of_group(name, &blobs, group, Place::Ollama))
        }
    }
}

/// The model's layer of a manifest.
fn layer(manifest: &Path) -> Result<Option<FileId>, StoreError> {
    let Some(bytes) = read_bounded(manifest, MANIFEST_BYTES_MAX)? else { return Ok(None) };
    let damaged = |what: String| StoreError::damaged(manifest, what);
    let read: Manifest = serde_json::from_slice(&bytes)
        .map_err(|error| damaged(format!("not a manifest of Ollama's: {error}")))?;
    let Some(layer) = read.layers.iter().find(|layer| layer.media_type == MODEL) else {
        return Ok(None);
    };
    // Older versions wrote a hyphen, as in the blob's name.
    let digest = layer.digest.replacen("sha256-", "sha256:", 1);
    let digest: Digest = digest.parse().map_err(|error| damaged(format!("{error}")))?;
    let id = FileId { digest, n_bytes: layer.size };
    if !id.is_plausible() || !matches!(digest, Digest::Sha256(_)) {
        return Err(damaged(format!("{digest} of {} bytes is no model", layer.size)));
    }
    Ok(Some(id))
}

fn wrong_with(path: &Path, root: &Path, n_bytes: u64) -> Option<String> {
    let is_inside = path.canonicalize().is_ok_and(|path| path.starts_with(root));
    match fs::metadata(path) {
        Ok(there) if is_inside && there.is_file() => (there.len() != n_bytes)
            .then(|| format!("{}: expected {n_bytes} bytes, got {}", path.display(), there.len())),
        Ok(_) => Some(format!("{}: not a file of Ollama's", path.display())),
        Err(error) => Some(format!("{}: {error}", path.display())),
    }
}

fn hex(bytes: &[u8; 32]) -> String {
    blake3::Hash::from_bytes(*bytes).to_hex().to_string()
}
