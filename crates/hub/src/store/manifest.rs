//! `shoal.json`: which files make up the model in a directory.

use std::{collections::BTreeMap, path::Path};

use serde::{Deserialize, Serialize};
use shoal_proto::model::ModelFiles;

use super::{
    StoreError,
    layout::{MANIFEST, check_file_name, check_name, read_bounded, write_atomically},
};

/// The version that this program reads and writes.
const VERSION: u32 = 1;
/// Most bytes of a manifest: [`FILES_MAX`](shoal_proto::model::FILES_MAX) files with long names and origins fit thrice.
const MANIFEST_BYTES_MAX: u64 = 1 << 20;

/// What a manifest says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manifest {
    version: u32,
    /// The model and its files.
    pub(super) model: ModelFiles,
    /// When the content of a file, by its name, was last compared with its SHA-256, in seconds since 1970.
    #[serde(default)]
    pub(super) checked: BTreeMap<String, u64>,
}

impl Manifest {
    pub(super) fn new(model: ModelFiles) -> Self {
        Self { version: VERSION, model, checked: BTreeMap::new() }
    }

    /// Reads the manifest of a directory; `None` if it has none.
    pub(super) fn read(dir: &Path) -> Result<Option<Self>, StoreError> {
        let path = dir.join(MANIFEST);
        let Some(bytes) = read_bounded(&path, MANIFEST_BYTES_MAX)? else { return Ok(None) };
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        // Looked at first: a later version may have other fields.
        let damaged = |what: String| StoreError::damaged(&path, what);
        let not_json = |error: serde_json::Error| damaged(format!("not a manifest: {error}"));
        let Version { version } = serde_json::from_slice(&bytes).map_err(not_json)?;
        if version != VERSION {
            return Err(damaged(format!("expected version {VERSION}, got {version}")));
        }
        let manifest: Self = serde_json::from_slice(&bytes).map_err(not_json)?;
        check_model(&manifest.model).map_err(damaged)?;
        Ok(Some(manifest))
    }

    /// Writes it into a directory.
    pub(super) fn write(&self, dir: &Path) -> Result<(), StoreError> {
        let bytes = serde_json::to_vec_pretty(self).expect("plain data");
        if bytes.len() as u64 > MANIFEST_BYTES_MAX {
            let what = format!("expected a manifest of at most {MANIFEST_BYTES_MAX} bytes");
            return Err(StoreError::Invalid { name: self.model.name.clone(), what });
        }
        write_atomically(&dir.join(MANIFEST), &bytes)
    }
}

/// Checks a model that a manifest, another node or a hub described: nothing in it may lead out of its directory, and no two
/// files may be one on file systems that ignore case.
pub(super) fn check_model(model: &ModelFiles) -> Result<(), String> {
    check_name(&model.name)?;
    model.check()?;
    let mut names = std::collections::BTreeSet::new();
    for file in &model.files {
        check_file_name(&file.name)?;
        if !names.insert(file.name.to_lowercase()) {
            return Err(format!("expected files of different names, got {:?} twice", file.name));
        }
    }
    Ok(())
}
