//! Models that this node has opened: header checked, tokenizer and template built, no weight touched.

use std::{collections::HashMap, ops::Range, sync::Arc};

use shoal_engine::Model;
use shoal_gguf::Gguf;
use shoal_hub::{Library, Select, Selection, Source};
use shoal_proto::{LayerRange, control::ModelRef, model::ModelFiles};
use shoal_tokenizer::{ChatTemplate, Tokenizer};
use tokio::sync::Mutex;

use crate::Error;

/// A model, opened.
#[derive(Debug)]
pub(crate) struct Opened {
    /// Where it comes from.
    pub(crate) source: Source,
    /// How other nodes can get its files, if they can.
    pub(crate) files: Option<ModelFiles>,
    /// Its checked header.
    pub(crate) model: Arc<Model>,
    /// Its tokenizer.
    pub(crate) tokenizer: Tokenizer,
    /// Its chat template, or why it has none that works.
    pub(crate) template: Result<ChatTemplate, shoal_tokenizer::Error>,
}

impl Opened {
    fn new(source: Source, files: Option<ModelFiles>) -> Result<Self, Error> {
        let unusable = |error: Box<dyn std::error::Error + Send + Sync>| Error::Model {
            name: source.name.clone(),
            source: Arc::from(error),
        };
        let model = Model::new(Arc::clone(&source.gguf)).map_err(|error| unusable(error.into()))?;
        let metadata = source.gguf.metadata();
        let tokenizer =
            Tokenizer::from_metadata(metadata).map_err(|error| unusable(error.into()))?;
        let template = ChatTemplate::from_metadata(metadata, &tokenizer);
        Ok(Self { source, files, model, tokenizer, template })
    }

    /// How other nodes find the same model.
    pub(crate) fn reference(&self) -> ModelRef {
        ModelRef {
            name: self.source.name.clone(),
            files: self.files.clone(),
            fingerprint: self.source.fingerprint,
            n_layer: self.model.n_layer(),
        }
    }

    /// Bytes of a stage of it: weights, and KV cache for `n_ctx` positions.
    pub(crate) fn stage_bytes(&self, layers: LayerRange, n_ctx: u32) -> u64 {
        self.model.weight_bytes(layers) + self.model.kv_bytes(layers, n_ctx as usize)
    }
}

/// The models that are open, by name.
#[derive(Debug, Default)]
pub(crate) struct Models {
    opened: Mutex<HashMap<String, Arc<Opened>>>,
}

impl Models {
    /// Opens the demonstration model or one by its path, or returns it if it is open.
    pub(crate) async fn open(&self, name: &str) -> Result<Arc<Opened>, Error> {
        let wanted = name.to_owned();
        self.open_with(name, None, move || {
            shoal_hub::open(&wanted)
                .map_err(|error| Error::Model { name: wanted, source: Arc::from(Box::from(error)) })
        })
        .await
    }

    /// Opens what another node refers to: the same path if the same file lies there, else the files by way of the library.
    pub(crate) async fn open_ref(
        &self,
        library: Option<&Library>,
        reference: &ModelRef,
    ) -> Result<Arc<Opened>, Error> {
        let Some(files) = &reference.files else { return self.open(&reference.name).await };
        if reference.name != files.name
            && let Ok(opened) = self.open(&reference.name).await
            && opened.source.fingerprint == reference.fingerprint
        {
            return Ok(opened);
        }
        let library = library.ok_or_else(|| Error::NoLibrary { name: files.name.clone() })?;
        self.open_files(library, files).await
    }

    /// Opens a model whose files the library brings: its headers at least are on this device afterwards.
    pub(crate) async fn open_files(
        &self,
        library: &Library,
        files: &ModelFiles,
    ) -> Result<Arc<Opened>, Error> {
        if let Some(opened) = self.opened.lock().await.get(&files.name) {
            return Ok(Arc::clone(opened));
        }
        library.obtain(files, headers()).await.map_err(Error::from)?;
        let (library, wanted) = (library.clone(), files.clone());
        self.open_with(&files.name, Some(files.clone()), move || Ok(library.open_files(&wanted)?))
            .await
    }

    async fn open_with(
        &self,
        name: &str,
        files: Option<ModelFiles>,
        source: impl FnOnce() -> Result<Source, Error> + Send + 'static,
    ) -> Result<Arc<Opened>, Error> {
        // The lock is held while a model opens, so that two requests do not open it twice.
        let mut opened = self.opened.lock().await;
        if let Some(model) = opened.get(name) {
            return Ok(Arc::clone(model));
        }
        let open = tokio::task::spawn_blocking(move || Opened::new(source()?, files));
        let model = open.await.map_err(|error| Error::StageFailed {
            message: format!("opening {name}: {error}"),
        })??;
        let model = Arc::new(model);
        opened.insert(model.source.name.clone(), Arc::clone(&model));
        if model.source.name != name {
            opened.insert(name.to_owned(), Arc::clone(&model));
        }
        Ok(model)
    }

    /// Forgets a model that was removed.
    pub(crate) async fn close(&self, name: &str) {
        self.opened.lock().await.retain(|_, model| model.source.name != name);
    }
}

/// Wants all of a model, if it can run here.
pub(crate) fn whole() -> Select {
    Arc::new(|gguf| check(gguf).map(|_| Selection::Whole))
}

/// Wants the headers of a model, if it can run here.
pub(crate) fn headers() -> Select {
    Arc::new(|gguf| check(gguf).map(|model| Selection::Ranges(vec![Vec::new(); n_files(&model)])))
}

/// Wants what a stage of these layers reads.
pub(crate) fn stage(layers: LayerRange) -> Select {
    Arc::new(move |gguf| {
        let model = check(gguf)?;
        if layers.end() > model.n_layer() {
            return Err(format!("it has {} layers, and {layers} were asked for", model.n_layer()));
        }
        let mut ranges: Vec<Vec<Range<u64>>> = vec![Vec::new(); n_files(&model)];
        for tensor in model.tensors_of(layers) {
            ranges[tensor.file_idx].push(tensor.offset..tensor.offset + tensor.n_bytes);
        }
        Ok(Selection::Ranges(ranges))
    })
}

/// Whether this program can run a model with these headers, in words if not.
fn check(gguf: &Arc<Gguf>) -> Result<Arc<Model>, String> {
    let model = Model::new(Arc::clone(gguf)).map_err(|error| crate::error::chain(&error))?;
    Tokenizer::check_kind(gguf.metadata()).map_err(|error| crate::error::chain(&error))?;
    Ok(model)
}

fn n_files(model: &Model) -> usize {
    model.gguf().paths().count()
}
